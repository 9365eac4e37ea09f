"""Cambricon's devices, through the management library that comes with their driver.

Where sMLU is switched on (`cnmon set -c N -smlu on`) containers get shares that the driver
enforces; else the shim of the driver's library keeps them to theirs. The instances of a card with
MIM are devices of their own. A device is unhealthy while its driver says so, while it does not
answer, or while its compute mode is prohibited; it is healthy again as soon as none of this holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aliquot.hooks.plan import Needs

from . import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    UntoldError,
    VendorError,
    cambricon_files,
    cambricon_mim,
    cambricon_smlu,
    cndev,
)
from .registry import Settings

# The driver does not tell the unit in which it gives memory; CNDrv's allocations are of 2 MiB.
PAGE_BYTES: Final = 2 << 20

_MOST_DEVICES: Final = 256
_MOST_LINKS: Final = 64
_MIB: Final = 1 << 20
_NO_MEMORY: Final = "it does not tell its memory, which cannot be divided then"
_KIB: Final = 1 << 10
_XID: Final = 1
_PROHIBITED: Final = 2
_HEALTHY: Final = 1
_HEALTH_WAYS: Final = (
    ("cndevCardHealthState_t", "cndevGetCardHealthState"),
    ("cndevCardHealthStateV2_t", "cndevGetCardHealthStateV2"),
)
# With these a library says that it has no events, and will have none.
_NEVER: Final = frozenset({cndev.NOT_SUPPORTED, cndev.UNSUPPORTED_VERSION, cndev.MISSING})
# More events than this in one look can wait for the next.
_MOST_EVENTS: Final = 256
# Whether it may be 0 is not said; -1 is for ever.
_EVENT_WAIT_MS: Final = 1
_SYSFS_DEVICES: Final = Path("/sys/bus/pci/devices")


@dataclass(frozen=True, slots=True)
class _Known:
    """A device, its card's number in the library, and N of that one's /dev/cambricon_devN.

    ``part``: it is this instance of the card (MIM).
    """

    device: Device
    slot: int
    minor: int
    part: cambricon_mim.Instance | None = None


class Cambricon:
    """Cambricon's devices on this node; see ``Vendor``.

    A process's utilisation is the driver's newest; None where the driver does not tell.
    """

    name: Final = "cambricon"

    def __init__(self, config: Settings) -> None:
        """Load the library. Raises VendorError when this node has none."""
        self._session = cndev.Session(config.cambricon.root)
        self._files = cambricon_files.Files(config)
        self._context = config.cambricon.context
        self._known: tuple[_Known, ...] = ()
        self._faults: tuple[str, ...] = ()
        self._events: cndev.Value = None
        self._events_of = 0
        # The slots whose events are asked for, and whether the library has none.
        self._heard: set[int] = set()
        self._silent = False
        self._xids: dict[int, int] = {}
        self._profiles: dict[str, cambricon_smlu.Profiles] = {}
        self.unlisted: frozenset[str] = frozenset()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why devices that the driver has are not among those enumerated, one line each."""
        return self._faults

    def enumerate(self) -> Sequence[Device]:
        """Return the devices. Raises VendorError."""
        with self._session.held():
            self._discover()
            return tuple(known.device for known in self._known)

    def sample(self) -> Sequence[Sample]:
        """Return what each device reads now. Raises VendorError."""
        with self._using():
            return tuple(self._sample(known) for known in self._known)

    def processes(self) -> Sequence[DeviceProcess]:
        """Return every process on every device, with the host's pids. Raises VendorError."""
        with self._using():
            rows = {known.device.uuid: self._processes(known) for known in self._known}
        self.unlisted = frozenset(uuid for uuid, found in rows.items() if found is None)
        return tuple(row for found in rows.values() for row in found or ())

    def health(self) -> Sequence[Health]:
        """Return each device's health; all are unhealthy while the library does not answer."""
        try:
            with self._using():
                self._read_events()
                texts = [(known.device.uuid, self._trouble(known)) for known in self._known]
        except VendorError as error:
            texts = [(known.device.uuid, str(error)) for known in self._known]
        return tuple(Health(uuid, not text, text) for uuid, text in texts)

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Return what a container needs for these devices, or for partitions of some of them.

        ``partitions`` are by UUID. Raises VendorError.
        """
        with self._using():
            wanted = [self._wanted(uuid, partitions.get(uuid)) for uuid in uuids]
        needs = self._files.needs(wanted, _loaded(self._session.path))
        # Where the driver holds a share, there is nothing for the shim to do.
        if all(uuid in partitions for uuid in uuids):
            return needs
        return replace(needs, substitutes=cambricon_files.substitutes())

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Refuse: this driver holds limits by instances, not by cgroups. Raises VendorError."""
        del cgroup, limit_bytes
        raise VendorError(f"{uuid}: its driver cannot hold memory limits of cgroups: see sMLU")

    # -- partitions --

    def partition(self, uuid: str, name: str, memory_bytes: int, cores: int) -> Partition:
        """Make an sMLU instance for a slice. Raises VendorError."""
        with self._using():
            known = self._splitting(uuid)
            return cambricon_smlu.make(self._session, self._card(known), name, memory_bytes, cores)

    def resize(self, partition: Partition, memory_bytes: int, cores: int) -> Partition:
        """Change an sMLU instance while programs use it. Raises VendorError."""
        with self._using():
            known = self._splitting(partition.uuid)
            return cambricon_smlu.resize(self._session, known.slot, partition, memory_bytes, cores)

    def partitions(self) -> Sequence[Partition]:
        """Return the sMLU instances; those that are not ours have no name.

        Raises VendorError, UntoldError.
        """
        with self._using():
            split = [known for known in self._known if known.device.splits]
            found: list[Partition] = []
            untold: dict[str, cndev.CndevError] = {}
            for known in split:
                uuid = known.device.uuid
                self._card(known).profiles.sweep(self._session, known.slot)
                try:
                    there = cambricon_smlu.instances(self._session, known.slot)
                    found += [instance.partition(uuid) for instance in there]
                except cndev.CndevError as error:
                    if error.code in cndev.ENDED:
                        raise
                    untold[uuid] = error
        if untold:
            lines = [
                str(cndev.described(f"{uuid} does not tell its sMLU instances", why))
                for uuid, why in untold.items()
            ]
            raise UntoldError("; ".join(lines), found, tuple(untold))
        return tuple(found)

    def release(self, partition: Partition) -> None:
        """Destroy an sMLU instance; one that is gone is well. Raises VendorError."""
        with self._using():
            known = self._find(partition.uuid)
            if known.device.splits:
                cambricon_smlu.release(self._session, self._card(known), partition)

    def close(self) -> None:
        """End the session with the library."""
        self._forget_events()
        self._session.end()

    # -- the session --

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        with self._session.held():
            if not self._known:
                self._discover()
            yield

    def _find(self, uuid: str) -> _Known:
        for known in self._known:
            if known.device.uuid == uuid:
                return known
        raise VendorError(f"{uuid}: there is no such device")

    def _splitting(self, uuid: str) -> _Known:
        known = self._find(uuid)
        if not known.device.splits:
            raise VendorError(
                f"{uuid}: sMLU is switched off, or its driver is older than 5.10.27: "
                f"cnmon set -c {known.slot} -smlu on"
            )
        return known

    def _card(self, known: _Known) -> cambricon_smlu.Card:
        uuid = known.device.uuid
        profiles = self._profiles.setdefault(uuid, cambricon_smlu.Profiles())
        return cambricon_smlu.Card(uuid, known.slot, profiles)

    def _wanted(self, uuid: str, partition: Partition | None) -> cambricon_files.Wanted:
        known = self._find(uuid)
        if known.part is not None:
            return cambricon_files.Wanted(uuid, known.slot, known.minor, *known.part.nodes)
        share = ""
        if partition is not None:
            instance = cambricon_smlu.find(self._session, known.slot, partition)
            if instance is None or not instance.node:
                raise VendorError(f"{uuid}: its sMLU instance {partition.id} is gone")
            share = instance.node
        return cambricon_files.Wanted(uuid, known.slot, known.minor, share)

    # -- what there is --

    def _discover(self) -> None:
        session = self._session
        count = int(session.read("cndevCardInfo_t", "cndevGetDeviceCount").number)
        faults: list[str] = []
        found: list[_Known] = []
        # Who is left out has his place all the same.
        place = 0
        for index in range(min(count, _MOST_DEVICES)):
            before = len(faults)
            try:
                of_card = self._of_card(index, place, faults)
                _all_apart(found, of_card)
                found += of_card
                place += len(of_card) + len(faults) - before
                if not of_card and len(faults) == before:
                    faults.append(f"device {index}: MIM is on, and it has no instance: make some")
            except (cndev.CndevError, ValueError) as error:
                if isinstance(error, cndev.CndevError) and error.code in cndev.ENDED:
                    raise
                faults.append(f"device {index}: {error}")
                place += 1
        links = {
            known.device.uuid: {} if known.part else self._links(known, found) for known in found
        }
        self._known = tuple(
            replace(known, device=replace(known.device, links=links[known.device.uuid]))
            for known in found
        )
        self._faults = tuple(faults)

    def _of_card(self, index: int, place: int, faults: list[str]) -> list[_Known]:
        """Return the card as a device, or its instances when it has MIM on.

        ``faults`` gets a line for an instance that is left out. Raises CndevError and ValueError.
        """
        card = self._described(index, place)
        if not cambricon_mim.used(self._session, card.slot):
            return [card]
        parts = cambricon_mim.instances(self._session, card.slot)
        faults += [
            f"instance {part.number} of device {index}: {_NO_MEMORY}"
            for part in parts
            if not part.memory_bytes
        ]
        return [
            replace(
                card,
                part=part,
                device=replace(
                    card.device,
                    index=place + number,
                    uuid=_named(part.uuid),
                    uuid_bytes=_uuid_bytes(part.uuid),
                    model=f"{card.device.model} MIM {part.profile}",
                    memory_bytes=part.memory_bytes,
                    enforcement=("shim",),
                    splits=False,
                ),
            )
            for number, part in enumerate(parts)
            if part.memory_bytes
        ]

    def _described(self, index: int, place: int) -> _Known:
        """Return a card with all that it says of itself. Raises CndevError and ValueError."""
        session = self._session
        slot = index
        if session.has("cndevGetDeviceHandleByIndex"):
            handle = cndev.ffi.new("cndevDevice_t *")
            session.call("cndevGetDeviceHandleByIndex", index, handle)
            slot = int(handle[0])
        # Named: an array in what was read is a view of it, and does not keep it.
        told = session.read("cndevUUID_t", "cndevGetUUID", slot)
        text = cndev.text_of(told.uuid)
        memory = self._memory(slot)
        if memory is None:
            raise ValueError(_NO_MEMORY)
        pci = session.reading("cndevPCIeInfoV2_t", "cndevGetPCIeInfoV2", slot)
        address = (
            ""
            if pci is None
            else f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.{pci.function:x}"
        )
        splits = cambricon_smlu.offered(session, slot)
        device = Device(
            vendor=self.name,
            index=place,
            uuid=_named(text),
            uuid_bytes=_uuid_bytes(text),
            model=session.string_of("cndevGetCardNameStringByDevId", slot) or "MLU",
            memory_bytes=memory[0],
            page_bytes=PAGE_BYTES,
            context_bytes=self._context.of(memory[0]),
            pci_address=address,
            numa_node=self._numa_node(slot, address),
            enforcement=("partition", "shim") if splits else ("shim",),
            splits=splits,
        )
        return _Known(device, slot, self._minor(slot))

    def _minor(self, slot: int) -> int:
        minor = cndev.ffi.new("uint32_t *")
        try:
            self._session.call("cndevDeviceGetMinorNumber", minor, slot)
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
            return slot
        return int(minor[0])

    def _memory(self, slot: int) -> tuple[int, int | None] | None:
        """Return what programs can allocate and what is allocated, bytes; None: it cannot tell."""
        newer = self._session.reading("cndevMemoryInfoV2_t", "cndevGetMemoryUsageV2", slot)
        if newer is not None:
            total = int(newer.physicalMemoryTotal) - int(newer.reservedMemory)
            used = int(newer.physicalMemoryUsed)
        else:
            older = self._session.reading("cndevMemoryInfo_t", "cndevGetMemoryUsage", slot)
            if older is None:
                return None
            total, used = int(older.physicalMemoryTotal), int(older.physicalMemoryUsed)
        return (total * _MIB, used * _MIB if used >= 0 else None) if total > 0 else None

    def _numa_node(self, slot: int, address: str) -> int | None:
        told = self._session.reading("cndevNUMANodeId_t", "cndevGetNUMANodeIdByDevId", slot)
        if told is not None:
            return int(told.nodeId) if told.nodeId >= 0 else None
        try:
            node = int((_SYSFS_DEVICES / address / "numa_node").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None

    def _links(self, known: _Known, found: Sequence[_Known]) -> dict[str, int]:
        """Return the MLU-Links that are up, by the UUID of the card at the other end."""
        session = self._session
        uuids = {one.device.uuid for one in found}
        links: dict[str, int] = {}
        ports = session.number_of("cndevGetMLULinkPortNumber", known.slot) or 0
        for port in range(min(max(ports, 0), _MOST_LINKS)):
            status = session.reading(
                "cndevMLULinkStatusV2_t", "cndevGetMLULinkStatusV2", known.slot, port
            )
            if status is None or status.macState == 0:
                continue
            remote = session.reading(
                "cndevMLULinkRemoteInfo_t", "cndevGetMLULinkRemoteInfo", known.slot, port
            )
            other = "" if remote is None else "MLU-" + cndev.text_of(remote.uuid)
            if other in uuids and other != known.device.uuid:
                links[other] = links.get(other, 0) + 1
        return links

    # -- what they read --

    def _sample(self, known: _Known) -> Sample:
        session, slot = self._session, known.slot
        load = session.reading("cndevUtilizationInfo_t", "cndevGetDeviceUtilizationInfo", slot)
        heat = session.reading("cndevTemperatureInfo_t", "cndevGetTemperatureInfo", slot)
        # Sensors that a model lacks read 0 or less.
        degrees = [] if heat is None else [int(t) for t in (heat.chip, heat.board) if t > 0]
        if known.part is not None:
            # The card's power is of all its instances together.
            return Sample(
                uuid=known.device.uuid,
                memory_used_bytes=self._memory_of(known.part, slot),
                busy=None if load is None else known.part.busy(load),
                memory_busy=None,
                power_watts=None,
                temperature_celsius=float(degrees[0]) if degrees else None,
            )
        memory = self._memory(slot)
        power = session.reading("cndevDevicePowerInfo_t", "cndevGetDevicePowerInfo", slot)
        return Sample(
            uuid=known.device.uuid,
            memory_used_bytes=None if memory is None else memory[1],
            busy=None if load is None else _share(load.averageCoreUtilization),
            memory_busy=None,
            power_watts=None if power is None or power.usage < 0 else float(power.usage),
            temperature_celsius=float(degrees[0]) if degrees else None,
        )

    def _memory_of(self, part: cambricon_mim.Instance, slot: int) -> int | None:
        """Return what is allocated of an instance, bytes; None: the library does not tell.

        A library that takes no instance for a card tells of the whole card, which has more.
        """
        memory = self._memory(part.handle(slot))
        return None if memory is None or memory[0] > part.memory_bytes else memory[1]

    def _processes(self, known: _Known) -> list[DeviceProcess] | None:
        """Return the processes on a device; None where it does not list them."""
        # (A card with MIM does not tell which of its instances a process is on: each has them all.
        # Those of a container are on what the container has.)
        try:
            memory = self._session.listed(
                "cndevProcessInfo_t",
                "cndevGetProcessInfo",
                known.slot,
                lambda row: (int(row.pid), int(row.physicalMemoryUsed) * _KIB),
            )
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
            return None
        busy = self._busy(known)
        held: dict[int, int] = {}
        for pid, used in memory:
            # A process with several contexts may be listed once for each.
            if pid > 0:
                held[pid] = held.get(pid, 0) + used
        idle = (None, None) if busy is None else (0.0, 0.0)
        return [
            DeviceProcess(known.device.uuid, pid, used, *(busy or {}).get(pid, idle))
            for pid, used in sorted(held.items())
        ]

    def _busy(self, known: _Known) -> dict[int, tuple[float | None, float | None]] | None:
        """Return how busy processes are, by pid; None where the driver does not tell."""
        try:
            rows = self._session.listed(
                "cndevProcessUtilization_t",
                "cndevGetProcessUtilization",
                known.slot,
                lambda row: (int(row.pid), (_share(row.ipuUtil), _share(row.memUtil))),
            )
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
            return None
        return dict(rows)

    # -- health --

    def _trouble(self, known: _Known) -> str:
        """Return why a device cannot be used, empty when it can. Raises CndevError at its end."""
        session = self._session
        kind, name = next((way for way in _HEALTH_WAYS if session.has(way[1])), ("", ""))
        try:
            # A library that has neither of them never calls a card ill.
            well = not name or session.read(kind, name, known.slot).health == _HEALTHY
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
            advice = cndev.advice(error.code) or "look at cnmon and the kernel's log"
            return f"it does not tell its health: {error}: {advice}"
        if not well:
            return self._incident(known)
        self._xids.pop(known.slot, None)
        mode = session.reading("cndevComputeMode_t", "cndevGetComputeMode", known.slot)
        if mode is not None and mode.mode == _PROHIBITED:
            return f"its compute mode is prohibited: cnmon set -c {known.slot} -cm default"
        return ""

    def _incident(self, known: _Known) -> str:
        """Return what a card that is unhealthy says of itself, and the last XID that it told."""
        told = self._session.reading(
            "cndevCardHealthStateV2_t", "cndevGetCardHealthStateV2", known.slot
        )
        count = 0 if told is None else min(int(told.incident_count), len(told.incidents))
        texts = [
            " ".join(cndev.text_of(told.incidents[number].error.msg).split())
            for number in range(count)
            if told is not None
        ]
        xid = self._xids.get(known.slot)
        what = "; ".join(dict.fromkeys(text for text in texts if text)) or "its driver says so"
        if xid is not None:
            what += f" (XID 0x{xid:x})"
        return f"{what}: look at cnmon and the kernel's log; it is used again once it is well"

    def _read_events(self) -> None:
        """Take the XIDs since the last look, which say more of what is wrong.

        Without them each device still answers for itself: what fails is tried again at the next
        look. Raises CndevError at the session's end.
        """
        session = self._session
        if self._events_of != session.number:
            # The old session's went with it.
            self._events, self._events_of = None, session.number
            self._heard.clear()
            self._xids.clear()
            self._silent = False
        try:
            self._listen()
            for _ in range(_MOST_EVENTS if self._events is not None else 0):
                event = session.new("cndevEventData_t")
                session.call("cndevEventWait", self._events, event, _EVENT_WAIT_MS)
                if event.eventType == _XID:
                    self._xids[int(event.device)] = int(event.eventData)
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
            if error.code != cndev.TIMEOUT:
                self._silent = error.code in _NEVER
                self._forget_events()

    def _listen(self) -> None:
        """Ask for events of all devices, as far as they are not asked for. Raises CndevError."""
        session = self._session
        if self._events is None and not self._silent:
            made = cndev.ffi.new("cndevEventHandle *")
            session.call("cndevEventHandleCreate", made)
            self._events = made[0]
        for slot in (
            {known.slot for known in self._known} - self._heard if self._events is not None else ()
        ):
            try:
                session.call("cndevRegisterEvents", self._events, _XID, slot)
                self._heard.add(slot)
            except cndev.CndevError as error:
                if error.code in cndev.ENDED:
                    raise
                if error.code in _NEVER:
                    self._heard.add(slot)

    def _forget_events(self) -> None:
        if self._events is not None:
            with contextlib.suppress(cndev.CndevError):
                self._session.call("cndevEventHandleDestroy", self._events)
        self._events = None
        self._heard.clear()


def _all_apart(found: Sequence[_Known], more: Sequence[_Known]) -> None:
    """Raise ValueError for devices that cannot be told from each other."""
    uuids = {one.device.uuid for one in (*found, *more)}
    if len(uuids) < len(found) + len(more):
        raise ValueError("another device has the same UUID: update the driver")


def _share(percent: int) -> float | None:
    """Return a share of time; None for what is no percentage."""
    return percent / 100 if 0 <= percent <= 100 else None


def _named(uuid: str) -> str:
    return uuid if uuid.startswith("MLU-") else f"MLU-{uuid}"


def _uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of a UUID. Raises ValueError for another form."""
    try:
        value = bytes.fromhex(text.removeprefix("MLU-").replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != 16:
        raise ValueError(f"'{text}' is no UUID: update the driver")
    return value


def _loaded(name: str) -> str:
    """Return the file of the library that is loaded, by the name that it was opened by."""
    if "/" in name:
        return name
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if path.rpartition("/")[2].startswith(name):
                return f"/{path}"
    raise VendorError(f"{name} is not loaded any more: start the agent anew")
