"""Models, captures, callbacks, notifies and peers: what they are to an Ascend slice's time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gates
from ascend_tenants import OK, compile_program, got, running, sliced
from commands import wait_for
from slices import MIB
from tenants import SimNode, Slice, Tenant, simulated

BAD_ARGUMENT = 107000
NOT_THE_MODELS = 107005
ALREADY = 107011
NOBODY = 107015
CAPTURED = 107027
NOT_CAPTURED = 107029
NOT_SUPPORTED = 107030
UNMATCHED = 107036
INVALIDATED = 507903
NOT_DONE = 507004
NOTHING_CAME = 507012
MS = 1_000_000
# What a slice may be ahead of its cap: the bucket, a window, and a launch that nobody has measured.
AHEAD_NS = 40 * MS


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("client"), "ascend_model_client")


@pytest.fixture
def node(sim_library: Path) -> Iterator[SimNode]:
    with simulated(sim_library.with_name("libruntime.so"), 2048 * MIB, vendor="ascend") as found:
        yield found


def made(tenant: Tenant, *words: object) -> str:
    """The number of what a line makes."""
    code, thing = got(tenant, *words)
    assert code == OK, words
    return thing


def captured(tenant: Tenant, how: str, ns: int, count: int) -> str:
    """A model of so many kernels."""
    stream = made(tenant, "stream")
    assert tenant.do("begin", how, stream) == OK
    assert tenant.do("launches", ns, stream, count) == OK
    return made(tenant, "end", how, stream)


def built(tenant: Tenant, how: str, ns: int, count: int) -> str:
    model, stream = made(tenant, "create", how), made(tenant, "stream")
    assert tenant.do("bind", how, model, stream) == OK
    assert tenant.do("launches", ns, stream, count) == OK
    assert tenant.do("complete", how, model, stream) == OK
    assert tenant.do("unbind", how, model, stream) == OK
    return model


def measured_ns(here: Slice) -> int:
    return here.usage().devices[0].device_ns


def settled_ns(here: Slice) -> int:
    """What was measured once everything that has ended is booked: then nobody is active."""
    usage = here.library.parent / ".aliquot/usage"
    wait_for(lambda: not gates.active(usage), "all is booked")
    return measured_ns(here)


# -- Time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [captured, built], ids=["captured", "built"])
@pytest.mark.parametrize("how", ["acl", "rts", "rt"])
def test_a_model_is_charged_when_it_is_executed(
    client: Path, node: SimNode, tmp_path: Path, make: object, how: str
) -> None:
    here = sliced(node, tmp_path, cores=25)
    with running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        assert callable(make)
        model = make(tenant, how, 5 * MS, 2)
        # As much again as it may take in a minute was recorded, and none of it has run.
        long = make(tenant, how, 1000 * MS, 20)
        assert tenant.do("sync", "all") == OK
        assert measured_ns(here) == 0
        began = time.monotonic_ns()
        assert tenant.do("executes", how, model, 30) == OK
        assert time.monotonic_ns() - began >= (300 * MS - AHEAD_NS) * 4
        assert measured_ns(here) >= 300 * MS - AHEAD_NS
        assert [tenant.do("destroy", how, one) for one in (model, long)] == [OK, OK]


@pytest.mark.parametrize("how", ["acl-sync", "rts-sync", "rt-sync"])
def test_models_that_are_waited_for_keep_to_their_part_too(
    client: Path, node: SimNode, tmp_path: Path, how: str
) -> None:
    here = sliced(node, tmp_path, cores=25)
    with running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        model = captured(tenant, "acl", 5 * MS, 2)
        began = time.monotonic_ns()
        assert tenant.do("executes", how, model, 20) == OK
        assert time.monotonic_ns() - began >= (200 * MS - AHEAD_NS) * 4
        assert measured_ns(here) >= 200 * MS - AHEAD_NS


def test_launches_in_two_steps_keep_to_their_part_too(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path, cores=25)
    with running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        stream = made(tenant, "stream")
        began = time.monotonic_ns()
        assert tenant.do("steps", 5 * MS, stream, 40) == OK
        assert tenant.do("sync", "rt", stream) == OK
        assert time.monotonic_ns() - began >= (200 * MS - AHEAD_NS) * 4
        assert measured_ns(here) >= 200 * MS - AHEAD_NS


def test_a_closed_gate_holds_models_back_and_nothing_that_is_recorded_or_releases_others(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path)
    gate = gates.Gate(here.usage_path.parent)
    gate.write(gates.CLOSED, others=1)
    with gate.beating(), running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        models = [captured(tenant, "rt", MS, 3), built(tenant, "acl", MS, 3)]
        stream, other, notify = (
            made(tenant, "stream"),
            made(tenant, "stream"),
            made(tenant, "notify"),
        )
        memory, event = [made(tenant, "memory") for _ in range(2)], made(tenant, "event")
        for how in ("acl", "rt", "rts"):
            assert tenant.do("copy", how, *memory) == OK
            assert tenant.do("hear", how, notify, stream) == OK
            assert tenant.do("tell", how, notify, other) == OK
        for how in ("rts-host", "acl-host"):
            assert tenant.do("call", how, stream) == OK
        assert tenant.do("record", "x", event, stream) == OK
        assert tenant.do("wait", "x", other, event) == OK
        for how in ("acl", "rt", "rts"):
            assert tenant.do("sync", how, stream) == OK
        assert tenant.do("sync", "all") == OK
        assert tenant.do("called") == 2
        for number, model in enumerate(models):
            gate.write(gates.CLOSED, others=1)
            tenant.say(f"executes acl {model} 1")
            wait_for(lambda: gate.waiting() > 0, "a model that waits for the gate")
            gate.write(gates.OPEN)
            assert int(tenant.read()) == OK, number
    gate.close()


# -- Captures and models --------------------------------------------------------------------------


@pytest.mark.parametrize("shimmed", [False, True], ids=["bare", "shim"])
def test_what_is_recorded_is_done_when_it_is_executed(
    client: Path, node: SimNode, tmp_path: Path, shimmed: bool
) -> None:
    here = sliced(node, tmp_path, cores=50)
    environment = here.environment() if shimmed else node.environment("bare")
    with running(client, environment) as tenant:
        assert tenant.do("set", 0) == OK
        stream, other, event = made(tenant, "stream"), made(tenant, "stream"), made(tenant, "event")
        memory = made(tenant, "memory")
        # A launch before: its stream is known to whoever measures.
        assert tenant.do("launches", MS, stream, 10) == OK
        assert tenant.do("sync", "acl", stream) == OK
        assert tenant.do("fill", 1, memory) == OK
        assert got(tenant, "status", "x", stream)[1].split()[0] == "0"
        assert tenant.do("begin", "acl", stream) == OK
        assert got(tenant, "status", "x", stream)[1] == "1 1"
        assert tenant.do("begin", "rt", stream) == CAPTURED
        # Others are not disturbed, and those that wait for the stream join it.
        assert tenant.do("launches", MS, other, 10) == OK
        assert tenant.do("sync", "acl", other) == OK
        assert tenant.do("fill-in", 2, memory, stream) == OK
        assert tenant.do("record", "x", event, stream) == OK
        assert tenant.do("wait", "x", other, event) == OK
        assert tenant.do("launch", MS, other) == OK
        assert tenant.do("fill-in", 3, memory, other) == OK
        assert got(tenant, "end", "rt", other)[0] == UNMATCHED
        # The stream that began it must have come to what the others do.
        assert tenant.do("record", "x", event, other) == OK
        assert tenant.do("wait", "x", stream, event) == OK
        model = made(tenant, "end", "acl", stream)
        assert got(tenant, "end", "acl", stream)[0] == NOT_CAPTURED
        assert tenant.do("query", "x", other) == OK
        assert tenant.do("check", 1, memory) == OK
        assert tenant.do("execute", "rts", model, stream) == OK
        assert tenant.do("sync", "rts", stream) == OK
        assert tenant.do("check", 3, memory) == OK
        assert tenant.do("destroy", "rt", model) == OK
        assert tenant.do("execute", "rt", model, stream) == BAD_ARGUMENT
        # Whoever asks a stream that is captured ends the capture: nobody but the program does.
        assert tenant.do("begin", "rt", stream) == OK
        assert tenant.do("launches", MS, stream, 10) == OK
        assert tenant.do("launches", MS, other, 10) == OK
        assert tenant.do("sync", "acl", other) == OK
        assert tenant.do("query", "x", stream) == NOT_SUPPORTED
        assert got(tenant, "end", "rt", stream)[0] == INVALIDATED
        assert tenant.do("query", "x", stream) == OK


@pytest.mark.parametrize("shimmed", [False, True], ids=["bare", "shim"])
def test_streams_of_a_model_are_their_own_again_afterwards(
    client: Path, node: SimNode, tmp_path: Path, shimmed: bool
) -> None:
    here = sliced(node, tmp_path, cores=50)
    environment = here.environment() if shimmed else node.environment("bare")
    with running(client, environment) as tenant:
        assert tenant.do("set", 0) == OK
        memory = made(tenant, "memory")
        for how in ("acl", "rts", "rt"):
            model, stream = made(tenant, "create", how), made(tenant, "stream")
            assert tenant.do("fill", 1, memory) == OK
            assert tenant.do("execute", how, model, stream) == BAD_ARGUMENT
            assert tenant.do("complete", how, model, stream) == NOT_THE_MODELS
            assert tenant.do("bind", how, model, stream) == OK
            assert tenant.do("bind", how, model, stream) == BAD_ARGUMENT
            assert tenant.do("fill-in", 5, memory, stream) == OK
            assert tenant.do("launches", MS, stream, 5) == OK
            assert tenant.do("complete", how, model, stream) == OK
            assert tenant.do("check", 1, memory) == OK
            assert tenant.do("execute", how, model, "-") == OK
            assert tenant.do("sync", "all") == OK
            assert tenant.do("check", 5, memory) == OK
            if how == "rt":
                # Destroyed with its streams bound: they are free.
                assert tenant.do("destroy", how, model) == OK
            else:
                assert tenant.do("unbind", how, model, stream) == OK
                assert tenant.do("unbind", how, model, stream) == NOT_THE_MODELS
            before = measured_ns(here) if shimmed else 0
            assert tenant.do("launches", 5 * MS, stream, 20) == OK
            assert tenant.do("sync", "acl", stream) == OK
            if shimmed:
                assert measured_ns(here) - before >= 100 * MS - AHEAD_NS
            assert tenant.do("end-stream", "rts" if how == "rts" else "acl", stream) == OK


# -- Callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shimmed", [False, True], ids=["bare", "shim"])
@pytest.mark.parametrize("how", ["acl", "acl-holds", "rt", "rts-host", "acl-host"])
def test_functions_of_the_program_are_called_in_streams(
    client: Path, node: SimNode, tmp_path: Path, how: str, shimmed: bool
) -> None:
    here = sliced(node, tmp_path, cores=50)
    with running(client, here.environment() if shimmed else node.environment("bare")) as tenant:
        assert tenant.do("set", 0) == OK
        stream = made(tenant, "stream")
        assert tenant.do("launches", MS, stream, 3) == OK
        answers = tenant.ask("calls", how, stream, 5).split()
        assert answers == [str(one) for one in (OK, NOBODY, ALREADY, OK, 5, 1, OK)]
        assert tenant.do("report", "rt" if how == "rt" else "acl", 1) == NOTHING_CAME


# -- Notifies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["acl", "rts", "rt"])
def test_a_stream_waits_for_one_of_another_process(
    client: Path, node: SimNode, tmp_path: Path, how: str
) -> None:
    here = sliced(node, tmp_path, cores=25)
    with (
        running(client, here.environment()) as one,
        running(client, here.environment()) as two,
    ):
        assert [one.do("set", 0), two.do("set", 0)] == [OK, OK]
        notify = made(one, "notify", how)
        code, name = got(one, "name", how, notify)
        assert (code, len(name) > 0) == (OK, True)
        theirs = made(two, "open", how, name)
        ours, stream = made(one, "stream"), made(two, "stream")
        for _ in range(2):
            assert one.do("hear", how, notify, ours) == OK
            assert one.do("query", "x", ours) == NOT_DONE
            # It takes no time of the slice while it waits: others' launches go on.
            assert two.do("launches", 5 * MS, stream, 4) == OK
            assert two.do("tell", how, theirs, stream) == OK
            assert [one.do("sync", "acl", ours), two.do("sync", "rts", stream)] == [OK, OK]
        assert two.do("end-notify", how, theirs) == OK
        assert one.do("end-notify", how, notify) == OK
        assert one.do("tell", how, notify, ours) == BAD_ARGUMENT
        assert got(two, "open", how, name)[0] == BAD_ARGUMENT


# -- Peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shimmed", [False, True], ids=["bare", "shim"])
def test_memory_is_copied_between_devices(
    client: Path, node: SimNode, tmp_path: Path, shimmed: bool
) -> None:
    here = sliced(node, tmp_path, cores=25, devices=2)
    environment = here.environment() if shimmed else node.environment("bare")
    with running(client, environment, "0,1") as tenant:
        memory = []
        for device in (1, 0):
            assert tenant.do("set", device) == OK
            memory.append(made(tenant, "memory"))
        for number, how in enumerate(("acl", "rts", "rt"), start=4):
            assert tenant.do("peer", how, 0, 1) == OK
            assert tenant.do("fill", number, memory[1]) == OK
            assert tenant.do("sync", "all") == OK
            before = settled_ns(here)
            assert tenant.do("copy", how, *memory) == OK
            assert tenant.do("sync", "all") == OK
            # An engine of its own copies: the slice's time is not spent, but on the fill.
            assert settled_ns(here) - before < 5 * MS
            assert tenant.do("no-peer", how, 0, 1) == OK
            assert tenant.do("set", 1) == OK
            assert tenant.do("check", number, memory[0]) == OK
            assert tenant.do("set", 0) == OK
        assert tenant.do("peer", "rt", 0, 9) != OK
