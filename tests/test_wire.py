"""The protocol of the small programs: one layout for C and Python, and nobody in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import processes, wire
from aliquot.agent.errors import AliquotError, BadRequestError
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc/oci/wire.h"
GOOD = {"id": "c1", "bundle": "/b"}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the agent answers only root")


def test_python_and_c_agree_on_the_protocol(tmp_path: Path) -> None:
    source = tmp_path / "show.c"
    source.write_text(
        f"""#include "{HEADER}"
#include <stddef.h>
#include <stdio.h>
int main(void) {{
    struct aliquot_wire_header header = {{ALIQUOT_WIRE_MAGIC, 2, 3, 4}};
    printf("[%u, %u, %d, %d, %d, %d, %d]\\n", ALIQUOT_WIRE_MAGIC, ALIQUOT_WIRE_MAX,
           ALIQUOT_WIRE_CREATE, ALIQUOT_WIRE_CREATE_RUNTIME, ALIQUOT_WIRE_POSTSTOP,
           ALIQUOT_WIRE_OK, ALIQUOT_WIRE_REFUSED);
    for (size_t i = 0; i < sizeof header; i++)
        printf("%02x", ((unsigned char *)&header)[i]);
}}
""",
        encoding="utf-8",
    )
    program = tmp_path / "show"
    command = ["gcc", "-std=c11", "-Wall", "-Werror", "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    shown = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    values, header = shown.splitlines()
    assert json.loads(values) == [
        *(wire.MAGIC, wire.MOST_BYTES),
        *(wire.CREATE, wire.CREATE_RUNTIME, wire.POSTSTOP),
        *(wire.OK, wire.REFUSED),
    ]
    assert bytes.fromhex(header) == wire.HEADER.pack(wire.MAGIC, 2, 3, 4)


def test_python_knows_the_keys_that_the_header_names() -> None:
    rows = re.findall(
        r"^ \*   (CREATE|CREATE_RUNTIME|POSTSTOP)  +(.*)$", HEADER.read_text(), re.MULTILINE
    )
    assert len(rows) == len(wire.FIELDS)
    for kind, text in rows:
        keys = re.findall(r"\b(slice|id|pid|bundle)\b(?!')", re.sub(r": [^;]*|\(.*?\)", "", text))
        told = re.findall(r"\b(slice|id|pid|bundle)\b", text.split(" of the OCI")[0])
        assert set(keys) <= wire.FIELDS[getattr(wire, kind)] == set(told)


# -- Frames ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 5))
@settings(deadline=None)
def test_any_payload_is_a_request_or_refused(payload: bytes, kind: int) -> None:
    # Nothing else may be raised.
    with contextlib.suppress(BadRequestError):
        assert wire.read_fields(kind, payload).fields.keys() == wire.FIELDS[kind]


@given(
    st.sampled_from(sorted(wire.FIELDS)).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.fixed_dictionaries(
                {
                    key: st.text(st.characters(exclude_characters="\0", codec="utf-8"))
                    for key in wire.FIELDS[kind]
                }
            ),
        )
    )
)
def test_what_is_packed_is_read_again(request_: tuple[int, dict[str, str]]) -> None:
    kind, fields = request_
    frame = wire.pack_request(kind, fields)
    assert wire.read_header(frame[:16]) == (kind, len(frame) - 16)
    assert wire.read_fields(kind, frame[16:]) == wire.Asked(kind, fields)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"id=c1\0",
        b"id=c1\0bundle=/b",
        b"id=c1\0bundle=/b\0\0",
        b"id=c1\0bundle=/b\0id=c2\0",
        b"id=c1\0bundle=/b\0more=1\0",
        b"id=c1\0bundle\0",
        b"id=c1\0bundle=\xff\0",
    ],
)
def test_a_request_that_is_not_exactly_one_is_refused(payload: bytes) -> None:
    with pytest.raises(BadRequestError):
        wire.read_fields(wire.CREATE, payload)


# -- The server ------------------------------------------------------------------------------------


class Agent:
    """A server on a socket of its own; what it was asked, and by whom."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[wire.Asked, wire.Peer]] = []
        self.answer: Callable[[wire.Asked], Coroutine[Any, Any, None]] | None = None
        self.tenants: set[int] = set()

    async def handle(self, asked: wire.Asked, peer: wire.Peer) -> None:
        """Remember who asked what, and answer as the test wants."""
        self.asked.append((asked, peer))
        if self.answer:
            await self.answer(asked)

    async def ask(self, kind: int = wire.CREATE, fields: dict[str, str] | None = None) -> None:
        """Ask as the C programs do."""
        await asyncio.to_thread(wire.ask, self.path, kind, fields or GOOD)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, to say what one likes."""
        return await asyncio.open_unix_connection(str(self.path))

    async def reply_to(self, data: bytes) -> bytes:
        """All that is answered to some bytes."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncIterator[Agent]:
    agent = Agent(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(512)
        server = wire.Server(listening, agent.handle, agent.tenants.__contains__, **options)
        task = asyncio.create_task(server.run())
        try:
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


@NEEDS_ROOT
def test_a_request_is_answered_and_its_maker_known(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            await agent.ask()
            await agent.ask(wire.POSTSTOP, {"slice": "/s", "id": "c1"})
            asked, peer = agent.asked[0]
            assert asked == wire.Asked(wire.CREATE, GOOD)
            assert peer == wire.Peer(os.getpid(), processes.start_time(os.getpid()) or 0)
            assert agent.asked[1][0].kind == wire.POSTSTOP

    run(story())


@NEEDS_ROOT
def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    async def refuse(_: wire.Asked) -> None:
        raise AliquotError("no\nroom\x1b[31m" + "!" * 100_000)

    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            agent.answer = refuse
            with pytest.raises(AliquotError, match=r"^no; room\?\[31m!{1,5000}$"):
                await agent.ask()

    run(story())


@NEEDS_ROOT
def test_a_fault_of_the_agents_is_a_refusal_and_not_its_end(tmp_path: Path) -> None:
    async def fail(_: wire.Asked) -> None:
        raise KeyError("secret")

    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            agent.answer = fail
            with pytest.raises(AliquotError, match="the agent failed: see its log"):
                await agent.ask()
            agent.answer = None
            await agent.ask()

    run(story())


def _frame(magic: int = wire.MAGIC, kind: int = 1, status: int = 0, length: int = 0) -> bytes:
    return struct.pack("<4I", magic, kind, status, length)


@NEEDS_ROOT
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        os.urandom(4096),
        b"\0" * 100_000,
        _frame(magic=wire.MAGIC + 1),
        _frame(status=1),
        _frame(length=wire.MOST_BYTES + 1),
        _frame(length=0xFFFFFFFF),
    ],
)
def test_what_is_no_frame_is_dropped_without_an_answer(tmp_path: Path, data: bytes) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            assert await agent.reply_to(data) == b""
            await agent.ask()
            assert len(agent.asked) == 1

    run(story())


