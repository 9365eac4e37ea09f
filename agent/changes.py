"""Changes of slices that are there: their numbers and caps, while their programs run.

A change is decided as a whole and written down first; then the container is told, by its grant, and
the arbiter. An agent that ends in between finds in the ledger what is to be, and `agree` makes the
grants so when the next one starts.

Ceilings of the configuration are for what containers ask for. Who may change a slice is root, and
only what others have been promised stands against him.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aliquot.shim import region

from . import policies
from .config import Shares
from .devices import Device
from .errors import AliquotError, BadRequestError
from .grants import Grant, open_grant
from .keeper import Keeper
from .ledger import Ledger
from .placement import check_room
from .policies import BURST_SHARE, NATIVE, POLICIES
from .sizes import Size, format_size
from .slices import FIRM, PARTITION, Part, Slice

_SHORTEST: Final = 12
_MOST_CANDIDATES: Final = 8
_MOST_NAME: Final = 1024
_log: Final = logging.getLogger(__name__)

PARSERS: Final[Mapping[str, Callable[[str, str], int]]] = {
    "cores": lambda text, origin: policies.parse_cores(text, origin, 0),
    "cores-max": policies.parse_cores,
    "weight": policies.parse_weight,
    "priority": policies.parse_priority,
    "quiet": policies.parse_quiet,
    "floor": policies.parse_floor,
}
"""How the numbers that can be changed are read, by their keys."""

# What a slice has once, and not for each device.
_OF_THE_SLICE: Final = ("policy", "quiet", "floor")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be other than it is.

    ``container`` is an id, the beginning of one, or a name as `aliquot ps` shows it; ``device`` the
    beginning of the UUID of one of its devices, empty for all. ``numbers`` are by the keys of
    ``PARSERS``; what is not said stays.
    """

    container: str
    device: str = ""
    memory: Size | None = None
    policy: str | None = None
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changed:
    """A slice as it is now; ``notes`` are what whoever changed it should know, a line each."""

    piece: Slice
    notes: tuple[str, ...] = ()


class Settings(Protocol):
    """What of the configuration concerns changes."""

    @property
    def sharing(self) -> Shares:
        """How time is shared out."""
        ...


class Node(Protocol):
    """What changes need of the agent."""

    @property
    def ledger(self) -> Ledger:
        """The slices."""
        ...

    @property
    def keeper(self) -> Keeper:
        """Who watches over them."""
        ...

    @property
    def devices(self) -> Sequence[Device]:
        """The devices of the node."""
        ...

    @property
    def config(self) -> Settings:
        """The configuration."""
        ...

    def retold(self, piece: Slice) -> None:
        """Tell the arbiter what a slice has now. Raises AliquotError."""
        ...


