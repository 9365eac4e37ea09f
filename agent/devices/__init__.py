"""Devices of a node, whoever made them: what a vendor's module tells, and the protocol it follows.

A reading that a device lacks is None, never zero. Sizes are bytes, shares of time go from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from aliquot.hooks.plan import Needs


@dataclass(frozen=True, slots=True)
class Device:
    """One device as it stays for the life of the agent.

    ``memory_bytes`` is what programs can allocate of it; ``page_bytes`` the unit in which it is
    given; ``context_bytes`` what one context takes, 0 when unknown. ``links`` are direct links by
    the UUID of the other device. ``enforcement`` names who can hold a memory cap on it, the
    strongest first: ``driver``, ``partition``, ``shim``. With none it is given as a whole; without
    ``shim`` there are no shares of its time, but those of partitions. ``driver`` alone is what a
    vendor without a shim has, whose driver or kernel holds caps by ``limit_memory``. ``splits``:
    ``partition()`` is possible. ``shapes`` are the sizes in which partitions come, as bytes and
    percent of the device's time; without any they come in every size.
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
    splits: bool = False
    shapes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A hardware or driver partition that one container has of a device.

    ``uuid`` is that of the device that it is cut from. ``id`` is the vendor's name for it on this
    node; ``name`` is what it was made for (a slice's key), empty for one that was not made here.
    ``memory_bytes`` and ``cores``, percent of the device's time, are at least what was asked for.
    ``used_bytes`` and ``busy``, a share of the device's time, are what its vendor says that it uses
    now, None where that is not told.
    """

    uuid: str
    id: str
    name: str
    memory_bytes: int
    cores: int
    used_bytes: int | None = field(default=None, compare=False)
    busy: float | None = field(default=None, compare=False)


NO_PARTITIONS: Final[Mapping[str, Partition]] = MappingProxyType({})


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


class UntoldError(VendorError):
    """Partitions of some devices cannot be told, those whose UUIDs are ``untold``.

    ``found`` are those of the others.
    """

    def __init__(self, text: str, found: Sequence[Partition], untold: Sequence[str]) -> None:
        """Take one line for people."""
        super().__init__(text)
        self.found = tuple(found)
        self.untold = frozenset(untold)


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
        """Return every process on every device. Raises VendorError.

        A vendor may have an attribute ``unlisted``, the UUIDs of the devices whose processes the
        last call could not list: what they hold is not known then, where without it it is nothing.
        """
        ...

    def health(self) -> Sequence[Health]:
        """Return each device's health, with what events told since the last call."""
        ...

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Return what a container needs for these devices. Raises VendorError.

        ``partitions`` are by UUID: of such a device the container gets the partition alone.
        """
        ...

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Let the driver hold a cgroup to ``limit_bytes`` on a device; None takes it back.

        Only for devices whose ``enforcement`` has ``driver``. Raises VendorError.
        """
        ...

    def partition(self, uuid: str, name: str, memory_bytes: int, cores: int) -> Partition:
        """Cut the smallest partition off a device that holds so much, for a slice of that name.

        Only of devices that have ``splits``. It is found by its name from before it is real, by
        whoever comes after a crash. Raises VendorError, which says why there is none.
        """
        ...

    def resize(self, partition: Partition, memory_bytes: int, cores: int) -> Partition:
        """Change a partition while it is in use. Raises VendorError where that cannot be."""
        ...

    def partitions(self) -> Sequence[Partition]:
        """Return the partitions that there are, survivors of a crash too.

        Raises VendorError, UntoldError where only some devices do not tell theirs.
        """
        ...

    def release(self, partition: Partition) -> None:
        """Give a partition back; one that is gone is well. Raises VendorError."""
        ...

    def close(self) -> None:
        """Let go of the vendor's library."""
        ...


def partitions_of(vendor: Vendor, uuid: str) -> Sequence[Partition]:
    """Return the partitions of one device. Raises VendorError when it does not tell them."""
    try:
        found = vendor.partitions()
    except UntoldError as error:
        if uuid in error.untold:
            raise
        found = error.found
    return [one for one in found if one.uuid == uuid]


class Undivided:
    """What a vendor without partitions inherits."""

    def partition(self, uuid: str, name: str, memory_bytes: int, cores: int) -> Partition:
        """Refuse."""
        del name, memory_bytes, cores
        raise VendorError(f"{uuid} cannot be partitioned")

    def resize(self, partition: Partition, memory_bytes: int, cores: int) -> Partition:
        """Refuse."""
        del memory_bytes, cores
        raise VendorError(f"{partition.uuid} has no partitions")

    def partitions(self) -> Sequence[Partition]:
        """Return none."""
        return ()

    def release(self, partition: Partition) -> None:
        """There is none to give back."""
