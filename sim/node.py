"""Node files: what a simulated node is made of, read from TOML and checked key by key.

A mistake is never repaired and never ignored: all of them are listed, each with the file, the line
and the key. Sizes are bytes, times are nanoseconds unless the name says otherwise.
"""

from __future__ import annotations

import re
import sys
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

from .lines import Lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

MAX_DEVICES: Final = 16
DRIVER_VERSION: Final = 13000
VENDORS: Final = ("nvidia", "ascend", "cambricon")
"""Whose devices there are, in the order of csrc/sim/state.h's ``enum sim_vendor``."""
_KIB: Final = 1 << 10
_UNITS: Final = {"B": 1, "KiB": _KIB, "MiB": _KIB**2, "GiB": _KIB**3, "TiB": _KIB**4}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)", re.ASCII)
_PCI: Final = re.compile(
    r"(?:([0-9A-Fa-f]{4,8}):)?([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})(?:\.0)?", re.ASCII
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
# A UUID that nobody gives is made from the node's name, so that it is the same at the next start.
_NAMESPACE: Final = uuids.UUID("5a3c1c1e-6d0c-5d57-9c41-0a3f6f1d2b77")

COSTS: Final = (
    "init_ns",
    "context_create_ns",
    "alloc_ns",
    "free_ns",
    "alloc_async_ns",
    "free_async_ns",
    "mem_info_ns",
    "module_load_ns",
    "launch_ns",
    "graph_launch_ns",
    "graph_node_ns",
    "event_record_ns",
    "event_record_timing_ns",
    "event_query_ns",
    "stream_wait_event_ns",
    "copy_ns",
    "sync_ns",
    "context_destroy_ns",
    "stream_create_ns",
    "stream_destroy_ns",
    "event_create_ns",
    "event_destroy_ns",
    "host_alloc_ns",
    "host_free_ns",
    "module_unload_ns",
    "host_func_ns",
    "mem_op_ns",
    "nvml_ns",
    "call_ns",
)
"""Host-side costs of calls, in the order of csrc/sim/state.h's ``enum sim_cost``."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with a node file. ``line`` counts from 1."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        """Return ``file:line: key: text``; ``key`` is left out where there is none."""
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {key}{self.text}"


class NodeError(Exception):
    """A node cannot be used. ``mistakes`` is empty when there was nothing to read."""

    def __init__(self, text: str, mistakes: Sequence[Mistake] = ()) -> None:
        """Take the message, which has a line for each mistake."""
        super().__init__(text)
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Device:
    """One device. What a field means and its default in a node file: docs/simulator.md."""

    vendor: str = "nvidia"
    model: str = "Simulated GPU"
    uuid: bytes = bytes(16)
    memory: int = 16 << 30
    reserved: int = 0
    page_size: int = 2 << 20
    context: int = 256 << 20
    pool_chunk: int = 32 << 20
    sms: int = 108
    compute_capability: tuple[int, int] = (8, 0)
    pci_id: int = 0x20B0
    pci_address: tuple[int, int, int] = (0, 0, 0)
    numa_node: int = -1
    nvlinks: tuple[int, ...] = ()
    nvlink_mb_per_s: int = 0
    nvlink_version: int = 0
    power_watts: int = 400
    clock_mhz: int = 1410
    memory_clock_mhz: int = 1215
    bus_width_bits: int = 5120
    l2_cache: int = 40 << 20
    time_slice_ns: int = 2_000_000
    switch_ns: int = 0
    mps: bool = False
    copy_engines: int = 3
    release_delay_ns: int = 0
    kernel_ns: int = 2_000
    wave_ns: int = 2_000
    host_copy_mb_per_s: int = 25_000
    device_copy_mb_per_s: int = 700_000
    peer_copy_mb_per_s: int = 270_000
    costs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its devices, in the order in which nvidia-smi would list them.

    ``driver`` is the driver's release as NVML and file names say it: ``580.65.06``.
    ``memory_limits``: the driver takes limits of memory for cgroups, as NVIDIA's do since 615.
    ``trace``: what is done is recorded from the start, for whoever asks later.
    """

    name: str
    driver_version: int
    devices: tuple[Device, ...]
    driver: str
    memory_limits: bool = False
    trace: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        devices: Sequence[Device],
        driver_version: int = DRIVER_VERSION,
        driver: str | None = None,
    ) -> Node:
        """Make a node of these devices; UUIDs and PCI addresses that are zero are made up."""
        placed = [
            replace(
                device,
                uuid=device.uuid if any(device.uuid) else _made_up_uuid(name, index),
                pci_address=(
                    device.pci_address if any(device.pci_address) else (0, 0x10 + 8 * index, 0)
                ),
                nvlinks=(*device.nvlinks, *[0] * len(devices))[: len(devices)],
            )
            for index, device in enumerate(devices)
        ]
        release = driver or next(text for least, text in _RELEASES if driver_version >= least)
        return cls(name, driver_version, tuple(placed), release)


