"""Admission and the life of slices: what is given, refused, held, and given back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.errors import AliquotError
from aliquot.agent.slices import Part, Request
from aliquot.shim import region

import agent_parts
from agent_desk import Desk, Story, telling, waiting_for
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    TOOLS,
    device,
    make_bundle,
    mounted_below,
    slot_held,
    some_process,
)

pytestmark = NEEDS_ROOT


@pytest.fixture
def act(tmp_path: Path) -> Iterator[Callable[[Story], None]]:
    """Runs a story at a desk of its own; nothing of it stays."""
    with telling(tmp_path) as tell:
        yield tell


# -- What is given ---------------------------------------------------------------------------------


def test_a_container_gets_a_slice_and_its_bundle_is_changed(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        names = {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-namespace": "team",
            "io.kubernetes.cri.sandbox-name": "train-0",
            "io.kubernetes.cri.container-name": "main",
        }
        bundle = desk.bundle(memory=3, **names)
        with some_process() as maker:
            await desk.create(bundle, maker.pid)
            (piece,) = desk.ledger.slices()
            assert piece.container.shown == "team/train-0/main"
            assert (piece.maker_pid, piece.init_pid) == (maker.pid, 0)
            assert [(one.uuid, one.memory_bytes) for one in piece.parts] == [("PAPER-01", 3 * GIB)]
            folder = desk.ledger.folder(piece.key)
            config = json.loads((bundle / "config.json").read_text())
            assert config["hooks"]["args"] == [str(folder), "/stat", str(desk.ledger.base)]
            assert config["env"] == {"PAPER": "PAPER-01"}
            # What containers mount is a copy that no upgrade changes.
            shim = (folder / "plan").read_text().split()[1]
            assert shim == str(desk.deposit.put(desk.folder / "libcuda.so.1"))
            assert shim.startswith(f"{desk.folder}/lib/")

    act(story)


def test_what_was_asked_of_time_is_in_the_ledger_and_the_grant(
    act: Callable[[Story], None],
) -> None:
    asked = Request(1, policy="weak", group="train", quiet_ms=7, floor=8)
    tools = dataclasses.replace(
        TOOLS,
        read=lambda *_: asked,
        place=lambda *_: (Part("PAPER-01", "paper", GIB, 20, "shim", 60, 7, -5),),
    )

    async def story(desk: Desk) -> None:
        desk.tools = tools
        await desk.create(desk.bundle())
        (piece,) = desk.ledger.slices()
        assert (piece.policy, piece.group) == ("weak", "train")
        assert (piece.quiet_ms, piece.floor, piece.native) == (7, 8, False)
        grant = (desk.ledger.region(piece.key) / "grant").read_bytes()

        def word(field: str) -> int:
            offset, size = region._word(("device", 0, field))
            signed = field == "priority"
            return int.from_bytes(grant[offset : offset + size], "little", signed=signed)

        words = [word(one) for one in ("cap", "cores_min", "cores", "weight", "priority")]
        assert words == [GIB, 20, 60, 7, -5]

    act(story)


@pytest.mark.parametrize(
    "annotations",
    [
        {"io.kubernetes.cri.container-type": "sandbox"},
        {"io.kubernetes.cri-o.ContainerType": "sandbox"},
        None,
    ],
)
def test_who_keeps_a_pod_or_asks_for_nothing_is_left_alone(
    act: Callable[[Story], None], annotations: dict[str, str] | None
) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle(memory=None if annotations is None else 1, **(annotations or {}))
        before = (bundle / "config.json").read_bytes()
        # Nothing need be known of devices for that.
        desk.known.clear()
        await desk.create(bundle)
        assert (bundle / "config.json").read_bytes() == before
        assert desk.ledger.slices() == ()

    act(story)


def test_cri_o_and_containerd_name_containers(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        names = {
            "io.kubernetes.pod.namespace": "team\n",
            "io.kubernetes.pod.name": "train-0",
            "io.kubernetes.container.name": "m" * 300,
        }
        await desk.create(desk.bundle("crio", 1, **names))
        path = desk.folder / "io.containerd.runtime.v2.task" / "k8s.io" / "ctr"
        await desk.create(make_bundle(path))
        first, second = (piece.container for piece in desk.ledger.slices())
        assert (first.namespace, first.pod, first.name) == ("team?", "train-0", "m" * 253)
        assert (second.namespace, second.pod, second.name) == ("k8s.io", "", "")

    act(story)


def test_no_memory_is_given_twice_however_many_ask_at_once(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        bundles = [desk.bundle(f"c{number}", memory=5) for number in range(12)]
        results = await asyncio.gather(
            *(desk.create(bundle) for bundle in bundles), return_exceptions=True
        )
        refused = [result for result in results if result is not None]
        assert len(refused) == 6
        assert all("no device has 5 GiB left" in str(one) for one in refused)
        held = {"PAPER-01": 0, "PAPER-02": 0}
        for piece in desk.ledger.slices():
            held[piece.parts[0].uuid] += piece.parts[0].memory_bytes
        assert held == {"PAPER-01": 15 * GIB, "PAPER-02": 15 * GIB}

    act(story)


def test_a_vendor_that_takes_its_time_keeps_nobody_else(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        go, slow = threading.Event(), desk.bundle("slow")
        desk.vendor.before = waiting_for(go)
        waiting = asyncio.create_task(desk.create(slow))
        while not desk.ledger.slices():  # noqa: ASYNC110 - nobody else tells
            await asyncio.sleep(0)
        await desk.create(desk.bundle("pause", memory=None))
        with pytest.raises(AliquotError, match="no device has 17 GiB left"):
            await desk.create(desk.bundle("big", memory=17))
        assert not waiting.done()
        go.set()
        await waiting

    act(story)


# -- What is refused -------------------------------------------------------------------------------


def _unchanged(desk: Desk, bundle: Path, before: bytes) -> bool:
    return (
        (bundle / "config.json").read_bytes() == before
        and desk.ledger.slices() == ()
        and mounted_below(desk.ledger.base) == []
        and list(desk.ledger.root.iterdir()) == []
    )


def _fail(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("step", "error", "reason"),
    [
        ("place", AliquotError("no room"), "no room"),
        ("read", AliquotError("bad\nrequest"), "bad; request"),
        ("apply", agent_parts.BundleError("no root"), "no root"),
        ("apply", OSError(28, "No space left on device", "/plan"), "/plan: No space left"),
        ("apply", TypeError("secret"), "the agent failed: see its log"),
        ("link_char_devices", PermissionError(13, "Permission denied", "/dev/char"), "/dev/char"),
        ("write", OSError(30, "Read-only file system", "/c"), "/c: Read-only file system"),
    ],
)
def test_whatever_fails_nothing_is_changed_and_one_line_says_why(
    act: Callable[[Story], None], step: str, error: Exception, reason: str
) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        before = (bundle / "config.json").read_bytes()
        changed: Any = {step: _fail(error)}
        desk.tools = dataclasses.replace(TOOLS, **changed)
        with pytest.raises(AliquotError) as raised:
            await desk.create(bundle)
        assert str(raised.value).startswith("container c1: ")
        assert reason in str(raised.value)
        assert "\n" not in str(raised.value)
        assert _unchanged(desk, bundle, before)
        desk.tools = TOOLS
        await desk.create(bundle)
        assert len(desk.ledger.slices()) == 1

    act(story)


def test_a_vendor_that_fails_is_a_refusal(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        before = (bundle / "config.json").read_bytes()
        desk.vendor.refuses = "needs"
        with pytest.raises(AliquotError, match="container c1: paper has no needs today"):
            await desk.create(bundle)
        assert _unchanged(desk, bundle, before)

    act(story)


def test_a_region_that_cannot_be_made_is_a_refusal(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        before = (bundle / "config.json").read_bytes()
        desk.vendor.devices = (dataclasses.replace(device(1), page_bytes=3),)
        with pytest.raises(AliquotError, match=r"container c1: .* cannot be made"):
            await desk.create(bundle)
        assert _unchanged(desk, bundle, before)

    act(story)


def test_an_agent_that_ends_meanwhile_takes_back_what_it_began(
    act: Callable[[Story], None],
) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        before = (bundle / "config.json").read_bytes()
        begun, go = threading.Event(), threading.Event()

        def slow(*arguments: Any, **named: Any) -> dict[str, Any]:
            begun.set()
            go.wait()
            raise agent_parts.BundleError("too late")

        desk.tools = dataclasses.replace(TOOLS, apply=slow)
        creating = asyncio.create_task(desk.create(bundle))
        await asyncio.to_thread(begun.wait)
        creating.cancel()
        await asyncio.sleep(0)
        # Its thread still works on the bundle: it is not done before that is.
        assert not creating.done()
        assert len(desk.ledger.slices()) == 1
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert _unchanged(desk, bundle, before)

    act(story)


@pytest.mark.parametrize("name", ["../c1", "a/b", "", "x" * 129])
def test_a_hostile_id_is_refused(act: Callable[[Story], None], name: str) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        with pytest.raises(AliquotError, match=r"is not a container's id|no slice|c1"):
            await desk.create(bundle, name=name or "..")
        assert desk.ledger.slices() == ()

    act(story)


def test_a_bundle_that_is_none_is_refused(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        with pytest.raises(AliquotError, match=r"container gone: .*config.json: No such file"):
            await desk.create(desk.folder / "gone")
        broken = desk.bundle("broken")
        (broken / "config.json").write_text("{")
        with pytest.raises(AliquotError, match=r"container broken: .*is not JSON"):
            await desk.create(broken)
        with pytest.raises(AliquotError, match="no absolute path"):
            await desk.create(Path("relative"))

    act(story)


def test_the_same_bundle_again_replaces_the_former_entry(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle(memory=10)
        with some_process() as first, some_process() as second:
            await desk.create(bundle, first.pid)
            # Its own try, once more.
            await desk.create(bundle, first.pid)
            assert len(desk.ledger.slices()) == 1
            # Somebody else's, while the first is at it.
            with pytest.raises(AliquotError, match=f"is there already, with process {first.pid}"):
                await desk.create(bundle, second.pid)
            assert desk.ledger.slices()[0].maker_pid == first.pid
            first.kill()
            first.wait()
            await desk.create(bundle, second.pid)
            (piece,) = desk.ledger.slices()
            assert piece.maker_pid == second.pid
            assert len(mounted_below(desk.ledger.base)) == 1

    act(story)


def test_a_container_that_runs_is_not_replaced(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        bundle = desk.bundle()
        with some_process() as init:
            await desk.create(bundle)
            (piece,) = desk.ledger.slices()
            await desk.started(piece, init.pid)
            before = desk.ledger.slices()
            with pytest.raises(AliquotError, match=f"is there already, with process {init.pid}"):
                await desk.create(bundle)
            assert desk.ledger.slices() == before

    act(story)


def test_what_a_damaged_entry_holds_is_given_to_nobody(act: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        await desk.create(desk.bundle("old", memory=10))
        (piece,) = desk.ledger.slices()
        (desk.ledger.folder(piece.key) / "slice.json").write_text("{")
        desk.vendor.devices = (device(1),)
        with slot_held(desk.ledger, piece.key):
            desk.ledger.open()
            with pytest.raises(AliquotError, match="no device has 10 GiB left"):
                await desk.create(desk.bundle("new", memory=10))
            with pytest.raises(AliquotError, match="something of it lives"):
                await desk.create(desk.folder / "bundles/old")
        await desk.create(desk.folder / "bundles/old")

    act(story)
