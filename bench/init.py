"""What the shim adds to the start of a process: loading the library, and the first cuInit.

1, 8 and 64 processes start at the same moment; each times itself. ``start`` is the two together.
Figures are medians and 95th percentiles over all processes of all rounds, in milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median
from typing import Final

import common
from common import Bed, Figure, Options

PROCESSES: Final = {1: 200, 8: 60, 64: 15}
QUICK_ROUNDS: Final = 2
ONE_MS: Final = 1.0
SIXTY_FOUR_MS: Final = 3.0


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def run(bed: Bed, options: Options) -> dict[str, Figure]:
    """Start that many processes together, bare and through the shim in turn."""
    figures: dict[str, Figure] = {}
    for processes, rounds in PROCESSES.items():
        common.progress(f"init: {processes} at once")
        text = bed.run(
            "init", bed.bare, bed.shim, processes, QUICK_ROUNDS if options.quick else rounds
        )
        parts = ("dlopen", "cuinit", "start")
        times: dict[str, dict[str, list[float]]] = {
            part: {"bare": [], "shim": []} for part in parts
        }
        for line in text.splitlines():
            side, load_ns, init_ns = line.split()
            load, first = int(load_ns) / 1e6, int(init_ns) / 1e6
            for part, value in zip(parts, (load, first, load + first), strict=True):
                times[part][side].append(value)
        target = common.between(processes, ONE_MS, SIXTY_FOUR_MS)
        for part in parts:
            for statistic, of in (("median", median), ("p95", _p95)):
                bare, shim = of(times[part]["bare"]), of(times[part]["shim"])
                figures[f"{part}_p{processes}_{statistic}"] = Figure(
                    value=shim - bare,
                    unit="ms",
                    target=target if part == "start" else None,
                    bare=bare,
                    shim=shim,
                )
    return figures


if __name__ == "__main__":
    sys.exit(common.main("init", __doc__, run))
