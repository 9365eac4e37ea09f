"""`aliquot set`: changes over the socket, and what the command says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aliquot.agent import rpc
from aliquot.agent.changes import Wish
from aliquot.agent.errors import BadRequestError
from aliquot.agent.slices import Container, Slice

import reading_parts
from agent_parts import (
    GIB,
    NEEDS_ROOT,
    make_slice,
)
from change_parts import (
    Office,
    open_office,
    told,
)
from commands import ALIQUOT, PATIENCE_SECONDS
from slots import Slot

pytestmark = NEEDS_ROOT


# -- Over the socket -----------------------------------------------------------------------------


def over_the_socket(folder: Path, ask: Callable[[Path], None], pieces: Sequence[Slice]) -> None:
    """Serve tools while ``ask`` asks, in a thread of its own, about the slices ``pieces``."""
    with open_office(folder) as office:
        node = reading_parts.Node(folder)
        node.changes = office.changes

        async def tell(_: Office) -> None:
            for piece in pieces:
                office.add(piece.container.id, *piece.parts, container=piece.container)
            async with rpc.serve(node):
                with ThreadPoolExecutor(1) as threads:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(threads, ask, folder)

        asyncio.run(told(office, tell))


def aliquot_set(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALIQUOT, "set", *arguments],
        env={**os.environ, "ALIQUOT_RUNTIME_DIR": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_the_command_says_what_the_container_has_now(tmp_path: Path) -> None:
    container = Container("0123456789abcdef", "/bundles/0123456789abcdef", "team", "pod", "main")

    def ask(folder: Path) -> None:
        said = aliquot_set(folder, "team/pod/main", "--cores", "20%", "--priority", "-5")
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.split() == [
            *("team/pod/main", "PAPER-01", "1.0", "GiB", "cores", "20", "to", "100%"),
            *("weight", "100", "priority", "-5", "burst-share"),
        ]
        said = aliquot_set(folder, "0123", "--memory", "2GiB", "--policy", "3", "--json")
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout) == {
            "key": make_slice(container.id).key,
            "name": "team/pod/main",
            "policy": "fixed",
            "group": "",
            "quiet_ms": 100,
            "floor": 0,
            "devices": [
                {
                    "uuid": "PAPER-01",
                    "cap_bytes": 2 * GIB,
                    "cores": 20,
                    "cores_max": 20,
                    "weight": 100,
                    "priority": -5,
                }
            ],
            "notes": [],
        }
        usage = folder / "run/containers" / make_slice(container.id).key / "region/usage"
        slot = Slot(usage, 0)
        slot.charge(0, GIB)
        said = aliquot_set(folder, "0123", "--memory", "512MiB")
        assert said.returncode == 0
        assert said.stderr == (
            "aliquot: team/pod/main holds 1.0 GiB of PAPER-01, above the new cap of 512.0 MiB: "
            "nothing more is given until it frees\n"
        )
        slot.die()

    over_the_socket(tmp_path, ask, [make_slice(container.id, container=container)])


def test_the_command_fails_with_one_line(tmp_path: Path) -> None:
    def ask(folder: Path) -> None:
        for arguments, status, line in (
            (("c1", "--memory", "17GiB"), 1, "c1: PAPER-01 (1, Paper 16) has 15.0 GiB of"),
            (("c1", "--cores-max", "5"), 2, "--cores-max: 5% are less than the 10%"),
            (("nobody", "--cores", "5"), 1, "no container 'nobody' has a slice"),
            (("c", "--cores", "5"), 1, "'c' may be several containers, name one: c1"),
            (("c1", "--cores", "5", "--device", "GPU-é"), 2, "'GPU-é' is none of the devices"),
        ):
            said = aliquot_set(folder, *arguments)
            assert (said.returncode, said.stdout) == (status, ""), said.stderr
            (told,) = said.stderr.splitlines()
            assert told.startswith("aliquot: ")
            assert line in told

    over_the_socket(tmp_path, ask, [make_slice("c1"), make_slice("c2")])


def test_the_command_needs_an_agent(tmp_path: Path) -> None:
    said = aliquot_set(tmp_path, "c1", "--cores", "5")
    assert said.returncode == 1
    assert said.stderr.startswith("aliquot: the agent does not answer on ")


def test_what_others_send_is_looked_at_as_what_people_write(tmp_path: Path) -> None:
    """A client of the socket need not be ours."""

    def ask(folder: Path) -> None:
        with rpc.Client(folder / "agent.sock") as client:
            for numbers in ({"cores": 300}, {"priority": -101}, {"weight": 1 << 31}):
                with pytest.raises(BadRequestError):
                    client.change(Wish("c1", numbers=numbers))
            with pytest.raises(BadRequestError, match="is not a policy"):
                client.change(Wish("c1", policy="\x1b[2J"))

    over_the_socket(tmp_path, ask, [make_slice("c1")])
