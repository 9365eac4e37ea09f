"""Cambricon's driver library and the slice in front of it: programs see its cap, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cndrv_place import SMALL, Place, compile_client, driver, node, shim
from commands import PATIENCE_SECONDS
from cuda_table import CAMBRICON_TABLE, ROOT, generator, read_table

__all__ = ["driver", "node", "shim"]


@pytest.fixture(scope="module")
def client(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    return compile_client("cndrv_client", driver, tmp_path_factory.mktemp("cndrv"))


@pytest.fixture(scope="module")
def kinds(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return compile_client("cndrv_kinds_client", driver, tmp_path_factory.mktemp("kinds"))


# ---- The table -----------------------------------------------------------------------------------


def test_every_function_has_its_class_and_the_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    assert generator().main([str(CAMBRICON_TABLE), "docs", str(page)]) == 0
    assert page.read_text() == (ROOT / "docs/coverage-cambricon.md").read_text(), "run `make build`"
    kinds = {row.function: row.kind for row in read_table(CAMBRICON_TABLE)}
    assert kinds["cnMalloc"] == "charge"
    assert kinds["cnInvokeKernel"] == "launch"
    assert kinds["cnQueueSync"] == "order"


def test_every_function_that_is_declared_is_in_the_table() -> None:
    header = (ROOT / "csrc/cambricon/cndrv.h").read_text()
    declared = set(re.findall(r"^CNresult (cn\w+)\(", header, re.MULTILINE))
    assert len(declared) > 80
    assert declared <= {row.function for row in read_table(CAMBRICON_TABLE)}


# ---- Memory --------------------------------------------------------------------------------------


def test_a_program_cannot_tell_a_slice_from_a_smaller_device(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    bare = node(SMALL).start("tour").end()
    large = node(4 * SMALL)
    sliced = large.slice(shim, tmp_path / "slice")
    found = sliced.start("tour").end()
    assert bare.splitlines()[-1] == "end"
    # The cap is to the last page, and what is refused has the library's own code.
    assert "full: 0 of" in bare
    assert "ones: 6, then 100100" in bare
    uuid = r"^uuid: .*$"
    assert re.sub(uuid, "", found, flags=re.MULTILINE) == re.sub(uuid, "", bare, flags=re.MULTILINE)
    assert sliced.charge() == 0
    assert large.held() == 0


@pytest.mark.parametrize(("call", "model"), [("tour", "MLU370-X8"), ("merge", "MLU270-X5K")])
def test_memory_of_all_kinds_and_what_can_be_asked_are_the_same_in_a_slice(
    node: Callable[..., Place],
    kinds: Path,
    shim: Path,
    tmp_path: Path,
    call: str,
    model: str,
) -> None:
    bare = replace(node(SMALL, model=model), client=kinds).start(call).end()
    large = replace(node(4 * SMALL, model=model), client=kinds)
    sliced = large.slice(shim, tmp_path / "slice")
    assert sliced.start(call).end() == bare
    assert bare.splitlines()[-1] == "end"
    assert "then 100100" in bare or "in their order: 1 2" in bare
    assert sliced.charge() == large.held() == 0


@pytest.mark.parametrize("cores", [100, 40])
def test_a_tour_is_the_same_behind_a_gate(
    node: Callable[..., Place], shim: Path, tmp_path: Path, cores: int
) -> None:
    large = node(4 * SMALL)
    bare = node(SMALL).start("tour").end()
    sliced = large.slice(shim, tmp_path / "slice", cores=cores, shared=True)
    found = sliced.start("tour").end()
    uuid = r"^uuid: .*$"
    assert re.sub(uuid, "", found, flags=re.MULTILINE) == re.sub(uuid, "", bare, flags=re.MULTILINE)


def test_without_its_region_the_library_does_not_start(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    place = node().slice(shim, tmp_path / "slice")
    (place.library.parent / ".aliquot/grant").unlink()
    out, err = place.start("fill").process.communicate(timeout=PATIENCE_SECONDS)
    assert "cnInit(0): 100007" in out
    assert err.startswith("aliquot: no CNDrv in this process: cannot open ")
    assert err.count("\n") == 1
