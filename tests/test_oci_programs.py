"""The small programs need nothing of the node or the image, on both architectures."""

from __future__ import annotations

import platform
import shutil
import subprocess

import pytest

from oci import program

NAMES = ("aliquot-hook", "aliquot-runtime", "aliquot-stat")
EMULATORS = {"aarch64": "qemu-aarch64", "x86_64": "qemu-x86_64"}


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", NAMES)
def test_small_and_static(name: str, arch: str) -> None:
    path = program(name, arch)
    assert path.stat().st_size < 200 << 10
    shown = subprocess.run(
        ["readelf", "-hlSW", str(path)], check=True, capture_output=True, text=True
    ).stdout
    machine = {"x86_64": "X86-64", "aarch64": "AArch64"}[arch]
    assert machine in shown
    assert "INTERP" not in shown
    assert "DYNAMIC" not in shown
    assert ".symtab" not in shown
    stack = next(line for line in shown.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_it_runs(arch: str) -> None:
    emulator = None if arch == platform.machine() else shutil.which(EMULATORS[arch])
    if arch != platform.machine() and not emulator:
        pytest.skip(f"no {EMULATORS[arch]} here (Debian: qemu-user)")
    before = [emulator] if emulator else []
    run = [*before, str(program("aliquot-stat", arch)), "--region", "/nowhere"]
    result = subprocess.run(run, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("aliquot-stat: /nowhere/grant: No such file")
    run = [*before, str(program("aliquot-hook", arch)), "poststop", "/nowhere"]
    state = '{"id": "c1", "pid": 0}'
    environment = {"ALIQUOT_RUNTIME_DIR": "/nowhere"}
    result = subprocess.run(
        run, check=False, capture_output=True, text=True, input=state, env=environment
    )
    assert result.returncode == 0
    assert "the agent does not answer on /nowhere/runtime.sock" in result.stderr
