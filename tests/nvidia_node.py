"""A node with NVIDIA's management library, or what stands in for it, and a process that asks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from commands import TESTS


def odd_nvml(folder: Path) -> Path:
    """Compile the odd NVML into a folder laid out as NVIDIA's; returns the folder."""
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command += ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    command += ["-o", str(folder / "libnvidia-ml.so.999.1"), str(TESTS / "odd_nvml.c")]
    subprocess.run(command, check=True)
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.999.1")
    return folder


class Node:
    """A node with the odd NVML, and a process that asks it."""

    def __init__(
        self,
        libraries: list[Path],
        folder: Path,
        *,
        withhold: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.told = folder / "told"
        self.limits = folder / "limits"
        self.cgroups = folder / "cgroup"
        self.dev = folder / "dev"
        self.cdi = folder / "cdi"
        for made in (self.cgroups, self.dev, self.cdi):
            made.mkdir(exist_ok=True)
        self.tell()
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "ODD_NVML": str(self.told),
            "ODD_LIMITS": str(self.limits),
            "ALIQUOT_CACHE_DIR": str(folder / "cache"),
            **(environment or {}),
        }
        arguments = [str(self.cdi), "withhold" if withhold else "all", str(self.dev)]
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "nvidia_worker.py"), *arguments, str(self.cgroups)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def tell(self, *words: str) -> None:
        """Tell the odd NVML how to answer from now on."""
        new = self.told.with_suffix(".new")
        new.write_text(" ".join(words))
        new.replace(self.told)

    def ask(self, call: str, *args: Any) -> dict[str, Any]:
        """The answer to a call: ``returned`` or ``raised``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": call, "args": args}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def get(self, call: str, *args: Any) -> Any:
        """What a call returns."""
        answer = self.ask(call, *args)
        assert "returned" in answer, answer
        return answer["returned"]

    def ill(self) -> dict[str, str]:
        """The devices that are unhealthy now, and why."""
        return {row["uuid"]: row["reason"] for row in self.get("health") if not row["healthy"]}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let the worker end, which it must do without a fault."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0
