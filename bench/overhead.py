"""What the shim adds to calls that programs make often, in nanoseconds.

cuLaunchKernel, cuMemAlloc + cuMemFree of 4 KiB and of 4 MiB, and cuMemGetInfo; with 1, 8 and 64
processes in the slice (the others hold memory and do nothing) and 1, 2 and 8 threads that call.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

import common
from common import Bed, Figure, Options

PROCESSES: Final = (1, 8, 64)
THREADS: Final = (1, 2, 8)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is measured.

    ``target`` and ``target_64`` are the most nanoseconds that it may get slower, alone and with 64
    processes. ``calls`` fit into a stream's queue, or take about as long as a few launches do.
    """

    name: str
    call: str
    size: int
    target: float
    target_64: float
    calls: int


CALLS: Final = (
    Call("launch", "launch", 1, common.LAUNCH_NS, common.LAUNCH_NS, 400),
    Call("alloc_free_4k", "pair", 4 << 10, common.ALLOC_FREE_NS, common.ALLOC_FREE_64_NS, 200),
    Call("alloc_free_4m", "pair", 4 << 20, common.ALLOC_FREE_NS, common.ALLOC_FREE_64_NS, 200),
    Call("mem_info", "info", 1 << 12, common.MEM_INFO_NS, common.MEM_INFO_NS, 400),
)


def run(bed: Bed, options: Options) -> dict[str, Figure]:
    """Measure every combination."""
    figures: dict[str, Figure] = {}
    for processes in PROCESSES:
        with bed.neighbours(processes - 1):
            for call in CALLS:
                target = common.between(processes, call.target, call.target_64)
                for threads in THREADS:
                    name = f"{call.name}_p{processes}_t{threads}"
                    common.progress(f"overhead: {name}")
                    figures[name] = bed.samples(
                        call.call, call.size, call.calls, threads, quick=options.quick
                    ).figure(target)
                if options.instructions:
                    figures[f"{call.name}_p{processes}_instructions"] = bed.instructions(
                        call.call, call.size
                    )
    return figures


if __name__ == "__main__":
    sys.exit(common.main("overhead", __doc__, run, common.bed))
