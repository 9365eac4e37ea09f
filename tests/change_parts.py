"""An office where slices are changed, and what stands in its books."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import changes
from aliquot.agent.changes import Changed, Changes, Wish
from aliquot.agent.config import Config
from aliquot.agent.devices import Device
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import Ledger
from aliquot.agent.sizes import parse_size
from aliquot.agent.slices import Part, Slice
from aliquot.shim._region import ffi

from agent_desk import Desk
from agent_parts import (
    GIB,
    PaperVendor,
    device,
    make_slice,
    region_devices,
    swept,
)

MIB = 1 << 20
ONE, TWO = device(1), device(2)


@dataclass
class Office(Desk):
    """A desk at which slices are changed; ``retolds`` are those that the arbiter was told of."""

    config: Config = field(default_factory=Config)
    retolds: list[Slice] = field(default_factory=list)
    arbiter_refuses: bool = False

    def __post_init__(self) -> None:  # noqa: D105 - as every other of its name
        super().__post_init__()
        self.changes = Changes(self)

    def retold(self, piece: Slice) -> None:
        """Take note of it."""
        if self.arbiter_refuses:
            self.arbiter_refuses = False
            raise AliquotError(f"{piece.container.shown} cannot have other terms")
        self.retolds.append(piece)

    def add(self, name: str = "c1", *parts: Part, **others: Any) -> Slice:
        """Give a container a slice; without ``parts`` of 1 GiB and a tenth of the first device."""
        if parts:
            others["parts"] = parts
        piece = make_slice(name, **others)
        self.ledger.add(piece, region_devices(len(piece.parts)))
        changes.tell(self.ledger, piece)
        self.keeper.hold(piece)
        return piece

    async def set(self, name: str = "c1", **said: Any) -> Slice:
        """Change a slice: keywords are the keys of numbers, and the other fields of a wish."""
        return (await self.change(name, **said)).piece

    async def change(self, name: str = "c1", **said: Any) -> Changed:
        """Change a slice, and see that everybody was told what it is now."""
        changed = await self.changes.change(wish(name, **said))
        self.check(changed.piece)
        assert self.retolds[-1] == changed.piece
        return changed

    async def refused(self, name: str = "c1", **said: Any) -> str:
        """Fail to change a slice, and see that it is as before."""
        before, retolds = self.ledger.slices(), len(self.retolds)
        with pytest.raises(AliquotError) as caught:
            await self.changes.change(wish(name, **said))
        assert self.ledger.slices() == before
        # Who was told that it is as before was told nothing else.
        assert all(piece in before for piece in self.retolds[retolds:])
        for piece in before:
            self.check(piece)
        text = str(caught.value)
        assert text.isprintable()
        return text

    def check(self, piece: Slice) -> None:
        """See that file, grant and memory say the same of a slice."""
        assert self.ledger.get(piece.key) == piece
        check_books(self.ledger, piece)


def check_books(books: Ledger, piece: Slice) -> None:
    """See that a slice's file and its grant say what the slice is."""
    other = Ledger(books.base)
    other.open()
    assert other.get(piece.key) == piece
    assert granted(books, piece.key) == [
        (part.memory_bytes, part.cores, part.cores_max, part.weight, part.priority)
        for part in piece.parts
    ]


def grant_of(books: Ledger, key: str) -> Any:
    """The grant of a slice, as C has it."""
    data = (books.region(key) / "grant").read_bytes()
    grant = ffi.new("struct aliquot_grant *")
    ffi.memmove(grant, data, len(data))
    return grant


def granted(books: Ledger, key: str) -> list[tuple[int, ...]]:
    """Cap, guarantee, most, weight and priority of each device in a slice's grant."""
    grant = grant_of(books, key)
    return [
        (row.cap, row.cores_min, row.cores, row.weight, row.priority)
        for row in grant.device[0 : grant.device_count]
    ]


def wish(name: str, **said: Any) -> Wish:
    numbers = {
        key: said.pop(key.replace("-", "_"))
        for key in changes.PARSERS
        if key.replace("-", "_") in said
    }
    if "memory" in said:
        said["memory"] = parse_size(said["memory"], "--memory")
    return Wish(name, numbers=numbers, **said)


def part(one: Device, memory_bytes: int = GIB, cores: int = 10, *rest: int) -> Part:
    made = Part(one.uuid, one.vendor, memory_bytes, cores, one.enforcement[0])
    names = ("cores_max", "weight", "priority")
    sharing: dict[str, Any] = dict(zip(names, rest, strict=False))
    return replace(made, **sharing)


Tell = Callable[[Office], Any]


@contextmanager
def open_office(folder: Path, *devices: Device) -> Iterator[Office]:
    books = Ledger(folder / "run")
    with swept(folder / "run"):
        books.open()
        yield Office(folder, PaperVendor(devices or (ONE, TWO)), books)


def acting(folder: Path) -> Callable[[Tell], None]:
    """What runs a story in an office of its own, of which nothing stays."""

    def run(tell: Tell) -> None:
        with open_office(folder) as office:
            asyncio.run(told(office, tell))

    return run


async def told(office: Office, tell: Tell) -> None:
    try:
        await asyncio.wait_for(tell(office), 120)
    finally:
        await office.keeper.close()
