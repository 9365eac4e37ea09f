"""Runs real CUDA programs on a simulated node, and sees what they asked of the driver."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aliquot.shim import region
from aliquot.sim.node import load_node

from slices import lay_out, usage_of

ROOT = Path(__file__).resolve().parent.parent

SPIN_PTX = """.version 7.0
.target sm_70
.address_size 64
.visible .global .align 8 .u64 done[2] = {17, 42};
.visible .const .align 4 .f32 weights[2] = {1.5, 0.25};
.visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }
.visible .entry mixed(.param .u32 a, .param .u64 p, .param .f32 f) .maxntid 128 {
    .shared .align 4 .b8 own[256]; .reg .b32 %r; mov.u32 %r, own; ret;
}
"""
"""A kernel that takes the nanoseconds it is told, one of three parameters, and two variables."""

WITHOUT_NVJITLINK = """
import warnings
import cuda.pathfinder as finder

warnings.simplefilter("ignore")
find = finder.load_nvidia_dynamic_lib


def find_others(name):
    if name == "nvJitLink":
        raise finder.DynamicLibNotFoundError(name)
    return find(name)


finder.load_nvidia_dynamic_lib = find_others
"""
"""Makes a program see a machine without nvJitLink: the driver's own linker takes its place."""


def need(*modules: str) -> None:
    """Skip the test unless every module can be imported."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{module} is not installed")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a program asked of the driver.

    ``launches`` counts kernels by name, ``modules`` the images that were loaded, ``graphs`` the
    launches of graphs.
    """

    launches: dict[str, int] = field(default_factory=dict)
    modules: int = 0
    graphs: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """What became of a program: its standard output, and what it asked of the driver."""

    output: str
    asked: Asked
    log: str


@dataclass(frozen=True, slots=True)
class Clients:
    """Runs programs with the simulator behind a library that counts their calls."""

    spy: Path
    folder: Path

    def capped(self, shim: Path, cores: int, node: str = "t4") -> Clients:
        """The same in a slice of the node's first device, which has so many percent of its time."""
        driver = (self.spy.parent / "libcuda-spied.so.1").resolve()
        one = load_node(node).devices[0]
        devices = (region.RegionDevice(one.uuid, None, one.page_size, 0, cores),)
        behind = lay_out(shim, driver, self.folder / f"spy-{cores}", devices)
        # The shim finds its slice beside it, by its own file; the spy is in front of it.
        behind.rename(behind.with_name("libcuda-spied.so.1"))
        spy = Path(shutil.copy(self.spy, behind))
        behind.with_name("libcuda.so").symlink_to(spy)
        return Clients(spy, self.folder)

    def used_ns(self) -> int:
        """The device time that programs in the slice were charged."""
        return usage_of(self.spy).devices[0].device_ns

    def run(self, program: str, node: str = "t4", **environment: str) -> Client:
        """Run a Python program on a fresh node; it must end well.

        ``node`` is a profile's name or the path of a node file.
        """
        script = self.folder / "client.py"
        script.write_text(program)
        asked = self.folder / "asked.json"
        asked.unlink(missing_ok=True)
        log = self.folder / "sim.log"
        run = subprocess.run(
            [
                *(sys.executable, "-m", "aliquot.agent", "sim", "--node", node, "--"),
                # Behind a shell, since the spy stands in front of what the node lays out.
                *("sh", "-c", 'LD_LIBRARY_PATH="$0:$LD_LIBRARY_PATH" exec "$@"'),
                *(str(self.spy.parent), sys.executable, str(script)),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "ALIQUOT_SIM_LOG": str(log),
                "DRIVER_SPY": str(asked),
                "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0",
                **environment,
            },
            cwd=self.folder,
            timeout=240,
        )
        said = log.read_text() if log.exists() else ""
        assert run.returncode == 0, f"{run.stdout}\n{run.stderr}\n{said}"
        seen = Asked(**json.loads(asked.read_text())) if asked.exists() else Asked()
        return Client(run.stdout, seen, said)


def same(one: Client, other: Client) -> bool:
    """Whether two runs of a program got the same answers, and asked the driver for the same."""
    return (one.output, one.asked) == (other.output, other.asked)


def build_spy(driver: Path, header: Path, folder: Path) -> Path:
    """The counting library, laid out in front of ``driver``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    spy = folder / "libcuda.so.1"
    (folder / "libcuda-spied.so.1").symlink_to(driver)
    (folder / "libcuda.so").symlink_to(spy)
    # A stand-in with the private name gives the spy its DT_NEEDED: the driver's own SONAME is the
    # name of the spy.
    empty = folder / "empty.c"
    empty.write_text("extern int driver_spy_needs;\n")
    stand_in = folder / "stand_in.so"
    shared = (compiler, "-shared", "-fPIC", "-std=gnu11", "-O1")
    subprocess.run([*shared, empty, "-o", stand_in, "-Wl,-soname,libcuda-spied.so.1"], check=True)
    subprocess.run(
        [
            *(*shared, "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"),
            *("-D__CUDA_API_VERSION_INTERNAL", "-isystem", header, ROOT / "tests/driver_spy.c"),
            *("-o", spy, "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", "-Wl,--no-as-needed"),
            *(stand_in, "-Wl,-rpath,$ORIGIN", "-ldl"),
        ],
        check=True,
    )
    return spy


@pytest.fixture
def clients(tmp_path: Path, sim_library: Path, header_folder: Callable[[str], Path]) -> Clients:
    """Runs programs in a folder of the test's own."""
    spy = tmp_path / "spy"
    spy.mkdir()
    return Clients(build_spy(sim_library, header_folder("13.5"), spy), tmp_path)
