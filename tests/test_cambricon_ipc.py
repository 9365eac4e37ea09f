"""Memory that processes on Cambricon's devices share: charged once, to who made it or holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cndrv_place import CONTEXT, MIB, SMALL, Place, Running, compile_client, driver, node, shim

__all__ = ["driver", "node", "shim"]

SHARED = 64


@pytest.fixture(scope="module")
def client(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    return compile_client("cndrv_share_client", driver, tmp_path_factory.mktemp("share"))


def tell(program: Running, line: str) -> str:
    """Tell a program something; returns what it answers."""
    assert program.process.stdin
    program.process.stdin.write(line + "\n")
    program.process.stdin.flush()
    return program.read()


def start(place: Place, *arguments: object) -> Running:
    """Start a program that has read, or may be read, what is shared."""
    program = place.start(*arguments)
    assert program.read() in ("ready", "read: what one wrote another reads")
    return program


def finish(program: Running) -> None:
    """End a program well."""
    assert tell(program, "end") == "end"
    assert program.process.wait() == 0


Places = tuple[Place, Place]


@pytest.fixture(params=["bare", "slice"])
def places(
    request: pytest.FixtureRequest, node: Callable[..., Place], shim: Path, tmp_path: Path
) -> Places:
    """A node, and where programs run on it: a device of 512 MiB, or a slice that is as large."""
    if request.param == "bare":
        whole = node(SMALL)
        return whole, whole
    whole = node(4 * SMALL)
    return whole, whole.slice(shim, tmp_path / "slice")


def test_memory_is_shared_and_counts_once(places: Places, tmp_path: Path) -> None:
    whole, place = places
    first = start(place, "export", SHARED, tmp_path / "paper")
    second = start(place, "open", tmp_path / "paper")
    left = SMALL - 2 * CONTEXT - SHARED * MIB
    assert tell(first, "info") == tell(second, "info") == f"has: {left} of {SMALL}"
    assert whole.held() == 2 * CONTEXT + SHARED * MIB
    assert tell(second, "close") == "done"
    assert tell(first, "info") == f"has: {left} of {SMALL}"
    assert tell(first, "free") == "done"
    assert tell(first, "info") == f"has: {left + SHARED * MIB} of {SMALL}"
    finish(first)
    finish(second)
    assert whole.held() == 0


def test_a_notifier_is_waited_for_in_another_process(places: Places, tmp_path: Path) -> None:
    _, place = places
    first = start(place, "export", SHARED, tmp_path / "paper")
    second = start(place, "open", tmp_path / "paper")
    assert tell(first, "note") == "done"
    assert tell(second, "wait") == "1, then 0"
    finish(first)
    finish(second)


@pytest.mark.parametrize("end", ["free", "exits", "killed"])
def test_what_its_maker_leaves_is_charged_to_who_still_has_it(
    places: Places, tmp_path: Path, end: str
) -> None:
    whole, place = places
    first = start(place, "export", SHARED, tmp_path / "paper")
    second = start(place, "open", tmp_path / "paper")
    if end == "free":
        assert tell(first, "free") == "done"
    if end == "killed":
        first.process.kill()
        first.process.wait()
    else:
        finish(first)
    left = SMALL - CONTEXT - SHARED * MIB
    # It is in use, and nobody else may have that part of the cap.
    third = start(place, "export", 2, tmp_path / "other")
    fits = (left - CONTEXT) // MIB - 2
    assert tell(third, f"take {fits + 2}") == "100100"
    assert tell(third, f"take {fits}") == "0"
    assert tell(second, "info") == f"has: 0 of {SMALL}"
    assert tell(second, "close") == "done"
    assert tell(second, "info") == f"has: {SHARED * MIB} of {SMALL}"
    finish(second)
    finish(third)
    assert whole.held() == 0
    if place is not whole:
        assert place.charge() == 0
        assert whole.most() <= SMALL


@pytest.mark.parametrize("end", ["release", "exits", "killed"])
def test_physical_memory_goes_by_a_descriptor_and_its_charge_with_it(
    places: Places, tmp_path: Path, end: str
) -> None:
    whole, place = places
    channel = tmp_path / "channel"
    first = start(place, "pass", SHARED, channel)
    second = start(place, "get", channel)
    left = SMALL - 2 * CONTEXT - SHARED * MIB
    assert tell(first, "info") == tell(second, "info") == f"has: {left} of {SMALL}"
    if end == "release":
        assert tell(first, "release") == "done"
        assert tell(second, "info") == f"has: {left} of {SMALL}"
    if end == "killed":
        first.process.kill()
        first.process.wait()
    else:
        finish(first)
    third = start(place, "export", 2, tmp_path / "other")
    fits = (SMALL - 2 * CONTEXT) // MIB - SHARED - 2
    assert tell(third, f"take {fits + 2}") == "100100"
    assert tell(third, f"take {fits}") == "0"
    assert tell(second, "let") == "done"
    assert tell(second, "info") == f"has: {SHARED * MIB} of {SMALL}"
    finish(second)
    finish(third)
    assert whole.held() == 0
    if place is not whole:
        assert place.charge() == 0
        assert whole.most() <= SMALL


def test_a_descriptor_keeps_what_nobody_maps(places: Places, tmp_path: Path) -> None:
    whole, place = places
    channel = tmp_path / "channel"
    first = start(place, "pass", SHARED, channel)
    second = start(place, "get", channel)
    third = start(place, "export", 2, tmp_path / "other")
    assert tell(second, "let") == "done"
    assert tell(first, "release") == "done"
    rest = (SMALL - 3 * CONTEXT) // MIB - 2
    assert tell(third, f"take {rest - SHARED + 2}") == "100100"
    assert tell(first, "shut") == "done"
    # Nobody is told when a descriptor is closed: who needs the room finds it.
    if place is not whole:
        assert tell(first, "info") == f"has: {(rest * MIB)} of {SMALL}"
    assert tell(third, f"take {rest}") == "0"
    for program in (first, second, third):
        finish(program)
    assert whole.held() == 0
