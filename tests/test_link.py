"""Programs link against the shim as they do against the driver, and start with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cuda_headers import exports
from cuda_table import read_table
from slices import lay_out


def link(folder: Path, library: Path, source: str, *options: str) -> Path:
    """Compile a program against the file that stands where libcuda.so.1 stood."""
    program = folder / "program"
    (folder / "program.c").write_text(source)
    command = ["gcc", "-std=gnu11", "-w", "-o", str(program), str(folder / "program.c")]
    command += [f"-L{library.parent}", "-l:libcuda.so.1", *options]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return program


def start(program: Path, library: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent)}
    return subprocess.run(
        [str(program)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


@pytest.fixture(scope="module", params=["535", "550"])
def library(
    request: pytest.FixtureRequest,
    plain_shim: Path,
    real_driver: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return lay_out(plain_shim, real_driver(request.param), tmp_path_factory.mktemp("link") / "s")


def test_a_program_may_name_every_function_of_the_table(library: Path, tmp_path: Path) -> None:
    names = [s.name for row in read_table() if row.by != "none" for s in row.symbols]
    declared = "".join(f"int {name}();\n" for name in names)
    table = "void *all[] = {" + ", ".join(names) + "};\n"
    link(tmp_path, library, declared + table + "int main(void) { return !all[0]; }\n")


@pytest.mark.parametrize("binding", ["-Wl,-z,lazy", "-Wl,-z,now"])
def test_a_linked_program_starts_and_is_answered_by_the_driver(
    library: Path, tmp_path: Path, binding: str
) -> None:
    source = "int cuInit(unsigned), cuDriverGetVersion(int *);\n"
    source += "int (*volatile at)(unsigned) = cuInit;\n"
    source += (
        "int main(void) { int v; if (cuInit(0) != at(0) || cuDriverGetVersion(&v)) return 1;\n"
    )
    source += "return cuInit(0) == 100 && v >= 12000 ? 0 : 2; }\n"
    run = start(link(tmp_path, library, source, binding), library)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_program_that_needs_what_the_driver_lacks_fails_as_on_the_driver(
    library: Path, tmp_path: Path
) -> None:
    real = (library.parent / ".aliquot/libcuda-driver.so.1").resolve()
    assert "cuCtxCreate_v4" not in exports(real)
    source = "int cuInit(unsigned), cuCtxCreate_v4();\n"
    source += "int main(void) { int r = cuInit(0); cuCtxCreate_v4(); return r; }\n"
    run = start(link(tmp_path, library, source, "-Wl,-z,lazy"), library)
    assert run.returncode == 127
    assert "undefined symbol: cuCtxCreate_v4" in run.stderr
