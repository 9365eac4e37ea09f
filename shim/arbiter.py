"""The arbiter's thread: it opens the gates of containers that share devices.

The thread is C's (csrc/arbiter/runner.h), reached through cffi; calls let go of Python's lock, and
may be made from any thread. Times are nanoseconds of CLOCK_MONOTONIC, shares thousandths of one
device's time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._arbiter import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of a node.
MAX_DEVICES: Final[int] = lib.ALIQUOT_ARBITER_DEVICES


@dataclass(frozen=True, slots=True)
class Settings:
    """How turns are made; 0 is the arbiter's own choice.

    ``round_ns`` is half a round of turns of two, ``least_ns`` the shortest turn. A turn that nobody
    begins ends after ``start_ns``; who does not let go is overtaken ``drain_ns`` after his work
    should have ended.
    """

    round_ns: int = 0
    least_ns: int = 0
    start_ns: int = 0
    drain_ns: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a container was promised of one device.

    It is guaranteed ``cores_min`` and never passes ``cores_max``, both in thousandths; what is
    spare goes by ``weight``. A higher ``priority`` goes first, keeps an idle device for
    ``quiet_ns`` and leaves ``floor`` thousandths to lower ones. Containers with the same ``group``
    get their devices together; 0 is none. ``native``: it takes no turns.
    """

    cores_min: int
    cores_max: int
    weight: int = 100
    priority: int = 0
    quiet_ns: int = 100_000_000
    floor: int = 0
    group: int = 0
    native: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """What was counted for a container on one device since it came.

    The fields are those of struct aliquot_account (csrc/arbiter/arbiter.h); the last two are shares
    of the last whole second, 0 to 1, None before there was one and while it has the device alone.
    """

    held_ns: int
    split_ns: int
    wanted_ns: int
    turns: int
    overruns: int
    preempted: int
    wanted: float | None
    received: float | None


class Runner:
    """The thread, from its making until ``stop``."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Start it. Raises OSError."""
        error = ffi.new("int *")
        settings = settings or Settings()
        made = ffi.new(
            "struct aliquot_arbiter_settings *",
            (settings.round_ns, settings.least_ns, settings.start_ns, settings.drain_ns),
        )
        self._runner = lib.aliquot_runner_start(made, error)
        if self._runner == ffi.NULL:
            _check(error[0])

    def stop(self) -> None:
        """End it; gates stay as they are. Nothing else may be called any more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            lib.aliquot_runner_stop(runner)

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Decide nothing meanwhile: containers that are added come as one."""
        lib.aliquot_runner_gather(self._running(), True)
        try:
            yield
        finally:
            lib.aliquot_runner_gather(self._running(), False)

    def add(
        self,
        grant: int,
        usage: int,
        bell: int | None,
        devices: Sequence[int],
        terms: Sequence[Terms],
    ) -> int:
        """Take up a container; returns the number by which it is known.

        ``grant``, open for writing, ``usage`` and ``bell`` are descriptors, which stay the
        caller's. Column i of the region is device ``devices[i]`` of the node, on ``terms[i]``.
        Raises OSError: EINVAL when ``grant`` is none, or one of another number of devices.
        """
        if len(devices) != len(terms):
            raise ValueError("each device has its terms")
        rows = ffi.new("struct aliquot_terms[]", [_row(one) for one in terms])
        numbers = ffi.new("uint32_t[]", list(devices))
        number: int = lib.aliquot_runner_add(
            self._running(), grant, usage, -1 if bell is None else bell, len(terms), numbers, rows
        )
        _check(number)
        return number

    def change(self, container: int, column: int, terms: Terms) -> None:
        """Have other terms from now on; the group stays. Raises OSError: EINVAL.

        What the container itself keeps to is in its grant already (region.write_terms): its threads
        look at it now.
        """
        row = ffi.new("struct aliquot_terms *", _row(terms))
        _check(lib.aliquot_runner_change(self._running(), container, column, row))

    def write_window(self, container: int, column: int, window_us: int) -> None:
        """Write into the grant how much work may be under way. Raises OSError: EINVAL."""
        _check(lib.aliquot_runner_write_window(self._running(), container, column, window_us))

    def remove(self, container: int) -> None:
        """Let a container go; its gates stay as they are, and its beat stands still."""
        lib.aliquot_runner_remove(self._running(), container)

    def read(self, container: int, column: int) -> Account:
        """Return what was counted up to now. Raises OSError: EINVAL."""
        row = ffi.new("struct aliquot_account *")
        _check(lib.aliquot_runner_read(self._running(), container, column, row))
        return Account(
            held_ns=row.held_ns,
            split_ns=row.split_ns,
            wanted_ns=row.wanted_ns,
            turns=row.turns,
            overruns=row.overruns,
            preempted=row.preempted,
            wanted=_share(row.wanted_permille),
            received=_share(row.received_permille),
        )

    def _running(self) -> Any:  # noqa: ANN401 - cffi's pointers have no type
        if self._runner is None:
            raise ValueError("the arbiter was stopped")
        return self._runner


def _row(terms: Terms) -> dict[str, int | bool]:
    return {name: getattr(terms, name) for name in Terms.__slots__}


def _share(permille: int) -> float | None:
    return None if permille == lib.ALIQUOT_UNKNOWN else permille / 1000


def _check(answer: int) -> None:
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
