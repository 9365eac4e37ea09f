"""The CDI specification of a simulated node: how containers get at it.

It is what nvidia-ctk writes for a real node: device files, the driver's libraries by the driver's
release, and the hook that makes their links. In place of a kernel driver the node's folder is
mounted, where the libraries look for it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
from pathlib import Path
from typing import Any, Final

from . import library
from .node import Node
from .state import NVML, StateError, uuid_text

# Where the libraries look for a node without ALIQUOT_SIM.
_INSIDE: Final = "/run/aliquot-sim"
# Major and minor number of /dev/null: it can be opened, and that is all that is asked of it.
_NULL: Final = os.makedev(1, 3)
_SPEC: Final = "nvidia.yaml"


def write(node: Node, directory: Path, folder: Path) -> Path:
    """Write the specification of the node in ``directory`` into ``folder``; returns its file.

    Device files and libraries that it names are made beside it. Raises StateError.
    """
    try:
        (folder / "dev").mkdir(parents=True, exist_ok=True)
        (folder / "lib").mkdir(exist_ok=True)
        names = [f"nvidia{index}" for index in range(len(node.devices))]
        for name in (*names, "nvidiactl", "nvidia-uvm"):
            path = folder / "dev" / name
            path.unlink(missing_ok=True)
            os.mknod(path, stat.S_IFCHR | 0o666, _NULL)
            path.chmod(0o666)
        files = {}
        for soname in (library().name, NVML):
            file = folder / "lib" / f"{soname.removesuffix('.1')}.{node.driver}"
            shutil.copyfile(library().with_name(soname), file)
            file.chmod(0o755)
            files[soname] = file
        fresh = folder / f".{_SPEC}.new"
        # JSON is YAML, too.
        fresh.write_text(json.dumps(_spec(node, directory, folder, files), indent=1) + "\n")
        return fresh.replace(folder / _SPEC)
    except OSError as error:
        where = error.filename or folder
        raise StateError(
            f"{where}: {error.strerror}: device files for containers are made by root"
        ) from error


def _spec(node: Node, directory: Path, folder: Path, files: dict[str, Path]) -> dict[str, Any]:
    inside = f"/usr/lib/{platform.machine()}-linux-gnu"
    links = [
        f"{target}::{inside}/{link}"
        for soname, file in files.items()
        for target, link in ((file.name, soname), (soname, soname.removesuffix(".1")))
    ]
    hook = {
        "hookName": "createContainer",
        "path": "/usr/bin/nvidia-cdi-hook",
        "args": ["nvidia-cdi-hook", "create-symlinks"]
        + [part for link in links for part in ("--link", link)],
    }
    devices: list[dict[str, Any]] = []
    for index, device in enumerate(node.devices):
        edits = {"deviceNodes": [_node(folder, f"nvidia{index}")]}
        devices += [
            {"name": name, "containerEdits": edits}
            for name in (str(index), uuid_text(device.uuid))
        ]
    everything = [_node(folder, f"nvidia{index}") for index in range(len(node.devices))]
    devices.append({"name": "all", "containerEdits": {"deviceNodes": everything}})
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [_node(folder, name) for name in ("nvidiactl", "nvidia-uvm")],
            "hooks": [hook],
            "mounts": [
                *(
                    {
                        "hostPath": str(file),
                        "containerPath": f"{inside}/{file.name}",
                        "options": ["ro", "nosuid", "nodev", "bind"],
                    }
                    for file in files.values()
                ),
                {
                    "hostPath": str(directory.resolve()),
                    "containerPath": _INSIDE,
                    "options": ["rw", "nosuid", "nodev", "rbind"],
                },
            ],
        },
    }


def _node(folder: Path, name: str) -> dict[str, Any]:
    return {"path": f"/dev/{name}", "hostPath": str(folder.resolve() / "dev" / name)}