class Changes:
    """Changes slices, in the event loop of an agent."""

    def __init__(self, node: Node) -> None:
        """Nothing is read before ``change``."""
        self._node = node
        self._under_way: set[asyncio.Task[Changed]] = set()

    async def change(self, wish: Wish) -> Changed:
        """Change a slice, all that is wished or nothing. Raises AliquotError, one line.

        Whoever asks may go away: what was begun is brought to its end.
        """
        task = asyncio.get_running_loop().create_task(self._find_and_change(wish))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _find_and_change(self, wish: Wish) -> Changed:
        wish = checked(wish)
        key = find(self._node.ledger.slices(), wish.container).key
        async with self._node.keeper.locked(key):
            before = self._node.ledger.get(key)
            if before is None:
                raise AliquotError(f"container {_short(wish.container)} has just ended")
            return await self._change(before, wish)

    async def _change(self, before: Slice, wish: Wish) -> Changed:
        node, shown = self._node, before.container.shown
        known = {device.uuid: device for device in node.devices}
        fresh = _as_wished(before, wish, known, node.config.sharing.max_containers)
        others = [piece for piece in node.ledger.reserved(node.devices) if piece.key != before.key]
        for new, old in zip(fresh.parts, before.parts, strict=True):
            check_room(new, old, known.get(new.uuid), others, shown)
        path = node.ledger.region(before.key) / "grant"
        try:
            grant = open_grant(path, before, node.devices)
        except (OSError, region.RegionError) as error:
            raise AliquotError(f"container {shown}: {_text(error)}") from error
        try:
            fresh = await self._write(before, fresh, grant)
            notes = _notes(before, fresh, grant)
        finally:
            os.close(grant.fd)
        _log.info("container %s has now %s", shown, "; ".join(map(told, fresh.parts)))
        return Changed(fresh, notes)

    async def _write(self, before: Slice, fresh: Slice, grant: Grant) -> Slice:
        """Write a change down, and tell everybody; returns what came of it.

        Raises AliquotError; then it is as before.
        """
        node = self._node
        # From the look for room up to here nobody else had a turn. While drivers are told, the
        # larger of each two caps is reserved, so that neither can be given away.
        self._keep(_larger(before, fresh))
        try:
            fresh = await node.keeper.change_limits(before, fresh)
            try:
                self._keep(fresh)
                _tell(grant, fresh)
                node.retold(fresh)
            except (AliquotError, OSError):
                await node.keeper.change_limits(fresh, before)
                raise
        except (AliquotError, OSError) as error:
            self._undo(before, grant)
            if isinstance(error, AliquotError):
                raise
            raise AliquotError(f"container {before.container.shown}: {_text(error)}") from error
        return fresh

    def _undo(self, before: Slice, grant: Grant) -> None:
        """Have all know a slice as it was. Raises AliquotError when that is not written down."""
        self._keep(before)
        try:
            _tell(grant, before)
            self._node.retold(before)
        except (AliquotError, OSError) as error:
            _log.warning("container %s: %s", before.container.shown, _text(error))

    def _keep(self, piece: Slice) -> None:
        if self._node.ledger.get(piece.key) != piece:
            self._node.ledger.replace(piece)
            # Whose slice is another one from now on is watched as that.
            self._node.keeper.hold(piece)


def checked(wish: Wish) -> Wish:
    """Return a wish with its policy by name. Raises BadRequestError for what can be none."""
    if len(wish.container) > _MOST_NAME or len(wish.device) > _MOST_NAME:
        raise BadRequestError("no container or device has so long a name")
    for key, value in wish.numbers.items():
        PARSERS[key](str(value), f"--{key}")
    if wish.policy is not None:
        return dataclasses.replace(wish, policy=policies.parse_policy(wish.policy, "--policy"))
    if wish.memory is None and not wish.numbers:
        raise BadRequestError(
            "nothing is to be changed: add --memory, --policy, "
            f"{', '.join(f'--{key}' for key in PARSERS)}"
        )
    return wish


def find(pieces: Sequence[Slice], name: str) -> Slice:
    """Return the slice that ``name`` means. Raises AliquotError when it is none, or several."""
    found = [
        piece for piece in pieces if name in (piece.key, piece.container.id, piece.container.shown)
    ] or [piece for piece in pieces if piece.key.startswith(name)]
    if not found or not name:
        raise AliquotError(
            f"no container '{_short(name)}' has a slice: see aliquot ps "
            "(what aliquot run started stays as it is)"
        )
    if len(found) > 1:
        keys = [piece.key for piece in found]
        digits = next(
            (n for n in range(_SHORTEST, 256) if len({key[:n] for key in keys}) == len(keys)), 256
        )
        names = [
            f"{piece.key[:digits]} ({piece.container.shown})" for piece in found[:_MOST_CANDIDATES]
        ]
        more = f", and {len(found) - len(names)} more" if len(found) > len(names) else ""
        raise AliquotError(
            f"'{_short(name)}' may be several containers, name one: {', '.join(names)}{more}"
        )
    return found[0]


def agree(ledger: Ledger) -> tuple[str, ...]:
    """Make the grant of each slice say what the ledger has; returns a line for each that cannot.

    They differ where an agent ended in the middle of a change.
    """
    faults: list[str] = []
    for piece in ledger.slices():
        try:
            tell(ledger, piece)
        except (OSError, region.RegionError) as error:  # noqa: PERF203 - one is no other's affair
            faults.append(f"container {piece.container.shown}: {_text(error)}")
    return tuple(faults)


