"""The simulator answers cuGetProcAddress and error names as NVIDIA's own driver does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuda_table import read_table
from sim_node import node_of

PROBE = Path(__file__).resolve().parent / "sim_proc_probe.py"
# 535 is CUDA 12.2, 550 is 12.4.
DRIVERS = {"535": 12020, "550": 12040}
# In the table of all platforms, and not in a driver for Linux on x86.
ELSEWHERE = {"cuWGLGetDevice", "cuEventCreateFromEGLSync"}


def _ask(library: Path, questions: list[Any], environment: dict[str, str] | None) -> Any:
    symbols = [symbol.name for row in read_table() for symbol in row.symbols]
    run = subprocess.run(
        [sys.executable, str(PROBE), str(library)],
        check=True,
        input=json.dumps({"symbols": symbols, "questions": questions}),
        capture_output=True,
        text=True,
        env=environment,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_names_versions_and_flags_are_answered_as_by_the_real_driver(
    driver: str, sim_library: Path, real_driver: Callable[[str], Path]
) -> None:
    version = DRIVERS[driver]
    real = real_driver(driver)
    rows = [
        row
        for row in read_table()
        if not row.function.startswith("cudbg") and row.function not in ELSEWHERE
    ]
    since = sorted({symbol.since for row in rows for symbol in row.symbols})
    versions = [0, *(item for item in since if 0 < item <= version), version, 99990]
    questions: list[Any] = [[row.function, item, 0] for row in rows for item in versions]
    questions += [[row.function, item, 2] for row in rows for item in versions]
    questions += [[row.function, version, flags] for row in rows for flags in (1, 3, 4)]
    nothing = ("", "cuNothing", "cuMemAlloc_v2")
    questions += [[name, item, 0] for name in nothing for item in (0, 12000)]
    questions.append(["cuMemAlloc", -1, 0])
    with node_of(f"driver_version = {version}\n[[device]]\n", sim_library) as node:
        simulated = _ask(sim_library, questions, node.environment())
    expected = _ask(real, questions, None)
    known = {symbol.name: symbol.since for row in rows for symbol in row.symbols}
    wrong = [
        (question, theirs, ours)
        for question, theirs, ours in zip(
            questions, expected["found"], simulated["found"], strict=True
        )
        # What no header dates cannot be told from what the driver does not have.
        if theirs != ours and not any(known.get(name) == 0 for name in (theirs[2], ours[2]))
    ]
    assert wrong == []
    assert len(questions) > 10_000
    for code, texts in expected["errors"].items():
        assert simulated["errors"][code] == texts


def test_every_result_has_a_name_and_a_text(sim_library: Path) -> None:
    with node_of("[[device]]\n", sim_library) as node:
        errors = _ask(sim_library, [], node.environment())["errors"]
    assert len(errors) > 100
    for name, text in errors.values():
        assert name == "CUDA_SUCCESS" or name.startswith("CUDA_ERROR_")
        assert text
