"""Every function that a shim has is called by a program, and done by the stand-in of its library.

A program of the tests' is one that has no vendor's header: what it calls it declares itself, from
the public interface, so that its answers with the shim can be held against those without.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands import TESTS
from cuda_table import ASCEND_TABLE, CAMBRICON_TABLE, Row, read_table


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor's table, the stand-ins of its libraries, and the sources of programs that call them.

    ``behind`` ends the names of functions that a program reaches by a library above, which has them
    without it. ``lacking`` and ``uncalled`` are the shim's functions that no stand-in does and that
    no program calls, by name, with why.
    """

    name: str
    table: Path
    libraries: tuple[str, ...]
    programs: tuple[str, ...]
    behind: str = ""
    lacking: dict[str, str] = field(default_factory=dict)
    uncalled: dict[str, str] = field(default_factory=dict)


OF_COMPILED_CODE = dict.fromkeys(
    ("aclrtMemcpyFromSymbolAsyncImpl", "aclrtMemcpyToSymbolAsyncImpl"),
    "which memory a symbol is, only code that CANN's compiler made tells",
)

VENDORS = (
    Vendor(
        name="ascend",
        table=ASCEND_TABLE,
        libraries=("libruntime.so",),
        programs=(
            "accel_ascend",
            "ascend_client",
            "ascend_forms_client",
            "ascend_model_client",
            "ascend_share_client",
            "tenant_ascend",
            "tenant_ascend_linear",
            "tenant_ascend_pool",
            "tenant_ascend_share",
        ),
        behind="Impl",
        lacking=OF_COMPILED_CODE,
        uncalled=OF_COMPILED_CODE,
    ),
    Vendor(
        name="cambricon",
        table=CAMBRICON_TABLE,
        libraries=("libcndrv.so",),
        programs=(
            "accel_cambricon",
            "cndrv_client",
            "cndrv_kinds_client",
            "cndrv_share_client",
            "cndrv_topo_client",
            "tenant_cambricon",
        ),
    ),
)


def symbols_of(vendor: Vendor, *, shim: bool) -> list[str]:
    """The exported names of the functions that come to the shim first, or of all others."""

    def of_it(row: Row) -> bool:
        return (row.by in ("shim", "noted")) == shim

    return [s.name for row in read_table(vendor.table) if of_it(row) for s in row.symbols]


def nm(path: Path, *options: str) -> dict[str, str]:
    """The symbols of a file, and the letter of each."""
    found = subprocess.run(
        ["nm", "--without-symbol-versions", *options, path],
        check=True,
        capture_output=True,
        text=True,
    )
    return {words[-1]: words[-2] for words in map(str.split, found.stdout.splitlines())}


def done_by(libraries: list[Path]) -> set[str]:
    """Name what the libraries do. (What they have only the name of is a weak definition.)."""
    all_symbols = [nm(library, "-D", "--defined-only") for library in libraries]
    return {name for symbols in all_symbols for name, letter in symbols.items() if letter == "T"}


def called_by(programs: tuple[str, ...], folder: Path) -> set[str]:
    """Name what the programs call: what their objects do not define, or look up by its name."""
    called: set[str] = set()
    for program in programs:
        made = folder / f"{program}.o"
        command = ["gcc", "-std=gnu11", "-O1", "-c", str(TESTS / f"{program}.c"), "-o", str(made)]
        subprocess.run(command, check=True)
        called |= set(nm(made, "--undefined-only"))
        called |= {name.decode() for name in re.findall(rb"(?<=\0)\w+(?=\0)", made.read_bytes())}
    return called


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_what_the_shim_has_is_done_by_the_stand_in_and_called_by_a_program(
    vendor: Vendor, sim_library: Path, tmp_path: Path
) -> None:
    ours = symbols_of(vendor, shim=True)
    done = done_by([sim_library.with_name(name) for name in vendor.libraries])
    called = called_by(vendor.programs, tmp_path)
    called |= {name + vendor.behind for name in called}
    assert sorted(set(ours) - done) == sorted(vendor.lacking), "not done by the stand-in"
    assert sorted(set(ours) - called) == sorted(vendor.uncalled), "not called by a program"


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_no_exception_is_without_its_reason(vendor: Vendor) -> None:
    known = set(symbols_of(vendor, shim=True))
    for excused in (vendor.lacking, vendor.uncalled):
        assert set(excused) <= known
        assert all(len(reason.split()) > 2 for reason in excused.values())
