"""The state that the processes of a simulated node share, and the truth about their memory.

The layout and all locking are C's (csrc/sim/state.h), reached through cffi. Sizes are bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ._state import ffi, lib
from .node import COSTS, VENDORS, Node

_WHY_BYTES: Final = 1024
# NVML's library, beside the driver's.
NVML: Final = "libnvidia-ml.so.1"
# The libraries of other vendors, on nodes that have their devices.
LIBRARIES: Final = {"ascend": ("libdcmi.so",), "cambricon": ("libcndev.so",)}


class StateError(Exception):
    """A state cannot be made or used; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class DeviceTruth:
    """One device. ``total_bytes`` is CUDA's; ``reserved_bytes`` is beside it.

    ``busy_ns``: how long kernels of anybody have run so far; ``switched_ns``: how long it went from
    one process to another.
    """

    uuid: str
    vendor: str
    model: str
    total_bytes: int
    free_bytes: int
    reserved_bytes: int
    page_bytes: int
    busy_ns: int
    switched_ns: int


@dataclass(frozen=True, slots=True)
class ProcessTruth:
    """What one process holds of each device.

    ``pid`` is as the process knows itself. ``dead``: it was killed, and its memory is still within
    the node's release delay. ``ran_ns`` is the device time that it has had so far.
    """

    pid: int
    group: str
    dead: bool
    used_bytes: tuple[int, ...]
    ran_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupTruth:
    """What all processes with one ALIQUOT_SIM_GROUP hold, and have held at most, per device."""

    name: str
    used_bytes: tuple[int, ...]
    max_used_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """A simulator's own count, exact in pages. Groups stay after their processes have ended."""

    devices: tuple[DeviceTruth, ...]
    processes: tuple[ProcessTruth, ...]
    groups: tuple[GroupTruth, ...]

    def group(self, name: str) -> GroupTruth:
        """Return the group of that name; one that never was holds nothing."""
        for group in self.groups:
            if group.name == name:
                return group
        nothing = (0,) * len(self.devices)
        return GroupTruth(name, nothing, nothing)

    def process(self, pid: int) -> ProcessTruth | None:
        """Return the living process with that pid, or None."""
        return next((item for item in self.processes if item.pid == pid and not item.dead), None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def create(node: Node, directory: Path, *, shared: bool = False) -> None:
    """Make ``directory`` with a node's state in it. Raises StateError.

    The directory must not exist, or be empty. It is its user's alone (mode 0700) unless it is
    ``shared``: then every user may run on the node, as on a real device.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shared:
            directory.chmod(0o777)
        if any(directory.iterdir()):
            raise StateError(f"{directory}: not empty")
    except OSError as error:
        raise StateError(f"{directory}: {error.strerror}") from error
    why = ffi.new("char[]", _WHY_BYTES)
    config = _config(node)
    mode = 0o666 if shared else 0o600
    if lib.sim_state_create(os.fsencode(directory), config, mode, why, _WHY_BYTES):
        raise StateError(_said(why))


def _config(node: Node) -> Any:  # noqa: ANN401 - cffi's values have no types
    config = ffi.new("struct sim_node_config *")
    config.device_count = len(node.devices)
    config.driver_version = node.driver_version
    config.name = node.name.encode()
    config.driver_text = node.driver.encode()
    config.memory_limits = node.memory_limits
    config.trace = node.trace
    for made, device in zip(config.devices, node.devices, strict=False):
        made.name = device.model.encode()
        made.uuid = device.uuid
        made.vendor = VENDORS.index(device.vendor)
        made.memory = device.memory
        made.reserved = device.reserved
        made.page_size = device.page_size
        made.context_bytes = device.context
        made.pool_chunk = -(-device.pool_chunk // device.page_size) * device.page_size
        made.slice_ns = device.time_slice_ns
        made.switch_ns = device.switch_ns
        made.mps = device.mps
        made.copy_engines = device.copy_engines
        made.release_delay_ns = device.release_delay_ns
        made.kernel_ns = device.kernel_ns
        made.wave_ns = device.wave_ns
        # A byte a microsecond is a megabyte a second.
        made.host_copy_bytes_per_us = device.host_copy_mb_per_s
        made.device_copy_bytes_per_us = device.device_copy_mb_per_s
        made.peer_copy_bytes_per_us = device.peer_copy_mb_per_s
        for cost in COSTS:
            made.cost_ns[_cost_index(cost)] = device.costs.get(cost, 0)
        made.l2_bytes = device.l2_cache
        made.sms = device.sms
        made.cc_major, made.cc_minor = device.compute_capability
        made.pci_domain, made.pci_bus, made.pci_device = device.pci_address
        made.pci_id = device.pci_id
        made.numa_node = device.numa_node
        made.clock_mhz = device.clock_mhz
        made.memory_clock_mhz = device.memory_clock_mhz
        made.bus_width_bits = device.bus_width_bits
        made.power_watts = device.power_watts
        made.link_mb_per_s = device.nvlink_mb_per_s
        made.nvlink_version = device.nvlink_version
        for other, links in enumerate(device.nvlinks):
            made.links[other] = links
    return config


def _cost_index(cost: str) -> int:
    index = getattr(lib, f"SIM_COST_{cost.removesuffix('_ns').upper()}")
    assert isinstance(index, int)
    return index


def _said(why: Any) -> str:  # noqa: ANN401 - cffi's values have no types
    text = ffi.string(why)
    assert isinstance(text, bytes)
    return text.decode(errors="replace")


class State:
    """A state that is open; its ``truth()`` can be read many times, until ``close()``."""

    def __init__(self, directory: Path) -> None:
        """Open the state in ``directory``. Raises StateError."""
        handle = ffi.new("struct sim_state **")
        why = ffi.new("char[]", _WHY_BYTES)
        if lib.sim_state_open(
            os.fsencode(directory),
            ffi.NULL,
            False,
            handle,
            why,
            _WHY_BYTES,
        ):
            raise StateError(_said(why))
        self._state = handle[0]
        self._truth = ffi.new("struct sim_truth *")

    def close(self) -> None:
        """Close the state; a second time does nothing."""
        if self._state:
            lib.sim_state_close(self._state)
            self._state = ffi.NULL

    def inject(self, device: int, code: int, severity: int = 0, *, cleared: bool = False) -> None:
        """Let a device report a fault to all who wait for events. Raises StateError.

        ``code`` and ``severity`` are the vendor's: an XID of NVIDIA's. Other vendors' devices keep
        a fault until it is ``cleared``.
        """
        configs = self._configs()
        if not 0 <= device < len(configs):
            raise StateError(f"there is no device {device}: the node has {len(configs)}")
        fault = ffi.new("struct sim_fault *", (device, code, severity, cleared))
        lib.sim_state_inject(self._state, fault)

    def vendor(self, device: int) -> str:
        """Whose a device is; "" when there is no such device."""
        configs = self._configs()
        return VENDORS[configs[device].vendor] if 0 <= device < len(configs) else ""

    # What sim/trace.py reads. The buffers are cffi's, so that long traces make no garbage.

    def models(self) -> list[str]:
        """Return the devices' names."""
        return [_said(config.name) for config in self._configs()]

    def vendors(self) -> set[str]:
        """Return whose devices there are."""
        return {VENDORS[config.vendor] for config in self._configs()}

    def _configs(self) -> Any:  # noqa: ANN401 - cffi's values have no types
        if not self._state:
            raise StateError("the state is closed")
        return self._state.node.devices[0 : self._state.node.device_count]

    def together(self, device: int) -> bool:
        """Whether processes run together on a device, as under MPS."""
        return bool(self._state.node.devices[device].mps)

    def launch_cost(self, device: int) -> int:
        """Return the host time of a launch, in nanoseconds."""
        return int(self._state.node.devices[device].cost_ns[lib.SIM_COST_LAUNCH])

    def trace(self) -> None:
        """Let what is done be recorded from now on."""
        lib.sim_state_trace(self._state)

    def recorded(self, device: int) -> tuple[int, int]:
        """Return how many turns and how many records of a device there have ever been."""
        counts = ffi.new("uint64_t[2]")
        lib.sim_state_recorded(self._state, device, counts, counts + 1)
        return int(counts[0]), int(counts[1])

    def turns(self, device: int, first: Any, turns: Any, room: int, lost: Any) -> int:  # noqa: ANN401
        """Read turns as ``sim_timeline_turns`` does."""
        return int(lib.sim_state_turns(self._state, device, first, turns, room, lost))

    def records(
        self,
        device: int,
        first: Any,  # noqa: ANN401
        records: Any,  # noqa: ANN401
        room: int,
        skip: bool,
        lost: Any,  # noqa: ANN401
    ) -> int:
        """Read records as ``sim_state_records`` does."""
        return int(lib.sim_state_records(self._state, device, first, records, room, skip, lost))

    def process(self, number: int, process: Any) -> bool:  # noqa: ANN401
        """Read what is known of a process; false when that is gone."""
        return bool(lib.sim_state_process(self._state, number, process))

    def group(self, number: int) -> str:
        """Return a group's name."""
        return _said(lib.sim_state_group(self._state, number))

    def truth(self) -> Truth:
        """Clear up after the dead, then count what everybody holds."""
        if not self._state:
            raise StateError("the state is closed")
        truth = self._truth
        lib.sim_state_truth(self._state, truth)
        count = truth.device_count
        devices = tuple(
            DeviceTruth(
                uuid=uuid_text(bytes(config.uuid)),
                vendor=VENDORS[config.vendor],
                model=_said(config.name),
                total_bytes=truth.total_bytes[index],
                free_bytes=truth.free_bytes[index],
                reserved_bytes=truth.reserved_bytes[index],
                page_bytes=config.page_size,
                busy_ns=truth.busy_ns[index],
                switched_ns=truth.switched_ns[index],
            )
            for index, config in enumerate(self._state.node.devices[0:count])
        )
        processes = tuple(
            ProcessTruth(
                item.pid,
                _said(item.group),
                bool(item.dead),
                tuple(item.bytes[0:count]),
                tuple(item.ran_ns[0:count]),
            )
            for item in truth.processes[0 : truth.process_count]
        )
        groups = tuple(
            GroupTruth(
                _said(item.name),
                tuple(item.used_bytes[0:count]),
                tuple(item.max_used_bytes[0:count]),
            )
            for item in truth.groups[0 : truth.group_count]
        )
        return Truth(devices, processes, groups)


def truth(directory: Path) -> Truth:
    """Open the state in ``directory`` and read the truth once. Raises StateError."""
    with closing(State(directory)) as state:
        return state.truth()


def truth_text(found: Truth) -> str:
    """Return the truth for people: one line a device, a process and a group."""
    lines = [
        f"device {index}: {device.uuid} {device.model}: "
        f"{_mib(device.total_bytes - device.free_bytes)} of {_mib(device.total_bytes)} held, "
        f"{_ms(device.busy_ns)} busy"
        for index, device in enumerate(found.devices)
    ]
    lines += [
        f"process {item.pid}{' (dead)' if item.dead else ''}{_in_group(item.group)}: "
        + _per_device(item.used_bytes)
        + f"; ran {', '.join(map(_ms, item.ran_ns))}"
        for item in found.processes
    ]
    lines += [
        f"group {item.name or '(none)'}: {_per_device(item.used_bytes)}; "
        f"at most {_per_device(item.max_used_bytes)}"
        for item in found.groups
    ]
    return "\n".join(lines)


def _in_group(name: str) -> str:
    return f" in {name}" if name else ""


def _per_device(sizes: tuple[int, ...]) -> str:
    return ", ".join(_mib(size) for size in sizes)


def _ms(time: int) -> str:
    return f"{time / 1_000_000:.1f} ms"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):g} MiB"


