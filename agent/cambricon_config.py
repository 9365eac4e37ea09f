"""The table ``[cambricon]`` of the agent's configuration: where the driver is, and HAMi's unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import BadRequestError
from .sizes import Size, parse_size

KEYS: Final = ("root", "memory_unit")
"""Every key of the table."""

_MEMORY_UNIT: Final = "1%"


@dataclass(frozen=True, slots=True)
class Cambricon:
    """What the configuration says of Cambricon's devices.

    ``root`` is where the node's own files of the driver are found: its device files in ``dev``
    below it. ``memory_unit`` is what the pod annotation ``CAMBRICON_DSMLU_PROFILE`` counts memory
    in, as the vendor's plugin and scheduler are set.
    """

    root: Path = Path("/")
    memory_unit: Size = field(default_factory=lambda: parse_size(_MEMORY_UNIT, "memory_unit"))


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
    unit = default.memory_unit
    try:
        unit = parse_size(str(table.get("memory_unit", _MEMORY_UNIT)), "cambricon.memory_unit")
    except BadRequestError as error:
        mistakes.append(str(error))
    return Cambricon(Path(root), unit)
