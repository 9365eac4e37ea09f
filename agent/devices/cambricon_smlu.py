"""Cambricon's sMLU: shares of a card that its driver enforces, as partitions.

A profile says how large a share is, and an instance of it is what a container gets, by its device
node. Instances of ours carry their slice's key behind a prefix in their name: others (the vendor's
own plugin's, an administrator's) have no name as partitions, and are not touched. A profile goes
with its last instance. Quotas may be changed while programs run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Final

from . import Partition, VendorError, cndev

PREFIX: Final = "aliquot."
# Of the library's fields for names, whose last byte is a zero.
_MOST_NAME: Final = 99
# The first driver that has sMLU.
_FIRST_DRIVER: Final = (5, 10, 27)
_ENABLED: Final = 1
# Of pairs of quotas and sizes: what may be used, and what is.
_LIMIT: Final = 0
_USED: Final = 1
_MIB: Final = 1 << 20
_ALL_CORES: Final = 100
_NEEDED: Final = (
    "cndevGetSMLUMode",
    "cndevCreateSMluProfileInfo",
    "cndevCreateSMluInstanceByProfileId",
    "cndevDestroySMluInstanceByHandle",
    "cndevGetAllSMluInstanceInfo",
)
# Of a profile: there is none, or somebody has it.
_GONE: Final = frozenset({cndev.NOT_FOUND, cndev.IN_USE, cndev.INVALID_ARGUMENT})
_UPDATE: Final = "cndevUpdateSMluInstanceQuotaByHandle"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the library tells it; ``memory_bytes`` and ``cores`` are its limits.

    ``used_bytes`` and ``busy`` are what the driver says that it uses of the card.
    """

    number: int
    profile: int
    name: str
    node: str
    memory_bytes: int
    cores: int
    used_bytes: int
    busy: float | None

    def handle(self, slot: int) -> int:
        """Return what the library calls it on the card in a slot."""
        return self.number << 8 | slot

    def partition(self, uuid: str) -> Partition:
        """Return it as a partition of the device of that UUID."""
        name = self.name.removeprefix(PREFIX) if self.name.startswith(PREFIX) else ""
        own = (self.memory_bytes, self.cores, self.used_bytes, self.busy)
        return Partition(uuid, str(self.number), name, *own)


def offered(session: cndev.Session, device: int) -> bool:
    """Whether a card can be shared so now: its driver is new enough, and sMLU is switched on.

    Raises CndevError when the session has ended.
    """
    if not session.has(*_NEEDED):
        return False
    mode = session.reading("cndevSMLUMode_t", "cndevGetSMLUMode", device)
    if mode is None or mode.smluMode != _ENABLED:
        return False
    found = session.reading("cndevVersionInfo_t", "cndevGetVersionInfo", device)
    if found is None:
        return True
    driver = (found.driverMajorVersion, found.driverMinorVersion, found.driverBuildVersion)
    return driver >= _FIRST_DRIVER


def instances(session: cndev.Session, device: int) -> list[Instance]:
    """Return the instances of a card, everybody's. Raises CndevError."""
    return session.listed("cndevSMluInfo_t", "cndevGetAllSMluInstanceInfo", device, _instance)


def _instance(row: cndev.Value) -> Instance:
    return Instance(
        number=int(row.instanceId),
        profile=int(row.profileId),
        name=cndev.text_of(row.instanceName),
        node=cndev.text_of(row.devNodeName),
        memory_bytes=int(row.memorySize[_LIMIT]),
        cores=int(row.mluQuota[_LIMIT]),
        used_bytes=int(row.memorySize[_USED]),
        busy=_busy(int(row.mluQuota[_USED])),
    )


def _busy(percent: int) -> float | None:
    """Return a share of time; None for what is no percentage."""
    return percent / 100 if 0 <= percent <= _ALL_CORES else None


def find(session: cndev.Session, device: int, partition: Partition) -> Instance | None:
    """Return the instance that a partition is, None when it is gone. Raises CndevError.

    Numbers are given out again: one of another name is another's.
    """
    if not partition.name:
        return None
    for instance in instances(session, device):
        same = str(instance.number) == partition.id
        if same and instance.name == PREFIX + partition.name:
            return instance
    return None


@dataclass(frozen=True, slots=True)
class Card:
    """A card whose shares are made here, and the profiles that are left of them."""

    uuid: str
    slot: int
    profiles: Profiles


