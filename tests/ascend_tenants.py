"""Programs of an Ascend slice on a simulated node, with the shim and without it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aliquot.shim import library as shim_library

from slices import MIB
from tenants import PATIENCE_SECONDS, TESTS, SimNode, Slice, Tenant

CAP = 256 * MIB
OK = 0
BAD_ARGUMENT = 107000
OUT_OF_MEMORY = 207001


def compile_program(folder: Path, name: str) -> Path:
    """A program of this folder that looks up in the libraries what it calls."""
    path = folder / name
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(path), str(TESTS / f"{name}.c"), "-ldl"], check=True)
    return path


def sliced(
    node: SimNode, folder: Path, *, cap: int = CAP, cores: int = 100, devices: int = 1
) -> Slice:
    """A slice of the node's first devices."""
    shim = shim_library("libruntime.so")
    assert shim.is_file(), "it is not built: run `make build`"
    return Slice.make(node, shim, folder, "one", cap, cores, devices=devices)


@contextmanager
def running(client: Path, environment: Mapping[str, str], visible: str = "0") -> Iterator[Tenant]:
    """The program, obeying; it sees these devices of the node."""
    process = subprocess.Popen(
        [str(client)],
        env={**environment, "ASCEND_RT_VISIBLE_DEVICES": visible},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with Tenant(process) as tenant:
        yield tenant


def got(tenant: Tenant, *words: object) -> tuple[int, str]:
    """The code that a line is answered with, and what else."""
    code, *rest = tenant.ask(*words).split()
    return int(code), " ".join(rest)


def said(client: Path, environment: Mapping[str, str], lines: list[str], visible: str = "0") -> str:
    """All that the program answers."""
    process = subprocess.run(
        [str(client)],
        env={**environment, "ASCEND_RT_VISIBLE_DEVICES": visible},
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert not process.stderr
    assert "not so" not in process.stdout
    return process.stdout
