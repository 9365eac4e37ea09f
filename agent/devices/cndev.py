"""Cambricon's management library (CNDev): one session, and readings that may be lacking.

ABI: version 6 of its structures, or 5 where the library is older (_cndev.cdef has what is used).
The library is the node's own and opened when it is first needed; a function that it lacks reads as
None, or is an error that says so.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from cffi import FFI

from . import VendorError

LIBRARY: Final = "libcndev.so"
# Versions of the interface that structures may name, the newest first.
VERSIONS: Final = (6, 5)

NO_DRIVER: Final = 1
LOW_DRIVER: Final = 2
UNSUPPORTED_VERSION: Final = 3
UNINITIALIZED: Final = 4
INVALID_ARGUMENT: Final = 5
INVALID_DEVICE: Final = 6
UNKNOWN: Final = 7
INSUFFICIENT_SPACE: Final = 9
NOT_SUPPORTED: Final = 10
NO_DEVICES: Final = 12
NO_PERMISSION: Final = 13
NOT_FOUND: Final = 14
IN_USE: Final = 15
TIMEOUT: Final = 17
# Not the library's: it has no such function.
MISSING: Final = -1

# The session has ended, whoever ended it.
ENDED: Final = frozenset({NO_DRIVER, UNINITIALIZED})
_TEXTS: Final = {
    NO_DRIVER: "no driver",
    LOW_DRIVER: "the driver's version is too low",
    UNSUPPORTED_VERSION: "the version of the interface is not supported",
    UNINITIALIZED: "not initialized",
    INVALID_ARGUMENT: "invalid argument",
    INVALID_DEVICE: "invalid device",
    UNKNOWN: "unknown error",
    8: "out of host memory",
    INSUFFICIENT_SPACE: "insufficient space",
    NOT_SUPPORTED: "not supported",
    11: "invalid link",
    NO_DEVICES: "no devices",
    NO_PERMISSION: "no permission",
    NOT_FOUND: "not found",
    IN_USE: "in use",
    16: "it exists already",
    TIMEOUT: "timeout",
    18: "the device has a problem",
}
_ADVICE: Final = {
    NO_DRIVER: "load it (modprobe cambricon-drv) or look at the kernel's log",
    LOW_DRIVER: "update the driver to that of this library",
    UNSUPPORTED_VERSION: (
        "the library is of another age than versions 5 and 6: update the driver, or Aliquot"
    ),
    8: "free memory on this node",
    INSUFFICIENT_SPACE: "release instances or ask for less of the device",
    NOT_SUPPORTED: "the driver or the device cannot do it: update the driver",
    NO_DEVICES: "look for them with lspci -d cabc: and at the kernel's log",
    NO_PERMISSION: "the agent must run as root",
    IN_USE: "end the programs that use it",
    TIMEOUT: "look at the kernel's log, and reset the device if it stays so",
    18: "look at cnmon and the kernel's log, and reset the device",
    MISSING: "update the driver",
}
# Where CNToolkit and driver packages put it, if the loader does not know.
_FOLDERS: Final = (
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/usr/local/neuware/lib64",
    "/usr/local/neuware/lib",
)
# Arrays grow while processes and instances come; this often, and no further than that.
_LIST_TRIES: Final = 8
_FIRST_ROOM: Final = 16
_MOST_ENTRIES: Final = 1 << 16

# A structure or pointer of cffi's, which brings no types.
Value: TypeAlias = Any
_Made = TypeVar("_Made")

ffi: Final[Any] = FFI()
ffi.cdef((resources.files(__package__) / "_cndev.cdef").read_text(encoding="utf-8"))


class CndevError(Exception):
    """A call that failed; ``code`` is the library's."""

    def __init__(self, code: int, text: str) -> None:
        """Take the library's own words."""
        super().__init__(text)
        self.code = code


def advice(code: int) -> str:
    """Return what to do about an error of the library; empty when that is not known."""
    return _ADVICE.get(code, "")


def described(what: str, error: CndevError) -> VendorError:
    """Return an error for people: what failed, in the library's words, and what to do."""
    text = f"{what}: {error}"
    return VendorError(f"{text}: {advice(error.code)}" if advice(error.code) else text)


def _line(text: bytes) -> str:
    told = text.decode("utf-8", "replace")
    return "".join(one if one.isprintable() else " " for one in told).strip()


def text_of(field: Value) -> str:
    """Return the text of one line in an array of bytes, which may fill it to the end."""
    return _line(bytes(ffi.buffer(field)).split(b"\0", 1)[0])