def make(session: cndev.Session, card: Card, name: str, memory_bytes: int, cores: int) -> Partition:
    """Make an instance, the smallest that holds what is asked for.

    Raises VendorError and CndevError; then nothing is left.
    """
    uuid, device = card.uuid, card.slot
    label = (PREFIX + name).encode()
    if len(label) > _MOST_NAME or b"\0" in label or not name:
        raise VendorError(f"{uuid}: '{name}' cannot be an sMLU instance's name: it is too long")
    if _named(session, device, PREFIX + name) is not None:
        raise VendorError(f"{uuid}: it has an sMLU instance {PREFIX}{name} already: release it")
    wanted = _share(memory_bytes, cores)
    handle = None
    try:
        profile = card.profiles.of(session, device, wanted)
        try:
            handle = _create(session, device, profile, label)
            # (The library need not give the handle that we would make.)
            found = _named(session, device, PREFIX + name)
        except cndev.CndevError:
            _take_back(session, card, PREFIX + name, profile, handle)
            raise
    except cndev.CndevError as error:
        raise _failed(f"{uuid}: no sMLU instance of {_told(wanted)} can be made", error) from error
    if found is None:
        card.profiles.forget(session, device, profile)
        raise VendorError(f"{uuid}: the sMLU instance that was made is not listed: look at cnmon")
    # (Nor need it give what was asked for.)
    if found.memory_bytes < memory_bytes or found.cores < wanted.cores:
        _destroy(session, card, found)
        raise VendorError(
            f"{uuid}: the driver made an sMLU instance of {_told(found)}, less than the "
            f"{_told(wanted)} that were asked for: update the driver"
        )
    return dataclasses.replace(found.partition(uuid), name=name)


def _named(session: cndev.Session, device: int, name: str) -> Instance | None:
    """Return the instance of a name, None when there is none. Raises CndevError."""
    return next((one for one in instances(session, device) if one.name == name), None)


def _create(session: cndev.Session, device: int, profile: int, label: bytes) -> int:
    """Make an instance; returns its handle. Raises CndevError."""
    made = cndev.ffi.new("cndevMluInstance_t *")
    text = cndev.ffi.new("char[]", label)
    session.call("cndevCreateSMluInstanceByProfileId", made, profile, device, text)
    return int(made[0])


def _take_back(
    session: cndev.Session, card: Card, name: str, profile: int, handle: int | None
) -> None:
    """Leave nothing of an instance whose making failed, as far as the driver lets us.

    ``handle`` is None where it is not known to be made: an error need not mean that it was not. One
    that cannot be destroyed now is found by its name.
    """
    with contextlib.suppress(cndev.CndevError):
        if handle is None:
            found = _named(session, card.slot, name)
            handle = None if found is None else found.handle(card.slot)
        if handle is not None:
            session.call("cndevDestroySMluInstanceByHandle", handle)
    card.profiles.forget(session, card.slot, profile)


def resize(
    session: cndev.Session, device: int, partition: Partition, memory_bytes: int, cores: int
) -> Partition:
    """Change what an instance may have while it is used. Raises VendorError and CndevError."""
    found = find(session, device, partition)
    if found is None:
        raise VendorError(f"{partition.uuid}: its sMLU instance {partition.id} is gone")
    wanted = _share(memory_bytes, cores)
    if not session.has(_UPDATE):
        raise VendorError(
            f"{partition.uuid}: its driver cannot change an sMLU instance that exists: "
            "start the container anew, or update the driver"
        )
    try:
        _update(session, device, found, wanted)
    except cndev.CndevError as error:
        # An error need not mean that it is as before.
        with contextlib.suppress(cndev.CndevError):
            _update(session, device, found, _Share(found.memory_bytes, found.cores))
        what = f"{partition.uuid}: its sMLU instance {partition.id} cannot be {_told(wanted)}"
        raise _failed(what, error) from error
    fresh: Instance | None = dataclasses.replace(
        found, memory_bytes=wanted.memory_bytes, cores=wanted.cores
    )
    try:
        fresh = find(session, device, partition)
    except cndev.CndevError as error:
        # It is what it was to be, whether that can be seen or not.
        if error.code in cndev.ENDED:
            raise
    if fresh is None:
        raise VendorError(f"{partition.uuid}: its sMLU instance {partition.id} is gone")
    return fresh.partition(partition.uuid)


def _update(session: cndev.Session, device: int, instance: Instance, wanted: _Share) -> None:
    share = session.new("cndevSMluSet_t")
    share.mluQuota, share.memorySize = wanted.cores, wanted.memory_bytes
    session.call(_UPDATE, instance.handle(device), share)


