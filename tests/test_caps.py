"""The caps hold: by every call, from many threads and processes, to the page."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slices import MIB
from tenants import (
    NOT_FOUND,
    OUT_OF_MEMORY,
    SUCCESS,
    TENANT,
    Box,
    Slice,
    Tenant,
    compile_c,
    simulated,
)

GIB = 1024 * MIB
CAP = 2 * GIB


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client that takes and gives back memory by every call."""
    return compile_c(tmp_path_factory.mktemp("tenant"), "tenant", TENANT)


def storm(
    here: Slice, program: Path, seed: int, *, processes: int, threads: int, rounds: int, steps: int
) -> tuple[int, int]:
    """Random calls of all kinds; returns what was asked for and what was refused."""
    box = Box()
    shape = [str(threads), str(rounds), str(steps)]
    running = [
        Tenant.start(
            program,
            here.environment(),
            "storm",
            *shape,
            str(seed * 64 + number),
            str(64 * MIB),
            lookup=("symbol", "address")[number % 2],
            box=box,
        )
        for number in range(processes)
    ]
    try:
        assert [each.read() for each in running] == ["ready"] * processes
        for _ in range(rounds + 2):
            assert [each.read() for each in running] == ["quiet"] * processes
            # What is on its way between processes keeps what it stands for.
            box.empty()
            truth = here.truth()
            assert here.charge() == truth.used_bytes[0], f"seed {seed}"
            assert truth.max_used_bytes[0] <= here.cap, f"seed {seed}"
            for each in running:
                each.say("go")
        counts = [[int(word) for word in each.read().split()[1:]] for each in running]
        assert (here.charge(), here.truth().used_bytes[0]) == (0, 0), f"seed {seed}"
        for each in running:
            each.say("end")
            assert each.end() == 0
    finally:
        for each in running:
            each.kill()
        box.close()
    assert here.locked() == []
    return sum(count[0] for count in counts), sum(count[1] for count in counts)


def test_a_storm_of_calls_never_passes_the_cap_and_leaves_nothing(
    sim_library: Path, shim_library: Path, tenant: Path, tmp_path: Path
) -> None:
    with simulated(sim_library, 8 * GIB) as node:
        here = Slice.make(node, shim_library, tmp_path, "storm", CAP)
        asked, refused = storm(here, tenant, 1, processes=8, threads=8, rounds=2, steps=300)
        most = here.truth().max_used_bytes[0]
    assert refused > 0
    assert CAP * 99 // 100 <= most <= CAP, f"{asked} requests, {refused} refused"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_storms_one_after_the_other(
    sim_library: Path,
    shim_library: Path,
    tenant: Path,
    tmp_path: Path,
    soak_seconds: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = time.monotonic() + soak_seconds
    runs = asked = refused = 0
    with simulated(sim_library, 8 * GIB) as node:
        while time.monotonic() < end:
            runs += 1
            here = Slice.make(node, shim_library, tmp_path, f"storm{runs}", CAP)
            more = storm(here, tenant, runs, processes=8, threads=8, rounds=4, steps=500)
            asked, refused = asked + more[0], refused + more[1]
    with capsys.disabled():
        print(f"\n{runs} storms: {asked} requests, {refused} refused at the cap")


# -- One step after the other ---------------------------------------------------------------------

KINDS = (
    "linear", "pitch", "managed", "pinned", "async", "pool", "array", "deep", "mipmap",
    "pages", "elsewhere", "addresses", "team", "shared",
    "module", "library", "context", "green", "graph",
)  # fmt: skip
PROCESSES = 3
PLACES = 12
SMALL_CAP = 256 * MIB

processes = st.integers(0, PROCESSES - 1)
places = st.integers(0, PLACES - 1)
dice = st.integers(0, 2**63 - 1)
sizes = st.one_of(
    st.integers(1, 4 * MIB),
    st.integers(0, 100 * MIB),
    st.sampled_from([MIB - 1, MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, SMALL_CAP]),
)


