"""Processes as the kernel tells of them: when they started and end, and which cgroups they are in.

A pid names nobody for long; a pid with its start time (field 22 of /proc/PID/stat, clock ticks
since boot) names one process. That a process has ended is told by its pidfd, which becomes readable
when the last of its threads has gone; the kernel has them since 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aliquot.hooks import files

from . import mounts
from .errors import AliquotError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MOST_BYTES: Final = 1 << 16
# How often cgroups are looked at that have no event: see `wait_empty`.
_LOOK_SECONDS: Final = 1.0
_IN_MODIFY: Final = 0x2


def require_pidfd() -> None:
    """Raise AliquotError where the kernel, or who confines us, gives no pidfd."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise AliquotError(
            f"pidfd_open: {error.strerror}: the agent needs Linux 5.3 or newer, "
            "and a seccomp profile that lets it watch processes"
        ) from error


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none."""
    fields = _stat_fields(pid)
    return int(fields[19]) if len(fields) > 19 else None


def parent(pid: int) -> int:
    """Return the parent's pid, 0 when there is none."""
    fields = _stat_fields(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def descends(pid: int, ancestor: int) -> bool:
    """Say whether ``ancestor`` is ``pid`` or one of its parents."""
    # A tree that changes while it is climbed must not lead in a circle.
    for _ in range(64):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        pid = parent(pid)
    return False


def alive(pid: int, start: int) -> bool:
    """Say whether the process with this pid and start time has not ended."""
    return living_since(pid) == start


def living_since(pid: int) -> int | None:
    """Return when a living process started, None when it has ended. Raises as ``open_pidfd``."""
    opened = _open(pid)
    if opened is None:
        return None
    os.close(opened[0])
    return opened[1]


def open_pidfd(pid: int, start: int) -> int | None:
    """Return a pidfd of a living process, None when it has ended.

    Raises OSError when there are no more descriptors or the kernel lacks them.
    """
    opened = _open(pid)
    if opened is None:
        return None
    if opened[1] == start:
        return opened[0]
    os.close(opened[0])
    return None


def _open(pid: int) -> tuple[int, int] | None:
    """Return a pidfd of a living process and when it started."""
    if pid <= 0:
        return None
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError):  # no pid is larger than an int
        return None
    # Read after it was opened: if it has not ended since, the time is that process'.
    start = start_time(pid)
    if start is not None and not _has_ended(fd):
        return fd, start
    os.close(fd)
    return None


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def wait_exit(pid: int, start: int) -> None:
    """Return once the process has ended; at once when it already has. Raises OSError."""
    fd = open_pidfd(pid, start)
    if fd is not None:
        try:
            await readable(fd)
        finally:
            os.close(fd)


async def readable(fd: int) -> None:
    """Return once ``fd`` is readable."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await told
    finally:
        loop.remove_reader(fd)


# -- Cgroups ---------------------------------------------------------------------------------------


def cgroups(pid: int) -> tuple[str, ...]:
    """Return the lines of /proc/PID/cgroup, ``number:controllers:path``; none without a process."""
    try:
        text = _read(f"/proc/{pid}/cgroup")
    except OSError:
        return ()
    return tuple(os.fsdecode(line) for line in text.splitlines())


def own_cgroups(lines: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return those of a process' cgroups in which there are only it and its like.

    A hierarchy that the container's runtime does not use shows a path that everybody has, or that
    the runtime itself has, as ``others`` (the lines of a process outside) tells.
    """
    shared = {_split(line) for line in others}
    return tuple(line for line in lines if _split(line)[1] != "/" and _split(line) not in shared)


def inside(lines: Iterable[str], groups: Iterable[str]) -> bool:
    """Say whether a process with ``lines`` is in one of the cgroups ``groups`` or below it."""
    tops = dict(_split(line) for line in groups)
    return any(
        path == tops[name] or path.startswith(f"{tops[name]}/")
        for name, path in map(_split, lines)
        if name in tops
    )


def names_container(lines: Iterable[str], container_id: str) -> bool:
    """Say whether a path in ``lines`` has a container's id as a whole part.

    The part is the id, or as systemd has it ``PREFIX-ID.scope`` for ids that are long enough not to
    be words.
    """
    scope = f"-{container_id}.scope" if len(container_id) >= 32 else None
    return any(
        part == container_id or (scope is not None and part.endswith(scope))
        for line in lines
        for part in _split(line)[1].split("/")
    )


def unified_folder(groups: Iterable[str]) -> Path | None:
    """Return where the cgroup v2 among ``groups`` is or was; None without one. Raises OSError."""
    for line in groups:
        name, path = _split(line)
        if not name:
            return _folder(mounts.table(), name, path)
    return None


def populated(groups: Sequence[str]) -> bool:
    """Say whether any process is in the cgroups ``groups`` or below them. Raises OSError."""
    table = mounts.table() if groups else []
    for line in groups:
        folder = _folder(table, *_split(line))
        if folder is not None and any(_members(folder)):
            return True
    return False


async def wait_empty(groups: Sequence[str]) -> None:
    """Return once no process is in the cgroups ``groups`` or below them. Raises OSError.

    Cgroup v2 tells it by a change of ``cgroup.events``. The hierarchies of v1 tell nobody but a
    program that is started by the kernel, so these are looked at once a second.
    """
    while populated(groups):
        folder = unified_folder(groups)
        if folder is None:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        with contextlib.suppress(FileNotFoundError), _watched(folder / "cgroup.events") as fd:
            # What changed before the watch began has changed for good: look again first.
            if populated(groups):
                # Where v1 has processes that v2 has not, no event will come.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(readable(fd), None if _is_populated(folder) else 1.0)


@contextlib.contextmanager
def _watched(file: Path) -> Iterator[int]:
    fd = mounts.call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        path = os.fsencode(file)
        mounts.call("inotify_add_watch", fd, path, ctypes.c_uint32(_IN_MODIFY))
        yield fd
    finally:
        os.close(fd)


def _is_populated(folder: Path) -> bool:
    try:
        return "populated 1" in (folder / "cgroup.events").read_text(encoding="ascii")
    except OSError:
        return False


def _members(folder: Path) -> Iterator[int]:
    """Yield the processes of a cgroup and of those below it; it may go while it is read."""
    for top, _, names in os.walk(folder):
        if "cgroup.procs" in names:
            try:
                yield from map(int, Path(top, "cgroup.procs").read_text(encoding="ascii").split())
            except OSError:
                continue


def _folder(table: Iterable[mounts.Mount], name: str, path: str) -> Path | None:
    """Return where a cgroup is or was, None when its hierarchy is not mounted."""
    for mount in table:
        if mount.kind == ("cgroup" if name else "cgroup2") and (
            not name or set(name.split(",")) <= set(mount.options)
        ):
            root = mount.root.rstrip("/")
            if path == root or path.startswith(f"{root}/"):
                return Path(mount.point + path[len(root) :])
    return None


# (The lines of all slices are asked for each process that connects.)
@functools.lru_cache(maxsize=4096)
def _split(line: str) -> tuple[str, str]:
    """Return controllers and path: the hierarchy's number says nothing, a path may have colons."""
    parts = line.split(":", 2)
    return (parts[1], parts[2]) if len(parts) == 3 else ("?", "/")


def _stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third on, none when there is no process."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return []
    # The command's name stands in parentheses and may have anything in it.
    return text.rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    """Return a file of /proc, as far as it is believable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return files.read_all(fd, _MOST_BYTES)
    finally:
        os.close(fd)