def _made_up_uuid(name: str, index: int) -> bytes:
    return uuids.uuid5(_NAMESPACE, f"{name}/{index}").bytes


def profiles() -> list[str]:
    """Return the names of the profiles that come with the simulator, sorted."""
    folder = resources.files(__package__) / "profiles"
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


def load_node(which: str) -> Node:
    """Read a profile by its name, or a node file by its path. Raises NodeError."""
    if which in profiles():
        text = (resources.files(__package__) / "profiles" / f"{which}.toml").read_text("utf-8")
        return parse_node(text, f"{which}.toml", which)
    path = Path(which)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        known = ", ".join(profiles())
        raise NodeError(f"{which}: neither a file nor a profile ({known})") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise NodeError(f"{which}: {reason}") from error
    return parse_node(text, which, path.stem)


# ---- Values --------------------------------------------------------------------------------------


class _WrongError(Exception):
    """A value is not what its key takes; the text says what it takes."""


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _WrongError(f"{value!r} is not a whole number from {low} to {high}")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongError(f"{value!r} is neither true nor false")
    return value


def _size(value: object, low: int, high: int) -> int:
    """Read bytes: a whole number, or a text such as ``"80GiB"``."""
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)) and match[2] in _UNITS:
        exact = float(match[1]) * _UNITS[match[2]]
        size = int(exact) if exact == int(exact) else None
    if size is None:
        raise _WrongError(f'{value!r} is not a size, such as "80GiB", "512KiB" or 1048576')
    if not low <= size <= high:
        raise _WrongError(f"{value!r} is not between {low} and {high} bytes")
    return size


def _page(value: object) -> int:
    size = _size(value, 1 << 16, 1 << 30)
    if size & (size - 1):
        raise _WrongError(f"{value!r} is not a power of two")
    return size


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > most:
        raise _WrongError(f"{value!r} is not a text of 1 to {most} bytes")
    if not value.isprintable():
        raise _WrongError(f"{value!r} has characters that cannot be printed")
    return value


def _vendor(value: object) -> str:
    if value not in VENDORS:
        raise _WrongError(f"{value!r} is no vendor: there are {', '.join(VENDORS)}")
    assert isinstance(value, str)
    return value


def _release(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{3,4}(\.[0-9]{1,4}){1,2}", value):
        raise _WrongError(f'{value!r} is not a driver\'s release, such as "580.65.06"')
    return value


def _uuid(value: object) -> bytes:
    text = value.removeprefix("GPU-") if isinstance(value, str) else ""
    if not _UUID.fullmatch(text):
        raise _WrongError(
            f'{value!r} is not a UUID, such as "GPU-5a3c1c1e-6d0c-5d57-9c41-0a3f6f1d2b77"'
        )
    made = uuids.UUID(text)
    if made.int == 0:
        raise _WrongError("a UUID cannot be all zeros")
    return made.bytes


def _capability(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,2})\.([0-9])", value) if isinstance(value, str) else None
    if not match or not 5 <= int(match[1]) <= 99:
        raise _WrongError(f'{value!r} is not a compute capability, such as "8.0"')
    return int(match[1]), int(match[2])


