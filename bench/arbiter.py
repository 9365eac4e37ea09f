"""What sharing out devices costs the agent: a step of the arbiter, and its thread on a busy node.

A step is timed by itself, with 1 to 1,000 containers that want one device. On the busy node,
containers want devices without end; they have the real limiter, in a few processes, and kernels
that only take their time. What the arbiter's thread takes of a core is what the kernel says that it
ran.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
from common import HERE, BenchError, Figure, Options

if TYPE_CHECKING:
    from aliquot.shim.arbiter import Runner

CONTAINERS: Final = (1, 10, 100, 1000)
STEPS: Final = 20_000
QUICK_STEPS: Final = 1_000
# A step is at most so much worse than n log n, from 10 containers to 1,000.
MOST_RATIO: Final = 1.0

BUSY: Final = 32
DEVICES: Final = 8
PROCESSES: Final = 4
KERNEL_NS: Final = 500_000
DEPTH: Final = 4
BUSY_SECONDS: Final = 5.0
QUICK_SECONDS: Final = 0.5
MOST_PERCENT: Final = 3.0

_CSRC: Final = HERE.parent / "csrc"
_CORE: Final = ("limiter", "around", "meter", "observe", "lock")


@dataclass(frozen=True, slots=True)
class Place:
    """The programs, and a folder in memory for regions."""

    folder: Path
    steps: Path
    sharer: Path


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Compile the programs. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="aliquot-bench-", dir=common.fast_folder()) as name:
        folder = Path(name)
        region = _CSRC / "region/region.c"
        arbiter = sorted((_CSRC / "arbiter").glob("*.c"))
        core = [_CSRC / f"core/{one}.c" for one in _CORE]
        yield Place(
            folder,
            common.compile_c(folder, HERE / "steps.c", *arbiter, region),
            common.compile_c(folder, HERE / "sharer.c", *core, region),
        )


def _step_ns(made: Place, containers: int, steps: int) -> float:
    # Many containers make long steps; few of those will do.
    count = max(steps * 10 // (containers + 9), 100)
    done = subprocess.run(
        [made.steps, str(containers), str(count)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise BenchError(f"the arbiter gave no device away to {containers} containers")
    return float(done.stdout)


class _Node:
    """An arbiter with containers that come to it."""

    def __init__(self, folder: Path) -> None:
        from aliquot.shim import arbiter  # noqa: PLC0415 - only once it is known to be built

        self._folder = folder
        before = set(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are what is wanted
        self.runner: Runner = arbiter.Runner()
        (self._task,) = set(os.listdir("/proc/self/task")) - before  # noqa: PTH208 - as above
        self._terms = arbiter.Terms(cores_min=0, cores_max=1000)

    def add(self, number: int) -> tuple[Path, int]:
        """Make a container on its device; returns its region and its number."""
        from aliquot.shim import region  # noqa: PLC0415 - as above

        folder = self._folder / f"container-{number}"
        folder.mkdir()
        device = region.RegionDevice(bytes(16), None, common.PAGE_BYTES, 0, shared=True)
        dirfd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        region.create(dirfd, folder.name, [device])
        region.create_bell(dirfd)
        names = ("grant", "usage", region.BELL)
        fds = [os.open(name, os.O_RDWR | os.O_NONBLOCK, dir_fd=dirfd) for name in names]
        known = self.runner.add(fds[0], fds[1], fds[2], [number % DEVICES], [self._terms])
        for fd in (dirfd, *fds):
            os.close(fd)
        return folder, known

    def cpu_ns(self) -> int:
        """The time for which the arbiter's thread has run."""
        text = Path(f"/proc/self/task/{self._task}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0])


@contextlib.contextmanager
def _sharing(sharer: Path, folders: list[Path]) -> Iterator[None]:
    """Have programs in all containers, several in a process."""
    with contextlib.ExitStack() as stack:
        for first in range(PROCESSES):
            process = subprocess.Popen(
                [sharer, str(KERNEL_NS), "0", str(DEPTH), *folders[first::PROCESSES]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # closes its standard input and waits
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise BenchError("a program could not take part in its slice")
        yield


def _busy(made: Place, seconds: float) -> dict[str, Figure]:
    node = _Node(made.folder)
    try:
        with node.runner.gathering():
            containers = [node.add(number) for number in range(BUSY)]
        with _sharing(made.sharer, [folder for folder, _ in containers]):
            time.sleep(seconds / 5)  # until all take turns
            numbers = [known for _, known in containers]
            turns = sum(node.runner.read(one, 0).turns for one in numbers)
            start, before = time.monotonic_ns(), node.cpu_ns()
            time.sleep(seconds)
            passed, spent = time.monotonic_ns() - start, node.cpu_ns() - before
            turns = sum(node.runner.read(one, 0).turns for one in numbers) - turns
    finally:
        node.runner.stop()
    return {
        f"busy_{BUSY}": Figure(100 * spent / passed, "% of a core", MOST_PERCENT),
        f"busy_{BUSY}_turns": Figure(turns * 1e9 / passed, "turns a second"),
        f"busy_{BUSY}_turn": Figure(spent / max(turns, 1) / 1000, "us a turn"),
    }


def run(made: Place, options: Options) -> dict[str, Figure]:
    """Time steps, then a busy node."""
    figures: dict[str, Figure] = {}
    for containers in CONTAINERS:
        common.progress(f"arbiter: a step with {containers} containers")
        ns = _step_ns(made, containers, QUICK_STEPS if options.quick else STEPS)
        figures[f"step_{containers}"] = Figure(ns, "ns")
    few, many = 10, 1000
    allowed = many * math.log2(many) / (few * math.log2(few))
    ratio = figures[f"step_{many}"].value / figures[f"step_{few}"].value / allowed
    figures["step_growth"] = Figure(ratio, "of n log n", MOST_RATIO)
    common.progress(f"arbiter: {BUSY} busy containers on {DEVICES} devices")
    return {**figures, **_busy(made, QUICK_SECONDS if options.quick else BUSY_SECONDS)}


if __name__ == "__main__":
    sys.exit(common.main("arbiter", __doc__.splitlines()[0], run, lambda _: place()))
