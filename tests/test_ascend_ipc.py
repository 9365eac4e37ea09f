"""Memory of an Ascend slice that several of its processes hold: one of them is charged for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ascend_tenants import (
    BAD_ARGUMENT,
    CAP,
    OK,
    OUT_OF_MEMORY,
    compile_program,
    got,
    running,
    sliced,
)
from slices import MIB
from tenants import CONTEXT, PAGE, SimNode, Slice, Tenant, simulated

NAMES = ("acl", "rts", "rt")
NUMBERS = ("acl", "rts", "rt", "acl-v2", "acl-fabric", "rt-fabric")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("client"), "ascend_share_client")


@pytest.fixture
def node(sim_library: Path) -> Iterator[SimNode]:
    with simulated(sim_library.with_name("libruntime.so"), 2048 * MIB, vendor="ascend") as found:
        yield found


class Pair:
    """Two programs of a slice, each with its device open."""

    def __init__(self, here: Slice, one: Tenant, two: Tenant) -> None:
        self.here, self.one, self.two = here, one, two
        assert [one.do("set", 0), two.do("set", 0)] == [OK, OK]

    def pages(self, contexts: int = 2) -> int:
        """Pages charged beside the devices' own; as many as there are."""
        charge = self.here.charge()
        assert charge == self.here.truth().used_bytes[0]
        return (charge - contexts * CONTEXT) // PAGE

    def export(self, how: str, thing: str, size: int = 4 * PAGE) -> str:
        """The name of the first one's memory, which the second one may open."""
        code, name = got(self.one, "export", how, thing, size)
        assert (code, len(name) > 0) == (OK, True)
        assert self.one.do("allow", how, name, self.two.process.pid) == OK
        return name


@pytest.fixture
def pair(client: Path, node: SimNode, tmp_path: Path) -> Iterator[Pair]:
    here = sliced(node, tmp_path)
    with ExitStack() as stack:
        one, two = (stack.enter_context(running(client, here.environment())) for _ in range(2))
        yield Pair(here, one, two)


def give(tenant: Tenant, pages: int) -> str:
    code, thing = got(tenant, "give", "acl", pages * PAGE)
    assert code == OK
    return thing


@pytest.mark.parametrize("how", NAMES)
def test_what_is_opened_by_its_name_is_charged_once(pair: Pair, how: str) -> None:
    thing = give(pair.one, 4)
    assert pair.one.do("fill", 7, thing, 4 * PAGE) == OK
    name = pair.export(how, thing)
    code, opened = got(pair.two, "open", how, name)
    assert (code, pair.pages()) == (OK, 4)
    # It is the same memory.
    assert pair.two.do("check", 7, opened, 4 * PAGE) == OK
    assert pair.two.do("fill", 9, opened, PAGE) == OK
    assert pair.one.do("check", 9, thing, PAGE) == OK
    assert pair.two.do("close", how, opened, name) == OK
    assert pair.two.do("close", how, opened, name) != OK
    assert pair.pages() == 4
    assert pair.one.do("free", "rts", thing) == OK
    assert pair.pages() == 0


@pytest.mark.parametrize("end", ["free", "kill", "reset"])
def test_who_holds_memory_longest_is_charged_for_it_in_the_end(pair: Pair, end: str) -> None:
    thing = give(pair.one, 4)
    name = pair.export("rt", thing)
    opened = got(pair.two, "open", "acl", name)[1]
    if end == "free":
        assert pair.one.do("free", "acl", thing) == OK
    elif end == "reset":
        assert pair.one.do("reset", 0) == OK
    else:
        pair.one.kill()
    # Whoever looks for room finds a dead process' charges.
    assert got(pair.two, "give", "acl", CAP)[0] == OUT_OF_MEMORY
    contexts = 2 if end == "free" else 1
    assert pair.here.charge() == contexts * CONTEXT + 4 * PAGE
    room = (CAP - contexts * CONTEXT) // PAGE - 4
    rest = give(pair.two, room)
    assert got(pair.two, "give", "acl", PAGE)[0] == OUT_OF_MEMORY
    assert pair.two.do("close", "rt", opened, name) == OK
    assert pair.pages(contexts) == room
    assert pair.two.do("free", "acl", rest) == OK
    assert pair.pages(contexts) == 0


@pytest.mark.parametrize("end", ["kill", "reset"])
def test_an_importer_that_ends_leaves_its_exporter_charged(pair: Pair, end: str) -> None:
    thing = give(pair.one, 4)
    name = pair.export("rts", thing)
    assert got(pair.two, "open", "rts", name)[0] == OK
    if end == "kill":
        pair.two.kill()
    else:
        # What was opened on a device is closed with it.
        assert pair.two.do("reset", 0) == OK
    assert got(pair.one, "give", "acl", CAP)[0] == OUT_OF_MEMORY
    assert pair.pages(1) == 4
    assert pair.one.do("free", "acl", thing) == OK
    assert pair.pages(1) == 0


def test_small_pieces_of_a_page_are_one_memory(pair: Pair) -> None:
    first, second = (got(pair.one, "give", "acl", 4096)[1] for _ in range(2))
    names = [pair.export("acl", thing, 4096) for thing in (first, second)]
    assert names[0] != names[1]
    opened = [got(pair.two, "open", "acl", name)[1] for name in names]
    assert pair.pages() == 1
    assert [pair.one.do("free", "acl", thing) for thing in (first, second)] == [OK, OK]
    assert pair.pages() == 1
    for thing, name in zip(opened, names, strict=True):
        assert pair.two.do("close", "acl", thing, name) == OK
    assert pair.pages() == 0