def candidates(environment: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """Return the names under which the library is looked for, in order.

    The loader's own search comes first (``LD_LIBRARY_PATH``, its cache), then ``NEUWARE_HOME`` and
    the folders of the vendor's packages. Before all comes what lies below a ``root`` that is not /.
    """
    home = environment.get("NEUWARE_HOME")
    folders = [*((f"{home}/lib64", f"{home}/lib") if home else ()), *_FOLDERS]
    own = [f"{folder}/{LIBRARY}" for folder in dict.fromkeys(folders)]
    if root == Path("/"):
        return (LIBRARY, *own)
    return (*(f"{root}{folder}/{LIBRARY}" for folder in _FOLDERS), LIBRARY, *own)


def _opened(environment: Mapping[str, str], root: Path) -> tuple[Any, str]:
    """Open the library. Raises VendorError with what the loader said of the first that is there."""
    said = ""
    for name in candidates(environment, root):
        if "/" in name and not Path(name).exists():
            continue
        try:
            return ffi.dlopen(name), name
        except OSError as error:
            said = said if said and "/" not in name else str(error)
    raise VendorError(
        f"{LIBRARY} cannot be loaded ({said}): install Cambricon's driver, or name its folder in "
        "LD_LIBRARY_PATH"
    )


class Session:
    """A session with the library: opened when it is needed, and again when it was lost.

    ``number`` counts the sessions; ``version`` is that of the structures which the library takes.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """Load the library. Raises VendorError when it is not there or none."""
        self._library, self.path = _opened(os.environ, root)
        self.number = 0
        self.version = VERSIONS[0]
        self._open = False
        self._lock = threading.RLock()
        self._functions: dict[str, Any] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use the library, one thread at a time.

        Raises VendorError for a CndevError inside. When the session has ended the next use begins
        another.
        """
        with self._lock:
            try:
                if not self._open:
                    self.call("cndevInit", 0)
                    self._open = True
                    self.number += 1
                    self._agree()
                yield
            except CndevError as error:
                if error.code in ENDED:
                    self.end()
                raise described("Cambricon's management library answers", error) from error

    def _agree(self) -> None:
        """Find the version of structures that the library takes. Raises CndevError."""
        for self.version in VERSIONS:
            try:
                self.read("cndevCardInfo_t", "cndevGetDeviceCount")
            except CndevError as error:
                if error.code != UNSUPPORTED_VERSION:
                    # Not before it is known is anything asked in this session.
                    self.end()
                    raise
                refused = error
            else:
                return
        self.end()
        raise refused

    def end(self) -> None:
        """End the session, as far as the library lets us."""
        with self._lock:
            if self._open:
                self._open = False
                with contextlib.suppress(CndevError):
                    self.call("cndevRelease")

    def has(self, *names: str) -> bool:
        """Whether the library has all of these functions."""
        return all(self._function(name) is not None for name in names)

    def _function(self, name: str) -> Any:  # noqa: ANN401 - a function of C
        if name not in self._functions:
            # cffi looks a symbol up when it is first asked for.
            self._functions[name] = getattr(self._library, name, None)
        return self._functions[name]

    # -- calls: in a held session --

    def number_of(self, name: str, *arguments: Value) -> int | None:
        """Call a function that answers a number; None when the library lacks it."""
        function = self._function(name)
        try:
            return None if function is None else int(function(*arguments))
        except OverflowError:
            # A number that the library itself has told may be none that it takes.
            return INVALID_ARGUMENT

    def string_of(self, name: str, *arguments: Value) -> str | None:
        """Call a function that answers a text; None when the library lacks it or has none."""
        function = self._function(name)
        found = ffi.NULL if function is None else function(*arguments)
        return _line(ffi.string(found, 256)) if found else None

    def call(self, name: str, *arguments: Value) -> None:
        """Call a function. Raises CndevError, also when the library lacks it."""
        code = self.number_of(name, *arguments)
        if code is None:
            raise self._lacking(name)
        if code:
            raise CndevError(code, f"{name}: {self._words(code)} ({code})")

    def _lacking(self, name: str) -> CndevError:
        return CndevError(MISSING, f"{name} is not in {self.path}, which is older")

    def _words(self, code: int) -> str:
        if code in _TEXTS:
            return _TEXTS[code]
        # (Never for codes that we know: what the library says of them differs by its age.)
        said = self.string_of("cndevGetErrorString", code) or "an error that it does not explain"
        return " ".join(said.split())

    def new(self, kind: str) -> Value:
        """Return a structure of zeros that names its version, if it has one."""
        made = ffi.new(f"{kind} *")
        if any(name == "version" for name, _ in ffi.typeof(kind).fields):
            made.version = self.version
        return made

    def read(self, kind: str, name: str, *arguments: Value) -> Value:
        """Return a structure that a function fills. Raises CndevError."""
        made = self.new(kind)
        self.call(name, made, *arguments)
        return made

    def reading(self, kind: str, name: str, *arguments: Value) -> Value | None:
        """Return a structure that a function fills, None where the device or library cannot tell.

        Raises CndevError when the session has ended.
        """
        try:
            return self.read(kind, name, *arguments)
        except CndevError as error:
            if error.code in ENDED:
                raise
            return None

    def listed(
        self, kind: str, name: str, device: int, make: Callable[[Value], _Made]
    ) -> list[_Made]:
        """Return what ``make`` makes of each row that a function lists. Raises CndevError.

        The array gets as much room as the library wants, _MOST_ENTRIES at most; rows live only
        while they are made of.
        """
        function = self._function(name)
        if function is None:
            raise self._lacking(name)
        counts = ffi.typeof(function).args[0]
        room = _FIRST_ROOM
        for _ in range(_LIST_TRIES):
            rows = ffi.new(f"{kind}[]", room)
            # (In arrays the first element speaks for all.)
            rows[0].version = self.version
            count = ffi.new(counts, room)
            try:
                self.call(name, count, rows, device)
            except CndevError as error:
                if error.code != INSUFFICIENT_SPACE:
                    raise
            else:
                # (One of more rows than there was room for is no list either.)
                if int(count[0]) <= room:
                    return [make(rows[row]) for row in range(max(int(count[0]), 0))]
            if room == _MOST_ENTRIES or int(count[0]) > _MOST_ENTRIES:
                break
            room = min(max(room * 2, int(count[0])), _MOST_ENTRIES)
        raise CndevError(INSUFFICIENT_SPACE, f"{name}: its list grows without end")
