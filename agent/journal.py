"""The agent's log: one line a message on standard error, as the journal likes it, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Final

# What sd-daemon(3) calls levels.
_LEVELS: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


def log_to_stderr(*, as_json: bool) -> None:
    """Log from now on to standard error, from ``INFO`` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json, journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _Lines(logging.Formatter):
    """Makes one line of a message; what came from others cannot break or colour it."""

    def __init__(self, *, as_json: bool, journal: bool) -> None:
        super().__init__()
        self._json = as_json
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            text += ": " + " | ".join(line.strip() for line in trace.splitlines())
        if self._json:
            time = datetime.fromtimestamp(record.created, timezone.utc).isoformat()
            level = record.levelname.lower()
            return json.dumps({"time": time, "level": level, "msg": text})
        line = text
        if not text.isprintable():
            line = "".join(letter if letter.isprintable() else "?" for letter in text)
        level = f"<{_LEVELS.get(record.levelno, 5)}>" if self._journal else ""
        return f"{level}aliquot agent: {line}"
