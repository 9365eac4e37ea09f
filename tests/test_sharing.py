"""The arbiter follows the ledger: what it is told of slices, and what becomes of their gates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.devices import Device
from aliquot.agent.errors import AliquotError
from aliquot.agent.sharing import Sharing, share
from aliquot.agent.slices import Container, Slice
from aliquot.shim import region

from commands import PATIENCE_SECONDS, wait_for
from reading_parts import Books, device, part
from sharers import CLOSED, FREE, OPEN, Sharer, Watched, compile_sharer

DEVICES = tuple(device(number) for number in range(3))


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path / "containers", DEVICES)


@pytest.fixture
def sharing() -> Iterator[Sharing]:
    """The arbiter of a node, which runs."""
    one = Sharing()
    one.start()
    yield one
    one.close()


def add(books: Books, name: str, *numbers: int, namespace: str = "default", **others: Any) -> Slice:
    """A slice of devices."""
    container = Container(f"id-{name}", "/bundle", namespace, name, "main")
    piece = books.add(name, *(part(DEVICES[one]) for one in numbers or (0,)), container=container)
    piece = dataclasses.replace(piece, **others)
    books.put(piece)
    return piece


def follow(sharing: Sharing, books: Books, devices: tuple[Device, ...] = DEVICES) -> None:
    sharing.follow(books.slices(), books.region, devices)


@contextlib.contextmanager
def watching(books: Books, *names: str) -> Iterator[list[Watched]]:
    found = [Watched(books.region(name), len(books.grant(name).devices)) for name in names]
    try:
        yield found
    finally:
        for one in found:
            one.close()


def become(one: Watched, state: int, column: int = 0) -> None:
    wait_for(lambda: one.gate(column).state == state, f"state {state} of {one.folder}")


def test_slices_are_known_as_long_as_the_ledger_has_them(sharing: Sharing, books: Books) -> None:
    add(books, "one", 0, 1)
    follow(sharing, books)
    assert set(sharing.accounts()) == {("one", DEVICES[0].uuid), ("one", DEVICES[1].uuid)}
    with watching(books, "one") as (one,):
        become(one, FREE)
        beat = one.beat()
        wait_for(lambda: one.beat() > beat, "a beat")
        number = one.gate().number
        for _ in range(3):
            follow(sharing, books)
        add(books, "two", 1)
        follow(sharing, books)
        # Its devices come together: what another has of one of them counts for both.
        become(one, OPEN)
        # It was not taken up anew: then it would be closed, or have been.
        assert one.gate().number == number + 1
        books.remove("two")
        follow(sharing, books)
        become(one, FREE)
    assert {key for key, _ in sharing.accounts()} == {"one"}
    assert sharing.faults == {}


def test_a_later_slice_of_the_same_name_is_another(sharing: Sharing, books: Books) -> None:
    piece = add(books, "one")
    follow(sharing, books)
    with watching(books, "one") as (old,):
        become(old, FREE)
        books.remove("one")
        add(books, "one", created_unix_ns=piece.created_unix_ns + 1)
        follow(sharing, books)
        with watching(books, "one") as (new,):
            become(new, FREE)
        beat = old.beat()
        with watching(books, "one") as (new,):
            before = new.beat()
            wait_for(lambda: new.beat() > before, "a beat")
        assert old.beat() == beat


def test_a_device_is_known_by_its_uuid_whoever_comes_first(sharing: Sharing, books: Books) -> None:
    add(books, "both", 2, 1)
    add(books, "first", 1)
    add(books, "other", 0)
    follow(sharing, books)
    with watching(books, "both", "first", "other") as (both, first, other):
        become(other, FREE)
        wait_for(lambda: FREE not in (both.gate(0).state, both.gate(1).state), "two that share")
        assert first.gate().state != FREE
        books.remove("first")
        follow(sharing, books)
        become(both, FREE, 0)
        become(both, FREE, 1)


@pytest.mark.parametrize("namespace", ["default", "elsewhere"])
def test_a_group_is_one_of_a_namespace(sharing: Sharing, books: Books, namespace: str) -> None:
    add(books, "a", 0, group="g")
    add(books, "b", 1, group="g", namespace=namespace)
    add(books, "c", 2, group="")
    add(books, "rival", 0)
    follow(sharing, books)
    with watching(books, "a", "b", "c", "rival") as (a, b, c, rival):
        become(c, FREE)
        assert FREE not in (a.gate().state, rival.gate().state)
        # Whose device nobody else wants is free, unless it is had together with one that is wanted.
        assert (b.gate().state == FREE) is (namespace == "elsewhere")


def test_who_is_native_takes_no_turns(sharing: Sharing, books: Books) -> None:
    add(books, "native", native=True)
    add(books, "other")
    follow(sharing, books)
    with watching(books, "native", "other") as (native, other):
        become(native, FREE)
        assert other.gate().state != FREE


def _no_grant(folder: Path) -> None:
    (folder / "grant").unlink()


def _other_grant(folder: Path) -> None:
    (folder / "grant").write_bytes(bytes(100))


def _usage_is_a_fifo(folder: Path) -> None:
    (folder / "usage").unlink()
    os.mkfifo(folder / "usage")


def _bell_is_a_file(folder: Path) -> None:
    (folder / "bell").unlink()
    (folder / "bell").touch()


def _bell_is_a_link(folder: Path) -> None:
    (folder / "bell").unlink()
    (folder / "bell").symlink_to("/dev/null")


BROKEN: dict[str, Callable[[Path], None]] = {
    "no grant": _no_grant,
    "another grant": _other_grant,
    "a usage that is a FIFO": _usage_is_a_fifo,
    "a bell that is a file": _bell_is_a_file,
    "a bell that is a link": _bell_is_a_link,
}


@pytest.mark.parametrize("how", BROKEN)
def test_one_broken_region_is_no_others_affair(sharing: Sharing, books: Books, how: str) -> None:
    add(books, "broken")
    add(books, "sound")
    BROKEN[how](books.region("broken"))
    follow(sharing, books)
    assert set(sharing.faults) == {"broken"}
    assert str(books.region("broken")) in sharing.faults["broken"].text
    assert sharing.faults["broken"].gone is (how == "no grant")
    with watching(books, "sound") as (sound,):
        become(sound, FREE)
    assert {key for key, _ in sharing.accounts()} == {"sound"}
    books.remove("broken")
    add(books, "broken")
    follow(sharing, books)
    assert sharing.faults == {}


def test_terms_that_nobody_can_have_are_a_fault(sharing: Sharing, books: Books) -> None:
    piece = add(books, "one")
    wrong = dataclasses.replace(piece.parts[0], weight=0)
    books.put(dataclasses.replace(piece, parts=(wrong,)))
    follow(sharing, books)
    assert "Invalid argument" in sharing.faults["one"].text
    books.put(dataclasses.replace(piece, quiet_ms=1 << 80))
    follow(sharing, books)
    assert "out of range" in sharing.faults["one"].text


def test_more_devices_than_an_arbiter_has_room_for_are_a_fault(
    sharing: Sharing, tmp_path: Path
) -> None:
    many = [
        dataclasses.replace(DEVICES[0], uuid=f"GPU-{n}", uuid_bytes=bytes([n]) * 16)
        for n in range(65)
    ]
    books = Books(tmp_path / "many", many)
    for number, one in enumerate(many):
        books.add(f"c{number}", part(one))
    sharing.follow(books.slices(), books.region, many)
    assert set(sharing.faults) == {"c64"}
    assert "GPU-64" in sharing.faults["c64"].text
    # When one goes, there is room.
    books.remove("c3")
    sharing.follow(books.slices(), books.region, many)
    assert sharing.faults == {}


def test_a_running_slice_gets_other_terms(sharing: Sharing, books: Books) -> None:
    piece = add(books, "one")
    follow(sharing, books)
    fresh = dataclasses.replace(piece.parts[0], cores=10, cores_max=30, weight=7, priority=-3)
    with watching(books, "one") as (one,):
        become(one, FREE)
        number = one.gate().number
        sharing.change(dataclasses.replace(piece, parts=(fresh,), quiet_ms=5, floor=10))
        # Its threads look at what the grant says by then.
        assert one.gate().number != number
        # Who has a cap is measured.
        wait_for(lambda: one.gate().state != FREE, "a measured gate")
        with pytest.raises(AliquotError, match="default/one/main cannot have other terms"):
            sharing.change(
                dataclasses.replace(piece, parts=(dataclasses.replace(fresh, weight=0),))
            )
    # Whom the arbiter does not know gets them when it does.
    sharing.change(add(books, "later"))


def test_whoever_is_below_another_has_less_work_under_way(sharing: Sharing, books: Books) -> None:
    high = add(books, "high")
    add(books, "low")
    weak = add(books, "weak", policy="weak")
    add(books, "elsewhere", 1)
    add(books, "apart", native=True)
    follow(sharing, books)
    all_us = region.WINDOW_US
    with watching(books, "high", "low", "weak", "elsewhere", "apart") as found:

        def windows_us() -> list[int]:
            return [one.window_us() for one in found]

        assert windows_us() == [all_us, all_us, 5 * all_us, all_us, all_us]
        above = dataclasses.replace(high, parts=(dataclasses.replace(high.parts[0], priority=3),))
        sharing.change(above)
        assert windows_us() == [all_us, all_us // 4, 5 * all_us // 4, all_us, all_us]
        sharing.change(dataclasses.replace(weak, policy="burst-share"))
        assert windows_us() == [all_us, all_us // 4, all_us // 4, all_us, all_us]
        sharing.change(weak)
        books.remove("high")
        follow(sharing, books)
        assert windows_us()[1:] == [all_us, 5 * all_us, all_us, all_us]


def test_a_slice_whose_vendor_is_gone_keeps_its_turns(sharing: Sharing, books: Books) -> None:
    add(books, "one", 0, 1)
    add(books, "two", 1)
    follow(sharing, books, ())
    assert sharing.faults == {}
    with watching(books, "one", "two") as (one, two):
        wait_for(lambda: one.beat() > 0 and two.beat() > 0, "a beat")
        wait_for(lambda: FREE not in (one.gate(0).state, two.gate().state), "a shared device")


def test_a_closed_arbiter_leaves_gates_as_they_are(books: Books) -> None:
    sharing = Sharing()
    # Before it runs nobody is known, and after it nobody is.
    add(books, "one")
    follow(sharing, books)
    assert sharing.accounts() == {}
    sharing.start()
    follow(sharing, books)
    with watching(books, "one") as (one,):
        become(one, FREE)
        sharing.close()
        gate, beat = one.gate(), one.beat()
        assert gate.state == FREE
        follow(sharing, books)
        assert (one.gate(), one.beat()) == (gate, beat)
        assert sharing.accounts() == {}
        sharing.close()


def test_accounts_are_in_seconds(sharing: Sharing, books: Books, tmp_path: Path) -> None:
    program = compile_sharer(tmp_path)
    add(books, "one")
    add(books, "two")
    follow(sharing, books)
    with (
        watching(books, "one", "two") as (one, two),
        Sharer(program, one, two),
    ):
        place = ("one", DEVICES[0].uuid)
        wait_for(lambda: sharing.accounts()[place].received is not None, "a whole second")
        account = sharing.accounts()[place]
        used = one.used_ns() / 1e9
    assert account.turns > 1
    assert 0 < account.held_seconds <= account.wanted_seconds
    # What it says that it used lies within what it was given, and what is under way.
    assert used <= account.held_seconds + 1


@dataclasses.dataclass
class Node:
    """What the arbiter's service needs of an agent."""

    ledger: Books
    devices: tuple[Device, ...] = DEVICES


