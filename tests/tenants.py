"""A slice on a simulated node, without any command, and the programs that live in it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aliquot.shim import region
from aliquot.sim.node import Device, Node
from aliquot.sim.state import GroupTruth, State, create

import nvidia_files
from commands import wait_for
from slices import MIB, lay_out
from tenant_vendors import COMMON, VENDORS, Vendor

TESTS = Path(__file__).resolve().parent
PATIENCE_SECONDS = 60.0
CONTEXT = 16 * MIB
PAGE = 2 * MIB

SUCCESS = 0
ABSENT = -1
"""What a tenant answers itself: there was nothing to open."""


def compile_c(folder: Path, name: str, sources: Sequence[str | Path], *options: str) -> Path:
    """Compile a C program or library of this folder against CUDA's header."""
    program = folder / name
    program.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    header = str(nvidia_files.header_folder("13.5"))
    command += ["-D__CUDA_API_VERSION_INTERNAL", "-isystem", header]
    command += [f"-I{TESTS}", "-o", str(program)]
    command += [str(TESTS / source) for source in sources]
    subprocess.run([*command, *options, "-ldl", "-lpthread"], check=True)
    return program


@dataclass(frozen=True)
class Site:
    """A vendor's libraries, the simulator's and ours, and the programs for them."""

    vendor: Vendor
    library: Path
    shim: Path
    folder: Path

    @property
    def refusal(self) -> int:
        """What the vendor's library answers where there is no more memory."""
        return self.vendor.out_of_memory

    def program(self, name: str) -> Path:
        """A program of this folder for the vendor: tenant, odd_calls, odd_ends, trap_client."""
        path = self.folder / name
        if not path.exists():
            compile_c(self.folder, name, [f"{name}.c", *COMMON, *self.vendor.sources])
        return path

    def simulated(self, memory: int, **settings: Any) -> AbstractContextManager[SimNode]:
        """Make a node of the vendor's devices."""
        return simulated(self.library, memory, self.vendor.name, **settings)

    def slice(self, node: SimNode, folder: Path, name: str, cap: int, cores: int = 100) -> Slice:
        """Lay a slice of the node out in a folder."""
        return Slice.make(node, self.shim, folder, name, cap, cores)


@dataclass
class SimNode:
    """A node of which slices have the first device, with the processes' state in a folder."""

    directory: Path
    devices: tuple[Device, ...]
    library: Path
    state: State
    vendor: Vendor

    @property
    def device(self) -> Device:
        """The one that slices have."""
        return self.devices[0]

    def truth(self, group: str) -> GroupTruth:
        """What the simulator itself counts for the processes of a slice."""
        return self.state.truth().group(group)

    def environment(self, group: str, folder: Path | None = None) -> dict[str, str]:
        """The environment of a program; ``folder`` is where it finds its libcuda.so.1."""
        found = {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(folder or self.library.parent),
            "ALIQUOT_SIM": str(self.directory),
            "ALIQUOT_SIM_GROUP": group,
        }
        # A library that was built with a sanitizer says how it wants to be loaded.
        for name in ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "ALIQUOT_SIM_LOG"):
            if name in os.environ:
                found[name] = os.environ[name]
        return found


@contextmanager
def simulated(
    library: Path, memory: int, vendor: str = "nvidia", **settings: Any
) -> Iterator[SimNode]:
    """Make a node of a vendor's devices, of which ``library`` is the simulated library.

    Its state lies in memory. The second device is there for multicast only.
    """
    with tempfile.TemporaryDirectory(prefix="aliquot-test-", dir="/dev/shm") as folder:
        settings |= {"vendor": vendor}
        settings.setdefault("context", CONTEXT)
        if vendor == "ascend":  # pools grow by whole pages, and by no more
            settings.setdefault("pool_chunk", PAGE)
        settings.setdefault("compute_capability", (9, 0))
        settings.setdefault("nvlinks", (18, 18))
        node = Node.of("caps", [Device(memory=memory, **settings), Device(**settings)])
        directory = Path(folder) / "node"
        create(node, directory)
        state = State(directory)
        try:
            yield SimNode(directory, node.devices, library, state, VENDORS[vendor])
        finally:
            state.close()


