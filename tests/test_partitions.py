"""Partitions in the agent: made with a container, known whatever ends the agent, gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import placement
from aliquot.agent.blocking import finish
from aliquot.agent.config import Config
from aliquot.agent.devices import Device, Partition, VendorError
from aliquot.agent.errors import AliquotError
from aliquot.agent.keeper import Keeper
from aliquot.agent.ledger import Ledger
from aliquot.agent.placement import RefusedError
from aliquot.agent.sizes import parse_size
from aliquot.agent.slices import Container, Part, Request, Slice

import agent_process
from agent_node import Node, end
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    PaperVendor,
    device,
    make_bundle,
    make_slice,
    mounted_below,
    region_devices,
    swept,
)
from commands import ALIQUOT, wait_for

CONTAINER = Container("c1", "/bundles/c1", "shop", "pod", "one")


# ---- Placement -----------------------------------------------------------------------------------


def npu(index: int = 0, **changes: Any) -> Device:
    """A device of 64 GiB with two templates."""
    made = Device(
        vendor="ascend",
        index=index,
        uuid=f"NPU-{index:02}",
        uuid_bytes=bytes([index + 1]) * 16,
        model="Ascend 910B3",
        memory_bytes=64 * GIB,
        page_bytes=2 << 20,
        context_bytes=0,
        pci_address="",
        enforcement=("partition",),
        splits=True,
        shapes=((16 * GIB, 25), (32 * GIB, 50)),
    )
    return replace(made, **changes)


def place(
    request: Request, devices: Sequence[Device], *taken: Slice, config: Config | None = None
) -> tuple[Part, ...]:
    return placement.place(request, devices, taken, {}, CONTAINER, config or Config())


def asking(memory: str | None = None, cores: int | None = None, count: int | None = 1) -> Request:
    size = None if memory is None else parse_size(memory, "test")
    return Request(count=count, memory=size, cores=cores)


def held(*parts: tuple[str, int, int]) -> Slice:
    return make_slice(parts=tuple(Part(u, "ascend", m * GIB, c) for u, m, c in parts))


@pytest.mark.parametrize(
    ("memory", "cores", "gets"),
    [
        ("1GiB", None, (16, 25)),
        ("16GiB", 25, (16, 25)),
        ("16GiB", 26, (32, 50)),
        ("17GiB", None, (32, 50)),
        ("1GiB", 50, (32, 50)),
        ("25%", None, (16, 25)),
        ("50%", None, (32, 50)),
    ],
)
def test_a_slice_is_the_smallest_partition_that_holds_it(
    memory: str, cores: int | None, gets: tuple[int, int]
) -> None:
    (part,) = place(asking(memory, cores), [npu()])
    assert (part.memory_bytes, part.cores, part.cores_max) == (gets[0] * GIB, gets[1], gets[1])
    assert (part.enforcement, part.partition) == ("partition", "")


@pytest.mark.parametrize(
    ("memory", "cores"), [(None, None), ("33GiB", None), ("1GiB", 51), ("64GiB", None), (None, 100)]
)
def test_what_no_partition_holds_takes_the_whole_device(
    memory: str | None, cores: int | None
) -> None:
    (part,) = place(asking(memory, cores), [npu()])
    assert (part.memory_bytes, part.cores, part.cores_max) == (64 * GIB, 100, 100)
    assert part.enforcement == "nobody"
    taken = held(("NPU-00", 16, 25))
    with pytest.raises(RefusedError, match=r"NPU-00 .*(not free as a whole|free, 64)"):
        place(asking(memory, cores), [npu()], taken)
    (other,) = place(asking(memory, cores), [npu(), npu(1)], taken)
    assert other.uuid == "NPU-01"


def test_a_partition_takes_its_size_and_not_what_was_asked_for() -> None:
    devices = [npu()]
    taken = held(("NPU-00", 32, 50))
    place(asking("20GiB"), devices, taken)
    with pytest.raises(RefusedError, match=r"has 16.0 GiB of 64.0 GiB free, 32.0 GiB"):
        place(asking("20GiB"), devices, taken, replace(held(("NPU-00", 16, 25)), key="other"))


def test_several_devices_are_given_whole_or_not_at_all() -> None:
    devices = [npu(), npu(1)]
    with pytest.raises(RefusedError, match="can be partitioned for one device alone"):
        place(asking("1GiB", count=2), devices)
    parts = place(asking(count=2), devices)
    assert [part.enforcement for part in parts] == ["nobody"] * 2


def test_partitions_of_every_size_are_as_large_as_was_asked_for() -> None:
    free = npu(shapes=())
    (part,) = place(asking("5GiB", 30), [free])
    assert (part.memory_bytes, part.cores, part.cores_max) == (5 * GIB, 30, 30)
    # Of time as much as of memory, where nothing is said of it.
    (part,) = place(asking("16GiB"), [free])
    assert (part.memory_bytes, part.cores, part.cores_max) == (16 * GIB, 25, 25)


def test_a_partition_is_as_firm_as_a_drivers_cap() -> None:
    config = Config(require="driver")
    (part,) = place(asking("1GiB"), [npu()], config=config)
    assert part.enforcement == "partition"
    with pytest.raises(RefusedError, match="no driver that holds a memory cap"):
        place(asking("1GiB"), [npu(enforcement=("shim",), splits=False)], config=config)


def test_a_device_that_cannot_be_split_uses_what_else_there_is() -> None:
    other = npu(splits=False, enforcement=("partition", "shim"))
    (part,) = place(asking("5GiB"), [other])
    assert (part.memory_bytes, part.enforcement) == (5 * GIB, "shim")


# ---- The keeper ----------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with swept(tmp_path / "run"):
        made = Ledger(tmp_path / "run")
        made.open()
        yield made


def vendor_of(tmp_path: Path, **changes: Any) -> PaperVendor:
    devices = (device(1, "partition"), device(2, "partition"))
    return PaperVendor(devices=devices, paper=tmp_path / "paper", **changes)


async def _nothing() -> None:
    return


def keeper_of(ledger: Ledger, *vendors: Any) -> Keeper:
    return Keeper(ledger, lambda: vendors, _nothing)


def split(key_of: str = "c1", uuid: str = "PAPER-01", size: int = GIB) -> Slice:
    return make_slice(key_of, parts=(Part(uuid, "paper", size, 10, "partition", 10),))


@NEEDS_ROOT
def test_a_slice_knows_its_partition_and_what_that_really_has(
    ledger: Ledger, tmp_path: Path
) -> None:
    vendor = vendor_of(tmp_path)
    keeper = keeper_of(ledger, vendor)
    piece = split(size=GIB + 1)
    ledger.add(piece, region_devices())

    async def story() -> None:
        fresh, made = await keeper.cut(piece)
        (part,) = fresh.parts
        assert (part.partition, part.memory_bytes) == (f"p-{piece.key}", 2 * GIB)
        assert made == {"PAPER-01": vendor.partitions()[0]}
        again = Ledger(ledger.base)
        again.open()
        assert again.get(piece.key) == fresh
        await keeper.release(fresh)

    asyncio.run(story())
    assert vendor.partitions() == ()
    assert ledger.slices() == ()


@NEEDS_ROOT
@pytest.mark.parametrize("place_of_death", ["partition", "partitioned"])
def test_what_was_half_made_is_taken_back(
    ledger: Ledger, tmp_path: Path, place_of_death: str
) -> None:
    def before(what: str) -> None:
        if what == place_of_death:
            raise VendorError(f"paper tears at {what}")

    vendor = vendor_of(tmp_path, before=before)
    keeper = keeper_of(ledger, vendor)
    piece = split()
    ledger.add(piece, region_devices())

    async def story() -> None:
        with pytest.raises(VendorError, match="paper tears"):
            await keeper.cut(piece)
        await keeper.abandon(piece.key)

    asyncio.run(story())
    assert vendor.partitions() == ()
    assert ledger.slices() == ()


@NEEDS_ROOT
def test_a_partition_that_does_not_go_keeps_its_slice(ledger: Ledger, tmp_path: Path) -> None:
    vendor = vendor_of(tmp_path)
    keeper = keeper_of(ledger, vendor)
    piece = split()
    ledger.add(piece, region_devices())

    async def story() -> None:
        fresh, _ = await keeper.cut(piece)
        vendor.refuses = "release"
        with pytest.raises(AliquotError, match="its partition stays: paper has no release today"):
            await keeper.release(fresh)
        assert ledger.slices() == (fresh,)
        await keeper.abandon(piece.key)
        assert ledger.slices() == (fresh,)
        vendor.refuses = ""
        await keeper.release(fresh)
        await keeper.close()

    asyncio.run(story())
    assert ledger.slices() == ()


@NEEDS_ROOT
def test_a_device_that_does_not_tell_its_partitions_is_no_other_devices_affair(
    ledger: Ledger, tmp_path: Path
) -> None:
    vendor = vendor_of(tmp_path)
    keeper = keeper_of(ledger, vendor)
    pieces = split("c1", "PAPER-01"), split("c2", "PAPER-02")
    for piece in pieces:
        ledger.add(piece, region_devices())

    async def story() -> None:
        first, second = [(await keeper.cut(piece))[0] for piece in pieces]
        vendor.partition("PAPER-01", "gone-0123abcd", GIB, 10)
        vendor.partition("PAPER-02", "gone-4567abcd", GIB, 10)
        vendor.hide = ("PAPER-01",)
        await keeper.reclaim(vendor)
        await keeper.release(second)
        with pytest.raises(AliquotError, match="its partition stays: paper is wet"):
            await keeper.release(first)
        assert ledger.slices() == (first,)
        vendor.hide = ()
        assert {one.name for one in vendor.partitions()} == {first.key, "gone-0123abcd"}
        await keeper.reclaim(vendor)
        await keeper.release(first)
        await keeper.close()

    asyncio.run(story())
    assert vendor.partitions() == ()


@NEEDS_ROOT
def test_whoever_is_cancelled_leaves_no_partition(ledger: Ledger, tmp_path: Path) -> None:
    """The vendor's call goes on after its caller has gone, and takes back what it made."""
    entered, left = threading.Event(), threading.Event()

    def before(what: str) -> None:
        if what == "partition":
            entered.set()
            assert left.wait(60)

    vendor = vendor_of(tmp_path, before=before)
    keeper = keeper_of(ledger, vendor)
    piece = split()
    ledger.add(piece, region_devices())

    async def story() -> None:
        task = asyncio.get_running_loop().create_task(keeper.cut(piece))
        await finish(lambda: entered.wait(60))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await keeper.abandon(piece.key)

    asyncio.run(story())
    assert ledger.slices() == ()
    released = threading.Event()
    vendor.before = lambda what: released.set() if what == "release" else None
    left.set()
    assert released.wait(60)
    wait_for(lambda: vendor.partitions() == (), "the release by whoever made it")


