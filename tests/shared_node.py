"""A node whose containers share devices, and how far the programs in them have come."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aliquot.shim import region
from aliquot.shim._region import ffi
from aliquot.sim.state import truth

from nodes import NodeBed

PROGRAM = "/usr/bin/share_client"
# No promise: long enough that only what hangs takes so long, on however busy a machine.
PATIENCE_SECONDS = 90.0


class HangError(AssertionError):
    """Somebody does not go on; the text has who waits for what."""


@dataclass
class Program:
    """A program of share_client.c in a container."""

    bed: NodeBed
    name: str
    process: subprocess.Popen[str]
    rounds: int = 0
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    def follow(cls, bed: NodeBed, name: str, process: subprocess.Popen[str]) -> Program:
        """Take note of what it says."""
        one = cls(bed, name, process)
        threading.Thread(target=one._read, daemon=True).start()
        return one

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.strip())
                if self.lines[-1].isdigit():
                    self.rounds = int(self.lines[-1])
                self._news.notify_all()

    def _wait(
        self, what: str, so: Callable[[], object], patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        deadline = time.monotonic() + patience_seconds
        with self._news:
            while not so():
                status = self.process.poll()
                assert status is None, f"{self.name} ended with {status}: {self.lines[-3:]}"
                if time.monotonic() > deadline:
                    raise HangError(f"{self.name}: {what}\n{where_all_is(self.bed)}")
                self._news.wait(0.2)

    def begin(self) -> None:
        """Let it go on when it is ready."""
        self._wait("is not ready", lambda: self.lines)
        self.say("go")

    def say(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self, line: str) -> str:
        """Give it a line, and return the one that it answers."""
        count = len(self.lines)
        self.say(line)
        self._wait(f"does not answer {line}", lambda: len(self.lines) > count)
        return self.lines[count]

    def goes_on(self, rounds: int = 30, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until it has done so many rounds more."""
        until = self.rounds + rounds
        what = f"has done {self.rounds} rounds and not {until}"
        self._wait(what, lambda: self.rounds >= until, patience_seconds)

    def ran_ns(self, device: int = 0) -> int:
        """Return the device time of its processes that live, by the simulator's truth."""
        found = truth(self.bed.folder / "node").processes
        return sum(one.ran_ns[device] for one in found if one.group == self.name)


def charged_ns(one: Program, device: int = 0) -> int:
    """Return the device time that a container's own books have."""
    folder = next((one.bed.folder / "run/containers").glob(f"{one.name}-*/region"))
    with (folder / "usage").open("rb") as usage:
        used = region.read_usage(usage.fileno(), str(folder), device + 1).devices[device]
    return used.device_ns


@contextlib.contextmanager
def program(bed: NodeBed, name: str, *command: str, **wish: str) -> Iterator[Program]:
    """Run a case of share_client.c in a container of that name."""
    wish = {"ALIQUOT_MEMORY": "1GiB", **wish}
    with bed.container(name, PROGRAM, *command, **wish) as process:
        yield Program.follow(bed, name, process)


@contextlib.contextmanager
def programs(
    bed: NodeBed, *each: tuple[str, Sequence[object], dict[str, str]]
) -> Iterator[list[Program]]:
    """Run several: a name, a command and what it asks for, of each; all begin."""
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(program(bed, name, *map(str, command), **wish))
            for name, command, wish in each
        ]
        for one in running:
            one.begin()
        yield running


# -- Where all is when somebody hangs --


def where_all_is(bed: NodeBed) -> str:
    """Say which gates are how, what processes said last, and where their threads are."""
    lines = [f"agent: {bed.agent.log()[-1000:]}"]
    for folder in sorted((bed.folder / "run/containers").iterdir()):
        lines += _region(folder)
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if command[0] == PROGRAM.encode() or int(entry.name) == bed.agent.pid:
                lines += _threads(entry, b" ".join(command).decode(errors="replace"))
    return "\n".join(lines)


def _region(folder: Path) -> list[str]:
    lines = [f"{folder.name}:"]
    found = next((path.parent for path in folder.rglob("grant")), None)
    if found is None:
        return lines
    with (found / "grant").open("rb") as grant, (found / "usage").open("rb") as usage:
        granted = region.read_grant(grant.fileno(), str(found))
        flows_at = ffi.offsetof("struct aliquot_usage", "flow")
        for number in range(len(granted.devices)):
            start = flows_at + 8 * region.MAX_SLOTS * number
            flows = struct.unpack("=64Q", os.pread(usage.fileno(), 8 * 64, start))
            gate_at = ffi.offsetof("struct aliquot_grant", "device", number, "gate")
            (gate,) = struct.unpack("=Q", os.pread(grant.fileno(), 8, gate_at))
            lines.append(
                f"  device {number}: {region.read_gate(grant.fileno(), number)}, number "
                f"{gate >> 6 & 0xFFFF}, others {gate >> 2 & 15}, {gate >> 32} us, "
                f"beat {granted.beat}"
            )
            lines += [
                f"    slot {slot}: waiting {word & 0x3FF}, active {word >> 10 & 1}, number "
                f"{word >> 24 & 0xFFFF}, left {word >> 40 << 14} ns"
                for slot, word in enumerate(flows)
                if word
            ]
    return lines


def _threads(entry: Path, command: str) -> list[str]:
    lines = [f"{entry.name} {command}:"]
    for task in sorted(entry.glob("task/*")):
        with contextlib.suppress(OSError):
            comm, wchan, call = (
                (task / name).read_text().strip() for name in ("comm", "wchan", "syscall")
            )
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            lines.append(f"  {task.name} {comm}: {state} in {wchan}, call {call}")
    return lines


class Stopped:
    """Processes of a container that stand still within the block."""

    def __init__(self, one: Program) -> None:
        self._one = one

    def __enter__(self) -> None:
        """Stop them."""
        for pid in pids(self._one):
            os.kill(pid, signal.SIGSTOP)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let them go on."""
        for pid in pids(self._one):
            os.kill(pid, signal.SIGCONT)


def pids(one: Program) -> list[int]:
    """Return the pids, as the host has them, of share_client's processes in a container."""
    found = []
    group = f"ALIQUOT_SIM_GROUP={one.name}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = (entry / "cmdline").read_bytes().startswith(PROGRAM.encode() + b"\0")
            if ours and group in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
