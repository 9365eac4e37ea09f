"""What a container needs for Cambricon's devices: from a CDI specification, else the node's own.

A container's image brings the vendor's libraries (CNToolkit) itself; the shim stands before the one
that talks to the driver, wherever the image has it. From the node come the device nodes, the
management library and `cnmon`, which belong to the driver. A share of a card is opened by a node of
its own, beside those of the card; specifications have none for it.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aliquot.shim
from aliquot.hooks import cdi, elf
from aliquot.hooks.plan import BindMount, DeviceNode, Library, Needs, Substitute

from . import VendorError, cndev
from .registry import Settings

KIND: Final = "cambricon.com/mlu"
CNDRV: Final = "libcndrv.so"
# The private name under which the shim finds the real library (csrc/generate.py).
DRIVER_NAME: Final = "libcndrv-driver.so"
# Hooks and runtimes of Cambricon that would put devices in once more.
FOREIGN_HOOKS: Final = (
    "*/cambricon-container-runtime-hook",
    "*/cambricon-container-toolkit",
    "*/cambricon-container-cli",
)
# What makes the vendor's own runtime leave the container alone.
HIDDEN: Final = {"CAMBRICON_VISIBLE_DEVICES": "void"}

_PROGRAM_FOLDERS: Final = ("usr/bin", "bin", "usr/local/bin", "usr/local/neuware/bin")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device, or a part of it whose node is ``share``, as specifications and nodes name it.

    ``channel`` is an instance's node for what goes between processes (MIM).
    """

    uuid: str
    slot: int
    minor: int
    share: str = ""
    channel: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What specifications may call it, the surest first."""
        bare = self.uuid.removeprefix("MLU-")
        return self.uuid, bare, f"mlu-{self.slot}", f"mlu{self.slot}", str(self.slot)


class Files:
    """Finds the driver's files."""

    def __init__(self, config: Settings) -> None:
        """Begin with nothing read."""
        self._specs = cdi.Specs(tuple(config.cdi_dirs))
        self._root = config.cambricon.root
        self._dev = self._root / "dev"

    def needs(self, wanted: Sequence[Wanted], library: str) -> Needs:
        """Return what a container needs. ``library`` is the management library's file.

        Raises VendorError.
        """
        covered = self._covered(wanted)
        try:
            if covered is None:
                nodes = [*self._card_nodes(wanted), *self._share_nodes(wanted)]
                return _needs(nodes, own_libraries(library), own_mounts(self._root))
            edits = cdi.merge(covered)
            where = str(covered[0].spec.path)
            nodes = [*cdi.nodes(edits, where), *self._share_nodes(wanted)]
            gone = next((m.source for m in edits.mounts if not os.path.lexists(m.source)), None)
            if gone is not None:
                raise VendorError(f"{where} names {gone}, which is not there: write it anew")
            hooks = tuple(
                hook
                for hook in edits.hooks
                if not any(fnmatch.fnmatchcase(hook.path, one) for one in FOREIGN_HOOKS)
            )
            mounts = tuple(m for m in edits.mounts if Path(m.destination).name != cndev.LIBRARY)
            libraries = tuple(
                found
                for mount in edits.mounts
                if mount not in mounts
                for found in own_libraries(mount.source)
            )
            needs = _needs(nodes, libraries, mounts, dict(edits.env))
        except (cdi.CdiError, elf.ElfError) as error:
            raise VendorError(str(error)) from error
        return Needs(
            nodes=needs.nodes,
            mounts=needs.mounts,
            libraries=needs.libraries,
            environment=needs.environment,
            hooks=hooks,
            foreign_hooks=FOREIGN_HOOKS,
        )

    def _covered(self, wanted: Sequence[Wanted]) -> list[cdi.Found] | None:
        """Return where a specification has all of these devices; None when one is in none."""
        devices = self._specs.devices(KIND)
        found = [_covering(device, devices) for device in wanted]
        return [item for item in found if item is not None] if found and all(found) else None

    def _card_nodes(self, wanted: Sequence[Wanted]) -> list[DeviceNode]:
        needed = [f"/dev/cambricon_dev{device.minor}" for device in wanted]
        # What drivers of some kinds and ages have.
        optional = ["/dev/cambricon_ctl", "/dev/cambricon_gdr"]
        optional += [f"/dev/cambricon_ipcm{device.minor}" for device in wanted]
        nodes = [self._node(path) for path in dict.fromkeys(needed)]
        return [*nodes, *(node for node in map(self._found, optional) if node is not None)]

    def _share_nodes(self, wanted: Sequence[Wanted]) -> list[DeviceNode]:
        channels = [self._found(device.channel) for device in wanted if device.channel]
        return [
            *(self._node(device.share) for device in wanted if device.share),
            *(node for node in channels if node is not None),
        ]

    def _node(self, path: str) -> DeviceNode:
        node = self._found(path)
        if node is None:
            raise VendorError(
                f"{path} is no device node: load the driver, which makes it (cambricon-drv)"
            )
        return node

    def _found(self, path: str) -> DeviceNode | None:
        """Return the node that containers have at a path below /dev, None when it is not there.

        The library tells those of shares as whole paths, which lead nowhere else.
        """
        name = path.removeprefix("/dev/")
        if name == path or ".." in name.split("/"):
            return None
        file = self._dev / name
        try:
            state = file.stat()
        except OSError:
            return None
        if not stat.S_ISCHR(state.st_mode):
            return None
        return DeviceNode(
            path=path,
            major=os.major(state.st_rdev),
            minor=os.minor(state.st_rdev),
            mode=stat.S_IMODE(state.st_mode),
            source="" if str(file) == path else str(file),
        )


def _needs(
    nodes: Sequence[DeviceNode],
    libraries: tuple[Library, ...],
    mounts: tuple[BindMount, ...],
    env: Mapping[str, str] | None = None,
) -> Needs:
    return Needs(
        nodes=tuple({node.path: node for node in nodes}.values()),
        libraries=libraries,
        mounts=mounts,
        # Whatever of Cambricon's is in the way as well must not inject a second time.
        environment={**(env or {}), **HIDDEN},
        foreign_hooks=FOREIGN_HOOKS,
    )


def _covering(device: Wanted, devices: Mapping[str, cdi.Found]) -> cdi.Found | None:
    node = f"/dev/cambricon_dev{device.minor}"
    for name in device.names:
        found = devices.get(name)
        # Numbers change when a card is added; specifications are not always written anew.
        sure = name in (device.uuid, device.uuid.removeprefix("MLU-"))
        if found is not None and (sure or any(n.path == node for n in found.edits.nodes)):
            return found
    return None


def substitutes() -> tuple[Substitute, ...]:
    """Return the shim that stands in the place of the driver's library."""
    return (Substitute(CNDRV, aliquot.shim.library(CNDRV), DRIVER_NAME),)


def own_libraries(library: str) -> tuple[Library, ...]:
    """Return the management library for a container, by the file that the agent has of it.

    Raises ElfError.
    """
    file = Path(library).resolve()
    soname = elf.read(file).soname
    names = {cndev.LIBRARY, file.name, *((soname,) if soname else ())}
    return (Library(file, tuple(sorted(names))),)


def own_mounts(root: Path) -> tuple[BindMount, ...]:
    """Return the driver's program that is on this node, below ``root``."""
    path = shutil.which("cnmon", path=":".join(str(root / folder) for folder in _PROGRAM_FOLDERS))
    return () if path is None else (BindMount(str(Path(path).resolve()), "/usr/bin/cnmon"),)
