"""What has to be asked of a driver, in a process of its own.

The command itself never loads a driver: a driver starts threads, opens devices and may hang or
crash. This file is run by its path, with the standard library only, and answers in JSON lines on
standard output.

    probe.py list VENDOR DRIVER         devices and version
    probe.py read VENDOR DRIVER DEVICE  holds a context; free bytes for each line of standard input
    probe.py hold VENDOR DRIVER DEVICE  holds a context until standard input ends
    probe.py check VENDOR SHIM [PATH…]  whether the vendor's library by its name, and every PATH, is
                                        SHIM, and it answers

VENDOR is nvidia, ascend or cambricon.
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

    soname = "libcuda.so.1"
    title = "a CUDA driver"

    def __init__(self, path: str) -> None:
        try:
            self.library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise _ProbeError(f"{path} cannot be loaded: {error}") from error
        self.path = path
        self.begin()

    def begin(self) -> None:
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - as C takes them
        try:
            function = getattr(self.library, name)
        except AttributeError as error:
            raise _ProbeError(f"{self.path} is not {self.title}: it has no {name}") from error
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
        return self.memory()[0]

    def memory(self) -> tuple[int, int]:
        """What is free and what there is of the current device, in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def release_context(self, index: int) -> None:
        self.call("cuDevicePrimaryCtxRelease_v2", self.device(index))

    def describe(self) -> dict[str, Any]:
        version, count = ctypes.c_int(), ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        self.call("cuDeviceGetCount", ctypes.byref(count))
        devices = [_describe(self, index) for index in range(count.value)]
        return {"version": version.value, "devices": devices}


class _Ascend(_Driver):
    """Ascend's runtime. It opens a device when it is set, which takes memory as a context does."""

    soname = "libruntime.so"
    title = "an Ascend runtime"

    def begin(self) -> None:
        self.count()

    def name_of(self, code: int) -> str:
        del code
        return "an error"

    def count(self) -> int:
        count = ctypes.c_int32()
        self.call("rtGetDeviceCount", ctypes.byref(count))
        return count.value

    def retain_context(self, index: int) -> None:
        self.call("rtSetDevice", ctypes.c_int32(index))

    def memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("rtMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def release_context(self, index: int) -> None:
        self.call("rtDeviceReset", ctypes.c_int32(index))

    def describe(self) -> dict[str, Any]:
        return {"version": 0, "devices": [self._describe(index) for index in range(self.count())]}

    def _describe(self, index: int) -> dict[str, Any]:
        uuid = ctypes.create_string_buffer(16)
        try:
            self.call("rtGetDeviceUuid", ctypes.c_int32(index), uuid)
        except _ProbeError as error:
            # By its place alone a slice would be held to the wrong device's cap.
            raise _ProbeError(f"{error}, without which its devices cannot be told apart") from error
        try:
            name_of = self.library.aclrtGetSocNameImpl
            name_of.restype = ctypes.c_char_p
            name = (name_of() or b"").decode(errors="replace")
        except AttributeError:
            name = ""
        # Only an open device tells its memory.
        self.retain_context(index)
        _, total = self.memory()
        self.release_context(index)
        return {
            "index": index,
            "name": name or "Ascend",
            "uuid": uuid.raw.hex(),
            "total_bytes": total,
            "page_bytes": 0,
        }


class _Cambricon(_Driver):
    """Cambricon's driver library."""

    soname = "libcndrv.so"
    title = "a Cambricon driver"

    def begin(self) -> None:
        self.call("cnInit", 0)

    def name_of(self, code: int) -> str:
        text = ctypes.c_char_p()
        try:
            known = self.library.cnGetErrorName(code, ctypes.byref(text)) == 0
        except AttributeError:
            known = False
        return text.value.decode(errors="replace") if known and text.value else "an error"

    def handle(self, index: int) -> ctypes.c_uint64:
        handle = ctypes.c_uint64()
        self.call("cnDeviceGet", ctypes.byref(handle), index)
        return handle

    def retain_context(self, index: int) -> None:
        context = ctypes.c_void_p()
        self.call("cnCtxCreate", ctypes.byref(context), 0, self.handle(index))
        self._context = context

    def memory(self) -> tuple[int, int]:
        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        self.call("cnMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def release_context(self, index: int) -> None:
        del index
        self.call("cnCtxDestroy", self._context)

    def describe(self) -> dict[str, Any]:
        count, parts = ctypes.c_int(), [ctypes.c_int() for _ in range(3)]
        self.call("cnGetDriverVersion", *(ctypes.byref(part) for part in parts))
        self.call("cnDeviceGetCount", ctypes.byref(count))
        major, minor, patch = (part.value for part in parts)
        return {
            "version": (major * 1000 + minor) * 1000 + patch,
            "devices": [self._describe(index) for index in range(count.value)],
        }

    def _describe(self, index: int) -> dict[str, Any]:
        handle = self.handle(index)
        name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
        total = ctypes.c_uint64()
        self.call("cnDeviceGetName", name, len(name), handle)
        self.call("cnDeviceGetUuid", uuid, handle)
        self.call("cnDeviceTotalMem", ctypes.byref(total), handle)
        return {
            "index": index,
            "name": name.value.decode(errors="replace"),
            "uuid": uuid.raw.hex(),
            "total_bytes": total.value,
            "page_bytes": 0,
        }


_DRIVERS = {"nvidia": _Driver, "ascend": _Ascend, "cambricon": _Cambricon}


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


def _list(vendor: str, path: str) -> None:
    _answer(_DRIVERS[vendor](path).describe())


def _read(vendor: str, path: str, index: str) -> None:
    driver = _DRIVERS[vendor](path)
    driver.retain_context(int(index))
    _answer({"ready": True})
    for _ in sys.stdin:
        _answer({"free_bytes": driver.free_bytes()})


def _hold(vendor: str, path: str, index: str) -> None:
    driver = _DRIVERS[vendor](path)
    driver.retain_context(int(index))
    _answer({"ready": True})
    sys.stdin.read()
    driver.release_context(int(index))


def _check(vendor: str, shim: str, paths: list[str]) -> None:
    for path in paths:
        if not os.path.samefile(path, shim):
            raise _ProbeError(f"{path} is not the shim")
    driver = _DRIVERS[vendor](_DRIVERS[vendor].soname)
    dlinfo = ctypes.CDLL(None).dlinfo
    found = ctypes.POINTER(_LinkMap)()
    handle = ctypes.c_void_p(driver.library._handle)  # noqa: SLF001 - there is no other way
    if dlinfo(handle, _RTLD_DI_LINKMAP, ctypes.byref(found)):
        raise _ProbeError("the loader does not say what it loaded")
    loaded = os.fsdecode(found.contents.l_name)
    if not os.path.samefile(loaded, shim):
        raise _ProbeError(f"{driver.soname} is {loaded}, not the shim")
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
            _check(rest[0], rest[1], rest[2:])
    except _ProbeError as error:
        _answer({"error": str(error)})
        return 1
    except OSError as error:
        _answer({"error": f"{error.filename}: {error.strerror}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
