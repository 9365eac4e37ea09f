"""``aliquot ps``: which slices there are, whose processes hold what, and how far they may go."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Any, Final

import click
from aliquot.shim import region

from . import rundir
from .sharing import Account
from .sizes import format_cores, format_seconds, format_share, format_size
from .survey import ENDED, Slice, SliceDevice, ask_agent, look
from .tables import columns

_HELP = """Show slices, their processes and what they hold.

These are the slices of `aliquot run`, of other users too where their files may be read, and where
the node's agent runs and lets you ask (root), those of containers: NAMESPACE/POD/CONTAINER.

A slice is `starting` while it is made, `running` while its program runs, `orphaned` when the
command that made it is gone but processes of it live, and `ended` after that. A process is listed
once it has initialised CUDA, by its number as it sees it itself.

\b
CHARGE    what the living processes hold, in what the device really gives
UNSEEN    what the device shows that they hold besides; it counts against the cap
CAP       what they may hold together
PEAK      the most that they held
REFUSALS  allocations that were refused at the cap
CORES     percent of the device's time: what is guaranteed, and what is never passed
SHARE     what it got of the last second, of what it wanted
BY        who enforces the cap: shim, driver, a partition and what its vendor calls it, or nobody
          where it has a whole device

With --wide, too:

\b
WEIGHT    its part of what is spare, against those of others
PRIORITY  a higher one takes the device at once
GATE      what it may launch at the moment: free, open, turn or closed
TIME      device time that its processes charged
WAIT      what their threads waited to launch, added up
TURNS     how often it got the device

UNSEEN, SHARE and BY are shown where there are containers. What is not known is shown as a dash.
docs/sharing.md has what the numbers of time mean.
"""


@click.command("ps", help=_HELP)
@click.option("--json", "json_wanted", is_flag=True, help="Print one JSON object, sizes in bytes.")
@click.option("--all", "show_all", is_flag=True, help="Show slices that have ended, too.")
@click.option("--wide", "-w", is_flag=True, help="Show all columns.")
@click.pass_context
def ps_command(context: click.Context, json_wanted: bool, show_all: bool, wide: bool) -> None:
    """Print what is known; the status is 1 when some slice's files could not be read."""
    survey = look(rundir.readable_bases(os.environ))
    ask_agent(os.environ, survey)
    shown = [piece for piece in survey.slices if show_all or piece.state != ENDED]
    for fault in survey.faults:
        click.echo(f"aliquot: {fault}", err=True)
    if json_wanted:
        click.echo(json.dumps(as_json(shown, survey.faults), indent=2))
    else:
        for line in _table(shown, wide=wide):
            click.echo(line)
    context.exit(1 if survey.faults else 0)


_HEAD: Final = ("SLICE", "DEVICE", "MODEL", "PROCESS", "CHARGE", "UNSEEN", "CAP", "PEAK",
                "REFUSALS", "CORES", "SHARE", "WEIGHT", "PRIORITY", "GATE", "TIME", "WAIT", "TURNS",
                "BY", "STATE")  # fmt: skip
_LEFT: Final = {"SLICE", "DEVICE", "MODEL", "PROCESS", "GATE", "BY", "STATE"}
_WIDE: Final = {"WEIGHT", "PRIORITY", "GATE", "TIME", "WAIT", "TURNS"}
_OF_CONTAINERS: Final = {"UNSEEN", "SHARE", "BY"}


def _table(slices: Sequence[Slice], *, wide: bool) -> list[str]:
    """Return the lines of the table: one a device, and below it one for each of its processes."""
    rows = []
    for piece in slices:
        for number, device in enumerate(piece.devices):
            rows.append(_row(**_device_cells(piece, number, device)))
            rows += [_process_row(process, number) for process in piece.processes]
        if not piece.devices:
            rows.append(_row(SLICE=piece.name, STATE=piece.state))
    hidden = set() if wide else set(_WIDE)
    if not any(piece.owner for piece in slices):
        hidden |= _OF_CONTAINERS
    return columns(_HEAD, rows, right=set(_HEAD) - _LEFT, hidden=hidden)


