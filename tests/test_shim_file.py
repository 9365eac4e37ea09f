"""The shim as a file: what a loader, a linker and an old image see of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from cuda_headers import exports
from cuda_table import read_table

# Every image that carries CUDA is newer than that; NVIDIA's drivers ask for 2.9.
OLDEST_GLIBC = (2, 17)


def readelf(option: str, library: Path) -> str:
    run = subprocess.run(
        ["readelf", "-W", option, str(library)], check=True, capture_output=True, text=True
    )
    return run.stdout


def test_the_shim_stands_where_the_driver_stood_and_needs_it_by_another_name(
    plain_shim: Path,
) -> None:
    dynamic = readelf("-d", plain_shim)
    assert re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) == ["libcuda.so.1"]
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) == ["libcuda-driver.so.1", "libc.so.6"]
    assert re.findall(r"\(RUNPATH\).*\[(.*)\]", dynamic) == ["$ORIGIN/.aliquot"]
    assert "RPATH)" not in dynamic
    assert "SYMBOLIC" in dynamic
    assert "NODELETE" in dynamic
    assert "TEXTREL" not in dynamic


def test_the_shim_exports_the_table_and_nothing_else(plain_shim: Path) -> None:
    named = {s.name for row in read_table() if row.by != "none" for s in row.symbols}
    assert exports(plain_shim).keys() == named


def test_the_shim_takes_16_bytes_of_thread_local_storage_at_most(plain_shim: Path) -> None:
    sizes = [
        int(line.split()[5], 16)
        for line in readelf("-l", plain_shim).splitlines()
        if line.split()[:1] == ["TLS"]
    ]
    assert sum(sizes) <= 16


def test_the_shim_does_no_work_when_it_is_loaded(plain_shim: Path) -> None:
    dynamic = readelf("-d", plain_shim)
    # One entry is the compiler's own, which does nothing in C.
    assert re.findall(r"\(INIT_ARRAYSZ\)\s+(\d+)", dynamic) in ([], ["8"])
    assert "PREINIT_ARRAY" not in dynamic


def test_the_shim_runs_on_the_c_library_of_old_images(plain_shim: Path) -> None:
    needed = set(re.findall(r"GLIBC_([\d.]+)", readelf("-V", plain_shim)))
    versions = {tuple(int(part) for part in version.split(".")) for version in needed}
    assert max(versions) <= OLDEST_GLIBC
