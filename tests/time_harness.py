"""The harness of limiter and arbiter: how it is built, run and read."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LIMITER = ("limiter", "around", "ledger", "meter", "observe", "lock")
_ARBITER = ("arbiter", "shares", "gates", "step", "seen")
LIMITER = tuple(ROOT / "csrc/core" / f"{name}.c" for name in _LIMITER)
SOURCES = (
    *sorted((ROOT / "tests").glob("harness*.c")),
    *LIMITER,
    *(ROOT / "csrc/arbiter" / f"{name}.c" for name in _ARBITER),
)
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def build(program: Path, *flags: str) -> Path:
    """Build the harness; returns the program."""
    include = (f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}")
    command = ["gcc", "-std=gnu11", "-g", "-O2", *WARNINGS, *flags, *include]
    subprocess.run([*command, *map(str, SOURCES), "-o", str(program), "-lm"], check=True)
    return program


@dataclass(frozen=True)
class Run:
    """What one run of the harness said; see tests/harness.c for what is in it.

    Containers and devices have the numbers of their order. Times are seconds.
    """

    said: dict[str, Any]

    @cached_property
    def tick(self) -> float:
        """Seconds between two readings."""
        return float(self.said["tick_ms"]) / 1000

    @property
    def end(self) -> float:
        """When the run was over."""
        return (len(self.said["busy_ns"]) - 1) * self.tick

    def had(self, container: int, start: float = 0, end: float | None = None, on: int = 0) -> float:
        """Return the device time that a container's work had from ``start`` to ``end``."""
        rows = self.said["busy_ns"]
        first = round(start / self.tick)
        last = len(rows) - 1 if end is None else round(end / self.tick)
        return float(rows[last][on][container] - rows[first][on][container]) / 1e9

    def idle(self, start: float = 0, end: float | None = None, on: int = 0) -> float:
        """Return for how long a device had nothing to do."""
        return self.had(-1, start, end, on)

    def shares(
        self,
        container: int,
        window: float,
        start: float = 0,
        end: float | None = None,
        on: int = 0,
    ) -> list[float]:
        """Return the percent of a device that a container had in each window of a length."""
        rows = self.said["busy_ns"]
        first = round(start / self.tick)
        last = len(rows) - 1 if end is None else round(end / self.tick)
        width = round(window / self.tick)
        return [
            (rows[at + width][on][container] - rows[at][on][container]) / (width * self.tick) / 1e7
            for at in range(first, last - width + 1)
        ]

    def charged(self, container: int, on: int = 0) -> float:
        """Return the device time that a container charged itself."""
        return float(self.account(container, on)["charged_ns"]) / 1e9

    def account(self, container: int, on: int = 0) -> dict[str, int]:
        """Return what the container and the arbiter counted on the container's device ``on``."""
        row: dict[str, int] = self.said["containers"][container]["devices"][on]
        return row

    def container(self, number: int) -> dict[str, Any]:
        """Return what one container counted."""
        row: dict[str, Any] = self.said["containers"][number]
        return row


def run(program: Path, seconds: float, *words: str) -> Run:
    """Run it; see tests/harness.c for the words."""
    done = subprocess.run(
        [program, str(seconds), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr}"
    return Run(json.loads(done.stdout))
