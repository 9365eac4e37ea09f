"""Metrics over HTTP: who asks is answered, and nobody hurts whoever serves them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
from aliquot.agent import daemon, metrics
from aliquot.agent.errors import AliquotError

from commands import PATIENCE_SECONDS
from metrics_parts import ask, get, serving
from reading_parts import Board, Node, device

ZERO, ONE = device(0), device(1)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="the agent is root: others may not write into grants"
)


@pytest.fixture
def board() -> Board:
    """A vendor with two devices."""
    return Board((ZERO, ONE))


@pytest.fixture
def node(tmp_path: Path, board: Board) -> Iterator[Node]:
    """A node with that vendor."""
    made = Node(tmp_path, board)
    yield made
    made.readings._grants.close()


# -- HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/other"), "404 Not Found"),
        (get("/metrics/"), "404 Not Found"),
        (get("//metrics"), "404 Not Found"),
        (get("/../metrics"), "404 Not Found"),
        (get("http://127.0.0.1/metrics"), "404 Not Found"),
        (get("/metrics?name[]=x"), "200 OK"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "400 Bad Request"),
        (get("/", "X: " + "x" * 70000), "431 Request Header Fields Too Large"),
        (get("/metrics", "Accept: " + ";q=,," * 1000), "200 OK"),
        (get("/metrics", "Accept: application/openmetrics-text;version=é;escaping=\xff"), "200 OK"),
    ],
)
def test_a_request_is_answered_by_what_it_is(node: Node, request_: bytes, status: str) -> None:
    async def story(port: int) -> None:
        first, fields, body = await ask(port, request_)
        assert first == f"HTTP/1.1 {status}"
        assert int(fields["content-length"]) == len(body.encode())
        assert ("allow" in fields) == (status[:3] == "405")

    serving(node, story)


def test_a_head_has_no_body(node: Node) -> None:
    async def story(port: int) -> None:
        status, fields, body = await ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert (status, body) == ("HTTP/1.1 200 OK", "")
        assert int(fields["content-length"]) > 100

    serving(node, story)


@contextlib.asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """Connections on which nothing is said."""
    made: list[Connection] = []
    try:
        while len(made) < count:
            made.append(await asyncio.open_connection("127.0.0.1", port))
        yield made
    finally:
        for _, writer in made:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def hung_up(connection: Connection) -> bool:
    """Whether the other end goes without a word."""
    try:
        return await connection[0].read() == b""
    except ConnectionError:
        return True


def test_who_says_nothing_keeps_nobody_waiting_and_is_dropped(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(port: int) -> None:
        async with connected(port, 5) as slow:
            for _, writer in slow:
                writer.write(b"GET / HT")
            assert (await ask(port, get("/")))[0] == "HTTP/1.1 200 OK"
        monkeypatch.setattr(metrics, "_REQUEST_SECONDS", 0.05)
        async with connected(port, 5) as slow:
            for connection in slow:
                connection[1].write(b"GET / HT")
                assert await hung_up(connection)

    serving(node, story)


def test_more_connections_than_there_are_seats_are_sent_away(node: Node) -> None:
    async def story(port: int) -> None:
        async with connected(port, metrics._MOST_CONNECTIONS) as idle:
            async with connected(port, 1) as more:
                assert await hung_up(more[0])
            reader, writer = idle[-1]
            writer.write(get("/"))
            writer.write_eof()
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        # Seats are free again once they are left.
        while True:
            async with connected(port, 1) as ((reader, writer),):
                writer.write(get("/"))
                with contextlib.suppress(ConnectionError):
                    if await reader.read():
                        break

    serving(node, story)


def test_the_end_does_not_wait_for_anybody(node: Node) -> None:
    async def whole() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with metrics.serve(node) as port:
                (idle,) = await stack.enter_async_context(connected(port, 1))
                assert (await ask(port, get("/")))[0] == "HTTP/1.1 200 OK"
            assert await hung_up(idle)
            with pytest.raises(OSError, match="Connect call failed"):
                await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(asyncio.wait_for(whole(), PATIENCE_SECONDS))


def cannot_serve(node: Node) -> str:
    async def whole() -> None:
        async with metrics.serve(node):
            pass

    with pytest.raises(AliquotError) as caught:
        asyncio.run(whole())
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_port_in_use_names_the_key_to_change(node: Node) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        node.config.metrics_port = other.getsockname()[1]
        text = cannot_serve(node)
    assert text.startswith(f"metrics_port: 127.0.0.1:{node.config.metrics_port} is in use")


def test_a_port_in_use_is_served_once_it_is_free(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon, "_AGAIN_SECONDS", 0.01)

    async def serve(other: socket.socket) -> str:
        begun = asyncio.Event()

        @contextlib.asynccontextmanager
        async def service(node: daemon.Daemon) -> AsyncIterator[None]:
            async with metrics.serve(node):
                begun.set()
                yield

        async with daemon._serving("metrics", service, cast("daemon.Daemon", node)):
            (told,) = [one.getMessage() for one in caplog.records]
            other.close()
            await begun.wait()
            _, writer = await asyncio.open_connection("127.0.0.1", node.config.metrics_port)
            writer.close()
            return told

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        node.config.metrics_port = other.getsockname()[1]
        told = asyncio.run(asyncio.wait_for(serve(other), PATIENCE_SECONDS))
    assert told.startswith(f"metrics_port: 127.0.0.1:{node.config.metrics_port} is in use")
    assert "\n" not in told


def test_an_address_of_another_node_names_the_key_to_change(node: Node) -> None:
    node.config.metrics_address = "192.0.2.1"
    assert cannot_serve(node).startswith("metrics_address: 192.0.2.1:0 cannot be listened on")
