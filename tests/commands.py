"""The ``aliquot`` command as tests start it: real processes, folders of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
ALIQUOT = (sys.executable, "-m", "aliquot.agent")
PATIENCE_SECONDS = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look until ``condition`` holds; what is waited for gives no event to a test."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.01)


@dataclass
class Desk:
    """Somebody who types commands, with folders of their own and a driver."""

    environment: dict[str, str]
    runtime: Path
    prefix: tuple[str, ...] = field(default=ALIQUOT)

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run ``aliquot`` to its end."""
        return subprocess.run(
            [*self.prefix, *arguments],
            env={**self.environment, **(env or {})},
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``aliquot`` with a pipe for its output."""
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.Popen(
            [*self.prefix, *arguments], env=self.environment, text=True, **options
        )

    def slices(self, *options: str) -> list[dict[str, Any]]:
        """What ``aliquot ps`` shows."""
        shown = self.run("ps", "--json", *options)
        assert shown.returncode == 0, shown.stderr
        found: list[dict[str, Any]] = json.loads(shown.stdout)["slices"]
        return found

    def left_behind(self) -> list[str]:
        """The run directories that there are."""
        return sorted(path.name for path in self.runtime.glob("run-*"))


def desk(driver: Path, shim: Path, folder: Path, prefix: Sequence[str] = ALIQUOT) -> Desk:
    """Make a desk in ``folder`` for the driver library ``driver``."""
    runtime = folder / "runtime"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LD_LIBRARY_PATH": str(driver.parent),
        "ALIQUOT_RUNTIME_DIR": str(runtime),
        "ALIQUOT_CACHE_DIR": str(folder / "cache"),
        "ALIQUOT_SHIM": str(shim),
    }
    # Under sanitizers every program loads them first.
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LD_PRELOAD", "PYTHONPATH"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return Desk(environment, runtime, tuple(prefix))


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command said why it failed."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("aliquot: "), lines[0]
    return lines[0]


def odd_driver(folder: Path) -> Path:
    """Compile the odd driver into a folder laid out as NVIDIA's; returns ``libcuda.so.1``."""
    folder.mkdir(parents=True)
    file = folder / "libcuda.so.999.1"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(file), str(TESTS / "odd_driver.c")], check=True)
    link = folder / "libcuda.so.1"
    link.symlink_to(file.name)
    return link


UUIDS = tuple("GPU-" + "-".join(digits * n for n in (4, 2, 2, 2, 6)) for digits in ("1a", "1b"))
"""Of the odd driver's devices."""


def odd_desk(driver: Path, shim: Path, folder: Path) -> Desk:
    """Make a desk with the odd driver, whose contexts are known to take 1 MiB."""
    made = desk(driver, shim, folder)
    known = {f"{uuid} 13000 {(n + 1) << 34}": 1 << 20 for n, uuid in enumerate(UUIDS)}
    cache = folder / "cache"
    cache.mkdir()
    (cache / "contexts.json").write_text(json.dumps({"format": 1, "context_bytes": known}))
    return made


def namespaces_work() -> bool:
    """Whether this machine lets us mount an overlay; then nothing else may be used quietly."""
    trial = "mount -t tmpfs t /tmp && mkdir /tmp/a /tmp/b /tmp/c && "
    trial += "mount -t overlay -o ro,lowerdir=/tmp/a:/tmp/b overlay /tmp/c"
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    return subprocess.run([*unshare, "sh", "-c", trial], check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not namespaces_work(), reason="this machine allows no mount namespace with an overlay"
)
