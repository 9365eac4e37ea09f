"""The simulator's books under random use, threads, processes and kills."""

# ruff: noqa: D102 - a rule is named after the call that it makes

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from sim_node import MIB, PAGE, SMALL_NODE, NodeUnderTest, Process, node_of

HERE = Path(__file__).resolve().parent
CONTEXT = 8 * MIB
OUT_OF_MEMORY = 2
RESERVED = 5


@pytest.fixture(scope="session")
def stress(
    tmp_path_factory: pytest.TempPathFactory, header_folder: Callable[[str], Path]
) -> Callable[[Path], Path]:
    """Compile the random client against a driver library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    header = header_folder("13.5")

    def build(library: Path) -> Path:
        program = tmp_path_factory.mktemp("stress") / "sim_stress"
        subprocess.run(
            [
                *(compiler, "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
                *("-isystem", header, HERE / "sim_stress.c", "-o", program),
                *(library, "-lpthread"),
            ],
            check=True,
        )
        return program

    return build


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(SMALL_NODE, sim_library) as made:
        yield made


# ---- A machine that knows what is held -----------------------------------------------------------


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Books(RuleBasedStateMachine):
    """Two processes on one device; what they hold is known, and the truth must say the same."""

    library: Path
    linear: Bundle[Any] = Bundle("linear")
    pooled: Bundle[Any] = Bundle("pooled")
    handles: Bundle[Any] = Bundle("handles")
    mappings: Bundle[Any] = Bundle("mappings")
    opened: Bundle[Any] = Bundle("opened")
    arrays: Bundle[Any] = Bundle("arrays")

    def __init__(self) -> None:
        super().__init__()
        self.manager = node_of(SMALL_NODE, self.library)
        self.node = self.manager.__enter__()
        self.processes = [self.node.process(), self.node.process()]
        # Small pages by tenants, whole pages, physical memory: by process.
        self.tenants: list[dict[int, int]] = [{}, {}]
        self.whole = [0, 0]
        self.pools: list[int] = []

    def teardown(self) -> None:
        self.manager.__exit__(None, None, None)

    @initialize()
    def make_pools(self) -> None:
        self.pools = [process.ok("default_pool") for process in self.processes]

    def _get(self, who: int, size: int, name: str, *arguments: Any) -> Any:
        """Make a call that may only be refused when there are too few pages."""
        result, value = self.processes[who].call(name, *arguments)
        if result:
            assert result == OUT_OF_MEMORY
            assert self._free() < size
            return None
        return value

    def _free(self) -> int:
        return self.node.truth().devices[0].free_bytes

    # Linear memory.

    @rule(
        target=linear,
        who=st.integers(0, 1),
        size=st.one_of(st.integers(1, 5000), st.integers(1, MIB), st.integers(MIB, 300 * MIB)),
        managed=st.booleans(),
    )
    def alloc(self, who: int, size: int, managed: bool) -> Any:
        name = "managed" if managed else "alloc"
        pointer = self._get(who, _pages(size), name, size)
        if pointer is None:
            return multiple()
        if size > MIB:
            self.whole[who] += _pages(size)
        else:
            tenants = self.tenants[who]
            tenants[pointer >> 21] = tenants.get(pointer >> 21, 0) + 1
        return who, pointer, size, managed

    @rule(item=consumes(linear))
    def free(self, item: Any) -> None:
        who, pointer, size, _ = item
        self.processes[who].ok("free", pointer)
        assert self.processes[who].result("free", pointer) == 1
        if size > MIB:
            self.whole[who] -= _pages(size)
        else:
            self.tenants[who][pointer >> 21] -= 1

    @rule(item=linear, at=st.floats(0, 1))
    def write(self, item: Any, at: float) -> None:
        who, pointer, size, _ = item
        place = pointer + int(at * max(size - 4, 0))
        if size >= 4:
            self.processes[who].ok("write", place, "mark")
            assert self.processes[who].ok("read", place, 4) == "mark"

    # Pools.

    @rule(
        target=pooled,
        who=st.integers(0, 1),
        size=st.one_of(st.integers(1, MIB), st.integers(MIB, 200 * MIB)),
    )
    def alloc_async(self, who: int, size: int) -> Any:
        pointer = self._get(who, _pages(size), "alloc_async", size)
        return multiple() if pointer is None else (who, pointer)

    @rule(item=consumes(pooled), now=st.booleans())
    def free_async(self, item: Any, now: bool) -> None:
        who, pointer = item
        self.processes[who].ok("free" if now else "free_async", pointer)

    @rule(who=st.integers(0, 1))
    def synchronise(self, who: int) -> None:
        self.processes[who].ok("sync")

    # Physical memory.

    @rule(target=handles, who=st.integers(0, 1), pages=st.integers(1, 60))
    def create(self, who: int, pages: int) -> Any:
        handle = self._get(who, pages * PAGE, "create", pages * PAGE)
        if handle is None:
            return multiple()
        self.whole[who] += pages * PAGE
        return who, handle, pages * PAGE

    @rule(item=consumes(handles))
    def release(self, item: Any) -> None:
        who, handle, size = item
        self.processes[who].ok("release", handle)
        self.whole[who] -= size

    @rule(target=mappings, item=consumes(handles))
    def map(self, item: Any) -> Any:
        who, handle, size = item
        process = self.processes[who]
        addresses = process.ok("reserve", size)
        process.ok("map", addresses, size, handle)
        process.ok("access", addresses, size)
        process.ok("release", handle)
        process.ok("write", addresses + size - 4, "end!")
        return who, addresses, size

    @rule(item=consumes(mappings))
    def unmap(self, item: Any) -> None:
        who, addresses, size = item
        process = self.processes[who]
        assert process.ok("read", addresses + size - 4, 4) == "end!"
        process.ok("unmap", addresses, size)
        process.ok("unreserve", addresses, size)
        self.whole[who] -= size

    # Arrays.

    @rule(
        target=arrays,
        who=st.integers(0, 1),
        width=st.integers(1, 3000),
        height=st.integers(0, 3000),
    )
    def array(self, who: int, width: int, height: int) -> Any:
        rows = -(-height // 8) * 8 if height else 1
        size = _pages(-(-width * 4 // 64) * 64 * rows)
        array = self._get(who, size, "array", width, height, 0)
        if array is None:
            return multiple()
        self.whole[who] += size
        return who, array, size

    @rule(item=consumes(arrays))
    def destroy(self, item: Any) -> None:
        who, array, size = item
        self.processes[who].ok("raw", "cuArrayDestroy", array)
        self.whole[who] -= size

    # The other process's memory: nothing is held by it while the owner lives.

    @rule(target=opened, item=linear)
    def open(self, item: Any) -> Any:
        who, pointer, _, managed = item
        result, handle = self.processes[who].call("ipc", pointer)
        if managed:
            assert result == 1
            return multiple()
        assert result == 0
        return 1 - who, self.processes[1 - who].ok("open", handle)

    @rule(item=consumes(opened))
    def shut(self, item: Any) -> None:
        who, pointer = item
        self.processes[who].ok("shut", pointer)

    # What must hold.

    @invariant()
    def the_truth_is_what_is_held(self) -> None:
        if not self.pools:
            return
        truth = self.node.truth()
        used = 0
        shared = 0
        for who, process in enumerate(self.processes):
            small = sum(1 for count in self.tenants[who].values() if count) * PAGE
            reserved = process.ok("pool_get", self.pools[who], RESERVED)
            expected = CONTEXT + small + self.whole[who] + reserved
            held = truth.group(process.group).used_bytes[0]
            used += held
            # What the owner freed while it was open elsewhere is the importer's until it is shut.
            assert held >= expected
            shared += held - expected
        assert truth.devices[0].free_bytes == 1024 * MIB - used
        if not self._open_elsewhere():
            assert shared == 0

    def _open_elsewhere(self) -> bool:
        return bool(self.bundle("opened"))


def test_the_books_are_right_whatever_is_called(sim_library: Path) -> None:
    Books.library = sim_library
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=25,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.soak
def test_the_books_are_right_for_long(sim_library: Path, soak_seconds: float) -> None:
    Books.library = sim_library
    end, runs = time.monotonic() + soak_seconds, 0
    while time.monotonic() < end:
        run_state_machine_as_test(
            Books,
            settings=settings(
                max_examples=20,
                stateful_step_count=200,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runs += 20
    print(f"{runs} runs of up to 200 steps")


# ---- Threads, processes, kills -------------------------------------------------------------------


def _start(node: NodeUnderTest, program: Path, *arguments: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**node.environment(), "ALIQUOT_SIM_GROUP": "stress"},
    )


def _is_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"


def test_threads_of_many_processes_leave_nothing_behind(
    node: NodeUnderTest, sim_library: Path, stress: Callable[[Path], Path]
) -> None:
    program = stress(sim_library)
    processes = [_start(node, program, seed, 8, 4) for seed in range(8)]
    for process in processes:
        with process:
            _is_up(process)
            assert process.stdout is not None
            assert process.stdout.read().startswith("refused ")
        assert process.returncode == 0
    truth = node.truth()
    assert truth.devices[0].free_bytes == 1024 * MIB
    assert truth.group("stress").used_bytes == (0,)
    assert truth.group("stress").max_used_bytes[0] > 900 * MIB


def _kill_at_random(node: NodeUnderTest, program: Path, kills: int) -> None:
    chance = random.Random(kills)  # noqa: S311 - it need only be the same at each run
    processes = [_start(node, program, seed, 3, 0) for seed in range(3)]
    try:
        for process in processes:
            _is_up(process)
        for kill in range(kills):
            victim = chance.randrange(len(processes))
            time.sleep(chance.uniform(0, 0.02))
            with processes[victim] as process:
                process.kill()
            processes[victim] = _start(node, program, 100 + kill, 3, 0)
            if kill % 4 == 0:
                _is_up(processes[victim])
    finally:
        for process in processes:
            with process:
                process.kill()
    truth = node.truth()
    assert truth.devices[0].free_bytes == 1024 * MIB
    assert truth.group("stress").used_bytes == (0,)
    assert truth.processes == ()


def test_killed_processes_leave_nothing_held_and_nothing_locked(
    node: NodeUnderTest, sim_library: Path, stress: Callable[[Path], Path]
) -> None:
    _kill_at_random(node, stress(sim_library), 100)


@pytest.mark.soak
def test_a_thousand_kills_leave_nothing(
    node: NodeUnderTest, sim_library: Path, stress: Callable[[Path], Path]
) -> None:
    _kill_at_random(node, stress(sim_library), 1000)
    print("1000 kills")


# ---- Sharing, and kills of those who share -------------------------------------------------------


def test_shared_memory_survives_any_order_of_ends(sim_library: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - as above
    with node_of(SMALL_NODE, sim_library) as node:
        for _ in range(12):
            processes: list[Process] = [node.process() for _ in range(3)]
            handles = []
            for process in processes:
                pointer = process.ok("alloc", chance.choice([1000, 3 * MIB, 7 * MIB]))
                process.ok("write", pointer, f"{process.pid:9}")
                handles.append(process.ok("ipc", pointer))
            opened = {
                (reader, writer): reader.ok("open", handle)
                for reader in processes
                for writer, handle in zip(processes, handles, strict=True)
                if reader is not writer
            }
            chance.shuffle(processes)
            for number, victim in enumerate(processes):
                victim.kill()
                for reader in processes[number + 1 :]:
                    for writer in processes:
                        if writer is not reader:
                            place = opened[reader, writer]
                            assert reader.ok("read", place, 9) == f"{writer.pid:9}"
            assert node.used() == 0
