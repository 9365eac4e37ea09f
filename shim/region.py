"""The region: the files ``grant`` and ``usage`` between one slice and whoever made it.

The layout is C's (csrc/region/region.h), reached through cffi. ``usage`` is written by the
processes of the slice and is hostile input here: it is copied by one read into a buffer of our own,
every index is clamped and every text is made printable. Sizes are bytes.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._region import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DEVICES: Final[int] = lib.ALIQUOT_MAX_DEVICES
MAX_SLOTS: Final[int] = lib.ALIQUOT_MAX_SLOTS
MAX_HOLDS: Final[int] = lib.ALIQUOT_MAX_HOLDS
MAX_WEIGHT: Final[int] = lib.ALIQUOT_MAX_WEIGHT
# Either way from 0.
MAX_PRIORITY: Final[int] = lib.ALIQUOT_MAX_PRIORITY
# Of work that may be under way at a time, unless it is said otherwise.
WINDOW_US: Final[int] = lib.ALIQUOT_WINDOW_US
# A name and the NUL that ends it.
MAX_NAME_BYTES: Final[int] = lib.ALIQUOT_NAME_BYTES - 1
# The FIFO beside them, where an agent shares out time. Whoever is in the container may ring,
# whatever its uid; only who made it listens.
BELL: Final = "bell"
_BELL_MODE: Final = 0o622
# Of the two files.
GRANT_BYTES: Final[int] = ffi.sizeof("struct aliquot_grant")
USAGE_BYTES: Final[int] = ffi.sizeof("struct aliquot_usage")

# What a gate can be, by the number in its word.
GATES: Final = {
    lib.ALIQUOT_GATE_FREE: "free",
    lib.ALIQUOT_GATE_OPEN: "open",
    lib.ALIQUOT_GATE_TURN: "turn",
    lib.ALIQUOT_GATE_CLOSED: "closed",
}

# The bits of a gate's word that say which.
_GATE_STATE: Final = 3

# No device has as much; it keeps the sum of a slice within 63 bits, whatever its files say.
_MOST_BYTES: Final = 1 << 53


class RegionError(Exception):
    """A region file cannot be used; the text says what is wrong with which file, in one line."""


@dataclass(frozen=True, slots=True)
class RegionDevice:
    """One device of a slice that is to be made.

    ``cap`` is None when memory is not limited; ``cores`` is the most that the slice may have of the
    device's time in percent, 1 to 100, ``cores_min`` what it is guaranteed; what is spare goes by
    ``weight``, and a higher ``priority`` goes first. ``shared``: an arbiter opens the gate; without
    one, launches wait for nothing but the slice's own ``cores``. ``by_driver`` says that the driver
    refuses at the cap, so that the shim must not. ``label`` is what the vendor calls the device, at
    most MAX_NAME_BYTES of UTF-8; without one it is called "GPU-" and its UUID.
    """

    uuid: bytes
    cap: int | None
    page_bytes: int
    context_bytes: int
    cores: int = 100
    by_driver: bool = False
    cores_min: int = 0
    weight: int = 100
    priority: int = 0
    shared: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class GrantedDevice:
    """What the slice may hold of one device.

    ``cap`` is None when memory is not limited; ``unclaimed`` are bytes seen on the device that no
    process has charged; ``context_bytes`` is 0 when the cost of a context is unknown. ``busy`` and
    ``memory_busy`` are shares of time from 0 to 1, None when nobody measured them. ``cores`` is the
    most that it may have of the device's time in percent, ``cores_min`` what it is guaranteed,
    ``gate`` what it may launch at the moment, one of ``GATES``, and ``label`` what the vendor calls
    the device, empty where nobody said it.
    """

    uuid: bytes
    cap: int | None
    unclaimed: int
    page_bytes: int
    context_bytes: int
    busy: float | None
    memory_busy: float | None
    cores: int
    by_driver: bool
    cores_min: int = 0
    weight: int = 100
    priority: int = 0
    gate: str = GATES[lib.ALIQUOT_GATE_FREE]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the slice is, as its maker wrote it."""

    name: str
    beat: int
    devices: tuple[GrantedDevice, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """One living process of the slice.

    ``pid`` is its number as it sees itself; ``charges`` are its bytes on each device of the grant.
    """

    slot: int
    pid: int
    command: str
    attached_unix_ns: int
    charges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UsedDevice:
    """What the slice made of one device: these figures outlive its processes.

    ``device_ns`` is the device time that its processes charged, ``wait_ns`` what their threads
    waited to launch, added up over ``waits``; ``let_through`` counts launches that passed a closed
    gate, since older work waited for them.
    """

    peak: int
    refusals: int
    device_ns: int = 0
    wait_ns: int = 0
    waits: int = 0
    let_through: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of the slice say that they hold."""

    devices: tuple[UsedDevice, ...]
    processes: tuple[Process, ...]
    unknown_functions: int
    lost_holds: int

    def charge(self, device: int) -> int:
        """Return the bytes that the living processes are charged on device ``device``."""
        return sum(process.charges[device] for process in self.processes)


def create(dirfd: int, name: str, devices: Sequence[RegionDevice]) -> None:
    """Make ``grant`` and ``usage`` in the open folder ``dirfd``, both or none.

    Raises OSError: FileExistsError when they are there, EINVAL for a name, page size or number of
    devices out of range, and what the file system says.
    """
    rows = ffi.new("struct aliquot_region_device[]", max(len(devices), 1))
    for row, device in zip(rows, devices, strict=False):
        row.uuid = device.uuid
        row.cap = lib.ALIQUOT_NO_CAP if device.cap is None else device.cap
        row.page_bytes = device.page_bytes
        row.context_bytes = device.context_bytes
        row.cores = device.cores
        row.enforcement = lib.ALIQUOT_BY_DRIVER if device.by_driver else lib.ALIQUOT_BY_SHIM
        row.cores_min = device.cores_min
        row.weight = device.weight
        row.priority = device.priority
        alone = lib.ALIQUOT_GATE_FREE if device.cores == 100 else lib.ALIQUOT_GATE_OPEN
        row.gate = lib.ALIQUOT_GATE_CLOSED if device.shared else alone
        row.label = device.label.encode()[:MAX_NAME_BYTES]
    error = lib.aliquot_region_create(dirfd, name.encode(), rows, len(devices))
    if error:
        raise OSError(-error, os.strerror(-error))


def create_bell(dirfd: int) -> None:
    """Make ``bell`` beside the files of a region. Raises OSError."""
    os.mkfifo(BELL, _BELL_MODE, dir_fd=dirfd)
    # The creation mode is cut by the umask.
    os.chmod(BELL, _BELL_MODE, dir_fd=dirfd)


def read_grant(fd: int, where: str) -> Grant:
    """Read the open file ``grant``; ``where`` names it in messages. Raises RegionError, OSError."""
    size = ffi.sizeof("struct aliquot_grant")
    data = os.pread(fd, size, 0)
    _refuse(lib.aliquot_grant_check(ffi.from_buffer(data), len(data)), where)
    grant = ffi.new("struct aliquot_grant *")
    ffi.memmove(grant, data, size)
    devices = tuple(
        GrantedDevice(
            uuid=bytes(row.uuid),
            cap=None if row.cap == lib.ALIQUOT_NO_CAP else row.cap,
            unclaimed=min(row.unclaimed, _MOST_BYTES),
            page_bytes=row.page_bytes,
            context_bytes=row.context_bytes,
            busy=_share(row.busy_permille),
            memory_busy=_share(row.memory_busy_permille),
            cores=row.cores,
            by_driver=row.enforcement == lib.ALIQUOT_BY_DRIVER,
            cores_min=row.cores_min,
            weight=row.weight,
            priority=row.priority,
            gate=_gate(row.gate),
            label=_text(row.label),
        )
        for row in grant.device[0 : grant.device_count]
    )
    return Grant(name=_text(grant.name), beat=grant.beat, devices=devices)


def read_gate(fd: int, device: int) -> str:
    """Return the gate of device number ``device`` in ``grant``, one of ``GATES``.

    Raises OSError.
    """
    offset, size = _word(("device", device, "gate"))
    return _gate(int.from_bytes(os.pread(fd, size, offset), "little"))


def _gate(word: int) -> str:
    return GATES[word & _GATE_STATE]


def write_readings(
    fd: int,
    device: int,
    *,
    unclaimed: int | None = None,
    busy: float | None = None,
    memory_busy: float | None = None,
) -> None:
    """Write what the agent saw of device number ``device`` into ``grant``, open for writing.

    ``unclaimed`` stays as it is when it is None; shares of time that are None are not known.
    Raises OSError.
    """
    if unclaimed is not None:
        claim = min(max(unclaimed, 0), _MOST_BYTES)
        _write_word(fd, "device", device, "unclaimed", value=claim)
    _write_word(fd, "device", device, "busy_permille", value=_permille(busy))
    _write_word(fd, "device", device, "memory_busy_permille", value=_permille(memory_busy))


def write_cap(fd: int, device: int, cap: int | None) -> None:
    """Write the cap of device number ``device``, bytes or None, into ``grant``, open for writing.

    Running processes keep to it from their next request on: what they hold beyond it stays theirs,
    and nothing more is given. Raises OSError.
    """
    _write_word(fd, "device", device, "cap", value=lib.ALIQUOT_NO_CAP if cap is None else cap)


def write_terms(
    fd: int,
    device: int,
    *,
    cores: int,
    cores_min: int,
    weight: int,
    priority: int,
) -> None:
    """Write into ``grant``, open for writing, what the slice has of device ``device``'s time.

    All are as RegionDevice says. Running processes keep to ``cores`` from when they next look,
    which arbiter.Runner.change has them do at once; the others are for people. Raises OSError.
    """
    _write_word(fd, "device", device, "cores", value=cores)
    _write_word(fd, "device", device, "cores_min", value=cores_min)
    _write_word(fd, "device", device, "weight", value=weight)
    _write_word(fd, "device", device, "priority", value=priority)


def _write_word(fd: int, *path: str | int, value: int) -> None:
    offset, size = _word(path)
    os.pwrite(fd, value.to_bytes(size, "little", signed=value < 0), offset)


@functools.cache
def _word(path: tuple[str | int, ...]) -> tuple[int, int]:
    """Return where the field of a grant lies that names and numbers lead to, and its size."""
    offset, kind = 0, ffi.typeof("struct aliquot_grant")
    for step in path:
        if isinstance(step, int):
            offset += ffi.sizeof(kind.item) * step
            kind = kind.item
        else:
            field = dict(kind.fields)[step]
            offset, kind = offset + field.offset, field.type
    return offset, ffi.sizeof(kind)


def _permille(share: float | None) -> int:
    return lib.ALIQUOT_UNKNOWN if share is None else round(min(max(share, 0.0), 1.0) * 1000)


def _share(permille: int) -> float | None:
    return None if permille > 1000 else permille / 1000


class _Scratch(threading.local):
    """Where a thread reads usage files to: to make so large a buffer costs more than to read."""

    def __init__(self) -> None:
        self.usage = ffi.new("struct aliquot_usage *")


_scratch = _Scratch()


def read_usage(fd: int, where: str, device_count: int) -> Usage:
    """Read the open file ``usage`` of a slice with ``device_count`` devices.

    Only processes that live are in the answer: a dead one owes nothing, even before its slot is
    cleared. Raises RegionError, OSError.
    """
    usage = _scratch.usage
    size = os.preadv(fd, [ffi.buffer(usage)], 0)
    # Behind what was read lies what was read before, of another slice: such a file is refused.
    _refuse(lib.aliquot_usage_check(usage, size), where)
    count = min(device_count, MAX_DEVICES)
    processes = tuple(
        _process(usage, slot, count)
        for slot in range(min(usage.high_water, MAX_SLOTS))
        if usage.slot[slot].pid and slot_alive(fd, slot)
    )
    devices = tuple(
        UsedDevice(
            peak=min(row.peak, _MOST_BYTES),
            refusals=row.refusals,
            device_ns=time.device_ns,
            wait_ns=time.wait_ns,
            waits=time.waits,
            let_through=time.let_through,
        )
        for row, time in zip(usage.device[0:count], usage.time[0:count], strict=True)
    )
    return Usage(devices, processes, usage.unknown_functions, usage.lost_holds)


def slot_alive(fd: int, slot: int) -> bool:
    """Say whether the process that owns ``slot`` of the open file ``usage`` lives."""
    answer = lib.aliquot_slot_alive(fd, slot)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return bool(answer)


def any_alive(fd: int) -> bool:
    """Say whether any process holds a slot of the open file ``usage``, whatever the file says."""
    return any(slot_alive(fd, slot) for slot in range(MAX_SLOTS))


def wait_for_end(fd: int) -> None:
    """Wait until no process holds a slot of the open file ``usage``; the kernel tells.

    Raises OSError.
    """
    # struct flock: a reader's lock on all slots is had once no owner has a writer's lock on any.
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, MAX_SLOTS, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, lock)


def printable(text: str) -> str:
    """Return ``text`` with what could move a terminal's cursor replaced by question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _refuse(wrong: Any, where: str) -> None:  # noqa: ANN401 - cffi's pointers have no type
    if wrong != ffi.NULL:
        raise RegionError(f"{where} {ffi.string(wrong).decode()}")


def _text(field: Any) -> str:  # noqa: ANN401 - cffi's arrays have no type
    return printable(ffi.string(field, len(field)).decode(errors="replace"))


def _process(usage: Any, slot: int, device_count: int) -> Process:  # noqa: ANN401 - as above
    row = usage.slot[slot]
    return Process(
        slot=slot,
        pid=row.pid,
        command=_text(row.command),
        attached_unix_ns=row.attached_unix_ns,
        charges=tuple(
            min(usage.charge[device][slot], _MOST_BYTES) for device in range(device_count)
        ),
    )
