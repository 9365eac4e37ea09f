"""A simulated node for a test, and processes on it that do what they are told."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aliquot.sim.node import parse_node
from aliquot.sim.run import shared_folder
from aliquot.sim.state import GroupTruth, Truth, create, environment, truth

WORKER = Path(__file__).resolve().parent / "sim_worker.py"
PAGE = 2 << 20
MIB = 1 << 20

SMALL_NODE = """
[[device]]
memory = "1GiB"
context = "8MiB"
"""


class CallError(AssertionError):
    """A driver call failed that should not have."""

    def __init__(self, call: str, result: int) -> None:
        super().__init__(f"{call} answered {result}")
        self.result = result


class Process:
    """One worker. ``call`` answers result and value; ``ok`` only the value, and insists on 0."""

    def __init__(self, node: NodeUnderTest, group: str, *, linked: socket.socket | None) -> None:
        self.group = group
        descriptors = [] if linked is None else [linked.fileno()]
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
            env={**node.environment(), "ALIQUOT_SIM_GROUP": group},
        )
        self.pid = self._process.pid

    def call(self, name: str, *arguments: Any) -> tuple[int, Any]:
        """Make the worker do a call; answers its result and what it gave."""
        self.send(name, *arguments)
        return self.receive()

    def send(self, name: str, *arguments: Any) -> None:
        """Make the worker begin a call, which may block it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()

    def receive(self) -> tuple[int, Any]:
        """Wait for the end of the call that was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the worker ended with {self._process.wait()}"
        result, value = json.loads(line)
        return result, value

    def ok(self, name: str, *arguments: Any) -> Any:
        """Make a call that has to succeed; answers what it gave."""
        result, value = self.call(name, *arguments)
        if result:
            raise CallError(name, result)
        return value

    def result(self, name: str, *arguments: Any) -> int:
        """Make a call; answers its result."""
        return self.call(name, *arguments)[0]

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._close()

    def end(self) -> int:
        """Let it end by itself; answers its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait()
        self._close()
        return status

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class NodeUnderTest:
    """A node's state in a folder, and who runs on it."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.log = folder.parent / "sim.log"
        self._library = library
        self._processes: list[Process] = []
        self._names = (f"group{number}" for number in itertools.count())

    def environment(self) -> dict[str, str]:
        """What a program is started with to run on the node."""
        base = {
            name: value
            for name, value in os.environ.items()
            # A library built with a sanitizer needs that loaded first: LD_PRELOAD stays.
            if not name.startswith(("CUDA_", "ALIQUOT_")) and name != "LD_LIBRARY_PATH"
        }
        return {
            **environment(self.folder, self._library, base),
            "ALIQUOT_SIM_LOG": str(self.log),
        }

    def process(self, group: str | None = None, *, start: bool = True) -> Process:
        """Start a worker; with ``start``, with the primary context of device 0 current."""
        process = Process(self, group or next(self._names), linked=None)
        return self._started(process, start=start)

    def pair(self) -> tuple[Process, Process]:
        """Start two workers that can pass descriptors to each other."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        processes = [Process(self, next(self._names), linked=end) for end in ends]
        for end in ends:
            end.close()
        first, second = (self._started(process, start=True) for process in processes)
        return first, second

    def _started(self, process: Process, *, start: bool) -> Process:
        self._processes.append(process)
        if start:
            process.ok("start")
        return process

    def truth(self) -> Truth:
        """The simulator's own count."""
        return truth(self.folder)

    def group(self, process: Process) -> GroupTruth:
        """The count of the process's group."""
        return self.truth().group(process.group)

    def held(self, process: Process, device: int = 0) -> int:
        """Bytes that the process holds, by the simulator's count; its context is left out."""
        return self.group(process).used_bytes[device] - 8 * MIB

    def used(self, device: int = 0) -> int:
        """Bytes of the device that are not free."""
        found = self.truth().devices[device]
        return found.total_bytes - found.free_bytes

    def close(self) -> None:
        """Kill who still runs."""
        for process in self._processes:
            if process._process.poll() is None:
                process.kill()


@contextmanager
def node_of(text: str, library: Path) -> Iterator[NodeUnderTest]:
    """Make a node from a node file's text; its processes are killed at the end."""
    home = Path(tempfile.mkdtemp(prefix="aliquot-test-", dir=shared_folder()))
    try:
        create(parse_node(text, "test.toml", "test"), home / "node")
        node = NodeUnderTest(home / "node", library)
        try:
            yield node
        finally:
            node.close()
    finally:
        shutil.rmtree(home)
