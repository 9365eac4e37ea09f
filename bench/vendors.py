"""What differs between the vendors whose shims share a device: libraries, nodes, settings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_INSIDE: Final = "/run/aliquot-sim"
"""Where a container's programs find the simulated node, without a word of the environment."""

# Has a share of a card be nobody's but the shim's: cndevSetSMLUMode of every card, version 6.
_NO_SHARES: Final = """
import ctypes, sys
library, count = ctypes.CDLL(sys.argv[1]), (ctypes.c_int32 * 2)(6)
assert library.cndevInit(0) == 0
assert library.cndevGetDeviceCount(count) == 0
for card in range(count[1]):
    mode = (ctypes.c_int32 * 2)(6, 0)
    assert library.cndevSetSMLUMode(mode, card) == 0
"""


@dataclass(frozen=True)
class Vendor:
    """A vendor's shim by the names of its files, and devices that it shares.

    ``library`` is the shim's and the real library's where programs look for it; ``real`` the one by
    which the shim finds that. ``linked`` are those that programs are linked with; ``model`` one of
    the vendor's devices, whose shares nobody but the shim holds; ``context`` what the agent counts
    for a process that uses one; ``driver`` the source of what driver.h has of it.
    """

    name: str
    library: str
    real: str
    linked: tuple[str, ...]
    model: str
    context: str
    driver: str

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    @property
    def names(self) -> tuple[str, str]:
        """Names of the shim, and of the real library behind it."""
        return (self.library, self.real)

    @property
    def above(self) -> tuple[str, ...]:
        """Libraries that programs load too, which call the one that the shim stands for."""
        return tuple(name for name in self.linked if name != self.library)

    def device(self, **settings: str | int) -> str:
        """Return a node file's table of its devices, with what else is given."""
        values = {"vendor": self.name, "model": self.model, "context": self.context, **settings}
        return "[[device]]\n" + "".join(
            f"{key} = {json.dumps(value)}\n" for key, value in values.items()
        )

    def image(self, simulated: Path) -> dict[str, Path]:
        """Return the libraries that are the image's own, by their paths in it.

        ``simulated`` is the folder of the simulator's. NVIDIA's are the node's.
        """
        if self.name == "nvidia":
            return {}
        return {f"/usr/lib/{name}": simulated / name for name in self.linked}

    def settings(self, node: Path) -> dict[str, Any]:
        """Return what an agent on the node of that folder is told beside all else."""
        if self.name == "nvidia":
            return {}
        return {"vendors": [self.name], f"{self.name}.root": str(node / "root")}

    def mounts(self, node: Path) -> list[dict[str, Any]]:
        """Return what a container's bundle mounts itself: the node, where no specification does."""
        if self.name != "ascend":
            return []
        return [
            {
                "destination": _INSIDE,
                "source": str(node),
                "type": "bind",
                "options": ["rbind", "rw", "nosuid", "nodev"],
            }
        ]

    def prepare(self, node: Path, environment: dict[str, str]) -> None:
        """Have nobody but the shim hold shares of a node's devices."""
        if self.name == "cambricon":
            library = node / "root/usr/local/neuware/lib64/libcndev.so"
            subprocess.run(
                [sys.executable, "-c", _NO_SHARES, str(library)],
                env={**environment, "ALIQUOT_SIM": str(node)},
                check=True,
            )


NVIDIA: Final = Vendor(
    "nvidia",
    "libcuda.so.1",
    "libcuda-driver.so.1",
    linked=("libcuda.so.1",),
    model="NVIDIA A100-SXM4-40GB",
    context="64MiB",
    driver="driver_cuda.c",
)
ASCEND: Final = Vendor(
    "ascend",
    "libruntime.so",
    "libruntime-driver.so",
    linked=("libascendcl.so", "libruntime.so"),
    # A chip that nobody has written templates of.
    model="910X",
    context="200MiB",
    driver="driver_ascend.c",
)
CAMBRICON: Final = Vendor(
    "cambricon",
    "libcndrv.so",
    "libcndrv-driver.so",
    linked=("libcndrv.so",),
    model="MLU370-X8",
    # What one takes is told by nobody beforehand.
    context="0MiB",
    driver="driver_cambricon.c",
)
ALL: Final = (NVIDIA, ASCEND, CAMBRICON)
BY_NAME: Final = {vendor.name: vendor for vendor in ALL}
