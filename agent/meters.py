"""What slices say that they used: kept within what can be, and never running backwards.

``usage`` is the slice's own to write. A counter that fell would be taken for a new container's, and
a time that is longer than the slice is old for time that others did not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aliquot.shim import region

from .slices import Slice

# What a process' word in the region can say of its waiting threads.
_MOST_WAITING: Final = region.MAX_SLOTS * 1023


class Meters:
    """The counters of every slice on every device, as they were told last."""

    def __init__(self) -> None:
        """Nothing has been told yet."""
        self._told: dict[tuple[str, int, str], region.UsedDevice] = {}

    def read(
        self, piece: Slice, uuid: str, used: region.UsedDevice, now_unix_ns: int
    ) -> region.UsedDevice:
        """Return what can be true of ``used``, and not less than before.

        A device gives a slice no more time than has passed since the slice was made, and a thread
        waits no longer.
        """
        age_ns = max(now_unix_ns - piece.created_unix_ns, 0)
        place = piece.key, piece.created_unix_ns, uuid
        before = self._told.get(place, _NOTHING)
        told = self._told[place] = region.UsedDevice(
            peak=max(before.peak, used.peak),
            refusals=max(before.refusals, used.refusals),
            device_ns=max(before.device_ns, min(used.device_ns, age_ns)),
            wait_ns=max(before.wait_ns, min(used.wait_ns, age_ns * _MOST_WAITING)),
            waits=max(before.waits, used.waits),
            let_through=max(before.let_through, used.let_through),
        )
        return told

    def keep(self, pieces: Iterable[Slice]) -> None:
        """Forget all slices but these."""
        left = {(piece.key, piece.created_unix_ns) for piece in pieces}
        self._told = {place: told for place, told in self._told.items() if place[:2] in left}


_NOTHING: Final = region.UsedDevice(peak=0, refusals=0)
