"""Module images put together byte by byte, for tests of what reads them."""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from dataclasses import dataclass

FATBIN_MAGIC = 0xBA55ED50
KIND_PTX = 1
KIND_CUBIN = 2
FLAGS_PLAIN = 0x11
FLAG_LZ4 = 0x2000
FLAG_ZSTD = 0x8000
FLAG_SPECIFIC = 0x100000
FLAG_FAMILY = 0x1200000


def lz4_block(data: bytes) -> bytes:
    """Compress into one LZ4 block: greedy matches of the last occurrence of four bytes."""
    out = bytearray()
    seen: dict[bytes, int] = {}
    literals = bytearray()
    at = 0
    # The format wants the last five bytes as literals and no match in the last twelve.
    while at < len(data):
        key = data[at : at + 4]
        found = seen.get(key)
        seen[key] = at
        if found is None or at - found > 0xFFFF or at + 12 > len(data):
            literals.append(data[at])
            at += 1
            continue
        length = 4
        while at + length < len(data) - 5 and data[found + length] == data[at + length]:
            length += 1
        out += _sequence(literals, at - found, length)
        literals.clear()
        at += length
    out += _sequence(literals, 0, 4)
    return bytes(out)


def _sequence(literals: bytearray, distance: int, length: int) -> bytes:
    out = bytearray([min(len(literals), 15) << 4 | min(length - 4, 15)])
    if len(literals) >= 15:
        out += _more(len(literals) - 15)
    out += literals
    if distance:
        out += struct.pack("<H", distance)
        if length - 4 >= 15:
            out += _more(length - 19)
    return bytes(out)


def _more(rest: int) -> bytes:
    return b"\xff" * (rest // 255) + bytes([rest % 255])


def zstd_frame(data: bytes) -> bytes | None:
    """Compress with the system's libzstd; None where there is none."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    library.ZSTD_compressBound.restype = ctypes.c_size_t
    library.ZSTD_compress.restype = ctypes.c_size_t
    room = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(room)
    done = library.ZSTD_compress(
        out, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), ctypes.c_int(3)
    )
    return out.raw[:done]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a fatbin. ``plain_bytes`` is the length before compression, 0 for none."""

    kind: int
    arch: int
    payload: bytes
    flags: int = FLAGS_PLAIN
    plain_bytes: int = 0


def lz4_entry(entry: Entry) -> Entry:
    """The same entry, compressed."""
    return Entry(
        entry.kind,
        entry.arch,
        lz4_block(entry.payload),
        entry.flags | FLAG_LZ4,
        len(entry.payload),
    )


def fatbin(*entries: Entry) -> bytes:
    """A fatbin of the given entries, in their order."""
    body = b""
    for entry in entries:
        padded = entry.payload + bytes(-len(entry.payload) % 8)
        compressed = len(entry.payload) if entry.plain_bytes else 0
        body += struct.pack(
            "<HHIQIIHHIIIQQQ",
            *(entry.kind, 0x101, 64, len(padded), compressed, 0, 8, 1, entry.arch, 0, 0),
            *(entry.flags, 0, entry.plain_bytes),
        )
        body += padded
    return struct.pack("<IHHQ", FATBIN_MAGIC, 1, 16, len(body)) + body


def new_layout(cubin: bytes, *, specific: bool = False) -> bytes:
    """A cubin with the header of CUDA 13 in place of that of CUDA 12 and before."""
    (flags,) = struct.unpack_from("<I", cubin, 48)
    out = bytearray(cubin)
    out[7], out[8] = 0x41, 8
    struct.pack_into("<I", out, 48, 0x06000004 | (flags & 0xFF) << 8 | (8 if specific else 0))
    return bytes(out)
