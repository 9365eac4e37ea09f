"""Whatever is asked for: placements that hold for any node, any slices and any request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from aliquot.agent.config import Ceiling, Config, Limits
from aliquot.agent.devices import Device
from aliquot.agent.placement import RefusedError
from aliquot.agent.slices import Request, Slice
from hypothesis import assume, given
from hypothesis import strategies as st

from placement_parts import (
    CONTAINER,
    GIB,
    MIB,
    ask,
    device,
    indices,
    linked,
    put,
    size,
    slice_of,
)

# -- Whatever is asked for -----------------------------------------------------------------------

SIZES = st.one_of(
    st.integers(1, 50).map(lambda n: size(f"{n}GiB")),
    st.integers(1, 100).map(lambda n: size(f"{n}%")),
)


@st.composite
def nodes(draw: st.DrawFn) -> list[Device]:
    count = draw(st.integers(1, 6))
    devices = [
        device(
            n,
            memory_bytes=draw(st.sampled_from([16, 40, 80])) * GIB,
            model=draw(st.sampled_from(["Tesla T4", "NVIDIA A100", "NVIDIA H100"])),
            numa_node=draw(st.sampled_from([None, 0, 1])),
            enforcement=draw(st.sampled_from([("shim",), ("driver", "shim"), ("driver",), ()])),
        )
        for n in range(count)
    ]
    ends = st.integers(0, count - 1)
    for one, other, many in draw(st.lists(st.tuples(ends, ends, st.integers(1, 18)), max_size=6)):
        devices = linked(devices, sorted({one, other}), count=many)
    return devices


REQUESTS = st.builds(
    Request,
    count=st.none() | st.integers(1, 4),
    memory=st.none() | SIZES,
    cores=st.none() | st.integers(1, 60),
    models=st.sampled_from([(), (), ("t4",), ("nvidia",)]),
    not_models=st.sampled_from([(), (), ("t4",)]),
    not_uuids=st.sampled_from([(), (), ("GPU-00000001",)]),
    placement=st.sampled_from([None, "binpack", "spread"]),
    memory_by_index=st.sampled_from([(), (), ((0, size("2GiB")), (1, size("20GiB")))]),
)
CEILINGS = st.builds(
    Ceiling,
    devices=st.none() | st.integers(1, 8),
    memory=st.none() | SIZES,
    cores=st.none() | st.integers(1, 100),
)
CONFIGS = st.builds(
    Config,
    placement=st.sampled_from(["binpack", "spread"]),
    require=st.sampled_from(["shim", "shim", "driver"]),
    limits=st.builds(
        Limits,
        container=CEILINGS,
        namespace=st.dictionaries(st.sampled_from(["team", "*"]), CEILINGS),
    ),
)
PLAIN = Config()


@given(nodes(), st.lists(REQUESTS, max_size=12), st.data(), st.just(PLAIN) | CONFIGS)
def test_however_many_ask_no_device_is_promised_twice(
    devices: list[Device], wanted: list[Request], data: st.DataObject, config: Config
) -> None:
    unhealthy = {one.uuid: "broken" for one in devices if data.draw(st.integers(0, 5)) == 0}
    held: list[Slice] = []
    for number, request in enumerate(wanted):
        before = tuple(held)
        try:
            parts = put(request, devices, held, unhealthy, config)
        except RefusedError as error:
            text = str(error)
            assert text.isprintable()
            # A ceiling is named, or each device is.
            named = [one for one in devices if one.uuid in text]
            assert len(named) == len(devices) or "(limits." in text
            assert tuple(held) == before
            continue
        assert tuple(held) == before
        held.append(Slice(str(number), CONTAINER, parts, 0, 1, 1))
        assert not unhealthy.keys() & {part.uuid for part in parts}
        assert len({part.uuid for part in parts}) == len(parts)
        assert request.count in (None, len(parts))
        assert indices(parts, devices) == sorted(indices(parts, devices))
        if config.require == "driver":
            assert {part.enforcement for part in parts} == {"driver"}
        most = config.limits.container
        for part in parts:
            by = next(one for one in devices if one.uuid == part.uuid)
            total = by.memory_bytes
            # Whatever is promised somebody holds, or nobody else has any of the device.
            assert part.enforcement in by.enforcement or part.memory_bytes == total
            assert "shim" in by.enforcement or part.memory_bytes == total or not part.cores
            assert "shim" in by.enforcement or part.cores_max == 100
            assert most.memory is None or part.memory_bytes <= most.memory.of(total)
            assert most.cores is None or part.cores <= most.cores
            assert part.memory_bytes >= 2 * MIB
    for one in devices:
        there = [part for piece in held for part in piece.parts if part.uuid == one.uuid]
        assert sum(part.memory_bytes for part in there) <= one.memory_bytes
        assert sum(part.cores for part in there) <= 100
    every = [part for piece in held for part in piece.parts]
    ceiling = config.limits.of_namespace("team")[1]
    assert ceiling.devices is None or len(every) <= ceiling.devices
    assert ceiling.cores is None or sum(part.cores for part in every) <= ceiling.cores
    if ceiling.memory is not None:
        total = sum(one.memory_bytes for one in devices)
        assert sum(part.memory_bytes for part in every) <= ceiling.memory.of(total)


HOLDINGS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8), st.integers(1, 20)), max_size=8)


def holding(devices: Sequence[Device], amounts: Sequence[tuple[int, int, int]]) -> list[Slice]:
    return [
        slice_of(str(n), (devices[which % len(devices)], gib * GIB, cores))
        for n, (which, gib, cores) in enumerate(amounts)
    ]


@given(nodes(), HOLDINGS, REQUESTS, st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_the_order_of_what_is_there(
    devices: list[Device], amounts: list[tuple[int, int, int]], request: Request, random: object
) -> None:
    held = holding(devices, amounts)

    def answer(some: Sequence[Device], pieces: Sequence[Slice]) -> object:
        try:
            return put(request, some, pieces)
        except RefusedError as error:
            return str(error)

    first = answer(devices, held)
    mixed, shuffled = list(devices), list(held)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert answer(mixed, shuffled) == first
    assert answer(devices, held) == first


def fullness(one: Device, held: Sequence[Slice]) -> Fraction:
    parts = [part for piece in held if (part := piece.part(one.uuid))]
    return Fraction(sum(part.memory_bytes for part in parts), one.memory_bytes) + Fraction(
        sum(part.cores for part in parts), 100
    )


@given(nodes(), HOLDINGS, st.integers(1, 4), st.sampled_from(["binpack", "spread"]))
def test_no_other_choice_would_have_been_better(
    devices: list[Device], amounts: list[tuple[int, int, int]], count: int, placement: str
) -> None:
    """Looks through every set of devices on which such a request alone would have been placed."""
    held = holding(devices, amounts)
    request = ask(count, "2GiB", cores=10, placement=placement)
    can = [one for one in devices if _fits(request, one, held)]
    try:
        chosen = put(request, devices, held)
    except RefusedError:
        assert len(can) < count
        return
    assume(count <= len(can))

    def worth(some: Sequence[Device]) -> tuple[int, int, int, Fraction]:
        pairs = [
            max(a.links.get(b.uuid, 0), b.links.get(a.uuid, 0)) for a, b in combinations(some, 2)
        ]
        full = sum((fullness(one, held) for one in some), Fraction())
        numa = len({one.numa_node for one in some})
        linked_pairs = sum(1 for links in pairs if links)
        return (linked_pairs, sum(pairs), -numa, full if placement == "binpack" else -full)

    taken = [one for one in devices if one.uuid in {part.uuid for part in chosen}]
    assert worth(taken) == max(worth(some) for some in combinations(can, count))


def _fits(request: Request, one: Device, held: Sequence[Slice]) -> bool:
    try:
        put(replace(request, count=1), [one], held)
    except RefusedError:
        return False
    return True
