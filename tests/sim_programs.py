"""Small programs on a simulated node that call its driver library directly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A module with variables of every kind, texture references and kernels.
PTX = b""".version 7.0
.target sm_70
.address_size 64
.visible .global .align 8 .u64 answers[2] = {17, 42};
.global .align 4 .b8 zeros[4096];
.visible .const .align 4 .f32 weights[2] = {1.5, 0.25};
.global .attribute(.managed) .align 4 .u32 shared_by_all = 5;
.global .texref tex;
.global .surfref surf;
.visible .entry plain(.param .u32 a, .param .u64 p, .param .f32 f) { ret; }
.visible .entry limited(.param .u64 p) .maxntid 128 {
    .shared .align 4 .b8 own[256]; .reg .b32 %r; mov.u32 %r, own; ret;
}
.visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }
"""

PRELUDE = """
import ctypes
from ctypes import POINTER, byref, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p

cu = ctypes.CDLL("libcuda.so.1")
SIZE = c_size_t


def do(name, *arguments):
    code = getattr(cu, name)(*arguments)
    assert code == 0, (name, code)


def code(name, *arguments):
    return getattr(cu, name)(*arguments)


def number(kind, name, *arguments):
    value = kind()
    do(name, byref(value), *arguments)
    return value.value


def start(device=0):
    do("cuInit", 0)
    context = c_void_p()
    do("cuDevicePrimaryCtxRetain", byref(context), device)
    do("cuCtxSetCurrent", context)
    return context


def load(image):
    module = c_void_p()
    do("cuModuleLoadData", byref(module), image)
    return module


def function(module, name):
    found = c_void_p()
    do("cuModuleGetFunction", byref(found), module, name)
    return found


def used():
    free, total = c_size_t(), c_size_t()
    do("cuMemGetInfo_v2", byref(free), byref(total))
    return total.value - free.value
"""


def run_program(
    program: str, folder: Path, node: str = "t4", images: dict[str, bytes] | None = None
) -> str:
    """Run a program behind the prelude on a fresh node; it must end well.

    ``images`` are put into its working folder. Answers its standard output.
    """
    for name, image in (images or {}).items():
        (folder / name).write_bytes(image)
    script = folder / "program.py"
    script.write_text(PRELUDE + program)
    log = folder / "sim.log"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "aliquot.agent", "sim", "--node", node, "--"),
            *(sys.executable, str(script)),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "ALIQUOT_SIM_LOG": str(log)},
        cwd=folder,
        timeout=120,
    )
    said = log.read_text() if log.exists() else ""
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}\n{said}"
    return run.stdout
