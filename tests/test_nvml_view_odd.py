"""The view before other libraries than the simulator's: NVIDIA's own, old, with partitions."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aliquot.shim import region

from commands import TESTS
from cuda_headers import exports
from cuda_table import NVML_TABLE, read_table
from slices import lay_out, lay_out_management

MIB = 1 << 20
CAP = 512 * MIB
NOT_FOUND, INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND = 6, 7, 13
BINDINGS: tuple[dict[str, str], ...] = ({}, {"LD_BIND_NOW": "1"})

BEGIN = """
import ctypes, json
c = ctypes.CDLL("libnvidia-ml.so.1")
new = ctypes.c_void_p
def asked(name, *arguments, kind=ctypes.c_uint):
    found = kind()
    result = getattr(c, name)(*arguments, ctypes.byref(found))
    assert result == 0, (name, result)
    return found.value
"""


def see(library: Path, program: str, **environment: str) -> Any:
    """Run a program that finds ``library`` where NVML is, as ``c``; answers its ``seen``."""
    text = BEGIN + textwrap.dedent(program) + "\nprint(json.dumps(seen))\n"
    ran = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "LD_LIBRARY_PATH": str(library.parent), **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


@pytest.fixture
def before(
    shim_library: Path, nvml_shim: Path, tmp_path: Path
) -> Callable[[Path, Sequence[str]], Path]:
    """Lays the view out before a library, for a slice of devices that are called so."""

    def lay(nvml: Path, uuids: Sequence[str], cap: int | None = CAP) -> Path:
        devices = tuple(region.RegionDevice(bytes.fromhex(uuid), cap, 2 * MIB, 0) for uuid in uuids)
        cuda = lay_out(shim_library, shim_library, tmp_path / "slice", devices)
        return lay_out_management(nvml_shim, nvml, cuda.parent)

    return lay


# ---- A library that calls itself -----------------------------------------------------------------


@pytest.fixture(scope="module")
def self_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NVML that calls its own functions by their names."""
    path = tmp_path_factory.mktemp("self") / "libnvidia-ml.so.1"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command += ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", str(path), str(TESTS / "self_nvml.c")], check=True)
    relocations = subprocess.run(
        ["readelf", "-Wr", str(path)], check=True, capture_output=True, text=True
    ).stdout
    # Else this stand-in would show nothing.
    assert "nvmlDeviceGetCount_v2" in relocations
    return path


LAST = f"{3:08x}" + "0" * 24


@pytest.mark.parametrize("binding", BINDINGS, ids=["lazy", "now"])
def test_the_librarys_own_calls_pass_straight_through(
    before: Callable[..., Path], self_nvml: Path, binding: dict[str, str]
) -> None:
    seen = see(
        before(self_nvml, [LAST], None),
        """
        assert c.nvmlInit() == 0
        device = new(asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new))
        memory = (ctypes.c_ulonglong * 3)()
        assert c.nvmlDeviceGetMemoryInfo(device, memory) == 0
        seen = {
            "counts": [asked("nvmlDeviceGetCount"), asked("nvmlDeviceGetCount_v2")],
            "index": asked("nvmlDeviceGetIndex", device),
            "board": asked("nvmlDeviceGetBoardId", device),
            "memory": list(memory),
        }
        """,
        **binding,
    )
    assert seen["counts"] == [1, 1]
    assert seen["index"] == 0
    # It counts three devices, the last of which has number 2, and is the slice's.
    assert seen["board"] == 322
    assert seen["memory"] == [3 << 30, 1 << 30, 2 << 30]


def test_lists_of_a_node_have_the_slices_devices_only(
    before: Callable[..., Path], self_nvml: Path
) -> None:
    seen = see(
        before(self_nvml, [LAST]),
        """
        assert c.nvmlInit_v2() == 0
        device = asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new)
        def listed(call, name, room):
            count, rows = ctypes.c_uint(room), (new * 4)()
            result = call(name, ctypes.byref(count), rows if room else None)
            return [result, count.value, [rows[i] == device for i in range(room)]]
        seen = [[listed(call, 0, room) for room in (0, 1, 3)]
                for call in (c.nvmlSystemGetTopologyGpuSet, c.nvmlUnitGetDevices)]
        """,
    )
    filled = [[0, 1, [True]], [0, 1, [True, False, False]]]
    assert seen == [[[0, 1, []], *filled], [[INSUFFICIENT_SIZE, 1, []], *filled]]


def test_accounts_of_the_node_are_nobodys_in_a_slice(
    before: Callable[..., Path], self_nvml: Path
) -> None:
    seen = see(
        before(self_nvml, [LAST]),
        """
        assert c.nvmlInit_v2() == 0
        device = new(asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new))
        stats = (ctypes.c_ubyte * 56)()
        seen = [c.nvmlDeviceGetAccountingStats(device, 1, stats), sum(stats)]
        """,
    )
    assert seen == [NOT_FOUND, 0]


