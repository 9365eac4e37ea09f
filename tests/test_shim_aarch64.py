"""What is built for aarch64 runs, charges and refuses there as it does here: under emulation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aliquot.shim
import pytest
from aliquot.shim import region

from commands import TESTS
from test_shim_file import shipped

MIB = 1 << 20
SYSTEM = Path("/usr/aarch64-linux-gnu")
ZIG = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17", "-w"]
# Of the stand-ins' devices, the second: the first is not to be seen.
DEVICE = region.RegionDevice(
    uuid=b"\x1b" * 16, cap=100 * MIB, page_bytes=2 * MIB, context_bytes=20 * MIB
)


def compile_for_aarch64(*arguments: str) -> None:
    run = subprocess.run(
        [*ZIG, *arguments], check=False, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def emulator() -> str:
    """What runs a program for aarch64 here."""
    found = shutil.which("qemu-aarch64")
    if not found:
        pytest.skip("there is no qemu-aarch64 (Debian: qemu-user)")
    return found


@pytest.fixture(scope="module")
def folder(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container's folder with the shims, and a program; what they cost is spent once."""
    if not (SYSTEM / "lib/ld-linux-aarch64.so.1").exists():
        pytest.skip(f"there is no C library of aarch64 in {SYSTEM} (Debian: libc6-arm64-cross)")
    folder = tmp_path_factory.mktemp("aarch64")
    own = folder / ".aliquot"
    own.mkdir()
    for soname, driver, source in (
        ("libcuda.so.1", "libcuda-driver.so.1", "odd_driver.c"),
        ("libnvidia-ml.so.1", "libnvidia-ml-driver.so.1", "odd_nvml.c"),
    ):
        shutil.copy(shipped(aliquot.shim.library(soname, "aarch64")), folder)
        compile_for_aarch64(
            *("-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{soname}"),
            *(str(TESTS / source), "-o", str(own / driver)),
        )
    compile_for_aarch64(str(TESTS / "shim_client.c"), "-ldl", "-o", str(folder / "client"))
    return folder


@pytest.fixture
def client(emulator: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program in a fresh slice."""
    own = folder / ".aliquot"
    for name in ("grant", "usage"):
        (own / name).unlink(missing_ok=True)
    dirfd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    region.create(dirfd, "test", [DEVICE])
    os.close(dirfd)
    command = [emulator, "-L", str(SYSTEM), "-E", f"LD_LIBRARY_PATH={folder}"]
    with subprocess.Popen(
        [*command, str(folder / "client")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def run(
    emulator: str, name: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of ours for aarch64, which needs nothing of that machine but the processor."""
    program = shipped(aliquot.shim.program(name, "aarch64"))
    return subprocess.run(
        [emulator, str(program), *arguments],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_look_ups_charges_refusals_and_the_view_work_on_aarch64(
    emulator: str, folder: Path, client: subprocess.Popen[str]
) -> None:
    assert client.stdout is not None
    said: dict[str, tuple[int, int]] = {}
    for line in client.stdout:
        if line == "holding\n":
            break
        name, result, value = line.split()
        said[name] = (int(result), int(value))
    else:
        pytest.fail(f"the program ended with {client.wait()}: {said}")

    assert said["lacking"] == said["behind"] == (1, 0)
    assert said["init"] == (0, 0)
    assert said["count"] == (0, 2)
    # Beside the context five times 16 MiB fit, and no more.
    assert said["held"] == (2, 5)
    assert said["total"] == (0, 100 * MIB)
    assert said["free"] == (0, 0)
    assert said["freed"] == said["again"] == (0, 0)

    assert said["nvml"] == said["device"] == (0, 0)
    assert said["devices"] == (0, 1)
    assert said["none"] == (2, 0)
    assert said["memory"] == (0, 100 * MIB)
    assert said["used"] == (0, 100 * MIB)
    assert said["processes"] == (0, 1)
    assert said["pid"] == (0, client.pid)
    assert said["bytes"] == (0, 100 * MIB)

    # What the region says, read on this machine.
    usage = folder / ".aliquot/usage"
    with usage.open("rb") as file:
        seen = region.read_usage(file.fileno(), str(usage), 1)
    assert [(process.pid, process.charges) for process in seen.processes] == [
        (client.pid, (100 * MIB,))
    ]
    assert seen.devices[0].refusals == 1

    # And what a container is told of itself there: locks of living processes are seen, too.
    stat = run(emulator, "aliquot-stat", "--json", "--region", str(folder / ".aliquot"))
    assert (stat.returncode, stat.stderr) == (0, "")
    told = json.loads(stat.stdout)
    assert [(row["pid"], row["charges_bytes"]) for row in told["processes"]] == [
        (client.pid, [100 * MIB])
    ]
    assert [row["refusals"] for row in told["devices"]] == [1]


def test_the_programs_for_aarch64_say_how_they_are_called(emulator: str) -> None:
    stat = run(emulator, "aliquot-stat", "--help")
    assert (stat.returncode, stat.stderr) == (0, "")
    assert stat.stdout.startswith("Usage: aliquot-stat ")
    hook = run(emulator, "aliquot-hook")
    assert (hook.returncode, hook.stdout) == (2, "")
    assert hook.stderr.startswith("aliquot-hook: usage: aliquot-hook createRuntime|")


def test_the_runtime_for_aarch64_runs_the_real_one_and_asks_the_agent_first(
    emulator: str, tmp_path: Path
) -> None:
    real = {"ALIQUOT_OCI_RUNTIME": "/bin/echo", "ALIQUOT_RUNTIME_DIR": str(tmp_path)}
    passed = run(emulator, "aliquot-runtime", "state", "some", **real)
    assert (passed.returncode, passed.stdout, passed.stderr) == (0, "state some\n", "")
    # Nobody listens there: no container is made.
    refused = run(emulator, "aliquot-runtime", "create", "--bundle", str(tmp_path), "some", **real)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert f"the agent does not answer on {tmp_path}/runtime.sock: " in line
