"""Nodes with Cambricon's devices, slices of them, and programs of its driver library there.

``node`` needs a fixture ``client``, the program, of the tests that use it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aliquot.shim
import pytest
from aliquot.shim import region
from aliquot.sim.node import Device, parse_node
from aliquot.sim.state import State, create

from commands import PATIENCE_SECONDS, TESTS
from slices import lay_out

MIB = 1 << 20
MS = 1_000_000
PAGE = 2 * MIB
CONTEXT = 20 * MIB
# What a device of the node has for programs, and what a slice of a larger one may have of it.
SMALL = 512 * MIB
NODE = """
[costs]
launch_ns = 0
[[device]]
vendor = "cambricon"
count = 2
model = "{model}"
memory = "{memory}MiB"
reserved = "64MiB"
context = "20MiB"
pool_chunk = {chunk}
release_delay_ns = {delay}
"""


@pytest.fixture(scope="module")
def driver(sim_library: Path) -> Path:
    """The simulator's driver library."""
    return sim_library.with_name("libcndrv.so")


def compile_client(name: str, driver: Path, folder: Path) -> Path:
    """Build a program of the tests', linked against the library as programs are."""
    program = folder / name
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    command += [str(TESTS / f"{name}.c"), f"-L{driver.parent}", "-l:libcndrv.so", "-lpthread"]
    subprocess.run([*command, "-Wl,--allow-shlib-undefined"], check=True)
    return program


@dataclass
class Running:
    """A program that is told to go on by lines."""

    process: subprocess.Popen[str]

    def read(self) -> str:
        """Return its next line."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def fill(self) -> str:
        """Let it take all that there is; returns what it says then."""
        assert self.read() == "ready"
        self.go()
        return self.read()

    def end(self) -> str:
        """Let it go on to its end, which must be a good one; returns what else it said."""
        out, err = self.process.communicate("go\n", timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, out + err
        return out


@dataclass
class Place:
    """A node, or a slice of its devices, and the programs there."""

    client: Path
    directory: Path
    devices: tuple[Device, ...]
    library: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, folder: Path | None = None) -> Running:
        """Start the client."""
        process = subprocess.Popen(
            [self.client, *map(str, arguments)],
            env={
                **os.environ,
                "ALIQUOT_SIM": str(self.directory),
                "LD_LIBRARY_PATH": str(folder or self.library.parent),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.running.append(process)
        return Running(process)

    def slice(
        self,
        shim: Path,
        folder: Path,
        cap: int | None = SMALL,
        *,
        cores: int = 100,
        shared: bool = False,
    ) -> Place:
        """Put the shim before the library, with a cap for the first device."""
        parts = (
            region.RegionDevice(
                uuid=self.devices[0].uuid,
                cap=cap,
                page_bytes=PAGE,
                context_bytes=CONTEXT,
                cores=cores,
                shared=shared,
            ),
        )
        names = ("libcndrv.so", "libcndrv-driver.so")
        library = lay_out(shim, self.library, folder, parts, names)
        return Place(self.client, self.directory, self.devices, library, self.running)

    def charge(self) -> int:
        """Bytes that the slice's processes are charged."""
        path = self.library.parent / ".aliquot/usage"
        with path.open("rb") as file:
            return region.read_usage(file.fileno(), str(path), 1).charge(0)

    def most(self) -> int:
        """Bytes that they had at most, ever."""
        state = State(self.directory)
        try:
            return max(group.max_used_bytes[0] for group in state.truth().groups)
        finally:
            state.close()

    def held(self) -> int:
        """Bytes that processes have of the first device, by the simulator's own count."""
        state = State(self.directory)
        try:
            device = state.truth().devices[0]
            return device.total_bytes - device.free_bytes
        finally:
            state.close()


@pytest.fixture
def node(driver: Path, client: Path) -> Iterator[Callable[..., Place]]:
    """Makes nodes, of devices with so many bytes for programs."""
    made: list[Place] = []

    @contextmanager
    def folder() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="aliquot-test-", dir="/dev/shm") as name:
            yield Path(name)

    folders = []

    def make(
        memory: int = 2 * SMALL, delay_ns: int = 0, chunk: int = PAGE, model: str = "MLU370-X8"
    ) -> Place:
        here = folder()
        directory = here.__enter__() / "node"
        folders.append(here)
        text = NODE.format(memory=memory // MIB + 64, delay=delay_ns, chunk=chunk, model=model)
        parsed = parse_node(text, "test.toml", "test")
        create(parsed, directory)
        made.append(Place(client, directory, parsed.devices, driver))
        return made[-1]

    yield make
    for place in made:
        for process in place.running:
            if process.poll() is None:
                process.kill()
            process.communicate()
    for here in folders:
        here.__exit__(None, None, None)


@pytest.fixture(scope="module")
def shim() -> Path:
    """The shim."""
    library = aliquot.shim.library("libcndrv.so")
    assert library.is_file(), "it is not built: run `make build`"
    return library
