"""The table ``[ascend]`` of the agent's configuration: where the driver is, vNPU templates, faults.

Figures of templates are the vendor's published ones. A chip that the configuration names has the
templates that are written there, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import BadRequestError
from .sizes import parse_size

KEYS: Final = ("root", "templates", "faults")
"""Every key of the table."""

NOT_HANDLED: Final = "NotHandle"
SUB_HEALTH: Final = "SubHealth"
LEVELS: Final = (
    NOT_HANDLED,
    SUB_HEALTH,
    "RestartRequest",
    "RestartBusiness",
    "FreeRestartNPU",
    "RestartNPU",
    "PreSeparate",
    "Separate",
)
"""What the vendor's own plugin calls the kinds of faults; with the first two a device is usable."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", re.ASCII)
_CODE: Final = re.compile(r"(0[xX])?[0-9a-fA-F]{1,8}", re.ASCII)
_MIB: Final = 1 << 20
_MOST_CORES: Final = 1024


@dataclass(frozen=True, slots=True)
class Template:
    """A vNPU template; ``cores`` are AI cores of the chip."""

    name: str
    memory_bytes: int
    cores: int


def _chip(*templates: tuple[str, int, int]) -> tuple[Template, ...]:
    return tuple(Template(name, mib * _MIB, cores) for name, mib, cores in templates)


_OF_64_GIB: Final = _chip(("vir05_1c_16g", 16384, 5), ("vir10_3c_32g", 32768, 10))
TEMPLATES: Final[Mapping[str, tuple[Template, ...]]] = {
    "910A": _chip(("vir02", 2184, 2), ("vir04", 4369, 4), ("vir08", 8738, 8), ("vir16", 17476, 16)),
    "910B2": _chip(
        ("vir03_1c_8g", 8192, 3), ("vir06_1c_16g", 16384, 6), ("vir12_3c_32g", 32768, 12)
    ),
    "910B3": _OF_64_GIB,
    "910B4-1": _OF_64_GIB,
    "910C": _OF_64_GIB,
    "910B4": _chip(("vir05_1c_8g", 8192, 5), ("vir10_3c_16g", 16384, 10)),
    "310P3": _chip(("vir01", 3072, 1), ("vir02", 6144, 2), ("vir04", 12288, 4)),
}
"""By the chip's name, without ``Ascend`` before it."""


@dataclass(frozen=True, slots=True)
class Ascend:
    """What the configuration says of Ascend devices.

    ``root`` is where the node's own files of the driver are found: its device files in ``dev``
    below it, its libraries in ``usr/local``. ``templates`` are by chip; ``faults`` have one of
    LEVELS by a fault's code.
    """

    root: Path = Path("/")
    templates: Mapping[str, tuple[Template, ...]] = field(default_factory=lambda: TEMPLATES)
    faults: Mapping[int, str] = field(default_factory=dict)


def read(table: Mapping[str, Any], mistakes: list[str]) -> Ascend:
    """Read the table; every mistake is noted, a line each."""
    mistakes += [
        f"ascend.{key}: is not a key: known are {', '.join(KEYS)}"
        for key in table
        if key not in KEYS
    ]
    root = table.get("root", "/")
    if not isinstance(root, str) or not root.startswith("/") or ".." in root.split("/"):
        mistakes.append(f"ascend.root: {root!r} is not an absolute path without '..'")
        root = "/"
    templates = dict(TEMPLATES)
    for chip, listed in _table(table.get("templates", {}), "ascend.templates", mistakes).items():
        templates[chip.removeprefix("Ascend").strip()] = _templates(
            listed, f'ascend.templates."{chip}"', mistakes
        )
    faults: dict[int, str] = {}
    for code, level in _table(table.get("faults", {}), "ascend.faults", mistakes).items():
        if not _CODE.fullmatch(code):
            mistakes.append(f"ascend.faults: '{code}' is no fault's code, such as 80E18005")
        elif level not in LEVELS:
            mistakes.append(f"ascend.faults.{code}: {level!r} is not one of {', '.join(LEVELS)}")
        else:
            faults[int(code, 16)] = level
    return Ascend(Path(root), templates, faults)


def _table(value: object, where: str, mistakes: list[str]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    mistakes.append(f"{where}: is {value!r}, not a table: write [{where}] and keys below it")
    return {}


def _templates(value: object, where: str, mistakes: list[str]) -> tuple[Template, ...]:
    made = []
    for name, figures in _table(value, where, mistakes).items():
        here = f"{where}.{name}"
        if not _NAME.fullmatch(name):
            mistakes.append(f"{here}: is no template's name: letters, digits and _, at most 31")
            continue
        own = _table(figures, here, mistakes)
        cores = own.get("cores")
        if set(own) != {"memory", "cores"}:
            mistakes.append(f'{here}: write {{ memory = "16GiB", cores = 5 }}')
        elif type(cores) is not int or not 1 <= cores <= _MOST_CORES:
            mistakes.append(f"{here}.cores: {cores!r} is no number of AI cores, 1 to {_MOST_CORES}")
        else:
            try:
                size = parse_size(str(own["memory"]), "")
            except BadRequestError as error:
                mistakes.append(f"{here}.memory: {str(error).removeprefix(': ')}")
                continue
            if size.percent:
                mistakes.append(f"{here}.memory: {size.text} is no number of bytes")
            else:
                made.append(Template(name, size.of(0), cores))
    return tuple(made)