def tell(ledger: Ledger, piece: Slice) -> None:
    """Write into a slice's grant what the slice has. Raises OSError, region.RegionError."""
    grant = open_grant(ledger.region(piece.key) / "grant", piece, ())
    try:
        _tell(grant, piece)
    finally:
        os.close(grant.fd)


def told(part: Part) -> str:
    """Return what a slice has of one device, for people."""
    least = "" if part.cores == part.cores_max else f"{part.cores} to "
    return (
        f"{format_size(part.memory_bytes)} and {least}{part.cores_max}% of {part.uuid}, "
        f"weight {part.weight}, priority {part.priority}"
    )


# -- What is to be -------------------------------------------------------------------------------


def _as_wished(
    before: Slice, wish: Wish, known: Mapping[str, Device], max_containers: int
) -> Slice:
    """Return the slice as it is to be. Raises AliquotError."""
    chosen = _chosen(before, wish)
    parts: list[Part] = []
    policy = before.policy
    for part in before.parts:
        if part.uuid not in chosen:
            parts.append(part)
            continue
        if part.enforcement == PARTITION:
            parts.append(_resized(part, wish, known.get(part.uuid), before.container.shown))
            continue
        settled = _settled(before.policy, part, wish, max_containers)
        policy = settled.policy
        cores = settled.cores or 0
        parts.append(
            dataclasses.replace(
                part,
                memory_bytes=_memory(part, wish, known.get(part.uuid), before.container.shown),
                cores=cores,
                cores_max=settled.cores_max or policies.most_cores(policy, cores),
                weight=settled.weight or 100,
                priority=0 if policy == NATIVE else wish.numbers.get("priority", part.priority),
            )
        )
    return dataclasses.replace(
        before,
        parts=tuple(parts),
        policy=policy,
        quiet_ms=wish.numbers.get("quiet", before.quiet_ms),
        floor=wish.numbers.get("floor", before.floor),
        native=policy == NATIVE,
    )


def _resized(part: Part, wish: Wish, device: Device | None, shown: str) -> Part:
    """Return a partition as it is wished. Raises BadRequestError for what it has not."""
    if wish.policy is not None:
        raise BadRequestError(
            f"--policy: what {shown} has of {part.uuid} is a partition, which takes no turns"
        )
    if "cores-max" in wish.numbers:
        raise BadRequestError(
            f"--cores-max: what {shown} has of {part.uuid} is a partition, which has all of its "
            "cores always: change --cores"
        )
    cores = wish.numbers.get("cores", part.cores)
    return dataclasses.replace(
        part,
        memory_bytes=_memory(part, wish, device, shown),
        cores=cores,
        cores_max=max(cores, 1),
        weight=wish.numbers.get("weight", part.weight),
        priority=wish.numbers.get("priority", part.priority),
    )


def _chosen(piece: Slice, wish: Wish) -> set[str]:
    """Return the UUIDs of the devices that a wish is about. Raises BadRequestError."""
    beginning = wish.device.lower()
    chosen = {
        part.uuid
        for part in piece.parts
        if part.uuid.lower().startswith(beginning)
        or part.uuid.lower().partition("-")[2].startswith(beginning)
    }
    shown = piece.container.shown
    if wish.device and len(chosen) != 1:
        what = "none of" if not chosen else "several of"
        raise BadRequestError(
            f"--device: '{_short(wish.device)}' is {what} the devices of {shown}: "
            f"{', '.join(part.uuid for part in piece.parts)}"
        )
    said = {"policy": wish.policy, **wish.numbers}
    whole = [key for key in _OF_THE_SLICE if said.get(key) is not None]
    if whole and len(chosen) < len(piece.parts):
        raise BadRequestError(
            f"--{whole[0]}: is for all devices of {shown} together: leave --device out"
        )
    return chosen


