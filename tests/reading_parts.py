"""What the agent's parts are tried with: a ledger in a folder, devices that read what tests say.

Region files are real, and so are the processes whose memory the devices show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aliquot.agent import rpc
from aliquot.agent.changes import Changed, Wish
from aliquot.agent.devices import (
    NO_PARTITIONS,
    Device,
    DeviceProcess,
    Health,
    Partition,
    Sample,
    Undivided,
)
from aliquot.agent.errors import AliquotError
from aliquot.agent.readings import Readings
from aliquot.agent.sharing import Account
from aliquot.agent.slices import Container, Part, Slice
from aliquot.hooks.plan import Needs
from aliquot.shim import region
from aliquot.shim.region import Grant

MIB = 1 << 20
GIB = 1 << 30


def device(number: int, vendor: str = "acme") -> Device:
    """Device ``number`` of a vendor, with 16 GiB."""
    digits = f"{number:x}{ord(vendor[0]):x}" * 11
    uuid = bytes.fromhex(digits[:32])
    text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"
    return Device(
        vendor=vendor,
        index=number,
        uuid=f"GPU-{text}",
        uuid_bytes=uuid,
        model=f"{vendor.title()} {number}",
        memory_bytes=16 * GIB,
        page_bytes=2 * MIB,
        context_bytes=0,
        pci_address=f"0000:0{number}:00.0",
        numa_node=0,
    )


class Books:
    """A ledger in a folder; processes belong to slices by their cgroups."""

    def __init__(self, base: Path, devices: Sequence[Device]) -> None:
        self.base = base
        self.asked: list[int] = []
        self._slices: dict[str, Slice] = {}
        self._watchers: list[Callable[[], None]] = []
        self._devices = {one.uuid: one for one in devices}

    def add(
        self,
        name: str,
        *parts: Part,
        container: Container | None = None,
        cgroups: tuple[str, ...] = (),
        init_pid: int = 1,
    ) -> Slice:
        """Give a container a slice, with its region."""
        container = container or Container(f"id-{name}", "/bundle", "default", name, "main")
        piece = Slice(
            key=name,
            container=container,
            parts=parts,
            created_unix_ns=1_700_000_000_000_000_000 + len(self._slices),
            maker_pid=1,
            maker_start=1,
            init_pid=init_pid,
            init_start=1,
            cgroups=cgroups,
        )
        folder = self.region(name)
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY)
        try:
            region.create(fd, name, [self._row(part) for part in parts])
            region.create_bell(fd)
        finally:
            os.close(fd)
        self.put(piece)
        return piece

    def _row(self, part: Part) -> region.RegionDevice:
        return region.RegionDevice(
            self._devices[part.uuid].uuid_bytes,
            part.memory_bytes,
            2 * MIB,
            0,
            part.cores_max,
            cores_min=part.cores,
            weight=part.weight,
            priority=part.priority,
            shared=True,
        )

    def put(self, piece: Slice) -> None:
        """Say something else of a slice."""
        self._slices[piece.key] = piece
        self._tell()

    def remove(self, key: str) -> None:
        """Take a slice back."""
        del self._slices[key]
        shutil.rmtree(self.base / key)
        self._tell()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have ``changed`` called after each change; returns what ends that."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def slices(self) -> tuple[Slice, ...]:
        """All slices, in the order in which they were added."""
        return tuple(self._slices.values())

    def folder(self, key: str) -> Path:
        """A slice's folder."""
        return self.base / key

    def region(self, key: str) -> Path:
        """The folder with its grant and usage."""
        return self.base / key / "region"

    def of_pid(self, pid: int) -> Slice | None:
        """The slice that has one of the process' cgroups; `asked` takes note."""
        self.asked.append(pid)
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return None
        return next((s for s in self._slices.values() if set(s.cgroups) & set(lines)), None)

    def grant(self, key: str) -> Grant:
        """What the slice is told."""
        with (self.region(key) / "grant").open("rb") as file:
            return region.read_grant(file.fileno(), "grant")


