"""After every single call, whatever came before it, the charge is what the device gives."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slices import MIB
from tenants import ABSENT, SUCCESS, Box, Site, Tenant, of_slice

PROCESSES = 3
PLACES = 12
CAP = 256 * MIB


def mixed(number: int) -> int:
    """A number all over 63 bits from any other: hypothesis likes small ones, and they are alike."""
    number = (number ^ number >> 31) * 0x7FB5D329728EA185 % 2**64
    number = (number ^ number >> 27) * 0x81DADEF4BC2DD44D % 2**64
    return (number ^ number >> 33) >> 1


def sized(number: int) -> int:
    """A size of any order up to 100 MiB, or at the edge of a page."""
    number = mixed(number)
    edges = (MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, CAP)
    most = (8192, MIB, 4 * MIB, 16 * MIB, 100 * MIB)[number % 5]
    return edges[number // 5 % 6] if number // 30 % 5 == 0 else 1 + number // 150 % most


processes = st.integers(0, PROCESSES - 1)
places = st.integers(0, PLACES - 1)
dice = st.integers(0, 2**32).map(mixed)
sizes = st.integers(0, 2**32).map(sized)


@dataclass
class Living:
    """A process, and what it holds where: the kind, and the place of the context it is in."""

    tenant: Tenant
    dies: frozenset[str]
    """Kinds that go with the context that they were got in."""
    held: dict[int, tuple[str, int | None]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[int]:
        """Places that hold one of these kinds."""
        return [place for place, (kind, _) in self.held.items() if kind in kinds]

    def forget(self, context: int | None) -> None:
        """What lived in a context is gone with it; None is the primary one."""
        for place, (kind, inside) in list(self.held.items()):
            if inside == context and kind in self.dies:
                del self.held[place]


class SliceMachine(RuleBasedStateMachine):
    """Some processes of one slice; after each step the charge is the simulator's own count."""

    site: Site
    folder: Path
    runs = 0
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        SliceMachine.runs += 1
        self.simulation = self.site.simulated(2048 * MIB)
        node = self.simulation.__enter__()
        self.here = self.site.slice(node, self.folder, f"steps{self.runs}", CAP)
        self.vendor, self.refusal = self.site.vendor, self.site.refusal
        self.box = Box()
        self.alive: dict[int, Living] = {}
        self.start(0)

    # -- Processes ----------------------------------------------------------------------------

    @rule(process=processes)
    def start(self, process: int) -> None:
        """One more process, if the slice has room for its context."""
        if process in self.alive:
            return
        tenant = Tenant.start(
            self.site.program("tenant"),
            self.here.environment(),
            "serve",
            lookup=("symbol", "address")[process % 2],
            box=self.box,
        )
        if tenant.read() == "ready":
            self.alive[process] = Living(tenant, self.vendor.dies_with_context)
        else:
            assert tenant.end() == 3

    @precondition(lambda self: len(self.alive) > 1)
    @rule(process=processes, kill=st.booleans())
    def end(self, process: int, kill: bool) -> None:
        """A process ends with all that it holds."""
        if process not in self.alive:
            return
        tenant = self.alive.pop(process).tenant
        if kill:
            tenant.kill()
        else:
            assert tenant.end() == 0
        # Whoever next needs room clears up, and those who hold what the dead one exported answer
        # for it.
        for each in self.alive.values():
            assert each.tenant.do("get", "linear", PLACES, CAP, 0) == self.refusal

    # -- Memory -------------------------------------------------------------------------------

    def ask(self, process: int, place: int, kind: str, size: int, number: int) -> None:
        """Ask for memory in the context that is current."""
        living = self.alive[process]
        answer = living.tenant.do("get", kind, place, size, number)
        allowed = {SUCCESS, self.refusal} | ({ABSENT} if kind == "shared" else set())
        assert answer in allowed, f"{kind} of {size} is answered with {answer}"
        if answer == SUCCESS:
            living.held[place] = (kind, None)

    @rule(process=processes, place=places, which=dice, size=sizes, number=dice)
    def get(self, process: int, place: int, which: int, size: int, number: int) -> None:
        """Ask for memory."""
        kind = self.vendor.kinds[which % len(self.vendor.kinds)]
        if process in self.alive and place not in self.alive[process].held:
            self.ask(process, place, kind, size, number)

    @rule(process=processes, place=places, which=dice, size=sizes, number=dice)
    def get_inside(self, process: int, place: int, which: int, size: int, number: int) -> None:
        """Ask for memory in another context than the primary one."""
        kind = self.vendor.inside[which % len(self.vendor.inside)]
        living = self.alive.get(process)
        contexts = living.of_kind("context") if living else []
        if not living or not contexts or place in living.held:
            return
        context = contexts[number % len(contexts)]
        assert living.tenant.do("enter", context) == SUCCESS
        self.ask(process, place, kind, size, number)
        if place in living.held:
            # Where contexts are views of one, all is of that.
            living.held[place] = (kind, context if self.vendor.contexts_hold else None)
        assert living.tenant.do("enter", "primary") == SUCCESS

    @rule(process=processes, place=places, number=dice)
    def poke(self, process: int, place: int, number: int) -> None:
        """Do something with what is held."""
        if process in self.alive and place in self.alive[process].held:
            answer = self.alive[process].tenant.do("poke", place, number)
            assert answer in (SUCCESS, self.refusal)

    @rule(process=processes, place=places, number=dice)
    def give(self, process: int, place: int, number: int) -> None:
        """Give it back, by one of the calls that may."""
        living = self.alive.get(process)
        if not living or place not in living.held:
            return
        kind, _ = living.held.pop(place)
        if kind == "context":
            living.forget(place)
        assert living.tenant.do("give", place, number) == SUCCESS

    @rule(maker=processes, user=processes, place=places, goal=places, number=dice)
    def share(self, maker: int, user: int, place: int, goal: int, number: int) -> None:
        """Let another process open what one holds."""
        if maker == user or maker not in self.alive or user not in self.alive:
            return
        kind, _ = self.alive[maker].held.get(place, ("", None))
        if kind not in self.vendor.shown or goal in self.alive[user].held:
            return
        self.box.empty()
        assert self.alive[maker].tenant.do("poke", place, self.vendor.shown[kind]) == SUCCESS
        self.ask(user, goal, "shared", 0, number)

    @rule(process=processes, reset=st.booleans())
    def renew(self, process: int, reset: bool) -> None:
        """The primary context goes, with what lives in it, and comes back."""
        living = self.alive.get(process)
        # What these hold of the primary context cannot be given back without it.
        if not living or living.of_kind(*self.vendor.keep_primary):
            return
        assert living.tenant.do("reset" if reset else "release") == SUCCESS
        living.forget(None)
        answer = living.tenant.do("retain")
        assert answer in (SUCCESS, self.refusal)
        if answer == self.refusal:
            self.alive.pop(process).tenant.kill()
            self.start(process)

    # -- What holds ---------------------------------------------------------------------------

    @invariant()
    def the_charge_is_the_truth(self) -> None:
        """At a quiet point charge, count and view agree."""
        SliceMachine.steps += 1
        for each in self.alive.values():
            assert each.tenant.do("settle") == SUCCESS
        truth = self.here.truth()
        assert self.here.charge() == truth.used_bytes[0]
        assert truth.max_used_bytes[0] <= CAP
        for each in self.alive.values():
            told = each.tenant.told()
            assert of_slice(told, CAP, truth.used_bytes[0]), told

    def teardown(self) -> None:
        """Everything is given back by the end of the processes alone."""
        try:
            for each in self.alive.values():
                assert each.tenant.end() == 0
            self.box.empty()
            self.here.wait_until_empty()
            assert self.here.charge() == 0
            assert self.here.locked() == []
        finally:
            for each in self.alive.values():
                each.tenant.kill()
            self.box.close()
            self.simulation.__exit__(None, None, None)


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> type[SliceMachine]:
    """The state machine, with what it runs on."""
    SliceMachine.site, SliceMachine.folder = site, tmp_path
    return SliceMachine


def explore(machine: type[SliceMachine], examples: int, steps: int, *, random: bool) -> None:
    """Let hypothesis look for a sequence of calls after which something does not hold."""
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=not random,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    case().runTest()


def test_after_every_call_the_charge_is_what_the_device_gives(
    machine: type[SliceMachine],
) -> None:
    explore(machine, examples=50, steps=80, random=False)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_after_very_many_calls_too(
    machine: type[SliceMachine], soak_seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    end = time.monotonic() + soak_seconds
    while time.monotonic() < end:
        explore(machine, examples=20, steps=200, random=True)
    with capsys.disabled():
        print(f"\n{machine.runs} slices, {machine.steps} steps: charge and count agreed after each")
