"""Putting the shim in the driver's place for one process and its children: a mount namespace.

Over each folder in which the driver has names lies a read-only overlay whose upper layer has the
shim under all those names, so that every path and every search leads to it. The real driver and the
region are bind-mounted into the ``.aliquot`` folder beside it: an overlay's layers must not be
written through, and the region is shared.

Python has unshare(2) only from 3.12, so the C library is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import mounts
from .errors import NoNamespaceError
from .mounts import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SLAVE,
)
from .rundir import REGION_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .drivers import DriverFolder
    from .makes import Make

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CAP_SYS_ADMIN: Final = 21

# What a mount has of these must be said again when it is changed, or the kernel refuses.
_KEPT_FLAGS: Final = (
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
    (os.ST_NOATIME, MS_NOATIME),
    (os.ST_NODIRATIME, MS_NODIRATIME),
    (os.ST_RELATIME, MS_RELATIME),
)

# The same numbers on every architecture.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_OPEN_TREE_CLONE: Final = 1
_AT_RECURSIVE: Final = 0x8000
_AT_FDCWD: Final = -100
_AT_NO_AUTOMOUNT: Final = 0x800
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4


@dataclass(frozen=True, slots=True)
class Cover:
    """A driver's folder, and the folder of the run directory that goes over it."""

    folder: DriverFolder
    lib: str
    make: Make


def enter(covers: Sequence[Cover]) -> None:
    """Move this process into a mount namespace in which ``covers`` lie over the drivers.

    Parents come before what is in them. The process has one thread and is about to execute a
    program; whatever happens, nothing outside it changes. Raises NoNamespaceError, which says what
    was not possible.
    """
    _unshare()
    # Nothing that is mounted here gets out; what the host mounts later still comes in.
    _mount(None, "/", None, MS_REC | MS_SLAVE, None, "cutting the mounts off from the host's")
    # Everything is opened before the first overlay hides it.
    covered = {
        os.path.join(cover.folder.path, name) for cover in covers for name in _names(cover.folder)
    }
    inner = [
        (path, _clone_mount(path))
        for path in _mounts_below([cover.folder.path for cover in covers])
        # The table also lists mounts that lie under other mounts, out of sight.
        if path not in covered and os.path.lexists(path)
    ]
    lowers = [_open(cover.folder.path) for cover in covers]
    uppers = [_open(cover.lib) for cover in covers]
    libraries = [[(link, _open(path)) for link, path in _libraries(cover)] for cover in covers]
    regions = [_open(os.path.join(cover.lib, REGION_FOLDER)) for cover in covers]
    for cover, upper, lower in zip(covers, uppers, lowers, strict=True):
        # By descriptor: the folder below, not an overlay over its parent, and no text to escape.
        layers = f"lowerdir=/proc/self/fd/{upper}:/proc/self/fd/{lower}"
        path = cover.folder.path
        _mount("overlay", path, "overlay", MS_RDONLY, layers, f"an overlay over {path}")
    for path, tree in inner:
        _attach_mount(tree, path)
    for cover, behind, own in zip(covers, libraries, regions, strict=True):
        _bind_region(cover, behind, own)
    opened = (fd for behind in libraries for _, fd in behind)
    for fd in (*lowers, *uppers, *opened, *regions, *(tree for _, tree in inner)):
        os.close(fd)
    # The working folder may be one that was covered.
    with contextlib.suppress(OSError):
        os.chdir(os.getcwd())


def _names(folder: DriverFolder) -> tuple[str, ...]:
    return (*folder.names, *(folder.management.names if folder.management else ()))


def _libraries(cover: Cover) -> list[tuple[str, str]]:
    """Return the real libraries by their private names."""
    folder, make = cover.folder, cover.make
    found = [(make.link, folder.driver)]
    if folder.management and make.management:
        found.append((make.management.link, folder.management.file))
    return found


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _has_sys_admin():
        _call("unshare", _CLONE_NEWNS, what="a mount namespace")
        return
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS, what="a user and mount namespace")
    try:
        # Everybody keeps the number they have; other users' files show as nobody's.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    except OSError as error:
        raise NoNamespaceError(f"a user namespace without its map: {error.strerror}") from error


def _has_sys_admin() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _bind_region(cover: Cover, libraries: Sequence[tuple[str, int]], own: int) -> None:
    """Mount the region, read-only but for ``usage``, and the real libraries into it."""
    target = os.path.join(cover.folder.path, REGION_FOLDER)
    usage = os.path.join(target, "usage")
    what = f"the region in {target}"
    _mount(f"/proc/self/fd/{own}", target, None, MS_BIND, None, what)
    _mount(usage, usage, None, MS_BIND, None, what)
    kept = os.statvfs(target).f_flag
    flags = sum(flag for status, flag in _KEPT_FLAGS if kept & status)
    _mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None, what)
    for name, library in libraries:
        link = os.path.join(target, name)
        _mount(f"/proc/self/fd/{library}", link, None, MS_BIND, None, f"the driver in {target}")


def _mounts_below(folders: Iterable[str]) -> list[str]:
    """Return the mount points in ``folders`` that lie in no other mount point of them."""
    tops = tuple(folder.rstrip("/") + "/" for folder in folders)
    found: list[str] = []
    for point in sorted({mount.point for mount in mounts.table()}):
        inside = point.startswith(tops)
        if inside and not (found and point.startswith(found[-1] + "/")):
            found.append(point)
    return found


def _clone_mount(path: str) -> int:
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | _AT_NO_AUTOMOUNT | os.O_CLOEXEC
    return _call(
        "syscall",
        ctypes.c_long(_SYS_OPEN_TREE),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(flags),
        what=f"a copy of the mount {path}",
    )


def _attach_mount(tree: int, path: str) -> None:
    _call(
        "syscall",
        ctypes.c_long(_SYS_MOVE_MOUNT),
        ctypes.c_int(tree),
        b"",
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        what=f"the mount {path} over the overlay",
    )


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise NoNamespaceError(f"{path}: {error.strerror}") from error


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None, what: str
) -> None:
    with _named(what):
        mounts.mount(source, target, kind, flags, data)


def _call(name: str, *arguments: Any, what: str) -> int:  # noqa: ANN401 - as C takes them
    with _named(what):
        return mounts.call(name, *arguments)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "not permitted" if error.errno == errno.EPERM else error.strerror
        raise NoNamespaceError(f"{what}: {why}") from error
