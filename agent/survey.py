"""All slices of a node as values: runs' from their files, containers' from the agent.

What is unknown is None; sizes are bytes, shares of time go from 0 to 1, cores are percent.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aliquot.shim import region

from . import makes, reach, rundir
from .sharing import Account
from .visible import format_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from . import rpc_pb2

RUNNING: Final = "running"
STARTING: Final = "starting"
ORPHANED: Final = "orphaned"
ENDED: Final = "ended"

RUN: Final = "run"
CONTAINER: Final = "container"


@dataclass(frozen=True, slots=True)
class SliceDevice:
    """One device of a slice.

    ``unclaimed`` is what the slice has been told that no process charged, ``unseen`` what was seen
    of that last; ``enforcement`` says who holds the cap, and ``partition`` by which partition, as
    its vendor calls it, None where that is none; ``cap`` is None when there is no cap.

    ``cores`` is what is guaranteed, ``cores_max`` what is never passed; ``gate`` is one of
    region.GATES; the counters are those of region.UsedDevice; ``account`` is what the arbiter
    counted, None when no turns are given to the slice.
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
    cores: int
    cores_max: int
    weight: int
    priority: int
    gate: str | None
    busy: float | None
    device_seconds: float | None
    wait_seconds: float | None
    waits: int | None
    let_through: int | None
    account: Account | None = None
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """The container that a slice belongs to, as Kubernetes and its runtime call it."""

    namespace: str
    pod: str
    container: str
    container_id: str


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice as its files, or the agent, describe it; ``owner`` is None when it is a run.

    ``sampled_unix`` is when the agent read what its processes count, None when it was read now.

    ``policy``, ``group``, ``quiet_ms``, ``floor`` and ``native`` are those of slices.Slice.
    """

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
    policy: str | None = None
    group: str | None = None
    quiet_ms: int | None = None
    floor: int | None = None
    native: bool | None = None
    sampled_unix: float | None = None

    @property
    def kind(self) -> str:
        """Whether it is a ``container``'s or that of an ``aliquot run``."""
        return CONTAINER if self.owner else RUN


@dataclass(slots=True)
class Survey:
    """All slices that could be read, and one line for each that could not."""

    slices: list[Slice] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


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
    add_told(survey, told)


def add_told(survey: Survey, told: rpc_pb2.SlicesReply) -> None:
    """Add the slices that an agent told of."""
    from . import rpc  # noqa: PLC0415 - as above

    sampled_unix = rpc.known(told, "sampled_unix")
    for piece in told.slices:
        survey.slices.append(_told(piece, sampled_unix))
        if piece.fault:
            survey.faults.append(f"{piece.name}: {piece.fault}")


def _told(piece: rpc_pb2.Slice, sampled_unix: float | None) -> Slice:
    from . import rpc  # noqa: PLC0415 - as above

    return Slice(
        name=piece.name,
        path=piece.path,
        state=STARTING if piece.state == rpc.STARTING else RUNNING,
        mode=None,
        command=(),
        started_unix_ns=piece.created_unix_ns,
        devices=tuple(_told_device(part) for part in piece.parts),
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
        policy=piece.policy or None,
        group=piece.group or None,
        quiet_ms=piece.quiet_ms,
        floor=piece.floor,
        native=piece.native,
        sampled_unix=sampled_unix,
    )


def _told_device(part: rpc_pb2.Part) -> SliceDevice:
    from . import rpc  # noqa: PLC0415 - as above

    account = rpc.known(part, "account")
    return SliceDevice(
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
        partition=rpc.known(part, "partition"),
        cores=part.cores,
        cores_max=part.cores_max,
        weight=part.weight,
        priority=part.priority,
        gate=rpc.known(part, "gate"),
        busy=rpc.known(part, "busy"),
        device_seconds=rpc.known(part, "device_seconds"),
        wait_seconds=rpc.known(part, "wait_seconds"),
        waits=rpc.known(part, "waits"),
        let_through=rpc.known(part, "let_through"),
        account=None
        if account is None
        else Account(
            held_seconds=account.held_seconds,
            split_seconds=account.split_seconds,
            wanted_seconds=account.wanted_seconds,
            turns=account.turns,
            overruns=account.overruns,
            preempted=account.preempted,
            wanted=rpc.known(account, "wanted"),
            received=rpc.known(account, "received"),
        ),
    )


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
    make = makes.MAKES.get(_text(meta.get("vendor")) or "", makes.NVIDIA)
    devices = []
    if grant and usage:
        for number, (granted, used) in enumerate(zip(grant.devices, usage.devices, strict=True)):
            row = _match(granted.uuid, known, make.prefix)
            model = _text(row.get("name"))
            index = row.get("index")
            devices.append(
                SliceDevice(
                    index=index if isinstance(index, int) else None,
                    uuid=format_uuid(granted.uuid, model or "", make.prefix),
                    model=model,
                    charge=usage.charge(number),
                    unclaimed=granted.unclaimed,
                    unseen=granted.unclaimed,
                    cap=granted.cap,
                    peak=used.peak,
                    refusals=used.refusals,
                    enforcement="driver" if granted.by_driver else "shim",
                    cores=granted.cores_min,
                    cores_max=granted.cores,
                    weight=granted.weight,
                    priority=granted.priority,
                    gate=granted.gate,
                    busy=granted.busy,
                    device_seconds=used.device_ns / 1e9,
                    wait_seconds=used.wait_ns / 1e9,
                    waits=used.waits,
                    let_through=used.let_through,
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


def _match(uuid: bytes, known: dict[Any, dict[str, Any]], prefix: str) -> dict[str, Any]:
    for name in ("", " MIG "):
        row = known.get(format_uuid(uuid, name, prefix))
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
