"""Metrics for Prometheus, and the same for people, over HTTP.

What each metric is stands in ``METRICS`` and in docs/metrics.md. A reading that a device or slice
lacks has no sample.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from typing import Final, Protocol

from aliquot.shim.region import printable
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from .errors import AliquotError
from .sharing import Account
from .sizes import format_cores, format_size
from .slices import Container
from .snapshot import DeviceReading, PartReading, SliceReading, Snapshot

_MOST_HEAD_BYTES: Final = 16384
_MOST_CONNECTIONS: Final = 32
_REQUEST_SECONDS: Final = 10.0

_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text"

_CONTAINER: Final = ("namespace", "pod", "container", "device_uuid")
_DEVICE: Final = ("device_uuid",)


class Latest(Protocol):
    """Whoever knows what devices and slices read now."""

    def latest(self) -> Snapshot:
        """Return it; called in the event loop."""
        ...


class Settings(Protocol):
    """What of the configuration concerns metrics."""

    @property
    def metrics_address(self) -> str:
        """The address to listen on."""
        ...

    @property
    def metrics_port(self) -> int:
        """The port; 0 lets the kernel choose."""
        ...


class Node(Protocol):
    """What metrics need of the agent."""

    @property
    def readings(self) -> Latest:
        """What there is to tell."""
        ...

    @property
    def config(self) -> Settings:
        """The configuration."""
        ...


@dataclass(frozen=True, slots=True)
class Description:
    """What a metric is; ``kind`` is Prometheus' name of its type, ``labels`` those it has."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()


# By the names of their samples.
METRICS: Final = {
    "aliquot_container_memory_used_bytes": Description(
        "gauge", "Device memory that counts against the container's cap.", _CONTAINER
    ),
    "aliquot_container_memory_cap_bytes": Description(
        "gauge", "Device memory that the container may hold.", _CONTAINER
    ),
    "aliquot_container_memory_peak_bytes": Description(
        "gauge", "Most device memory that the container was ever granted at once.", _CONTAINER
    ),
    "aliquot_container_refusals_total": Description(
        "counter", "Allocations that were refused at the container's cap.", _CONTAINER
    ),
    "aliquot_container_processes": Description(
        "gauge", "Processes of the container that hold memory on the device.", _CONTAINER
    ),
    "aliquot_container_unseen_bytes": Description(
        "gauge",
        "Device memory that the container holds by the device's account and did not charge.",
        _CONTAINER,
    ),
    "aliquot_container_cores_min_ratio": Description(
        "gauge", "Share of the device's time that the container is guaranteed.", _CONTAINER
    ),
    "aliquot_container_cores_max_ratio": Description(
        "gauge", "Share of the device's time that the container never passes.", _CONTAINER
    ),
    "aliquot_container_weight": Description(
        "gauge", "Part of the container in what is spare, against those of others.", _CONTAINER
    ),
    "aliquot_container_priority": Description(
        "gauge", "Priority of the container: a higher one takes the device at once.", _CONTAINER
    ),
    "aliquot_container_wanted_ratio": Description(
        "gauge",
        "Share of the last second in which the container had work, or waited for the device.",
        _CONTAINER,
    ),
    "aliquot_container_received_ratio": Description(
        "gauge", "Share of the last second in which the container had the device.", _CONTAINER
    ),
    "aliquot_container_device_seconds_total": Description(
        "counter", "Device time that the container's processes charged.", _CONTAINER
    ),
    "aliquot_container_held_seconds_total": Description(
        "counter", "Time for which the container had the device.", _CONTAINER
    ),
    "aliquot_container_wait_seconds_total": Description(
        "counter", "Time that the container's threads waited to launch.", _CONTAINER
    ),
    "aliquot_container_turns_total": Description(
        "counter", "Turns on the device that the container got.", _CONTAINER
    ),
    "aliquot_container_overruns_total": Description(
        "counter", "Turns that the container overstayed.", _CONTAINER
    ),
    "aliquot_container_let_through_total": Description(
        "counter", "Launches that passed a closed gate.", _CONTAINER
    ),
    "aliquot_container_busy_ratio": Description(
        "gauge", "Share of the device's time in which the container's kernels ran.", _CONTAINER
    ),
    "aliquot_container_info": Description(
        "info",
        "Identity of the container, and who enforces its cap.",
        ("namespace", "pod", "container", "container_id", "device_uuid", "enforcement"),
    ),
    "aliquot_device_memory_total_bytes": Description(
        "gauge", "Device memory that programs can allocate.", _DEVICE
    ),
    "aliquot_device_memory_used_bytes": Description(
        "gauge", "Device memory that is in use by anybody.", _DEVICE
    ),
    "aliquot_device_memory_allocated_bytes": Description(
        "gauge", "Sum of the caps of all slices on the device.", _DEVICE
    ),
    "aliquot_device_cores_allocated_ratio": Description(
        "gauge", "Sum of the shares of time of all slices on the device.", _DEVICE
    ),
    "aliquot_device_busy_ratio": Description(
        "gauge", "Share of time in which kernels of anybody ran.", _DEVICE
    ),
    "aliquot_device_healthy": Description(
        "gauge", "1 when the device can be used, else 0.", _DEVICE
    ),
    "aliquot_device_power_watts": Description("gauge", "Power that the device draws.", _DEVICE),
    "aliquot_device_temperature_celsius": Description(
        "gauge", "Temperature of the device.", _DEVICE
    ),
    "aliquot_device_slices": Description(
        "gauge", "Slices that hold a part of the device.", _DEVICE
    ),
    "aliquot_device_info": Description(
        "info", "Identity of the device.", ("device_uuid", "vendor", "model", "index")
    ),
    "aliquot_agent_sample_timestamp_seconds": Description(
        "gauge", "Unix time at which devices and slices were last read."
    ),
    "aliquot_agent_info": Description("info", "Version of the agent.", ("version",)),
}


