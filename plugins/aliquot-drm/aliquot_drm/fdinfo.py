"""What /proc/PID/fdinfo/N says of an open DRM file, by the kernel's drm-usage-stats.rst.

Memory is that of the device alone, in bytes: regions ``vram``, ``vram0``… (amdgpu, xe) and
``local0``… (i915), by ``drm-resident-``, else ``drm-memory-`` (older amdgpu), else ``drm-total-``.

Time is that of the engines that run kernels: copy and video engines work beside them. i915 and
amdgpu count it in ``ns``; xe counts cycles, of which so many pass in all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from . import files

MOST_BYTES: Final = 1 << 16

_MOST_LINES: Final = 512
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_REGION: Final = re.compile(r"(?:vram|local)[0-9]{0,3}", re.ASCII)
# The best first.
_SIZES: Final = ("drm-resident-", "drm-memory-", "drm-total-")
_KERNELS: Final = frozenset({"gfx", "compute", "render", "rcs", "ccs"})
_ADDRESS: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Engine:
    """How long an engine worked for a client: nanoseconds, or cycles where ``total`` is known.

    ``capacity`` is the number of such engines, which can all work at once.
    """

    busy: int
    total: int | None = None
    capacity: int = 1


@dataclass(frozen=True, slots=True)
class Client:
    """An open DRM file: what shares its number on a device is one file, wherever it is open.

    ``memory_bytes`` is None where the driver does not tell, ``engines`` has those that it tells.
    """

    driver: str
    address: str
    number: int
    memory_bytes: int | None = None
    engines: Mapping[str, Engine] = field(default_factory=dict)


def is_address(word: str) -> bool:
    """Say whether a word is a device's PCI address, ``0000:03:00.0``."""
    return _ADDRESS.fullmatch(word) is not None


def parse(told: str) -> Client | None:
    """Read what is told of a file; None for one that is no DRM device's on PCI."""
    said: dict[str, str] = {}
    for line in told.split("\n", _MOST_LINES)[:_MOST_LINES]:
        key, colon, value = line.partition(":")
        # The kernel writes a key once: whatever comes again is not the kernel's.
        if colon and key.startswith("drm-") and key not in said:
            said[key] = value.strip()
    number = files.whole_number(said.get("drm-client-id", ""))
    address = said.get("drm-pdev", "").lower()
    driver = said.get("drm-driver", "")
    if number is None or not driver or not is_address(address):
        return None
    return Client(driver, address, number, _memory(said), _engines(said))


def busy(before: Client, now: Client, elapsed_ns: int) -> float | None:
    """Return which share of the time between two looks its kernels took, 0 to 1; None if unknown.

    Engines work side by side: their shares add up, to no more than 1.
    """
    shares: list[float] = []
    for name, engine in now.engines.items():
        old = before.engines.get(name)
        if old is None and engine.total is None:
            # amdgpu tells of an engine once it has been used.
            old = Engine(0)
        if old is None or (old.total is None) != (engine.total is None):
            continue
        total = elapsed_ns if engine.total is None else engine.total - (old.total or 0)
        if total > 0 and engine.busy >= old.busy:
            shares.append((engine.busy - old.busy) / (total * engine.capacity))
    return min(1.0, sum(shares)) if shares else None


def _memory(said: Mapping[str, str]) -> int | None:
    found: dict[str, int] = {}
    for start in _SIZES:
        for key, value in said.items():
            region = key.removeprefix(start)
            if region != key and region not in found and _REGION.fullmatch(region):
                size = _size(value)
                if size is not None:
                    found[region] = size
    return sum(found.values()) if found else None


def _size(value: str) -> int | None:
    digits, _, unit = value.partition(" ")
    count = files.whole_number(digits)
    return None if count is None or unit not in _UNITS else count * _UNITS[unit]


def _engines(said: Mapping[str, str]) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for name in sorted(_KERNELS):
        capacity = files.whole_number(said.get(f"drm-engine-capacity-{name}", "")) or 1
        digits, _, unit = said.get(f"drm-engine-{name}", "").partition(" ")
        time_ns = files.whole_number(digits) if unit == "ns" else None
        cycles = files.whole_number(said.get(f"drm-cycles-{name}", ""))
        total = files.whole_number(said.get(f"drm-total-cycles-{name}", ""))
        if time_ns is not None:
            engines[name] = Engine(time_ns, None, capacity)
        elif cycles is not None and total is not None:
            engines[name] = Engine(cycles, total, capacity)
    return engines
