"""AMD's compute driver, KFD: how its topology links devices, and who computes on them.

A device that is split into compute partitions has a node and a render file for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import files

_MOST_NODES: Final = 512
_MOST_LINKS: Final = 512
_MOST_PROCESSES: Final = 1 << 16
_XGMI: Final = 11
# Above these bits of `location_id`, bus, device and function, newer drivers have the partition.
_LOCATION: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Node:
    """A device, or a partition of one; ``links`` are XGMI's by the number of the other node."""

    number: int
    gpu_id: int
    address: str
    unique_id: int | None = None
    render_minor: int | None = None
    links: Mapping[int, int] = field(default_factory=dict)


def nodes(sys: Path) -> tuple[Node, ...]:
    """Return the devices of KFD's topology, in its order, which is ROCm's; empty without KFD."""
    folder = sys / "class/kfd/kfd/topology/nodes"
    found = (_node(folder / str(number), number) for number in files.numbered(folder, _MOST_NODES))
    return tuple(node for node in found if node is not None)


def memory(sys: Path, gpu_ids: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the bytes of device memory that processes hold, by pid and KFD's id of the device."""
    folder = sys / "class/kfd/kfd/proc"
    found: dict[tuple[int, int], int] = {}
    for pid in files.numbered(folder, _MOST_PROCESSES):
        for gpu_id in gpu_ids:
            value = files.number(folder / f"{pid}/vram_{gpu_id}")
            if value is not None:
                found[pid, gpu_id] = value
    return found


def computes(sys: Path, pid: int, gpu_ids: Sequence[int]) -> bool:
    """Say whether a process has queues of KFD's on a device, whose time no engine's counter has.

    Where the driver does not tell its queues it is taken to have some.
    """
    folder = sys / f"class/kfd/kfd/proc/{pid}/queues"
    if not folder.is_dir():
        return True
    return any(
        files.number(folder / name / "gpuid") in {*gpu_ids, None} for name in files.names(folder)
    )


def _node(folder: Path, number: int) -> Node | None:
    gpu_id = files.number(folder / "gpu_id")
    said = _properties(folder / "properties")
    location = said.get("location_id")
    if not gpu_id or location is None:
        # A processor.
        return None
    location &= _LOCATION
    address = (
        f"{said.get('domain', 0):04x}:{location >> 8:02x}:{location >> 3 & 31:02x}.{location & 7}"
    )
    links: dict[int, int] = {}
    for link in files.numbered(folder / "io_links", _MOST_LINKS):
        told = _properties(folder / f"io_links/{link}/properties")
        other = told.get("node_to")
        if told.get("type") == _XGMI and other is not None and other != number:
            links[other] = links.get(other, 0) + 1
    minor = said.get("drm_render_minor")
    return Node(number, gpu_id, address, said.get("unique_id") or None, minor or None, links)


def _properties(file: Path) -> dict[str, int]:
    said: dict[str, int] = {}
    for line in (files.text(file) or "").splitlines():
        key, _, word = line.strip().partition(" ")
        value = files.whole_number(word)
        if value is not None:
            said.setdefault(key, value)
    return said
