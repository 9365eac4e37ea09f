"""What ``aliquot top`` draws: two tables, by rich, on whatever the terminal can."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .show_devices import Shown
from .sizes import format_cores, format_seconds, format_share, format_size
from .trail import Row, View, in_order

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_LETTERS: Final = " .:-=+*#@"
_WIDTH_WITHOUT_TERMINAL: Final = 160
_LEAST_HISTORY: Final = 8
_MOST_HISTORY: Final = 60
_FIXED_LINES: Final = 5  # title, two heads, blank, and what is left out


def sparkline(shares: Sequence[float | None], width: int, marks: str = _BLOCKS) -> str:
    """Return the newest ``width`` shares, 0 to 1, as one letter each; a blank is one not known."""
    shown = list(shares)[-width:] if width > 0 else []
    return "".join(_mark(share, marks) for share in shown).rjust(width)


def _mark(share: float | None, marks: str) -> str:
    if share is None:
        return marks[0]
    # Whatever is more than nothing is seen; so is nothing, beside what is not known.
    return marks[1 + min(int(min(max(share, 0.0), 1.0) * (len(marks) - 1)), len(marks) - 2)]


class Spark:
    """A line of shares that is as wide as there is room."""

    def __init__(self, shares: Sequence[float | None]) -> None:
        """``shares`` go from 0 to 1, the newest last."""
        self._shares = shares

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        marks = _LETTERS if options.ascii_only else _BLOCKS
        width = min(options.max_width, _MOST_HISTORY)
        yield Text(sparkline(self._shares, width, marks), style="cyan", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Say how wide it may be."""
        return Measurement(min(_LEAST_HISTORY, options.max_width), options.max_width)


def can_be_drawn_on() -> bool:
    """Say whether the standard output is a terminal whose cursor can be moved."""
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


def plain(view: View, sort: str) -> str:
    """Return the tables as text without colours, all of them."""
    known = os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty()
    output = io.StringIO()
    # The width is the terminal's; what is written goes through the buffer.
    width = Console().width if known else _WIDTH_WITHOUT_TERMINAL
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    console = Console(file=output, width=width, color_system=None, force_terminal=False)
    for one in _parts(view, sort, None, None):
        console.print(one)
    text = output.getvalue()
    if ascii_only:
        letters: dict[str, str | int | None] = dict(zip(_BLOCKS, _LETTERS, strict=True))
        text = text.translate(str.maketrans(letters | {"…": "~"}))
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


class Screen:
    """The whole terminal, with the newest look on it."""

    def __init__(self, interval: float, sort: str) -> None:
        """``sort`` may be changed between two drawings."""
        self.sort = sort
        self._interval = interval
        self._view: View | None = None
        self._live: Live | None = None

    def __enter__(self) -> Screen:  # noqa: PYI034 - Self needs Python 3.11
        """Take the terminal."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it as it was."""
        self.close()

    def open(self) -> None:
        """Take the terminal."""
        self._live = Live(
            Text(""),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self.draw()

    def close(self) -> None:
        """Give it back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, view: View) -> None:
        """Draw a look."""
        self._view = view
        self.draw()

    def draw(self) -> None:
        """Draw the newest look anew, at the size that the terminal has now."""
        if self._live is None or self._view is None:
            return
        height = self._live.console.size.height
        parts = _parts(self._view, self.sort, self._interval, height)
        self._live.update(Group(*parts), refresh=True)


def _parts(
    view: View, sort: str, interval: float | None, height: int | None
) -> list[RenderableType]:
    """Return what is drawn; ``interval`` and ``height`` are None where it is no screen."""
    parts: list[RenderableType] = []
    if interval is not None:
        title = (
            f"aliquot top  {datetime.now().astimezone():%H:%M:%S}  every {interval:g} s  "
            f"by {sort}  (q ends, s sorts)"
        )
        parts.append(Text(title, style="bold", no_wrap=True, overflow="ellipsis"))
        parts += [_line(fault, "red") for fault in view.look.faults]
    if view.look.note:
        parts.append(_line(view.look.note, "yellow"))
    if view.devices:
        parts += [_devices(view.devices), Text("")]
    rows = in_order(view.rows, sort)
    shown = rows
    if height is not None:
        room = height - len(parts) - len(view.devices) - _FIXED_LINES + 2
        shown = rows[: max(room, 1)]
    parts.append(_slices(shown))
    if len(shown) < len(rows):
        parts.append(_line(f"… {len(rows) - len(shown)} more: the window is too low", "dim"))
    return parts


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _table(left: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="bold")
    for name in columns:
        if name == "HISTORY":
            table.add_column(name, ratio=1, no_wrap=True)
        else:
            justify = "left" if name in left else "right"
            table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return table


def _add(table: Table, *cells: str | Spark) -> None:
    # As texts: what somebody called a container is no markup.
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _devices(devices: Sequence[tuple[Shown, Sequence[float | None]]]) -> Table:
    table = _table(
        ("DEVICE", "MODEL", "HEALTH"),
        ("DEVICE", "MODEL", "BUSY", "HISTORY", "USED", "MEMORY", "CORES", "SLICES", "HEALTH"),
    )
    for one, history in devices:
        _add(
            table,
            f"{one.index} {one.uuid[:12]}",
            one.model,
            _or_dash(one.busy, "{:.0%}".format),
            Spark(history),
            _or_dash(one.memory_used_bytes, format_size),
            format_size(one.memory_bytes),
            _or_dash(one.cores_allocated, "{}%".format),
            _or_dash(one.slices, str),
            "-" if one.healthy is None else "ok" if one.healthy else one.reason,
        )
    return table


def _slices(rows: Sequence[Row]) -> Table:
    table = _table(
        ("SLICE", "DEVICE", "GATE"),
        ("SLICE", "DEVICE", "CORES", "SHARE", "HISTORY", "BUSY", "USED", "CAP", "WAIT", "TURNS",
         "GATE"),
    )  # fmt: skip
    for row in rows:
        device = row.device
        index = "" if device.index is None else f"{device.index} "
        _add(
            table,
            row.piece.name,
            f"{index}{device.uuid[:12]}",
            format_cores(device.cores, device.cores_max),
            _share(row),
            Spark(row.history),
            _or_dash(device.busy, "{:.0%}".format),
            _or_dash(device.charge, format_size),
            "none" if device.cap is None else format_size(device.cap),
            _or_dash(row.rates.mean_wait_seconds, format_seconds),
            _or_dash(row.rates.turns_per_second, "{:.0f}".format),
            device.gate or "-",
        )
    return table


def _share(row: Row) -> str:
    account = row.device.account
    if account is not None:
        return format_share(account.received, account.wanted)
    return _or_dash(row.share, "{:.0%}".format)


def _or_dash(value: float | None, show: Callable[[float], str] | Callable[[int], str]) -> str:
    return "-" if value is None else show(value)  # type: ignore[arg-type]
