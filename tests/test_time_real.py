"""Real programs in real containers share devices, and nobody ever hangs.

Every program works in rounds; that each goes on is what is promised, whatever the machine does
besides. How much each gets is exact in test_time_exact.py, and measured in bench/shares.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import accelerators
import shared_node
import vendors
from nodes import NodeBed, node_bed
from shared_node import HangError, Program, Stopped, charged_ns, program, programs
from tenants import compile_c
from vendors import Vendor

ONE = {"ALIQUOT_CORES": "30"}
OTHER = {"ALIQUOT_CORES": "70"}
ONLINE = {"ALIQUOT_PRIORITY": "50", "ALIQUOT_QUIET": "0"}
SEED = 20
KILLS = 40
# A program's system calls in several turns, and the arbiter's in one.
STEPS = {"nvidia": 240}
AGENT_STEPS = {"nvidia": 12}
# What is killed is the same for every vendor but for its library's own calls.
FEWER_STEPS, FEWER_AGENT_STEPS = 60, 3
KILL_AT = "/usr/bin/kill_at"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts containers")


@pytest.fixture(scope="module")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that kills at a step."""
    return compile_c(tmp_path_factory.mktemp("share"), "kill_at", ["kill_at.c"])


@pytest.fixture(scope="module", params=vendors.ALL, ids=str)
def bed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sim_library: Path,
    kill_at: Path,
) -> Iterator[NodeBed]:
    """A node with an agent and two devices of a vendor's, and the program in its image."""
    vendor: Vendor = request.param
    folder = tmp_path_factory.mktemp("share")
    client = accelerators.compiled(vendor, folder, "share_client", sim_library)
    node = folder / "node.toml"
    node.write_text(vendor.device(count=2, memory="8GiB", nvlinks=1))
    image = {shared_node.PROGRAM: client, KILL_AT: kill_at}
    settings = {"limits.container.priority": 50}
    with node_bed(str(node), programs=image, vendor=vendor, **settings) as bed:
        yield bed


def test_two_who_want_all_of_a_device_both_go_on(bed: NodeBed) -> None:
    with programs(bed, ("one", ["load", 1], ONE), ("other", ["load", 20], OTHER)) as both:
        for each in (*both, *both):
            each.goes_on(50)
        assert all(each.ran_ns() > 0 for each in both)


def test_kernels_that_wait_for_each_other_on_two_devices_go_on_in_two_containers(
    bed: NodeBed,
) -> None:
    wish = {"ALIQUOT_DEVICES": "2", "ALIQUOT_CORES": "50"}
    each = [(name, ["meet_across_devices"], wish) for name in ("one", "other")]
    with programs(bed, *each) as both:
        for one in (*both, *both):
            one.goes_on()


def test_kernels_that_wait_for_each_other_go_on_across_containers_of_a_group(bed: NodeBed) -> None:
    # The devices: one has a member of each group, and so has the other.
    uuids = bed.uuids()
    with contextlib.ExitStack() as stack:
        both = []
        for group in ("alpha", "beta"):
            shared = bed.folder / f"rootfs/tmp/{group}"
            shared.unlink(missing_ok=True)
            for rank, uuid in enumerate(uuids):
                wish = {"ALIQUOT_CORES": "50", "ALIQUOT_GROUP": group, "ALIQUOT_UUID": uuid}
                command = ("meet_across_containers", f"/tmp/{group}", str(rank))
                both.append(stack.enter_context(program(bed, f"{group}{rank}", *command, **wish)))
        for one in both:
            one.begin()
        for one in (*both, *both):
            one.goes_on()


@pytest.mark.parametrize(
    "case", ["record", "write_value", "set_flag", "later_launch", "hold_lock", "fork_often"]
)
def test_what_only_a_program_itself_can_end_does_not_hang(bed: NodeBed, case: str) -> None:
    accelerators.needs(bed.vendor, case)
    with programs(bed, ("busy", ["load", 20], OTHER), (case, [case], ONE)) as both:
        for one in (*reversed(both), *both):
            one.goes_on(20)
    with programs(bed, ("first", [case], ONE), ("second", [case], OTHER)) as both:
        for one in (*both, *both):
            one.goes_on(20)


def test_an_online_container_goes_first_and_others_when_it_has_nothing_to_do(bed: NodeBed) -> None:
    with programs(bed, ("other", ["load", 20], {"ALIQUOT_POLICY": "best-effort"})) as (other,):
        other.goes_on()
        with programs(bed, ("online", ["online"], ONLINE)) as (online,):
            for each in (online, other, online, other):
                each.goes_on(10)
        with programs(bed, ("always", ["load", 1], ONLINE)) as (always,):
            always.goes_on(100)
            assert always.ran_ns() > 0
        other.goes_on()


