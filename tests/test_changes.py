"""``aliquot set``: what a container has is changed while it runs, as a whole and for good."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import changes, ledger, processes, rpc
from aliquot.agent.changes import Changed, Changes, Wish
from aliquot.agent.config import Config
from aliquot.agent.devices import Device
from aliquot.agent.errors import AliquotError, BadRequestError
from aliquot.agent.ledger import Ledger
from aliquot.agent.policies import POLICIES
from aliquot.agent.sizes import parse_size
from aliquot.agent.slices import Container, Part, Slice
from aliquot.shim import region
from aliquot.shim._region import ffi

import agent_process
import reading_parts
from agent_desk import Desk
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    PaperVendor,
    cgroup,
    device,
    make_slice,
    move,
    region_devices,
    some_process,
    swept,
)
from commands import ALIQUOT, PATIENCE_SECONDS
from slots import Slot

pytestmark = NEEDS_ROOT
MIB = 1 << 20
ONE, TWO = device(1), device(2)


@dataclass
class Office(Desk):
    """A desk at which slices are changed; ``retolds`` are those that the arbiter was told of."""

    config: Config = field(default_factory=Config)
    retolds: list[Slice] = field(default_factory=list)
    arbiter_refuses: bool = False

    def __post_init__(self) -> None:  # noqa: D105 - as every other of its name
        super().__post_init__()
        self.changes = Changes(self)

    def retold(self, piece: Slice) -> None:
        """Take note of it."""
        if self.arbiter_refuses:
            self.arbiter_refuses = False
            raise AliquotError(f"{piece.container.shown} cannot have other terms")
        self.retolds.append(piece)

    def add(self, name: str = "c1", *parts: Part, **others: Any) -> Slice:
        """Give a container a slice; without ``parts`` of 1 GiB and a tenth of the first device."""
        if parts:
            others["parts"] = parts
        piece = make_slice(name, **others)
        self.ledger.add(piece, region_devices(len(piece.parts)))
        changes.tell(self.ledger, piece)
        self.keeper.hold(piece)
        return piece

    async def set(self, name: str = "c1", **said: Any) -> Slice:
        """Change a slice: keywords are the keys of numbers, and the other fields of a wish."""
        return (await self.change(name, **said)).piece

    async def change(self, name: str = "c1", **said: Any) -> Changed:
        """Change a slice, and see that everybody was told what it is now."""
        changed = await self.changes.change(wish(name, **said))
        self.check(changed.piece)
        assert self.retolds[-1] == changed.piece
        return changed

    async def refused(self, name: str = "c1", **said: Any) -> str:
        """Fail to change a slice, and see that it is as before."""
        before, retolds = self.ledger.slices(), len(self.retolds)
        with pytest.raises(AliquotError) as caught:
            await self.changes.change(wish(name, **said))
        assert self.ledger.slices() == before
        # Who was told that it is as before was told nothing else.
        assert all(piece in before for piece in self.retolds[retolds:])
        for piece in before:
            self.check(piece)
        text = str(caught.value)
        assert text.isprintable()
        return text

    def check(self, piece: Slice) -> None:
        """See that file, grant and memory say the same of a slice."""
        assert self.ledger.get(piece.key) == piece
        check_books(self.ledger, piece)


def check_books(books: Ledger, piece: Slice) -> None:
    """See that a slice's file and its grant say what the slice is."""
    other = Ledger(books.base)
    other.open()
    assert other.get(piece.key) == piece
    assert granted(books, piece.key) == [
        (part.memory_bytes, part.cores, part.cores_max, part.weight, part.priority)
        for part in piece.parts
    ]


def grant_of(books: Ledger, key: str) -> Any:
    """The grant of a slice, as C has it."""
    data = (books.region(key) / "grant").read_bytes()
    grant = ffi.new("struct aliquot_grant *")
    ffi.memmove(grant, data, len(data))
    return grant


def granted(books: Ledger, key: str) -> list[tuple[int, ...]]:
    """Cap, guarantee, most, weight and priority of each device in a slice's grant."""
    grant = grant_of(books, key)
    return [
        (row.cap, row.cores_min, row.cores, row.weight, row.priority)
        for row in grant.device[0 : grant.device_count]
    ]


