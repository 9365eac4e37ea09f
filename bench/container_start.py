"""What Aliquot adds to the start of a container: its admission, its hooks and its mounts.

A container is created and started by runc, and by aliquot-runtime with a slice of a device, in
turn. Milliseconds of wall clock, and (``_cpu``) of processor time: of the runtime, the agent and
the container's cgroup, which depends less on what else the machine does. Figures are the medians
of the differences.
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


def _start_ms(bed: NodeBed, runtime: Path, **environment: str) -> tuple[float, float]:
    """Create and start a container, then take it away; wall and processor time until it runs."""
    name = f"bench-{next(_numbers)}"
    bundle = bed.bundle(name, **environment)
    used, before = bed.processor_ms(), time.perf_counter()
    bed.call(runtime, "create", "--bundle", str(bundle), name)
    bed.call(runtime, "start", name)
    took = (time.perf_counter() - before) * 1000
    used = bed.processor_ms() - used + bed.container_ms(name)
    bed.call(runtime, "delete", "--force", name)
    return took, used


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Start containers in turn: plain, with a slice, and through the wrapper without a slice."""
    sides: dict[str, list[tuple[float, float]]] = {"plain": [], "slice": [], "no_slice": []}
    for number in range(QUICK_ROUNDS if options.quick else ROUNDS):
        common.progress(f"container_start: round {number + 1}")
        sides["plain"].append(_start_ms(bed, bed.runtime))
        sides["slice"].append(_start_ms(bed, bed.wrapper, ALIQUOT_MEMORY="1GiB"))
        sides["no_slice"].append(_start_ms(bed, bed.wrapper))
    return {
        f"{name}{suffix}": Figure(
            value=median(a[i] - b[i] for a, b in zip(sides[name], sides["plain"], strict=True)),
            unit="ms",
            target=target,
            bare=median(one[i] for one in sides["plain"]),
            shim=median(one[i] for one in sides[name]),
        )
        for i, (suffix, target) in enumerate((("", ADDED_MS), ("_cpu", None)))
        for name in ("slice", "no_slice")
    }


if __name__ == "__main__":
    sys.exit(common.main("container_start", __doc__.splitlines()[0], run, lambda _: node_bed()))
