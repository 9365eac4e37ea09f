"""glibc's loader cache (/etc/ld.so.cache): read from an image, and written with the driver in it.

The format is that of glibc's dl-cache.h: an optional old part, then a header, entries sorted as the
loader searches them, strings, and an extension with the names of hardware variants. A cache from an
image is hostile input: whatever is wrong with it is an EditError.
"""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .errors import EditError

MOST_BYTES: Final = 16 << 20

_OLD_MAGIC: Final = b"ld.so-1.7.0\0"
_OLD_HEADER: Final = struct.Struct("<12sI")
_OLD_ENTRY_BYTES: Final = 12
_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER: Final = struct.Struct("<20sIIB3xI12x")
_ENTRY: Final = struct.Struct("<iIIIQ")
_EXTENSION: Final = struct.Struct("<II")
_SECTION: Final = struct.Struct("<IIII")
_EXTENSION_MAGIC: Final = 0xEAA42174
_HWCAPS_TAG: Final = 1
_LITTLE_ENDIAN: Final = 2
_BIG_ENDIAN: Final = 3
# The upper half of a hardware mask whose lower half is the number of a variant.
_HWCAP_EXTENSION: Final = 1 << 30
_MOST_LIBRARIES: Final = 1 << 15
_MOST_VARIANTS: Final = 64
# Entries may share text, so that a small file could stand for very much of it.
_MOST_TEXT_BYTES: Final = 8 << 20
_MOST_STRING_BYTES: Final = 4096
_TOKEN: Final = re.compile(rb"[0-9]+|[^0-9]", re.DOTALL)
# What the loader of a machine's usual ABI looks for: FLAG_ELF_LIBC6 and the ABI.
FLAGS: Final = {"x86_64": 0x0303, "aarch64": 0x0A03}


@dataclass(frozen=True, slots=True)
class Entry:
    """A library of the cache: by which name, for which ABI and variant of hardware, in which file.

    ``variant`` names a folder of glibc-hwcaps, empty for none; ``hwcap`` is the older bit mask.
    """

    name: bytes
    path: bytes
    flags: int
    hwcap: int = 0
    variant: bytes = b""


def own_flags() -> int:
    """Return the flags of a library of this machine's usual ABI."""
    return FLAGS.get(platform.machine(), FLAGS["x86_64"])


def read(data: bytes) -> list[Entry]:
    """Read a cache. Raises EditError when it is not one."""
    base = _new_part(data)
    try:
        _, count, _, flags, extension = _HEADER.unpack_from(data, base)
        if flags & 3 == _BIG_ENDIAN:
            raise EditError("the loader's cache is of a machine with another order of bytes")
        if count > _MOST_LIBRARIES:
            raise EditError(f"the loader's cache has {count} libraries: too many to be one")
        strings = _Strings(data, base)
        variants = _variants(data, base, extension, strings)
        entries = []
        for number in range(count):
            flags, key, value, _, hwcap = _ENTRY.unpack_from(
                data, base + _HEADER.size + number * _ENTRY.size
            )
            variant = b""
            if hwcap >> 32 == _HWCAP_EXTENSION:
                variant, hwcap = variants[hwcap & 0xFFFFFFFF], 0
            entries.append(Entry(strings.at(key), strings.at(value), flags, hwcap, variant))
    except (struct.error, IndexError) as error:
        raise EditError("the loader's cache is cut off or damaged") from error
    return entries


