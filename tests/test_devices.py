"""``aliquot devices``: what the agent tells, and what the vendors do where there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aliquot.agent import show_devices

from commands import ALIQUOT, TESTS, Desk, desk, one_line
from reading_parts import GIB, NOBODY, Board, Node, device, part, reachable, served

ZERO = replace(device(0), links={device(1).uuid: 4}, enforcement=("driver", "shim"))
ONE = device(1)

PLUG_IN = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from reading_parts import Board, device
from aliquot.agent.devices import VendorError


def acme(config):
    if config.withhold is not True:
        raise VendorError("no configuration")
    return Board((device(0), device(1)), ill={{device(1).uuid: "XID 79"}})


def broken(config):
    return Board((device(2),), "broken", fails={{"sample": VendorError("its library hangs")}})


def absent(config):
    raise VendorError("libabsent.so is not on this node: install it")
"""


@pytest.fixture
def here(tmp_path: Path) -> Desk:
    """A desk of nobody's, without a driver."""
    return desk(tmp_path / "none/libcuda.so.1", tmp_path / "none/shim.so", tmp_path)


@pytest.fixture
def node(here: Desk) -> Iterator[Node]:
    """A node with an agent's parts in that desk's folder."""
    if os.geteuid() != 0:
        pytest.skip("the agent is root: others may not write into grants")
    here.runtime.mkdir(mode=0o711)
    made = Node(here.runtime, Board((ZERO, ONE), ill={ONE.uuid: "XID 79"}))
    readings = made.readings
    yield made
    readings._grants.close()


def plug_ins(here: Desk, *names: str) -> None:
    """Install vendors, as a distribution does it; ours are not asked."""
    pytest.importorskip("aliquot.agent.devices.registry", reason="no vendors are loaded yet")
    folder = here.runtime.parent / "plug_ins"
    (folder / "acme-1.dist-info").mkdir(parents=True)
    (folder / "acme_devices.py").write_text(PLUG_IN)
    (folder / "acme-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme\nVersion: 1\n"
    )
    lines = [f"{name} = acme_devices:{name}" for name in names]
    (folder / "acme-1.dist-info/entry_points.txt").write_text(
        "\n".join(["[aliquot.vendors]", *lines, ""])
    )
    known = here.environment.get("PYTHONPATH")
    here.environment["PYTHONPATH"] = os.pathsep.join([str(folder), *([known] if known else [])])


def test_the_agent_tells_what_is_allocated(here: Desk, node: Node) -> None:
    node.ledger.add("one", part(ZERO, 3 * GIB, 30))
    node.ledger.add("two", part(ZERO, GIB, 20))
    node.sample()
    with served(node):
        shown = here.run("devices")
        assert (shown.returncode, shown.stderr) == (0, "")
        head, zero, one = (line.split("  ") for line in shown.stdout.splitlines())
        assert [cell.strip() for cell in head if cell.strip()] == [
            "INDEX", "UUID", "MODEL", "MEMORY", "USED", "ALLOCATED", "CORES", "BUSY", "HEALTH", "BY"
        ]  # fmt: skip
        assert [cell.strip() for cell in zero if cell.strip()] == [
            "0", ZERO.uuid[:12], "Acme 0", "16.0 GiB", "3.0 GiB", "4.0 GiB", "50%", "50%", "ok",
            "driver,shim",
        ]  # fmt: skip
        assert [cell.strip() for cell in one if cell.strip()][5:] == [
            "0.0 MiB", "0%", "50%", "XID 79", "shim"
        ]  # fmt: skip
        more = here.run("devices", "--all").stdout
        for told in (ZERO.uuid, "acme", "0000:01:00.0", "70 W", "41 °C", " 1:4"):
            assert told in more
        told = json.loads(here.run("devices", "--json").stdout)
    assert (told["agent"], told["faults"]) == (True, [])
    assert told["devices"][0] == {
        "index": 0,
        "uuid": ZERO.uuid,
        "vendor": "acme",
        "model": "Acme 0",
        "memory_bytes": 16 * GIB,
        "memory_used_bytes": 3 * GIB,
        "memory_allocated_bytes": 4 * GIB,
        "cores_allocated": 50,
        "slices": 2,
        "busy": 0.5,
        "memory_busy": None,
        "power_watts": 70.5,
        "temperature_celsius": 41.0,
        "healthy": True,
        "reason": "",
        "enforcement": ["driver", "shim"],
        "pci_address": "0000:00:00.0",
        "numa_node": 0,
        "links": {ONE.uuid: 4},
    }
    assert (told["devices"][1]["healthy"], told["devices"][1]["reason"]) == (False, "XID 79")


def test_what_the_agent_cannot_learn_is_a_line_and_a_status(here: Desk, node: Node) -> None:
    node.vendors[0].fails["sample"] = RuntimeError("odd")
    node.sample()
    with served(node):
        shown = here.run("devices")
    assert shown.returncode == 1
    assert "acme tells no readings" in one_line(shown)
    assert len(shown.stdout.splitlines()) == 3


def test_without_an_agent_the_vendors_are_asked(here: Desk) -> None:
    plug_ins(here, "acme")
    shown = here.run("devices")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[1].split() == [
        "0", device(0).uuid[:12], "Acme", "0", "16.0", "GiB", "3.0", "GiB", "-", "-", "50%", "ok",
        "shim",
    ]  # fmt: skip
    assert lines[2].split()[-3:] == ["XID", "79", "shim"]
    told = json.loads(here.run("devices", "--json").stdout)
    assert told["agent"] is False
    (zero, _) = told["devices"]
    assert (zero["memory_allocated_bytes"], zero["cores_allocated"], zero["slices"]) == (
        (None, None, None)
    )


def test_a_vendor_that_fails_hides_no_other(here: Desk) -> None:
    plug_ins(here, "acme", "broken")
    shown = here.run("devices")
    assert shown.returncode == 1
    assert one_line(shown) == "aliquot: broken: its library hangs"
    assert len(shown.stdout.splitlines()) == 3


def test_a_node_without_any_vendor_says_why(here: Desk) -> None:
    plug_ins(here, "absent")
    shown = here.run("devices")
    assert shown.returncode == 1
    assert "aliquot: absent: libabsent.so is not on this node: install it" in shown.stderr
    assert len(shown.stdout.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_whoever_may_not_ask_the_agent_is_told_so() -> None:
    with reachable() as folder:
        theirs = desk(folder / "libcuda.so.1", folder / "shim.so", folder, (*NOBODY, *ALIQUOT))
        plug_ins(theirs, "acme")
        theirs.runtime.mkdir(mode=0o711)
        with served(Node(theirs.runtime, Board((ZERO, ONE)))):
            shown = theirs.run("devices")
    assert shown.returncode == 0
    assert one_line(shown) == (
        f"aliquot: {theirs.runtime}/agent.sock is root's: ask the agent as root (sudo aliquot …): "
        "what is allocated is not known"
    )
    assert len(shown.stdout.splitlines()) == 3


def test_an_agent_that_does_not_answer_is_not_passed_over(here: Desk, node: Node) -> None:
    node.readings = None  # type: ignore[assignment]
    with served(node):
        shown = here.run("devices")
    assert shown.returncode == 1
    assert "failed: " in one_line(shown)


def test_an_object_has_all_that_is_known_of_a_device() -> None:
    assert set(show_devices.Shown.__dataclass_fields__) >= {"links", "numa_node", "reason"}
