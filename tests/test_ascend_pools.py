"""Pools of an Ascend slice, which give memory in the order of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ascend_tenants import CAP, OK, OUT_OF_MEMORY, compile_program, got, running, sliced
from slices import MIB
from tenants import CONTEXT, PAGE, SimNode, Slice, Tenant, simulated

KEEPS_ALL = 1 << 40


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("client"), "ascend_share_client")


# Pools that grow by whole pages, as CANN's do, and by more than is asked of them.
@pytest.fixture(params=[1, 16], ids=["pages", "chunks"])
def node(sim_library: Path, request: pytest.FixtureRequest) -> Iterator[SimNode]:
    library = sim_library.with_name("libruntime.so")
    chunk = request.param * PAGE
    with simulated(library, 2048 * MIB, vendor="ascend", pool_chunk=chunk) as found:
        yield found


def made(tenant: Tenant, how: str) -> str:
    assert tenant.do("set", 0) == OK
    code, pool = got(tenant, "pool", how)
    assert code == OK
    return pool


def pages(here: Slice) -> int:
    """Pages charged beside the device's own; as many as there are."""
    charge = here.charge()
    assert charge == here.truth().used_bytes[0]
    return (charge - CONTEXT) // PAGE


@pytest.mark.parametrize("how", ["acl", "rt"])
def test_a_pool_is_charged_for_what_it_has_reserved(
    client: Path, node: SimNode, tmp_path: Path, how: str
) -> None:
    here = sliced(node, tmp_path)
    with running(client, here.environment()) as tenant:
        pool = made(tenant, how)
        assert tenant.do("pool-keeps", how, pool, KEEPS_ALL) == OK
        assert pages(here) == 0
        code, piece = got(tenant, "pool-gives", how, pool, 8 * PAGE)
        assert code == OK
        reserved = pages(here)
        assert reserved >= 8
        # What it keeps stays charged, until it lets go of it.
        assert [tenant.do("pool-takes", how, piece), tenant.do("pool-sync")] == [OK, OK]
        assert pages(here) == reserved
        code, piece = got(tenant, "pool-gives", how, pool, 8 * PAGE)
        assert (code, pages(here)) == (OK, reserved)
        assert [tenant.do("pool-takes", how, piece), tenant.do("pool-sync")] == [OK, OK]
        assert tenant.do("pool-trim", how, pool, 0) == OK
        assert pages(here) == 0
        # So it does by itself when the program waits, where it is to keep nothing.
        assert tenant.do("pool-keeps", how, pool, 0) == OK
        code, piece = got(tenant, "pool-gives", how, pool, 4 * PAGE)
        assert [code, tenant.do("pool-takes", how, piece), tenant.do("pool-sync")] == [OK] * 3
        assert pages(here) == 0
        assert tenant.do("pool-end", how, pool) == OK
        assert pages(here) == 0


@pytest.mark.parametrize("how", ["acl", "rt"])
def test_pools_do_not_get_round_a_cap(
    client: Path, node: SimNode, tmp_path: Path, how: str
) -> None:
    here = sliced(node, tmp_path)
    with running(client, here.environment()) as tenant:
        pools = [made(tenant, how) for _ in range(2)]
        given = []
        for pool in pools:
            assert tenant.do("pool-keeps", how, pool, KEEPS_ALL) == OK
            while (answer := got(tenant, "pool-gives", how, pool, 16 * PAGE))[0] == OK:
                given.append(answer[1])
            assert answer[0] == OUT_OF_MEMORY
        assert given
        assert here.charge() == here.truth().used_bytes[0]
        assert here.truth().max_used_bytes[0] <= CAP
        assert got(tenant, "give", "acl", CAP)[0] == OUT_OF_MEMORY
        # What pools keep and nobody uses, they give back before anything is refused.
        assert [tenant.do("pool-takes", how, piece) for piece in given] == [OK] * len(given)
        assert tenant.do("pool-sync") == OK
        assert pages(here) >= 16
        code, piece = got(tenant, "give", "acl", CAP - CONTEXT)
        assert (code, here.charge()) == (OK, CAP)
        assert tenant.do("free", "acl", piece) == OK
        # What is still used of a pool that is gone is charged, with all that is reserved for it.
        code, piece = got(tenant, "pool-gives", how, pools[0], 4 * PAGE)
        assert [code, tenant.do("pool-end", how, pools[0])] == [OK, OK]
        assert pages(here) >= 4
        assert tenant.do("reset", 0) == OK
    assert here.charge() == 0


@pytest.mark.parametrize("how", ["acl", "rt"])
def test_a_pool_that_grows_by_more_than_there_is_room_for_gives_it_back(
    client: Path, node: SimNode, tmp_path: Path, how: str
) -> None:
    chunk = node.device.pool_chunk // PAGE
    room = 20  # pages
    here = sliced(node, tmp_path, cap=CONTEXT + room * PAGE)
    with running(client, here.environment()) as tenant:
        pool = made(tenant, how)
        assert tenant.do("pool-keeps", how, pool, KEEPS_ALL) == OK
        # What is left is less than a chunk, and nobody has seen yet that pools grow by chunks.
        code, rest = got(tenant, "give", "acl", (room - 4) * PAGE)
        assert code == OK
        for _ in range(2):
            answers = [got(tenant, "pool-gives", how, pool, PAGE) for _ in range(5)]
            given = [piece for code, piece in answers if code == OK]
            assert len(given) == (4 if chunk == 1 else 0)
            assert {code for code, _ in answers[len(given) :]} == {OUT_OF_MEMORY}
            assert here.charge() == here.truth().used_bytes[0] <= CONTEXT + room * PAGE
            assert [tenant.do("pool-takes", how, piece) for piece in given] == [OK] * len(given)
            assert tenant.do("pool-sync") == OK
            assert tenant.do("pool-trim", how, pool, 0) == OK
            assert pages(here) == room - 4
        # With room for a chunk there is one, of which no more is asked than it has.
        assert tenant.do("free", "acl", rest) == OK
        code, piece = got(tenant, "pool-gives", how, pool, PAGE)
        assert (code, pages(here)) == (OK, chunk)
        assert tenant.do("pool-takes", how, piece) == OK
