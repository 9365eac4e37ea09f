"""Who uses a DRM device and how much, from fdinfo, whatever it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.agent.devices import DeviceProcess
from hypothesis import given, settings
from hypothesis import strategies as st

from aliquot_drm import fdinfo, files
from aliquot_drm.amd import Amd
from aliquot_drm.clients import Clients
from aliquot_drm.intel import Intel
from drm_tree import ARC, GIB, MI300X, MIB, NAVI, Tree, arc, mi300x, navi
from drm_tree import fdinfo as told

SECOND = 10**9


class Clock:
    """The time that the plug-in reads."""

    def __init__(self) -> None:
        self.now_ns = 5 * SECOND

    def __call__(self) -> int:
        """Return it."""
        return self.now_ns

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that goes when a test says so."""
    made = Clock()
    monkeypatch.setattr("time.monotonic_ns", made)
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A node without devices."""
    return Tree(tmp_path / "node")


def radeon(client: int, *lines: str) -> str:
    return told("amdgpu", NAVI, client, *lines)


def row(rows: object, pid: int) -> DeviceProcess:
    assert isinstance(rows, tuple)
    (found,) = [one for one in rows if one.pid == pid]
    assert isinstance(found, DeviceProcess)
    return found


# -- memory --


@pytest.mark.parametrize(
    ("lines", "memory"),
    [
        (["drm-memory-vram:\t76 KiB"], 76 << 10),
        (["drm-memory-vram:\t76"], 76),
        (["drm-memory-vram:\t3 MiB", "drm-memory-gtt:\t44 KiB"], 3 * MIB),
        (["drm-total-vram:\t9 MiB", "drm-memory-vram:\t3 MiB"], 3 * MIB),
        (
            ["drm-total-vram:\t9 MiB", "drm-memory-vram:\t3 MiB", "drm-resident-vram:\t2 MiB"],
            2 * MIB,
        ),
        (["drm-total-vram0:\t9 MiB", "drm-total-vram1:\t1 MiB"], 10 * MIB),
        (
            ["drm-total-vram0:\t9 MiB", "drm-resident-vram0:\t8 MiB", "drm-total-gtt:\t1 MiB"],
            8 * MIB,
        ),
        (["drm-resident-local0:\t5 MiB", "drm-resident-system0:\t7 MiB"], 5 * MIB),
        (["drm-resident-stolen-local0:\t5 MiB"], None),
        (["drm-resident-vram:\t0"], 0),
        (["drm-resident-vram:\t-5 KiB"], None),
        (["drm-resident-vram:\t5 parsecs"], None),
        (["drm-resident-vram:\t" + "9" * 40], None),
        (["drm-resident-vram: KiB"], None),
        (["drm-resident-vram:\tgarbage", "drm-memory-vram:\t1 KiB"], 1024),
        # The kernel writes a key once.
        (["drm-resident-vram:\t1 KiB", "drm-resident-vram:\t9 KiB"], 1024),
        ([], None),
    ],
)
def test_memory_is_that_of_the_device_in_either_spelling(
    lines: list[str], memory: int | None
) -> None:
    client = fdinfo.parse(radeon(7, *lines))
    assert client is not None
    assert client.memory_bytes == memory


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pos:\t0\nflags:\t02\n",
        "drm-driver:\tamdgpu\n",
        told("amdgpu", "somewhere", 1),
        told("amdgpu", f"{NAVI}/../..", 1),
        told("", NAVI, 1),
        f"drm-driver:\tamdgpu\ndrm-pdev:\t{NAVI}\ndrm-client-id:\t-1\n",
        f"drm-driver:\tamdgpu\ndrm-pdev:\t{NAVI}\ndrm-client-id:\t{1 << 64}\n",
        "x:\n" * 600 + told("amdgpu", NAVI, 1),
    ],
)
def test_what_is_no_device_file_is_none(text: str) -> None:
    assert fdinfo.parse(text) is None


@given(st.lists(st.sampled_from([*"0123456789:- \t\n", "drm-", "engine-gfx", "vram", "KiB", "ns"])))
@settings(deadline=None)
def test_whatever_is_told_is_read_without_failing(words: list[str]) -> None:
    client = fdinfo.parse(radeon(1, "".join(words)))
    assert client is not None
    assert client.memory_bytes is None or client.memory_bytes >= 0
    share = fdinfo.busy(client, client, 1)
    assert share is None or share == 0


# -- time --


def test_busy_is_the_share_of_the_time_between_two_looks(tree: Tree, clock: Clock) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    tree.open(40, 5, radeon(7, "drm-memory-vram:\t1 MiB", "drm-engine-gfx:\t1000 ns"))
    assert row(amd.processes(), 40).busy is None
    clock.go(2)
    tree.open(40, 5, radeon(7, "drm-memory-vram:\t2 MiB", f"drm-engine-gfx:\t{SECOND + 1000} ns"))
    assert row(amd.processes(), 40) == DeviceProcess("PCI-0000-03-00-0", 40, 2 * MIB, 0.5, None)
    clock.go(2)
    assert row(amd.processes(), 40).busy == 0.0


def test_engines_work_side_by_side_and_copies_and_video_beside_them(
    tree: Tree, clock: Clock
) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    names = ("gfx", "compute", "dma", "dec", "enc")
    tree.open(40, 5, radeon(7, *(f"drm-engine-{name}:\t0 ns" for name in names)))
    amd.processes()
    clock.go(1)
    tree.open(40, 5, radeon(7, *(f"drm-engine-{name}:\t{SECOND // 4} ns" for name in names)))
    assert row(amd.processes(), 40).busy == 0.5
    # All the rings of an engine together may have worked for longer than there was time.
    clock.go(1)
    tree.open(40, 5, radeon(7, *(f"drm-engine-{name}:\t{9 * SECOND} ns" for name in names)))
    assert row(amd.processes(), 40).busy == 1.0


def test_an_engine_that_is_told_from_its_first_use_on_began_at_nothing(
    tree: Tree, clock: Clock
) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    tree.open(40, 5, radeon(7, "drm-memory-vram:\t1 MiB"))
    amd.processes()
    clock.go(1)
    assert row(amd.processes(), 40).busy is None
    clock.go(1)
    tree.open(40, 5, radeon(7, f"drm-engine-compute:\t{SECOND // 5} ns"))
    assert row(amd.processes(), 40).busy == pytest.approx(0.2)


def test_xe_counts_cycles_of_so_many(tree: Tree, clock: Clock) -> None:
    arc(tree)
    intel = Intel(None, tree.roots)

    def cycles(busy: int, total: int, *more: str) -> str:
        lines = [f"drm-cycles-ccs:\t{busy}", f"drm-total-cycles-ccs:\t{total}", *more]
        return told("xe", ARC, 3, "drm-resident-vram0:\t512 KiB", *lines)

    tree.open(40, 5, cycles(100, 1000))
    assert (row(intel.processes(), 40).busy, intel.sample()[0].busy) == (None, None)
    clock.go(1)
    tree.open(40, 5, cycles(400, 2000))
    rows = intel.processes()
    assert row(rows, 40) == DeviceProcess("PCI-0000-04-00-0", 40, 512 << 10, 0.3, None)
    assert intel.sample()[0].busy == 0.3
    # Two such engines: of both the half.
    tree.open(40, 5, cycles(1400, 3000, "drm-engine-capacity-ccs:\t2"))
    assert row(intel.processes(), 40).busy == 0.5
    # Time that stands still, goes back, or has no total is none.
    for text in (cycles(1500, 3000), cycles(1400, 4000), told("xe", ARC, 3, "drm-cycles-ccs:\t9")):
        tree.open(40, 5, text)
        intel.processes()
    assert row(intel.processes(), 40).busy is None


def test_i915_counts_nanoseconds_of_render_and_compute(tree: Tree, clock: Clock) -> None:
    address = "0000:03:00.0"
    tree.card("i915", address, 0, {"drm/card0/lmem_total_bytes": str(8 * GIB)})
    intel = Intel(None, tree.roots)

    def render(time_ns: int) -> str:
        lines = ["drm-total-local0:\t6 MiB", "drm-resident-local0:\t5 MiB"]
        engines = [f"drm-engine-render:\t{time_ns} ns", "drm-engine-capacity-video:\t2"]
        return told("i915", address, 9, *lines, *engines, "drm-engine-video:\t77 ns")

    tree.open(40, 5, render(0))
    intel.processes()
    clock.go(4)
    tree.open(40, 5, render(SECOND))
    found = row(intel.processes(), 40)
    assert (found.memory_bytes, found.busy) == (5 * MIB, 0.25)


# -- clients --


def test_a_client_counts_once_however_often_it_is_open(tree: Tree, clock: Clock) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    for now_ns in (0, SECOND // 2):
        text = radeon(7, "drm-memory-vram:\t4 MiB", f"drm-engine-gfx:\t{now_ns} ns")
        for pid, fd in ((41, 3), (41, 4), (42, 9), (100, 3)):
            tree.open(pid, fd, text)
        tree.open(41, 8, radeon(8, "drm-memory-vram:\t1 MiB"))
        rows = amd.processes()
        clock.go(1)
    assert [one.pid for one in rows] == [41]
    assert (rows[0].memory_bytes, rows[0].busy) == (5 * MIB, 0.5)


def test_a_client_stays_with_whom_it_was_until_that_one_ends(tree: Tree, clock: Clock) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    text = radeon(7, "drm-memory-vram:\t4 MiB", "drm-engine-gfx:\t0 ns")
    tree.open(50, 3, text)
    assert [one.pid for one in amd.processes()] == [50]
    # A process with a smaller number is given the file.
    tree.open(12, 3, text)
    assert [one.pid for one in amd.processes()] == [50]
    tree.end(50)
    clock.go(1)
    tree.open(12, 3, radeon(7, f"drm-engine-gfx:\t{SECOND} ns"))
    assert [(one.pid, one.busy) for one in amd.processes()] == [(12, 1.0)]


def test_clients_of_two_devices_with_one_number_are_two(tree: Tree) -> None:
    mi300x(tree)
    amd = Amd(None, tree.roots)
    for fd, address in enumerate(MI300X[:2]):
        tree.open(40, fd, told("amdgpu", address, 1, f"drm-memory-vram:\t{fd + 1} MiB"))
    assert [(one.uuid[-1], one.memory_bytes) for one in amd.processes()] == [
        ("1", MIB),
        ("2", 2 * MIB),
    ]


def test_another_drivers_files_are_not_ours(tree: Tree) -> None:
    navi(tree)
    tree.open(40, 5, told("nvidia-drm", NAVI, 1, "drm-memory-vram:\t1 MiB"))
    tree.open(41, 5, told("amdgpu", "0000:99:00.0", 1, "drm-memory-vram:\t1 MiB"))
    assert Amd(None, tree.roots).processes() == ()


# -- processes --


def test_a_process_that_ends_is_gone_and_takes_nobody_with_it(tree: Tree, clock: Clock) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    for pid in (40, 41):
        tree.open(pid, 5, radeon(pid, "drm-engine-gfx:\t0 ns"))
    assert len(amd.processes()) == 2
    tree.end(40)
    clock.go(1)
    assert [(one.pid, one.busy) for one in amd.processes()] == [(41, 0.0)]
    # The number of a client that ends is another's, with a smaller count.
    tree.open(41, 5, radeon(41, "drm-engine-gfx:\t500 ns"))
    amd.processes()
    clock.go(1)
    tree.open(41, 5, radeon(41, "drm-engine-gfx:\t3 ns"))
    assert row(amd.processes(), 41).busy is None


def test_a_process_may_end_while_it_is_looked_at(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    for pid in (40, 41, 42):
        for fd in range(3):
            tree.open(pid, fd, radeon(pid, "drm-memory-vram:\t1 MiB"))
    link = os.readlink
    asked: list[str] = []

    def readlink(path: str) -> str:
        asked.append(path)
        if len(asked) == 5:
            tree.end(41)
        return link(path)

    monkeypatch.setattr(os, "readlink", readlink)
    found = {one.pid for one in amd.processes()}
    assert {40, 42} <= found
    assert {one.pid for one in amd.processes()} == {40, 42}


def test_a_process_with_many_descriptors_is_read_as_far_as_is_reasonable(tree: Tree) -> None:
    navi(tree)
    clients = Clients(tree.proc, ["amdgpu"])
    for fd in range(3000):
        tree.open(40, fd, "pos:\t0\n", f"/data/{fd}")
    tree.open(40, 3000, radeon(1, "drm-memory-vram:\t1 MiB"))
    tree.open(41, 3, radeon(2, "drm-memory-vram:\t1 MiB"))
    assert {one.pid for one in clients.look().held} == {40, 41}
    for fd in range(3001, 6000):
        tree.open(40, fd, "pos:\t0\n", f"/data/{fd}")
    assert 41 in {one.pid for one in Clients(tree.proc, ["amdgpu"]).look().held}


def test_only_what_has_a_path_is_opened_and_no_device_twice(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    navi(tree)
    clients = Clients(tree.proc, ["amdgpu"])
    tree.open(40, 0, "pos:\t0\n", "/dev/null")
    tree.open(40, 1, "pos:\t0\n", "socket:[1234]")
    tree.open(40, 2, "pos:\t0\n", "anon_inode:[eventpoll]")
    # A container may make the device's file wherever it likes.
    tree.open(40, 3, radeon(1, "drm-memory-vram:\t1 MiB"), "/tmp/mine")
    read: list[str] = []
    text = files.text

    def spy(path: str, most: int) -> str | None:
        read.append(path.rpartition("/")[2])
        return text(path, most)

    monkeypatch.setattr("aliquot_drm.files.text", spy)
    clients.look()
    assert sorted(read) == ["0", "3"]
    read.clear()
    assert len(clients.look().held) == 1
    assert read == ["3"]
    # What is open under the number is another file now.
    (tree.proc / "40/fd/0").unlink()
    tree.open(40, 0, radeon(2), "/dev/dri/card0")
    assert len(clients.look().held) == 2


def test_a_look_that_some_processes_are_closed_to_is_not_whole(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    arc(tree)
    intel = Intel(None, tree.roots)
    tree.open(40, 5, told("xe", ARC, 1, "drm-cycles-rcs:\t0", "drm-total-cycles-rcs:\t1"))
    intel.processes()
    tree.open(40, 5, told("xe", ARC, 1, "drm-cycles-rcs:\t5", "drm-total-cycles-rcs:\t11"))
    intel.processes()
    assert intel.sample()[0].busy == 0.5
    tree.open(41, 5, "")
    scandir = os.scandir

    def closed(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("/41/fd"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    intel.processes()
    assert intel.sample()[0].busy is None


def test_hostile_files_of_a_process_are_passed_over(tree: Tree) -> None:
    navi(tree)
    tree.open(40, 1, radeon(1, "drm-memory-vram:\t1 MiB") + "x" * (1 << 17))
    tree.open(40, 2, "\0\xff\n" * 50)
    os.mkfifo(tree.proc / "40/fdinfo/3")
    (tree.proc / "40/fd/3").symlink_to("/dev/dri/renderD128")
    (tree.proc / "40/fd/name").symlink_to("/dev/dri/renderD128")
    tree.open(40, 4, radeon(4, "drm-memory-vram:\t1 MiB"))
    (tree.proc / "self").mkdir()
    (tree.proc / "99").write_text("no process")
    rows = Amd(None, tree.roots).processes()
    assert [(one.pid, one.memory_bytes) for one in rows] == [(40, MIB)]


# -- KFD --


def test_memory_of_kfd_counts_and_its_time_is_unknown(tree: Tree, clock: Clock) -> None:
    mi300x(tree)
    amd = Amd(None, tree.roots)
    proc = tree.sys / "class/kfd/kfd/proc"
    tree.write(proc / "40/vram_20000", str(3 * GIB))
    tree.write(proc / "40/vram_20001", "0")
    tree.write(proc / "41/vram_20000", str(1 * GIB))
    tree.write(proc / "42/vram_20000", "garbage")
    for time_ns in (0, SECOND // 2):
        text = told(
            "amdgpu", MI300X[0], 1, "drm-memory-vram:\t2 GiB", f"drm-engine-gfx:\t{time_ns} ns"
        )
        tree.open(40, 5, text)
        rows = {(one.pid, one.uuid[-1]): one for one in amd.processes()}
        clock.go(1)
    assert set(rows) == {(40, "1"), (41, "1")}
    assert (rows[40, "1"].memory_bytes, rows[40, "1"].busy) == (3 * GIB, None)
    assert rows[41, "1"].memory_bytes == GIB
    # Where the driver tells queues, a process without any is as busy as its engines.
    (proc / "40/queues").mkdir()
    tree.write(proc / "41/queues/0/gpuid", "20000")
    clock.go(1)
    text = told("amdgpu", MI300X[0], 1, "drm-memory-vram:\t4 GiB", f"drm-engine-gfx:\t{SECOND} ns")
    tree.open(40, 5, text)
    rows = {(one.pid, one.uuid[-1]): one for one in amd.processes()}
    assert rows[40, "1"].memory_bytes == 4 * GIB
    assert rows[40, "1"].busy == pytest.approx(0.25)
    assert rows[41, "1"].busy is None


# -- this machine --


def _real_device() -> Path | None:
    for path in sorted(Path("/dev/dri").glob("renderD*")):
        if os.access(path, os.R_OK | os.W_OK):
            return path
    return None


def test_a_device_of_this_machine_is_found_in_our_own_descriptors() -> None:
    path = _real_device()
    if path is None:
        pytest.skip("this machine has no /dev/dri/renderD* that can be opened")
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_text()
        client = fdinfo.parse(text)
        if client is None:
            pytest.skip(f"the driver of {path} tells no client on PCI: {text!r}")
        look = Clients(Path("/proc"), [client.driver]).look()
    finally:
        os.close(fd)
    mine = [one for one in look.held if one.pid == os.getpid()]
    assert client.number in [one.client.number for one in mine]


def test_the_processes_of_this_machine_can_be_walked() -> None:
    """Real descriptors of every kind; none of them fails the walk."""
    clients = Clients(Path("/proc"), ["amdgpu", "xe", "i915"])
    first, second = clients.look(), clients.look()
    assert {one.pid for one in (*first.held, *second.held)} <= {
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()
    } | {one.pid for one in first.held}
