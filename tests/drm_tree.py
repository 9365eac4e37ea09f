"""Trees of files as kernels with AMD's and Intel's devices show them: sysfs, procfs and so on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from aliquot_drm.files import Roots

GIB = 1 << 30
MIB = 1 << 20


class Tree:
    """The folders of one node; what a test writes there the kernel says."""

    def __init__(self, folder: Path) -> None:
        self.sys = folder / "sys"
        self.proc = folder / "proc"
        self.dev = folder / "dev"
        self.cgroup = folder / "cgroup"
        for made in (self.sys, self.proc, self.dev / "dri", self.cgroup):
            made.mkdir(parents=True)
        self.write(self.cgroup / "cgroup.controllers", "cpu memory pids")
        self.roots = Roots(self.sys, self.proc, self.dev, self.cgroup)

    @staticmethod
    def write(path: Path, text: str) -> None:
        """Write a file of the kernel's, with its newline."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    # -- devices --

    def card(self, driver: str, address: str, number: int, files: Mapping[str, str]) -> Path:
        """Plug a device in: ``number`` is that of its DRM files. Returns its folder."""
        folder = self.sys / f"devices/pci0000:00/{address}"
        for name, text in files.items():
            self.write(folder / name, text)
        for name, minor in ((f"card{number}", number), (f"renderD{128 + number}", 128 + number)):
            self.write(folder / f"drm/{name}/dev", f"226:{minor}")
            (self.dev / "dri" / name).touch()
        drivers = self.sys / f"bus/pci/drivers/{driver}"
        drivers.mkdir(parents=True, exist_ok=True)
        (drivers / address).symlink_to(folder)
        module = self.sys / f"module/{driver}/drivers"
        module.mkdir(parents=True, exist_ok=True)
        if not (module / f"pci:{driver}").is_symlink():
            (module / f"pci:{driver}").symlink_to(drivers)
        return folder

    def unplug(self, driver: str, address: str) -> None:
        """Take a device away, as the kernel does when it is lost."""
        (self.sys / f"bus/pci/drivers/{driver}/{address}").unlink()
        shutil.rmtree(self.sys / f"devices/pci0000:00/{address}")

    def kfd(self, nodes: Sequence[Mapping[str, int]], links: Mapping[int, Sequence[int]]) -> None:
        """Write KFD's topology: the properties of each node, and XGMI's links by node."""
        top = self.sys / "class/kfd/kfd"
        self.write(top / "dev", "511:0")
        (self.dev / "kfd").touch()
        for number, node in enumerate(nodes):
            folder = top / f"topology/nodes/{number}"
            self.write(folder / "gpu_id", str(node.get("gpu_id", 0)))
            properties = {name: value for name, value in node.items() if name != "gpu_id"}
            text = "\n".join(f"{name} {value}" for name, value in properties.items())
            self.write(folder / "properties", text)
            # The first link of each device leads to its processor, over PCIe.
            told = [(2, 0), *((11, other) for other in links.get(number, ()))]
            for place, (kind, other) in enumerate(told if node.get("gpu_id") else ()):
                text = (
                    f"type {kind}\nversion_major 0\nnode_from {number}\nnode_to {other}\nweight 15"
                )
                self.write(folder / f"io_links/{place}/properties", text)

    def dmem(self, regions: Mapping[str, int]) -> None:
        """Have the kernel's controller."""
        self.write(self.cgroup / "cgroup.controllers", "cpu memory pids dmem")
        text = "\n".join(f"{name} {size}" for name, size in regions.items())
        self.write(self.cgroup / "dmem.capacity", text)

    def group(self, path: str) -> Path:
        """Make a cgroup that has the controller; returns its folder."""
        folder = self.cgroup / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dmem.max").touch()
        return folder

    # -- processes --

    def open(self, pid: int, fd: int, told: str, target: str = "/dev/dri/renderD128") -> None:
        """Have a process open a file, of which fdinfo says ``told``."""
        for name in ("fd", "fdinfo"):
            (self.proc / f"{pid}/{name}").mkdir(parents=True, exist_ok=True)
        link = self.proc / f"{pid}/fd/{fd}"
        if not link.is_symlink():
            link.symlink_to(target)
        # Whole at any moment, as the kernel's.
        fresh = self.proc / f"{pid}/fresh"
        fresh.write_text(told)
        fresh.replace(self.proc / f"{pid}/fdinfo/{fd}")

    def end(self, pid: int) -> None:
        """End a process."""
        shutil.rmtree(self.proc / str(pid))


