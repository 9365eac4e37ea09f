"""glibc's loader cache (/etc/ld.so.cache): read from an image, and written with the driver in it.

The format is that of glibc's dl-cache.h: an optional old part, then a header, entries sorted as the
loader searches them, strings, and an extension with the names of hardware variants. A cache from an
image is hostile input: whatever is wrong with it is an EditError.
"""

from __future__ import annotations

import functools
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
# In a hardware mask: that its lower half is the number of a variant, and the level of the
# instruction set that the file was compiled for.
_HWCAP_EXTENSION: Final = 1 << 62
_ISA_LEVEL: Final = 0x3FF << 32
_LOWER_HALF: Final = 0xFFFFFFFF
_MOST_LIBRARIES: Final = 1 << 15
_MOST_VARIANTS: Final = 64
# Entries may share text, so that a small file could stand for very much of it.
_MOST_TEXT_BYTES: Final = 8 << 20
_MOST_STRING_BYTES: Final = 4096
_DIGITS: Final = re.compile(rb"([0-9]+)")
# What the loader of a machine's usual ABI looks for: FLAG_ELF_LIBC6 and the ABI.
FLAGS: Final = {"x86_64": 0x0303, "aarch64": 0x0A03}


@dataclass(frozen=True, slots=True)
class Entry:
    """A library of the cache: by which name, for which ABI and variant of hardware, in which file.

    ``variant`` names a folder of glibc-hwcaps, empty for none; ``hwcap`` is the older bit mask, or
    for a variant the level of the instruction set in bits 32 to 41. ``os_version`` is the oldest
    kernel, as older loaders have it.
    """

    name: bytes
    path: bytes
    flags: int
    hwcap: int = 0
    variant: bytes = b""
    os_version: int = 0


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
        variants = _variants(data, extension, strings)
        entries = []
        for number in range(count):
            flags, key, value, os_version, hwcap = _ENTRY.unpack_from(
                data, base + _HEADER.size + number * _ENTRY.size
            )
            variant = b""
            if hwcap & ~(_ISA_LEVEL | _LOWER_HALF) == _HWCAP_EXTENSION:
                variant, hwcap = variants[hwcap & _LOWER_HALF], hwcap & _ISA_LEVEL
            name, path = strings.at(key), strings.at(value)
            entries.append(Entry(name, path, flags, hwcap, variant, os_version))
    except (struct.error, IndexError) as error:
        raise EditError("the loader's cache is cut off or damaged") from error
    return entries


def _new_part(data: bytes) -> int:
    """Return where the part begins to which the offsets of texts refer."""
    base = 0
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER.size:
        _, count = _OLD_HEADER.unpack_from(data)
        base = _OLD_HEADER.size + count * _OLD_ENTRY_BYTES
        base = -(-base // 8) * 8
    if data[base : base + len(_MAGIC)] != _MAGIC:
        raise EditError("the loader's cache is of a format that is not known")
    return base


def _variants(data: bytes, extension: int, strings: _Strings) -> list[bytes]:
    """Return the names of variants in the order of their numbers. Raises struct.error.

    Where the extension and its sections are is counted from the file's beginning, as ldconfig and
    the loader have it, also where the old format comes first.
    """
    if not extension:
        return []
    magic, count = _EXTENSION.unpack_from(data, extension)
    if magic != _EXTENSION_MAGIC or count > _MOST_VARIANTS:
        return []
    for number in range(count):
        tag, _, offset, size = _SECTION.unpack_from(
            data, extension + _EXTENSION.size + number * _SECTION.size
        )
        if tag == _HWCAPS_TAG and size // 4 <= _MOST_VARIANTS:
            names = struct.unpack_from(f"<{size // 4}I", data, offset)
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
        dict.fromkeys(entries),
        key=lambda e: (-e.flags, not e.variant, e.variant, -_bits(e), -e.hwcap),
    )
    table = _table()
    ordered.sort(key=lambda entry: _by_name(entry.name, table), reverse=True)
    variants = sorted({entry.variant for entry in ordered if entry.variant})
    strings = bytearray()
    places: dict[bytes, int] = {}
    start = _HEADER.size + len(ordered) * _ENTRY.size

    def place(text: bytes) -> int:
        if text not in places:
            places[text] = start + len(strings)
            # The end of a path is the name of its file.
            end = text.rpartition(b"/")[2]
            places.setdefault(end, places[text] + len(text) - len(end))
            strings.extend(text + b"\0")
        return places[text]

    rows = []
    for entry in ordered:
        hwcap = entry.hwcap
        if entry.variant:
            hwcap = _HWCAP_EXTENSION | entry.hwcap & _ISA_LEVEL | variants.index(entry.variant)
        value, key = place(entry.path), place(entry.name)
        rows.append(_ENTRY.pack(entry.flags, key, value, entry.os_version, hwcap))
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


def _bits(entry: Entry) -> int:
    """Return how special an entry without a variant is: the mask with more bits comes first."""
    return 0 if entry.variant else entry.hwcap.bit_count()


def _by_name(name: bytes, table: bytes) -> list[bytes | int]:
    """Return what orders a name as the loader does (_dl_cache_libcmp).

    Runs of digits count as numbers, in an int that overflows, and come after everything else: a
    text before one ends with the last letter of the table, any other with the table's 0.
    """
    parts = _DIGITS.split(name)
    key: list[bytes | int] = []
    for text, digits in zip(parts[::2], parts[1::2], strict=False):
        key += [text.translate(table) + b"\xff", _as_int(digits)]
    key.append((parts[-1] + b"\0").translate(table))
    return key


@functools.cache
def _table() -> bytes:
    """Return each byte's place in the order of C's plain char, which has a sign on some machines.

    Digits have none.
    """
    signed = platform.machine() in {"x86_64", "i686"}
    order = sorted(range(256), key=lambda byte: byte - 256 if signed and byte > 127 else byte)
    places = {byte: i for i, byte in enumerate(x for x in order if not 48 <= x <= 57)}
    return bytes(places.get(byte, 0xFF) for byte in range(256))


def _as_int(digits: bytes) -> int:
    # Longer runs than any int are cut: only their last 32 bits count, and 10^32 has none of those.
    value = int(digits[-32:]) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
