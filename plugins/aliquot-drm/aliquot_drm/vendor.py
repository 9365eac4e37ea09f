"""What AMD's and Intel's devices have in common: a Vendor on sysfs and DRM alone."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from aliquot.agent.devices import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    Undivided,
    VendorError,
)
from aliquot.hooks.plan import DeviceNode, Needs

from . import cards
from .cards import Card
from .clients import Clients, Look
from .dmem import Dmem
from .files import Roots
from .health import Watch

# The protocol's word for caps that a container cannot get past; here the kernel holds them.
_DRIVER: Final = "driver"
_UUID_BYTES: Final = 16
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A device before it has an index.

    ``nodes`` are its DRM files and their minor numbers; ``uuid`` is empty without a number of its
    own; ``links`` are by the address of the other device.
    """

    card: Card
    nodes: Mapping[str, int]
    uuid: str = ""
    uuid_bytes: bytes = b""
    links: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """A device as it was enumerated; ``region`` is dmem's name of its memory, empty without."""

    device: Device
    found: Found
    region: str

    @property
    def card(self) -> Card:
        """Where sysfs has it."""
        return self.found.card


class DrmVendor(Undivided, ABC):
    """Devices of one maker; see ``Vendor``.

    Its methods may be called in any thread. What is told of a process is that of its DRM files;
    ``busy`` is the share of the time from one call of ``processes`` to the next, None at first.
    """

    name: ClassVar[str]
    maker: ClassVar[str]
    drivers: ClassVar[tuple[str, ...]]
    # What keeps the maker's own container runtime from adding devices.
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: object, roots: Roots | None = None) -> None:
        """Look for the drivers. Raises VendorError when the kernel has none of them."""
        del config
        try:
            self.roots = roots or Roots.of(os.environ)
        except ValueError as error:
            raise VendorError(str(error)) from error
        places = [
            folder
            for driver in self.drivers
            for folder in (f"module/{driver}/drivers/pci:{driver}", f"bus/pci/drivers/{driver}")
        ]
        if not any((self.roots.sys / place).is_dir() for place in places):
            raise VendorError(
                f"the kernel has no driver of {self.maker}'s ({', '.join(self.drivers)}): load it"
            )
        self._dmem = Dmem(self.roots.cgroups)
        self._clients = Clients(self.roots.proc, self.drivers)
        self._watch = Watch()
        # What containers need, and their caps, never wait for a reading that hangs.
        self._finding = threading.Lock()
        self._reading = threading.Lock()
        self._known: tuple[Known, ...] | None = None
        self._left_out: tuple[str, ...] = ()
        self._look = Look()

    # -- what differs --

    @abstractmethod
    def find(self, found: Sequence[Found]) -> Sequence[Found]:
        """Return the devices in the maker's order, with what only its own driver tells."""

    @abstractmethod
    def memory_bytes(self, card: Card, regions: Mapping[str, int]) -> int | None:
        """Return what a device has of memory, None when nothing tells; ``regions`` are dmem's."""

    @abstractmethod
    def memory_used_bytes(self, card: Card) -> int | None:
        """Return what of it is in use by anybody."""

    @abstractmethod
    def busy(self, known: Known, look: Look) -> float | None:
        """Return the share of time in which kernels of anybody ran, by the last look at clients."""

    @abstractmethod
    def power_watts(self, known: Known) -> float | None:
        """Return the power that a device draws."""

    @abstractmethod
    def rows(self, known: Known, look: Look) -> Sequence[DeviceProcess]:
        """Return the processes on a device, by the last look at clients."""

    @abstractmethod
    def shared_nodes(self) -> Sequence[DeviceNode]:
        """Return what all devices of a container need besides their own. Raises VendorError."""

    # -- the protocol --

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why devices that the drivers have are not among those enumerated, one line each."""
        return self._left_out

    def enumerate(self) -> Sequence[Device]:
        """Return the devices; one that tells no memory of its own is left out."""
        with self._finding:
            return tuple(known.device for known in self._discover())

    def sample(self) -> Sequence[Sample]:
        """Return what each device reads now; of one that is gone or asleep, only what it can."""
        with self._reading:
            return tuple(self._sample(known) for known in self._all())

    def processes(self) -> Sequence[DeviceProcess]:
        """Return every process on every device, with the host's pids."""
        with self._reading:
            known = self._all()
            self._look = self._clients.look()
            return tuple(
                row for one in known if one.card.there for row in self.rows(one, self._look)
            )

    def health(self) -> Sequence[Health]:
        """Return each device's health."""
        with self._reading:
            return tuple(self._watch.look(known.device.uuid, known.card) for known in self._all())

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Return the device files of a container, and what keeps others out. Raises VendorError."""
        del partitions
        wanted = [self._find(uuid) for uuid in uuids]
        nodes = [
            cards.drm_node(self.roots.dev, name, minor)
            for known in wanted
            for name, minor in sorted(known.found.nodes.items())
        ]
        if not wanted:
            return Needs()
        return Needs(nodes=(*nodes, *self.shared_nodes()), environment=dict(self.environment))

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Have dmem hold a cgroup to ``limit_bytes`` on a device, None takes it back.

        Taking back from a cgroup that is gone is well. Raises VendorError.
        """
        known = self._find(uuid)
        if not known.region:
            raise VendorError(f"{uuid}: the kernel has no dmem controller that holds its memory")
        self._dmem.limit(known.region, cgroup, limit_bytes)

    def close(self) -> None:
        """Nothing is kept open."""

    # -- what it knows --

    def _all(self) -> tuple[Known, ...]:
        known = self._known
        if known is None:
            with self._finding:
                known = self._discover() if self._known is None else self._known
        return known

    def _find(self, uuid: str) -> Known:
        for known in self._all():
            if known.device.uuid == uuid:
                return known
        raise VendorError(f"{uuid}: there is no such device")

    def _discover(self) -> tuple[Known, ...]:
        """Find the devices anew; only one thread does."""
        there = cards.at_most(
            sorted(
                (card for driver in self.drivers for card in cards.find(self.roots.sys, driver)),
                key=lambda card: card.address,
            )
        )
        known: list[Known] = []
        left_out: list[str] = []
        taken: set[str] = set()
        for found in self.find([Found(card, cards.drm_nodes(card)) for card in there]):
            card = found.card
            if not any(name.startswith("renderD") for name in found.nodes):
                left_out.append(f"{card.address}: {card.driver} has no render node of it")
                continue
            regions = self._dmem.memory_of(card.address)
            size = self.memory_bytes(card, regions)
            if not size or size < cards.PAGE_BYTES:
                left_out.append(f"{card.address}: {card.driver} tells no memory of its own of it")
                continue
            named = found if found.uuid and found.uuid not in taken else _by_address(found)
            taken.add(named.uuid)
            # One cap cannot be held over several memories.
            region = next(iter(regions)) if len(regions) == 1 else ""
            known.append(Known(self._device(named, len(known), size, region), named, region))
        self._left_out = tuple(left_out)
        for line in left_out:
            _LOG.info("%s: left out: %s", self.name, line)
        self._known = _linked(known)
        return self._known

    def _device(self, found: Found, index: int, size: int, region: str) -> Device:
        card = found.card
        return Device(
            vendor=self.name,
            index=index,
            uuid=found.uuid,
            uuid_bytes=found.uuid_bytes,
            model=cards.model(card, self.maker),
            memory_bytes=size,
            page_bytes=cards.PAGE_BYTES,
            context_bytes=0,
            pci_address=card.address,
            numa_node=card.numa_node(),
            enforcement=(_DRIVER,) if region else (),
        )

    def _sample(self, known: Known) -> Sample:
        card, uuid = known.card, known.device.uuid
        if not card.there:
            return Sample(uuid, None, None, None, None, None)
        if card.asleep:
            return Sample(uuid, self.memory_used_bytes(card), None, None, None, None)
        return Sample(
            uuid=uuid,
            memory_used_bytes=self.memory_used_bytes(card),
            busy=self.busy(known, self._look),
            memory_busy=cards.memory_busy(card),
            power_watts=self.power_watts(known),
            temperature_celsius=cards.temperature_celsius(card.folder),
        )


