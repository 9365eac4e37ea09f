"""Metrics: what Prometheus scrapes, what people see, and that nobody hurts whoever serves them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import prometheus_client
import pytest
from aliquot.agent import daemon, metrics
from aliquot.agent.devices import DeviceProcess, Sample
from aliquot.agent.errors import AliquotError
from aliquot.agent.slices import Container
from aliquot.shim import region
from prometheus_client.parser import text_string_to_metric_families

from commands import PATIENCE_SECONDS
from reading_parts import ACCOUNT, GIB, MIB, Board, Node, device, part
from slots import Slot, write_figures, write_time

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
ZERO, ONE = device(0), device(1)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
UNITS = ("bytes", "ratio", "seconds", "watts", "celsius")

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


def serving(node: Node, story: Callable[[int], Awaitable[None]]) -> None:
    """Serve metrics while a story, which is told the port, happens."""

    async def whole() -> None:
        async with metrics.serve(node) as port:
            await asyncio.wait_for(story(port), PATIENCE_SECONDS)

    asyncio.run(whole())


async def ask(port: int, request: bytes) -> tuple[str, dict[str, str], str]:
    """Send something; the status line, the fields in lower case, and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return status, fields, body


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def scrape(node: Node, *fields: str) -> str:
    """What Prometheus gets."""
    found: list[str] = []

    async def story(port: int) -> None:
        status, _, body = await ask(port, get("/metrics", *fields))
        assert status == "HTTP/1.1 200 OK"
        found.append(body)

    serving(node, story)
    return found[0]


