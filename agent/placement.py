"""Where a slice goes on the node: a pure function of what is there and what is held.

A device is *fuller* than another when the shares of its memory and of its time that slices hold,
added up, are more. Results depend neither on the order in which devices are given nor on that of
slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from .choice import choose
from .config import EVERY_OTHER, Config
from .devices import Device
from .errors import AliquotError
from .policies import ALL_CORES, most_cores
from .sizes import Size, format_size
from .slices import (
    DRIVER,
    FIRM,
    NOBODY,
    PARTITION,
    SHIM,
    SPREAD,
    Container,
    Part,
    Request,
    Slice,
)

_WEIGHT: Final = 100
# Whose device is meant on a node with several vendors' where nobody says it.
_USUAL_VENDOR: Final = "nvidia"
# Who of those that hold memory caps has the device's time shared, too.
_TIMED: Final = frozenset({SHIM, PARTITION})


class RefusedError(AliquotError):
    """A slice that the node cannot give; the text has the reason for every device, in one line."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What slices hold of one device."""

    memory_bytes: int = 0
    cores: int = 0


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request after the ceilings. ``sizes`` are by position in the slice, ``each`` for others."""

    each: Size | None
    sizes: Mapping[int, Size]
    most: Size | None
    cores: int
    cores_max: int = ALL_CORES
    weight: int = _WEIGHT
    priority: int = 0

    def memory(self, device: Device, position: int) -> int:
        """Return the bytes that ``device`` gives as the slice's device number ``position``."""
        size = self.sizes.get(position, self.each)
        if size is not None:
            return size.of(device.memory_bytes)
        if self.most is not None:
            return min(device.memory_bytes, self.most.of(device.memory_bytes))
        return device.memory_bytes


def place(
    request: Request,
    devices: Sequence[Device],
    slices: Sequence[Slice],
    unhealthy: Mapping[str, str],
    container: Container,
    config: Config,
    silent: Sequence[str] = (),
) -> tuple[Part, ...]:
    """Return what the container gets of which devices, by their index.

    ``slices`` are all that the ledger has, ``unhealthy`` the reason by UUID, ``silent`` the vendors
    of which nobody knows yet what devices they have. Several devices are
    chosen so that most of them are linked directly, then so that they lie on few NUMA nodes, then
    as ``placement`` says. What a request leaves open is all of a device, up to the container's
    ceiling. Raises RefusedError.
    """
    devices = sorted(devices, key=lambda device: (device.index, device.uuid))
    shown = container.shown
    if not devices:
        raise RefusedError(f"{shown} asks for a device: the node has none that can be used")
    request = replace(request, vendor=_vendor(request, devices, shown, config, silent))
    _check_known(request, devices, shown)
    count = request.count
    if count is None:
        count = sum(1 for device in devices if not _unwanted(request, device))
    # Nothing that is wanted is there: then the reason why is asked of one.
    count = max(count, 1)
    ask = _within(request, count, config, devices, container)
    held = _held(slices)
    verdicts = {
        device.uuid: _verdict(device, request, ask, held, unhealthy, count, config)
        for device in devices
    }
    usable = [device for device in devices if not verdicts[device.uuid]]
    if len(usable) < count:
        raise _refusal(shown, count, devices, verdicts)
    placement = request.placement or config.placement
    chosen = _choose(usable, count, ask, held, config, spread=placement == SPREAD)
    if chosen is None:
        raise _refusal(shown, count, devices, verdicts)
    parts = tuple(
        _part(device, _given(device, ask, position, config), ask)
        for position, device in enumerate(chosen)
    )
    _check_namespace(parts, devices, slices, container, config)
    return parts


@dataclass(frozen=True, slots=True)
class _Given:
    """What a slice gets of a device, and who holds it to that."""

    memory_bytes: int
    cores: int
    cores_max: int
    enforcement: str


def _part(device: Device, given: _Given, ask: _Ask) -> Part:
    return Part(
        device.uuid,
        device.vendor,
        given.memory_bytes,
        given.cores,
        given.enforcement,
        given.cores_max,
        ask.weight,
        ask.priority,
    )


