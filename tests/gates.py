"""The gate of a slice, as an agent writes it, and what its processes say of themselves."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aliquot.shim import region
from aliquot.shim._region import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT_SECONDS = 0.1

FREE = lib.ALIQUOT_GATE_FREE
OPEN = lib.ALIQUOT_GATE_OPEN
TURN = lib.ALIQUOT_GATE_TURN
CLOSED = lib.ALIQUOT_GATE_CLOSED


def _flows(usage: Path, device: int) -> Iterator[int]:
    """What each process says of a device; region.h has the bits."""
    size = 8 * region.MAX_SLOTS
    with usage.open("rb") as file:
        start = ffi.offsetof("struct aliquot_usage", "flow", device)
        words = os.pread(file.fileno(), size, start)
    return (int.from_bytes(words[at : at + 8], "little") for at in range(0, size, 8))


def active(usage: Path, device: int = 0) -> bool:
    """Say whether any process has work on a device, or work that it has not booked yet."""
    return any(flow >> 10 & 1 for flow in _flows(usage, device))


class Gate:
    """The gate of a slice's devices, in the folder ``.aliquot`` of its files."""

    def __init__(self, folder: Path, devices: int = 1) -> None:
        """Open the files of the slice."""
        grant = folder / "grant"
        grant.chmod(0o644)
        self.usage_path = folder / "usage"
        self._devices = devices
        self._grant = os.open(grant, os.O_RDWR)
        self._number = 0

    def write(self, state: int, *, turn_us: int = 0, others: int = 0) -> None:
        """Give every device another state; who waits for it looks within 10 ms."""
        self._number += 1
        word = turn_us << 32 | self._number << 6 | others << 2 | state
        for device in range(self._devices):
            self._write_word(word, "device", device, "gate")

    def _write_word(self, word: int, *path: str | int) -> None:
        offset = ffi.offsetof("struct aliquot_grant", *path)
        os.pwrite(self._grant, word.to_bytes(8, "little"), offset)

    @contextmanager
    def beating(self) -> Iterator[threading.Event]:
        """Let the agent live: without it, nobody keeps to a gate. Setting the event kills it."""
        dead = threading.Event()

        def beat() -> None:
            count = 1
            while not dead.is_set():
                self._write_word(count, "beat")
                count += 1
                dead.wait(BEAT_SECONDS)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield dead
        finally:
            dead.set()
            thread.join()

    def waiting(self, device: int = 0) -> int:
        """Count the threads that wait for the gate of a device."""
        return sum(flow & 0x3FF for flow in _flows(self.usage_path, device))

    def used(self, device: int = 0) -> region.UsedDevice:
        """Return what the slice used of a device."""
        with self.usage_path.open("rb") as file:
            usage = region.read_usage(file.fileno(), str(self.usage_path), self._devices)
        return usage.devices[device]

    def close(self) -> None:
        """Close the files."""
        os.close(self._grant)
