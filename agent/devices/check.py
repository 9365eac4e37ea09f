"""What is to be true of every vendor: a check for the tests of those who write one.

``faults(vendor)`` asks everything that the agent asks, and returns a line for each answer that does
not follow the protocol. It limits nobody, but it does ask for the limit of a cgroup that is none.
What a vendor's devices read, and whether its limits hold, only its own tests can know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aliquot.hooks.plan import Needs

from . import Device, DeviceProcess, Health, Sample, Vendor, VendorError

# The strongest first.
ENFORCEMENTS: Final = ("driver", "partition", "shim")

_NOBODY: Final = "aliquot-check-no-such-device"
_THREADS: Final = 4
_UUID_BYTES: Final = 16


def faults(vendor: Vendor) -> list[str]:
    """Return what is wrong with a vendor, one line each; empty when nothing is.

    It is left open: close it afterwards. May take as long as its first look at its devices.
    """
    return [" ".join(fault.split()) for fault in _all(vendor)]


def _all(vendor: Vendor) -> Iterator[str]:
    name = vendor.name
    if not isinstance(name, str) or not name or name != name.lower() or " " in name:
        yield f"name is {name!r}, not a word in lower case"
    found: list[Sequence[Device]] = []
    yield from _asked("enumerate", lambda: found.append(vendor.enumerate()))
    if not found:
        return
    devices = found[0]
    yield from _of_devices(vendor, devices)
    again: list[Sequence[Device]] = []
    yield from _asked("enumerate, a second time", lambda: again.append(vendor.enumerate()))
    if again and list(again[0]) != list(devices):
        yield "enumerate tells other devices the second time"
    known = {device.uuid for device in devices}
    questions: tuple[tuple[str, Callable[[], Sequence[Any]], type[Any]], ...] = (
        ("sample", vendor.sample, Sample),
        ("processes", vendor.processes, DeviceProcess),
        ("health", vendor.health, Health),
    )
    for what, ask, kind in questions:
        # Twice: what is told of a time needs two looks.
        for _ in range(2):
            rows: list[Sequence[Any]] = []
            yield from _asked(what, lambda ask=ask, rows=rows: rows.append(ask()))  # type: ignore[misc]
            if rows:
                yield from _of_rows(what, rows[0], kind, known)
    yield from _of_needs(vendor, devices)
    yield from _of_limits(vendor, devices)
    yield from _in_threads(vendor)


def _asked(what: str, ask: Callable[[], object]) -> Iterator[str]:
    try:
        ask()
    except VendorError as error:
        yield f"{what} raises VendorError: {error}"
        yield from _of_text(what, str(error))
    except Exception as error:  # noqa: BLE001 - a vendor under test may raise anything
        yield f"{what} raises {type(error).__name__}, not VendorError: {error}"


def _refused(what: str, ask: Callable[[], object]) -> Iterator[str]:
    """Look whether something is refused as it should be."""
    try:
        ask()
    except VendorError as error:
        yield from _of_text(what, str(error))
    except Exception as error:  # noqa: BLE001 - as above
        yield f"{what} raises {type(error).__name__}, not VendorError: {error}"
    else:
        yield f"{what} is not refused"


def _of_text(what: str, text: str) -> Iterator[str]:
    if not text or "\n" in text:
        yield f"{what}: the text of its VendorError is not one line: {text!r}"


# -- what devices are ------------------------------------------------------------------------------


def _of_devices(vendor: Vendor, devices: Sequence[Device]) -> Iterator[str]:
    for what, values in (
        ("index", [device.index for device in devices]),
        ("uuid", [device.uuid for device in devices]),
        ("uuid_bytes", [device.uuid_bytes for device in devices]),
    ):
        if len(set(values)) != len(values):
            yield f"two devices have the same {what}: {values}"
    for device in devices:
        for text in _of_device(vendor, device, {one.uuid for one in devices}):
            yield f"device {device.uuid!r}: {text}"


def _of_device(vendor: Vendor, device: Device, known: set[str]) -> Iterator[str]:
    if device.vendor != vendor.name:
        yield f"vendor is {device.vendor!r}, the vendor's name {vendor.name!r}"
    if not device.uuid.isprintable() or not device.uuid or " " in device.uuid:
        yield "uuid is no word"
    if not isinstance(device.uuid_bytes, bytes) or len(device.uuid_bytes) != _UUID_BYTES:
        yield f"uuid_bytes is {device.uuid_bytes!r}, not {_UUID_BYTES} bytes"
    if not device.model.isprintable() or not device.model:
        yield f"model is {device.model!r}, no text of one line"
    for uuid, count in device.links.items():
        if uuid not in known or uuid == device.uuid or count < 1:
            yield f"links has {count} to {uuid!r}: only what there is, to others of the vendor's"
    places = [ENFORCEMENTS.index(one) for one in device.enforcement if one in ENFORCEMENTS]
    if len(places) != len(device.enforcement) or places != sorted(set(places)):
        yield f"enforcement is {device.enforcement}, not of {ENFORCEMENTS} in this order"
    yield from _of_numbers(device)


def _of_numbers(device: Device) -> Iterator[str]:
    for what, least in (("index", 0), ("memory_bytes", 1), ("page_bytes", 1), ("context_bytes", 0)):
        value = getattr(device, what)
        if type(value) is not int or value < least:
            yield f"{what} is {value!r}, not a whole number from {least}"
    if type(device.page_bytes) is int and device.page_bytes & (device.page_bytes - 1):
        yield f"page_bytes is {device.page_bytes}, no power of two"
    if device.numa_node is not None and (type(device.numa_node) is not int or device.numa_node < 0):
        yield f"numa_node is {device.numa_node!r}: None where there is none"


# -- what they read --------------------------------------------------------------------------------

_SHARES: Final = ("busy", "memory_busy")
_AMOUNTS: Final = ("power_watts",)
_SIZES: Final = ("memory_used_bytes", "memory_bytes")


def _of_rows(what: str, rows: Sequence[Any], kind: type[Any], known: set[str]) -> Iterator[str]:
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        if not isinstance(row, kind):
            yield f"{what} returns {row!r}, no {kind.__name__}"
            continue
        key = row.uuid, getattr(row, "pid", None)
        if row.uuid not in known:
            yield f"{what} tells of {row.uuid!r}, which enumerate does not know"
        if key in seen:
            yield f"{what} tells of {key} twice"
        seen.add(key)
        for text in _of_row(row):
            yield f"{what} of {row.uuid!r}: {text}"
    if kind is not DeviceProcess:
        for uuid in sorted(known - {str(uuid) for uuid, _ in seen}):
            yield f"{what} tells nothing of {uuid!r}: what a device lacks is None in its row"


def _of_row(row: object) -> Iterator[str]:
    for name in (*_SHARES, *_AMOUNTS, *_SIZES, "temperature_celsius"):
        value = getattr(row, name, None)
        if value is not None:
            wrong = _wrong(name, value)
            if wrong:
                yield f"{name} is {value!r}, {wrong}"
    if isinstance(row, DeviceProcess) and (type(row.pid) is not int or row.pid < 1):
        yield f"pid is {row.pid!r}, no process of the host's"
    if isinstance(row, Health):
        if type(row.healthy) is not bool or row.healthy == bool(row.reason):
            yield f"healthy is {row.healthy!r} and the reason {row.reason!r}: only one of them"
        if "\n" in row.reason:
            yield f"the reason {row.reason!r} is not one line"


def _wrong(name: str, value: object) -> str:
    if name in _SIZES:
        return "" if type(value) is int and value >= 0 else "no number of bytes"
    if type(value) not in (int, float) or not isinstance(value, int | float):
        return "no number"
    if not math.isfinite(value):
        return "no number that there is"
    if name in _SHARES and not 0 <= value <= 1:
        return "but shares go from 0 to 1"
    return "which is below zero" if name in _AMOUNTS and value < 0 else ""


# -- what containers get ---------------------------------------------------------------------------


def _of_needs(vendor: Vendor, devices: Sequence[Device]) -> Iterator[str]:
    yield from _refused("needs of an unknown device", lambda: vendor.needs([_NOBODY]))
    groups = [[device.uuid] for device in devices]
    if len(devices) > 1:
        groups.append([device.uuid for device in devices])
    for uuids in groups:
        what = f"needs of {uuids}"
        found: list[Needs] = []
        yield from _asked(what, lambda: found.append(vendor.needs(uuids)))  # noqa: B023 - called at once
        for needs in found:
            if type(needs) is not Needs:
                yield f"{what} returns {needs!r}, no Needs"
                continue
            paths = [node.path for node in needs.nodes]
            sources = [node.source for node in needs.nodes if node.source]
            mounts = [path for one in needs.mounts for path in (one.source, one.destination)]
            libraries = [str(one.path) for one in needs.libraries]
            shims = [str(one.shim) for one in needs.substitutes]
            for path in (*paths, *sources, *mounts, *libraries, *shims):
                if not path.startswith("/"):
                    yield f"{what}: {path!r} is no absolute path"
            if len(set(paths)) != len(paths):
                yield f"{what}: a device file is there twice: {sorted(paths)}"


def _of_limits(vendor: Vendor, devices: Sequence[Device]) -> Iterator[str]:
    def limit(uuid: str) -> Callable[[], None]:
        return lambda: vendor.limit_memory(uuid, "not/absolute", 1)

    yield from _refused("a limit on an unknown device", limit(_NOBODY))
    for device in devices:
        # (Where the driver holds limits, because this is the path of no cgroup.)
        yield from _refused(
            f"a limit on {device.uuid!r} of a path that is none", limit(device.uuid)
        )


def _in_threads(vendor: Vendor) -> Iterator[str]:
    """Ask from several threads at once, as the agent does."""
    questions: list[Callable[[], object]] = [vendor.sample, vendor.processes, vendor.health]
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_asked_of, ask) for ask in questions * _THREADS]:
            yield from done.result()


def _asked_of(ask: Callable[[], object]) -> list[str]:
    return list(_asked("a question beside others", ask))
