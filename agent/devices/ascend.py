"""Huawei's Ascend devices, through the management library that comes with their driver (DCMI).

A device is one chip: cards with two have two. Where its chip has vNPU templates, slices of it are
vNPUs, which the hardware holds; else they are held by the shim of the runtime's library.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aliquot.hooks.plan import Needs

from ..ascend_config import Template
from . import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    VendorError,
    ascend_files,
    ascend_vnpu,
    dcmi,
)
from .ascend_health import Watch
from .registry import Settings

# What the driver gives device memory in, with its huge pages.
PAGE_BYTES: Final = 2 << 20

_MIB: Final = 1 << 20
# What the runtime takes of a device for a process. No figure is published: an estimate, which is
# corrected by what the device itself reads.
_CONTEXT_BYTES: Final = 200 * _MIB
_MOST_PLACES: Final = 8
_PROCESSES: Final = 32  # the library's own most
_NPU: Final = 0
_NDIE: Final = 0
_VDIE: Final = 1
_DDIE: Final = 2
_UTIL_AICORE: Final = 2
_UTIL_HBM_BANDWIDTH: Final = 10
# Directly, between the dies of a card, through switches.
_LINKED: Final = {3: 1, 6: 2, 7: 1}
_CPU_LIST_BYTES: Final = 8192
_SYSFS_DEVICES: Final = Path("/sys/bus/pci/devices")
_SYSFS_NODES: Final = Path("/sys/devices/system/node")
_MOST_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class _Known:
    """A device and where the library has it; the chip's ``phy`` is N of /dev/davinciN.

    ``at`` is what functions are asked with: its card and its place there, or its number.
    """

    device: Device
    chip: ascend_vnpu.Chip
    at: tuple[int, ...]


class Ascend:
    """Ascend devices on this node; see ``Vendor``.

    Utilisation of a process is not told by the driver, and None. Readings that a chip lacks are
    None.
    """

    name: Final = "ascend"

    def __init__(self, config: Settings) -> None:
        """Load the library. Raises VendorError when this node has none that is known."""
        self._config = config.ascend
        self._session = dcmi.Session(config.ascend.root)
        self._records = ascend_vnpu.Records(config.runtime_dir / ascend_vnpu.FOLDER)
        self._known: tuple[_Known, ...] = ()
        self._faults: tuple[str, ...] = ()
        self._watches: dict[str, Watch] = {}
        self.unlisted: frozenset[str] = frozenset()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why devices that the driver has are not among those enumerated, one line each."""
        return self._faults

    def driver_version(self) -> str:
        """Return the driver's version, ``24.1.0``; "" where it is not told. Raises VendorError."""
        with self._session.held():
            text = dcmi.ffi.new("char[64]")
            try:
                self._session.call("dcmi_get_driver_version", text, 64)
            except dcmi.DcmiError:
                return ""
            return dcmi.text_of(text)

    def enumerate(self) -> Sequence[Device]:
        """Return the devices. Raises VendorError."""
        with self._session.held():
            self._discover()
            return tuple(known.device for known in self._known)

    def sample(self) -> Sequence[Sample]:
        """Return what each device reads now. Raises VendorError."""
        with self._session.held():
            self._ensure()
            return tuple(self._sample(known) for known in self._known)

    def processes(self) -> Sequence[DeviceProcess]:
        """Return the processes on every device, with the host's pids. Raises VendorError."""
        with self._session.held():
            self._ensure()
            rows = {known.device.uuid: self._processes(known) for known in self._known}
        self.unlisted = frozenset(uuid for uuid, found in rows.items() if found is None)
        return tuple(row for found in rows.values() for row in found or ())

    def health(self) -> Sequence[Health]:
        """Return each device's health; all are unhealthy while the library does not answer."""
        try:
            with self._session.held():
                self._ensure()
                self._subscribe()
                self._take_events()
                texts = [self._illness(known) for known in self._known]
        except VendorError as error:
            texts = [str(error)] * len(self._known)
        return tuple(
            Health(known.device.uuid, not text, text)
            for known, text in zip(self._known, texts, strict=True)
        )

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Return what a container needs for these devices. Raises VendorError."""
        with self._session.held():
            self._ensure()
            wanted = {uuid: self._find(uuid).chip.phy for uuid in uuids}
        return ascend_files.needs(self._config.root, wanted, partitions)

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Refuse: the driver knows no limits of cgroups."""
        del cgroup, limit_bytes
        raise VendorError(f"{uuid}: its driver cannot hold memory limits: ask for a vNPU")

    def partition(self, uuid: str, name: str, memory_bytes: int, cores: int) -> Partition:
        """Make the smallest vNPU that holds so much. Raises VendorError."""
        with self._session.held():
            self._ensure()
            known = self._find(uuid)
            if not known.device.splits:
                raise VendorError(f"{uuid} ({known.device.model}) has no vNPUs: ask for all of it")
            return ascend_vnpu.make(
                self._session, self._records, known.chip, name, memory_bytes, cores
            )

    def resize(self, partition: Partition, memory_bytes: int, cores: int) -> Partition:
        """Refuse: a vNPU is what it was made as."""
        del memory_bytes, cores
        raise VendorError(
            f"vNPU {partition.id} of {partition.uuid} cannot be changed while it runs: "
            "start the container anew with what it is to have"
        )

    def partitions(self) -> Sequence[Partition]:
        """Return the vNPUs that there are. Raises VendorError, UntoldError."""
        with self._session.held():
            self._ensure()
            chips = [known.chip for known in self._known if known.device.splits]
            return ascend_vnpu.listed(self._session, self._records, chips)

    def release(self, partition: Partition) -> None:
        """Destroy a vNPU; one that is gone is well. Raises VendorError."""
        with self._session.held():
            self._ensure()
            chip = self._find(partition.uuid).chip
            ascend_vnpu.release(self._session, self._records, chip, partition)

    def close(self) -> None:
        """Do nothing: the library has no end."""

    # -- what there is --

    def _ensure(self) -> None:
        if not self._known:
            self._discover()

    def _find(self, uuid: str) -> _Known:
        for known in self._known:
            if known.device.uuid == uuid:
                return known
        raise VendorError(f"{uuid}: there is no such device")

    def _discover(self) -> None:
        faults: list[str] = []
        found: list[_Known] = []
        places = self._numbers() if self._session.newer else self._places(faults)
        # Who is left out has his place all the same.
        for place_of, at in enumerate(places):
            try:
                one = self._described(at, place_of)
                _unlike(one, found)
                found.append(one)
            except ValueError as error:
                card, *place = at
                where = f"device {place[0]} of card {card}" if place else f"device {card}"
                faults.append(f"{where}: {error}")
        self._known = tuple(self._linked(found))
        self._faults = tuple(faults)
        for known in self._known:
            self._watches.setdefault(known.device.uuid, Watch(self._config.faults))
        self._subscribe()

    def _numbers(self) -> Iterator[tuple[int]]:
        """Yield the number of each NPU of the newer generation. Raises DcmiError."""
        for number in self._session.listed():
            if self._session.number("int", "dcmi_get_device_type", number) in {None, _NPU}:
                yield (number,)

    def _places(self, faults: list[str]) -> Iterator[tuple[int, int]]:
        """Yield the card and place of each NPU. Raises DcmiError."""
        for card in self._session.listed():
            places = self._session.number("int", "dcmi_get_device_num_in_card", card)
            if places is None:
                faults.append(f"card {card} does not tell its devices: see npu-smi info")
                continue
            for place in range(min(max(places, 0), _MOST_PLACES)):
                kind = self._session.number("int", "dcmi_get_device_type", card, place)
                if kind in {None, _NPU}:
                    yield card, place

    def _described(self, at: tuple[int, ...], index: int) -> _Known:
        """Return a device with all that it says of itself. Raises ValueError, DcmiError."""
        words = self._die(at)
        if not any(words):
            raise ValueError("it does not tell which chip it is (die): update the driver")
        uuid = "NPU-" + "-".join(f"{word:08X}" for word in words)
        memory = self._memory(at)
        if memory is None:
            raise ValueError("it does not tell its memory, which cannot be divided then")
        name, cores = self._chip_name(at)
        logic = self._logic_id(at)
        phy = None
        if logic is not None and logic >= 0:
            phy = self._session.number("unsigned int", "dcmi_get_device_phyid_from_logicid", logic)
        card, place = (*at, 0)[:2]
        chip = ascend_vnpu.Chip(
            uuid, card, place, index if phy is None else phy, name, max(cores, 1), ()
        )
        templates = self._templates(at, name) if cores and chip.ids else ()
        chip = dataclasses.replace(chip, templates=templates)
        address = self._pci_address(at)
        device = Device(
            vendor=self.name,
            index=index if logic is None else logic,
            uuid=uuid,
            uuid_bytes=_bytes_of(words),
            model=f"Ascend {name}",
            memory_bytes=memory[0],
            page_bytes=PAGE_BYTES,
            context_bytes=_CONTEXT_BYTES,
            pci_address=address,
            numa_node=self._numa_node(at, address),
            enforcement=("partition", "shim") if templates else ("shim",),
            splits=bool(templates),
            shapes=chip.shapes,
        )
        return _Known(device, chip, at)

    def _die(self, at: tuple[int, ...]) -> tuple[int, ...]:
        """Return the words that tell a chip from others; () where none are told.

        The newer generation tells those of one of its dies alone.
        """
        kinds = (_DDIE, _VDIE, _NDIE) if self._session.newer else (_VDIE,)
        for kind in kinds:
            die = self._session.reading("struct dcmi_die_id", "dcmi_get_device_die_v2", *at, kind)
            if die is not None and any(die.soc_die):
                return tuple(int(word) for word in die.soc_die)
        return ()

    def _logic_id(self, at: tuple[int, ...]) -> int | None:
        if self._session.newer:
            return at[0]
        # The one function whose answer comes first.
        out = dcmi.ffi.new("int *")
        try:
            self._session.call("dcmi_get_device_logic_id", out, *at)
        except dcmi.DcmiError:
            return None
        return int(out[0])

    def _templates(self, at: tuple[int, ...], name: str) -> tuple[Template, ...]:
        """Return the templates of a chip whose driver makes vNPUs."""
        if self._session.newer:
            return ()
        card, place = at
        # What is sold as 910C calls itself 910_93 and two digits more.
        known = "910C" if name.startswith("910_93") else name
        templates = self._config.templates.get(name) or self._config.templates.get(known, ())
        if not templates or not self._session.has(*ascend_vnpu.NEEDED):
            return ()
        blank = ascend_vnpu.Chip("", card, place, 0, name, 1, ())
        return templates if ascend_vnpu.offered(self._session, blank) else ()

    def _chip_name(self, at: tuple[int, ...]) -> tuple[str, int]:
        """Return the chip's name, ``910B3``, and its AI cores; 0 where they are not told."""
        # (The newer generation has the newer form alone.)
        for version in ("_v2",) if self._session.newer else ("_v2", ""):
            info = self._session.reading(
                f"struct dcmi_chip_info{version}",
                f"dcmi_get_device_chip_info{version}",
                *at,
            )
            if info is not None:
                name = dcmi.text_of(info.chip_name).removeprefix("Ascend").strip()
                return name or "NPU", int(info.aicore_cnt)
        return "NPU", 0

    def _pci_address(self, at: tuple[int, ...]) -> str:
        info = self._session.reading(
            "struct dcmi_pcie_info_all", "dcmi_get_device_pcie_info_v2", *at
        )
        if info is None:
            return ""
        return (
            f"{info.domain & 0xFFFFFFFF:04x}:{info.bdf_busid:02x}:"
            f"{info.bdf_deviceid:02x}.{info.bdf_funcid:x}"
        )

    def _numa_node(self, at: tuple[int, ...], address: str) -> int | None:
        """Return the nearest NUMA node: as the kernel has it, else by the device's processors."""
        try:
            node = int((_SYSFS_DEVICES / address / "numa_node").read_text("ascii"))
        except (OSError, ValueError):
            return self._node_of_processors(at)
        return node if node >= 0 else None

    def _node_of_processors(self, at: tuple[int, ...]) -> int | None:
        text = dcmi.ffi.new(f"char[{_CPU_LIST_BYTES}]")
        length = dcmi.ffi.new("int *", _CPU_LIST_BYTES)
        try:
            self._session.call("dcmi_get_affinity_cpu_info_by_device_id", *at, text, length)
            near = dcmi.text_of(text)
            found = [
                int(path.parent.name.removeprefix("node"))
                for path in _SYSFS_NODES.glob("node[0-9]*/cpulist")
                if path.read_text("ascii").strip() == near
            ]
        except (dcmi.DcmiError, OSError, ValueError):
            return None
        return found[0] if len(found) == 1 else None

    def _linked(self, found: Sequence[_Known]) -> Iterator[_Known]:
        """Yield the devices with their links to each other."""
        for one in found:
            links: dict[str, int] = {}
            for other in found:
                if other is one:
                    continue
                kind = self._session.number(
                    "int", "dcmi_get_topo_info_by_device_id", *one.at, *other.at
                )
                if kind in _LINKED:
                    links[other.device.uuid] = _LINKED[kind]
            yield _Known(dataclasses.replace(one.device, links=links), one.chip, one.at)

    # -- what they read --

    def _memory(self, at: tuple[int, ...]) -> tuple[int, int | None] | None:
        """Return what programs can allocate and what is allocated; None when it does not tell."""
        hbm = self._session.reading("struct dcmi_hbm_info", "dcmi_get_device_hbm_info", *at)
        if hbm is not None and hbm.memory_size:
            return int(hbm.memory_size) * _MIB, int(hbm.memory_usage) * _MIB
        ddr = self._session.reading(
            "struct dcmi_get_memory_info_stru", "dcmi_get_device_memory_info_v3", *at
        )
        if ddr is not None and ddr.memory_size:
            used = max(0, int(ddr.memory_size) - int(ddr.memory_available))
            return int(ddr.memory_size) * _MIB, used * _MIB
        old = self._session.reading("struct dcmi_memory_info_stru", "dcmi_get_memory_info", *at)
        if old is not None and old.memory_size:
            total = int(old.memory_size) * _MIB
            share = _share(int(old.utiliza))
            return total, None if share is None else int(total * share)
        return None

    def _sample(self, known: _Known) -> Sample:
        memory = self._memory(known.at)
        busy = self._rate(known, _UTIL_AICORE)
        copying = self._rate(known, _UTIL_HBM_BANDWIDTH)
        power = self._session.number("int", "dcmi_get_device_power_info", *known.at)
        degrees = self._session.number("int", "dcmi_get_device_temperature", *known.at)
        return Sample(
            uuid=known.device.uuid,
            memory_used_bytes=None if memory is None else memory[1],
            busy=busy,
            memory_busy=copying,
            power_watts=None if power is None or power < 0 else power / 10,
            temperature_celsius=None if degrees is None else float(degrees),
        )

    def _rate(self, known: _Known, kind: int) -> float | None:
        percent = self._session.number(
            "unsigned int", "dcmi_get_device_utilization_rate", *known.at, kind
        )
        return None if percent is None else _share(percent)

    def _processes(self, known: _Known) -> list[DeviceProcess] | None:
        """Return the processes on a device; None where it does not list them."""
        rows = dcmi.ffi.new(f"struct dcmi_proc_mem_info[{_PROCESSES}]")
        count = dcmi.ffi.new("int *")
        try:
            self._session.call("dcmi_get_device_resource_info", *known.at, rows, count)
        except dcmi.DcmiError as error:
            if error.over:
                raise
            return None
        held: dict[int, int] = {}
        for row in rows[0 : min(max(int(count[0]), 0), _PROCESSES)]:
            if row.proc_id > 0:
                pid = int(row.proc_id)
                held[pid] = held.get(pid, 0) + int(row.proc_mem_usage)
        return [
            DeviceProcess(known.device.uuid, pid, used, None, None) for pid, used in held.items()
        ]

    # -- health --

    def _subscribe(self) -> None:
        """Have events told of all devices: what could not be had is tried again at each look."""
        for known in self._known:
            self._session.subscribe(known.at)

    def _take_events(self) -> None:
        by_phy = {known.chip.phy: self._watches[known.device.uuid] for known in self._known}
        for event in dcmi.events():
            watch = by_phy.get(event.device)
            if watch is not None:
                watch.told(event.code, event.severity, came=event.came)

    def _illness(self, known: _Known) -> str:
        watch = self._watches[known.device.uuid]
        health = self._health(known)
        standing = self._session.standing(known.at)
        if standing is not None:
            watch.stands(standing)
        # What came or went between is told of at the next look: no fault must be blamed with what
        # another one was.
        later = self._health(known)
        return watch.reason(later if health is None or later is None else min(health, later))

    def _health(self, known: _Known) -> int | None:
        return self._session.number("unsigned int", "dcmi_get_device_health", *known.at)


def _unlike(one: _Known, others: Sequence[_Known]) -> None:
    """Raise ValueError for a device that cannot be told from one of the others."""
    for what in ("uuid", "index"):
        value = getattr(one.device, what)
        if any(value == getattr(other.device, what) for other in others):
            raise ValueError(f"another device has the same {what}, {value}: update the driver")
    if one.device.index < 0:
        raise ValueError(f"its logical number is {one.device.index}: update the driver")


def _share(percent: int) -> float | None:
    """Return a share; None for what is no percentage."""
    return percent / _MOST_PERCENT if 0 <= percent <= _MOST_PERCENT else None


def _bytes_of(words: Sequence[int]) -> bytes:
    """Return 16 bytes that stand for a chip's 20."""
    text = b"".join(word.to_bytes(4, "big") for word in words)
    return hashlib.sha256(b"aliquot ascend " + text).digest()[:16]
