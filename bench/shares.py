"""Which shares of a device containers get that all want it, by the simulator's truth.

Real containers with a real agent launch kernels of a length as fast as they are let: each waits
for every kernel (``sync``), or for none (``async``). A figure is what each had of the device time
that all had, in percent, beside what it is owed (bare); ``kept`` is how much of the time all of
them together kept the device busy, beside one of them alone and without Aliquot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import common
from common import BenchError, Figure, Options
from nodes import NodeBed, make_real_time, node_bed

SPLITS: Final = ((10, 90), (30, 70), (75, 25), (33, 33, 33))
KERNELS_US: Final = (100, 1_000, 5_000)
BATCH: Final = {"sync": 1, "async": 0}

# A device with what an A100 takes for a launch, an event, and going from one process to another.
NODE: Final = """
[costs]
launch_ns = 4_000
event_record_timing_ns = 1_200
event_query_ns = 500
"""
DEVICE: Final[dict[str, str | int]] = {"memory": "40GiB", "switch_ns": 50_000}
PROGRAM: Final = "/usr/bin/launcher"
SMALL: Final = {"ALIQUOT_MEMORY": "1GiB"}


@contextlib.contextmanager
def sharing_bed(options: Options) -> Iterator[NodeBed]:
    """Make a node of one device with a launcher in its image. Raises BenchError."""
    vendor = options.vendor
    with tempfile.TemporaryDirectory(prefix="aliquot-bench-") as name:
        program = common.compile_driven(Path(name), "launcher.c", vendor)
        node = Path(name) / "bench.toml"
        node.write_text(NODE + vendor.device(**DEVICE), encoding="utf-8")
        settings = {"limits.container.priority": 50}
        programs = {PROGRAM: program}
        with node_bed(str(node), programs=programs, vendor=vendor, **settings) as bed:
            yield bed


@contextlib.contextmanager
def bare(bed: NodeBed, name: str, *command: object) -> Iterator[subprocess.Popen[str]]:
    """Run the launcher on the node's device with nothing in between, until the block ends."""
    import aliquot.sim  # noqa: PLC0415 - only once it is known to be built
    from aliquot.sim.state import environment  # noqa: PLC0415 - as above

    library = aliquot.sim.library().with_name(bed.vendor.library)
    node = environment(bed.folder / "node", library, bed.environment)
    with subprocess.Popen(
        [str(bed.folder / "rootfs") + PROGRAM, *map(str, command)],
        env={**node, "ALIQUOT_SIM_GROUP": name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say_go(bed: NodeBed, *processes: subprocess.Popen[str]) -> None:
    """Let launchers go on, which are ready. Raises BenchError."""
    for process in processes:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise BenchError("a launcher could not launch: see what it said above")
    if bed.real_time:
        make_real_time("launcher")
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("go\n")
            process.stdin.flush()


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured.

    After ``settle_seconds`` all are known to want the device, and their kernels are measured.
    """

    settle_seconds: float
    seconds: float
    rounds: int


THOROUGH: Final = Pace(settle_seconds=0.5, seconds=1.0, rounds=5)
QUICK: Final = Pace(settle_seconds=0.1, seconds=0.1, rounds=1)


@dataclass(frozen=True, slots=True)
class Truth:
    """What launchers, by name, have had of the device."""

    bed: NodeBed
    names: Sequence[str]

    def _ran_ns(self) -> dict[str, int]:
        from aliquot.sim.state import truth  # noqa: PLC0415 - only once it is known to be built

        ran = dict.fromkeys(self.names, 0)
        for process in truth(self.bed.folder / "node").processes:
            if process.group in ran:
                ran[process.group] += process.ran_ns[0]
        return ran

    def had(self, seconds: float) -> dict[str, float]:
        """Return which part of the device each has in the time from now on."""
        began, before = time.monotonic_ns(), self._ran_ns()
        time.sleep(seconds)
        ended, after = time.monotonic_ns(), self._ran_ns()
        return {name: (after[name] - before[name]) / (ended - began) for name in self.names}

    def rounds(self, pace: Pace) -> list[dict[str, float]]:
        """Return the same of each round."""
        time.sleep(pace.settle_seconds)
        return [self.had(pace.seconds) for _ in range(pace.rounds)]


@contextlib.contextmanager
def launching(bed: NodeBed, split: Sequence[int], *command: object) -> Iterator[Truth]:
    """Run a container for each share of ``split``, all launching until the block ends."""
    with contextlib.ExitStack() as stack:
        names = [f"c{number}" for number in range(len(split))]
        processes = [
            stack.enter_context(
                bed.container(name, PROGRAM, *map(str, command), **SMALL, ALIQUOT_CORES=str(cores))
            )
            for name, cores in zip(names, split, strict=True)
        ]
        say_go(bed, *processes)
        yield Truth(bed, names)


def _alone(bed: NodeBed, pace: Pace, *command: object) -> float:
    """Return the part of the time in which one launcher without Aliquot keeps the device busy."""
    with bare(bed, "alone", *command) as process:
        say_go(bed, process)
        return median(had["alone"] for had in Truth(bed, ["alone"]).rounds(pace))


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Measure every split with every length of kernel."""
    bed = dataclasses.replace(bed, real_time=options.first)
    pace = QUICK if options.quick else THOROUGH
    figures: dict[str, Figure] = {}
    for kernel_us in KERNELS_US:
        for kind, batch in BATCH.items():
            command = ("load", kernel_us * 1000, batch)
            common.progress(f"shares: {kernel_us} us {kind}, alone")
            alone = _alone(bed, pace, *command)
            for split in SPLITS:
                name = f"{'_'.join(map(str, split))}_{kernel_us}us_{kind}"
                common.progress(f"shares: {name}")
                with launching(bed, split, *command) as truth:
                    found = truth.rounds(pace)
                for number, wanted in enumerate(split):
                    part = median(had[f"c{number}"] / sum(had.values()) for had in found)
                    owed = wanted / sum(split)
                    figures[f"{name}_{number}"] = Figure(
                        100 * (part - owed), "%", bare=100 * owed, shim=100 * part
                    )
                kept = median(sum(had.values()) for had in found)
                figures[f"{name}_kept"] = Figure(
                    100 * (kept - alone), "%", bare=100 * alone, shim=100 * kept
                )
    return figures


if __name__ == "__main__":
    sys.exit(common.main("shares", __doc__.splitlines()[0], run, sharing_bed, devices="one"))
