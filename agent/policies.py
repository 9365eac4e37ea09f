"""Policies: names for settings of what a slice is given of a device's time.

The first three names are qGPU's, the others cGPU's, which has numbers for them too. ``POLICIES`` is
the one place that says what each means; docs/requests.md has the same table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from aliquot.shim import region

from .errors import BadRequestError

BURST_SHARE: Final = "burst-share"
FIXED_SHARE: Final = "fixed-share"
NATIVE: Final = "native"

ALL_CORES: Final = 100
MOST_QUIET_MS: Final = 10_000
# The arbiter's: more would be a priority that is none.
MOST_FLOOR: Final = 90
HAMI_CORES: Final = "CUDA_DEVICE_SM_LIMIT"

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,6}", re.ASCII)
_PERCENT: Final = re.compile(r"([0-9]{1,3}) ?%?", re.ASCII)
_MILLISECONDS: Final = re.compile(r"([0-9]{1,6}) ?(?:ms)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a name means.

    ``means`` says it in half a sentence. ``sets`` are the keys that it decides itself: whoever
    names the policy may not say them too. ``guarantees``: ``cores`` are kept for the slice;
    ``fixed``: it never has more; ``averaged``: they are its part of as many as the node allows;
    ``weighted``: what is spare goes by ``cores`` where no weight is said. ``windows`` is how much
    work may be under way at a time, as a multiple of what it else is.
    """

    means: str
    sets: frozenset[str] = frozenset()
    guarantees: bool = True
    fixed: bool = False
    averaged: bool = False
    weighted: bool = False
    windows: int = 1


_FIXED: Final = Policy("which has just its cores", frozenset({"cores-max"}), fixed=True)

POLICIES: Final[Mapping[str, Policy]] = {
    FIXED_SHARE: _FIXED,
    BURST_SHARE: Policy("which has its cores and what is spare"),
    "best-effort": Policy(
        "which has only what others leave", frozenset({"cores"}), guarantees=False
    ),
    "average": Policy(
        "which has as much as every other",
        frozenset({"cores", "cores-max"}),
        fixed=True,
        averaged=True,
    ),
    "preemptive": Policy("which has what is spare as every other does", frozenset({"weight"})),
    "weighted-preemptive": Policy("which has what is spare by its cores", weighted=True),
    "fixed": _FIXED,
    "weak": Policy("which has its cores and what is spare, less exactly", windows=5),
    NATIVE: Policy(
        "which takes no turns",
        frozenset({"cores", "cores-max", "weight", "priority", "group", "quiet", "floor"}),
        guarantees=False,
    ),
}

CGPU: Final = ("average", "preemptive", "weighted-preemptive", "fixed", "weak", NATIVE)
"""cGPU's policies by the numbers that it has for them."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a policy and the keys beside it come to.

    ``cores`` and ``cores_max`` in percent, and ``weight``, are None where nobody has said them.
    """

    policy: str
    cores: int | None
    cores_max: int | None
    weight: int | None


