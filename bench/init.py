"""What the shim adds to the start of a process: loading the library, and the first cuInit.

1, 8 and 64 processes start at the same moment; each times itself, in milliseconds, and leaves out
how long others had the cores, which is theirs. ``start`` is the two together. Rounds are taken
together until there are twenty starts; figures are the medians of those batches' medians and 95th
percentiles, so that one bad moment of the machine decides none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import common
from common import Bed, Figure, Options

PROCESSES: Final = (1, 8, 64)
BATCH: Final = 20
BATCHES: Final = 15
QUICK_BATCHES: Final = 1
ONE_MS: Final = 1.0
SIXTY_FOUR_MS: Final = 3.0
PARTS: Final = ("dlopen", "cuinit", "start")

Times = dict[str, dict[str, list[float]]]


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


STATISTICS: Final[dict[str, Callable[[Sequence[float]], float]]] = {"median": median, "p95": _p95}


def _batches(bed: Bed, processes: int, count: int) -> list[Times]:
    """Start processes together until there are ``count`` batches; milliseconds by part and side."""
    rounds = math.ceil(BATCH / processes)
    text = bed.run("init", bed.bare, bed.shim, processes, rounds * count)
    lines = text.splitlines()
    each = len(lines) // count
    batches = []
    for start in range(0, each * count, each):
        times: Times = {part: {"bare": [], "shim": []} for part in PARTS}
        for line in lines[start : start + each]:
            side, load_ns, init_ns = line.split()
            load, first = int(load_ns) / 1e6, int(init_ns) / 1e6
            for part, value in zip(PARTS, (load, first, load + first), strict=True):
                times[part][side].append(value)
        batches.append(times)
    return batches


def run(bed: Bed, options: Options) -> dict[str, Figure]:
    """Start that many processes together, bare and through the shim in turn."""
    figures: dict[str, Figure] = {}
    for processes in PROCESSES:
        common.progress(f"init: {processes} at once")
        batches = _batches(bed, processes, QUICK_BATCHES if options.quick else BATCHES)
        target = common.between(processes, ONE_MS, SIXTY_FOUR_MS)
        for part in PARTS:
            for name, statistic in STATISTICS.items():
                sides = [
                    (statistic(batch[part]["bare"]), statistic(batch[part]["shim"]))
                    for batch in batches
                ]
                figures[f"{part}_p{processes}_{name}"] = Figure(
                    value=median(shim - bare for bare, shim in sides),
                    unit="ms",
                    target=target if part == "start" else None,
                    bare=median(bare for bare, _ in sides),
                    shim=median(shim for _, shim in sides),
                )
    return figures


if __name__ == "__main__":
    sys.exit(common.main("init", __doc__, run, common.bed, devices="one"))
