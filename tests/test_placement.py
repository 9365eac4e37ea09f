"""Where a slice goes on the node, held against every other choice that there was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from aliquot.agent.config import Ceiling, Config
from aliquot.agent.devices import Device
from aliquot.agent.placement import RefusedError, check_room, place
from aliquot.agent.slices import Part, Request

from placement_parts import (
    CONTAINER,
    GIB,
    ask,
    device,
    indices,
    limited,
    linked,
    put,
    refusal,
    size,
    slice_of,
)

# -- Whose device ----------------------------------------------------------------------------------

PLACES = {"nvidia": 0, "ascend": 1, "cambricon": 2, "amd": 3}


def of(vendor: str, model: str = "") -> Device:
    # Every vendor's first device.
    own = f"{PLACES[vendor] + 1:x}" * 8
    uuid = f"{vendor[:3].upper()}-{own}-0000-0000-0000-000000000000"
    return device(0, vendor=vendor, uuid=uuid, model=model or f"{vendor} model")


def vendors_of(parts: Sequence[Part]) -> list[str]:
    return [part.vendor for part in parts]


@pytest.mark.parametrize("others", [("ascend",), ("ascend", "amd"), ("amd", "cambricon")])
def test_who_does_not_say_whose_device_gets_one_of_nvidias_and_never_anothers(
    others: tuple[str, ...],
) -> None:
    devices = [*map(of, others), of("nvidia")]
    for request in (ask(memory="1GiB"), ask(), ask(None), ask(not_models=("T4",))):
        assert vendors_of(put(request, devices)) == ["nvidia"]
        assert "is not of the vendor asked for (nvidia)" in refusal(
            replace(request, count=2), devices
        )
    full = [slice_of("a", (devices[-1], 40 * GIB, 100))]
    text = refusal(ask(memory="1GiB"), devices, full)
    assert text.count("is not of the vendor asked for (nvidia)") == len(others)
    assert "of 40.0 GiB free" in text


@pytest.mark.parametrize("vendor", ["ascend", "cambricon"])
def test_nobody_gets_the_only_vendor_that_answers_while_another_ones_library_fails(
    vendor: str,
) -> None:
    devices = [of(vendor)]

    def get(request: Request, config: Config) -> list[str]:
        return vendors_of(place(request, devices, (), {}, CONTAINER, config, ["nvidia"]))

    with pytest.raises(RefusedError) as refused:
        get(ask(memory="1GiB"), Config())
    text = str(refused.value)
    assert "the library of nvidia does not tell of any" in text
    assert "default_vendor" in text
    assert "\n" not in text
    # Who says it gets it.
    assert get(ask(vendor=vendor), Config()) == [vendor]
    assert get(ask(memory="1GiB"), Config(default_vendor=vendor)) == [vendor]


def test_the_usual_vendor_is_meant_whosever_library_fails() -> None:
    parts = place(ask(), [of("nvidia")], (), {}, CONTAINER, Config(), ["ascend"])
    assert vendors_of(parts) == ["nvidia"]


def test_the_only_vendor_of_a_node_is_meant() -> None:
    assert vendors_of(put(ask(memory="1GiB"), [of("cambricon")])) == ["cambricon"]


def test_of_several_others_nobody_guesses_until_the_node_says() -> None:
    devices = [of("ascend"), of("cambricon")]
    text = refusal(ask(memory="1GiB"), devices)
    assert "does not say whose: the node has those of ascend, cambricon" in text
    assert "default_vendor" in text
    said = Config(default_vendor="cambricon")
    assert vendors_of(put(ask(memory="1GiB"), devices, config=said)) == ["cambricon"]
    # What the node says holds where its library failed, too.
    text = refusal(ask(memory="1GiB"), [of("ascend")], config=said)
    assert "asks for a device of cambricon: the node has those of ascend only" in text


def test_no_vendor_is_the_only_one_while_the_library_of_another_does_not_answer() -> None:
    def put_it(request: Request, config: Config, *vendors: str) -> list[str]:
        devices = [of(vendor) for vendor in vendors]
        return vendors_of(place(request, devices, (), {}, CONTAINER, config, ("nvidia",)))

    with pytest.raises(RefusedError) as caught:
        put_it(ask(memory="1GiB"), Config(), "ascend")
    assert str(caught.value) == (
        "team/pod/app asks for a device and does not say whose: the node has those of ascend, and "
        "the library of nvidia does not tell of any: name the vendor in the request, or as "
        "default_vendor in the configuration"
    )
    said = Config(default_vendor="ascend")
    assert put_it(ask(memory="1GiB"), said, "ascend") == ["ascend"]
    assert put_it(ask(memory="1GiB", vendor="ascend"), Config(), "ascend") == ["ascend"]
    assert put_it(ask(models=("ascend MODEL",)), Config(), "ascend") == ["ascend"]


@pytest.mark.parametrize("vendor", PLACES)
def test_a_vendor_a_model_or_a_name_is_what_decides(vendor: str) -> None:
    devices = [of(one) for one in PLACES]
    own = devices[PLACES[vendor]]
    for request in (
        ask(vendor=vendor),
        ask(None, vendor=vendor),
        ask(models=(f"{vendor} MODEL",)),
        ask(None, uuids=(own.uuid[:8],)),
        ask(None, uuids=(f"{vendor}:0",)),
    ):
        for config in (Config(), Config(default_vendor="nvidia")):
            assert vendors_of(put(request, devices, config=config)) == [vendor]
    text = refusal(ask(vendor=vendor), [one for one in devices if one is not own])
    assert f"asks for a device of {vendor}" in text
    other = next(one for one in devices if one is not own)
    text = refusal(ask(vendor=vendor, uuids=(other.uuid,)), devices)
    assert f"is not of the vendor asked for ({vendor})" in text


# -- What a slice gets ---------------------------------------------------------------------------


def test_a_slice_is_exactly_what_was_asked_for() -> None:
    (part,) = put(ask(memory="4GiB", cores=30), [device(0)])
    assert part == Part(device(0).uuid, "nvidia", 4 * GIB, 30, "shim")
    (part,) = put(ask(memory="25%", cores=1), [device(0)])
    assert (part.memory_bytes, part.cores) == (10 * GIB, 1)


def test_what_is_left_open_is_the_whole_device() -> None:
    (part,) = put(ask(), [device(0)])
    assert (part.memory_bytes, part.cores) == (40 * GIB, 100)
    assert [p.cores for p in put(ask(None), [device(n) for n in range(3)])] == [100] * 3


def test_what_is_left_open_is_as_much_as_the_ceiling_allows() -> None:
    config = limited(container=Ceiling(memory=size("25%"), cores=40))
    (part,) = put(ask(), [device(0)], config=config)
    assert (part.memory_bytes, part.cores) == (10 * GIB, 40)
    config = limited(container=Ceiling(memory=size("1TiB")))
    assert put(ask(), [device(0)], config=config)[0].memory_bytes == 40 * GIB


def test_the_strongest_enforcement_wins_and_the_node_may_demand_it() -> None:
    devices = [device(0), device(1, enforcement=("driver", "shim"))]
    full = [slice_of("a", (devices[0], GIB, 1))]
    request = ask(memory="1GiB", cores=1)
    assert put(request, devices, full)[0].enforcement == "shim"
    (part,) = put(request, devices, full, config=Config(require="driver"))
    assert (part.uuid, part.enforcement) == (devices[1].uuid, "driver")
    text = refusal(ask(2), devices, config=Config(require="driver"))
    assert 'no driver that holds a memory cap, which require = "driver" demands' in text


def test_what_nobody_could_hold_is_refused_and_the_whole_is_given() -> None:
    bare, kernel = device(0, enforcement=()), device(1, enforcement=("driver",))
    caps = "has nobody who holds memory caps: it is given as a whole (ask for no part of it)"
    time = "has nobody who keeps shares of its time: ask for no cores"
    (part,) = put(ask(), [bare])
    assert (part.memory_bytes, part.cores, part.enforcement) == (40 * GIB, 100, "nobody")
    assert put(ask(memory="100%"), [bare])[0].enforcement == "nobody"
    assert put(ask(memory="100%", cores=30), [bare])[0].cores == 30
    assert caps in refusal(ask(memory="39GiB"), [bare])
    assert caps in refusal(ask(memory="1GiB", cores=10), [bare])
    assert time in refusal(ask(memory="100%", cores_max=50), [bare])
    assert put(ask(memory="1GiB"), [kernel])[0].enforcement == "driver"
    assert put(ask(), [kernel])[0].cores == 100
    assert time in refusal(ask(memory="1GiB", cores=10), [kernel])
    assert time in refusal(ask(memory="1GiB", cores_max=50), [kernel])
    assert time in refusal(ask(cores_max=50), [kernel])
    # One that can hold it is there as well.
    request = ask(memory="1GiB", cores=10)
    assert put(request, [bare, kernel, device(2)])[0].uuid == device(2).uuid
    # Nor is one given as a whole of which somebody has a part already.
    held = [slice_of("a", (kernel, GIB, 0))]
    assert "has 39.0 GiB of 40.0 GiB free" in refusal(ask(), [kernel], held)
    assert 'require = "driver" demands' in refusal(ask(), [bare], config=Config(require="driver"))


def test_more_of_a_slice_is_held_too_or_refused() -> None:
    bare, kernel = device(0, enforcement=()), device(1, enforcement=("driver",))
    (part,) = put(ask(memory="4GiB"), [kernel])
    for change in ({"memory_bytes": 8 * GIB}, {"memory_bytes": GIB}, {"weight": 5}):
        check_room(replace(part, **change), part, kernel, [], "x")  # type: ignore[arg-type]
    for change in ({"cores": 5}, {"cores_max": 50}):
        with pytest.raises(RefusedError, match=r"x: GPU-.* keeps shares of its time"):
            check_room(replace(part, **change), part, kernel, [], "x")  # type: ignore[arg-type]
    (whole,) = put(ask(), [bare])
    check_room(replace(whole, cores=0), whole, bare, [], "x")
    with pytest.raises(RefusedError, match=r"x: GPU-.* nobody who holds memory caps"):
        check_room(replace(whole, memory_bytes=GIB), whole, bare, [], "x")


def test_hamis_limits_are_by_the_containers_own_numbers() -> None:
    devices = [device(0), device(1), device(2)]
    held = [slice_of("a", (devices[0], 39 * GIB, 1))]
    request = ask(2, "1GiB", cores=10, memory_by_index=((1, size("30GiB")), (7, size("99GiB"))))
    parts = put(request, devices, held)
    assert indices(parts, devices) == [0, 1]
    assert [part.memory_bytes for part in parts] == [GIB, 30 * GIB]
    # Where the first device of the slice is the one with little room, the order decides.
    request = ask(2, "30GiB", cores=10, memory_by_index=((1, size("1GiB")),))
    assert indices(put(request, devices, held), devices) == [1, 2]
    text = refusal(
        ask(2, cores=10, memory_by_index=((0, size("30GiB")), (1, size("1GiB")))),
        devices[:2],
        held,
    )
    assert "no 2 of which fit the sizes in their order" in text


# -- How time is shared --------------------------------------------------------------------------


def terms(request: Request, config: Config | None = None) -> tuple[int, int, int, int]:
    """What a slice of one device is guaranteed, may have at most, its weight and priority."""
    (part,) = put(request, [device(0)], config=config)
    return part.cores, part.cores_max, part.weight, part.priority


@pytest.mark.parametrize(
    ("request_", "came_to"),
    [
        (ask(cores=30), (30, 100, 100, 0)),
        (ask(memory="1GiB"), (0, 100, 100, 0)),
        (ask(), (100, 100, 100, 0)),
        (ask(cores=30, cores_max=60, weight=7, priority=-3), (30, 60, 7, -3)),
        # A part of its time is no whole device.
        (ask(cores_max=60), (0, 60, 100, 0)),
        (ask(cores=30, cores_max=30, policy="fixed-share"), (30, 30, 100, 0)),
        # By the node's own policy.
        (ask(policy="fixed-share"), (100, 100, 100, 0)),
        (ask(memory="1GiB", policy="fixed-share"), (0, 100, 100, 0)),
        (ask(cores=0, policy="best-effort"), (0, 100, 100, 0)),
        (ask(cores=0, policy="native", native=True), (0, 100, 100, 0)),
    ],
)
def test_what_is_left_open_of_time_follows_from_the_rest(
    request_: Request, came_to: tuple[int, ...]
) -> None:
    assert terms(request_) == came_to


def test_only_what_is_guaranteed_is_reserved() -> None:
    devices = [device(0)]
    held = [slice_of("a", (devices[0], GIB, 70))]
    for request in (
        ask(memory="1GiB", cores=30),
        ask(memory="1GiB"),
        ask(memory="1GiB", cores=0, policy="best-effort"),
        ask(memory="1GiB", cores=0, policy="native", native=True),
    ):
        (part,) = put(request, devices, held)
        assert part.cores_max == 100
    assert "has 30% of its time free" in refusal(ask(memory="1GiB", cores=31), devices, held)


def test_what_is_had_at_most_is_within_the_ceiling() -> None:
    config = limited(container=Ceiling(cores_max=60))
    assert terms(ask(cores=30), config) == (30, 60, 100, 0)
    assert terms(ask(), config) == (60, 60, 100, 0)
    assert terms(ask(cores=30, cores_max=60), config) == (30, 60, 100, 0)
    for request in (ask(cores_max=61), ask(cores=61), ask(cores=61, cores_max=100)):
        text = refusal(request, [device(0)], config=config)
        assert text.endswith("of a device's time: at most 60% (limits.container.cores_max)")
    # What is guaranteed has a ceiling of its own.
    config = limited(container=Ceiling(cores=40))
    assert terms(ask(), config) == (40, 100, 100, 0)
    assert terms(ask(policy="fixed-share"), config) == (40, 40, 100, 0)


def test_nobody_goes_before_others_by_asking() -> None:
    text = refusal(ask(priority=1), [device(0)])
    assert text == "team/pod/app asks for priority 1: at most 0 (limits.container.priority)"
    assert terms(ask(priority=-100))[3] == -100
    for config, most, key in (
        (limited(container=Ceiling(priority=5)), 5, "limits.container.priority"),
        (limited(team=Ceiling(priority=7)), 7, "limits.namespace.team.priority"),
        (limited(other=Ceiling(priority=6)), 6, 'limits.namespace."*".priority'),
        # What is said of the namespace counts before what is said of all.
        (
            limited(container=Ceiling(priority=90), team=Ceiling(priority=-8)),
            -8,
            "limits.namespace.team.priority",
        ),
        (
            limited(container=Ceiling(priority=4), team=Ceiling(cores=400)),
            4,
            "limits.container.priority",
        ),
    ):
        assert terms(ask(priority=most), config)[3] == most
        # Who says none does not come before who may say this much.
        assert terms(ask(), config)[3] == min(most, 0)
        text = refusal(ask(priority=most + 1), [device(0)], config=config)
        assert text.endswith(f"at most {most} ({key})")


def test_a_weight_has_a_ceiling_where_one_is_written() -> None:
    assert terms(ask(weight=10_000))[2] == 10_000
    config = limited(container=Ceiling(weight=50), team=Ceiling(weight=80))
    assert terms(ask(weight=80), config)[2] == 80
    assert terms(ask(), config)[2] == 80
    assert "at most 80 (limits.namespace.team.weight)" in refusal(
        ask(weight=81), [device(0)], config=config
    )


# -- Which device --------------------------------------------------------------------------------


def test_binpack_fills_and_spread_spares() -> None:
    devices = [device(n) for n in range(4)]
    held = [
        slice_of("a", (devices[1], 10 * GIB, 20)),
        slice_of("b", (devices[2], 20 * GIB, 50)),
        slice_of("c", (devices[3], 39 * GIB, 90)),
    ]
    request = ask(memory="4GiB", cores=10)
    assert indices(put(request, devices, held), devices) == [2]
    assert indices(put(replace(request, placement="spread"), devices, held), devices) == [0]
    spread = Config(placement="spread")
    assert indices(put(request, devices, held, config=spread), devices) == [0]
    binpack = replace(request, placement="binpack")
    assert indices(put(binpack, devices, held, config=spread), devices) == [2]


def test_names_and_models_are_wanted_or_not() -> None:
    devices = [device(0), device(1, model="Tesla T4"), device(2, model="NVIDIA H100 80GB HBM3")]
    cases = [
        (ask(models=("h100",)), [2]),
        (ask(models=("T4", "H100")), [1]),
        (ask(not_models=("a100", "t4")), [2]),
        (ask(None, uuids=("GPU-00000001", "00000002")), [1, 2]),
        (ask(1, uuids=("gpu-00000002", "GPU-00000001")), [1]),
        (ask(not_uuids=("00000000", "GPU-00000001")), [2]),
        (ask(None, uuids=("nvidia:1", "NVIDIA:0")), [0, 1]),
        (ask(1, uuids=("nvidia:",)), [0]),
        (ask(None, not_models=("T4",)), [0, 2]),
    ]
    for request, chosen in cases:
        assert indices(put(request, devices), devices) == chosen, request


def test_linked_devices_are_taken_together_then_those_of_a_node() -> None:
    devices = linked([device(n) for n in range(8)], (0, 5), (1, 2, 6))
    held = [slice_of("a", *((devices[n], 20 * GIB, 50) for n in (3, 4, 7)))]
    request = ask(2, "1GiB", cores=1)
    assert indices(put(request, devices, held), devices) == [1, 2]
    # Fuller, on two nodes, but linked.
    assert indices(put(replace(request, count=3), devices, held), devices) == [1, 2, 6]
    # Without links: of one node, the fullest that are.
    plain = [device(n) for n in range(8)]
    assert indices(put(request, plain, held), plain) == [4, 7]
    assert indices(put(replace(request, placement="spread"), plain, held), plain) == [0, 1]
    # Three that are linked weakly before two that are linked well.
    odd = linked(linked(plain, (0, 1, 2), count=1), (6, 7), count=18)
    assert indices(put(replace(request, count=3), odd), odd) == [0, 1, 2]
    assert indices(put(request, odd), odd) == [6, 7]
    # A link that only one of both tells is one.
    half = [replace(plain[0], links={plain[6].uuid: 4}), *plain[1:]]
    assert indices(put(request, half, held), half) == [0, 6]


def test_many_devices_are_grouped_in_reasonable_time() -> None:
    count = 64
    devices = linked([device(n) for n in range(count)], range(3, 19), range(20, 64))
    held = [slice_of("a", *((devices[n], 39 * GIB, 100) for n in range(20, 64)))]
    parts = put(ask(12, "1GiB", cores=5), devices, held)
    assert set(indices(parts, devices)) <= set(range(3, 19))
    parts = put(ask(12, "1GiB", cores=5), devices)
    chosen = set(indices(parts, devices))
    assert chosen <= set(range(3, 19)) or chosen <= set(range(20, 64))


# -- Refusals ------------------------------------------------------------------------------------


def test_a_refusal_names_every_device_with_its_reason() -> None:
    devices = [
        device(0),
        device(1),
        device(2, model="Tesla T4", memory_bytes=15 * GIB),
        device(3),
        device(4),
        device(5),
    ]
    held = [
        slice_of("a", (devices[1], 30 * GIB, 10)),
        slice_of("b", (devices[3], 1 * GIB, 95)),
        slice_of("c", (devices[5], 1 * GIB, 5)),
    ]
    text = refusal(
        ask(2, "20GiB", cores=10, not_uuids=("GPU-00000004",)),
        devices,
        held,
        {devices[0].uuid: "XID 79: it has fallen off the bus"},
    )
    assert text.startswith("team/pod/app asks for 2 devices, 1 can be had: ")
    reasons = text.partition(": ")[2].split("; ")
    assert [reason.partition(") ")[2] for reason in reasons] == [
        "is unhealthy: XID 79: it has fallen off the bus",
        "has 10.0 GiB of 40.0 GiB free, 20.0 GiB are asked for",
        "has 15.0 GiB of memory in all, 20.0 GiB are asked for",
        "has 5% of its time free, 10% are asked for",
        "is asked not to be used",
        "fits",
    ]
    assert [reason.partition(" ")[0] for reason in reasons] == [one.uuid for one in devices]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (ask(uuids=("GPU-ff",)), "asks for device GPU-ff, which the node does not have"),
        (ask(uuids=("cambricon:0",)), "asks for device cambricon:0, which the node does not have"),
        (ask(uuids=("nvidia:9",)), "asks for device nvidia:9, which the node does not have"),
        (ask(models=("V100",)), "is not of the model asked for (V100)"),
        (ask(not_models=("a100",)), "is of a model asked not to be used (a100)"),
        (ask(None, models=("V100",)), "asks for a device, none can be had"),
        (ask(3), "asks for 3 devices, 2 can be had"),
        (ask(memory="41GiB"), "40.0 GiB of memory in all, 41.0 GiB are asked for"),
        (ask(memory="1MiB"), "gives memory in pages of 2.0 MiB, less is asked for"),
        (ask(memory="0.000000001%"), "gives memory in pages of 2.0 MiB, less is asked for"),
    ],
)
def test_what_cannot_be_is_refused(request_: Request, what: str) -> None:
    assert what in refusal(request_, [device(0), device(1)])


def test_all_devices_means_all() -> None:
    devices = [device(0), device(1)]
    assert "1 can be had" in refusal(ask(None), devices, unhealthy={devices[0].uuid: "XID 79"})
    request = ask(None, not_uuids=("GPU-00000000",))
    assert indices(put(request, devices, unhealthy={devices[0].uuid: "x"}), devices) == [1]


def test_a_node_without_devices_says_so() -> None:
    assert "the node has none" in refusal(ask(), [])


# -- Ceilings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "ceiling", "key"),
    [
        (ask(3), Ceiling(devices=2), "limits.container.devices"),
        (ask(None), Ceiling(devices=2), "limits.container.devices"),
        (ask(memory="11GiB"), Ceiling(memory=size("10GiB")), "limits.container.memory"),
        (ask(memory="26%"), Ceiling(memory=size("25%")), "limits.container.memory"),
        (ask(cores=41), Ceiling(cores=40), "limits.container.cores"),
        (
            ask(1, memory_by_index=((0, size("11GiB")),)),
            Ceiling(memory=size("10GiB")),
            "limits.container.memory",
        ),
    ],
)
def test_a_containers_ceiling_is_named(request_: Request, ceiling: Ceiling, key: str) -> None:
    devices = [device(n) for n in range(4)]
    assert f"({key})" in refusal(request_, devices, config=limited(container=ceiling))


def test_a_ceiling_in_percent_leaves_the_larger_device() -> None:
    devices = [device(0, memory_bytes=16 * GIB), device(1)]
    config = limited(container=Ceiling(memory=size("50%")))
    assert indices(put(ask(memory="12GiB"), devices, config=config), devices) == [1]


def test_a_namespaces_ceiling_is_of_what_its_containers_hold_together() -> None:
    devices = [device(0), device(1)]
    other = replace(CONTAINER, id="d", namespace="elsewhere")
    held = [
        slice_of("a", (devices[0], 10 * GIB, 30), (devices[1], 10 * GIB, 30)),
        slice_of("b", (devices[1], 10 * GIB, 30), container=other),
    ]
    request = ask(memory="5GiB", cores=20)
    for ceiling, allowed, key in (
        (Ceiling(devices=3), True, ""),
        (Ceiling(devices=2), False, "devices"),
        (Ceiling(memory=size("25GiB")), True, ""),
        (Ceiling(memory=size("24GiB")), False, "memory"),
        # Of 80 GiB.
        (Ceiling(memory=size("32%")), True, ""),
        (Ceiling(memory=size("31%")), False, "memory"),
        (Ceiling(cores=80), True, ""),
        (Ceiling(cores=79), False, "cores"),
    ):
        for config, name in (
            (limited(team=ceiling), "team"),
            (limited(other=ceiling), '"*"'),
            (limited(team=ceiling, other=Ceiling(devices=0)), "team"),
        ):
            if allowed:
                assert put(request, devices, held, config=config)
            else:
                text = refusal(request, devices, held, config=config)
                assert f"(limits.namespace.{name}.{key})" in text
    # The ceiling of all others does not add up over them.
    assert put(request, devices, held[1:], config=limited(other=Ceiling(devices=1)))


def test_a_refusal_is_one_line_however_the_node_names_its_devices() -> None:
    devices = [device(0, model="Odd model"), device(1)]
    text = refusal(ask(3), devices)
    assert re.fullmatch(r"team/pod/app asks for 3 devices, 2 can be had: .+ fits; .+ fits", text)
