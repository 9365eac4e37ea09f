"""Lays the shim out in front of a driver, as a container would see it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aliquot.shim import region

MIB = 1 << 20
CUDA = ("libcuda.so.1", "libcuda-driver.so.1")
UUID = bytes(range(16))
ONE_DEVICE = (region.RegionDevice(uuid=UUID, cap=512 * MIB, page_bytes=2 * MIB, context_bytes=0),)


def lay_out(
    shim: Path,
    driver: Path,
    folder: Path,
    devices: tuple[region.RegionDevice, ...] = ONE_DEVICE,
    names: tuple[str, str] = CUDA,
) -> Path:
    """Put the shim, the real driver and the files of a slice into ``folder``.

    ``names``: of the shim, and under which it finds the driver. Answers the path of the library
    that a program is to load.
    """
    hidden = folder / ".aliquot"
    hidden.mkdir(parents=True)
    (hidden / names[1]).symlink_to(driver)
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
    try:
        region.create(descriptor, "test", devices)
    finally:
        os.close(descriptor)
    return Path(shutil.copy(shim, folder / names[0]))


def lay_out_management(shim: Path, library: Path, folder: Path) -> Path:
    """Put the shim of NVML and the real library into a folder that lay_out has filled."""
    (folder / ".aliquot/libnvidia-ml-driver.so.1").symlink_to(library)
    return Path(shutil.copy(shim, folder / "libnvidia-ml.so.1"))


def usage_of(library: Path, device_count: int = 1) -> region.Usage:
    """What the processes of the slice in front of ``library`` say."""
    path = library.parent / ".aliquot/usage"
    with path.open("rb") as file:
        return region.read_usage(file.fileno(), str(path), device_count)
