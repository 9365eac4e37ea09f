"""Processes and cgroups as the agent looks at them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from aliquot.agent import processes

from agent_parts import (
    NEEDS_ROOT,
    cgroup,
    move,
    some_process,
)

pytestmark = NEEDS_ROOT


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
