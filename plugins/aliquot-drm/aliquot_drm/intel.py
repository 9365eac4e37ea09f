"""Intel's discrete devices by xe and i915; a device inside the processor has no memory to share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aliquot.agent.devices import DeviceProcess
from aliquot.hooks.plan import DeviceNode

from . import cards, files
from .cards import Card
from .clients import Look
from .vendor import DrmVendor, Found, Known, by_process


class Intel(DrmVendor):
    """Intel's devices on this node; they have no number of their own.

    ``busy`` of a device is that of all processes together, None where not all can be read.
    """

    name = "intel"
    maker = "Intel"
    drivers: ClassVar[tuple[str, ...]] = ("xe", "i915")

    def __init__(self, config: object, roots: files.Roots | None = None) -> None:
        """Look for the drivers. Raises VendorError when the kernel has none of them."""
        super().__init__(config, roots)
        # Microjoules and when they were read.
        self._energy: dict[str, tuple[int, int]] = {}

    def find(self, found: Sequence[Found]) -> Sequence[Found]:
        """Return them by PCI address."""
        return found

    def memory_bytes(self, card: Card, regions: Mapping[str, int]) -> int | None:
        """Return what the tiles have (xe), the device (i915), or the kernel's controller."""
        tiles = [
            files.number(card.folder / name / "physical_vram_size_bytes")
            for name in files.names(card.folder)
            if name.startswith("tile")
        ]
        if tiles and None not in tiles:
            return sum(size for size in tiles if size is not None)
        told = _of_card(card, "lmem_total_bytes")
        return told if told is not None else sum(regions.values()) or None

    def memory_used_bytes(self, card: Card) -> int | None:
        """Return what of it is in use, where the driver tells what is not."""
        total, free = _of_card(card, "lmem_total_bytes"), _of_card(card, "lmem_avail_bytes")
        return total - free if total is not None and free is not None and free <= total else None

    def busy(self, known: Known, look: Look) -> float | None:
        """Return the sum of all processes' shares."""
        mine = [one for one in look.held if one.client.address == known.card.address]
        shares = [one.busy for one in mine if one.busy is not None]
        if not look.whole or len(shares) < len(mine):
            return None
        return min(1.0, sum(shares))

    def power_watts(self, known: Known) -> float | None:
        """Return the mean since the last reading: the device counts its energy."""
        microjoules = cards.sensor(known.card.folder, "energy1_input")
        now_ns = time.monotonic_ns()
        before = self._energy.get(known.device.uuid)
        if microjoules is None:
            self._energy.pop(known.device.uuid, None)
            return None
        self._energy[known.device.uuid] = microjoules, now_ns
        if before is None or microjoules < before[0] or now_ns <= before[1]:
            return None
        return (microjoules - before[0]) * 1e3 / (now_ns - before[1])

    def rows(self, known: Known, look: Look) -> Sequence[DeviceProcess]:
        """Return those with DRM files."""
        rows = by_process(known, look)
        return [rows[pid] for pid in sorted(rows)]

    def shared_nodes(self) -> Sequence[DeviceNode]:
        """Return nothing: the DRM files are all."""
        return ()


def _of_card(card: Card, name: str) -> int | None:
    """Return a number that the driver shows in the folder of its DRM card."""
    for node in files.names(card.folder / "drm"):
        if node.startswith("card"):
            value = files.number(card.folder / f"drm/{node}/{name}")
            if value is not None:
                return value
    return None
