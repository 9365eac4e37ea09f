"""Devices on PCI that a DRM driver has, as sysfs shows them, whoever made them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aliquot.agent.devices import VendorError
from aliquot.hooks.plan import DeviceNode

from . import fdinfo, files

# What the kernel gives device memory in; drivers take larger pieces where they can.
PAGE_BYTES: Final = 4096

_DRM_NODE: Final = re.compile(r"(?:card|renderD)[0-9]{1,6}", re.ASCII)
_DRM_MAJOR: Final = 226
_MOST_CARDS: Final = 256
_MOST_PCI_IDS: Final = 8 << 20
_PCI_IDS: Final = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")
_MOST_MODEL: Final = 120


@dataclass(frozen=True, slots=True)
class Card:
    """A device: its PCI address, driver and folder in sysfs."""

    address: str
    driver: str
    folder: Path

    @property
    def there(self) -> bool:
        """Whether the kernel still has it, and the driver it."""
        return self.folder.is_dir()

    @property
    def asleep(self) -> bool:
        """Whether its power is off: reading most files would switch it on."""
        return (files.text(self.folder / "power/runtime_status", 64) or "").strip() == "suspended"

    def numa_node(self) -> int | None:
        """Return the nearest NUMA node, None without NUMA."""
        node = files.signed(self.folder / "numa_node")
        return node if node is not None and node >= 0 else None


def find(sys: Path, driver: str) -> Iterator[Card]:
    """Yield the devices that a driver has, by PCI address; none when it is not loaded."""
    for place in (sys / f"module/{driver}/drivers/pci:{driver}", sys / f"bus/pci/drivers/{driver}"):
        if place.is_dir():
            for name in files.names(place):
                if fdinfo.is_address(name):
                    yield Card(name, driver, place / name)
            return


def at_most(cards: Sequence[Card]) -> Sequence[Card]:
    """Return as many devices as a node can have."""
    return cards[:_MOST_CARDS]


def drm_nodes(card: Card) -> dict[str, int]:
    """Return the DRM files of a device, ``renderD128``, with their minor numbers."""
    found: dict[str, int] = {}
    for name in files.names(card.folder / "drm"):
        told = files.text(card.folder / f"drm/{name}/dev", 64) or ""
        major, _, minor = told.strip().partition(":")
        value = files.whole_number(minor)
        if _DRM_NODE.fullmatch(name) and major == str(_DRM_MAJOR) and value is not None:
            found[name] = value
    return found


def drm_node(dev: Path, name: str, minor: int) -> DeviceNode:
    """Return a DRM file for a container. Raises VendorError when the host has none."""
    return node(dev, f"dri/{name}", _DRM_MAJOR, minor)


def node(dev: Path, name: str, major: int, minor: int) -> DeviceNode:
    """Return a device file for a container. Raises VendorError when the host has none.

    On the host a group has it, whose number means something else in the container: there everybody
    may use what the container was given. Its owner and group stay as they are.
    """
    source = dev / name
    try:
        status = source.stat()
    except OSError as error:
        raise VendorError(
            f"{source} cannot be found ({error.strerror}): see that udev makes it"
        ) from error
    path = f"/dev/{name}"
    return DeviceNode(
        path=path,
        major=major,
        minor=minor,
        mode=0o666,
        uid=status.st_uid,
        gid=status.st_gid,
        source="" if os.fspath(source) == path else os.fspath(source),
    )


def model(card: Card, maker: str, pci_ids: Sequence[str] = _PCI_IDS) -> str:
    """Return what people call a device: its own name, PCI's list's, or its number."""
    own = (files.text(card.folder / "product_name", 256) or "").strip()
    if own.isprintable() and own:
        return own[:_MOST_MODEL]
    numbers = [
        (files.text(card.folder / name, 64) or "").strip().removeprefix("0x").lower()
        for name in ("vendor", "device")
    ]
    listed = next((text for path in pci_ids if (text := files.text(path, _MOST_PCI_IDS))), "")
    return f"{maker} {_listed(listed, *numbers) or numbers[1] or 'device'}"[:_MOST_MODEL]


def _listed(text: str, vendor: str, device: str) -> str:
    """Return what the list of PCI's numbers has: a line a vendor, indented lines its devices."""
    if not vendor or not device:
        return ""
    start = text.find(f"\n{vendor}  ")
    if start < 0:
        return ""
    for line in text[start + 1 :].splitlines()[1:]:
        if line and not line.startswith(("\t", "#")):
            break
        if line.startswith(f"\t{device}  "):
            name = line.partition("  ")[2].strip()
            return name if name.isprintable() else ""
    return ""


def memory_busy(card: Card) -> float | None:
    """Return the share of time in which memory was read or written, where the driver tells."""
    return files.percent(card.folder / "mem_busy_percent")


def sensor(folder: Path, *endings: str) -> int | None:
    """Return the first reading of a device's hwmon that it has, as the kernel counts it."""
    for name in files.names(folder / "hwmon"):
        for ending in endings:
            value = files.number(folder / f"hwmon/{name}/{ending}")
            if value is not None:
                return value
    return None


def temperature_celsius(folder: Path) -> float | None:
    """Return the temperature of a device's chip: at its edge, else where it is the hottest."""
    found: dict[str, float] = {}
    for name in files.names(folder / "hwmon"):
        for number in range(1, 9):
            value = files.signed(folder / f"hwmon/{name}/temp{number}_input")
            label = (files.text(folder / f"hwmon/{name}/temp{number}_label", 64) or "").strip()
            if value is not None and -100_000 < value < 300_000:
                found.setdefault(label, value / 1000)
    return next((found[label] for label in ("edge", "pkg", "junction", "") if label in found), None)
