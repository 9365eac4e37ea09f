"""``aliquot ps``: which slices there are, whose processes hold what, and how far they may go."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

import click
from aliquot.shim import region

from . import rundir
from .sizes import format_size
from .visible import format_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RUNNING: Final = "running"
STARTING: Final = "starting"
ORPHANED: Final = "orphaned"
ENDED: Final = "ended"

_HELP = """Show slices, their processes and what they hold.

A slice is `starting` while it is made, `running` while its program runs, `orphaned` when the
command that made it is gone but processes of it live, and `ended` after that. A process is listed
once it has initialised CUDA. Slices of other users are shown where their files may be read.

\b
CHARGE    what the living processes hold, in what the device really gives
CAP       what they may hold together
PEAK      the most that they held
REFUSALS  allocations that were refused at the cap"""


@dataclass(frozen=True, slots=True)
class SliceDevice:
    """One device of a slice. Sizes are bytes; ``index`` and ``model`` are None when unknown."""

    index: int | None
    uuid: str
    model: str | None
    charge: int
    unclaimed: int
    cap: int | None
    peak: int
    refusals: int


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice as its files describe it."""

    name: str
    path: Path
    state: str
    mode: str | None
    command: tuple[str, ...]
    started_unix_ns: int | None
    devices: tuple[SliceDevice, ...]
    processes: tuple[region.Process, ...]
    unknown_functions: int


