"""Memory limits that NVIDIA's own driver holds a cgroup to, since release 615 (CUDA 13.4).

The limit is strict: soft and hard are the same, so that nobody borrows and nobody is evicted.
Whether a driver can do it is found out by trying, with a cgroup made for the purpose: reading the
limits of a group that has none answers the same as a driver that has none to give.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pynvml

from . import VendorError, nvml
from .cgroups import hand_down, limit_folder

DRIVER: Final = "driver"
SHIM: Final = "shim"
FIRST_RELEASE: Final = 615

_SET: Final = "nvmlDeviceSetMemoryLimits_v1"
_CONTROLLER: Final = "dmem"
_TRIAL_BYTES: Final = 2 << 20
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Limits:
    """Sets limits, and knows which devices take them. ``root`` is where cgroup v2 is mounted."""

    def __init__(self, root: Path = _CGROUPS) -> None:
        """Begin with no device tried."""
        self.root = root
        self._holds: set[str] = set()

    def offered(self, uuid: str, handle: nvml.Handle, driver: str) -> bool:
        """Return whether the driver holds limits on this device; one that does is tried once."""
        if uuid not in self._holds and self._try(handle, driver):
            self._holds.add(uuid)
        return uuid in self._holds

    def set(self, uuid: str, handle: nvml.Handle, cgroup: str, limit_bytes: int | None) -> None:
        """Set a limit, or take it back with None. Raises VendorError."""
        folder = limit_folder(self.root, cgroup)
        if limit_bytes is None and not folder.is_dir():
            return
        code = self._set(handle, folder, limit_bytes)
        if code == pynvml.NVML_ERROR_NOT_FOUND and limit_bytes is not None:
            # The kernel has the controller, but nobody handed it down to this group.
            hand_down(self.root, folder, _CONTROLLER)
            code = self._set(handle, folder, limit_bytes)
        gone = {pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_OPERATING_SYSTEM}
        if code == pynvml.NVML_SUCCESS or (
            limit_bytes is None and code in gone and not folder.is_dir()
        ):
            return
        what = "taken back" if limit_bytes is None else f"set to {limit_bytes} bytes"
        why = nvml.describe(pynvml.NVMLError(code))
        raise VendorError(
            f"{uuid}: the driver's memory limit of {folder} could not be {what}: {why}"
        )

    def _set(self, handle: nvml.Handle, folder: Path, limit_bytes: int | None) -> int:
        call = nvml.function(_SET)
        if call is None:
            return int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        limits = nvml.SetMemoryLimits(
            os.fsencode(folder),
            0 if limit_bytes is None else limit_bytes,
            nvml.NO_LIMIT if limit_bytes is None else limit_bytes,
        )
        return int(call(handle, ctypes.byref(limits)))

    def _try(self, handle: nvml.Handle, driver: str) -> bool:
        release = driver.partition(".")[0]
        if not release.isdecimal() or int(release) < FIRST_RELEASE or nvml.function(_SET) is None:
            return False
        if not (self.root / "cgroup.controllers").is_file():
            return False
        try:
            with self._trial() as folder:
                self.set("trial", handle, str(folder), _TRIAL_BYTES)
                self.set("trial", handle, str(folder), None)
        except (OSError, VendorError):
            return False
        return True

    @contextlib.contextmanager
    def _trial(self) -> Iterator[Path]:
        folder = self.root / f"aliquot-trial-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
