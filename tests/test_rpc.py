"""The agent's socket for tools: what it tells, to whom, and what is said when nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import grpc
import pytest
from aliquot.agent import config, reach, rpc, rpc_pb2
from aliquot.agent.devices import DeviceProcess
from aliquot.agent.errors import AliquotError
from aliquot.agent.slices import Container

from commands import PATIENCE_SECONDS
from reading_parts import GIB, MIB, NOBODY, Board, Node, Passed, device, part, reachable
from slots import Slot, write_figures

ROOT = Path(__file__).resolve().parent.parent
ZERO, ONE = device(0), device(1)

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


def listening(path: Path) -> socket.socket:
    """A socket as systemd would hand it on."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(8)
    return made


def asked(node: Node, question: Callable[[Path], None]) -> None:
    """Serve while a question is asked, as a tool does it, in a thread of its own."""

    async def whole() -> None:
        async with rpc.serve(node):
            path = node.config.runtime_dir / "agent.sock"
            await asyncio.wait_for(asyncio.to_thread(question, path), PATIENCE_SECONDS)

    asyncio.run(whole())


# -- What it tells -------------------------------------------------------------------------------


def test_it_tells_its_version(node: Node) -> None:
    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            assert client.version() == metadata.version("aliquot")

    asked(node, question)


def test_it_tells_all_of_every_device(node: Node, board: Board) -> None:
    zero = replace(ZERO, links={ONE.uuid: 4}, enforcement=("driver", "shim"))
    board.found, board.ill = (zero, ONE), {ONE.uuid: "XID 79"}
    node.devices = board.found
    node.ledger.add("one", part(ZERO, 3 * GIB, 30))
    node.sample()

    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            first, second = client.devices().devices
        assert (first.uuid, first.vendor, first.index, first.model) == (
            (ZERO.uuid, "acme", 0, "Acme 0")
        )
        assert (first.memory_bytes, first.memory_used_bytes) == (16 * GIB, 3 * GIB)
        assert (first.memory_allocated_bytes, first.cores_allocated, first.slices) == (
            (3 * GIB, 30, 1)
        )
        assert (first.busy, first.power_watts, first.temperature_celsius) == (0.5, 70.5, 41.0)
        assert not first.HasField("memory_busy")
        assert (first.healthy, first.reason) == (True, "")
        assert list(first.enforcement) == ["driver", "shim"]
        assert (first.pci_address, first.numa_node) == ("0000:00:00.0", 0)
        assert dict(first.links) == {ONE.uuid: 4}
        assert (second.healthy, second.reason) == (False, "XID 79")

    asked(node, question)


def test_it_tells_all_of_every_slice(node: Node, board: Board) -> None:
    line = Path("/proc/self/cgroup").read_text().splitlines()[0]
    node.ledger.add("one", part(ZERO, 3 * GIB, 30), part(ONE, GIB, 10), cgroups=(line,))
    usage = node.ledger.region("one") / "usage"
    write_figures(usage, 1, peak=700 * MIB, refusals=2**64 - 1)
    slot = Slot(usage, 0, 12, b"train")
    slot.charge(0, 5 * MIB)
    slot.charge(1, 600 * MIB)
    board.rows = [DeviceProcess(ONE.uuid, os.getpid(), 640 * MIB, 0.25, None)]
    node.sample()
    node.sample()
    node.ledger.add("new", part(ZERO), init_pid=0)

    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            one, new = client.slices().slices
        assert (one.key, one.container_id, one.name) == ("one", "id-one", "default/one/main")
        assert (one.namespace, one.pod, one.container) == ("default", "one", "main")
        assert one.path == str(node.ledger.folder("one"))
        assert one.state == rpc_pb2.STATE_RUNNING
        assert one.created_unix_ns == 1_700_000_000_000_000_000
        zero, second = one.parts
        assert (zero.device_uuid, zero.device_index, zero.device_model) == (ZERO.uuid, 0, "Acme 0")
        assert (zero.cap_bytes, zero.cores, zero.charged_bytes) == (3 * GIB, 30, 5 * MIB)
        assert (second.device_index, second.enforcement) == (1, "shim")
        assert (second.charged_bytes, second.seen_bytes, second.unseen_bytes) == (
            (600 * MIB, 640 * MIB, 40 * MIB)
        )
        assert (second.peak_bytes, second.refusals) == (700 * MIB, 2**64 - 1)
        assert second.busy == 0.25
        assert not second.HasField("memory_busy")
        (process,) = one.processes
        assert (process.pid, process.command) == (12, "train")
        assert list(process.charged_bytes) == [5 * MIB, 600 * MIB]
        assert (new.state, new.parts[0].HasField("charged_bytes")) == (
            (rpc_pb2.STATE_STARTING, False)
        )

    asked(node, question)
    slot.die()


