"""Who has which DRM file open, and how busy it keeps the device: a walk through /proc.

A file that several processes have open, or one process by several descriptors, is one client and
counts once: for whoever had it in the last look, else for the process with the smallest pid.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from . import fdinfo, files

_MOST_PROCESSES: Final = 1 << 16
# What a process has open beyond these is not looked at: a tenant must not keep the agent busy.
_MOST_DESCRIPTORS: Final = 1 << 16
_MOST_FILES: Final = 4096
# For how many looks a descriptor is believed to lead where it led, while its path is the same.
_LOOKS: Final = 16

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A client of a device and the process that it counts for; ``busy`` is as in DeviceProcess."""

    pid: int
    client: fdinfo.Client
    busy: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found; ``whole`` when no process was closed to it."""

    held: tuple[Held, ...] = ()
    whole: bool = False


@dataclass(slots=True)
class _Seen:
    """A client as it was read, by whom it is held, and when."""

    client: fdinfo.Client
    at_ns: int
    pids: list[int] = field(default_factory=list)


class Clients:
    """The DRM clients of a node from one look to the next."""

    def __init__(self, proc: Path, drivers: Collection[str]) -> None:
        """``proc`` is where procfs is; only clients of ``drivers`` count."""
        self._proc = os.fspath(proc)
        self._drivers = frozenset(drivers)
        self._last: dict[Key, _Seen] = {}
        self._owners: dict[Key, int] = {}
        # Descriptors by process that lead to no device, with where they lead.
        self._others: dict[int, dict[int, str]] = {}
        self._looks = 0

    def look(self) -> Look:
        """Read every client of every process. Blocks for milliseconds."""
        self._looks += 1
        if self._looks % _LOOKS == 0:
            self._others.clear()
        found: dict[Key, _Seen] = {}
        others: dict[int, dict[int, str]] = {}
        whole = True
        for pid in files.numbered(self._proc, _MOST_PROCESSES):
            try:
                others[pid] = self._read(pid, found)
            except PermissionError:  # noqa: PERF203 - one that is closed must not hide the others
                whole = False
            except OSError:
                # It has ended.
                continue
        held = []
        owners: dict[Key, int] = {}
        for key, seen in found.items():
            former = self._owners.get(key)
            owners[key] = former if former is not None and former in seen.pids else min(seen.pids)
            before = self._last.get(key)
            share = None
            if before is not None:
                share = fdinfo.busy(before.client, seen.client, seen.at_ns - before.at_ns)
            held.append(Held(owners[key], seen.client, share))
        self._last, self._owners, self._others = found, owners, others
        return Look(tuple(held), whole)

    def _read(self, pid: int, found: dict[Key, _Seen]) -> dict[int, str]:
        """Add the clients of a process; returns its descriptors of other things. Raises OSError."""
        before = self._others.get(pid, {})
        others: dict[int, str] = {}
        left = _MOST_FILES
        for fd, target in self._descriptors(pid):
            if before.get(fd) == target:
                others[fd] = target
                continue
            if left == 0:
                break
            left -= 1
            told = files.text(f"{self._proc}/{pid}/fdinfo/{fd}", fdinfo.MOST_BYTES)
            client = None if told is None else fdinfo.parse(told)
            if client is None:
                others[fd] = target
            elif client.driver in self._drivers:
                key = client.address, client.number
                if key not in found:
                    found[key] = _Seen(client, time.monotonic_ns())
                if pid not in found[key].pids:
                    found[key].pids.append(pid)
        return others

    def _descriptors(self, pid: int) -> Iterator[tuple[int, str]]:
        """Yield descriptors that have a path, and it: devices may have any. Raises OSError."""
        folder = f"{self._proc}/{pid}/fd"
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MOST_DESCRIPTORS):
                fd = files.whole_number(entry.name)
                # It may have been closed meanwhile.
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)  # noqa: PTH115 - of so many
                    if fd is not None and target.startswith("/"):
                        yield fd, target
