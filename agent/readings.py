"""Reads devices and slices again and again, and tells each container what was seen of it.

A round looks at every slice's ``usage``, then asks the vendors, then looks once more at the slices
of which a device shows more than they charged. Memory that no process has charged is *unseen*. A
process charges before it takes memory and gives it back before it is discharged, so what it holds
is never more than its charge at that moment; but the device's account and ours are not of one
moment. So the larger of the two charges counts, and of two rounds the smaller difference.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from aliquot.shim import region

from .devices import (
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    UntoldError,
    Vendor,
    VendorError,
)
from .grants import Fault, Grant, Grants
from .meters import Meters
from .sharing import Account
from .slices import Part, Slice
from .snapshot import DeviceReading, PartReading, SliceReading, Snapshot

# The ledger is asked in the event loop; others must have their turn between so many questions.
_QUESTIONS_AT_ONCE: Final = 8

_MOST_GROUPS_BYTES: Final = 65536

_LOG: Final = logging.getLogger(__name__)
_T = TypeVar("_T")
_Number = TypeVar("_Number", int, float)


class Books(Protocol):
    """What is read of the ledger; asked in the event loop only."""

    def slices(self) -> tuple[Slice, ...]:
        """Return all slices."""
        ...

    def region(self, key: str) -> Path:
        """Return the folder with a slice's ``grant`` and ``usage``."""
        ...

    def of_pid(self, pid: int) -> Slice | None:
        """Return the slice that a process of the node runs in."""
        ...


class Settings(Protocol):
    """What of the configuration concerns readings."""

    @property
    def sample_seconds(self) -> float:
        """How long there is between two rounds."""
        ...


class Node(Protocol):
    """What readings need of the agent. ``unhealthy`` is written: reasons by a device's UUID."""

    @property
    def devices(self) -> Sequence[Device]:
        """The devices of the node."""
        ...

    @property
    def vendors(self) -> Sequence[Vendor]:
        """The vendors that they come from."""
        ...

    @property
    def unhealthy(self) -> MutableMapping[str, str]:
        """Why devices cannot be used, by UUID."""
        ...

    @property
    def ledger(self) -> Books:
        """The slices."""
        ...

    @property
    def config(self) -> Settings:
        """The configuration."""
        ...


@dataclass(slots=True)
class _Look:
    """What the blocking half of a round found.

    ``groups`` has what /proc/PID/cgroup says of each process, nothing of those that have ended;
    ``listed`` are the vendors whose lists of processes are whole but for the devices that are
    ``unlisted``, ``unwell`` those that cannot
    even tell their devices' health. ``partitions`` are those that slices have, by device and name.
    """

    usages: dict[str, region.Usage | Fault]
    processes: list[DeviceProcess] = field(default_factory=list)
    groups: dict[int, bytes] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    partitions: dict[tuple[str, str], Partition] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    unwell: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def lists(self, part: Part) -> bool:
        """Whether the processes on a device are known, be they none."""
        return part.vendor in self.listed and part.uuid not in self.unlisted


# Key and cgroups of a slice.
_Owner = tuple[str, tuple[str, ...]]
Held = Mapping[tuple[str, str], Sequence[DeviceProcess]]
# What the arbiter counted, by slice and device.
Accounts = Mapping[tuple[str, str], Account]


