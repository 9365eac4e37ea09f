"""What is read of libraries, which may be anything: what they are, or one line."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from aliquot.hooks import elf

STRINGS = b"\0libodd.so.1\0odd_one\0odd_two\0odd_own\0"
DYNAMIC, STRTAB, DYNSYM = 6, 3, 11
SONAME, GLOBAL, LOCAL = 14, 1, 0


def library(order: str = "<", *, wide: bool = True) -> bytes:
    """A library of no code: two functions that it has, one that it wants, one of its own."""
    head_size, entry, symbol = (64, 64, 24) if wide else (52, 40, 16)
    rows = [("odd_one", GLOBAL, 1), ("odd_two", GLOBAL, 1), ("odd_own", LOCAL, 1)]
    symbols = bytes(symbol)
    for name, binding, home in (*rows, ("odd_one", GLOBAL, 0)):
        at = STRINGS.index(name.encode())
        if wide:
            symbols += struct.pack(order + "IBBHQQ", at, binding << 4, 0, home, 0, 0)
        else:
            symbols += struct.pack(order + "IIIBBH", at, 0, 0, binding << 4, 0, home)
    pair = order + ("qQ" if wide else "iI")
    dynamic = struct.pack(pair, 1, 1) + struct.pack(pair, SONAME, 1) + struct.pack(pair, 0, 0)
    parts = ((STRTAB, STRINGS, 0, 0), (DYNAMIC, dynamic, 1, 0), (DYNSYM, symbols, 1, symbol))
    body, table, at = b"", bytes(entry), head_size
    for kind, data, link, size in parts:
        place = at + len(body)
        layout = order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII")
        table += struct.pack(layout, 0, kind, 0, 0, place, len(data), link, 0, 0, size)
        body += data
    where = at + len(body)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    layout = order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH")
    head = ident + struct.pack(layout, 3, 62, 1, 0, 0, where, 0, head_size, 0, 0, entry, 4, 0)
    return head + body + table


@pytest.mark.parametrize("wide", [True, False], ids=["64", "32"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_a_library_of_any_machine_tells_its_name_and_what_it_has(
    tmp_path: Path, order: str, wide: bool
) -> None:
    path = tmp_path / "libodd.so"
    path.write_bytes(library(order, wide=wide))
    found = elf.read(path, exports=True)
    assert found.soname == "libodd.so.1"
    assert found.exports == {"odd_one", "odd_two"}


@pytest.mark.parametrize("wide", [True, False], ids=["64", "32"])
def test_whatever_is_in_a_library_it_is_read_or_refused_in_one_line(
    tmp_path: Path, wide: bool
) -> None:
    whole = library(wide=wide)
    dice = random.Random(1)  # noqa: S311 - the same each time
    refused: set[str] = set()
    for number in range(1500):
        data = bytearray(whole[: dice.randrange(len(whole) + 1)] if number % 3 == 0 else whole)
        for _ in range(dice.randrange(1, 4) if number % 3 else 0):
            # A word of some size, anywhere: the edges of what fits, and what is nearly right.
            size = dice.choice((1, 2, 4, 8))
            value = dice.choice((0, 1, 0x7F, 0x80, 0xFF, -1, 1 << (size * 8 - 1), len(whole)))
            at = dice.randrange(len(data) - size)
            data[at : at + size] = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
        path = tmp_path / f"{number}.so"
        path.write_bytes(data)
        try:
            elf.read(path, exports=True)
        except elf.ElfError as error:
            text = str(error)
            assert "\n" not in text
            refused.add(text.rpartition(": ")[2])
        path.unlink()
    assert {"it is cut off", "it does not begin as one", "a name runs out of its table"} <= refused
    assert {"its table of sections is odd", "its table of symbols is odd"} <= refused


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(elf.ElfError, match="is no library"):
        elf.read(tmp_path)
    with pytest.raises(elf.ElfError, match="cannot be read"):
        elf.read(tmp_path / "none")
