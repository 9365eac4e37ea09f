"""Huawei's DCMI (``libdcmi.so``) through cffi: one session, and readings that may be lacking.

The library is the node's: it is loaded when it is needed, whatever its age. What it does not
export cannot be read, and is None. ABI: `_dcmi.cdef`.

The library of Ascend 950 and newer has other functions (``dcmiv2_…``), for a device's number in
place of its card and its place there. They are called by the names of the older ones.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

import cffi

from . import VendorError

LIBRARY: Final = "libdcmi.so"
# Where the driver's installer puts it, below the driver's root.
FOLDERS: Final = (
    "usr/local/dcmi",
    "usr/local/Ascend/driver/lib64/driver",
    "usr/local/Ascend/driver/lib64/common",
    "usr/local/Ascend/driver/lib64",
)

OK: Final = 0
PARAMETER: Final = -8001
PERMISSION: Final = -8002
INVALID_ID: Final = -8007
ABSENT: Final = -8008
NOT_READY: Final = -8012
OCCUPIED: Final = -8020
MISMATCH: Final = -8022
NOT_SUPPORTED: Final = -8255
# Of those who load the library, for a function that it lacks.
MISSING: Final = -99998

_ERRORS: Final = {
    PARAMETER: ("a parameter is wrong", "update the driver, or report this"),
    PERMISSION: ("not permitted", "the agent must run as root"),
    -8003: ("a memory operation failed", "see the node's memory"),
    -8004: ("a secure function failed", "see the driver's log (/var/log/npu)"),
    -8005: ("internal error", "see the driver's log (/var/log/npu)"),
    -8006: ("timeout", "see whether the device hangs (npu-smi info)"),
    INVALID_ID: ("there is no such device", "see npu-smi info"),
    ABSENT: ("the device is not there", "see its slot, or reset it"),
    -8009: ("the driver refused (ioctl)", "see the kernel's log"),
    -8010: ("sending to the device failed", "reset the device"),
    -8011: ("the device did not answer", "reset the device"),
    NOT_READY: ("the device is not ready", "load the driver, or wait until the device has started"),
    -8013: ("not supported in a container", "run the agent on the host"),
    -8014: ("a file operation failed", "see the driver's files and the disk"),
    -8015: ("the reset failed", "power the node off and on"),
    -8016: ("the reset was cancelled", "end the processes on the device first"),
    -8017: ("an upgrade is going on", "wait for its end"),
    OCCUPIED: ("what is asked for is occupied", "end who uses it (npu-smi info)"),
    MISMATCH: ("the partitioning does not match", "see the chip's templates ([ascend] templates)"),
    -8023: ("there is no such configuration", "see the chip's settings (npu-smi info)"),
    NOT_SUPPORTED: ("not supported by this device", "see the vendor's documentation"),
    MISSING: ("the library has no such function", "update the driver"),
    -99997: ("the library has been shut down", "restart the agent"),
}

# What the newer generation calls a function; first the driver's own name. Others differ by the
# prefix alone.
_NEWER: Final = {
    "dcmi_get_device_die_v2": ("dcmiv2_get_device_die_id", "dcmiv2_get_device_die"),
    "dcmi_get_device_chip_info_v2": ("dcmiv2_get_device_chip_info",),
    "dcmi_get_device_pcie_info_v2": ("dcmiv2_get_device_pcie_info",),
    "dcmi_get_device_errorcode_v2": (
        "dcmiv2_get_device_error_code_list",
        "dcmiv2_get_device_errorcode",
    ),
    "dcmi_get_device_resource_info": (
        "dcmiv2_get_device_proc_mem_info",
        "dcmiv2_get_device_resource_info",
    ),
    "dcmi_get_device_phyid_from_logicid": (
        "dcmiv2_get_chip_phy_id_by_dev_id",
        "dcmiv2_get_chip_phyid_from_dev_id",
    ),
    "dcmi_get_affinity_cpu_info_by_device_id": ("dcmiv2_get_affinity_cpu_info_by_dev_id",),
}

_NEWER_LIST: Final = "dcmi_get_device_list"
_LISTS: Final = ("dcmi_get_card_list", "dcmi_get_card_num_list")
# What is of no device: not ready is the driver itself then.
_OF_ALL: Final = frozenset({"dcmi_init", _NEWER_LIST, *_LISTS})

# cffi's values have no types.
Value: TypeAlias = Any
_MOST_CARDS: Final = 64
_MOST_EVENTS: Final = 4096
_MOST_STANDING: Final = 128
_MOST_CODES: Final = 128


def _declared() -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(resources.files(__package__).joinpath("_dcmi.cdef").read_text("utf-8"))
    return ffi


ffi: Final[Value] = _declared()


class DcmiError(Exception):
    """An error of the library; ``code`` is its number.

    ``over``: there is no driver any more, or not yet, and nothing can be asked.
    """

    def __init__(self, function: str, code: int, *, over: bool = False) -> None:
        """Take the function that answered it."""
        super().__init__(f"{function}: {describe(code)}")
        self.code = code
        self.over = over


def describe(code: int) -> str:
    """Return what an error of the library means and what to do, with its number."""
    what, advice = _ERRORS.get(code, ("an error that is not documented", "see the driver's log"))
    return f"{what} ({code}): {advice}"


@dataclass(frozen=True, slots=True)
class Event:
    """A fault that came (or is over): its code, and how bad it is, 0 (a notice) to 3 (critical)."""

    device: int
    code: int
    severity: int
    came: bool


# Called by the library in a thread of its own for as long as the process lives: a subscription
# cannot be taken back. So it is one for all, and never goes.
_events: Final[collections.deque[Event]] = collections.deque(maxlen=_MOST_EVENTS)


@ffi.callback("void(struct dcmi_event *)")  # type: ignore[untyped-decorator, unused-ignore]
def _on_event(event: Value) -> None:
    told = event.event_t.dms_event
    if event.type == 0:
        # 0 is over, 1 has come, 2 is a notice without an end.
        came = int(told.assertion) != 0
        _events.append(Event(int(told.deviceid), int(told.event_id), int(told.severity), came))


def events() -> list[Event]:
    """Return the events since the last call, the oldest first; a device is its physical id."""
    found: list[Event] = []
    with contextlib.suppress(IndexError):
        while True:
            found.append(_events.popleft())
    return found


class Session:
    """The library, loaded once; one thread uses it at a time."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Load it. Raises VendorError when it is not there, or none that is known."""
        self._lock = threading.RLock()
        self._begun = False
        self._subscribed: set[tuple[int, ...]] = set()
        self._library = _load(root)
        self._newer = False
        older, newer = (_has(self._library, f"dcmi{v}_init") for v in ("", "v2"))
        if not older and not newer:
            raise VendorError(
                f"{LIBRARY} has no dcmi_init: it is not Huawei's, or broken: reinstall it"
            )
        self._older = older
        # Not until it is used: a driver that is not ready may be later.
        self._may_be_newer = newer

    @property
    def newer(self) -> bool:
        """Whether devices are those of Ascend 950 or newer; known once the library is used."""
        return self._newer

    def has(self, *names: str) -> bool:
        """Whether the library has all of these functions."""
        return all(self._named(name) for name in names)

    def _named(self, name: str) -> str:
        """Return what the library calls a function, "" when it has none."""
        names: tuple[str, ...] = (name,)
        if self._newer:
            names = _NEWER.get(name, ("dcmiv2_" + name.removeprefix("dcmi_"),))
        return next((one for one in names if _has(self._library, one)), "")

    def _begin(self) -> None:
        """Initialise it, as what its devices are. Raises DcmiError.

        A library may have the functions of both generations: those of the newer one answer for its
        devices alone.
        """
        if self._may_be_newer:
            self._newer = True
            try:
                self.call("dcmi_init")
                self.listed()
                return  # noqa: TRY300 - what follows is for those that have not answered
            except DcmiError:
                if not self._older:
                    raise
        self._newer = False
        self.call("dcmi_init")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use the library, one thread at a time. Raises VendorError for a DcmiError inside."""
        with self._lock:
            try:
                if not self._begun:
                    self._begin()
                    self._begun = True
                yield
            except DcmiError as error:
                if error.over:
                    # The driver may have been unloaded, and its subscriptions with it: the next use
                    # begins anew.
                    self._begun = False
                    self._subscribed.clear()
                raise VendorError(f"Ascend's library answers: {error}") from error

    def call(self, name: str, *arguments: Value) -> None:
        """Call a function. Raises DcmiError."""
        known = self._named(name)
        if not known:
            raise DcmiError(name, MISSING)
        try:
            code = int(getattr(self._library, known)(*arguments))
        except OverflowError:
            # A number that the library itself has told may be none that it takes.
            code = PARAMETER
        if code != OK:
            over = code == NOT_READY and (name in _OF_ALL or not self._answers())
            raise DcmiError(known, code, over=over)

    def _answers(self) -> bool:
        """Whether there is a driver: else not a device alone is what is not ready."""
        try:
            self.listed()
        except DcmiError:
            return False
        return True

    def listed(self) -> list[int]:
        """Return the cards' numbers, or those of the newer generation's devices.

        Raises DcmiError.
        """
        count = ffi.new("int *")
        numbers = ffi.new(f"int[{_MOST_CARDS}]")
        if self._newer:
            self.call(_NEWER_LIST, numbers, count, _MOST_CARDS)
        else:
            # (Older libraries have the one name, newer ones both.)
            name = next((one for one in _LISTS if self.has(one)), _LISTS[0])
            self.call(name, count, numbers, _MOST_CARDS)
        return [int(number) for number in numbers[0 : min(max(int(count[0]), 0), _MOST_CARDS)]]

    def reading(self, kind: str, name: str, *arguments: Value) -> Value | None:
        """Return what a function writes into its last argument, a value of the type ``kind``.

        None where device or library cannot tell. Raises DcmiError when nothing can be asked.
        """
        out = ffi.new(f"{kind} *")
        try:
            self.call(name, *arguments, out)
        except DcmiError as error:
            if error.over:
                raise
            return None
        return out[0]

    def number(self, kind: str, name: str, *arguments: Value) -> int | None:
        """Return the whole number that a function writes, as ``reading`` does."""
        value = self.reading(kind, name, *arguments)
        return None if value is None else int(value)

    def subscribe(self, at: tuple[int, ...]) -> bool:
        """Have ``events`` tell of a device's faults from now on; says whether it will."""
        if at in self._subscribed:
            return True
        try:
            everything = ffi.new("struct dcmi_event_filter *")
            self.call("dcmi_subscribe_fault_event", *at, everything[0], _on_event)
        except DcmiError:
            return False
        self._subscribed.add(at)
        return True

    def standing(self, at: tuple[int, ...]) -> dict[int, int | None] | None:
        """Return the faults that stand on a device, by code, and how bad each is.

        None where how bad it is cannot be told; None for all where none of it can. Raises DcmiError
        when nothing can be asked.
        """
        count = ffi.new("int *")
        told = ffi.new(f"struct dcmi_event[{_MOST_STANDING}]")
        codes = ffi.new(f"unsigned int[{_MOST_CODES}]")
        found: dict[int, int | None] = {}
        try:
            self.call("dcmi_get_device_errorcode_v2", *at, count, codes, _MOST_CODES)
            for code in codes[0 : min(max(int(count[0]), 0), _MOST_CODES)]:
                found[int(code)] = None
        except DcmiError as error:
            if error.over:
                raise
            return None
        if found:
            with contextlib.suppress(DcmiError):
                self.call("dcmi_get_device_current_fault_event", *at, told, _MOST_STANDING, count)
                for event in told[0 : min(max(int(count[0]), 0), _MOST_STANDING)]:
                    dms = event.event_t.dms_event
                    if event.type == 0 and dms.event_id in found:
                        found[int(dms.event_id)] = int(dms.severity)
        return found


