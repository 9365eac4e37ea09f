"""The framed protocol of the small C programs: csrc/oci/wire.h says what is in it.

One request and one reply a connection. Only root may connect, and no process of a container of
ours; all the same whoever does is input: a frame that is malformed, too long or too slow ends its
connection, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import processes
from .errors import AliquotError, BadRequestError

MAGIC: Final = 0x31515141
MOST_BYTES: Final = 65536
CREATE: Final = 1
CREATE_RUNTIME: Final = 2
POSTSTOP: Final = 3
OK: Final = 0
REFUSED: Final = 1

FIELDS: Final = {
    CREATE: frozenset({"id", "bundle"}),
    CREATE_RUNTIME: frozenset({"slice", "id", "pid", "bundle"}),
    POSTSTOP: frozenset({"slice", "id"}),
}
"""The keys of each kind of request; each is there once, and no other."""

HEADER: Final = struct.Struct("<4I")

_CREDENTIALS: Final = struct.Struct("3i")
# For a whole request to come, and for its reply to be taken.
_FRAME_SECONDS: Final = 5.0
# A whole node's pods start together and wait for each other here; more stay in the backlog.
_MOST_CONNECTIONS: Final = 256
# So long anybody may take to ask when others wait to connect.
_ASKING_SECONDS: Final = 0.25
_PIECE_BYTES: Final = 4096
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, as the kernel says: the process that connected, and when it started."""

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose form is right; ``fields`` has exactly the keys of its kind."""

    kind: int
    fields: Mapping[str, str]


# Answers a request; raises AliquotError to refuse it.
Handler = Callable[[Asked, Peer], Awaitable[None]]


class FrameError(Exception):
    """What came is no frame of ours; the text says what is wrong with it."""


def pack(kind: int, status: int, payload: bytes) -> bytes:
    """Return a frame. Raises ValueError when it would be too long."""
    if len(payload) > MOST_BYTES:
        raise ValueError(f"{len(payload)} bytes are too long for a frame")
    return HEADER.pack(MAGIC, kind, status, len(payload)) + payload


def pack_request(kind: int, fields: Mapping[str, str]) -> bytes:
    """Return the frame of a request. Raises ValueError when it would be too long."""
    return pack(kind, 0, b"".join(f"{key}={value}\0".encode() for key, value in fields.items()))


def read_header(header: bytes) -> tuple[int, int]:
    """Return kind and length of a request from its 16 bytes. Raises FrameError."""
    magic, kind, status, length = HEADER.unpack(header)
    if magic != MAGIC or status:
        raise FrameError("it is no request")
    if length > MOST_BYTES:
        raise FrameError(f"{length} bytes are too long")
    return kind, length


def read_fields(kind: int, payload: bytes) -> Asked:
    """Return the request with this payload. Raises BadRequestError."""
    wanted = FIELDS.get(kind)
    if wanted is None:
        raise BadRequestError(
            f"the agent knows no request of kind {kind}: are both of one version?"
        )
    fields: dict[str, str] = {}
    try:
        *texts, end = payload.decode().split("\0")
    except UnicodeDecodeError as error:
        raise BadRequestError("a field of the request is not UTF-8") from error
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in fields:
            raise BadRequestError("a field of the request is not key=value, or is there twice")
        fields[key] = value
    if end or fields.keys() != wanted:
        raise BadRequestError(f"a request of kind {kind} has exactly {', '.join(sorted(wanted))}")
    return Asked(kind, fields)


def ask(path: Path, kind: int, fields: Mapping[str, str], seconds: float = 120.0) -> None:
    """Ask the agent behind a socket, as the C programs do.

    Raises AliquotError with the agent's refusal, OSError when it is not there or hangs up.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(pack_request(kind, fields))
        reply = b""
        while len(reply) <= HEADER.size + MOST_BYTES and (data := connection.recv(MOST_BYTES)):
            reply += data
    if len(reply) < HEADER.size:
        raise ConnectionResetError(f"{path}: the agent hung up")
    magic, replied, status, length = HEADER.unpack_from(reply)
    if magic != MAGIC or replied != kind or length != len(reply) - HEADER.size:
        raise AliquotError(f"{path}: what answers is not the agent")
    if status != OK:
        raise AliquotError(reply[HEADER.size :].decode(errors="replace"))