def _pci_id(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{4}", value):
        return int(value, 16)
    raise _WrongError(f'{value!r} is not a PCI device id, four hexadecimal digits such as "20B0"')


def _pci_address(value: object) -> tuple[int, int, int]:
    match = _PCI.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[3], 16) > 0x1F:
        raise _WrongError(f'{value!r} is not a PCI address, such as "0000:07:00.0"')
    return int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16)


def _links(value: object) -> int | tuple[int, ...]:
    """Read the number of NVLinks to every other device, or a list of them by device."""
    if isinstance(value, list):
        if len(value) > MAX_DEVICES:
            raise _WrongError(f"{len(value)} entries are more than {MAX_DEVICES} devices")
        return tuple(_whole(item, 0, 36) for item in value)
    return _whole(value, 0, 36)


_Reader = Callable[[object], Any]
_NUMBER: Final[_Reader] = partial(_whole, low=0, high=(1 << 31) - 1)
_TIME: Final[_Reader] = partial(_whole, low=0, high=10**12)
_SPEED: Final[_Reader] = partial(_whole, low=1, high=10**9)

_DEVICE_KEYS: Final[Mapping[str, _Reader]] = {
    "vendor": _vendor,
    "model": partial(_text, most=95),
    "uuid": _uuid,
    "memory": partial(_size, low=1 << 20, high=1 << 43),
    "reserved": partial(_size, low=0, high=1 << 43),
    "page_size": _page,
    "context": partial(_size, low=0, high=1 << 40),
    "pool_chunk": partial(_size, low=1, high=1 << 40),
    "sms": partial(_whole, low=1, high=4096),
    "compute_capability": _capability,
    "pci_id": _pci_id,
    "pci_address": _pci_address,
    "numa_node": partial(_whole, low=-1, high=1023),
    "nvlinks": _links,
    "nvlink_mb_per_s": _NUMBER,
    "nvlink_version": partial(_whole, low=0, high=99),
    "power_watts": partial(_whole, low=1, high=100_000),
    "clock_mhz": partial(_whole, low=1, high=100_000),
    "memory_clock_mhz": partial(_whole, low=1, high=100_000),
    "bus_width_bits": partial(_whole, low=1, high=1 << 20),
    "l2_cache": partial(_size, low=0, high=(1 << 31) - 1),
    "time_slice_ns": partial(_whole, low=1_000, high=10**10),
    "switch_ns": partial(_whole, low=0, high=10**9),
    "mps": _truth,
    "copy_engines": partial(_whole, low=1, high=16),
    "release_delay_ns": _TIME,
    "kernel_ns": _TIME,
    "wave_ns": _TIME,
    "host_copy_mb_per_s": _SPEED,
    "device_copy_mb_per_s": _SPEED,
    "peer_copy_mb_per_s": _SPEED,
}
_NODE_KEYS: Final = (
    "name",
    "driver_version",
    "driver",
    "memory_limits",
    "trace",
    "costs",
    "device",
)
# A release of NVIDIA's driver for each CUDA version from which on it is told.
_RELEASES: Final = (
    (13_000, "580.65.06"),
    (12_080, "570.124.06"),
    (12_040, "550.54.15"),
    (12_020, "535.261.03"),
    (11_000, "470.256.02"),
)
_OWN_KEYS: Final = ("count", "costs")
_SIZES: Final = ("memory", "reserved", "page_size", "context")


# ---- Reading -------------------------------------------------------------------------------------


