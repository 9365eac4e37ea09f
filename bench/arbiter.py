"""What sharing out devices costs the agent: a step of the arbiter, and its thread on a busy node.

A step is timed by itself, with 1 to 1,000 containers that want one device. On the busy node,
containers want devices without end; they have the real limiter, in a few processes, and kernels
that only take their time. What the arbiter's thread takes of a core is what the kernel says that it
ran. Beside it the least that giving out a turn can cost here: a thread is woken by a FIFO, and
wakes another one.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
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
# The partners of the least that it can cost ring about as often as turns end.
PARTNERS: Final = 8
PAUSE_US: Final = 4_000
# So long strace counts; that is slow, and no part of what is timed.
COUNTED_SECONDS: Final = 1.0

_CSRC: Final = HERE.parent / "csrc"
_CORE: Final = ("limiter", "around", "ledger", "meter", "observe", "lock")


@dataclass(frozen=True, slots=True)
class Place:
    """The programs, and a folder in memory for regions."""

    folder: Path
    steps: Path
    sharer: Path
    wake: Path


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
            common.compile_c(folder, HERE / "wake.c"),
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

    def user_ns(self) -> int:
        """How much of it was not the kernel's: as its clock's ticks found it."""
        text = Path(f"/proc/self/task/{self._task}/stat").read_text(encoding="ascii")
        # Its name, which may have spaces, ends with a bracket; utime is the 14th of all.
        ticks = int(text.rpartition(")")[2].split()[11])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def count_calls(self, seconds: float) -> int | None:
        """Count the thread's system calls; None where nobody can. Raises BenchError."""
        strace = shutil.which("strace")
        if strace is None:
            return None
        command = [strace, "-c", "-q", "-p", self._task]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as counter:
            time.sleep(seconds)
            counter.send_signal(signal.SIGINT)
            _, said = counter.communicate(timeout=30)
        match = re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s.*total$", said, re.MULTILINE)
        return int(match[1]) if match else None

    def turns(self, containers: list[int]) -> int:
        """How many turns the containers have had."""
        return sum(self.runner.read(one, 0).turns for one in containers)


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
            turns, user = node.turns(numbers), node.user_ns()
            start, before = time.monotonic_ns(), node.cpu_ns()
            time.sleep(seconds)
            passed, spent = time.monotonic_ns() - start, node.cpu_ns() - before
            turns, user = node.turns(numbers) - turns, node.user_ns() - user
            counted = node.turns(numbers)
            calls = node.count_calls(min(seconds, COUNTED_SECONDS))
            counted = node.turns(numbers) - counted
    finally:
        node.runner.stop()
    figures = (
        {}
        if calls is None
        else {f"busy_{BUSY}_calls": Figure(calls / max(counted, 1), "system calls a turn")}
    )
    return {
        f"busy_{BUSY}": Figure(100 * spent / passed, "% of a core", MOST_PERCENT),
        f"busy_{BUSY}_turns": Figure(turns * 1e9 / passed, "turns a second"),
        f"busy_{BUSY}_turn": Figure(spent / max(turns, 1) / 1000, "us a turn"),
        f"busy_{BUSY}_user": Figure(100 * user / passed, "% of a core"),
        **figures,
    }


def _wake_us(made: Place, seconds: float) -> float:
    done = subprocess.run(
        [made.wake, str(seconds), str(PARTNERS), str(PAUSE_US)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"nobody was woken: {done.stderr.strip()}")
    return float(done.stdout) / 1000


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
    seconds = QUICK_SECONDS if options.quick else BUSY_SECONDS
    figures |= _busy(made, seconds)
    figures["wake"] = Figure(_wake_us(made, seconds), "us")
    return figures


if __name__ == "__main__":
    sys.exit(common.main("arbiter", __doc__.splitlines()[0], run, lambda _: place()))
