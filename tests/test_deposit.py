"""Copies that never change, calls that may hang, and what several vendors need together."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from aliquot.agent.admission import merged
from aliquot.agent.blocking import Caller, finish
from aliquot.agent.deposit import PROGRAM, Deposit
from aliquot.agent.errors import AliquotError
from aliquot.hooks.plan import DeviceNode, Needs

from agent_parts import (
    NEEDS_ROOT,
)

pytestmark = NEEDS_ROOT


def test_who_does_not_answer_is_not_asked_without_end() -> None:
    go = threading.Event()

    async def story() -> None:
        caller = Caller("the library of paper", 0.01, most=2)
        for _ in range(2):
            with pytest.raises(AliquotError, match="the library of paper did not answer"):
                await caller.call(go.wait)
        with pytest.raises(AliquotError, match="paper hangs: earlier calls have not returned"):
            await caller.call(go.wait)
        go.set()
        while True:
            with contextlib.suppress(AliquotError):
                assert await caller.call(lambda: 7) == 7
                break
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_what_follows_a_call_does_not_begin_once_nobody_waits() -> None:
    go = threading.Event()
    followed: list[bool] = []

    async def story() -> None:
        caller = Caller("the library of paper", 0.01, most=1)
        with pytest.raises(AliquotError, match="the library of paper did not answer"):
            await caller.call_then(go.wait, followed.append)
        go.set()
        while True:
            # Its place is free again when its thread has ended.
            with contextlib.suppress(AliquotError):
                assert await caller.call_then(lambda: 3, lambda value: value + 4) == 7
                break
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(story(), 60))
    assert followed == []


def test_what_follows_a_call_is_waited_for_once_it_has_begun() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def follow(_: int) -> None:
        begun.set()
        go.wait()
        ended.set()

    async def story() -> None:
        # It may take longer than the call that it follows.
        caller = Caller("the library of paper", 0.01)
        task = asyncio.create_task(caller.call_then(lambda: 1, follow))
        await finish(begun.wait)
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_what_a_call_raises_is_raised() -> None:
    def fail() -> None:
        raise KeyError("x")

    async def story() -> None:
        with pytest.raises(KeyError):
            await finish(fail)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await finish(lambda: next(iter(())))

    asyncio.run(story())


def test_needs_of_several_vendors_are_all_needed_once() -> None:
    node, other = DeviceNode("/dev/a", 1, 2), DeviceNode("/dev/b", 1, 3)
    one = Needs(nodes=(node,), environment={"A": "1"}, withheld=("x",))
    two = Needs(nodes=(node, other), environment={"B": "2"}, withheld=("x", "y"))
    assert merged([one, two]) == Needs(
        nodes=(node, other), environment={"A": "1", "B": "2"}, withheld=("x", "y")
    )


@pytest.fixture
def deposit(tmp_path: Path) -> Deposit:
    return Deposit(tmp_path / "lib")


def test_a_copy_is_named_by_its_content_and_stays_as_it_is(
    tmp_path: Path, deposit: Deposit
) -> None:
    source = tmp_path / "libcuda.so.1"
    source.write_bytes(b"first")
    first = deposit.put(source)
    digest = hashlib.sha256(b"first").hexdigest()[:16]
    assert first == tmp_path / "lib" / digest / "libcuda.so.1"
    assert stat.S_IMODE(first.stat().st_mode) == 0o644
    inode = first.stat().st_ino
    assert deposit.put(source) == Deposit(tmp_path / "lib").put(source) == first
    source.write_bytes(b"second")
    second = deposit.put(source, PROGRAM)
    assert second.read_bytes() == b"second"
    assert stat.S_IMODE(second.stat().st_mode) == 0o755
    assert first.read_bytes() == b"first"
    assert first.stat().st_ino == inode


def test_a_copy_that_somebody_changed_is_not_used_and_not_mended(
    tmp_path: Path, deposit: Deposit
) -> None:
    source = tmp_path / "libcuda.so.1"
    source.write_bytes(b"first")
    copy = deposit.put(source)
    for content, mode, owner in (
        (b"evil!", 0o644, 0),
        (b"first", 0o666, 0),
        (b"first", 0o644, 65534),
    ):
        copy.write_bytes(content)
        copy.chmod(mode)
        os.chown(copy, owner, 0)
        before = copy.stat()
        with pytest.raises(AliquotError, match="is not what was put there"):
            Deposit(tmp_path / "lib").put(source)
        assert copy.stat() == before
    copy.unlink()
    copy.symlink_to(source)
    with pytest.raises(AliquotError, match="cannot be laid out"):
        Deposit(tmp_path / "lib").put(source)


def test_copies_are_not_put_where_others_may_write(tmp_path: Path, deposit: Deposit) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib").chmod(0o777)
    source = tmp_path / "libcuda.so.1"
    source.write_bytes(b"first")
    with pytest.raises(AliquotError, match="others may write there"):
        deposit.put(source)


def test_old_copies_go_unless_a_container_refers_to_them_or_none_is_newer(
    tmp_path: Path, deposit: Deposit
) -> None:
    source, copies = tmp_path / "libcuda.so.1", []
    for number in range(5):
        source.write_text(f"version {number}")
        copies.append(deposit.put(source))
        os.utime(copies[-1], (number, number))
    half = copies[0].parent / ".new-1234"
    half.write_text("half")
    alone = tmp_path / "aliquot-hook"
    alone.write_text("a hook")
    only = deposit.put(alone, PROGRAM)
    os.utime(only, (0, 0))
    (tmp_path / "lib/README").write_text("not ours")
    plan, config = tmp_path / "plan", tmp_path / "config.json"
    plan.write_text(f"substitute\tlibcuda.so.1\t{copies[1]}\tx\n")
    config.write_text(json.dumps({"path": str(copies[2])}).replace("/", "\\/"))
    later = Deposit(tmp_path / "lib")
    unreadable = tmp_path / "folder"
    unreadable.mkdir()
    assert later.collect([unreadable]) == ()
    assert not half.exists()
    gone = later.collect([plan, config, tmp_path / "missing"])
    assert set(gone) == {copies[0].parent.name, copies[3].parent.name}
    assert [copy.exists() for copy in copies] == [False, True, True, False, True]
    assert only.exists()
    assert subprocess.run(["ls", str(tmp_path / "lib")], check=True, capture_output=True).stdout
    assert (tmp_path / "lib/README").exists()
