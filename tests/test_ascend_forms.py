"""Every function of the Ascend runtime that is wrapped is called, and is what its class says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cuda_table
import gates
from ascend_tenants import OK, compile_program, running, said, sliced
from commands import wait_for
from slices import MIB
from tenants import CONTEXT, SimNode, simulated

NOT_SUPPORTED = 207000
# Models within models: the simulator's chips have none, and the runtime says so.
REFUSED = {"rtStreamBeginCaptureToModel", "aclmdlRICaptureToModelRIBegin"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("client"), "ascend_forms_client")


@pytest.fixture
def node(sim_library: Path) -> Iterator[SimNode]:
    with simulated(sim_library.with_name("libruntime.so"), 2048 * MIB, vendor="ascend") as found:
        yield found


def names(client: Path, node: SimNode, of: str) -> list[str]:
    """What the program can do."""
    return said(client, node.environment("bare"), [f"names {of}"]).split()


def kinds() -> dict[str, str]:
    """The class of each function, by the name that programs call it by."""
    found = {row.function: row.kind for row in cuda_table.read_table(cuda_table.ASCEND_TABLE)}
    # Of what one function does for several, copies are no launches.
    return found | {"rtGeneralCtrl_copy": "copy"}


def test_every_form_answers_as_it_does_without_the_shim(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    forms = names(client, node, "forms")
    assert len(forms) > 90
    lines = [f"do {name}" for name in forms] * 2
    bare = said(client, node.environment("bare"), lines)
    assert [int(code) for code in bare.split()] == [
        NOT_SUPPORTED if name in REFUSED else OK for name in forms * 2
    ]
    assert said(client, sliced(node, tmp_path).environment(), lines) == bare


def test_a_closed_gate_holds_what_launches_and_nothing_else(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path)
    gate = gates.Gate(here.usage_path.parent)
    of = kinds()
    held = []
    with gate.beating(), running(client, here.environment()) as tenant:
        gate.write(gates.OPEN)
        assert tenant.do("do", "rtDeviceSynchronize") == OK
        for name in names(client, node, "forms"):
            gate.write(gates.CLOSED, others=1)
            if (of.get(name) or of[name.partition("_")[0]]) == "launch":
                tenant.say(f"do {name}")
                wait_for(lambda: gate.waiting() > 0, f"{name} to wait")
                gate.write(gates.OPEN)
                assert int(tenant.read()) == OK, name
                assert tenant.do("sync") == OK
                held.append(name)
            else:
                assert tenant.do("do", name) == (NOT_SUPPORTED if name in REFUSED else OK), name
    gate.close()
    assert len(held) > 40


def test_each_beginning_and_end_of_a_device_is_charged_and_taken_back(
    client: Path, node: SimNode, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path)
    beginnings, ends = names(client, node, "beginnings"), names(client, node, "ends")
    pairs = [
        (first, last)
        for first in beginnings
        for last in ends
        # A context that is ended with its device is no more; a device is not ended by its contexts.
        if ("Ctx" in first) == ("Ctx" in last)
    ]
    lines = [line for first, last in pairs for line in (f"begin {first}", f"end {last}")]
    bare = said(client, node.environment("bare"), lines)
    assert {int(code) for code in bare.split()} == {OK}
    with running(client, here.environment()) as tenant:
        for first, last in pairs:
            assert tenant.do("begin", first) == OK, first
            assert here.charge() == CONTEXT == here.truth().used_bytes[0], first
            assert tenant.do("end", last) == OK, last
            assert here.charge() == 0 == here.truth().used_bytes[0], (first, last)
