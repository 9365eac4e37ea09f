"""NVIDIA's devices, through the management library that comes with its driver.

Where MIG is on, the partitions are the devices and the card is not. A partition's index is its
place among all devices; its links are none, since partitions have no peers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pynvml
from aliquot.hooks.plan import Needs

from .. import contexts, drivers, visible
from ..errors import AliquotError
from . import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    Undivided,
    VendorError,
    nvidia_files,
    nvidia_limits,
    nvml,
)
from .nvidia_health import Watch, Watched
from .registry import Settings

# What the driver gives device memory in, on every device since Pascal.
PAGE_BYTES: Final = 2 << 20

_MOST_DEVICES: Final = 256
# Of a card; NVIDIA's own have seven.
_MOST_PARTS: Final = 64
_PROCESS_KINDS: Final = ("Compute", "Graphics", "MPSCompute")
# Processes may start between the call that counts them and the one that lists them.
_LIST_TRIES: Final = 4
_SYSFS_DEVICES: Final = Path("/sys/bus/pci/devices")


@dataclass(frozen=True, slots=True)
class _Known:
    """A device and where NVML has it; ``minor`` is N of /dev/nvidiaN, None when it cannot tell.

    For a partition ``place`` is its number on its card, and the minor and number are the card's.
    """

    device: Device
    card: str
    card_index: int
    minor: int | None
    place: int | None = None
    instances: tuple[int, int] | None = None


@dataclass(slots=True)
class _Busy:
    """The last utilisation of a process, and for how many looks there was no newer one."""

    busy: float | None
    memory_busy: float | None
    missed: int = 0


class Nvidia(Undivided):
    """NVIDIA's devices on this node; see ``Vendor``.

    Utilisation of a process is the driver's last sample, for one look more when there is no newer
    one, then 0; None where the driver does not tell (partitions). Memory of a process is None where
    the driver does not tell.
    """

    name: Final = "nvidia"

    def __init__(self, config: Settings) -> None:
        """Load the library. Raises VendorError when this node has none."""
        self._config = config
        self._session = nvml.Session()
        self._files = nvidia_files.Files(config)
        self._limits = nvidia_limits.Limits()
        self._watch = Watch()
        self._known: tuple[_Known, ...] = ()
        self._faults: tuple[str, ...] = ()
        self._handles: dict[str, nvml.Handle] = {}
        self._handles_of = 0
        self._costs: dict[bytes, int] = {}
        self._seen: dict[str, int] = {}
        self._busy: dict[tuple[str, int], _Busy] = {}
        self.unlisted: frozenset[str] = frozenset()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why devices that the driver has are not among those enumerated, one line each."""
        return self._faults

    def driver_version(self) -> str:
        """Return the driver's version, ``550.163.01``. Raises VendorError."""
        with self._using():
            return str(pynvml.nvmlSystemGetDriverVersion())

    def enumerate(self) -> Sequence[Device]:
        """Return the devices. May take long once: what a context costs is measured.

        Raises VendorError.
        """
        with self._using():
            self._discover()
            devices = [known.device for known in self._known]
        # Not in the session: the devices are read meanwhile.
        self._costs |= _context_costs([item for item in devices if not item.context_bytes])
        return tuple(
            replace(item, context_bytes=self._costs.get(item.uuid_bytes, 0)) for item in devices
        )

    def sample(self) -> Sequence[Sample]:
        """Return what each device reads now; of a partition only the memory. Raises VendorError."""
        with self._using():
            self._ensure()
            return tuple(self._sample(known) for known in self._known)

    def processes(self) -> Sequence[DeviceProcess]:
        """Return every process on every device, with the host's pids. Raises VendorError."""
        with self._using():
            self._ensure()
            unlisted: set[str] = set()
            rows = [row for known in self._known for row in self._processes(known, unlisted)]
        self.unlisted = frozenset(unlisted)
        return tuple(rows)

    def health(self) -> Sequence[Health]:
        """Return each device's health; all are unhealthy while the library does not answer."""
        try:
            with self._using():
                if self._watch.wants_new_session():
                    self._watch.end()
                    self._session.end()
            with self._using():
                self._ensure()
                cards = {known.card: self._handle(known.card) for known in self._known}
                watched = [
                    Watched(known.device.uuid, known.card, known.instances) for known in self._known
                ]
                return self._watch.look(self._session, watched, cards)
        except VendorError as error:
            return tuple(Health(known.device.uuid, False, str(error)) for known in self._known)

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Return what a container needs for these devices. Raises VendorError."""
        del partitions
        with self._using():
            self._ensure()
            return self._files.needs([self._wanted(uuid) for uuid in uuids])

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Let the driver hold a cgroup v2 folder to ``limit_bytes``; None takes it back.

        ``cgroup`` is the container's own folder, as a path or as /proc/PID/cgroup has it. Taking
        back from a folder that is gone is well. Raises VendorError.
        """
        with self._using():
            self._ensure()
            known = self._find(uuid)
            if nvidia_limits.DRIVER not in known.device.enforcement:
                raise VendorError(f"{uuid}: its driver cannot hold memory limits")
            handle = self._handle(uuid)
            if handle is None:
                raise VendorError(f"{uuid} does not answer: reset it")
            self._limits.set(uuid, handle, cgroup, limit_bytes)

    def close(self) -> None:
        """End the session with the library."""
        self._watch.end()
        self._session.end()

    # -- the session --

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        with self._session.held():
            if self._handles_of != self._session.number:
                # Handles and time stamps are a session's own.
                self._handles_of = self._session.number
                self._handles.clear()
                self._seen.clear()
            yield

    def _ensure(self) -> None:
        if not self._known:
            self._discover()

    def _handle(self, uuid: str) -> nvml.Handle:
        """Return a device's handle, None when it is not to be had."""
        if self._handles.get(uuid) is None:
            self._handles[uuid] = nvml.reading(pynvml.nvmlDeviceGetHandleByUUID, uuid)
        return self._handles[uuid]

    def _find(self, uuid: str) -> _Known:
        for known in self._known:
            if known.device.uuid == uuid:
                return known
        raise VendorError(f"{uuid}: there is no such device")

    def _wanted(self, uuid: str) -> nvidia_files.Wanted:
        known = self._find(uuid)
        return nvidia_files.Wanted(
            uuid, known.card_index, known.minor, known.place, known.instances
        )

    # -- what there is --

    def _discover(self) -> None:
        faults: list[str] = []
        cards = _cards(faults)
        links = _links(cards)
        driver = nvml.reading(pynvml.nvmlSystemGetDriverVersion) or ""
        found: list[_Known] = []
        # Who is left out has his place all the same.
        place, before = 0, -1
        for index, handle, uuid in cards:
            place, before = place + index - before - 1, index
            parts = list(self._of_card(index, handle, uuid, links.get(uuid, {})))
            if not parts:
                faults.append(f"device {index}: MIG is on, and it has no partition: make some")
            for known in parts:
                try:
                    device = self._described(known, place, driver)
                except (pynvml.NVMLError, ValueError) as error:
                    if nvml.code_of(error) in nvml.ENDED:
                        raise
                    faults.append(f"{known.device.uuid}: {nvml.describe(error)}")
                else:
                    found.append(replace(known, device=device))
                place += 1
        # Links to what is no device of its own lead nowhere.
        known_here = {one.device.uuid for one in found}
        self._known = tuple(
            replace(one, device=replace(one.device, links=_only(one.device.links, known_here)))
            for one in found
        )
        self._faults = tuple(faults)

    def _of_card(
        self,
        index: int,
        handle: nvml.Handle,
        uuid: str,
        links: Mapping[str, int],
    ) -> Iterator[_Known]:
        """Yield the card, or its partitions when it has MIG on, with what is the card's."""
        self._handles[uuid] = handle
        blank = Device(
            vendor=self.name,
            index=index,
            uuid=uuid,
            uuid_bytes=b"",
            model="",
            memory_bytes=0,
            page_bytes=PAGE_BYTES,
            context_bytes=0,
            pci_address=_pci_address(handle) or "",
            links=links,
        )
        blank = replace(blank, numa_node=_numa_node(handle, blank.pci_address))
        minor = nvml.reading(pynvml.nvmlDeviceGetMinorNumber, handle)
        modes = nvml.reading(pynvml.nvmlDeviceGetMigMode, handle)
        whole = _Known(blank, uuid, index, minor)
        if modes and modes[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            yield whole
            return
        divided = False
        most = nvml.reading(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
        for place in range(min(most, _MOST_PARTS)):
            part = nvml.reading(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
            name = None if part is None else nvml.reading(pynvml.nvmlDeviceGetUUID, part)
            if not name:
                continue
            self._handles[name] = part
            own = (
                nvml.reading(pynvml.nvmlDeviceGetGpuInstanceId, part),
                nvml.reading(pynvml.nvmlDeviceGetComputeInstanceId, part),
            )
            instances = None if own[0] is None or own[1] is None else (own[0], own[1])
            blank = replace(blank, uuid=name, links={})
            divided = True
            yield _Known(blank, uuid, index, minor, place, instances)

        # One that does not tell its mode is divided where it has partitions.
        if not modes and not divided:
            yield whole

    def _described(self, known: _Known, index: int, driver: str) -> Device:
        """Return the device with all that it says of itself.

        Raises pynvml.NVMLError and ValueError.
        """
        handle = self._handles[known.device.uuid]
        memory = _memory(handle)
        if memory is None:
            # Devices that share the host's memory; their size is not the driver's to divide.
            raise ValueError("it does not tell its memory, which cannot be divided then")
        uuid = _uuid_bytes(known.device.uuid)
        device = replace(
            known.device,
            index=index,
            uuid_bytes=uuid,
            context_bytes=self._costs.get(uuid, 0),
            model=str(nvml.reading(pynvml.nvmlDeviceGetName, handle) or "NVIDIA"),
            memory_bytes=memory[0],
        )
        if known.place is None and self._limits.offered(device.uuid, handle, driver):
            device = replace(device, enforcement=(nvidia_limits.DRIVER, nvidia_limits.SHIM))
        return device

    # -- what they read --

    def _sample(self, known: _Known) -> Sample:
        uuid = known.device.uuid
        handle = self._handle(uuid)
        if handle is None:
            return Sample(uuid, None, None, None, None, None)
        memory = _memory(handle)
        rates = milliwatts = degrees = None
        if known.place is None:
            rates = nvml.reading(pynvml.nvmlDeviceGetUtilizationRates, handle)
            milliwatts = nvml.reading(pynvml.nvmlDeviceGetPowerUsage, handle)
            degrees = _temperature(handle)
        return Sample(
            uuid=uuid,
            memory_used_bytes=None if memory is None else memory[1],
            busy=None if rates is None else _share(rates.gpu),
            memory_busy=None if rates is None else _share(rates.memory),
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=None if degrees is None else float(degrees),
        )

    def _processes(self, known: _Known, unlisted: set[str]) -> Iterator[DeviceProcess]:
        """Yield the processes on a device, which is ``unlisted`` where it may have others."""
        uuid = known.device.uuid
        handle = self._handle(uuid)
        lists = [None if handle is None else _list(handle, kind) for kind in _PROCESS_KINDS]
        if None in lists:
            unlisted.add(uuid)
        if handle is None:
            return
        memory: dict[int, int | None] = {}
        for found in lists:
            for row in found or ():
                # A process in two lists holds its memory once.
                values = [v for v in (memory.get(row.pid), row.usedGpuMemory) if v is not None]
                memory[int(row.pid)] = max(values) if values else None
        told = known.place is None and self._read_busy(uuid, handle, set(memory))
        for pid, used in sorted(memory.items()):
            last = self._busy.get((uuid, pid))
            idle = _Busy(0.0, 0.0) if told else _Busy(None, None)
            now = last if told and last is not None else idle
            yield DeviceProcess(uuid, pid, used, now.busy, now.memory_busy)

    def _read_busy(self, uuid: str, handle: nvml.Handle, pids: set[int]) -> bool:
        """Take the samples since the last look; returns whether the device tells them at all."""
        samples = _utilisation(handle, self._seen.get(uuid, 0))
        if samples is None:
            return False
        newest: dict[int, Any] = {}
        for sample in samples:
            self._seen[uuid] = max(self._seen.get(uuid, 0), int(sample.timeStamp))
            if sample.pid not in newest or sample.timeStamp > newest[sample.pid].timeStamp:
                newest[int(sample.pid)] = sample
        for key in [key for key in self._busy if key[0] == uuid]:
            self._busy[key].missed += 1
            if key[1] not in pids or self._busy[key].missed > 1:
                del self._busy[key]
        for pid, sample in newest.items():
            if pid in pids:
                shares = _share(sample.smUtil), _share(sample.memUtil)
                self._busy[uuid, pid] = _Busy(*shares)
        return True


def _cards(faults: list[str]) -> list[tuple[int, nvml.Handle, str]]:
    """Return the cards that can be told apart: number, handle and UUID.

    ``faults`` gets a line for each other one. Raises pynvml.NVMLError.
    """
    cards: list[tuple[int, nvml.Handle, str]] = []
    for index in range(min(pynvml.nvmlDeviceGetCount(), _MOST_DEVICES)):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
        except (pynvml.NVMLError, UnicodeDecodeError) as error:
            if nvml.code_of(error) in nvml.ENDED:
                raise
            faults.append(f"device {index}: {nvml.describe(error)}")
            continue
        if any(uuid == other for _, _, other in cards):
            faults.append(f"device {index}: another has the same UUID: update the driver")
        else:
            cards.append((index, handle, uuid))
    return cards


def _only(links: Mapping[str, int], known: Container[str]) -> dict[str, int]:
    return {uuid: count for uuid, count in links.items() if uuid in known}


def _share(percent: int) -> float | None:
    """Return a share of time; None for what is no percentage, as drivers sometimes say."""
    return percent / 100 if 0 <= percent <= 100 else None


def _memory(handle: nvml.Handle) -> tuple[int, int] | None:
    """Return what programs can allocate and what is allocated; None when it cannot tell."""
    newer = nvml.reading(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if newer is not None:
        return max(0, int(newer.total) - int(newer.reserved)), int(newer.used)
    # Before 510, where what the driver keeps for itself counts as used.
    older = nvml.reading(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if older is None else (int(older.total), int(older.used))


def _temperature(handle: nvml.Handle) -> int | None:
    degrees = nvml.reading(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    if degrees is None:
        newer = nvml.newer("nvmlDeviceGetTemperatureV")
        degrees = nvml.reading(newer, handle, pynvml.NVML_TEMPERATURE_GPU)
    return degrees


def _list(handle: nvml.Handle, kind: str) -> Sequence[Any] | None:
    """Return a list of processes, in the newest form that the library has; None where it fails.

    Where a device or library has none of that kind, it is empty.

    Without `_v3`, whose structs have been the driver's since 510, `_v2` has the same.
    """
    for version in ("_v3", "_v2"):
        call = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses{version}", None)
        for _ in range(_LIST_TRIES):
            try:
                return () if call is None else list(call(handle))
            except pynvml.NVMLError as error:
                code = nvml.code_of(error)
                if code in nvml.ENDED:
                    raise
                if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                    continue
                if code == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                    break
                return () if code == pynvml.NVML_ERROR_NOT_SUPPORTED else None
            except nvml.UNREADABLE:
                return None
        else:
            return None
    return ()


def _utilisation(handle: nvml.Handle, since: int) -> Sequence[Any] | None:
    """Return the samples of processes newer than ``since``; None when the device has none ever."""
    for _ in range(_LIST_TRIES):
        try:
            return list(pynvml.nvmlDeviceGetProcessUtilization(handle, since))
        except pynvml.NVMLError as error:
            code = nvml.code_of(error)
            if code in nvml.ENDED:
                raise
            # pynvml raises success too, for an empty list.
            if code in {pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND}:
                return ()
            if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                return None
        except nvml.UNREADABLE:
            return None
    return None


def _uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of ``GPU-…`` or ``MIG-…``. Raises ValueError for another form.

    Drivers before 470 name partitions ``MIG-GPU-…/1/0``: CUDA has no such UUID to compare with.
    """
    try:
        value = bytes.fromhex(text.partition("-")[2].replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != 16:
        raise ValueError(f"the UUID '{text}' is none that CUDA knows: update the driver")
    return value


def _pci_address(handle: nvml.Handle) -> str | None:
    """Return the address as sysfs writes it, ``0000:3b:00.0``."""
    info = nvml.reading(pynvml.nvmlDeviceGetPciInfo_v3, handle)
    if info is None:
        return None
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def _numa_node(handle: nvml.Handle, pci_address: str) -> int | None:
    """Return the NUMA node whose processors and memory are the nearest; None without NUMA.

    (nvmlDeviceGetNumaNodeId can be another thing, the node that is the device's own memory: it
    counts only where the kernel does not know the device.)
    """
    scope = pynvml.NVML_AFFINITY_SCOPE_NODE
    nodes = nvml.reading(pynvml.nvmlDeviceGetMemoryAffinity, handle, 16, scope)
    near = [
        word * 64 + bit
        for word, bits in enumerate(nodes or ())
        for bit in range(64)
        if int(bits) >> bit & 1
    ]
    if len(near) == 1:
        return near[0]
    try:
        node = int((_SYSFS_DEVICES / pci_address / "numa_node").read_text(encoding="ascii"))
    except FileNotFoundError:
        told = nvml.reading(nvml.newer("nvmlDeviceGetNumaNodeId"), handle)
        node = -1 if told is None else int(told)
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _links(cards: Sequence[tuple[int, nvml.Handle, str]]) -> dict[str, dict[str, int]]:
    """Return the active NVLinks of each card, by the UUID of the card at the other end.

    Links that end in switches reach every card on them: between two of those the fewer count.
    """
    at = {_pci_address(handle): uuid for _, handle, uuid in cards}
    direct: dict[str, dict[str, int]] = {uuid: {} for _, _, uuid in cards}
    switched: dict[str, int] = {}
    for _, handle, uuid in cards:
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            if not nvml.reading(pynvml.nvmlDeviceGetNvLinkState, handle, link):
                continue
            remote = nvml.reading(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
            other = remote and at.get(f"{remote.domain:04x}:{remote.bus:02x}:{remote.device:02x}.0")
            if other and other != uuid:
                direct[uuid][other] = direct[uuid].get(other, 0) + 1
                continue
            kind = nvml.reading(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
            if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                switched[uuid] = switched.get(uuid, 0) + 1
    for uuid, count in switched.items():
        for other, theirs in switched.items():
            if other != uuid:
                direct[uuid].setdefault(other, min(count, theirs))
    return direct


def _context_costs(devices: Sequence[Device]) -> dict[bytes, int]:
    """Return what one context takes, by UUID; nothing for a device that cannot be asked.

    A process sees one partition at most, so each of these is asked alone.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY"}
    }
    whole = [device.uuid for device in devices if not device.uuid.startswith("MIG-")]
    groups = [",".join(whole)] if whole else []
    groups += [device.uuid for device in devices if device.uuid.startswith("MIG-")]
    costs: dict[bytes, int] = {}
    with contextlib.suppress(AliquotError):
        driver = drivers.find(os.environ).driver
        for group in groups:
            with contextlib.suppress(AliquotError):
                own = {**environment, "CUDA_VISIBLE_DEVICES": group}
                version, found = visible.enumerate_devices(driver, own)
                measured = contexts.costs(driver, version, found, own)
                costs |= {device.uuid: measured[device.index] for device in found}
    return costs