def release(session: cndev.Session, card: Card, partition: Partition) -> None:
    """Destroy an instance; one that is gone is well. Raises VendorError and CndevError."""
    found = find(session, card.slot, partition)
    if found is None:
        return
    try:
        _destroy(session, card, found)
    except cndev.CndevError as error:
        # An error need not mean that it is there still.
        if find(session, card.slot, partition) is None:
            card.profiles.forget(session, card.slot, found.profile)
            return
        what = f"{partition.uuid}: its sMLU instance {partition.id} cannot be released"
        raise _failed(what, error) from error


def _failed(what: str, error: cndev.CndevError) -> Exception:
    """Return an error for people, or the library's own where its session has ended."""
    return error if error.code in cndev.ENDED else cndev.described(what, error)


def _destroy(session: cndev.Session, card: Card, instance: Instance) -> None:
    session.call("cndevDestroySMluInstanceByHandle", instance.handle(card.slot))
    card.profiles.forget(session, card.slot, instance.profile)


@dataclass(frozen=True, slots=True)
class _Share:
    memory_bytes: int
    cores: int


def _share(memory_bytes: int, cores: int) -> _Share:
    """Return the smallest share that the driver has: whole MiB, and a percent of the card."""
    return _Share(-(-memory_bytes // _MIB) * _MIB, min(max(cores, 1), _ALL_CORES))


def _told(share: _Share | Instance) -> str:
    return f"{share.memory_bytes / _MIB:g} MiB and {share.cores}%"


class Profiles:
    """Profiles of one card that we have made and that could not be removed again.

    The driver knows a profile by its size alone: whoever comes after a crash cannot know whose one
    without instances is, and leaves it.
    """

    def __init__(self) -> None:
        """Nothing is left."""
        self._left: set[int] = set()

    def of(self, session: cndev.Session, device: int, wanted: _Share) -> int:
        """Return the number of the profile of a size, made if there is none. Raises CndevError."""
        known = _profiles(session, device)
        for number in known:
            if _has_size(session, device, number, wanted):
                self._left.discard(number)
                return number
        share = session.new("cndevSMluSet_t")
        share.mluQuota, share.memorySize = wanted.cores, wanted.memory_bytes
        out = cndev.ffi.new("int32_t *")
        refused = None
        try:
            session.call("cndevCreateSMluProfileInfo", share, out, device)
        except cndev.CndevError as error:
            # An error need not mean that none was made.
            refused = error
        fresh = [number for number in _profiles(session, device) if number not in known]
        made = next((one for one in fresh if _has_size(session, device, one, wanted)), None)
        if refused is not None:
            if made is not None:
                self.forget(session, device, made)
            raise refused
        # (The library need not say which it is; nor need it list them.)
        if made is None and out[0] < 0:
            text = f"cndevCreateSMluProfileInfo: made profile {out[0]}, which is none"
            raise cndev.CndevError(cndev.UNKNOWN, text)
        return int(out[0]) if made is None else made

    def forget(self, session: cndev.Session, device: int, profile: int) -> None:
        """Remove a profile that no instance has, as the vendor's own plugin does.

        The library refuses where one has it, and then it stays. What fails otherwise is tried again
        by ``sweep``.
        """
        self._left.add(profile)
        self.sweep(session, device)

    def sweep(self, session: cndev.Session, device: int) -> None:
        """Remove what could not be removed before."""
        if not self._left:
            return
        with contextlib.suppress(cndev.CndevError):
            used = {instance.profile for instance in instances(session, device)}
            self._left -= used
        for profile in tuple(self._left):
            try:
                session.call("cndevDestroySMluProfileInfo", profile, device)
            except cndev.CndevError as error:
                if error.code not in _GONE:
                    continue
            self._left.discard(profile)


def _profiles(session: cndev.Session, device: int) -> list[int]:
    """Return the numbers of a card's profiles; none where they are not told."""
    known = session.reading("cndevSMluProfileIdInfo_t", "cndevGetSMluProfileIdInfo", device)
    if known is None:
        return []
    count = min(max(int(known.count), 0), len(known.profileId))
    return [int(number) for number in known.profileId[0:count]]


def _has_size(session: cndev.Session, device: int, profile: int, wanted: _Share) -> bool:
    info = session.reading("cndevSMluProfileInfo_t", "cndevGetSMluProfileInfo", profile, device)
    return (
        info is not None
        and int(info.memorySize[_LIMIT]) == wanted.memory_bytes
        and int(info.mluQuota[_LIMIT]) == wanted.cores
    )
