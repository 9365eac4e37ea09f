"""What limiter and arbiter promise, on an exact clock: shares, caps, priorities, gangs and deaths.

Containers launch kernels on a model of a device, with the published costs of launches, events and
wake-ups (tests/harness.c). The numbers are the same on every machine and in every run. Points are
hundredths of the whole device.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import time_harness
from time_harness import Run

SECOND = 1.0
FIFTH = 0.2
SHARES = {
    "10/90": (10.0, 90.0),
    "30/70": (30.0, 70.0),
    "75/25": (75.0, 25.0),
    "3x33": (100 / 3,) * 3,
    "4x25": (25.0,) * 4,
    "8": (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 22.0, 30.0),
}
KINDS = ["async", "sync", "graph", "streams"]
SHORT_US = [5, 100, 1_000, 5_000]
LONG_US = [20_000, 100_000, 500_000]
# A program alone on the device, launching 100 us kernels without end.
BUSY = "kind=async,ns=100000"


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return time_harness.build(tmp_path_factory.mktemp("harness") / "harness")


def off(run: Run, wanted: tuple[float, ...], window: float, start: float) -> float:
    """Return by how many points anybody missed his part of what all had, in the worst window."""
    shares = [run.shares(number, window, start) for number in range(len(wanted))]
    worst = 0.0
    for got in zip(*shares, strict=True):
        total = sum(got)
        worst = max(
            worst, *(abs(one - part / 100 * total) for one, part in zip(got, wanted, strict=True))
        )
    return worst


def sharers(kind: str, length_us: int, wanted: tuple[float, ...]) -> list[str]:
    return [f"kind={kind},ns={length_us * 1000},min={round(10 * part)}" for part in wanted]


# -- Shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHARES)
def test_shares_hold_within_a_point_over_a_second_and_two_over_a_fifth(
    harness: Path, name: str, kind: str
) -> None:
    wanted = SHARES[name]
    for length_us in SHORT_US:
        run = time_harness.run(harness, 6, *sharers(kind, length_us, wanted))
        # As long as a turn: within one kernel, at the beginning and at the end of the window.
        kernel = 2 * length_us / 1e6 / FIFTH * 100 if length_us > 1_000 else 0
        assert off(run, wanted, SECOND, 0.5) <= 1, length_us
        assert off(run, wanted, FIFTH, 0.5) <= max(2, kernel), length_us


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHARES)
def test_shares_of_long_kernels_hold_within_one_kernel(harness: Path, name: str, kind: str) -> None:
    wanted = SHARES[name]
    for length_us in LONG_US:
        length = length_us / 1e6
        # Until their lengths are known, long kernels are overtaken and let through; that is paid
        # back in time.
        start, window = 100 * length, max(SECOND, 20 * length)
        run = time_harness.run(harness, start + 6 * window, *sharers(kind, length_us, wanted))
        # One that is under way at the beginning, and one at the end.
        assert off(run, wanted, window, start) <= 1 + 2 * length / window * 100, length_us


@pytest.mark.parametrize("kind", KINDS)
def test_turns_are_few_and_each_costs_one_look(harness: Path, kind: str) -> None:
    for count, most in ((2, 200), (3, 210), (4, 260), (8, 300), (16, 500)):
        words = sharers(kind, 100, (100 / count,) * count)
        run = time_harness.run(harness, 5, *words)
        turns = sum(run.account(number)["turns"] for number in range(count))
        assert turns / run.end <= most, count
        assert run.said["wakeups"] <= 1.05 * turns + 20, count


@pytest.mark.parametrize("kind", ["async", "graph", "streams"])
def test_two_together_keep_97_percent_of_the_device(harness: Path, kind: str) -> None:
    # A graph takes the host 10 us: shorter ones do not fill the device.
    for length_us in SHORT_US[kind == "graph" :]:
        run = time_harness.run(harness, 5, *sharers(kind, length_us, (30, 70)))
        assert run.idle(0.5) <= 0.03 * (run.end - 0.5), length_us


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_alone_loses_nothing(harness: Path, kind: str) -> None:
    for length_us in SHORT_US:
        program = f"kind={kind},ns={length_us * 1000}"
        bare = time_harness.run(harness, 3, "alone=1", program)
        free = time_harness.run(harness, 3, program)
        # (It begins a little later: what runs at either end may be cut otherwise.)
        assert free.had(0, 0.5) == pytest.approx(bare.had(0, 0.5), abs=1e-5), length_us
        # Somebody else is on the device, and wants nothing: what runs is measured.
        measured = time_harness.run(harness, 3, program, f"{BUSY},from_ms=1000000")
        assert measured.charged(0) > 0
        assert measured.had(0, 0.5) >= 0.995 * bare.had(0, 0.5), length_us


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("procs", [2, 3, 5])
def test_several_processes_of_a_container_have_its_share_together(
    harness: Path, procs: int, kind: str
) -> None:
    # Until each has measured each of its kernels.
    start = 2
    for length_us in SHORT_US:
        words = [f"{one},procs={procs}" for one in sharers(kind, length_us, (30, 70))]
        run = time_harness.run(harness, 6, *words)
        # As long as a turn: within one kernel, at the beginning and at the end of the window.
        kernel = 2 * length_us / 1e6 * 100 if length_us > 1_000 else 0
        assert off(run, (30, 70), SECOND, start) <= 1 + kernel, length_us
        assert off(run, (30, 70), FIFTH, start) <= max(2, kernel / FIFTH), length_us
        # Those that wait for each launch may leave it idle, in particular if they are only two.
        if kind != "sync":
            assert run.idle(start) <= 0.03 * (run.end - start), length_us
        for number in (0, 1):
            assert run.charged(number) == pytest.approx(run.had(number), rel=0.01, abs=0.01)


@pytest.mark.parametrize("name", ["10/90", "75/25", "3x33", "8"])
def test_shares_of_several_processes_hold_as_those_of_one(harness: Path, name: str) -> None:
    wanted = SHARES[name]
    for kind, length_us in (("sync", 5), ("async", 100), ("async", 1_000)):
        words = [f"{one},procs=3" for one in sharers(kind, length_us, wanted)]
        run = time_harness.run(harness, 6, *words)
        assert off(run, wanted, SECOND, 2) <= 1, (kind, length_us)
        assert off(run, wanted, FIFTH, 2) <= 2, (kind, length_us)


@pytest.mark.parametrize("procs", [(1, 3), (3, 1), (5, 2)])
def test_how_many_processes_one_has_is_no_advantage(harness: Path, procs: tuple[int, int]) -> None:
    for kind, length_us in (("async", 100), ("async", 1_000), ("sync", 1_000)):
        words = [
            f"{one},procs={count}"
            for one, count in zip(sharers(kind, length_us, (30, 70)), procs, strict=True)
        ]
        run = time_harness.run(harness, 6, *words)
        assert off(run, (30, 70), SECOND, 1) <= 1, (kind, length_us)
        assert off(run, (30, 70), FIFTH, 1) <= 2, (kind, length_us)


def test_none_of_several_processes_is_starved(harness: Path) -> None:
    # Kernels that are longer than a turn: in each of them, one process has its turn.
    words = [f"{one},procs=3" for one in sharers("sync", 5_000, (30, 70))]
    run = time_harness.run(harness, 6, *words)
    # A round is about 15 ms, and three of them are a round of all.
    assert run.container(0)["worst_wait_ns"] <= 150e6


def test_what_is_spare_goes_by_weight_and_to_nobody_beyond_his_cap(harness: Path) -> None:
    run = time_harness.run(
        harness, 5, f"{BUSY},min=100,weight=100", f"{BUSY},weight=300", f"{BUSY},weight=500,max=200"
    )
    # 10 are guaranteed, 20 is a cap, and of the 70 that are left one quarter goes to the first.
    for number, wanted in enumerate((27.5, 52.5, 20)):
        assert abs(run.had(number, 0.5) / (run.end - 0.5) * 100 - wanted) <= 2.5
    assert max(run.shares(2, SECOND, 0.5)) <= 21


# -- Caps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [10, 30, 50, 80])
def test_a_cap_holds_without_an_agent(harness: Path, cap: int, kind: str) -> None:
    run = time_harness.run(harness, 5, "alone=1", f"kind={kind},ns=100000,max={10 * cap}")
    assert max(run.shares(0, SECOND, 0.5)) <= cap + 1
    assert max(run.shares(0, FIFTH, 0.5)) <= cap + 2
    # How long each takes is known less well where streams run into one another.
    assert min(run.shares(0, SECOND, 0.5)) >= cap - (3 if kind == "streams" else 1)


@pytest.mark.parametrize("procs", [2, 3, 5])
@pytest.mark.parametrize("kind", ["async", "sync", "graph"])
def test_processes_share_one_cap_and_none_is_starved(harness: Path, kind: str, procs: int) -> None:
    run = time_harness.run(harness, 10, "alone=1", f"kind={kind},ns=100000,max=300,procs={procs}")
    assert 29 <= min(run.shares(0, SECOND, 0.5)) <= max(run.shares(0, SECOND, 0.5)) <= 31
    assert run.container(0)["worst_wait_ns"] <= 50e6
    assert run.charged(0) == pytest.approx(run.had(0), rel=0.01, abs=0.01)


def test_caps_hold_beside_each_other(harness: Path) -> None:
    run = time_harness.run(harness, 5, f"{BUSY},min=300,max=300", f"{BUSY},min=300,max=300")
    for number in (0, 1):
        assert max(run.shares(number, SECOND, 0.5)) <= 31
        assert min(run.shares(number, SECOND, 0.5)) >= 29


# -- Charges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_charged_is_what_ran(harness: Path, kind: str) -> None:
    for length_us in SHORT_US:
        run = time_harness.run(harness, 5, *sharers(kind, length_us, (30, 70)))
        for number in (0, 1):
            # The least share of a window of predicted work is not charged yet when it ends.
            assert run.charged(number) <= run.had(number) * 1.01 + 0.005, length_us
            assert run.charged(number) >= run.had(number) * 0.99 - 0.01, length_us


@pytest.mark.parametrize("procs", [1, 3])
def test_nobody_is_charged_more_than_passed(harness: Path, procs: int) -> None:
    words = [f"{one},procs={procs}" for one in sharers("sync", 100, (30, 70))]
    run = time_harness.run(harness, 5, *words)
    assert run.charged(0) + run.charged(1) <= run.end
    for number in (0, 1):
        assert run.charged(number) <= run.account(number)["held_ns"] / 1e9 + 0.01


# -- Priority --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length_us", [100, 5_000])
@pytest.mark.parametrize("kind", ["async", "streams"])
def test_an_online_launch_waits_no_longer_than_what_is_under_way(
    harness: Path, kind: str, length_us: int
) -> None:
    online = "kind=sync,ns=1000000,priority=10,burst=1,pause_us=207000"
    run = time_harness.run(harness, 20, online, f"kind={kind},ns={length_us * 1000}")
    window_ns = 2_000_000
    # A wake-up of the arbiter, of the waiter, and what the host does between them.
    host_ns = 200_000
    worst = run.container(0)["worst_wait_ns"]
    assert worst <= window_ns * 1.25 + length_us * 1000 + host_ns
    assert run.account(0)["preempted"] == 0
    assert run.account(1)["preempted"] > 80


def test_an_idle_online_container_gives_way_after_its_quiet_time(harness: Path) -> None:
    online = "kind=sync,ns=1000000,priority=10,burst=20,pause_us=300000"
    run = time_harness.run(harness, 6, f"{online},quiet_us=100000", BUSY)
    # 20 ms of work, 100 ms of quiet, of each 320 ms.
    assert 0.55 <= run.had(1, 1) / (run.end - 1) <= 0.64
    run = time_harness.run(harness, 6, f"{online},quiet_us=1000000", BUSY)
    assert run.had(1, 1) == 0


def test_who_has_no_quiet_time_gives_way_at_once(harness: Path) -> None:
    online = "kind=sync,ns=200000,priority=10,burst=1,pause_us=10000,quiet_us=0"
    for busy in ([BUSY], [BUSY] * 3):
        run = time_harness.run(harness, 6, online, *busy)
        # In about 12 ms it is given the device once, and gives it back.
        low = sum(run.had(number, 1) for number in range(1, 1 + len(busy)))
        assert low / (run.end - 1) >= 0.9


@pytest.mark.parametrize("pause_us", [2_000, 5_000, 20_000])
def test_a_short_quiet_time_is_kept_as_exactly_as_a_long_one(harness: Path, pause_us: int) -> None:
    online = f"kind=sync,ns=200000,priority=10,burst=10,pause_us={pause_us}"
    at_once = time_harness.run(harness, 6, f"{online},quiet_us=0", BUSY)
    after = time_harness.run(harness, 6, f"{online},quiet_us=1000", BUSY)
    # The others have all of each pause, but for the quiet time at its begin.
    left = at_once.had(1, 1) * (pause_us - 1_000) / pause_us
    assert 0.9 * left <= after.had(1, 1) <= at_once.had(1, 1)
    # It does not matter to who is online.
    assert after.had(0, 1) >= 0.99 * at_once.had(0, 1)


def test_the_floor_is_what_others_have_below_a_higher_priority(harness: Path) -> None:
    run = time_harness.run(harness, 6, f"{BUSY},priority=10,floor=200", BUSY)
    assert off(run, (80, 20), SECOND, 0.5) <= 1


def test_without_a_floor_a_higher_priority_has_all(harness: Path) -> None:
    run = time_harness.run(harness, 3, f"{BUSY},priority=1", BUSY)
    assert run.had(1, 0.1) == 0
    assert run.idle(0.1) <= 0.005 * run.end


# -- Capacity that becomes free --------------------------------------------------------------------


def test_freed_capacity_is_in_use_within_a_millisecond(harness: Path) -> None:
    for other in (
        f"{BUSY},min=500,burst=100,pause_us=50000",
        f"{BUSY},min=500,until_ms=2000",
        "kind=sync,ns=3000000,min=500,burst=3,pause_us=20000",
    ):
        run = time_harness.run(harness, 5, other, f"{BUSY},min=500")
        assert run.said["longest_idle_ns"][0] <= 1e6, other


# -- Who comes later -------------------------------------------------------------------------------


def lost(run: Run, share: float, came: float, end: float) -> float:
    """Return the seconds that the second of two lost by ``end``, of what both had since he came."""
    both = run.had(0, came, end) + run.had(1, came, end)
    return share / 100 * both - run.had(1, came, end)


def comes(kind: str, length_us: int, depth: int, share: int, came: float) -> list[str]:
    """Return a program that has the device alone and queues what the driver takes, and another."""
    return [
        f"kind={kind},ns={length_us * 1000},min={1000 - 10 * share},depth={depth}",
        f"{BUSY},min={10 * share},joins_ms={round(came * 1000)}",
    ]


@pytest.mark.parametrize("came", [0.5, 5.0])
def test_nobody_is_owed_anything_for_having_been_alone(harness: Path, came: float) -> None:
    for share in (30, 50, 70):
        words = comes("async", 100, 20, share, came)
        run = time_harness.run(harness, came + 2, *words)
        for after in (0.1, 0.2, 0.5, 2):
            assert lost(run, share, came, came + after) <= 0.005, (share, after)


@pytest.mark.parametrize("kind", ["async", "streams"])
@pytest.mark.parametrize(
    ("length_us", "depth"),
    [(100, 1_024), (1_000, 200), (1_000, 1_024), (5_000, 200)],
    ids=["100 ms", "200 ms", "1 s", "1 s of long ones"],
)
def test_what_was_queued_before_somebody_came_is_given_back_to_him(
    harness: Path, kind: str, length_us: int, depth: int
) -> None:
    came, queued = 0.5, length_us * depth / 1e6
    lanes = 4 if kind == "streams" else 1
    for share in (30, 50, 70):
        # Beside it he has half the device; what he is short of comes from the other's part then.
        short = share / 100 * 0.1 + max(0, share / 100 - 0.5) * 2 * queued
        even = 0.1 + 2 * queued + short / (1 - share / 100)
        words = comes(kind, length_us, depth // lanes, share, came)
        run = time_harness.run(harness, came + even + 1, *words)
        assert run.had(1, came, came + 0.15) > 0, share
        assert lost(run, share, came, came + 0.1) <= share / 100 * 0.1 + 0.001, share
        assert lost(run, share, came, came + even / 2) <= short + 0.01, share
        assert lost(run, share, came, came + even + 0.5) <= 0.005 + 0.03 * queued, share


# -- Several devices -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (f"{BUSY},min=500,on=0+1", f"{BUSY},min=500,on=0+1"),
        (f"{BUSY},min=500,on=0+1", f"{BUSY},min=500,on=0", f"{BUSY},min=500,on=1"),
        (
            f"{BUSY},min=500,on=0,group=1",
            f"{BUSY},min=500,on=1,group=1",
            f"{BUSY},min=500,on=0",
            f"{BUSY},min=500,on=1",
        ),
    ],
    ids=["two gangs", "a gang and two", "a group and two"],
)
def test_who_has_several_devices_has_them_together(harness: Path, words: tuple[str, ...]) -> None:
    run = time_harness.run(harness, 6, *words)
    for device in (0, 1):
        for number in range(len(words)):
            if run.had(number, on=device):
                shares = run.shares(number, SECOND, 0.5, on=device)
                assert 48 <= min(shares) <= max(shares) <= 51
        assert run.idle(0.5, on=device) <= 0.03 * run.end


# -- Changes, ends and returns ---------------------------------------------------------------------


def test_new_terms_hold_at_once(harness: Path) -> None:
    run = time_harness.run(harness, 5, f"{BUSY},min=300,cores_at=2000:700:1000", f"{BUSY},min=300")
    assert abs(run.shares(0, FIFTH, 1.5, 1.7)[0] - 50) <= 2
    # Fifty milliseconds later.
    shares = run.shares(0, FIFTH, 2.05)
    assert 66 <= min(shares) <= max(shares) <= 72


def test_a_lower_cap_holds_at_once(harness: Path) -> None:
    run = time_harness.run(harness, 4, f"{BUSY},cores_at=2000:0:200", BUSY)
    assert max(run.shares(0, FIFTH, 2.05)) <= 22


def test_without_its_agent_each_keeps_its_own_cap_and_the_return_makes_no_jump(
    harness: Path,
) -> None:
    run = time_harness.run(
        harness,
        8,
        "agent_ends_ms=2000",
        "agent_comes_ms=5000",
        f"{BUSY},min=300,max=400",
        f"{BUSY},min=300,max=300",
    )
    # A second without a beat, and the rest of the one before it.
    for start, end in ((3.3, 5.0), (5.0, 8.0)):
        for number, cap in ((0, 40), (1, 30)):
            assert max(run.shares(number, FIFTH, start, end)) <= cap + 2
            assert min(run.shares(number, FIFTH, start, end)) >= cap - 2


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_holds_nobody_up(harness: Path, number: int) -> None:
    words = [f"{BUSY},min=300", f"{BUSY},min=300"]
    words[number] += ",kill_ms=2000"
    run = time_harness.run(harness, 4, *words)
    assert run.had(1 - number, 2.05, 4) >= 0.99 * 1.95


def test_a_stopped_process_holds_nobody_up_and_goes_on(harness: Path) -> None:
    for stopped_ms in (1_000, 20_000):
        end_ms = 2_000 + stopped_ms
        run = time_harness.run(
            harness,
            end_ms / 1000 + 4,
            f"{BUSY},min=300,stop_ms=2000,cont_ms={end_ms}",
            f"{BUSY},min=300",
        )
        assert run.had(1, 2.1, end_ms / 1000) >= 0.98 * (end_ms / 1000 - 2.1)
        # However long it was away, it owes for a moment only.
        assert run.had(0, end_ms / 1000 + 2, end_ms / 1000 + 4) >= 0.45 * 2


def test_kernels_that_wait_for_later_launches_come_to_their_end(harness: Path) -> None:
    # Now and then one of them is the last of its turn.
    spins = "kind=async,ns=130000,min=300,spin=1"
    run = time_harness.run(harness, 5, spins, f"{BUSY},min=300")
    assert run.container(0)["launches"] > 100
    assert run.account(0)["let_through"] > 0
    # While it spins it has its time, and no more.
    assert run.had(1, 0.5) >= 0.4 * (run.end - 0.5)


# -- The harness itself ----------------------------------------------------------------------------


def test_ten_minutes_are_the_same_every_time(harness: Path) -> None:
    words = ("jitter=2", f"{BUSY},min=300", "kind=sync,ns=2000000,min=700", f"{BUSY},procs=2")
    first = time_harness.run(harness, 600, *words)
    assert first.said == time_harness.run(harness, 600, *words).said
    assert off(first, (30, 70, 0), 60, 1) <= 2


def test_jitter_and_costs_of_switches_cost_no_more_than_they_take(harness: Path) -> None:
    run = time_harness.run(
        harness, 5, "jitter=2", "switch_ns=50000", *sharers("async", 100, (30, 70))
    )
    # The switches themselves are nobody's.
    assert off(run, (30, 70), SECOND, 0.5) <= 1.25
    assert run.idle(0.5) <= 0.03 * run.end
