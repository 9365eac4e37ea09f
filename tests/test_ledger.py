"""The ledger: folders that are slices, whole or not at all, whatever happened to their maker."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.agent import mounts, processes
from aliquot.agent.errors import AliquotError, BadRequestError
from aliquot.agent.ledger import Ledger, key_of
from aliquot.agent.slices import Slice
from aliquot.shim import region

from agent_parts import (
    GIB,
    NEEDS_ROOT,
    cgroup,
    make_slice,
    mounted_below,
    move,
    region_devices,
    reopened,
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
