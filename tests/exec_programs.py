"""The programs exec_*.c and their like, compiled with CUDA's header for the simulator."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def cases(program: str) -> list[str]:
    """The names in a program's table of cases."""
    return re.findall(r'^    \{"(\w+)",', (TESTS / f"{program}.c").read_text(), re.MULTILINE)


def compile_program(program: str, folder: Path, headers: Path, sim_library: Path) -> Path:
    """Compile a program into ``folder``; it finds libcuda.so.1 by its environment."""
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
            *("-I", headers, "-o", folder / program, TESTS / f"{program}.c"),
            *("-L", sim_library.parent, "-l:libcuda.so.1", "-lpthread"),
            # A library built with a sanitizer leaves its names to whoever loads it.
            "-Wl,--unresolved-symbols=ignore-in-shared-libs",
        ],
        check=True,
    )
    return folder / program
