"""gRPC between the agent and its tools, on a Unix socket that is root's: rpc.proto says what.

gRPC cannot take over a socket that somebody else listens on, as systemd does to start the agent
with the first who asks. So the service listens on a socket of its own, and each connection to the
one that is known is passed on to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import grpc
from aliquot.shim.region import printable

from . import reach, rpc_pb2
from .changes import Changed, Wish
from .errors import AliquotError, BadRequestError
from .sizes import parse_size
from .snapshot import DeviceReading, PartReading, SliceReading, Snapshot

_SERVICE: Final = "aliquot.v1.Agent"
_PRIVATE: Final = ".agent.sock"
_MOST_CONNECTIONS: Final = 64
_MOST_CALLS_AT_ONCE: Final = 16
_MOST_REQUEST_BYTES: Final = 65536
# Thousands of processes, each with a charge on many devices.
_MOST_REPLY_BYTES: Final = 256 << 20
_CHUNK_BYTES: Final = 65536
_CALL_SECONDS: Final = 10.0
# A driver may have to be told of another cap, on each device.
_SET_SECONDS: Final = 120.0
# It travels in a header, and headers are short.
_MOST_REFUSAL: Final = 2000
_REFUSED: Final = grpc.StatusCode.FAILED_PRECONDITION
# The numbers of a request to change a slice, and the keys that people know them by.
_NUMBERS: Final = {
    "cores": "cores",
    "cores_max": "cores-max",
    "weight": "weight",
    "priority": "priority",
    "quiet_ms": "quiet",
    "floor": "floor",
}

_Reply = TypeVar("_Reply")


class Latest(Protocol):
    """Whoever knows what devices and slices read now."""

    def latest(self) -> Snapshot:
        """Return it; called in the event loop."""
        ...


class Folders(Protocol):
    """Whoever knows where slices have their folders."""

    def folder(self, key: str) -> Path:
        """Return a slice's folder."""
        ...


class Changes(Protocol):
    """Whoever changes slices."""

    async def change(self, wish: Wish) -> Changed:
        """Change one, all that is wished or nothing. Raises AliquotError."""
        ...


class Settings(Protocol):
    """What of the configuration concerns the sockets."""

    @property
    def runtime_dir(self) -> Path:
        """The folder in which they are."""
        ...


class Listening(Protocol):
    """A Unix socket that somebody listens on for us."""

    @property
    def socket(self) -> socket.socket:
        """The socket."""
        ...


class Node(Protocol):
    """What the service needs of the agent."""

    @property
    def passed(self) -> Mapping[str, Listening]:
        """The sockets that systemd passed, by name; ``agent`` is the one for tools."""
        ...

    @property
    def readings(self) -> Latest:
        """What there is to tell."""
        ...

    @property
    def ledger(self) -> Folders:
        """The slices."""
        ...

    @property
    def changes(self) -> Changes:
        """Who changes them."""
        ...

    @property
    def config(self) -> Settings:
        """The configuration."""
        ...