@dataclass
class Slice:
    """A slice of a node's device, and its files."""

    node: SimNode
    name: str
    cap: int
    library: Path

    @classmethod
    def make(
        cls,
        node: SimNode,
        shim: Path,
        folder: Path,
        name: str,
        cap: int,
        cores: int = 100,
        *,
        devices: int = 1,
        uuid: bytes = b"",
    ) -> Slice:
        """Lay it out in ``folder``, on the node's first devices; ``uuid``: what the grant says."""
        parts = tuple(
            region.RegionDevice(
                uuid=uuid or device.uuid,
                cap=cap,
                page_bytes=device.page_size,
                context_bytes=device.context,
                cores=cores,
            )
            for device in node.devices[:devices]
        )
        library = lay_out(shim, node.library, folder / name, parts, node.vendor.names)
        for other in node.vendor.beside:
            (library.parent / other).symlink_to(node.library.with_name(other))
        return cls(node, name, cap, library)

    @property
    def refusal(self) -> int:
        """What the vendor's library answers where there is no more memory."""
        return self.node.vendor.out_of_memory

    def environment(self) -> dict[str, str]:
        """What makes a program run in the slice."""
        return self.node.environment(self.name, self.library.parent)

    @property
    def usage_path(self) -> Path:
        """The file in which the processes say what they hold."""
        return self.library.parent / ".aliquot/usage"

    def usage(self) -> region.Usage:
        """What the processes of the slice say that they hold."""
        with self.usage_path.open("rb") as file:
            return region.read_usage(file.fileno(), str(self.usage_path), 1)

    def charge(self) -> int:
        """Bytes that the living processes are charged."""
        return self.usage().charge(0)

    def truth(self) -> GroupTruth:
        """What the simulator counts for them."""
        return self.node.truth(self.name)

    def locked(self) -> list[int]:
        """The bytes of the file that somebody has a lock on: slots, and the region's lock."""
        found = []
        with self.usage_path.open("rb") as file:
            for byte in range(region.MAX_SLOTS + 1):
                lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                answer = fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, lock)
                if struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK:
                    found.append(byte)
        return found

    def wait_until_empty(self) -> None:
        """Wait until the simulator has given back everything; killed processes take a while."""
        wait_for(lambda: not self.truth().used_bytes[0], "an empty device")


class Box:
    """Where tenants send each other what they share."""

    def __init__(self) -> None:
        self.outbox, self.inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.setblocking(False)

    def arguments(self) -> list[str]:
        """The tenant's arguments for it."""
        return ["--box", f"{self.outbox.fileno()},{self.inbox.fileno()}"]

    def descriptors(self) -> tuple[int, int]:
        """What a tenant must inherit."""
        return self.outbox.fileno(), self.inbox.fileno()

    def empty(self) -> None:
        """Throw all letters away."""
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self.inbox, 4096, 16)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Close it; letters that nobody read are gone."""
        self.outbox.close()
        self.inbox.close()


def of_slice(told: dict[str, tuple[int | None, int]], cap: int, used: int) -> bool:
    """Whether all functions tell of the slice, of which so much is used."""
    return all(each in ((cap - used, cap), (None, cap)) for each in told.values())


@dataclass
class Tenant:
    """A running client."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        program: Path,
        environment: dict[str, str],
        *arguments: str,
        lookup: str = "symbol",
        box: Box | None = None,
    ) -> Tenant:
        """Start the client; ``arguments`` begin with its mode."""
        command = [str(program), "--lookup", lookup, *(box.arguments() if box else []), *arguments]
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=box.descriptors() if box else (),
        )
        return cls(process)

    def read(self) -> str:
        """Return the next line that it prints, "" at its end."""
        assert self.process.stdout
        line = self.process.stdout.readline().rstrip("\n")
        assert not line.startswith("not so"), line
        return line

    def say(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, *words: object) -> str:
        """Give a serving client a command, and return its answer."""
        self.say(" ".join(str(word) for word in words))
        answer = self.read()
        assert answer, f"{self.process.args!r} ended at {words} with {self.process.wait()}"
        return answer

    def do(self, *words: object) -> int:
        """Return the driver's answer to a command."""
        return int(self.ask(*words))

    def told(self) -> dict[str, tuple[int | None, int]]:
        """Free and total bytes as each function tells it; None: it does not tell what is free."""
        found = {}
        for item in self.ask("info").split():
            function, told = item.split("=")
            free, total = told.split("/")
            found[function] = (int(free) if free else None, int(total))
        return found

    def end(self) -> int:
        """End its input, and return its status."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        status = self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        return status

    def kill(self) -> None:
        """End it as nobody should be ended."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Tenant:  # noqa: PYI034 - Self needs Python 3.11
        """Live until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind."""
        self.kill()
