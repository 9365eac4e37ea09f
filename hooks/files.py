"""Reading and writing open files without the buffers of ``open``: each start does it."""

from __future__ import annotations

import os
from typing import Final

_LEAST_BYTES: Final = 4096


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
