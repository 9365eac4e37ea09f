"""A simulated node with Cambricon's devices: programs on it, and the module that asks it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from aliquot.sim.node import parse_node
from aliquot.sim.state import State, create

from commands import TESTS
from module_worker import Asked

ROOT = TESTS.parent
MIB = 1 << 20
NODE = """
[[device]]
vendor = "cambricon"
count = 2
model = "MLU370-X8"
memory = "1088MiB"
reserved = "64MiB"
nvlinks = 2
numa_node = 0
power_watts = 250
sms = 32
"""
STRICT = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-D_GNU_SOURCE")


@cache
def built(kind: str, folder: Path) -> Path:
    """Compile a client, a holder, or another kind of the library, once; returns the file."""
    sources = [*(ROOT / "csrc/sim").glob("state*.c"), *(ROOT / "csrc/sim").glob("timeline*.c")]
    folder.mkdir(exist_ok=True)
    out = folder / kind
    if kind == "client":
        # It declares nothing, so that every argument is as the call has it.
        command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
        command += [str(TESTS / "cndev_client.c"), "-ldl"]
    elif kind == "holder":
        # Static, so that it runs in any container.
        command = ["gcc", *STRICT, "-static", f"-I{ROOT / 'csrc'}", str(TESTS / "mlu_holder.c")]
        command += [*map(str, sources), "-lpthread"]
    else:
        # Of another age, or "cndevSome": one that lacks that function.
        version = {"older": 5, "newer": 7}.get(kind, 6)
        sources += [*(ROOT / "csrc/sim/vendor").glob("*.c")]
        sources += [*(ROOT / "csrc/sim/cndev").glob("*.c")]
        command = ["gcc", *STRICT, f"-I{ROOT / 'csrc'}", f"-DSIM_CNDEV_VERSION={version}"]
        command += [f"-D{kind}=cndevIsNotHere"] if version == 6 else []
        command += ["-shared", "-fPIC", *map(str, sources), "-lpthread"]
        out = folder / kind / "libcndev.so"
        out.parent.mkdir(exist_ok=True)
    subprocess.run([*command, "-o", str(out)], check=True)
    return out


class Holder:
    """A process that holds memory of a device."""

    def __init__(self, program: Path, state: Path, device: int) -> None:
        self.process = subprocess.Popen(
            [str(program), str(state), str(device)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self._answer() == "ok"

    def do(self, order: str) -> bool:
        """Whether what it was told could be done."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._answer() == "ok"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it end by itself."""
        self.process.communicate()


class Node(Asked):
    """The node. ``library`` is the folder with the library that is asked."""

    def __init__(self, folder: Path, library: Path, text: str = NODE) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.dev, self.cdi = folder / "dev", folder / "cdi"
        for made in (self.dev, self.cdi):
            made.mkdir(exist_ok=True)
        create(parse_node(text, "test.toml", "test"), self.state)
        # Where device files of shares are made, and not in this machine's /dev.
        (self.state / "root/dev").mkdir(parents=True)
        self.environment = {
            **os.environ,
            "ALIQUOT_SIM": str(self.state),
            "LD_LIBRARY_PATH": str(library),
        }
        self.holders: list[Holder] = []

    # -- the vendor's module --

    def start(self) -> dict[str, Any]:
        """Start the module; answers what its making did."""
        module = "aliquot.agent.devices.cambricon:Cambricon"
        arguments = (module, str(self.cdi), str(self.folder))
        return self.launch("vendor_worker.py", *arguments, env=self.environment)

    def order(self, errors: str) -> None:
        """Have functions of the library answer errors from now on: ``cndevGetUUID=7``."""
        self.get("environ", {"ALIQUOT_SIM_CNDEV_ERRORS": errors})

    # -- the node --

    def holder(self, programs: Path, device: int = 0) -> Holder:
        """Start a process that holds memory of a device."""
        made = Holder(built("holder", programs), self.state, device)
        self.holders.append(made)
        return made

    def fault(self, device: int, code: int, *, cleared: bool = False) -> None:
        """Let a device have a fault, or not any more."""
        state = State(self.state)
        state.inject(device, code, cleared=cleared)
        state.close()

    def close(self) -> None:
        """End all that runs; the module must do so without a fault."""
        for holder in self.holders:
            if holder.process.poll() is None:
                holder.end()
        self.finish()