class Readings:
    """The sampler of one agent; all but the blocking calls happen in its event loop."""

    def __init__(self, node: Node, accounts: Callable[[], Accounts] = dict) -> None:
        """Nothing is read before ``run`` or ``sample``.

        ``accounts`` is asked in the event loop whenever somebody wants to know; without an arbiter
        there are none.
        """
        self._node = node
        self._accounts = accounts
        self._grants = Grants()
        self._meters = Meters()
        self._sampled_unix: float | None = None
        self._samples: dict[str, Sample] = {}
        self._slices: dict[str, SliceReading] = {}
        # Uncharged bytes in the last round, by slice and device.
        self._uncharged: dict[tuple[str, str], int] = {}
        # Slices by the cgroups of their processes: who is in the same cgroups is of the same slice,
        # and the ledger need not be asked again while the slice stays what it is.
        self._owners: dict[bytes, _Owner | None] = {}
        self._owners_of: frozenset[_Owner] = frozenset()
        self._faults: dict[str, str] = {}
        # Slices of which something was not there in the last round.
        self._gone: set[str] = set()
        self._vendor_faults: tuple[str, ...] = ()

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            await self._sample_again()
        finally:
            self._grants.close()

    async def _sample_again(self) -> None:
        loop = asyncio.get_running_loop()
        due, failure = loop.time(), ""
        while True:
            try:
                await self.sample()
            except Exception as error:  # noqa: BLE001 - see below
                # One round that fails must not be the last, nor is a fault that stays told each
                # time.
                if repr(error) != failure:
                    _LOG.exception("a reading failed, which it never should")
                failure = repr(error)
            # What took too long is not caught up with.
            due = max(due + self._node.config.sample_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    def _follow(self) -> tuple[Slice, ...]:
        """Open what is new, close what is gone; returns the slices of now."""
        pieces = self._node.ledger.slices()
        self._grants.follow(pieces, self._node.ledger.region, self._node.devices)
        return pieces

    # -- a round --

    async def sample(self) -> None:
        """Take one round of readings and tell each container what was seen of it."""
        pieces = self._follow()
        targets = {piece.key: grant for piece in pieces if (grant := self._grants.get(piece.key))}
        divided = {part.vendor for piece in pieces for part in piece.parts if part.partition}
        look = await asyncio.to_thread(_look, targets, tuple(self._node.vendors), divided)
        held = await self._by_slice(look, pieces)
        doubtful = {
            piece.key: targets[piece.key]
            for piece in pieces
            if self._shows_more(piece, look.usages.get(piece.key), held)
        }
        later = await asyncio.to_thread(_read_all, doubtful) if doubtful else {}
        # Those that have ended meanwhile are no one's concern any more.
        left = {(piece.key, piece.created_unix_ns) for piece in self._node.ledger.slices()}
        pieces = tuple(piece for piece in pieces if (piece.key, piece.created_unix_ns) in left)
        self._settle(pieces, look, later, held)

    async def _by_slice(self, look: _Look, pieces: Sequence[Slice]) -> Held:
        """Return the processes by slice and device; those of nobody are left out."""
        now = frozenset((piece.key, piece.cgroups) for piece in pieces)
        # Whoever belonged to nobody may belong to a slice that is new.
        known = {
            groups: owner
            for groups, owner in self._owners.items()
            if (now == self._owners_of if owner is None else owner in now)
        }
        self._owners, self._owners_of = {}, now
        held: dict[tuple[str, str], list[DeviceProcess]] = {}
        asked = 0
        for process in look.processes:
            groups = look.groups.get(process.pid)
            if not groups:
                continue
            if groups in self._owners:
                owner = self._owners[groups]
            elif groups in known:
                owner = self._owners[groups] = known[groups]
            else:
                asked += 1
                if asked % _QUESTIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                piece = self._node.ledger.of_pid(process.pid)
                owner = None if piece is None else (piece.key, piece.cgroups)
                # Unless the pid has become another's meanwhile.
                if _groups_of(process.pid) == groups:
                    self._owners[groups] = owner
            if owner is not None:
                held.setdefault((owner[0], process.uuid), []).append(process)
        return held

    def _shows_more(self, piece: Slice, usage: region.Usage | Fault | None, held: Held) -> bool:
        grant = self._grants.get(piece.key)
        if grant is None or not isinstance(usage, region.Usage):
            return False
        for uuid, column in grant.columns.items():
            rows = held.get((piece.key, uuid), ())
            seen = _known_sum(row.memory_bytes for row in rows)
            if seen is not None and seen > usage.charge(column):
                return True
        return False

    def _settle(
        self,
        pieces: Sequence[Slice],
        look: _Look,
        later: Mapping[str, region.Usage | Fault],
        held: Held,
    ) -> None:
        """Take what was found for true, and tell the containers."""
        uncharged: dict[tuple[str, str], int] = {}
        gone: set[str] = set()
        self._slices = {}
        self._meters.keep(pieces)
        now_unix_ns = time.time_ns()
        for piece in pieces:
            grant = self._grants.get(piece.key)
            found = [looked[piece.key] for looked in (look.usages, later) if piece.key in looked]
            usages = [usage for usage in found if isinstance(usage, region.Usage)]
            wrong = next((usage for usage in found if isinstance(usage, Fault)), None)
            wrong = wrong or self._grants.faults.get(piece.key)
            fault = ""
            if wrong is not None:
                usages = []
                # What is only about to end has nothing wrong with it.
                fault = "" if wrong.gone and piece.key not in self._gone else wrong.text
                if wrong.gone:
                    gone.add(piece.key)
            parts = []
            for part in piece.parts:
                place = piece.key, part.uuid
                column = None if grant is None else grant.columns.get(part.uuid)
                used = None
                if usages and column is not None:
                    used = self._meters.read(
                        piece, part.uuid, usages[-1].devices[column], now_unix_ns
                    )
                reading, difference = _account(
                    part,
                    column,
                    usages,
                    used,
                    held.get(place, ()) if look.lists(part) else None,
                    self._uncharged.get(place),
                    look.partitions.get((part.uuid, piece.key)) if part.partition else None,
                )
                if difference is not None:
                    uncharged[place] = difference
                fault = fault or self._tell(piece, reading)
                parts.append(replace(reading, gate=self._gate(*place)))
            newest = usages[-1] if usages else None
            self._slices[piece.key] = SliceReading(
                piece=piece,
                parts=tuple(parts),
                processes=_in_order(newest.processes, piece, grant) if newest and grant else (),
                unknown_functions=newest.unknown_functions if newest else None,
                fault=fault,
            )
        self._uncharged, self._gone, self._samples = uncharged, gone, look.samples
        self._sampled_unix = time.time()
        self._note_health(look)
        self._complain(look.faults)

    def _tell(self, piece: Slice, reading: PartReading) -> str:
        """Write into the grant what was seen; returns why that was not possible."""
        try:
            self._grants.write(
                piece.key,
                reading.part.uuid,
                unclaimed=reading.unseen_bytes,
                busy=reading.busy,
                memory_busy=reading.memory_busy,
            )
        except OSError as error:
            return f"its grant cannot be written: {error.strerror}"
        return ""

    def _gate(self, key: str, uuid: str) -> str | None:
        try:
            return self._grants.gate(key, uuid)
        except OSError:
            return None

    def _note_health(self, look: _Look) -> None:
        """Write down which devices cannot be used; who told nothing stays as it was."""
        unhealthy = self._node.unhealthy
        for health in look.health.values():
            if health.healthy:
                unhealthy.pop(health.uuid, None)
            else:
                unhealthy[health.uuid] = health.reason
        for device in self._node.devices:
            if device.vendor in look.unwell:
                unhealthy[device.uuid] = look.unwell[device.vendor]

    def _complain(self, vendors: Mapping[str, str]) -> None:
        """Log each fault when it appears or changes, not in each round that it lasts."""
        faults = dict(vendors)
        for key, reading in self._slices.items():
            if reading.fault:
                faults[key] = f"{reading.piece.container.shown}: {reading.fault}"
        for key, text in faults.items():
            if self._faults.get(key) != text:
                _LOG.warning("%s", region.printable(text))
        self._faults, self._vendor_faults = faults, tuple(vendors.values())

    # -- what came of it --

    def latest(self) -> Snapshot:
        """Return what is known now: the ledger as it is, with the readings of the last round."""
        pieces = self._node.ledger.slices()
        accounts = self._accounts()
        slices = []
        for piece in pieces:
            known = self._slices.get(piece.key)
            if known is None or known.piece.created_unix_ns != piece.created_unix_ns:
                known = SliceReading(piece, ())
            readings = {reading.part.uuid: reading for reading in known.parts}
            parts = tuple(
                replace(
                    readings.get(part.uuid, PartReading(part)),
                    part=part,
                    account=accounts.get((piece.key, part.uuid)),
                )
                for part in piece.parts
            )
            slices.append(replace(known, piece=piece, parts=parts))
        return Snapshot(
            sampled_unix=self._sampled_unix,
            devices=tuple(self._of_device(device, pieces) for device in self._node.devices),
            slices=tuple(slices),
            faults=self._vendor_faults,
        )

    def _of_device(self, device: Device, pieces: Sequence[Slice]) -> DeviceReading:
        parts = [part for piece in pieces if (part := piece.part(device.uuid)) is not None]
        reason = self._node.unhealthy.get(device.uuid)
        return DeviceReading(
            device=device,
            sample=self._samples.get(
                device.uuid, Sample(device.uuid, None, None, None, None, None)
            ),
            health=Health(device.uuid, reason is None, reason or ""),
            memory_allocated_bytes=sum(part.memory_bytes for part in parts),
            cores_allocated=sum(part.cores for part in parts),
            slices=len(parts),
        )


# -- one slice on one device -----------------------------------------------------------------------


def _account(
    part: Part,
    column: int | None,
    usages: Sequence[region.Usage],
    used: region.UsedDevice | None,
    rows: Sequence[DeviceProcess] | None,
    before: int | None,
    partition: Partition | None,
) -> tuple[PartReading, int | None]:
    """Return what a slice made of a device, and what of it was uncharged in this round.

    ``usages`` are its own account, before and where needed after the device's; empty when it
    cannot be read. ``used`` is what of its counters is believed, None when there are none. ``rows``
    are its processes by the device's account, None when that failed; ``before`` is what was
    uncharged in the last round. Of what its ``partition``'s driver says that it uses, and what its
    processes are seen to use, it is the larger: neither knows of all at any moment.
    """
    seen = busy = memory_busy = None
    if rows is not None:
        # Who is not on the device holds nothing and keeps nothing busy.
        seen = _known_sum(row.memory_bytes for row in rows) if rows else 0
        busy = _known_share(row.busy for row in rows) if rows else 0.0
        memory_busy = _known_share(row.memory_busy for row in rows) if rows else 0.0
    if partition is not None:
        seen = _larger(seen, partition.used_bytes)
        busy = _larger(busy, partition.busy)
    listed = None if rows is None else len({row.pid for row in rows})
    if column is None or used is None:
        return PartReading(
            part, seen_bytes=seen, processes=listed, busy=busy, memory_busy=memory_busy
        ), None
    newest = usages[-1]
    uncharged = unseen = None
    if seen is not None:
        uncharged = max(0, seen - max(usage.charge(column) for usage in usages))
        unseen = min(uncharged, before) if before is not None else None if uncharged else 0
    return PartReading(
        part=part,
        charged_bytes=newest.charge(column),
        seen_bytes=seen,
        unseen_bytes=unseen,
        peak_bytes=used.peak,
        refusals=used.refusals,
        processes=max(sum(1 for p in newest.processes if p.charges[column]), listed or 0),
        busy=busy,
        memory_busy=memory_busy,
        device_seconds=used.device_ns / 1e9,
        wait_seconds=used.wait_ns / 1e9,
        waits=used.waits,
        let_through=used.let_through,
    ), uncharged


def _larger(one: _Number | None, other: _Number | None) -> _Number | None:
    """Return the larger of two that are known, or the one that is."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _in_order(
    processes: tuple[region.Process, ...], piece: Slice, grant: Grant
) -> tuple[region.Process, ...]:
    """Return processes with their charges in the order of the slice's parts."""
    columns = [grant.columns.get(part.uuid) for part in piece.parts]
    if columns == list(range(grant.device_count)):
        return processes
    return tuple(
        replace(
            process,
            charges=tuple(0 if column is None else process.charges[column] for column in columns),
        )
        for process in processes
    )


def _known_sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _known_share(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(1.0, sum(known)) if known else None


# -- what blocks -----------------------------------------------------------------------------------


def _look(
    targets: Mapping[str, Grant], vendors: Sequence[Vendor], divided: Collection[str]
) -> _Look:
    """Read all usages, then ask all vendors: in a thread of its own.

    ``divided`` are the vendors of whose devices slices have partitions.
    """
    look = _Look(_read_all(targets))
    for vendor in vendors:
        # Closest to the usages: between the two accounts as little as can be is to happen.
        rows = _ask(vendor, "processes", vendor.processes, look.faults)
        if rows is not None:
            look.listed.add(vendor.name)
            # (Vendors from before there was that list all their devices'.)
            look.unlisted.update(getattr(vendor, "unlisted", ()))
            look.processes += rows
        if vendor.name in divided:
            parts = _ask(vendor, "partitions", vendor.partitions, look.faults)
            look.partitions.update({(one.uuid, one.name): one for one in parts or ()})
    look.groups = {pid: _groups_of(pid) for pid in {row.pid for row in look.processes}}
    for vendor in vendors:
        samples = _ask(vendor, "readings", vendor.sample, look.faults)
        look.samples.update({sample.uuid: sample for sample in samples or ()})
        health = _ask(vendor, "health", vendor.health, look.faults)
        if health is None:
            look.unwell[vendor.name] = look.faults[f"{vendor.name} health"]
        look.health.update({one.uuid: one for one in health or ()})
    return look


def _ask(
    vendor: Vendor, what: str, question: Callable[[], Sequence[_T]], faults: dict[str, str]
) -> Sequence[_T] | None:
    """Ask a vendor something; when it fails, ``faults`` says why and the answer is None."""
    found: Sequence[_T] | None = None
    try:
        return question()
    except UntoldError as error:
        text = str(error)
        found = error.found  # type: ignore[assignment] # it is partitions that were asked for
    except VendorError as error:
        text = str(error)
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        text = f"its plug-in failed: {type(error).__name__}: {error}: mend or remove it"
    faults[f"{vendor.name} {what}"] = " ".join(f"{vendor.name} tells no {what}: {text}".split())
    return found


def _groups_of(pid: int) -> bytes:
    """Return what the kernel says of the cgroups of a process, nothing when it has ended."""
    try:
        fd = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MOST_GROUPS_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_all(targets: Mapping[str, Grant]) -> dict[str, region.Usage | Fault]:
    return {key: _read(target) for key, target in targets.items()}


def _read(target: Grant) -> region.Usage | Fault:
    """Read the usage file beside a grant, or say why it cannot be read."""
    path = f"{target.folder}/usage"
    try:
        # Opened anew each time: so it is found out when it has gone. Whatever else is in its place
        # is neither followed nor waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return region.read_usage(fd, path, target.device_count)
        finally:
            os.close(fd)
    except region.RegionError as error:
        return Fault(str(error))
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        return Fault(text, gone=isinstance(error, FileNotFoundError))
