"""Whether devices can be used, by what the kernel's files tell.

A device is unhealthy while the kernel or its driver does not have it, or it does not answer on PCI;
and from an uncorrectable error of its memory (RAS) or of PCI on that comes after the agent began,
until the agent is restarted: no file says that it was reset.
"""

from __future__ import annotations

import os
from typing import Final

from aliquot.agent.devices import Health

from . import files
from .cards import Card

# Of an unplugged device PCI reads nothing but ones.
_SILENT: Final = b"\xff\xff\xff\xff"


class Watch:
    """What is known of the health of devices, from one look to the next."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._first: dict[tuple[str, str], int] = {}
        self._faults: dict[str, str] = {}

    def look(self, uuid: str, card: Card) -> Health:
        """Return a device's health."""
        reason = self._gone(card) or self._fault(uuid, card)
        return Health(uuid, not reason, reason)

    def _gone(self, card: Card) -> str:
        if not card.there:
            return f"{card.driver} does not have {card.address} any more: see the kernel's log"
        if not card.asleep and _pci_id(card) == _SILENT:
            return f"{card.address} does not answer on PCI: see the kernel's log, reset the node"
        return ""

    def _fault(self, uuid: str, card: Card) -> str:
        if uuid not in self._faults:
            for what, count in _errors(card).items():
                before = self._first.setdefault((uuid, what), count)
                if count > before:
                    self._faults[uuid] = f"{what}: {count - before} since the agent began: reset it"
        return self._faults.get(uuid, "")


def _pci_id(card: Card) -> bytes:
    try:
        fd = os.open(card.folder / "config", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, 4)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _errors(card: Card) -> dict[str, int]:
    """Return how many errors that nothing corrected the device has had, by what they are."""
    found: dict[str, int] = {}
    ras = card.folder / "ras"
    for name in files.names(ras):
        block, is_count, _ = name.partition("_err_count")
        count = _count(files.text(ras / name), "ue:") if is_count else None
        if count is not None:
            found[f"uncorrectable errors of {block} (RAS)"] = count
    fatal = _count(files.text(card.folder / "aer_dev_fatal"), "TOTAL_ERR_FATAL")
    if fatal is not None:
        found["fatal errors of PCI (AER)"] = fatal
    return found


def _count(text: str | None, key: str) -> int | None:
    for line in (text or "").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == key:
            return files.whole_number(words[1])
    return None
