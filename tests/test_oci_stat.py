"""``aliquot-stat`` shows a container its own slice, whatever its files say."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aliquot.shim import region
from aliquot.shim._region import ffi

from oci import one_line, program

UUIDS = (bytes(range(16)), bytes(range(16, 32)))
NAMES = (
    "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
    "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f",
)
MIB, GIB = 1 << 20, 1 << 30
USAGE = "struct aliquot_usage"
HEAD = "DEVICE                                    PROCESS           USED      CAP     PEAK"
HEAD += "  REFUSALS  CORES  BUSY"


def stat(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("aliquot-stat"), "--region", str(folder), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={},
    )


def as_json(folder: Path) -> dict[str, Any]:
    result = stat(folder, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A slice of two devices, the second without a cap."""
    devices = [
        region.RegionDevice(UUIDS[0], 4 * GIB, 2 * MIB, 0, cores=30),
        region.RegionDevice(UUIDS[1], None, 2 * MIB, 0, by_driver=True),
    ]
    dirfd = os.open(tmp_path, os.O_RDONLY)
    region.create(dirfd, "ns/pod/container", devices)
    os.close(dirfd)
    return tmp_path


def write(folder: Path, file: str, offset: int, data: bytes) -> None:
    (folder / file).chmod(0o666)
    with (folder / file).open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def offset(*path: str | int) -> int:
    return int(ffi.offsetof(USAGE, *path))


@contextmanager
def process(folder: Path, slot: int, pid: int, command: bytes, *charges: int) -> Iterator[None]:
    """A slot that looks as a living process' does."""
    write(folder, "usage", offset("high_water"), struct.pack("<I", slot + 1))
    write(folder, "usage", offset("slot", slot), struct.pack("<II", pid, 0))
    write(folder, "usage", offset("slot", slot, "command"), command.ljust(16, b"\0")[:16])
    for device, charge in enumerate(charges):
        write(folder, "usage", offset("charge", device, slot), struct.pack("<Q", charge))
    with (folder / "usage").open("r+b") as opened:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0)
        fcntl.fcntl(opened.fileno(), fcntl.F_OFD_SETLK, lock)
        yield


def test_table(folder: Path) -> None:
    with (folder / "grant").open("r+b") as grant:
        region.write_readings(grant.fileno(), 0, unclaimed=3 * MIB, busy=0.256)
    write(folder, "usage", offset("device", 0), struct.pack("<QQ", 3 * GIB, 7))
    with process(folder, 0, 41, b"trainer", GIB, 2 * MIB), process(folder, 2, 7, b"x", 512 * MIB):
        shown = stat(folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        HEAD,
        f"{NAMES[0]}  2 processes    1.5 GiB  4.0 GiB  3.0 GiB         7    30%   26%",
        "                                          41 trainer     1.0 GiB",
        "                                          7 x          512.0 MiB",
        "                                          nobody's       3.0 MiB",
        f"{NAMES[1]}  2 processes    2.0 MiB     none  0.0 MiB         0   100%     -",
        "                                          41 trainer     2.0 MiB",
        "                                          7 x            0.0 MiB",
    ]


def test_json(folder: Path) -> None:
    with (folder / "grant").open("r+b") as grant:
        region.write_readings(grant.fileno(), 0, unclaimed=5, busy=0.25, memory_busy=1.0)
    write(folder, "usage", offset("device", 1), struct.pack("<QQ", GIB, 1 << 63))
    with process(folder, 1, 9, b'say "\\"', 17, 4):
        shown = as_json(folder)
    assert shown == {
        "slice": "ns/pod/container",
        "devices": [
            {
                "uuid": NAMES[0],
                "used_bytes": 17,
                "cap_bytes": 4 * GIB,
                "unclaimed_bytes": 5,
                "peak_bytes": 0,
                "refusals": 0,
                "cores": 30,
                "busy": 0.25,
                "memory_busy": 1.0,
                "enforcement": "shim",
            },
            {
                "uuid": NAMES[1],
                "used_bytes": 4,
                "cap_bytes": None,
                "unclaimed_bytes": 0,
                "peak_bytes": GIB,
                "refusals": 1 << 63,
                "cores": 100,
                "busy": None,
                "memory_busy": None,
                "enforcement": "driver",
            },
        ],
        "processes": [{"pid": 9, "command": 'say "\\"', "charges_bytes": [17, 4]}],
    }


