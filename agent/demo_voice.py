"""What the demonstration says: chapters, and promises of which each holds or is broken."""

from __future__ import annotations

import time


class Demo:
    """What is said and shown, and whether every promise held."""

    def __init__(self) -> None:
        """Begin to count the time and the promises."""
        self.broken = 0
        self._began = time.monotonic()

    def chapter(self, title: str) -> None:
        """Begin a part of the demonstration."""
        print(f"\n[{time.monotonic() - self._began:4.1f} s] {title}\n", flush=True)

    def say(self, text: str) -> None:
        """Say one line."""
        print(f"    {text}", flush=True)

    def promise(self, text: str, holds: bool) -> None:
        """Say what was promised, and whether it holds."""
        self.broken += not holds
        print(f"  {'holds ' if holds else 'BROKEN'}  {text}", flush=True)