class _Reading:
    """One file while it is read: what is wrong so far."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = Lines(text)
        self.mistakes: list[Mistake] = []

    def wrong(self, path: tuple[str | int, ...], text: str) -> None:
        """Note a mistake at a key, given as the keys and positions that lead to it."""
        key = "".join(
            f"[{step}]" if isinstance(step, int) else f".{step}" for step in path
        ).removeprefix(".")
        self.mistakes.append(Mistake(self.file, self.lines.find(path), key, text))

    def value(self, path: tuple[str | int, ...], value: object, reader: _Reader) -> Any:  # noqa: ANN401 - whatever the key takes
        """Read a value, or note that it is wrong and return None."""
        try:
            return reader(value)
        except _WrongError as error:
            self.wrong(path, str(error))
            return None

    def unknown(self, path: tuple[str | int, ...], known: Sequence[str]) -> None:
        """Note a key that means nothing here."""
        self.wrong(path, f"unknown key; there are {', '.join(sorted(known))}")


def parse_node(text: str, file: str, name: str) -> Node:
    """Read a node file's text. ``file`` is for messages; ``name`` is the node's unless it says.

    Raises NodeError with all mistakes.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line ([0-9]+), column [0-9]+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        what = str(error).split(" (at ")[0]
        mistake = Mistake(file, line, "", f"not TOML: {what[:1].lower()}{what[1:]}")
        raise NodeError(str(mistake), [mistake]) from None
    reading = _Reading(text, file)
    node = _read_node(reading, table, name)
    if reading.mistakes or node is None:
        mistakes = sorted(reading.mistakes, key=lambda mistake: mistake.line)
        raise NodeError("\n".join(str(mistake) for mistake in mistakes), mistakes)
    return node


def _read_node(reading: _Reading, table: Mapping[str, object], name: str) -> Node | None:
    for key in table:
        if key not in _NODE_KEYS:
            reading.unknown((key,), _NODE_KEYS)
    if "name" in table:
        name = reading.value(("name",), table["name"], partial(_text, most=63)) or name
    version = DRIVER_VERSION
    if "driver_version" in table:
        read = partial(_whole, low=11_000, high=99_990)
        version = reading.value(("driver_version",), table["driver_version"], read) or version
    release = None
    if "driver" in table:
        release = reading.value(("driver",), table["driver"], _release)
    limits, trace = (
        reading.value((key,), table.get(key, False), _truth) is True
        for key in ("memory_limits", "trace")
    )
    costs = _read_costs(reading, ("costs",), table.get("costs", {}))
    listed = table.get("device", [])
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        reading.wrong(("device",), "devices are tables of their own, each begun by [[device]]")
        return None
    devices: list[Device] = []
    origins: list[int] = []
    for index, item in enumerate(listed):
        made = _read_device(reading, index, item, costs)
        devices += made
        origins += [index] * len(made)
    if not 1 <= len(devices) <= MAX_DEVICES:
        reading.wrong(("device",), f"a node has 1 to {MAX_DEVICES} devices, not {len(devices)}")
        return None
    node = replace(Node.of(name, devices, version, release), memory_limits=limits, trace=trace)
    return _check_together(reading, node, listed, origins)


def _read_costs(reading: _Reading, path: tuple[str | int, ...], table: object) -> Mapping[str, int]:
    if not isinstance(table, dict):
        reading.wrong(path, "costs are a table of nanoseconds by call")
        return {}
    costs: dict[str, int] = {}
    for key, value in table.items():
        if key not in COSTS:
            reading.unknown((*path, key), COSTS)
        elif (cost := reading.value((*path, key), value, _TIME)) is not None:
            costs[key] = cost
    return costs


