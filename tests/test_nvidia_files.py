"""What a container needs for NVIDIA's devices, from a specification or found on the node."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import UUIDS, odd_driver
from nvidia_node import Node

MIB = 1 << 20
PARTS = ("MIG-00000001-0000-0000-0000-000000000000", "MIG-00000002-0000-0000-0000-000000000000")


@pytest.fixture
def node(odd_node: Node) -> Node:
    """A node with the odd NVML alone."""
    return odd_node


# -- what a container needs --


@pytest.fixture
def driver_folder(odd_nvml: Path, tmp_path: Path) -> Path:
    """A folder laid out as a driver's, with what an update and other packages left there."""
    cuda = odd_driver(tmp_path / "lib")
    real = cuda.resolve()
    nvml = odd_nvml / "libnvidia-ml.so.999.1"
    for name in ("libnvidia-ml.so.999.1", "libnvidia-ptxjitcompiler.so.999.1"):
        (real.parent / name).write_bytes(nvml.read_bytes())
    for name in ("libnvidia-ptxjitcompiler.so.1000.1", "libnvidia-opencl.so.999.1"):
        (real.parent / name).write_bytes(nvml.read_bytes())
    (real.parent / "libnvidia-nvvm70.so.4").write_bytes(nvml.read_bytes())
    (real.parent / "libEGL_nvidia.so.999.1").write_bytes(nvml.read_bytes())
    (real.parent / "libnvidia-cfg.so.1").write_text("a linker script")
    (real.parent / "libcuda.so").symlink_to("libcuda.so.1")
    (real.parent / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.999.1")
    return real.parent


def null_nodes(node: Node, *names: str) -> None:
    """Make nodes as copies of /dev/null."""
    for name in names:
        path = node.dev / name
        path.parent.mkdir(exist_ok=True)
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("this user may make no device nodes")
        path.chmod(0o666)


def test_without_a_specification_the_driver_is_found_on_the_node(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    null_nodes(node, "nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm", "nvidia-modeset")
    needs = node.get("needs", [UUIDS[0]])
    # The card's minor, not its index.
    assert [row["path"] for row in needs["nodes"]] == [
        str(node.dev / name) for name in ("nvidiactl", "nvidia1", "nvidia-uvm")
    ]
    assert {(row["major"], row["minor"], row["mode"]) for row in needs["nodes"]} == {(1, 3, 0o666)}
    libraries = {Path(row["path"]).name: row["names"] for row in needs["libraries"]}
    nvml = ["libnvidia-ml.so.1", "libnvidia-ml.so.999.1"]
    assert libraries == {
        "libcuda.so.999.1": ["libcuda.so", "libcuda.so.1", "libcuda.so.999.1"],
        "libnvidia-nvvm70.so.4": ["libnvidia-ml.so.1", "libnvidia-nvvm70.so.4"],
        # (The stand-ins are copies of the odd NVML, and so is their SONAME.)
        "libnvidia-ptxjitcompiler.so.999.1": [
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.999.1",
        ],
        "libnvidia-ml.so.999.1": nvml,
    }
    assert needs["environment"] == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert "libnvidia-opencl*" in needs["withheld"]
    assert needs["substitutes"][0]["soname"] == "libcuda.so.1"
    assert needs["substitutes"][0]["driver"] == "libcuda-driver.so.1"
    assert any(
        pattern.endswith("nvidia-container-runtime-hook") for pattern in needs["foreign_hooks"]
    )


def test_opencl_is_handed_in_where_nothing_is_withheld(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder, withhold=False)
    null_nodes(node, "nvidiactl", "nvidia1", "nvidia-modeset")
    needs = node.get("needs", [UUIDS[0]])
    assert "libnvidia-opencl.so.999.1" in {Path(r["path"]).name for r in needs["libraries"]}
    assert needs["withheld"] == []
    assert needs["nodes"][-1]["path"].endswith("nvidia-modeset")


def test_a_partition_needs_its_cards_node_and_its_capabilities(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    node.tell("mig=0")
    node.get("enumerate")
    null_nodes(node, "nvidiactl", "nvidia1", "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31")
    card = node.dev / "capabilities/gpu1/mig/gi7"
    (card / "ci0").mkdir(parents=True)
    (card / "access").write_text("DeviceFileMinor: 30\nDeviceFileMode: 292\n")
    (card / "ci0/access").write_text("DeviceFileMinor: 31\n")
    names = [Path(row["path"]).name for row in node.get("needs", [PARTS[0]])["nodes"]]
    assert names == ["nvidiactl", "nvidia1", "nvidia-cap30", "nvidia-cap31"]
    assert "is MIG on?" in node.ask("needs", [PARTS[1]])["raised"]


def test_a_node_that_is_missing_is_named(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    text = node.ask("needs", [UUIDS[0]])["raised"]
    assert text.startswith(f"{node.dev}/nvidiactl is not there: make the driver's nodes")


def test_without_a_cuda_driver_there_is_nothing_to_hand_in(node: Node) -> None:
    null_nodes(node, "nvidiactl", "nvidia1")
    assert "no CUDA driver" in node.ask("needs", [UUIDS[0]])["raised"]


def write_spec(node: Node, names: list[str], *, minor: int, driver: Path) -> None:
    """Write a specification as nvidia-ctk does, for one device."""
    folder = "/usr/lib/x86_64-linux-gnu"
    edits = [
        {"hostPath": str(driver / name), "containerPath": f"{folder}/{name}"}
        for name in ("libcuda.so.999.1", "libnvidia-ml.so.999.1", "libEGL_nvidia.so.999.1")
    ]
    icd = driver / "nvidia_icd.json"
    icd.write_text("{}")
    edits.append({"hostPath": str(icd), "containerPath": "/etc/vulkan/icd.d/nvidia_icd.json"})
    edits.append({"hostPath": "/bin/true", "containerPath": "/usr/bin/nvidia-smi"})
    link = ["nvidia-cdi-hook", "create-symlinks"]
    link += ["--link", f"libcuda.so.1::{folder}/libcuda.so"]
    link += ["--link", f"../libglxserver_nvidia.so.9::{folder}/xorg/libglxserver_nvidia.so"]
    hooks = [
        {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": link},
        {"hookName": "createRuntime", "path": "/opt/site/hook", "args": ["hook", "now"]},
    ]
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": name,
                "containerEdits": {
                    "deviceNodes": [{"path": f"/dev/nvidia{minor}", "hostPath": "/dev/null"}]
                },
            }
            for name in names
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=all", "SITE=here"],
            "deviceNodes": [
                {"path": f"/dev/{name}", "hostPath": "/dev/null"}
                for name in ("nvidiactl", "nvidia-modeset", "dri/renderD128")
            ],
            "mounts": edits,
            "hooks": hooks,
        },
    }
    (node.cdi / "nvidia.json").write_text(json.dumps(spec))


def test_a_specification_says_what_is_needed_where_it_has_the_device(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    needs = node.get("needs", [UUIDS[0]])
    assert [row["path"] for row in needs["nodes"]] == ["/dev/nvidiactl", "/dev/nvidia1"]
    assert {Path(row["path"]).name: row["names"] for row in needs["libraries"]} == {
        "libcuda.so.999.1": ["libcuda.so", "libcuda.so.1", "libcuda.so.999.1"],
        "libnvidia-ml.so.999.1": ["libnvidia-ml.so.1", "libnvidia-ml.so.999.1"],
    }
    assert [row["destination"] for row in needs["mounts"]] == ["/usr/bin/nvidia-smi"]
    assert needs["environment"] == {"NVIDIA_VISIBLE_DEVICES": "void", "SITE": "here"}
    assert [row["path"] for row in needs["hooks"]] == ["/opt/site/hook"]


def test_what_changes_after_it_was_handed_in_once_is_looked_at_anew(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    first = node.get("needs", [UUIDS[0]])
    assert node.get("needs", [UUIDS[0]]) == first
    # A library in the place of the other: its own names count.
    nvml, cuda = (driver_folder / f"lib{name}.so.999.1" for name in ("nvidia-ml", "cuda"))
    other = driver_folder / "other"
    other.write_bytes(cuda.read_bytes())
    before = nvml.read_bytes()
    other.replace(nvml)
    names = {Path(row["path"]).name: row["names"] for row in libraries(node)}
    assert "libcuda.so.1" in names["libnvidia-ml.so.999.1"]
    nvml.unlink()
    assert "which is not there" in node.ask("needs", [UUIDS[0]])["raised"]
    nvml.write_bytes(before)
    assert libraries(node) == first["libraries"]
    write_spec(node, [UUIDS[0]], minor=2, driver=driver_folder)
    assert node.get("needs", [UUIDS[0]])["nodes"][-1]["path"] == "/dev/nvidia2"


def libraries(node: Node) -> list[dict[str, Any]]:
    """The libraries that the first device needs."""
    found: list[dict[str, Any]] = node.get("needs", [UUIDS[0]])["libraries"]
    return found


def test_where_nothing_is_withheld_a_specification_counts_whole(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder, withhold=False)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    needs = node.get("needs", [UUIDS[0]])
    assert {row["path"] for row in needs["nodes"]} == {
        f"/dev/{name}" for name in ("nvidiactl", "nvidia-modeset", "dri/renderD128", "nvidia1")
    }
    assert "/etc/vulkan/icd.d/nvidia_icd.json" in {row["destination"] for row in needs["mounts"]}
    assert "libEGL_nvidia.so.999.1" in {Path(row["path"]).name for row in needs["libraries"]}


def test_a_specification_of_another_card_of_that_number_is_not_used(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    # Number 0 was the card with node 0 when this was written; now that is card 1.
    write_spec(node, ["0"], minor=0, driver=driver_folder)
    assert "nvidiactl is not there" in node.ask("needs", [UUIDS[0]])["raised"]


def test_a_file_that_a_specification_names_and_an_update_took_is_an_error(
    start_nvidia: Callable[..., Node], driver_folder: Path
) -> None:
    node = start_nvidia(driver_folder)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    (driver_folder / "libnvidia-ml.so.999.1").unlink()
    text = node.ask("needs", [UUIDS[0]])["raised"]
    assert text.startswith(f"{node.cdi}/nvidia.json names {driver_folder}/libnvidia-ml.so.999.1")
    assert "nvidia-ctk cdi generate" in text
