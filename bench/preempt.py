"""How long an online launch waits beside containers that keep the device busy.

An online program launches a kernel now and then, and waits for it; what passes beyond the
kernel's time is its wait. ``alone`` it has the device for itself; ``beside_N`` N others launch
kernels of 1 ms without end: bare with nothing but the device's own turns to keep them apart, with
Aliquot as containers without guarantees and with a lower priority. Milliseconds of wall clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import common
from common import Figure, Options
from nodes import NodeBed
from shares import PROGRAM, SMALL, bare, say_go, sharing_bed

KERNEL_NS: Final = 200_000
BUSY: Final = ("load", 1_000_000, 0)
GAP_NS: Final = 10_000_000
COUNT: Final = 500
QUICK_COUNT: Final = 20
# In the beginning nobody knows how long its kernel takes.
UNTOLD: Final = 5
OTHERS: Final = (0, 1, 3)
# It leaves the device to others as soon as it is done: so it has to get it back each time.
ONLINE: Final = {"ALIQUOT_CORES": "10", "ALIQUOT_PRIORITY": "10", "ALIQUOT_QUIET": "0"}


def _waits_ms(said: Iterator[str]) -> list[float]:
    return sorted((int(line) - KERNEL_NS) / 1e6 for line in list(said)[UNTOLD:])


def _bare(bed: NodeBed, others: int, count: int) -> list[float]:
    with contextlib.ExitStack() as stack:
        online = stack.enter_context(bare(bed, "online", "online", KERNEL_NS, GAP_NS, count))
        busy = [stack.enter_context(bare(bed, f"busy{i}", *BUSY)) for i in range(others)]
        say_go(bed, *busy, online)
        return _waits_ms(iter(online.stdout or ()))


def _kept(bed: NodeBed, others: int, count: int) -> list[float]:
    command = [PROGRAM, *map(str, ("online", KERNEL_NS, GAP_NS, count))]
    load = [PROGRAM, *map(str, BUSY)]
    below = {"ALIQUOT_POLICY": "best-effort", **SMALL}
    with contextlib.ExitStack() as stack:
        # First, so that no other is ever alone: what that had queued would have to be done.
        online = stack.enter_context(bed.container("online", *command, **SMALL, **ONLINE))
        busy = [
            stack.enter_context(bed.container(f"busy{number}", *load, **below))
            for number in range(others)
        ]
        say_go(bed, *busy, online)
        return _waits_ms(iter(online.stdout or ()))


def _at(waits: Sequence[float], part: float) -> float:
    return waits[round(part * (len(waits) - 1))]


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Measure with each number of others."""
    bed = dataclasses.replace(bed, real_time=options.first)
    count = UNTOLD + (QUICK_COUNT if options.quick else COUNT)
    figures = {}
    for others in OTHERS:
        name = f"beside_{others}" if others else "alone"
        common.progress(f"preempt: {name}")
        bare_ms, kept_ms = _bare(bed, others, count), _kept(bed, others, count)
        for called, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            before, after = _at(bare_ms, part), _at(kept_ms, part)
            figures[f"{name}_{called}"] = Figure(after - before, "ms", bare=before, shim=after)
    return figures


if __name__ == "__main__":
    sys.exit(common.main("preempt", __doc__.splitlines()[0], run, sharing_bed, devices="one"))
