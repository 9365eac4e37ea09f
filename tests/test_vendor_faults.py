"""Every function of a management library fails, alone, and its vendor's module goes on.

What is bound of a library is read where the agent has it; a library before the simulator's has each
function of that answer every error in turn, of one device and of all, from the start and while it
is used, and be missing, and write numbers that are none. What is to hold is in fault_worker.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import cambricon_node
from agent_parts import NEEDS_ROOT
from ascend_node import ascend_node, node_text
from commands import TESTS
from faults import need_stubs

pytestmark = NEEDS_ROOT


@contextmanager
def of_ascend(folder: Path, library: Path, text: str) -> Iterator[dict[str, str]]:
    """A node with Ascend devices that hold something."""
    with ascend_node(folder, library, text, with_files=True) as node:
        # (Of a device that a program has as a whole there are no vNPUs.)
        assert node.holder(1).do("take 300")
        # A minor fault is none that matters, and is asked for all the same.
        for device in range(2):
            node.inject(device, 0x80E18000, 1)
        yield {**node.environment(os.environ), "ROOT": str(node.folder / "root")}


@contextmanager
def of_cambricon(folder: Path, library: Path, *orders: str) -> Iterator[dict[str, str]]:
    """A node with Cambricon's devices that hold something."""
    node = cambricon_node.Node(folder, library.parent)
    for minor in range(2):
        os.mknod(node.dev / f"cambricon_dev{minor}", 0o020666, os.makedev(1, 3))
    (node.state / "root/dev/cambricon-caps").mkdir(exist_ok=True)
    (node.dev / "cambricon-caps").symlink_to(node.state / "root/dev/cambricon-caps")
    try:
        for device in range(2):
            assert node.holder(folder, device).do("take 64")
        for order in orders:
            assert node.holders[0].do(order), order
        yield {**node.environment, "ROOT": str(folder)}
    finally:
        node.close()


@contextmanager
def of_nvidia(folder: Path, odd: Path) -> Iterator[dict[str, str]]:
    """A node with the odd NVML."""
    yield {
        **os.environ,
        "LD_LIBRARY_PATH": str(odd),
        "ODD_NVML": str(folder / "told"),
        "ROOT": str(folder),
    }


def explored(
    kind: str, folder: Path, real: Path, environment: dict[str, str], done: set[str]
) -> dict[str, Any]:
    """What came of it."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(TESTS / "fault_worker.py"), kind, str(folder), str(real)]
    ended = subprocess.run(
        [*command, environment["ROOT"], ",".join(sorted(done))],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


Nodes = Callable[[str, Path, Path], Any]


@pytest.fixture
def nodes(
    odd_nvml: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[str, Callable[[Path, Path], Any], str]]]:
    """The kinds of each vendor, their nodes, and the library of the stand-in."""
    ddr = node_text("310P3", 2, 24576, 8)
    older = cambricon_node.built("older", tmp_path_factory.mktemp("older"))
    mim = ("mim 1", "share 512 50 first", "share 256 25 second")
    odd = str(odd_nvml / "libnvidia-ml.so.1")
    return {
        "ascend": [
            ("ascend", lambda f, s: of_ascend(f, s, node_text()), "libdcmi.so"),
            ("ascend-ddr", lambda f, s: of_ascend(f, s, ddr), "libdcmi.so"),
        ],
        "ascend-950": [
            (
                "ascend-950",
                lambda f, s: of_ascend(f, s, node_text("950", 2, 131072, 32)),
                "dcmiv2/libdcmi.so",
            )
        ],
        "cambricon": [
            ("cambricon", of_cambricon, "libcndev.so"),
            ("cambricon-mim", lambda f, s: of_cambricon(f, s, *mim), "libcndev.so"),
            ("cambricon-older", of_cambricon, str(older)),
        ],
        "nvidia": [
            ("nvidia", lambda f, _: of_nvidia(f, odd_nvml), odd),
            ("nvidia-mig", lambda f, _: of_nvidia(f, odd_nvml), odd),
        ],
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("vendor", ["ascend", "ascend-950", "cambricon", "nvidia"])
def test_whatever_function_fails_the_rest_is_told(
    nodes: dict[str, list[tuple[str, Callable[[Path, Path], Any], str]]],
    vendor: str,
    tmp_path: Path,
    sim_library: Path,
) -> None:
    need_stubs()
    bound: set[str] = set()
    failed: set[str] = set()
    findings: list[str] = []
    for kind, make, library in nodes[vendor]:
        with ExitStack() as stack:
            (tmp_path / kind).mkdir()
            environment = stack.enter_context(make(tmp_path / kind, sim_library))
            real = sim_library.with_name("x").parent / library
            found = explored(kind, tmp_path / kind / "work", real, environment, failed)
        print(
            f"{kind}: {found['cases']} cases, {len(found['failed'])} functions failed, "
            f"{found['seconds']:.1f} s of a processor"
        )
        bound |= set(found["bound"])
        failed |= set(found["failed"])
        findings += [f"{kind}: {one}" for one in found["findings"]]
    assert not findings, "\n".join(findings[:60])
    assert bound - failed == set(), "bound, and never made to fail"
