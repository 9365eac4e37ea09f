"""Sharing of time: what the arbiter of the node is told, and what it says.

The arbiter decides and opens gates in a thread of its own (csrc/arbiter/runner.h). Here it is told
which containers there are, and on which terms; nothing here is needed for a turn to begin or end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from aliquot.shim import arbiter, region

from . import policies
from .devices import Device
from .errors import AliquotError
from .grants import Fault, fault_of, open_grant
from .rundir import open_inside
from .slices import PARTITION, Part, Slice

# What could not be followed is tried again so often.
_AGAIN_SECONDS: Final = 1.0
_MS: Final = 1_000_000
# Whoever goes first waits for what others have under way: they may have so much less of it.
_BELOW: Final = 4
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """What the arbiter counted for one slice on one device, since it came to know the slice.

    ``held_seconds``: the device was the slice's own, or it ran there; of that, ``split_seconds``
    while others ran there too. ``wanted_seconds``: it had work, or waited. ``turns`` that it got;
    ``overruns``: turns that ended though it had work under way; ``preempted``: turns that a
    higher priority ended. ``wanted`` and ``received`` are shares of the last second, 0 to 1; None
    before there was one, and while nothing is measured since it has the device alone.
    """

    held_seconds: float
    split_seconds: float
    wanted_seconds: float
    turns: int
    overruns: int
    preempted: int
    wanted: float | None
    received: float | None


class Books(Protocol):
    """What is read of the ledger."""

    def slices(self) -> tuple[Slice, ...]:
        """Return all slices."""
        ...

    def region(self, key: str) -> Path:
        """Return the folder with a slice's region."""
        ...

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have ``changed`` called when a slice came or went; returns what ends that."""
        ...


class Node(Protocol):
    """What is known of the node."""

    @property
    def devices(self) -> Sequence[Device]:
        """Its devices."""
        ...

    @property
    def ledger(self) -> Books:
        """The slices."""
        ...


@dataclass(frozen=True, slots=True)
class _Followed:
    """A slice that the arbiter knows, by ``number``; ``columns`` of its region by UUID.

    ``identity`` tells it from a later one with the same key, ``group`` is the arbiter's.
    """

    number: int
    identity: int
    columns: Mapping[str, int]
    group: int


class Sharing:
    """The arbiter of a node, from ``start`` to ``close``; used from one thread only."""

    def __init__(self, settings: arbiter.Settings | None = None) -> None:
        """Nothing runs before ``start``; ``settings`` are the arbiter's own choice by default."""
        self._settings = settings
        self._runner: arbiter.Runner | None = None
        self._followed: dict[str, _Followed] = {}
        self._devices: dict[str, int] = {}
        self._groups: dict[tuple[str, str], int] = {}
        self._pieces: dict[str, Slice] = {}
        self._numbers = count(1)
        self.faults: dict[str, Fault] = {}

    def start(self) -> None:
        """Start the arbiter. Raises AliquotError when it cannot run."""
        try:
            self._runner = arbiter.Runner(self._settings)
        except OSError as error:
            raise AliquotError(f"the arbiter cannot run: {error.strerror}") from error

    def close(self) -> None:
        """Stop it; gates stay as they are, and containers keep to their own caps."""
        runner, self._runner = self._runner, None
        self._followed.clear()
        self._pieces.clear()
        if runner is not None:
            runner.stop()

    def follow(
        self,
        pieces: Sequence[Slice],
        region_of: Callable[[str], Path],
        devices: Sequence[Device],
    ) -> None:
        """Have the arbiter know the slices that there are, and no others.

        ``faults`` then has why for each slice that it cannot know, which takes no turns; it is
        tried again the next time.
        """
        runner = self._runner
        if runner is None:
            return
        now = {piece.key: piece.created_unix_ns for piece in pieces}
        fresh = [piece for piece in pieces if not self._knows(piece)]
        with runner.gathering():
            for key in [key for key, one in self._followed.items() if now.get(key) != one.identity]:
                runner.remove(self._followed.pop(key).number)
            self._forget(pieces)
            self.faults.clear()
            for piece in fresh:
                self._take_up(runner, piece, region_of(piece.key), devices)
            self._pieces = {piece.key: piece for piece in pieces}
            self._bound_work(runner)

    def change(self, piece: Slice) -> None:
        """Have a running slice on other terms. Raises AliquotError; devices and group stay.

        Its grant has them already. A slice that the arbiter does not know yet gets them when it
        does.
        """
        one = self._followed.get(piece.key)
        if self._runner is None or one is None or one.identity != piece.created_unix_ns:
            return
        try:
            for part in piece.parts:
                terms = _terms(piece, part, one.group)
                self._runner.change(one.number, one.columns[part.uuid], terms)
            self._pieces[piece.key] = piece
            self._bound_work(self._runner)
        except (OSError, OverflowError, KeyError) as error:
            shown = piece.container.shown
            raise AliquotError(f"{shown} cannot have other terms as it runs: {error}") from error

    def accounts(self) -> Mapping[tuple[str, str], Account]:
        """Return what was counted, by a slice's key and a device's UUID."""
        if self._runner is None:
            return {}
        return {
            (key, uuid): _account(self._runner.read(one.number, column))
            for key, one in self._followed.items()
            for uuid, column in one.columns.items()
        }

    # -- inside --

    def _knows(self, piece: Slice) -> bool:
        one = self._followed.get(piece.key)
        return one is not None and one.identity == piece.created_unix_ns

    def _bound_work(self, runner: arbiter.Runner) -> None:
        """Say how much work each slice may have under way. Raises OSError."""
        highest: dict[str, int] = {}
        for piece in self._pieces.values():
            for part in () if piece.native else piece.parts:
                highest[part.uuid] = max(part.priority, highest.get(part.uuid, part.priority))
        for key, one in self._followed.items():
            piece = self._pieces[key]
            for part in () if piece.native else piece.parts:
                window_us = policies.window_us(piece.policy)
                if part.priority < highest[part.uuid]:
                    window_us //= _BELOW
                if part.uuid in one.columns:
                    runner.write_window(one.number, one.columns[part.uuid], window_us)

    def _forget(self, pieces: Sequence[Slice]) -> None:
        """Give back the numbers of devices and groups that nobody has any more."""
        uuids = {part.uuid for piece in pieces for part in piece.parts}
        groups = {_group(piece) for piece in pieces}
        self._devices = {uuid: one for uuid, one in self._devices.items() if uuid in uuids}
        self._groups = {name: one for name, one in self._groups.items() if name in groups}

    def _take_up(
        self, runner: arbiter.Runner, piece: Slice, folder: Path, devices: Sequence[Device]
    ) -> None:
        try:
            self._followed[piece.key] = self._joined(runner, piece, folder, devices)
        except (region.RegionError, OSError) as error:
            self.faults[piece.key] = fault_of(folder, error)
        except OverflowError as error:
            self.faults[piece.key] = Fault(f"{folder}: terms out of range: {error}")

    def _joined(
        self, runner: arbiter.Runner, piece: Slice, folder: Path, devices: Sequence[Device]
    ) -> _Followed:
        """Raises region.RegionError, OSError, OverflowError."""
        with contextlib.ExitStack() as stack:
            grant = open_grant(folder / "grant", piece, devices)
            stack.callback(os.close, grant.fd)
            usage, bell = stack.enter_context(_opened(folder))
            names = {column: uuid for uuid, column in grant.columns.items()}
            if len(names) != grant.device_count:
                raise region.RegionError(f"{folder / 'grant'} is of other devices")
            uuids = [names[column] for column in range(grant.device_count)]
            parts = {part.uuid: part for part in piece.parts}
            group = self._group_number(piece)
            number = runner.add(
                grant.fd,
                usage,
                bell,
                [self._device_number(uuid) for uuid in uuids],
                [_terms(piece, parts[uuid], group) for uuid in uuids],
            )
        return _Followed(number, piece.created_unix_ns, grant.columns, group)

    def _device_number(self, uuid: str) -> int:
        """Raises region.RegionError when there are more devices than the arbiter has room for."""
        if uuid not in self._devices:
            taken = set(self._devices.values())
            free = next((one for one in range(arbiter.MAX_DEVICES) if one not in taken), None)
            if free is None:
                raise region.RegionError(
                    f"{uuid} is one device more than {arbiter.MAX_DEVICES}: it takes no turns"
                )
            self._devices[uuid] = free
        return self._devices[uuid]

    def _group_number(self, piece: Slice) -> int:
        if not piece.group:
            return 0
        name = _group(piece)
        if name not in self._groups:
            self._groups[name] = next(self._numbers)
        return self._groups[name]