@dataclass(slots=True)
class Survey:
    """All slices that could be read, and one line for each that could not."""

    slices: list[Slice] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@click.command("ps", help=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, sizes in bytes.")
@click.option("--all", "show_all", is_flag=True, help="Show slices that have ended, too.")
@click.pass_context
def ps_command(context: click.Context, as_json: bool, show_all: bool) -> None:
    """Print what is known; the status is 1 when some slice's files could not be read."""
    survey = look(rundir.readable_bases(os.environ))
    shown = [piece for piece in survey.slices if show_all or piece.state != ENDED]
    for fault in survey.faults:
        click.echo(f"aliquot: {fault}", err=True)
    if as_json:
        click.echo(json.dumps(_as_json(shown, survey.faults), indent=2))
    else:
        for line in _table(shown):
            click.echo(line)
    context.exit(1 if survey.faults else 0)


def look(bases: Sequence[Path]) -> Survey:
    """Read every slice under ``bases``, then remove what is left of our own that have ended."""
    survey = Survey()
    for base in bases:
        try:
            paths = rundir.runs(base)
        except OSError as error:
            # Another user's base is theirs; one's own must be readable.
            if error.errno not in (errno.EACCES, errno.ENOENT):
                survey.faults.append(f"{base} cannot be read: {error.strerror}")
            continue
        for path in paths:
            _look_at(path, survey)
        if base.exists() and base.stat().st_uid == os.geteuid():
            rundir.collect(base)
    return survey


def _look_at(path: Path, survey: Survey) -> None:
    try:
        dirfd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        # It may have ended since it was listed, or be none of our business.
        if error.errno not in (errno.ENOENT, errno.EACCES):
            survey.faults.append(f"{_shown(path)} cannot be read: {error.strerror}")
        return
    try:
        survey.slices.append(_read(dirfd, path))
    except region.RegionError as error:
        survey.faults.append(f"{error}: remove {_shown(path)} once its processes are gone")
    except OSError as error:
        if os.path.lexists(path) and error.errno != errno.EACCES:
            survey.faults.append(f"{_shown(path)} cannot be read: {error.strerror}")
    finally:
        os.close(dirfd)


def _read(dirfd: int, path: Path) -> Slice:
    """Read one open run directory. Raises RegionError, OSError."""
    meta = rundir.read_meta(dirfd)
    held = rundir.lock_is_held(dirfd, rundir.LOCK)
    folder = _shown(path / "lib" / rundir.REGION_FOLDER)
    try:
        grant_fd = rundir.open_inside(dirfd, "lib", rundir.REGION_FOLDER, "grant")
        usage_fd = rundir.open_inside(dirfd, "lib", rundir.REGION_FOLDER, "usage")
    except FileNotFoundError:
        if not held:
            raise region.RegionError(f"{folder} has no region") from None
        # Its maker is still at it.
        return _describe(path, meta, STARTING, None, None)
    try:
        grant = region.read_grant(grant_fd, f"{folder}/grant")
        usage = region.read_usage(usage_fd, f"{folder}/usage", len(grant.devices))
    finally:
        os.close(grant_fd)
        os.close(usage_fd)
    if not held and not usage.processes:
        state = ENDED
    else:
        state = RUNNING if rundir.lock_is_held(dirfd, rundir.MAKER_LOCK) else ORPHANED
    return _describe(path, meta, state, grant, usage)


def _describe(
    path: Path,
    meta: dict[str, Any],
    state: str,
    grant: region.Grant | None,
    usage: region.Usage | None,
) -> Slice:
    known = {
        row["uuid"]: row for row in _rows(meta.get("devices")) if isinstance(row.get("uuid"), str)
    }
    devices = []
    if grant and usage:
        for number, (granted, used) in enumerate(zip(grant.devices, usage.devices, strict=True)):
            row = _match(granted.uuid, known)
            model = _text(row.get("name"))
            index = row.get("index")
            devices.append(
                SliceDevice(
                    index=index if isinstance(index, int) else None,
                    uuid=format_uuid(granted.uuid, model or ""),
                    model=model,
                    charge=usage.charge(number),
                    unclaimed=granted.unclaimed,
                    cap=granted.cap,
                    peak=used.peak,
                    refusals=used.refusals,
                )
            )
    command = meta.get("command")
    started = meta.get("started_unix_ns")
    return Slice(
        name=region.printable(rundir.name_of(path)),
        path=path,
        state=state,
        mode=_text(meta.get("mode")),
        command=tuple(region.printable(str(word)) for word in command)
        if isinstance(command, list)
        else (),
        started_unix_ns=started if isinstance(started, int) else None,
        devices=tuple(devices),
        processes=usage.processes if usage else (),
        unknown_functions=usage.unknown_functions if usage else 0,
    )


def _match(uuid: bytes, known: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    for name in ("", " MIG "):
        row = known.get(format_uuid(uuid, name))
        if row is not None:
            return row
    return {}


def _rows(value: object) -> list[dict[str, Any]]:
    """Return the objects of what should be a list of them."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return region.printable(value) if isinstance(value, str) else None


def _shown(path: Path) -> str:
    return region.printable(str(path))


def _table(slices: Sequence[Slice]) -> list[str]:
    """Return the lines of the table: one a device, and below it one for each of its processes."""
    head = ["SLICE", "DEVICE", "MODEL", "PROCESS", "CHARGE", "CAP", "PEAK", "REFUSALS", "STATE"]
    right = {4, 5, 6, 7}
    rows = [head]
    for piece in slices:
        for number, device in enumerate(piece.devices):
            rows.append(_device_row(piece, number, device))
            rows += [_process_row(process, number) for process in piece.processes]
        if not piece.devices:
            rows.append([piece.name, *[""] * 7, piece.state])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _process_row(process: region.Process, device: int) -> list[str]:
    name = f"{process.pid} {process.command}"
    return ["", "", "", name, format_size(process.charges[device]), "", "", "", ""]


def _device_row(piece: Slice, number: int, device: SliceDevice) -> list[str]:
    index = "" if device.index is None else f"{device.index} "
    count = len(piece.processes)
    return [
        piece.name if number == 0 else "",
        f"{index}{device.uuid[:12]}",
        device.model or "",
        f"{count} process" + ("" if count == 1 else "es"),
        format_size(device.charge),
        "none" if device.cap is None else format_size(device.cap),
        format_size(device.peak),
        str(device.refusals),
        piece.state if number == 0 else "",
    ]


def _as_json(slices: Sequence[Slice], faults: Sequence[str]) -> dict[str, Any]:
    return {
        "slices": [
            {
                "name": piece.name,
                "path": _shown(piece.path),
                "state": piece.state,
                "mode": piece.mode,
                "command": list(piece.command),
                "started": _time(piece.started_unix_ns),
                "unknown_functions": piece.unknown_functions,
                "devices": [
                    {
                        "index": device.index,
                        "uuid": device.uuid,
                        "model": device.model,
                        "charge_bytes": device.charge,
                        "unclaimed_bytes": device.unclaimed,
                        "cap_bytes": device.cap,
                        "peak_bytes": device.peak,
                        "refusals": device.refusals,
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


def _time(unix_ns: int | None) -> str | None:
    """Return a time as ISO 8601 in UTC; None when it is unknown or no time."""
    if unix_ns is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ns / 1e9, timezone.utc).isoformat()
    except (OverflowError, OSError, ValueError):
        return None
