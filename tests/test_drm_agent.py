"""An agent with the plug-in for AMD and Intel, from a container's request to its end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import drm_agent
from agent_node import Node, end
from agent_parts import NEEDS_ROOT, cgroup, swept
from commands import ALIQUOT, wait_for
from drm_tree import ARC, ARC_BYTES, GIB, MI300X, MIB, Tree, arc, fdinfo, mi300x
from edit_parts import LEAST

pytestmark = NEEDS_ROOT

ARC_UUID = "PCI-0000-04-00-0"
REGION = f"drm/{ARC}/vram0"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A node with eight MI300X, which nobody can cap, and an Arc, which the kernel caps."""
    made = Tree(tmp_path / "tree")
    mi300x(made)
    arc(made, 8)
    return made


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@pytest.fixture
def node(tmp_path: Path, tree: Tree, port: int) -> Iterator[Node]:
    """A node whose agent runs."""
    made = Node(tmp_path / "node", drm_agent.__file__)
    made.folder.mkdir()
    with swept(made.base), made.agent(str(tmp_path / "tree"), str(port)):
        yield made
        for pid in made.running:
            end(pid)


def bundle(folder: Path, **asked: str) -> Path:
    """A real bundle that asks for this, ``cores_max`` for ``cores-max``."""
    (folder / "rootfs").mkdir(parents=True)
    annotations = {f"aliquot.dev/{key.replace('_', '-')}": text for key, text in asked.items()}
    config = {**LEAST, "annotations": annotations, "process": {"env": [], "args": ["sleep"]}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def aliquot(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)}
    return subprocess.run(
        [*ALIQUOT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def shown(node: Node) -> list[dict[str, Any]]:
    """The devices of the slices."""
    told = aliquot(node, "ps", "--json")
    assert told.returncode == 0, told.stderr
    return [device for piece in json.loads(told.stdout)["slices"] for device in piece["devices"]]


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def group_of(tree: Tree, real: Path) -> Path:
    """The folder of the tree that stands for a real cgroup."""
    return tree.group(str(real))


def test_the_agent_shows_the_devices_of_the_kernel(node: Node, port: int) -> None:
    told = aliquot(node, "devices", "--json")
    assert told.returncode == 0, told.stderr
    devices = json.loads(told.stdout)["devices"]
    assert [device["pci_address"] for device in devices] == [*MI300X, ARC]
    assert [device["vendor"] for device in devices] == ["amd"] * 8 + ["intel"]
    assert devices[0]["enforcement"] == []
    assert devices[8]["enforcement"] == ["driver"]
    # Whoever asks without --json reads it too.
    assert "nobody" in aliquot(node, "devices").stdout
    page = metrics(port)
    label = f'{{device_uuid="{ARC_UUID}"}}'
    total = page.partition(f"aliquot_device_memory_total_bytes{label} ")[2].partition("\n")[0]
    assert float(total) == ARC_BYTES
    assert 'model="AMD Instinct MI300X OAM"' in page


def test_a_container_has_its_files_and_its_cap_from_its_start_to_its_end(
    node: Node, tree: Tree, port: int
) -> None:
    with cgroup("cgroup2", f"aliquot-drm-{os.getpid()}") as real:
        leaf = group_of(tree, real)
        asked = bundle(node.folder / "one", memory="3GiB", uuid="PCI-0000-04")
        started = node.start(asked, real)
        assert started.returncode == 0, started.stderr
        # The runtime was not answered before it was there, and starts the program after that.
        assert (leaf / "dmem.max").read_text().splitlines() == [f"{REGION} {3 * GIB}"]
        config = json.loads((asked / "config.json").read_text())
        assert {
            one["path"]: (one["major"], one["minor"]) for one in config["linux"]["devices"]
        } == {
            "/dev/dri/card8": (226, 8),
            "/dev/dri/renderD136": (226, 136),
        }
        allowed = [rule for rule in config["linux"]["resources"]["devices"] if rule["allow"]]
        assert {(rule["major"], rule["minor"]) for rule in allowed} == {(226, 8), (226, 136)}

        (pid,) = node.running
        stop = threading.Event()

        def work() -> None:
            """A program that keeps the device busy a quarter of the time, as xe counts it."""
            cycles = 0
            while not stop.wait(0.02):
                cycles += 1000
                lines = ["drm-resident-vram0:\t700 MiB", f"drm-cycles-ccs:\t{cycles}"]
                text = fdinfo("xe", ARC, 1, *lines, f"drm-total-cycles-ccs:\t{4 * cycles}")
                tree.open(pid, 5, text)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            wait_for(
                lambda: [one["busy"] for one in shown(node)] == [0.25], "the time of a container"
            )
            (device,) = shown(node)
            assert (device["uuid"], device["enforcement"]) == (ARC_UUID, "driver")
            assert (device["cap_bytes"], device["unseen_bytes"]) == (3 * GIB, 700 * MIB)
            wait_for(
                lambda: any(
                    line.startswith("aliquot_container_busy_ratio{") and line.endswith(" 0.25")
                    for line in metrics(port).splitlines()
                ),
                "the time of a container in the metrics",
            )
            assert 'enforcement="driver"' in metrics(port)
        finally:
            stop.set()
            worker.join()

        changed = aliquot(node, "set", "one", "--memory", "2GiB")
        assert changed.returncode == 0, changed.stderr
        refused = aliquot(node, "set", "one", "--cores", "30")
        assert refused.returncode != 0
        assert "has nobody who keeps shares of its time: ask for no cores" in refused.stderr
        node.stop(asked, pid)
        wait_for(lambda: not shown(node), "the end of a slice")
        # While the cgroup was there still.
        assert real.is_dir()
        lines = (leaf / "dmem.max").read_text().splitlines()
        assert lines == [f"{REGION} {3 * GIB}", f"{REGION} {2 * GIB}", f"{REGION} max"]


def test_a_container_whose_cap_cannot_be_set_does_not_start(node: Node, tree: Tree) -> None:
    del tree
    with cgroup("cgroup2", f"aliquot-drm-no-{os.getpid()}") as real:
        # The kernel did not hand the controller down to it.
        asked = bundle(node.folder / "one", memory="3GiB", uuid="PCI-0000-04")
        started = node.start(asked, real)
    assert started.returncode != 0
    assert f"({REGION}) could not be set to {3 * GIB}: No such file or directory" in started.stderr
    wait_for(lambda: not shown(node), "the end of a slice")


def test_a_part_of_a_device_that_nobody_caps_is_refused_and_all_of_it_is_given(
    node: Node, port: int
) -> None:
    refused = node.start(bundle(node.folder / "part", memory="10GiB", model="MI300X"))
    assert refused.returncode != 0
    reason = "has nobody who holds memory caps: it is given as a whole (ask for no part of it)"
    assert reason in refused.stderr
    given = node.start(bundle(node.folder / "whole", devices="2", model="MI300X"))
    assert given.returncode == 0, given.stderr
    config = json.loads((node.folder / "whole/config.json").read_text())
    assert "/dev/kfd" in {one["path"] for one in config["linux"]["devices"]}
    devices = shown(node)
    assert [device["enforcement"] for device in devices] == ["nobody", "nobody"]
    assert 'enforcement="nobody"' in metrics(port)
    # Beside it there is no room.
    more = node.start(bundle(node.folder / "more", devices="7", model="MI300X"))
    assert more.returncode != 0


def test_a_card_that_goes_away_gets_no_container(node: Node, tree: Tree) -> None:
    tree.unplug("xe", ARC)

    def ill() -> bool:
        told = json.loads(aliquot(node, "devices", "--json").stdout)["devices"][8]
        return told["healthy"] is False and told["busy"] is None

    wait_for(ill, "the illness of a device")
    refused = node.start(bundle(node.folder / "one", memory="1GiB", uuid="PCI-0000-04"))
    assert f"is unhealthy: xe does not have {ARC} any more" in refused.stderr
