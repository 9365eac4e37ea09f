"""The caps hold: by every call, from many threads and processes, to the page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.shim import region

from cuda_table import ROOT, read_table
from slices import MIB
from tenant_vendors import ABSENT as NO_KIND
from tenant_vendors import NOT_SENT, NVIDIA, VENDORS, having, sending
from tenants import ABSENT, CONTEXT, SUCCESS, Box, Site, Slice, Tenant, of_slice

GIB = 1024 * MIB
CAP = 2 * GIB
SMALL_CAP = 256 * MIB
REST = SMALL_CAP - CONTEXT


@pytest.fixture
def tenant(site: Site) -> Path:
    """The client that takes and gives back memory by every call."""
    return site.program("tenant")


@pytest.mark.parametrize("name", VENDORS)
def test_what_a_vendor_lacks_of_what_nvidia_has_is_named_with_its_reason(name: str) -> None:
    assert set(NVIDIA.kinds) - set(VENDORS[name].kinds) == set(NO_KIND[name])
    sent = NVIDIA.sends & set(VENDORS[name].kinds)
    assert sent - VENDORS[name].sends == set(NOT_SENT[name])
    assert all((*NO_KIND[name].values(), *NOT_SENT[name].values()))


# -- Storms ---------------------------------------------------------------------------------------


def counted(line: str) -> Counter[str]:
    """What a storm says at its end: things got by kind, and what it did with them."""
    first, *counts = line.split()
    assert first == "gone", line
    return Counter({name: int(number) for name, number in (item.split("=") for item in counts)})


def storm(
    here: Slice, program: Path, seed: int, *, processes: int, threads: int, rounds: int, steps: int
) -> Counter[str]:
    """Random calls of all kinds; returns what was done."""
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
            truth = here.truth()
            assert here.charge() == truth.used_bytes[0], f"seed {seed}"
            assert truth.max_used_bytes[0] <= here.cap, f"seed {seed}"
            for each in running:
                each.say("go")
        done = sum((counted(each.read()) for each in running), Counter[str]())
        # All was given back, by processes that still live.
        assert (here.charge(), here.truth().used_bytes[0]) == (0, 0), f"seed {seed}"
        for each in running:
            each.say("end")
            assert each.end() == 0
    finally:
        for each in running:
            each.kill()
        box.close()
    usage = here.usage()
    assert here.locked() == []
    assert (usage.lost_holds, usage.unknown_functions) == (0, 0)
    assert usage.devices[0].peak <= here.cap
    return done


def test_a_storm_of_calls_never_passes_the_cap_and_leaves_nothing(
    site: Site, tenant: Path, tmp_path: Path
) -> None:
    with site.simulated(8 * GIB) as node:
        here = site.slice(node, tmp_path, "storm", CAP)
        done = storm(here, tenant, 1, processes=8, threads=8, rounds=2, steps=1000)
        most = here.truth().max_used_bytes[0]
    assert CAP * 99 // 100 <= most <= CAP, done
    # It was a storm by every call, and it met the cap.
    assert [kind for kind in site.vendor.kinds if not done[kind]] == []
    assert done["refusals"] > 1000


def test_a_storm_is_the_same_where_compute_time_is_capped(
    site: Site, tenant: Path, tmp_path: Path
) -> None:
    with site.simulated(8 * GIB) as node:
        here = site.slice(node, tmp_path, "storm", CAP, cores=10)
        done = storm(here, tenant, 1, processes=4, threads=8, rounds=1, steps=500)
    assert [kind for kind in site.vendor.kinds if not done[kind]] == []
    used = here.usage().devices[0]
    assert used.device_ns > 0
    assert used.waits > 0


# Where nobody tells by how much pools grow: by less than was ever seen, and by more.
@pytest.mark.parametrize("chunk", [4 * MIB, 96 * MIB])
@pytest.mark.parametrize("site", ["cambricon"], indirect=True)
def test_a_storm_is_the_same_however_pools_grow(
    site: Site, tenant: Path, tmp_path: Path, chunk: int
) -> None:
    with site.simulated(8 * GIB, pool_chunk=chunk) as node:
        here = site.slice(node, tmp_path, "storm", CAP)
        done = storm(here, tenant, 1, processes=6, threads=6, rounds=1, steps=500)
    assert done["refusals"] > 100
    assert done["async"] > 10


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_storms_one_after_the_other(
    site: Site,
    tenant: Path,
    tmp_path: Path,
    soak_seconds: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = time.monotonic() + soak_seconds
    runs, done, reached = 0, Counter[str](), 1.0
    with site.simulated(8 * GIB) as node:
        while time.monotonic() < end:
            runs += 1
            here = site.slice(node, tmp_path, f"storm{runs}", CAP)
            done += storm(here, tenant, runs, processes=8, threads=8, rounds=4, steps=1000)
            reached = min(reached, here.truth().max_used_bytes[0] / CAP)
    with capsys.disabled():
        print(f"\n{runs} storms, each at most its cap and at least {reached:.2%} of it: {done}")
    assert reached >= 0.99


# -- To the page ----------------------------------------------------------------------------------


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Slice]:
    """A small slice of a device with plenty."""
    with site.simulated(2 * GIB) as node:
        yield site.slice(node, tmp_path, "slice", SMALL_CAP)


@pytest.fixture
def box() -> Iterator[Box]:
    """Where its processes send each other memory."""
    made = Box()
    yield made
    made.close()


def serve(here: Slice, program: Path, box: Box | None = None) -> Tenant:
    started = Tenant.start(program, here.environment(), "serve", box=box)
    assert started.read() == "ready"
    return started


def expect(here: Slice, used: int) -> None:
    """Charge and count are so much."""
    assert (here.charge(), here.truth().used_bytes[0]) == (used, used)


def test_every_function_that_tells_of_memory_tells_of_the_slice(here: Slice, tenant: Path) -> None:
    table = read_table(ROOT / "csrc" / here.node.vendor.table / "functions.tsv")
    rows = [row for row in table if row.kind == "query" and row.by == "shim"]
    with serve(here, tenant) as one:
        # The tenant asks all of them, or there would be one that nobody looks at.
        assert set(one.told()) == {symbol.name for row in rows for symbol in row.symbols}
        assert of_slice(one.told(), SMALL_CAP, CONTEXT)
        assert one.do("get", "linear", 0, 32 * MIB, 0) == SUCCESS
        assert of_slice(one.told(), SMALL_CAP, CONTEXT + 32 * MIB)
        # So they do in contexts of the program's own.
        assert one.do("get", "context", 1, 4096, 0) == SUCCESS
        assert one.do("enter", 1) == SUCCESS
        used = here.truth().used_bytes[0]
        assert of_slice(one.told(), SMALL_CAP, used)
        assert one.do("enter", "primary") == SUCCESS
        assert of_slice(one.told(), SMALL_CAP, used)


# What rounds up to the rest of the slice, by a call and its choices.
WHOLE = [(name, *whole) for name, vendor in VENDORS.items() for whole in vendor.whole]


@pytest.mark.parametrize(("site", "kind", "dice"), WHOLE, indirect=["site"])
def test_the_last_page_of_the_cap_is_given_and_not_one_more(
    here: Slice, tenant: Path, kind: str, dice: int
) -> None:
    with serve(here, tenant) as one:
        for _ in range(3):
            assert one.do("get", kind, 0, REST + 1, dice) == here.refusal
            assert one.do("get", kind, 0, REST, dice) == SUCCESS
            expect(here, SMALL_CAP)
            assert of_slice(one.told(), SMALL_CAP, SMALL_CAP)
            assert one.do("get", "linear", 1, 1, 0) == here.refusal
            assert one.do("get", "pages", 1, 1, 0) == here.refusal
            # Half a page that no device has is the driver's to refuse, at the cap too.
            assert one.do("get", "elsewhere", 1, 1, 0) == SUCCESS
            assert one.do("poke", 1, 0) == SUCCESS
            assert one.do("give", 1, 0) == SUCCESS
            assert one.do("give", 0, 4) == SUCCESS
            assert one.do("settle") == SUCCESS
            expect(here, CONTEXT)
        assert one.end() == 0
    assert here.truth().max_used_bytes[0] == SMALL_CAP


def test_small_allocations_share_a_page_as_on_the_device(here: Slice, tenant: Path) -> None:
    with serve(here, tenant) as one:
        for place in range(64):
            assert one.do("get", "linear", place, 16 * 1024, 0) == SUCCESS
            expect(here, CONTEXT + 2 * MIB)
        # By every call that frees, in any order: the page goes with the last.
        for place in sorted(range(64), key=lambda place: place * 37 % 64):
            expect(here, CONTEXT + 2 * MIB)
            assert one.do("give", place, place) == SUCCESS
            assert one.do("settle") == SUCCESS
        expect(here, CONTEXT)


@pytest.mark.parametrize("chunk", [2, 16, 64])
@pytest.mark.parametrize("room", [30, 40, 63, 64, 100])
@pytest.mark.parametrize("site", ["cambricon"], indirect=True)
def test_the_first_growth_of_a_pool_is_held_to_the_cap(
    site: Site, tenant: Path, tmp_path: Path, chunk: int, room: int
) -> None:
    with site.simulated(2 * GIB, pool_chunk=chunk * MIB) as node:
        here = site.slice(node, tmp_path, "first", SMALL_CAP)
        with serve(here, tenant) as one, serve(here, tenant) as other:
            assert one.do("get", "linear", 0, REST - CONTEXT - room * MIB, 0) == SUCCESS
            answers = [other.do("get", "async", place, MIB, 0) for place in range(4)]
            assert here.charge() == here.truth().used_bytes[0]
            # What there is room for is given, once that is sure.
            assert set(answers) <= {SUCCESS, here.refusal}
            if room >= 64 >= chunk:
                assert answers == [SUCCESS] * 4
            # It is no room for others meanwhile: it is theirs afterwards.
            assert other.do("settle") == SUCCESS
            left = (SMALL_CAP - here.charge()) // (2 * MIB) * 2 * MIB
            assert not left or one.do("get", "linear", 1, left, 0) == SUCCESS
        assert here.truth().max_used_bytes[0] <= SMALL_CAP
        assert here.usage().devices[0].peak <= SMALL_CAP


@pytest.mark.parametrize("site", having("async"), indirect=True)
def test_a_pool_at_the_cap_serves_from_what_it_has_reserved(here: Slice, tenant: Path) -> None:
    keep, hold = 64 * MIB, REST - 64 * MIB
    with serve(here, tenant) as one:
        assert one.do("get", "async", 0, keep, 0) == SUCCESS
        assert one.do("poke", 0, 1) == SUCCESS  # the pool shall keep 64 MiB
        assert one.do("give", 0, 4) == SUCCESS
        assert one.do("settle") == SUCCESS
        expect(here, CONTEXT + keep)
        assert one.do("get", "linear", 1, hold, 0) == SUCCESS
        expect(here, SMALL_CAP)
        for place in range(2, 30):
            assert one.do("get", "async", place, MIB, place) == SUCCESS
            assert one.do("settle") == SUCCESS
            used = here.truth().used_bytes[0]
            expect(here, SMALL_CAP if here.node.vendor.pools_keep else used)
        assert one.do("get", "async", 30, keep, 0) == here.refusal
        # Needed elsewhere, what the pool only keeps for later is nobody's to refuse.
        for place in range(2, 30):
            assert one.do("give", place, place) == SUCCESS
        assert one.do("give", 1, 4) == SUCCESS
        assert one.do("get", "async", 1, REST - 32 * MIB, 0) == SUCCESS
    assert here.truth().max_used_bytes[0] <= SMALL_CAP


@pytest.mark.parametrize("site", having("graph"), indirect=True)
def test_a_graph_at_the_cap_is_launched_again_and_again(here: Slice, tenant: Path) -> None:
    launch = 4
    with serve(here, tenant) as one:
        # Two graphs that free what they allocate, and do not fit beside each other.
        for place in (0, 1):
            assert one.do("get", "graph", place, 100 * MIB, 1 + 2 * 0 + 4 * 1) == SUCCESS
            assert one.do("poke", place, launch) == SUCCESS
            # Two that run at once have pages each.
            assert one.do("settle") == SUCCESS
        expect(here, CONTEXT + 100 * MIB)
        assert one.do("get", "linear", 2, REST - 100 * MIB, 0) == SUCCESS
        for step in range(20):
            assert one.do("poke", step % 2, launch) == SUCCESS
        assert one.do("settle") == SUCCESS
        expect(here, SMALL_CAP)
        assert one.do("get", "graph", 3, 120 * MIB, 1 + 4 * 1) == SUCCESS
        assert one.do("poke", 3, launch) == here.refusal
    assert here.truth().max_used_bytes[0] == SMALL_CAP


def test_a_cap_that_is_changed_holds_for_who_runs(here: Slice, tenant: Path) -> None:
    grant = here.usage_path.with_name("grant")
    half = SMALL_CAP // 2
    # As the agent may, who made it.
    grant.chmod(0o644)
    with serve(here, tenant) as one, grant.open("r+b") as file:
        assert one.do("get", "linear", 0, REST, 0) == SUCCESS
        assert one.do("get", "linear", 1, 4096, 0) == here.refusal
        region.write_cap(file.fileno(), 0, SMALL_CAP + half)
        assert one.do("get", "linear", 1, half, 0) == SUCCESS
        assert one.do("get", "linear", 2, 4096, 0) == here.refusal
        # Below what is held: nothing is taken, and nothing more is given until enough is freed.
        region.write_cap(file.fileno(), 0, SMALL_CAP)
        expect(here, SMALL_CAP + half)
        assert one.do("get", "linear", 2, 4096, 0) == here.refusal
        assert one.do("give", 1, 4) == SUCCESS
        assert one.do("get", "linear", 2, 4096, 0) == here.refusal
        assert one.do("give", 0, 4) == SUCCESS
        assert one.do("get", "linear", 2, REST, 0) == SUCCESS
        assert one.do("get", "linear", 3, 4096, 0) == here.refusal


def test_two_slices_of_a_device_hold_theirs_and_no_more(
    site: Site, tenant: Path, tmp_path: Path
) -> None:
    with site.simulated(2 * GIB) as node:
        slices = [site.slice(node, tmp_path, name, SMALL_CAP) for name in ("one", "two")]
        with serve(slices[0], tenant) as one, serve(slices[1], tenant) as two:
            for each in (one, two):
                assert each.do("get", "linear", 0, REST, 0) == SUCCESS
                assert each.do("get", "linear", 1, 1, 0) == site.refusal
            for here in slices:
                expect(here, SMALL_CAP)


# -- Between processes ----------------------------------------------------------------------------

SHARED = [
    (name, kind, size)
    for name, vendor in VENDORS.items()
    for kind, size in (
        *(("linear", 8 * MIB), ("linear", 4096)),
        *(("pitch", 3 * MIB), ("pages", 6 * MIB)),
    )
    if kind in vendor.shown
]


def held(size: int) -> int:
    return -(-size // (2 * MIB)) * 2 * MIB


def probe(here: Slice, one: Tenant) -> None:
    """Ask for what cannot be had: before it refuses, the slice clears up after the dead."""
    assert one.do("get", "linear", 99, SMALL_CAP, 0) == here.refusal


@pytest.mark.parametrize("leaves", ["gives it back", "ends", "is killed"])
@pytest.mark.parametrize(("site", "kind", "size"), SHARED, indirect=["site"])
def test_whoever_still_holds_what_its_exporter_let_go_of_answers_for_it(
    here: Slice, tenant: Path, box: Box, kind: str, size: int, leaves: str
) -> None:
    two = 2 * CONTEXT
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        assert maker.do("get", kind, 0, size, 0) == SUCCESS
        size = held(size) if kind != "pitch" else maker_size(here, two)
        expect(here, two + size)
        # Opened twice, it is still charged once.
        for place in (0, 1):
            assert maker.do("poke", 0, here.node.vendor.shown[kind]) == SUCCESS
            assert user.do("get", "shared", place, 0, place) == SUCCESS
        expect(here, two + size)
        if leaves == "gives it back":
            assert maker.do("give", 0, 4) == SUCCESS
            assert maker.do("settle") == SUCCESS
        elif leaves == "ends":
            assert maker.end() == 0
        else:
            maker.kill()
        left = two if leaves == "gives it back" else CONTEXT
        probe(here, user)
        expect(here, left + size)
        assert user.do("give", 0, 0) == SUCCESS
        expect(here, left + size)
        assert user.do("give", 1, 0) == SUCCESS
        expect(here, left)
    assert here.truth().max_used_bytes[0] <= SMALL_CAP


def maker_size(here: Slice, contexts: int) -> int:
    return here.truth().used_bytes[0] - contexts


def test_small_allocations_of_one_page_are_one_memory_to_others(
    here: Slice, tenant: Path, box: Box
) -> None:
    two = 2 * CONTEXT
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        for place in range(4):
            assert maker.do("get", "linear", place, 8192, 0) == SUCCESS
            assert maker.do("poke", place, 1) == SUCCESS
        for place in range(3):
            assert user.do("get", "shared", place, 0, 0) == SUCCESS
        expect(here, two + 2 * MIB)
        # The last of the page goes, though it was never opened; then another page begins.
        for place in range(4):
            expect(here, two + 2 * MIB)
            assert maker.do("give", place, 4) == SUCCESS
        expect(here, two + 2 * MIB)
        assert maker.do("get", "linear", 9, 8192, 0) == SUCCESS
        expect(here, two + 4 * MIB)
        for place in range(3):
            expect(here, two + 4 * MIB)
            assert user.do("give", place, 0) == SUCCESS
        expect(here, two + 2 * MIB)


@pytest.mark.parametrize("site", sending("pages"), indirect=True)
def test_memory_that_was_under_way_is_charged_to_whoever_opens_it(
    here: Slice, tenant: Path, box: Box
) -> None:
    two = 2 * CONTEXT
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        assert maker.do("get", "pages", 0, 16 * MIB, 0) == SUCCESS
        assert maker.do("send", 0) == SUCCESS
        assert maker.do("give", 0, 0) == SUCCESS
        # Only a descriptor in a socket keeps it alive: no process of the slice holds it.
        assert here.charge() == two
        assert user.do("get", "shared", 0, 0, 0) == SUCCESS
        expect(here, two + 16 * MIB)
        assert user.do("give", 0, 0) == SUCCESS
        expect(here, two)


@pytest.mark.parametrize("site", sending("pool"), indirect=True)
def test_a_pools_memory_opened_elsewhere_is_charged_once(
    here: Slice, tenant: Path, box: Box
) -> None:
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        assert maker.do("get", "pool", 0, MIB, 0) == SUCCESS
        before = here.truth().used_bytes[0]
        assert maker.do("send", 0) == SUCCESS
        assert user.do("get", "shared", 0, 0, 0) == SUCCESS
        expect(here, before)
        assert user.do("give", 0, 0) == SUCCESS
        assert maker.do("give", 0, 4) == SUCCESS
        assert maker.do("settle") == SUCCESS
        expect(here, 2 * CONTEXT)


def test_what_lies_in_the_box_of_nobody_is_not_found(here: Slice, tenant: Path, box: Box) -> None:
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        assert maker.do("get", "linear", 0, 4 * MIB, 0) == SUCCESS
        assert maker.do("poke", 0, 1) == SUCCESS
        assert maker.do("give", 0, 4) == SUCCESS
        assert user.do("get", "shared", 0, 0, 0) == ABSENT
        expect(here, 2 * CONTEXT)
