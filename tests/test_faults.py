"""Whatever call of the driver fails, whoever made it: the answer is right, and so are the books.

A driver that fails on demand stands between the shim and the simulator (faults.py). First each
function that is wrapped is called with its driver's function failing. Then a program that takes
memory and runs work in every way is done once for each call of the driver that is made in its
course, and that one call fails: those that the program made, and those that the shim makes for
itself; once for each function, all calls of which fail; and once with all calls failing that the
shim's own threads make.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cuda_table import ROOT, read_table
from fault_calls import arguments_of
from faults import Answer, Faulty, build_driver, need_stubs, put_between, running
from slices import MIB
from tenant_vendors import VENDORS
from tenants import PATIENCE_SECONDS, SUCCESS, Box, Site, Slice, Tenant

CAP = 512 * MIB
SIZE = 3 * MIB
ROUNDS = 3
DICE = 3
DICE_FOR_ALL = 1
MOST_CALLS = 1000

# No memory; a bad argument; an error that sticks to the device; one that nobody has heard of.
CODES = {
    "nvidia": (2, 1, 700, 9999),
    "ascend": (207001, 107000, 507015, 999999),
    "cambricon": (100100, 100006, 100120, 999999),
}

# Kinds whose program leaves a capture behind when it gives up: without the shim it could not go on
# either.
LEFT_OPEN = {"graph", "recording"}

# Functions that may answer what a call of the shim's own was answered, by their class: they would
# give memory of which nobody could say whose it is. And those that others wait for.
MAY_REFUSE = {"charge"}
STARTS = {"cuInit", "cnInit"}

# Called by programs, and by the shim in the course of the same call: a pool of its own is tried.
TRIED = {"cnMemAllocFromPoolAsync", "rtMemPoolMallocAsync"}


@dataclass
class Findings:
    """What was seen, in words; nothing should have been."""

    failed: set[str] = field(default_factory=set)
    """Functions of the driver that have failed."""
    others: int = 0
    """Calls of the shim's own threads that have failed."""
    cases: int = 0
    wrong_answers: list[str] = field(default_factory=list)
    wrong_books: list[str] = field(default_factory=list)
    hurt: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Explorer:
    """Runs a program in a slice, and looks at what it says and at the books."""

    site: Site
    here: Slice
    driver: Path
    found: Findings
    kinds: dict[str, str]
    """Of each wrapped symbol, the class in the table."""
    box: Box
    """In which another process shows the program what it has."""
    other: Tenant
    case: str = ""
    program: Faulty | None = None
    others: int = 0
    """Bytes that the other process has."""

    @property
    def codes(self) -> tuple[int, ...]:
        """What drivers of the vendor answer."""
        return CODES[self.site.vendor.name]

    # -- The program --------------------------------------------------------------------------

    def start(self) -> Faulty:
        """A new one, which has not begun."""
        self.stop()
        self.driver_run = running(self.site, self.here, self.driver, self.box, self.look)
        self.program = self.driver_run.__enter__()
        return self.program

    def started(self) -> Faulty:
        """The one that runs, or a new one that has begun."""
        if self.program is None:
            self.case = "begin"
            assert self.start().do("begin", 0, 0, 0, "-").what == "done"
        assert self.program
        return self.program

    def stop(self) -> None:
        """End the one that runs, which must leave nothing."""
        if self.program is None:
            return
        program, self.program = self.program, None
        try:
            program.end()
        finally:
            self.driver_run.__exit__(None, None, None)
        # All that is left is the other's.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.here.truth().used_bytes[0] != self.others:
            assert time.monotonic() < deadline, f"{self.case}: {self.here.truth()} is used for good"
            time.sleep(0.001)
        if self.here.charge() != self.others:
            self.found.wrong_books.append(f"{self.case}: {self.here.charge()} bytes are left")

    # -- What must hold -----------------------------------------------------------------------

    def look(self) -> None:
        """Hold the books against the simulator's count."""
        charge, truth = self.here.charge(), self.here.truth().used_bytes[0]
        if charge != truth:
            self.found.wrong_books.append(f"{self.case}: {charge} bytes charged, {truth} used")

    def judge(self, answer: Answer, code: int) -> bool:
        """Whether the program can go on."""
        self.found.cases += 1
        if answer.failed:
            self.found.failed.add(answer.first)
            self.case += f", {answer.first} in {answer.within}"
        # Memory is asked for once more, while what a process before us had may be on its way back.
        retried = code == self.site.vendor.out_of_memory and answer.failed == 1
        served = (answer.failed, answer.answer, answer.what) == (1, 0, "done")
        tried = served and answer.first in TRIED
        if answer.failed and answer.own and answer.answer != code and not (retried or tried):
            self.found.wrong_answers.append(f"{self.case} is answered with {answer.answer}")
        if answer.failed and not answer.own:
            kind = self.kinds.get(answer.within, "")
            refuses = kind in MAY_REFUSE or answer.within in STARTS
            if answer.answer not in ((0, code) if refuses else (0,)):
                self.found.hurt.append(f"{self.case} is answered with {answer.answer}")
            elif answer.answer == 0 and answer.what != "done" and answer.failed == 1:
                self.found.hurt.append(f"{self.case}: {answer.what}, {answer.text}")
        wrong = len(self.found.wrong_books)
        self.look()
        return len(self.found.wrong_books) == wrong and answer.what != "gave-up"

    def time_used(self) -> tuple[int, int]:
        """The device time that the slice was charged, and how often it waited for a turn."""
        used = self.here.usage().devices[0]
        return used.device_ns, used.waits

    # -- What is done -------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin, and again when that has failed."""
        for at in range(1, MOST_CALLS):
            for code in self.codes:
                self.case = f"begin {at} {code}"
                answer = self.start().do("begin", at, 0, code, "-")
                self.judge(answer, code)
                self.case += ", again"
                assert self.program
                again = self.program.do("begin", 0, 0, 0, "-")
                self.judge(again, 0)
                if again.what != "done":
                    self.found.hurt.append(f"{self.case}: {again.text or again.what}")
                self.stop()
            if not answer.failed:
                return

    def attempt(self, kind: str, dice: int, *plan: object) -> Answer:
        """Get something, use it, and give it back."""
        if kind == "shared":
            self.box.empty()
            place = dice % len(self.site.vendor.shown)
            choice = list(self.site.vendor.shown.values())[place]
            assert self.other.do("poke", place, choice) == SUCCESS
        return self.started().do("try", kind, SIZE, dice, ROUNDS, *plan)

    def go_on(self, kind: str, dice: int, good: bool) -> None:
        """After a failure the same works, in the same process."""
        if good:
            return
        if kind not in LEFT_OPEN:
            case = self.case + ", again"
            answer = self.attempt(kind, dice, 0, 0, 0, "-")
            self.case = case
            self.look()
            if answer.what != "done":
                self.found.hurt.append(f"{case}: {answer.text}")
        self.stop()

    def explore(self, kind: str, dice: int) -> None:
        """Do it once for each call that it makes."""
        functions = set()
        for at in range(1, MOST_CALLS):
            code = self.codes[(at + dice) % len(self.codes)]
            self.started()
            self.case = f"{kind} {dice}, call {at} {code}"
            answer = self.attempt(kind, dice, at, 0, code, "-")
            self.go_on(kind, dice, self.judge(answer, code))
            if not answer.failed:
                break
            functions.add(answer.first)
        code = self.codes[dice % len(self.codes)]
        for function in sorted(functions) if dice < DICE_FOR_ALL else ():
            self.started()
            self.case = f"{kind} {dice}, all of {function} {code}"
            answer = self.attempt(kind, dice, 1, 1, code, function)
            self.go_on(kind, dice, self.judge(answer, code))
        self.started()
        self.case = f"{kind} {dice}, all of other threads {code}"
        answer = self.attempt(kind, dice, 1, 2, code, "-")
        self.found.others += answer.failed
        self.go_on(kind, dice, self.judge(answer, code))
        if answer.what != "done":
            self.found.hurt.append(f"{self.case}: {answer.what}, {answer.text}")

    def call_each(self) -> None:
        """Call each wrapped function while its driver's fails."""
        self.started()
        before = self.time_used()
        for name in self.kinds:
            for code in self.codes:
                for arguments in arguments_of(self.site.vendor, name):
                    program = self.started()
                    self.case = f"{name}({arguments}) {code}"
                    answer = program.ask("call", name, code, arguments)
                    if answer is None or answer.failed:
                        break
                if answer is None or not answer.failed:
                    break
                self.found.failed.add(name)
                self.found.cases += 1
                if answer.answer != code:
                    self.found.wrong_answers.append(f"{self.case} is answered {answer.answer}")
                self.look()
        # What did not run was given back: none that came later had to wait for it.
        if self.time_used() != before:
            self.found.wrong_books.append(f"{self.time_used()} ns and waits, {before} before")
        # It is none the worse for it.
        self.go_on("linear", 0, False)


