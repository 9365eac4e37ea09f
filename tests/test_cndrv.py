"""Cambricon's driver library and the slice in front of it: programs see its cap, and no more."""

from __future__ import annotations

import os
import re
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
from cuda_table import CAMBRICON_TABLE, ROOT, generator, read_table
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
model = "MLU370-X8"
memory = "{memory}MiB"
reserved = "64MiB"
context = "20MiB"
release_delay_ns = {delay}
"""


@pytest.fixture(scope="module")
def driver(sim_library: Path) -> Path:
    """The simulator's driver library."""
    return sim_library.with_name("libcndrv.so")


@pytest.fixture(scope="module")
def client(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, linked against the library as programs are."""
    program = tmp_path_factory.mktemp("cndrv") / "client"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    command += [str(TESTS / "cndrv_client.c"), f"-L{driver.parent}", "-l:libcndrv.so", "-lpthread"]
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

    def make(memory: int = 2 * SMALL, delay_ns: int = 0) -> Place:
        here = folder()
        directory = here.__enter__() / "node"
        folders.append(here)
        text = NODE.format(memory=memory // MIB + 64, delay=delay_ns)
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


# ---- The table -----------------------------------------------------------------------------------


def test_every_function_has_its_class_and_the_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    assert generator().main([str(CAMBRICON_TABLE), "docs", str(page)]) == 0
    assert page.read_text() == (ROOT / "docs/coverage-cambricon.md").read_text(), "run `make build`"
    kinds = {row.function: row.kind for row in read_table(CAMBRICON_TABLE)}
    assert kinds["cnMalloc"] == "charge"
    assert kinds["cnInvokeKernel"] == "launch"
    assert kinds["cnQueueSync"] == "order"


def test_every_function_that_is_declared_is_in_the_table() -> None:
    header = (ROOT / "csrc/cambricon/cndrv.h").read_text()
    declared = set(re.findall(r"^CNresult (cn\w+)\(", header, re.MULTILINE))
    assert len(declared) > 80
    assert declared <= {row.function for row in read_table(CAMBRICON_TABLE)}


# ---- Memory --------------------------------------------------------------------------------------


def test_a_program_cannot_tell_a_slice_from_a_smaller_device(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    bare = node(SMALL).start("tour").end()
    large = node(4 * SMALL)
    sliced = large.slice(shim, tmp_path / "slice")
    found = sliced.start("tour").end()
    assert bare.splitlines()[-1] == "end"
    # The cap is to the last page, and what is refused has the library's own code.
    assert "full: 0 of" in bare
    assert "ones: 6, then 100100" in bare
    uuid = r"^uuid: .*$"
    assert re.sub(uuid, "", found, flags=re.MULTILINE) == re.sub(uuid, "", bare, flags=re.MULTILINE)
    assert sliced.charge() == 0
    assert large.held() == 0


@pytest.mark.parametrize("cores", [100, 40])
def test_a_tour_is_the_same_behind_a_gate(
    node: Callable[..., Place], shim: Path, tmp_path: Path, cores: int
) -> None:
    large = node(4 * SMALL)
    bare = node(SMALL).start("tour").end()
    sliced = large.slice(shim, tmp_path / "slice", cores=cores, shared=True)
    found = sliced.start("tour").end()
    uuid = r"^uuid: .*$"
    assert re.sub(uuid, "", found, flags=re.MULTILINE) == re.sub(uuid, "", bare, flags=re.MULTILINE)


def test_processes_share_a_slice_to_its_last_page(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    whole = node()
    place = whole.slice(shim, tmp_path / "slice")
    clients = [place.start("fill") for _ in range(3)]
    assert [one.read() for one in clients] == ["ready"] * 3
    counts = []
    for one in clients:
        one.go()
        _, count, refusal = one.read().split()
        counts.append(int(count))
        assert refusal == "100100"
    pages = (SMALL - 3 * CONTEXT) // PAGE
    assert sum(counts) == pages
    assert place.charge() == whole.held() == SMALL
    for one in clients:
        one.end()
    assert place.charge() == whole.held() == 0


@pytest.mark.parametrize("delay_ns", [0, 300 * MS])
def test_a_killed_process_gives_its_memory_back(
    node: Callable[..., Place], shim: Path, tmp_path: Path, delay_ns: int
) -> None:
    # The slice has all of the device: what the driver still gives back is waited for.
    whole = node(SMALL, delay_ns)
    place = whole.slice(shim, tmp_path / "slice", None)
    first = place.start("fill")
    assert first.fill().split()[2] == "100100"
    first.process.kill()
    first.process.wait()
    second = place.start("fill")
    assert second.fill() == f"filled {(SMALL - CONTEXT) // PAGE} 100100"
    second.end()
    assert place.charge() == whole.held() == 0


@pytest.mark.parametrize("cores", [100, 50])
def test_a_storm_of_calls_never_passes_the_cap_and_leaves_nothing(
    node: Callable[..., Place], shim: Path, tmp_path: Path, cores: int
) -> None:
    whole = node(4 * SMALL)
    place = whole.slice(shim, tmp_path / "slice", cores=cores)
    clients = [place.start("storm", 6, 1500, seed) for seed in range(3)]
    assert [one.read() for one in clients] == ["ready"] * 3
    for one in clients:
        one.go()
    assert [one.read().partition(":")[0] for one in clients] == ["quiet"] * 3
    assert place.charge() == whole.held() <= SMALL
    for one in clients:
        one.go()
    refusals = [int(one.read().removeprefix("gone ")) for one in clients]
    assert sum(refusals) > 100
    assert place.charge() == whole.held() == 3 * CONTEXT
    assert whole.most() <= SMALL
    for one in clients:
        one.end()


def test_two_slices_of_a_device_hold_theirs_and_no_more(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    whole = node()
    places = [whole.slice(shim, tmp_path / name, SMALL) for name in ("one", "two")]
    clients = [place.start("fill") for place in places]
    for one in clients:
        assert one.fill() == f"filled {(SMALL - CONTEXT) // PAGE} 100100"
    assert [place.charge() for place in places] == [SMALL, SMALL]
    for one in clients:
        one.end()


def test_a_forked_child_is_no_part_of_the_slice(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    place = node().slice(shim, tmp_path / "slice")
    told = place.start("fork").end()
    assert told.splitlines() == ["child 0", f"after it: {SMALL - CONTEXT} of {SMALL}"]


def test_without_its_region_the_library_does_not_start(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    place = node().slice(shim, tmp_path / "slice")
    (place.library.parent / ".aliquot/grant").unlink()
    out, err = place.start("fill").process.communicate(timeout=PATIENCE_SECONDS)
    assert "cnInit(0): 100007" in out
    assert err.startswith("aliquot: no CNDrv in this process: cannot open ")
    assert err.count("\n") == 1