def wish(name: str, **said: Any) -> Wish:
    numbers = {
        key: said.pop(key.replace("-", "_"))
        for key in changes.PARSERS
        if key.replace("-", "_") in said
    }
    if "memory" in said:
        said["memory"] = parse_size(said["memory"], "--memory")
    return Wish(name, numbers=numbers, **said)


def part(one: Device, memory_bytes: int = GIB, cores: int = 10, *rest: int) -> Part:
    made = Part(one.uuid, one.vendor, memory_bytes, cores, one.enforcement[0])
    names = ("cores_max", "weight", "priority")
    sharing: dict[str, Any] = dict(zip(names, rest, strict=False))
    return replace(made, **sharing)


Tell = Callable[[Office], Any]


@contextmanager
def open_office(folder: Path, *devices: Device) -> Iterator[Office]:
    books = Ledger(folder / "run")
    with swept(folder / "run"):
        books.open()
        yield Office(folder, PaperVendor(devices or (ONE, TWO)), books)


@pytest.fixture
def act(tmp_path: Path) -> Iterator[Callable[[Tell], None]]:
    """Runs a story in an office of its own; nothing of it stays."""

    def run(tell: Tell) -> None:
        with open_office(tmp_path) as office:
            asyncio.run(told(office, tell))

    return run  # type: ignore[return-value]


async def told(office: Office, tell: Tell) -> None:
    try:
        await asyncio.wait_for(tell(office), 120)
    finally:
        await office.keeper.close()


# -- What is changed -----------------------------------------------------------------------------


