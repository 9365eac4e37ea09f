"""Whether Ascend devices can be used: by the faults that stand, and those that came before.

Each fault has a code. What the configuration says of it counts (`[ascend] faults`), in the words of
the vendor's own plugin; else how bad it is. A device is unhealthy

- while it does not answer, or is not there;
- while a fault stands that is major or critical, or is said to need a restart or a separation;
- from the second time on that such a fault comes within a day, until the agent is started again:
  who heals and falls ill again is to be looked at. Two codes may come more often.

A link that is down counts once it has been so for 20 seconds, and for 60 after it came back.

How bad a fault is, its event tells, or the library with the faults that stand. Until either has, it
is as bad as the device calls itself where it stands alone; among others it may be any of them, and
counts a moment later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..ascend_config import NOT_HANDLED, SUB_HEALTH

MAJOR: Final = 2
LINK_DOWN: Final = 0x81078603

_NAMES: Final = {1: "minor", 2: "major", 3: "critical"}
_GONE: Final = 0xFFFFFFFF
_DAY_SECONDS: Final = 86400.0
_OFTEN: Final = 2
_OFTEN_OF: Final = {0x80E18005: 3, LINK_DOWN: 5}
_DOWN_SECONDS: Final = 20.0
_UP_SECONDS: Final = 60.0
# Within so long an event comes, if it comes at all.
_TOLD_SECONDS: Final = 2.0
_MOST_CODES: Final = 128


@dataclass(slots=True)
class _Known:
    """A fault of a device: how bad, since when it stands (None: it does not), when it came."""

    severity: int | None = None
    since: float | None = None
    until: float | None = None
    came: deque[float] = field(default_factory=lambda: deque(maxlen=16))


class Watch:
    """What is known of one device's faults, from one look to the next."""

    def __init__(
        self, levels: Mapping[int, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing known; ``levels`` are the configuration's, by code."""
        self._levels = levels
        self._clock = clock
        self._faults: dict[int, _Known] = {}
        self._kept: dict[int, str] = {}

    def told(self, code: int, severity: int, *, came: bool) -> None:
        """Take note of an event."""
        known = self._known(code)
        if known is None:
            return
        known.severity = severity
        if came:
            self._came(code, known)
        else:
            self._over(known)

    def stands(self, severities: Mapping[int, int | None]) -> None:
        """Take note of the faults that stand now; events of them may have been missed.

        ``severities`` says how bad each is, None where that is not told.
        """
        for code, severity in severities.items():
            known = self._known(code)
            if known is None:
                continue
            if known.since is None:
                known.severity = severity
                self._came(code, known)
            elif severity is not None:
                known.severity = severity
        for code, known in self._faults.items():
            if code not in severities and known.since is not None:
                self._over(known)

    def reason(self, health: int | None) -> str:
        """Return why the device cannot be used, "" when it can.

        ``health`` is what it says of itself: 0 to 3, None when it does not answer.
        """
        if health is None:
            return "the device does not answer: reset it"
        if health == _GONE:
            return "the device is not there: see its slot"
        now = self._clock()
        ill = [code for code, known in self._faults.items() if self._counts(code, known, now)]
        bad = [text for code in ill if (text := self._bad(code, health))]
        bad += [text for code, text in self._kept.items() if code not in ill]
        standing = any(known.since is not None for known in self._faults.values())
        if health >= MAJOR and not standing:
            bad.append(f"it says {_NAMES.get(health, str(health))} and no fault's code")
        return "; ".join(bad)

    def _known(self, code: int) -> _Known | None:
        if code not in self._faults and len(self._faults) >= _MOST_CODES:
            return None
        return self._faults.setdefault(code, _Known())

    def _came(self, code: int, known: _Known) -> None:
        now = self._clock()
        if known.since is None:
            known.since, known.until = now, None
            known.came.append(now)
        recent = [at for at in known.came if now - at <= _DAY_SECONDS]
        most = _OFTEN_OF.get(code, _OFTEN)
        if len(recent) >= most and self._is_bad(code, known.severity):
            self._kept[code] = (
                f"fault {code:08X} has come {len(recent)} times within a day: look for its cause, "
                "then restart the agent"
            )

    def _over(self, known: _Known) -> None:
        known.since, known.until = None, self._clock()

    def _counts(self, code: int, known: _Known, now: float) -> bool:
        if code != LINK_DOWN:
            return known.since is not None
        if known.since is not None:
            return now - known.since >= _DOWN_SECONDS
        return (
            known.until is not None
            and bool(known.came)
            and known.until - known.came[-1] >= _DOWN_SECONDS
            and now - known.until < _UP_SECONDS
        )

    def _is_bad(self, code: int, severity: int | None) -> bool:
        level = self._levels.get(code)
        if level is not None:
            return level not in {NOT_HANDLED, SUB_HEALTH}
        return severity is not None and severity >= MAJOR

    def _may_be(self, code: int, known: _Known, health: int) -> bool:
        """Whether a fault of which that is not told is what makes the device call itself so."""
        others = [
            other
            for number, other in self._faults.items()
            if number != code and other.since is not None
        ]
        if any(other.severity is not None and other.severity >= health for other in others):
            return False
        waited = 0.0 if known.since is None else self._clock() - known.since
        return not others or waited >= _TOLD_SECONDS

    def _bad(self, code: int, health: int) -> str:
        """Return what is wrong by a standing fault, "" when it is none that matters."""
        known = self._faults[code]
        severity = known.severity
        if severity is None:
            severity = health if self._may_be(code, known, health) else 0
        if not self._is_bad(code, severity):
            return ""
        what = self._levels.get(code) or _NAMES.get(severity, str(severity))
        return f"fault {code:08X} ({what}): look it up in Ascend's list of faults (npu-smi info)"
