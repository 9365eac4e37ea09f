"""What devices and slices read at one moment, as values for metrics and tools.

Sizes are bytes, shares of time go from 0 to 1. What nobody could tell is None, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from aliquot.shim import region

from .devices import Device, Health, Sample
from .sharing import Account
from .slices import Part, Slice


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """A device, what it reads, and what of it is promised.

    ``cores_allocated`` is percent of its time, ``slices`` how many hold a part of it.
    """

    device: Device
    sample: Sample
    health: Health
    memory_allocated_bytes: int
    cores_allocated: int
    slices: int


@dataclass(frozen=True, slots=True)
class PartReading:
    """What a slice made of one device.

    ``charged_bytes`` is what its living processes say that they hold, ``seen_bytes`` what the
    device says that they hold, and ``unseen_bytes`` what of that stood uncharged in two rounds.
    ``processes`` counts those that hold something there, by the account that has more of them.
    ``busy`` and ``memory_busy`` are its shares of the device's time.

    ``device_seconds``, ``wait_seconds``, ``waits`` and ``let_through`` are what its processes
    counted (region.UsedDevice) as far as it can be true; ``gate`` is one of region.GATES.
    ``account`` is what the arbiter counted, None when no turns are given to it.
    """

    part: Part
    charged_bytes: int | None = None
    seen_bytes: int | None = None
    unseen_bytes: int | None = None
    peak_bytes: int | None = None
    refusals: int | None = None
    processes: int | None = None
    busy: float | None = None
    memory_busy: float | None = None
    device_seconds: float | None = None
    wait_seconds: float | None = None
    waits: int | None = None
    let_through: int | None = None
    gate: str | None = None
    account: Account | None = None

    @property
    def memory_used_bytes(self) -> int | None:
        """What counts against its cap; what the device says where its own account is unreadable."""
        if self.charged_bytes is None:
            return self.seen_bytes
        return self.charged_bytes + (self.unseen_bytes or 0)


@dataclass(frozen=True, slots=True)
class SliceReading:
    """A slice and what its processes hold; ``fault`` says in one line what cannot be read of it."""

    piece: Slice
    parts: tuple[PartReading, ...]
    processes: tuple[region.Process, ...] = ()
    unknown_functions: int | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything. ``sampled_unix`` is when the devices were last read, None when never yet."""

    sampled_unix: float | None
    devices: tuple[DeviceReading, ...]
    slices: tuple[SliceReading, ...]
    faults: tuple[str, ...]
