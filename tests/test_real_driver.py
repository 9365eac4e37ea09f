"""In front of NVIDIA's own drivers, the shim answers look-ups exactly as they do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cuda_headers import exports, own_symbols
from cuda_table import Row, read_table
from lookups import ODD_NAMES, probe
from slices import lay_out

DRIVERS = ("535", "550")
FLAGS = (0, 1, 2)
NO_DEVICE = 100


@dataclass(frozen=True, slots=True)
class Answers:
    """What a driver answered bare, and through the shim."""

    bare: dict[str, Any]
    shim: dict[str, Any]
    exports: dict[str, int]
    asked: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def table() -> list[Row]:
    return read_table()


@pytest.fixture(scope="module", params=DRIVERS)
def answers(
    request: pytest.FixtureRequest,
    table: list[Row],
    shim_library: Path,
    real_driver: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Answers:
    driver = real_driver(request.param)
    folder = tmp_path_factory.mktemp(f"driver-{request.param}")
    since = {symbol.since for row in table for symbol in row.symbols if symbol.since}
    versions = sorted(since | {v - 1 for v in since} | {11080, 12090, 13000, 99999})
    names = sorted({row.function for row in table} | set(ODD_NAMES))
    exported = exports(driver)
    questions = {
        "symbols": sorted({s.name for row in table for s in row.symbols} | exported.keys()),
        "names": names,
        "versions": versions,
        "flags": list(FLAGS),
    }
    library = lay_out(shim_library, driver, folder / "shim")
    return Answers(
        bare=probe(driver, driver, questions, folder / "bare"),
        shim=probe(library, driver, questions, folder / "shimmed"),
        exports=exported,
        asked=list(itertools.product(names, versions, FLAGS)),
    )


def test_names_that_the_table_lacks_are_listed(answers: Answers, table: list[Row]) -> None:
    known = {symbol.name for row in table for symbol in row.symbols}
    unknown = sorted(answers.exports.keys() - known)
    # What is not in the table is not the CUDA API, and is reached in the driver all the same.
    assert [name for name in unknown if name.startswith("cu")] == []
    for name in unknown:
        assert answers.shim["symbols"][name] == ["driver", answers.exports[name]]


def test_dlsym_finds_exactly_what_the_driver_has(answers: Answers) -> None:
    found = {name for name, place in answers.shim["symbols"].items() if place}
    assert found == {name for name, place in answers.bare["symbols"].items() if place}


def test_what_the_driver_lacks_fails_with_the_loaders_own_message(answers: Answers) -> None:
    assert answers.shim["errors"] == answers.bare["errors"]
    absent = {name for name, error in answers.shim["errors"].items() if error}
    assert absent == {name for name, place in answers.shim["symbols"].items() if not place}
    assert "cuCtxCreate_v4" in absent


def test_dlsym_gives_wrappers_and_the_drivers_own_addresses(
    answers: Answers, table: list[Row]
) -> None:
    wrong = []
    for row in table:
        for symbol in row.symbols:
            place = answers.shim["symbols"][symbol.name]
            if place and row.wrapped and place[0] != "library":
                wrong.append((symbol.name, place))
            if place and not row.wrapped and place != ["driver", answers.exports[symbol.name]]:
                wrong.append((symbol.name, place))
    assert wrong == []


def test_each_wrapper_is_of_its_own_symbol(
    answers: Answers, table: list[Row], shim_library: Path
) -> None:
    inside = own_symbols(shim_library)
    if not inside:
        pytest.skip("the shim is stripped: its wrappers have no names")
    wrapped = [s.name for row in table if row.wrapped for s in row.symbols]
    places = {name: answers.shim["symbols"][name] for name in wrapped}
    present = {name: place for name, place in places.items() if place}
    assert present == {name: ["library", inside[f"aliquot_{name}"]] for name in present}


@pytest.mark.parametrize("call", ["v1", "v2"])
def test_get_proc_address_leads_to_the_wrapper_of_what_the_driver_chose(
    call: str, answers: Answers, table: list[Row]
) -> None:
    by_offset = {offset: name for name, offset in answers.exports.items()}
    wrapped = {symbol.name for row in table if row.wrapped for symbol in row.symbols}
    wrong = []
    routed: set[str] = set()
    for asked, bare, shim in zip(
        answers.asked, answers.bare[call], answers.shim[call], strict=True
    ):
        expected = bare
        if bare[2]:
            assert bare[2][0] in ("driver", "library")
            chosen = by_offset[bare[2][1]]
            place = ["driver", bare[2][1]]
            if chosen in wrapped:
                place = answers.shim["symbols"][chosen]
                routed.add(chosen)
            expected = [bare[0], bare[1], place]
        if shim != expected:
            wrong.append((asked, bare, shim, expected))
    assert wrong == []
    # The look-ups were of every kind: the wrappers were reached, the rest was not stopped.
    assert routed == wrapped & answers.exports.keys()


def test_the_table_knows_which_version_brought_each_form(
    answers: Answers, table: list[Row]
) -> None:
    by_offset = {offset: name for name, offset in answers.exports.items()}
    first: dict[str, int] = {}
    for (_, version, _), bare in zip(answers.asked, answers.bare["v2"], strict=True):
        if bare[2]:
            name = by_offset[bare[2][1]]
            first[name] = min(version, first.get(name, version))
    since = {s.name: s.since for row in table for s in row.symbols if s.name in answers.exports}
    assert {name: value for name, value in since.items() if value} == first


def test_odd_requests_are_answered_as_the_driver_answers_them(answers: Answers) -> None:
    bare, shim = answers.bare["odd"], answers.shim["odd"]
    assert shim[0] == bare[0] == 0
    assert shim[1] == answers.shim["symbols"]["cuInit"]
    assert shim[2:] == bare[2:]


def test_initialisation_answers_what_the_driver_answers(answers: Answers) -> None:
    assert answers.bare["init"] == NO_DEVICE
    assert answers.shim["init"] == NO_DEVICE
