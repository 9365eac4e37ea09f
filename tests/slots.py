"""Slots of a usage file, owned as the processes of a slice own them."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

# Where the parts of the file lie; region.h says so.
_DEVICES = 1024
_TIMES = 2048
_CHARGES = 4096
_SLOTS = 4096 + 131072


def write_figures(path: Path, device: int, peak: int, refusals: int) -> None:
    """Write what the slice made of a device."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("=QQ", peak, refusals), _DEVICES + device * 64)


def write_time(
    path: Path,
    device: int,
    device_ns: int = 0,
    wait_ns: int = 0,
    waits: int = 0,
    let_through: int = 0,
) -> None:
    """Write what the slice counted of its time on a device."""
    figures = struct.pack("=QQQQQQQ", 0, device_ns, 0, wait_ns, waits, 0, let_through)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), figures, _TIMES + device * 128)


class Slot:
    """A slot of a usage file, owned as a process of a slice owns it: by a lock of its own."""

    def __init__(self, path: Path, number: int, pid: int = 77, command: bytes = b"program") -> None:
        self.number = number
        self._fd = os.open(path, os.O_RDWR)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)
        head = struct.pack("=IIQ", pid, 0, 10**18) + command.ljust(16, b"\0")[:16]
        os.pwrite(self._fd, head, _SLOTS + 64 * number)
        (mark,) = struct.unpack("=I", os.pread(self._fd, 4, 16))
        os.pwrite(self._fd, struct.pack("=I", max(mark, number + 1)), 16)

    def charge(self, device: int, value: int) -> None:
        """Write this process' charge on a device."""
        os.pwrite(self._fd, struct.pack("=Q", value), _CHARGES + (device * 1024 + self.number) * 8)

    def die(self) -> None:
        """Lose the lock, as the kernel has it when a process ends."""
        os.close(self._fd)
