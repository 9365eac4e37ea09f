"""What is asked for in others' words: HAMi's variables, Cambricon's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aliquot.agent import requests
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import HAMI, Config
from aliquot.agent.sizes import parse_size

from request_parts import GIB, memory, read, refusal, wanted

# -- HAMi's --------------------------------------------------------------------------------------


def test_hamis_variables_are_what_hami_takes_them_for() -> None:
    request = wanted(
        {},
        {
            "CUDA_DEVICE_MEMORY_LIMIT": "4g",
            "CUDA_DEVICE_MEMORY_LIMIT_1": "2048m",
            "CUDA_DEVICE_SM_LIMIT": "30",
            "NVIDIA_VISIBLE_DEVICES": "GPU-aa, GPU-bb",
        },
    )
    assert request.count is None
    assert request.uuids == ("GPU-aa", "GPU-bb")
    # It is a share that is never passed.
    assert (request.policy, request.cores, request.cores_max) == ("fixed-share", 30, 30)
    assert memory(request) == 4 * GIB
    assert [(i, size.of(1)) for i, size in request.memory_by_index] == [(1, 2 * GIB)]
    assert "environment NVIDIA_VISIBLE_DEVICES" in request.sources


@pytest.mark.parametrize(
    ("environment", "count", "cores"),
    [
        ({"CUDA_DEVICE_MEMORY_LIMIT": "1g"}, 1, None),
        ({"CUDA_DEVICE_SM_LIMIT": "50"}, 1, 50),
        ({"CUDA_DEVICE_SM_LIMIT": "0"}, 1, None),
        ({"CUDA_DEVICE_SM_LIMIT": "100"}, 1, 100),
        ({"CUDA_DEVICE_MEMORY_LIMIT_0": "1g", "CUDA_DEVICE_MEMORY_LIMIT_1": "2g"}, 2, None),
        ({"CUDA_DEVICE_MEMORY_LIMIT": "1g", "CUDA_DEVICE_MEMORY_LIMIT_2": "2g"}, 3, None),
        ({"CUDA_DEVICE_MEMORY_LIMIT": "1g", "NVIDIA_VISIBLE_DEVICES": "all"}, None, None),
    ],
)
def test_the_number_of_hamis_devices(
    environment: dict[str, str], count: int | None, cores: int | None
) -> None:
    request = wanted({}, environment)
    assert (request.count, request.cores, request.uuids) == (count, cores, ())


@pytest.mark.parametrize("nothing", ["", "none", "void"])
def test_no_device_of_hamis_is_no_request(nothing: str) -> None:
    environment = {"CUDA_DEVICE_MEMORY_LIMIT": "1g", "NVIDIA_VISIBLE_DEVICES": nothing}
    assert read({}, environment) is None


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"CUDA_DEVICE_MEMORY_LIMIT": "1GiB"}, "CUDA_DEVICE_MEMORY_LIMIT"),
        ({"CUDA_DEVICE_MEMORY_LIMIT": "0"}, "CUDA_DEVICE_MEMORY_LIMIT"),
        ({"CUDA_DEVICE_MEMORY_LIMIT_x": "1g"}, "CUDA_DEVICE_MEMORY_LIMIT_x"),
        ({"CUDA_DEVICE_MEMORY_LIMIT_\n": "1g"}, "CUDA_DEVICE_MEMORY_LIMIT_?"),
        ({"CUDA_DEVICE_MEMORY_LIMIT_1": "1g"}, "CUDA_DEVICE_MEMORY_LIMIT_1"),
        ({"CUDA_DEVICE_SM_LIMIT": "101"}, "CUDA_DEVICE_SM_LIMIT"),
        ({"CUDA_DEVICE_SM_LIMIT": ""}, "CUDA_DEVICE_SM_LIMIT"),
        (
            {"CUDA_DEVICE_SM_LIMIT": "1", "NVIDIA_VISIBLE_DEVICES": "0,1"},
            "NVIDIA_VISIBLE_DEVICES: '0' is a number",
        ),
        (
            {"CUDA_DEVICE_MEMORY_LIMIT_2": "1g", "NVIDIA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"},
            "CUDA_DEVICE_MEMORY_LIMIT_2: the container has only 2 devices",
        ),
        ({"CUDA_DEVICE_SM_LIMIT": "1", "NVIDIA_VISIBLE_DEVICES": "GPU-a,"}, "NVIDIA_VISIBLE"),
    ],
)
def test_a_value_that_hami_would_drop_is_refused(environment: dict[str, str], key: str) -> None:
    assert key in refusal({}, environment)


# -- Cambricon's ----------------------------------------------------------------------------------

PROFILE = "CAMBRICON_DSMLU_PROFILE"
VISIBLE = "CAMBRICON_VISIBLE_DEVICES"


def test_a_profile_is_a_share_of_the_card_in_its_slot() -> None:
    request = wanted({PROFILE: "3_20_25"})
    assert request.uuids == ("cambricon:3",)
    assert (request.count, request.cores, request.cores_max) == (None, 20, 20)
    assert memory(request) == 4 * GIB
    assert request.sources == (f"annotation {PROFILE}",)
    assert wanted({PROFILE: "0_0_1"}).cores is None


def test_a_profiles_memory_is_in_the_configured_unit() -> None:
    config = replace(Config(), cambricon=Cambricon(memory_unit=parse_size("256MiB", "")))
    request = requests.read({PROFILE: "0_10_8"}, {}, "", config)
    assert memory(request) == 2 * GIB


@pytest.mark.parametrize("flag", ["CAMBRICON_DSMLU_ASSIGNED", "CAMBRICON_DSMLU_ASSIGHED"])
def test_a_share_that_the_vendors_plugin_has_made_is_left_to_it(flag: str) -> None:
    assert read({PROFILE: "0_10_8", flag: "true"}) is None
    assert wanted({PROFILE: "0_10_8", flag: "false"}).cores == 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0_10", "is not SLOT_VCORE_VMEMORY"),
        ("0_10_-1", "is not SLOT_VCORE_VMEMORY"),
        ("a_1_1", "is not SLOT_VCORE_VMEMORY"),
        ("0_101_1", "at most 100"),
        ("0_10_0", "leaves no memory"),
        ("0_10_101", "more than the whole card"),
        ("\x1b[2J" * 50, "is not SLOT_VCORE_VMEMORY"),
    ],
)
def test_a_profile_that_is_none_is_refused(text: str, reason: str) -> None:
    said = refusal({PROFILE: text})
    assert said.startswith(f"annotation {PROFILE}: ")
    assert reason in said


def test_visible_devices_are_had_whole() -> None:
    uuid = "MLU-20001012-1916-0000-0000-000000000000"
    request = wanted(environment={VISIBLE: f"0, 02,{uuid},0"})
    assert request.uuids == ("cambricon:0", "cambricon:2", uuid)
    assert (request.count, request.memory, request.cores) == (None, None, None)
    assert wanted(environment={VISIBLE: "all"}).uuids == ("cambricon:",)
    for nothing in ("", "none", "void"):
        assert read(environment={VISIBLE: nothing}) is None


@pytest.mark.parametrize("text", ["x", "0,,1", "mlu-0", "1" * 5, "0;1", ",".join("0" * 300)])
def test_visible_devices_that_are_none_are_refused(text: str) -> None:
    assert refusal(environment={VISIBLE: text}).startswith(f"environment {VISIBLE}: ")


def test_our_own_words_come_before_cambricons() -> None:
    request = wanted({"aliquot.dev/memory": "1GiB", PROFILE: "0_10_8"}, {VISIBLE: "1"})
    assert request.uuids == ()
    assert wanted({PROFILE: "0_10_8"}, {VISIBLE: "1"}).uuids == ("cambricon:0",)
    assert read({PROFILE: "0_10_8"}, {VISIBLE: "1"}, sources=(HAMI,)) is None


@pytest.mark.parametrize(
    ("annotations", "environment", "vendor"),
    [
        ({}, {"CUDA_DEVICE_MEMORY_LIMIT": "1g"}, "nvidia"),
        ({}, {"ASCEND_VISIBLE_DEVICES": "0"}, "ascend"),
        ({}, {"CAMBRICON_VISIBLE_DEVICES": "0"}, "cambricon"),
        ({"CAMBRICON_DSMLU_PROFILE": "0_25_10"}, {}, "cambricon"),
        ({"aliquot.dev/memory": "1GiB"}, {}, ""),
    ],
)
def test_the_words_of_a_vendors_tools_are_about_its_devices(
    annotations: dict[str, str], environment: dict[str, str], vendor: str
) -> None:
    request = requests.read(annotations, environment, "", Config())
    assert request is not None
    assert request.vendor == vendor
