"""Compute time is kept to in real processes: work is paced and measured, and nothing ever hangs.

Nothing here says how long anything takes, but for one direction: work that the cap spreads over
time cannot be done sooner. Exact figures are the harness'.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aliquot.shim import region

import accelerators
import gates
import vendors
from commands import wait_for
from exec_programs import cases, compile_program
from slices import MIB
from tenants import CONTEXT
from time_places import PATIENCE_SECONDS, Place, arbitrated, node_of
from vendors import Vendor

MS = 1_000_000
CLIENT = "time_client"
WORK = "random_client"
ORDER = (
    "exec_order",
    "exec_stream",
    "exec_copy",
    "exec_graph",
    "exec_graph_memory",
    "exec_capture",
)
# These fill a stream to its last place, or with ten seconds of work that they mean to throw away.
NOT_PACED = {
    "a_full_queue_makes_its_launcher_wait",
    "a_context_that_goes_drops_what_waits_and_ends_what_runs",
    # It stops the clock for whoever reads it next, who may be the limiter's and not the engine's.
    "a_word_counts_as_written_after_what_was_queued_before_it",
}

# What a slice may be ahead of its cap, of device time: the bucket, a window, and a launch that
# nobody has measured.
AHEAD_NS = 30 * MS
# What is charged, of what ran: where the machine is so busy that programs have no processor when
# they would launch, some of what the device waits for them is charged. Exactly it is the harness'.
CHARGED_MOST = 1.5


@pytest.fixture(scope="module")
def programs(
    header_folder: Callable[[str], Path],
    sim_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of the compiled programs of CUDA's alone."""
    folder = tmp_path_factory.mktemp("time")
    for program in ORDER:
        compile_program(program, folder, header_folder("13.5"), sim_library)
    return folder


@pytest.fixture(scope="module", params=vendors.ALL, ids=str)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """Each vendor."""
    found: Vendor = request.param
    return found


