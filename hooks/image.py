"""Looking into an image's root file system, which is hostile input.

Every path is resolved by the kernel inside the root (openat2 with RESOLVE_IN_ROOT): links in the
image lead nowhere else, whatever they say.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
from itertools import islice
from pathlib import Path
from typing import Final

from . import files, ldcache
from .errors import EditError, shown

CACHE: Final = "/etc/ld.so.cache"

_MOST_CONFIG_BYTES: Final = 65536
_MOST_NAMES: Final = 1024
# A rename or mount anywhere on the machine makes the kernel ask for another try at a `..`.
_MOST_TRIES: Final = 128
_NOT_THERE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
)


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
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)

    def open(self, path: str, flags: int) -> int:
        """Open a path in the root. Raises OSError."""
        raw = os.fsencode(path)
        if b"\0" in raw:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        resolve = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS
        for tries in range(_MOST_TRIES, 0, -1):
            try:
                return files.openat2(raw, flags, resolve, self._fd)
            except OSError as error:  # noqa: PERF203 - it tries again
                if error.errno == errno.ENOSYS:
                    raise EditError(
                        "this kernel has no openat2: containers need Linux 5.6 or newer"
                    ) from None
                if error.errno not in {errno.EAGAIN, errno.EINTR} or tries == 1:
                    raise OSError(error.errno, error.strerror, path) from None
        raise AssertionError

    def is_folder(self, path: str) -> bool:
        """Say whether a path in the root is a folder."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def is_file(self, path: str) -> bool:
        """Say whether a path in the root is a regular file."""
        try:
            fd = self.open(path, os.O_PATH)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def read(self, path: str, most: int) -> bytes | None:
        """Read a regular file of at most ``most`` bytes, None when there is none.

        Nothing else is ever opened: an image may have device files, and opening some of those does
        something (a watchdog). Raises EditError for a file that is too big or cannot be read.
        """
        try:
            fd = self.open(path, os.O_PATH)
        except OSError as error:
            _refuse_unless_absent(path, error)
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            # By its descriptor: nobody can put something else there in between.
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = files.read_all(again, most)
            finally:
                os.close(again)
        except OSError as error:
            raise EditError(f"{shown(path)} of the image: {error.strerror}") from error
        finally:
            os.close(fd)
        if len(data) > most:
            raise EditError(f"{shown(path)} of the image has more than {most} bytes")
        return data

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, none when there is no folder.

        Raises EditError for more names than are believable.
        """
        try:
            fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            _refuse_unless_absent(path, error)
            return []
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in islice(entries, _MOST_NAMES + 1)]
        except OSError as error:
            raise EditError(f"{shown(path)} of the image: {error.strerror}") from error
        finally:
            os.close(fd)
        if len(names) > _MOST_NAMES:
            raise EditError(f"{shown(path)} of the image has more than {_MOST_NAMES} files")
        return sorted(names)


def _refuse_unless_absent(path: str, error: OSError) -> None:
    if error.errno not in _NOT_THERE:
        raise EditError(f"{shown(path)} of the image: {error.strerror}") from error


def _multiarch() -> str:
    return f"{platform.machine()}-linux-gnu"


def default_folder(root: Root) -> str:
    """Return the folder of the image's loader in which a library is found without anything else.

    Debian and its kin have one for each architecture; Red Hat's, SUSE's and others /usr/lib64; an
    image without any gets the one that every loader looks in at last. Where the C library lies is
    where its loader looks, whatever other folders packages have made; of two that the loader takes
    for one, the one below /usr, where drivers are installed and some programs look for them.
    """
    multiarch = _multiarch()
    pairs = [
        (f"/usr/lib/{multiarch}", f"/lib/{multiarch}"),
        ("/usr/lib64", "/lib64"),
        ("/usr/lib", "/lib"),
    ]
    for pair in pairs:
        if any(root.is_file(f"{folder}/libc.so.6") for folder in pair):
            return next(folder for folder in pair if root.is_folder(folder))
    there = (folder for pair in pairs[:2] for folder in pair if root.is_folder(folder))
    return next(there, "/usr/lib")


def other_folders(root: Root, home: str) -> list[str]:
    """Return the loader's other folders: its own, and those of its configuration and cache."""
    multiarch = _multiarch()
    folders = [
        *(f"/lib/{multiarch}", f"/usr/lib/{multiarch}", "/lib64", "/usr/lib64", "/lib", "/usr/lib"),
        *("/usr/local/lib", f"/usr/local/lib/{multiarch}"),
    ]
    files = [f"/etc/ld.so.conf.d/{name}" for name in root.names("/etc/ld.so.conf.d")]
    left = _MOST_CONFIG_BYTES
    for file in ("/etc/ld.so.conf", *(file for file in files if file.endswith(".conf"))):
        text = root.read(file, left) or b""
        left -= len(text)
        lines = (os.fsdecode(line).split("#")[0].strip() for line in text.splitlines())
        # (ldconfig also takes "folder=type".)
        folders += [line.split("=")[0] for line in lines if is_plain(line)]
    return [folder for folder in dict.fromkeys(folders) if folder != home]


def is_plain(path: str) -> bool:
    """Say whether a text of an image is an absolute path that a plan can name as it is."""
    return path.startswith("/") and not any(letter in path for letter in "\t\n\0*?[")


def read_cache(root: Root) -> bytes | None:
    """Return the image's loader cache; None when it has none. Raises EditError."""
    return root.read(CACHE, ldcache.MOST_BYTES)


def cache_entries(cache: bytes) -> list[ldcache.Entry]:
    """Return what an image's loader cache has. Raises EditError for what is not one."""
    # The loader passes over an empty one, which some images are shrunk to.
    if not cache:
        return []
    try:
        return ldcache.read(cache)
    except EditError as error:
        raise EditError(f"{CACHE} of the image: {error}: run ldconfig in the image") from error
