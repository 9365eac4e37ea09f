"""What slices and devices did over time: looks one after another, and what follows from two."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .show_devices import Shown
from .survey import ENDED, Slice, SliceDevice

# No terminal is wider.
_MOST_KEPT: Final = 512

SORTS: Final = ("share", "memory", "wait", "turns", "name")


@dataclass(slots=True)
class Look:
    """What a node showed at one moment.

    ``faults`` are what could not be read, ``note`` is why there are no containers, if so.
    """

    devices: list[Shown] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks; None where one of them did not tell.

    ``mean_wait_seconds`` is of the waits that ended in between, 0 when none did.
    """

    mean_wait_seconds: float | None = None
    waits_per_second: float | None = None
    turns_per_second: float | None = None
    device_share: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A slice on one device; ``history`` are the shares that it had, the newest last."""

    piece: Slice
    device: SliceDevice
    rates: Rates
    history: Sequence[float | None]

    @property
    def share(self) -> float | None:
        """The share of the device's time that it had lately, by whoever knows best."""
        received = self.device.account.received if self.device.account else None
        shares = (received, self.device.busy, self.rates.device_share)
        return next((share for share in shares if share is not None), None)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row as it was seen last: at ``at``, with counters that were read at ``counted_at``."""

    device: SliceDevice
    at: float
    counted_at: float
    rates: Rates


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a look: devices with their history, and slices."""

    look: Look
    devices: Sequence[tuple[Shown, Sequence[float | None]]]
    rows: Sequence[Row]


class Trail:
    """Remembers looks."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._last: dict[Hashable, _Seen] = {}
        self._history: dict[Hashable, deque[float | None]] = {}

    def add(self, look: Look, now_seconds: float) -> View:
        """Take a look for the newest, made at a monotonic time."""
        last, self._last = self._last, {}
        kept: dict[Hashable, deque[float | None]] = {}

        def remember(place: Hashable, share: float | None) -> Sequence[float | None]:
            line = kept[place] = self._history.get(place) or deque(maxlen=_MOST_KEPT)
            line.append(share)
            return line

        rows = []
        for piece in look.slices:
            if piece.state == ENDED:
                continue
            for device in piece.devices:
                place = piece.path, piece.started_unix_ns, device.uuid
                counted_at = now_seconds if piece.sampled_unix is None else piece.sampled_unix
                rates = _rates(last.get(place), device, now_seconds, counted_at)
                self._last[place] = _Seen(device, now_seconds, counted_at, rates)
                bare = Row(piece, device, rates, ())
                rows.append(Row(piece, device, rates, remember(place, bare.share)))
        devices = [(one, remember(one.uuid, one.busy)) for one in look.devices]
        self._history = kept
        return View(look, devices, rows)


def _rates(before: _Seen | None, now: SliceDevice, at: float, counted_at: float) -> Rates:
    if before is None:
        return Rates()
    turns, rates = None, before.rates
    if before.device.account is not None and now.account is not None and at > before.at:
        turns = _grown(before.device.account.turns, now.account.turns)
    if counted_at != before.counted_at:
        rates = _counted(before.device, now, counted_at - before.counted_at)
    # Otherwise nobody has looked since, which does not mean that nothing happened.
    return replace(rates, turns_per_second=None if turns is None else turns / (at - before.at))


def _counted(before: SliceDevice, now: SliceDevice, passed: float) -> Rates:
    if passed <= 0:
        return Rates()
    waited = _grown(before.wait_seconds, now.wait_seconds)
    waits = _grown(before.waits, now.waits)
    used = _grown(before.device_seconds, now.device_seconds)
    mean = None if waited is None or waits is None else waited / waits if waits else 0.0
    return Rates(
        mean_wait_seconds=mean,
        waits_per_second=None if waits is None else waits / passed,
        device_share=None if used is None else min(used / passed, 1.0),
    )


def _grown(before: float | None, now: float | None) -> float | None:
    """Return what was added; None also when it was counted anew."""
    return None if before is None or now is None or now < before else now - before


def in_order(rows: Iterable[Row], sort: str) -> list[Row]:
    """Return rows by one of ``SORTS``: the most first, and then by name."""

    def key(row: Row) -> tuple[float, str, str]:
        value = {
            "share": row.share,
            "memory": row.device.charge,
            "wait": row.rates.mean_wait_seconds,
            "turns": row.rates.turns_per_second,
            "name": 0,
        }[sort]
        return (1.0 if value is None else -float(value), row.piece.name, row.device.uuid)

    return sorted(rows, key=key)
