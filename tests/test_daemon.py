"""The agent as a process: one a node, killed at any moment, stopped and started over containers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.agent import sockets, wire
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import Ledger
from aliquot.shim import region

import agent_process
from agent_node import Node, end
from agent_parts import NEEDS_ROOT, make_bundle, swept
from commands import ALIQUOT, wait_for
from sharers import FREE, Watched

pytestmark = NEEDS_ROOT


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with swept(made.base):
        try:
            yield made
        finally:
            for pid in made.running:
                with contextlib.suppress(ProcessLookupError):
                    end(pid)


# -- Life ------------------------------------------------------------------------------------------


def test_containers_come_and_go(node: Node) -> None:
    first, second = (make_bundle(node.folder / name, memory=10) for name in ("one", "two"))
    third = make_bundle(node.folder / "three", memory=10)
    with node.agent():
        assert node.start(first).returncode == 0
        assert node.start(second).returncode == 0
        refused = node.start(third)
        assert refused.stderr == "not created: three: no device has 10 GiB left\n"
        node.stop(first, node.running[0])
        assert node.start(third).returncode == 0
        assert node.names() == {"two", "three"}


def test_a_container_that_ends_without_a_word_gives_its_slice_back(node: Node) -> None:
    with node.agent():
        node.start(make_bundle(node.folder / "one"))
        end(node.running.pop())
        wait_for(lambda: node.names() == set(), "the end of the slice")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_is_stopped_keeps_slices_and_leaves_no_socket(
    node: Node, number: signal.Signals
) -> None:
    with node.agent() as agent:
        node.start(make_bundle(node.folder / "one"))
        # Nothing is meant by it.
        agent.send_signal(signal.SIGHUP)
        node.ask(wire.POSTSTOP, slice=f"{node.base}/containers/x-00000000", id="x")
        agent.send_signal(number)
        _, log = agent.communicate()
        assert agent.returncode == 0, log
    assert not (node.base / "runtime.sock").exists()
    node.check_books()
    lines = log.splitlines()
    assert lines[-1] == "aliquot agent: stopped; slices stay"
    assert all(line.startswith("aliquot agent: ") for line in lines)


def test_the_next_agent_takes_up_what_lives_and_settles_what_ended(node: Node) -> None:
    with node.agent() as agent:
        for name in ("one", "two"):
            node.start(make_bundle(node.folder / name))
        agent.kill()
        agent.wait()
    end(node.running.pop())
    with node.agent():
        assert node.names() == {"one"}
        node.check_books()
        node.stop(node.folder / "one", node.running[0])
        node.check_books()


def test_the_next_agent_makes_grants_what_the_ledger_says(node: Node) -> None:
    with node.agent() as agent:
        node.start(make_bundle(node.folder / "one"))
        agent.kill()
        agent.wait()
    ledger = Ledger(node.base)
    ledger.open()
    (piece,) = ledger.slices()
    (part,) = piece.parts
    # An agent was killed after it had written a change down, and before it told the container.
    part = dataclasses.replace(part, memory_bytes=part.memory_bytes // 2, cores=20, cores_max=30)
    ledger.replace(dataclasses.replace(piece, parts=(part,)))
    path = ledger.region(piece.key) / "grant"
    for _ in range(2):
        with node.agent(), path.open("rb") as file:
            (granted,) = region.read_grant(file.fileno(), str(path)).devices
        assert (granted.cap, granted.cores) == (part.memory_bytes, 30)


def test_running_containers_take_turns_whatever_becomes_of_the_agent(node: Node) -> None:
    with node.agent():
        for name in ("one", "two"):
            assert node.start(make_bundle(node.folder / name)).returncode == 0
        ledger = Ledger(node.base)
        ledger.open()
        found = [Watched(ledger.region(piece.key)) for piece in ledger.slices()]
        wait_for(lambda: all(one.beat() for one in found), "an arbiter")
        wait_for(lambda: FREE not in {one.gate().state for one in found}, "a shared device")
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Gates stay as they are without an agent, and whoever looks sees that it is gone.
        states = [one.gate().state for one in found]
        beats = [one.beat() for one in found]
        with node.agent() as agent:
            for one, beat in zip(found, beats, strict=True):
                wait_for(lambda one=one, beat=beat: one.beat() > beat + 1, "a beat")  # type: ignore[misc]
            agent.send_signal(number)
            agent.wait()
        beats = [one.beat() for one in found]
        assert [one.gate().state for one in found] == states
        assert [one.beat() for one in found] == beats
    with node.agent():
        node.stop(node.folder / "two", node.running[1])
        wait_for(lambda: found[0].gate().state == FREE, "the device for itself")
    for one in found:
        one.close()


def test_what_a_container_has_is_changed_by_the_agent_that_runs(node: Node) -> None:
    def change(*said: str) -> None:
        done = subprocess.run(
            [*ALIQUOT, "set", "one", *said],
            env={**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def gate_is(state: str) -> None:
        # It is the arbiter's to write, as soon as it has been told.
        with path.open("rb") as file:
            wait_for(lambda: region.read_gate(file.fileno(), 0) == state, f"a gate that is {state}")

    with node.agent("tools") as agent:
        node.start(make_bundle(node.folder / "one"))
        (folder,) = (node.base / "containers").iterdir()
        path = folder / "region/grant"
        gate_is("free")
        change("--cores-max", "50")
        gate_is("open")
        change("--cores-max", "100")
        gate_is("free")
        change("--cores-max", "50", "--priority", "-4")
        gate_is("open")
        agent.kill()
        agent.wait()
    with node.agent("tools"), path.open("rb") as file:
        (granted,) = region.read_grant(file.fileno(), str(path)).devices
        assert (granted.cores_min, granted.cores, granted.priority) == (10, 50, -4)
        gate_is("open")
        change("--policy", "native")
        gate_is("free")


def test_there_is_one_agent_a_base(node: Node) -> None:
    with node.agent() as agent:
        with subprocess.Popen(
            [
                *(sys.executable, agent_process.__file__, str(node.base), str(node.lib)),
                str(os.open(os.devnull, os.O_WRONLY)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        ) as other:
            _, told = other.communicate()
        assert other.returncode != 0
        assert f"another agent runs in {node.base}, as process {agent.pid}: stop it first" in told
        node.start(make_bundle(node.folder / "one"))
        assert node.names() == {"one"}


def test_the_socket_is_roots(node: Node) -> None:
    with node.agent():
        assert (node.base / "runtime.sock").stat().st_mode & 0o777 == 0o600
        assert (node.base / "agent.lock").stat().st_mode & 0o777 == 0o600


# -- Killed ----------------------------------------------------------------------------------------


def _lines_of(node: Node) -> int:
    """Count the lines that one container's life takes the agent, from ready to gone."""
    low, high = 0, 4096
    # A run that is not killed has fewer lines than it was allowed.
    while low < high:
        middle = (low + high) // 2
        with _forked(node, middle) as agent:
            _live(node, f"probe{middle}")
            died = _was_killed(agent)
        low, high = (middle + 1, high) if died else (low, middle)
    return low