class SliceMachine(RuleBasedStateMachine):
    """Some processes of one slice; after each step the charge is the simulator's own count."""

    sim: Path
    shim: Path
    program: Path
    folder: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        SliceMachine.runs += 1
        self.simulation = simulated(self.sim, 2 * GIB)
        node = self.simulation.__enter__()
        self.here = Slice.make(node, self.shim, self.folder, f"steps{self.runs}", SMALL_CAP)
        self.box = Box()
        self.tenants = [
            Tenant.start(self.program, self.here.environment(), "serve", box=self.box)
            for _ in range(PROCESSES)
        ]
        for each in self.tenants:
            assert each.read() == "ready"
        self.taken = {number: set[int]() for number in range(PROCESSES)}

    @rule(process=processes, place=places, kind=st.sampled_from(KINDS), size=sizes, number=dice)
    def get(self, process: int, place: int, kind: str, size: int, number: int) -> None:
        """Ask for memory."""
        if place in self.taken[process]:
            return
        answer = self.tenants[process].do("get", kind, place, size, number)
        allowed = {SUCCESS, OUT_OF_MEMORY} | ({NOT_FOUND} if kind == "shared" else set())
        assert answer in allowed, f"{kind} of {size} is answered with {answer}"
        if answer == SUCCESS:
            self.taken[process].add(place)

    @precondition(lambda self: any(self.taken.values()))
    @rule(process=processes, place=places, number=dice)
    def poke(self, process: int, place: int, number: int) -> None:
        """Do something with what is held."""
        if place in self.taken[process]:
            assert self.tenants[process].do("poke", place, number) in (SUCCESS, OUT_OF_MEMORY)

    @precondition(lambda self: any(self.taken.values()))
    @rule(process=processes, place=places, number=dice)
    def give(self, process: int, place: int, number: int) -> None:
        """Give it back, by one of the calls that may."""
        if place in self.taken[process]:
            self.taken[process].discard(place)
            assert self.tenants[process].do("give", place, number) == SUCCESS

    @invariant()
    def the_charge_is_the_truth(self) -> None:
        """At a quiet point charge, count and view agree."""
        for each in self.tenants:
            assert each.do("settle") == SUCCESS
        self.box.empty()
        truth = self.here.truth()
        assert truth.max_used_bytes[0] <= SMALL_CAP
        for each in self.tenants:
            free, total, device_total = (int(word) for word in each.ask("info").split())
            assert (total, device_total) == (SMALL_CAP, SMALL_CAP)
            assert free == SMALL_CAP - truth.used_bytes[0]
        assert self.here.charge() == truth.used_bytes[0]

    def teardown(self) -> None:
        """Everything is given back by the end of the processes alone."""
        try:
            for each in self.tenants:
                assert each.end() == 0
            self.box.empty()
            self.here.wait_until_empty()
            assert self.here.charge() == 0
            assert self.here.locked() == []
        finally:
            for each in self.tenants:
                each.kill()
            self.box.close()
            self.simulation.__exit__(None, None, None)


@pytest.fixture
def machine(
    sim_library: Path, shim_library: Path, tenant: Path, tmp_path: Path
) -> type[SliceMachine]:
    """The state machine, with what it runs on."""
    SliceMachine.sim, SliceMachine.shim = sim_library, shim_library
    SliceMachine.program, SliceMachine.folder = tenant, tmp_path
    return SliceMachine


def explore(machine: type[SliceMachine], examples: int, steps: int) -> None:
    """Let hypothesis look for a sequence of calls after which something does not hold."""
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    case().runTest()


def test_after_every_call_the_charge_is_what_the_device_gives(
    machine: type[SliceMachine],
) -> None:
    explore(machine, examples=12, steps=40)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_after_very_many_calls_too(machine: type[SliceMachine], soak_seconds: float) -> None:
    end = time.monotonic() + soak_seconds
    while time.monotonic() < end:
        explore(machine, examples=20, steps=150)
