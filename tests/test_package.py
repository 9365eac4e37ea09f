"""One installed distribution has everything that runs on a node."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import aliquot.shim

from test_shim_file import shipped

ARCHES = ("x86_64", "aarch64")
PLACES = ("sim/lib", *(f"shim/lib/{arch}" for arch in ARCHES))
SHIMS = ("libcuda.so.1", "libnvidia-ml.so.1", "libruntime.so", "libcndrv.so")
PROGRAMS = ("aliquot-runtime", "aliquot-hook", "aliquot-stat")


def test_the_distribution_holds_the_shims_the_programs_the_simulator_and_the_command() -> None:
    shipped(aliquot.shim.library())
    files = {str(path) for path in importlib.metadata.files("aliquot") or []}
    shims = {f"lib/{arch}/{name}" for arch in ARCHES for name in SHIMS}
    programs = {f"bin/{arch}/{name}" for arch in ARCHES for name in PROGRAMS}
    assert {
        name for name in files if name.startswith(("aliquot/shim/lib", "aliquot/shim/bin"))
    } == {f"aliquot/shim/{name}" for name in shims | programs}
    others = ("libascendcl.so", "libdcmi.so", "dcmiv2/libdcmi.so", "libcndev.so")
    assert {f"aliquot/sim/lib/{name}" for name in (*SHIMS, *others)} <= files
    assert any(name.startswith("aliquot/shim/_region.") for name in files)
    assert any(name.startswith("aliquot/sim/_state.") for name in files)
    # What the agent and its tools say to each other, with types for whoever imports it.
    assert {f"aliquot/agent/rpc_pb2.{ending}" for ending in ("py", "pyi")} <= files
    # A namespace: other distributions may add to it.
    assert "aliquot/__init__.py" not in files
    scripts = importlib.metadata.entry_points(group="console_scripts", name="aliquot")
    assert [script.value for script in scripts] == ["aliquot.agent.cli:main"]


def test_the_command_says_its_version() -> None:
    command = Path(sys.executable).parent / "aliquot"
    run = subprocess.run([str(command), "--version"], check=True, capture_output=True, text=True)
    assert run.stdout == f"aliquot {importlib.metadata.version('aliquot')}\n"
    assert run.stderr == ""


def test_nothing_of_nvidias_is_shipped() -> None:
    files = {str(path) for path in importlib.metadata.files("aliquot") or []}
    # (Python that has the name in it is ours, and so are what stands for NVML and the simulator's.)
    ours = {f"aliquot/{place}/libnvidia-ml.so.1" for place in PLACES}
    foreign = [
        name
        for name in files
        if not name.endswith((".py", ".pyc")) and "nvidia" in name and name not in ours
    ]
    # (Those of vendors' libraries are read where the agent runs.)
    read = {"aliquot/agent/devices/_cndev.cdef", "aliquot/agent/devices/_dcmi.cdef"}
    left = {name for name in files if name.endswith((".h", ".cdef"))}
    assert foreign == []
    assert left == read
