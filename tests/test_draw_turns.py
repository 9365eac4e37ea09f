"""The picture of turns: drawn from the code that shares out time, and true."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import draw_turns

DOCS = Path(__file__).resolve().parent.parent / "docs"


def shares(picture: str) -> list[int]:
    """What each row says that it had, in percent."""
    return [int(text) for text in re.findall(r">had (\d+)%<", picture)]


def test_the_picture_is_drawn_from_runs_in_which_promises_are_kept(tmp_path: Path) -> None:
    draw_turns.main(tmp_path / "turns.svg")
    picture = (tmp_path / "turns.svg").read_text(encoding="utf-8")
    root = ET.fromstring(picture)  # noqa: S314 - our own
    bars = [one for one in root if one.get("class") in ("a", "b")]
    assert len(bars) > 2 * len(draw_turns.SCENES)
    left, right = draw_turns._LEFT, draw_turns._LEFT + draw_turns._WIDTH
    for one in bars:
        x, width = float(one.get("x", "")), float(one.get("width", ""))
        assert left - 0.1 <= x < x + width <= right + 0.1
    train, serve, spare, pausing, capped, alone = shares(picture)
    assert (abs(train - 30) <= 1, abs(serve - 70) <= 1) == (True, True)
    assert spare > 35
    assert spare + pausing >= 95
    assert capped <= 30
    assert alone + capped < 95
    # The one that is kept is of the same kind.
    kept = (DOCS / "turns.svg").read_text(encoding="utf-8")
    assert [abs(a - b) <= 3 for a, b in zip(shares(kept), shares(picture), strict=True)] == [
        True
    ] * 6
