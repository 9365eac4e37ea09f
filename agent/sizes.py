"""Sizes and limits as people write them.

A size is a number and one of the units in ``UNITS``, exactly as written there, or a plain number of
bytes. A number may have a decimal fraction; the result is cut to whole bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from .errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS: Final = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}

# HAMi-core reads strtoul's number, in whatever base its prefix says, and one of these.
HAMI_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
HAMI_LIMIT: Final = "CUDA_DEVICE_MEMORY_LIMIT"

_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z]*|%)", re.ASCII)
_HAMI_SIZE: Final = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,22})([kKmMgG]?)", re.ASCII)
_INDEX: Final = re.compile(r"[0-9]{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Size:
    """A size as it was written: ``amount`` bytes, or percent of a device's memory."""

    text: str
    amount: Fraction
    percent: bool = False

    def of(self, total_bytes: int) -> int:
        """Return the whole bytes that it is of a device with ``total_bytes``."""
        return int(self.amount * total_bytes / 100) if self.percent else int(self.amount)


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``--memory`` says.

    ``each`` is for every device of the slice that ``by_index`` does not name; without it the slice
    is exactly the devices that ``by_index`` names. ``origin`` names where it was written, for
    messages.
    """

    origin: str
    each: Size | None
    by_index: Mapping[int, Size]


def parse_size(text: str, origin: str) -> Size:
    """Read a size or a percentage. Raises BadRequestError when it is none, or zero."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise BadRequestError(
            f"{origin}: '{text}' is not a size: write a number and a unit, "
            "such as 4GiB, 4096MiB, 4294967296 or 25%"
        )
    number, unit = Fraction(match[1]), match[2]
    if unit == "%":
        if number > 100:
            raise BadRequestError(f"{origin}: {text} is more than the whole device: at most 100%")
        size = Size(text, number, percent=True)
    elif unit in UNITS:
        size = Size(text, number * UNITS[unit])
    else:
        known = ", ".join(name for name in UNITS if name)
        raise BadRequestError(f"{origin}: '{unit}' in '{text}' is not a unit: use {known} or %")
    if not (number if size.percent else int(size.amount)):
        raise BadRequestError(f"{origin}: '{text}' leaves no memory: give more than 0 bytes")
    return size


def parse_limits(text: str, origin: str = "--memory") -> Limits:
    """Read ``SIZE`` or ``INDEX=SIZE,…``. Raises BadRequestError."""
    if "=" not in text:
        if "," in text:
            raise BadRequestError(
                f"{origin}: '{text}' has several sizes but no devices: write 0=4GiB,1=8GiB"
            )
        return Limits(origin, parse_size(text, origin), {})
    by_index: dict[int, Size] = {}
    for part in text.split(","):
        index, equals, size = part.partition("=")
        if not equals or not _INDEX.fullmatch(index.strip()):
            raise BadRequestError(
                f"{origin}: '{part}' in '{text}' does not name a device by its number: "
                "write 0=4GiB,1=8GiB"
            )
        number = int(index)
        if number in by_index:
            raise BadRequestError(f"{origin}: device {number} has two sizes in '{text}'")
        by_index[number] = parse_size(size, origin)
    return Limits(origin, None, by_index)


def limits_from_environment(environment: Mapping[str, str]) -> Limits | None:
    """Read the limits that HAMi's users have in their environment; None when there are none.

    ``CUDA_DEVICE_MEMORY_LIMIT_<i>`` is for device i, ``CUDA_DEVICE_MEMORY_LIMIT`` for all others.
    Raises BadRequestError for a value that HAMi would quietly take for no limit.
    """
    each: Size | None = None
    by_index: dict[int, Size] = {}
    for name, value in sorted(environment.items()):
        if name == HAMI_LIMIT:
            each = _parse_hami(value, name)
        elif name.startswith(f"{HAMI_LIMIT}_"):
            index = name[len(HAMI_LIMIT) + 1 :]
            if not _INDEX.fullmatch(index) or str(int(index)) != index:
                raise BadRequestError(f"{name}: '{index}' is not the number of a device")
            by_index[int(index)] = _parse_hami(value, name)
    if each is None and not by_index:
        return None
    return Limits(HAMI_LIMIT, each, by_index)


def format_size(size_bytes: int) -> str:
    """Return ``size_bytes`` for people, in MiB or GiB with one decimal."""
    if size_bytes < 1 << 30:
        return f"{size_bytes / (1 << 20):.1f} MiB"
    return f"{size_bytes / (1 << 30):.1f} GiB"


def format_cores(cores: int, cores_max: int) -> str:
    """Return percent of a device's time for people: the guaranteed, and what is never passed."""
    return f"{cores}%" if cores == cores_max else f"{cores}-{cores_max}%"


def format_share(received: float | None, wanted: float | None) -> str:
    """Return shares of time for people: what was had of what was wanted; a dash: not known yet."""
    if received is None or wanted is None:
        return "-"
    return f"{received * 100:.0f}/{wanted * 100:.0f}%"


def format_seconds(seconds: float) -> str:
    """Return a length of time for people, in the unit that it has one or more of."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds * 1000:.1f} ms"


def _parse_hami(text: str, origin: str) -> Size:
    match = _HAMI_SIZE.fullmatch(text.strip())
    if not match:
        raise BadRequestError(
            f"{origin}: '{text}' is not a limit as HAMi writes it: a number, "
            "or one with k, m or g after it, such as 4g"
        )
    number = match[1]
    octal = len(number) > 1 and number[0] == "0" and number[1] not in "xX"
    try:
        value = int(number, 8 if octal else 0) * HAMI_UNITS[match[2].lower()]
    except ValueError as error:
        raise BadRequestError(f"{origin}: '{text}' is not an octal number") from error
    if not value:
        raise BadRequestError(f"{origin}: '{text}' leaves no memory: give more than 0 bytes")
    return Size(text, Fraction(value))
