"""Real programs in real containers share devices, and nobody ever hangs.

Every program works in rounds; that each goes on is what is promised, whatever the machine does
besides. How much each gets is exact in test_time_exact.py, and measured in bench/shares.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shared_node
from nodes import NodeBed, node_bed
from shared_node import HangError, Program, Stopped, pids, program, programs

HERE = Path(__file__).resolve().parent
NODE = """
[[device]]
count = 2
memory = "8GiB"
context = "16MiB"
nvlinks = 12
"""
ONE = {"ALIQUOT_CORES": "30"}
OTHER = {"ALIQUOT_CORES": "70"}
SEED = 20
KILLS = 40

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts containers")


@pytest.fixture(scope="module")
def bed(
    tmp_path_factory: pytest.TempPathFactory,
    header_folder: Callable[[str], Path],
    sim_library: Path,
) -> Iterator[NodeBed]:
    """A node with an agent, and the program in its image."""
    folder = tmp_path_factory.mktemp("share")
    client = folder / "share_client"
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"),
            *("-I", header_folder("13.5"), "-o", client, HERE / "share_client.c"),
            *("-L", sim_library.parent, "-l:libcuda.so.1", "-lpthread"),
            # A library built with a sanitizer leaves its names to whoever loads it.
            "-Wl,--unresolved-symbols=ignore-in-shared-libs",
        ],
        check=True,
    )
    node = folder / "node.toml"
    node.write_text(NODE)
    with node_bed(
        str(node),
        programs={shared_node.PROGRAM: client},
        **{"limits.container.priority": 50},
    ) as bed:
        yield bed


def test_two_who_want_all_of_a_device_both_go_on(bed: NodeBed) -> None:
    with programs(bed, ("one", ["load", 1], ONE), ("other", ["load", 20], OTHER)) as both:
        for each in (*both, *both):
            each.goes_on(50)
        assert all(each.ran_ns() > 0 for each in both)
