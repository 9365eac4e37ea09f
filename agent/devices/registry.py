"""The vendors of this node: plug-ins of the entry point group ``aliquot.vendors``.

A plug-in is a callable that takes the agent's configuration and returns a Vendor; it raises
VendorError when the vendor's library is not on this node. Whatever else a plug-in does wrong takes
down only itself, and says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

from ..ascend_config import Ascend
from ..cambricon_config import Cambricon
from . import Vendor, VendorError, presence

GROUP: Final = "aliquot.vendors"

_OWN: Final = "aliquot"
_PROMISED: Final = (
    "name",
    "enumerate",
    "sample",
    "processes",
    "health",
    "needs",
    "limit_memory",
    "close",
)


class Settings(Protocol):
    """What of the agent's configuration concerns vendors; ``agent.config.Config`` has it."""

    @property
    def vendors(self) -> Sequence[str]:
        """The vendors to use; empty is all."""
        ...

    @property
    def cdi_dirs(self) -> Sequence[Path]:
        """Folders of CDI specifications; a later one counts before an earlier one."""
        ...

    @property
    def runtime_dir(self) -> Path:
        """The agent's own folder, which ends with the node's uptime."""
        ...

    @property
    def ascend(self) -> Ascend:
        """What is said of Ascend devices."""
        ...

    @property
    def cambricon(self) -> Cambricon:
        """What is said of Cambricon's devices."""
        ...

    @property
    def withhold(self) -> bool:
        """Whether libraries that reach a device past the shim are kept out of containers."""
        ...


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A vendor that is not used, and why, in one line."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The vendors that can be used, by name, and those that cannot.

    ``signs`` is what shows, whatever a vendor's library does, that the node has his devices; of
    those vendors only whom the configuration does not leave out.
    """

    vendors: tuple[Vendor, ...]
    left_out: tuple[LeftOut, ...]
    signs: Mapping[str, str] = field(default_factory=dict)


def vendors(config: Settings) -> tuple[Vendor, ...]:
    """Return the vendors whose libraries are on this node, by name."""
    return load(config).vendors


def load(config: Settings, points: Iterable[metadata.EntryPoint] | None = None) -> Loaded:
    """Load the vendors; ``points`` are those of ``GROUP`` that are installed. Raises nothing."""
    found = metadata.entry_points(group=GROUP) if points is None else points
    chosen: dict[str, metadata.EntryPoint] = {}
    left_out: list[LeftOut] = []
    # Ours first: nobody replaces a vendor that we have by taking its name.
    for point in sorted(found, key=lambda point: (point.name, not _is_ours(point), point.value)):
        if config.vendors and point.name not in config.vendors:
            left_out.append(LeftOut(point.name, "the configuration's `vendors` does not name it"))
        elif point.name in chosen:
            if point.value != chosen[point.name].value:
                text = f"{point.value}: {chosen[point.name].value} has the same name"
                left_out.append(LeftOut(point.name, text))
        else:
            chosen[point.name] = point
    left_out += [
        LeftOut(name, "no plug-in of this name is installed: correct `vendors` or install it")
        for name in config.vendors
        if name not in chosen
    ]
    made: list[Vendor] = []
    for name, point in chosen.items():
        result = _make(point, config)
        if isinstance(result, str):
            left_out.append(LeftOut(name, result))
        else:
            made.append(result)
    shown = {name: presence.sign(name, _root(name, config)) for name in chosen}
    return Loaded(
        tuple(made), tuple(left_out), {name: sign for name, sign in shown.items() if sign}
    )


def _root(name: str, config: Settings) -> Path:
    """Return below which folder a vendor's device files lie."""
    return {"ascend": config.ascend.root, "cambricon": config.cambricon.root}.get(name, Path("/"))


def _is_ours(point: metadata.EntryPoint) -> bool:
    return point.dist is not None and point.dist.name.lower() == _OWN


def _make(point: metadata.EntryPoint, config: Settings) -> Vendor | str:
    """Return the vendor, or why there is none."""
    try:
        made = point.load()(config)
        lacks = [name for name in _PROMISED if not hasattr(made, name)]
    except VendorError as error:
        return _line(str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _line(f"the plug-in {point.value} failed: {what}: mend or remove it")
    if lacks:
        return _line(f"the plug-in {point.value} is no vendor: it has no {', '.join(lacks)}")
    vendor: Vendor = made
    return vendor


def _line(text: str) -> str:
    return " ".join(text.split())
