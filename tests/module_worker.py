"""A vendor's module in a process of its own, since a library is loaded once a process.

The process reads calls as JSON lines, {"call": NAME, "args": […]}, and answers each with a JSON
line: ``returned``, the values, or ``raised``, the one line of a refusal. Its first line is what
came of making the module.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from commands import TESTS


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


class Asked:
    """Who has such a process, and asks it."""

    worker: subprocess.Popen[str] | None = None

    def launch(self, program: str, *arguments: str, env: Mapping[str, str]) -> dict[str, Any]:
        """Start it; answers what came of making the module."""
        self.worker = subprocess.Popen(
            [sys.executable, str(TESTS / program), *arguments],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._answer()

    def ask(self, call: str, *args: Any) -> dict[str, Any]:
        """The answer to a call: ``returned`` or ``raised``."""
        assert self.worker is not None
        assert self.worker.stdin is not None
        self.worker.stdin.write(json.dumps({"call": call, "args": args}) + "\n")
        self.worker.stdin.flush()
        return self._answer()

    def get(self, call: str, *args: Any) -> Any:
        """What a call returns."""
        answer = self.ask(call, *args)
        assert "returned" in answer, answer
        return answer["returned"]

    def refusal(self, call: str, *args: Any) -> str:
        """The line with which a call is refused."""
        answer = self.ask(call, *args)
        assert "raised" in answer, answer
        assert "\n" not in answer["raised"]
        return str(answer["raised"])

    def ill(self) -> dict[str, str]:
        """The devices that are unhealthy now, and why."""
        return {row["uuid"]: row["reason"] for row in self.get("health") if not row["healthy"]}

    def finish(self) -> None:
        """Let it end, which it must do without a fault."""
        if self.worker is not None:
            self.worker.communicate(timeout=60)
            assert self.worker.returncode == 0

    def _answer(self) -> dict[str, Any]:
        assert self.worker is not None
        assert self.worker.stdout is not None
        line = self.worker.stdout.readline()
        assert line, "the worker has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer
