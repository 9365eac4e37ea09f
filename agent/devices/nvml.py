"""NVIDIA's management library (NVML) through pynvml: one session, and readings that may be lacking.

ABI: nvml.h 13.5. pynvml loads ``libnvidia-ml.so.1`` once per process and never lets go of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import pynvml

from . import VendorError

LIBRARY: Final = "libnvidia-ml.so.1"
NO_LIMIT: Final = 0xFFFFFFFFFFFFFFFF
# A device that gives one of these is no use until it was reset, and can only answer again after.
RESET_NEEDED: Final = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})

# The session has ended, whoever ended it: the driver was unloaded, or the library shut down.
ENDED: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
# What an ended session says of the driver: it was unloaded, and with that every device reset.
_RELOADED: Final = frozenset(
    {pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}
)
_ADVICE: Final = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load it (modprobe nvidia) or look at the kernel's log",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver was updated: restart the agent, and the node if the kernel has the old module"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "the agent must run as root",
}

# What pynvml raises besides, for answers that it cannot read: texts that are none, numbers of rows
# that are not there, structures of another size.
UNREADABLE: Final = (
    UnicodeDecodeError,
    IndexError,
    OverflowError,
    MemoryError,
    pynvml.NVMLLibraryMismatchError,
)

# pynvml's own types, which bring no declarations.
Handle: TypeAlias = Any
Event: TypeAlias = Any

_Value = TypeVar("_Value")


class SetMemoryLimits(ctypes.Structure):
    """nvmlSetMemoryLimits_v1_t (nvml.h 13.5), which older pynvml do not know."""

    _fields_ = (
        ("name_space", ctypes.c_char_p),
        ("soft_limit", ctypes.c_ulonglong),
        ("hard_limit", ctypes.c_ulonglong),
    )


def describe(error: Exception) -> str:
    """Return an error of pynvml as NVIDIA words it, with its number."""
    if not isinstance(error, pynvml.NVMLError):
        return f"{type(error).__name__}: {error}"
    return f"{str(error).rstrip('.')} ({error.value})"


def code_of(error: Exception) -> int:
    """Return NVML's number of an error."""
    return int(getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN))


def reading(function: Callable[..., _Value], *arguments: Any) -> _Value | None:  # noqa: ANN401
    """Return what ``function`` answers, None where the device or library cannot tell.

    Raises pynvml.NVMLError when the session has ended.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if code_of(error) in ENDED:
            raise
        return None
    except UNREADABLE:
        return None


def newer(name: str) -> Callable[..., Any]:
    """Return a function of newer releases of pynvml; without it, one that answers None."""
    return getattr(pynvml, name, lambda *_: None)


def function(name: str) -> Any:  # noqa: ANN401 - a function of C
    """Return a function that pynvml may not know, None when the library has none."""
    return getattr(pynvml.nvmlLib, name, None)


def address(handle: Handle) -> int:
    """Return a device handle as a number, by which two can be compared."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


class Session:
    """A session with the library: opened when it is needed, and again when it was lost.

    ``number`` counts the sessions; ``reloads`` those that ended with the driver unloaded.
    """

    def __init__(self) -> None:
        """Load the library. Raises VendorError when it is not there or none."""
        try:
            # Held by pynvml too; loaded here first because it does not say why it cannot.
            ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise VendorError(
                f"{LIBRARY} cannot be loaded ({error}): install NVIDIA's driver, or name its "
                "folder in LD_LIBRARY_PATH"
            ) from error
        self.number = 0
        self.reloads = 0
        self._open = False
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use the library, one thread at a time.

        Raises VendorError for what pynvml raises inside. When the session has ended the next use
        begins another.
        """
        with self._lock:
            try:
                if not self._open:
                    pynvml.nvmlInit()
                    self._open = True
                    self.number += 1
                yield
            except pynvml.NVMLError as error:
                code = code_of(error)
                if code in ENDED:
                    self.reloads += code in _RELOADED
                    self.end()
                advice = _ADVICE.get(code)
                text = f"NVIDIA's management library answers: {describe(error)}"
                raise VendorError(f"{text}: {advice}" if advice else text) from error

    def end(self) -> None:
        """End the session, as far as the library lets us."""
        with self._lock:
            if self._open:
                self._open = False
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
