"""The table of NVML's functions is complete, and the page that shows it is what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cuda_headers import exports, nvml_functions
from cuda_table import GENERATE, NVML_TABLE, ROOT, Row, generator, read_table

LIBRARY = "libnvidia-ml.so.1"


def rows() -> list[Row]:
    return read_table(NVML_TABLE)


def symbols() -> set[str]:
    return {symbol.name for row in rows() for symbol in row.symbols}


HEADERS = {"11.8": 250, "12.9": 350, "13.5": 400}  # and how many functions each has at least


@pytest.fixture
def declared(nvml_header: Callable[[str], Path]) -> frozenset[str]:
    """What the header that everything here is compiled with declares."""
    return nvml_functions(nvml_header("13.5"))


@pytest.mark.parametrize("version", HEADERS)
def test_every_function_of_the_headers_is_classified(
    version: str, nvml_header: Callable[[str], Path]
) -> None:
    found = nvml_functions(nvml_header(version))
    assert len(found) > HEADERS[version]
    assert sorted(found - symbols()) == []


@pytest.mark.parametrize("version", ["535", "550"])
def test_every_export_of_the_real_libraries_is_classified(
    version: str, real_nvml: Callable[[str], Path]
) -> None:
    exported = exports((real_nvml(version) / LIBRARY).resolve()).keys()
    assert len(exported) > 300
    assert sorted(exported - symbols()) == []


def test_the_table_names_nothing_that_nobody_knows(declared: frozenset[str]) -> None:
    # What no header declares says where it was seen.
    invented = [
        symbol.name
        for row in rows()
        for symbol in row.symbols
        if symbol.name not in declared and "seen " not in row.reason
    ]
    assert invented == []


def test_whatever_gives_a_device_or_a_process_is_wrapped() -> None:
    # Each of them in all of its versions: a new one must not show what the old ones hide.
    wanted = re.compile(
        "HandleBy|RunningProcess|ProcessUtil|ProcessesUtil|Accounting(Pids|Stats)|DeviceGetCount|"
        "DeviceGetIndex|MemoryInfo$|MemoryUsage|UtilizationRates|TopologyNearest|TopologyGpuSet|"
        "UnitGetDevices|(Encoder|FBC)Sessions"
    )
    # (Virtual machines' devices are no container's; a window and a chassis are no device.)
    others = re.compile("Vgpu|BAR1|UnitGetHandle|Clear")
    for row in rows():
        if wanted.search(row.function) and not others.search(row.function):
            assert row.by == "shim", f"{row.function} tells of what is others'"


def test_every_class_is_explained() -> None:
    assert {row.kind for row in rows()} == generator().LIBRARIES["nvml"].meanings.keys()


def test_the_coverage_page_is_derived_from_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    subprocess.run([sys.executable, GENERATE, NVML_TABLE, "docs", page], check=True)
    assert page.read_text() == (ROOT / "docs/coverage-nvml.md").read_text()


def test_a_table_of_an_unknown_library_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd" / "functions.tsv"
    odd.parent.mkdir()
    odd.write_bytes(NVML_TABLE.read_bytes())
    run = subprocess.run([sys.executable, GENERATE, odd, "docs", tmp_path / "x"], check=False)
    assert run.returncode == 1
    assert "odd" in capfd.readouterr().err
