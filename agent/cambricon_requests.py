"""What Cambricon's own tools and HAMi's scheduler say of a container, read as a request.

- The pod annotation ``CAMBRICON_DSMLU_PROFILE=SLOT_VCORE_VMEMORY`` is a share of a card: percent of
  its time, and memory in units that the configuration knows. The flag beside it is spelt
  ``CAMBRICON_DSMLU_ASSIGNED`` or, by HAMi, ``CAMBRICON_DSMLU_ASSIGHED``: once it is ``true`` the
  vendor's plugin has made the share itself and given the container its device files.
- The variable ``CAMBRICON_VISIBLE_DEVICES`` names whole cards: slots or UUIDs with commas between
  them, or ``all``; ``none``, ``void`` and nothing at all name none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import BadRequestError
from .sizes import Size

PROFILE: Final = "CAMBRICON_DSMLU_PROFILE"
ASSIGNED: Final = ("CAMBRICON_DSMLU_ASSIGNED", "CAMBRICON_DSMLU_ASSIGHED")
VISIBLE: Final = "CAMBRICON_VISIBLE_DEVICES"
VENDOR: Final = "cambricon"

_PROFILE: Final = re.compile(r"([0-9]{1,3})_([0-9]{1,3})_([0-9]{1,7})", re.ASCII)
_SLOT: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_UUID: Final = re.compile(
    r"(?:MLU-)?[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII
)
_NONE: Final = ("", "none", "void")
_MOST_NAMES: Final = 256
_ALL_CORES: Final = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which cards, by names that placement knows, and how much of each; None is all of it."""

    names: tuple[str, ...]
    memory: Size | None
    cores: int | None
    origin: str


def read(
    annotations: Mapping[str, str], environment: Mapping[str, str], unit: Size
) -> Wanted | None:
    """Return what a container is to have, None when nothing is said. Raises BadRequestError."""
    if PROFILE in annotations:
        if any(annotations.get(name) == "true" for name in ASSIGNED):
            return None
        return _profile(annotations[PROFILE], unit)
    text = environment.get(VISIBLE, "").strip()
    return None if text in _NONE else _visible(text)


def _profile(text: str, unit: Size) -> Wanted:
    origin = f"annotation {PROFILE}"
    found = _PROFILE.fullmatch(text.strip())
    if not found:
        raise BadRequestError(
            f"{origin}: {_shown(text)} is not SLOT_VCORE_VMEMORY, such as 0_25_10"
        )
    slot, cores, units = map(int, found.groups())
    if cores > _ALL_CORES:
        raise BadRequestError(f"{origin}: {cores} is more than all of a card's time: at most 100")
    if not units:
        raise BadRequestError(f"{origin}: {_shown(text)} leaves no memory: give more than 0")
    amount = unit.amount * units
    if unit.percent and amount > _ALL_CORES:
        raise BadRequestError(f"{origin}: {units} x {unit.text} is more than the whole card")
    memory = Size(f"{units} x {unit.text}", amount, unit.percent)
    return Wanted((f"{VENDOR}:{slot}",), memory, cores or None, origin)


def _visible(text: str) -> Wanted:
    origin = f"environment {VISIBLE}"
    if text == "all":
        return Wanted((f"{VENDOR}:",), None, None, origin)
    names = [name.strip() for name in text.split(",")]
    if len(names) > _MOST_NAMES:
        raise BadRequestError(f"{origin}: has {len(names)} names: at most {_MOST_NAMES}")
    for name in names:
        if not _SLOT.fullmatch(name) and not _UUID.fullmatch(name):
            raise BadRequestError(
                f"{origin}: {_shown(name)} is neither a slot nor a UUID: write 0,1, "
                "MLU-…, all or none"
            )
    called = (f"{VENDOR}:{int(name)}" if _SLOT.fullmatch(name) else name for name in names)
    return Wanted(tuple(dict.fromkeys(called)), None, None, origin)


def _shown(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
    return f"'{printable}'" if len(text) <= len(printable) else f"'{printable}…'"