def samples(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """The values in a scrape by name and labels; no series is there twice."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rows = found.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in rows, f"{sample.name}{sample.labels} is there twice"
            rows[labels] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """The one value of a metric whose labels have these."""
    rows = samples(text)[name]
    (found,) = (one for told, one in rows.items() if set(labels.items()) <= told)
    return found


def busy_node(node: Node, board: Board) -> None:
    """Give a node a slice with every reading that there is."""
    line = Path("/proc/self/cgroup").read_text().splitlines()[0]
    promised = part(ZERO, 4 * GIB, 25, cores_max=60, weight=300, priority=-7)
    node.ledger.add("one", promised, cgroups=(line,))
    node.accounts["one", ZERO.uuid] = ACCOUNT
    usage = node.ledger.region("one") / "usage"
    write_figures(usage, 0, peak=700 * MIB, refusals=3)
    write_time(usage, 0, 2_500_000_000, 750_000_000, waits=40, let_through=6)
    slot = Slot(usage, 0)
    slot.charge(0, 600 * MIB)
    board.rows = [DeviceProcess(ZERO.uuid, os.getpid(), 640 * MIB, 0.25, 0.1)]
    node.sample()
    node.sample()
    slot.die()


# -- The names -----------------------------------------------------------------------------------


def test_page_code_and_scrape_name_the_same_metrics(node: Node, board: Board) -> None:
    rows = re.findall(r"^\| `(aliquot_\w+)` \| (\w+) \|(.*?)\| (.+) \|$", PAGE, re.MULTILINE)
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }
    assert len(rows) == len(documented)
    assert documented == {name: (m.kind, m.labels) for name, m in metrics.METRICS.items()}
    for name, _, _, text in rows:
        # The help in the code is the beginning of what the page says.
        told = metrics.METRICS[name].text.rstrip(".")
        assert text.startswith(told.partition(",")[0]), name
    busy_node(node, board)
    text = scrape(node)
    found = {}
    for family in text_string_to_metric_families(text):
        kind = "info" if family.name.endswith("_info") else family.type
        for sample in family.samples:
            found[sample.name] = (kind, frozenset(sample.labels))
            assert family.documentation == metrics.METRICS[sample.name].text
    assert found == {name: (m.kind, frozenset(m.labels)) for name, m in metrics.METRICS.items()}


def test_names_and_units_are_as_prometheus_has_them() -> None:
    for name, told in metrics.METRICS.items():
        assert re.fullmatch(r"aliquot_(container|device|agent)_[a-z_]+", name)
        assert told.text.endswith(".")
        assert (told.kind == "counter") == name.endswith("_total")
        assert (told.kind == "info") == name.endswith("_info")
        if told.kind == "gauge":
            counts = ("processes", "slices", "healthy", "weight", "priority")
            assert name.endswith((*(f"_{unit}" for unit in UNITS), *counts)), name


def test_nothing_is_left_in_the_process_own_registry(node: Node) -> None:
    before = set(prometheus_client.REGISTRY._names_to_collectors)
    text = scrape(node)
    assert set(prometheus_client.REGISTRY._names_to_collectors) == before
    assert "python_info" not in text
    assert "process_" not in text.replace("aliquot_container_processes", "")


# -- The values ----------------------------------------------------------------------------------


def test_every_reading_has_its_value(node: Node, board: Board) -> None:
    busy_node(node, board)
    text = scrape(node)
    mine = {"namespace": "default", "pod": "one", "container": "main", "device_uuid": ZERO.uuid}
    expected = {
        "memory_used_bytes": 640 * MIB,
        "memory_cap_bytes": 4 * GIB,
        "memory_peak_bytes": 700 * MIB,
        "refusals_total": 3,
        "processes": 1,
        "unseen_bytes": 40 * MIB,
        "busy_ratio": 0.25,
        "cores_min_ratio": 0.25,
        "cores_max_ratio": 0.6,
        "weight": 300,
        "priority": -7,
        "wanted_ratio": 0.3,
        "received_ratio": 0.28,
        "device_seconds_total": 2.5,
        "held_seconds_total": 12.5,
        "wait_seconds_total": 0.75,
        "turns_total": 321,
        "overruns_total": 2,
        "let_through_total": 6,
    }
    for name, wanted in expected.items():
        assert value(text, f"aliquot_container_{name}", **mine) == wanted, name
    identity = {**mine, "container_id": "id-one", "enforcement": "shim"}
    assert value(text, "aliquot_container_info", **identity) == 1
    expected = {
        "memory_total_bytes": 16 * GIB,
        "memory_used_bytes": 3 * GIB,
        "memory_allocated_bytes": 4 * GIB,
        "cores_allocated_ratio": 0.25,
        "busy_ratio": 0.5,
        "healthy": 1,
        "power_watts": 70.5,
        "temperature_celsius": 41,
        "slices": 1,
    }
    for name, wanted in expected.items():
        assert value(text, f"aliquot_device_{name}", device_uuid=ZERO.uuid) == wanted, name
    assert value(text, "aliquot_device_slices", device_uuid=ONE.uuid) == 0
    assert value(text, "aliquot_device_info", vendor="acme", model="Acme 1", index="1") == 1


def test_what_cannot_be_told_has_no_sample(node: Node, board: Board) -> None:
    board.ill[ONE.uuid] = "gone"
    board.busy = None
    node.ledger.add("one", part(ZERO))
    before = samples(scrape(node))
    # Nothing was read yet: only what is promised is known.
    assert {name for name in before if "container" in name} == {
        "aliquot_container_memory_cap_bytes",
        "aliquot_container_cores_min_ratio",
        "aliquot_container_cores_max_ratio",
        "aliquot_container_weight",
        "aliquot_container_priority",
        "aliquot_container_info",
    }
    assert "aliquot_agent_sample_timestamp_seconds" not in before
    assert "aliquot_device_power_watts" not in before
    (node.ledger.region("one") / "usage").unlink()
    node.sample()
    text = scrape(node)
    found = samples(text)
    assert "aliquot_container_memory_peak_bytes" not in found
    assert "aliquot_device_busy_ratio" not in found
    assert value(text, "aliquot_device_healthy", device_uuid=ONE.uuid) == 0
    assert value(text, "aliquot_device_healthy", device_uuid=ZERO.uuid) == 1


def test_a_slice_counts_from_its_admission_and_not_after_its_end(node: Node) -> None:
    node.ledger.add("one", part(ZERO))
    assert value(scrape(node), "aliquot_device_slices", device_uuid=ZERO.uuid) == 1
    node.ledger.remove("one")
    text = scrape(node)
    assert value(text, "aliquot_device_memory_allocated_bytes", device_uuid=ZERO.uuid) == 0
    assert "aliquot_container_" not in text


COUNTERS = ("refusals", "device_seconds", "wait_seconds", "let_through")


def counters(node: Node) -> dict[str, float]:
    """What is counted of the one container now."""
    node.sample()
    text = scrape(node)
    return {name: value(text, f"aliquot_container_{name}_total", pod="one") for name in COUNTERS}


def test_counters_never_fall_whatever_a_container_writes(node: Node) -> None:
    node.ledger.add("one", part(ZERO))
    usage = node.ledger.region("one") / "usage"
    write_figures(usage, 0, peak=GIB, refusals=9)
    write_time(usage, 0, 9_000_000_000, 8_000_000_000, waits=7, let_through=5)
    before = counters(node)
    assert before == dict(zip(COUNTERS, (9, 9, 8, 5), strict=True))
    write_figures(usage, 0, peak=0, refusals=0)
    write_time(usage, 0)
    assert counters(node) == before
    write_time(usage, 0, 10_000_000_000, 7_000_000_000, let_through=7)
    assert counters(node) == {**before, "device_seconds": 10, "let_through": 7}


def test_nobody_has_used_more_time_than_has_passed(node: Node) -> None:
    piece = node.ledger.add("one", part(ZERO))
    node.ledger.put(replace(piece, created_unix_ns=time.time_ns()))
    started = piece.created_unix_ns
    usage = node.ledger.region("one") / "usage"
    most = 2**64 - 1
    write_figures(usage, 0, peak=most, refusals=most)
    write_time(usage, 0, most, most, most, most)
    told = counters(node)
    assert 0 <= told["device_seconds"] <= (time.time_ns() - started) / 1e9
    assert told["wait_seconds"] <= told["device_seconds"] * region.MAX_SLOTS * 1024
    # Whose number it is to lie about.
    assert {told[name] for name in ("refusals", "let_through")} == {float(most)}
    again = counters(node)
    assert all(again[name] >= told[name] for name in COUNTERS)


def test_a_container_that_is_made_anew_counts_anew(node: Node) -> None:
    piece = node.ledger.add("one", part(ZERO))
    usage = node.ledger.region("one") / "usage"
    write_time(usage, 0, 9_000_000_000)
    assert counters(node)["device_seconds"] == 9
    write_time(usage, 0, 1_000_000_000)
    node.ledger.put(replace(piece, created_unix_ns=piece.created_unix_ns + 1))
    assert counters(node)["device_seconds"] == 1


def test_new_terms_are_told_from_the_moment_that_they_hold(node: Node, board: Board) -> None:
    busy_node(node, board)
    (piece,) = node.ledger.slices()
    changed = part(ZERO, 2 * GIB, 10, cores_max=20)
    node.ledger.put(replace(piece, parts=(changed,)))
    text = scrape(node)
    assert value(text, "aliquot_container_cores_min_ratio", pod="one") == 0.1
    assert value(text, "aliquot_container_cores_max_ratio", pod="one") == 0.2
    assert value(text, "aliquot_container_memory_cap_bytes", pod="one") == 2 * GIB
    assert value(text, "aliquot_container_device_seconds_total", pod="one") == 2.5


def test_while_nothing_is_measured_there_is_no_share(node: Node, board: Board) -> None:
    busy_node(node, board)
    node.accounts["one", ZERO.uuid] = replace(ACCOUNT, wanted=None, received=None)
    found = samples(scrape(node))
    for name in ("wanted_ratio", "received_ratio"):
        assert f"aliquot_container_{name}" not in found
    assert "aliquot_container_held_seconds_total" in found


def test_without_an_arbiter_there_is_no_share(node: Node, board: Board) -> None:
    busy_node(node, board)
    node.accounts.clear()
    found = samples(scrape(node))
    for name in ("wanted_ratio", "received_ratio", "held_seconds_total", "turns_total"):
        assert f"aliquot_container_{name}" not in found
    assert "aliquot_container_device_seconds_total" in found


def test_no_series_is_there_twice(node: Node) -> None:
    """A container that is started anew, and containers that have no names but their ids."""
    for number in range(2):
        again = Container(f"id-{number}", "/bundle", "default", "pod", "main")
        node.ledger.add(f"again{number}", part(ZERO, (number + 1) * GIB), container=again)
        plain = Container(f"plain-{number}", "/bundle", "default")
        node.ledger.add(f"plain{number}", part(ZERO, GIB), container=plain)
    text = scrape(node)
    assert value(text, "aliquot_container_memory_cap_bytes", pod="pod") == 2 * GIB
    assert value(text, "aliquot_container_info", pod="pod", container_id="id-1") == 1
    for number in range(2):
        assert value(text, "aliquot_container_memory_cap_bytes", container=f"plain-{number}") == GIB
    assert value(text, "aliquot_device_memory_allocated_bytes", device_uuid=ZERO.uuid) == 5 * GIB


NASTY = ['"}\n', "</td><script>x</script>", "\ud800\x1b[2J", "\\", "ünï", "a" * 300]


@pytest.mark.parametrize("name", NASTY)
def test_whatever_a_container_is_called_the_page_stays_sound(node: Node, name: str) -> None:
    node.ledger.add("one", part(ZERO), container=Container(name, "/b", name, name, name))
    text = scrape(node)
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    assert value(text, "aliquot_container_info", pod=shown, container_id=shown) == 1
    text = metrics.page(node.readings.latest())
    text.encode()
    assert "<script" not in text
    assert "\x1b" not in text


def test_prometheus_may_ask_for_openmetrics(node: Node, board: Board) -> None:
    busy_node(node, board)
    text = scrape(node, "Accept: application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert "# TYPE aliquot_container_refusals counter" in text
    assert "# TYPE aliquot_device info" in text


# -- The page ------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag and where it leads."""
        self.tags.append(tag)
        self.links += [told or "" for name, told in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        """Take note of a text."""
        self.cells.append(data)


def test_the_page_shows_devices_and_slices_and_leads_to_the_metrics(
    node: Node, board: Board
) -> None:
    board.ill[ONE.uuid] = "XID 79: <it> has fallen off"
    busy_node(node, board)

    async def story(port: int) -> None:
        status, fields, body = await ask(port, get("/"))
        assert status == "HTTP/1.1 200 OK"
        assert fields["content-type"] == "text/html; charset=utf-8"
        assert fields["content-security-policy"].startswith("default-src 'none'")
        read = Reader(body)
        assert read.links == ["/metrics"]
        assert read.tags.count("table") == 2
        assert read.cells[0] == "Aliquot"
        for told in (ZERO.uuid, "Acme 0", "16.0 GiB", "default/one/main", "640.0 MiB", "40.0 MiB",
                     "700.0 MiB", "25-60%", "30%", "28%", "shim", "ok",
                     "XID 79: <it> has fallen off"):  # fmt: skip
            assert told in read.cells, told
        # What is there to be read is no other's to load.
        assert "url(" not in body
        assert "@import" not in body

    serving(node, story)


def test_an_empty_node_has_a_page(tmp_path: Path) -> None:
    text = metrics.page(Node(tmp_path).readings.latest())
    assert text.count("<p>None.</p>") == 2


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


def test_a_reading_that_is_odd_does_not_spoil_the_page(node: Node, board: Board) -> None:
    node.sample()
    snapshot = node.readings.latest()
    odd = Sample(ZERO.uuid, 0, float("nan"), None, float("inf"), -273.0)
    readings = tuple(replace(one, sample=odd) for one in snapshot.devices)
    _, body = metrics.exposition(replace(snapshot, devices=readings))
    assert "aliquot_device_power_watts" in samples(body.decode())
    assert "Aliquot" in metrics.page(replace(snapshot, devices=readings))
