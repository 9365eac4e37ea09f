"""An agent's admission and keeper without its sockets, as tests ask them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aliquot.agent import processes
from aliquot.agent.admission import Admission, Programs
from aliquot.agent.deposit import Deposit
from aliquot.agent.devices import Device
from aliquot.agent.keeper import Keeper
from aliquot.agent.ledger import Ledger
from aliquot.agent.slices import Slice
from aliquot.agent.wire import Peer

from agent_parts import (
    TOOLS,
    PaperVendor,
    make_bundle,
    reopened,
    swept,
)


@dataclass
class Desk:
    """An agent's admission without its sockets."""

    folder: Path
    vendor: PaperVendor
    ledger: Ledger
    unhealthy: dict[str, str] = field(default_factory=dict)
    tools: Any = TOOLS

    def __post_init__(self) -> None:  # noqa: D105 - as every other of its name
        self.keeper = Keeper(self.ledger, lambda: self.vendors, self.looked)
        self.deposit = Deposit(self.folder / "lib")
        self.known = asyncio.Event()
        self.known.set()

    @property
    def vendors(self) -> tuple[PaperVendor, ...]:
        """The one vendor."""
        return (self.vendor,)

    @property
    def silent(self) -> tuple[str, ...]:
        """Nobody: the one vendor tells of his devices."""
        return ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Its devices."""
        return tuple(self.vendor.devices)

    async def looked(self) -> None:
        """Wait until the test lets devices be known."""
        await self.known.wait()

    async def create(self, bundle: Path, maker: int | None = None, name: str = "") -> None:
        """Ask for a container's slice as its runtime does."""
        programs = Programs(Path("/hook"), Path("/stat"))
        admission = Admission(self, self.ledger, self.keeper, self.tools, self.deposit, programs)
        fields = {"id": name or bundle.name, "bundle": str(bundle)}
        await admission.create(fields, peer(maker))

    async def started(self, piece: Slice, pid: int) -> None:
        """Tell a container's first process as its hook does."""
        await self.keeper.started(self.told(piece, pid=str(pid), bundle="/"), peer())

    async def stopped(self, piece: Slice, teller: int | None = None) -> None:
        """Tell a container's end as its hook does."""
        await self.keeper.stopped(self.told(piece), peer(teller))

    def told(self, piece: Slice, **more: str) -> dict[str, str]:
        """What every hook says."""
        folder = str(self.ledger.folder(piece.key))
        return {"slice": folder, "id": piece.container.id, **more}

    async def free(self) -> None:
        """Return once no slice is left; its end is an event of the kernel's."""
        while self.ledger.slices():  # noqa: ASYNC110 - it is the kernel that is waited for
            await asyncio.sleep(0.01)

    def bundle(self, name: str = "c1", memory: int | None = 1, **annotations: str) -> Path:
        """Make a bundle."""
        return make_bundle(self.folder / "bundles" / name, memory, **annotations)


def peer(pid: int | None = None) -> Peer:
    number = os.getpid() if pid is None else pid
    return Peer(number, processes.start_time(number) or 0)


def waiting_for(go: threading.Event) -> Callable[[str], None]:
    """What makes a vendor hang until ``go``."""

    def wait(_: str) -> None:
        go.wait()

    return wait


Story = Callable[[Desk], Coroutine[Any, Any, None]]


@contextlib.contextmanager
def telling(folder: Path) -> Iterator[Callable[[Story], None]]:
    """What runs a story at a desk of its own in ``folder``; nothing of it stays."""

    async def told(story: Story) -> None:
        shim = folder / "libcuda.so.1"
        shim.write_bytes(b"a shim")
        desk = Desk(folder, PaperVendor(shim=shim), reopened(folder / "run"))
        try:
            await asyncio.wait_for(story(desk), 120)
        finally:
            await desk.keeper.close()

    with swept(folder / "run"):
        yield lambda story: asyncio.run(told(story))
