"""What the benches share: a node without costs, a slice on it, the client, and how figures print.

Every figure is the difference between the bare driver and the same driver behind the shim, taken
in turn within one run. The driver is the simulator with all its costs set to nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Literal, TypeVar

import vendors
from vendors import Vendor

HERE: Final = Path(__file__).resolve().parent
GIB: Final = 1 << 30
PAGE_BYTES: Final = 2 << 20
CAP_BYTES: Final = 14 * GIB
HELD_BYTES: Final = 4 << 20
PATIENCE_SECONDS: Final = 600.0

# Figures are printed and judged to so many places.
_DIGITS: Final = 3

# What the design promises, ns added.
LAUNCH_NS: Final = 4.0
ALLOC_FREE_NS: Final = 60.0
ALLOC_FREE_64_NS: Final = 120.0
MEM_INFO_NS: Final = 60.0
MOST_LIVE_RATIO: Final = 1.5


# Where a bench measures: what is made before and taken away after it.
Place = TypeVar("Place")


class BenchError(Exception):
    """A bench cannot run; the text says why and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a bench's table.

    ``value`` is what Aliquot adds, in ``unit``; ``bare`` and ``shim`` are what it was computed
    from, where that is two numbers. ``target`` is the most that ``value`` may be; None where
    nothing is promised.
    """

    value: float
    unit: str
    target: float | None = None
    bare: float | None = None
    shim: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the promise is kept; a figure without one has none to break."""
        return self.target is None or round(self.value, _DIGITS) <= self.target


@dataclass(frozen=True, slots=True)
class Options:
    """How a bench was asked to run."""

    quick: bool
    instructions: bool
    first: bool
    vendors: tuple[Vendor, ...] = (vendors.NVIDIA,)

    @property
    def vendor(self) -> Vendor:
        """Whose device is measured, where a bench measures one."""
        return self.vendors[0]


@dataclass(frozen=True, slots=True)
class Samples:
    """Times of one call, bare and through the shim, round by round; nanoseconds."""

    rounds: tuple[tuple[float, float], ...]

    def figure(self, target: float | None) -> Figure:
        """Make the figure: the median of what each round added."""
        return Figure(
            value=median(shim - bare for bare, shim in self.rounds),
            unit="ns",
            target=target,
            bare=median(bare for bare, _ in self.rounds),
            shim=median(shim for _, shim in self.rounds),
        )


