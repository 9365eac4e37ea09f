"""Sharing of time: what the arbiter of the node is told, and what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """What the arbiter counted for one slice on one device, since it came to know the slice.

    ``held_seconds``: the device was the slice's own, or it ran there; of that, ``split_seconds``
    while others ran there too. ``wanted_seconds``: it had work, or waited. ``turns`` that it got;
    ``overtaken``: turns that ended though it had work under way; ``preempted``: turns that a
    higher priority ended. ``wanted`` and ``received`` are shares of the last second, 0 to 1.
    """

    held_seconds: float
    split_seconds: float
    wanted_seconds: float
    turns: int
    overtaken: int
    preempted: int
    wanted: float
    received: float
