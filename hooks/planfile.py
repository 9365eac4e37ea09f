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
    text = b"".join(map(_line, rows))
    if len(text) > _MOST_BYTES or len(rows) > _MOST_LINES:
        raise EditError(f"a plan of {len(rows)} lines is more than a container can need")
    return text


def _line(row: tuple[str, ...]) -> bytes:
    for text in row:
        if not text or "\t" in text or "\n" in text or "\0" in text:
            raise _refused(text)
    try:
        return os.fsencode("\t".join(row)) + b"\n"
    except UnicodeEncodeError:
        raise _refused(" ".join(row)) from None


def _refused(text: str) -> EditError:
    return EditError(
        f"'{shown(text)}' cannot be a path of a container: it is empty, "
        "or has a tab, a newline or what is no text"
    )
