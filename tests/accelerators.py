"""The vendors whose shims keep to a slice's share of the time, and programs written once for all.

A program of ``accel.h`` is compiled with ``accel_VENDOR.c``, which has what it needs of a driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import aliquot.shim

import slices
from tenants import compile_c


@dataclass(frozen=True)
class Accelerator:
    """A vendor's shim, by the names of its files.

    ``library`` is the shim's, and the real library's where programs look for it; ``real`` the one
    by which the shim finds it; ``linked`` are those that programs are linked with.
    """

    vendor: str
    source: str
    library: str
    real: str
    linked: tuple[str, ...]

    @property
    def lacks(self) -> dict[str, str]:
        """What its interface does not have, by cases of the programs, and why not."""
        return {case: why for (vendor, case), why in LACKS.items() if vendor == self.vendor}

    def shim(self) -> Path:
        """The shim that is built."""
        found = aliquot.shim.library(self.library)
        assert found.is_file(), "it is not built: run `make build`"
        return found

    def beside(self, sim_library: Path) -> Path:
        """The simulator's library that the shim stands before."""
        return sim_library.with_name(self.library)

    def names(self) -> tuple[str, str]:
        """Names of the shim and of what is behind it, for ``slices.lay_out``."""
        return (self.library, self.real)

    def above(self) -> tuple[str, ...]:
        """Libraries that programs load too, which call the one that the shim stands for."""
        return tuple(name for name in self.linked if name != self.library)

    def compile(self, folder: Path, program: str, sim_library: Path) -> Path:
        """Compile a program for it, as vendors' programs are; returns the file."""
        options = ["-U__CUDA_API_VERSION_INTERNAL", f"-L{sim_library.parent}", *(f"-l:{name}" for name in self.linked)]
        # A library built with a sanitizer leaves its names to whoever loads it.
        options.append("-Wl,--unresolved-symbols=ignore-in-shared-libs")
        sources = [f"{program}.c", self.source]
        return compile_c(folder, f"{program}-{self.vendor}", sources, *options)


NVIDIA = Accelerator("nvidia", "accel_cuda.c", *slices.CUDA, linked=("libcuda.so.1",))
ASCEND = Accelerator(
    "ascend",
    "accel_ascend.c",
    "libruntime.so",
    "libruntime-driver.so",
    linked=("libascendcl.so", "libruntime.so"),
)
CAMBRICON = Accelerator(
    "cambricon",
    "accel_cambricon.c",
    "libcndrv.so",
    "libcndrv-driver.so",
    linked=("libcndrv.so",),
)
ALL = (NVIDIA, ASCEND, CAMBRICON)

# What a vendor's interface has not: cases of the programs that it cannot be asked for, and why.
LACKS = {
    ("nvidia", "set_flag"): "a wait for an event is for what was recorded before it, never later",
    ("cambricon", "set_flag"): "a wait for a notifier is for what was placed before it",
}
