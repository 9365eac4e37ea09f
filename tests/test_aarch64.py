"""What is built for aarch64, under an emulator: it loads, charges and refuses as on x86-64."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import aliquot.shim
import pytest
from aliquot.shim import region

from slices import MIB, lay_out, usage_of

HERE = Path(__file__).resolve().parent
# Debian's libc6-arm64-cross.
SYSTEM = Path("/usr/aarch64-linux-gnu")


def emulator() -> str:
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if found is None:
        pytest.skip("there is no qemu-aarch64: install qemu-user")
    return found


def emulate(*command: str | Path, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a program for aarch64 with the C library of Debian's cross compilers."""
    if not (SYSTEM / "lib/libc.so.6").exists():
        pytest.skip("there is no C library for aarch64: install libc6-arm64-cross")
    return subprocess.run(
        [emulator(), "-L", str(SYSTEM), *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=options or None,
    )


def build(source: str, output: Path, *options: str) -> Path:
    """Compile for aarch64 and glibc 2.17, as the shims are."""
    pytest.importorskip("ziglang", reason="zig is not installed")
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17", "-O1",
         *options, "-o", str(output), str(HERE / source)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return output


def test_the_shim_charges_and_refuses_at_the_cap(tmp_path: Path) -> None:
    emulator()
    driver = build("odd_driver.c", tmp_path / "driver.so", "-shared", "-fPIC")
    client = build("arm_client.c", tmp_path / "client", "-ldl")
    shim = aliquot.shim.library("libcuda.so.1", "aarch64")
    bare = emulate(client, driver)
    assert bare.returncode == 0, bare.stderr
    assert "held=4096 answer=0" in bare.stdout
    device = region.RegionDevice(
        uuid=bytes([0x1A]) * 16, cap=512 * MIB, page_bytes=2 * MIB, context_bytes=0
    )
    library = lay_out(shim, driver, tmp_path / "slice", (device,))
    run = emulate(client, library)
    assert run.returncode == 0, run.stderr
    # 512 MiB are the slice's; a name that nobody has stays nobody's.
    assert run.stdout == "held=512 answer=2 nobody=0\n"
    (used,) = usage_of(library).devices
    assert (used.peak, used.refusals) == (512 * MIB, 1)


@pytest.mark.parametrize("name", ["aliquot-runtime", "aliquot-hook", "aliquot-stat"])
def test_the_programs_start_and_say_how_they_are_used(name: str) -> None:
    program = aliquot.shim.program(name, "aarch64")
    run = subprocess.run(
        [emulator(), str(program), *(["--help"] if name == "aliquot-stat" else [])],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/nowhere", "ALIQUOT_OCI_RUNTIME": "/nowhere/runc"},
    )
    assert run.returncode in ((0,) if name == "aliquot-stat" else (1, 2))
    assert name in run.stdout + run.stderr or "aliquot" in run.stdout + run.stderr