# -- The service -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serve(node: Node) -> AsyncIterator[None]:
    """Answer tools while the block lasts.

    On the socket that was passed for them, which is closed at the end but stays where it is;
    without one, ``agent.sock`` in the runtime folder is made and taken away again. The caller holds
    the runtime folder's lock. Raises AliquotError when it cannot listen.
    """
    private = node.config.runtime_dir / _PRIVATE
    async with contextlib.AsyncExitStack() as parts:
        if "agent" in node.passed:
            listening = node.passed["agent"].socket
        else:
            own = node.config.runtime_dir / reach.TOOLS_SOCKET
            listening = _listen(own)
            parts.callback(own.unlink, missing_ok=True)
        parts.callback(listening.close)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MOST_REQUEST_BYTES),
                ("grpc.max_send_message_length", _MOST_REPLY_BYTES),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS_AT_ONCE,
        )
        server.add_generic_rpc_handlers((_handlers(node),))
        _bind(server, private)
        parts.callback(private.unlink, missing_ok=True)
        await server.start()
        parts.push_async_callback(server.stop, 1.0)
        relay = _Relay(private)
        # What systemd listens on is not ours to take away.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        outer = await asyncio.start_unix_server(
            relay.connect, sock=listening, limit=_CHUNK_BYTES, **keep
        )
        parts.push_async_callback(relay.end)
        parts.callback(outer.close)
        yield


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listening.bind(os.fspath(path))
        listening.listen(_MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise AliquotError(f"{path} cannot be listened on: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return listening


def _bind(server: grpc.aio.Server, path: Path) -> None:
    before = os.umask(0o177)
    try:
        # Left by an agent that was killed; whoever calls us holds the lock of the folder.
        path.unlink(missing_ok=True)
        server.add_insecure_port(_address(path))
    except (RuntimeError, OSError) as error:
        raise AliquotError(f"{path} cannot be listened on: {error}") from error
    finally:
        os.umask(before)


def _address(path: Path) -> str:
    return f"unix:{quote(os.fspath(path))}"


class _Relay:
    """Passes connections on to the socket of the service."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: set[asyncio.Task[None]] = set()
        self._end = asyncio.Event()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= _MOST_CONNECTIONS:
            await _drop(writer)
            return
        self._open.add(task)
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(
                self._path, limit=_CHUNK_BYTES
            )
            ways = [
                asyncio.create_task(_pump(reader, inner_writer)),
                asyncio.create_task(_pump(inner_reader, writer)),
                asyncio.create_task(self._end.wait()),
            ]
            # Neither side of a gRPC connection goes on once the other has ended.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            # One of the two may have gone in the middle of a word: there is nobody to tell.
            await asyncio.gather(*ways, return_exceptions=True)
            await _drop(inner_writer)
        except OSError:
            pass  # the service is gone, and the agent about to be
        finally:
            self._open.discard(task)
            await _drop(writer)

    async def end(self) -> None:
        self._end.set()
        if self._open:
            await asyncio.wait(self._open)


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    return True


def _handlers(node: Node) -> grpc.GenericRpcHandler:
    """Return the service's methods.

    They are named here rather than in code that protoc makes, which refuses to be used with a
    grpcio that is older than the one at build time.
    """

    async def version(_: rpc_pb2.VersionRequest, __: object) -> rpc_pb2.VersionReply:
        return rpc_pb2.VersionReply(version=metadata.version("aliquot"))

    async def devices(_: rpc_pb2.DevicesRequest, __: object) -> rpc_pb2.DevicesReply:
        return devices_reply(node.readings.latest())

    async def slices(_: rpc_pb2.SlicesRequest, __: object) -> rpc_pb2.SlicesReply:
        return _slices_reply(node.readings.latest(), node.ledger)

    async def change(request: rpc_pb2.SetRequest, context: Any) -> rpc_pb2.SetReply:  # noqa: ANN401
        try:
            return _set_reply(await node.changes.change(_wish(request)))
        except AliquotError as error:
            bad = isinstance(error, BadRequestError)
            code = grpc.StatusCode.INVALID_ARGUMENT if bad else _REFUSED
            await context.abort(code, printable(str(error))[:_MOST_REFUSAL])
            raise

    def method(answer: Any, request: Any, reply: Any) -> Any:  # noqa: ANN401 - gRPC's have no type
        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=request.FromString,
            response_serializer=reply.SerializeToString,
        )

    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            "Version": method(version, rpc_pb2.VersionRequest, rpc_pb2.VersionReply),
            "Devices": method(devices, rpc_pb2.DevicesRequest, rpc_pb2.DevicesReply),
            "Slices": method(slices, rpc_pb2.SlicesRequest, rpc_pb2.SlicesReply),
            "Set": method(change, rpc_pb2.SetRequest, rpc_pb2.SetReply),
        },
    )


def devices_reply(snapshot: Snapshot) -> rpc_pb2.DevicesReply:
    """Return what is told of the devices."""
    return rpc_pb2.DevicesReply(
        devices=[_device(reading) for reading in snapshot.devices],
        faults=[printable(fault) for fault in snapshot.faults],
    )


def _device(reading: DeviceReading) -> rpc_pb2.Device:
    device, sample = reading.device, reading.sample
    return rpc_pb2.Device(
        uuid=printable(device.uuid),
        vendor=device.vendor,
        index=device.index,
        model=printable(device.model),
        memory_bytes=device.memory_bytes,
        memory_used_bytes=sample.memory_used_bytes,
        memory_allocated_bytes=reading.memory_allocated_bytes,
        cores_allocated=reading.cores_allocated,
        slices=reading.slices,
        busy=sample.busy,
        memory_busy=sample.memory_busy,
        power_watts=sample.power_watts,
        temperature_celsius=sample.temperature_celsius,
        healthy=reading.health.healthy,
        reason=printable(reading.health.reason),
        enforcement=device.enforcement,
        pci_address=printable(device.pci_address),
        numa_node=device.numa_node,
        links=dict(device.links),
    )


def _slices_reply(snapshot: Snapshot, folders: Folders) -> rpc_pb2.SlicesReply:
    known = {reading.device.uuid: reading for reading in snapshot.devices}
    return rpc_pb2.SlicesReply(
        slices=[
            _slice(one, known, printable(str(folders.folder(one.piece.key))))
            for one in snapshot.slices
        ],
        sampled_unix=snapshot.sampled_unix,
    )


def _slice(reading: SliceReading, known: dict[str, DeviceReading], path: str) -> rpc_pb2.Slice:
    piece = reading.piece
    return rpc_pb2.Slice(
        key=printable(piece.key),
        container_id=printable(piece.container.id),
        namespace=printable(piece.container.namespace),
        pod=printable(piece.container.pod),
        container=printable(piece.container.name),
        name=printable(piece.container.shown),
        path=path,
        state=rpc_pb2.STATE_RUNNING if piece.init_pid else rpc_pb2.STATE_STARTING,
        created_unix_ns=piece.created_unix_ns,
        init_pid=piece.init_pid,
        parts=[_part(part, known.get(part.part.uuid)) for part in reading.parts],
        processes=[
            rpc_pb2.Process(
                pid=process.pid,
                command=process.command,
                attached_unix_ns=process.attached_unix_ns,
                charged_bytes=process.charges,
            )
            for process in reading.processes
        ],
        unknown_functions=reading.unknown_functions,
        fault=printable(reading.fault),
        policy=printable(piece.policy),
        group=printable(piece.group),
        quiet_ms=piece.quiet_ms,
        floor=piece.floor,
        native=piece.native,
    )


def _part(reading: PartReading, device: DeviceReading | None) -> rpc_pb2.Part:
    part = reading.part
    return rpc_pb2.Part(
        device_uuid=printable(part.uuid),
        vendor=part.vendor,
        device_index=None if device is None else device.device.index,
        device_model=None if device is None else printable(device.device.model),
        cap_bytes=part.memory_bytes,
        cores=part.cores,
        enforcement=part.enforcement,
        partition=printable(part.partition) or None,
        charged_bytes=reading.charged_bytes,
        seen_bytes=reading.seen_bytes,
        unseen_bytes=reading.unseen_bytes,
        peak_bytes=reading.peak_bytes,
        refusals=reading.refusals,
        processes=reading.processes,
        busy=reading.busy,
        memory_busy=reading.memory_busy,
        cores_max=part.cores_max,
        weight=part.weight,
        priority=part.priority,
        device_seconds=reading.device_seconds,
        wait_seconds=reading.wait_seconds,
        waits=reading.waits,
        let_through=reading.let_through,
        gate=reading.gate,
        account=None if reading.account is None else rpc_pb2.Account(**asdict(reading.account)),
    )


def _wish(request: rpc_pb2.SetRequest) -> Wish:
    """Raises BadRequestError."""
    memory = known(request, "memory")
    return Wish(
        container=request.container,
        device=request.device,
        memory=None if memory is None else parse_size(memory, "--memory"),
        policy=known(request, "policy"),
        numbers={
            key: getattr(request, field)
            for field, key in _NUMBERS.items()
            if request.HasField(field)
        },
    )


def _set_reply(changed: Changed) -> rpc_pb2.SetReply:
    piece = changed.piece
    return rpc_pb2.SetReply(
        key=printable(piece.key),
        name=printable(piece.container.shown),
        parts=[
            rpc_pb2.Terms(
                device_uuid=printable(part.uuid),
                cap_bytes=part.memory_bytes,
                cores=part.cores,
                cores_max=part.cores_max,
                weight=part.weight,
                priority=part.priority,
            )
            for part in piece.parts
        ],
        policy=printable(piece.policy),
        group=printable(piece.group),
        quiet_ms=piece.quiet_ms,
        floor=piece.floor,
        notes=[printable(note) for note in changed.notes],
    )


# -- The client ------------------------------------------------------------------------------------

STARTING: Final = rpc_pb2.STATE_STARTING


def known(message: Any, name: str) -> Any:  # noqa: ANN401 - whatever the field is
    """Return a field of a message, None when it was not told."""
    return getattr(message, name) if message.HasField(name) else None


class Client:
    """Asks the agent behind a socket. Every question raises AgentError when it is not answered.

    ``seconds`` is how long an answer may take.
    """

    def __init__(self, path: Path, seconds: float = _CALL_SECONDS) -> None:
        """Connect. Raises AgentAbsentError, AgentClosedError, AgentError."""
        reach.check(path)
        self._path = path
        self._seconds = seconds
        self._channel = grpc.insecure_channel(
            _address(path),
            options=[
                ("grpc.max_receive_message_length", _MOST_REPLY_BYTES),
                ("grpc.enable_http_proxy", 0),
                ("grpc.default_authority", "localhost"),
            ],
        )

    def __enter__(self) -> Client:  # noqa: PYI034 - Self needs Python 3.11
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the agent."""
        self._channel.close()

    def version(self) -> str:
        """Return the version of the agent."""
        reply = self._ask("Version", rpc_pb2.VersionRequest(), rpc_pb2.VersionReply.FromString)
        return reply.version

    def devices(self) -> rpc_pb2.DevicesReply:
        """Return every device of the node."""
        return self._ask("Devices", rpc_pb2.DevicesRequest(), rpc_pb2.DevicesReply.FromString)

    def slices(self) -> rpc_pb2.SlicesReply:
        """Return every slice of a container."""
        return self._ask("Slices", rpc_pb2.SlicesRequest(), rpc_pb2.SlicesReply.FromString)

    def change(self, wish: Wish) -> rpc_pb2.SetReply:
        """Change a slice. Raises AliquotError too, BadRequestError among them, when it is refused.

        ``numbers`` of the wish are by the keys of ``changes.PARSERS``.
        """
        fields = {field: wish.numbers.get(key) for field, key in _NUMBERS.items()}
        request = rpc_pb2.SetRequest(
            container=wish.container,
            device=wish.device,
            memory=None if wish.memory is None else wish.memory.text,
            policy=wish.policy,
            **fields,
        )
        return self._ask("Set", request, rpc_pb2.SetReply.FromString, _SET_SECONDS)

    def _ask(
        self,
        method: str,
        request: Any,  # noqa: ANN401 - messages have no type of their own
        read: Callable[[bytes], _Reply],
        seconds: float | None = None,
    ) -> _Reply:
        call = self._channel.unary_unary(
            f"/{_SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=read,
        )
        try:
            reply: _Reply = call(
                request, timeout=self._seconds if seconds is None else seconds, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise self._explained(method, error) from error
        return reply

    def _explained(self, method: str, error: Any) -> AliquotError:  # noqa: ANN401 - a Call too
        code = error.code()
        if code in (grpc.StatusCode.INVALID_ARGUMENT, _REFUSED):
            kind = AliquotError if code is _REFUSED else BadRequestError
            return kind(printable(str(error.details())))
        where = f"the agent on {self._path}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return reach.AgentError(
                f"{where} did not answer within {self._seconds:g} s: {reach.LOOK_AT_ITS_LOG}"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return reach.AgentError(
                f"{where} does not know '{method}': restart it after an upgrade "
                "(systemctl restart aliquot-agent)"
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return reach.AgentError(f"{where} has too much to do, or to tell: try it again")
        details = " ".join(str(error.details()).split())
        return reach.AgentError(f"{where} failed: {printable(details)}: {reach.LOOK_AT_ITS_LOG}")