async def _until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - nothing tells a test of it
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), PATIENCE_SECONDS)


def test_the_ledgers_news_are_the_arbiters(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    add(books, "one")
    sharing = Sharing()

    async def story() -> None:
        async with share(Node(books), sharing):
            # Who was there is known at once.
            assert {key for key, _ in sharing.accounts()} == {"one"}
            add(books, "two")
            await _until(lambda: {key for key, _ in sharing.accounts()} == {"one", "two"})
            books.remove("one")
            await _until(lambda: {key for key, _ in sharing.accounts()} == {"two"})
            piece = add(books, "late")
            aside = books.region("late").rename(books.folder("late") / "aside")
            books.put(piece)
            await _until(lambda: set(sharing.faults) == {"late"})
            # Nobody says when it is well again: it is looked for.
            aside.rename(books.region("late"))
            await _until(lambda: not sharing.faults)
            # What stays wrong is told once.
            _bell_is_a_file(books.region("late"))
            books.put(dataclasses.replace(piece, created_unix_ns=piece.created_unix_ns + 5))
            await _until(lambda: "late" in sharing.faults)
            for _ in range(3):
                books.put(books.slices()[0])
                await asyncio.sleep(0)
            books.remove("two")
            await _until(lambda: not sharing.accounts())
        assert sharing.accounts() == {}

    asyncio.run(story())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1, told
    assert told[0].startswith("default/late/main takes no turns: ")


def test_a_follow_that_fails_is_not_the_last(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sharing = Sharing()

    async def story() -> None:
        async with share(Node(books), sharing):
            with monkeypatch.context() as patch:
                patch.setattr(sharing, "follow", lambda *_: 1 / 0)
                add(books, "one")
                await _until(lambda: len(caplog.records) > 0)
            await _until(lambda: {key for key, _ in sharing.accounts()} == {"one"})

    asyncio.run(story())


def test_gates_of_the_idle_stay_closed(sharing: Sharing, books: Books) -> None:
    add(books, "one")
    add(books, "two")
    follow(sharing, books)
    with watching(books, "one", "two") as (one, two):
        wait_for(lambda: one.beat() > 2 and two.beat() > 2, "some beats")
        assert (one.gate().state, two.gate().state) == (CLOSED, CLOSED)
