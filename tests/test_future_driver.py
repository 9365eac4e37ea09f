"""A driver that is newer than every header works whole, and what is new is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cuda_headers import own_symbols
from slices import lay_out, usage_of

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up libcuda.so.1, compiled here."""
    library = tmp_path_factory.mktemp("future") / "libcuda.so.99000.1"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic"]
    subprocess.run([*command, "-o", str(library), str(TESTS / "future_driver.c")], check=True)
    return library


def ask(library: Path) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, str(TESTS / "probe_future.py"), str(library)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_a_driver_of_the_future_answers_through_the_shim_as_it_answers_bare(
    driver: Path, shim_library: Path, tmp_path: Path
) -> None:
    bare = ask(driver)
    assert bare["init"] == 0
    assert bare["version"] == 99000
    assert bare["by_name"] == [42, 52]
    assert bare["called 2"] == 52
    assert bare["has"] == {
        "cuFancyNew": True,
        "cuMemAlloc_v9": True,
        "cuTexRefCreate": False,
        "cuMemFree_v2": False,
    }
    assert bare["found"]["cuMemAlloc 99000 0"] == [0, 0, True, ["cuMemAlloc_v9"]]
    assert bare["found"]["cuMemAlloc 12000 0"] == [0, 0, True, ["cuMemAlloc_v2"]]
    assert bare["found"]["cuFancyNew 13000 0"] == [0, 2, False, []]
    library = lay_out(shim_library, driver, tmp_path / "slice")
    assert ask(library) == bare


def test_what_is_new_is_counted(driver: Path, shim_library: Path, tmp_path: Path) -> None:
    library = lay_out(shim_library, driver, tmp_path / "slice")
    ask(library)
    # cuFancyNew in two forms, cuMemAlloc_v9 and cuGetProcAddress_v3 were handed out.
    assert usage_of(library).unknown_functions == 4
    ask(library)
    assert usage_of(library).unknown_functions == 8


def test_what_the_table_knows_is_wrapped_on_a_driver_of_the_future(
    driver: Path, shim_library: Path, tmp_path: Path
) -> None:
    library = lay_out(shim_library, driver, tmp_path / "slice")
    inside = own_symbols(shim_library)
    if not inside:
        pytest.skip("the shim is stripped: its wrappers have no names")
    script = (
        "import ctypes, sys\n"
        "shim = ctypes.CDLL(sys.argv[1])\n"
        "at = lambda name: ctypes.cast(getattr(shim, name), ctypes.c_void_p).value\n"
        "print(at('cuMemAlloc_v2') - at('cuInit'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(library)], check=True, capture_output=True, text=True
    )
    assert int(run.stdout) == inside["aliquot_cuMemAlloc_v2"] - inside["aliquot_cuInit"]