def _read_device(
    reading: _Reading, index: int, table: Mapping[str, object], costs: Mapping[str, int]
) -> list[Device]:
    at = ("device", index)
    values: dict[str, Any] = {}
    count = 1
    for key, value in table.items():
        path = (*at, key)
        if key in _DEVICE_KEYS:
            read = reading.value(path, value, _DEVICE_KEYS[key])
            if read is not None:
                values[key] = read
        elif key == "count":
            count = reading.value(path, value, partial(_whole, low=1, high=MAX_DEVICES)) or 1
        elif key != "costs":
            reading.unknown(path, (*_DEVICE_KEYS, *_OWN_KEYS))
    own = _read_costs(reading, (*at, "costs"), table.get("costs", {}))
    values["costs"] = {**costs, **own}
    for key in ("uuid", "pci_address"):
        if count > 1 and key in values:
            reading.wrong((*at, key), f"{count} devices cannot have the same")
    # Links are only known once all devices are.
    links = values.pop("nvlinks", 0)
    if values.get("vendor") in ("ascend", "cambricon"):
        # CANN's pools grow by whole pages; by what Cambricon's do is known to nobody: as little
        # as can be.
        values.setdefault("pool_chunk", values.get("page_size", Device().page_size))
    device = Device(**values)
    if all(key in values for key in _SIZES if key in table):
        _check_sizes(reading, at, table, device)
    linked = links if isinstance(links, tuple) else (links,) * MAX_DEVICES
    return [replace(device, nvlinks=linked)] * count


def _check_sizes(
    reading: _Reading, at: tuple[str | int, ...], table: Mapping[str, object], device: Device
) -> None:
    """Check what is about several sizes of one device, at the key that was given."""
    usable = device.memory - device.reserved
    if usable < device.page_size:
        key = "reserved" if "reserved" in table else "memory"
        reading.wrong((*at, key), f"{usable} bytes are left of the memory: less than a page")
    elif usable % device.page_size:
        key = next((key for key in ("reserved", "memory", "page_size") if key in table), "memory")
        reading.wrong(
            (*at, key),
            f"memory minus reserved ({usable} bytes) must be a multiple of page_size "
            f"({device.page_size})",
        )
    elif device.context > usable:
        reading.wrong((*at, "context"), "a context takes more than the device's memory")


def _check_vendors(
    reading: _Reading, node: Node, listed: Sequence[Mapping[str, object]], origins: Sequence[int]
) -> None:
    """Check that links lead to devices of the same vendor."""
    for index, item in enumerate(listed):
        given = item.get("nvlinks")
        own = node.devices[origins.index(index)].vendor if index in origins else ""
        for other, links in enumerate(given if isinstance(given, list) else ()):
            if links and node.devices[other].vendor != own:
                text = f"device {other} is another vendor's: there are no links to it"
                reading.wrong(("device", index, "nvlinks"), text)


def _check_together(
    reading: _Reading, node: Node, listed: Sequence[Mapping[str, object]], origins: Sequence[int]
) -> Node:
    """Check what is about several devices, and make the links what they are between devices."""
    for key in ("uuid", "pci_address"):
        seen: dict[object, int] = {}
        for index, device in enumerate(node.devices):
            value = getattr(device, key)
            first = seen.setdefault(value, index)
            # Several devices of one table were told so where it was read.
            if origins[first] != origins[index]:
                at = next(item for item in (index, first) if key in listed[origins[item]])
                other = first if at == index else index
                reading.wrong(("device", origins[at], key), f"device {other} has the same")
    for index, item in enumerate(listed):
        given = item.get("nvlinks")
        if isinstance(given, list) and len(given) != len(node.devices):
            reading.wrong(
                ("device", index, "nvlinks"),
                f"{len(given)} entries for {len(node.devices)} devices: one for each, its own too",
            )
            return node
    _check_vendors(reading, node, listed, origins)
    devices = [
        replace(
            device,
            nvlinks=tuple(
                links if other != index and node.devices[other].vendor == device.vendor else 0
                for other, links in enumerate(device.nvlinks)
            ),
        )
        for index, device in enumerate(node.devices)
    ]
    for index, device in enumerate(devices):
        for other, links in enumerate(device.nvlinks):
            back = devices[other].nvlinks[index]
            if links != back and index < other:
                where = origins[index] if "nvlinks" in listed[origins[index]] else origins[other]
                reading.wrong(
                    ("device", where, "nvlinks"),
                    f"device {index} has {links} links to device {other}, which has {back} back",
                )
    return replace(node, devices=tuple(devices))


assert {item.name for item in fields(Device)} == {*_DEVICE_KEYS, "costs"}
