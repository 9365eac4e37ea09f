"""Metrics as who asks for them gets them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aliquot.agent import metrics
from aliquot.agent.devices import DeviceProcess
from prometheus_client.parser import text_string_to_metric_families

from commands import PATIENCE_SECONDS
from reading_parts import ACCOUNT, GIB, MIB, Board, Node, device, part
from slots import Slot, write_figures, write_time

ZERO = device(0)


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
