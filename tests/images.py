"""Small root file systems with a real loader, and bundles as runtimes make them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.demo_node import lay_out

from commands import PATIENCE_SECONDS, TESTS

CLIENT = "/usr/bin/loader_client"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
LDCONFIG = shutil.which("ldconfig", path=PATH)

needs_ldconfig = pytest.mark.skipif(
    LDCONFIG is None or not shutil.which("busybox", path=PATH),
    reason="an image with a loader's cache needs ldconfig and busybox",
)


def system(root: Path) -> Path:
    """A small system in ``root``, with `loader_client`, the host's loader, and a cache."""
    build = root.parent / f"{root.name}-build"
    build.mkdir()
    client = build / "loader_client"
    source = TESTS / "loader_client.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-o", str(client), str(source), "-ldl"], check=True)
    return lay_out(root, {CLIENT: client})


def library(path: Path, soname: str | None = None) -> Path:
    """A shared library that needs nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-o", str(path)]
    subprocess.run([*command, *([f"-Wl,-soname,{soname}"] if soname else [])], check=True)
    return path


def ldconfig(*arguments: str) -> list[str]:
    """What ldconfig prints."""
    assert LDCONFIG
    command = [LDCONFIG, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def opened(root: Path, names: Iterable[bytes]) -> dict[bytes, bytes]:
    """The file that the loader inside ``root`` takes for each name; ``-`` and why for none."""
    unshare = [] if os.geteuid() == 0 else ["unshare", "-Ur"]
    result = subprocess.run(
        [*unshare, "chroot", str(root), CLIENT],
        input=b"".join(name + b"\n" for name in names),
        env={"PATH": PATH},
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    rows = [line.split(b" ", 1) for line in result.stdout.splitlines()]
    return {name: rest if rest[:1] == b"-" else rest.rsplit(b" ", 1)[0] for name, rest in rows}


def specification(tool: str, folder: Path) -> dict[str, Any]:
    """The config.json that a real tool makes, in a new folder; skips without the tool."""
    path = shutil.which(tool, path=PATH)
    if path is None:
        pytest.skip(f"there is no {tool}")
    if tool == "ctr":
        text = subprocess.run([path, "oci", "spec"], check=True, capture_output=True).stdout
    else:
        folder.mkdir()
        subprocess.run([path, "spec"], cwd=folder, check=True)
        text = (folder / "config.json").read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def bundle(folder: Path, config: Any) -> Path:
    """A bundle's folder with such a config.json and an empty root."""
    (folder / "rootfs").mkdir(parents=True, exist_ok=True)
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "config.json").write_bytes(content)
    return folder