def test_sessions_of_the_node_are_nobodys_and_protected_memory_is_the_slices(
    before: Callable[..., Path], self_nvml: Path
) -> None:
    seen = see(
        before(self_nvml, [LAST]),
        """
        assert c.nvmlInit_v2() == 0
        device = new(asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new))
        def listed(call, room):
            count, rows = ctypes.c_uint(room), (ctypes.c_uint * 64)()
            result = call(device, ctypes.byref(count), rows if room else None)
            return [result, count.value, sum(rows)]
        memory = (ctypes.c_ulonglong * 3)()
        assert c.nvmlDeviceGetConfComputeProtectedMemoryUsage(device, memory) == 0
        seen = [[listed(call, room) for call in (c.nvmlDeviceGetEncoderSessions,
                 c.nvmlDeviceGetFBCSessions) for room in (0, 1)], list(memory)]
        """,
    )
    assert seen == [[[0, 0, 0]] * 4, [CAP, CAP, 0]]


def test_what_an_old_library_lacks_is_not_found(
    before: Callable[..., Path], self_nvml: Path
) -> None:
    seen = see(
        before(self_nvml, [LAST]),
        """
        early = c.nvmlDeviceGetMemoryInfo_v2
        assert c.nvmlInit_v2() == 0
        device = new(asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new))
        memory, count = (ctypes.c_ulonglong * 5)(), ctypes.c_uint(1)
        seen = [early(device, memory), hasattr(c, "nvmlDeviceGetComputeRunningProcesses_v3"),
                c.nvmlDeviceGetComputeRunningProcesses(device, ctypes.byref(count), memory),
                count.value, hasattr(c, "nvmlDeviceGetMemoryInfo")]
        """,
    )
    assert seen == [FUNCTION_NOT_FOUND, False, 0, 0, True]


# ---- Lost devices --------------------------------------------------------------------------------

CARDS = ("1a" * 16, "1b" * 16)  # of odd_nvml.c
LOST = 15
ASK_PLACES = """
assert c.nvmlInit_v2() == 0
def place(index):
    device, uuid = new(), ctypes.create_string_buffer(96)
    result = c.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
    if result:
        return result
    assert c.nvmlDeviceGetUUID(device, uuid, 96) == 0
    return [uuid.value.decode()[4:8], asked("nvmlDeviceGetIndex", device)]
count = asked("nvmlDeviceGetCount_v2")
seen = [place(index) for index in range(count)]
assert place(count) == 2
"""


@pytest.mark.parametrize(
    ("own", "trouble", "places"),
    [
        # Its number is still its own, and those after it keep theirs.
        (CARDS, "DeviceGetHandleByIndex@0=15", [LOST, ["1b1b", 1]]),
        (CARDS, "DeviceGetUUID@0=15", [LOST, ["1b1b", 1]]),
        (CARDS, "DeviceGetHandleByIndex@1=999", [["1a1a", 0], 999]),
        (CARDS[:1], "DeviceGetHandleByIndex@0=15", [LOST]),
        # All of the slice's are there: what is lost is somebody else's.
        (CARDS[1:], "DeviceGetHandleByIndex@0=15", [["1b1b", 0]]),
        # What a container may not use was never its own.
        (CARDS[1:], "DeviceGetHandleByIndex@0=4", [["1b1b", 0]]),
        # The card of a partition of the slice's.
        (["00000002" + "0" * 24], "mig=0 DeviceGetHandleByIndex@0=15", [LOST]),
    ],
    ids=["first", "unnamed", "last", "only", "other's", "forbidden", "card"],
)
def test_a_lost_device_keeps_its_number_if_it_is_the_slices(
    before: Callable[..., Path],
    odd_nvml: Path,
    tmp_path: Path,
    own: Sequence[str],
    trouble: str,
    places: list[Any],
) -> None:
    told = tmp_path / "told"
    told.write_text(trouble)
    view = before(odd_nvml / "libnvidia-ml.so.999.1", own)
    assert see(view, ASK_PLACES, ODD_NVML=str(told)) == places


@pytest.mark.parametrize(
    "call",
    ["nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID"],
)
def test_before_it_begins_the_view_says_what_nvml_says(
    before: Callable[..., Path], odd_nvml: Path, call: str
) -> None:
    arguments = {"nvmlDeviceGetHandleByIndex_v2": "0, ", "nvmlDeviceGetHandleByUUID": "b'GPU-', "}
    seen = see(
        before(odd_nvml / "libnvidia-ml.so.999.1", CARDS),
        f"""
        out = (ctypes.c_ubyte * 64)()
        early = c.{call}({arguments.get(call, "")}out)
        assert c.nvmlInit_v2() == 0 and c.nvmlShutdown() == 0
        seen = [early, c.{call}({arguments.get(call, "")}out), sum(out)]
        """,
    )
    # (The stand-in looks a name up before it looks whether it has begun.)
    error = NOT_FOUND if "UUID" in call else 1
    assert seen == [error, error, 0]