def _live(node: Node, name: str) -> None:
    """Have a container live and end, as far as the agent goes along."""
    bundle = make_bundle(node.folder / name)
    if node.start(bundle).returncode == 0:
        with contextlib.suppress(OSError, AliquotError):
            node.stop(bundle, node.running[-1])


def _was_killed(agent: int) -> bool:
    """End an agent; says whether it had killed itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(agent, signal.SIGTERM)
    _, status = os.waitpid(agent, 0)
    return os.WIFSIGNALED(status)


@contextlib.contextmanager
def _forked(node: Node, lines: int | None) -> Iterator[int]:
    """An agent, which may kill itself after so many lines; forked, since so many are started."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            agent_process.serve(node.base, node.lib, writing, lines)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as ready:  # noqa: PTH123 - an open file
        assert ready.read(1) == b"r"
    try:
        yield pid
    finally:
        # Unless the story has ended it.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def test_killed_at_any_step_the_books_are_right_at_the_next_start(node: Node) -> None:
    with node.agent():
        neighbour = node.folder / "neighbour"
        assert node.start(make_bundle(neighbour)).returncode == 0
    total = _lines_of(node)
    assert total > 200
    created = started = 0
    for step in range(0, total, 11):
        bundle = make_bundle(node.folder / f"step{step}")
        with _forked(node, step) as agent:
            result = node.start(bundle)
            created += "not created" in result.stderr
            started += result.returncode == 0
            if result.returncode == 0 and step % 2:
                with contextlib.suppress(OSError, AliquotError):
                    node.stop(bundle, node.running[-1])
            _was_killed(agent)
        with _forked(node, None) as agent:
            # As it is, before anything else happens: who lives has a slice, and nobody else.
            node.check_books()
            for pid in node.running[1:]:
                end(pid)
                node.running.remove(pid)
            wait_for(lambda: node.names() == {"neighbour"}, "the end of the slices")
            assert not _was_killed(agent)
    print(f"{total} lines, {created} not created, {started} started")
    assert created
    assert started


