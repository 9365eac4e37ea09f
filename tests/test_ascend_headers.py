"""What the table, the shim and the programs here say of AscendCL, its own headers say too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ascend_headers
import cuda_table
import nvidia_files
from ascend_headers import HEADERS, parameters, prototypes
from tenants import TESTS

ROOT = TESTS.parent
TABLE = ROOT / "csrc/ascend/functions.tsv"
OURS = ROOT / "csrc/ascend/runtime.h"

# What the shim and the simulator say again, and what the headers call it.
CONSTANTS = {
    "RT_OK": "ACL_SUCCESS",
    "RT_PARAM_INVALID": "ACL_ERROR_RT_PARAM_INVALID",
    "RT_INVALID_DEVICE": "ACL_ERROR_RT_INVALID_DEVICEID",
    "RT_CONTEXT_NULL": "ACL_ERROR_RT_CONTEXT_NULL",
    "RT_STREAM_MODEL": "ACL_ERROR_RT_STREAM_MODEL",
    "RT_STREAM_SUBSCRIBE": "ACL_ERROR_RT_STREAM_SUBSCRIBE",
    "RT_STREAM_NO_CALLBACK": "ACL_ERROR_RT_STREAM_NO_CB_REG",
    "RT_STREAM_CAPTURED": "ACL_ERROR_RT_STREAM_CAPTURED",
    "RT_STREAM_NOT_CAPTURED": "ACL_ERROR_RT_STREAM_NOT_CAPTURED",
    "RT_CAPTURE_NOT_SUPPORTED": "ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT",
    "RT_CAPTURE_UNJOINED": "ACL_ERROR_RT_STREAM_UNJOINED",
    "RT_CAPTURE_UNMATCHED": "ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED",
    "RT_CAPTURE_WRONG_THREAD": "ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD",
    "RT_FEATURE_NOT_SUPPORT": "ACL_ERROR_RT_FEATURE_NOT_SUPPORT",
    "RT_MEMORY_ALLOCATION": "ACL_ERROR_RT_MEMORY_ALLOCATION",
    "RT_NO_DEVICE": "ACL_ERROR_RT_NO_DEVICE",
    "RT_INTERNAL_ERROR": "ACL_ERROR_RT_INTERNAL_ERROR",
    "RT_STREAM_NOT_COMPLETE": "ACL_ERROR_RT_STREAM_NOT_COMPLETE",
    "RT_REPORT_TIMEOUT": "ACL_ERROR_RT_REPORT_TIMEOUT",
    "RT_DRV_INTERNAL_ERROR": "ACL_ERROR_RT_DRV_INTERNAL_ERROR",
    "RT_CAPTURE_INVALIDATED": "ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED",
    "RT_MALLOC_ATTR_DEVICE_ID": "ACL_RT_MEM_ATTR_DEVICE_ID",
    "ACL_MEM_LOCATION_TYPE_HOST": "ACL_MEM_LOCATION_TYPE_HOST",
    "ACL_MEM_LOCATION_TYPE_DEVICE": "ACL_MEM_LOCATION_TYPE_DEVICE",
    "RT_MEM_SHARE_HANDLE_DEFAULT": "ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT",
    "RT_MEM_SHARE_HANDLE_FABRIC": "ACL_MEM_SHARE_HANDLE_TYPE_FABRIC",
    "RT_MEM_FABRIC_BYTES": "sizeof(aclrtMemFabricHandle)",
    "RT_IPC_MEM_EXPORT_ANY_PROCESS": "ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION",
    "RT_VALUE_WAIT_GEQ": "ACL_STREAM_WAIT_VALUE_GEQ",
    "RT_VALUE_WAIT_EQ": "ACL_STREAM_WAIT_VALUE_EQ",
    "RT_VALUE_WAIT_AND": "ACL_STREAM_WAIT_VALUE_AND",
    "RT_VALUE_WAIT_NOR": "ACL_STREAM_WAIT_VALUE_NOR",
    "RT_CAPTURE_NONE": "ACL_MODEL_RI_CAPTURE_STATUS_NONE",
    "RT_CAPTURE_ACTIVE": "ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE",
    "RT_CAPTURE_MODE_GLOBAL": "ACL_MODEL_RI_CAPTURE_MODE_GLOBAL",
    "RT_CAPTURE_MODE_RELAXED": "ACL_MODEL_RI_CAPTURE_MODE_RELAXED",
    "RT_EVENT_INIT": "ACL_EVENT_RECORDED_STATUS_NOT_READY",
    "RT_EVENT_RECORDED": "ACL_EVENT_RECORDED_STATUS_COMPLETE",
    "RT_DEV_ATTR_AICORE_CORE_NUM": "ACL_DEV_ATTR_AICORE_CORE_NUM",
    "RT_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE": "ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE",
    "RT_MEM_POOL_RESERVED": "ACL_RT_MEM_POOL_ATTR_RESERVED_MEM_CURRENT",
    "RT_MEM_POOL_USED": "ACL_RT_MEM_POOL_ATTR_USED_MEM_CURRENT",
    "RT_MEM_POOL_USED_HIGH": "ACL_RT_MEM_POOL_ATTR_USED_MEM_HIGH",
}
# Constants of the runtime's own interface, below AscendCL, of which there are no public headers.
NOT_IN_THE_HEADERS = {
    "RT_MEM_HOST_SIDE": "where memory of rtDrvMemProp_t is",
    "RT_MEM_DEV_SIDE": "where memory of rtDrvMemProp_t is",
    **dict.fromkeys(
        (
            f"RT_CONTROL_{one}"
            for one in (
                *("COPY", "REDUCE", "FFTS_FLAG", "FFTS", "STARS", "STARS_FLAG"),
                *("MULTIPLE", "MULTIPLE_FLAG"),
            )
        ),
        "what rtGeneralCtrl is to do",
    ),
    "RT_MEM_INFO_LAST_SIZE": "which kinds of what rtMemGetInfoByType tells are sizes",
    "RT_IPC_NAME_BYTES": "how long names are, which programs ask for with a constant of their own",
}
# Functions that CANN's libraries have and its public headers have not.
HIDDEN = {
    "aclrtSetDeviceWithoutTsdVXX": "frameworks declare it themselves",
    "aclrtResetDeviceWithoutTsdVXX": "frameworks declare it themselves",
}
# Structures, by their names, with their members by both.
STRUCTURES = {
    ("aclrtPhysicalMemProp", "aclrtPhysicalMemProp"): {
        name: name
        for name in (
            *("handleType", "allocationType", "memAttr", "location", "location.id"),
            *("location.type", "reserve"),
        )
    },
    ("rtMallocConfig_t", "aclrtMallocConfig"): {"attrs": "attrs", "numAttrs": "numAttrs"},
    ("rtMallocAttribute_t", "aclrtMallocAttribute"): {"attr": "attr", "value": "value"},
    ("aclrtMemPoolProps", "aclrtMemPoolProps"): {
        name: name
        for name in (
            *("allocType", "handleType", "location", "location.id", "location.type"),
            *("maxSize", "reserved"),
        )
    },
    ("rtUuid_t", "aclrtUuid"): {"bytes": "bytes"},
    ("aclrtMemManagedLocation", "aclrtMemManagedLocation"): {"type": "type", "id": "id"},
}


@pytest.fixture(scope="session")
def headers() -> Path:
    """AscendCL's headers; skips the test where they cannot be had."""
    try:
        return ascend_headers.header_folder()
    except nvidia_files.UnreachableError as error:
        pytest.skip(str(error))


