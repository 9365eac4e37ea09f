"""The demonstration's node with devices of several vendors: a container on one of each."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import TYPE_CHECKING, Any, Final

from .demo_node import patiently
from .errors import AliquotError
from .requests import variable
from .sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .demo_containers import Node
    from .demo_voice import Demo

# It only has to be there: what is shown is what it was given.
_WAIT: Final = ("/bin/sleep", "1000000")
# What each asks for, a device file that it then has, and who holds its cap.
_WISHES: Final[Mapping[str, tuple[dict[str, str], str, str]]] = {
    "on-nvidia": ({"memory": "4GiB"}, "/dev/nvidiactl", "shim"),
    "on-ascend": ({"memory": "10GiB", "vendor": "ascend"}, "/dev/davinci_manager", "partition"),
    "on-cambricon": (
        {"memory": "8GiB", "cores": "25", "model": "MLU370"},
        "/dev/cambricon_ctl",
        "partition",
    ),
    "on-amd": ({"vendor": "amd"}, "/dev/kfd", "nobody"),
}


# An MI300X as amdgpu and KFD show it in sysfs: what is read of it. Its DRM files are numbered so
# high that this machine has none of these numbers, and KFD's is /dev/null.
_ADDRESS: Final = "0000:65:00.0"
_CARD: Final = 63
_RENDER: Final = 191
_AMD_FILES: Final = {
    "vendor": "0x1002",
    "device": "0x74a1",
    "unique_id": "9a1f000000000001",
    "product_name": "AMD Instinct MI300X OAM",
    "numa_node": "0",
    "mem_info_vram_total": "206141652992",
    "mem_info_vram_used": "312475648",
    "gpu_busy_percent": "0",
    f"drm/card{_CARD}/dev": f"226:{_CARD}",
    f"drm/renderD{_RENDER}/dev": f"226:{_RENDER}",
}


def lay_out_amd(root: Path) -> None:
    """Write what the kernel tells of a device of AMD's below ``root``: ``sys`` and ``dev``."""
    drivers = root / "sys/bus/pci/drivers/amdgpu"
    drivers.mkdir(parents=True)
    device = root / "sys/devices/pci0000:00" / _ADDRESS
    (drivers / _ADDRESS).symlink_to(device)
    kfd = root / "sys/class/kfd/kfd/dev"
    for path, text in (*((device / name, text) for name, text in _AMD_FILES.items()), (kfd, "1:3")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")
    (root / "proc").mkdir()
    (root / "dev/dri").mkdir()
    for name in (f"dri/card{_CARD}", f"dri/renderD{_RENDER}", "kfd"):
        (root / "dev" / name).touch()


def show(demo: Demo, node: Node, running: list[str]) -> None:
    """Show a container on a device of each vendor that the node has. Raises AliquotError."""
    owners = {one["uuid"]: one["vendor"] for one in _devices(node)}
    wishes = {
        name: wish for name, wish in _WISHES.items() if name.removeprefix("on-") in owners.values()
    }
    number = {3: "three", 4: "four"}.get(len(wishes), str(len(wishes)))
    demo.chapter(f"A node with devices of {number} vendors: a container on each")
    for name, (asked, _, _) in wishes.items():
        line = node.run_line(name, {variable(key): text for key, text in asked.items()}, _WAIT)
        demo.say(f"$ ctr {shlex.join(line)}")
        node.containerd.ctr(*line)
        running.append(name)
    node.show("devices")
    node.show("ps")
    slices = node.slices()
    for name, (asked, file, holder) in wishes.items():
        _promise(demo, node, name, asked, slices[name]["devices"], owners, file, holder)
    pages = node.metric("aliquot_container_memory_cap_bytes")
    demo.promise("one page of metrics has all of them", len(pages) == len(wishes))
    demo.chapter("They end, and every vendor's device is whole again")
    for name in list(running):
        node.remove(name)
        running.remove(name)
    left: list[int] = []
    for _ in patiently():
        left = [one["memory_allocated_bytes"] for one in _devices(node)]
        if not any(left):
            break
    demo.promise(f"nothing is allocated on any of {len(left)} devices", not any(left))


def _promise(
    demo: Demo,
    node: Node,
    name: str,
    asked: Mapping[str, str],
    devices: list[dict[str, Any]],
    owners: Mapping[str, str],
    file: str,
    holder: str,
) -> None:
    (device,) = devices
    vendor = name.removeprefix("on-")
    cap = device["cap_bytes"]
    demo.promise(
        f"{name} has {format_size(cap)} of a device of {vendor}'s, held by the "
        f"{device['enforcement']}"
        if holder != "nobody"
        else f"{name} has all {format_size(cap)} of a device of {vendor}'s",
        owners[device["uuid"]] == vendor
        and device["enforcement"] == holder
        and ("memory" not in asked or cap >= parse_size(asked["memory"], name).of(cap)),
    )
    seen: set[str] = set()
    with contextlib.suppress(AliquotError):
        out = node.containerd.ctr(
            "tasks", "exec", "--exec-id", "ls", name, "/bin/ls", "/dev"
        ).stdout
        seen = {f"/dev/{word}" for word in out.split()}
    others = {other for _, other, _ in _WISHES.values()} - {file}
    demo.promise(f"it has {file}, and no other vendor's", file in seen and not seen & others)


def _devices(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(node.aliquot("devices", "--json"))["devices"]
    return found