def test_whatever_a_container_is_called_it_is_told(node: Node) -> None:
    name = "\ud800\x1b[2J"
    node.ledger.add("one", part(ZERO), container=Container(name, name, name, name, name))

    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            assert client.slices().slices[0].pod == "??[2J"

    asked(node, question)


def test_however_many_processes_there_are_they_can_be_told(node: Node) -> None:
    """What tenants make of their usage must not silence the agent."""
    for number in range(240):
        node.ledger.add(f"s{number}", part(ZERO, GIB))
    usage = node.ledger.region("s0") / "usage"
    slots = [Slot(usage, number, 2**32 - 1, b"x" * 15) for number in range(512)]
    node.sample()
    (full, *_) = node.readings.latest().slices
    node.readings._slices = {
        key: replace(reading, processes=full.processes)
        for key, reading in node.readings._slices.items()
    }

    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            told = client.slices()
        assert sum(len(piece.processes) for piece in told.slices) == 240 * 512
        # More than gRPC takes where nobody says otherwise.
        assert told.ByteSize() > 4 << 20

    asked(node, question)
    for slot in slots:
        slot.die()


# -- Who may ask ---------------------------------------------------------------------------------


def test_the_sockets_are_roots() -> None:
    def question(path: Path) -> None:
        sockets = [one for one in path.parent.iterdir() if one.is_socket()]
        assert len(sockets) == 2
        for one in sockets:
            assert one.stat().st_mode & 0o777 == 0o600
            script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(one)!r})"
            tried = subprocess.run(
                [*NOBODY, sys.executable, "-IS", "-c", script],
                check=False,
                capture_output=True,
                text=True,
            )
            assert "PermissionError" in tried.stderr

    with reachable() as folder:
        asked(Node(folder), question)
        assert [one for one in folder.iterdir() if one.is_socket()] == []


def test_a_socket_that_was_passed_is_served_and_left(node: Node) -> None:
    path = node.config.runtime_dir / "agent.sock"
    passed = listening(path)
    kept = socket.socket(fileno=os.dup(passed.fileno()))

    # Somebody asks before the agent is there: that is what starts it.
    first: list[str] = []

    def early() -> None:
        with rpc.Client(path, PATIENCE_SECONDS) as client:
            first.append(client.version())

    waiting = threading.Thread(target=early)
    waiting.start()

    def question(_: Path) -> None:
        waiting.join()
        with rpc.Client(path) as client:
            assert client.version() == first[0]

    node.passed["agent"] = Passed(passed)
    asked(node, question)
    # It is systemd's: the next agent is to be asked on it.
    assert path.is_socket()
    reach.check(path)
    kept.close()


def test_what_a_killed_agent_left_is_in_nobodys_way(node: Node) -> None:
    for name in ("agent.sock", ".agent.sock"):
        listening(node.config.runtime_dir / name).close()
    asked(node, lambda path: rpc.Client(path).__exit__())


def test_a_folder_with_odd_letters_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a %41?#é"
    folder.mkdir()

    def question(path: Path) -> None:
        with rpc.Client(path) as client:
            assert client.version()

    asked(Node(folder), question)


def test_foreign_talk_and_silence_keep_nobody_from_asking(node: Node) -> None:
    def question(path: Path) -> None:
        with contextlib.ExitStack() as stack:
            for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100000, b"PRI * HTTP/2.0\r\n"):
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.connect(str(path))
                with contextlib.suppress(OSError):
                    other.sendall(said)
            with rpc.Client(path) as client:
                assert client.version()

    asked(node, question)


