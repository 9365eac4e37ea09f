"""Uses the driver of the future through LIBRARY; prints what it answered as JSON."""

from __future__ import annotations

import ctypes
import json
import os
import sys

_ASKED = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_uint64)
GET = ctypes.CFUNCTYPE(ctypes.c_int, *_ASKED, ctypes.POINTER(ctypes.c_int))


def main(library: str) -> int:
    """Ask by name and by cuGetProcAddress, and call what is found."""
    handle = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    get = GET(("cuGetProcAddress_v2", handle))
    answer: dict[str, object] = {"init": handle.cuInit(0)}
    version = ctypes.c_int()
    handle.cuDriverGetVersion(ctypes.byref(version))
    answer["version"] = version.value
    answer["has"] = {
        name: hasattr(handle, name)
        for name in ("cuFancyNew", "cuMemAlloc_v9", "cuTexRefCreate", "cuMemFree_v2")
    }
    answer["by_name"] = [handle.cuFancyNew(2), handle.cuFancyNew_ptsz(2)]
    pointer = ctypes.c_uint64()
    answer["alloc_v9"] = [handle.cuMemAlloc_v9(ctypes.byref(pointer), ctypes.c_size_t(77), None)]
    found = {}
    for name, asked, flags in (
        ("cuFancyNew", 99000, 0),
        ("cuFancyNew", 99000, 2),
        ("cuFancyNew", 13000, 0),
        ("cuMemAlloc", 99000, 0),
        ("cuMemAlloc", 12000, 0),
        ("cuGetProcAddress", 99000, 0),
        ("cuMemFree", 99000, 0),
    ):
        function, status = ctypes.c_void_p(), ctypes.c_int(-1)
        result = get(name.encode(), function, asked, flags, status)
        value = function.value
        exported = [
            symbol
            for symbol in ("cuFancyNew", "cuFancyNew_ptsz", "cuMemAlloc_v2", "cuMemAlloc_v9")
            if value and ctypes.cast(getattr(handle, symbol), ctypes.c_void_p).value == value
        ]
        found[f"{name} {asked} {flags}"] = [result, status.value, bool(value), exported]
        if value and name == "cuFancyNew":
            answer[f"called {flags}"] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(value)(2)
    answer["found"] = found
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
