"""Slices as values: what was asked for, what was decided, and how the ledger writes it down.

Sizes are bytes, cores percent of one device's time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .sizes import Size

BINPACK: Final = "binpack"
SPREAD: Final = "spread"
# Who holds the cap of a slice: the driver by its cgroup, a partition, our library; and of one that
# has a whole device.
DRIVER: Final = "driver"
PARTITION: Final = "partition"
SHIM: Final = "shim"
NOBODY: Final = "nobody"
# Those whose caps do not depend on what programs do.
FIRM: Final = frozenset({DRIVER, PARTITION})


@dataclass(frozen=True, slots=True)
class Request:
    """What a container asks for.

    ``count`` is the number of devices; None means every device that ``uuids`` names, or all.
    ``memory`` and ``cores`` are for each device; with neither, all of it is asked for. ``uuids``
    and ``models`` name what is wanted, ``not_uuids`` and ``not_models`` what is not: beginnings of
    UUIDs, parts of model names in any case. ``vendor`` is whose devices they must be, empty where
    names or the configuration decide. ``placement`` is ``binpack`` or ``spread``, None where
    the configuration decides. ``sources`` says who asked, for messages.

    ``cores_max``, ``weight`` and ``priority`` are as in Part, None where nobody has said them;
    ``policy``, ``group``, ``quiet_ms``, ``floor`` and ``native`` are as in Slice.
    """

    count: int | None
    memory: Size | None = None
    cores: int | None = None
    uuids: tuple[str, ...] = ()
    not_uuids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    not_models: tuple[str, ...] = ()
    placement: str | None = None
    vendor: str = ""
    memory_by_index: tuple[tuple[int, Size], ...] = ()
    sources: tuple[str, ...] = ()
    cores_max: int | None = None
    weight: int | None = None
    priority: int | None = None
    policy: str = "burst-share"
    group: str = ""
    quiet_ms: int = 100
    floor: int = 0
    native: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a slice holds of one device; ``enforcement`` says who holds the cap, or ``nobody``.

    ``partition`` is the vendor's id of what it has, where that is a partition: empty until it is
    made. A partition has all of its cores at any time, and nothing beyond: no turns.

    ``cores`` is what it is guaranteed of the device's time, 0 to 100; ``cores_max`` is what it
    never passes, 1 to 100 and at least ``cores``. What is spare goes by ``weight``, 1 to 10,000,
    and a higher ``priority``, -100 to 100, takes the device at once.
    """

    uuid: str
    vendor: str
    memory_bytes: int
    cores: int
    enforcement: str = "shim"
    cores_max: int = 100
    weight: int = 100
    priority: int = 0
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as its runtime names it.

    ``bundle`` is its folder on the host. ``namespace``, ``pod`` and ``name`` are Kubernetes';
    without it ``namespace`` is containerd's where it is known, and the others are empty.
    """

    id: str
    bundle: str
    namespace: str = ""
    pod: str = ""
    name: str = ""

    @property
    def shown(self) -> str:
        """What people call it: ``namespace/pod/name``, or the beginning of its id."""
        known = [part for part in (self.namespace, self.pod, self.name) if part]
        return "/".join(known) if self.name else self.id[:24]


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice in the ledger.

    ``key`` names its folder. Until the container's runtime has told its first process, the slice
    belongs to the process that asked for it, ``maker_pid``; from then on to ``init_pid``. A pid
    means the process with that start time (field 22 of /proc/PID/stat, clock ticks) only.
    ``cgroups`` are the lines of /proc/PID/cgroup of the first process.

    ``policy`` is the name under which its sharing was asked for. Slices of one ``group`` in one
    namespace get their devices together. Where it has the higher priority it keeps an idle device
    for ``quiet_ms``, and leaves ``floor`` percent to the others. ``native``: it takes no turns.
    """

    key: str
    container: Container
    parts: tuple[Part, ...]
    created_unix_ns: int
    maker_pid: int
    maker_start: int
    init_pid: int = 0
    init_start: int = 0
    cgroups: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    policy: str = ""
    group: str = ""
    quiet_ms: int = 100
    floor: int = 0
    native: bool = False

    def part(self, uuid: str) -> Part | None:
        """Return what it holds of a device, None when that is nothing."""
        return next((part for part in self.parts if part.uuid == uuid), None)


def to_json(piece: Slice) -> dict[str, Any]:
    """Return a slice as plain values."""
    return asdict(piece)


def from_json(value: Any) -> Slice:  # noqa: ANN401 - whatever a file holds
    """Read a slice from plain values. Raises ValueError when they are none."""
    try:
        return Slice(
            **{
                **value,
                "container": Container(**value["container"]),
                "parts": tuple(Part(**part) for part in value["parts"]),
                "cgroups": tuple(value["cgroups"]),
            }
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a slice: {error}") from error