@dataclass(frozen=True, slots=True)
class Bed:
    """A node, a slice of its device, and the compiled client."""

    client: Path
    shim: Path
    bare: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str | int | Path, tool: Sequence[str] = ()) -> str:
        """Run the client to its end; returns what it printed, a tool's standard error included.

        Raises BenchError.
        """
        done = subprocess.run(
            [*tool, str(self.client), *map(str, arguments)],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.splitlines() or [f"status {done.returncode}"]
            raise BenchError(f"the client failed ({' '.join(map(str, arguments))}): {lines[-1]}")
        return done.stdout + (done.stderr if tool else "")

    def measure(
        self,
        call: str,
        size: int,
        *,
        rounds: int,
        calls: int,
        chunks: int = 1,
        threads: int = 1,
        live: Sequence[int] = (1,),
    ) -> dict[int, Samples]:
        """Time ``call`` (see client.c) with each number of ``live`` allocations."""
        text = self.run(
            "measure", self.shim, self.bare, call, size, threads, rounds, chunks, calls,
            ",".join(map(str, live)),
        )  # fmt: skip
        found: dict[int, list[tuple[float, float]]] = {}
        here: list[tuple[float, float]] = []
        for line in text.splitlines():
            first, second = line.split()
            if first == "live":
                here = found.setdefault(int(second), [])
            else:
                here.append((float(first), float(second)))
        return {live: Samples(tuple(rounds)) for live, rounds in found.items()}

    def samples(self, call: str, size: int, calls: int, threads: int, *, quick: bool) -> Samples:
        """Time one call, in several processes one after the other: each has its own addresses."""
        rounds: list[tuple[float, float]] = []
        for _ in range(1 if quick else 5):
            if threads == 1:
                samples = self.measure(call, size, rounds=20 if quick else 400, calls=calls)
            else:
                # Threads meet before each block: it must be long beside the meeting, and beside the
                # turns that they take on a core.
                samples = self.measure(
                    call,
                    size,
                    rounds=4 if quick else 10,
                    chunks=10 if quick else 100,
                    calls=calls,
                    threads=threads,
                )
            rounds += samples[1].rounds
        return Samples(tuple(rounds))

    def open_gate(self) -> None:
        """Say in the slice's grant that others are on the device, and that none of them wants it.

        From then on launches are measured. Raises OSError.
        """
        from aliquot.shim._region import ffi, lib  # noqa: PLC0415 - only once it is built

        offset = ffi.offsetof("struct aliquot_grant", "device", 0, "gate")
        others = 1
        word = others << 2 | lib.ALIQUOT_GATE_OPEN
        grant = self.shim.parent / ".aliquot/grant"
        grant.chmod(0o600)
        with grant.open("r+b") as file:
            os.pwrite(file.fileno(), word.to_bytes(8, "little"), offset)

    def instructions(self, call: str, size: int, live: int = 1) -> Figure:
        """Count the instructions that the shim adds to ``call``, with callgrind."""
        counts = []
        for library in (self.bare, self.shim):
            text = self.run(
                "count", library, call, size, _COUNTED_CALLS, live,
                tool=["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                      "--toggle-collect=measured"],
            )  # fmt: skip
            match = re.search(r"Collected : (\d+)", text)
            if not match:
                raise BenchError("valgrind said nothing of the instructions that it counted")
            counts.append(int(match[1]) / _COUNTED_CALLS)
        bare, shim = counts
        return Figure(value=shim - bare, unit="instructions", bare=bare, shim=shim)

    @contextlib.contextmanager
    def neighbours(self, count: int) -> Iterator[None]:
        """Keep ``count`` other processes in the slice, each holding memory and doing nothing."""
        with contextlib.ExitStack() as stack:
            holders = []
            for _ in range(count):
                holder = subprocess.Popen(
                    [self.client, "hold", self.shim, str(HELD_BYTES)],
                    env=dict(self.environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.enter_context(holder)  # closes its standard input and waits
                holders.append(holder)
            for holder in holders:
                if holder.stdout is None or holder.stdout.readline() != "ready\n":
                    raise BenchError("a neighbour could not take part in the slice")
            yield


_COUNTED_CALLS: Final = 200


@contextlib.contextmanager
def bed(options: Options) -> Iterator[Bed]:
    """Make a node and a slice of its only device. Raises BenchError."""
    vendor = options.vendor
    shim, bare = _libraries(vendor)
    with tempfile.TemporaryDirectory(prefix="aliquot-bench-", dir=fast_folder()) as name:
        folder = Path(name)
        client = compile_driven(folder, "client.c", vendor)
        uuid = _make_node(folder / "node", vendor)
        library = _make_slice(folder / "slice", shim, bare, uuid, vendor)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALIQUOT_", "CUDA_", "LD_"))
        }
        environment["ALIQUOT_SIM"] = str(folder / "node")
        yield Bed(client, library, bare, environment)


def fast_folder() -> str | None:
    """Where shared files belong: in memory."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a fresh folder in it


def _libraries(vendor: Vendor) -> tuple[Path, Path]:
    """Return a vendor's shim, and the simulator's library behind it. Raises BenchError."""
    try:
        import aliquot.shim  # noqa: PLC0415 - what is missing is said in one line
        import aliquot.sim  # noqa: PLC0415 - as above

        simulated = aliquot.sim.library().with_name(vendor.library)
        libraries = aliquot.shim.library(vendor.library), simulated
    except ImportError as error:
        raise BenchError(f"aliquot is not built ({error}): run `make build`") from error
    for library in libraries:
        if not library.is_file():
            raise BenchError(f"{library} is not built: run `make build`")
    return libraries


def compile_c(folder: Path, *sources: Path) -> Path:
    """Compile a program, named as its first source. Raises BenchError."""
    program = folder / sources[0].stem
    compiler = os.environ.get("CC", "gcc")
    try:
        subprocess.run(
            [compiler, "-std=gnu11", "-O2", "-g", "-D_GNU_SOURCE", f"-I{HERE.parent / 'csrc'}",
             "-o", str(program), *map(str, sources), "-ldl", "-lpthread"],
            check=True,
            capture_output=True,
            text=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BenchError(
            f"there is no {compiler}: install gcc, or name a compiler in CC"
        ) from error
    except subprocess.CalledProcessError as error:
        name = sources[0].name
        raise BenchError(f"{compiler} does not compile {name}: {error.stderr}") from error
    return program


def compile_driven(folder: Path, source: str, vendor: Vendor) -> Path:
    """Compile a program that calls a vendor's driver by driver.h. Raises BenchError."""
    parts = ("driver.c", vendor.driver)
    return compile_c(folder, HERE / source, *(HERE / part for part in parts))


def _make_slice(folder: Path, shim: Path, driver: Path, uuid: bytes, vendor: Vendor) -> Path:
    """Lay the shim out in front of the driver; returns the library to load."""
    from aliquot.shim import region  # noqa: PLC0415 - only once it is known to be built

    hidden = folder / ".aliquot"
    hidden.mkdir(parents=True)
    (hidden / vendor.real).symlink_to(driver)
    device = region.RegionDevice(
        uuid=uuid, cap=CAP_BYTES, page_bytes=PAGE_BYTES, context_bytes=PAGE_BYTES
    )
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
    try:
        region.create(descriptor, "bench", [device])
    finally:
        os.close(descriptor)
    return Path(shutil.copy(shim, folder / vendor.library))


def _make_node(folder: Path, vendor: Vendor) -> bytes:
    """Make a node of one device on which nothing takes any time; returns the device's UUID."""
    from aliquot.sim.node import Device, Node  # noqa: PLC0415 - as above
    from aliquot.sim.state import create  # noqa: PLC0415 - as above

    device = Device(
        vendor=vendor.name, model="bench", memory=16 * GIB, page_size=PAGE_BYTES,
        context=PAGE_BYTES, kernel_ns=0, wave_ns=0,
    )  # fmt: skip
    node = Node.of("bench", [device])
    create(node, folder)
    return node.devices[0].uuid


def between(processes: int, one: float, sixty_four: float) -> float:
    """Return the target for ``processes``: on the line from one process to 64."""
    return round(one + (sixty_four - one) * (processes - 1) / 63, 2)


def main(
    name: str,
    what: str,
    run: Callable[[Place, Options], Mapping[str, Figure]],
    place: Callable[[Options], contextlib.AbstractContextManager[Place]],
    *,
    devices: Literal["none", "one", "every"] = "none",
    show: Callable[[str, Mapping[str, Figure]], None] | None = None,
) -> int:
    """Run a bench as a command, in a place of its own; returns its status.

    ``devices``: it measures a device of one vendor, or of every one, which may be chosen. ``show``
    prints its table. 0, or 1 when it could not run.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("--quick", action="store_true", help="few rounds: figures are rough")
    parser.add_argument(
        "--instructions", action="store_true", help="count instructions too (needs valgrind)"
    )
    parser.add_argument(
        "--first", action="store_true", help="before all others on this machine (needs root)"
    )
    every = [*vendors.BY_NAME] if devices == "every" else ["nvidia"]
    if devices != "none":
        parser.add_argument(
            "--vendor",
            choices=[*vendors.BY_NAME],
            help=f"whose device is measured ({', '.join(every)})",
        )
    parser.set_defaults(vendor=None)
    asked = parser.parse_args()
    named = [asked.vendor] if asked.vendor else every
    whose = tuple(vendors.BY_NAME[vendor] for vendor in named)
    options = Options(asked.quick, asked.instructions, asked.first, whose)
    if asked.instructions and not shutil.which("valgrind"):
        parser.error("--instructions needs valgrind, which is not installed")
    try:
        if asked.first:
            _go_first()
        with place(options) as made:
            figures = run(made, options)
    except BenchError as error:
        print(f"bench {name}: {error}", file=sys.stderr)
        return 1
    if asked.json:
        print(json.dumps({"bench": name, "figures": _public(figures)}))
    else:
        (show or print_table)(name, figures)
    return 0


def _go_first() -> None:
    """Have the highest priority and the shortest turns, for all that is started from here, too.

    Whoever wakes up then has a processor at once, as on a machine with nothing else to do (short
    turns need Linux 6.12). Raises BenchError.
    """
    # sched_setattr of struct sched_attr: size, SCHED_OTHER, no flags, nice, …, the turn in ns.
    number = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
    attributes = struct.pack("<IIQiIQQQII", 56, 0, 0, -20, 0, 100_000, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None or libc.syscall(number, 0, attributes, 0) != 0:
        why = os.strerror(ctypes.get_errno()) if number else "not known of this machine"
        raise BenchError(f"--first: sched_setattr: {why}: run it as root, or without")


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def _public(figures: Mapping[str, Figure]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "value": round(figure.value, _DIGITS),
            "unit": figure.unit,
            "target": figure.target,
            "holds": figure.holds,
        }
        for name, figure in figures.items()
    }


def print_table(name: str, figures: Mapping[str, Figure]) -> None:
    """Print the figures in aligned columns."""
    rows = [(name, "bare", "aliquot", "added", "unit", "target", "holds")]
    for figure_name, figure in figures.items():
        rows.append(
            (
                figure_name,
                _number(figure.bare),
                _number(figure.shim),
                _number(figure.value),
                figure.unit,
                "" if figure.target is None else f"{figure.target:g}",
                "" if figure.target is None else "yes" if figure.holds else "NO",
            )
        )
    print_rows(rows, left=(0, 4))


def print_rows(rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """Print rows of cells in aligned columns, those of ``left`` to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