def fdinfo(driver: str, address: str, client: int, *lines: str) -> str:
    """What the kernel tells of a DRM file."""
    head = "pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t1046\n"
    text = [f"drm-driver:\t{driver}", f"drm-client-id:\t{client}", f"drm-pdev:\t{address}", *lines]
    return head + "\n".join(text) + "\n"


# -- machines --------------------------------------------------------------------------------------

MI300X = tuple(f"0000:{bus}:00.0" for bus in ("05", "26", "46", "65", "85", "a6", "c6", "e5"))
MI300X_BYTES = 206_141_652_992
NAVI = "0000:03:00.0"
NAVI_BYTES = 17_163_091_968
ARC = "0000:04:00.0"
ARC_BYTES = 8_514_437_120


def mi300x(tree: Tree) -> None:
    """Make eight MI300X, each linked to each, on two processors."""
    for number, address in enumerate(MI300X):
        tree.card(
            "amdgpu",
            address,
            number,
            {
                "vendor": "0x1002",
                "device": "0x74a1",
                "unique_id": f"{0x9A1F_0000_0000_0001 + number:x}",
                "product_name": "AMD Instinct MI300X OAM",
                "numa_node": str(number // 4),
                "mem_info_vram_total": str(MI300X_BYTES),
                "mem_info_vram_used": str(298 * MIB + number),
                "gpu_busy_percent": str(10 * number),
                "mem_busy_percent": str(number),
                "hwmon/hwmon3/power1_input": "141000000",
                "hwmon/hwmon3/temp2_input": "45000",
                "hwmon/hwmon3/temp2_label": "junction",
                "hwmon/hwmon3/temp3_input": "39000",
                "hwmon/hwmon3/temp3_label": "mem",
                "ras/umc_err_count": "ue: 0\nce: 3",
                "ras/gfx_err_count": "ue: 0\nce: 0",
            },
        )
    processors: list[dict[str, int]] = [{"cpu_cores_count": 96}, {"cpu_cores_count": 96}]
    devices = [
        {
            "gpu_id": 20000 + number,
            "simd_count": 1216,
            "location_id": int(address[5:7], 16) << 8,
            "domain": 0,
            "drm_render_minor": 128 + number,
            "unique_id": 0x9A1F_0000_0000_0001 + number,
        }
        for number, address in enumerate(MI300X)
    ]
    every = range(2, 10)
    tree.kfd([*processors, *devices], {n: [m for m in every if m != n] for n in every})


def navi(tree: Tree, number: int = 0) -> Path:
    """Make a Radeon, whose KFD tells no number of it."""
    return tree.card(
        "amdgpu",
        NAVI,
        number,
        {
            "vendor": "0x1002",
            "device": "0x744c",
            "numa_node": "-1",
            "mem_info_vram_total": str(NAVI_BYTES),
            "mem_info_vram_used": str(1 * GIB),
            "gpu_busy_percent": "37",
            "hwmon/hwmon2/power1_average": "63500000",
            "hwmon/hwmon2/temp1_input": "41000",
            "hwmon/hwmon2/temp1_label": "edge",
            "hwmon/hwmon2/temp2_input": "52000",
            "hwmon/hwmon2/temp2_label": "junction",
            "power/runtime_status": "active",
            "aer_dev_fatal": "Undefined 0\nDLP 0\nTOTAL_ERR_FATAL 0",
        },
    )


def arc(tree: Tree, number: int = 0) -> Path:
    """Make an Arc with xe, whose memory only the kernel's controller tells."""
    tree.dmem({f"drm/{ARC}/vram0": ARC_BYTES, f"drm/{ARC}/stolen": 64 * MIB})
    return tree.card(
        "xe",
        ARC,
        number,
        {
            "vendor": "0x8086",
            "device": "0x56a0",
            "numa_node": "0",
            "hwmon/hwmon4/energy1_input": "1000000",
            "hwmon/hwmon4/temp2_input": "47000",
            "hwmon/hwmon4/temp2_label": "pkg",
        },
    )


def laptop(tree: Tree) -> None:
    """Make a laptop whose only device is in its processor."""
    tree.card("i915", "0000:00:02.0", 0, {"vendor": "0x8086", "device": "0x9a49"})
