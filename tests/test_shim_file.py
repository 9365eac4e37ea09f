"""What runs in containers, as files: what a loader, a linker and an old image see of them."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import aliquot.shim
import pytest

from cuda_headers import exports
from cuda_table import CAMBRICON_TABLE, NVML_TABLE, TABLE, read_table

# Every image that carries CUDA is newer than that; NVIDIA's drivers ask for 2.9.
OLDEST_GLIBC = (2, 17)
MOST_BYTES = 256 << 10

ARCHES = ("x86_64", "aarch64")
MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}
DRIVERS = {
    "libcuda.so.1": "libcuda-driver.so.1",
    "libnvidia-ml.so.1": "libnvidia-ml-driver.so.1",
    "libcndrv.so": "libcndrv-driver.so",
}
PROGRAMS = ("aliquot-runtime", "aliquot-hook", "aliquot-stat")


def readelf(option: str, file: Path) -> str:
    run = subprocess.run(
        ["readelf", "-W", option, str(file)], check=True, capture_output=True, text=True
    )
    return run.stdout


def shipped(file: Path) -> Path:
    """The file, which must be there; skips the test where the shims have sanitizers in them."""
    own = aliquot.shim.library()
    if own.exists() and b"__asan_init" in own.read_bytes():
        pytest.skip("the shims are built with sanitizers, for this machine alone")
    assert file.is_file(), f"{file} is missing: run `make build`"
    return file


@pytest.fixture(params=[(a, s) for a in ARCHES for s in DRIVERS], ids="-".join)
def shim(request: pytest.FixtureRequest) -> Path:
    """Each shim, for each kind of machine."""
    arch, soname = request.param
    return shipped(aliquot.shim.library(soname, arch))


@pytest.fixture(params=[(a, p) for a in ARCHES for p in PROGRAMS], ids="-".join)
def program(request: pytest.FixtureRequest) -> Path:
    """Each program, for each kind of machine."""
    arch, name = request.param
    return shipped(aliquot.shim.program(name, arch))


def test_without_a_kind_of_machine_this_ones_are_meant() -> None:
    here = platform.machine()
    assert aliquot.shim.library() == aliquot.shim.library("libcuda.so.1", here)
    assert aliquot.shim.program("aliquot-hook") == aliquot.shim.program("aliquot-hook", here)


# ---- Shims ---------------------------------------------------------------------------------------


def test_a_shim_stands_where_the_driver_stood_and_needs_it_by_another_name(shim: Path) -> None:
    dynamic = readelf("-d", shim)
    assert re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) == [shim.name]
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) == [DRIVERS[shim.name], "libc.so.6"]
    assert re.findall(r"\(RUNPATH\).*\[(.*)\]", dynamic) == ["$ORIGIN/.aliquot"]
    assert "RPATH)" not in dynamic
    assert "SYMBOLIC" in dynamic
    assert "NODELETE" in dynamic
    assert "TEXTREL" not in dynamic


def test_a_shim_is_for_the_machine_that_its_folder_says(shim: Path) -> None:
    (machine,) = re.findall(r"Machine:\s+(.*)", readelf("-h", shim))
    assert machine == MACHINES[shim.parent.name]


def test_the_cuda_shim_exports_its_table_and_nothing_else() -> None:
    named = {s.name for row in read_table(TABLE) if row.by != "none" for s in row.symbols}
    for arch in ARCHES:
        assert exports(shipped(aliquot.shim.library("libcuda.so.1", arch))).keys() == named


@pytest.mark.parametrize(
    ("soname", "table"), [("libnvidia-ml.so.1", NVML_TABLE), ("libcndrv.so", CAMBRICON_TABLE)]
)
def test_another_shim_exports_what_it_wraps_and_nothing_else(soname: str, table: Path) -> None:
    named = {s.name for row in read_table(table) if row.by == "shim" for s in row.symbols}
    for arch in ARCHES:
        assert exports(shipped(aliquot.shim.library(soname, arch))).keys() == named


def test_a_shim_takes_16_bytes_of_thread_local_storage_at_most(shim: Path) -> None:
    sizes = [
        int(line.split()[5], 16)
        for line in readelf("-l", shim).splitlines()
        if line.split()[:1] == ["TLS"]
    ]
    assert sum(sizes) <= 16


def test_a_shim_does_no_work_when_it_is_loaded(shim: Path) -> None:
    dynamic = readelf("-d", shim)
    # One entry is the compiler's own, which does nothing in C.
    assert re.findall(r"\(INIT_ARRAYSZ\)\s+(\d+)", dynamic) in ([], ["8"])
    assert "PREINIT_ARRAY" not in dynamic


def test_a_shim_runs_on_the_c_library_of_old_images(shim: Path) -> None:
    # Of each symbol that it asks for, the version that must be there.
    asked = re.findall(r"UND (\w+)@GLIBC_([\d.]+)", readelf("--dyn-syms", shim))
    assert len(asked) > 10
    newer = [
        f"{name} of glibc {version}"
        for name, version in asked
        if tuple(int(part) for part in version.split(".")) > OLDEST_GLIBC
    ]
    assert newer == []


def test_a_shim_is_small(shim: Path) -> None:
    # (What is built for tests has the names of its functions, after all that is loaded.)
    ends = [
        int(fields[1], 16) + int(fields[4], 16)
        for fields in map(str.split, readelf("-l", shim).splitlines())
        if fields[:1] == ["LOAD"]
    ]
    assert len(ends) > 1
    assert max(ends) < MOST_BYTES


# ---- Programs ------------------------------------------------------------------------------------


def test_a_program_needs_nothing_of_the_node_or_the_image(program: Path) -> None:
    segments = readelf("-l", program)
    assert "INTERP" not in segments
    assert "NEEDED" not in readelf("-d", program)
    (machine,) = re.findall(r"Machine:\s+(.*)", readelf("-h", program))
    assert machine == MACHINES[program.parent.name]
    assert program.stat().st_mode & 0o111 == 0o111
    assert program.stat().st_size < MOST_BYTES
