"""From a container's start to its end: who keeps a slice, and who gives it back."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aliquot.agent import keeper as keeper_module
from aliquot.agent import processes
from aliquot.agent.errors import AliquotError
from aliquot.agent.keeper import Keeper

from agent_desk import Desk, Story, peer, telling, waiting_for
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    cgroup,
    device,
    make_slice,
    mounted_below,
    move,
    region_devices,
    some_process,
)

pytestmark = NEEDS_ROOT


@pytest.fixture
def act(tmp_path: Path) -> Iterator[Callable[[Story], None]]:
    """Runs a story at a desk of its own; nothing of it stays."""
    with telling(tmp_path) as tell:
        yield tell


# -- Life ------------------------------------------------------------------------------------------


def test_a_maker_that_ends_before_its_container_began_gives_the_slice_back(
    act: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as maker:
            await desk.create(desk.bundle(), maker.pid)
            maker.kill()
            await desk.free()
        assert mounted_below(desk.ledger.base) == []

    act(story)


def test_a_container_keeps_its_slice_when_its_maker_ends(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as maker, some_process() as init:
            await desk.create(desk.bundle(), maker.pid)
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            # Told twice is told once.
            await desk.started(piece, init.pid)
            maker.kill()
            maker.wait()
            await desk.keeper.settle()
            (held,) = desk.ledger.slices()
            start = processes.start_time(init.pid)
            assert (held.init_pid, held.init_start) == (init.pid, start)
            with pytest.raises(AliquotError, match="runs already"):
                await desk.started(piece, os.getpid())
            init.kill()
            await desk.free()

    act(story)


@pytest.mark.parametrize(
    "pid", ["0", "-1", "1", "x", "", "\uff19", "4194304999", "99999999999999999999"]
)
def test_a_first_process_that_is_not_there_is_refused(
    act: Callable[[Story], None], pid: str
) -> None:
    async def story(desk: Desk) -> None:
        await desk.create(desk.bundle())
        (piece,) = desk.ledger.slices()
        with pytest.raises(AliquotError, match="container c1: there is no process"):
            await desk.keeper.started(desk.told(piece, pid=pid, bundle="/"), peer())
        assert desk.ledger.slices() == (piece,)

    act(story)


@pytest.mark.parametrize(
    ("folder", "name"), [("/etc", "c1"), ("{root}/none-00000000", "c1"), ("{key}", "other")]
)
def test_hooks_speak_only_of_their_own_slice(
    act: Callable[[Story], None], folder: str, name: str
) -> None:
    async def story(desk: Desk) -> None:
        await desk.create(desk.bundle())
        (piece,) = desk.ledger.slices()
        place = folder.format(root=desk.ledger.root, key=desk.ledger.folder(piece.key))
        fields = {"slice": place, "id": name, "pid": str(os.getpid()), "bundle": "/"}
        with pytest.raises(AliquotError):
            await desk.keeper.started(fields, peer())
        with contextlib.suppress(AliquotError):
            await desk.keeper.stopped(fields, peer())
        assert desk.ledger.slices() == (piece,)

    act(story)


def test_poststop_ends_a_slice_and_may_be_said_again(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as init:
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            # It lives: deleting must not give its memory to others.
            await desk.stopped(piece)
            assert len(desk.ledger.slices()) == 1
            init.kill()
            init.wait()
            await desk.stopped(piece)
            assert desk.ledger.slices() == ()
            await desk.stopped(piece)

    act(story)


def test_a_runtime_that_failed_ends_its_slice_itself(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as child, some_process() as other:
            await desk.create(desk.bundle(), os.getpid())
            (piece,) = desk.ledger.slices()
            await desk.stopped(piece, child.pid)
            assert desk.ledger.slices() == ()
            # A late word of an earlier try does not end the next one.
            await desk.create(desk.folder / "bundles/c1", child.pid)
            await desk.stopped(piece, other.pid)
            assert len(desk.ledger.slices()) == 1

    act(story)


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
def test_processes_that_outlive_the_first_keep_the_slice(
    act: Callable[[Story], None], kind: str
) -> None:
    name = f"aliquot-{os.getpid()}-{kind}"

    async def story(desk: Desk, own: Path) -> None:
        with some_process() as init, some_process() as left:
            move(init.pid, own)
            move(left.pid, own)
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            (held,) = desk.ledger.slices()
            assert [line.rsplit(":", 1)[1] for line in held.cgroups] == [f"/{name}"]
            assert desk.ledger.of_pid(left.pid) == held
            await desk.create(desk.bundle("c2"))
            with pytest.raises(AliquotError, match="is container c1's"):
                await desk.started(desk.ledger.slices()[1], left.pid)
            desk.ledger.remove(desk.ledger.slices()[1].key)
            init.kill()
            init.wait()
            await desk.stopped(held)
            assert desk.ledger.slices() == (held,)
            left.kill()
            left.wait()
            await desk.free()

    with cgroup(kind, name) as own:
        act(lambda desk: story(desk, own))


def test_at_the_start_who_ended_gives_back_and_who_lives_is_kept(
    act: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as dead, some_process() as alive:
            start = processes.start_time(alive.pid)
            told = {"init_pid": alive.pid, "init_start": start}
            pieces = [
                make_slice("made", maker=alive.pid),
                make_slice("runs", maker=dead.pid, **told),
                make_slice("ended", maker=alive.pid, init_pid=dead.pid, init_start=1),
                make_slice("unmade", maker=dead.pid),
                make_slice("reused", maker=dead.pid, init_pid=alive.pid, init_start=1),
            ]
            dead.kill()
            dead.wait()
            for piece in pieces:
                desk.ledger.add(piece, region_devices())
            desk.ledger.open()
            await desk.keeper.settle()
            assert {piece.container.id for piece in desk.ledger.slices()} == {"made", "runs"}
            assert len(mounted_below(desk.ledger.base)) == 2
            alive.kill()
            await desk.free()

    act(story)


# -- Caps that the driver holds --------------------------------------------------------------------


def test_a_driver_holds_the_cap_from_before_the_program_until_the_end(
    act: Callable[[Story], None],
) -> None:
    async def story(desk: Desk, own: Path) -> None:
        with some_process() as init:
            move(init.pid, own)
            await desk.create(desk.bundle(memory=2))
            (piece,) = desk.ledger.slices()
            assert desk.vendor.limits == []
            await desk.started(piece, init.pid)
            assert desk.vendor.limits == [("PAPER-01", str(own), 2 * GIB)]
            init.kill()
            init.wait()
            await desk.free()
            assert desk.vendor.limits[1:] == [("PAPER-01", str(own), None)]

    with cgroup("cgroup2", f"aliquot-{os.getpid()}-limit") as own:
        act(_by_driver(lambda desk: story(desk, own)))


def _by_driver(story: Story) -> Story:
    async def told(desk: Desk) -> None:
        desk.vendor.devices = (device(1, "driver", "shim"),)
        await story(desk)

    return told


def test_a_cap_of_a_driver_is_taken_back_by_the_next_agent(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk, own: Path) -> None:
        with some_process() as init:
            move(init.pid, own)
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            await desk.keeper.close()
            init.kill()
            init.wait()
            desk.ledger.open()
            desk.known.clear()
            later = Keeper(desk.ledger, lambda: desk.vendors, desk.looked)
            await later.settle()
            assert desk.vendor.limits[1:] == []
            assert len(desk.ledger.slices()) == 1
            desk.known.set()
            await desk.free()
            assert desk.vendor.limits[1:] == [("PAPER-01", str(own), None)]
            await later.close()

    with cgroup("cgroup2", f"aliquot-{os.getpid()}-limit") as own:
        act(_by_driver(lambda desk: story(desk, own)))


def test_a_driver_that_does_not_take_the_cap_is_a_refusal(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk, own: Path) -> None:
        with some_process() as init:
            move(init.pid, own)
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            desk.vendor.refuses = "limit_memory"
            with pytest.raises(AliquotError, match="container c1: paper has no limit_memory"):
                await desk.started(piece, init.pid)
            # The runtime ends it then, and the slice goes whatever the driver says.
            init.kill()
            init.wait()
            await desk.free()

    with cgroup("cgroup2", f"aliquot-{os.getpid()}-limit") as own:
        act(_by_driver(lambda desk: story(desk, own)))


def test_without_a_cgroup_of_its_own_no_driver_holds_a_cap(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        with some_process() as init:
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            with pytest.raises(AliquotError, match="has no cgroup v2 of its own"):
                await desk.started(piece, init.pid)
            assert desk.vendor.limits == []

    act(_by_driver(story))


def test_deleting_a_container_does_not_wait_for_a_driver_that_hangs(
    act: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_STOP_SECONDS", 0.01)
    go = threading.Event()

    async def story(desk: Desk, own: Path) -> None:
        with some_process() as init:
            move(init.pid, own)
            await desk.create(desk.bundle())
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            desk.vendor.before = waiting_for(go)
            init.kill()
            init.wait()
            await desk.stopped(piece)
            assert len(desk.ledger.slices()) == 1
            go.set()
            await desk.free()

    with cgroup("cgroup2", f"aliquot-{os.getpid()}-limit") as own:
        act(_by_driver(lambda desk: story(desk, own)))
