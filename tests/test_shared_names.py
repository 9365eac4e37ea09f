"""Memory that processes of a slice share has many names, and is charged once by all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.shim import region

from slices import MIB
from tenants import (
    CONTEXT,
    OUT_OF_MEMORY,
    PAGE,
    SUCCESS,
    TENANT,
    Box,
    Slice,
    Tenant,
    compile_c,
    simulated,
)

CAP = 256 * MIB
CONTEXTS = 2 * CONTEXT
SEND, NOW = 1, 4


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client that takes and gives back memory by every call."""
    return compile_c(tmp_path_factory.mktemp("tenant"), "tenant", TENANT)


@pytest.fixture
def here(sim_library: Path, shim_library: Path, tmp_path: Path) -> Iterator[Slice]:
    """A small slice of a device with plenty."""
    with simulated(sim_library, 2048 * MIB) as node:
        yield Slice.make(node, shim_library, tmp_path, "slice", CAP)


@pytest.fixture
def box() -> Iterator[Box]:
    """Where its processes send each other memory."""
    made = Box()
    yield made
    made.close()


def serve(here: Slice, program: Path, box: Box) -> Tenant:
    started = Tenant.start(program, here.environment(), "serve", box=box)
    assert started.read() == "ready"
    return started


def expect(here: Slice, charge: int, truth: int | None = None) -> None:
    """So much is charged, and so much is in use."""
    used = charge if truth is None else truth
    assert (here.charge(), here.truth().used_bytes[0]) == (charge, used)


def more_names_than_are_kept(maker: Tenant) -> None:
    """Show others one allocation after the other, all in one page; each is another name of it."""
    for number in range(region.MAX_HOLDS + 1):
        assert maker.do("get", "linear", 9, 8192 + number, 0) == SUCCESS
        assert maker.do("poke", 9, SEND) == SUCCESS
        assert maker.do("give", 9, NOW) == SUCCESS


def test_a_name_outlives_thousands_of_later_ones(here: Slice, tenant: Path, box: Box) -> None:
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        for place in (0, 1):
            assert maker.do("get", "linear", place, 4096, 0) == SUCCESS
            assert maker.do("poke", place, SEND) == SUCCESS
        more_names_than_are_kept(maker)
        expect(here, CONTEXTS + PAGE)
        assert here.usage().lost_holds > 0
        # By its first name and by its second.
        for place in (0, 1):
            assert user.do("get", "shared", place, 0, 0) == SUCCESS
            expect(here, CONTEXTS + PAGE)
        assert user.do("give", 0, 0) == SUCCESS
        box.empty()
        for place in (0, 1):
            assert maker.do("give", place, NOW) == SUCCESS
        # Its maker has let go of it: who knows it by its second name answers for it.
        expect(here, CONTEXTS + PAGE)
        assert user.do("give", 1, 0) == SUCCESS
        expect(here, CONTEXTS)


def test_what_found_no_place_is_charged_to_all_who_hold_it(
    here: Slice, tenant: Path, box: Box
) -> None:
    with serve(here, tenant, box) as maker, serve(here, tenant, box) as user:
        assert maker.do("get", "linear", 0, 4096, 0) == SUCCESS
        more_names_than_are_kept(maker)
        box.empty()
        assert maker.do("get", "linear", 1, 65536, 0) == SUCCESS
        assert maker.do("poke", 1, SEND) == SUCCESS
        expect(here, CONTEXTS + PAGE)
        # It might be a stranger's memory; it might not be.
        assert user.do("get", "shared", 0, 0, 0) == SUCCESS
        expect(here, CONTEXTS + 2 * PAGE, CONTEXTS + PAGE)
        assert maker.do("poke", 1, SEND) == SUCCESS
        assert user.do("get", "shared", 1, 0, 0) == SUCCESS
        expect(here, CONTEXTS + 2 * PAGE, CONTEXTS + PAGE)
        # There is no room for it twice: who would open it is told so.
        assert user.do("give", 0, 0) == SUCCESS
        assert user.do("give", 1, 0) == SUCCESS
        expect(here, CONTEXTS + PAGE)
        assert maker.do("get", "linear", 2, CAP - CONTEXTS - PAGE, 0) == SUCCESS
        assert maker.do("poke", 1, SEND) == SUCCESS
        assert user.do("get", "shared", 0, 0, 0) == OUT_OF_MEMORY
        expect(here, CAP)
        assert maker.do("give", 2, NOW) == SUCCESS
        # So nobody has to pass anything on.
        assert maker.do("poke", 1, SEND) == SUCCESS
        assert user.do("get", "shared", 0, 0, 0) == SUCCESS
        for place in (0, 1):
            assert maker.do("give", place, NOW) == SUCCESS
        expect(here, CONTEXTS + PAGE)
        assert user.do("give", 0, 0) == SUCCESS
        expect(here, CONTEXTS)
        # With the page go its names: there are places again.
        box.empty()
        for place in (0, 1):
            assert maker.do("get", "linear", place, 4096, 0) == SUCCESS
            assert maker.do("poke", place, SEND) == SUCCESS
            assert user.do("get", "shared", place, 0, 0) == SUCCESS
            expect(here, CONTEXTS + PAGE)


def test_a_storm_of_shared_memory_is_counted_to_the_page(
    sim_library: Path, shim_library: Path, tenant: Path, tmp_path: Path
) -> None:
    rounds = 3
    with simulated(sim_library, 8192 * MIB) as node:
        here = Slice.make(node, shim_library, tmp_path, "storm", 2048 * MIB)
        box = Box()
        shape = ["storm", "8", str(rounds), "500"]
        running = [
            Tenant.start(
                tenant,
                here.environment(),
                *(*shape, str(number), str(64 * MIB), "linear", "pitch", "shared"),
                box=box,
            )
            for number in range(8)
        ]
        try:
            assert {each.read() for each in running} == {"ready"}
            for _ in range(rounds + 2):
                assert {each.read() for each in running} == {"quiet"}
                truth = here.truth()
                assert here.charge() == truth.used_bytes[0]
                assert truth.max_used_bytes[0] <= here.cap
                for each in running:
                    each.say("go")
            assert all(each.read().startswith("gone") for each in running)
            assert here.usage().lost_holds == 0
            expect(here, 0)
        finally:
            for each in running:
                each.kill()
            box.close()
