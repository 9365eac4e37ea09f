"""Asks a driver library what it answers, in a process of its own.

Usage: ``probe_driver.py LIBRARY DRIVER REQUEST ANSWER``. LIBRARY is loaded; DRIVER is the file of
the real driver (the same one when there is no shim). REQUEST is JSON: ``symbols`` to look up with
dlsym, ``names``, ``versions`` and ``flags`` to ask cuGetProcAddress about. ANSWER is JSON:

* ``init``: what cuInit(0) answers
* ``symbols``: name -> place
* ``errors``: name -> what the loader says of its absence, or None
* ``v1``, ``v2``: per name, version and flags in order ``[result, status, place]``; status is
  absent (-1) in v1

A place is ``null`` or ``[which file, offset in it]``, where the file is "driver", "library" or
"elsewhere".
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import sys
from pathlib import Path

Place = tuple[str, int] | None

_POINTER = ctypes.POINTER(ctypes.c_void_p)
_ASKED = (ctypes.c_char_p, _POINTER, ctypes.c_int, ctypes.c_uint64)
GET_V1 = ctypes.CFUNCTYPE(ctypes.c_int, *_ASKED)
GET_V2 = ctypes.CFUNCTYPE(ctypes.c_int, *_ASKED, ctypes.POINTER(ctypes.c_int))


class Process:
    """The files mapped into this process, by their first address."""

    def __init__(self, library: Path, driver: Path) -> None:
        self.ranges: list[tuple[int, int, int, str]] = []
        files = {library.stat().st_ino: "library", driver.stat().st_ino: "driver"}
        base: dict[str, int] = {}
        end, name = 0, "elsewhere"
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, _, _, inode = line.split()[:5]
            before = end
            start, end = (int(part, 16) for part in span.split("-"))
            # What follows a file without a gap and without a file is its zeroed data.
            if inode != "0" or start != before:
                name = files.get(int(inode), "elsewhere")
            if name != "elsewhere":
                base.setdefault(name, start)
                self.ranges.append((start, end, base[name], name))

    def place(self, address: int | None) -> Place:
        """Where an address lies."""
        if not address:
            return None
        for start, end, base, name in self.ranges:
            if start <= address < end:
                return name, address - base
        return "elsewhere", address


def dlsym(handle: ctypes.CDLL, name: str) -> int | None:
    """Address of an exported name, or None."""
    function = ctypes.CDLL(None).dlsym
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    address: int | None = function(handle._handle, name.encode())
    return address


def missing(handle: ctypes.CDLL, name: str) -> str | None:
    """What the loader says when a name is looked up as ctypes does it, or None if it is there."""
    try:
        getattr(handle, name)
    except AttributeError as error:
        return str(error).rpartition(": ")[2]
    return None


def main(arguments: list[str]) -> int:
    """Write the answer; the exit status is 0 unless something could not be asked."""
    library, driver = Path(arguments[0]), Path(arguments[1])
    request = json.loads(Path(arguments[2]).read_text())
    handle = ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    process = Process(library, driver)
    answer: dict[str, object] = {}
    answer["symbols"] = {name: process.place(dlsym(handle, name)) for name in request["symbols"]}
    answer["errors"] = {name: missing(handle, name) for name in request["symbols"]}
    v1 = GET_V1(dlsym(handle, "cuGetProcAddress") or 0)
    v2 = GET_V2(dlsym(handle, "cuGetProcAddress_v2") or 0)
    answer["v1"], answer["v2"] = first, second = [], []
    asked = itertools.product(request["names"], request["versions"], request["flags"])
    for name, version, flags in asked:
        pointer, status = ctypes.c_void_p(), ctypes.c_int(-1)
        result = v1(name.encode(), pointer, version, flags)
        first.append([result, -1, process.place(pointer.value)])
        pointer = ctypes.c_void_p()
        result = v2(name.encode(), pointer, version, flags, status)
        second.append([result, status.value, process.place(pointer.value)])
    # A caller may leave the status out, ask for nothing, or set flags that nobody knows.
    pointer = ctypes.c_void_p()
    answer["odd"] = [
        v2(b"cuInit", pointer, 12000, 0, None),
        process.place(pointer.value),
        v1(b"", pointer, 0, 0),
        v2(b"", pointer, 0, 0, None),
        v1(b"cuInit", pointer, 12000, 4096),
        v2(b"cuInit", pointer, 12000, 4096, None),
    ]
    answer["init"] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)(dlsym(handle, "cuInit") or 0)(0)
    Path(arguments[3]).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
