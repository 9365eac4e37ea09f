"""The arbiter's thread, with real files, bells and processes: who has a device, and who has not."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aliquot.shim import arbiter, region
from aliquot.shim.arbiter import Runner, Settings, Terms

from commands import PATIENCE_SECONDS, wait_for
from sharers import (
    CLOSED,
    FREE,
    LAUNCHERS,
    OBSERVERS,
    OPEN,
    TURN,
    Container,
    Gate,
    Sharer,
    compile_sharer,
)
from time_harness import ROOT

UNKNOWN = 0xFFFFFFFF
MS = 1_000_000
# What a process says of itself: that a thread waits, that it has work on the device.
WAITS, ACTIVE = 1, 1 << 10


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_sharer(tmp_path_factory.mktemp("sharer"))


@pytest.fixture
def runner() -> Iterator[Runner]:
    """An arbiter that overtakes nobody while a test lasts."""
    runner = Runner(Settings(drain_ns=10**15))
    yield runner
    runner.stop()


@pytest.fixture
def hasty() -> Iterator[Runner]:
    """An arbiter as a node has it."""
    runner = Runner()
    yield runner
    runner.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Containers of a folder."""
    made: list[Container] = []

    def one(name: str, devices: int = 1, *, bell: bool = True) -> Container:
        made.append(Container(tmp_path / name, devices, bell=bell))
        return made[-1]

    yield one
    for container in made:
        container.close()


def go_on(*containers: Container, ns: int = 20 * MS) -> None:
    """Wait until each has had so much more of its device."""
    before = [one.used_ns() for one in containers]
    for one, start in zip(containers, before, strict=True):
        wait_for(lambda one=one, start=start: one.used_ns() >= start + ns, "a turn")  # type: ignore[misc]


