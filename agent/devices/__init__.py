"""Devices of a node, whoever made them: what a vendor's module tells, and the protocol it follows.

A reading that a device lacks is None, never zero. Sizes are bytes, shares of time go from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aliquot.hooks.plan import Needs


@dataclass(frozen=True, slots=True)
class Device:
    """One device as it stays for the life of the agent.

    ``memory_bytes`` is what programs can allocate of it; ``page_bytes`` the unit in which it is
    given; ``context_bytes`` what one context takes, 0 when unknown. ``links`` are direct links by
    the UUID of the other device. ``enforcement`` names who can hold a memory cap on it, the
    strongest first: ``driver``, ``shim``. With none it is given as a whole; without ``shim`` there
    are no shares of its time. ``driver`` alone is what a vendor without a shim has, whose driver or
    kernel holds caps by ``limit_memory``.
    """

    vendor: str
    index: int
    uuid: str
    uuid_bytes: bytes
    model: str
    memory_bytes: int
    page_bytes: int
    context_bytes: int
    pci_address: str
    numa_node: int | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    enforcement: tuple[str, ...] = ("shim",)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a device reads now."""

    uuid: str
    memory_used_bytes: int | None
    busy: float | None
    memory_busy: float | None
    power_watts: float | None
    temperature_celsius: float | None


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process on a device; ``pid`` is the host's."""

    uuid: str
    pid: int
    memory_bytes: int | None
    busy: float | None
    memory_busy: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a device can be used; ``reason`` is one line for people, empty when it can."""

    uuid: str
    healthy: bool
    reason: str


class VendorError(Exception):
    """A vendor's library cannot be used; the text says which, why and what to do, in one line."""


class Vendor(Protocol):
    """One vendor's devices on this node. Calls may block for milliseconds; none keeps a lock.

    What raises VendorError leaves the agent running with the other vendors' devices.
    """

    @property
    def name(self) -> str:
        """The vendor's name in lower case: ``nvidia``."""
        ...

    def enumerate(self) -> Sequence[Device]:
        """Return the devices, in the vendor's order. Raises VendorError."""
        ...

    def sample(self) -> Sequence[Sample]:
        """Return what each device reads now. Raises VendorError."""
        ...

    def processes(self) -> Sequence[DeviceProcess]:
        """Return every process on every device. Raises VendorError."""
        ...

    def health(self) -> Sequence[Health]:
        """Return each device's health, with what events told since the last call."""
        ...

    def needs(self, uuids: Sequence[str]) -> Needs:
        """Return what a container needs for these devices. Raises VendorError."""
        ...

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Let the driver hold a cgroup to ``limit_bytes`` on a device; None takes it back.

        Only for devices whose ``enforcement`` has ``driver``. Raises VendorError.
        """
        ...

    def close(self) -> None:
        """Let go of the vendor's library."""
        ...
