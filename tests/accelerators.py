"""Programs that share a device's time, written once for every vendor whose shim we have.

A program of ``accel.h`` is compiled with the vendor's ``accel_*.c``, which has what it needs of a
driver.
"""

from __future__ import annotations

from pathlib import Path

import aliquot.shim
import pytest

from tenants import compile_c
from vendors import Vendor

_SOURCES = {
    "nvidia": "accel_cuda.c",
    "ascend": "accel_ascend.c",
    "cambricon": "accel_cambricon.c",
}

# What a vendor's interface has not: cases of the programs that it cannot be asked for, and why.
LACKS = {
    ("nvidia", "set_flag"): "a wait for an event is for what was recorded before it, never later",
    ("cambricon", "fill"): "queues wait for words in memory of the host, which nothing fills",
    ("cambricon", "set_flag"): "a wait for a notifier is for what was placed before it",
    **dict.fromkeys(
        (
            ("cambricon", "small_kernels_of_different_queues_run_together"),
            ("cambricon", "branches_of_a_recording_run_together"),
        ),
        "a kernel of the simulated card takes all of it",
    ),
}


def needs(vendor: Vendor, case: str) -> None:
    """Skip the test where the vendor's interface has not what the case is about."""
    if reason := LACKS.get((vendor.name, case)):
        pytest.skip(f"{vendor}: {reason}")


def shim(vendor: Vendor) -> Path:
    """The vendor's shim, as it is built."""
    found = aliquot.shim.library(vendor.library)
    assert found.is_file(), "it is not built: run `make build`"
    return found


def compiled(vendor: Vendor, folder: Path, program: str, sim_library: Path) -> Path:
    """Compile a program for a vendor, as its programs are; returns the file."""
    # All of the header's names, as programs have them.
    options = ["-U__CUDA_API_VERSION_INTERNAL", f"-L{sim_library.parent}"]
    options += [f"-l:{name}" for name in vendor.linked]
    # A library built with a sanitizer leaves its names to whoever loads it.
    options.append("-Wl,--unresolved-symbols=ignore-in-shared-libs")
    sources = [f"{program}.c", _SOURCES[vendor.name]]
    return compile_c(folder, f"{program}-{vendor}", sources, *options)
