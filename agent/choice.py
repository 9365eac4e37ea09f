"""Which of the devices that fit go together, as a pure function of what is known of them.

Linked ones go together, then those of one NUMA node, then the fullest or the least full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, islice
from math import comb
from typing import Final

from .devices import Device

# A choice of 4 among 16 devices is looked through whole; of more, one that grows from each device.
_MOST_CHOICES: Final = 2000


def choose(
    usable: Sequence[Device],
    count: int,
    fullness: Mapping[str, Fraction],
    fits: Callable[[Sequence[Device]], bool] | None,
    *,
    spread: bool,
) -> tuple[Device, ...] | None:
    """Return the best ``count`` devices, in their order; None when no choice fits.

    ``fullness`` is by UUID, and ``spread`` whether less of it is better. ``fits`` says whether
    devices can be had in an order; None: in any.
    """

    def score(choice: Sequence[Device]) -> tuple[int, int, int, Fraction, tuple[int, ...]]:
        """Smaller is better."""
        pairs = [_links(one, other) for one, other in combinations(choice, 2)]
        full = sum((fullness[device.uuid] for device in choice), Fraction())
        return (
            -sum(1 for links in pairs if links),
            -sum(pairs),
            len({device.numa_node for device in choice}),
            full if spread else -full,
            tuple(device.index for device in choice),
        )

    if comb(len(usable), count) <= _MOST_CHOICES:
        choices: Iterable[tuple[Device, ...]] = combinations(usable, count)
    else:
        choices = _grown(usable, count, fullness, spread=spread)
        if fits:
            # Those that fit by their order alone, as far as there is time to look.
            choices = [*choices, *islice(combinations(usable, count), _MOST_CHOICES)]
    return min(
        (choice for choice in choices if fits is None or fits(choice)), key=score, default=None
    )


def _grown(
    usable: Sequence[Device],
    count: int,
    fullness: Mapping[str, Fraction],
    *,
    spread: bool,
) -> list[tuple[Device, ...]]:
    """Return one choice for each device: it, and what joins best one after the other."""
    order = {device.uuid: place for place, device in enumerate(usable)}
    choices = []
    for seed in usable:
        choice = [seed]
        rest = [device for device in usable if device is not seed]
        # Kept up as the choice grows: number and sum of links to it.
        near = {device.uuid: (0, 0) for device in rest}
        while len(choice) < count:
            nodes = {device.numa_node for device in choice}
            newest = choice[-1]
            for device in rest:
                links = _links(newest, device)
                pairs, total = near[device.uuid]
                near[device.uuid] = (pairs + bool(links), total + links)

            def score(device: Device, nodes: set[int | None] = nodes) -> tuple[object, ...]:
                pairs, total = near[device.uuid]  # noqa: B023 - called before the next round
                full = fullness[device.uuid]
                apart = device.numa_node not in nodes
                return (-pairs, -total, apart, full if spread else -full, order[device.uuid])

            best = min(rest, key=score)
            rest.remove(best)
            choice.append(best)
        choices.append(tuple(sorted(choice, key=lambda device: order[device.uuid])))
    return choices


def _links(one: Device, other: Device) -> int:
    """Return the direct links between two devices, whichever of them tells."""
    return max(one.links.get(other.uuid, 0), other.links.get(one.uuid, 0))
