"""``aliquot top``: who has which device for how much of the time, again and again."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from . import ps, reach, rundir, survey
from .show_devices import from_agent
from .trail import SORTS, Look, Trail, View, in_order

if TYPE_CHECKING:
    from . import rpc
    from .top_view import Screen

# Whoever watches sees earlier than a tool of the command line that the agent does not answer.
_CALL_SECONDS: Final = 5.0

_HELP: Final = """Show who has which device for how much of the time, again and again.

These are the slices that `aliquot ps` shows, and the devices that the node's agent knows, which
answers root. On a terminal the keys are: q ends, s sorts by something else, blank looks at once.
Elsewhere each look is printed below the one before.

\b
CORES     percent of the device's time: what is guaranteed, and what is never passed
SHARE     what it got of the last second, of what it wanted; with no turns, what it used
HISTORY   what it got in each look, from nothing to the whole device, the newest on the right
BUSY      share of time in which its kernels ran
USED      what its processes hold, and CAP what they may hold
WAIT      how long a launch that had to wait did so, on average since the agent's reading before
TURNS     how often in a second it got the device
GATE      what it may launch at the moment: free, open, turn or closed

What is not known is shown as a dash, and so in the first look is all that needs two.
"""


class Source:
    """Where looks come from: the files of runs, and the agent, asked over one connection."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing is asked before ``look``."""
        self._environment = environment
        self._client: rpc.Client | None = None

    def look(self) -> Look:
        """Look at the node."""
        seen = survey.look(rundir.readable_bases(self._environment))
        look = Look(faults=seen.faults)
        try:
            self._ask(look, seen)
        except (reach.AgentAbsentError, reach.AgentClosedError) as error:
            self.close()
            look.note = f"only slices of `aliquot run` are shown: {error}"
        except reach.AgentError as error:
            self.close()
            look.faults.append(str(error))
        look.slices = [piece for piece in seen.slices if piece.state != survey.ENDED]
        return look

    def _ask(self, look: Look, seen: survey.Survey) -> None:
        from . import rpc  # noqa: PLC0415 - gRPC takes longer to import than all else

        path = reach.socket_path(self._environment)
        if self._client is None:
            self._client = rpc.Client(path, _CALL_SECONDS)
        else:
            # Otherwise gRPC would wait for an agent that has gone.
            reach.check(path)
        devices = self._client.devices()
        look.devices = [from_agent(one, rpc.known) for one in devices.devices]
        look.faults += devices.faults
        survey.add_told(seen, self._client.slices())

    def close(self) -> None:
        """Let go of the agent; the next look connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None


@click.command("top", help=_HELP)
@click.option(
    "--interval",
    "-d",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it is from one look to the next.",
)
@click.option(
    "--sort", type=click.Choice(SORTS), default="share", show_default=True, help="Sort slices by."
)
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--json", "json_wanted", is_flag=True, help="Print one JSON object a look and line.")
@click.pass_context
def top_command(
    context: click.Context, interval: float, sort: str, once: bool, json_wanted: bool
) -> None:
    """Show looks until told to end; with --once the status is 1 when something cannot be read."""
    if math.isnan(interval):
        raise click.BadParameter("'nan' is no number of seconds", param_hint="--interval")
    source, trail = Source(os.environ), Trail()

    def look() -> View:
        return trail.add(source.look(), time.monotonic())

    try:
        if once:
            view = look()
            if json_wanted:
                click.echo(json.dumps(as_json(view, sort)))
            else:
                _print(view, sort)
            context.exit(1 if view.look.faults else 0)
        if json_wanted:
            for view in _again(look, interval):
                click.echo(json.dumps(as_json(view, sort)))
        else:
            context.exit(_watch(look, interval, sort))
    except KeyboardInterrupt:
        # The way to end it that everybody knows.
        context.exit(0)
    finally:
        source.close()


def _again(look: Any, interval: float) -> Iterator[View]:  # noqa: ANN401 - a function
    due = time.monotonic()
    while True:
        yield look()
        # What took too long is not caught up with.
        now = time.monotonic()
        due = max(due + interval, now)
        time.sleep(due - now)


def _print(view: View, sort: str) -> None:
    from .top_view import plain  # noqa: PLC0415 - rich is needed by nobody else

    for fault in view.look.faults:
        click.echo(f"aliquot: {fault}", err=True)
    click.echo(plain(view, sort), nl=False)


def _watch(look: Any, interval: float, sort: str) -> int:  # noqa: ANN401 - a function
    """Show looks until a key or signal ends it; returns the status."""
    from . import terminal  # noqa: PLC0415 - only with a terminal
    from .top_view import Screen, can_be_drawn_on  # noqa: PLC0415 - rich is needed by nobody else

    try:
        with terminal.keys() as keys:
            if not can_be_drawn_on():
                for view in _again(look, interval):
                    _print(view, sort)
                    click.echo()
            with Screen(interval, sort) as screen:
                while True:
                    screen.show(look())
                    if not _until_due(keys, screen, interval):
                        return 0
    except terminal.EndedError as ended:
        return 128 + ended.number


def _until_due(keys: Any, screen: Screen, interval: float) -> bool:  # noqa: ANN401 - a terminal.Keys
    """Do what keys say until it is time for the next look; says whether there is one."""
    from . import terminal  # noqa: PLC0415 - as above

    for key in keys.wait(interval):
        if key in ("q", "Q", "\x04"):
            return False
        if key == " ":
            return True
        if key == "s":
            screen.sort = SORTS[(SORTS.index(screen.sort) + 1) % len(SORTS)]
            screen.draw()
        elif key == terminal.RESIZED:
            screen.draw()
        elif key == terminal.SUSPENDED:
            screen.close()
            keys.suspend()
            screen.open()
    return True


def as_json(view: View, sort: str) -> dict[str, Any]:
    """Return a look as plain values: devices as `aliquot devices` has them, slices as `ps`.

    Each device of a slice has its rates besides, null where there was no look before.
    """
    rows = in_order(view.rows, sort)
    rates = {(row.piece.path, row.device.uuid): row.rates for row in rows}
    places = {row.piece.path: number for number, row in reversed(list(enumerate(rows)))}
    slices = sorted(view.look.slices, key=lambda piece: places.get(piece.path, len(rows)))
    told = ps.as_json(slices, view.look.faults)
    for piece in told["slices"]:
        for device in piece["devices"]:
            device.update(asdict(rates[piece["path"], device["uuid"]]))
    return {
        "time": datetime.now().astimezone().isoformat(),
        "devices": [asdict(one) for one in view.look.devices],
        **told,
        "note": view.look.note,
    }
