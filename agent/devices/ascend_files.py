"""What a container needs for Ascend devices: their device files, and the driver's files.

They are what the vendor's own container runtime hands in, found below the driver's root. Libraries
go where the image's loader looks; the driver's folders are mounted as well, for programs that know
their paths. The vendor's own injection is switched off.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aliquot.shim
from aliquot.hooks import elf
from aliquot.hooks.plan import BindMount, DeviceNode, Library, Needs, Substitute

from . import Partition, VendorError

RUNTIME: Final = "libruntime.so"
"""The library whose shim holds slices that are no vNPUs; it is the image's, as all of CANN is."""
CONTROL: Final = ("davinci_manager", "devmm_svm", "hisi_hdc")
OPTIONAL: Final = ("dvpp_cmdlist",)
DRIVER: Final = "usr/local/Ascend/driver"
# In the order in which the loader is to find them.
LIBRARIES: Final = (
    f"{DRIVER}/lib64/common",
    f"{DRIVER}/lib64/driver",
    f"{DRIVER}/lib64",
    "usr/local/dcmi",
)
MOUNTS: Final = (f"{DRIVER}/lib64", f"{DRIVER}/include", "usr/local/dcmi", "usr/local/bin/npu-smi")
# Queues between processes, which programs write to.
WRITABLE: Final = ("var/queue_schedule",)
ENVIRONMENT: Final = {
    # Whatever of the vendor's is in the way as well must not inject a second time.
    "ASCEND_VISIBLE_DEVICES": "void",
    "ASCEND_DOCKER_RUNTIME": "True",
}
FOREIGN_HOOKS: Final = (
    "*/ascend-docker-hook",
    "*/ascend-docker-runtime",
    "*/ascend-docker-cli",
    "*/ascend-docker-destroy",
    "*/ascend-docker-plugin-install-helper",
)
_READ_WRITE: Final = ("rbind", "rw", "nosuid", "nodev", "rprivate")


def needs(root: Path, devices: Mapping[str, int], partitions: Mapping[str, Partition]) -> Needs:
    """Return what a container needs; ``devices`` have their physical ids by UUID.

    Raises VendorError for what is not there.
    """
    nodes = [
        _node(root, f"vdavinci{partitions[uuid].id}", f"davinci{partitions[uuid].id}")
        if uuid in partitions
        else _node(root, f"davinci{phy}")
        for uuid, phy in devices.items()
    ]
    nodes += [_node(root, name) for name in CONTROL]
    nodes += [_node(root, name) for name in OPTIONAL if (root / "dev" / name).exists()]
    return Needs(
        nodes=tuple(nodes),
        mounts=_mounts(root),
        libraries=_libraries(root),
        environment=dict(ENVIRONMENT),
        foreign_hooks=FOREIGN_HOOKS,
        # What a vNPU has the hardware holds, and the runtime shows.
        substitutes=() if devices.keys() <= partitions.keys() else (_substitute(),),
    )


def _substitute() -> Substitute:
    """Return the shim of the runtime's library."""
    return Substitute(RUNTIME, aliquot.shim.library(RUNTIME), RUNTIME.replace(".so", "-driver.so"))


def _node(root: Path, name: str, inside: str = "") -> DeviceNode:
    path = root / "dev" / name
    try:
        found = path.stat()
    except OSError as error:
        raise VendorError(
            f"{path} is not there ({error.strerror}): load Ascend's driver"
        ) from error
    if not stat.S_ISCHR(found.st_mode):
        raise VendorError(f"{path} is no device file: see Ascend's driver")
    known = f"/dev/{inside or name}"
    return DeviceNode(
        path=known,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        source="" if str(path) == known else str(path),
    )


def _mounts(root: Path) -> tuple[BindMount, ...]:
    found = [BindMount(str(root / name), f"/{name}") for name in MOUNTS if (root / name).exists()]
    found += [
        BindMount(str(root / name), f"/{name}", _READ_WRITE)
        for name in WRITABLE
        if (root / name).exists()
    ]
    return tuple(found)


def _libraries(root: Path) -> tuple[Library, ...]:
    """Return the driver's libraries, each file once with all its names. Raises VendorError."""
    machine = elf.own_machine()
    names: dict[Path, set[str]] = {}
    taken: set[str] = set()
    for folder in LIBRARIES:
        for name, file in _files(root / folder):
            if name not in taken:
                taken.add(name)
                names.setdefault(file, set()).add(name)
    libraries = []
    for file, known in names.items():
        try:
            library = elf.read(file)
        except elf.ElfError:
            continue
        if library.machine == machine:
            own = known | ({library.soname} - {None})
            libraries.append(Library(file, tuple(sorted(str(name) for name in own))))
    if not libraries:
        raise VendorError(
            f"{root / DRIVER}/lib64 has no libraries: install Ascend's driver, or say where it is "
            "(root of [ascend] in the configuration)"
        )
    return tuple(libraries)


def _files(folder: Path) -> Sequence[tuple[str, Path]]:
    try:
        listed = sorted(os.listdir(folder))  # noqa: PTH208 - names are what is wanted
    except OSError:
        return ()
    found = []
    for name in listed:
        file = (folder / name).resolve()
        if name.startswith("lib") and ".so" in name and file.is_file():
            found.append((name, file))
    return found
