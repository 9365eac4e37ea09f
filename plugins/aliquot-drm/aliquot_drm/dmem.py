"""The kernel's dmem controller: caps of device memory that it holds a cgroup v2 to, since 6.14.

``dmem.capacity`` of the root names the regions, ``drm/0000:03:00.0/vram 17163091968``; a line of
``dmem.max`` of a cgroup is a region's cap. An allocation above the cap fails, or is given of the
system's memory where the program allows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aliquot.agent.devices import VendorError
from aliquot.agent.devices.cgroups import hand_down, limit_folder

from . import files

CONTROLLER: Final = "dmem"

# Beside these a device may have regions that are not its programs' memory (stolen).
_MEMORY: Final = re.compile(r"vram[0-9]{0,3}", re.ASCII)


class Dmem:
    """The controller of one node; ``root`` is where cgroup v2 is mounted."""

    def __init__(self, root: Path) -> None:
        """Nothing is read before it is asked."""
        self._root = root

    def regions(self) -> Mapping[str, int]:
        """Return the bytes of each region; empty where the kernel has no such controller."""
        found: dict[str, int] = {}
        for line in (files.text(self._root / "dmem.capacity") or "").splitlines():
            name, _, size = line.strip().rpartition(" ")
            value = files.whole_number(size)
            if name and value:
                found.setdefault(name, value)
        return found

    def memory_of(self, address: str) -> Mapping[str, int]:
        """Return the regions that are the memory of the device at a PCI address."""
        start = f"drm/{address}/"
        return {
            name: size
            for name, size in self.regions().items()
            if name.startswith(start) and _MEMORY.fullmatch(name.removeprefix(start))
        }

    def limit(self, region: str, cgroup: str, limit_bytes: int | None) -> None:
        """Set a region's cap of a cgroup, or take it back with None. Raises VendorError."""
        folder = limit_folder(self._root, cgroup)
        if limit_bytes is None and not folder.is_dir():
            return
        file = folder / "dmem.max"
        if limit_bytes is not None and not file.exists():
            # The kernel has the controller, but nobody handed it down to this group.
            hand_down(self._root, folder, CONTROLLER)
        wanted = "max" if limit_bytes is None else str(limit_bytes)
        what = f"the memory limit of {folder} ({region})"
        try:
            _write(file, f"{region} {wanted}\n")
        except OSError as error:
            if limit_bytes is None and not file.exists():
                return
            raise VendorError(f"{what} could not be set to {wanted}: {error.strerror}") from error
        # A cap below what the group holds is not taken, and no error says so.
        held = self._read(file, region)
        if limit_bytes is not None and (held is None or held > limit_bytes):
            raise VendorError(
                f"{what} could not be set to {wanted} bytes: "
                "the group holds more, and has to free it first"
            )

    @staticmethod
    def _read(file: Path, region: str) -> int | None:
        found = None
        for line in (files.text(file) or "").splitlines():
            name, _, value = line.strip().rpartition(" ")
            if name == region:
                found = files.whole_number(value)
        return found


def _write(file: Path, text: str) -> None:
    """Add a line to a file that is there, in one call as the kernel wants it. Raises OSError."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
