"""What real programs do to the driver's library, and what must not come of it in a slice."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuda_table import read_table
from slices import MIB
from tenants import (
    CONTEXT,
    OUT_OF_MEMORY,
    SUCCESS,
    TENANT,
    SimNode,
    Slice,
    Tenant,
    compile_c,
    simulated,
)

CAP = 256 * MIB
DEVICE = 1024 * MIB

# Forwards a name to the driver as libtensorflow_framework does, whatever its arguments are.
STUB = """
.globl {name}
.type {name}, @function
{name}:
    push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; sub $8, %rsp
    lea 1f(%rip), %rdi
    call resolve@PLT
    add $8, %rsp; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi
    jmp *%rax
1:  .asciz "{name}"
"""
RESOLVE = """
#include <dlfcn.h>
void *resolve(const char *name) { return dlsym(dlopen("libcuda.so.1", RTLD_NOW), name); }
"""
# Stands in for an allocation call of a program, as torch_memory_saver does.
PRELOAD = """
#include <dlfcn.h>
#include <stddef.h>
static unsigned calls;
unsigned preload_calls(void) { return calls; }
int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    int (*next)(unsigned long long *, size_t) =
        (int (*)(unsigned long long *, size_t))dlsym(dlopen("libcuda.so.1", RTLD_NOW),
                                                     "cuMemAlloc_v2");
    calls++;
    return next(pointer, bytes);
}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the clients."""
    folder = tmp_path_factory.mktemp("programs")
    driver = ["tenant_driver.c", "tenant_linear.c", "tenant_share.c"]
    driver += ["tenant_context.c", "tenant_graph.c"]
    compile_c(folder, "odd_calls", ["odd_calls.c", *driver])
    compile_c(folder, "tenant", TENANT)
    compile_c(folder, "trap_client", ["trap_client.c"])
    return folder


@pytest.fixture
def node(sim_library: Path) -> Iterator[SimNode]:
    """A device of a gibibyte."""
    with simulated(sim_library, DEVICE) as made:
        yield made


@pytest.fixture
def here(node: SimNode, shim_library: Path, tmp_path: Path) -> Slice:
    """A slice of a quarter of it."""
    return Slice.make(node, shim_library, tmp_path, "slice", CAP)


def output(environment: dict[str, str], *command: str | Path) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def expect_the_cap(here: Slice, programs: Path, mode: str, *more: str, **added: str) -> None:
    """Run a trap; the client then gets all that its cap allows beside its context."""
    environment = here.environment() | added
    printed = output(environment, programs / "trap_client", mode, str(CAP), *more)
    assert printed == f"got {CAP - CONTEXT}\n"
    truth = here.truth()
    assert (truth.max_used_bytes[0], truth.used_bytes[0]) == (CAP, 0)


@pytest.mark.parametrize("mode", ["capture", "pointers"])
def test_calls_are_answered_as_by_the_bare_driver(
    sim_library: Path, shim_library: Path, programs: Path, tmp_path: Path, mode: str
) -> None:
    with simulated(sim_library, 16 * DEVICE) as node:
        here = Slice.make(node, shim_library, tmp_path, "slice", 8 * DEVICE)
        bare = output(node.environment("bare"), programs / "odd_calls", mode)
        assert bare.count("\n") > 10
        assert output(here.environment(), programs / "odd_calls", mode) == bare


def test_what_a_full_device_refuses_leaves_no_charge(
    node: SimNode, shim_library: Path, programs: Path, tmp_path: Path
) -> None:
    """The slice has room, the device has none: the driver's own refusals are taken back."""
    here = Slice.make(node, shim_library, tmp_path, "roomy", DEVICE)
    room = DEVICE - 3 * CONTEXT - 16 * MIB
    answers = []
    for environment in (node.environment("bare"), here.environment()):
        with Tenant.start(
            programs / "tenant", node.environment("neighbour"), "hold", "linear", str(room), "0"
        ) as neighbour:
            assert [neighbour.read() for _ in range(3)] == ["ready", str(SUCCESS), "holding"]
            answers.append(output(environment, programs / "odd_calls", "shortage"))
    assert answers[0].count(f": {OUT_OF_MEMORY}\n") > 10
    assert answers[1] == answers[0]
    assert here.charge() == 0


def test_a_refusal_is_forgotten_by_the_next_request_that_fits(here: Slice, programs: Path) -> None:
    assert output(here.environment(), programs / "odd_calls", "sticky") == "ok\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the forwarders are x86-64 code")
def test_a_library_that_forwards_all_names_globally_does_not_call_itself(
    here: Slice, programs: Path, tmp_path: Path
) -> None:
    names = [symbol.name for row in read_table() for symbol in row.symbols]
    assert len(names) > 600
    (tmp_path / "stubs.S").write_text("".join(STUB.format(name=name) for name in names))
    (tmp_path / "resolve.c").write_text(RESOLVE)
    sources = [tmp_path / "stubs.S", tmp_path / "resolve.c"]
    stubs = compile_c(tmp_path, "libstubs.so", sources, "-shared", "-fPIC")
    expect_the_cap(here, programs, "stubs", str(stubs))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the patch is x86-64 code")
def test_entry_points_can_be_patched_in_place(here: Slice, programs: Path) -> None:
    expect_the_cap(here, programs, "patch")


def test_a_second_preload_stands_before_the_shim(
    here: Slice, programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "preload.c").write_text(PRELOAD)
    preload = compile_c(tmp_path, "libpreload.so", [tmp_path / "preload.c"], "-shared", "-fPIC")
    loaded = " ".join(filter(None, [here.environment().get("LD_PRELOAD"), str(preload)]))
    expect_the_cap(here, programs, "linked", LD_PRELOAD=loaded)


def test_addresses_beyond_the_cap_cost_nothing(here: Slice, programs: Path) -> None:
    expect_the_cap(here, programs, "addresses")


def test_memory_on_the_host_is_not_charged(here: Slice, programs: Path) -> None:
    expect_the_cap(here, programs, "host")


def test_free_memory_does_not_follow_the_neighbours(
    here: Slice, node: SimNode, shim_library: Path, programs: Path, tmp_path: Path
) -> None:
    other = Slice.make(node, shim_library, tmp_path, "other", CAP)
    with Tenant.start(programs / "tenant", here.environment(), "serve") as watcher:
        assert watcher.read() == "ready"
        before = watcher.ask("info")
        assert before == f"{CAP - CONTEXT} {CAP} {CAP}"
        with Tenant.start(
            programs / "tenant", other.environment(), "hold", "linear", str(100 * MIB), "0"
        ) as neighbour:
            assert [neighbour.read() for _ in range(3)] == ["ready", str(SUCCESS), "holding"]
            assert watcher.ask("info") == before
        assert watcher.ask("info") == before