def settle(
    name: str,
    said: Mapping[str, int],
    where: Callable[[str], str],
    max_containers: int,
    *,
    named: bool,
    also: Collection[str] = (),
) -> Numbers:
    """Return what a policy means together with the numbers that were ``said`` by their keys.

    ``also`` are keys that were said and are no numbers; ``where`` names the place of each in
    messages. A policy that nobody ``named`` is the node's own, and gives way to what was said.
    Raises BadRequestError for what contradicts itself.
    """
    policy = POLICIES[name]
    against = sorted(policy.sets.intersection((*said, *also)))
    if against and not named:
        name, policy = BURST_SHARE, POLICIES[BURST_SHARE]
    elif against:
        raise BadRequestError(
            f"{where(against[0])}: says nothing beside policy {name}, {policy.means}: "
            "leave one of them out"
        )
    cores = said.get("cores") if policy.guarantees else 0
    if policy.averaged:
        cores = max(ALL_CORES // max_containers, 1)
    if policy.fixed and named and not cores:
        raise BadRequestError(
            f"{where('policy')}: {name} needs to know how much that is: add {where('cores')}"
        )
    most = said.get("cores-max") if not policy.fixed else cores or None
    if cores and most is not None and most < cores:
        raise BadRequestError(
            f"{where('cores-max')}: {most}% are less than the {cores}% that are guaranteed "
            f"({where('cores')})"
        )
    if cores and "floor" in said and cores + said["floor"] > ALL_CORES:
        raise BadRequestError(
            f"{where('floor')}: {said['floor']}% for others and {cores}% that are guaranteed "
            f"({where('cores')}) are more than the device"
        )
    weight = said.get("weight")
    if policy.weighted and weight is None:
        if named and not cores:
            raise BadRequestError(
                f"{where('policy')}: {name} goes by cores, or by a weight: "
                f"add {where('cores')} or {where('weight')}"
            )
        weight = cores or 1
    return Numbers(name, cores, most, weight)


def most_cores(policy: str, cores: int) -> int:
    """Return what a slice never passes that is guaranteed ``cores``, where nobody has said it."""
    return cores if POLICIES[policy].fixed and cores else ALL_CORES


def window_us(policy: str) -> int:
    """Return how much work of a slice may be under way at a time, in predicted microseconds."""
    known = POLICIES.get(policy)
    return region.WINDOW_US * (known.windows if known else 1)


# -- As people write them ------------------------------------------------------------------------


def parse_policy(text: str, origin: str) -> str:
    """Read a name, or one of cGPU's numbers. Raises BadRequestError."""
    value = text.strip()
    if value.isascii() and value.isdigit() and len(value) <= 3 and int(value) < len(CGPU):
        return CGPU[int(value)]
    if value not in POLICIES:
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a policy: write {', '.join(POLICIES)}, "
            f"or cGPU's number, 0 to {len(CGPU) - 1}"
        )
    return value


def parse_cores(text: str, origin: str, least: int = 1, most: int = ALL_CORES) -> int:
    """Read percent of a device's time. Raises BadRequestError."""
    match = _PERCENT.fullmatch(text.strip())
    if not match or not least <= int(match[1]) <= most:
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a share of a device's time: "
            f"write percent, a whole number from {least} to {most}"
        )
    return int(match[1])


def parse_weight(text: str, origin: str) -> int:
    """Read a weight. Raises BadRequestError."""
    return _whole(text, origin, "a weight", 1, region.MAX_WEIGHT)


def parse_priority(text: str, origin: str) -> int:
    """Read a priority. Raises BadRequestError."""
    return _whole(text, origin, "a priority", -region.MAX_PRIORITY, region.MAX_PRIORITY)


def parse_quiet(text: str, origin: str) -> int:
    """Read how long an idle device is kept, in milliseconds. Raises BadRequestError."""
    match = _MILLISECONDS.fullmatch(text.strip())
    if not match or int(match[1]) > MOST_QUIET_MS:
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a time: "
            f"write milliseconds, a whole number from 0 to {MOST_QUIET_MS}"
        )
    return int(match[1])


def parse_floor(text: str, origin: str) -> int:
    """Read what lower priorities are left, in percent. Raises BadRequestError."""
    return parse_cores(text, origin, 0, MOST_FLOOR)


def parse_hami_cores(text: str, origin: str) -> int | None:
    """Read HAMi's ``CUDA_DEVICE_SM_LIMIT``, None for all; it takes 0 for that too.

    Raises BadRequestError.
    """
    return parse_cores(text, origin, 0) or None


def _whole(text: str, origin: str, what: str, least: int, most: int) -> int:
    value = text.strip()
    if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not {what}: write a whole number from {least} to {most}"
        )
    return int(value)


def _quoted(text: str) -> str:
    shown = region.printable(text[:61])
    return f"'{shown}'" if len(shown) <= 60 else f"'{shown[:57]}…'"
