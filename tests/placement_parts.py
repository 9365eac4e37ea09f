"""Nodes, slices and requests, as the tests of placement put them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from aliquot.agent.config import Ceiling, Config, Limits
from aliquot.agent.devices import Device
from aliquot.agent.placement import RefusedError, place
from aliquot.agent.sizes import Size, parse_size
from aliquot.agent.slices import Container, Part, Request, Slice

MIB = 1 << 20
GIB = 1 << 30
CONTAINER = Container("c" * 64, "/run/bundle", "team", "pod", "app")


def device(index: int, **changes: object) -> Device:
    made = Device(
        vendor="nvidia",
        index=index,
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        uuid_bytes=bytes([index] * 16),
        model="NVIDIA A100-SXM4-40GB",
        memory_bytes=40 * GIB,
        page_bytes=2 * MIB,
        context_bytes=400 * MIB,
        pci_address=f"0000:{index:02x}:00.0",
        numa_node=index // 4,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def linked(devices: Sequence[Device], *groups: Sequence[int], count: int = 12) -> list[Device]:
    """Link the devices of each group, by index, to each other, beside what links there are."""
    by_index = {one.index: one for one in devices}
    links: dict[int, dict[str, int]] = {one.index: dict(one.links) for one in devices}
    for group in groups:
        for one, other in combinations(group, 2):
            links[one][by_index[other].uuid] = count
            links[other][by_index[one].uuid] = count
    return [replace(one, links=links[one.index]) for one in devices]


def slice_of(key: str, *parts: tuple[Device, int, int], container: Container = CONTAINER) -> Slice:
    held = tuple(Part(one.uuid, one.vendor, size, cores) for one, size, cores in parts)
    return Slice(key, container, held, 0, 1, 1)


def size(text: str) -> Size:
    return parse_size(text, "test")


def ask(count: int | None = 1, memory: str | None = None, **rest: object) -> Request:
    request = Request(count, memory=size(memory) if memory else None)
    return replace(request, **rest)  # type: ignore[arg-type]


def put(
    request: Request,
    devices: Sequence[Device],
    slices: Sequence[Slice] = (),
    unhealthy: dict[str, str] | None = None,
    config: Config | None = None,
) -> tuple[Part, ...]:
    return place(request, devices, slices, unhealthy or {}, CONTAINER, config or Config())


def indices(parts: Sequence[Part], devices: Sequence[Device]) -> list[int]:
    by_uuid = {one.uuid: one.index for one in devices}
    return [by_uuid[part.uuid] for part in parts]


def refusal(
    request: Request,
    devices: Sequence[Device],
    slices: Sequence[Slice] = (),
    unhealthy: dict[str, str] | None = None,
    config: Config | None = None,
) -> str:
    with pytest.raises(RefusedError) as caught:
        put(request, devices, slices, unhealthy, config)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(("team/pod/app asks for ", "team/pod/app: namespace "))
    return text


def limited(**ceilings: Ceiling) -> Config:
    namespaces = {name: one for name, one in ceilings.items() if name not in ("container", "other")}
    if "other" in ceilings:
        namespaces["*"] = ceilings["other"]
    return Config(limits=Limits(ceilings.get("container", Ceiling()), namespaces))