def test_what_is_named_is_changed_and_nothing_else(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        piece = office.add()
        changed = await office.set(memory="2GiB")
        (one,) = changed.parts
        assert one == dataclasses.replace(piece.parts[0], memory_bytes=2 * GIB)
        assert dataclasses.replace(changed, parts=piece.parts, policy=piece.policy) == piece
        changed = await office.set(cores=30, cores_max=60, weight=7, priority=-3, quiet=5, floor=9)
        (one,) = changed.parts
        assert one == part(ONE, 2 * GIB, 30, 60, 7, -3)
        assert (changed.quiet_ms, changed.floor) == (5, 9)
        changed = await office.set(memory="25%", cores=0)
        assert changed.parts == (part(ONE, 4 * GIB, 0, 60, 7, -3),)

    act(tell)


@pytest.mark.parametrize(
    ("policy", "before", "said", "after"),
    [
        ("burst-share", (30, 100, 7), {"cores": 50}, ("burst-share", 50, 100, 7)),
        ("burst-share", (30, 60, 7), {"cores": 50}, ("burst-share", 50, 60, 7)),
        ("fixed-share", (30, 30, 7), {"cores": 50}, ("fixed-share", 50, 50, 7)),
        ("burst-share", (30, 60, 7), {"policy": "fixed-share"}, ("fixed-share", 30, 30, 7)),
        ("fixed", (30, 30, 7), {"policy": "burst-share"}, ("burst-share", 30, 100, 7)),
        ("fixed", (30, 30, 7), {"policy": "best-effort"}, ("best-effort", 0, 100, 7)),
        ("best-effort", (0, 100, 7), {"policy": "3", "cores": 5}, ("fixed", 5, 5, 7)),
        ("burst-share", (30, 60, 7), {"policy": "average"}, ("average", 5, 5, 7)),
        ("burst-share", (30, 60, 7), {"policy": "preemptive"}, ("preemptive", 30, 100, 100)),
        ("burst-share", (30, 60, 7), {"policy": "2"}, ("weighted-preemptive", 30, 100, 30)),
        ("weighted-preemptive", (30, 100, 30), {"cores": 5}, ("weighted-preemptive", 5, 100, 5)),
        ("burst-share", (30, 60, 7), {"policy": "native"}, ("native", 0, 100, 100)),
        ("native", (0, 100, 100), {"policy": "fixed", "cores": 9}, ("fixed", 9, 9, 100)),
        # Nobody named a policy, and the node's had no cores to fix.
        ("fixed-share", (0, 100, 100), {"cores-max": 40}, ("burst-share", 0, 40, 100)),
        ("", (30, 100, 100), {"cores-max": 40}, ("burst-share", 30, 40, 100)),
    ],
)
def test_numbers_stay_what_the_policy_makes_of_them(
    act: Callable[[Tell], None],
    policy: str,
    before: tuple[int, int, int],
    said: dict[str, Any],
    after: tuple[str, int, int, int],
) -> None:
    async def tell(office: Office) -> None:
        office.add("c1", part(ONE, GIB, *before), policy=policy, native=policy == "native")
        changed = await office.set(**{key.replace("-", "_"): value for key, value in said.items()})
        (one,) = changed.parts
        assert (changed.policy, one.cores, one.cores_max, one.weight) == after
        assert changed.native == (changed.policy == "native")

    act(tell)


def test_of_several_devices_one_may_be_named(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        office.add("c1", part(ONE), part(TWO))
        changed = await office.set(cores=20, device="PAPER-02")
        assert changed.parts == (part(ONE), part(TWO, GIB, 20))
        changed = await office.set(priority=4, device="01")
        assert [one.priority for one in changed.parts] == [4, 0]
        changed = await office.set(memory="50%")
        assert [one.memory_bytes for one in changed.parts] == [8 * GIB, 8 * GIB]
        assert "is several of the devices of c1: PAPER-01, PAPER-02" in await office.refused(
            cores=1, device="PAPER"
        )
        assert "is none of the devices" in await office.refused(cores=1, device="GPU-1")
        for said in ({"policy": "fixed"}, {"quiet": 1}, {"floor": 1}):
            text = await office.refused(**said, device="01")
            assert text.endswith("is for all devices of c1 together: leave --device out")

    act(tell)


def test_a_container_is_found_by_id_beginning_and_name(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        for name, pod in (("abc1", "a"), ("abc2", "b"), ("abc2-x", "b")):
            bundle = f"/bundles/{name}"
            office.add(name, container=Container(name, bundle, "team", pod, "main"))
        assert (await office.set("abc1", cores=1)).container.pod == "a"
        assert (await office.set("team/a/main", cores=2)).container.id == "abc1"
        assert (await office.set("abc2-x", cores=3)).container.id == "abc2-x"
        # An id that is whole is meant, though another begins with it.
        assert (await office.set("abc2", cores=4)).container.id == "abc2"
        text = await office.refused("ab", cores=1)
        assert text.startswith("'ab' may be several containers, name one: abc1")
        assert text.count("(team/") == 3
        text = await office.refused("team/b/main", cores=1)
        assert text.count("(team/b/main)") == 2
        for nobody in ("x", "", "team/a", "a\nb\x1b[2J", "a" * 900):
            text = await office.refused(nobody, cores=1)
            assert text.startswith("no container '")
            assert len(text) < 300
        assert "so long a name" in await office.refused("a" * 2000, cores=1)

    act(tell)


def test_who_is_changed_is_watched_to_its_end_all_the_same(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        with some_process() as maker:
            office.add("c1", maker=maker.pid)
            await office.set(cores=20)
            maker.kill()
            await office.free()

    act(tell)


def test_a_cap_below_what_is_held_is_taken_and_told(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        piece = office.add()
        folder = office.ledger.region(piece.key)
        slot = Slot(folder / "usage", 0)
        slot.charge(0, 700 * MIB)
        with (folder / "grant").open("r+b") as file:
            region.write_readings(file.fileno(), 0, unclaimed=68 * MIB)
        changed = await office.change(memory="512MiB")
        assert changed.notes == (
            (
                "c1 holds 768.0 MiB of PAPER-01, above the new cap of 512.0 MiB: nothing more is "
                "given until it frees"
            ),
        )
        assert (await office.change(memory="1GiB")).notes == ()
        assert (await office.change(memory="768MiB")).notes == ()
        # What the container makes of its file is no reason not to change its cap.
        (folder / "usage").write_bytes(b"x")
        (note,) = (await office.change(memory="512MiB")).notes
        assert note.startswith("what c1 holds cannot be read: ")
        slot.die()

    act(tell)


# -- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said", "told"),
    [
        ("burst-share", {}, "nothing is to be changed: add --memory, --policy, --cores"),
        ("burst-share", {"cores": 101}, "--cores: '101' is not a share of a device's time"),
        ("burst-share", {"cores_max": 0}, "--cores-max: '0'"),
        ("burst-share", {"weight": 0}, "--weight: '0' is not a weight"),
        ("burst-share", {"priority": 1000}, "--priority: '1000' is not a priority"),
        ("burst-share", {"quiet": 99999}, "--quiet: '99999'"),
        ("burst-share", {"floor": 91}, "--floor: '91'"),
        ("burst-share", {"policy": "x"}, "--policy: 'x' is not a policy"),
        (
            "burst-share",
            {"cores_max": 20},
            "--cores-max: 20% are less than the 30% that are guaranteed (--cores)",
        ),
        ("burst-share", {"floor": 80}, "--floor: 80% for others and 30% that are guaranteed"),
        ("fixed-share", {"cores_max": 50}, "--cores-max: says nothing beside policy fixed-share"),
        ("fixed-share", {"cores": 0}, "--policy: fixed-share needs to know how much that is"),
        ("best-effort", {"cores": 50}, "--cores: says nothing beside policy best-effort"),
        ("burst-share", {"memory": "1MiB"}, "--memory: 1MiB is less than PAPER-01 gives at a time"),
        ("burst-share", {"memory": "17GiB"}, "has 16.0 GiB of 16.0 GiB free, 17.0 GiB are asked"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    act: Callable[[Tell], None], policy: str, said: dict[str, Any], told: str
) -> None:
    async def tell(office: Office) -> None:
        rules = POLICIES[policy]
        office.add("c1", part(ONE, GIB, 30, 30 if rules.fixed else 100), policy=policy)
        assert told in await office.refused(**said)

    act(tell)


def test_nobody_is_given_what_others_were_promised(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        office.add("c1", part(ONE, GIB, 10), part(TWO, GIB, 10))
        office.add("c2", part(ONE, 10 * GIB, 60))
        await office.set("c1", cores=40)
        text = await office.refused("c1", cores=41)
        assert text == "c1: PAPER-01 (1, Paper 16) has 40% of its time free, 41% are asked for"
        # On one device of the two there would be room.
        text = await office.refused("c1", memory="7GiB")
        assert text == (
            "c1: PAPER-01 (1, Paper 16) has 6.0 GiB of 16.0 GiB free, 7.0 GiB are asked for"
        )
        await office.set("c1", memory="7GiB", device="02")
        await office.set("c2", memory="9GiB", cores=59)
        await office.set("c1", memory="7GiB", cores=41)

    act(tell)


def test_less_is_always_to_be_had(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        # More was given out than there is: the device came back smaller.
        office.add("c1", part(ONE, 16 * GIB, 90))
        office.add("c2", part(ONE, 16 * GIB, 90))
        await office.set("c1", memory="15GiB", cores=89)
        assert "has 0.0 MiB of 16.0 GiB free" in await office.refused("c1", memory="16GiB")
        office.vendor.devices = ()
        await office.set("c1", memory="14GiB", cores=88)
        assert "write bytes" in await office.refused("c1", memory="5%")
        assert "its vendor does not tell it" in await office.refused("c1", cores=89)

    act(tell)


def test_without_a_grant_nothing_is_changed(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        piece = office.add()
        (office.ledger.region(piece.key) / "grant").unlink()
        with pytest.raises(AliquotError, match=r"container c1: .*/grant: No such file"):
            await office.changes.change(wish("c1", cores=20))
        assert office.ledger.slices() == (piece,)
        assert office.retolds == []

    act(tell)


def test_a_ledger_that_cannot_be_written_changes_nothing(
    act: Callable[[Tell], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(office: Office) -> None:
        office.add()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            assert "slice.json cannot be written: No space" in await office.refused(cores=20)
        await office.set(cores=20)

    act(tell)


def test_an_arbiter_that_refuses_leaves_all_as_it_was(act: Callable[[Tell], None]) -> None:
    async def tell(office: Office) -> None:
        piece = office.add()
        office.arbiter_refuses = True
        with pytest.raises(AliquotError, match="c1 cannot have other terms"):
            await office.changes.change(wish("c1", cores=20, memory="2GiB"))
        office.check(piece)
        assert office.retolds == [piece]

    act(tell)


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


# -- Over the socket -----------------------------------------------------------------------------


def over_the_socket(folder: Path, ask: Callable[[Path], None], pieces: Sequence[Slice]) -> None:
    """Serve tools while ``ask`` asks, in a thread of its own, about the slices ``pieces``."""
    with open_office(folder) as office:
        node = reading_parts.Node(folder)
        node.changes = office.changes

        async def tell(_: Office) -> None:
            for piece in pieces:
                office.add(piece.container.id, *piece.parts, container=piece.container)
            async with rpc.serve(node):
                with ThreadPoolExecutor(1) as threads:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(threads, ask, folder)

        asyncio.run(told(office, tell))


def aliquot_set(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALIQUOT, "set", *arguments],
        env={**os.environ, "ALIQUOT_RUNTIME_DIR": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_the_command_says_what_the_container_has_now(tmp_path: Path) -> None:
    container = Container("0123456789abcdef", "/bundles/0123456789abcdef", "team", "pod", "main")

    def ask(folder: Path) -> None:
        said = aliquot_set(folder, "team/pod/main", "--cores", "20%", "--priority", "-5")
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.split() == [
            *("team/pod/main", "PAPER-01", "1.0", "GiB", "cores", "20", "to", "100%"),
            *("weight", "100", "priority", "-5", "burst-share"),
        ]
        said = aliquot_set(folder, "0123", "--memory", "2GiB", "--policy", "3", "--json")
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout) == {
            "key": make_slice(container.id).key,
            "name": "team/pod/main",
            "policy": "fixed",
            "group": "",
            "quiet_ms": 100,
            "floor": 0,
            "devices": [
                {
                    "uuid": "PAPER-01",
                    "cap_bytes": 2 * GIB,
                    "cores": 20,
                    "cores_max": 20,
                    "weight": 100,
                    "priority": -5,
                }
            ],
            "notes": [],
        }
        usage = folder / "run/containers" / make_slice(container.id).key / "region/usage"
        slot = Slot(usage, 0)
        slot.charge(0, GIB)
        said = aliquot_set(folder, "0123", "--memory", "512MiB")
        assert said.returncode == 0
        assert said.stderr == (
            "aliquot: team/pod/main holds 1.0 GiB of PAPER-01, above the new cap of 512.0 MiB: "
            "nothing more is given until it frees\n"
        )
        slot.die()

    over_the_socket(tmp_path, ask, [make_slice(container.id, container=container)])


def test_the_command_fails_with_one_line(tmp_path: Path) -> None:
    def ask(folder: Path) -> None:
        for arguments, status, line in (
            (("c1", "--memory", "17GiB"), 1, "c1: PAPER-01 (1, Paper 16) has 15.0 GiB of"),
            (("c1", "--cores-max", "5"), 2, "--cores-max: 5% are less than the 10%"),
            (("nobody", "--cores", "5"), 1, "no container 'nobody' has a slice"),
            (("c", "--cores", "5"), 1, "'c' may be several containers, name one: c1"),
            (("c1", "--cores", "5", "--device", "GPU-é"), 2, "'GPU-é' is none of the devices"),
        ):
            said = aliquot_set(folder, *arguments)
            assert (said.returncode, said.stdout) == (status, ""), said.stderr
            (told,) = said.stderr.splitlines()
            assert told.startswith("aliquot: ")
            assert line in told

    over_the_socket(tmp_path, ask, [make_slice("c1"), make_slice("c2")])


def test_the_command_needs_an_agent(tmp_path: Path) -> None:
    said = aliquot_set(tmp_path, "c1", "--cores", "5")
    assert said.returncode == 1
    assert said.stderr.startswith("aliquot: the agent does not answer on ")


def test_what_others_send_is_looked_at_as_what_people_write(tmp_path: Path) -> None:
    """A client of the socket need not be ours."""

    def ask(folder: Path) -> None:
        with rpc.Client(folder / "agent.sock") as client:
            for numbers in ({"cores": 300}, {"priority": -101}, {"weight": 1 << 31}):
                with pytest.raises(BadRequestError):
                    client.change(Wish("c1", numbers=numbers))
            with pytest.raises(BadRequestError, match="is not a policy"):
                client.change(Wish("c1", policy="\x1b[2J"))

    over_the_socket(tmp_path, ask, [make_slice("c1")])
