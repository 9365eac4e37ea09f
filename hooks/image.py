"""Looking into an image's root file system, which is hostile input.

Every path is resolved by the kernel inside the root (openat2 with RESOLVE_IN_ROOT): links in the
image lead nowhere else, whatever they say.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import stat
import struct
from pathlib import Path
from typing import Any, Final

from . import ldcache
from .errors import EditError

CACHE: Final = "/etc/ld.so.cache"

# The same number on every architecture.
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10
_MOST_CONFIG_BYTES: Final = 65536
_MOST_NAMES: Final = 4096


@functools.cache
def _syscall() -> Any:  # noqa: ANN401 - ctypes' functions have no type
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


class Root:
    """A root file system, open. Use it in a ``with`` statement."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises EditError."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EditError(f"root file system {path}: {error.strerror}") from error

    def __enter__(self) -> Root:  # noqa: PYI034 - Self needs Python 3.11
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)

    def open(self, path: str, flags: int) -> int:
        """Open a path in the root. Raises OSError."""
        how = struct.pack(
            "<QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
        )
        fd: int = _syscall()(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(self._fd),
            os.fsencode(path),
            how,
            ctypes.c_size_t(len(how)),
        )
        if fd < 0:
            code = ctypes.get_errno()
            if code == errno.ENOSYS:
                raise EditError("this kernel has no openat2: containers need Linux 5.6 or newer")
            raise OSError(code, os.strerror(code), path)
        return fd

    def is_folder(self, path: str) -> bool:
        """Say whether a path in the root is a folder."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def read(self, path: str, most: int) -> bytes | None:
        """Read a regular file, None when there is none. Raises EditError when it is too big."""
        try:
            fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            with open(os.dup(fd), "rb") as file:  # noqa: PTH123 - an open file
                data = file.read(most + 1)
        except OSError:
            return None
        finally:
            os.close(fd)
        if len(data) > most:
            raise EditError(f"{path} of the image has more than {most} bytes")
        return data

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, as many as are believable; none when there is no folder."""
        try:
            fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))[:_MOST_NAMES]  # noqa: PTH208 - an open folder
        except OSError:
            return []
        finally:
            os.close(fd)


def _multiarch() -> str:
    return f"{platform.machine()}-linux-gnu"


def default_folder(root: Root) -> str:
    """Return the folder of the image's loader in which a library is found without anything else.

    Debian and its kin have one for each architecture; Red Hat's, SUSE's and others /usr/lib64; an
    image without any gets the one that every loader looks in at last.
    """
    for folder in (
        f"/usr/lib/{_multiarch()}",
        f"/lib/{_multiarch()}",
        "/usr/lib64",
        "/lib64",
    ):
        if root.is_folder(folder):
            return folder
    return "/usr/lib"


def other_folders(root: Root, home: str) -> list[str]:
    """Return the loader's other folders: its own, and those of its configuration and cache."""
    multiarch = _multiarch()
    folders = [
        *(f"/lib/{multiarch}", f"/usr/lib/{multiarch}", "/lib64", "/usr/lib64", "/lib", "/usr/lib"),
        *("/usr/local/lib", f"/usr/local/lib/{multiarch}"),
    ]
    for name in root.names("/etc/ld.so.conf.d"):
        if name.endswith(".conf"):
            text = root.read(f"/etc/ld.so.conf.d/{name}", _MOST_CONFIG_BYTES) or b""
            lines = (os.fsdecode(line).split("#")[0].strip() for line in text.splitlines())
            folders += [line for line in lines if line.startswith("/") and "\0" not in line]
    return [folder for folder in dict.fromkeys(folders) if folder != home]


def cache_entries(root: Root) -> list[ldcache.Entry] | None:
    """Return what the image's loader cache has; None when it has none."""
    data = root.read(CACHE, ldcache.MOST_BYTES)
    return None if data is None else ldcache.read(data)