@contextlib.asynccontextmanager
async def share(node: Node, sharing: Sharing) -> AsyncIterator[None]:
    """Share out the devices among the node's slices for as long as the block lasts.

    Raises AliquotError when the arbiter cannot run.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    news.set()

    def changed() -> None:
        loop.call_soon_threadsafe(news.set)

    async def run() -> None:
        told: dict[str, str] = {}
        again = True
        while True:
            alarm = loop.call_later(_AGAIN_SECONDS, news.set) if again else None
            await news.wait()
            news.clear()
            if alarm:
                alarm.cancel()
            try:
                told = _follow(node, sharing, told)
            except Exception:  # noqa: BLE001 - see below
                # One that fails must not be the last: containers that come wait for their turns.
                _LOG.exception("slices could not be followed, which never should be")
                again = True
            else:
                again = bool(sharing.faults)

    sharing.start()
    unwatch = node.ledger.watch(changed)
    task = loop.create_task(run())
    try:
        # Containers that run are known before anybody else comes.
        _follow(node, sharing, {})
        yield
    finally:
        unwatch()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sharing.close()


def _follow(node: Node, sharing: Sharing, told: dict[str, str]) -> dict[str, str]:
    """Follow the ledger, and tell the faults that are not ``told`` yet; returns those of now."""
    pieces = node.ledger.slices()
    sharing.follow(pieces, node.ledger.region, node.devices)
    names = {piece.key: piece.container.shown for piece in pieces}
    # What is only about to end has nothing wrong with it.
    faults = {key: one.text for key, one in sharing.faults.items() if not one.gone}
    for key, text in faults.items():
        if told.get(key) != text:
            _LOG.warning("%s", region.printable(f"{names[key]} takes no turns: {text}"))
    return faults


def _terms(piece: Slice, part: Part, group: int) -> arbiter.Terms:
    return arbiter.Terms(
        cores_min=part.cores * 10,
        cores_max=part.cores_max * 10,
        weight=part.weight,
        priority=part.priority,
        quiet_ns=piece.quiet_ms * _MS,
        floor=piece.floor * 10,
        group=group,
        native=piece.native or part.enforcement == PARTITION,
    )


def _group(piece: Slice) -> tuple[str, str]:
    """Groups of the same name in two namespaces have nothing to do with each other."""
    return piece.container.namespace, piece.group


def _account(row: arbiter.Account) -> Account:
    return Account(
        held_seconds=row.held_ns / 1e9,
        split_seconds=row.split_ns / 1e9,
        wanted_seconds=row.wanted_ns / 1e9,
        turns=row.turns,
        overruns=row.overruns,
        preempted=row.preempted,
        wanted=row.wanted,
        received=row.received,
    )


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[tuple[int, int | None]]:
    """Open ``usage`` and ``bell`` of a region, None where it has no bell. Raises OSError."""
    with contextlib.ExitStack() as stack:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        dirfd = os.open(folder, flags)
        stack.callback(os.close, dirfd)
        usage = open_inside(dirfd, "usage")
        stack.callback(os.close, usage)
        # For writing too: so it never comes to its end when those who ring have gone.
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
        try:
            bell = os.open(region.BELL, flags, dir_fd=dirfd)
        except FileNotFoundError:
            yield usage, None
            return
        stack.callback(os.close, bell)
        if not stat.S_ISFIFO(os.fstat(bell).st_mode):
            raise region.RegionError(f"{folder / region.BELL} is no FIFO")
        yield usage, bell