def _load(root: Path) -> Value:
    """Load the library: of a root of the driver's own, else where the loader finds it."""
    places = [str(root / folder / LIBRARY) for folder in FOLDERS]
    order = [LIBRARY, *places] if root == Path("/") else [*places, LIBRARY]
    reasons: list[str] = []
    for place in order:
        if "/" in place and not os.path.lexists(place):
            continue
        try:
            return ffi.dlopen(place)
        except OSError as error:
            reasons.append(_reason(error))
    looked = ", ".join(f"{root / folder}" for folder in FOLDERS)
    raise VendorError(
        f"{LIBRARY} cannot be loaded ({'; '.join(dict.fromkeys(reasons))}; looked in {looked}): "
        "install Ascend's driver, or name its folder in LD_LIBRARY_PATH"
    )


def _reason(error: OSError) -> str:
    return " ".join(str(error).split()).partition(".  Additionally")[0]


def _has(library: Value, name: str) -> bool:
    try:
        getattr(library, name)
    except AttributeError:
        return False
    return True


def text_of(field: Sequence[int] | Value) -> str:
    """Return the text of one line in a field of fixed size, which need not have its end."""
    text = bytes(ffi.buffer(field)).partition(b"\0")[0].decode("utf-8", errors="replace")
    return "".join(one if one.isprintable() else " " for one in text).strip()