def test_only_who_may_opens_it(pair: Pair) -> None:
    thing = give(pair.one, 1)
    name = got(pair.one, "export", "rt", thing, PAGE)[1]
    assert got(pair.two, "open", "rt", name)[0] == BAD_ARGUMENT
    assert got(pair.two, "open", "rt", "nothing-has-this-name")[0] == BAD_ARGUMENT
    everyone = got(pair.one, "export-all", "acl", thing, PAGE)[1]
    code, opened = got(pair.two, "open", "rts", everyone)
    assert (code, pair.pages()) == (OK, 1)
    assert pair.one.do("destroy", "rt", everyone) == OK
    assert got(pair.two, "open", "rts", everyone)[0] == BAD_ARGUMENT
    assert pair.two.do("close", "rt", opened) == OK
    assert pair.pages() == 1


@pytest.mark.parametrize("how", NUMBERS)
@pytest.mark.parametrize("end", ["release", "kill"])
def test_physical_memory_of_a_number_passes_on(pair: Pair, how: str, end: str) -> None:
    plain = how.split("-", maxsplit=1)[0]
    code, handle = got(pair.one, "physical", plain, 6 * PAGE)
    assert (code, pair.pages()) == (OK, 6)
    code, number = got(pair.one, "share-all", how, handle)
    code, taken = got(pair.two, "take", how, number)
    assert (code, pair.pages()) == (OK, 6)
    code, mapped = got(pair.two, "map", plain, taken, 6 * PAGE)
    assert code == OK
    assert pair.two.do("fill", 3, mapped, 6 * PAGE) == OK
    code, mine = got(pair.one, "map", plain, handle, 6 * PAGE)
    assert pair.one.do("check", 3, mine, 6 * PAGE) == OK
    contexts = 2
    if end == "kill":
        pair.one.kill()
        contexts = 1
        assert got(pair.two, "give", "acl", CAP)[0] == OUT_OF_MEMORY
    else:
        assert pair.one.do("unmap", plain, mine) == OK
        assert pair.one.do("release", plain, handle) == OK
    assert pair.here.charge() == contexts * CONTEXT + 6 * PAGE
    assert pair.two.do("check", 3, mapped, 6 * PAGE) == OK
    # Its handle may go before its mapping.
    assert pair.two.do("release", plain, taken) == OK
    assert pair.pages(contexts) == 6
    assert pair.two.do("unmap", plain, mapped) == OK
    assert pair.pages(contexts) == 0


def test_only_who_may_takes_physical_memory(pair: Pair) -> None:
    handle = got(pair.one, "physical", "acl", PAGE)[1]
    number = got(pair.one, "share", "rt", handle)[1]
    assert got(pair.two, "take", "acl", number)[0] == BAD_ARGUMENT
    assert pair.one.do("allow-number", "rt", number, pair.two.process.pid) == OK
    code, taken = got(pair.two, "take", "rt", number)
    assert (code, pair.pages()) == (OK, 1)
    again = got(pair.two, "take", "rts", number)[1]
    assert pair.one.do("release", "rts", handle) == OK
    assert [pair.two.do("release", "rt", one) for one in (taken, again)] == [OK, OK]
    assert pair.pages() == 0


def test_memory_of_another_slice_is_its_own(client: Path, node: SimNode, tmp_path: Path) -> None:
    ours, theirs = (sliced(node, tmp_path / name) for name in ("ours", "theirs"))
    with running(client, ours.environment()) as one, running(client, theirs.environment()) as two:
        assert [one.do("set", 0), two.do("set", 0)] == [OK, OK]
        name = got(one, "export-all", "acl", give(one, 4), 4 * PAGE)[1]
        code, opened = got(two, "open", "acl", name)
        assert code == OK
        # (Who exported it is charged: whoever else opens it is not known to have it.)
        assert (ours.charge(), theirs.charge()) == (CONTEXT + 4 * PAGE, CONTEXT)
        assert two.do("close", "acl", opened, name) == OK
        assert theirs.charge() == CONTEXT


def test_a_program_that_shares_cannot_tell_the_shim_from_the_runtime(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path)

    def play(environment: dict[str, str]) -> list[object]:
        heard: list[object] = []
        with running(client, environment) as one, running(client, environment) as two:
            for how in NAMES:
                heard += [one.do("set", 0), two.do("set", 0)]
                thing = got(one, "give", "acl", 3 * PAGE)[1]
                name = got(one, "export-all" if how != "rt" else "export", how, thing, PAGE)[1]
                heard += [len(name) > 0, one.do("allow", how, name, two.process.pid)]
                heard += [got(one, "export", how, thing, 1 << 40), got(one, "export", how, 99, 1)]
                heard += [got(two, "open", how, "no-such-name"), got(two, "open", how, "../name")]
                code, opened = got(two, "open", how, name)
                heard += [code, two.do("fill", 5, opened, PAGE), one.do("check", 5, thing, PAGE)]
                heard += [two.do("close", how, opened, name), two.do("close", how, opened, name)]
                heard += [one.do("free", "acl", thing), one.do("reset", 0), two.do("reset", 0)]
            heard += [one.do("set", 0), two.do("set", 0)]
            for how in NUMBERS:
                handle = got(one, "physical", "rt", PAGE)[1]
                number = got(one, "share-all", how, handle)[1]
                heard += [got(two, "take", how, "12345"), got(one, "share", how, 999)[0]]
                code, taken = got(two, "take", how, number)
                heard += [code, two.do("release", "rt", taken), one.do("release", "rt", handle)]
                heard += [got(two, "take", how, number)[0]]
        return heard

    assert play(node.environment("bare")) == play(here.environment())
    assert here.charge() == 0