class Server:
    """The agent's end of a listening socket, which stays its caller's."""

    def __init__(
        self,
        listening: socket.socket,
        handle: Handler,
        is_tenant: Callable[[int], bool],
        *,
        most_connections: int = _MOST_CONNECTIONS,
        frame_seconds: float = _FRAME_SECONDS,
    ) -> None:
        """``handle`` answers; ``is_tenant`` says whether a pid is in a container of ours."""
        self._listening = listening
        self._handle = handle
        self._is_tenant = is_tenant
        self._seconds = frame_seconds
        self._most = most_connections
        # Those that wait for their peer's frame, by when they came, and all.
        self._reading: dict[asyncio.Task[None], float] = {}
        self._all: set[asyncio.Task[None]] = set()
        self._fewer = asyncio.Event()
        self._complaints = 0
        self._quiet_until = 0.0

    async def run(self) -> None:
        """Serve until it is cancelled; then every connection is closed."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        try:
            while True:
                await self._have_room()
                # (A task that waits for each connection would cost each a turn of the loop more.)
                pause: asyncio.Future[str | None] = loop.create_future()
                loop.add_reader(self._listening, self._accept, pause)
                try:
                    trouble = await pause
                finally:
                    loop.remove_reader(self._listening)
                if trouble is not None:
                    # No descriptors are left, or who connected has gone. An event or a moment
                    # passes before the next try, since the socket stays readable.
                    self._complain(f"a connection cannot be taken: {trouble}")
                    self._fewer.clear()
                    await self._until_fewer(1.0)
        finally:
            for task in self._all:
                task.cancel()
            await asyncio.gather(*self._all, return_exceptions=True)

    def _accept(self, pause: asyncio.Future[str | None]) -> None:
        """Serve who has connected; ``pause`` is told when no more can be taken now, and why."""
        if pause.done():
            return
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            pause.set_result(error.strerror)
            return
        task = loop.create_task(self._serve(connection))
        self._all.add(task)
        self._reading[task] = loop.time()
        task.add_done_callback(self._forget)
        if len(self._all) >= self._most:
            pause.set_result(None)

    async def _have_room(self) -> None:
        """Return when one more may connect: who is slowest to ask makes room for it."""
        loop = asyncio.get_running_loop()
        while len(self._all) >= self._most:
            self._fewer.clear()
            wait: float | None = None
            for oldest, since in self._reading.items():
                wait = since + _ASKING_SECONDS - loop.time()
                if wait <= 0:
                    del self._reading[oldest]
                    oldest.cancel()
                    self._complain("too many connections: the one that asks slowest is dropped")
                    wait = None
                break
            # All others are being answered, or somebody still has a moment to ask.
            await self._until_fewer(wait)

    async def _until_fewer(self, seconds: float | None) -> None:
        """Return when a connection has ended, or after so many seconds.

        (wait_for of Python before 3.12 may lose a cancellation that comes in the same moment.)
        """
        timer = None
        if seconds is not None:
            timer = asyncio.get_running_loop().call_later(seconds, self._fewer.set)
        try:
            await self._fewer.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._all.discard(task)
        self._reading.pop(task, None)
        self._fewer.set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection failed", exc_info=task.exception())

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        with connection:
            try:
                peer = self._peer(connection)
                # Our own programs send at once, and what is small is taken at once: then nobody
                # waits, and no clock is needed.
                came = _received(connection)
                frame = _whole(came)
                if frame is None:
                    frame = await asyncio.wait_for(_read(connection, came), self._seconds)
                self._reading.pop(task, None)
                reply = await self._answer(*frame, peer)
                left = reply[_sent(connection, reply) :]
                if left:
                    await asyncio.wait_for(loop.sock_sendall(connection, left), self._seconds)
            except FrameError as error:
                self._complain(f"a connection is dropped: {error}")
            except asyncio.TimeoutError:
                self._complain(f"a connection is dropped: {self._seconds:g} s are not enough to it")
            except OSError as error:
                self._complain(f"a connection broke: {error.strerror}")

    async def _answer(self, kind: int, payload: bytes, peer: Peer) -> bytes:
        try:
            await self._handle(read_fields(kind, payload), peer)
        except AliquotError as error:
            return pack(kind, REFUSED, _line(str(error)))
        except Exception:  # noqa: BLE001
            # What went wrong is ours; whoever asked is told where to look, and others are served.
            _log.exception("a request of kind %d failed", kind)
            return pack(
                kind, REFUSED, b"the agent failed: see its log (journalctl -u aliquot-agent)"
            )
        return pack(kind, OK, b"")

    def _peer(self, connection: socket.socket) -> Peer:
        """Return who connected. Raises FrameError when that is nobody to talk to."""
        size = _CREDENTIALS.size
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        start = processes.start_time(pid) if pid > 0 else None
        if start is None:
            raise FrameError("its process is gone, or not of this pid namespace")
        if uid != 0:
            raise FrameError(f"process {pid} belongs to user {uid}")
        if self._is_tenant(pid):
            raise FrameError(f"process {pid} is in a container")
        return Peer(pid, start)

    def _complain(self, text: str) -> None:
        """Log at most one line a second of what others do, and how many were left out."""
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until:
            self._complaints += 1
            return
        more = f" ({self._complaints} more such lines)" if self._complaints else ""
        _log.warning("%s%s", text, more)
        self._complaints, self._quiet_until = 0, now + 1.0


def _received(connection: socket.socket) -> bytes:
    """Return what has come by now."""
    try:
        return connection.recv(_PIECE_BYTES)
    except BlockingIOError:
        return b""


def _sent(connection: socket.socket, data: bytes) -> int:
    """Send what is taken now; returns how many bytes that was."""
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


def _whole(data: bytes) -> tuple[int, bytes] | None:
    """Return kind and payload once all of a frame is there. Raises FrameError."""
    if len(data) < HEADER.size:
        return None
    kind, length = read_header(data[: HEADER.size])
    end = HEADER.size + length
    return (kind, data[HEADER.size : end]) if len(data) >= end else None


async def _read(connection: socket.socket, data: bytes) -> tuple[int, bytes]:
    """Return the frame that begins with ``data``. Raises FrameError."""
    loop = asyncio.get_running_loop()
    while True:
        part = await loop.sock_recv(connection, _PIECE_BYTES)
        if not part:
            raise FrameError("it ends in the middle of a frame")
        data += part
        frame = _whole(data)
        if frame is not None:
            return frame


def _line(text: str) -> bytes:
    """Return a text as the one line of a reply."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text.replace("\n", "; "))
    return line.encode(errors="replace")[:4096]
