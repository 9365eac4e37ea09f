"""Let a shim need libc.so.6 alone: what it asks of libpthread, it asks of libc.

Usage: ``one_libc.py LIBRARY``; changes the file. Runs at build time.

glibc 2.34 made one library of the two, and later systems need not have the other's file. Before
it the functions are found all the same: the driver behind the shim brings libpthread along, and a
symbol is looked up by its name and version, whichever library has it (``_dl_check_map_versions``
looks only whether libc.so.6 knows the version, as it always has). Elf64, little-endian.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_DYNAMIC, _LOAD = 2, 1
_NULL, _NEEDED, _STRTAB, _VERNEED, _VERNEEDNUM = 0, 1, 5, 0x6FFFFFFE, 0x6FFFFFFF
_ENTRY = struct.Struct("<qQ")


class _Elf:
    def __init__(self, data: bytearray) -> None:
        self.data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        start, size, count = (
            *struct.unpack_from("<Q", data, 32),
            *struct.unpack_from("<HH", data, 54),
        )
        parts = [struct.unpack_from("<IIQQQQ", data, start + n * size) for n in range(count)]
        self._loads: list[tuple[int, ...]] = [part for part in parts if part[0] == _LOAD]
        (dynamic,) = (part for part in parts if part[0] == _DYNAMIC)
        self.dynamic, self.count = dynamic[2], dynamic[5] // _ENTRY.size
        self.strings = self.offset(self.value(_STRTAB))

    def offset(self, address: int) -> int:
        """Return where in the file an address lies."""
        for _, _, offset, start, _, size in self._loads:
            if start <= address < start + size:
                return offset + address - start
        raise ValueError(f"address {address:#x} is not in the file")

    def entries(self) -> list[tuple[int, int]]:
        """Return the dynamic section up to its end."""
        found = []
        for n in range(self.count):
            entry = _ENTRY.unpack_from(self.data, self.dynamic + n * _ENTRY.size)
            if entry[0] == _NULL:
                break
            found.append(entry)
        return found

    def value(self, tag: int) -> int:
        """Return the value of an entry that is there once."""
        (found,) = (entry for entry in self.entries() if entry[0] == tag)
        return found[1]

    def string(self, offset: int) -> bytes:
        """Return a text of the dynamic strings."""
        start = self.strings + offset
        return bytes(self.data[start : self.data.index(0, start)])


def rewrite(data: bytearray) -> None:
    """Change the file's content. Raises ValueError where it is not as expected."""
    elf = _Elf(data)
    entries = elf.entries()
    names = {elf.string(value): value for tag, value in entries if tag == _NEEDED}
    if b"libpthread.so.0" not in names:
        return
    old, new = names[b"libpthread.so.0"], names[b"libc.so.6"]
    kept = [entry for entry in entries if entry != (_NEEDED, old)]
    for n, entry in enumerate([*kept, (_NULL, 0)]):
        _ENTRY.pack_into(data, elf.dynamic + n * _ENTRY.size, *entry)
    at = elf.offset(elf.value(_VERNEED))
    for _ in range(elf.value(_VERNEEDNUM)):
        _, _, file, _, following = struct.unpack_from("<HHIII", data, at)
        if file == old:
            struct.pack_into("<I", data, at + 4, new)
        at += following


def main(arguments: list[str]) -> int:
    """Change one file; answers the exit status."""
    if len(arguments) != 1:
        print("usage: one_libc.py LIBRARY", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    data = bytearray(path.read_bytes())
    try:
        rewrite(data)
    except ValueError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
