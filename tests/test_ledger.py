"""The ledger: folders that are slices, whole or not at all, whatever happened to their maker."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from aliquot.agent import ledger as ledger_module
from aliquot.agent import mounts, processes
from aliquot.agent.errors import AliquotError, BadRequestError
from aliquot.agent.ledger import Ledger, key_of
from aliquot.agent.slices import Part, Slice, to_json
from aliquot.shim import region

from agent_parts import (
    GIB,
    NEEDS_ROOT,
    cgroup,
    device,
    make_slice,
    mounted_below,
    move,
    region_devices,
    slot_held,
    some_process,
    swept,
)

pytestmark = NEEDS_ROOT


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    with swept(tmp_path / "run") as folder:
        yield folder


@pytest.fixture
def ledger(base: Path) -> Ledger:
    return reopened(base)


def reopened(base: Path) -> Ledger:
    made = Ledger(base)
    made.open()
    return made


# -- What a slice is on disk -----------------------------------------------------------------------


def test_a_slice_is_a_folder_that_containers_pass_and_only_root_reads(ledger: Ledger) -> None:
    piece = make_slice()
    folder = ledger.add(piece, region_devices())
    assert folder == ledger.base / "containers" / piece.key
    modes = {
        path: stat.S_IMODE((folder / path).stat().st_mode)
        for path in (".", "slice.json", "stage", "region", "region/grant", "region/usage")
    }
    assert modes == {
        ".": 0o711,
        "slice.json": 0o600,
        "stage": 0o755,
        "region": 0o755,
        "region/grant": 0o444,
        "region/usage": 0o666,
    }
    assert stat.S_IMODE(ledger.base.stat().st_mode) == 0o711
    assert stat.S_IMODE(ledger.root.stat().st_mode) == 0o711


def test_a_region_is_a_small_file_system_of_its_own(ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    place = ledger.region(piece.key)
    flags = os.statvfs(place).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOEXEC
    assert place.stat().st_dev != place.parent.stat().st_dev
    with pytest.raises(OSError, match="No space left"):
        (place / "filler").write_bytes(bytes(64 << 10))

    def fill() -> None:
        for number in range(64):
            (place / f"inode{number}").touch()

    with pytest.raises(OSError, match="No space left"):
        fill()


def test_a_region_has_a_bell_that_anybody_may_ring(ledger: Ledger) -> None:
    before = os.umask(0o077)
    try:
        ledger.add(piece := make_slice(), region_devices())
    finally:
        os.umask(before)
    status = (ledger.region(piece.key) / "bell").lstat()
    assert stat.S_ISFIFO(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o622


def test_who_watches_the_ledger_is_told_of_each_change(ledger: Ledger) -> None:
    seen: list[tuple[Slice, ...]] = []
    unwatch = ledger.watch(lambda: seen.append(ledger.slices()))
    piece = make_slice()
    ledger.add(piece, region_devices())
    told = dataclasses.replace(piece, init_pid=5)
    ledger.replace(told)
    ledger.remove(piece.key)
    assert seen == [(piece,), (told,), ()]
    unwatch()
    ledger.add(piece, region_devices())
    assert len(seen) == 3


def test_a_region_says_what_the_slice_may_hold(ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices(2))
    with (ledger.region(piece.key) / "grant").open("rb") as file:
        grant = region.read_grant(file.fileno(), "grant")
    assert grant.name == "c1"
    assert [one.uuid for one in grant.devices] == [bytes([1]) * 16, bytes([2]) * 16]
    assert {(one.cap, one.cores, one.page_bytes) for one in grant.devices} == {(GIB, 40, 2 << 20)}


def test_a_long_name_is_cut_to_what_a_region_holds(ledger: Ledger) -> None:
    piece = make_slice()
    long = dataclasses.replace(piece.container, namespace="ä" * 60, pod="b" * 60, name="c")
    ledger.add(dataclasses.replace(piece, container=long), region_devices())
    with (ledger.region(piece.key) / "grant").open("rb") as file:
        assert region.read_grant(file.fileno(), "grant").name == "ä" * 31


def test_what_is_written_is_read_again(base: Path, ledger: Ledger) -> None:
    first, second = make_slice("one"), make_slice("two", created_unix_ns=2)
    ledger.add(second, region_devices())
    ledger.add(first, region_devices())
    told = dataclasses.replace(first, init_pid=os.getpid(), init_start=5, cgroups=("0::/x",))
    ledger.replace(told)
    again = reopened(base)
    assert again.slices() == ledger.slices() == (told, second)
    assert again.get("two-x") is None
    assert again.faults == []


def test_a_removed_slice_leaves_nothing(base: Path, ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    assert mounted_below(base)
    ledger.remove(piece.key)
    ledger.remove(piece.key)
    assert ledger.slices() == ()
    assert mounted_below(base) == []
    assert list(ledger.root.iterdir()) == []


def test_a_region_goes_however_often_it_was_mounted_over(base: Path, ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    mounts.mount("more", str(ledger.region(piece.key)), "tmpfs", 0)
    ledger.remove(piece.key)
    assert mounted_below(base) == []


def test_who_uses_a_region_keeps_it_past_its_removal(ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    with (ledger.region(piece.key) / "usage").open("r+b") as usage:
        ledger.remove(piece.key)
        assert region.read_usage(usage.fileno(), "usage", 1).processes == ()


def test_a_slice_that_cannot_be_made_leaves_nothing(base: Path, ledger: Ledger) -> None:
    with pytest.raises(AliquotError, match="cannot be made"):
        ledger.add(make_slice(), region_devices(0))
    assert mounted_below(base) == []
    assert list(ledger.root.iterdir()) == []
    assert ledger.slices() == ()


def test_a_key_is_given_once(ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    with pytest.raises(AliquotError, match="already"):
        ledger.add(piece, region_devices())
    assert ledger.slices() == (piece,)
    assert (ledger.region(piece.key) / "grant").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "a b", "ä", "a" * 129, "a\n"])
def test_an_id_that_is_no_name_is_no_key(name: str) -> None:
    with pytest.raises(BadRequestError, match="is not a container's id"):
        key_of(name, "/bundle")


def test_the_same_id_in_another_bundle_is_another_key() -> None:
    assert key_of("a", "/one") != key_of("a", "/two")


def test_a_base_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(AliquotError, match="others may write"):
        Ledger(folder).open()


# -- After a crash ---------------------------------------------------------------------------------


def _without_json(folder: Path) -> None:
    (folder / "slice.json").unlink()


def _only_temporary(folder: Path) -> None:
    _without_json(folder)
    (folder / ".slice.json.new").write_text("{")
    mounts.unmount(str(folder / "region"))


def _without_mount(folder: Path) -> None:
    mounts.unmount(str(folder / "region"))


def _without_region_folder(folder: Path) -> None:
    mounts.unmount(str(folder / "region"))
    (folder / "region").rmdir()


def _without_files(folder: Path) -> None:
    (folder / "region/grant").unlink()
    (folder / "region/usage").unlink()


def _without_grant(folder: Path) -> None:
    (folder / "region/grant").unlink()


def _without_anything(folder: Path) -> None:
    _without_region_folder(folder)
    _without_json(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        _without_json,
        _only_temporary,
        _without_mount,
        _without_region_folder,
        _without_files,
        _without_grant,
        _without_anything,
    ],
)
def test_what_is_half_made_goes_and_what_is_whole_stays(
    base: Path, ledger: Ledger, spoil: Callable[[Path], None]
) -> None:
    whole, half = make_slice("whole"), make_slice("half")
    ledger.add(whole, region_devices())
    spoil(ledger.add(half, region_devices()))
    again = reopened(base)
    assert again.slices() == (whole,)
    assert again.broken == {}
    assert mounted_below(base) == [str(again.region(whole.key))]
    assert [entry.name for entry in again.root.iterdir()] == [whole.key]


def test_a_region_that_was_taken_from_a_living_container_is_no_end(
    base: Path, ledger: Ledger
) -> None:
    me = os.getpid()
    piece = make_slice(init_pid=me, init_start=processes.start_time(me))
    _without_mount(ledger.add(piece, region_devices()))
    again = reopened(base)
    assert again.slices() == (piece,)
    assert "is gone while its container lives" in again.faults[0]


def test_whatever_a_tenant_writes_its_slice_stays(base: Path, ledger: Ledger) -> None:
    piece = make_slice()
    ledger.add(piece, region_devices())
    (ledger.region(piece.key) / "usage").write_bytes(b"mine now")
    assert reopened(base).slices() == (piece,)


class _Killed:
    """Kills this process at a given line of a module, counted as they are executed."""

    def __init__(self, file: str, line: int) -> None:
        self._file = file
        self._left = line

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        if event == "line":
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def _dies_at(line: int, work: Callable[[], None]) -> bool:
    """Do some work in a process that is killed at a line of the ledger; says whether it was."""
    pid = os.fork()
    if pid == 0:
        sys.settrace(_Killed(ledger_module.__file__, line))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_line_of_add_it_leaves_a_slice_or_nothing(base: Path, ledger: Ledger) -> None:
    kept = make_slice("kept")
    ledger.add(kept, region_devices())
    new, seen = make_slice("new", created_unix_ns=2), set()
    for line in range(1000):
        own = reopened(base)
        died = _dies_at(line, lambda own=own: own.add(new, region_devices()))  # type: ignore[misc]
        again = reopened(base)
        assert again.faults == []
        assert kept in again.slices()
        names = [piece.container.id for piece in again.slices()]
        assert len(mounted_below(base)) == len(names) == len(list(again.root.iterdir()))
        seen.add(tuple(names))
        again.remove(new.key)
        if not died:
            break
    assert not died
    assert line > 40
    assert seen == {("kept",), ("kept", "new")}


def test_killed_at_any_line_of_remove_it_leaves_a_slice_or_nothing(base: Path) -> None:
    piece = make_slice()
    for line in range(1000):
        own = reopened(base)
        if not own.slices():
            own.add(piece, region_devices())
        died = _dies_at(line, lambda own=own: own.remove(piece.key))  # type: ignore[misc]
        again = reopened(base)
        assert again.slices() in ((), (piece,))
        assert len(mounted_below(base)) == len(again.slices())
        if not died:
            break
    assert not died
    assert again.slices() == ()


def test_killed_at_any_line_of_replace_it_leaves_the_old_or_the_new(
    base: Path, ledger: Ledger
) -> None:
    old = make_slice()
    new = dataclasses.replace(old, labels={"is": "new"})
    ledger.add(old, region_devices())
    seen: list[Slice] = []
    died, line = True, 0
    while died:
        own = reopened(base)
        own.replace(old)
        died = _dies_at(line, lambda own=own: own.replace(new))  # type: ignore[misc]
        seen += reopened(base).slices()
        line += 1
    assert len(seen) == line
    assert set(map(str, seen)) == {str(old), str(new)}


# -- Damaged entries -------------------------------------------------------------------------------


def _json_with(**others: Any) -> str:
    return json.dumps({**to_json(make_slice()), **others})


def _part_with(**others: Any) -> str:
    return _json_with(parts=[{**to_json(make_slice())["parts"][0], **others}])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "\0" * 300_000,
        '{"key": 1}',
        _json_with(parts=[]),
        _json_with(parts=17 * to_json(make_slice())["parts"]),
        _json_with(parts=2 * to_json(make_slice())["parts"]),
        _json_with(init_pid="1"),
        _json_with(init_pid=-1),
        _json_with(maker_start=True),
        _json_with(created_unix_ns=1.5),
        _json_with(cgroups=[1]),
        _json_with(labels=["a"]),
        _json_with(labels={"a": 1}),
        _json_with(key="other-00000000"),
        _json_with(container={"id": "c1", "bundle": "/elsewhere"}),
        _json_with(container={"id": "c1", "bundle": "x" * 5000}),
        _json_with(of_a_newer_version=1),
        _part_with(memory_bytes=-1),
        _part_with(memory_bytes=1 << 60),
        _part_with(memory_bytes="1"),
        _part_with(cores=-1),
        _part_with(cores=101),
        _part_with(cores_max=0),
        _part_with(cores_max=101),
        _part_with(cores=51, cores_max=50),
        _part_with(weight=0),
        _part_with(weight=10001),
        _part_with(priority=-101),
        _part_with(priority=True),
        _part_with(uuid=""),
        _part_with(uuid=7),
    ],
)
def test_a_damaged_entry_is_reported_and_goes_when_nothing_of_it_lives(
    base: Path, ledger: Ledger, content: str
) -> None:
    whole, piece = make_slice("whole"), make_slice()
    ledger.add(whole, region_devices())
    (ledger.add(piece, region_devices()) / "slice.json").write_text(content)
    again = reopened(base)
    assert again.slices() == (whole,)
    (fault,) = again.faults
    assert str(again.folder(piece.key)) in fault
    assert "\n" not in fault
    assert mounted_below(base) == [str(again.region(whole.key))]


def _a_link(path: Path) -> None:
    path.rename(path.parent / "real")
    path.symlink_to("real")


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _anybodys(path: Path) -> None:
    path.chmod(0o666)


def _somebodys(path: Path) -> None:
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("spoil", [_a_link, _a_pipe, _anybodys, _somebodys])
def test_an_entry_that_others_could_have_written_counts_for_nothing(
    base: Path, ledger: Ledger, spoil: Callable[[Path], None]
) -> None:
    spoil(ledger.add(make_slice(), region_devices()) / "slice.json")
    again = reopened(base)
    assert again.slices() == ()
    assert len(again.faults) == 1


def test_what_a_damaged_entry_held_stays_reserved_while_a_process_has_a_slot(
    base: Path, ledger: Ledger
) -> None:
    piece = make_slice()
    (ledger.add(piece, region_devices()) / "slice.json").write_text("{")
    devices = (device(1), device(2))
    with slot_held(ledger, piece.key):
        again = reopened(base)
        assert again.slices() == ()
        assert "its share stays reserved" in again.faults[0]
        (held,) = again.reserved(devices)
        assert held.container.id == "c1"
        (part,) = held.parts
        # What is reserved of its time is what it was guaranteed, not what it might have.
        assert part == Part("PAPER-01", "paper", GIB, 10, "shim", 40)
        assert again.settle_broken() == ()
        with pytest.raises(AliquotError, match="already"):
            again.add(piece, region_devices())
    assert again.settle_broken() == (piece.key,)
    assert again.reserved(devices) == ()
    assert mounted_below(base) == []


def test_what_is_no_slices_folder_is_reported_and_left_alone(base: Path, ledger: Ledger) -> None:
    (ledger.root / "notes.txt").write_text("mine")
    (ledger.root / "lost+found").mkdir()
    (ledger.root / "looks-00000000").symlink_to("/etc")
    again = reopened(base)
    assert len(again.faults) == 3
    assert (again.root / "notes.txt").read_text() == "mine"
    assert (again.root / "looks-00000000").is_symlink()


# -- Whose process it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
def test_a_process_belongs_to_the_slice_in_whose_cgroups_it_is(ledger: Ledger, kind: str) -> None:
    name = f"aliquot-{os.getpid()}-{kind}"
    with cgroup(kind, name) as own, cgroup(kind, f"{name}0") as other, some_process() as process:
        (own / "inner").mkdir()
        move(process.pid, own)
        groups = processes.own_cgroups(
            processes.cgroups(process.pid), processes.cgroups(os.getpid())
        )
        assert [line.rsplit(":", 1)[1] for line in groups] == [f"/{name}"]
        piece = make_slice(cgroups=groups)
        ledger.add(make_slice("bystander"), region_devices())
        ledger.add(piece, region_devices())
        assert ledger.of_pid(process.pid) == piece
        move(process.pid, own / "inner")
        assert ledger.of_pid(process.pid) == piece
        # Its name only begins with the slice's.
        move(process.pid, other)
        assert ledger.of_pid(process.pid) is None
        assert ledger.of_pid(os.getpid()) is None
        process.kill()
        process.wait()
        assert ledger.of_pid(process.pid) is None


@pytest.mark.parametrize("form", ["{}", "cri-containerd-{}.scope"])
def test_a_container_that_told_no_process_yet_is_known_by_its_id(ledger: Ledger, form: str) -> None:
    name = f"{os.getpid():064x}"
    with cgroup("cgroup", form.format(name)) as own, some_process() as process:
        piece = make_slice(name)
        ledger.add(make_slice(name[1:]), region_devices())
        ledger.add(piece, region_devices())
        assert ledger.of_pid(process.pid) is None
        move(process.pid, own)
        assert ledger.of_pid(process.pid) == piece
        process.kill()
        process.wait()


# -- Processes -------------------------------------------------------------------------------------


def test_a_process_has_ended_when_the_kernel_says_so_even_unreaped() -> None:
    with some_process() as process:
        start = processes.start_time(process.pid)
        assert start is not None
        assert processes.alive(process.pid, start)
        assert not processes.alive(process.pid, start + 1)
        asyncio.run(asyncio.wait_for(processes.wait_exit(process.pid, start + 1), 60))

        async def ended() -> None:
            waiting = asyncio.create_task(processes.wait_exit(process.pid, start))
            await asyncio.sleep(0)
            assert not waiting.done()
            process.kill()
            await asyncio.wait_for(waiting, 60)

        asyncio.run(ended())
        # Nobody has waited for it: it is a zombie.
        assert Path(f"/proc/{process.pid}/stat").exists()
        assert not processes.alive(process.pid, start)


def test_a_command_with_any_name_has_its_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert processes.parent(process.pid) == os.getpid()
        assert processes.descends(process.pid, os.getpid())
        assert not processes.descends(os.getpid(), process.pid)
        process.stdin.close()


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
def test_a_cgroup_is_empty_once_its_last_process_is_gone(kind: str) -> None:
    name = f"aliquot-{os.getpid()}-{kind}"
    with cgroup(kind, name) as own, some_process() as first, some_process() as second:
        (own / "inner").mkdir()
        move(first.pid, own)
        groups = processes.own_cgroups(processes.cgroups(first.pid), processes.cgroups(os.getpid()))
        if kind == "cgroup2":
            assert processes.unified_folder(groups) == own
        move(second.pid, own / "inner")

        async def emptied() -> None:
            waiting = asyncio.create_task(processes.wait_empty(groups))
            for process in (first, second):
                await asyncio.sleep(0)
                assert not waiting.done()
                assert processes.populated(groups)
                process.kill()
                process.wait()
            await asyncio.wait_for(waiting, 60)

        asyncio.run(emptied())
        assert not processes.populated(groups)
    # And when it is gone altogether.
    asyncio.run(asyncio.wait_for(processes.wait_empty(groups), 60))


def test_cgroups_that_everybody_is_in_are_nobodys_own() -> None:
    lines = ("4:memory:/kube/pod/c1", "1:name=systemd:/", "0::/system.slice/containerd.service")
    outside = ("9:memory:/system.slice", "0::/system.slice/containerd.service")
    assert processes.own_cgroups(lines, outside) == ("4:memory:/kube/pod/c1",)
