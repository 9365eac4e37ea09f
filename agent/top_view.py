"""What ``aliquot top`` draws: two tables, by rich, on whatever the terminal can."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    JustifyMethod,
    RenderableType,
    RenderResult,
)
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
        line = sparkline(self._shares, options.max_width, marks)
        yield Text(line, style="cyan", no_wrap=True)

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
    for one in _parts(view, sort, width):
        # Texts are lines, however long; tables fit.
        console.print(one, soft_wrap=isinstance(one, Text))
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
        width, height = self._live.console.size
        parts = _parts(self._view, self.sort, width, height, self._interval)
        self._live.update(Group(*parts), refresh=True)


def _parts(
    view: View, sort: str, width: int, height: int | None = None, interval: float | None = None
) -> list[RenderableType]:
    """Return what is drawn; ``height`` and ``interval`` are None where it is no screen."""
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
        cells = [_device_cells(one, history) for one, history in view.devices]
        parts += [_table(width, cells, _SPARE["devices"]), Text("")]
    rows = in_order(view.rows, sort)
    shown = rows
    if height is not None:
        # Two heads, and what says how many are left out.
        room = height - len(parts) - len(view.devices) - 3
        shown = rows[: max(room, 1)]
    if rows:
        parts.append(_table(width, [_slice_cells(row) for row in shown], _SPARE["slices"]))
    else:
        parts.append(Text("no slices"))
    if len(shown) < len(rows):
        parts.append(_line(f"… {len(rows) - len(shown)} more: the window is too low", "dim"))
    return parts


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


# Which columns are left out first where there is no room for all.
_SPARE: Final = {
    "devices": ("SLICES", "CORES", "HEALTH", "MODEL", "HISTORY", "MEMORY"),
    "slices": ("TURNS", "GATE", "BUSY", "WAIT", "CAP", "HISTORY", "CORES", "DEVICE"),
}
_LEFT: Final = {"SLICE", "DEVICE", "MODEL", "HISTORY", "HEALTH", "GATE"}
# Names, which are known by their beginnings.
_CUT: Final = {"SLICE": 20, "MODEL": 8, "HEALTH": 8}
_GAP: Final = 2


def _table(width: int, rows: Sequence[Mapping[str, str | Spark]], spare: Sequence[str]) -> Table:
    """Return a table in which every number is whole; the keys of the rows are the heads."""
    whole = {
        name: max(
            _LEAST_HISTORY if isinstance(row[name], Spark) else cell_len(str(row[name]))
            for row in (*rows, {name: name})
        )
        for name in rows[0]
    }
    widths = {name: min(wide, _CUT.get(name, wide)) for name, wide in whole.items()}
    for name in spare:
        if _room(width, widths) < 0:
            del widths[name]
    # What is left makes names whole, and the history long.
    for name, own in tuple(widths.items()):
        widths[name] = own + min(whole[name] - own, max(_room(width, widths), 0))
    if "HISTORY" in widths:
        widths["HISTORY"] += max(_room(width, widths), 0)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name, own in widths.items():
        justify: JustifyMethod = "left" if name in _LEFT else "right"
        table.add_column(name, width=own, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        # As texts: what somebody called a container is no markup.
        cells = [row[name] for name in widths]
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _room(width: int, widths: Mapping[str, int]) -> int:
    """Return what is left of a line beside such columns."""
    return width - sum(widths.values()) - _GAP * (len(widths) - 1)


def _device_cells(one: Shown, history: Sequence[float | None]) -> dict[str, str | Spark]:
    return {
        "DEVICE": f"{one.index} {one.uuid[:12]}",
        "MODEL": one.model,
        "BUSY": _or_dash(one.busy, "{:.0%}".format),
        "HISTORY": Spark(history),
        "USED": _or_dash(one.memory_used_bytes, format_size),
        "MEMORY": format_size(one.memory_bytes),
        "CORES": _or_dash(one.cores_allocated, "{}%".format),
        "SLICES": _or_dash(one.slices, str),
        "HEALTH": "-" if one.healthy is None else "ok" if one.healthy else one.reason,
    }


def _slice_cells(row: Row) -> dict[str, str | Spark]:
    device = row.device
    index = "" if device.index is None else f"{device.index} "
    return {
        "SLICE": row.piece.name,
        "DEVICE": f"{index}{device.uuid[:12]}",
        "CORES": format_cores(device.cores, device.cores_max),
        "SHARE": _share(row),
        "HISTORY": Spark(row.history),
        "BUSY": _or_dash(device.busy, "{:.0%}".format),
        "USED": _or_dash(device.charge, format_size),
        "CAP": "none" if device.cap is None else format_size(device.cap),
        "WAIT": _or_dash(row.rates.mean_wait_seconds, format_seconds),
        "TURNS": _or_dash(row.rates.turns_per_second, "{:.0f}".format),
        "GATE": device.gate or "-",
    }


def _share(row: Row) -> str:
    account = row.device.account
    if account is not None and account.received is not None:
        return format_share(account.received, account.wanted)
    return _or_dash(row.share, "{:.0%}".format)


def _or_dash(value: float | None, show: Callable[[float], str] | Callable[[int], str]) -> str:
    return "-" if value is None else show(value)  # type: ignore[arg-type]