def uuid_text(uuid: bytes) -> str:
    """Return a device's UUID as NVIDIA writes it; of other vendors' devices too."""
    text = uuid.hex()
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _vendors(directory: Path) -> set[str]:
    """Return whose devices a node has; nobody's where there is no node yet."""
    try:
        with closing(State(directory)) as state:
            return state.vendors()
    except StateError:
        return set()


def _driver_folder(directory: Path, library: Path) -> Path:
    """Lay out every name that programs load a driver and NVML by, links to the two files."""
    folder = directory / "driver"
    folder.mkdir(exist_ok=True)
    others = [name for vendor in _vendors(directory) for name in LIBRARIES.get(vendor, ())]
    for soname in (library.name, NVML, *others):
        for name in {soname.removesuffix(".1"), soname}:
            fresh = folder / f".{name}.{os.getpid()}"
            fresh.symlink_to(library.with_name(soname).resolve())
            fresh.replace(folder / name)
    return folder


def environment(directory: Path, library: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Return ``base`` with what makes a program run on the node in ``directory``."""
    folder = _driver_folder(directory, library)
    folders = [str(folder), *filter(None, [base.get("LD_LIBRARY_PATH")])]
    return {
        **base,
        "ALIQUOT_SIM": str(directory),
        # What was measured on another node's devices is not true here.
        "ALIQUOT_CACHE_DIR": str(directory / "cache"),
        "LD_LIBRARY_PATH": ":".join(folders),
    }
