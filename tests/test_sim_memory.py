"""The simulator's memory: what calls give and take, counted in pages, over real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_node import MIB, PAGE, SMALL_NODE, NodeUnderTest, node_of

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED = 1, 2, 3
INVALID_CONTEXT, ALREADY_REGISTERED, NOT_FOUND = 201, 712, 500
RESERVED, RESERVED_HIGH, USED, USED_HIGH, THRESHOLD = 5, 6, 7, 8, 4
CHUNK = 32 * MIB
HOST_NUMA = 3


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    """A node of one device of 1 GiB, whose contexts take 8 MiB and whose calls cost nothing."""
    with node_of(SMALL_NODE, sim_library) as made:
        yield made


# ---- Linear memory -------------------------------------------------------------------------------


def test_small_allocations_share_a_page_from_first_to_last(node: NodeUnderTest) -> None:
    process = node.process()
    first = process.ok("alloc", 1)
    second = process.ok("alloc", 100_000)
    assert first % 512 == second % 512 == 0
    assert first >> 21 == second >> 21
    assert node.held(process) == PAGE
    process.ok("free", first)
    assert node.held(process) == PAGE
    process.ok("free", second)
    assert node.held(process) == 0


def test_more_than_half_a_page_takes_pages_of_its_own(node: NodeUnderTest) -> None:
    process = node.process()
    small = process.ok("alloc", MIB)
    large = process.ok("alloc", MIB + 1)
    assert large % PAGE == 0
    assert large >> 21 != small >> 21
    assert node.held(process) == 2 * PAGE
    process.ok("alloc", 3 * PAGE + 1)
    assert node.held(process) == 6 * PAGE


def test_a_wrong_or_second_free_is_an_invalid_value(node: NodeUnderTest) -> None:
    process = node.process()
    small, large = process.ok("alloc", 2048), process.ok("alloc", 4 * MIB)
    for wrong in (small + 512, large + PAGE, 0x1000, small - 512):
        assert process.result("free", wrong) == INVALID_VALUE
    for pointer in (small, large):
        process.ok("free", pointer)
        assert process.result("free", pointer) == INVALID_VALUE
    assert node.held(process) == 0


def test_memory_is_given_to_the_last_page_and_no_further(node: NodeUnderTest) -> None:
    process = node.process()
    free, total = process.ok("info")
    assert (free, total) == (1016 * MIB, 1024 * MIB)
    everything = process.ok("alloc", free)
    assert process.ok("info") == [0, total]
    assert process.result("alloc", 1) == OUT_OF_MEMORY
    process.ok("free", everything)
    assert process.result("alloc", free + 1) == OUT_OF_MEMORY
    assert process.result("alloc", 1 << 60) == OUT_OF_MEMORY
    assert node.held(process) == 0
    assert node.group(process).max_used_bytes == (1024 * MIB,)


def test_scattered_pages_are_one_allocation(node: NodeUnderTest) -> None:
    process = node.process()
    pages = [process.ok("alloc", PAGE) for _ in range(508)]
    for pointer in pages[::2]:
        process.ok("free", pointer)
    scattered = process.ok("alloc", 254 * PAGE)
    assert process.result("alloc", PAGE) == OUT_OF_MEMORY
    assert process.ok("range", scattered + 100 * PAGE) == [scattered, 254 * PAGE]
    process.ok("write", scattered + 99 * PAGE - 3, "across")
    assert process.ok("read", scattered + 99 * PAGE - 3, 6) == "across"
    process.ok("free", scattered)
    assert node.held(process) == 254 * PAGE


def test_freed_memory_is_zero_for_its_next_holder(node: NodeUnderTest) -> None:
    first, second = node.process(), node.process()
    pointer = first.ok("alloc", 4 * MIB)
    first.ok("fill", pointer, 4 * MIB)
    first.ok("free", pointer)
    pointer = second.ok("alloc", 1000 * MIB)
    blank = "\0" * 16
    assert all(second.ok("read", pointer + at, 16) == blank for at in range(0, 8 * MIB, PAGE // 2))


def test_host_memory_takes_nothing_of_the_device(node: NodeUnderTest) -> None:
    process = node.process()
    pointer = process.ok("host", 5 * MIB)
    registered = process.ok("register", 100_000)
    assert process.result("raw", "cuMemHostRegister_v2", registered, 10, 0) == ALREADY_REGISTERED
    assert node.held(process) == 0
    assert process.ok("attribute", 2, pointer) & 0xFFFFFFFF == 1
    assert process.ok("attribute", 2, registered) & 0xFFFFFFFF == 1
    process.ok("free_host", pointer)
    assert process.result("free_host", pointer) == INVALID_VALUE


def test_managed_and_pitched_memory_count_as_linear(node: NodeUnderTest) -> None:
    process = node.process()
    managed = process.ok("managed", 3 * MIB)
    pointer, pitch = process.ok("pitch", 1000, 5000)
    assert pitch == 1024
    assert node.held(process) == 2 * PAGE + 3 * PAGE
    assert process.ok("attribute", 8, managed) & 0xFFFFFFFF == 1
    process.ok("free", managed)
    process.ok("free", pointer)
    assert node.held(process) == 0


# ---- Contexts ------------------------------------------------------------------------------------


def test_a_context_takes_its_cost_and_all_that_was_allocated_in_it_goes_with_it(
    node: NodeUnderTest,
) -> None:
    process = node.process()
    context = process.ok("context")
    assert node.held(process) == 8 * MIB
    for size in (100, 3000, MIB, 5 * MIB):
        process.ok("alloc", size)
    process.ok("array", 1000, 1000, 0)
    process.ok("host", 100)
    assert node.held(process) > 16 * MIB
    process.ok("raw", "cuCtxDestroy_v2", context)
    assert node.held(process) == 0
    assert process.result("raw", "cuCtxDestroy_v2", context) == 709
    process.ok("raw", "cuDevicePrimaryCtxRelease_v2", 0)
    assert node.group(process).used_bytes == (0,)
    assert process.result("alloc", 1) == 709


def test_limits_above_their_defaults_take_memory(node: NodeUnderTest) -> None:
    process = node.process()
    stack, fifo, heap = 0, 1, 2
    process.ok("limit", heap, 8 * MIB)
    process.ok("limit", fifo, MIB)
    assert node.held(process) == 0
    process.ok("limit", heap, 100 * MIB)
    assert node.held(process) == 92 * MIB
    process.ok("limit", fifo, 2 * MIB)
    assert node.held(process) == 94 * MIB
    # 2048 threads a multiprocessor, 108 of them, 1 KiB more each: 216 MiB.
    process.ok("limit", stack, 2048)
    assert node.held(process) == 310 * MIB
    assert process.result("limit", stack, 16384) == OUT_OF_MEMORY
    for limit in (stack, fifo, heap):
        process.ok("limit", limit, 512)
    assert node.held(process) == 0


def test_a_child_of_fork_is_not_initialised_and_owns_nothing(node: NodeUnderTest) -> None:
    process = node.process()
    pointer = process.ok("alloc", 5 * MIB)
    assert process.ok("fork") == [NOT_INITIALIZED] * 3
    assert node.held(process) == 6 * MIB
    process.ok("write", pointer, "still here")
    assert process.ok("read", pointer, 10) == "still here"


def test_a_process_that_closes_all_descriptors_goes_on(node: NodeUnderTest) -> None:
    process, other = node.process(), node.process()
    process.ok("close_all")
    pages = [process.ok("alloc", PAGE) for _ in range(20)]
    for pointer in pages[::2]:
        process.ok("free", pointer)
    process.ok("fill", process.ok("alloc", 490 * PAGE), 490 * PAGE // 64)
    held = node.held(process)
    assert held == 500 * PAGE
    assert other.result("alloc", 8 * PAGE) == OUT_OF_MEMORY
    assert node.held(process) == held


# ---- Processes that die --------------------------------------------------------------------------


def test_a_killed_process_gives_everything_back(node: NodeUnderTest) -> None:
    process, other = node.process(), node.process()
    for size in (100, 5 * MIB, 300 * MIB):
        process.ok("alloc", size)
    process.ok("create", 4 * PAGE)
    process.ok("alloc_async", 1000)
    process.ok("array", 500, 500, 0)
    process.kill()
    assert node.used() == 8 * MIB
    assert other.ok("info")[0] == 1016 * MIB
    assert [item.pid for item in node.truth().processes] == [other.pid]


def test_the_release_delay_holds_a_killed_process_memory_back(sim_library: Path) -> None:
    text = SMALL_NODE + "release_delay_ns = 300_000_000\n"
    with node_of(text, sim_library) as node:
        process, other = node.process(), node.process()
        process.ok("alloc", 900 * MIB)
        process.kill()
        killed = time.monotonic()
        assert node.group(process).used_bytes == (908 * MIB,)
        assert [item.dead for item in node.truth().processes if item.pid == process.pid] == [True]
        assert other.result("alloc", 800 * MIB) == OUT_OF_MEMORY
        while other.result("alloc", 800 * MIB):
            assert time.monotonic() - killed < 5
        assert time.monotonic() - killed >= 0.3
        assert node.group(process).used_bytes == (0,)


def test_a_process_that_ends_by_itself_gives_back_without_delay(sim_library: Path) -> None:
    text = SMALL_NODE + "release_delay_ns = 60_000_000_000\n"
    with node_of(text, sim_library) as node:
        process = node.process()
        process.ok("alloc", 900 * MIB)
        assert process.end() == 0
        assert node.used() == 0


# ---- Pools ---------------------------------------------------------------------------------------


def test_a_pool_grows_by_chunks_and_shrinks_at_a_synchronisation(node: NodeUnderTest) -> None:
    process = node.process()
    pool = process.ok("default_pool")
    first = process.ok("alloc_async", 1000)
    assert node.held(process) == CHUNK == process.ok("pool_get", pool, RESERVED)
    assert process.ok("pool_get", pool, USED) == 1024
    large = process.ok("alloc_async", 50 * MIB + 1)
    assert node.held(process) == CHUNK + 52 * MIB
    process.ok("free_async", large)
    process.ok("sync")
    assert node.held(process) == CHUNK
    process.ok("free_async", first)
    assert process.result("free_async", first) == INVALID_VALUE
    process.ok("sync")
    assert node.held(process) == 0
    assert process.ok("pool_get", pool, RESERVED) == 0
    assert process.ok("pool_get", pool, RESERVED_HIGH) == CHUNK + 52 * MIB
    process.ok("pool_set", pool, RESERVED_HIGH, 0)
    assert process.ok("pool_get", pool, RESERVED_HIGH) == 0
    assert process.result("pool_set", pool, USED_HIGH, 5) == INVALID_VALUE


def test_a_pool_keeps_what_its_threshold_says_until_it_is_trimmed(node: NodeUnderTest) -> None:
    process = node.process()
    pool = process.ok("pool")
    process.ok("pool_set", pool, THRESHOLD, (1 << 64) - 1)
    pointers = [process.ok("alloc_async", 20 * MIB, pool) for _ in range(3)]
    for pointer in pointers:
        process.ok("free", pointer)
    process.ok("sync")
    assert node.held(process) == 3 * CHUNK
    process.ok("pool_trim", pool, 2 * CHUNK)
    assert node.held(process) == 2 * CHUNK
    process.ok("pool_set", pool, THRESHOLD, 0)
    process.ok("sync")
    assert node.held(process) == 0
    process.ok("pool_destroy", pool)
    assert process.result("pool_destroy", pool) == INVALID_VALUE
    assert process.result("alloc_async", 1, pool) == INVALID_VALUE


def test_a_destroyed_pool_lives_until_its_last_allocation_is_freed(node: NodeUnderTest) -> None:
    process = node.process()
    pool = process.ok("pool")
    pointers = [process.ok("alloc_async", size, pool) for size in (1000, 40 * MIB)]
    process.ok("pool_destroy", pool)
    assert node.held(process) == CHUNK + 40 * MIB
    process.ok("write", pointers[0], "alive")
    assert process.ok("read", pointers[0], 5) == "alive"
    process.ok("free_async", pointers[0])
    process.ok("sync")
    process.ok("free", pointers[1])
    assert node.held(process) == 0


def test_a_pool_takes_the_last_pages_when_there_is_no_chunk(node: NodeUnderTest) -> None:
    process = node.process()
    process.ok("alloc", 1010 * MIB)
    process.ok("alloc_async", 5 * MIB)
    assert node.used() == 1024 * MIB
    assert process.result("alloc_async", 5 * MIB) == OUT_OF_MEMORY


def test_a_pool_never_passes_its_own_limit(node: NodeUnderTest) -> None:
    process = node.process()
    pool = process.ok("pool", False, 40 * MIB)
    process.ok("alloc_async", 30 * MIB, pool)
    process.ok("alloc_async", 8 * MIB, pool)
    assert process.result("alloc_async", 4 * MIB, pool) == OUT_OF_MEMORY
    assert process.ok("pool_get", pool, RESERVED) <= 40 * MIB


# ---- Arrays --------------------------------------------------------------------------------------


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@pytest.mark.parametrize(
    ("extent", "size"),
    [
        ((100_000, 0, 0), 400_000),
        ((1000, 1000, 0), 4032 * 1000),
        ((1001, 1001, 0), 4032 * 1008),
        ((300, 100, 50), 1216 * 104 * 50),
    ],
)
def test_arrays_take_whole_pages_of_their_padded_size(
    node: NodeUnderTest, extent: tuple[int, int, int], size: int
) -> None:
    process = node.process()
    array = process.ok("array", *extent)
    assert node.held(process) == _pages(size)
    process.ok("raw", "cuArrayDestroy", array)
    assert process.result("raw", "cuArrayDestroy", array) == 400
    assert node.held(process) == 0


def test_a_mipmapped_array_takes_the_sum_of_its_levels(node: NodeUnderTest) -> None:
    process = node.process()
    mipmap = process.ok("mipmap", 1000, 500, 0, 20)
    size, levels = 0, 0
    while levels < 10:
        row = -(-max(1000 >> levels, 1) * 4 // 64) * 64
        size += row * (-(-max(500 >> levels, 1) // 8) * 8)
        levels += 1
    assert node.held(process) == _pages(size)
    assert process.ok("level", mipmap, 9)
    assert process.result("level", mipmap, 10) == INVALID_VALUE
    process.ok("raw", "cuMipmappedArrayDestroy", mipmap)
    assert node.held(process) == 0


def test_sparse_and_deferred_arrays_take_nothing(node: NodeUnderTest) -> None:
    process = node.process()
    for flags in (0x40, 0x80):
        process.ok("array", 4096, 4096, 0, flags)
    assert node.held(process) == 0
    assert process.result("array", 64, 64, 0, 0xC0) == INVALID_VALUE


# ---- Attributes ----------------------------------------------------------------------------------


def test_pointers_tell_what_they_are(node: NodeUnderTest) -> None:
    process = node.process()
    pointer = process.ok("alloc", 5 * MIB)
    small = process.ok("alloc", 100)
    assert process.ok("attribute", 2, pointer) & 0xFFFFFFFF == 2
    assert process.ok("range", pointer + MIB) == [pointer, 5 * MIB]
    assert process.ok("range", small + 99) == [small, 100]
    assert process.result("range", small + 100) == NOT_FOUND
    assert process.ok("attribute", 7, pointer) != process.ok("attribute", 7, small)
    assert process.result("attribute", 2, os.getpid()) == INVALID_VALUE
    addresses = process.ok("reserve", 8 * PAGE)
    assert process.ok("attribute", 13, addresses) & 0xFFFFFFFF == 0
    assert process.ok("attribute", 12, addresses + PAGE) == 8 * PAGE