def _row(**cells: str) -> list[str]:
    return [cells.get(name, "") for name in _HEAD]


def _process_row(process: region.Process, device: int) -> list[str]:
    return _row(
        PROCESS=f"{process.pid} {process.command}", CHARGE=format_size(process.charges[device])
    )


def _device_cells(piece: Slice, number: int, device: SliceDevice) -> dict[str, str]:
    index = "" if device.index is None else f"{device.index} "
    count = len(piece.processes)
    account = device.account
    return {
        "SLICE": piece.name if number == 0 else "",
        "DEVICE": f"{index}{device.uuid[:12]}",
        "MODEL": device.model or "",
        "PROCESS": f"{count} process" + ("" if count == 1 else "es"),
        "CHARGE": _size(device.charge),
        "UNSEEN": _size(device.unseen),
        "CAP": "none" if device.cap is None else format_size(device.cap),
        "PEAK": _size(device.peak),
        "REFUSALS": _count(device.refusals),
        "CORES": format_cores(device.cores, device.cores_max),
        "SHARE": "-" if account is None else format_share(account.received, account.wanted),
        "WEIGHT": str(device.weight),
        "PRIORITY": str(device.priority),
        "GATE": device.gate or "-",
        "TIME": _seconds(device.device_seconds),
        "WAIT": _seconds(device.wait_seconds),
        "TURNS": _count(None if account is None else account.turns),
        "BY": " ".join((device.enforcement, *filter(None, [device.partition]))),
        "STATE": piece.state if number == 0 else "",
    }


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_size(size_bytes)


def as_json(slices: Sequence[Slice], faults: Sequence[str]) -> dict[str, Any]:
    """Return slices as plain values; the keys say the units."""
    return {
        "slices": [
            {
                "name": piece.name,
                "kind": piece.kind,
                "namespace": piece.owner.namespace if piece.owner else None,
                "pod": piece.owner.pod if piece.owner else None,
                "container": piece.owner.container if piece.owner else None,
                "container_id": piece.owner.container_id if piece.owner else None,
                "path": piece.path,
                "state": piece.state,
                "mode": piece.mode,
                "command": list(piece.command),
                "started": _time(piece.started_unix_ns),
                "unknown_functions": piece.unknown_functions,
                "policy": piece.policy,
                "group": piece.group,
                "quiet_ms": piece.quiet_ms,
                "floor_percent": piece.floor,
                "native": piece.native,
                "devices": [
                    {
                        "index": device.index,
                        "uuid": device.uuid,
                        "model": device.model,
                        "charge_bytes": device.charge,
                        "unclaimed_bytes": device.unclaimed,
                        "unseen_bytes": device.unseen,
                        "cap_bytes": device.cap,
                        "peak_bytes": device.peak,
                        "refusals": device.refusals,
                        "enforcement": device.enforcement,
                        "partition": device.partition,
                        **_time_as_json(device),
                    }
                    for device in piece.devices
                ],
                "processes": [
                    {
                        "pid": process.pid,
                        "command": process.command,
                        "attached": _time(process.attached_unix_ns),
                        "charge_bytes": list(process.charges),
                    }
                    for process in piece.processes
                ],
            }
            for piece in slices
        ],
        "faults": list(faults),
    }


def _time_as_json(device: SliceDevice) -> dict[str, Any]:
    """Return what concerns the device's time: percent, shares, seconds and counts."""
    account = device.account
    return {
        "cores": device.cores,
        "cores_max": device.cores_max,
        "weight": device.weight,
        "priority": device.priority,
        "gate": device.gate,
        "busy": device.busy,
        "device_seconds": device.device_seconds,
        "wait_seconds": device.wait_seconds,
        "waits": device.waits,
        "let_through": device.let_through,
        **(
            dict.fromkeys(one.name for one in fields(Account))
            if account is None
            else asdict(account)
        ),
    }


def _time(unix_ns: int | None) -> str | None:
    """Return a time as ISO 8601 in UTC; None when it is unknown or no time."""
    if unix_ns is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ns / 1e9, timezone.utc).isoformat()
    except (OverflowError, OSError, ValueError):
        return None
