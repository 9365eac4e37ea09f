"""The plan of a container: what `aliquot-hook createContainer` is to do, line by line.

Fields are separated by tabs and never quoted: what has a tab or a newline in it is refused. The
other side is csrc/oci/plan.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from .errors import EditError, shown

VERSION: Final = "1"
_MOST_BYTES: Final = 1 << 20
_MOST_LINES: Final = 4096


def encode(lines: Iterable[tuple[str, ...]]) -> bytes:
    """Return the plan as a file. Raises EditError."""
    rows = [("aliquot-plan", VERSION), *lines]
    text = b"".join(b"\t".join(map(_field, row)) + b"\n" for row in rows)
    if len(text) > _MOST_BYTES or len(rows) > _MOST_LINES:
        raise EditError(f"a plan of {len(rows)} lines is more than a container can need")
    return text


def _field(text: str) -> bytes:
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raw = b""
    if not raw or any(letter in raw for letter in b"\t\n\0"):
        raise EditError(
            f"'{shown(text)}' cannot be a path of a container: it is empty, "
            "or has a tab, a newline or what is no text"
        )
    return raw
