"""What agents in tests are made of where the rest of the agent is not what is tested.

The vendor has devices that nothing is behind; bundles are real folders whose config.json is read
and replaced. Whoever asks is a real process, regions are real mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import mounts, processes
from aliquot.agent.admission import Tools
from aliquot.agent.config import Shares
from aliquot.agent.devices import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    UntoldError,
    VendorError,
)
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import Ledger, key_of
from aliquot.agent.slices import Container, Part, Request, Slice
from aliquot.hooks.plan import DeviceNode, Needs, Substitute
from aliquot.shim import region

GIB = 1 << 30
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts regions")


def device(index: int, *enforcement: str) -> Device:
    """A device of 16 GiB; with partitions if it has ``partition`` among what holds caps."""
    return Device(
        vendor="paper",
        index=index,
        uuid=f"PAPER-{index:02}",
        uuid_bytes=bytes([index]) * 16,
        model="Paper 16",
        memory_bytes=16 * GIB,
        page_bytes=2 << 20,
        context_bytes=1 << 20,
        pci_address=f"0000:0{index}:00.0",
        enforcement=enforcement or ("shim",),
        splits="partition" in enforcement,
    )


@dataclass
class PaperVendor:
    """A vendor that does what the test says; ``limits`` are what the driver was told to hold."""

    devices: Sequence[Device] = (device(1), device(2))
    shim: Path | None = None
    limits: list[tuple[str, str, int | None]] = field(default_factory=list)
    refuses: str = ""
    before: Callable[[str], None] = lambda _: None
    name: str = "paper"
    hide: tuple[str, ...] = ()
    # Where the partitions are that it has, which outlive it: a file for each.
    paper: Path | None = None

    def _say(self, what: str) -> None:
        self.before(what)
        if what in self.refuses.split():
            raise VendorError(f"paper has no {what} today: wait for rain")

    def enumerate(self) -> Sequence[Device]:
        """Return the devices."""
        self._say("enumerate")
        return self.devices

    def sample(self) -> Sequence[Sample]:
        """Read nothing."""
        return ()

    def processes(self) -> Sequence[DeviceProcess]:
        """Know no process."""
        return ()

    def health(self) -> Sequence[Health]:
        """Know of no illness."""
        return ()

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Name the devices, their partitions and the shim."""
        self._say("needs")
        substitutes = (Substitute("libcuda.so.1", self.shim, "real.so.1"),) if self.shim else ()
        named = [f"{uuid}/{partitions[uuid].id}" if uuid in partitions else uuid for uuid in uuids]
        return Needs(environment={"PAPER": ",".join(named)}, substitutes=substitutes)

    def partition(self, uuid: str, name: str, memory_bytes: int, cores: int) -> Partition:
        """Write one down, of whole GiB."""
        self._say("partition")
        assert self.paper is not None
        self.paper.mkdir(exist_ok=True)
        size = -(-memory_bytes // GIB) * GIB
        made = Partition(uuid, f"p-{name}", name, size, cores)
        self._write(made)
        self._say("partitioned")
        return made

    def _write(self, made: Partition) -> None:
        assert self.paper is not None
        values = [made.uuid, made.id, made.name, made.memory_bytes, made.cores]
        fresh = self.paper / f".{made.id}"
        fresh.write_text(json.dumps(values))
        fresh.replace(self.paper / made.id)

    def resize(self, partition: Partition, memory_bytes: int, cores: int) -> Partition:
        """Write another size down."""
        self._say("resize")
        assert self.paper is not None
        assert (self.paper / partition.id).exists()
        size = -(-memory_bytes // GIB) * GIB
        made = Partition(partition.uuid, partition.id, partition.name, size, cores)
        self._write(made)
        return made

    def partitions(self) -> Sequence[Partition]:
        """Read what is written down; of devices that ``hide`` only that it cannot be read."""
        self._say("partitions")
        found = self._partitions()
        if self.hide:
            told = [one for one in found if one.uuid not in self.hide]
            raise UntoldError("paper is wet: dry it", told, self.hide)
        return found

    def _partitions(self) -> Sequence[Partition]:
        if self.paper is None or not self.paper.is_dir():
            return ()
        found = [path for path in sorted(self.paper.iterdir()) if path.name[0] != "."]
        return tuple(Partition(*json.loads(path.read_text())) for path in found)

    def release(self, partition: Partition) -> None:
        """Cross one out."""
        self._say("release")
        assert self.paper is not None
        (self.paper / partition.id).unlink(missing_ok=True)

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Write the limit down."""
        self._say("limit_memory")
        self.limits.append((uuid, cgroup, limit_bytes))

    def close(self) -> None:
        """Let go of nothing."""
        self._say("close")


class BundleError(Exception):
    """What is wrong with a bundle."""


@dataclass(frozen=True)
class PlainBundle:
    """A bundle as these tools read it."""

    path: Path
    config: dict[str, Any]

    @property
    def annotations(self) -> Mapping[str, str]:
        """What config.json has of them."""
        return dict(self.config.get("annotations", {}))

    @property
    def environment(self) -> Mapping[str, str]:
        """None."""
        return {}


def inspect(path: Path) -> PlainBundle:
    try:
        return PlainBundle(path, json.loads((path / "config.json").read_bytes()))
    except ValueError as error:
        raise BundleError(f"{path}/config.json is not JSON: {error}") from error


def read(annotations: Mapping[str, str], _: Mapping[str, str], __: str) -> Request | None:
    if "memory" not in annotations:
        return None
    return Request(count=int(annotations["memory"]))


def place(
    request: Request,
    devices: Sequence[Device],
    slices: Sequence[Slice],
    unhealthy: Mapping[str, str],
    container: Container,
    _: Sequence[str],
) -> tuple[Part, ...]:
    """Give so many GiB of the first device that has them."""
    assert request.count
    for one in devices:
        held = sum(part.memory_bytes for piece in slices if (part := piece.part(one.uuid)))
        if one.uuid not in unhealthy and one.memory_bytes - held >= request.count * GIB:
            return (Part(one.uuid, one.vendor, request.count * GIB, 10, one.enforcement[0]),)
    raise AliquotError(f"{container.shown}: no device has {request.count} GiB left")


def apply(
    bundle: PlainBundle, needs: Needs, *, folder: Path, hook: Path, stat: Path, runtime_dir: Path
) -> dict[str, Any]:
    """Write a plan and name the slice's folder in config.json."""
    lines = [f"{one.soname}\t{one.shim}\n" for one in needs.substitutes]
    (folder / "plan").write_text("".join(lines))
    hooks = {"path": str(hook), "args": [str(folder), str(stat), str(runtime_dir)]}
    return {**bundle.config, "hooks": hooks, "env": dict(needs.environment)}


def write(bundle: PlainBundle, config: dict[str, Any]) -> None:
    fresh = bundle.path / "config.new"
    fresh.write_text(json.dumps(config))
    fresh.replace(bundle.path / "config.json")


def link_char_devices(_: Sequence[DeviceNode]) -> None:
    return


TOOLS = Tools(inspect, read, place, apply, write, link_char_devices, (BundleError,))


@dataclass(frozen=True)
class PlainConfig:
    """The configuration that a daemon without metrics reads."""

    runtime_dir: Path
    lib_dir: Path
    sample_seconds: float = 0.1
    sharing: Shares = field(default_factory=Shares)


def make_bundle(path: Path, memory: int | None = 1, **annotations: str) -> Path:
    """Make a bundle that asks for so many GiB."""
    path.mkdir(parents=True)
    if memory is not None:
        annotations["memory"] = str(memory)
    (path / "config.json").write_text(json.dumps({"annotations": annotations}))
    return path


def make_slice(container_id: str = "c1", maker: int | None = None, **others: Any) -> Slice:
    """A slice of 1 GiB that belongs to ``maker``, or to this process."""
    bundle = f"/bundles/{container_id}"
    pid = os.getpid() if maker is None else maker
    values: dict[str, Any] = {
        "key": key_of(container_id, bundle),
        "container": Container(container_id, bundle),
        "parts": (Part("PAPER-01", "paper", GIB, 10),),
        "created_unix_ns": 1,
        "maker_pid": pid,
        "maker_start": processes.start_time(pid) or 0,
    }
    return Slice(**{**values, **others})


def region_devices(count: int = 1) -> list[region.RegionDevice]:
    return [
        region.RegionDevice(device(index).uuid_bytes, GIB, 2 << 20, 1 << 20, 40, cores_min=10)
        for index in range(1, count + 1)
    ]


def mounted_below(folder: Path) -> list[str]:
    """The mount points in a folder."""
    return [mount.point for mount in mounts.table() if mount.point.startswith(f"{folder}/")]


@contextlib.contextmanager
def swept(base: Path) -> Iterator[Path]:
    """Leave no mount behind in ``base``, whatever a test does."""
    try:
        yield base
    finally:
        for point in reversed(mounted_below(base)):
            mounts.unmount(point)


def reopened(base: Path) -> Ledger:
    """A ledger of what is in ``base``, as an agent has it at its start."""
    made = Ledger(base)
    made.open()
    return made


@contextlib.contextmanager
def slot_held(ledger: Ledger, key: str) -> Iterator[None]:
    """Hold a slot of a region's ``usage``, as a process of the container does."""
    with (ledger.region(key) / "usage").open("r+b") as usage:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(usage, fcntl.F_OFD_SETLK, lock)
        yield


@contextlib.contextmanager
def some_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the block ends, or the test ends it."""
    with subprocess.Popen(
        [sys.executable, "-SEc", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def writable_cgroup(kind: str) -> Path | None:
    """A hierarchy in which cgroups can be made: ``cgroup2``, or one of ``cgroup``."""
    for mount in mounts.table():
        if mount.kind == kind and "cpuset" not in mount.options and mount.root == "/":
            trial = Path(mount.point) / f"aliquot-test-{os.getpid()}"
            try:
                trial.mkdir()
                trial.rmdir()
            except OSError:
                continue
            return Path(mount.point)
    return None


@contextlib.contextmanager
def cgroup(kind: str, name: str) -> Iterator[Path]:
    """A cgroup of the test's own; skips the test where none can be made."""
    top = writable_cgroup(kind) if os.geteuid() == 0 else None
    if top is None:
        pytest.skip(f"no cgroup of a hierarchy of the kind {kind} can be made here")
    folder = top / name
    folder.mkdir()
    try:
        yield folder
    finally:
        for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            inner.rmdir()
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def move(pid: int, folder: Path) -> None:
    """Put a process into a cgroup."""
    (folder / "cgroup.procs").write_text(str(pid))
