"""Which shares of a device containers get that all want it, by the simulator's truth.

Real containers with a real agent, which launch kernels of one length as fast as they are let: each
waits for each kernel (``sync``), or never (``async``). ``had`` is device time on the real clock. A
``kept`` is the device time of all of them together, as a part of what one alone without Aliquot has.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import common
from common import BenchError, Figure, Options
from nodes import NodeBed, node_bed

SPLITS: Final = ((10, 90), (30, 70), (75, 25), (33, 33, 33))
KERNELS_US: Final = (100, 1_000, 5_000)
BATCH: Final = {"sync": 1, "async": 0}
SECONDS: Final = 3.0
QUICK_SECONDS: Final = 0.3
ROUNDS: Final = 3
# Until everybody is known to want the device, and kernels are measured.
SETTLE_SECONDS: Final = 0.5

# One device as an A100, with the time that a process pays for coming to it.
NODE: Final = """
[costs]
launch_ns = 4_000
event_record_timing_ns = 1_200
event_query_ns = 500
[[device]]
memory = "40GiB"
context = "64MiB"
switch_ns = 50_000
"""
PROGRAM: Final = "/usr/bin/launcher"


@contextlib.contextmanager
def sharing_bed(**settings: object) -> Iterator[NodeBed]:
    """Make a node of one device whose containers launch. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="aliquot-bench-") as name:
        program = common.compile_c(Path(name), common.HERE / "launcher.c")
        node = Path(name) / "bench.toml"
        node.write_text(NODE, encoding="utf-8")
        with node_bed(str(node), programs={PROGRAM: program}, **settings) as bed:
            yield bed


@dataclass(frozen=True, slots=True)
class Launchers:
    """Containers that launch, by name, and how to look at what they had."""

    bed: NodeBed
    names: Sequence[str]

    def ran_ns(self) -> dict[str, int]:
        """Return the device time of each so far."""
        from aliquot.sim.state import truth  # noqa: PLC0415 - only once it is known to be built

        ran = dict.fromkeys(self.names, 0)
        for process in truth(self.bed.folder / "node").processes:
            if process.group in ran:
                ran[process.group] += process.ran_ns[0]
        return ran

    def had(self, seconds: float) -> dict[str, float]:
        """Return which part of the device each has in the time from now on."""
        began, before = time.monotonic_ns(), self.ran_ns()
        time.sleep(seconds)
        ended, after = time.monotonic_ns(), self.ran_ns()
        return {name: (after[name] - before[name]) / (ended - began) for name in self.names}


def say(process: subprocess.Popen[str], word: str) -> None:
    """Let a launcher go on. Raises BenchError."""
    if process.stdout is None or process.stdin is None or process.stdout.readline() != "ready\n":
        raise BenchError("a container could not launch a kernel: see what it said above")
    process.stdin.write(word + "\n")
    process.stdin.flush()


@contextlib.contextmanager
def launchers(
    bed: NodeBed, wishes: Mapping[str, Mapping[str, str]], kernel_us: int, batch: int
) -> Iterator[Launchers]:
    """Run a container for each of ``wishes``, all launching until the block ends."""
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                bed.container(name, PROGRAM, "load", str(kernel_us * 1000), str(batch), **wish)
            )
            for name, wish in wishes.items()
        ]
        for process in running:
            say(process, "go")
        time.sleep(SETTLE_SECONDS)
        yield Launchers(bed, list(wishes))
