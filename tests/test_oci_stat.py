"""``aliquot-stat`` shows a container its own slice, whatever its files say."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import time
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
    "NPU-2-0-1",
)
MIB, GIB = 1 << 20, 1 << 30
USAGE = "struct aliquot_usage"
GATES = {"free": 0, "open": 1, "turn": 2, "closed": 3}


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
        region.RegionDevice(
            UUIDS[0],
            4 * GIB,
            2 * MIB,
            0,
            cores=80,
            cores_min=30,
            weight=250,
            priority=-5,
            shared=True,
        ),
        region.RegionDevice(UUIDS[1], None, 2 * MIB, 0, by_driver=True, label=NAMES[1]),
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


def write_grant(folder: Path, *path: str | int, value: int, size: int = 4) -> None:
    where = int(ffi.offsetof("struct aliquot_grant", *path))
    write(folder, "grant", where, value.to_bytes(size, "little"))
    # Lately, however long the test takes from here.
    os.utime(folder / "grant", (2**32, 2**32))


def write_gate(folder: Path, device: int, state: str, others: int = 0, turn_us: int = 0) -> None:
    """Write the gate of a device, and that an agent lives."""
    word = turn_us << 32 | 5 << 6 | others << 2 | GATES[state]
    write_grant(folder, "device", device, "gate", value=word, size=8)
    write_grant(folder, "beat", value=7, size=8)


def write_time(folder: Path, device: int, *figures: int) -> None:
    """Write charged_until_ns, device_ns, allowed_ns, wait_ns, waits, reserved0, let_through."""
    write(folder, "usage", offset("time", device), struct.pack(f"<{len(figures)}Q", *figures))


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
    write_gate(folder, 0, "turn", others=1, turn_us=2400)
    write_grant(folder, "device", 0, "wanted_permille", value=400)
    write_grant(folder, "device", 0, "received_permille", value=296)
    write_time(folder, 0, 0, 93_600_000_000, 0, 1_500_000_000, 3, 1, 2)
    with process(folder, 0, 41, b"trainer", GIB, 2 * MIB), process(folder, 2, 7, b"x", 512 * MIB):
        shown = stat(folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        f"{'DEVICE':40}  PROCESS           USED      CAP     PEAK  REFUSALS",
        f"{NAMES[0]}  2 processes    1.5 GiB  4.0 GiB  3.0 GiB         7",
        "                                          41 trainer     1.0 GiB",
        "                                          7 x          512.0 MiB",
        "                                          nobody's       3.0 MiB",
        f"{NAMES[1]:40}  2 processes    2.0 MiB     none  0.0 MiB         0",
        "                                          41 trainer     2.0 MiB",
        "                                          7 x            0.0 MiB",
        "",
        f"{'DEVICE':40}   CORES   SHARE  BUSY     TIME    WAIT  WEIGHT  PRIORITY  GATE",
        (
            f"{NAMES[0]}  30-80%  30/40%   26%  1.6 min   1.5 s     250        -5"
            "  turn: it has it for 2.4 ms, with 1 more"
        ),
        (
            f"{NAMES[1]:40}  0-100%       -     -   0.0 ms  0.0 ms     100         0"
            "  free: nobody else is there"
        ),
    ]


@pytest.mark.parametrize(
    ("state", "others", "words"),
    [
        ("free", 0, "free: nobody else is there"),
        ("open", 0, "open: nobody else wants it"),
        ("open", 15, "open: nobody else wants it, with 15 more"),
        ("closed", 3, "closed: others have it"),
    ],
)
def test_a_gate_in_words(folder: Path, state: str, others: int, words: str) -> None:
    write_gate(folder, 0, state, others)
    shown = stat(folder).stdout.splitlines()
    assert shown[-2].endswith(f"  {words}")
    told = as_json(folder)
    assert told["agent"] is True
    assert (told["devices"][0]["gate"], told["devices"][0]["others"]) == (state, others)


def test_without_an_agent_only_its_own_cap_holds_it(folder: Path) -> None:
    shown = stat(folder).stdout.splitlines()
    assert shown[-2].endswith("  no agent: only its own 80% hold it")
    assert shown[-1].endswith("  no agent: nothing waits")
    assert as_json(folder)["agent"] is False


@pytest.mark.parametrize("seconds_ago", [3, 10**9, None])
def test_an_agent_that_wrote_nothing_for_long_is_dead(
    folder: Path, seconds_ago: int | None
) -> None:
    write_gate(folder, 0, "closed")
    assert as_json(folder)["agent"] is True
    when = -(2**40) if seconds_ago is None else time.time() - seconds_ago
    os.utime(folder / "grant", (when, when))
    assert stat(folder).stdout.splitlines()[-2].endswith("  no agent: only its own 80% hold it")
    told = as_json(folder)
    assert told["agent"] is False
    assert told["devices"][0]["gate"] == "closed"


def test_json(folder: Path) -> None:
    with (folder / "grant").open("r+b") as grant:
        region.write_readings(grant.fileno(), 0, unclaimed=5, busy=0.25, memory_busy=1.0)
    write(folder, "usage", offset("device", 1), struct.pack("<QQ", GIB, 1 << 63))
    write_gate(folder, 0, "closed")
    write_grant(folder, "device", 0, "wanted_permille", value=1000)
    write_grant(folder, "device", 0, "received_permille", value=7)
    write_time(folder, 0, 1, 2_000_000_003, 4, 5, 6, 7, 8)
    with process(folder, 1, 9, b'say "\\"', 17, 4):
        shown = as_json(folder)
    assert shown == {
        "slice": "ns/pod/container",
        "agent": True,
        "devices": [
            {
                "uuid": NAMES[0],
                "used_bytes": 17,
                "cap_bytes": 4 * GIB,
                "unclaimed_bytes": 5,
                "peak_bytes": 0,
                "refusals": 0,
                "cores": 30,
                "cores_max": 80,
                "weight": 250,
                "priority": -5,
                "gate": "closed",
                "others": 0,
                "wanted": 1.0,
                "received": 0.007,
                "busy": 0.25,
                "memory_busy": 1.0,
                "device_seconds": 2.000000003,
                "wait_seconds": 0.000000005,
                "waits": 6,
                "let_through": 8,
                "enforcement": "shim",
            },
            {
                "uuid": NAMES[1],
                "used_bytes": 4,
                "cap_bytes": None,
                "unclaimed_bytes": 0,
                "peak_bytes": GIB,
                "refusals": 1 << 63,
                "cores": 0,
                "cores_max": 100,
                "weight": 100,
                "priority": 0,
                "gate": "free",
                "others": 0,
                "wanted": None,
                "received": None,
                "busy": None,
                "memory_busy": None,
                "device_seconds": 0,
                "wait_seconds": 0,
                "waits": 0,
                "let_through": 0,
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


def test_it_agrees_with_the_agents_reader_of_time(folder: Path) -> None:
    write_gate(folder, 0, "open")
    write_gate(folder, 1, "turn", turn_us=400)
    write_time(folder, 1, 1, 2_000_000_000, 3, 4_000_000_000, 5, 6, 7)
    shown = as_json(folder)["devices"]
    with (folder / "grant").open("rb") as grant, (folder / "usage").open("rb") as usage:
        granted = region.read_grant(grant.fileno(), "grant").devices
        used = region.read_usage(usage.fileno(), "usage", 2).devices
        gates = [region.read_gate(grant.fileno(), number) for number in (0, 1)]
    for one, promise, use, gate in zip(shown, granted, used, gates, strict=True):
        assert one["cores"] == promise.cores_min
        assert one["cores_max"] == promise.cores
        assert (one["weight"], one["priority"]) == (promise.weight, promise.priority)
        assert one["gate"] == promise.gate == gate
        assert one["device_seconds"] * 1e9 == use.device_ns
        assert one["wait_seconds"] * 1e9 == use.wait_ns
        assert one["waits"] == use.waits
        assert one["let_through"] == use.let_through


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
    assert shown["devices"][0]["waits"] == 2**64 - 1
    assert shown["devices"][0]["device_seconds"] == pytest.approx(2**64 / 1e9)
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
