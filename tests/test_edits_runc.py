"""A bundle that was changed starts by a real runtime, with the shim where the driver would be."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aliquot.hooks import edits
from aliquot.hooks.plan import DeviceNode, Library, Needs, Substitute
from aliquot.shim import region

import images
from commands import PATIENCE_SECONDS, UUIDS, odd_driver
from oci import granting, program

MIB = 1 << 20
CAP = 96 * MIB
RUNC = shutil.which("runc", path=images.PATH)
# Of the odd driver, which is not NVIDIA's: any device file that may be opened will do.
NODE = DeviceNode("/dev/nvidia0", 1, 3)

pytestmark = [
    images.needs_ldconfig,
    pytest.mark.skipif(os.geteuid() != 0 or not RUNC, reason="a container needs root and runc"),
]


class Container:
    """A bundle with a small system, changed as the agent does it."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.folder = folder
        self.root = images.system(folder / "rootfs")
        self.slice = folder / "slice"
        self.base = folder / "base"
        for path in (self.slice / "stage", self.slice / "region", self.base):
            path.mkdir(parents=True)
        driver = odd_driver(folder / "driver")
        names = ("libcuda.so", "libcuda.so.1", driver.resolve().name)
        self.needs = Needs(
            nodes=(NODE,),
            libraries=(Library(driver.resolve(), names),),
            substitutes=(Substitute("libcuda.so.1", shim, "libcuda-driver.so.1"),),
            environment={"NVIDIA_VISIBLE_DEVICES": "void"},
            withheld=("libwithheld*",),
        )
        fd = os.open(self.slice / "region", os.O_RDONLY | os.O_DIRECTORY)
        uuid = bytes.fromhex(UUIDS[0].removeprefix("GPU-").replace("-", ""))
        region.create(fd, "runc", [region.RegionDevice(uuid, CAP, 2 * MIB, MIB)])
        region.create_bell(fd)
        os.close(fd)
        subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)

    def configure(self, script: str, *, read_only: bool = False, **process: Any) -> None:
        """Have it run a script."""
        file = self.folder / "config.json"
        config = json.loads(file.read_text())
        config["root"]["readonly"] = read_only
        config["process"].update(process, terminal=False, args=["/bin/sh", "-c", script])
        del config["process"]["rlimits"]
        kept = ("/proc", "/dev", "/sys")
        config["mounts"] = [row for row in config["mounts"] if row["destination"] in kept]
        config["hooks"] = {"prestart": [{"path": "/nowhere/nvidia-container-runtime-hook"}]}
        file.write_text(json.dumps(config))

    def change(self) -> None:
        """What the agent does."""
        bundle = edits.inspect(self.folder)
        config = edits.apply(
            bundle,
            Needs(
                **{name: getattr(self.needs, name) for name in Needs.__slots__
                   if name != "foreign_hooks"},
                foreign_hooks=("*/nvidia-container-runtime-hook",),
            ),
            folder=self.slice,
            hook=program("aliquot-hook"),
            stat=program("aliquot-stat"),
            runtime_dir=self.base,
        )  # fmt: skip
        edits.write(bundle, config)

    def run(self, names: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run it to its end; the names are its standard input."""
        command = [str(RUNC), f"--root={self.base}/runc", "run", f"aliquot-{os.getpid()}"]
        with granting(self.base):
            return subprocess.run(
                command,
                cwd=self.folder,
                input="".join(f"{name}\n" for name in names),
                check=False,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )


@pytest.fixture
def container(tmp_path: Path, shim_library: Path) -> Container:
    return Container(tmp_path, shim_library)


@pytest.mark.parametrize("read_only", [False, True])
def test_the_shim_stands_wherever_a_driver_would_be(container: Container, read_only: bool) -> None:
    home = next(path.parent for path in (container.root / "usr/lib").rglob("libc.so.6"))
    inside = f"/{home.relative_to(container.root)}"
    images.library(home / "libwithheld.so.1")
    images.library(container.root / "opt/own/libown.so.1", "libown.so.1")
    (container.root / "etc/ld.so.conf").write_text("/opt/own\n")
    images.ldconfig("-r", str(container.root))
    container.configure(f"exec {images.CLIENT}", read_only=read_only)
    container.change()
    mapped = ("libcuda.so", "libcuda.so.1", "libcuda.so.999.1")
    asked = [*mapped, f"{inside}/libcuda.so", f"{inside}/libcuda.so.1", "libown.so.1"]
    result = container.run([*asked, "libwithheld.so.1", f"{inside}/.aliquot/libcuda-driver.so.1"])
    assert (result.returncode, result.stderr) == (0, "")
    rows = [line.split(" ", 2) for line in result.stdout.splitlines()]
    assert [row[0] for row in rows[:6]] == asked
    # What the slice has, by whatever name: the driver alone says something else.
    assert {row[2] for row in rows[:5]} == {str(CAP)}
    assert all(row[1].startswith(f"{inside}/libcuda.so") for row in rows[:5])
    assert rows[5][1:] == ["/opt/own/libown.so.1", "0"]
    assert rows[6][1] == "-"
    assert rows[7][2] != str(CAP)


def test_what_a_container_sees(container: Container) -> None:
    container.configure(
        "env; aliquot-stat; echo x >/dev/nvidia0 && echo open; "
        "ls -ld /run/aliquot/* /usr/bin/aliquot-stat; echo x >/run/aliquot/grant || echo kept"
    )
    container.change()
    result = container.run()
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "NVIDIA_VISIBLE_DEVICES=void" in out
    assert "\nopen\n" in out
    assert "\nkept\n" in out
    for path in ("/run/aliquot/grant", "/run/aliquot/usage", "/usr/bin/aliquot-stat"):
        assert f" {path}\n" in out, path
    assert UUIDS[0] in out


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("uid", [0, 1234])
def test_whoever_is_in_a_container_may_ring(
    container: Container, uid: int, read_only: bool
) -> None:
    home = next(path.parent for path in (container.root / "usr/lib").rglob("libc.so.6"))
    beside = f"/{home.relative_to(container.root)}/.aliquot/bell"
    container.configure(
        f"for bell in /run/aliquot/bell {beside}; do echo $bell >$bell && chmod 0 $bell; done",
        read_only=read_only,
        user={"uid": uid, "gid": uid},
    )
    container.change()
    bell = os.open(container.slice / "region/bell", os.O_RDWR | os.O_NONBLOCK)
    result = container.run()
    heard = os.read(bell, 4096).decode().splitlines()
    os.close(bell)
    assert heard == ["/run/aliquot/bell", beside], result.stderr
    assert stat.S_IMODE((container.slice / "region/bell").stat().st_mode) == 0o622


def test_it_starts_a_second_time_from_the_same_bundle(container: Container) -> None:
    container.configure(f"exec {images.CLIENT}")
    for _ in range(2):
        container.change()
        result = container.run(["libcuda.so.1"])
        assert result.stdout.endswith(f" {CAP}\n"), result.stderr


def test_without_its_plan_a_container_does_not_start(container: Container) -> None:
    container.configure("echo started")
    container.change()
    (container.slice / "plan").unlink()
    result = container.run()
    assert result.returncode != 0
    assert "started" not in result.stdout
    assert f"{container.slice}/plan" in result.stderr
