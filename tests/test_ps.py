"""``aliquot ps``: every slice there is, what it holds, and one line for what cannot be read."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import rundir
from aliquot.agent.devices import DeviceProcess
from aliquot.agent.sharing import Account
from aliquot.agent.slices import Container
from aliquot.shim import region

from commands import ALIQUOT, TESTS, Desk, desk, odd_driver, one_line, wait_for
from reading_parts import ACCOUNT, NOBODY, Board, Node, device, part, reachable, served
from slots import Slot, write_figures, write_time

HOLDER = str(TESTS / "holder.py")
MIB = 1 << 20
GIB = 1 << 30
# What there is to say of the time of a run that has the device for itself.
NO_TIME: dict[str, Any] = {
    "cores": 0,
    "cores_max": 100,
    "weight": 100,
    "priority": 0,
    "gate": "free",
    "busy": None,
    "device_seconds": 0,
    "wait_seconds": 0,
    "waits": 0,
    "let_through": 0,
    **dict.fromkeys(one.name for one in fields(Account)),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver of two devices."""
    return odd_driver(tmp_path_factory.mktemp("odd") / "driver")


@pytest.fixture
def here(driver: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """A desk with that driver."""
    return desk(driver, shim_library, tmp_path)


@contextmanager
def holding(here: Desk, *options: str, program: tuple[str, ...]) -> Iterator[None]:
    """Run a program that holds memory, for as long as the block lasts."""
    command = [*options, "--", sys.executable, *program]
    with here.start("run", *command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        while running.stdout.readline() != "holding\n":
            assert running.poll() is None
        try:
            yield
        finally:
            running.communicate("")


@contextmanager
def made_by_hand(here: Desk, name: str, meta: dict[str, Any] | None = None) -> Iterator[Path]:
    """A slice without a program: its run directory, with the locks held."""
    here.runtime.mkdir(mode=0o700, exist_ok=True)
    run = rundir.create(here.runtime, name)
    run.region_folder.mkdir(parents=True)
    fd = os.open(run.region_folder, os.O_RDONLY)
    region.create(fd, name, [region.RegionDevice(bytes(16), 4 * GIB, 2 * MIB, 0)])
    os.close(fd)
    if meta is not None:
        rundir.write_meta(run, meta)
    yield run.path
    rundir.remove_if_ended(run)


def test_nothing_is_a_table_without_lines_and_an_empty_list(here: Desk) -> None:
    shown = here.run("ps")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.split() == (
        ["SLICE", "DEVICE", "MODEL", "PROCESS", "CHARGE", "CAP", "PEAK", "REFUSALS", "CORES",
         "STATE"]
    )  # fmt: skip
    assert json.loads(here.run("ps", "--json").stdout) == {"slices": [], "faults": []}
    assert not here.runtime.exists()


def test_it_shows_what_each_slice_and_process_holds(here: Desk) -> None:
    two = ["--name", "two", "--memory", "0=4GiB,1=25%"]
    with (
        holding(here, "--name", "one", "--memory", "1GiB", "--device", "0",
                program=(HOLDER, "libcuda.so.1", "600", "500", "100")),
        holding(here, *two, program=(HOLDER, "libcuda.so.1", "2048")),
    ):  # fmt: skip
        one, other = here.slices()
        assert (one["name"], one["state"], other["name"]) == ("one", "running", "two")
        assert one["command"][1:] == [HOLDER, "libcuda.so.1", "600", "500", "100"]
        (device,) = one["devices"]
        context = device["charge_bytes"] - 700 * MIB
        assert 0 <= context < 4 * MIB
        assert device == {
            "index": 0,
            "uuid": "GPU-1a1a1a1a-1a1a-1a1a-1a1a-1a1a1a1a1a1a",
            "model": "Odd 0",
            "charge_bytes": 700 * MIB + context,
            "unclaimed_bytes": 0,
            "unseen_bytes": 0,
            "cap_bytes": GIB,
            "peak_bytes": 700 * MIB + context,
            "refusals": 1,
            "enforcement": "shim",
            "partition": None,
            **NO_TIME,
        }
        owner = ("kind", "namespace", "pod", "container", "container_id")
        assert [one[key] for key in owner] == ["run", None, None, None, None]
        (process,) = one["processes"]
        assert process["charge_bytes"] == [device["charge_bytes"]]
        assert Path(f"/proc/{process['pid']}/comm").read_text().strip() == process["command"]
        assert [d["cap_bytes"] for d in other["devices"]] == [4 * GIB, 8 * GIB]
        lines = here.run("ps").stdout.splitlines()
    assert re.fullmatch(
        r"one +0 GPU-1a1a1a1a +Odd 0 +1 process +70\d\.\d MiB +1\.0 GiB +70\d\.\d MiB +1"
        r" +0-100% +running",
        lines[1],
    )
    assert re.fullmatch(rf" +{process['pid']} {process['command']} +70\d\.\d MiB", lines[2])
    assert re.match(r"two +0 GPU-1a1a1a1a +Odd 0 +1 process +2\.0 GiB +4\.0 GiB", lines[3])
    assert re.match(r" +1 GPU-1b1b1b1b +Odd 1 +1 process +0\.0 MiB +8\.0 GiB", lines[5])
    # Every column begins or ends where its head does.
    assert len({line.index("GiB") for line in (lines[3], lines[5])} | {lines[5].index("GiB")}) < 3
    wait_for(lambda: here.left_behind() == [], "the end of both")


def test_several_processes_of_a_slice_are_summed(here: Desk) -> None:
    script = f"""
import subprocess, sys
options = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
command = [sys.executable, {HOLDER!r}, "libcuda.so.1", "100"]
children = [subprocess.Popen(command, **options) for _ in range(3)]
for child in children:
    assert "holding\\n" in iter(child.stdout.readline, "")
print("holding", flush=True)
sys.stdin.read()
for child in children:
    child.communicate("")
"""
    with holding(here, "--memory", "1GiB", "--device", "0", program=("-c", script)):
        (piece,) = here.slices()
        assert len(piece["processes"]) == 3
        charges = [process["charge_bytes"][0] for process in piece["processes"]]
        assert sum(charges) == piece["devices"][0]["charge_bytes"]
        assert min(charges) >= 100 * MIB


def test_a_slice_that_has_ended_is_shown_once_and_removed(here: Desk) -> None:
    with made_by_hand(here, "kept") as path:
        copy = path.with_name("run-copy")
        subprocess.run(["cp", "-a", str(path), str(copy)], check=True)
        assert [piece["name"] for piece in here.slices("--all")] == ["copy", "kept"]
        assert here.left_behind() == ["run-kept"]
    subprocess.run(["mkdir", "-p", str(copy)], check=True)
    here.run("ps")
    assert here.left_behind() == []


def test_whose_locks_are_held_is_not_removed(here: Desk) -> None:
    with made_by_hand(here, "held") as path:
        lock = os.open(path / "lib/.aliquot/usage", os.O_RDWR)
        here.run("ps")
        assert here.left_behind() == ["run-held"]
        os.close(lock)


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "empty": lambda data: b"",  # noqa: ARG005 - as the others
    "foreign": lambda data: b"something else" + data[14:],
    "other-abi": lambda data: data[:8] + b"\x63" + data[9:],
}


@pytest.mark.parametrize("file", ["grant", "usage"])
@pytest.mark.parametrize("how", sorted(SPOILERS))
def test_a_spoilt_region_is_one_line_and_hides_no_other(here: Desk, file: str, how: str) -> None:
    with made_by_hand(here, "good"), made_by_hand(here, "spoilt") as path:
        target = path / "lib/.aliquot" / file
        data = target.read_bytes()
        target.unlink()
        target.write_bytes(SPOILERS[how](data))
        result = here.run("ps")
        assert result.returncode == 1
        line = one_line(result)
        assert str(target) in line
        assert [row.split()[0] for row in result.stdout.splitlines()[1:]] == ["good"]
        as_json = here.run("ps", "--json")
        assert json.loads(as_json.stdout)["faults"] == [line.removeprefix("aliquot: ")]


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "unreadable"])
def test_what_is_no_file_is_one_line_and_never_waited_for(here: Desk, what: str) -> None:
    with made_by_hand(here, "odd") as path:
        usage = path / "lib/.aliquot/usage"
        usage.unlink()
        if what == "link":
            usage.symlink_to("/dev/zero")
        elif what == "pipe":
            os.mkfifo(usage)
        elif what == "folder":
            usage.mkdir()
        else:
            usage.symlink_to(usage)
        result = here.run("ps")
        assert result.returncode == 1
        assert "run-odd" in one_line(result)


