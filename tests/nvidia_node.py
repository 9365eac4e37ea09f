"""A node with NVIDIA's management library, or what stands in for it, and a process that asks it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from commands import TESTS
from module_worker import Asked


def odd_nvml(folder: Path) -> Path:
    """Compile the odd NVML into a folder laid out as NVIDIA's; returns the folder."""
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command += ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    command += ["-o", str(folder / "libnvidia-ml.so.999.1"), str(TESTS / "odd_nvml.c")]
    subprocess.run(command, check=True)
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.999.1")
    return folder


class Node(Asked):
    """A node with the odd NVML, and a process that asks it."""

    def __init__(
        self,
        libraries: list[Path],
        folder: Path,
        *,
        withhold: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.told = folder / "told"
        self.limits = folder / "limits"
        self.cgroups = folder / "cgroup"
        self.dev = folder / "dev"
        self.cdi = folder / "cdi"
        for made in (self.cgroups, self.dev, self.cdi):
            made.mkdir(exist_ok=True)
        self.tell()
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "ODD_NVML": str(self.told),
            "ODD_LIMITS": str(self.limits),
            "ALIQUOT_CACHE_DIR": str(folder / "cache"),
            **(environment or {}),
        }
        held_back = "withhold" if withhold else "all"
        arguments = (str(self.cdi), held_back, str(self.dev), str(self.cgroups))
        self.first = self.launch("nvidia_worker.py", *arguments, env=environment)

    def tell(self, *words: str) -> None:
        """Tell the odd NVML how to answer from now on."""
        new = self.told.with_suffix(".new")
        new.write_text(" ".join(words))
        new.replace(self.told)

    def end(self) -> None:
        """Let the worker end."""
        self.finish()
