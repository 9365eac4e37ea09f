"""Programs that infer on an Ascend slice: AscendCL's models and operators, and what they take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gates
from ascend_tenants import (
    OK,
    OUT_OF_MEMORY,
    compile_program,
    got,
    running,
    said,
    sliced,
)
from commands import wait_for
from slices import MIB
from tenants import CONTEXT, PAGE, SimNode, simulated

NO_OPERATOR = 100024
BAD_MODEL = 145000
NO_FILE = 145002
NO_MODEL = 145003
EMPTY = 145006
NO_ROOM = 245000
MS = 1_000_000
# What a slice may be ahead of its cap: the bucket, a window, and a launch that nobody has measured.
AHEAD_NS = 40 * MS
WORK, WEIGHTS = 3 * PAGE, 12 * PAGE


def model_file(path: Path, *lines: str, weights: int = WEIGHTS, work: int = WORK) -> Path:
    """A model of the simulator's own."""
    text = ["aliquot-model 1", f"work {work}", f"weights {weights}", *lines]
    path.write_text("\n".join(text) + "\n")
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("client"), "ascend_infer_client")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: of 2 and 3 ms, too large, none, and an operator of 5 ms."""
    folder = tmp_path_factory.mktemp("models")
    both = ("input 1024", "output 512", f"kernel 1 {2 * MS}", f"kernel 8 {3 * MS}")
    model_file(folder / "model.om", *both)
    model_file(folder / "large.om", *both, weights=1024 * PAGE)
    operators = folder / "operators"
    operators.mkdir()
    model_file(operators / "add.om", "operator Add", f"kernel 4 {5 * MS}", weights=0, work=PAGE)
    (folder / "none.om").write_text("aliquot-model 1\nweights much\n")
    (folder / "empty.om").write_text("")
    return folder


@pytest.fixture
def node(sim_library: Path) -> Iterator[SimNode]:
    with simulated(sim_library.with_name("libruntime.so"), 2048 * MIB, vendor="ascend") as found:
        yield found


def test_answers_are_those_of_a_program_without_the_shim(
    client: Path, node: SimNode, models: Path, tmp_path: Path
) -> None:
    ways = ("file", "mem", "file-mem", "mem-mem", "config", "config-mem")
    says = [
        ("set 0", f"{OK}"),
        (f"query file {models}/model.om", f"{OK} {WORK} {WEIGHTS}"),
        (f"query mem {models}/model.om", f"{OK} {WORK} {WEIGHTS}"),
        (f"load small {models}/model.om", f"{BAD_MODEL} 0"),
        ("give-back", f"{OK}"),
        ("like 1", f"{NO_MODEL} 0 0 0 0"),
        ("execute sync 1 1", f"{NO_MODEL}"),
        *((f"load {way} {models}/none.om", f"{BAD_MODEL} 0") for way in ways),
        *(
            (f"load file {models}/{name}", f"{code} 0")
            for name, code in (("empty.om", EMPTY), ("missing.om", NO_FILE), ("operators", NO_FILE))
        ),
        ("operate v2 Add 1", f"{NO_OPERATOR}"),
        ("operators folder /nowhere", "100014"),
        (f"operators folder {models}/operators", f"{OK}"),
        ("operate handle Sub 1", f"{NO_OPERATOR}"),
        *((f"operate {how} Add 2", f"{OK}") for how in ("plain", "v2", "compile", "handle")),
        ("operate compile2 Sub 2", f"{OK}"),
    ]
    for number, way in enumerate(ways, start=1):
        says += [
            (f"load {way} {models}/model.om", f"{OK} {number}"),
            (f"like {number}", f"{OK} 1 1 1024 512"),
            *(
                (f"execute {how} {number} 2", f"{OK}")
                for how in ("sync", "async", "sync2", "async2")
            ),
            (f"execute wrong {number} 1", f"{BAD_MODEL}"),
            (f"unload {number}", f"{OK}"),
            (f"unload {number}", f"{NO_MODEL}"),
            *([("give-back", f"{OK}")] if way.endswith("-mem") else []),
        ]
    lines = [line for line, _ in says]
    bare = said(client, node.environment("bare"), lines).splitlines()
    assert list(zip(lines, bare, strict=True)) == says
    here = sliced(node, tmp_path)
    assert said(client, here.environment(), lines).splitlines() == bare
    assert here.charge() == 0


def test_a_model_is_charged_while_it_is_loaded_and_refused_where_it_does_not_fit(
    client: Path, node: SimNode, models: Path, tmp_path: Path
) -> None:
    room = 20 * PAGE
    here = sliced(node, tmp_path, cap=CONTEXT + room)
    with running(client, here.environment()) as tenant:

        def holds(pages: int) -> None:
            assert here.charge() == here.truth().used_bytes[0] == CONTEXT + pages * PAGE

        assert tenant.do("set", 0) == OK
        holds(0)
        code, model = got(tenant, "load", "file", models / "model.om")
        assert code == OK
        holds(15)
        # Its weights, or its working memory, and then it lets go of what it had got of the others.
        for way in ("file", "mem", "config"):
            assert got(tenant, "load", way, models / "model.om")[0] == NO_ROOM
            assert got(tenant, "load", way, models / "large.om")[0] == NO_ROOM
            holds(15)
        # The program itself is refused by the runtime's code.
        assert got(tenant, "load", "mem-mem", models / "large.om")[0] == OUT_OF_MEMORY
        assert tenant.do("take", 4 * PAGE) == OK
        # An operator's memory comes with its first execution, beside a page for the program's data.
        assert tenant.do("operators", "folder", models / "operators") == OK
        assert tenant.do("operate", "v2", "Add", 1) == NO_ROOM
        assert tenant.do("unload", model) == OK
        assert tenant.do("operate", "v2", "Add", 1) == OK
        assert tenant.do("reset", 0) == OK
    assert here.truth().max_used_bytes[0] <= CONTEXT + room
    assert here.charge() == 0


@pytest.mark.parametrize("how", ["sync", "async", "sync2", "operate"])
def test_models_and_operators_keep_to_their_part_of_the_time(
    client: Path, node: SimNode, models: Path, tmp_path: Path, how: str
) -> None:
    here = sliced(node, tmp_path, cores=25)
    with running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        code, model = got(tenant, "load", "file", models / "model.om")
        assert code == OK
        assert tenant.do("operators", "folder", models / "operators") == OK
        assert here.usage().devices[0].device_ns == 0
        began = time.monotonic_ns()
        words = ("operate", "v2", "Add", 40) if how == "operate" else ("execute", how, model, 40)
        assert tenant.do(*words) == OK
        assert time.monotonic_ns() - began >= (200 * MS - AHEAD_NS) * 4
        assert here.usage().devices[0].device_ns >= 200 * MS - AHEAD_NS


def test_a_closed_gate_holds_models_and_operators_back_and_not_their_loading(
    client: Path, node: SimNode, models: Path, tmp_path: Path
) -> None:
    here = sliced(node, tmp_path)
    gate = gates.Gate(here.usage_path.parent)
    gate.write(gates.CLOSED, others=1)
    with gate.beating(), running(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        code, model = got(tenant, "load", "file", models / "model.om")
        assert code == OK
        assert tenant.do("operators", "folder", models / "operators") == OK
        for words in (f"execute sync {model} 1", f"execute async {model} 1", "operate v2 Add 1"):
            gate.write(gates.CLOSED, others=1)
            tenant.say(words)
            wait_for(lambda: gate.waiting() > 0, f"{words} to wait")
            gate.write(gates.OPEN)
            assert int(tenant.read()) == OK, words
    gate.close()
