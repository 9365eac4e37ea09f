"""Whether a node has a vendor's devices though his library cannot be used: what the kernel shows.

A vendor whose library fails is still one of the node's: a request that names no vendor may mean
his devices. PCI identities are those of the PCI ID repository, device files those of each vendor's
driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class _Signs:
    """A PCI vendor, the beginning of the class that his accelerators have, and a device file.

    The class tells accelerators from the vendor's bridges, network cards and consoles.
    """

    pci_vendor: int
    pci_class: str
    file: str


_SIGNS: Final = {
    "nvidia": _Signs(0x10DE, "03", "nvidiactl"),
    # Huawei's servers have a console of class 03 by the same vendor.
    "ascend": _Signs(0x19E5, "12", "davinci_manager"),
    "cambricon": _Signs(0xCABC, "", "cambricon_ctl"),
}


def sign(name: str, root: Path = Path("/"), system: Path = Path("/sys")) -> str:
    """Return what shows that the node has devices of the vendor; "" when nothing does.

    ``root`` is below which the driver's files lie. Raises nothing.
    """
    signs = _SIGNS.get(name)
    if signs is None:
        return ""
    path = root / "dev" / signs.file
    try:
        if path.exists():
            return str(path)
    except OSError:
        pass
    return next(_pci(signs, system), "")


def _pci(signs: _Signs, system: Path) -> Iterator[str]:
    try:
        found = sorted((system / "bus/pci/devices").iterdir())
    except OSError:
        return
    for device in found:
        vendor, kind = _hex(device / "vendor"), _hex(device / "class")
        ours = vendor and int(vendor, 16) == signs.pci_vendor
        # Six digits: class, subclass, programming interface.
        if ours and kind.zfill(6).startswith(signs.pci_class):
            yield f"PCI device {device.name}"


def _hex(path: Path) -> str:
    """Return the digits of a number that the kernel shows as ``0x10de``; "" when it is none."""
    try:
        text = path.read_text(encoding="ascii").strip().removeprefix("0x")
        int(text, 16)
    except (OSError, ValueError):
        return ""
    return text if len(text) <= _MOST_DIGITS else ""
