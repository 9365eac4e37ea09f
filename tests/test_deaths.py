"""A dead process owes nothing, however it died, and the next one starts at once."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slices import MIB
from tenants import CONTEXT, SUCCESS, Box, Site, Slice, Tenant

CAP = 256 * MIB
REST = CAP - CONTEXT
# More than half of what the slice has beside a context: it fits once, not twice.
MOST = 160 * MIB
# The device has little more than the slice, and gives back what was a killed process' only after
# this: whoever comes next meets the driver's own out-of-memory first.
DEVICE = 320 * MIB
DELAY_NS = 100_000_000


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Slice]:
    """A slice of a device that is slow to give back."""
    with site.simulated(DEVICE, release_delay_ns=DELAY_NS) as node:
        yield site.slice(node, tmp_path, "slice", CAP)


def expect_all_to_the_next(here: Slice, site: Site) -> None:
    """A new process gets everything that the slice may hold, at its first request."""
    heir = Tenant.start(
        site.program("tenant"), here.environment(), "hold", "linear", str(REST), "0"
    )
    try:
        assert [heir.read(), heir.read(), heir.read()] == ["ready", str(SUCCESS), "holding"]
        assert here.charge() == CAP
    finally:
        heir.kill()


def expect_nothing_left(here: Slice) -> None:
    """Neither memory nor a lock."""
    here.wait_until_empty()
    assert here.charge() == 0
    assert here.locked() == []


def start_odd(here: Slice, site: Site, mode: str, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [site.program("odd_ends"), mode, str(size)],
        env=here.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    "mode", ["plain", "closed", "vfork", "clone", "exec", "chroot", "returns", "exits", "outlived"]
)
@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_an_odd_program_is_held_while_it_lives_and_owes_nothing_after(
    here: Slice, site: Site, mode: str, end: str
) -> None:
    process = start_odd(here, site, mode, MOST)
    try:
        assert read_line(process) == "ready"
        assert MOST + CONTEXT <= here.charge() <= CAP
        assert MOST + CONTEXT <= here.truth().used_bytes[0] <= CAP
        if end == "killed":
            process.kill()
        process.communicate("go\n", timeout=60)
        assert process.returncode == (-9 if end == "killed" else 0)
    finally:
        process.kill()
        process.wait()
    expect_all_to_the_next(here, site)
    expect_nothing_left(here)


def test_a_process_that_forks_before_it_initialises_shares_the_cap_with_its_child(
    here: Slice, site: Site
) -> None:
    process = start_odd(here, site, "before", 32 * MIB)
    try:
        assert [read_line(process), read_line(process)] == ["ready", "ready"]
        assert here.charge() == here.truth().used_bytes[0] == 2 * (32 * MIB + CONTEXT)
        process.communicate("go\ngo\n", timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    expect_nothing_left(here)


def test_a_child_that_outlives_an_initialised_parent_keeps_nothing_alive(
    here: Slice, site: Site
) -> None:
    process = start_odd(here, site, "after", MOST)
    try:
        assert [read_line(process), read_line(process)] == ["child", "ready"]
        assert process.wait(60) == 0
        # The child still runs, with its parent's memory mapped.
        expect_all_to_the_next(here, site)
    finally:
        process.communicate("go\n", timeout=60)
    expect_nothing_left(here)


def kill_at_random_moments(here: Slice, site: Site, kills: int, seed: int) -> None:
    """Processes are killed in the middle of all calls; then the next one gets everything."""
    dice = random.Random(seed)  # noqa: S311 - to be repeated by its seed
    for number in range(kills):
        box = Box()
        victims = [
            Tenant.start(
                site.program("tenant"),
                here.environment(),
                "storm",
                "4",
                "1",
                "1000000000",
                str(seed * 1_000_000 + number * 8 + each),
                str(32 * MIB),
                box=box,
            )
            for each in range(dice.randint(1, 2))
        ]
        try:
            for victim in victims:
                if victim.read() == "ready":
                    victim.say("go")
            # A moment that nobody chose: the kill may come anywhere.
            time.sleep(dice.uniform(0, 0.05))
        finally:
            for victim in victims:
                victim.kill()
            box.empty()
            box.close()
        expect_all_to_the_next(here, site)
    expect_nothing_left(here)


def test_processes_killed_at_random_moments_leave_nothing(here: Slice, site: Site) -> None:
    kill_at_random_moments(here, site, 60, 1)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_thousand_kills_and_more(
    here: Slice, site: Site, soak_seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    end = time.monotonic() + soak_seconds
    kills = 0
    while kills < 1000 or time.monotonic() < end:
        kill_at_random_moments(here, site, 100, 2 + kills)
        kills += 100
    with capsys.disabled():
        print(f"\n{kills} kills: nothing stayed charged, nothing locked")
