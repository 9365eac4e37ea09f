"""Files of the kernel, read as input: bounded, and None for whatever is not there or no reading."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

ROOT_VARIABLE: Final = "ALIQUOT_DRM_ROOT"
"""Names the folder below which the node's sys, proc and dev lie; without it that is the root."""
MOST_BYTES: Final = 1 << 16
MOST_ENTRIES: Final = 4096

_MOST_NUMBER: Final = (1 << 64) - 1
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's trees are; ``cgroup`` is where cgroup v2 is mounted, None to look."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    cgroup: Path | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Roots:
        """Return those that the environment names, else the usual ones. Raises ValueError."""
        root = Path(environment.get(ROOT_VARIABLE) or "/")
        if not root.is_absolute() or ".." in root.parts:
            raise ValueError(f"{ROOT_VARIABLE}: {str(root)!r} is not an absolute path without '..'")
        return cls(root / "sys", root / "proc", root / "dev")

    @property
    def cgroups(self) -> Path:
        """The folder of cgroup v2: on nodes that have both versions it is a folder of its own."""
        if self.cgroup is not None:
            return self.cgroup
        whole = self.sys / "fs/cgroup"
        return whole if (whole / "cgroup.controllers").exists() else whole / "unified"


def text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str | None:
    """Return what a file has; None when it cannot be read or has more than ``most`` bytes.

    Drivers may answer with an error for a moment, as in a reset: that is no reading.
    """
    try:
        # Whatever lies there is not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        parts: list[bytes] = []
        left = most + 1
        while left > 0 and (part := os.read(fd, min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
    except OSError:
        return None
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "replace") if left > 0 else None


def whole_number(word: str, base: int = 10) -> int | None:
    """Return an unsigned 64-bit number; None for anything else."""
    digits = "0123456789abcdef"[:base]
    if not 0 < len(word) <= 20 or word.lower().strip(digits):
        return None
    value = int(word, base)
    return value if value <= _MOST_NUMBER else None


def number(path: str | os.PathLike[str], base: int = 10) -> int | None:
    """Return the one number that a file has, hexadecimal after ``0x``; None when it has none."""
    found = (text(path, 64) or "").strip()
    bare = found.removeprefix("0x")
    return whole_number(bare, base if bare == found else 16)


def signed(path: str | os.PathLike[str]) -> int | None:
    """Return the one number that a file has, which may be below zero."""
    found = (text(path, 64) or "").strip()
    value = whole_number(found.removeprefix("-"))
    return -value if value is not None and found.startswith("-") else value


def percent(path: str | os.PathLike[str]) -> float | None:
    """Return a percentage as a share of 1; None for what is no percentage."""
    value = number(path)
    return value / 100 if value is not None and value <= 100 else None


def names(folder: str | os.PathLike[str], most: int = MOST_ENTRIES) -> list[str]:
    """Return the names in a folder, in order; none when it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, most))
    except OSError:
        return []


def numbered(folder: str | os.PathLike[str], most: int = MOST_ENTRIES) -> Iterator[int]:
    """Yield the names in a folder that are numbers, the smallest first."""
    yield from sorted(
        value for name in names(folder, most) if (value := whole_number(name)) is not None
    )