@NEEDS_ROOT
def test_survivors_of_slices_that_are_no_more_are_taken_back_and_others_stay(
    ledger: Ledger, tmp_path: Path
) -> None:
    vendor = vendor_of(tmp_path)
    keeper = keeper_of(ledger, vendor)
    piece = split()
    ledger.add(piece, region_devices())
    vendor.partition("PAPER-01", piece.key, GIB, 10)
    vendor.partition("PAPER-02", "gone-0123abcd", GIB, 10)
    vendor._write(Partition("PAPER-02", "7", "", GIB, 10))
    asyncio.run(keeper.reclaim(vendor))
    assert {one.id for one in vendor.partitions()} == {f"p-{piece.key}", "7"}
    # Vendors from before there were partitions are asked for none.

    class Older:
        name = "older"

    older: Any = Older()
    asyncio.run(keeper.reclaim(older))
    # One that cannot tell is no reason to stop.
    vendor.refuses = "partitions"
    asyncio.run(keeper.reclaim(vendor))


# ---- The agent -----------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with swept(made.base):
        yield made
        for pid in made.running:
            end(pid)


def on_paper(node: Node) -> dict[str, str]:
    """The partitions that there are: id by name."""
    folder = node.folder / "paper"
    rows = [json.loads(p.read_text()) for p in folder.glob("[!.]*")] if folder.is_dir() else []
    return {row[2]: row[1] for row in rows}


