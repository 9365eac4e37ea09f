"""Draws docs/turns.svg: turns of two containers on one device, from runs of the harness.

    .venv/bin/python tests/draw_turns.py docs/turns.svg

Limiter and arbiter are those that run in containers and in the agent; the clock and the device are
the harness' own, so that the picture is the same every time. A bar is a time in which the
container's kernels ran on the device.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import time_harness

SECONDS: Final = 1.0
# What is drawn, once everything has settled.
FIRST_MS: Final = 200
LAST_MS: Final = 300
_TICK_US: Final = 100

_LEFT, _WIDTH, _RIGHT = 190, 600, 90
_ROW, _BAR, _HEAD, _GAP = 26, 18, 30, 22
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600}.s{font-size:11px;fill:#666}"
    ".l{fill:#8882}.a{fill:#3b76c4}.b{fill:#d1822b}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#999}}"
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Two containers, as the harness has them, and what there is to see."""

    title: str
    names: tuple[str, str]
    words: tuple[str, str]


SCENES: Final = (
    Scene(
        "Both want all of the device",
        ("train: 30-100%", "serve: 70-100%"),
        ("kind=async,ns=120000,min=300", "kind=async,ns=250000,min=700"),
    ),
    Scene(
        "serve rests now and then: train has what is spare, and gives it back",
        ("train: 30-100%", "serve: 70-100%"),
        ("kind=async,ns=120000,min=300", "kind=async,ns=250000,min=700,burst=80,pause_us=25000"),
    ),
    Scene(
        "The same, but train is capped: what nobody may have stays idle",
        ("train: 30%", "serve: 70-100%"),
        (
            "kind=async,ns=120000,min=300,max=300",
            "kind=async,ns=250000,min=700,burst=80,pause_us=25000",
        ),
    ),
)


def bars(run: time_harness.Run, container: int) -> Iterator[tuple[float, float]]:
    """Yield the times, in milliseconds, in which work of a container was on the device."""
    tick = _TICK_US / 1000
    rows = run.said["busy_ns"]
    start = None
    for number in range(round(FIRST_MS / tick), round(LAST_MS / tick)):
        ran = rows[number + 1][0][container] > rows[number][0][container]
        if ran and start is None:
            start = number * tick
        if not ran and start is not None:
            yield start, number * tick
            start = None
    if start is not None:
        yield start, float(LAST_MS)


def draw(runs: Sequence[time_harness.Run]) -> str:
    """Return the picture of a run of each scene."""
    height = len(SCENES) * (_HEAD + 2 * _ROW + _GAP) + 24
    parts: list[str] = []
    top = 0
    for scene, run in zip(SCENES, runs, strict=True):
        parts.append(f'<text class="t" x="0" y="{top + 18}">{escape(scene.title)}</text>')
        for number, name in enumerate(scene.names):
            y = top + _HEAD + number * _ROW
            # From when it has settled to the end, not only what is drawn.
            had = run.had(number, FIRST_MS / 1000) / (run.end - FIRST_MS / 1000)
            parts += [
                f'<text x="0" y="{y + 14}">{escape(name)}</text>',
                f'<rect class="l" x="{_LEFT}" y="{y}" width="{_WIDTH}" height="{_BAR}"/>',
                f'<text x="{_LEFT + _WIDTH + 12}" y="{y + 14}">had {had:.0%}</text>',
            ]
            for start, end in bars(run, number):
                parts.append(
                    f'<rect class="{"ab"[number]}" x="{_x(start):.1f}" y="{y}" '
                    f'width="{_x(end) - _x(start):.1f}" height="{_BAR}"/>'
                )
        top += _HEAD + 2 * _ROW + _GAP
    for ms in range(FIRST_MS, LAST_MS + 1, 20):
        parts.append(
            f'<text class="s" x="{_x(ms):.0f}" y="{top + 6}" text-anchor="middle">'
            f"{ms - FIRST_MS} ms</text>"
        )
    width = _LEFT + _WIDTH + _RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n'
        "<title>Turns of two containers on one device</title>\n"
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _x(ms: float) -> float:
    return _LEFT + (ms - FIRST_MS) / (LAST_MS - FIRST_MS) * _WIDTH


def main(path: Path) -> None:
    """Build the harness, run it and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        program = time_harness.build(Path(folder) / "harness")
        runs = [
            time_harness.run(program, SECONDS, f"tick_us={_TICK_US}", *scene.words)
            for scene in SCENES
        ]
    path.write_text(draw(runs), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
