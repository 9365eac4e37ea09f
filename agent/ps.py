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

from . import reach, rundir
from .sizes import format_size
from .tables import columns
from .visible import format_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RUNNING: Final = "running"
STARTING: Final = "starting"
ORPHANED: Final = "orphaned"
ENDED: Final = "ended"

RUN: Final = "run"
CONTAINER: Final = "container"

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
BY        who enforces the cap: shim or driver

UNSEEN and BY are shown where there are containers. What is not known is shown as a dash.
"""


@dataclass(frozen=True, slots=True)
class SliceDevice:
    """One device of a slice. Sizes are bytes; what is unknown is None.

    ``unclaimed`` is what the slice has been told that no process charged, ``unseen`` what was seen
    of that last; ``enforcement`` says who holds the cap; ``cap`` is None when there is none.
    """

    index: int | None
    uuid: str
    model: str | None
    charge: int | None
    unclaimed: int | None
    unseen: int | None
    cap: int | None
    peak: int | None
    refusals: int | None
    enforcement: str


@dataclass(frozen=True, slots=True)
class Owner:
    """The container that a slice belongs to, as Kubernetes and its runtime call it."""

    namespace: str
    pod: str
    container: str
    container_id: str


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice as its files, or the agent, describe it; ``owner`` is None when it is a run."""

    name: str
    path: str
    state: str
    mode: str | None
    command: tuple[str, ...]
    started_unix_ns: int | None
    devices: tuple[SliceDevice, ...]
    processes: tuple[region.Process, ...]
    unknown_functions: int | None
    owner: Owner | None = None

    @property
    def kind(self) -> str:
        """Whether it is a ``container``'s or that of an ``aliquot run``."""
        return CONTAINER if self.owner else RUN


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
    ask_agent(os.environ, survey)
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


def ask_agent(environment: Mapping[str, str], survey: Survey) -> None:
    """Add the slices of containers, where there is an agent that lets us ask."""
    path = reach.socket_path(environment)
    if not reach.is_there(path):
        return
    # Only now: gRPC takes longer to import than all else takes together.
    from . import rpc  # noqa: PLC0415

    try:
        with rpc.Client(path) as client:
            told = client.slices()
    except (reach.AgentAbsentError, reach.AgentClosedError):
        return
    except reach.AgentError as error:
        survey.faults.append(str(error))
        return
    for piece in told.slices:
        survey.slices.append(
            Slice(
                name=piece.name,
                path=piece.path,
                state=STARTING if piece.state == rpc.STARTING else RUNNING,
                mode=None,
                command=(),
                started_unix_ns=piece.created_unix_ns,
                devices=tuple(
                    SliceDevice(
                        index=rpc.known(part, "device_index"),
                        uuid=part.device_uuid,
                        model=rpc.known(part, "device_model"),
                        charge=rpc.known(part, "charged_bytes"),
                        unclaimed=rpc.known(part, "unseen_bytes"),
                        unseen=rpc.known(part, "unseen_bytes"),
                        cap=part.cap_bytes,
                        peak=rpc.known(part, "peak_bytes"),
                        refusals=rpc.known(part, "refusals"),
                        enforcement=part.enforcement,
                    )
                    for part in piece.parts
                ),
                processes=tuple(
                    region.Process(
                        slot=number,
                        pid=process.pid,
                        command=process.command,
                        attached_unix_ns=process.attached_unix_ns,
                        charges=tuple(process.charged_bytes),
                    )
                    for number, process in enumerate(piece.processes)
                ),
                unknown_functions=rpc.known(piece, "unknown_functions"),
                owner=Owner(piece.namespace, piece.pod, piece.container, piece.container_id),
            )
        )
        if piece.fault:
            survey.faults.append(f"{piece.name}: {piece.fault}")


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
                    unseen=granted.unclaimed,
                    cap=granted.cap,
                    peak=used.peak,
                    refusals=used.refusals,
                    enforcement="driver" if granted.by_driver else "shim",
                )
            )
    command = meta.get("command")
    started = meta.get("started_unix_ns")
    return Slice(
        name=region.printable(rundir.name_of(path)),
        path=_shown(path),
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
    head = ["SLICE", "DEVICE", "MODEL", "PROCESS", "CHARGE", "UNSEEN", "CAP", "PEAK", "REFUSALS",
            "BY", "STATE"]  # fmt: skip
    rows = []
    for piece in slices:
        for number, device in enumerate(piece.devices):
            rows.append(_device_row(piece, number, device))
            rows += [_process_row(process, number) for process in piece.processes]
        if not piece.devices:
            rows.append([piece.name, *[""] * 9, piece.state])
    right = {"CHARGE", "UNSEEN", "CAP", "PEAK", "REFUSALS"}
    hidden = set() if any(piece.owner for piece in slices) else {"UNSEEN", "BY"}
    return columns(head, rows, right=right, hidden=hidden)


def _process_row(process: region.Process, device: int) -> list[str]:
    name = f"{process.pid} {process.command}"
    return ["", "", "", name, format_size(process.charges[device]), *[""] * 6]


def _device_row(piece: Slice, number: int, device: SliceDevice) -> list[str]:
    index = "" if device.index is None else f"{device.index} "
    count = len(piece.processes)
    return [
        piece.name if number == 0 else "",
        f"{index}{device.uuid[:12]}",
        device.model or "",
        f"{count} process" + ("" if count == 1 else "es"),
        _size(device.charge),
        _size(device.unseen),
        "none" if device.cap is None else format_size(device.cap),
        _size(device.peak),
        "-" if device.refusals is None else str(device.refusals),
        device.enforcement,
        piece.state if number == 0 else "",
    ]


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_size(size_bytes)


def _as_json(slices: Sequence[Slice], faults: Sequence[str]) -> dict[str, Any]:
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