@pytest.fixture(scope="module")
def client(vendor: Vendor, sim_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """time_client.c for the vendor."""
    return accelerators.compiled(vendor, tmp_path_factory.mktemp("time"), CLIENT, sim_library)


@pytest.fixture(scope="module")
def work(vendor: Vendor, sim_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """random_client.c for the vendor."""
    return accelerators.compiled(vendor, tmp_path_factory.mktemp("work"), WORK, sim_library)


@pytest.fixture(scope="module")
def ordered(vendor: Vendor, sim_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """order_client.c for the vendor."""
    return accelerators.compiled(
        vendor, tmp_path_factory.mktemp("order"), "order_client", sim_library
    )


@pytest.fixture
def place(vendor: Vendor, sim_library: Path, client: Path, tmp_path: Path) -> Iterator[Place]:
    """A place on such a node, of each vendor's."""
    with node_of(vendor, sim_library) as node:
        found = Place(vendor, node, accelerators.shim(vendor), client, tmp_path)
        yield found
        found.close()


@pytest.fixture
def cuda_place(sim_library: Path, shim_library: Path, tmp_path: Path) -> Iterator[Place]:
    """A place for programs of CUDA's alone."""
    with node_of(vendors.NVIDIA, sim_library) as node:
        found = Place(vendors.NVIDIA, node, shim_library, tmp_path, tmp_path)
        yield found
        found.close()


# ---- What is carried out stays the same ----------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "case"),
    [(program, case) for program in ORDER for case in cases(program) if case not in NOT_PACED],
)
def test_a_cap_changes_nothing_of_what_is_carried_out(
    cuda_place: Place, programs: Path, program: str, case: str
) -> None:
    place = cuda_place.make(cores=30, devices=2)
    place.start(case, program=programs / program).end()


@pytest.mark.parametrize("cores", [30, 100])
@pytest.mark.parametrize("case", cases("order_client"))
def test_whatever_vendors_it_is_work_is_carried_out_as_queued(
    place: Place, ordered: Path, case: str, cores: int
) -> None:
    place.make(cores=cores, shared=cores == 100)
    accelerators.needs(place.vendor, case)
    place.start(case, program=ordered).end()


# ---- The cap, without anybody else ---------------------------------------------------------------


def test_a_slice_alone_keeps_to_its_cap(place: Place) -> None:
    place.make(cores=30)
    client = place.start("steady", 300, 1)
    assert client.read() == "ready"
    client.go()
    wall_ns, truth_ns = int(client.end()), 300 * MS
    used = place.gate.used()
    assert truth_ns <= 0.30 * wall_ns + AHEAD_NS
    assert truth_ns / 2 <= used.device_ns <= min(CHARGED_MOST * truth_ns, wall_ns)
    assert used.waits > 0
    assert used.wait_ns > 0


def test_processes_of_a_slice_share_its_cap(place: Place) -> None:
    place.make(cores=40)
    clients = [place.start("steady", 100, 1) for _ in range(3)]
    assert [client.read() for client in clients] == ["ready"] * 3
    began = time.monotonic_ns()
    for client in clients:
        client.go()
    for client in clients:
        client.end()
    wall_ns, truth_ns = time.monotonic_ns() - began, 300 * MS
    assert truth_ns <= 0.40 * wall_ns + 3 * AHEAD_NS
    assert place.gate.used().device_ns <= wall_ns


@pytest.mark.parametrize("cores", [30, 100])
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["copies", "copies_elsewhere", "host_functions"])
def test_what_kernels_wait_for_is_not_charged(place: Place, kind: int, cores: int) -> None:
    place.make(cores=cores, shared=cores == 100)
    client = place.start("beside", kind)
    assert client.read() == "done"
    truth_ns = 26 * MS
    # What nothing was put behind is charged when it is seen to be done.
    wait_for(lambda: place.gate.used().device_ns >= truth_ns / 2, "what ran is charged")
    client.go()
    client.end()
    # They waited for four times as long, and more.
    assert place.gate.used().device_ns <= 3 * truth_ns


def test_nothing_is_measured_where_the_device_is_the_slices_own(place: Place) -> None:
    client = place.make().start("steady", 100, 0.1)
    assert client.read() == "ready"
    client.go()
    assert int(client.end()) >= 10 * MS
    used = place.gate.used()
    assert (used.device_ns, used.waits) == (0, 0)
    assert place.gate.waiting() == 0


# ---- The gate ------------------------------------------------------------------------------------


def test_a_closed_gate_holds_a_launch_until_it_is_opened(place: Place) -> None:
    place.make(shared=True)
    with place.gate.beating():
        place.gate.write(gates.CLOSED, others=1)
        client = place.start("one_launch")
        assert client.read() == "ready"
        client.go()
        wait_for(lambda: place.gate.waiting() == 1, "it waits for the gate")
        assert client.silent()
        place.gate.write(gates.TURN, turn_us=20_000)
        assert [client.read(), client.read()] == ["launched", "done"]
        assert place.gate.waiting() == 0
        client.end()
    used = place.gate.used()
    assert used.waits == 1
    assert used.let_through == 0


def test_a_closed_gate_opens_when_the_agent_dies(place: Place) -> None:
    place.make(shared=True)
    with place.gate.beating() as dead:
        place.gate.write(gates.CLOSED)
        client = place.start("one_launch")
        assert client.read() == "ready"
        client.go()
        wait_for(lambda: place.gate.waiting() == 1, "it waits for the gate")
        dead.set()
        assert [client.read(), client.read()] == ["launched", "done"]
        client.end()


def test_whoever_waits_rings_the_bell(place: Place) -> None:
    place.make(shared=True)
    bell = place.gate.usage_path.with_name("bell")
    os.mkfifo(bell)
    bell.chmod(0o622)
    listening = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
    try:
        with place.gate.beating():
            place.gate.write(gates.CLOSED)
            client = place.start("one_launch")
            assert client.read() == "ready"
            client.go()
            assert select.select([listening], [], [], PATIENCE_SECONDS)[0], "no ring"
            # Whoever listened goes, and the next ring hurts nobody.
            os.close(listening)
            listening = -1
            rings = place.gate.used().waits
            wait_for(lambda: place.gate.waiting() == 1, "it still waits")
            time.sleep(0.05)
            assert client.silent()
            assert place.gate.used().waits == rings
            place.gate.write(gates.OPEN)
            assert [client.read(), client.read()] == ["launched", "done"]
            client.end()
    finally:
        if listening >= 0:
            os.close(listening)


def test_what_is_only_recorded_waits_for_no_gate(place: Place) -> None:
    place.make(shared=True)
    with place.gate.beating():
        place.gate.write(gates.OPEN)
        client = place.start("record")
        assert client.read() == "ready"
        place.gate.write(gates.CLOSED)
        client.go()
        assert client.read() == "recorded"
        client.go()
        wait_for(lambda: place.gate.waiting() == 1, "the graph's launch waits")
        place.gate.write(gates.OPEN)
        assert client.read() == "done"
        client.end()


@pytest.mark.parametrize("case", ["write_value", "set_flag"])
def test_what_releases_others_waits_for_no_gate(place: Place, case: str) -> None:
    place.make(shared=True)
    accelerators.needs(place.vendor, case)
    with place.gate.beating():
        place.gate.write(gates.OPEN)
        client = place.start(case)
        assert client.read() == "ready"
        place.gate.write(gates.CLOSED)
        client.go()
        assert client.read() == "done"
        client.end()
    assert place.gate.used().let_through == 0


@pytest.mark.parametrize("case", ["later_launch", "fill"])
def test_a_launch_that_older_work_waits_for_is_let_through(place: Place, case: str) -> None:
    place.make(shared=True)
    accelerators.needs(place.vendor, case)
    with place.gate.beating():
        place.gate.write(gates.OPEN)
        client = place.start(case)
        assert client.read() == "ready"
        place.gate.write(gates.CLOSED)
        client.go()
        assert client.read() == "done"
        client.end()
    assert place.gate.used().let_through >= 1


# ---- Programs as they are ------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["capped", "shared"])
@pytest.mark.parametrize("case", ["coming_and_going", "forks"])
def test_streams_contexts_and_processes_come_and_go(place: Place, case: str, shared: bool) -> None:
    place.make(cores=100 if shared else 50, shared=shared)
    assert place.start(case).end().split() == ["done"]
    assert place.gate.waiting() == 0


def test_a_thread_may_hold_a_lock_while_it_waits(place: Place) -> None:
    place.make(shared=True)
    with place.gate.beating():
        place.gate.write(gates.CLOSED)
        client = place.start("threads")
        assert client.read() == "ready"
        client.go()
        wait_for(lambda: place.gate.waiting() == 1, "one waits, with the lock")
        # Turns that are too short for all of it.
        end = time.monotonic() + PATIENCE_SECONDS
        while client.silent() and time.monotonic() < end:
            place.gate.write(gates.TURN, turn_us=3_000)
            time.sleep(0.01)
            place.gate.write(gates.CLOSED, others=1)
            time.sleep(0.002)
        assert client.read() == "done"
        client.end()
    used = place.gate.used()
    assert used.waits > 0


def test_a_process_that_is_stopped_or_killed_holds_nobody_up(place: Place) -> None:
    place.make(cores=50)
    stopped, killed = place.start("endless"), place.start("endless")
    assert [stopped.read(), killed.read()] == ["on", "on"]
    stopped.process.send_signal(signal.SIGSTOP)
    killed.process.kill()
    other = place.start("steady", 50, 1)
    assert other.read() == "ready"
    other.go()
    assert int(other.end()) > 0
    stopped.process.send_signal(signal.SIGCONT)
    # It goes on, and so does somebody beside it.
    other = place.start("steady", 20, 1)
    assert other.read() == "ready"
    other.go()
    assert int(other.end()) > 0
    assert stopped.process.poll() is None


# ---- With an arbiter -----------------------------------------------------------------------------


@pytest.fixture
def two(
    vendor: Vendor, sim_library: Path, client: Path, tmp_path: Path
) -> Iterator[tuple[Place, Place]]:
    """Two slices of the same device, each with a bell."""
    with node_of(vendor, sim_library) as node:
        shim = accelerators.shim(vendor)
        found = [Place(vendor, node, shim, client, tmp_path / name) for name in ("a", "b")]
        for place in found:
            place.make(shared=True)
            folder = os.open(place.gate.usage_path.parent, os.O_RDONLY | os.O_DIRECTORY)
            region.create_bell(folder)
            os.close(folder)
        yield found[0], found[1]
        for place in found:
            place.close()


def test_two_slices_take_turns_and_are_charged_for_what_ran(two: tuple[Place, Place]) -> None:
    with arbitrated(two) as (runner, known):
        clients = [place.start("steady", 300, 1) for place in two]
        assert [client.read() for client in clients] == ["ready", "ready"]
        for client in clients:
            client.go()
        for client in clients:
            client.end()
        accounts = [runner.read(one.number, 0) for one in known]
    assert all(account.turns > 1 for account in accounts)
    for place, account in zip(two, accounts, strict=True):
        used = place.gate.used()
        assert used.waits > 0
        # What it says that it had lies within what it was given.
        assert 150 * MS <= used.device_ns <= account.held_ns + AHEAD_NS


# ---- Random work ---------------------------------------------------------------------------------


def random_work(seed: int = 1) -> tuple[object, ...]:
    """The arguments of random_client.c: steps of each of four threads."""
    return ("work", seed, 1000, 4)


def alone(vendor: Vendor, sim_library: Path, work: Path, *arguments: object) -> str:
    """What a program prints without a shim."""
    with node_of(vendor, sim_library) as node:
        run = subprocess.run(
            [work, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            env=node.environment("plain"),
            timeout=PATIENCE_SECONDS,
        )
    assert run.returncode == 0, run.stderr
    return run.stdout


SEEN: set[str] = set()


@pytest.fixture(scope="module")
def seen(vendor: Vendor, sim_library: Path, work: Path) -> str:
    """What random work sees without a shim, whosever driver it is."""
    found = alone(vendor, sim_library, work, *random_work())
    SEEN.add(found)
    assert {found} == SEEN
    return found


def test_random_work_sees_the_same_under_a_cap(place: Place, work: Path, seen: str) -> None:
    cap = CONTEXT + 96 * MIB
    place.make(cores=30, cap=cap)
    assert place.start(*random_work(), program=work).end() == seen
    used = place.gate.used()
    assert used.device_ns > 0
    assert used.waits > 0
    assert used.peak <= cap
    assert 0 < place.node.truth("time").max_used_bytes[0] <= cap


def test_random_work_sees_the_same_beside_another_container(
    two: tuple[Place, Place], work: Path, seen: str
) -> None:
    with arbitrated(two) as (runner, known):
        other = two[1].start("endless")
        assert other.read() == "on"
        assert two[0].start(*random_work(), program=work).end() == seen
        accounts = [runner.read(one.number, 0) for one in known]
        other.process.kill()
    assert all(account.turns > 1 for account in accounts)
    assert two[0].gate.used().waits > 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_random_work_of_any_seed_sees_the_same_in_two_slices(
    two: tuple[Place, Place], sim_library: Path, work: Path, soak_seconds: float
) -> None:
    end, seed = time.monotonic() + soak_seconds, 1
    with arbitrated(two):
        while time.monotonic() < end:
            seed += 1
            found = alone(two[0].vendor, sim_library, work, *random_work(seed))
            clients = [place.start(*random_work(seed), program=work) for place in two]
            assert [client.end() for client in clients] == [found] * 2, f"seed {seed}"
    print(f"{seed - 1} seeds, the same without a shim and in each of two slices")


# ---- Ends ----------------------------------------------------------------------------------------


def test_a_device_is_taken_from_the_dead_and_the_stopped(two: tuple[Place, Place]) -> None:
    with arbitrated(two):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            clients = [place.start("endless") for place in two]
            assert [client.read() for client in clients] == ["on", "on"]
            clients[0].process.send_signal(number)
            had = two[1].gate.used().device_ns
            wait_for(lambda had=had: two[1].gate.used().device_ns > had + 100 * MS, "it goes on")  # type: ignore[misc]
            clients[1].process.kill()
            clients[1].process.wait()
        clients[0].process.send_signal(signal.SIGCONT)
        had = two[0].gate.used().device_ns
        wait_for(lambda: two[0].gate.used().device_ns > had + 100 * MS, "it goes on, too")