def test_who_is_alone_is_free_and_who_comes_makes_turns(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    first = make("first").join(runner)
    wait_for(lambda: first.gate().state == FREE, "freedom")
    second = make("second").join(runner)
    wait_for(lambda: first.gate().state == OPEN, "an open gate")
    assert second.gate().state == CLOSED
    with Sharer(program, first), Sharer(program, second):
        go_on(first, second, ns=50 * MS)
        accounts = [runner.read(one.number, 0) for one in (first, second)]
    assert all(one.turns > 1 for one in accounts)
    assert all(one.held_ns for one in accounts)
    runner.remove(second.number)
    wait_for(lambda: first.gate().state == FREE, "freedom again")


def test_no_two_have_a_device_at_once(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    containers = [make(name).join(runner) for name in ("a", "b", "c")]
    seen = set()
    with Sharer(program, *containers):
        go_on(*containers)
        for _ in range(20_000):
            # What is the same before and after was so meanwhile: each word has its own number.
            before = [one.gate() for one in containers]
            after = [one.gate() for one in containers]
            steady = [gate for gate, same in zip(before, after, strict=True) if gate == same]
            holders = [gate for gate in steady if gate.state != CLOSED]
            assert len(holders) <= 1, before
            seen |= {gate.number for gate in holders}
    # They did take turns while it was looked at.
    assert len(seen) > 10


def test_a_container_of_two_devices_gets_both_and_keeps_neither(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    both = make("both", 2).join(runner, 3, 5)
    left, right = make("left").join(runner, 3), make("right").join(runner, 5)
    with Sharer(program, both), Sharer(program, left), Sharer(program, right):
        go_on(both, left, right)
        for _ in range(5_000):
            first = both.gate(0), both.gate(1)
            gates = left.gate().state, right.gate().state
            if first == (both.gate(0), both.gate(1)) and TURN in (one.state for one in first):
                assert gates == (CLOSED, CLOSED)


def test_who_works_under_an_open_gate_is_woken_when_that_closes(
    runner: Runner, make: Callable[..., Container]
) -> None:
    one, other = make("one").join(runner), make("other").join(runner)
    for each in (one, other):
        each.take_slot()
    one.write_flow(WAITS, 1)
    one.ring()
    wait_for(lambda: one.gate().state == OPEN, "an open gate")
    # It works now, which is no news to the arbiter: it does not look, and is not rung for.
    one.write_flow(ACTIVE | (one.gate().number & 0xFFFF) << 24, 1)
    asleep: queue.SimpleQueue[int] = queue.SimpleQueue()
    with ThreadPoolExecutor() as threads:
        woken = threads.submit(
            one.sleep_on_gate, OBSERVERS, lambda: asleep.put(threading.get_native_id())
        )
        thread = asleep.get()
        state = Path(f"/proc/self/task/{thread}/wchan")
        wait_for(lambda: "futex" in state.read_text(), "a sleeper")
        other.write_flow(WAITS, 1)
        other.ring()
        assert woken.result() == 0
    assert one.gate().state == CLOSED


def test_what_opens_wakes_who_waits_to_launch_and_nobody_else(
    runner: Runner, make: Callable[..., Container]
) -> None:
    # As one: who comes alone finds the device free.
    with runner.gathering():
        one, other = make("one").join(runner), make("other").join(runner)
    for each in (one, other):
        each.take_slot()
    assert one.gate().state == CLOSED
    asleep: queue.SimpleQueue[int] = queue.SimpleQueue()
    with ThreadPoolExecutor() as threads:
        launcher, observer = (
            threads.submit(
                one.sleep_on_gate, role, lambda: asleep.put(threading.get_native_id()), seconds
            )
            for role, seconds in ((LAUNCHERS, PATIENCE_SECONDS), (OBSERVERS, 1.0))
        )
        for thread in (asleep.get(), asleep.get()):
            state = Path(f"/proc/self/task/{thread}/wchan")
            wait_for(lambda state=state: "futex" in state.read_text(), "a sleeper")  # type: ignore[misc]
        one.write_flow(WAITS, 1)
        one.ring()
        assert launcher.result() == 0
        assert observer.result() == errno.ETIMEDOUT
    assert one.gate().state == OPEN


def test_a_bell_that_rings_while_nobody_empties_it_is_heard_each_time(
    runner: Runner, make: Callable[..., Container]
) -> None:
    one, other = make("one").join(runner), make("other").join(runner)
    for each in (one, other):
        each.take_slot()
    # Each time the other one rings, too: more often than the bell is emptied.
    for rings in range(1, 100):
        for each, rest in ((one, other), (other, one)):
            rest.write_flow(0, 1)
            rest.ring()
            each.write_flow(WAITS | (rings & 0x1FFF) << 11, 1)
            each.ring()
            wait_for(lambda each=each: each.gate().state in (OPEN, TURN), "the gate")  # type: ignore[misc]


def test_a_container_without_a_bell_gets_its_turns(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    deaf, other = make("deaf", bell=False).join(runner), make("other").join(runner)
    with Sharer(program, deaf), Sharer(program, other):
        go_on(deaf, other)


def test_the_dead_hold_no_device(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    lives, dies = make("lives").join(runner), make("dies").join(runner)
    with Sharer(program, lives):
        for _ in range(5):
            with Sharer(program, dies) as victim:
                go_on(dies)
                wait_for(lambda: dies.gate().state == TURN, "a turn")
                victim.kill()
            # Nothing but the kernel's lock tells that it is dead: nobody is ever overtaken here.
            go_on(lives)
            wait_for(lambda: lives.gate().state == OPEN, "the device for itself")


def test_who_waits_and_dies_takes_no_more_turns(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    lives, dies = make("lives").join(runner), make("dies").join(runner)
    with Sharer(program, lives), Sharer(program, dies) as victim:
        go_on(lives, dies)
        wait_for(lambda: dies.gate().state == CLOSED, "the end of a turn")
        victim.kill()
        wait_for(lambda: lives.gate().state == OPEN, "the device for itself")
        turns = runner.read(dies.number, 0).turns
        go_on(lives, ns=100 * MS)
        assert runner.read(dies.number, 0).turns <= turns + 1


def test_who_does_not_let_go_is_overtaken(
    hasty: Runner, make: Callable[..., Container], program: Path
) -> None:
    stuck, other = make("stuck").join(hasty), make("other").join(hasty)
    with Sharer(program, stuck) as stopped, Sharer(program, other):

        def stop_it() -> bool:
            go_on(stuck)
            stopped.process.send_signal(signal.SIGSTOP)
            go_on(other, ns=100 * MS)
            stopped.process.send_signal(signal.SIGCONT)
            return hasty.read(stuck.number, 0).overruns > 0

        # Unless it was stopped while it had nothing on the device.
        wait_for(stop_it, "a turn without an end")
        go_on(stuck, other)


# What a tenant can do to its own files.


def _random(one: Container) -> None:
    size = region.USAGE_BYTES
    one.scribble(random.Random(7).randbytes(size), 0)  # noqa: S311 - the same each time


def _short(one: Container) -> None:
    os.truncate(one.folder / "usage", 5000)


def _empty(one: Container) -> None:
    os.truncate(one.folder / "usage", 0)


def _high_water(one: Container) -> None:
    one.scribble(b"\xff" * 4, 16)


def _always_active(one: Container) -> None:
    """All slots wait and work, with all the time in the world."""
    one.write_flow(0xFFFFFF << 40 | 1 << 10 | 1, region.MAX_SLOTS)


def _always_waiting(one: Container) -> None:
    one.write_flow(0x3FF, region.MAX_SLOTS)


HOSTILE = {
    "random": _random,
    "short": _short,
    "empty": _empty,
    "high water": _high_water,
    "active": _always_active,
    "waiting": _always_waiting,
}
# Rings without end, and owns every slot.
_RING = """
import fcntl, os, struct, sys
usage = os.open(sys.argv[1] + "/usage", os.O_RDWR)
fcntl.fcntl(usage, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1024, 0))
bell = os.open(sys.argv[1] + "/bell", os.O_WRONLY | os.O_NONBLOCK)
print("ready", flush=True)
data = bytes(int(sys.argv[2]))
while True:
    try:
        os.write(bell, data)
    except BlockingIOError:
        pass
"""


@contextlib.contextmanager
def ringing(one: Container, size: int = 1) -> Iterator[None]:
    command = [sys.executable, "-c", _RING, str(one.folder), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("rings", [False, True])
@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_container_hurts_nobody_else(
    hasty: Runner, make: Callable[..., Container], program: Path, how: str, rings: bool
) -> None:
    hostile = make("hostile").join(hasty)
    first, second = make("first").join(hasty), make("second").join(hasty)
    elsewhere = make("elsewhere").join(hasty, 1)
    also = make("also").join(hasty, 1)
    with (
        Sharer(program, first, second, elsewhere, also),
        ringing(hostile) if rings else contextlib.nullcontext(),
    ):
        go_on(first, second, elsewhere, also)
        HOSTILE[how](hostile)
        go_on(first, second, elsewhere, also, ns=50 * MS)
        # It is let go like any other.
        hasty.remove(hostile.number)
        go_on(first, second, elsewhere, also)


def test_large_rings_are_no_louder(
    hasty: Runner, make: Callable[..., Container], program: Path
) -> None:
    loud, other, third = (make(name).join(hasty) for name in ("loud", "other", "third"))
    with Sharer(program, other, third), ringing(loud, 65536):
        go_on(other, third, ns=100 * MS)
    # Once it is quiet, it is heard as before.
    with Sharer(program, loud, other):
        go_on(loud, other)


def test_containers_come_and_go_under_load(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    first, second = make("first").join(runner), make("second").join(runner)
    third = make("third", 2)
    with Sharer(program, first, second, third):
        for _ in range(100):
            third.join(runner, 0, 1)
            # It is itself again each time: no number of its gate comes back.
            before = third.gate()
            runner.remove(third.number)
            assert third.gate().number >= before.number
        go_on(first, second)
        beat = third.beat()
        go_on(first, second)
        third.join(runner, 0, 1)
        assert third.beat() > beat
        go_on(first, second, third)


def test_a_stopped_arbiter_leaves_gates_and_the_next_one_goes_on(
    make: Callable[..., Container], program: Path
) -> None:
    containers = [make(name) for name in ("a", "b")]
    with Sharer(program, *containers):
        last: list[Gate] = []
        for _ in range(5):
            runner = Runner()
            with runner.gathering():
                for one in containers:
                    one.join(runner)
            beats = [one.beat() for one in containers]
            go_on(*containers)
            wait_for(
                lambda beats=beats: all(  # type: ignore[misc]
                    one.beat() > beat for one, beat in zip(containers, beats, strict=True)
                ),
                "a beat",
            )
            gates = [one.gate() for one in containers]
            assert all(now.number > old.number for now, old in zip(gates, last, strict=False))
            runner.stop()
            last = [one.gate() for one in containers]
        assert [one.gate() for one in containers] == last


def test_a_restart_closes_nobody_who_is_alone(make: Callable[..., Container]) -> None:
    lone, idle, busy = make("lone"), make("idle"), make("busy")
    # As an arbiter before it left them: who was free, who had the device, and who had not.
    runner = Runner()
    lone.join(runner, 0)
    busy.join(runner, 1)
    wait_for(lambda: lone.gate().state == busy.gate().state == FREE, "freedom")
    idle.join(runner, 1)
    wait_for(lambda: busy.gate().state == OPEN, "an open gate")
    runner.stop()
    left = [one.gate() for one in (lone, busy, idle)]
    seen = []
    again = Runner()
    with again.gathering():
        for one, device in ((idle, 1), (busy, 1), (lone, 0)):
            one.join(again, device)
            seen.append([one.gate() for one in (lone, busy, idle)])
    wait_for(lambda: lone.gate().number > left[0].number, "a step")
    states = [[gate.state for gate in gates] for gates in seen]
    states.append([one.gate().state for one in (lone, busy, idle)])
    again.stop()
    assert states == [[FREE, OPEN, CLOSED]] * 4


def test_terms_reach_the_container_and_its_threads(
    runner: Runner, make: Callable[..., Container]
) -> None:
    one = make("one").join(runner)
    wait_for(lambda: one.gate().state == FREE, "freedom")
    number = one.gate().number
    with (one.folder / "grant").open("r+b") as grant:
        region.write_terms(grant.fileno(), 0, cores=40, cores_min=20, weight=300, priority=-5)
    assert (one.cores(), one.told()) == (40, (20, 300, -5))
    assert one.gate().number == number
    runner.change(one.number, 0, Terms(200, 400, 300, -5))
    # At once, and not only when the arbiter has decided.
    assert one.gate().number != number
    wait_for(lambda: one.gate().state in (OPEN, CLOSED), "a measured gate")


def test_terms_out_of_range_change_nothing(runner: Runner, make: Callable[..., Container]) -> None:
    one = make("one").join(runner)
    before = one.cores(), one.told()
    for wrong in (
        Terms(500, 400),
        Terms(0, 0),
        Terms(0, 1000, 0),
        Terms(0, 1000, 100, 101),
        Terms(0, 1000, group=3),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            runner.change(one.number, 0, wrong)
    for number, column in ((one.number + 1, 0), (-1, 0), (one.number, 1)):
        with pytest.raises(OSError, match="Invalid argument"):
            runner.read(number, column)
        with pytest.raises(OSError, match="Invalid argument"):
            runner.change(number, column, Terms(0, 1000))
    assert (one.cores(), one.told()) == before


def test_what_is_no_region_is_refused(
    runner: Runner, make: Callable[..., Container], tmp_path: Path
) -> None:
    one = make("one", 2)
    grant, usage = (os.open(one.folder / name, os.O_RDWR) for name in ("grant", "usage"))
    for devices in ((0,), (0, 0), (0, arbiter.MAX_DEVICES), (0, 1, 2)):
        with pytest.raises(OSError, match="Invalid argument"):
            runner.add(grant, usage, None, devices, [Terms(0, 1000)] * len(devices))
    other = tmp_path / "other"
    other.write_bytes(bytes(10000))
    fd = os.open(other, os.O_RDWR)
    with pytest.raises(OSError, match="Invalid argument"):
        runner.add(fd, fd, None, [0], [Terms(0, 1000)])
    for opened in (grant, usage, fd):
        os.close(opened)
    # Nothing of it stays: whoever comes next has the device alone.
    one.join(runner)
    wait_for(lambda: one.gate().state == FREE, "freedom")


def test_figures_for_people_are_those_of_the_account(
    runner: Runner, make: Callable[..., Container], program: Path
) -> None:
    first, second = make("first"), make("second")
    assert first.figures() == (UNKNOWN, UNKNOWN)
    first.join(runner)
    second.join(runner)
    with Sharer(program, first, second):
        wait_for(lambda: 0 < first.figures()[1] <= 1000 and first.figures()[0] <= 1000, "figures")
        account = runner.read(first.number, 0)
    assert account.wanted is not None
    assert account.received is not None
    assert 0 < account.received <= account.wanted
    # Of who is alone nobody knows: it is not measured.
    runner.remove(second.number)
    wait_for(lambda: first.figures() == (UNKNOWN, UNKNOWN), "no figures")
    assert runner.read(first.number, 0).received is None


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_whatever_comes_and_goes_the_thread_serves(tmp_path: Path, sanitizer: str) -> None:
    program = tmp_path / "stress"
    sources = [ROOT / "tests/runner_stress.c", ROOT / "csrc/region/region.c"]
    sources += sorted((ROOT / "csrc/arbiter").glob("*.c"))
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}"]
    command += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-o", str(program)]
    subprocess.run([*command, *map(str, sources), "-lpthread"], check=True)
    folder = tmp_path / "regions"
    folder.mkdir()
    done = subprocess.run(
        [program, folder, "3"],
        capture_output=True,
        text=True,
        timeout=200,
        env={"TSAN_OPTIONS": "halt_on_error=1"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_whatever_containers_write_one_that_keeps_to_the_rules_has_its_part(tmp_path: Path) -> None:
    program = tmp_path / "fuzz"
    sources = [ROOT / "tests/look_fuzz.c", ROOT / "csrc/region/region.c"]
    sources += [
        ROOT / f"csrc/arbiter/{name}.c"
        for name in ("arbiter", "gates", "look", "seen", "shares", "step")
    ]
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", str(program)]
    subprocess.run([*command, *map(str, sources)], check=True)
    done = subprocess.run(
        [program, "1", "10"], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    # What others say that they have under way is believed once, and paid for.
    assert int(done.stdout) >= 700


def test_a_stopped_arbiter_answers_nothing(make: Callable[..., Container]) -> None:
    runner = Runner()
    one = make("one").join(runner)
    runner.stop()
    runner.stop()
    with pytest.raises(ValueError, match="stopped"):
        runner.read(one.number, 0)


def test_an_arbiter_gives_back_all_that_it_took(make: Callable[..., Container]) -> None:
    one = make("one", 2)

    def story() -> None:
        runner = Runner()
        for _ in range(3):
            one.join(runner)
            runner.remove(one.number)
        one.join(runner)
        runner.stop()

    story()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is wanted
    story()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above
    maps = Path("/proc/self/maps").read_text()
    assert str(one.folder) not in maps
    assert "aliquot-arbiter" not in {
        Path(f"/proc/self/task/{task}/comm").read_text().strip()
        for task in os.listdir("/proc/self/task")  # noqa: PTH208 - as above
    }


def test_the_thread_takes_no_signals() -> None:
    before = set(Path("/proc/self/task").iterdir())
    runner = Runner()
    (task,) = set(Path("/proc/self/task").iterdir()) - before
    lines = dict(line.split(":\t") for line in (task / "status").read_text().splitlines())
    runner.stop()
    blocked = int(lines["SigBlk"], 16)
    # Nobody can block two of them.
    ours = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    assert [number for number in ours if not blocked >> (number - 1) & 1] == []