class SnapshotCollector(Collector):
    """Tells one snapshot to a registry."""

    def __init__(self, snapshot: Snapshot) -> None:
        """``snapshot`` is all that it knows."""
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected only to learn names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield every metric that has a sample."""
        found: dict[str, Metric] = {}

        def add(name: str, labels: Sequence[str], value: float | None) -> None:
            if value is None:
                return
            told = METRICS[name]
            if name not in found:
                family = name.removesuffix("_total").removesuffix("_info")
                found[name] = Metric(family, told.text, told.kind)
            found[name].add_sample(
                name, dict(zip(told.labels, map(printable, labels), strict=True)), value
            )

        add("aliquot_agent_info", [metadata.version("aliquot")], 1)
        add("aliquot_agent_sample_timestamp_seconds", (), self._snapshot.sampled_unix)
        for reading in self._snapshot.devices:
            _add_device(reading, add)
        for container, slice_ in _newest(self._snapshot.slices).items():
            for part in slice_.parts:
                _add_part(container, slice_, part, add)
        return found.values()


_Add = Callable[[str, Sequence[str], float | None], None]


def _newest(slices: Iterable[SliceReading]) -> dict[tuple[str, str, str], SliceReading]:
    """Return the slices by their labels.

    A container that was started anew has those of the one before it, which may not be gone yet:
    two series of the same labels would make the whole page unreadable for Prometheus.
    """
    found: dict[tuple[str, str, str], SliceReading] = {}
    for slice_ in sorted(slices, key=lambda one: one.piece.created_unix_ns):
        found[_labels(slice_.piece.container)] = slice_
    return found


def _labels(container: Container) -> tuple[str, str, str]:
    # Outside Kubernetes a container has no other name than its id.
    return container.namespace, container.pod, container.name or container.id


def _add_part(
    labels: tuple[str, str, str], slice_: SliceReading, reading: PartReading, add: _Add
) -> None:
    namespace, pod, name = labels
    part = reading.part
    told = (namespace, pod, name, part.uuid)
    add("aliquot_container_memory_used_bytes", told, reading.memory_used_bytes)
    add("aliquot_container_memory_cap_bytes", told, part.memory_bytes)
    add("aliquot_container_memory_peak_bytes", told, reading.peak_bytes)
    add("aliquot_container_refusals_total", told, reading.refusals)
    add("aliquot_container_processes", told, reading.processes)
    add("aliquot_container_unseen_bytes", told, reading.unseen_bytes)
    add("aliquot_container_busy_ratio", told, reading.busy)
    add("aliquot_container_cores_min_ratio", told, part.cores / 100)
    add("aliquot_container_cores_max_ratio", told, part.cores_max / 100)
    add("aliquot_container_weight", told, part.weight)
    add("aliquot_container_priority", told, part.priority)
    add("aliquot_container_device_seconds_total", told, reading.device_seconds)
    add("aliquot_container_wait_seconds_total", told, reading.wait_seconds)
    add("aliquot_container_let_through_total", told, reading.let_through)
    if account := reading.account:
        add("aliquot_container_wanted_ratio", told, account.wanted)
        add("aliquot_container_received_ratio", told, account.received)
        add("aliquot_container_held_seconds_total", told, account.held_seconds)
        add("aliquot_container_turns_total", told, account.turns)
        add("aliquot_container_overruns_total", told, account.overruns)
    identity = (namespace, pod, name, slice_.piece.container.id, part.uuid, part.enforcement)
    add("aliquot_container_info", identity, 1)


def _add_device(reading: DeviceReading, add: _Add) -> None:
    device, sample, told = reading.device, reading.sample, (reading.device.uuid,)
    add("aliquot_device_memory_total_bytes", told, device.memory_bytes)
    add("aliquot_device_memory_used_bytes", told, sample.memory_used_bytes)
    add("aliquot_device_memory_allocated_bytes", told, reading.memory_allocated_bytes)
    add("aliquot_device_cores_allocated_ratio", told, reading.cores_allocated / 100)
    add("aliquot_device_busy_ratio", told, sample.busy)
    add("aliquot_device_healthy", told, int(reading.health.healthy))
    add("aliquot_device_power_watts", told, sample.power_watts)
    add("aliquot_device_temperature_celsius", told, sample.temperature_celsius)
    add("aliquot_device_slices", told, reading.slices)
    identity = (device.uuid, device.vendor, device.model, str(device.index))
    add("aliquot_device_info", identity, 1)


# -- The page for people ---------------------------------------------------------------------------

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:.5rem 0 2rem}"
    "th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid #ddd}"
    "td.n,th.n{text-align:right}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8bf}}"
)


def page(snapshot: Snapshot) -> str:
    """Return the page at ``/``: devices and slices in two tables."""
    devices = [
        [
            str(one.device.index),
            one.device.uuid,
            one.device.model,
            format_size(one.device.memory_bytes),
            _size(one.sample.memory_used_bytes),
            format_size(one.memory_allocated_bytes),
            f"{one.cores_allocated}%",
            _percent(one.sample.busy),
            "ok" if one.health.healthy else one.health.reason,
        ]
        for one in snapshot.devices
    ]
    slices = [
        [
            slice_.piece.container.shown,
            part.part.uuid,
            _size(part.memory_used_bytes),
            format_size(part.part.memory_bytes),
            _size(part.peak_bytes),
            _size(part.unseen_bytes),
            "" if part.refusals is None else str(part.refusals),
            format_cores(part.part.cores, part.part.cores_max),
            *_shares(part.account),
            _percent(part.busy),
            part.part.enforcement,
            slice_.fault,
        ]
        for slice_ in snapshot.slices
        for part in slice_.parts
    ]
    faults = "".join(f"<p>{_escape(fault)}</p>" for fault in snapshot.faults)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Aliquot</title><style>{_STYLE}</style></head><body><h1>Aliquot</h1>"
        f'<p>Version {_escape(metadata.version("aliquot"))} · <a href="/metrics">metrics</a></p>'
        f"{faults}<h2>Devices</h2>"
        + _table(
            ["", "UUID", "Model", "-Memory", "-Used", "-Allocated", "-Cores", "-Busy", "Health"],
            devices,
        )
        + "<h2>Slices</h2>"
        + _table(
            ["Container", "Device", "-Used", "-Cap", "-Peak", "-Unseen", "-Refusals", "-Cores",
             "-Wanted", "-Received", "-Busy", "Enforced by", ""],
            slices,
        )
        + "</body></html>\n"
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a heading that begins with a minus is of a column of numbers."""
    if not rows:
        return "<p>None.</p>"

    def row(tag: str, cells: Iterable[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if name[:1] == '-' else ''}>{_escape(cell)}</{tag}>"
            for name, cell in zip(head, cells, strict=True)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    return f"<table><tr>{row('th', (name.lstrip('-') for name in head))}</tr>{body}</table>"


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_size(size_bytes)


def _shares(account: Account | None) -> tuple[str, str]:
    return ("", "") if account is None else (_percent(account.wanted), _percent(account.received))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


# -- HTTP ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serve(node: Node) -> AsyncIterator[int]:
    """Serve while the block lasts; gives the port. Raises AliquotError when it cannot listen."""
    address, port = node.config.metrics_address, node.config.metrics_port
    handler = _Handler(node.readings)
    try:
        server = await asyncio.start_server(
            handler.serve, address, port, limit=_MOST_HEAD_BYTES, backlog=_MOST_CONNECTIONS
        )
    except OSError as error:
        raise AliquotError(_cannot_listen(address, port, error)) from error
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await handler.end()


def _cannot_listen(address: str, port: int, error: OSError) -> str:
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"metrics_port: {shown} is in use by another program: "
            "choose another metrics_port in the configuration, or stop that program"
        )
    if error.errno == errno.EACCES:
        return f"metrics_port: {shown} is not permitted: choose a metrics_port above 1023"
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return (
        f"metrics_address: {shown} cannot be listened on: {reason}: "
        "give an address of this node as metrics_address in the configuration"
    )


