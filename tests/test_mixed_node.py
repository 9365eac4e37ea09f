"""One agent on a node with devices of NVIDIA, Ascend, Cambricon, AMD and Intel together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.ledger import Ledger
from aliquot.sim import cdi, files
from aliquot.sim.node import parse_node
from aliquot.sim.state import State, create, environment

import mixed_agent
from agent_node import Node, end
from agent_parts import NEEDS_ROOT, cgroup, swept
from commands import ALIQUOT, PATIENCE_SECONDS, wait_for
from drm_tree import GIB, MI300X, MIB, Tree, arc, mi300x
from edit_parts import LEAST

pytestmark = NEEDS_ROOT

NODE = """
[[device]]
count = 2
model = "NVIDIA A100-SXM4-40GB"
memory = "1GiB"
context = "8MiB"

[[device]]
vendor = "ascend"
count = 2
model = "910B3"
memory = "65536MiB"
page_size = "1MiB"
sms = 20

[[device]]
vendor = "cambricon"
count = 2
model = "MLU370-X8"
memory = "1088MiB"
reserved = "64MiB"
"""
COUNTS = {"nvidia": 2, "ascend": 2, "cambricon": 2, "amd": 8, "intel": 1}
# One container of each vendor, by every kind of name: what it asks for, whose device, who holds it,
# and how much it has.
CONTAINERS = {
    "slice": ({"memory": "256MiB", "cores": "30"}, "nvidia", "shim", 256 * MIB),
    "vnpu": ({"memory": "10GiB", "model": "910b"}, "ascend", "partition", 16 * GIB),
    "smlu": ({"memory": "512MiB", "vendor": "cambricon"}, "cambricon", "partition", 512 * MIB),
    "whole": ({"uuid": "amd:3"}, "amd", "nobody", 206_141_652_992),
    "dmem": ({"memory": "3GiB", "uuid": "PCI-0000-04"}, "intel", "driver", 3 * GIB),
}
# A device file that only one vendor's containers have.
FILES = {
    "slice": "/dev/nvidiactl",
    "vnpu": "/dev/davinci_manager",
    "smlu": "/dev/cambricon_ctl",
    "whole": "/dev/kfd",
    "dmem": "/dev/dri/card8",
}


@dataclass
class Site:
    """The node's folders."""

    state: Path
    library: Path
    cdi: Path
    tree: Tree
    port: int

    def arguments(self, default: str = "") -> tuple[str, ...]:
        """What the agent is started with."""
        folders = (self.state / "root", self.cdi, self.tree.sys.parent)
        return (*map(str, folders), str(self.port), default)

    def metrics(self) -> str:
        """The page of metrics."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture
def site(tmp_path: Path, sim_library: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A simulated node, its files and specifications, and a kernel's tree beside it."""
    node = parse_node(NODE, "test.toml", "test")
    state = tmp_path / "state"
    create(node, state)
    files.lay_out(node, state)
    cdi.write(node, state, tmp_path / "cdi")
    for name, value in environment(state, sim_library, os.environ).items():
        monkeypatch.setenv(name, value)
    tree = Tree(tmp_path / "tree")
    mi300x(tree)
    arc(tree, 8)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return Site(state, sim_library, tmp_path / "cdi", tree, port)


@pytest.fixture
def leaf(site: Site) -> Iterator[Path]:
    """A cgroup in which the kernel's controller caps devices."""
    with cgroup("cgroup2", f"aliquot-mixed-{os.getpid()}") as made:
        site.tree.group(str(made))
        yield made


@pytest.fixture
def node(tmp_path: Path, leaf: Path) -> Iterator[Node]:
    """A folder for an agent; whoever still runs in it at the end is ended."""
    del leaf
    made = Node(tmp_path / "node", mixed_agent.__file__)
    made.folder.mkdir()
    with swept(made.base):
        yield made
        for pid in made.running:
            end(pid)


def bundle(node: Node, name: str, *env: str, **asked: str) -> Path:
    """A real bundle that asks for this."""
    folder = node.folder / name
    (folder / "rootfs").mkdir(parents=True)
    annotations = {f"aliquot.dev/{key}": text for key, text in asked.items()}
    process = {"env": list(env), "args": ["sleep"]}
    config = {**LEAST, "annotations": annotations, "process": process}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def files_of(asked: Path) -> set[str]:
    """The device files that a container has."""
    config = json.loads((asked / "config.json").read_text())
    return {one["path"] for one in config["linux"]["devices"]}