def test_times_that_cannot_be_are_shown_and_stay_in_their_columns(here: Desk) -> None:
    with made_by_hand(here, "odd") as path:
        usage = path / "lib/.aliquot/usage"
        most = 2**64 - 1
        write_time(usage, 0, most, most, most, most)
        (row,) = here.slices()[0]["devices"]
        head, line, *_ = here.run("ps", "--wide").stdout.splitlines()
    assert row["waits"] == row["let_through"] == most
    assert row["device_seconds"] == row["wait_seconds"] == pytest.approx(most / 1e9)
    for name in ("TIME", "WAIT"):
        end = head.index(name) + len(name)
        assert line[:end].endswith("  213504.0 d")
        assert line[end : end + 1] == " "


def test_a_slice_that_is_being_made_is_starting(here: Desk) -> None:
    here.runtime.mkdir(mode=0o700)
    run = rundir.create(here.runtime, "young")
    assert [(p["name"], p["state"], p["devices"]) for p in here.slices()] == [
        ("young", "starting", [])
    ]
    assert here.run("ps").stdout.splitlines()[1].split() == ["young", "starting"]
    assert rundir.remove_if_ended(run)


@pytest.mark.parametrize(
    "meta",
    [
        "not json",
        "[]",
        '{"devices": 3, "command": "x", "started_unix_ns": "y", "mode": []}',
        '{"devices": [1, {}, {"uuid": []}, {"uuid": "x", "name": {}}], "command": [1, null]}',
        '{"started_unix_ns": 1e400, "devices": [{"uuid": 1, "index": "\\u001b[2J"}]}',
        '{"started_unix_ns": 99999999999999999999999999999}',
        "[" * 100_000,
    ],
)
def test_whatever_stands_in_the_description_the_slice_is_shown(here: Desk, meta: str) -> None:
    with made_by_hand(here, "odd") as path:
        (path / "meta.json").write_text(meta)
        for options in ((), ("--json",)):
            result = here.run("ps", *options)
            assert (result.returncode, result.stderr) == (0, "")
            assert "odd" in result.stdout
            assert "\x1b" not in result.stdout