def _new_part(data: bytes) -> int:
    """Return where the part begins to which all offsets refer."""
    base = 0
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER.size:
        _, count = _OLD_HEADER.unpack_from(data)
        base = _OLD_HEADER.size + count * _OLD_ENTRY_BYTES
        base = -(-base // 8) * 8
    if data[base : base + len(_MAGIC)] != _MAGIC:
        raise EditError("the loader's cache is of a format that is not known")
    return base


def _variants(data: bytes, base: int, extension: int, strings: _Strings) -> list[bytes]:
    if not extension:
        return []
    magic, count = _EXTENSION.unpack_from(data, base + extension)
    if magic != _EXTENSION_MAGIC or count > _MOST_VARIANTS:
        return []
    for number in range(count):
        tag, _, offset, size = _SECTION.unpack_from(
            data, base + extension + _EXTENSION.size + number * _SECTION.size
        )
        if tag == _HWCAPS_TAG and size // 4 <= _MOST_VARIANTS:
            names = struct.unpack_from(f"<{size // 4}I", data, base + offset)
            return [strings.at(name) for name in names]
    return []


class _Strings:
    """The texts of a cache, each read once."""

    def __init__(self, data: bytes, base: int) -> None:
        self._data = data
        self._base = base
        self._read: dict[int, bytes] = {}
        self._left = _MOST_TEXT_BYTES

    def at(self, offset: int) -> bytes:
        """Return the text at an offset from the cache's beginning. Raises EditError."""
        if offset not in self._read:
            start = self._base + offset
            end = self._data.find(b"\0", start, start + _MOST_STRING_BYTES + 1)
            if end < 0:
                raise EditError("the loader's cache has a name without an end")
            self._left -= end - start
            if self._left < 0:
                raise EditError("the loader's cache has too much text to be one")
            self._read[offset] = self._data[start:end]
        return self._read[offset]


def write(entries: Iterable[Entry]) -> bytes:
    """Return a cache with these entries, each once, in the order in which the loader searches.

    That is ldconfig's: names downwards, so that the loader can halve; of one name the ABI's flags
    downwards, then variants, which must come before what is for any hardware.
    """
    ordered = sorted(
        dict.fromkeys(entries), key=lambda e: (-e.flags, not e.variant, e.variant, -e.hwcap)
    )
    ordered.sort(key=lambda entry: _by_name(entry.name), reverse=True)
    variants = sorted({entry.variant for entry in ordered if entry.variant})
    strings = bytearray()
    places: dict[bytes, int] = {}
    start = _HEADER.size + len(ordered) * _ENTRY.size

    def place(text: bytes) -> int:
        if text not in places:
            places[text] = start + len(strings)
            strings.extend(text + b"\0")
        return places[text]

    rows = []
    for entry in ordered:
        hwcap = entry.hwcap
        if entry.variant:
            hwcap = _HWCAP_EXTENSION << 32 | variants.index(entry.variant)
        rows.append(_ENTRY.pack(entry.flags, place(entry.name), place(entry.path), 0, hwcap))
    names = struct.pack(f"<{len(variants)}I", *map(place, variants))
    tail = b""
    extension = 0
    if variants:
        extension = -(-(start + len(strings)) // 4) * 4
        tail = b"\0" * (extension - start - len(strings))
        tail += _EXTENSION.pack(_EXTENSION_MAGIC, 1)
        offset = extension + _EXTENSION.size + _SECTION.size
        tail += _SECTION.pack(_HWCAPS_TAG, 0, offset, len(names)) + names
    header = _HEADER.pack(_MAGIC, len(ordered), len(strings), _LITTLE_ENDIAN, extension)
    return header + b"".join(rows) + bytes(strings) + tail


def _by_name(name: bytes) -> list[tuple[int, int]]:
    """Return what orders a name as the loader does (_dl_cache_libcmp).

    Runs of digits count as numbers, in an int that overflows, and come after everything else; other
    bytes are C's plain char, which has a sign on some machines.
    """
    signed = platform.machine() in {"x86_64", "i686"}
    key = []
    for token in _TOKEN.findall(name):
        byte: int = token[0]
        if 48 <= byte <= 57:
            key.append((1, _as_int(token)))
        else:
            key.append((0, byte - 256 if signed and byte > 127 else byte))
    return [*key, (0, 0)]


def _as_int(digits: bytes) -> int:
    # Longer runs than any int are cut: only their last 32 bits count, and 10^32 has none of those.
    value = int(digits[-32:]) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
