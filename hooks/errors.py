"""Errors for people: one line that says what, where, and what to do."""

from __future__ import annotations

from typing import Final

_MOST_SHOWN: Final = 200


class EditError(Exception):
    """A container cannot be changed as it must be; the text is one line."""


def shown(text: str) -> str:
    """Return a text of unknown origin as part of one line."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_SHOWN])
    return line if len(text) <= _MOST_SHOWN else f"{line}..."