def _by_address(found: Found) -> Found:
    """Name a device by where it is, and say so: put elsewhere it is another one."""
    address = found.card.address
    uuid = f"PCI-{address.replace(':', '-').replace('.', '-')}"
    _LOG.info("%s: the device has no number of its own, so that its UUID is its PCI address", uuid)
    return replace(found, uuid=uuid, uuid_bytes=address.encode("ascii").ljust(_UUID_BYTES, b"\0"))


def _linked(known: Sequence[Known]) -> tuple[Known, ...]:
    """Return the devices with their links by UUID."""
    uuids = {one.card.address: one.device.uuid for one in known}
    return tuple(
        replace(
            one,
            device=replace(
                one.device,
                links={
                    uuids[address]: count
                    for address, count in one.found.links.items()
                    if address in uuids
                },
            ),
        )
        for one in known
    )


def by_process(known: Known, look: Look) -> dict[int, DeviceProcess]:
    """Return the processes that have DRM files of a device open, by pid: all their clients'."""
    uuid = known.device.uuid
    rows: dict[int, DeviceProcess] = {}
    for held in look.held:
        if held.client.address != known.card.address:
            continue
        row = rows.get(held.pid, DeviceProcess(uuid, held.pid, None, None, None))
        sizes = [v for v in (row.memory_bytes, held.client.memory_bytes) if v is not None]
        shares = [v for v in (row.busy, held.busy) if v is not None]
        rows[held.pid] = replace(
            row,
            memory_bytes=sum(sizes) if sizes else None,
            busy=min(1.0, sum(shares)) if shares else None,
        )
    return rows