@pytest.fixture(scope="module", params=VENDORS)
def site_of_module(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """The libraries of each vendor."""
    return sites[request.param]


@pytest.fixture(scope="module")
def explored(
    site_of_module: Site, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, Findings]:
    """What became of every call that failed."""
    need_stubs()
    site = site_of_module
    build_driver(site)
    began = time.monotonic()
    rows = read_table(ROOT / f"csrc/{site.vendor.table}/functions.tsv")
    kinds = {s.name: row.kind for row in rows if row.wrapped for s in row.symbols}
    with site.simulated(2048 * MIB) as node:
        # Its time is capped, so that launches are measured and held back.
        here = site.slice(node, tmp_path_factory.mktemp("faults"), "faults", CAP, cores=50)
        driver, box = put_between(site, here), Box()
        other = Tenant.start(site.program("tenant"), here.environment(), "serve", box=box)
        assert other.read() == "ready"
        for place, kind in enumerate(site.vendor.shown):
            assert other.do("get", kind, place, SIZE, 0) == SUCCESS
        explorer = Explorer(site, here, driver, Findings(), kinds, box, other)
        explorer.others = here.truth().used_bytes[0]
        explorer.call_each()
        explorer.begin()
        for kind in site.vendor.kinds:
            for dice in range(DICE):
                explorer.explore(kind, dice)
        explorer.case = "end"
        answer = explorer.started().do("end")
        explorer.judge(answer, 0)
        explorer.stop()
        assert other.end() == 0
        box.close()
        most = here.truth().max_used_bytes[0]
        if most > CAP:
            explorer.found.wrong_books.append(f"{most} bytes were used at once, of {CAP}")
    explorer.found.seconds = time.monotonic() - began
    return site, explorer.found


def listed(findings: list[str]) -> str:
    """The first of them."""
    return "\n".join([f"{len(findings)} cases:", *findings[:40]])


def test_a_call_that_the_driver_refuses_is_answered_as_the_driver_did(
    explored: tuple[Site, Findings],
) -> None:
    _, found = explored
    assert not found.wrong_answers, listed(found.wrong_answers)


def test_whatever_call_fails_the_charge_is_what_the_device_gives(
    explored: tuple[Site, Findings],
) -> None:
    _, found = explored
    assert not found.wrong_books, listed(found.wrong_books)


def test_a_call_of_the_shims_own_that_fails_is_not_the_programs_to_pay_for(
    explored: tuple[Site, Findings],
) -> None:
    _, found = explored
    assert not found.hurt, listed(found.hurt)


def test_every_wrapped_function_was_failed(
    explored: tuple[Site, Findings], capsys: pytest.CaptureFixture[str]
) -> None:
    site, found = explored
    exported = set(build_driver(site).with_name("names.inc").read_text().split())
    rows = read_table(ROOT / f"csrc/{site.vendor.table}/functions.tsv")
    wrapped = {s.name for row in rows if row.wrapped for s in row.symbols}
    there = {name for name in wrapped if f"{name})" in exported}
    with capsys.disabled():
        print(
            f"\n{site.vendor.name}: {found.cases} failures in {found.seconds:.0f} s, of"
            f" {len(found.failed & there)} of {len(there)} wrapped functions and"
            f" {len(found.failed - there)} others, and {found.others} on threads of the shim's"
        )
    assert there - found.failed == set()
