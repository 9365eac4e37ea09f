"""What has to be asked of a CUDA driver, in a process of its own.

The command itself never loads a driver: a driver starts threads, opens devices and may hang or
crash. This file is run by its path, with the standard library only, and answers in JSON lines on
standard output.

    probe.py list DRIVER            devices and version
    probe.py read DRIVER DEVICE     holds a context; free bytes for each line on standard input
    probe.py hold DRIVER DEVICE     holds a context until standard input ends
    probe.py check SHIM [PATH…]     whether libcuda.so.1, and every PATH, is SHIM and cuInit answers
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_RTLD_DI_LINKMAP = 2
_GRANULARITY_MINIMUM = 0


class _ProbeError(Exception):
    """The driver cannot be asked; the text says why."""


class _LinkMap(ctypes.Structure):
    # The public part of struct link_map in <link.h>.
    _fields_ = (("l_addr", ctypes.c_size_t), ("l_name", ctypes.c_char_p))


class _Location(ctypes.Structure):
    # CUmemLocation: where memory lies; type 1 is a device.
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _AllocationProperties(ctypes.Structure):
    # CUmemAllocationProp: type 1 is pinned, the only one for device memory.
    _fields_ = (
        ("type", ctypes.c_int),
        ("requested_handle_types", ctypes.c_int),
        ("location", _Location),
        ("win32_meta_data", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Driver:
    """A loaded driver library. Every call that fails raises _ProbeError."""

    def __init__(self, path: str) -> None:
        try:
            self.library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise _ProbeError(f"{path} cannot be loaded: {error}") from error
        self.path = path
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - as C takes them
        try:
            function = getattr(self.library, name)
        except AttributeError as error:
            raise _ProbeError(f"{self.path} is not a CUDA driver: it has no {name}") from error
        code = function(*arguments)
        if code:
            raise _ProbeError(f"{name} answers {self.name_of(code)} ({code})")

    def name_of(self, code: int) -> str:
        text = ctypes.c_char_p()
        try:
            known = self.library.cuGetErrorName(code, ctypes.byref(text)) == 0
        except AttributeError:
            known = False
        return text.value.decode(errors="replace") if known and text.value else "an error"

    def device(self, index: int) -> int:
        handle = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), index)
        return handle.value

    def retain_context(self, index: int) -> None:
        """Make the device's primary context, as most programs do, and make it current."""
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device(index))
        self.call("cuCtxSetCurrent", context)

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value


def _describe(driver: _Driver, index: int) -> dict[str, Any]:
    device = driver.device(index)
    name = ctypes.create_string_buffer(256)
    driver.call("cuDeviceGetName", name, len(name), device)
    total = ctypes.c_size_t()
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    uuid = ctypes.create_string_buffer(16)
    # _v2 names the partition where the device is one of a MIG card (11.4 and newer).
    newer = hasattr(driver.library, "cuDeviceGetUuid_v2")
    driver.call("cuDeviceGetUuid_v2" if newer else "cuDeviceGetUuid", uuid, device)
    return {
        "index": index,
        "name": name.value.decode(errors="replace"),
        "uuid": uuid.raw.hex(),
        "total_bytes": total.value,
        "page_bytes": _page_bytes(driver, device),
    }


def _page_bytes(driver: _Driver, device: int) -> int:
    """Return the granularity of device memory, 0 where the driver cannot tell."""
    wanted = _AllocationProperties(type=1, location=_Location(type=1, id=device))
    size = ctypes.c_size_t()
    try:
        driver.call(
            "cuMemGetAllocationGranularity",
            ctypes.byref(size),
            ctypes.byref(wanted),
            _GRANULARITY_MINIMUM,
        )
    except _ProbeError:
        return 0
    return size.value


def _list(path: str) -> None:
    driver = _Driver(path)
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.call("cuDriverGetVersion", ctypes.byref(version))
    driver.call("cuDeviceGetCount", ctypes.byref(count))
    devices = [_describe(driver, index) for index in range(count.value)]
    _answer({"version": version.value, "devices": devices})


def _read(path: str, index: str) -> None:
    driver = _Driver(path)
    driver.retain_context(int(index))
    _answer({"ready": True})
    for _ in sys.stdin:
        _answer({"free_bytes": driver.free_bytes()})


def _hold(path: str, index: str) -> None:
    driver = _Driver(path)
    driver.retain_context(int(index))
    _answer({"ready": True})
    sys.stdin.read()
    driver.call("cuDevicePrimaryCtxRelease_v2", driver.device(int(index)))


def _check(shim: str, paths: list[str]) -> None:
    for path in paths:
        if not os.path.samefile(path, shim):
            raise _ProbeError(f"{path} is not the shim")
    driver = _Driver("libcuda.so.1")
    dlinfo = ctypes.CDLL(None).dlinfo
    found = ctypes.POINTER(_LinkMap)()
    handle = ctypes.c_void_p(driver.library._handle)  # noqa: SLF001 - there is no other way
    if dlinfo(handle, _RTLD_DI_LINKMAP, ctypes.byref(found)):
        raise _ProbeError("the loader does not say what it loaded")
    loaded = os.fsdecode(found.contents.l_name)
    if not os.path.samefile(loaded, shim):
        raise _ProbeError(f"libcuda.so.1 is {loaded}, not the shim")
    _answer({"loaded": loaded})


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main(arguments: list[str]) -> int:
    """Answer one question; the exit status says whether it could be answered."""
    what, *rest = arguments
    try:
        if what == "list":
            _list(*rest)
        elif what == "read":
            _read(*rest)
        elif what == "hold":
            _hold(*rest)
        else:
            _check(rest[0], rest[1:])
    except _ProbeError as error:
        _answer({"error": str(error)})
        return 1
    except OSError as error:
        _answer({"error": f"{error.filename}: {error.strerror}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
