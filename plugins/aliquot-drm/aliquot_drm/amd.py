"""AMD's devices by amdgpu and KFD; UUIDs are ROCm's, ``GPU-`` and the device's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from aliquot.agent.devices import DeviceProcess, VendorError
from aliquot.hooks.plan import DeviceNode

from . import cards, files, kfd
from .cards import Card
from .clients import Look
from .vendor import DrmVendor, Found, Known, by_process

_KFD: Final = "kfd"


class Amd(DrmVendor):
    """AMD's devices on this node.

    A process that computes through KFD has no ``busy``: no counter tells its time. Its memory is
    the larger of what KFD and what its DRM files tell.
    """

    name = "amd"
    maker = "AMD"
    drivers: ClassVar[tuple[str, ...]] = ("amdgpu",)
    environment: ClassVar[Mapping[str, str]] = {"AMD_VISIBLE_DEVICES": "none"}

    def __init__(self, config: object, roots: files.Roots | None = None) -> None:
        """Look for the driver. Raises VendorError when the kernel has not loaded it."""
        super().__init__(config, roots)
        self._nodes: Mapping[str, Sequence[kfd.Node]] = {}

    def find(self, found: Sequence[Found]) -> Sequence[Found]:
        """Return the devices in KFD's order, and those that it does not have after them."""
        nodes = kfd.nodes(self.roots.sys)
        at = {node.number: node.address for node in nodes}
        by_address: dict[str, list[kfd.Node]] = {}
        for node in nodes:
            by_address.setdefault(node.address, []).append(node)
        self._nodes = by_address
        order = {address: place for place, address in enumerate(by_address)}
        return sorted(
            (self._with_nodes(one, by_address.get(one.card.address, ()), at) for one in found),
            key=lambda one: (order.get(one.card.address, len(order)), one.card.address),
        )

    @staticmethod
    def _with_nodes(found: Found, nodes: Sequence[kfd.Node], at: Mapping[int, str]) -> Found:
        # (sysfs has the number in hexadecimal, KFD in decimal.)
        number = files.number(found.card.folder / "unique_id", 16) or next(
            (node.unique_id for node in nodes if node.unique_id), None
        )
        # Compute partitions have files of their own.
        minors = [node.render_minor for node in nodes if node.render_minor is not None]
        links: dict[str, int] = {}
        for node in nodes:
            for other, count in node.links.items():
                address = at.get(other)
                if address is not None and address != found.card.address:
                    links[address] = max(links.get(address, 0), count)
        digits = f"{number:016x}" if number else ""
        return replace(
            found,
            nodes={**{f"renderD{minor}": minor for minor in minors}, **found.nodes},
            uuid=f"GPU-{digits}" if digits else "",
            # As HIP has it: the digits.
            uuid_bytes=digits.encode("ascii"),
            links=links,
        )

    def memory_bytes(self, card: Card, regions: Mapping[str, int]) -> int | None:
        """Return the device's memory."""
        del regions
        return files.number(card.folder / "mem_info_vram_total")

    def memory_used_bytes(self, card: Card) -> int | None:
        """Return what of it is in use."""
        return files.number(card.folder / "mem_info_vram_used")

    def busy(self, known: Known, look: Look) -> float | None:
        """Return the device's own reading."""
        del look
        return files.percent(known.card.folder / "gpu_busy_percent")

    def power_watts(self, known: Known) -> float | None:
        """Return the device's own reading, over a moment where it has that."""
        microwatts = cards.sensor(known.card.folder, "power1_average", "power1_input")
        return None if microwatts is None else microwatts / 1e6

    def rows(self, known: Known, look: Look) -> Sequence[DeviceProcess]:
        """Return those with DRM files and those with memory of KFD's."""
        rows = by_process(known, look)
        gpu_ids = [node.gpu_id for node in self._nodes.get(known.card.address, ())]
        held: dict[int, int] = {}
        for (pid, _), size in kfd.memory(self.roots.sys, gpu_ids).items():
            held[pid] = held.get(pid, 0) + size
        for pid, size in held.items():
            row = rows.get(pid)
            if row is None and not size:
                # It has KFD open and nothing of this device.
                continue
            row = row or DeviceProcess(known.device.uuid, pid, None, None, None)
            told = size if row.memory_bytes is None else max(size, row.memory_bytes)
            unknown = kfd.computes(self.roots.sys, pid, gpu_ids)
            rows[pid] = replace(row, memory_bytes=told, busy=None if unknown else row.busy)
        return [rows[pid] for pid in sorted(rows)]

    def shared_nodes(self) -> Sequence[DeviceNode]:
        """Return KFD's file; by it a container reaches only devices whose render file it has."""
        told = files.text(self.roots.sys / "class/kfd/kfd/dev", 64)
        if told is None:
            # A kernel without KFD: graphics and video work.
            return ()
        major, _, minor = told.strip().partition(":")
        numbers = files.whole_number(major), files.whole_number(minor)
        if numbers[0] is None or numbers[1] is None:
            raise VendorError("the kernel does not tell the number of /dev/kfd: load amdgpu again")
        return (cards.node(self.roots.dev, _KFD, numbers[0], numbers[1]),)
