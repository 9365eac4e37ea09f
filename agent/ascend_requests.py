"""What Ascend's own tools say of a container, read as a request.

- The variable ``ASCEND_VISIBLE_DEVICES`` names devices, as the vendor's container runtime reads it:
  numbers and ranges (``0,2-3``), or names with a number (``Ascend910-0``, ``npu-0``); ``void`` and
  nothing at all name none.
- ``ASCEND_VNPU_SPECS`` beside it is a vNPU's template: a part of one device. With
  ``ASCEND_RUNTIME_OPTIONS`` that have ``VIRTUAL`` the numbers are those of vNPUs that somebody else
  has made and given the container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from .ascend_config import Template
from .errors import BadRequestError
from .sizes import Size

VISIBLE: Final = "ASCEND_VISIBLE_DEVICES"
TEMPLATE: Final = "ASCEND_VNPU_SPECS"
OPTIONS: Final = "ASCEND_RUNTIME_OPTIONS"
VENDOR: Final = "ascend"

_VIRTUAL: Final = "VIRTUAL"
_NONE: Final = ("", "void")
_RANGE: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)
_NAMED: Final = re.compile(r"(?:Ascend[0-9]{3}[A-Z0-9]*|npu)-([0-9]{1,4})", re.ASCII)
_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which devices, by names that placement knows, and how much of each; None is all of it."""

    names: tuple[str, ...]
    memory: Size | None
    origin: str


def read(
    environment: Mapping[str, str], templates: Mapping[str, tuple[Template, ...]]
) -> Wanted | None:
    """Return what a container is to have, None when nothing is said. Raises BadRequestError."""
    text = environment.get(VISIBLE, "").strip()
    if text in _NONE or _VIRTUAL in environment.get(OPTIONS, "").split(","):
        return None
    origin = f"environment {VISIBLE}"
    numbers = tuple(dict.fromkeys(_numbers(text, origin)))
    names = tuple(f"{VENDOR}:{number}" for number in numbers)
    name = environment.get(TEMPLATE, "").strip()
    if not name:
        return Wanted(names, None, origin)
    if len(numbers) > 1:
        raise BadRequestError(
            f"environment {TEMPLATE}: is for one device, and {VISIBLE} names {len(numbers)}"
        )
    sizes = {one.memory_bytes for chip in templates.values() for one in chip if one.name == name}
    if not sizes:
        raise BadRequestError(
            f"environment {TEMPLATE}: {_shown(name)} is no template that is known"
        )
    # The same name is as large on every chip that has it.
    return Wanted(names, Size(name, Fraction(min(sizes))), origin)


def _numbers(text: str, origin: str) -> Iterator[int]:
    count = 0
    for item in text.split(","):
        word = item.strip()
        found = _RANGE.fullmatch(word)
        named = _NAMED.fullmatch(word)
        if named:
            first = last = int(named[1])
        elif found:
            first, last = int(found[1]), int(found[2] or found[1])
        else:
            first, last = 1, 0
        count += last - first + 1
        if last < first or count > _MOST:
            raise BadRequestError(
                f"{origin}: {_shown(word)} is no device's number, range or name: "
                f"write 0,2-3, Ascend910-0, npu-0 or void, at most {_MOST} devices"
            )
        yield from range(first, last + 1)


def _shown(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
    return f"'{printable}'" if len(text) <= len(printable) else f"'{printable}…'"