def test_others_go_on_while_a_holder_is_stopped(bed: NodeBed) -> None:
    with programs(bed, ("still", ["load", 20], ONE), ("other", ["load", 20], OTHER)) as both:
        still, other = both
        dice = random.Random(SEED)  # noqa: S311 - the same each time
        gone_on = 0
        for _ in range(10):
            still.goes_on(10)
            time.sleep(dice.random() / 50)
            # The simulator has locks too, and who is stopped while it has one stops all others: it
            # does so rarely.
            with Stopped(still), contextlib.suppress(HangError):
                other.goes_on(50, patience_seconds=10.0)
                gone_on += 1
            other.goes_on(10)
        still.goes_on()
        assert gone_on >= 5


@dataclass(frozen=True)
class Nursery:
    """A container in which processes come and go."""

    one: Program

    def start(self, *command: object) -> int:
        """Start a program; returns its pid in the container."""
        return int(self.one.answer(" ".join(map(str, ("start", *command)))))

    def kill(self, pid: int) -> None:
        """End it as nobody should be ended."""
        self.one.answer(f"signal {pid} {int(signal.SIGKILL)}")
        assert self.wait(pid) == signal.SIGKILL

    def wait(self, pid: int) -> int:
        """Stay until it has ended; returns its status, a signal's number if that ended it."""
        return int(self.one.answer(f"wait {pid}"))


@pytest.fixture
def nursery(bed: NodeBed) -> Iterator[Nursery]:
    """A container with 30% of the device, in which nothing runs yet."""
    with program(bed, "nursery", "nursery", **ONE) as one:
        one.begin()
        yield Nursery(one)


def test_others_go_on_after_a_holder_or_a_waiter_is_killed_at_any_moment(
    bed: NodeBed, nursery: Nursery
) -> None:
    dice = random.Random(SEED)  # noqa: S311 - the same each time
    with programs(bed, ("other", ["load", 5], OTHER)) as (other,):
        for _ in range(KILLS):
            first = nursery.start(shared_node.PROGRAM, "load", dice.choice((1, 5, 50)))
            second = nursery.start(shared_node.PROGRAM, "load", 5)
            time.sleep(dice.random() / 10)
            nursery.kill(first)
            other.goes_on(10)
            nursery.kill(second)
        other.goes_on()


def test_others_go_on_after_one_is_killed_at_every_step(bed: NodeBed, nursery: Nursery) -> None:
    with programs(bed, ("other", ["load", 5], OTHER)) as (other,):
        for step in range(STEPS.get(bed.vendor.name, FEWER_STEPS)):
            command = (KILL_AT, step, shared_node.PROGRAM, "load", 1 + step % 3)
            assert nursery.wait(nursery.start(*command)) == 0
            other.goes_on(10)
        assert nursery.one.ran_ns() == 0


def test_all_go_on_when_the_agent_is_killed_and_when_it_is_back(bed: NodeBed) -> None:
    dice = random.Random(SEED)  # noqa: S311 - the same each time
    with programs(bed, ("one", ["load", 5], ONE), ("other", ["later_launch"], OTHER)) as both:
        for _ in range(5):
            for each in both:
                each.goes_on(20)
            time.sleep(dice.random() / 10)
            bed.agent.end(signal.SIGKILL)
            for each in (*both, *both):
                each.goes_on(20)
            bed.agent.start()


def test_all_go_on_after_the_agent_was_killed_at_every_step_of_a_turn(
    bed: NodeBed, kill_at: Path
) -> None:
    with programs(bed, ("one", ["load", 5], ONE), ("other", ["load", 1], OTHER)) as both:
        for step in range(AGENT_STEPS.get(bed.vendor.name, FEWER_AGENT_STEPS)):
            arbiter = next(
                task.name
                for task in Path(f"/proc/{bed.agent.pid}/task").iterdir()
                if (task / "comm").read_text() == "aliquot-arbiter\n"
            )
            subprocess.run([kill_at, str(step), f"-{arbiter}"], check=True, timeout=60)
            assert bed.agent.end() == -signal.SIGKILL
            for each in (*both, *both):
                each.goes_on(20)
            bed.agent.start()
        for each in (*both, *both):
            each.goes_on(20)


def test_who_is_capped_stays_below_the_cap_and_nobody_is_charged_more_than_passed(
    bed: NodeBed,
) -> None:
    cap = {"ALIQUOT_CORES": "20", "ALIQUOT_CORES_MAX": "30"}
    with programs(bed, ("capped", ["load", 10], cap)) as (capped,):
        capped.goes_on(20)
        began, before = time.monotonic_ns(), capped.ran_ns()
        charged = charged_ns(capped)
        time.sleep(2.5)
        ran = capped.ran_ns() - before
        charged = charged_ns(capped) - charged
        passed = time.monotonic_ns() - began
        capped.goes_on()
    assert 0 < ran <= 0.36 * passed
    assert 0 < charged <= passed


def test_a_container_that_comes_after_the_agent_was_killed_goes_on_with_others(
    bed: NodeBed,
) -> None:
    with programs(bed, ("one", ["load", 5], ONE)) as (one,):
        bed.agent.end(signal.SIGKILL)
        one.goes_on()
        bed.agent.start()
        with programs(bed, ("other", ["load", 5], OTHER)) as (other,):
            for each in (one, other, one, other):
                each.goes_on()
