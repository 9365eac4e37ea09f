"""The simulator's memory on several devices: books of their own, peers, teams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_node import MIB, PAGE, SMALL_NODE, NodeUnderTest, node_of

INVALID_VALUE = 1


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    """A node of one device of 1 GiB, whose contexts take 8 MiB and whose calls cost nothing."""
    with node_of(SMALL_NODE, sim_library) as made:
        yield made


# ---- Several devices -----------------------------------------------------------------------------

LINKED = """
[[device]]
count = 2
memory = "1GiB"
context = "8MiB"
compute_capability = "9.0"
nvlinks = 18
"""


@pytest.fixture
def linked(sim_library: Path) -> Iterator[NodeUnderTest]:
    """A node of two devices with links between them."""
    with node_of(LINKED, sim_library) as made:
        yield made


def test_each_device_has_its_own_books(linked: NodeUnderTest) -> None:
    process = linked.process()
    second = process.ok("context", 1)
    process.ok("alloc", 30 * MIB)
    assert linked.group(process).used_bytes == (8 * MIB, 38 * MIB)
    handle = process.ok("create", 2 * PAGE, 1, False, 0)
    assert linked.group(process).used_bytes == (8 * MIB + 2 * PAGE, 38 * MIB)
    process.ok("release", handle)
    process.ok("raw", "cuCtxDestroy_v2", second)
    assert linked.group(process).used_bytes == (8 * MIB, 0)
    process.kill()
    assert (linked.used(0), linked.used(1)) == (0, 0)


def test_peers_are_enabled_once_and_reach_each_other(linked: NodeUnderTest) -> None:
    process = linked.process()
    first = process.ok("number", "cuCtxGetCurrent")
    second = process.ok("context", 1)
    pointer = process.ok("alloc", 4 * MIB)
    process.ok("raw", "cuCtxSetCurrent", first)
    assert process.ok("number", "cuDeviceCanAccessPeer", 0, 1) & 0xFFFFFFFF == 1
    process.ok("raw", "cuCtxEnablePeerAccess", second, 0)
    assert process.result("raw", "cuCtxEnablePeerAccess", second, 0) == 704
    assert process.result("raw", "cuCtxEnablePeerAccess", first, 0) == 101
    process.ok("write", pointer, "peer")
    assert process.ok("read", pointer, 4) == "peer"
    process.ok("raw", "cuCtxDisablePeerAccess", second)
    assert process.result("raw", "cuCtxDisablePeerAccess", second) == 705
    handle = process.ok("create", PAGE, 1, False, 1)
    addresses = process.ok("reserve", PAGE)
    process.ok("map", addresses, PAGE, handle)
    process.ok("access", addresses, PAGE)
    process.ok("write", addresses, "mapped for a peer")


def test_devices_without_links_do_not_reach_each_other(sim_library: Path) -> None:
    with node_of(LINKED.replace("18", "0"), sim_library) as node:
        process = node.process()
        first = process.ok("number", "cuCtxGetCurrent")
        process.ok("context", 1)
        assert process.ok("number", "cuDeviceCanAccessPeer", 0, 1) & 0xFFFFFFFF == 0
        assert process.result("raw", "cuCtxEnablePeerAccess", first, 0) == 217
        handle = process.ok("create", PAGE)
        addresses = process.ok("reserve", PAGE)
        process.ok("map", addresses, PAGE, handle)
        assert process.result("access", addresses, PAGE, 3, 1, 1) == 101


def test_a_handle_is_opened_for_another_device(linked: NodeUnderTest) -> None:
    first, second = linked.process(), linked.process()
    pointer = first.ok("alloc", 3 * MIB)
    first.ok("write", pointer, "far")
    second.ok("context", 1)
    opened = second.ok("open", first.ok("ipc", pointer))
    assert second.ok("read", opened, 3) == "far"
    second.ok("shut", opened)
    assert linked.used(0) == 16 * MIB + 2 * PAGE


def test_a_multicast_team_waits_until_it_is_complete(linked: NodeUnderTest) -> None:
    first, second = linked.pair()
    team = first.ok("multicast", 2, 4 * PAGE)
    first.ok("export", team)
    joined = second.ok("import_", second.ok("take"))
    first.ok("raw", "cuMulticastAddDevice", team, 0)
    assert first.result("raw", "cuMulticastAddDevice", team, 0) == INVALID_VALUE
    memory = first.ok("create", 4 * PAGE, 1, True, 0)
    # Blocks until the other has added its device.
    first.send("raw", "cuMulticastBindMem", team, 0, memory, 0, 4 * PAGE, 0)
    second.ok("raw", "cuMulticastAddDevice", joined, 1)
    assert first.receive()[0] == 0
    first.ok("release", memory)
    assert linked.held(first) == 4 * PAGE
    assert first.result("raw", "cuMulticastBindMem", team, 0, memory, 0, PAGE, 0) == INVALID_VALUE
    first.ok("raw", "cuMulticastUnbind", team, 0, 0, 4 * PAGE)
    assert linked.held(first) == 0
    first.ok("release", team)
    second.ok("release", joined)
