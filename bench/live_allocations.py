"""What the shim adds to cuMemAlloc + cuMemFree of 4 KiB while many allocations are alive.

``alloc_free_N``: with N alive, a new allocation is made and freed at once. ``…_ratio_N``: to the
figure with 100 alive. ``replace_N``: a random one of the N is freed and a new one is made, which is
more than was promised: it measures how much of what it needs is in the caches, and the bare driver
itself becomes ten times as slow.
"""

from __future__ import annotations

import sys
from typing import Final

import common
from common import Bed, Figure, Options, Samples

LIVE: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
SIZE: Final = 4 << 10
CALLS: Final = {"alloc_free": "pair", "replace": "replace"}
# Valgrind is some fifty times slower: a million would take minutes to make.
COUNTED_LIVE: Final = (100, 10_000)


def _measure(bed: Bed, call: str, options: Options) -> dict[int, Samples]:
    """Time one call at all numbers, several times over: a machine has better moments and worse."""
    rounds: dict[int, list[tuple[float, float]]] = {live: [] for live in LIVE}
    for _ in range(1 if options.quick else 5):
        found = bed.measure(call, SIZE, rounds=20 if options.quick else 400, calls=200, live=LIVE)
        for live in LIVE:
            rounds[live] += found[live].rounds
    return {live: Samples(tuple(rounds[live])) for live in LIVE}


def run(bed: Bed, options: Options) -> dict[str, Figure]:
    """Measure at each number of living allocations."""
    figures: dict[str, Figure] = {}
    for name, call in CALLS.items():
        common.progress(f"live_allocations: {name}")
        found = _measure(bed, call, options)
        for live in LIVE:
            target = common.ALLOC_FREE_NS * (1.0 if live == LIVE[0] else common.MOST_LIVE_RATIO)
            figures[f"{name}_{live}"] = found[live].figure(target if call == "pair" else None)
        least = figures[f"{name}_{LIVE[0]}"].value
        for live in LIVE[1:]:
            ratio = figures[f"{name}_{live}"].value / least if least > 0 else 0.0
            figures[f"{name}_ratio_{live}"] = Figure(ratio, "times")
        if options.instructions:
            for live in COUNTED_LIVE:
                figures[f"{name}_instructions_{live}"] = bed.instructions(call, SIZE, live)
    return figures


if __name__ == "__main__":
    sys.exit(common.main("live_allocations", __doc__, run, common.bed, devices="one"))