@dataclass
class Board(Undivided):
    """A vendor whose devices read what they are told to; ``meanwhile`` happens as it is asked."""

    found: tuple[Device, ...]
    name: str = "acme"
    rows: list[DeviceProcess] = field(default_factory=list)
    busy: float | None = 0.5
    ill: dict[str, str] = field(default_factory=dict)
    meanwhile: Callable[[], None] = lambda: None
    fails: dict[str, Exception] = field(default_factory=dict)
    limits: dict[tuple[str, str], int | None] = field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()

    def _answer(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]

    def enumerate(self) -> Sequence[Device]:
        """Its devices."""
        return self.found

    def sample(self) -> Sequence[Sample]:
        """The same for each."""
        self._answer("sample")
        return [Sample(one.uuid, 3 * GIB, self.busy, None, 70.5, 41.0) for one in self.found]

    def processes(self) -> Sequence[DeviceProcess]:
        """What `rows` says."""
        self._answer("processes")
        self.meanwhile()
        return list(self.rows)

    def health(self) -> Sequence[Health]:
        """All are well but those that `ill` has."""
        self._answer("health")
        return [
            Health(one.uuid, one.uuid not in self.ill, self.ill.get(one.uuid, ""))
            for one in self.found
        ]

    def needs(
        self, uuids: Sequence[str], partitions: Mapping[str, Partition] = NO_PARTITIONS
    ) -> Needs:
        """Nothing."""
        del uuids, partitions
        return Needs()

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Take note of it."""
        self.limits[uuid, cgroup] = limit_bytes

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Settings:
    """The part of the configuration that readings, metrics and tools want."""

    runtime_dir: Path
    sample_seconds: float = 0.1
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 0


@dataclass(frozen=True)
class Passed:
    """A socket that systemd passed."""

    socket: socket.socket


class Fixed:
    """Changes no slice."""

    async def change(self, wish: Wish) -> Changed:
        """Refuse."""
        raise AliquotError(f"{wish.container} stays as it is")


class Node:
    """An agent's parts without the agent; it is what the parts ask of the daemon."""

    def __init__(self, folder: Path, *boards: Board) -> None:
        self.vendors = boards
        self.devices = tuple(one for board in boards for one in board.found)
        self.unhealthy: dict[str, str] = {}
        self.passed: dict[str, Passed] = {}
        self.ledger = Books(folder / "containers", self.devices)
        self.config = Settings(folder)
        self.changes: rpc.Changes = Fixed()
        # What the arbiter says, by slice and device.
        self.accounts: dict[tuple[str, str], Account] = {}
        self.readings = Readings(self, lambda: self.accounts)

    def sample(self) -> None:
        """Take one round of readings."""
        asyncio.run(self.readings.sample())


# Before a command: run it as nobody.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def part(one: Device, memory_bytes: int = 4 * GIB, cores: int = 50, **terms: int) -> Part:
    """A part of a device; ``terms`` are those of slices.Part."""
    return Part(one.uuid, one.vendor, memory_bytes, cores, **terms)  # type: ignore[arg-type]


# Of a slice that got 28 of the 30 percent that it wanted.
ACCOUNT = Account(
    held_seconds=12.5,
    split_seconds=0.5,
    wanted_seconds=20.25,
    turns=321,
    overruns=2,
    preempted=3,
    wanted=0.3,
    received=0.28,
)


@contextlib.contextmanager
def tenant() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until the block ends."""
    command = [sys.executable, "-IS", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.communicate()


@contextlib.contextmanager
def own_cgroup(folder: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Put a process into a cgroup of its own below ``folder``; the line of its /proc/PID/cgroup."""
    place = folder / f"aliquot-test-{process.pid}"
    place.mkdir()
    try:
        (place / "cgroup.procs").write_text(f"{process.pid}\n")
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        yield next(line for line in lines if line.endswith(f"/{place.name}"))
        (folder / "cgroup.procs").write_text(f"{process.pid}\n")
    finally:
        place.rmdir()


def cgroup_folder() -> Path | None:
    """A folder in which cgroups can be made: the pids controller's, or v2's."""
    for folder in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        if (folder / "cgroup.procs").exists() and os.access(folder, os.W_OK):
            return folder
    return None


@contextlib.contextmanager
def reachable() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="aliquot-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def served(node: Node) -> Iterator[Path]:
    """Answer tools in a thread, as the agent does; gives the socket."""
    loop = asyncio.new_event_loop()
    ready, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with rpc.serve(node):
            ready.set()
            await end.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield node.config.runtime_dir / "agent.sock"
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
