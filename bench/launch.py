"""What the limiter adds to cuLaunchKernel, in nanoseconds, with 1 to 64 threads that launch.

``free``: the slice has the device for itself, and nothing is measured. ``open``: others are on the
device, none of them wants it, and what is launched is measured. The slice has a cap of memory.
"""

from __future__ import annotations

import shutil
import sys
from typing import Final

import common
from common import Bed, Figure, Options

THREADS: Final = (1, 2, 4, 8, 16, 32, 64)

# They fit into a stream's queue.
CALLS: Final = 400

# The most that a launch may get slower, ns.
FREE_NS: Final = 6.0


def run(bed: Bed, options: Options) -> dict[str, Figure]:
    """Measure with the gate free, then open."""
    figures: dict[str, Figure] = {}
    count = options.instructions or shutil.which("valgrind") is not None
    if not count:
        common.progress("launch: valgrind is not installed: no instructions are counted")
    for gate in ("free", "open"):
        if gate == "open":
            bed.open_gate()
        for threads in THREADS:
            name = f"{gate}_t{threads}"
            common.progress(f"launch: {name}")
            samples = bed.samples("launch", 1, CALLS, threads, quick=options.quick)
            figures[name] = samples.figure(FREE_NS if gate == "free" else None)
        if count:
            figures[f"{gate}_instructions"] = bed.instructions("launch", 1)
    return figures


if __name__ == "__main__":
    sys.exit(common.main("launch", __doc__, run, common.bed, devices="one"))
