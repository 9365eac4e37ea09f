"""Metrics: what Prometheus scrapes, what people see, and that nobody hurts whoever serves them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import prometheus_client
import pytest
from aliquot.agent import metrics
from aliquot.agent.devices import Sample
from aliquot.agent.slices import Container
from aliquot.shim import region
from prometheus_client.parser import text_string_to_metric_families

from metrics_parts import ask, busy_node, get, samples, scrape, serving, value
from reading_parts import ACCOUNT, GIB, MIB, Board, Node, device, part
from slots import write_figures, write_time

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


def test_a_reading_that_is_odd_does_not_spoil_the_page(node: Node, board: Board) -> None:
    node.sample()
    snapshot = node.readings.latest()
    odd = Sample(ZERO.uuid, 0, float("nan"), None, float("inf"), -273.0)
    readings = tuple(replace(one, sample=odd) for one in snapshot.devices)
    _, body = metrics.exposition(replace(snapshot, devices=readings))
    assert "aliquot_device_power_watts" in samples(body.decode())
    assert "Aliquot" in metrics.page(replace(snapshot, devices=readings))
