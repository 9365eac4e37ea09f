"""What the shims add to calls that programs make often: a column for each vendor's.

A launch, an allocation and its release of 4 KiB and of 2 MiB, the question for free memory, and a
copy of 4 KiB to the device; with 1, 8 and 64 processes in the slice (the others hold
memory and do nothing) and 1, 2 and 8 threads that call; of other vendors' than NVIDIA with one
process, and 1 and 8 threads. Nanoseconds: by the bare driver, added, and how many times as long.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import common
import vendors
from common import Bed, Figure, Options
from vendors import Vendor

PROCESSES: Final = (1, 8, 64)
THREADS: Final = (1, 2, 8)
# Of every vendor's: the shims share what depends on how many there are.
ALWAYS: Final = {(1, 1), (1, 8)}


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is measured.

    ``target`` and ``target_64`` are the most nanoseconds that it may get slower, alone and with 64
    processes. ``calls`` fit into a stream's queue, or take about as long as a few launches do.
    """

    name: str
    call: str
    size: int
    target: float | None
    target_64: float | None
    calls: int

    def target_with(self, processes: int) -> float | None:
        """Return the most nanoseconds that it may get slower with so many."""
        if self.target is None or self.target_64 is None:
            return None
        return common.between(processes, self.target, self.target_64)


_PAIR: Final = (common.ALLOC_FREE_NS, common.ALLOC_FREE_64_NS)
CALLS: Final = (
    Call("launch", "launch", 1, common.LAUNCH_NS, common.LAUNCH_NS, 400),
    Call("alloc_free_4k", "pair", 4 << 10, *_PAIR, 200),
    Call("alloc_free_2m", "pair", 2 << 20, *_PAIR, 200),
    Call("mem_info", "info", 1 << 12, common.MEM_INFO_NS, common.MEM_INFO_NS, 400),
    Call("copy_4k", "copy", 4 << 10, None, None, 40),
)

Beds = Callable[[Vendor], AbstractContextManager[Bed]]


@contextmanager
def beds(options: Options) -> Iterator[Beds]:
    """Return what makes a vendor's node and slice."""
    yield lambda vendor: common.bed(dataclasses.replace(options, vendors=(vendor,)))


def run(bed_of: Beds, options: Options) -> dict[str, Figure]:
    """Measure every combination with a device of each vendor."""
    figures: dict[str, Figure] = {}
    for vendor in options.vendors:
        with bed_of(vendor) as bed:
            for processes in PROCESSES:
                if vendor is vendors.NVIDIA or processes == 1:
                    with bed.neighbours(processes - 1):
                        figures |= _with(bed, options, vendor, processes)
    return figures


def _with(bed: Bed, options: Options, vendor: Vendor, processes: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for call in CALLS:
        for threads in THREADS:
            if vendor is not vendors.NVIDIA and (processes, threads) not in ALWAYS:
                continue
            name = f"{vendor}_{call.name}_p{processes}_t{threads}"
            common.progress(f"overhead: {name}")
            figures[name] = bed.samples(
                call.call, call.size, call.calls, threads, quick=options.quick
            ).figure(call.target_with(processes))
        if options.instructions:
            counted = bed.instructions(call.call, call.size)
            figures[f"{vendor}_{call.name}_p{processes}_instructions"] = counted
    return figures


def show(name: str, figures: Mapping[str, Figure]) -> None:
    """Print a row for each call, and three columns for each vendor."""
    named = [vendor for vendor in vendors.BY_NAME if any(f.startswith(vendor) for f in figures)]
    rows: dict[str, dict[str, Figure]] = {}
    for figure_name, figure in figures.items():
        vendor, _, row = figure_name.partition("_")
        rows.setdefault(row, {})[vendor] = figure
    head = [f"{vendor}{part}" for vendor in named for part in ("", " adds", " times")]
    table = [[name, *head]]
    table += [
        [row, *(cell for vendor in named for cell in _cells(of.get(vendor)))]
        for row, of in rows.items()
    ]
    common.print_rows(table, left=(0,))


def _cells(figure: Figure | None) -> tuple[str, str, str]:
    if figure is None or figure.bare is None or figure.shim is None:
        return ("", "", "")
    times = figure.shim / figure.bare if figure.bare else 0.0
    missed = "" if figure.holds else "!"
    return (f"{figure.bare:.1f}", f"{figure.value:.1f}{missed}", f"{times:.2f}")


if __name__ == "__main__":
    sys.exit(common.main("overhead", __doc__, run, beds, devices="every", show=show))
