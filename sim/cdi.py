"""The CDI specifications of a simulated node: how containers get at it.

That of NVIDIA's devices is what nvidia-ctk writes for a real node: device files, the driver's
libraries by the driver's release, and the hook that makes their links. In place of a kernel driver
the node's folder is mounted, where the libraries look for it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import library
from .node import Device, Node
from .state import LIBRARIES, NVML, StateError, uuid_text

INSIDE: Final = "/run/aliquot-sim"
"""Where the libraries look for a node without ALIQUOT_SIM (csrc/sim/state_node.c)."""
SPEC: Final = "nvidia.yaml"
"""Name of the specification, as of the one that nvidia-ctk writes."""
CAMBRICON: Final = "cambricon.yaml"
"""Name of that of Cambricon's devices, which there is where the node has some."""
# Major and minor number of /dev/null: it can be opened, and that is all that is asked of it.
_NULL: Final = os.makedev(1, 3)
_CONTROL: Final = ("nvidiactl", "nvidia-uvm")


@contextmanager
def written(node: Node, directory: Path, folder: Path | None, *, keep: bool) -> Iterator[None]:
    """Have the specification of a node in ``folder`` (None: nowhere) while its command runs.

    ``keep``: and after it, as the node itself. Raises StateError.
    """
    specs = () if folder is None else write(node, directory, folder)
    try:
        yield
    finally:
        for spec in () if keep else specs:
            spec.unlink(missing_ok=True)


def write(node: Node, directory: Path, folder: Path) -> tuple[Path, ...]:
    """Write the specifications of the node in ``directory`` into ``folder``; returns their files.

    The device files and libraries that they name are made beside them, in ``dev`` and ``lib``; each
    is whole from the moment it has its name. Raises StateError, also when there is a specification
    already that is not of a simulated node.
    """
    folder = folder.resolve()
    try:
        for name in ("dev", "lib"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror}") from error
    cards = [device for device in node.devices if device.vendor == "cambricon"]
    others = (_write_cambricon(cards, directory, folder),) if cards else ()
    return (_write_nvidia(node, directory, folder), *others)


def _own(spec: Path) -> Path:
    """Return a specification's path, if whatever is there is ours to write over."""
    if spec.exists() and INSIDE not in spec.read_text("utf-8", errors="replace"):
        raise StateError(f"{spec}: is not of a simulated node: name another folder")
    return spec


def _write_cambricon(cards: list[Device], directory: Path, folder: Path) -> Path:
    """Write the specification of Cambricon's devices, as the vendor's runtime names them."""
    (soname,) = LIBRARIES["cambricon"]
    # Slots are by PCI address, device files by the node's order.
    slots = sorted(range(len(cards)), key=lambda minor: cards[minor].pci_address)
    try:
        spec = _own(folder / CAMBRICON)
        for name in (*(f"cambricon_dev{minor}" for minor in slots), "cambricon_ctl"):
            _place(folder / "dev" / name, _make_device)
        file = folder / "lib" / soname
        _place(file, partial(_make_library, library().with_name(soname)))
        table = {
            "cdiVersion": "0.5.0",
            "kind": "cambricon.com/mlu",
            "devices": [
                {
                    "name": f"mlu-{slot}",
                    "containerEdits": {"deviceNodes": [_device(folder, f"cambricon_dev{minor}")]},
                }
                for slot, minor in enumerate(slots)
            ],
            "containerEdits": {
                "deviceNodes": [_device(folder, "cambricon_ctl")],
                "mounts": [
                    _mount(file, f"/usr/lib64/{soname}", "ro", "bind"),
                    _mount(directory.resolve(), INSIDE, "rw", "rbind"),
                ],
            },
        }
        text = json.dumps(table, indent=1) + "\n"
        _place(spec, lambda path: path.write_text(text, "utf-8"))
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror}") from error
    return spec


def _mount(source: Path, inside: str, mode: str, kind: str) -> dict[str, Any]:
    options = [mode, "nosuid", "nodev", kind]
    return {"hostPath": str(source), "containerPath": inside, "options": options}


def _write_nvidia(node: Node, directory: Path, folder: Path) -> Path:
    try:
        spec = _own(folder / SPEC)
        for name in (*_names(node), *_CONTROL):
            _place(folder / "dev" / name, _make_device)
        files = {}
        for soname in (library().name, NVML):
            source = library().with_name(soname)
            files[soname] = folder / "lib" / f"{soname.removesuffix('.1')}.{node.driver}"
            _place(files[soname], partial(_make_library, source))
        # JSON is YAML, too.
        text = json.dumps(_spec(node, directory.resolve(), folder, files), indent=1) + "\n"
        _place(spec, lambda path: path.write_text(text, "utf-8"))
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror}") from error
    return spec


def _names(node: Node) -> list[str]:
    return [f"nvidia{index}" for index in range(len(_devices(node)))]


def _devices(node: Node) -> list[Device]:
    """Return NVIDIA's devices of a node: the specification is of no others."""
    return [device for device in node.devices if device.vendor == "nvidia"]


def _place(path: Path, make: Callable[[Path], object]) -> None:
    """Put a new file in the place of one that may be in use: that is left to its users."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        make(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, _NULL)
    except PermissionError as error:  # also root's in a user namespace
        raise StateError(
            f"{path.parent}: device files for containers are made by the machine's root: "
            "run as root"
        ) from error
    path.chmod(0o666)  # whatever the umask


def _make_library(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)
    path.chmod(0o755)


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
        "args": [
            "nvidia-cdi-hook",
            "create-symlinks",
            *(part for link in links for part in ("--link", link)),
        ],
    }
    devices: list[dict[str, Any]] = []
    for index, (name, device) in enumerate(zip(_names(node), _devices(node), strict=True)):
        edits = {"deviceNodes": [_device(folder, name)]}
        devices += [
            {"name": known_as, "containerEdits": edits}
            for known_as in (str(index), uuid_text(device.uuid))
        ]
    everything = [_device(folder, name) for name in _names(node)]
    devices.append({"name": "all", "containerEdits": {"deviceNodes": everything}})
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [_device(folder, name) for name in _CONTROL],
            "hooks": [hook],
            "mounts": [
                *(_mount(file, f"{inside}/{file.name}", "ro", "bind") for file in files.values()),
                _mount(directory, INSIDE, "rw", "rbind"),
            ],
        },
    }


def _device(folder: Path, name: str) -> dict[str, Any]:
    return {"path": f"/dev/{name}", "hostPath": str(folder / "dev" / name)}
