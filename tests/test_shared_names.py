"""Memory that processes of a slice share has many names, and is charged once by all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.shim import region

from slices import MIB
from tenants import CONTEXT, PAGE, SUCCESS, Box, Site, Slice, Tenant

CAP = 256 * MIB
CONTEXTS = 2 * CONTEXT
SEND, NOW = 1, 4
# Whose memory gets a name for itself whenever it is shown. (Cambricon's has one for a page.)
NAMED = ["nvidia", "ascend"]


@pytest.fixture
def tenant(site: Site) -> Path:
    """The client that takes and gives back memory by every call."""
    return site.program("tenant")


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Slice]:
    """A small slice of a device with plenty."""
    with site.simulated(2048 * MIB) as node:
        yield site.slice(node, tmp_path, "slice", CAP)


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


@pytest.mark.parametrize("site", NAMED, indirect=True)
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


@pytest.mark.parametrize("site", NAMED, indirect=True)
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
        assert user.do("get", "shared", 0, 0, 0) == here.refusal
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
    site: Site, tenant: Path, tmp_path: Path
) -> None:
    rounds = 3
    kinds = [kind for kind in site.vendor.shown if kind != "pages"]
    with site.simulated(8192 * MIB) as node:
        here = site.slice(node, tmp_path, "storm", 2048 * MIB)
        box = Box()
        shape = ["storm", "8", str(rounds), "500"]
        running = [
            Tenant.start(
                tenant,
                here.environment(),
                *(*shape, str(number), str(64 * MIB), *kinds, "shared"),
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
