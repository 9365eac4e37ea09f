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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aliquot.sim.state import truth

import shared_node
from nodes import NodeBed, node_bed
from shared_node import HangError, Stopped, program, programs

HERE = Path(__file__).resolve().parent
NODE = """
[[device]]
count = 2
memory = "8GiB"
context = "16MiB"
nvlinks = 12
"""
ONE = {"ALIQUOT_CORES": "30"}
OTHER = {"ALIQUOT_CORES": "70"}
SEED = 20
KILLS = 40

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts containers")


@pytest.fixture(scope="module")
def bed(
    tmp_path_factory: pytest.TempPathFactory,
    header_folder: Callable[[str], Path],
    sim_library: Path,
) -> Iterator[NodeBed]:
    """A node with an agent, and the program in its image."""
    folder = tmp_path_factory.mktemp("share")
    client = folder / "share_client"
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"),
            *("-I", header_folder("13.5"), "-o", client, HERE / "share_client.c"),
            *("-L", sim_library.parent, "-l:libcuda.so.1", "-lpthread"),
            # A library built with a sanitizer leaves its names to whoever loads it.
            "-Wl,--unresolved-symbols=ignore-in-shared-libs",
        ],
        check=True,
    )
    node = folder / "node.toml"
    node.write_text(NODE)
    with node_bed(
        str(node),
        programs={shared_node.PROGRAM: client},
        **{"limits.container.priority": 50},
    ) as bed:
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
    uuids = [device.uuid for device in truth(bed.folder / "node").devices]
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
    "case", ["capture", "write_value", "later_launch", "hold_lock", "fork_often"]
)
def test_what_only_a_program_itself_can_end_does_not_hang(bed: NodeBed, case: str) -> None:
    with programs(bed, ("busy", ["load", 20], OTHER), (case, [case], ONE)) as both:
        for one in (*reversed(both), *both):
            one.goes_on(20)
    with programs(bed, ("first", [case], ONE), ("second", [case], OTHER)) as both:
        for one in (*both, *both):
            one.goes_on(20)


def test_others_go_on_while_a_holder_is_stopped(bed: NodeBed) -> None:
    with programs(bed, ("still", ["load", 20], ONE), ("other", ["load", 20], OTHER)) as both:
        still, other = both
        dice = random.Random(SEED)
        gone_on = 0
        for _ in range(10):
            still.goes_on(10)
            time.sleep(dice.random() / 50)
            with Stopped(still):
                # The simulator has locks too, and who is stopped while it has one stops all others:
                # it does so rarely.
                with contextlib.suppress(HangError):
                    other.goes_on(50, patience_seconds=10.0)
                    gone_on += 1
            other.goes_on(10)
        still.goes_on()
        assert gone_on >= 5


def test_others_go_on_after_a_holder_or_a_waiter_is_killed(bed: NodeBed) -> None:
    dice = random.Random(SEED)
    with programs(bed, ("other", ["load", 5], OTHER)) as (other,), nursery(bed, ONE) as start:
        for _ in range(KILLS):
            kill = start("load", str(dice.choice((1, 5, 50))))
            second = start("load", "5")
            time.sleep(dice.random() / 10)
            kill()
            other.goes_on(10)
            second()
        other.goes_on()


@contextlib.contextmanager
def nursery(bed: NodeBed, wish: dict[str, str]) -> Iterator[Callable[..., Callable[[], None]]]:
    """A container in which programs are started; each answers how to kill it."""
    with program(bed, "nursery", "nursery", **wish) as one:
        one.begin()

        def start(*command: str) -> Callable[[], None]:
            pid = int(one.answer(" ".join(("start", *command))))
            return lambda: one.say(f"signal {pid} {int(signal.SIGKILL)}")

        yield start


def test_all_go_on_when_the_agent_is_killed_and_when_it_is_back(bed: NodeBed) -> None:
    dice = random.Random(SEED)
    with programs(bed, ("one", ["load", 5], ONE), ("other", ["later_launch"], OTHER)) as both:
        for _ in range(5):
            for each in both:
                each.goes_on(20)
            time.sleep(dice.random() / 10)
            bed.agent.end(signal.SIGKILL)
            for each in (*both, *both):
                each.goes_on(20)
            bed.agent.start()


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
