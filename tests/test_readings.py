"""Readings: what slices hold, what nobody charged, and what each container is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aliquot.agent.devices import DeviceProcess, VendorError
from aliquot.agent.snapshot import PartReading
from aliquot.shim import region

from commands import PATIENCE_SECONDS
from reading_parts import GIB, MIB, Board, Node, cgroup_folder, device, own_cgroup, part, tenant
from slots import Slot, write_figures

DEVICES = (device(0), device(1))
ZERO, ONE = DEVICES

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="the agent is root: others may not write into grants"
)


@pytest.fixture
def board() -> Board:
    """A vendor with two devices."""
    return Board(DEVICES)


@pytest.fixture
def node(tmp_path: Path, board: Board) -> Iterator[Node]:
    """A node with that vendor."""
    made = Node(tmp_path, board)
    yield made
    made.readings._grants.close()


@pytest.fixture
def here(node: Node) -> str:
    """The cgroup of a slice `one` that this very process is in, with 4 GiB of device 0."""
    line = Path("/proc/self/cgroup").read_text().splitlines()[0]
    node.ledger.add("one", part(ZERO), cgroups=(line,))
    return line


def mine(memory_bytes: int | None, **shares: float) -> DeviceProcess:
    """This process on device 0, as a device shows it."""
    busy, memory_busy = shares.get("busy"), shares.get("memory_busy")
    return DeviceProcess(ZERO.uuid, os.getpid(), memory_bytes, busy, memory_busy)


def read(node: Node, key: str = "one") -> PartReading:
    """What is known of the first part of a slice."""
    found = {slice_.piece.key: slice_ for slice_ in node.readings.latest().slices}
    return found[key].parts[0]


def unclaimed(node: Node, key: str = "one") -> int:
    return node.ledger.grant(key).devices[0].unclaimed


# -- What slices hold ----------------------------------------------------------------------------


def test_a_slice_reads_what_its_processes_charged(node: Node) -> None:
    node.ledger.add("two", part(ONE, GIB, 20), part(ZERO, 2 * GIB, 30))
    usage = node.ledger.region("two") / "usage"
    first, second = Slot(usage, 0), Slot(usage, 1, 78, b"other")
    first.charge(0, 100 * MIB)
    second.charge(0, 20 * MIB)
    second.charge(1, 3 * MIB)
    write_figures(usage, 1, peak=7 * MIB, refusals=9)
    node.sample()
    (whole,) = node.readings.latest().slices
    one, zero = whole.parts
    assert (one.part.uuid, zero.part.uuid) == (ONE.uuid, ZERO.uuid)
    assert (one.charged_bytes, one.processes, one.memory_used_bytes) == (120 * MIB, 2, 120 * MIB)
    assert (zero.charged_bytes, zero.processes) == (3 * MIB, 1)
    assert (zero.peak_bytes, zero.refusals, zero.unseen_bytes) == (7 * MIB, 9, 0)
    assert [process.command for process in whole.processes] == ["program", "other"]
    assert whole.fault == ""
    second.die()
    node.sample()
    assert read(node, "two").charged_bytes == 100 * MIB
    first.die()


def test_a_region_whose_devices_stand_in_another_order_is_read_by_their_names(node: Node) -> None:
    piece = node.ledger.add("one", part(ZERO), part(ONE))
    node.ledger.put(replace(piece, parts=piece.parts[::-1]))
    slot = Slot(node.ledger.region("one") / "usage", 0)
    slot.charge(1, 5 * MIB)
    node.sample()
    assert (read(node).part.uuid, read(node).charged_bytes) == (ONE.uuid, 5 * MIB)
    slot.die()


def test_the_ledger_shows_before_anything_is_read(node: Node) -> None:
    assert node.readings.latest().sampled_unix is None
    node.ledger.add("one", part(ZERO, GIB, 25))
    node.ledger.add("two", part(ZERO, 2 * GIB, 30))
    snapshot = node.readings.latest()
    assert [slice_.piece.key for slice_ in snapshot.slices] == ["one", "two"]
    assert read(node).charged_bytes is None
    zero, one = snapshot.devices
    assert (zero.memory_allocated_bytes, zero.cores_allocated, zero.slices) == (3 * GIB, 55, 2)
    assert (one.memory_allocated_bytes, one.cores_allocated, one.slices) == (0, 0, 0)
    assert zero.sample.memory_used_bytes is None
    node.ledger.remove("one")
    assert node.readings.latest().devices[0].memory_allocated_bytes == 2 * GIB


def test_a_later_slice_with_the_same_key_is_another(node: Node) -> None:
    node.ledger.add("one", part(ZERO))
    slot = Slot(node.ledger.region("one") / "usage", 0)
    slot.charge(0, MIB)
    node.sample()
    node.ledger.remove("one")
    node.ledger.add("other", part(ONE))
    node.ledger.add("one", part(ONE))
    assert read(node).charged_bytes is None
    node.sample()
    assert read(node).charged_bytes == 0
    slot.die()


# -- What nobody charged -------------------------------------------------------------------------


def test_what_stands_uncharged_in_two_rounds_is_unseen_by_the_smaller(
    node: Node, board: Board, here: str
) -> None:
    slot = Slot(node.ledger.region("one") / "usage", 0, os.getpid())
    slot.charge(0, 100 * MIB)
    board.rows = [mine(180 * MIB)]
    node.sample()
    assert read(node).unseen_bytes is None
    assert unclaimed(node) == 0
    board.rows = [mine(150 * MIB)]
    node.sample()
    assert read(node).unseen_bytes == 50 * MIB
    assert read(node).memory_used_bytes == 150 * MIB
    assert unclaimed(node) == 50 * MIB
    board.rows = [mine(170 * MIB)]
    node.sample()
    assert unclaimed(node) == 50 * MIB
    board.rows = []
    node.sample()
    assert (read(node).unseen_bytes, unclaimed(node)) == (0, 0)
    slot.die()


def test_what_was_charged_between_two_looks_is_no_difference(
    node: Node, board: Board, here: str
) -> None:
    slot = Slot(node.ledger.region("one") / "usage", 0, os.getpid())
    # Each round finds memory that was taken, and charged, after the usage was first read.
    for number in range(1, 4):
        board.meanwhile = lambda number=number: slot.charge(0, number * 100 * MIB)  # type: ignore[misc]
        board.rows = [mine(number * 100 * MIB)]
        node.sample()
        assert read(node).unseen_bytes == 0
    # And what was given back after the device was asked is charged by then.
    board.meanwhile = lambda: slot.charge(0, 0)
    for _ in range(2):
        slot.charge(0, 300 * MIB)
        node.sample()
        assert read(node).unseen_bytes == 0
    assert unclaimed(node) == 0
    slot.die()


def test_what_shows_in_every_other_round_was_under_way(node: Node, board: Board, here: str) -> None:
    for number in range(6):
        board.rows = [mine(64 * MIB)] if number % 2 else []
        node.sample()
        assert not read(node).unseen_bytes
        assert unclaimed(node) == 0


def test_memory_that_a_device_cannot_tell_takes_no_claim_back(
    node: Node, board: Board, here: str
) -> None:
    board.rows = [mine(64 * MIB)]
    node.sample()
    node.sample()
    assert unclaimed(node) == 64 * MIB
    board.rows = [mine(None)]
    node.sample()
    assert (read(node).seen_bytes, read(node).unseen_bytes) == (None, None)
    assert unclaimed(node) == 64 * MIB
    board.rows = [mine(64 * MIB)]
    board.fails["processes"] = VendorError("lost")
    node.sample()
    assert read(node).unseen_bytes is None
    assert unclaimed(node) == 64 * MIB


def test_an_agent_that_starts_again_keeps_the_claim_until_it_knows(
    node: Node, board: Board, here: str
) -> None:
    board.rows = [mine(64 * MIB)]
    node.sample()
    node.sample()
    again = Node(node.config.runtime_dir, board)
    again.ledger = node.ledger
    again.sample()
    assert unclaimed(node) == 64 * MIB
    board.rows = [mine(32 * MIB)]
    again.sample()
    assert unclaimed(node) == 32 * MIB
    again.readings._grants.close()


def test_a_process_that_the_shim_does_not_know_is_counted(
    node: Node, board: Board, here: str
) -> None:
    board.rows = [mine(64 * MIB)]
    node.sample()
    assert read(node).processes == 1


# -- How busy ------------------------------------------------------------------------------------


def test_shares_of_time_are_summed_and_told_to_the_slice(
    node: Node, board: Board, here: str
) -> None:
    other = DeviceProcess(ZERO.uuid, os.getpid(), 0, 0.5, None)
    board.rows = [mine(0, busy=0.25, memory_busy=0.125), other]
    node.sample()
    (granted,) = node.ledger.grant("one").devices
    assert (granted.busy, granted.memory_busy) == (0.75, 0.125)
    assert (read(node).busy, read(node).memory_busy) == (0.75, 0.125)
    board.rows = [mine(0, busy=0.75), other]
    node.sample()
    assert read(node).busy == 1.0
    assert read(node).memory_busy is None
    assert node.ledger.grant("one").devices[0].memory_busy is None
    board.rows = []
    node.sample()
    assert (read(node).busy, node.ledger.grant("one").devices[0].busy) == (0.0, 0.0)
    board.fails["processes"] = VendorError("lost")
    node.sample()
    assert (read(node).busy, node.ledger.grant("one").devices[0].busy) == (None, None)


# -- Whose process it is -------------------------------------------------------------------------


def test_processes_belong_to_the_slice_whose_cgroup_they_run_in(node: Node, board: Board) -> None:
    folder = cgroup_folder()
    if folder is None:
        pytest.skip("no cgroup can be made on this machine")
    with contextlib.ExitStack() as stack:
        first, second, nobody = (stack.enter_context(tenant()) for _ in range(3))
        for name, process in (("first", first), ("second", second)):
            line = stack.enter_context(own_cgroup(folder, process))
            node.ledger.add(name, part(ZERO), cgroups=(line,))
        board.rows = [
            DeviceProcess(ZERO.uuid, process.pid, memory, 0.1, None)
            for process, memory in ((first, 5 * MIB), (second, 7 * MIB), (nobody, 11 * MIB))
        ]
        node.sample()
        assert [read(node, name).seen_bytes for name in ("first", "second")] == [5 * MIB, 7 * MIB]
        # The ledger was asked once for each, and is not again while nothing changes.
        assert sorted(node.ledger.asked) == sorted(p.pid for p in (first, second, nobody))
        board.rows.append(DeviceProcess(ONE.uuid, nobody.pid, MIB, 0.1, None))
        node.sample()
        assert len(node.ledger.asked) == 3
        # A new slice may have what was nobody's; what belonged to a slice stays its own.
        line = stack.enter_context(own_cgroup(folder, nobody))
        node.ledger.add("third", part(ZERO), cgroups=(line,))
        node.sample()
        assert node.ledger.asked[3:] == [nobody.pid]
        assert read(node, "third").seen_bytes == 11 * MIB
        assert read(node, "first").seen_bytes == 5 * MIB
        node.ledger.remove("first")
        node.sample()
        assert set(node.readings._slices) == {"second", "third"}
        # Who leaves its cgroup leaves the slice, whatever its pid was before.
        (folder / "cgroup.procs").write_text(f"{second.pid}\n")
        node.sample()
        assert read(node, "second").seen_bytes == 0


def test_what_is_known_of_cgroups_goes_with_their_processes(
    node: Node, board: Board, here: str
) -> None:
    board.rows = [mine(0)]
    node.sample()
    assert list(node.readings._owners.values()) == [("one", (here,))]
    board.rows = []
    node.sample()
    assert node.readings._owners == {}


def test_a_process_that_has_ended_is_nobodys(node: Node, board: Board, here: str) -> None:
    with tenant() as process:
        pass
    board.rows = [DeviceProcess(ZERO.uuid, process.pid, 7 * MIB, 0.1, None)]
    node.sample()
    assert read(node).seen_bytes == 0
    assert node.ledger.asked == []


# -- Files that are anything ---------------------------------------------------------------------


def _replaced(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


SPOILERS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "scribbled": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "missing": lambda path: path.unlink(),
    "pipe": lambda path: _replaced(path, lambda: os.mkfifo(path)),
    "link": lambda path: _replaced(path, lambda: path.symlink_to("/dev/zero")),
    "folder": lambda path: _replaced(path, path.mkdir),
}


@pytest.mark.parametrize("how", sorted(SPOILERS))
def test_a_spoilt_usage_is_told_of_its_slice_only(
    node: Node, board: Board, here: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    node.ledger.add("good", part(ZERO))
    slot = Slot(node.ledger.region("good") / "usage", 0)
    slot.charge(0, 5 * MIB)
    board.rows = [mine(64 * MIB)]
    SPOILERS[how](node.ledger.region("one") / "usage")
    for _ in range(3):
        node.sample()
    spoilt, good = node.readings.latest().slices
    assert str(node.ledger.region("one") / "usage") in spoilt.fault
    assert "\n" not in spoilt.fault
    assert (spoilt.parts[0].charged_bytes, spoilt.processes) == (None, ())
    # It is billed by what the device shows, and its claim is left as it was.
    assert spoilt.parts[0].memory_used_bytes == 64 * MIB
    assert unclaimed(node) == 0
    assert (good.fault, good.parts[0].charged_bytes) == ("", 5 * MIB)
    # Told once, not each round.
    assert len([r for r in caplog.records if spoilt.fault in r.getMessage()]) == 1
    slot.die()


def test_a_slice_that_ends_while_it_is_read_is_no_fault(
    node: Node, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good", "one"):
        node.ledger.add(name, part(ZERO))
    # Its files go first, as when a ledger takes it away in steps.
    usage = node.ledger.region("one") / "usage"
    usage.unlink()
    node.sample()
    assert [slice_.fault for slice_ in node.readings.latest().slices] == ["", ""]
    assert read(node).charged_bytes is None
    usage.symlink_to("gone")

    def end() -> None:
        node.ledger.remove("one")
        node.readings._follow()

    board.meanwhile = end
    node.sample()
    (good,) = node.readings.latest().slices
    assert (good.fault, good.parts[0].charged_bytes) == ("", 0)
    assert caplog.records == []


def test_a_grant_that_cannot_be_used_is_told_of_its_slice_only(node: Node) -> None:
    for name in ("good", "one"):
        node.ledger.add(name, part(ZERO))
    (node.ledger.region("one") / "grant").unlink()
    node.sample()
    node.sample()
    good, spoilt = node.readings.latest().slices
    assert (good.fault, good.parts[0].charged_bytes) == ("", 0)
    assert "grant cannot be used: No such file" in spoilt.fault


def test_a_usage_of_lies_is_read_within_bounds(node: Node, here: str) -> None:
    path = node.ledger.region("one") / "usage"
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * (path.stat().st_size - 16))
    slots = [Slot(path, number, 2**32 - 1) for number in range(0, 1024, 100)]
    node.sample()
    (whole,) = node.readings.latest().slices
    assert whole.fault == ""
    assert len(whole.processes) == len(slots)
    assert whole.parts[0].charged_bytes == len(slots) << 53
    for slot in slots:
        slot.die()


# -- Vendors that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [VendorError("the library is\ngone"), ZeroDivisionError("x")])
@pytest.mark.parametrize("what", ["sample", "processes", "health"])
def test_a_vendor_that_fails_leaves_the_others(
    tmp_path: Path, what: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    other = device(0, "zeta")
    bad, good = Board(DEVICES, fails={what: error}), Board((other,), "zeta")
    node = Node(tmp_path, bad, good)
    node.ledger.add("one", part(other))
    for _ in range(2):
        node.sample()
    snapshot = node.readings.latest()
    (fault,) = snapshot.faults
    assert fault.startswith("acme tells no ")
    assert "\n" not in fault
    assert len([r for r in caplog.records if fault in r.getMessage()]) == 1
    assert snapshot.devices[2].sample.memory_used_bytes == 3 * GIB
    assert read(node).unseen_bytes == 0
    # Where health cannot be told, nothing more is to be placed.
    assert set(node.unhealthy) == (set() if what != "health" else {ZERO.uuid, ONE.uuid})
    bad.fails.clear()
    node.sample()
    assert (node.readings.latest().faults, node.unhealthy) == ((), {})
    node.readings._grants.close()


def test_devices_that_fall_ill_are_named_and_get_well(node: Node, board: Board) -> None:
    board.ill[ONE.uuid] = "XID 79: it has fallen off the bus"
    node.sample()
    assert node.unhealthy == {ONE.uuid: "XID 79: it has fallen off the bus"}
    health = [one.health for one in node.readings.latest().devices]
    assert [one.healthy for one in health] == [True, False]
    board.ill.clear()
    node.sample()
    assert node.unhealthy == {}


# -- The loops -----------------------------------------------------------------------------------


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what files show and nothing tells."""

    async def look() -> None:
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[None]:
    task = asyncio.create_task(node.readings.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def open_grants(node: Node) -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the list's own descriptor is closed
        with contextlib.suppress(OSError):
            found.append(str(Path(f"/proc/self/fd/{entry}").readlink()))
    return sorted(name for name in found if str(node.config.runtime_dir) in name)


def test_every_grant_is_open_once(node: Node) -> None:
    async def story() -> None:
        node.ledger.add("one", part(ZERO))
        node.ledger.add("two", part(ZERO))
        async with running(node):
            grants = [str(node.ledger.region(name) / "grant") for name in ("one", "two")]
            await _until(
                lambda: [name for name in open_grants(node) if name.endswith("grant")] == grants
            )
            node.ledger.remove("one")
            await _until(lambda: not [name for name in open_grants(node) if "/one/" in name])
        assert open_grants(node) == []

    asyncio.run(story())


def test_a_round_that_fails_is_told_once_and_not_the_last(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.config.sample_seconds = 0.01
    rounds: list[None] = []

    def slices() -> tuple[()]:
        rounds.append(None)
        raise RuntimeError("odd")

    monkeypatch.setattr(node.ledger, "slices", slices)

    async def story() -> None:
        async with running(node):
            await _until(lambda: len(rounds) > 10)

    asyncio.run(story())
    assert len([r for r in caplog.records if "reading failed" in r.getMessage()]) == 1


def test_a_region_is_read_as_large_as_it_is(node: Node, here: str) -> None:
    """Hundreds of slices are cheap by this: no buffer is made for a look."""
    first = region._scratch.usage
    node.sample()
    assert region._scratch.usage is first