@NEEDS_ROOT
@pytest.mark.parametrize("data", [_frame(kind=77), _frame(), _frame(length=3) + b"a=b"])
def test_a_frame_that_asks_for_nothing_we_know_is_refused(tmp_path: Path, data: bytes) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            reply = await agent.reply_to(data)
            magic, kind, status, length = wire.HEADER.unpack(reply[:16])
            assert (magic, kind) == (wire.MAGIC, wire.HEADER.unpack(data[:16])[1])
            assert status == wire.REFUSED
            assert length == len(reply) - 16 > 0
            assert agent.asked == []

    run(story())


@NEEDS_ROOT
def test_a_frame_that_stops_halfway_is_dropped(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            for frame in (wire.pack_request(wire.CREATE, GOOD)[:-1], _frame()[:7], b""):
                reader, writer = await agent.connect()
                writer.write(frame)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert agent.asked == []

    run(story())


@NEEDS_ROOT
def test_who_is_slow_is_dropped_however_often_he_says_something(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s", frame_seconds=0.2) as agent:
            reader, writer = await agent.connect()
            frame = wire.pack_request(wire.CREATE, {"id": "c" * 60_000, "bundle": "/b"})
            with contextlib.suppress(ConnectionError):
                for byte in frame:
                    if reader.at_eof():
                        break
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            assert agent.asked == []
            writer.close()
            await agent.ask()

    run(story())


@NEEDS_ROOT
def test_who_says_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    async def story() -> None:
        # They may be silent for as long as this test may last.
        async with serving(tmp_path / "s", most_connections=8, frame_seconds=600) as agent:
            silent = [await agent.connect() for _ in range(40)]
            await asyncio.gather(*(agent.ask() for _ in range(20)))
            assert len(agent.asked) == 20
            # The oldest made room.
            assert await silent[0][0].read() == b""
            for _, writer in silent:
                writer.close()

    run(story())


@NEEDS_ROOT
def test_requests_wait_for_each_other_only_past_the_bound(tmp_path: Path) -> None:
    async def story() -> None:
        go, running = asyncio.Event(), 0
        most = 0

        async def wait(_: wire.Asked) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 4:
                go.set()
            await go.wait()
            running -= 1

        async with serving(tmp_path / "s", most_connections=4) as agent:
            agent.answer = wait
            await asyncio.gather(*(agent.ask() for _ in range(12)))
            assert len(agent.asked) == 12
            assert most == 4

    run(story())


@NEEDS_ROOT
def test_a_process_of_a_container_is_not_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "s") as agent:
            agent.tenants.add(os.getpid())
            assert await agent.reply_to(wire.pack_request(wire.CREATE, GOOD)) == b""
            assert agent.asked == []
            agent.tenants.clear()
            await agent.ask()

    run(story())


@NEEDS_ROOT
def test_another_user_is_not_answered_even_if_the_socket_lets_him_in(tmp_path: Path) -> None:
    program = """
import os, socket, sys
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    try:
        connection.sendall(bytes.fromhex(sys.argv[2]))
        print(connection.recv(100))
    except ConnectionError:
        print(b"")
"""

    async def story() -> None:
        # A folder that other users reach, which those of pytest are not.
        path = Path(f"/tmp/aliquot-test-wire-{os.getpid()}")
        try:
            async with serving(path) as agent:
                os.chmod(path, 0o666)  # noqa: PTH101, S103 - it must get in
                frame = wire.pack_request(wire.CREATE, GOOD).hex()
                process = await asyncio.create_subprocess_exec(
                    "/usr/bin/env",
                    *("python3", "-c", program, str(path), frame),
                    stdout=subprocess.PIPE,
                )
                shown, _ = await process.communicate()
                assert process.returncode == 0
                assert shown.strip() == b"b''"
                assert agent.asked == []
        finally:
            os.unlink(path)  # noqa: PTH108 - a moment's work

    run(story())


@NEEDS_ROOT
def test_who_hangs_up_early_disturbs_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        release = asyncio.Event()

        async def wait(asked: wire.Asked) -> None:
            if asked.fields["id"] == "gone":
                await release.wait()

        async with serving(tmp_path / "s") as agent:
            agent.answer = wait
            _, writer = await agent.connect()
            writer.write(wire.pack_request(wire.CREATE, {"id": "gone", "bundle": "/b"}))
            await writer.drain()
            writer.close()
            await agent.ask()
            release.set()
            await agent.ask()
            assert len(agent.asked) == 3

    run(story())


@NEEDS_ROOT
def test_an_agent_that_ends_hangs_up(tmp_path: Path) -> None:
    async def story() -> None:
        begun = asyncio.Event()

        async def hang(_: wire.Asked) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with serving(tmp_path / "s") as agent:
            agent.answer = hang
            asking = asyncio.create_task(agent.ask())
            await begun.wait()
        with pytest.raises(ConnectionResetError):
            await asking
        with pytest.raises(ConnectionRefusedError):
            await agent.ask()

    run(story())


def test_who_answers_something_else_is_not_the_agent(tmp_path: Path) -> None:
    program = "import sys; from aliquot.agent import wire; from pathlib import Path\n"
    program += "wire.ask(Path(sys.argv[1]), 1, {})"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with subprocess.Popen(
            [
                sys.executable,
                *("-c", program),
                str(tmp_path / "s"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            connection, _ = listening.accept()
            assert connection.recv(wire.MOST_BYTES)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()
            _, told = asking.communicate()
    assert "what answers is not the agent" in told