# ---- Partitions ----------------------------------------------------------------------------------

PARTS = ("00000001" + "0" * 24, "00000002" + "0" * 24)  # of card 0, as odd_nvml.c has them


@contextmanager
def _member(usage: Path, charge: int) -> Iterator[int]:
    """Be a process of the slice, in its first slot, that holds so much of its first device."""
    with usage.open("r+b") as file:
        fd = file.fileno()
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        for offset, kind, value in ((16, "I", 1), (4096, "Q", charge), (135168, "I", os.getpid())):
            os.pwrite(fd, struct.pack(kind, value), offset)
        yield os.getpid()


def test_a_partition_shows_its_card_and_no_other_partition(
    before: Callable[..., Path], odd_nvml: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    told.write_text("mig=0")
    view = before(odd_nvml / "libnvidia-ml.so.999.1", [PARTS[1]])
    program = """
        assert c.nvmlInit_v2() == 0
        card = asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new)
        def place(index):
            found = new()
            result = c.nvmlDeviceGetMigDeviceHandleByIndex(new(card), index, ctypes.byref(found))
            return [result, found.value]
        other, own = place(0), place(1)
        memory = (ctypes.c_ulonglong * 3)()
        assert c.nvmlDeviceGetMemoryInfo(new(own[1]), memory) == 0
        names = [b"MIG-0000000%d-0000-0000-0000-000000000000" % n for n in (1, 2)]
        by_name = [c.nvmlDeviceGetHandleByUUID(name, ctypes.byref(new())) for name in names]
        uuid = ctypes.create_string_buffer(96)
        assert c.nvmlDeviceGetUUID(new(card), uuid, 96) == 0
        seen = [asked("nvmlDeviceGetCount_v2"), uuid.value.decode()[:12], other, own[0],
                memory[0], by_name]
        """
    seen = see(view, program, ODD_NVML=str(told))
    assert seen == [1, "GPU-1a1a1a1a", [NOT_FOUND, None], 0, CAP, [NOT_FOUND, 0]]

    # Processes of a partition say which it is, and the card lists its partitions'.
    usage = view.parent / ".aliquot/usage"
    with _member(usage, 40 * MIB) as pid:
        rows = see(
            view,
            """
            assert c.nvmlInit_v2() == 0
            card = asked("nvmlDeviceGetHandleByIndex_v2", 0, kind=new)
            own = asked("nvmlDeviceGetMigDeviceHandleByIndex", new(card), 1, kind=new)
            seen = []
            for device in (own, card):
                count, row = ctypes.c_uint(1), (ctypes.c_uint * 6)()
                result = c.nvmlDeviceGetComputeRunningProcesses_v3(
                    new(device), ctypes.byref(count), row)
                seen.append([result, count.value, row[0], row[2], row[4], row[5]])
            """,
            ODD_NVML=str(told),
        )
    assert rows == [[0, 1, pid, 40 * MIB, 8, 0]] * 2


# ---- NVIDIA's own --------------------------------------------------------------------------------

ASK_ALL = """
c.nvmlErrorString.restype = ctypes.c_char_p
text, value = ctypes.create_string_buffer(96), ctypes.c_uint()
seen = {
    "found": [name for name in names if hasattr(c, name)],
    "begin": [c.nvmlInit(), c.nvmlInit_v2(), c.nvmlInitWithFlags(0)],
    "again": [name for name in names if hasattr(ctypes.CDLL("libnvidia-ml.so.1"), name)],
    "count": c.nvmlDeviceGetCount_v2(ctypes.byref(value)),
    "handle": c.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(new())),
    "version": [c.nvmlSystemGetNVMLVersion(text, 96), text.value.decode()],
    "error": c.nvmlErrorString(9).decode(),
    "end": c.nvmlShutdown(),
}
"""


@pytest.mark.parametrize("binding", BINDINGS, ids=["lazy", "now"])
@pytest.mark.parametrize("version", ["535", "550"])
def test_before_nvidias_own_nvml_the_view_changes_nothing_that_is_no_slices(
    before: Callable[..., Path],
    real_nvml: Callable[[str], Path],
    version: str,
    binding: dict[str, str],
) -> None:
    real = (real_nvml(version) / "libnvidia-ml.so.1").resolve()
    names = sorted({s.name for row in read_table(NVML_TABLE) for s in row.symbols})
    program = f"names = {names!r}\n{ASK_ALL}"
    bare = see(real_nvml(version) / "libnvidia-ml.so.1", program, **binding)
    seen = see(before(real, ["00" * 16]), program, **binding)
    assert set(bare["found"]) == exports(real).keys()
    # Before the library is known, the view has what it wraps; then it has what the library has.
    assert set(bare["found"]) <= set(seen["found"])
    assert seen.pop("again") == bare.pop("again") == bare["found"]
    seen.pop("found"), bare.pop("found")
    assert seen == bare