def test_the_dead_owe_nothing(folder: Path) -> None:
    with process(folder, 0, 1, b"dead", GIB):
        assert as_json(folder)["devices"][0]["used_bytes"] == GIB
    shown = as_json(folder)
    assert shown["devices"][0]["used_bytes"] == 0
    assert shown["processes"] == []


def test_it_agrees_with_the_agents_reader(folder: Path) -> None:
    with process(folder, 3, 12, b"a", 5 * MIB, 6), process(folder, 4, 13, b"b", 7 * MIB):
        shown = as_json(folder)
        with (folder / "usage").open("rb") as usage:
            read = region.read_usage(usage.fileno(), "usage", 2)
    assert [entry["used_bytes"] for entry in shown["devices"]] == [read.charge(0), read.charge(1)]
    assert [entry["pid"] for entry in shown["processes"]] == [row.pid for row in read.processes]


def test_scribbles_are_shown_for_what_they_are(folder: Path) -> None:
    write(folder, "usage", 16, b"\xff" * ((folder / "usage").stat().st_size - 16))
    with (folder / "usage").open("r+b") as opened:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, region.MAX_SLOTS, 0)
        fcntl.fcntl(opened.fileno(), fcntl.F_OFD_SETLK, lock)
        shown = as_json(folder)
        table = stat(folder)
    assert len(shown["processes"]) == region.MAX_SLOTS
    assert shown["processes"][0]["command"] == "?" * 16
    assert shown["devices"][0]["used_bytes"] == region.MAX_SLOTS << 53
    assert table.returncode == 0
    assert all(line.isprintable() for line in table.stdout.splitlines())


def test_commands_do_not_move_the_cursor(folder: Path) -> None:
    with process(folder, 0, 1, b"\x1b[2J\r\n\xff\xc3\xbc\xc2\x9b", 1):
        shown = stat(folder)
        assert as_json(folder)["processes"][0]["command"] == "?[2J???ü??"
    assert all(line.isprintable() for line in shown.stdout.splitlines())


@pytest.mark.parametrize(
    ("file", "size", "why"),
    [
        ("usage", 0, "is truncated"),
        ("usage", 4096, "is truncated"),
        ("grant", 8, "is truncated"),
    ],
)
def test_a_cut_file_is_refused(folder: Path, file: str, size: int, why: str) -> None:
    (folder / file).chmod(0o666)
    os.truncate(folder / file, size)
    result = stat(folder)
    assert result.returncode == 1
    assert one_line(result, "aliquot-stat") == f"aliquot-stat: {folder}/{file} {why}"


def test_what_is_no_region_is_refused(folder: Path, tmp_path: Path) -> None:
    write(folder, "usage", 0, b"x")
    assert "is not a region file" in one_line(stat(folder), "aliquot-stat")
    (folder / "usage").unlink()
    os.mkfifo(folder / "usage")
    assert "usage is truncated" in one_line(stat(folder), "aliquot-stat")
    (folder / "grant").unlink()
    (folder / "grant").mkdir()
    assert "grant is truncated" in one_line(stat(folder), "aliquot-stat")
    result = stat(tmp_path / "missing")
    assert result.returncode == 1
    assert "this container has no slice" in one_line(result, "aliquot-stat")


def test_options() -> None:
    own = program("aliquot-stat")
    shown = subprocess.run([own, "--help"], check=False, capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: aliquot-stat ")
    for wrong in (["--nosuch"], ["--region"], ["x"]):
        result = subprocess.run([own, *wrong], check=False, capture_output=True, text=True)
        assert result.returncode == 2
        assert f"'{wrong[0]}'" in one_line(result, "aliquot-stat")


def test_a_full_disk_is_told(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [program("aliquot-stat"), f"--region={folder}"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert "No space left" in one_line(result, "aliquot-stat")
