"""The arithmetic of the cap, the tables and the region's locks, without any driver."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    ROOT / "tests/core_stress.c",
    *sorted((ROOT / "csrc/core").glob("*.c")),
    ROOT / "csrc/region/region.c",
    ROOT / "csrc/shim/memory/descriptor.c",
    ROOT / "csrc/shim/memory/physical.c",
]
FLAGS = ["-std=gnu11", "-g", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", "-lpthread"]
SANITIZERS = {
    "plain": ["-O2"],
    "thread": ["-O1", "-fsanitize=thread"],
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
MODES = [
    "table",
    "pages",
    "names",
    "threads",
    "processes",
    "kills",
    "forks",
    "bells",
    "moves",
    "holds",
    "handles",
]


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The driver program, one for each sanitizer."""
    folder = tmp_path_factory.mktemp("stress")
    programs = {}
    for name, flags in SANITIZERS.items():
        programs[name] = folder / name
        subprocess.run(
            ["gcc", *flags, *map(str, SOURCES), "-o", str(programs[name]), *FLAGS], check=True
        )
    return programs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_core_holds_its_promises_under(
    stress: dict[str, Path], sanitizer: str, mode: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [stress[sanitizer], mode, tmp_path, "7"],
        capture_output=True,
        text=True,
        timeout=300,
        # A killed process reports no leaks; a race must not be missed for being only a warning.
        env={"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok"), done.stdout
    assert not done.stderr, done.stderr