def test_more_connections_than_there_are_seats_are_hung_up_on(node: Node) -> None:
    def question(path: Path) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(rpc._MOST_CONNECTIONS):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
            more = stack.enter_context(socket.socket(socket.AF_UNIX))
            more.connect(str(path))
            assert more.recv(1) == b""

    asked(node, question)


def test_the_end_waits_for_nobody(node: Node) -> None:
    async def whole() -> None:
        async with rpc.serve(node):
            reader, writer = await asyncio.open_unix_connection(
                node.config.runtime_dir / "agent.sock"
            )
            await reader.read(1)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    asyncio.run(asyncio.wait_for(whole(), PATIENCE_SECONDS))


def test_a_folder_that_is_not_there_is_one_line(node: Node) -> None:
    node.config.runtime_dir /= "none"
    with pytest.raises(AliquotError, match=r"agent\.sock cannot be listened on: No such file"):
        asked(node, lambda _: None)


# -- When nobody answers -------------------------------------------------------------------------


def refusal(path: Path, seconds: float = 5.0) -> reach.AgentError:
    with pytest.raises(reach.AgentError) as caught, rpc.Client(path, seconds) as client:
        client.version()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("left", [False, True])
def test_without_an_agent_it_says_how_to_start_one(tmp_path: Path, left: bool) -> None:
    path = tmp_path / "agent.sock"
    if left:
        listening(path).close()
    error = refusal(path)
    assert isinstance(error, reach.AgentAbsentError)
    reason = "Connection refused" if left else "No such file or directory"
    assert str(error) == (
        f"the agent does not answer on {path}: {reason}: start it (systemctl start aliquot-agent)"
    )


def test_an_agent_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listening(path):
        assert "did not answer within 0.2 s: see its log" in str(refusal(path, 0.2))


def test_an_older_agent_is_named_as_that(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    @contextlib.asynccontextmanager
    async def old() -> AsyncIterator[None]:
        server = grpc.aio.server()
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    async def whole() -> None:
        async with old():
            error = await asyncio.to_thread(refusal, path)
            assert "does not know 'Version': restart it after an upgrade" in str(error)

    asyncio.run(whole())


def test_an_agent_that_fails_says_where_to_look(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "readings", None)

    def question(path: Path) -> None:
        with (
            pytest.raises(reach.AgentError, match=r"failed: .*journalctl") as caught,
            rpc.Client(path) as client,
        ):
            client.devices()
        assert "\n" not in str(caught.value)

    asked(node, question)


def test_a_path_too_long_for_a_socket_is_one_line(tmp_path: Path) -> None:
    assert "cannot be connected to: AF_UNIX path too long" in str(refusal(tmp_path / ("x" * 200)))


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({}, "/run/aliquot/agent.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/aliquot/agent.sock"),
        ({"ALIQUOT_RUNTIME_DIR": "/x"}, "/x/agent.sock"),
    ],
)
def test_there_is_one_agent_for_the_node(environment: dict[str, str], path: str) -> None:
    assert reach.socket_path(environment) == Path(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('runtime_dir = "/run/elsewhere"', "/run/elsewhere/agent.sock"),
        ("placement = 7", "/run/aliquot/agent.sock"),
        (None, "/run/aliquot/agent.sock"),
    ],
    ids=["said", "mistaken", "unreadable"],
)
def test_the_nodes_configuration_says_where_the_agent_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, path: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text) if text is not None else file.mkdir()
    monkeypatch.setattr(config, "DEFAULT_PATH", file)
    assert reach.socket_path({}) == Path(path)
    assert reach.socket_path({"ALIQUOT_RUNTIME_DIR": "/x"}) == Path("/x/agent.sock")


# -- What is written of it -----------------------------------------------------------------------


def test_no_number_of_a_message_is_there_twice() -> None:
    text = (ROOT / "agent/rpc.proto").read_text(encoding="utf-8")
    for name, body in re.findall(
        r"^(?:message|enum) (\w+) \{(.*?)^\}", text, re.DOTALL | re.MULTILINE
    ):
        numbers = re.findall(r"= (\d+);", body)
        assert len(numbers) == len(set(numbers)), name


def test_the_private_socket_fits_where_the_others_do() -> None:
    """The configuration bounds the folder's path by the longest name in it."""
    assert len(rpc._PRIVATE) <= len("runtime.sock")