def _settled(policy: str, part: Part, wish: Wish, max_containers: int) -> policies.Numbers:
    """Return what a part's numbers are to be. Raises BadRequestError."""
    said = dict(wish.numbers)
    name = wish.policy or policy
    known = POLICIES.get(name)
    if known is None or (
        # The node's own policy may be a fixed share, and the container have said none.
        wish.policy is None and known.fixed and not part.cores and "cores" not in said
    ):
        name = BURST_SHARE
    rules = POLICIES[name]
    stays = {"cores": part.cores}
    if wish.policy is None:
        stays["cores-max"] = part.cores_max
    if not rules.weighted or (wish.policy is None and "cores" not in said):
        stays["weight"] = part.weight
    for key, value in stays.items():
        if key not in rules.sets:
            said.setdefault(key, value)
    return policies.settle(name, said, lambda key: f"--{key}", max_containers, named=True)


def _memory(part: Part, wish: Wish, device: Device | None, shown: str) -> int:
    if wish.memory is None:
        return part.memory_bytes
    if device is None:
        if wish.memory.percent:
            raise AliquotError(f"{shown}: how much {part.uuid} has is not known: write bytes")
        return wish.memory.of(0)
    size = wish.memory.of(device.memory_bytes)
    if size < device.page_bytes:
        raise BadRequestError(
            f"--memory: {wish.memory.text} is less than {part.uuid} gives at a time: "
            f"{format_size(device.page_bytes)}"
        )
    return size


# -- Telling -------------------------------------------------------------------------------------


def _larger(before: Slice, fresh: Slice) -> Slice:
    """Return what is to be, with the larger of all that can be given away.

    That is the same where no driver is to hold another cap than before.
    """
    pairs = tuple(zip(before.parts, fresh.parts, strict=True))
    if all(
        new.enforcement not in FIRM
        or (new.memory_bytes, new.cores) == (old.memory_bytes, old.cores)
        for old, new in pairs
    ):
        return fresh
    parts = tuple(
        dataclasses.replace(
            new,
            memory_bytes=max(old.memory_bytes, new.memory_bytes),
            cores=max(old.cores, new.cores),
            cores_max=max(old.cores_max, new.cores_max),
        )
        for old, new in pairs
    )
    return dataclasses.replace(fresh, parts=parts)


def _tell(grant: Grant, piece: Slice) -> None:
    """Raises OSError."""
    for part in piece.parts:
        column = grant.columns.get(part.uuid)
        if column is None:
            raise OSError(f"{grant.folder}/grant does not have {part.uuid}")
        region.write_cap(grant.fd, column, part.memory_bytes)
        region.write_terms(
            grant.fd,
            column,
            cores=part.cores_max,
            cores_min=part.cores,
            weight=part.weight,
            priority=part.priority,
        )


def _notes(before: Slice, fresh: Slice, grant: Grant) -> tuple[str, ...]:
    """Say of which devices a slice holds more than its new cap."""
    smaller = [
        new
        for old, new in zip(before.parts, fresh.parts, strict=True)
        if new.memory_bytes < old.memory_bytes
    ]
    if not smaller:
        return ()
    where = f"{grant.folder}/usage"
    try:
        fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            usage = region.read_usage(fd, where, grant.device_count)
        finally:
            os.close(fd)
        unclaimed = [row.unclaimed for row in region.read_grant(grant.fd, where).devices]
    except (OSError, region.RegionError) as error:
        # It is the container's own to write.
        return (f"what {fresh.container.shown} holds cannot be read: {_text(error)}",)
    notes: list[str] = []
    for part in smaller:
        column = grant.columns[part.uuid]
        held = usage.charge(column) + unclaimed[column]
        if held > part.memory_bytes:
            notes.append(
                f"{fresh.container.shown} holds {format_size(held)} of {part.uuid}, above the new "
                f"cap of {format_size(part.memory_bytes)}: nothing more is given until it frees"
            )
    return tuple(notes)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _short(text: str) -> str:
    shown = region.printable(text[:121])
    return shown if len(shown) <= 120 else f"{shown[:120]}…"