def test_every_function_of_the_headers_is_classified(headers: Path) -> None:
    functions = ascend_headers.declared(headers)
    assert len(functions) > 600
    classified = {row.function for row in cuda_table.read_table(TABLE)}
    assert sorted(functions - classified) == []
    # Nor is anything else said to be AscendCL's. (Those that end so are the runtime's, below it.)
    public = {name for name in classified if re.fullmatch(r"acl\w+(?<!Impl)", name)}
    assert public - functions == HIDDEN.keys()


def test_constants_and_structures_are_as_the_headers_have_them(
    headers: Path, tmp_path: Path
) -> None:
    enumerated = re.findall(
        r"\b((?:RT|ACL)_[A-Z_]+)\b(?=\s*(?:=|,|\}))",
        "".join(re.findall(r"\benum\s*\{(.*?)\}", OURS.read_text(), re.DOTALL)),
    )
    assert set(enumerated) - CONSTANTS.keys() == NOT_IN_THE_HEADERS.keys()
    pairs = list(CONSTANTS.items())
    for (ours, theirs), members in STRUCTURES.items():
        pairs.append((f"sizeof({ours})", f"sizeof({theirs})"))
        for one, other in members.items():
            pairs.append((f"offsetof({ours}, {one})", f"offsetof({theirs}, {other})"))
            size = "sizeof((({} *)0)->{})"
            pairs.append((size.format(ours, one), size.format(theirs, other)))
    mine = ascend_headers.values(
        tmp_path, [one for one, _ in pairs], ["ascend/runtime.h"], [ROOT / "csrc"]
    )
    real = ascend_headers.values(tmp_path, [other for _, other in pairs], HEADERS, [headers])
    assert {one: mine[one] for one, _ in pairs} == {one: real[other] for one, other in pairs}


