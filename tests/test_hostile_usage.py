"""What slices write into `usage`: whatever it is, the agent's numbers stay within what can be.

region.read_usage by itself is in test_region, the arbiter in test_arbiter_runner.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from aliquot.agent import metrics, ps, rundir, survey
from aliquot.agent.meters import Meters
from aliquot.agent.slices import Container, Slice
from aliquot.shim import region
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reading_parts import GIB, Board, Node, device, part
from slots import Slot, write_figures, write_time

ZERO, ONE = device(0), device(1)
WORD = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from((0, 1, 2**63, 2**64 - 1)))
USED = st.builds(
    region.UsedDevice,
    peak=WORD,
    refusals=WORD,
    device_ns=WORD,
    wait_ns=WORD,
    waits=WORD,
    let_through=WORD,
)
# Behind the head, which says that it is a region, to the end of the slots.
_READ = 4096 + 8 * region.MAX_DEVICES * region.MAX_SLOTS + 64 * region.MAX_SLOTS
SCRIBBLES = st.lists(
    st.tuples(
        st.one_of(st.integers(16, 8192), st.integers(16, _READ)), st.binary(min_size=1, max_size=64)
    ),
    max_size=20,
)


def scribble(path: Path, scribbles: list[tuple[int, bytes]]) -> None:
    with path.open("r+b") as file:
        for where, data in scribbles:
            os.pwrite(file.fileno(), data, where)


@settings(max_examples=200)
@given(told=st.lists(st.tuples(USED, st.integers(0, 10**12)), min_size=1, max_size=8), other=USED)
def test_counters_only_grow_and_no_faster_than_time(
    told: list[tuple[region.UsedDevice, int]], other: region.UsedDevice
) -> None:
    meters = Meters()
    piece = Slice("one", Container("id", "/bundle", "moby"), (part(ZERO),), 10**18, 1, 1)
    now = piece.created_unix_ns
    neighbour = replace(piece, key="neighbour")
    beside = meters.read(neighbour, ZERO.uuid, other, now + 1)
    before = region.UsedDevice(0, 0)
    for used, passed in told:
        now += passed
        shown = meters.read(piece, ZERO.uuid, used, now)
        for name, value in asdict(shown).items():
            assert getattr(before, name) <= value
        age_ns = now - piece.created_unix_ns
        assert shown.device_ns <= age_ns
        assert shown.wait_ns <= age_ns * region.MAX_SLOTS * 1023
        before = shown
    nothing = region.UsedDevice(0, 0)
    assert meters.read(neighbour, ZERO.uuid, nothing, now + 1) == beside


@settings(max_examples=60)
@given(scribbles=SCRIBBLES)
def test_ps_shows_every_slice_whatever_one_of_them_writes(
    tmp_path_factory: pytest.TempPathFactory, scribbles: list[tuple[int, bytes]]
) -> None:
    base = tmp_path_factory.mktemp("runtime")
    base.chmod(0o700)
    for name in ("hostile", "other"):
        run = rundir.create(base, name)
        run.region_folder.mkdir(parents=True)
        fd = os.open(run.region_folder, os.O_RDONLY)
        region.create(fd, name, [region.RegionDevice(bytes(16), 4 * GIB, 2 << 20, 0)] * 2)
        os.close(fd)
    usages = [base / f"run-{name}" / "lib/.aliquot/usage" for name in ("hostile", "other")]
    owners = [Slot(usage, 2) for usage in usages]
    owners[1].charge(1, 5)
    scribble(usages[0], scribbles)
    seen = survey.look([base])
    for owner in owners:
        owner.die()
    assert seen.faults == []
    hostile, other = sorted(seen.slices, key=lambda one: one.name)
    for row in hostile.devices:
        assert row.charge in range((region.MAX_SLOTS << 53) + 1)
        assert row.peak in range((1 << 53) + 1)
    assert [row.charge for row in other.devices] == [0, 5]
    for wide in (False, True):
        for line in ps._table(seen.slices, wide=wide):
            assert line.isprintable()
    shown = json.loads(json.dumps(ps.as_json(seen.slices, seen.faults)))
    assert [one["name"] for one in shown["slices"]] == [one.name for one in seen.slices]


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root: others may not write into grants")
@settings(max_examples=40)
@given(scribbles=st.lists(SCRIBBLES, min_size=1, max_size=3))
def test_what_one_slice_writes_changes_no_number_of_another(
    tmp_path_factory: pytest.TempPathFactory, scribbles: list[list[tuple[int, bytes]]]
) -> None:
    node = Node(tmp_path_factory.mktemp("node"), Board((ZERO, ONE)))
    for key in ("hostile", "other"):
        piece = node.ledger.add(key, part(ZERO), part(ONE))
        node.ledger.put(replace(piece, created_unix_ns=time.time_ns() - 10**12))
    usages = [node.ledger.region(key) / "usage" for key in ("hostile", "other")]
    owners = [Slot(usage, 2) for usage in usages]
    owners[1].charge(1, 5 << 20)
    write_figures(usages[1], 1, peak=7 << 20, refusals=3)
    write_time(usages[1], 1, 2_500_000_000, 750_000_000, waits=40, let_through=6)

    def told(key: str) -> list[str]:
        node.sample()
        text = metrics.exposition(node.readings.latest())[1].decode()
        assert list(text_string_to_metric_families(text))
        return [line for line in text.splitlines() if f'pod="{key}"' in line]

    before = told("other")
    for each in scribbles:
        scribble(usages[0], each)
        assert told("other") == before
    for owner in owners:
        owner.die()
    node.readings._grants.close()
