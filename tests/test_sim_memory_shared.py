"""The simulator's physical memory: handles, exports, and what processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_node import MIB, PAGE, SMALL_NODE, NodeUnderTest, node_of

INVALID_VALUE, INVALID_CONTEXT = 1, 201
CHUNK = 32 * MIB
HOST_NUMA = 3


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    """A node of one device of 1 GiB, whose contexts take 8 MiB and whose calls cost nothing."""
    with node_of(SMALL_NODE, sim_library) as made:
        yield made


# ---- Virtual memory ------------------------------------------------------------------------------


def test_physical_memory_counts_from_creation_to_the_last_use(node: NodeUnderTest) -> None:
    process = node.process()
    assert process.result("create", PAGE + 4096) == INVALID_VALUE
    handle = process.ok("create", 3 * PAGE)
    assert node.held(process) == 3 * PAGE
    addresses = process.ok("reserve", 1 << 40)
    process.ok("map", addresses, 3 * PAGE, handle)
    assert process.result("write", addresses, "no access yet") == INVALID_VALUE
    process.ok("access", addresses, 3 * PAGE)
    process.ok("write", addresses + PAGE - 2, "mapped")
    process.ok("map", addresses + 3 * PAGE, PAGE, handle)
    process.ok("access", addresses + 3 * PAGE, PAGE)
    assert process.ok("read", addresses + 4 * PAGE - 2, 2) == "ma"
    assert process.ok("read", addresses + 3 * PAGE - 2, 4) == "\0\0\0\0"
    process.ok("release", handle)
    assert process.result("release", handle) == INVALID_VALUE
    again = process.ok("retain", addresses + PAGE)
    assert process.result("unmap", addresses, PAGE) == INVALID_VALUE
    process.ok("unmap", addresses, 4 * PAGE)
    assert node.held(process) == 3 * PAGE
    process.ok("release", again)
    assert node.held(process) == 0
    process.ok("unreserve", addresses, 1 << 40)
    assert process.result("unreserve", addresses, 1 << 40) == INVALID_VALUE


def test_host_located_handles_count_nothing(node: NodeUnderTest) -> None:
    process = node.process()
    handle = process.ok("create", 8 * MIB, HOST_NUMA)
    addresses = process.ok("reserve", 8 * MIB)
    process.ok("map", addresses, 8 * MIB, handle)
    process.ok("access", addresses, 8 * MIB)
    process.ok("write", addresses + 5, "on the host")
    assert process.ok("read", addresses + 5, 11) == "on the host"
    assert node.held(process) == 0


def test_an_exported_descriptor_keeps_memory_alive_wherever_it_is(node: NodeUnderTest) -> None:
    first, second = node.pair()
    handle = first.ok("create", 2 * PAGE, 1, True)
    addresses = first.ok("reserve", 2 * PAGE)
    first.ok("map", addresses, 2 * PAGE, handle)
    first.ok("access", addresses, 2 * PAGE)
    first.ok("write", addresses, "shared")
    first.ok("export", handle)
    first.ok("unmap", addresses, 2 * PAGE)
    first.ok("release", handle)
    # In the socket, held by no process.
    assert node.held(first) == 2 * PAGE
    first.kill()
    assert node.used() == 8 * MIB + 2 * PAGE
    descriptor = second.ok("take")
    imported = second.ok("import_", descriptor)
    second.ok("close", descriptor)
    assert node.held(second) == 2 * PAGE
    addresses = second.ok("reserve", 2 * PAGE)
    second.ok("map", addresses, 2 * PAGE, imported)
    second.ok("access", addresses, 2 * PAGE)
    assert second.ok("read", addresses, 6) == "shared"
    second.ok("release", imported)
    assert node.held(second) == 2 * PAGE
    second.ok("unmap", addresses, 2 * PAGE)
    assert node.used() == 8 * MIB


def test_a_descriptor_that_nobody_imports_counts_until_it_is_closed(node: NodeUnderTest) -> None:
    first, second = node.pair()
    handle = first.ok("create", PAGE, 1, True)
    first.ok("export", handle)
    first.ok("release", handle)
    descriptor = second.ok("take")
    assert node.used() == 16 * MIB + PAGE
    second.ok("close", descriptor)
    assert node.used() == 16 * MIB


def test_an_importer_and_its_exporter_write_the_same_pages(node: NodeUnderTest) -> None:
    first, second = node.pair()
    handle = first.ok("create", PAGE, 1, True)
    first.ok("export", handle)
    imported = second.ok("import_", second.ok("take"))
    places = []
    for process, of in ((first, handle), (second, imported)):
        addresses = process.ok("reserve", PAGE)
        process.ok("map", addresses, PAGE, of)
        process.ok("access", addresses, PAGE)
        places.append(addresses)
    second.ok("write", places[1], "back")
    assert first.ok("read", places[0], 4) == "back"
    assert node.held(first) == PAGE
    assert node.held(second) == 0


def test_exported_memory_can_be_imported_as_external_memory(node: NodeUnderTest) -> None:
    first, second = node.pair()
    handle = first.ok("create", 2 * PAGE, 1, True)
    first.ok("export", handle)
    external = second.ok("external", second.ok("take"), 2 * PAGE)
    buffer = second.ok("buffer", external, 4096, PAGE)
    second.ok("raw", "cuDestroyExternalMemory", external)
    first.ok("release", handle)
    assert node.held(second) == 2 * PAGE
    second.ok("write", buffer + PAGE - 5, "ends")
    second.ok("free", buffer)
    assert node.used() == 16 * MIB


# ---- Between processes ---------------------------------------------------------------------------


def test_ipc_memory_lives_until_exporter_and_importers_are_gone(node: NodeUnderTest) -> None:
    first, second, third = node.process(), node.process(), node.process()
    pointer = first.ok("alloc", 5 * MIB)
    first.ok("write", pointer + 3 * MIB, "by handle")
    handle = first.ok("ipc", pointer)
    assert first.result("open", handle) == INVALID_CONTEXT
    opened = [process.ok("open", handle) for process in (second, third)]
    assert second.ok("read", opened[0] + 3 * MIB, 9) == "by handle"
    assert second.result("free", opened[0]) == INVALID_VALUE
    assert [node.held(process) for process in (first, second, third)] == [6 * MIB, 0, 0]
    first.ok("free", pointer)
    assert sorted(node.held(process) for process in (first, second, third)) == [0, 0, 6 * MIB]
    second.kill()
    assert third.ok("read", opened[1] + 3 * MIB, 9) == "by handle"
    assert node.held(third) == 6 * MIB
    third.ok("shut", opened[1])
    assert third.result("shut", opened[1]) == INVALID_VALUE
    assert node.used() == 16 * MIB
    assert third.result("open", handle) == INVALID_VALUE


def test_ipc_of_a_small_allocation_shares_its_page(node: NodeUnderTest) -> None:
    first, second = node.process(), node.process()
    pointers = [first.ok("alloc", 1000) for _ in range(3)]
    for number, pointer in enumerate(pointers):
        first.ok("write", pointer, f"number {number}")
    handles = [first.ok("ipc", pointer) for pointer in pointers]
    opened = [second.ok("open", handle) for handle in handles]
    assert [second.ok("read", pointer, 8) for pointer in opened] == [
        f"number {number}" for number in range(3)
    ]
    assert second.ok("open", handles[0]) == opened[0]
    for pointer in pointers:
        first.ok("free", pointer)
    assert node.held(second) == PAGE
    for pointer in (*opened, opened[0]):
        second.ok("shut", pointer)
    assert node.held(second) == 0


def test_a_killed_exporter_leaves_its_memory_to_the_importer(node: NodeUnderTest) -> None:
    first, second = node.process(), node.process()
    pointer = first.ok("alloc", 3 * MIB)
    first.ok("alloc", 30 * MIB)
    first.ok("write", pointer, "heir")
    opened = second.ok("open", first.ok("ipc", pointer))
    first.kill()
    assert node.held(second) == 4 * MIB
    assert second.ok("read", opened, 4) == "heir"
    assert node.used() == 12 * MIB
    second.kill()
    assert node.used() == 0


def test_pool_memory_is_shared_by_pointer(node: NodeUnderTest) -> None:
    first, second = node.pair()
    pool = first.ok("pool", True)
    pointers = [first.ok("alloc_async", size, pool) for size in (100, 3 * MIB)]
    first.ok("write", pointers[1] + PAGE, "pooled")
    first.ok("pool_export", pool)
    imported = second.ok("pool_import")
    assert second.result("alloc_async", 1, imported) == INVALID_VALUE
    data = [first.ok("pointer_export", pointer) for pointer in pointers]
    there = [second.ok("pointer_import", imported, item) for item in data]
    assert second.ok("read", there[1] + PAGE, 6) == "pooled"
    assert second.ok("range", there[1] + PAGE) == [there[1], 3 * MIB]
    for pointer in pointers:
        first.ok("free", pointer)
    first.ok("sync")
    assert node.held(first) == 0
    assert node.held(second) == CHUNK
    second.ok("free_async", there[0])
    second.ok("free", there[1])
    second.ok("sync")
    assert node.held(second) == 0
