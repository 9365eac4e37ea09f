"""The table ``[cambricon]`` of the configuration: where the driver is, HAMi's unit, a context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import BadRequestError
from .sizes import Size, parse_size

KEYS: Final = ("root", "memory_unit", "context")
"""Every key of the table."""

_MEMORY_UNIT: Final = "1%"
# No figure is published: an estimate, as Ascend's is.
_CONTEXT: Final = "128MiB"


@dataclass(frozen=True, slots=True)
class Cambricon:
    """What the configuration says of Cambricon's devices.

    ``root`` is where the node's own files of the driver are found: its device files in ``dev``
    below it. ``memory_unit`` is what the pod annotation ``CAMBRICON_DSMLU_PROFILE`` counts memory
    in, as the vendor's plugin and scheduler are set. ``context`` is what a process is charged for a
    context before the card's own readings tell more; 0 is nothing.
    """

    root: Path = Path("/")
    memory_unit: Size = field(default_factory=lambda: parse_size(_MEMORY_UNIT, "memory_unit"))
    context: Size = field(default_factory=lambda: parse_size(_CONTEXT, "context"))


def read(table: Mapping[str, Any], mistakes: list[str]) -> Cambricon:
    """Read the table; every mistake is noted, a line each."""
    mistakes += [
        f"cambricon.{key}: is not a key: known are {', '.join(KEYS)}"
        for key in table
        if key not in KEYS
    ]
    default = Cambricon()
    root = table.get("root", "/")
    if not isinstance(root, str) or not root.startswith("/") or ".." in root.split("/"):
        mistakes.append(f"cambricon.root: {root!r} is not an absolute path without '..'")
        root = "/"

    def size(key: str, usual: str, otherwise: Size) -> Size:
        try:
            return parse_size(str(table.get(key, usual)), f"cambricon.{key}")
        except BadRequestError as error:
            mistakes.append(str(error))
            return otherwise

    return Cambricon(
        root=Path(root),
        memory_unit=size("memory_unit", _MEMORY_UNIT, default.memory_unit),
        context=size("context", _CONTEXT, default.context),
    )
