"""What tests of the changes to a bundle share: bundles by runc, and needs of real files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aliquot.hooks import edits
from aliquot.hooks.plan import BindMount, DeviceNode, Hook, Library, Needs, Substitute

HOOK = Path("/lib/aliquot/aliquot-hook")
STAT = Path("/lib/aliquot/aliquot-stat")
RUNTIME = Path("/run/aliquot")
# What every bundle has.
LEAST: dict[str, Any] = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}}


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@dataclass
class Desk:
    """A bundle, the folder of its slice, and what lies on the host for it."""

    folder: Path

    def __post_init__(self) -> None:
        """Make the folders."""
        self.bundle = self.folder / "bundle"
        self.root = self.bundle / "rootfs"
        self.slice = self.folder / "containers/id-0123"
        self.host = self.folder / "host"
        for path in (self.root, self.slice, self.host):
            path.mkdir(parents=True)

    def put(self, name: str, content: bytes = b"of the driver") -> Path:
        """A file of the host."""
        path = self.host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def files(self) -> list[str]:
        """The names in the bundle."""
        return sorted(path.name for path in self.bundle.iterdir())

    def by_runc(self) -> dict[str, Any]:
        """What runc itself makes of a bundle."""
        runc = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
        if runc is None:
            pytest.skip("no runc on this machine")
        subprocess.run([runc, "spec", "--bundle", self.bundle], check=True)
        return self.config()

    def config(self) -> dict[str, Any]:
        """What config.json has."""
        value: dict[str, Any] = json.loads((self.bundle / "config.json").read_bytes())
        return value

    def set(self, config: object) -> None:
        """Make config.json of it."""
        (self.bundle / "config.json").write_text(json.dumps(config))

    def needs(self, **changes: Any) -> Needs:
        """What a slice of one device of two needs."""
        cuda, ml = self.put("libcuda.so.550.54"), self.put("libnvidia-ml.so.550.54")
        parts: dict[str, Any] = {
            "nodes": (DeviceNode("/dev/nvidia0", 195, 0), DeviceNode("/dev/nvidiactl", 195, 255)),
            "libraries": (
                Library(cuda, ("libcuda.so.550.54", "libcuda.so.1", "libcuda.so")),
                Library(ml, ("libnvidia-ml.so.550.54", "libnvidia-ml.so.1")),
                Library(self.put("libnvidia-ptx.so.550.54"), ("libnvidia-ptx.so.1",)),
            ),
            "substitutes": (
                Substitute("libcuda.so.1", self.put("shim/cuda"), "libcuda-driver.so.1"),
                Substitute("libnvidia-ml.so.1", self.put("shim/ml"), "libnvidia-ml-driver.so.1"),
            ),
            "mounts": (
                BindMount(str(self.put("nvidia-smi")), "/usr/bin/nvidia-smi"),
                BindMount(str(self.host / "shim"), "/run/firmware", ("ro", "nosuid")),
            ),
            "environment": {"NVIDIA_VISIBLE_DEVICES": "void"},
            "withheld": ("libnvidia-vulkan*",),
            "hooks": (Hook("createRuntime", "/usr/bin/vendor", ("vendor", "go"), ("A=b",)),),
            "foreign_hooks": ("*/nvidia-container-runtime-hook", "nvidia-ctk"),
        }
        return Needs(**{**parts, **changes})

    def apply(self, needs: Needs | None = None) -> dict[str, Any]:
        """The bundle's new config.json, which is not written."""
        bundle = edits.inspect(self.bundle)
        return edits.apply(
            bundle,
            needs or self.needs(),
            folder=self.slice,
            hook=HOOK,
            stat=STAT,
            runtime_dir=RUNTIME,
        )

    def plan(self) -> list[list[str]]:
        """The plan's lines."""
        text = (self.slice / "plan").read_bytes()
        return [os.fsdecode(line).split("\t") for line in text.splitlines()]

    def planned(self, key: str) -> list[list[str]]:
        """What the plan has of one kind."""
        return [line[1:] for line in self.plan() if line[0] == key]
