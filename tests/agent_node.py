"""A node with a real agent, killed and started again; its containers are no more than sleep."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from aliquot.agent import processes, wire
from aliquot.agent.ledger import Ledger, key_of

import agent_process
from agent_parts import mounted_below

# A runtime, as runc is for the agent: asks, starts a first process, tells of it, and says what came
# of it. What it started lives until the test ends it, unless the agent did not have it.
_RUNTIME = """
import os, sys
from pathlib import Path
from aliquot.agent import wire
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import key_of
base, bundle = Path(sys.argv[1]), sys.argv[2]
name = Path(bundle).name
folder = str(base / "containers" / key_of(name, bundle))
def ask(kind, **fields):
    wire.ask(base / "runtime.sock", kind, fields)
try:
    ask(wire.CREATE, id=name, bundle=bundle)
except (OSError, AliquotError) as error:
    sys.exit(f"not created: {error}")
init = os.fork()
if init == 0:
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    os.execvp("sleep", ["sleep", "1000"])
for group in sys.argv[3:]:
    Path(group, "cgroup.procs").write_text(str(init))
try:
    ask(wire.CREATE_RUNTIME, slice=folder, id=name, pid=str(init), bundle=bundle)
except (OSError, AliquotError) as error:
    os.kill(init, 9)
    os.waitpid(init, 0)
    try:
        ask(wire.POSTSTOP, slice=folder, id=name)
    except (OSError, AliquotError):
        pass
    sys.exit(f"not started: {error}")
print(init)
"""


class Node:
    """A folder with an agent's files, and its agents."""

    def __init__(self, folder: Path, program: str = agent_process.__file__) -> None:
        self.folder = folder
        self.program = program
        self.base = folder / "run"
        self.lib = folder / "lib"
        self.running: list[int] = []

    @contextlib.contextmanager
    def agent(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """An agent that is ready."""
        reading, writing = os.pipe()
        with subprocess.Popen(
            [sys.executable, self.program, str(self.base), str(self.lib), str(writing), *arguments],
            pass_fds=(writing,),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.close(writing)
            try:
                with open(reading, "rb") as ready:  # noqa: PTH123 - an open file
                    assert ready.read(1) == b"r", process.communicate()[1]
                yield process
            finally:
                process.kill()

    def start(self, bundle: Path, *groups: Path) -> subprocess.CompletedProcess[str]:
        """Run a container as a runtime does, in cgroups of its own.

        Its first process is in ``running`` if it runs.
        """
        result = subprocess.run(
            [sys.executable, "-c", _RUNTIME, str(self.base), str(bundle), *map(str, groups)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if result.returncode == 0:
            self.running.append(int(result.stdout))
        return result

    def ask(self, kind: int, **fields: str) -> None:
        """Ask the agent as a hook does."""
        wire.ask(self.base / "runtime.sock", kind, fields)

    def stop(self, bundle: Path, pid: int) -> None:
        """End a container, and tell the agent."""
        end(pid)
        self.running.remove(pid)
        folder = self.base / "containers" / key_of(bundle.name, str(bundle))
        self.ask(wire.POSTSTOP, slice=str(folder), id=bundle.name)

    def names(self) -> set[str]:
        """The containers that have a slice on disk, by the folders that are there."""
        return {path.name[:-9] for path in (self.base / "containers").iterdir()}

    def check_books(self) -> None:
        """Whoever lives has a whole slice, and nobody else has anything."""
        ledger = Ledger(self.base)
        ledger.open()
        assert ledger.faults == []
        held = {piece.init_pid for piece in ledger.slices()}
        assert held == {pid for pid in self.running if processes.start_time(pid)}
        assert len(mounted_below(self.base)) == len(ledger.slices()) == len(self.names())


def end(pid: int) -> None:
    """Kill a process that is not ours to wait for, and return when it has ended."""
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - an open file
        _readable(file)


def _readable(file: IO[bytes]) -> None:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    assert poll.poll(60_000)
