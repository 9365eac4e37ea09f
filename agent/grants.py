"""The grants of the slices that there are, open for what the agent has to tell each container."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aliquot.shim import region

from .devices import Device
from .slices import Slice


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file of a slice cannot be used, in one line.

    ``gone``: it is not there, as happens for a moment when a slice ends.
    """

    text: str
    gone: bool = False


@dataclass(slots=True)
class Grant:
    """One open grant.

    ``folder`` is where it lies, and ``usage`` too. ``identity`` tells its slice from a later one
    with the same key. ``columns`` are the numbers that the slice's devices have in its region,
    ``written`` is what each of them was told last.
    """

    fd: int
    folder: str
    identity: int
    device_count: int
    columns: Mapping[str, int]
    written: dict[int, tuple[int | None, float | None, float | None]] = field(default_factory=dict)


class Grants:
    """Open grants by the keys of their slices; used from one thread only."""

    def __init__(self) -> None:
        """None is open."""
        self._open: dict[str, Grant] = {}
        self.faults: dict[str, Fault] = {}

    def follow(
        self,
        pieces: Sequence[Slice],
        region_of: Callable[[str], Path],
        devices: Sequence[Device],
    ) -> None:
        """Open the grants of new slices and close those of slices that are gone.

        ``faults`` then has why for each slice whose grant cannot be used; it is tried again
        the next time.
        """
        now = {piece.key: piece.created_unix_ns for piece in pieces}
        for key in [key for key, grant in self._open.items() if now.get(key) != grant.identity]:
            os.close(self._open.pop(key).fd)
        self.faults.clear()
        for piece in pieces:
            if piece.key in self._open:
                continue
            path = region_of(piece.key) / "grant"
            try:
                self._open[piece.key] = open_grant(path, piece, devices)
            except (region.RegionError, OSError) as error:
                self.faults[piece.key] = fault_of(path, error)

    def get(self, key: str) -> Grant | None:
        """Return a slice's open grant."""
        return self._open.get(key)

    def write(
        self,
        key: str,
        uuid: str,
        *,
        unclaimed: int | None,
        busy: float | None,
        memory_busy: float | None,
    ) -> None:
        """Tell a container what was seen of it on a device; see region.write_readings.

        A slice or device that is gone is passed over. Raises OSError.
        """
        grant = self._open.get(key)
        column = None if grant is None else grant.columns.get(uuid)
        if grant is None or column is None:
            return
        told = (unclaimed, busy, memory_busy)
        if grant.written.get(column) == told:
            return
        region.write_readings(
            grant.fd, column, unclaimed=unclaimed, busy=busy, memory_busy=memory_busy
        )
        grant.written[column] = told

    def gate(self, key: str, uuid: str) -> str | None:
        """Return what a slice may launch on a device now, one of region.GATES.

        None when the slice or the device is gone. Raises OSError.
        """
        grant = self._open.get(key)
        column = None if grant is None else grant.columns.get(uuid)
        return None if grant is None or column is None else region.read_gate(grant.fd, column)

    def close(self) -> None:
        """Close all; the slices stay as they are."""
        for grant in self._open.values():
            os.close(grant.fd)
        self._open.clear()


def fault_of(path: Path, error: region.RegionError | OSError) -> Fault:
    """Return why a file of a slice cannot be used, from what was raised."""
    if isinstance(error, OSError):
        text = f"{path} cannot be used: {error.strerror}"
        return Fault(text, gone=isinstance(error, FileNotFoundError))
    return Fault(str(error))


def open_grant(path: Path, piece: Slice, devices: Sequence[Device]) -> Grant:
    """Open the grant of a slice; its descriptor is the caller's to close.

    Raises region.RegionError, OSError.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags)
    try:
        grant = region.read_grant(fd, str(path))
        columns = _columns(grant, piece, devices)
    except BaseException:
        os.close(fd)
        raise
    return Grant(fd, str(path.parent), piece.created_unix_ns, len(grant.devices), columns)


def _columns(grant: region.Grant, piece: Slice, devices: Sequence[Device]) -> dict[str, int]:
    """Return the column of each of the slice's devices, by UUID.

    A device that its vendor does not tell of any more has the place that it had in the slice.
    """
    places = {row.uuid: number for number, row in enumerate(grant.devices)}
    names = {device.uuid: device.uuid_bytes for device in devices}
    whole = len(grant.devices) == len(piece.parts)
    columns: dict[str, int] = {}
    for number, part in enumerate(piece.parts):
        name = names.get(part.uuid)
        column = places.get(name) if name is not None else number if whole else None
        if column is not None:
            columns[part.uuid] = column
    return columns