def _given(device: Device, ask: _Ask, position: int, config: Config) -> _Given:
    """Return what a device gives for what is asked: as much, or the partition that holds it.

    A partition has its cores always, so nothing is left to others or had of them. Where partitions
    come in sizes, what none of them holds takes the whole device.
    """
    memory = ask.memory(device, position)
    holder = _enforcement(device, config)
    if holder != PARTITION:
        return _Given(memory, ask.cores, ask.cores_max, holder)
    # A device of which nobody else can have memory, or time, is not cut.
    if (memory < device.memory_bytes or ask.cores_max < ALL_CORES) and ask.cores < ALL_CORES:
        if not device.shapes:
            # Who says nothing of time has of it what he has of the memory.
            cores = ask.cores or max(1, memory * ALL_CORES // device.memory_bytes)
            cores = min(cores, ask.cores_max)
            return _Given(memory, cores, cores, PARTITION)
        shape = min(
            (s for s in device.shapes if s[0] >= memory and s[1] >= ask.cores), default=None
        )
        if shape is not None:
            return _Given(shape[0], shape[1], max(shape[1], 1), PARTITION)
    rest = [name for name in device.enforcement if name != PARTITION]
    return _Given(device.memory_bytes, ALL_CORES, ALL_CORES, rest[0] if rest else NOBODY)


def check_room(
    fresh: Part, before: Part, device: Device | None, others: Iterable[Slice], shown: str
) -> None:
    """See that a device has room for what a slice that is there is to hold more of it.

    ``others`` are all other slices. What becomes less always has room, where somebody can hold it.
    Raises RefusedError.
    """
    if device is not None and fresh != before:
        reason = _not_held(device, fresh.memory_bytes, fresh.cores, fresh.cores_max)
        if reason:
            raise RefusedError(f"{shown}: {_title(device)} {reason}")
    more_memory, more_cores = fresh.memory_bytes > before.memory_bytes, fresh.cores > before.cores
    if not more_memory and not more_cores:
        return
    if device is None:
        raise RefusedError(f"{shown} cannot get more of {fresh.uuid}: its vendor does not tell it")
    have = _held(others).get(device.uuid, _Held())
    # What does not grow is there, even where devices were given out too freely.
    reason = _taken(
        device,
        have,
        fresh.memory_bytes if more_memory else 0,
        fresh.cores if more_cores else 0,
    )
    if reason:
        raise RefusedError(f"{shown}: {_title(device)} {reason}")


# -- What is asked for ---------------------------------------------------------------------------


def _vendor(
    request: Request, devices: Sequence[Device], shown: str, config: Config, silent: Sequence[str]
) -> str:
    """Return whose devices the request is for; empty: whosever fit the names in it.

    A container has the software of some vendors only, so that nobody gets a device of another by
    chance, nor because the library of the one that was meant does not answer. Raises RefusedError.
    """
    there = sorted({device.vendor for device in devices})
    if request.vendor:
        wanted = request.vendor
    elif request.uuids or request.models:
        return ""
    elif config.default_vendor:
        wanted = config.default_vendor
    elif silent and _USUAL_VENDOR not in there:
        raise RefusedError(
            f"{shown} asks for a device and does not say whose: the node has those of "
            f"{', '.join(there)}, and the library of {', '.join(silent)} does not tell of any: "
            "name the vendor in the request, or as default_vendor in the configuration"
        )
    elif len(there) == 1 or _USUAL_VENDOR in there:
        wanted = there[0] if len(there) == 1 else _USUAL_VENDOR
    else:
        raise RefusedError(
            f"{shown} asks for a device and does not say whose: the node has those of "
            f"{', '.join(there)}: name the vendor in the request, or as default_vendor in the "
            "configuration"
        )
    if wanted not in there:
        raise RefusedError(
            f"{shown} asks for a device of {wanted}: the node has those of {', '.join(there)} only"
        )
    return wanted


def _check_known(request: Request, devices: Sequence[Device], shown: str) -> None:
    """Refuse names of devices that the node does not have: they are somebody's mistake."""
    for name in request.uuids:
        if not any(_is_called(device, name) for device in devices):
            raise RefusedError(
                f"{shown} asks for device {name}, which the node does not have: "
                f"it has {', '.join(_title(device) for device in devices)}"
            )


def _within(
    request: Request,
    count: int,
    config: Config,
    devices: Sequence[Device],
    container: Container,
) -> _Ask:
    """Return the request within the container's ceiling, or refuse what is above it."""
    ceiling, where, shown = config.limits.container, "limits.container", container.shown
    if ceiling.devices is not None and count > ceiling.devices:
        raise RefusedError(
            f"{shown} asks for {count} devices: at most {ceiling.devices} ({where}.devices)"
        )
    # HAMi's users may have limits for devices that this container does not get.
    sizes = {place: size for place, size in request.memory_by_index if place < count}
    for key, most in (("cores", ceiling.cores), ("cores_max", ceiling.cores_max)):
        # Nobody is guaranteed more than he may have.
        said = max(request.cores or 0, (request.cores_max or 0) if key == "cores_max" else 0)
        if most is not None and said > most:
            raise RefusedError(
                f"{shown} asks for {said}% of a device's time: at most {most}% ({where}.{key})"
            )
    asked = [size for size in (request.memory, *sizes.values()) if size is not None]
    if ceiling.memory is not None:
        for size in asked:
            # A percentage and a number of bytes compare differently on each device.
            if all(
                size.of(device.memory_bytes) > ceiling.memory.of(device.memory_bytes)
                for device in devices
            ):
                raise RefusedError(
                    f"{shown} asks for {size.text} of a device's memory: "
                    f"at most {ceiling.memory.text} ({where}.memory)"
                )
    cores_max = min(
        request.cores_max or most_cores(request.policy, request.cores or 0),
        ceiling.cores_max or ALL_CORES,
    )
    cores = request.cores
    if cores is None:
        # Part of a device's memory, or of its time, is no claim to its time: what others leave. A
        # device that is asked for without any limit is asked for as a whole.
        limited = asked or request.cores_max is not None
        cores = 0 if limited else min(ALL_CORES, ceiling.cores or ALL_CORES, cores_max)
        cores_max = min(cores_max, most_cores(request.policy, cores))
    return _Ask(
        request.memory,
        sizes,
        ceiling.memory,
        cores,
        cores_max,
        weight=_allowed("weight", request.weight, _WEIGHT, None, container, config),
        priority=_allowed("priority", request.priority, 0, 0, container, config),
    )


def _allowed(
    key: str,
    said: int | None,
    usual: int,
    most: int | None,
    container: Container,
    config: Config,
) -> int:
    """Return what was said of ``key``, or what is usual, within the ceiling: ``most`` if none is.

    Raises RefusedError.
    """
    written, ceiling = config.limits.of_namespace(container.namespace)
    limits = (
        (_written(written), getattr(ceiling, key)),
        ("limits.container", getattr(config.limits.container, key)),
    )
    where, found = next((one for one in limits if one[1] is not None), (limits[1][0], most))
    if said is None:
        return usual if found is None else min(usual, found)
    if found is not None and said > found:
        raise RefusedError(
            f"{container.shown} asks for {key} {said}: at most {found} ({where}.{key})"
        )
    return said


def _is_called(device: Device, beginning: str) -> bool:
    """Whether the UUID begins so, with or without what stands before its first dash.

    ``VENDOR:NUMBER`` is a device by its number among its vendor's, ``VENDOR:`` each of them.
    """
    uuid, wanted = device.uuid.lower(), beginning.lower()
    vendor, colon, number = wanted.partition(":")
    if colon:
        return vendor == device.vendor and number in ("", str(device.index))
    return uuid.startswith(wanted) or uuid.partition("-")[2].startswith(wanted)


def _unwanted(request: Request, device: Device) -> str:
    model = device.model.lower()
    if request.uuids and not any(_is_called(device, name) for name in request.uuids):
        return "is not one of those asked for"
    if request.vendor and request.vendor != device.vendor:
        return f"is not of the vendor asked for ({request.vendor})"
    if any(_is_called(device, name) for name in request.not_uuids):
        return "is asked not to be used"
    if request.models and not any(name.lower() in model for name in request.models):
        return f"is not of the model asked for ({', '.join(request.models)})"
    named = [name for name in request.not_models if name.lower() in model]
    if named:
        return f"is of a model asked not to be used ({named[0]})"
    return ""


# -- What each device can give -------------------------------------------------------------------


def _held(slices: Iterable[Slice]) -> dict[str, _Held]:
    held: dict[str, _Held] = {}
    for piece in slices:
        for part in piece.parts:
            before = held.get(part.uuid, _Held())
            held[part.uuid] = _Held(
                before.memory_bytes + part.memory_bytes, before.cores + part.cores
            )
    return held


def _verdict(
    device: Device,
    request: Request,
    ask: _Ask,
    held: Mapping[str, _Held],
    unhealthy: Mapping[str, str],
    count: int,
    config: Config,
) -> str:
    """Return why a device cannot be part of the slice, empty when it can."""
    reason = _unwanted(request, device)
    if reason:
        return reason
    if device.uuid in unhealthy:
        return f"is unhealthy: {unhealthy[device.uuid]}"
    if config.require == DRIVER and FIRM.isdisjoint(device.enforcement):
        return 'has no driver that holds a memory cap, which require = "driver" demands'
    have = held.get(device.uuid, _Held())
    # Where positions differ, the smallest decides whether the device can be used at all.
    reasons = {
        _shortage(device, ask, have, position, count, config) for position in _positions(ask, count)
    }
    return "" if "" in reasons else min(reasons, key=lambda text: (len(text), text))


def _positions(ask: _Ask, count: int) -> list[int]:
    """Return one position of each size that a slice of ``count`` devices has."""
    other = next((place for place in range(count) if place not in ask.sizes), None)
    return [*ask.sizes, *([] if other is None else [other])]


def _shortage(
    device: Device, ask: _Ask, have: _Held, position: int, count: int, config: Config
) -> str:
    """Return what of the device is not free, empty when it is enough."""
    asked = ask.memory(device, position)
    reason = _unfit(device, asked, ask.most)
    if reason:
        return reason
    given = _given(device, ask, position, config)
    if given.enforcement == PARTITION:
        if count > 1:
            return "can be partitioned for one device alone: ask for one, or for whole devices"
        return _taken(device, have, given.memory_bytes, given.cores)
    if given.memory_bytes > asked and (have.memory_bytes or have.cores):
        return (
            f"has no partition that holds {format_size(asked)} and {ask.cores}% of its time, "
            "and is not free as a whole"
        )
    reason = _not_held(device, given.memory_bytes, given.cores, given.cores_max)
    return reason or _taken(device, have, given.memory_bytes, given.cores)


def _unfit(device: Device, asked: int, most: Size | None) -> str:
    """Return why a device can never give so much memory, empty when it can."""
    total = device.memory_bytes
    if asked > total:
        return f"has {format_size(total)} of memory in all, {format_size(asked)} are asked for"
    if asked < device.page_bytes or asked < 1:
        return f"gives memory in pages of {format_size(device.page_bytes)}, less is asked for"
    if most is not None and asked > most.of(total):
        return f"may be given up to {most.text} (limits.container.memory), more is asked for"
    return ""


def _not_held(device: Device, memory_bytes: int, cores: int, cores_max: int) -> str:
    """Return what nobody could hold a container to on the device, empty when all is held."""
    # Beside one that has all of the memory there is room for nobody.
    alone = memory_bytes >= device.memory_bytes
    if not alone and not device.enforcement:
        return "has nobody who holds memory caps: it is given as a whole (ask for no part of it)"
    timed = cores_max < ALL_CORES or (cores > 0 and not alone)
    if timed and _TIMED.isdisjoint(device.enforcement):
        return "has nobody who keeps shares of its time: ask for no cores"
    return ""


def _taken(device: Device, have: _Held, memory_bytes: int, cores: int) -> str:
    """Return what others have of what is asked for, empty when enough is left."""
    free = max(device.memory_bytes - have.memory_bytes, 0)
    if memory_bytes > free:
        return (
            f"has {format_size(free)} of {format_size(device.memory_bytes)} free, "
            f"{format_size(memory_bytes)} are asked for"
        )
    free = max(ALL_CORES - have.cores, 0)
    if cores > free:
        return f"has {free}% of its time free, {cores}% are asked for"
    return ""


def _enforcement(device: Device, config: Config) -> str:
    able = [name for name in device.enforcement if name != PARTITION or device.splits]
    if config.require == DRIVER:
        able = [name for name in able if name in FIRM]
    return able[0] if able else NOBODY


# -- Which of them -------------------------------------------------------------------------------


def _choose(
    usable: Sequence[Device],
    count: int,
    ask: _Ask,
    held: Mapping[str, _Held],
    config: Config,
    *,
    spread: bool,
) -> tuple[Device, ...] | None:
    """Return the best ``count`` devices, in their order; None when no choice fits the sizes."""

    def fits(choice: Sequence[Device]) -> bool:
        return not any(
            _shortage(device, ask, held.get(device.uuid, _Held()), position, count, config)
            for position, device in enumerate(choice)
        )

    fullness = {device.uuid: _fullness(device, held) for device in usable}
    return choose(usable, count, fullness, fits if ask.sizes else None, spread=spread)


def _fullness(device: Device, held: Mapping[str, _Held]) -> Fraction:
    have = held.get(device.uuid, _Held())
    return Fraction(have.memory_bytes, max(device.memory_bytes, 1)) + Fraction(
        have.cores, ALL_CORES
    )


# -- Ceilings of a namespace, and refusals -------------------------------------------------------


def _check_namespace(
    parts: Sequence[Part],
    devices: Sequence[Device],
    slices: Sequence[Slice],
    container: Container,
    config: Config,
) -> None:
    name = container.namespace
    written, ceiling = config.limits.of_namespace(name)
    key = _written(written)
    there = [part for piece in slices if piece.container.namespace == name for part in piece.parts]
    who = f"{container.shown}: namespace {name}" if name else f"{container.shown}: no namespace"
    if ceiling.devices is not None and len(there) + len(parts) > ceiling.devices:
        raise RefusedError(
            f"{who} holds {len(there)} devices and asks for {len(parts)} more: "
            f"at most {ceiling.devices} ({key}.devices)"
        )
    if ceiling.memory is not None:
        most = ceiling.memory.of(sum(device.memory_bytes for device in devices))
        holds, asks = (sum(part.memory_bytes for part in some) for some in (there, parts))
        if holds + asks > most:
            raise RefusedError(
                f"{who} holds {format_size(holds)} of memory and asks for {format_size(asks)} "
                f"more: at most {ceiling.memory.text} ({key}.memory)"
            )
    if ceiling.cores is not None:
        holds, asks = (sum(part.cores for part in some) for some in (there, parts))
        if holds + asks > ceiling.cores:
            raise RefusedError(
                f"{who} holds {holds}% of device time and asks for {asks}% more: "
                f"at most {ceiling.cores}% ({key}.cores)"
            )


def _written(name: str) -> str:
    """Return where the configuration has the ceiling of a namespace."""
    return f'limits.namespace."{name}"' if name == EVERY_OTHER else f"limits.namespace.{name}"


def _refusal(
    shown: str, count: int, devices: Sequence[Device], verdicts: Mapping[str, str]
) -> RefusedError:
    fit = sum(1 for device in devices if not verdicts[device.uuid])
    what = f"{count} devices, {fit} can be had" if count != 1 else "a device, none can be had"
    if count > 1 and fit >= count:
        what = f"{count} devices, no {count} of which fit the sizes in their order"
    each = "; ".join(f"{_title(device)} {verdicts[device.uuid] or 'fits'}" for device in devices)
    return RefusedError(f"{shown} asks for {what}: {each}")


def _title(device: Device) -> str:
    return f"{device.uuid} ({device.index}, {device.model})"
