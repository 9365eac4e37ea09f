"""Huawei's DCMI (``libdcmi.so``) through cffi: one session, and readings that may be lacking.

The library is the node's: it is loaded when it is needed, whatever its age. What it does not
export cannot be read, and is None. ABI: `_dcmi.cdef`.
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
    -8022: ("the partitioning does not match", "see the chip's templates ([ascend] templates)"),
    -8023: ("there is no such configuration", "see the chip's settings (npu-smi info)"),
    NOT_SUPPORTED: ("not supported by this device", "see the vendor's documentation"),
    MISSING: ("the library has no such function", "update the driver"),
    -99997: ("the library has been shut down", "restart the agent"),
}

# cffi's values have no types.
Value: TypeAlias = Any
_MOST_EVENTS: Final = 4096


def _declared() -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(resources.files(__package__).joinpath("_dcmi.cdef").read_text("utf-8"))
    return ffi


ffi: Final[Value] = _declared()


class DcmiError(Exception):
    """An error of the library; ``code`` is its number."""

    def __init__(self, function: str, code: int) -> None:
        """Take the function that answered it."""
        super().__init__(f"{function}: {describe(code)}")
        self.code = code


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
        self._subscribed: set[tuple[int, int]] = set()
        self._library = _load(root)
        if self.has("dcmi_init"):
            return
        if self.has("dcmiv2_init"):
            raise VendorError(
                f"{LIBRARY} is that of Ascend 950 or newer (dcmiv2), which has no vNPUs and is not "
                "supported yet: its devices are not used"
            )
        raise VendorError(
            f"{LIBRARY} has no dcmi_init: it is not Huawei's, or broken: reinstall it"
        )

    def has(self, *names: str) -> bool:
        """Whether the library exports all of these functions."""
        return all(_has(self._library, name) for name in names)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use the library, one thread at a time. Raises VendorError for a DcmiError inside."""
        with self._lock:
            try:
                if not self._begun:
                    self.call("dcmi_init")
                    self._begun = True
                yield
            except DcmiError as error:
                if error.code == NOT_READY:
                    # The driver may have been unloaded: the next use begins anew.
                    self._begun = False
                raise VendorError(f"Ascend's library answers: {error}") from error

    def call(self, name: str, *arguments: Value) -> None:
        """Call a function. Raises DcmiError."""
        if not self.has(name):
            raise DcmiError(name, MISSING)
        code = int(getattr(self._library, name)(*arguments))
        if code != OK:
            raise DcmiError(name, code)

    def reading(self, kind: str, name: str, *arguments: Value) -> Value | None:
        """Return what a function writes into its last argument, a value of the type ``kind``.

        None where device or library cannot tell. Raises DcmiError when nothing can be asked.
        """
        out = ffi.new(f"{kind} *")
        try:
            self.call(name, *arguments, out)
        except DcmiError as error:
            if error.code == NOT_READY:
                raise
            return None
        return out[0]

    def number(self, kind: str, name: str, *arguments: Value) -> int | None:
        """Return the whole number that a function writes, as ``reading`` does."""
        value = self.reading(kind, name, *arguments)
        return None if value is None else int(value)

    def subscribe(self, card: int, device: int) -> bool:
        """Have ``events`` tell of a device's faults from now on; says whether it will."""
        if (card, device) in self._subscribed:
            return True
        try:
            everything = ffi.new("struct dcmi_event_filter *")
            self.call("dcmi_subscribe_fault_event", card, device, everything[0], _on_event)
        except DcmiError:
            return False
        self._subscribed.add((card, device))
        return True


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
