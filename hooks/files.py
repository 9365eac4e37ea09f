"""Opening, reading and writing files as each container's start does, below what ``open`` offers."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import Any, Final

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_IN_ROOT: Final = 0x10
# Only what the kernel has at hand: it waits for no disk and no server, and says EAGAIN instead.
RESOLVE_CACHED: Final = 0x20

# The same number on every architecture.
_SYS_OPENAT2: Final = 437
_AT_FDCWD: Final = -100
_LEAST_BYTES: Final = 4096
_STATFS_BYTES: Final = 256
_IN_MEMORY: Final = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs


@functools.cache
def _libc() -> Any:  # noqa: ANN401 - ctypes' functions have no type
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def openat2(path: str | bytes, flags: int, resolve: int, folder: int = _AT_FDCWD) -> int:
    """Open a path, close-on-exec, with the kernel's RESOLVE_… . Raises OSError."""
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc().syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(folder),
        os.fsencode(path),
        how,
        ctypes.c_size_t(len(how)),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def is_in_memory(fd: int) -> bool:
    """Say whether an open file lies on a file system that reads from no disk and no server."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    # `f_type` comes first, as a long.
    return _libc().fstatfs(ctypes.c_int(fd), found) == 0 and (
        ctypes.c_ulong.from_buffer(found).value in _IN_MEMORY
    )


def read_all(fd: int, most: int) -> bytes:
    """Return what there is from here to the file's end. Raises OSError.

    Never more than ``most`` bytes and one: that one says that there is more.
    """
    data = b""
    # One piece is enough for a file that tells its size; those of /proc do not.
    piece = max(os.fstat(fd).st_size + 1, _LEAST_BYTES)
    while len(data) <= most and (more := os.read(fd, min(piece, most + 1 - len(data)))):
        data += more
    return data


def write_all(fd: int, data: bytes) -> None:
    """Write it all. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
