"""What an ELF library says of itself: its machine, its SONAME and the names it exports.

The layout is that of the System V ABI (gABI chapters 4 and 5), for 32 and 64 bits and both orders
of bytes. Files may be anybody's: sizes are bounded, and what does not add up is an error.
"""

from __future__ import annotations

import functools
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1 << 30
_MOST_SECTIONS: Final = 4096
_MOST_TABLE_BYTES: Final = 64 << 20
_DYNAMIC: Final = 6
_DYNSYM: Final = 11
_DT_SONAME: Final = 14
_UNDEFINED: Final = 0
_LOCAL: Final = 0
# A driver has some forty libraries.
_MOST_KEPT: Final = 512


class ElfError(Exception):
    """A file that is no ELF library, or a broken one; the text is one line."""


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library. ``machine`` is its bits, order of bytes and machine number."""

    machine: tuple[int, int, int]
    soname: str | None
    exports: frozenset[str]


# What was read of a file, by what it was then: each container's start asks for the same few.
_kept: dict[tuple[int, ...], Library] = {}


@functools.cache
def own_machine() -> tuple[int, int, int]:
    """Return the machine that this process runs on, as ``Library.machine`` has it."""
    with Path("/proc/self/exe").open("rb") as file:
        head = file.read(20)
    order = "<" if head[5] == 1 else ">"
    return head[4], head[5], struct.unpack_from(f"{order}H", head, 18)[0]


def read(path: Path, *, exports: bool = False) -> Library:
    """Read a library; its exported names only when they are asked for.

    Raises ElfError when it is none.
    """
    try:
        # What lies there may be a pipe: do not wait for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode) or state.st_size > _MOST_BYTES:
                raise ElfError(f"{path} is no library")
            mark = (
                *(state.st_dev, state.st_ino, state.st_size),
                *(state.st_mtime_ns, state.st_ctime_ns),
            )
            # (All that a library exports is much, and asked for once.)
            known = None if exports else _kept.get(mark)
            if known is None:
                known = _Reader(fd).library(exports)
                if not exports:
                    if len(_kept) >= _MOST_KEPT:
                        _kept.clear()
                    _kept[mark] = known
            return known
        finally:
            os.close(fd)
    except OSError as error:
        raise ElfError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ElfError(f"{path} is no library that can be understood: {error}") from error


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int
    entry: int


class _Reader:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        head = self._bytes(0, 64)
        if head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
            raise ValueError("it does not begin as one")
        self._wide = head[4] == 2
        self._order = "<" if head[5] == 1 else ">"
        (machine,) = self._unpack("H", head, 18)
        self.machine = (head[4], head[5], machine)
        if self._wide:
            (self._table,) = self._unpack("Q", head, 40)
            self._entry, self._count = self._unpack("HH", head, 58)
        else:
            (self._table,) = self._unpack("I", head, 32)
            self._entry, self._count = self._unpack("HH", head, 46)

    def library(self, exports: bool) -> Library:
        sections = self._sections()
        soname = None
        names: frozenset[str] = frozenset()
        for section in sections:
            if section.kind == _DYNAMIC:
                soname = self._soname(section, self._strings(sections, section))
            elif section.kind == _DYNSYM and exports:
                names = self._exports(section, self._strings(sections, section))
        return Library(self.machine, soname, names)

    def _bytes(self, offset: int, size: int) -> bytes:
        if size > _MOST_TABLE_BYTES:
            raise ValueError(f"a table of {size} bytes")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise ValueError("it is cut off")
        return data

    def _unpack(self, layout: str, data: bytes, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, data, offset)

    def _sections(self) -> list[_Section]:
        if self._count > _MOST_SECTIONS or self._entry < (64 if self._wide else 40):
            raise ValueError("its table of sections is odd")
        data = self._bytes(self._table, self._count * self._entry)
        found = []
        for at in range(0, len(data), self._entry):
            if self._wide:
                kind, offset, size, link, entry = (
                    *self._unpack("I", data, at + 4),
                    *self._unpack("QQI", data, at + 24),
                    *self._unpack("Q", data, at + 56),
                )
            else:
                kind, offset, size, link, entry = (
                    *self._unpack("I", data, at + 4),
                    *self._unpack("III", data, at + 16),
                    *self._unpack("I", data, at + 36),
                )
            found.append(_Section(kind, offset, size, link, entry))
        return found

    def _strings(self, sections: list[_Section], user: _Section) -> bytes:
        section = sections[user.link]
        return self._bytes(section.offset, section.size)

    def _soname(self, section: _Section, strings: bytes) -> str | None:
        layout, size = ("qQ", 16) if self._wide else ("iI", 8)
        data = self._bytes(section.offset, section.size)
        for at in range(0, len(data) - size + 1, size):
            tag, value = self._unpack(layout, data, at)
            if tag == _DT_SONAME:
                return _text(strings, value)
        return None

    def _exports(self, section: _Section, strings: bytes) -> frozenset[str]:
        size = 24 if self._wide else 16
        if section.entry != size:
            raise ValueError("its table of symbols is odd")
        data = self._bytes(section.offset, section.size)
        names = set()
        for at in range(0, len(data) - size + 1, size):
            (name,) = self._unpack("I", data, at)
            info, _, home = self._unpack("BBH", data, at + (4 if self._wide else 12))
            if home != _UNDEFINED and info >> 4 != _LOCAL:
                names.add(_text(strings, name))
        return frozenset(names - {""})


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset)
    if end < 0:
        raise ValueError("a name runs out of its table")
    return strings[offset:end].decode("ascii", errors="replace")
