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


def make(
    session: cndev.Session, device: int, uuid: str, name: str, memory_bytes: int, cores: int
) -> Partition:
    """Make an instance, the smallest that holds what is asked for.

    Raises VendorError and CndevError; then nothing is left.
    """
    label = (PREFIX + name).encode()
    if len(label) > _MOST_NAME or b"\0" in label or not name:
        raise VendorError(f"{uuid}: '{name}' cannot be an sMLU instance's name: it is too long")
    if _named(session, device, PREFIX + name) is not None:
        raise VendorError(f"{uuid}: it has an sMLU instance {PREFIX}{name} already: release it")
    wanted = _share(memory_bytes, cores)
    handle = None
    try:
        profile = _profile(session, device, wanted)
        try:
            handle = _create(session, device, profile, label)
            # (The library need not give the handle that we would make.)
            found = _named(session, device, PREFIX + name)
        except cndev.CndevError:
            _take_back(session, device, PREFIX + name, profile, handle)
            raise
    except cndev.CndevError as error:
        raise _failed(f"{uuid}: no sMLU instance of {_told(wanted)} can be made", error) from error
    if found is None:
        _forget_profile(session, device, profile)
        raise VendorError(f"{uuid}: the sMLU instance that was made is not listed: look at cnmon")
    # (Nor need it give what was asked for.)
    if found.memory_bytes < memory_bytes or found.cores < wanted.cores:
        _destroy(session, device, found)
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
    session: cndev.Session, device: int, name: str, profile: int, handle: int | None
) -> None:
    """Leave nothing of an instance whose making failed, as far as the driver lets us.

    ``handle`` is None where it is not known to be made: an error need not mean that it was not. One
    that cannot be destroyed now is found by its name.
    """
    with contextlib.suppress(cndev.CndevError):
        if handle is None:
            found = _named(session, device, name)
            handle = None if found is None else found.handle(device)
        if handle is not None:
            session.call("cndevDestroySMluInstanceByHandle", handle)
    _forget_profile(session, device, profile)


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


def release(session: cndev.Session, device: int, partition: Partition) -> None:
    """Destroy an instance; one that is gone is well. Raises VendorError and CndevError."""
    found = find(session, device, partition)
    if found is None:
        return
    try:
        _destroy(session, device, found)
    except cndev.CndevError as error:
        # An error need not mean that it is there still.
        if find(session, device, partition) is None:
            _forget_profile(session, device, found.profile)
            return
        what = f"{partition.uuid}: its sMLU instance {partition.id} cannot be released"
        raise _failed(what, error) from error


def _failed(what: str, error: cndev.CndevError) -> Exception:
    """Return an error for people, or the library's own where its session has ended."""
    return error if error.code in cndev.ENDED else cndev.described(what, error)


def _destroy(session: cndev.Session, device: int, instance: Instance) -> None:
    session.call("cndevDestroySMluInstanceByHandle", instance.handle(device))
    _forget_profile(session, device, instance.profile)


@dataclass(frozen=True, slots=True)
class _Share:
    memory_bytes: int
    cores: int


def _share(memory_bytes: int, cores: int) -> _Share:
    """Return the smallest share that the driver has: whole MiB, and a percent of the card."""
    return _Share(-(-memory_bytes // _MIB) * _MIB, min(max(cores, 1), _ALL_CORES))


def _told(share: _Share | Instance) -> str:
    return f"{share.memory_bytes / _MIB:g} MiB and {share.cores}%"


def _profile(session: cndev.Session, device: int, wanted: _Share) -> int:
    """Return the number of the profile of that size, made if there is none. Raises CndevError."""
    known = session.reading("cndevSMluProfileIdInfo_t", "cndevGetSMluProfileIdInfo", device)
    count = 0 if known is None else min(max(int(known.count), 0), len(known.profileId))
    for number in range(count):
        profile = int(known.profileId[number]) if known is not None else 0
        info = _profile_info(session, device, profile)
        if (
            info is not None
            and int(info.memorySize[_LIMIT]) == wanted.memory_bytes
            and int(info.mluQuota[_LIMIT]) == wanted.cores
        ):
            return profile
    share = session.new("cndevSMluSet_t")
    share.mluQuota, share.memorySize = wanted.cores, wanted.memory_bytes
    made = cndev.ffi.new("int32_t *")
    session.call("cndevCreateSMluProfileInfo", share, made, device)
    return int(made[0])


def _profile_info(session: cndev.Session, device: int, profile: int) -> cndev.Value | None:
    return session.reading("cndevSMluProfileInfo_t", "cndevGetSMluProfileInfo", profile, device)


def _forget_profile(session: cndev.Session, device: int, profile: int) -> None:
    """Remove a profile that no instance has, as the vendor's own plugin does.

    The library refuses where one has it, and then it stays.
    """
    with contextlib.suppress(cndev.CndevError):
        try:
            if any(instance.profile == profile for instance in instances(session, device)):
                return
        except cndev.CndevError as error:
            if error.code in cndev.ENDED:
                raise
        session.call("cndevDestroySMluProfileInfo", profile, device)