@NEEDS_ROOT
def test_a_container_has_its_partition_from_its_start_to_its_end(node: Node) -> None:
    with node.agent("splits", "tools"):
        bundle = make_bundle(node.folder / "one", memory=3)
        assert node.start(bundle).returncode == 0
        (name,) = on_paper(node)
        config = json.loads((bundle / "config.json").read_text())
        assert config["env"]["PAPER"] == f"PAPER-01/p-{name}"
        environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)}
        shown = _run(environment, "ps", "--json")
        (part,) = shown["slices"][0]["devices"]
        assert (part["enforcement"], part["cap_bytes"]) == ("partition", 3 * GIB)
        assert (part["cores"], part["cores_max"]) == (10, 10)
        _run(environment, "set", "one", "--memory", "4GiB", "--cores", "20", "--json")
        (part,) = _run(environment, "ps", "--json")["slices"][0]["devices"]
        assert (part["cap_bytes"], part["cores"], part["cores_max"]) == (4 * GIB, 20, 20)
        node.stop(bundle, node.running[0])
        wait_for(lambda: on_paper(node) == {}, "the release of the partition")
        assert node.names() == set()


def _run(environment: dict[str, str], *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*ALIQUOT, *words], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _forked(node: Node, lines: int | None) -> Iterator[int]:
    """An agent, which may kill itself after so many lines; forked, since so many are started."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            agent_process.serve(node.base, node.lib, writing, lines, splits=True)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as ready:  # noqa: PTH123 - an open file
        assert ready.read(1) == b"r"
    try:
        yield pid
    finally:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


@NEEDS_ROOT
def test_killed_at_any_step_no_partition_is_lost(node: Node) -> None:
    with node.agent("splits"):
        assert node.start(make_bundle(node.folder / "neighbour")).returncode == 0
    created = started = made = 0
    step = 0
    while True:
        bundle = make_bundle(node.folder / f"step{step}")
        with _forked(node, step) as agent:
            result = node.start(bundle)
            created += "not created" in result.stderr
            started += result.returncode == 0
            if result.returncode == 0:
                with contextlib.suppress(OSError, AliquotError):
                    node.stop(bundle, node.running[-1])
            ended, _ = os.waitpid(agent, os.WNOHANG)
        survived = not ended and result.returncode == 0
        made += len(on_paper(node)) > 1
        with _forked(node, None):
            # Who lives has a slice and a partition; nobody else has either, sooner or later.
            for pid in node.running[1:]:
                end(pid)
                node.running.remove(pid)
            wait_for(lambda: node.names() == {"neighbour"}, f"the end of the slices of step {step}")
            assert [name[:9] for name in on_paper(node)] == ["neighbour"], step
            assert len(mounted_below(node.base)) == 1
        if survived:
            break
        step += 7
    print(f"{step} lines, {created} not created, {started} started, {made} left a partition")
    assert created
    assert started
    assert made