def aliquot(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)}
    return subprocess.run(
        [*ALIQUOT, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE_SECONDS,
    )


def told_of(node: Node) -> dict[str, Any]:
    """What the agent tells of devices; a vendor that does not tell is a fault."""
    told = aliquot(node, "devices", "--json")
    table: dict[str, Any] = json.loads(told.stdout)
    assert told.returncode == (1 if table["faults"] else 0), told.stderr
    return table


def devices(node: Node) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = told_of(node)["devices"]
    return listed


def slices(node: Node) -> dict[str, dict[str, Any]]:
    """The one device of each container, by the container's name."""
    told = aliquot(node, "ps", "--json")
    assert told.returncode == 0, told.stderr
    return {piece["name"]: piece["devices"][0] for piece in json.loads(told.stdout)["slices"]}


def vendor_of(node: Node, device: dict[str, Any]) -> str:
    """Whose device a slice has."""
    by_uuid: dict[str, str] = {one["uuid"]: one["vendor"] for one in devices(node)}
    return by_uuid[device["uuid"]]


def start_each(node: Node, leaf: Path) -> None:
    """Start one container of each vendor; that of the kernel's cap in a cgroup that has it."""
    for name, (asked, *_) in CONTAINERS.items():
        groups = (leaf,) if name == "dmem" else ()
        started = node.start(bundle(node, name, **asked), *groups)
        assert started.returncode == 0, started.stderr


def check_each(node: Node) -> None:
    """See that each has what it asked for, of its vendor."""
    shown = slices(node)
    assert set(shown) == set(CONTAINERS)
    owners = {one["uuid"]: one["vendor"] for one in devices(node)}
    for name, (_, vendor, holder, memory) in CONTAINERS.items():
        device = shown[name]
        assert owners[device["uuid"]] == vendor, name
        assert (device["enforcement"], device["cap_bytes"]) == (holder, memory), name


def test_all_devices_are_in_one_list_each_vendors_by_their_own_numbers(
    node: Node, site: Site
) -> None:
    with node.agent(*site.arguments()):
        listed = devices(node)
        assert len({one["uuid"] for one in listed}) == len(listed) == sum(COUNTS.values())
        numbers = {
            vendor: [one["index"] for one in listed if one["vendor"] == vendor] for vendor in COUNTS
        }
        assert numbers == {vendor: list(range(count)) for vendor, count in COUNTS.items()}
        assert all(one["healthy"] for one in listed)
        # Numbers that several vendors have say nothing alone.
        head, *rows = aliquot(node, "devices").stdout.splitlines()
        assert head.split()[:2] == ["INDEX", "VENDOR"]
        assert [tuple(row.split()[:2]) for row in rows] == [
            (str(one["index"]), one["vendor"]) for one in listed
        ]
    with node.agent(*site.arguments()):
        again = devices(node)
    keys = ("index", "vendor", "uuid")
    assert [[one[key] for key in keys] for one in again] == [
        [one[key] for key in keys] for one in listed
    ]


def test_a_container_of_each_vendor_is_in_one_ledger_and_on_one_page_to_its_end(
    node: Node, site: Site, leaf: Path
) -> None:
    with node.agent(*site.arguments()) as agent:
        start_each(node, leaf)
        check_each(node)
        for name, file in FILES.items():
            found = files_of(node.folder / name)
            # Its own vendor's files, and nobody else's.
            assert file in found
            others = {other for key, other in FILES.items() if key != name}
            # (The Arc has no KFD, but an MI300X has a file of the DRM.)
            assert not found & others, name
        page = site.metrics()
        for vendor, count in COUNTS.items():
            told = re.findall(rf'^aliquot_device_info{{.*vendor="{vendor}"', page, re.MULTILINE)
            assert len(told) == count
        caps = re.findall(r"^aliquot_container_memory_cap_bytes{.*} (\S+)$", page, re.MULTILINE)
        assert sorted(map(float, caps)) == sorted(float(one[3]) for one in CONTAINERS.values())
        node.check_books()
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    ledger = Ledger(node.base)
    ledger.open()
    assert {part.vendor for piece in ledger.slices() for part in piece.parts} == set(COUNTS)
    # Whoever comes after a crash knows them all.
    with node.agent(*site.arguments()):
        check_each(node)
        for name in CONTAINERS:
            node.stop(node.folder / name, node.running[0])
        wait_for(lambda: not slices(node), "the end of the slices")
        held = [one["memory_allocated_bytes"] for one in devices(node)]
        assert held == [0] * sum(COUNTS.values())
        assert (site.tree.group(str(leaf)) / "dmem.max").read_text().endswith(" max\n")
        node.check_books()


def test_who_does_not_say_whose_device_gets_nvidias_or_what_the_node_says(
    node: Node, site: Site
) -> None:
    with node.agent(*site.arguments()):
        # More than all of NVIDIA's have: nobody else's is taken for it.
        refused = node.start(bundle(node, "large", memory="2GiB"))
        assert refused.returncode != 0
        assert "is not of the vendor asked for (nvidia)" in refused.stderr
        refused = node.start(bundle(node, "hami", "CUDA_DEVICE_MEMORY_LIMIT=2g"))
        assert "is not of the vendor asked for (nvidia)" in refused.stderr
        assert node.start(bundle(node, "all", devices="all")).returncode == 0
        assert "/dev/davinci_manager" not in files_of(node.folder / "all")
        listed = devices(node)
        assert {one["vendor"] for one in listed if one["slices"]} == {"nvidia"}
        unknown = node.start(bundle(node, "other", vendor="hygon"))
        assert "asks for a device of hygon: the node has those of amd, ascend" in unknown.stderr
    with node.agent(*site.arguments("cambricon")):
        assert node.start(bundle(node, "said", memory="100MiB")).returncode == 0
        assert vendor_of(node, slices(node)["said"]) == "cambricon"


@pytest.mark.parametrize("broken", ["libcndev.so", "libdcmi.so", "libnvidia-ml.so.1"])
def test_a_vendor_whose_library_cannot_be_loaded_leaves_the_others_running(
    node: Node, site: Site, leaf: Path, broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / broken).write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{folder}:{os.environ['LD_LIBRARY_PATH']}")
    ill = {"libcndev.so": "cambricon", "libdcmi.so": "ascend", "libnvidia-ml.so.1": "nvidia"}[
        broken
    ]
    # The driver's own folder has it, too.
    if ill != "nvidia":
        for place in (site.state / "root").rglob(broken):
            place.write_text("no library")
    with node.agent(*site.arguments()):
        assert {one["vendor"] for one in devices(node)} == set(COUNTS) - {ill}
        for name, (asked, vendor, *_) in CONTAINERS.items():
            said = {**asked, "vendor": vendor}
            started = node.start(bundle(node, name, **said), *((leaf,) if name == "dmem" else ()))
            if vendor == ill:
                assert f"asks for a device of {ill}: the node has those of" in started.stderr
            else:
                assert started.returncode == 0, started.stderr
        assert len(slices(node)) == len(CONTAINERS) - 1


def test_what_fails_while_it_runs_fails_alone(node: Node, site: Site, leaf: Path) -> None:
    with node.agent(*site.arguments()) as agent:
        start_each(node, leaf)
        # One vendor's library, one device by its fault, and one that is pulled out.
        agent.send_signal(signal.SIGUSR1)
        state = State(site.state)
        state.inject(2, 0x80E18402, 3)
        state.close()
        site.tree.unplug("amdgpu", MI300X[7])

        def ill() -> set[tuple[str, int]]:
            return {(one["vendor"], one["index"]) for one in devices(node) if not one["healthy"]}

        expected = {("cambricon", 0), ("cambricon", 1), ("ascend", 0), ("amd", 7)}
        wait_for(lambda: ill() == expected, "the faults")
        faults = told_of(node)["faults"]
        assert faults
        assert all(line.startswith("cambricon tells no") for line in faults)
        check_each(node)
        refused = node.start(bundle(node, "more-smlu", memory="100MiB", vendor="cambricon"))
        assert "is unhealthy" in refused.stderr
        for name in ("slice", "vnpu"):
            asked, vendor, *_ = CONTAINERS[name]
            more = node.start(bundle(node, f"more-{name}", **asked))
            assert more.returncode == 0, more.stderr
            assert vendor_of(node, slices(node)[f"more-{name}"]) == vendor
        # Read on: the page has them all.
        page = site.metrics()
        for vendor, count in COUNTS.items():
            assert page.count(f'vendor="{vendor}"') >= count
