"""``aliquot set``: what a container has is changed while it runs, as a whole and for good."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.errors import AliquotError
from aliquot.agent.policies import POLICIES
from aliquot.agent.slices import Container
from aliquot.shim import region

from agent_parts import (
    GIB,
    NEEDS_ROOT,
    some_process,
)
from change_parts import (
    MIB,
    ONE,
    TWO,
    Office,
    Tell,
    acting,
    part,
    wish,
)
from slots import Slot

pytestmark = NEEDS_ROOT


@pytest.fixture
def act(tmp_path: Path) -> Callable[[Tell], None]:
    """Runs a story in an office of its own; nothing of it stays."""
    return acting(tmp_path)


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
