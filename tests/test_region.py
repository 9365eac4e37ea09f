"""The region: one layout for C and Python, made whole or not at all, and read without trust."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.shim import region
from aliquot.shim._region import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st

from slots import Slot

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc/region/region.h"
GIB = 1 << 30
DEVICES = (
    region.RegionDevice(uuid=bytes(range(16)), cap=4 * GIB, page_bytes=2 << 20, context_bytes=7),
    region.RegionDevice(
        bytes(range(16, 32)), None, 1 << 16, 0, cores=30, by_driver=True, label="NPU-2-0-1"
    ),
)


def structs() -> list[Any]:
    """Return the types of all structs that the header defines."""
    names = re.findall(
        r"^struct (aliquot_\w+) \{", HEADER.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(names) == 8
    return [ffi.typeof(f"struct {name}") for name in names]


def test_python_and_c_agree_on_every_field(tmp_path: Path) -> None:
    """The header as it is, with its atomics, is compiled against the offsets that Python uses."""
    lines = [f'#include "{HEADER}"']
    for kind in structs():
        name = kind.cname
        lines.append(f'_Static_assert(sizeof({name}) == {ffi.sizeof(kind)}, "size");')
        for field, detail in kind.fields:
            size = ffi.sizeof(detail.type)
            lines.append(
                f"_Static_assert(offsetof({name}, {field}) == {detail.offset}"
                f' && sizeof((({name} *)0)->{field}) == {size}, "{field}");'
            )
    lines += [
        f'_Static_assert({constant} == {getattr(lib, constant)}ull, "value");'
        for constant in re.findall(r"#define (ALIQUOT_\w+) \.\.\.", _declarations())
    ]
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run(["gcc", "-std=gnu11", "-fsyntax-only", str(source)], check=True)


def test_python_names_every_byte_of_every_struct() -> None:
    for kind in structs():
        end = 0
        for _, detail in kind.fields:
            assert detail.offset == end
            end += ffi.sizeof(detail.type)
        assert end == ffi.sizeof(kind)


def test_python_knows_every_constant_of_the_layout() -> None:
    # Lock bytes are names that only C uses.
    text = HEADER.read_text(encoding="utf-8")
    defined = set(re.findall(r"^#define (ALIQUOT_(?!LOCK_|REGION_H)\w+) ", text, re.MULTILINE))
    assert set(re.findall(r"#define (ALIQUOT_\w+) \.\.\.", _declarations())) == defined


def _declarations() -> str:
    return (ROOT / "shim/_region.cdef").read_text(encoding="utf-8")


# -- Making --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An open folder without a region."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def files(folder: int, tmp_path: Path) -> Path:
    """A folder with a region of two devices."""
    region.create(folder, "a name", DEVICES)
    return tmp_path


def read_grant(folder: Path) -> region.Grant:
    with (folder / "grant").open("rb") as file:
        return region.read_grant(file.fileno(), "grant")


def read_usage(folder: Path, devices: int = 2) -> region.Usage:
    with (folder / "usage").open("rb") as file:
        return region.read_usage(file.fileno(), "usage", devices)


def test_readings_of_the_agent_reach_the_slice(files: Path) -> None:
    with (files / "grant").open("r+b") as file:
        region.write_readings(file.fileno(), 1, unclaimed=5, busy=0.25)
    grant = read_grant(files)
    assert [(d.unclaimed, d.busy, d.memory_busy) for d in grant.devices] == [
        (0, None, None),
        (5, 0.25, None),
    ]
    with (files / "grant").open("r+b") as file:
        region.write_readings(file.fileno(), 1, busy=7.0, memory_busy=0.5)
    assert [(d.unclaimed, d.busy, d.memory_busy) for d in read_grant(files).devices] == [
        (0, None, None),
        (5, 1.0, 0.5),
    ]


def test_what_was_made_is_what_is_read(files: Path) -> None:
    grant = read_grant(files)
    assert grant.name == "a name"
    assert grant.beat == 0
    assert [(d.uuid, d.cap, d.page_bytes, d.context_bytes, d.unclaimed) for d in grant.devices] == [
        (d.uuid, d.cap, d.page_bytes, d.context_bytes, 0) for d in DEVICES
    ]
    assert [(d.cores, d.by_driver, d.busy, d.memory_busy) for d in grant.devices] == [
        (100, False, None, None),
        (30, True, None, None),
    ]
    usage = read_usage(files)
    assert usage.processes == ()
    assert [(device.peak, device.refusals) for device in usage.devices] == [(0, 0), (0, 0)]
    assert sorted(path.name for path in files.iterdir()) == ["grant", "usage"]
    assert (files / "grant").stat().st_mode & 0o777 == 0o444
    assert (files / "usage").stat().st_mode & 0o777 == 0o666
    status = (files / "usage").stat()
    assert status.st_blocks * 512 >= status.st_size


def test_a_region_is_never_made_over_another(folder: int, files: Path) -> None:
    before = (files / "grant").read_bytes()
    with pytest.raises(FileExistsError):
        region.create(folder, "other", DEVICES)
    assert (files / "grant").read_bytes() == before
    assert sorted(path.name for path in files.iterdir()) == ["grant", "usage"]


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("x", ()),
        ("x", DEVICES[:1] * (region.MAX_DEVICES + 1)),
        ("x" * (region.MAX_NAME_BYTES + 1), DEVICES),
        ("x", (region.RegionDevice(bytes(16), 1, 3, 0),)),
        ("x", (region.RegionDevice(bytes(16), 1, 1 << 21, 0, cores=0),)),
        ("x", (region.RegionDevice(bytes(16), 1, 1 << 21, 0, cores=101),)),
        ("x", (region.RegionDevice(bytes(16), 1, 0, 0),)),
        ("x", (region.RegionDevice(bytes(16), 1, 1 << 41, 0),)),
    ],
)
def test_an_impossible_region_is_refused_and_leaves_nothing(
    folder: int, tmp_path: Path, name: str, devices: tuple[region.RegionDevice, ...]
) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        region.create(folder, name, devices)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_and_the_most_devices_fit(folder: int, tmp_path: Path) -> None:
    region.create(folder, "n" * region.MAX_NAME_BYTES, DEVICES[:1] * region.MAX_DEVICES)
    grant = read_grant(tmp_path)
    assert grant.name == "n" * region.MAX_NAME_BYTES
    assert len(grant.devices) == region.MAX_DEVICES


# -- Reading what may be anything ----------------------------------------------------------------


def _truncated(data: bytes) -> bytes:
    return data[:-1]


def _empty(data: bytes) -> bytes:
    return data[:0]


def _foreign(data: bytes) -> bytes:
    return b"\x7fELF" + data[4:]


def _other_abi(data: bytes) -> bytes:
    return data[:8] + struct.pack("=I", lib.ALIQUOT_REGION_ABI + 1) + data[12:]


def _other_size(data: bytes) -> bytes:
    return data[:12] + struct.pack("=I", 17) + data[16:]


@pytest.mark.parametrize("name", ["grant", "usage"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_truncated, "truncated"),
        (_empty, "truncated"),
        (_foreign, "not a region file"),
        (_other_abi, "another version"),
        (_other_size, "impossible size"),
    ],
)
def test_a_file_that_is_no_region_says_why_in_one_line(
    files: Path, name: str, spoil: Callable[[bytes], bytes], why: str
) -> None:
    path = files / name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(spoil(data))
    with pytest.raises(region.RegionError) as caught:
        read_grant(files) if name == "grant" else read_usage(files)
    assert str(caught.value).startswith(f"{name} ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (16, struct.pack("=I", 0), "number of devices"),
        (16, struct.pack("=I", 17), "number of devices"),
        (32, b"x" * 64, "name without an end"),
        (256 + 32, struct.pack("=Q", 3), "page size"),
        (256 + 32, struct.pack("=Q", 0), "page size"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(
    files: Path, offset: int, value: bytes, why: str
) -> None:
    data = bytearray((files / "grant").read_bytes())
    data[offset : offset + len(value)] = value
    (files / "grant").unlink()
    (files / "grant").write_bytes(data)
    with pytest.raises(region.RegionError, match=why):
        read_grant(files)


def test_only_living_processes_owe(files: Path) -> None:
    first, second = Slot(files / "usage", 0), Slot(files / "usage", 5, 78, b"other")
    first.charge(0, 100)
    second.charge(0, 20)
    second.charge(1, 3)
    usage = read_usage(files)
    assert [(p.slot, p.pid, p.command, p.charges) for p in usage.processes] == [
        (0, 77, "program", (100, 0)),
        (5, 78, "other", (20, 3)),
    ]
    assert [usage.charge(0), usage.charge(1)] == [120, 3]
    first.die()
    usage = read_usage(files)
    assert [usage.charge(0), usage.charge(1)] == [20, 3]
    second.die()
    assert read_usage(files).processes == ()


def test_waiting_for_the_end_wakes_when_the_last_process_goes(files: Path) -> None:
    slot = Slot(files / "usage", 1000)
    with (files / "usage").open("rb") as file:
        assert region.any_alive(file.fileno())
        reader, writer = os.pipe()
        waiter = os.fork()
        if not waiter:
            # The test's own description of the lock must not be the child's as well.
            slot.die()
            os.write(writer, b"waiting")
            region.wait_for_end(os.open(files / "usage", os.O_RDONLY))
            os._exit(0)
        os.read(reader, 7)
        assert os.waitpid(waiter, os.WNOHANG) == (0, 0)
        slot.die()
        assert os.waitpid(waiter, 0)[1] == 0
        assert not region.any_alive(file.fileno())
    os.close(reader)
    os.close(writer)


def test_a_usage_file_that_lies_is_read_within_bounds(files: Path) -> None:
    slot = Slot(files / "usage", 3, 2**32 - 1, b"\x1b[31mred\n\xff\xfe234567890")
    slot.charge(0, 2**64 - 1)
    with (files / "usage").open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("=I", 2**32 - 1), 16)
        os.pwrite(file.fileno(), b"\xff" * 16, 1024)
    usage = read_usage(files)
    (process,) = usage.processes
    assert process.pid == 2**32 - 1
    assert process.command.isprintable()
    assert usage.charge(0) < 2**63
    assert usage.devices[0].peak < 2**63
    slot.die()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=0, max_size=300), where=st.integers(16, 266240 - 300))
def test_whatever_a_slice_writes_it_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("usage")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    region.create(fd, "x", DEVICES)
    os.close(fd)
    slot = Slot(folder / "usage", 2)
    with (folder / "usage").open("r+b") as file:
        os.pwrite(file.fileno(), data, where)
    usage = read_usage(folder)
    assert all(0 <= usage.charge(device) < 2**63 for device in range(2))
    assert all(process.command.isprintable() for process in usage.processes)
    slot.die()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=0, max_size=200), where=st.integers(0, 4352 - 200))
def test_whatever_a_grant_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("grant")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    region.create(fd, "x", DEVICES)
    os.close(fd)
    content = bytearray((folder / "grant").read_bytes())
    content[where : where + len(data)] = data
    (folder / "grant").unlink()
    (folder / "grant").write_bytes(content)
    try:
        grant = read_grant(folder)
    except region.RegionError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either answer is right
    else:
        assert grant.name.isprintable()
        assert 1 <= len(grant.devices) <= region.MAX_DEVICES


def test_a_folder_in_a_files_place_is_no_traceback(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="directory"):
        region.read_usage(fd, "usage", 1)
    os.close(fd)
