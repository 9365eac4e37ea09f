"""One installed distribution has everything that runs on a node."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

MANAGEMENT = "libnvidia-ml.so.1"


def test_the_distribution_holds_the_shim_the_simulator_and_the_command() -> None:
    files = {str(path) for path in importlib.metadata.files("aliquot") or []}
    both = ("x86_64", "aarch64")
    shims = {f"aliquot/shim/lib/{a}/{n}" for a in both for n in ("libcuda.so.1", MANAGEMENT)}
    names = ("aliquot-runtime", "aliquot-hook", "aliquot-stat")
    programs = {f"aliquot/shim/bin/{arch}/{name}" for arch in both for name in names}
    assert shims | programs <= files
    assert {f"aliquot/sim/lib/{name}" for name in ("libcuda.so.1", MANAGEMENT)} <= files
    assert "aliquot/agent/rpc_pb2.py" in files
    assert any(name.startswith("aliquot/shim/_region.") for name in files)
    assert any(name.startswith("aliquot/sim/_state.") for name in files)
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
    # (Python that has the name in it is ours, and so is what stands in the place of NVML.)
    foreign = [
        name
        for name in files
        if "nvidia" in name and not name.endswith((".py", ".pyc", f"/{MANAGEMENT}"))
    ]
    assert foreign + [name for name in files if name.endswith((".h", ".cdef"))] == []
