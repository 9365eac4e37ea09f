"""Containers that share devices, without devices: real regions, and processes with real limiters.

The processes are bench/sharer.c's: their kernels only take their time.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aliquot.shim import arbiter, region

import time_harness
from commands import PATIENCE_SECONDS
from time_harness import ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

FREE, OPEN, TURN, CLOSED = range(4)
# As what a thread sleeps on its gate.
LAUNCHERS, OBSERVERS = 1, 2

# Where the parts of the files lie; region.h says so.
_BEAT = 24
_COLUMNS, _COLUMN_BYTES = 256, 256
_CORES, _GATE, _WINDOW, _MINIMUM, _WANTED = 56, 64, 72, 76, 88
_HIGH_WATER = 16
_FLOW = 4096 + 131072 + 65536 + 65536


def compile_sharer(folder: Path) -> Path:
    """Compile the program."""
    program = folder / "sharer"
    command = ["gcc", "-std=gnu11", "-O2", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    sources = [*time_harness.LIMITER, ROOT / "bench/sharer.c", ROOT / "csrc/region/region.c"]
    command += [f"-I{ROOT / 'csrc'}", "-o", str(program), *map(str, sources)]
    subprocess.run([*command, "-lpthread"], check=True)
    return program


@dataclass(frozen=True)
class Gate:
    """A gate's word, taken apart."""

    state: int
    others: int
    number: int
    turn_us: int


class Watched:
    """A region that is there, as anybody on the node may read it."""

    def __init__(self, folder: Path, devices: int = 1) -> None:
        self.folder = folder
        self.devices = devices
        self._grant = os.open(folder / "grant", os.O_RDWR)
        self._usage = os.open(folder / "usage", os.O_RDWR)
        self._fds = [self._grant, self._usage]
        self._bell: int | None = None
        if (folder / region.BELL).exists():
            self._bell = os.open(folder / region.BELL, os.O_RDWR | os.O_NONBLOCK)
            self._fds.append(self._bell)
        # By which an arbiter knows it.
        self.number = -1

    def close(self) -> None:
        """Close the files."""
        while self._fds:
            os.close(self._fds.pop())

    def join(
        self,
        runner: arbiter.Runner,
        *devices: int,
        terms: arbiter.Terms | None = None,
    ) -> Self:
        """Have an arbiter know it, on devices of the node."""
        promised = [terms or arbiter.Terms(0, 1000)] * self.devices
        numbers = devices or range(self.devices)
        self.number = runner.add(self._grant, self._usage, self._bell, list(numbers), promised)
        return self

    def gate(self, column: int = 0) -> Gate:
        """What its processes see."""
        (word,) = struct.unpack("=Q", self._column(column, _GATE, 8))
        return Gate(word & 3, word >> 2 & 15, word >> 6 & 0x3FFFFFF, word >> 32)

    def beat(self) -> int:
        """The beat of its grant."""
        (beat,) = struct.unpack("=Q", os.pread(self._grant, 8, _BEAT))
        return int(beat)

    def cores(self, column: int = 0) -> int:
        """The percent that it keeps to."""
        (cores,) = struct.unpack("=I", self._column(column, _CORES, 4))
        return int(cores)

    def window_us(self, column: int = 0) -> int:
        """How much work may be under way, as its processes are told."""
        (window,) = struct.unpack("=I", self._column(column, _WINDOW, 4))
        return int(window)

    def told(self, column: int = 0) -> tuple[int, int, int]:
        """Minimum, weight and priority."""
        found: tuple[int, int, int] = struct.unpack("=IIi", self._column(column, _MINIMUM, 12))
        return found

    def figures(self, column: int = 0) -> tuple[int, int]:
        """What it wanted and received, thousandths; ALIQUOT_UNKNOWN: nobody knows."""
        found: tuple[int, int] = struct.unpack("=II", self._column(column, _WANTED, 8))
        return found

    def used_ns(self, column: int = 0) -> int:
        """The device time that its processes charged."""
        return region.read_usage(self._usage, "usage", self.devices).devices[column].device_ns

    def scribble(self, data: bytes, offset: int) -> None:
        """Write into ``usage``."""
        os.pwrite(self._usage, data, offset)

    def write_flow(self, word: int, slots: int, column: int = 0) -> None:
        """Have ``slots`` processes say the same."""
        self.scribble(struct.pack("=I", slots), _HIGH_WATER)
        self.scribble(struct.pack("=Q", word) * slots, _FLOW + column * 8 * region.MAX_SLOTS)

    def take_slot(self) -> None:
        """Hold the first slot, as a process does that lives."""
        # By a file of its own: a lock is no obstacle for whoever has the same.
        self._fds.append(os.open(self.folder / "usage", os.O_RDWR))
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(self._fds[-1], fcntl.F_OFD_SETLK, lock)

    def ring(self) -> None:
        """Ring the bell."""
        assert self._bell is not None
        os.write(self._bell, b"!")

    def sleep_on_gate(
        self, role: int, asleep: Callable[[], None], seconds: float = PATIENCE_SECONDS
    ) -> int:
        """Sleep until the gate is written, as a thread of a process does; 0 when woken for it.

        As ``role``: LAUNCHERS, OBSERVERS. ``asleep`` is called just before. Else errno: EAGAIN when
        it was written before, ETIMEDOUT.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 202, "aarch64": 98}[platform.machine()]
        with mmap.mmap(self._grant, 0) as grant:
            word = ctypes.c_uint32.from_buffer(grant, _COLUMNS + _GATE)
            until = time.monotonic_ns() + int(seconds * 1e9)
            patience = struct.pack("=qq", *divmod(until, 1_000_000_000))
            seen = word.value
            asleep()
            # FUTEX_WAIT_BITSET
            wait = libc.syscall(number, ctypes.byref(word), 9, seen, patience, None, role)
            del word
        return ctypes.get_errno() if wait else 0

    def _column(self, column: int, offset: int, size: int) -> bytes:
        return os.pread(self._grant, size, _COLUMNS + column * _COLUMN_BYTES + offset)


class Container(Watched):
    """A region as the agent makes it, with all gates closed."""

    def __init__(self, folder: Path, devices: int = 1, *, bell: bool = True) -> None:
        folder.mkdir()
        rows = [
            region.RegionDevice(bytes([number + 1]) * 16, None, 4096, 0, shared=True)
            for number in range(devices)
        ]
        dirfd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        region.create(dirfd, folder.name, rows)
        if bell:
            region.create_bell(dirfd)
        os.close(dirfd)
        super().__init__(folder, devices)


class Sharer:
    """One process, of one container or several, that launches kernels without end."""

    def __init__(
        self,
        program: Path,
        *containers: Watched,
        kernel_ns: int = 500_000,
        gap_us: int = 0,
        depth: int = 4,
    ) -> None:
        folders = [str(one.folder) for one in containers]
        numbers = [str(kernel_ns), str(gap_us), str(depth)]
        self.process = subprocess.Popen(
            [str(program), *numbers, *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._stdout.readline() == "ready\n"

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, if nobody has."""
        self.kill()
        self.process.__exit__(None, None, None)

    @property
    def _stdout(self) -> IO[str]:
        assert self.process.stdout
        return self.process.stdout

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def end(self) -> list[int]:
        """Have it end; returns the launches, by container."""
        assert self.process.stdin
        self.process.stdin.close()
        lines = self._stdout.read().split()
        assert self.process.wait(PATIENCE_SECONDS) == 0
        return [int(line) for line in lines]
