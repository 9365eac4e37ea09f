"""The caps hold under schedules that storms meet once in a while, forced here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import functions_of, need_stubs
from slices import MIB
from tenants import SUCCESS, Site, Slice, compile_c

CAP = 256 * MIB


TRUE_NAME = "libcuda-true.so"


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Slice]:
    """A slice whose driver lets the program in between the shim and itself."""
    need_stubs()
    with site.simulated(2048 * MIB) as node:
        made = site.slice(node, tmp_path, "slice", CAP)
        hidden = made.library.parent / ".aliquot"
        driver = hidden / site.vendor.names[1]
        driver.unlink()
        (hidden / TRUE_NAME).symlink_to(node.library)
        names = tmp_path / "names.inc"
        lines = (f"F({i}, {name})\n" for i, name in enumerate(functions_of(node.library)))
        names.write_text("".join(lines))
        # Gives it its DT_NEEDED: the true driver's own SONAME is the shim's name.
        (tmp_path / "empty.c").write_text("extern int nothing;\n")
        shared = ("-shared", "-fPIC", "-Wl,--no-as-needed")
        stand_in = compile_c(
            tmp_path, "stand_in.so", [tmp_path / "empty.c"], *shared, f"-Wl,-soname,{TRUE_NAME}"
        )
        compile_c(
            *(hidden, driver.name, ["between_driver.c"], *shared, "-fvisibility=hidden"),
            *(f'-DNAMES="{names}"', f'-DTRUE_DRIVER="{TRUE_NAME}"'),
            *(f"-Wl,-soname,{driver.name}", str(stand_in), "-Wl,-rpath,$ORIGIN"),
        )
        yield made


def answers(here: Slice, site: Site, case: str) -> list[int]:
    """What the calls answer that a case of between_client.c is about."""
    program = site.folder / "between_client"
    if not program.exists():
        compile_c(
            *(site.folder, program.name, ["between_client.c"], "-rdynamic"),
            *(f"-L{site.library.parent}", "-l:libcuda.so.1"),
            "-Wl,--unresolved-symbols=ignore-in-shared-libs",
        )
    done = subprocess.run(
        [program, case],
        check=False,
        capture_output=True,
        text=True,
        env=here.environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("site", ["nvidia"], indirect=True)
def test_a_graph_that_has_the_pages_of_others_after_a_trim_keeps_them(
    here: Slice, site: Site
) -> None:
    meanwhile, squeezed, again = answers(here, site, "trimmed")
    assert (meanwhile, squeezed) == (SUCCESS, SUCCESS)
    assert here.truth().max_used_bytes[0] <= CAP
    assert again == here.refusal
