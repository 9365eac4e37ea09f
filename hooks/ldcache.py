"""glibc's loader cache (/etc/ld.so.cache): read from an image, and written with the driver in it.

The format is that of glibc's dl-cache.h: an optional old part, then a header, entries sorted as the
loader searches them, strings, and an extension with the names of hardware variants. A cache from an
image is hostile input: whatever is wrong with it is an EditError.
"""

from __future__ import annotations

import functools
import platform
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
_HWCAP_EXTENSION: Final = 1 << 62
_MOST_LIBRARIES: Final = 1 << 18
_MOST_VARIANTS: Final = 64
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
        _, count, _, _, extension = _HEADER.unpack_from(data, base)
        if count > _MOST_LIBRARIES:
            raise EditError(f"the loader's cache has {count} libraries: too many to be one")
        variants = _variants(data, base, extension)
        entries = []
        for number in range(count):
            flags, key, value, _, hwcap = _ENTRY.unpack_from(
                data, base + _HEADER.size + number * _ENTRY.size
            )
            variant = b""
            if hwcap & _HWCAP_EXTENSION:
                variant, hwcap = variants[hwcap & 0xFFFFFFFF], 0
            name, path = (_string(data, base + offset) for offset in (key, value))
            entries.append(Entry(name, path, flags, hwcap, variant))
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


def _variants(data: bytes, base: int, extension: int) -> list[bytes]:
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
            return [_string(data, base + name) for name in names]
    return []


def _string(data: bytes, offset: int) -> bytes:
    end = data.find(b"\0", offset, offset + 4097)
    if offset >= len(data) or end < 0:
        raise EditError("the loader's cache has a name without an end")
    return data[offset:end]


def write(entries: Iterable[Entry]) -> bytes:
    """Return a cache with these entries, in the order in which the loader searches."""
    ordered = sorted(dict.fromkeys(entries), key=_order)
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
        hwcap = _HWCAP_EXTENSION | variants.index(entry.variant) if entry.variant else entry.hwcap
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


def _compare(one: bytes, other: bytes) -> int:
    """Compare names as the loader does: runs of digits by their number (_dl_cache_libcmp)."""
    i = j = 0
    while i < len(one):
        first = one[i : i + 1]
        second = other[j : j + 1]
        if first.isdigit() and second.isdigit():
            a, i = _number(one, i)
            b, j = _number(other, j)
            if a != b:
                return a - b
        elif first.isdigit() or second.isdigit():
            return 1 if first.isdigit() else -1
        elif first != second:
            return one[i] - (other[j] if second else 0)
        else:
            i, j = i + 1, j + 1
    return -other[j] if j < len(other) else 0


def _number(text: bytes, at: int) -> tuple[int, int]:
    end = at
    while text[end : end + 1].isdigit():
        end += 1
    return int(text[at:end]), end


def _order_of(one: Entry, other: Entry) -> int:
    by_name = _compare(other.name, one.name)
    if by_name:
        return by_name
    if one.flags != other.flags:
        return other.flags - one.flags
    # Variants of better hardware come first; the loader takes the first that the machine has.
    mine, theirs = ((entry.variant, entry.hwcap) for entry in (one, other))
    return (theirs > mine) - (theirs < mine)


_order = functools.cmp_to_key(_order_of)
