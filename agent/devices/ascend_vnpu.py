"""vNPUs: partitions of an Ascend device by its chip's templates, as containers get them.

The driver gives a vNPU a number and keeps no name. So we choose the number, and write down whose it
will be before it is made: a file for each in the agent's runtime folder. Whoever comes after a
crash knows by that which of the vNPUs that there are were ours. Others (npu-smi's, the vendor's own
plugin's) are listed without a name and never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aliquot.hooks import files

from ..ascend_config import Template
from . import Partition, UntoldError, VendorError, dcmi

FOLDER: Final = "vnpu"
NEEDED: Final = ("dcmi_create_vdevice", "dcmi_set_destroy_vdevice", "dcmi_get_device_info")

# The numbers that npu-smi gives the vNPUs of a device, by its physical id.
_FIRST: Final = 100
_END: Final = 1124
_STEP: Final = 16
_MOST_OF_310P: Final = 8
_MAIN_VDEV: Final = 52
_RESOURCE: Final = 0
_TOTAL: Final = 1
_MIB: Final = 1 << 20
_MOST_BYTES: Final = 4096
# Refusals, with which the driver has made nothing: what has the number then is another's.
_NOT_MADE: Final = frozenset(
    {
        dcmi.PARAMETER,
        dcmi.PERMISSION,
        dcmi.INVALID_ID,
        dcmi.ABSENT,
        dcmi.OCCUPIED,
        dcmi.MISMATCH,
        dcmi.NOT_SUPPORTED,
        dcmi.MISSING,
    }
)
_ALL: Final = 100


@dataclass(frozen=True, slots=True)
class Chip:
    """A device as its partitions are asked for: where it is, and what it is divided into."""

    uuid: str
    card: int
    place: int
    phy: int
    name: str
    cores: int
    templates: tuple[Template, ...]

    def percent(self, cores: float) -> int:
        """Return how much of the device so many AI cores are, in whole percent."""
        return int(cores * _ALL / self.cores)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """What its templates have, as Device has it."""
        return tuple((one.memory_bytes, self.percent(one.cores)) for one in self.templates)

    @property
    def ids(self) -> range:
        """The numbers that its vNPUs have: none for a device beyond those that can have any."""
        first = _FIRST + self.phy * _STEP
        most = _MOST_OF_310P if self.name.startswith("310P") else _STEP
        return range(first, first + most if first + most <= _END else first)


class Records:
    """Which vNPUs were made here, for which slice: a file for each."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made before the first record."""
        self._folder = folder

    def all(self) -> dict[str, tuple[str, str]]:
        """Return device and name by the vNPU's number; what cannot be read is nobody's."""
        found: dict[str, tuple[str, str]] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):  # noqa: PTH208 - names are what is wanted
                if name.isascii() and name.isdigit():
                    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                        found[name] = self._read(name)
        return found

    def _read(self, name: str) -> tuple[str, str]:
        with (self._folder / name).open("rb") as file:
            value = json.loads(file.read(_MOST_BYTES))
        return str(value["uuid"]), str(value["name"])

    def write(self, number: int, uuid: str, name: str) -> None:
        """Write one down, whole or not at all. Raises VendorError."""
        path = self._folder / str(number)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f".{number}.new")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(fresh, flags, 0o600)
            try:
                files.write_all(fd, json.dumps({"uuid": uuid, "name": name}).encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            fresh.replace(path)
        except OSError as error:
            raise VendorError(f"{path} cannot be written: {error.strerror}") from error

    def remove(self, number: int | str) -> None:
        """Forget one; without it nothing happens. Raises VendorError."""
        path = self._folder / str(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise VendorError(f"{path} cannot be removed: {error.strerror}") from error


def offered(session: dcmi.Session, chip: Chip) -> bool:
    """Whether a device tells of vNPUs at all."""
    try:
        _numbers(session, chip)
    except dcmi.DcmiError:
        return False
    return True


def make(
    session: dcmi.Session, records: Records, chip: Chip, name: str, memory_bytes: int, cores: int
) -> Partition:
    """Make the smallest vNPU that holds what is asked for. Raises VendorError, DcmiError."""
    template = smallest(chip, memory_bytes, cores)
    there = set(_numbers(session, chip))
    taken = there | {int(number) for number in records.all()}
    number = next((one for one in chip.ids if one not in taken), None)
    if number is None:
        raise VendorError(f"{chip.uuid} has all of its {len(chip.ids)} vNPUs already")
    records.write(number, chip.uuid, name)
    wanted = dcmi.ffi.new("struct dcmi_create_vdev_res_stru *")
    wanted.vdev_id, wanted.vfg_id = number, 0xFFFFFFFF
    wanted.template_name = template.name.encode()
    out = dcmi.ffi.new("struct dcmi_create_vdev_out *")
    try:
        session.call("dcmi_create_vdevice", chip.card, chip.place, wanted, out)
    except dcmi.DcmiError as error:
        _take_back(session, records, chip, number, error.code)
        raise VendorError(
            f"{chip.uuid} gives no vNPU of {template.name}: {dcmi.describe(error.code)}"
        ) from error
    made = _made(session, chip, number, int(out.vdev_id), there)
    if made != number:
        if made is not None:
            records.write(made, chip.uuid, name)
        records.remove(number)
    if made is None:
        raise VendorError(f"{chip.uuid}: the vNPU that was made is not listed: see npu-smi info")
    found = _read(session, chip, made)
    memory, share = found or (template.memory_bytes, chip.percent(template.cores))
    return Partition(chip.uuid, str(made), name, memory, share)


def _made(
    session: dcmi.Session, chip: Chip, wanted: int, told: int, before: Container[int]
) -> int | None:
    """Return the number of the vNPU that was made: what was asked for, else what the driver told.

    None when there is neither.
    """
    try:
        fresh = [number for number in _numbers(session, chip) if number not in before]
    except dcmi.DcmiError:
        return told if told in chip.ids else wanted
    return next((number for number in (wanted, told) if number in fresh), None)


def _take_back(session: dcmi.Session, records: Records, chip: Chip, number: int, code: int) -> None:
    """Leave nothing of a vNPU that could not be made, as far as the driver lets us.

    An error need not mean that none was made. What cannot be destroyed now stays written down, so
    that it is found by its name. Raises VendorError.
    """
    if code not in _NOT_MADE:
        try:
            if number in _numbers(session, chip):
                session.call("dcmi_set_destroy_vdevice", chip.card, chip.place, number)
        except dcmi.DcmiError:
            return
    records.remove(number)


def smallest(chip: Chip, memory_bytes: int, cores: int) -> Template:
    """Return the smallest template that holds so much. Raises VendorError when none does."""
    fits = [
        one
        for one in chip.templates
        if one.memory_bytes >= memory_bytes and chip.percent(one.cores) >= cores
    ]
    if not fits:
        known = ", ".join(
            f"{one.name} {one.memory_bytes // _MIB} MiB and {chip.percent(one.cores)}%"
            for one in chip.templates
        )
        raise VendorError(
            f"{chip.uuid} has no vNPU template that holds {memory_bytes / _MIB:g} MiB and {cores}"
            f"%: there are {known or 'none'}"
        )
    return min(fits, key=lambda one: (one.memory_bytes, one.cores))


def listed(session: dcmi.Session, records: Records, chips: Sequence[Chip]) -> tuple[Partition, ...]:
    """Return the vNPUs that there are, and forget records of others.

    Raises UntoldError, and DcmiError when nothing can be asked.
    """
    known = records.all()
    found: list[Partition] = []
    untold: dict[str, dcmi.DcmiError] = {}
    for chip in chips:
        try:
            found += _of_chip(session, known, chip)
        except dcmi.DcmiError as error:
            if error.over:
                raise
            untold[chip.uuid] = error
    real = {one.id for one in found}
    asked = {chip.uuid for chip in chips} - untold.keys()
    for number, (uuid, _) in known.items():
        # (Of a device that does not tell now nothing is known.)
        if number not in real and uuid in asked:
            records.remove(number)
    if untold:
        text = "; ".join(f"{uuid} does not tell its vNPUs: {why}" for uuid, why in untold.items())
        raise UntoldError(text, found, tuple(untold))
    return tuple(found)


def _of_chip(
    session: dcmi.Session, known: Mapping[str, tuple[str, str]], chip: Chip
) -> Iterator[Partition]:
    for number in _numbers(session, chip):
        uuid, name = known.get(str(number), ("", ""))
        memory, cores = _read(session, chip, number) or (0, 0)
        yield Partition(chip.uuid, str(number), name if uuid == chip.uuid else "", memory, cores)


def release(session: dcmi.Session, records: Records, chip: Chip, partition: Partition) -> None:
    """Destroy a vNPU; one that is gone, or another's by now, is well. Raises VendorError."""
    if records.all().get(partition.id) != (chip.uuid, partition.name):
        return
    try:
        session.call("dcmi_set_destroy_vdevice", chip.card, chip.place, int(partition.id))
    except dcmi.DcmiError as error:
        if error.code != dcmi.ABSENT and int(partition.id) in _numbers(session, chip):
            raise VendorError(
                f"vNPU {partition.id} of {chip.uuid} cannot be released: "
                f"{dcmi.describe(error.code)}"
            ) from error
    records.remove(partition.id)


def _numbers(session: dcmi.Session, chip: Chip) -> list[int]:
    """Return the numbers of a device's vNPUs. Raises DcmiError."""
    total = _info(session, chip, _TOTAL, dcmi.ffi.new("struct dcmi_soc_total_resource *"))
    return [int(number) for number in total.vdev_id[0 : min(int(total.vdev_num), 32)]]


def _read(session: dcmi.Session, chip: Chip, number: int) -> tuple[int, int] | None:
    """Return bytes and percent of a vNPU, None when it does not tell."""
    query = dcmi.ffi.new("struct dcmi_vdev_query_stru *")
    query.vdev_id = number
    try:
        has = _info(session, chip, _RESOURCE, query).query_info.computing
    except dcmi.DcmiError:
        return None
    if not has.memory_size:
        return None
    return int(has.memory_size) * _MIB, chip.percent(float(has.aic))


def _info(session: dcmi.Session, chip: Chip, command: int, out: Any) -> Any:  # noqa: ANN401
    size = dcmi.ffi.new("unsigned int *", dcmi.ffi.sizeof(out[0]))
    session.call("dcmi_get_device_info", chip.card, chip.place, _MAIN_VDEV, command, out, size)
    return out[0]
