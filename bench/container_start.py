"""What Aliquot adds to the start of a container: its admission, its hooks and its mounts.

A container is created and started by runc, and by aliquot-runtime with a slice of a device, in
turn; milliseconds of wall clock. The figure is the median of the differences.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

import common
from common import Figure, Options
from nodes import NodeBed, node_bed

ROUNDS: Final = 20
QUICK_ROUNDS: Final = 3
ADDED_MS: Final = 10.0
_numbers: Final = itertools.count()


def _start_ms(bed: NodeBed, runtime: Path, **environment: str) -> float:
    """Create and start a container, then take it away; milliseconds until it runs."""
    name = f"bench-{next(_numbers)}"
    bundle = bed.bundle(name, **environment)
    before = time.perf_counter()
    bed.call(runtime, "create", "--bundle", str(bundle), name)
    bed.call(runtime, "start", name)
    took = time.perf_counter() - before
    bed.call(runtime, "delete", "--force", name)
    return took * 1000


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Start containers in turn: plain, with a slice, and through the wrapper without a slice."""
    sides: dict[str, list[float]] = {"plain": [], "slice": [], "no_slice": []}
    for number in range(QUICK_ROUNDS if options.quick else ROUNDS):
        common.progress(f"container_start: round {number + 1}")
        sides["plain"].append(_start_ms(bed, bed.runtime))
        sides["slice"].append(_start_ms(bed, bed.wrapper, ALIQUOT_MEMORY="1GiB"))
        sides["no_slice"].append(_start_ms(bed, bed.wrapper))
    return {
        name: Figure(
            value=median(a - b for a, b in zip(sides[name], sides["plain"], strict=True)),
            unit="ms",
            target=ADDED_MS,
            bare=median(sides["plain"]),
            shim=median(sides[name]),
        )
        for name in ("slice", "no_slice")
    }


if __name__ == "__main__":
    sys.exit(common.main("container_start", __doc__.splitlines()[0], run, node_bed))
