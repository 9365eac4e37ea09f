"""Where keys stand in a TOML text.

``tomllib`` gives values without their lines. This reads only as much of the syntax as tells
headers, keys and the insides of values apart; the text is known to be TOML already.
"""

from __future__ import annotations

import re
from typing import Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TRIPLE: Final = ('"""', "'''")


class Lines:
    """Lines of keys and tables; a path is a tuple of keys, with an array's index after its key."""

    def __init__(self, text: str) -> None:
        """Read a text that ``tomllib`` has accepted."""
        self._at: dict[tuple[str | int, ...], int] = {}
        self._text = text
        self._table: tuple[str | int, ...] = ()
        self._counts: dict[tuple[str | int, ...], int] = {}
        self._scan()

    def find(self, path: tuple[str | int, ...]) -> int:
        """Return the line of the key, or of the nearest thing around it; 1 at the least."""
        while path and path not in self._at:
            path = path[:-1]
        return self._at.get(path, 1)

    def _scan(self) -> None:
        at, line = 0, 1
        text = self._text
        while at < len(text):
            if text[at] == "\n":
                line += 1
                at += 1
            elif text[at].isspace():
                at += 1
            elif text[at] == "#":
                at = self._line_end(at)
            elif text[at] == "[":
                at = self._header(at, line)
            else:
                at, line = self._pair(at, line)

    def _line_end(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end

    def _header(self, at: int, line: int) -> int:
        many = self._text.startswith("[[", at)
        keys, at = self._keys(at + 1 + many)
        path = self._under((), keys[:-1])
        if many:
            path = (*path, keys[-1])
            count = self._counts.get(path, 0)
            self._counts[path] = count + 1
            self._at.setdefault(path, line)
            self._table = (*path, count)
        else:
            self._table = self._under(path, keys[-1:])
        self._at.setdefault(self._table, line)
        return self._line_end(at)

    def _under(self, path: tuple[str | int, ...], keys: list[str]) -> tuple[str | int, ...]:
        """Follow keys, into the last table of each array of tables."""
        for key in keys:
            path = (*path, key)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, at: int, line: int) -> tuple[int, int]:
        keys, at = self._keys(at)
        path = (*self._table, *keys)
        for length in range(len(self._table) + 1, len(path) + 1):
            self._at.setdefault(path[:length], line)
        return self._value(self._text.index("=", at) + 1, line, path)

    def _keys(self, at: int) -> tuple[list[str], int]:
        """Read a dotted key; returns its parts and where it ends."""
        keys: list[str] = []
        text = self._text
        while True:
            while text[at] in " \t":
                at += 1
            if text[at] in "\"'":
                end = self._string_end(at)
                keys.append(text[at + 1 : end - 1])
                at = end
            else:
                match = _BARE.match(text, at)
                assert match is not None
                keys.append(match[0])
                at = match.end()
            while text[at] in " \t":
                at += 1
            if text[at] != ".":
                return keys, at
            at += 1

    def _string_end(self, at: int) -> int:
        """Where the string that begins at ``at`` is over."""
        text = self._text
        quote = text[at : at + 3] if text[at : at + 3] in _TRIPLE else text[at]
        end = at + len(quote)
        while not text.startswith(quote, end):
            end += 2 if quote[0] == '"' and text[end] == "\\" else 1
        end += len(quote)
        # A text in three quotes may end with one or two of its own.
        while len(quote) == 3 and text[end : end + 1] == quote[0]:
            end += 1
        return end

    def _value(self, at: int, line: int, path: tuple[str | int, ...]) -> tuple[int, int]:
        """Pass over a value; inside inline tables, note the keys. Returns where it ends."""
        text = self._text
        inside: list[str] = []
        while at < len(text):
            char = text[at]
            if char == "\n":
                line += 1
                if not inside:
                    return at + 1, line
                at += 1
            elif char in "\"'":
                end = self._string_end(at)
                line += text.count("\n", at, end)
                at = end
            elif char == "#":
                at = self._line_end(at)
            elif char == "{":
                inside.append(char)
                at = self._inline_key(at + 1, line, path if len(inside) == 1 else None)
            elif char == "," and inside and inside[-1] == "{":
                at = self._inline_key(at + 1, line, path if len(inside) == 1 else None)
            elif char in "[]}":
                inside.append(char) if char == "[" else inside.pop()
                at += 1
            else:
                at += 1
        return at, line

    def _inline_key(self, at: int, line: int, path: tuple[str | int, ...] | None) -> int:
        while self._text[at] in " \t\n":
            at += 1
        if self._text[at] == "}":
            return at
        keys, at = self._keys(at)
        if path is not None:
            self._at.setdefault((*path, *keys), line)
        return at