class _RefusedError(Exception):
    """A request that is not answered as it was asked for."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Handler:
    """Answers one request a connection: a short GET in little time, or nothing."""

    def __init__(self, readings: Latest) -> None:
        self._readings = readings
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            await asyncio.wait_for(self._answer(reader, writer), _REQUEST_SECONDS)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # nobody is left to be told
        except asyncio.CancelledError:
            pass  # the agent ends
        finally:
            # Whoever does not read its answer must not keep it here.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._open.discard(task)

    async def end(self) -> None:
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        try:
            method, path, accept = await _read_head(reader)
            answer = _response(HTTPStatus.OK, *await self._body(path, accept))
        except _RefusedError as refused:
            answer = _response(refused.status)
        if method == "HEAD":
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        # Until it has been read: to close earlier with input unread would take the answer back.
        while await reader.read(_MOST_HEAD_BYTES):
            pass

    async def _body(self, path: str, accept: str) -> tuple[str, bytes]:
        if path == "/metrics":
            # The snapshot is a value: what takes time is done beside the event loop.
            return await asyncio.to_thread(exposition, self._readings.latest(), accept)
        if path == "/":
            text = await asyncio.to_thread(page, self._readings.latest())
            return "text/html; charset=utf-8", text.encode()
        raise _RefusedError(HTTPStatus.NOT_FOUND)


def _response(
    status: HTTPStatus, kind: str = "text/plain; charset=utf-8", body: bytes = b""
) -> bytes:
    body = body or f"{status.value} {status.phrase}\n".encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        head.append("Allow: GET, HEAD")
    return "\r\n".join([*head, "", ""]).encode() + body


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[str, bytes]:
    """Return the content type and the metrics, in the format that ``accept`` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    # The client library's own choice stumbles over what it does not expect.
    if any(kind.partition(";")[0].strip() == _OPENMETRICS for kind in accept.split(",")):
        kind = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call, unused-ignore]
        return kind, text
    return _PLAIN, generate_latest(registry)


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, str]:
    """Return method, path and what is accepted. Raises _RefusedError, OSError, EOFError."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from error
    request, *lines = head.decode("latin-1").split("\r\n")
    words = request.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED)
    fields = [line.partition(":") for line in lines]
    accept = next((value for name, _, value in fields if name.lower() == "accept"), "")
    return method, target.partition("?")[0], accept.strip()
