"""An agent in a process of its own, with a paper vendor: what tests start, kill and start again.

    agent_process.py BASE LIB READY [KILL_AT_LINE | tools | splits]

It writes to the descriptor READY once it is ready. With KILL_AT_LINE it kills itself after so many
lines of the agent's modules that keep the books, counted from then on in all threads. With
``tools`` it reads its slices, and answers tools. With ``splits`` the vendor's devices give
partitions, which outlive agents.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from aliquot.agent import admission, deposit, keeper, ledger, wire
from aliquot.agent.daemon import Daemon, Parts, _services, run_loop
from aliquot.agent.devices.registry import Loaded
from aliquot.agent.journal import log_to_stderr

from agent_parts import TOOLS, PaperVendor, PlainConfig, device

BOOKKEEPERS = frozenset(
    str(module.__file__) for module in (admission, deposit, keeper, ledger, wire)
)


class Killer:
    """Kills this process at a line, wherever in its threads."""

    def __init__(self, lines: int, files: frozenset[str] = BOOKKEEPERS) -> None:
        """Let so many lines of these files pass."""
        self._left = lines
        self._files = files

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """Count, as what sys.settrace is given."""
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line":
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def serve(
    base: Path,
    lib: Path,
    ready: int,
    lines: int | None = None,
    *,
    tools: bool = False,
    splits: bool = False,
) -> None:
    """Run an agent to its end."""
    for name in ("aliquot-hook", "aliquot-stat", "libcuda.so.1"):
        file = base.parent / name
        if not file.exists():
            file.write_text(f"stands for {name}")
    vendor = PaperVendor(shim=base.parent / "libcuda.so.1")
    if splits:
        vendor.devices = (device(1, "partition"), device(2, "partition"))
        vendor.paper = base.parent / "paper"
    parts = Parts(
        load=lambda: Loaded((vendor,), ()),
        tools=TOOLS,
        programs=lambda: (base.parent / "aliquot-hook", base.parent / "aliquot-stat"),
        services=[one for one in _services() if tools and one[0] in ("readings", "tools")],
    )

    def tell() -> None:
        os.write(ready, b"r")
        os.close(ready)
        if lines is not None:
            killer = Killer(lines)
            threading.settrace(killer)
            sys.settrace(killer)

    config: Any = PlainConfig(base, lib)
    log_to_stderr(as_json=False)
    run_loop(_run(Daemon(config, parts), tell))


async def _run(daemon: Daemon, tell: Any) -> None:
    await daemon.run(tell)


if __name__ == "__main__":
    more = sys.argv[4:]
    lines = [int(word) for word in more if word.isdigit()]
    serve(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        *lines,
        tools="tools" in more,
        splits="splits" in more,
    )