def test_what_a_slice_calls_itself_cannot_move_the_cursor(here: Desk) -> None:
    device = {"uuid": "GPU-00000000-0000-0000-0000-000000000000", "name": "\x1b[2Jx", "index": 0}
    with made_by_hand(here, "odd", {"devices": [device], "command": ["\x1b]0;x\x07"]}):
        assert "\x1b" not in here.run("ps").stdout
        assert "?[2Jx" in here.run("ps").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees everybody's slices")
def test_root_leaves_the_directories_of_others_alone(here: Desk) -> None:
    with made_by_hand(here, "theirs") as path:
        copy = path.with_name("run-copy")
        subprocess.run(["cp", "-a", str(path), str(copy)], check=True)
        subprocess.run(["chown", "-R", "65534:65534", str(here.runtime)], check=True)
        here.run("ps", "--all")
        assert here.left_behind() == ["run-copy", "run-theirs"]
        subprocess.run(["chown", "-R", "0:0", str(here.runtime)], check=True)


def test_two_that_collect_at_once_do_not_disturb_a_third_that_makes(here: Desk) -> None:
    here.runtime.mkdir(mode=0o700)
    lock = os.open(here.runtime / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waiting = [here.start("ps") for _ in range(2)]
    waiting.append(here.start("run", "--memory", "1GiB", "--", "echo", "ran"))
    assert all(one.poll() is None for one in waiting)
    os.close(lock)
    outputs = [one.communicate()[0] for one in waiting]
    assert [one.returncode for one in waiting] == [0, 0, 0]
    assert outputs[2] == "ran\n"
    assert here.left_behind() == []


def test_a_closed_output_is_no_traceback(here: Desk) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with here.start("ps", stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()


# -- Slices of containers ------------------------------------------------------------------------


@pytest.fixture
def node(here: Desk) -> Iterator[Node]:
    """A node with an agent's parts in the desk's folder."""
    if os.geteuid() != 0:
        pytest.skip("the agent is root: others may not write into grants")
    here.runtime.mkdir(mode=0o711)
    made = Node(here.runtime, Board((device(0), device(1))))
    readings = made.readings
    yield made
    readings._grants.close()


def test_slices_of_containers_stand_beside_those_of_runs(here: Desk, node: Node) -> None:
    zero, one = node.devices
    line = Path("/proc/self/cgroup").read_text().splitlines()[0]
    promised = part(zero, 3 * GIB, 30, cores_max=90, weight=250, priority=-5)
    piece = node.ledger.add("train", promised, part(one, GIB), cgroups=(line,))
    shared = {"policy": "burst-share", "group": "ring", "quiet_ms": 20, "floor": 5}
    node.ledger.put(replace(piece, **shared))  # type: ignore[arg-type]
    node.accounts["train", zero.uuid] = ACCOUNT
    bare = Container("0123456789abcdef0123456789abcdef", "/bundle", "moby")
    node.ledger.add("bare", part(one, GIB), container=bare, init_pid=0)
    usage = node.ledger.region("train") / "usage"
    write_figures(usage, 0, peak=700 * MIB, refusals=3)
    write_time(usage, 0, 2_500_000_000, 90_000_000_000, waits=40, let_through=6)
    slot = Slot(usage, 0, 12, b"train.py")
    slot.charge(0, 600 * MIB)
    node.vendors[0].rows = [DeviceProcess(zero.uuid, os.getpid(), 640 * MIB, 0.5, None)]
    node.sample()
    node.sample()
    with made_by_hand(here, "by-hand"), served(node):
        run, train, bare_one = here.slices()
        text = here.run("ps").stdout
        wide = here.run("ps", "--wide").stdout
    slot.die()
    assert [piece["kind"] for piece in (run, train, bare_one)] == ["run", "container", "container"]
    # One schema: whoever reads one can read the other.
    assert set(run) == set(train)
    assert set(run["devices"][0]) == set(train["devices"][0])
    assert train["devices"][0] == {
        "index": 0,
        "uuid": zero.uuid,
        "model": "Acme 0",
        "charge_bytes": 600 * MIB,
        "unclaimed_bytes": 40 * MIB,
        "unseen_bytes": 40 * MIB,
        "cap_bytes": 3 * GIB,
        "peak_bytes": 700 * MIB,
        "refusals": 3,
        "enforcement": "shim",
        "partition": None,
        "cores": 30,
        "cores_max": 90,
        "weight": 250,
        "priority": -5,
        "gate": "closed",
        "busy": 0.5,
        "device_seconds": 2.5,
        "wait_seconds": 90.0,
        "waits": 40,
        "let_through": 6,
        "held_seconds": 12.5,
        "split_seconds": 0.5,
        "wanted_seconds": 20.25,
        "turns": 321,
        "overruns": 2,
        "preempted": 3,
        "wanted": 0.3,
        "received": 0.28,
    }
    assert {key: value for key, value in train.items() if key not in ("devices", "processes")} == {
        "name": "default/train/main",
        "kind": "container",
        "namespace": "default",
        "pod": "train",
        "container": "main",
        "container_id": "id-train",
        "path": str(node.ledger.folder("train")),
        "state": "running",
        "mode": None,
        "command": [],
        "started": "2023-11-14T22:13:20+00:00",
        "unknown_functions": 0,
        "policy": "burst-share",
        "group": "ring",
        "quiet_ms": 20,
        "floor_percent": 5,
        "native": False,
    }
    (process,) = train["processes"]
    assert (process["pid"], process["command"]) == (12, "train.py")
    assert process["charge_bytes"] == [600 * MIB, 0]
    assert (bare_one["name"], bare_one["state"]) == (bare.id[:24], "starting")
    lines = text.splitlines()
    assert lines[0].split() == [
        "SLICE", "DEVICE", "MODEL", "PROCESS", "CHARGE", "UNSEEN", "CAP", "PEAK", "REFUSALS",
        "CORES", "SHARE", "BY", "STATE",
    ]  # fmt: skip
    assert re.fullmatch(
        rf"default/train/main +0 {zero.uuid[:12]} +Acme 0 +1 process +600\.0 MiB +40\.0 MiB"
        r" +3\.0 GiB +700\.0 MiB +3 +30-90% +28/30% +shim +running",
        lines[2],
    )
    assert re.fullmatch(r" +12 train\.py +600\.0 MiB", lines[3])
    lines = wide.splitlines()
    assert lines[0].split()[9:] == [
        "CORES", "SHARE", "WEIGHT", "PRIORITY", "GATE", "TIME", "WAIT", "TURNS", "BY", "STATE",
    ]  # fmt: skip
    assert re.search(
        r" 30-90% +28/30% +250 +-5 +closed +2\.5 s +1\.5 min +321 +shim +running$", lines[2]
    )
    assert re.search(r" 50-100% +- +100 +0 +closed +0\.0 ms +0\.0 ms +- +shim$", lines[4])
    for name in ("CORES", "SHARE", "WEIGHT", "PRIORITY", "TIME", "WAIT", "TURNS"):
        # Numbers end where their heads do.
        end = lines[0].index(name) + len(name)
        assert all(lines[row][end - 1] != " " for row in (2, 4)), name
        assert all(lines[row][end : end + 1] == " " for row in (2, 4)), name


def test_what_is_not_known_of_a_container_is_no_nought(here: Desk, node: Node) -> None:
    node.ledger.add("new", part(node.devices[0]), init_pid=0)
    with served(node):
        (piece,) = here.slices()
        row = here.run("ps").stdout.splitlines()[1].split()
    (told,) = piece["devices"]
    for key in ("charge_bytes", "unclaimed_bytes", "unseen_bytes", "peak_bytes", "refusals"):
        assert told[key] is None
    for key in NO_TIME.keys() - {"cores", "cores_max", "weight", "priority"}:
        assert told[key] is None, key
    assert row[-10:] == ["-", "-", "4.0", "GiB", "-", "-", "50-100%", "-", "shim", "starting"]


def test_a_container_that_scribbles_is_a_line_and_hides_no_other(here: Desk, node: Node) -> None:
    for name in ("good", "bad"):
        node.ledger.add(name, part(node.devices[0]))
    usage = node.ledger.region("bad") / "usage"
    os.truncate(usage, 7)
    node.sample()
    with served(node):
        shown = here.run("ps")
        told = json.loads(here.run("ps", "--json").stdout)
    assert shown.returncode == 1
    assert one_line(shown).startswith(f"aliquot: default/bad/main: {usage} ")
    assert len(shown.stdout.splitlines()) == 3
    assert len(told["slices"]) == 2
    assert told["faults"] == [one_line(shown).removeprefix("aliquot: ")]


def test_an_agent_that_does_not_answer_is_a_line_and_runs_are_shown(here: Desk, node: Node) -> None:
    node.readings = None  # type: ignore[assignment]
    with made_by_hand(here, "by-hand"), served(node):
        shown = here.run("ps")
    assert shown.returncode == 1
    assert "agent.sock failed: " in one_line(shown)
    assert shown.stdout.splitlines()[1].startswith("by-hand ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_users_see_their_own_where_an_agent_runs(driver: Path, shim_library: Path) -> None:
    with reachable() as folder:
        theirs = desk(driver, shim_library, folder, (*NOBODY, *ALIQUOT))
        theirs.runtime.mkdir(mode=0o711)
        node = Node(theirs.runtime, Board((device(0),)))
        node.ledger.add("one", part(node.devices[0]))
        with served(node):
            shown = theirs.run("ps", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == {"slices": [], "faults": []}


def test_what_a_killed_agent_left_is_as_no_agent(here: Desk, node: Node) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(here.runtime / "agent.sock"))
    left.close()
    shown = here.run("ps", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
