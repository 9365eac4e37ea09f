"""The simulator carries queued work out as the driver does: order, time, capture and graphs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aliquot.sim.node import load_node
from aliquot.sim.state import create, environment

from clients import need
from exec_programs import cases, compile_program

HERE = Path(__file__).resolve().parent
PROGRAMS = (
    "exec_order",
    "exec_stream",
    "exec_copy",
    "exec_graph",
    "exec_graph_memory",
    "exec_capture",
)
SHARE = "exec_share"
RANDOM = "exec_random"

# Calls cost nothing here, so that orders are tested and not the machine's speed.
NODE = """
driver_version = 13000

[[device]]
count = 2
model = "Test device"
memory = "2GiB"
reserved = "0MiB"
page_size = "2MiB"
context = "64MiB"
pool_chunk = "32MiB"
sms = 40
compute_capability = "8.0"
nvlinks = 4
nvlink_mb_per_s = 25_000
time_slice_ns = 2_000_000
kernel_ns = 0
wave_ns = 0
"""


@dataclass
class Clients:
    """The compiled programs, and the node that they run on."""

    folder: Path
    environment: dict[str, str]

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a program; the caller waits for it."""
        return subprocess.Popen(
            [self.folder / program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )

    def run(self, program: str, *arguments: object, timeout: float = 60) -> str:
        """Run a program to its end, which must be a good one; answers its output."""
        process = self.start(program, *arguments)
        try:
            out, err = process.communicate("go\n", timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"{program} {arguments} hangs\n{out}{err}")
        assert process.returncode == 0, f"{out}{err}"
        return out


@pytest.fixture(scope="session")
def programs(
    header_folder: Callable[[str], Path],
    sim_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of the compiled programs."""
    folder = tmp_path_factory.mktemp("exec")
    for program in (*PROGRAMS, SHARE, RANDOM):
        compile_program(program, folder, header_folder("13.5"), sim_library)
    return folder


@contextmanager
def on_node(node: str, programs: Path, sim_library: Path, folder: Path) -> Iterator[Clients]:
    """The programs on a fresh node."""
    source = folder / "node.toml"
    source.write_text(node)
    state = Path("/dev/shm") / f"aliquot-exec-{os.getpid()}-{random.getrandbits(32):x}"
    state.mkdir()
    try:
        create(load_node(str(source)), state)
        yield Clients(programs, environment(state, sim_library, os.environ))
    finally:
        shutil.rmtree(state)


@pytest.fixture
def clients(programs: Path, sim_library: Path, tmp_path: Path) -> Iterator[Clients]:
    """The programs on a fresh node of two devices, on which calls cost nothing."""
    with on_node(NODE, programs, sim_library, tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("program", "case"), [(program, case) for program in PROGRAMS for case in cases(program)]
)
def test_work_is_carried_out_as_queued(clients: Clients, program: str, case: str) -> None:
    clients.run(program, case)


def test_cuda_pythons_bindings_launch_capture_and_change_graphs(clients: Clients) -> None:
    need("cuda.bindings")
    script = HERE / "exec_bindings.py"
    run = subprocess.run(
        [sys.executable, script],
        check=False,
        capture_output=True,
        text=True,
        env=clients.environment,
        timeout=120,
    )
    assert (run.stdout, run.returncode) == ("well\n", 0), run.stderr


@pytest.mark.parametrize("threads", [1, 4])
def test_random_work_ends_as_its_order_says(clients: Clients, threads: int) -> None:
    assert int(clients.run(RANDOM, "chains", 3, threads, threads)) > 0


# ---- The shared timeline -----------------------------------------------------------------------


def timeline_probe(folder: Path, *flags: str) -> Path:
    """The timeline as a program that tries it."""
    program = folder / "timeline"
    source = HERE.parent / "csrc"
    command: list[str | Path] = ["gcc", "-std=gnu11", "-g", *flags, "-I", source, "-o", program]
    command += [HERE / "timeline_probe.c", *sorted(source.glob("sim/timeline*.c")), "-lpthread"]
    subprocess.run(command, check=True)
    return program


def test_the_timeline_gives_turns_evenly_and_never_idles(tmp_path: Path) -> None:
    probe = timeline_probe(tmp_path, "-O1", "-fsanitize=address,undefined")
    subprocess.run([probe], check=True, timeout=120)


def test_the_timeline_outlives_killed_holders_of_its_lock(tmp_path: Path) -> None:
    subprocess.run([timeline_probe(tmp_path, "-O2"), "kills", "100"], check=True, timeout=120)


@pytest.mark.soak
def test_the_timeline_outlives_thousands_of_killed_holders(
    tmp_path: Path, soak_seconds: float
) -> None:
    count = max(1000, int(soak_seconds * 100))
    subprocess.run([timeline_probe(tmp_path, "-O2"), "kills", str(count)], check=True)
    print(f"{count} holders killed")


# ---- Several processes -------------------------------------------------------------------------


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a program says; the empty string at its end."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    """Let a program that said it is ready begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@contextmanager
def ready(clients: Clients, *runs: tuple[object, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start programs of exec_share and wait until all can begin."""
    processes = [clients.start(SHARE, *run) for run in runs]
    try:
        for process in processes:
            assert line_of(process) == "ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()


def test_processes_share_a_device_evenly_and_leave_none_of_it_idle(clients: Clients) -> None:
    with ready(clients, ("busy", 300, 1), ("busy", 300, 0.05), ("busy", 300, 7)) as processes:
        for process in processes:
            go(process)
        took = [float(line_of(process)) for process in processes]
    # All want it all the time, so each gets a third until the end; they start one after another.
    assert max(took) >= 850
    assert min(took) >= 500
    assert max(took) < 1500


def test_a_process_alone_gets_the_whole_device(clients: Clients) -> None:
    took = float(clients.run(SHARE, "busy", 300, 3).split()[-1])
    assert took == pytest.approx(300, abs=0.01)


def test_a_process_that_waits_for_each_kernel_gets_its_turns(clients: Clients) -> None:
    with ready(clients, ("busy", 600, 1), ("stepwise", 50, 1)) as (busy, stepwise):
        go(busy)
        go(stepwise)
        took = float(line_of(stepwise))
        # Each of its kernels waits for one slice of the other, or none.
        assert 50 <= took < 1000
        assert float(line_of(busy)) >= 600


def test_devices_are_shared_one_by_one(clients: Clients) -> None:
    other = {**clients.environment, "CUDA_VISIBLE_DEVICES": "1"}
    elsewhere = Clients(clients.folder, other)
    with (
        ready(clients, ("busy", 300, 1)) as (here,),
        ready(elsewhere, ("busy", 300, 1)) as (there,),
    ):
        go(here)
        go(there)
        assert float(line_of(here)) == pytest.approx(300, abs=0.01)
        assert float(line_of(there)) == pytest.approx(300, abs=0.01)


@pytest.mark.parametrize("kind", ["hold", "churn"])
def test_a_killed_process_gives_its_turns_up(clients: Clients, kind: str) -> None:
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    for _ in range(5):
        with ready(clients, (kind, 60_000), ("busy", 200, 1)) as (victim, busy):
            go(victim)
            time.sleep(chance.uniform(0, 0.05))  # the moment is the test
            go(busy)
            time.sleep(chance.uniform(0, 0.1))
            victim.send_signal(signal.SIGKILL)
            said = line_of(busy)
            assert said, busy.stderr and busy.stderr.read()
            assert 200 <= float(said) < 2000
    took = float(clients.run(SHARE, "busy", 100, 1).split()[-1])
    assert took == pytest.approx(100, abs=0.01)


def test_a_killed_process_keeps_its_memory_for_a_while_but_no_turns(
    programs: Path, sim_library: Path, tmp_path: Path
) -> None:
    slow = NODE + "release_delay_ns = 60_000_000_000\n"
    with on_node(slow, programs, sim_library, tmp_path) as clients:
        with ready(clients, ("hold", 60_000)) as (victim,):
            go(victim)
            assert line_of(victim) == "running"
        took = float(clients.run(SHARE, "busy", 100, 1).split()[-1])
        assert took == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("end", ["recorded", "killed"])
def test_an_event_is_waited_for_in_another_process(clients: Clients, end: str) -> None:
    exporter = clients.start(SHARE, "export_event")
    handle = line_of(exporter)
    assert line_of(exporter) == "ready"
    importer = clients.start(SHARE, "import_event", handle)
    try:
        assert line_of(importer) == "waiting"
        if end == "recorded":
            go(exporter)
        else:
            exporter.kill()
        assert line_of(importer) == "done", importer.stderr and importer.stderr.read()
    finally:
        for process in (exporter, importer):
            process.kill()
            process.communicate()


@pytest.mark.parametrize("case", ["fork_while_busy", "exit_while_busy"])
def test_a_process_may_fork_and_end_at_any_time(clients: Clients, case: str) -> None:
    assert clients.run(SHARE, case).split()[-1] == "done"


@pytest.mark.soak
def test_random_work_of_several_processes_ends_as_its_order_says(
    clients: Clients, soak_seconds: float
) -> None:
    runs = [clients.start(RANDOM, "chains", soak_seconds, seed, 4) for seed in range(3)]
    waits = 0
    for process in runs:
        out, err = process.communicate(timeout=soak_seconds + 60)
        assert process.returncode == 0, err
        waits += int(out)
    print(f"{waits} waits found the right value")


@pytest.mark.soak
def test_killed_processes_never_hold_anybody_up(clients: Clients, soak_seconds: float) -> None:
    chance = random.Random(11)  # noqa: S311
    end = time.monotonic() + soak_seconds
    killed = 0

    def churn() -> None:
        nonlocal killed
        while time.monotonic() < end:
            with ready(clients, ("churn",)) as (victim,):
                go(victim)
                time.sleep(chance.uniform(0, 0.1))
            killed += 1

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    runs = 0
    while time.monotonic() < end:
        assert float(clients.run(SHARE, "busy", 50, 0.5).split()[-1]) >= 50
        runs += 1
    for thread in threads:
        thread.join()
    print(f"{killed} killed beside {runs} that ran through")
