"""Slices of a simulated device whose time is shared, and the programs in them."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliquot.shim import arbiter, region

from gates import Gate
from sharers import Watched
from slices import lay_out
from tenants import SimNode, simulated
from vendors import Vendor

PATIENCE_SECONDS = 120.0
GIB = 1 << 30


@dataclass
class Client:
    """A running program of time_client.c."""

    process: subprocess.Popen[str]

    def read(self) -> str:
        """Return the next line, "" at the end; a program that is silent for long has failed."""
        stream = self.process.stdout
        assert stream
        assert select.select([stream], [], [], PATIENCE_SECONDS)[0], f"{self.process.args!r} hangs"
        return stream.readline().rstrip("\n")

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def silent(self) -> bool:
        """Whether it has nothing to say."""
        assert self.process.stdout
        return not select.select([self.process.stdout], [], [], 0)[0]

    def end(self) -> str:
        """Wait for its end, which must be a good one; returns what else it said."""
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, f"{self.process.args!r}: {err}"
        return out


class Place:
    """A slice of a simulated device, and the programs in it."""

    def __init__(
        self, vendor: Vendor, node: SimNode, shim: Path, client: Path, folder: Path
    ) -> None:
        """Remember where everything is; ``make`` makes the slice."""
        self.vendor = vendor
        self.node = node
        self._shim = shim
        self._client = client
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []
        self._environment: dict[str, str] = {}
        self.gate: Gate

    def make(
        self, *, cores: int = 100, shared: bool = False, devices: int = 1, cap: int | None = None
    ) -> Place:
        """Make the slice of so many devices; ``shared``: somebody opens its gate."""
        parts = tuple(
            region.RegionDevice(
                uuid=device.uuid,
                cap=cap,
                page_bytes=device.page_size,
                context_bytes=device.context,
                cores=cores,
                shared=shared,
            )
            for device in self.node.devices[:devices]
        )
        names = self.vendor.names
        library = lay_out(self._shim, self.node.library, self._folder / "slice", parts, names)
        for name in self.vendor.above:
            (library.parent / name).symlink_to(self.node.library.with_name(name))
        self._environment = self.node.environment("time", library.parent)
        self.gate = Gate(library.parent / ".aliquot", devices)
        return self

    def start(self, *arguments: object, program: Path | None = None) -> Client:
        """Start a program in the slice, time_client.c's if no other."""
        process = subprocess.Popen(
            [program or self._client, *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._running.append(process)
        return Client(process)

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.gate.close()


@contextlib.contextmanager
def node_of(vendor: Vendor, sim_library: Path) -> Iterator[SimNode]:
    """A node of two devices on which launching takes no time, and kernels as long as they say."""
    settings: dict[str, Any] = {"vendor": vendor.name, "sms": 40, "kernel_ns": 0, "wave_ns": 0}
    with simulated(sim_library.with_name(vendor.library), 2 * GIB, **settings) as node:
        yield node


@contextlib.contextmanager
def arbitrated(places: tuple[Place, Place]) -> Iterator[tuple[arbiter.Runner, list[Watched]]]:
    """An arbiter that knows both slices."""
    runner = arbiter.Runner()
    known = [Watched(place.gate.usage_path.parent) for place in places]
    try:
        with runner.gathering():
            for one in known:
                one.join(runner, 0)
        yield runner, known
    finally:
        runner.stop()
        for one in known:
            one.close()
