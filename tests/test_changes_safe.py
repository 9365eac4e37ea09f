"""Changes that a driver refuses, that are cut off, and whose maker is killed: all or nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aliquot.agent import changes, ledger, processes
from aliquot.agent.changes import Wish
from aliquot.agent.ledger import Ledger
from aliquot.agent.slices import Slice

import agent_process
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    cgroup,
    device,
    make_slice,
    move,
    region_devices,
    some_process,
)
from change_parts import (
    ONE,
    Office,
    Tell,
    acting,
    check_books,
    open_office,
    part,
    told,
    wish,
)

pytestmark = NEEDS_ROOT


@pytest.fixture
def act(tmp_path: Path) -> Callable[[Tell], None]:
    """Runs a story in an office of its own; nothing of it stays."""
    return acting(tmp_path)


# -- Caps that a driver holds --------------------------------------------------------------------


@contextmanager
def by_drivers(folder: Path) -> Iterator[tuple[Office, Slice]]:
    """An office with a container of two devices whose drivers hold its caps."""
    devices = [device(number, "driver", "shim") for number in (1, 2)]
    with (
        cgroup("cgroup2", f"aliquot-changes-{os.getpid()}") as own,
        some_process() as init,
        open_office(folder, *devices) as office,
    ):
        move(init.pid, own)
        line = next(
            line
            for line in Path(f"/proc/{init.pid}/cgroup").read_text().splitlines()
            if line.endswith(f"/{own.name}")
        )
        start = processes.start_time(init.pid)
        piece = make_slice(
            "c1",
            parts=tuple(part(one) for one in devices),
            init_pid=init.pid,
            init_start=start,
            cgroups=(line,),
        )
        yield office, piece


def taken_up(office: Office, piece: Slice) -> None:
    office.ledger.add(piece, region_devices(2))
    changes.tell(office.ledger, piece)
    office.keeper.hold(piece)


def test_a_driver_is_told_before_the_container(tmp_path: Path) -> None:
    with by_drivers(tmp_path) as (office, piece):

        async def tell(_: Office) -> None:
            taken_up(office, piece)
            reserved: list[int] = []
            office.vendor.before = lambda _: reserved.append(
                sum(one.parts[0].memory_bytes for one in office.ledger.slices())
            )
            await office.set(memory="2GiB")
            await office.set(memory="1GiB")
            # As long as the driver is asked, neither cap can be given to somebody else.
            assert reserved == [2 * GIB] * 4
            limits = [(uuid, limit) for uuid, _, limit in office.vendor.limits]
            assert limits == [
                ("PAPER-01", 2 * GIB),
                ("PAPER-02", 2 * GIB),
                ("PAPER-01", GIB),
                ("PAPER-02", GIB),
            ]
            # What is no memory is not its affair.
            await office.set(cores=20)
            assert len(office.vendor.limits) == 4

        asyncio.run(told(office, tell))


def test_a_driver_that_refuses_leaves_all_as_it_was(tmp_path: Path) -> None:
    with by_drivers(tmp_path) as (office, piece):

        async def tell(_: Office) -> None:
            taken_up(office, piece)
            asked: list[str] = []

            def before(_: str) -> None:
                asked.append("")
                office.vendor.refuses = "limit_memory" if len(asked) == 2 else ""

            office.vendor.before = before
            text = await office.refused(memory="2GiB", cores=20)
            assert text == "container c1: paper has no limit_memory today: wait for rain"
            last = {uuid: limit for uuid, _, limit in office.vendor.limits}
            assert last == {"PAPER-01": GIB, "PAPER-02": GIB}

        asyncio.run(told(office, tell))


def test_the_next_agent_tells_drivers_what_the_ledger_has(tmp_path: Path) -> None:
    with by_drivers(tmp_path) as (office, piece):

        async def tell(_: Office) -> None:
            taken_up(office, piece)
            await office.keeper.limit_again()
            limits = [(uuid, limit) for uuid, _, limit in office.vendor.limits]
            assert limits == [("PAPER-01", GIB), ("PAPER-02", GIB)]

        asyncio.run(told(office, tell))


# -- Ends in the middle --------------------------------------------------------------------------


def test_who_asks_and_goes_away_leaves_nothing_half_done(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        piece = office.add()
        async with office.keeper.locked(piece.key):
            asked = asyncio.create_task(office.changes.change(wish("c1", cores=20)))
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        async with office.keeper.locked(piece.key):
            pass
        while not office.retolds:  # noqa: ASYNC110 - nobody is left who would be told
            await asyncio.sleep(0)
        (changed,) = office.retolds
        assert changed.parts[0].cores == 20
        office.check(changed)

    act(tell)


def test_killed_at_any_line_ledger_and_grant_agree_at_the_next_start(tmp_path: Path) -> None:
    with open_office(tmp_path) as office:
        before = make_slice("c1")
        office.ledger.add(before, region_devices())
        asked = wish("c1", memory="3GiB", cores=20, cores_max=30, weight=5, priority=-6)
        seen: set[str] = set()
        for lines in range(100_000):
            changes.tell(office.ledger, before)
            office.ledger.replace(before)
            killed = _killed_after(office, asked, lines)
            books = Ledger(office.ledger.base)
            books.open()
            assert books.faults == []
            assert changes.agree(books) == ()
            (piece,) = books.slices()
            check_books(books, piece)
            kind = "before" if piece == before else "after"
            if kind == "after":
                assert piece.parts[0] == part(ONE, 3 * GIB, 20, 30, 5, -6)
            seen.add(kind)
            if not killed:
                assert kind == "after"
                break
        assert lines > 100
        assert seen == {"before", "after"}


def _killed_after(office: Office, asked: Wish, lines: int) -> bool:
    """Change a slice in a process that kills itself after so many lines; says whether it did."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:

            async def change() -> None:
                # The line that is counted last is of what decides and writes.
                killer = agent_process.Killer(lines, frozenset({changes.__file__, ledger.__file__}))
                sys.settrace(killer)
                await office.changes.change(asked)

            asyncio.run(change())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)
