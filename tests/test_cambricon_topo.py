"""What is put into Cambricon's queues beside kernels: graphs, captures, host functions, pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import gates
from cndrv_place import CONTEXT, MS, PAGE, SMALL, Place, compile_client, driver, node, shim
from commands import PATIENCE_SECONDS, wait_for
from gates import Gate

__all__ = ["driver", "node", "shim"]


@pytest.fixture(scope="module")
def client(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    return compile_client("cndrv_topo_client", driver, tmp_path_factory.mktemp("topo"))


@pytest.mark.parametrize("cores", [100, 40])
def test_a_program_with_graphs_and_captures_cannot_tell_a_slice_from_a_smaller_device(
    node: Callable[..., Place], shim: Path, tmp_path: Path, cores: int
) -> None:
    bare = node(SMALL).start("tour").end()
    large = node(4 * SMALL)
    # Shared: all launches go through the gate, and are measured while the program captures.
    sliced = large.slice(shim, tmp_path / "slice", cores=cores, shared=True)
    assert sliced.start("tour").end() == bare
    assert bare.splitlines()[-1] == "end"
    # What was captured ran once it was told to, and not before; what is not joined is refused.
    assert "nothing ran: 0 0" in bare
    assert "and now: 1 5" in bare
    assert "unjoined: 100364 1" in bare
    assert sliced.charge() == large.held() == 0


def test_a_graph_is_held_to_the_cap_as_kernels_are(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    place = node().slice(shim, tmp_path / "slice", cores=25)
    running = place.start("launch", 60, 3 * MS)
    assert running.read() == "ready"
    running.go()
    wall_ns, truth_ns = int(running.read()), 180 * MS
    running.process.communicate(timeout=PATIENCE_SECONDS)
    gate = Gate(place.library.parent / ".aliquot")
    used = gate.used()
    gate.close()
    assert truth_ns <= 0.25 * wall_ns + 30 * MS
    assert truth_ns / 2 <= used.device_ns <= 1.05 * truth_ns + 2 * MS
    assert used.waits > 0


def test_a_graph_waits_for_the_gate(node: Callable[..., Place], shim: Path, tmp_path: Path) -> None:
    place = node().slice(shim, tmp_path / "slice", shared=True)
    gate = Gate(place.library.parent / ".aliquot")
    with gate.beating():
        gate.write(gates.CLOSED, others=1)
        running = place.start("launch", 1, MS)
        assert running.read() == "ready"
        running.go()
        wait_for(lambda: gate.waiting() == 1, "a graph that waits for the gate")
        gate.write(gates.TURN, turn_us=20_000)
        assert int(running.read()) > 0
        running.process.communicate(timeout=PATIENCE_SECONDS)
    gate.close()


def test_pools_share_the_cap_to_its_last_page(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    whole = node(4 * SMALL)
    place = whole.slice(shim, tmp_path / "slice")
    running = place.start("pools", 3)
    pages = (SMALL - CONTEXT) // PAGE
    assert running.read() == f"taken {pages}, reserved {pages * PAGE}, then 100100"
    assert place.charge() == whole.held() == SMALL
    running.end()
    assert place.charge() == whole.held() == 0
    assert whole.most() <= SMALL


def test_a_pool_that_grows_by_more_than_is_asked_for_is_learned_once(
    node: Callable[..., Place], shim: Path, tmp_path: Path
) -> None:
    chunk = 32 * PAGE
    whole = node(4 * SMALL, chunk=chunk)
    place = whole.slice(shim, tmp_path / "slice")
    running = place.start("pools", 2)
    told = running.read()
    assert told.endswith("then 100100")
    # By less than a step it stays below what it may have: what a pool keeps is its own.
    assert SMALL - 2 * chunk <= place.charge() == whole.held() <= SMALL
    running.end()
    assert whole.most() <= SMALL
