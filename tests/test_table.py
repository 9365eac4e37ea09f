"""The table of driver functions is complete and says nothing that nobody else knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cuda_headers import exports, read_headers
from cuda_table import GENERATE, ROOT, TABLE, generator, read_table

HEADERS = ("11.8", "12.9", "13.5")
DRIVERS = ("535", "550")


@pytest.fixture(scope="module")
def symbols() -> dict[str, tuple[str, int, str]]:
    """Function, since and form of each symbol."""
    return {
        symbol.name: (row.function, symbol.since, symbol.form)
        for row in read_table()
        for symbol in row.symbols
    }


@pytest.mark.parametrize("version", HEADERS)
def test_every_function_of_the_headers_is_classified(
    version: str,
    header_folder: Callable[[str], Path],
    symbols: dict[str, tuple[str, int, str]],
) -> None:
    headers = read_headers(header_folder(version))
    assert len(headers.symbols) > 400
    assert sorted(headers.symbols - symbols.keys()) == []
    known = set(symbols.values())
    assert sorted(entry for entry in headers.versions if entry not in known) == []


@pytest.mark.parametrize("version", DRIVERS)
def test_every_export_of_the_real_drivers_is_classified(
    version: str,
    real_driver: Callable[[str], Path],
    symbols: dict[str, tuple[str, int, str]],
) -> None:
    exported = {name for name in exports(real_driver(version)) if name.startswith("cu")}
    assert len(exported) > 600
    assert sorted(exported - symbols.keys()) == []


def test_the_table_names_nothing_that_no_header_and_no_driver_knows(
    header_folder: Callable[[str], Path],
    real_driver: Callable[[str], Path],
) -> None:
    known: set[str] = set()
    for version in HEADERS:
        headers = read_headers(header_folder(version))
        known |= headers.symbols
        # A per-thread form that only a pointer type names.
        for function, _, form in headers.versions:
            known.add(function + (f"_{form}" if form else ""))
    for version in DRIVERS:
        known |= exports(real_driver(version)).keys()
    # What is known otherwise says where it was seen.
    invented = [
        symbol.name
        for row in read_table()
        for symbol in row.symbols
        if symbol.name not in known and "seen " not in row.reason
    ]
    assert invented == []


def test_the_debugger_interface_is_never_exported() -> None:
    for row in read_table():
        assert (row.by == "none") == row.function.startswith("cudbg")


def test_what_gives_or_takes_memory_is_wrapped() -> None:
    for row in read_table():
        if row.kind in ("charge", "release"):
            assert row.by == "shim", f"{row.function} is {row.kind}, but nobody looks at it"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("cuA\tcharge\tshim\tcuA@1", "line 2: 4 fields instead of 5"),
        ("cuA\tgrab\tshim\tcuA@1\twhy", "line 2: cuA: no class is called 'grab'"),
        ("cuA\tpass\tnobody\tcuA@1\twhy", "line 2: cuA: by is 'nobody'"),
        ("cuA\tpass\tdriver\tcuA\twhy", "line 2: cuA: 'cuA' is not SYMBOL@SINCE"),
        ("cuA\tpass\tdriver\tcuB@1\twhy", "line 2: cuB is not a form of cuA"),
        ("cuA\tpass\tdriver\tcuA_ptsz@1\twhy", "line 2: cuA_ptsz is not a form of cuA"),
        ("cuA\tpass\tdriver\tcuA@1\t ", "line 2: cuA: the reason is missing"),
        ("cuA\tpass\tdriver\tcuA@1 cuA@2\twhy", "line 2: cuA is in the table twice"),
        ("cuB\tpass\tdriver\tcuB@1\ty\ncuA\tpass\tdriver\tcuA@1\ty", "line 3: cuA is out of order"),
    ],
)
def test_a_mistake_in_the_table_is_named_by_line(line: str, complaint: str) -> None:
    generate = generator()
    with pytest.raises(generate.TableError, match="^" + complaint.replace("[", r"\[")):
        generate.parse("function\tclass\tby\tsymbols\treason\n" + line + "\n")


def test_the_coverage_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    subprocess.run([sys.executable, str(GENERATE), str(TABLE), "docs", str(page)], check=True)
    assert page.read_text() == (ROOT / "docs/coverage.md").read_text(), "run `make build`"
