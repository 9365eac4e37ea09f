"""How soon what ``aliquot set`` changes is kept, by what runs.

Two containers want a device without end, and the guarantee of one of them is changed, up and down:
it is kept when that container's first turn of the new length begins (its ``grant`` says so, as its
processes read it). A third allocates and frees again and again, and its cap is changed: it is kept
when an allocation above the lower cap is refused, or is not any more, as the program itself sees.
Milliseconds of wall clock: from the command's start (``call``: Python has to start, too), from its
end (``return``: less than nothing when it was kept before), and from the start of the same command
in a Python that runs already (``request``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from unittest import mock

import common
from common import PATIENCE_SECONDS, BenchError, Figure, Options
from nodes import NodeBed
from shares import PROGRAM, SMALL, say_go, sharing_bed

MOST_MS: Final = 50.0
COUNT: Final = 50
QUICK_COUNT: Final = 2

LOAD: Final = (PROGRAM, "load", "100000", "0")
# Of 60 hundredths that nobody is guaranteed each has half; turns of 5 ms become turns of 8 ms.
CORES: Final = ("20", "80")
OTHER: Final = "20"
LONG_US: Final = 6_500
MEMORY: Final = ("1GiB", "2GiB")
ALLOCATION: Final = 3 << 29
# So often it is looked.
GLANCE_SECONDS: Final = 0.0001

# Of struct aliquot_grant: the slice's name, and the first device's gate (csrc/region/region.h).
_NAME, _NAME_BYTES, _GATE = 32, 64, 256 + 64
_TURN: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """When one change was asked for, answered and kept; nanoseconds of CLOCK_MONOTONIC."""

    asked: int
    answered: int
    kept: int


# When it was kept, or that it is not yet.
Kept = Callable[[], int | None]
_Way = Callable[[Sequence[str], Kept], Change]


def _by_command(bed: NodeBed, words: Sequence[str], kept: Kept) -> Change:
    """Run the command as people do."""
    asked = time.monotonic_ns()
    with subprocess.Popen(
        [sys.executable, "-m", "aliquot.agent", *words],
        env=bed.environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        change = _watch(asked, lambda: process.poll() is not None, kept)
        if process.wait():
            raise BenchError(f"{' '.join(words)} failed: see what it said above")
    return change


def _here(bed: NodeBed, words: Sequence[str], kept: Kept) -> Change:
    """Run it in this process."""
    # Only once it is known to be built; all that it needs, so that nothing is loaded in between.
    from aliquot.agent import changes, cli, rpc, set_slice  # noqa: F401, PLC0415

    with (
        mock.patch.dict(os.environ, bed.environment),
        contextlib.redirect_stdout(io.StringIO()),
        ThreadPoolExecutor(1) as threads,
    ):
        asked = time.monotonic_ns()
        call = threads.submit(cli.main, words)
        change = _watch(asked, call.done, kept)
        if call.result():
            raise BenchError(f"{' '.join(words)} failed: see what it said above")
    return change


def _watch(asked: int, done: Callable[[], bool], kept: Kept) -> Change:
    answered: int | None = None
    seen: int | None = None
    while answered is None or seen is None:
        now = time.monotonic_ns()
        if answered is None and done():
            answered = now
        if seen is None:
            seen = kept()
        if now - asked > PATIENCE_SECONDS * 1e9:
            raise BenchError("what was changed was not kept")
        time.sleep(GLANCE_SECONDS)
    return Change(asked, answered, seen)


@contextlib.contextmanager
def _gate(bed: NodeBed, name: str) -> Iterator[Callable[[], int]]:
    """Show the first gate of a container that runs. Raises BenchError."""
    for path in (bed.folder / "run").rglob("grant"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as grant:
            if name not in grant[_NAME : _NAME + _NAME_BYTES].rstrip(b"\0").decode().split("/"):
                continue
            yield lambda: int(struct.unpack_from("<Q", grant, _GATE)[0])
            return
    raise BenchError(f"container {name} has no slice")


def _changes(
    bed: NodeBed, count: int, change: Callable[[int, _Way], Change]
) -> tuple[list[Change], list[Change]]:
    """Change up and down so often; returns what came of it, by the command and here."""

    def all_by(run: Callable[[NodeBed, Sequence[str], Kept], Change]) -> list[Change]:
        return [
            change(number % 2, lambda words, kept: run(bed, words, kept))
            for number in range(1, count + 1)
        ]

    return all_by(_by_command), all_by(_here)


def _cores(bed: NodeBed, count: int) -> tuple[list[Change], list[Change]]:
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(bed.container(name, *LOAD, **SMALL, ALIQUOT_CORES=cores))
            for name, cores in (("changed", CORES[0]), ("other", OTHER))
        ]
        say_go(bed, *processes)
        gate = stack.enter_context(_gate(bed, "changed"))

        def change(to: int, way: _Way) -> Change:
            before = gate()

            def kept() -> int | None:
                word = gate()
                fresh = word & 3 == _TURN and word >> 6 & 0x3FFFFFF != before >> 6 & 0x3FFFFFF
                return time.monotonic_ns() if fresh and (word >> 32 >= LONG_US) == to else None

            return way(["set", "changed", "--cores", CORES[to]], kept)

        return _changes(bed, count, change)


def _memory(bed: NodeBed, count: int) -> tuple[list[Change], list[Change]]:
    command = (PROGRAM, "allocate", str(ALLOCATION))
    with bed.container("caps", *command, ALIQUOT_MEMORY=MEMORY[0]) as process:
        say_go(bed, process)
        if process.stdout is None:
            raise BenchError("a container says nothing")
        said = process.stdout
        os.set_blocking(said.fileno(), False)
        lines: list[str] = []

        def change(to: int, way: _Way) -> Change:
            def kept() -> int | None:
                lines.extend(said.readlines())
                for line in lines:
                    at, allowed = line.split()
                    if int(allowed) == to:
                        lines.clear()
                        return int(at)
                return None

            lines.clear()
            return way(["set", "caps", "--memory", MEMORY[to]], kept)

        return _changes(bed, count, change)


def _figures(name: str, times_ns: Sequence[int], target: float | None) -> dict[str, Figure]:
    ms = sorted(one / 1e6 for one in times_ns)
    return {
        f"{name}_{called}": Figure(ms[round(part * (len(ms) - 1))], "ms", target)
        for called, part in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
    }


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Change guarantees, then caps."""
    bed = dataclasses.replace(bed, real_time=options.first)
    count = QUICK_COUNT if options.quick else COUNT
    figures: dict[str, Figure] = {}
    for name, measure in (("cores", _cores), ("memory", _memory)):
        common.progress(f"set: {name}")
        called, here = measure(bed, count)
        asked = [one.kept - one.asked for one in called]
        answered = [one.kept - one.answered for one in called]
        figures |= _figures(f"{name}_request", [one.kept - one.asked for one in here], MOST_MS)
        figures |= _figures(f"{name}_return", answered, MOST_MS)
        figures |= _figures(f"{name}_call", asked, None)
    return figures


if __name__ == "__main__":
    sys.exit(common.main("set", __doc__.splitlines()[0], run, sharing_bed, devices="one"))