# -- systemd, messages -----------------------------------------------------------------------------


def _passed(
    path: Path, name: str = "runtime", mode: int = 0o600
) -> tuple[socket.socket, dict[str, str]]:
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(path))
    path.chmod(mode)
    opened.listen()
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
    return opened, told


def _as_third(opened: socket.socket, told: dict[str, str]) -> str:
    """Look at a passed socket in a process that has it as descriptor 3; answers what came of it."""
    program = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
from aliquot.agent import sockets
from aliquot.agent.errors import AliquotError
environment = dict(pair.split("=", 1) for pair in sys.argv[2:])
if environment.get("LISTEN_PID") == "own":
    environment["LISTEN_PID"] = str(os.getpid())
try:
    found = sockets.passed(environment, ("runtime", "agent"))
    print({name: str(one.path) for name, one in found.items()}, environment)
except AliquotError as error:
    print(error)
"""
    result = subprocess.run(
        [
            *(sys.executable, "-c", program, str(opened.fileno())),
            *(f"{key}={value}" for key, value in told.items()),
        ],
        pass_fds=(opened.fileno(),),
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout.strip()


def test_a_socket_that_systemd_listens_on_is_used(tmp_path: Path) -> None:
    opened, told = _passed(tmp_path / "s")
    with opened:
        own = {**told, "LISTEN_PID": "own"}
        assert _as_third(opened, own) == f"{{'runtime': '{tmp_path}/s'}} {{}}"
        assert _as_third(opened, {**own, "LISTEN_FDNAMES": "web"}) == "{} {}"
        # Meant for a parent of ours.
        assert _as_third(opened, told) == "{} {}"
        assert "has not 1 names" in _as_third(opened, {**own, "LISTEN_FDNAMES": "a:b"})
        assert "no number of sockets" in _as_third(opened, {**own, "LISTEN_FDS": "-1"})
        (tmp_path / "s").chmod(0o666)
        assert "others may connect to it" in _as_third(opened, own)
    with socket.socket(socket.AF_INET) as web:
        web.bind(("127.0.0.1", 0))
        web.listen()
        assert "no listening Unix stream socket" in _as_third(web, own)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sockets.notify("READY=1")
        assert told.recv(100) == b"READY=1"
    # Nobody listens any more, or never did.
    sockets.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    sockets.notify("READY=1")


def test_what_lies_where_the_socket_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runtime.sock").write_text("mine")
    with (
        pytest.raises(AliquotError, match="is in the way"),
        sockets.listen(tmp_path / "runtime.sock"),
    ):
        pass
    assert (tmp_path / "runtime.sock").read_text() == "mine"
    long = tmp_path / ("x" * 120)
    with pytest.raises(AliquotError, match="cannot be listened on"), sockets.listen(long):
        pass


@pytest.mark.skipif(
    importlib.util.find_spec("aliquot.agent.config") is None,
    reason="this package has no configuration yet",
)
def test_a_configuration_is_checked_without_an_agent(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    command = [*ALIQUOT, "agent", "--check", "--config", str(file)]
    file.write_text(f'runtime_dir = "{tmp_path}/run"\n')
    good = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (good.returncode, good.stdout) == (0, f"{file}: no mistakes\n")
    file.write_text("nonsense = 1\nplacement = 7\n")
    bad = subprocess.run(command, check=False, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "nonsense" in bad.stderr
    assert "placement" in bad.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_of_the_log_is_one_line_whatever_is_in_it(as_json: bool) -> None:
    program = f"""
import logging
from aliquot.agent.journal import log_to_stderr
log_to_stderr(as_json={as_json})
log = logging.getLogger("aliquot.agent.x")
log.warning("%s", "two\\nlines \\x1b[31m")
try:
    raise KeyError("a\\nb")
except KeyError:
    log.exception("it failed")
"""
    environment = {"JOURNAL_STREAM": "1:2", "PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    first, second = result.stderr.splitlines()
    if as_json:
        assert json.loads(first)["msg"] == "two\nlines \x1b[31m"
        assert json.loads(second)["level"] == "error"
        assert "KeyError" in json.loads(second)["msg"]
    else:
        assert first == "<4>aliquot agent: two?lines ?[31m"
        assert second.startswith("<3>aliquot agent: it failed: ")
        assert "KeyError" in second
