"""The benches run and print every figure. No figure is asserted: that depends on the machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cri import need_containerd

BENCH = Path(__file__).resolve().parent.parent / "bench"

OVERHEAD = {
    f"{vendor}_{call}_p{processes}_t{threads}"
    for vendor in ("nvidia", "ascend", "cambricon")
    for call in ("launch", "alloc_free_4k", "alloc_free_2m", "mem_info", "copy_4k")
    for processes in (1, 8, 64)
    for threads in (1, 2, 8)
    if vendor == "nvidia" or (processes == 1 and threads != 2)
}
LAUNCH = {f"{gate}_t{threads}" for gate in ("free", "open") for threads in (1, 2, 4, 8, 16, 32, 64)}
if shutil.which("valgrind"):
    LAUNCH |= {"free_instructions", "open_instructions"}
LIVE = {
    name
    for call in ("alloc_free", "replace")
    for live in (100, 1_000, 10_000, 100_000, 1_000_000)
    for name in (f"{call}_{live}", f"{call}_ratio_{live}")
    if name not in ("alloc_free_ratio_100", "replace_ratio_100")
}
INIT = {
    f"{part}_p{processes}_{statistic}"
    for part in ("dlopen", "cuinit", "start")
    for processes in (1, 8, 64)
    for statistic in ("median", "p95")
}
ARBITER = {f"step_{containers}" for containers in (1, 10, 100, 1000)} | {
    *("step_growth", "busy_32", "busy_32_turns", "busy_32_turn", "busy_32_user", "wake"),
}
if shutil.which("strace"):
    ARBITER |= {"busy_32_calls"}
FIGURES = {
    "arbiter": ARBITER,
    "overhead": OVERHEAD,
    "launch": LAUNCH,
    "live_allocations": LIVE,
    "init": INIT,
}
SHARES = {
    f"{'_'.join(map(str, split))}_{kernel}us_{kind}_{figure}"
    for split in ((10, 90), (30, 70), (75, 25), (33, 33, 33))
    for kernel in (100, 1_000, 5_000)
    for kind in ("sync", "async")
    for figure in (*range(len(split)), "kept")
}
PREEMPT = {
    f"{beside}_{figure}"
    for beside in ("alone", "beside_1", "beside_3")
    for figure in ("p50", "p99", "max")
}
OF_CONTAINERS = {
    "container_start": {"slice", "no_slice", "slice_cpu", "no_slice_cpu"},
    "admit": {f"admit_{held}_{part}" for held in (0, 100) for part in ("median", "p95")},
    "shares": SHARES,
    "preempt": PREEMPT,
    "set": {
        f"{what}_{since}_{figure}"
        for what in ("cores", "memory")
        for since in ("request", "return", "call")
        for figure in ("p50", "p95", "max")
    },
}


def run(name: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, BENCH / f"{name}.py", *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FIGURES)
def test_a_bench_prints_every_figure_as_one_json_object(name: str) -> None:
    answer: dict[str, Any] = json.loads(run(name, "--quick", "--json"))
    assert answer["bench"] == name
    assert set(answer) == {"bench", "figures"}
    assert set(answer["figures"]) == FIGURES[name]
    for figure in answer["figures"].values():
        assert set(figure) == {"value", "unit", "target", "holds"}
        assert isinstance(figure["value"], float)
        target = figure["target"]
        assert figure["holds"] is (target is None or figure["value"] <= target)


@pytest.mark.parametrize("name", OF_CONTAINERS)
def test_a_bench_of_containers_prints_every_figure(name: str) -> None:
    need_containerd()
    answer: dict[str, Any] = json.loads(run(name, "--quick", "--json"))
    assert set(answer["figures"]) == OF_CONTAINERS[name]
    unit = "%" if name == "shares" else "ms"
    assert all(figure["unit"] == unit for figure in answer["figures"].values())


def test_a_bench_prints_a_table_of_aligned_columns() -> None:
    lines = run("init", "--quick").splitlines()
    assert lines[0].split() == ["init", "bare", "aliquot", "added", "unit", "target", "holds"]
    assert {line.split()[0] for line in lines[1:]} == FIGURES["init"]
    edge = lines[0].index("bare") + len("bare")
    assert all(line[edge - 1] != " " and line[edge] == " " for line in lines)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_bench_counts_instructions_where_valgrind_is() -> None:
    figures = json.loads(run("live_allocations", "--quick", "--json", "--instructions"))["figures"]
    counted = [name for name, figure in figures.items() if figure["unit"] == "instructions"]
    assert len(counted) == 4
