"""The table of NVML's functions is complete, and the page that shows it is what it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nvidia_files
from cuda_headers import exports
from cuda_table import GENERATE, ROOT, generator

TABLE = ROOT / "csrc/nvml/functions.tsv"
LIBRARY = "libnvidia-ml.so.1"
# Asked for by nvidia-smi; in no header.
UNDECLARED = {"nvmlInternalGetExportTable"}


def table() -> dict[str, str]:
    """Who answers each symbol: ``shim``, ``driver``, or ``none``."""
    rows = generator().parse(TABLE.read_text(encoding="utf-8"))
    return {symbol.name: row.by for row in rows for symbol in row.symbols}


def header() -> str:
    """The header that everything here is compiled with."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for path in Path(folder).glob("cu13/include/nvml.h"):
            return path.read_text(errors="replace")
    pytest.fail("nvml.h is missing: run `make build`")


def test_every_function_of_the_header_is_classified_and_no_other() -> None:
    declared = set(re.findall(r"\bDECLDIR\s+(nvml\w+)\s*\(", header()))
    assert len(declared) > 400
    assert table().keys() == declared | UNDECLARED


@pytest.mark.parametrize("version", ["535", "550"])
def test_every_export_of_the_real_libraries_is_classified(version: str) -> None:
    try:
        library = nvidia_files.management_library(version)
    except nvidia_files.UnreachableError as error:
        pytest.skip(str(error))
    exported = {n for n in exports(library / LIBRARY) if n.startswith("nvml")}
    assert len(exported) > 300
    # What was there before it was public, or was taken out of the header, is found in the driver.
    unknown = {name for name in exported - table().keys() if not name.startswith("nvmlInternal")}
    assert {name for name in unknown if "Process" in name or "Memory" in name} == set()


def test_the_shim_exports_what_it_wraps_and_nothing_else(nvml_shim: Path) -> None:
    wrapped = {name for name, by in table().items() if by == "shim"}
    assert len(wrapped) > 25
    assert exports(nvml_shim).keys() == wrapped


def test_the_coverage_page_is_derived_from_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    subprocess.run([sys.executable, GENERATE, TABLE, "docs", page], check=True)
    assert page.read_text() == (ROOT / "docs/coverage-nvml.md").read_text()


def test_a_table_of_an_unknown_library_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd" / "functions.tsv"
    odd.parent.mkdir()
    odd.write_bytes(TABLE.read_bytes())
    run = subprocess.run([sys.executable, GENERATE, odd, "docs", tmp_path / "x"], check=False)
    assert run.returncode == 1
    assert "odd" in capfd.readouterr().err
