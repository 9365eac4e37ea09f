"""The ledger after a crash, and with entries that somebody damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from aliquot.agent import ledger as ledger_module
from aliquot.agent import mounts, processes
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import Ledger
from aliquot.agent.slices import Part, Slice, to_json

from agent_parts import (
    GIB,
    NEEDS_ROOT,
    device,
    make_slice,
    mounted_below,
    region_devices,
    reopened,
    slot_held,
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
