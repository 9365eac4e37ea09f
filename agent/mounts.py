"""mount(2) and its kin, which Python has not, and the kernel's table of mounts.

What fails raises OSError with the kernel's number and no file name: the caller knows what it was
about to do, and says so.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MS_RELATIME: Final = 0x200000

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo.

    ``root`` is the folder of the file system that lies at ``point``; ``options`` are those of the
    file system itself.
    """

    root: str
    point: str
    kind: str
    options: tuple[str, ...]


def table() -> list[Mount]:
    """Return the mounts of this process' namespace, in the kernel's order. Raises OSError."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        head, _, tail = line.partition(b" - ")
        kind, _, options = tail.split(b" ", 2)
        fields = head.split(b" ")
        root, point = unescape(fields[3]), unescape(fields[4])
        found.append(Mount(root, point, kind.decode(), tuple(os.fsdecode(options).split(","))))
    return found


def unescape(field: bytes) -> str:
    """Undo the octal escapes that the kernel writes for blanks and backslashes."""
    parts = field.split(b"\\")
    text = parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
    return os.fsdecode(text)


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    """Mount ``source`` over ``target``, as the C library's function of that name does."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def unmount(target: str) -> None:
    """Take the uppermost mount off ``target``; who still uses it keeps it until the end."""
    call("umount2", os.fsencode(target), ctypes.c_int(_MNT_DETACH | _UMOUNT_NOFOLLOW))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:  # noqa: ANN401 - as C takes them
    """Call a function of the C library that answers -1 and sets errno when it fails."""
    function = getattr(_libc(), name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result: int = function(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