def declared_by_programs() -> dict[str, dict[str, tuple[str, ...]]]:
    """AscendCL's functions as each program here declares them."""
    found = {}
    for path in sorted(TESTS.glob("*ascend*.c")):
        text = path.read_text()
        for name, inner in re.findall(r"^#define ([A-Z]+) (void\b[^\n(]*)$", text, re.MULTILINE):
            text = re.sub(rf"\b{name}(?=[,)])", inner, text)
        text = re.sub(r"\s*\\\n\s*", " ", text)
        lists = " ".join(re.findall(r"^#define (?:ACL|FUNCTIONS)\(X\)(.*)$", text, re.MULTILINE))
        declared = re.findall(r"\bX\(\s*(acl\w+),\s*\(((?:[^()]|\([^()]*\))*)\)\s*\)", lists)
        found[path.name] = {name: parameters(types) for name, types in declared}
    return found


def test_functions_take_what_the_headers_say(headers: Path, tmp_path: Path) -> None:
    real: dict[str, tuple[str, ...]] = {}
    for name in (*HEADERS, *(f"acl/acl_{part}.h" for part in ("rt", "op", "mdl", "base_rt"))):
        real |= prototypes((headers / name).read_text(encoding="utf-8"))
    assert len(real) > 400
    sizes = ascend_headers.values(
        tmp_path,
        sorted({f"sizeof({one})" for types in real.values() for one in types}),
        HEADERS,
        [headers],
    )
    shapes = ascend_headers.shapes(real, sizes)
    of_programs = declared_by_programs()
    mine = {
        "runtime.h": {
            name.removesuffix("Impl"): types
            for name, types in prototypes(OURS.read_text(), r"acl\w+Impl").items()
        },
        **of_programs,
    }
    checked, unknown, wrong = 0, set(), {}
    for where, functions in mine.items():
        known = ascend_headers.values(
            tmp_path,
            sorted({f"sizeof({one})" for types in functions.values() for one in types}),
            ["ascend/runtime.h"],
            [ROOT / "csrc"],
            # (What programs call theirs.)
            "struct place { uint32_t type, id; };",
        )
        for name, shape in ascend_headers.shapes(functions, known).items():
            if name not in shapes:
                unknown.add(name)
                continue
            # A pointer may be a handle, whose type does not tell; what is passed is as large.
            if [size for size, _ in shape] != [size for size, _ in shapes[name]]:
                wrong[where, name] = shape, shapes[name]
            checked += 1
    assert checked > 250
    assert wrong == {}, wrong
    assert unknown == HIDDEN.keys()
