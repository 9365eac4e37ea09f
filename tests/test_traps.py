"""What real programs do to a vendor's library, and what must not come of it in a slice."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuda_table import ROOT, read_table
from slices import MIB
from tenant_vendors import COMMON
from tenants import CONTEXT, SUCCESS, SimNode, Site, Slice, Tenant, compile_c, of_slice

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
void *resolve(const char *name) { return dlsym(dlopen(LIBRARY, RTLD_NOW), name); }
"""
# Stands in for an allocation call of a program, as torch_memory_saver does, with any arguments.
PRELOAD = """
#include <dlfcn.h>
static unsigned calls;
unsigned preload_calls(void) { return calls; }
typedef int (*function)(long, long, long, long);
int ALLOCATE(long a, long b, long c, long d) {
    function next = (function)dlsym(dlopen(LIBRARY, RTLD_NOW), NAME);
    calls++;
    return next(a, b, c, d);
}
"""


@pytest.fixture
def node(site: Site) -> Iterator[SimNode]:
    """A device of a gibibyte."""
    with site.simulated(DEVICE) as made:
        yield made


@pytest.fixture
def here(node: SimNode, site: Site, tmp_path: Path) -> Slice:
    """A slice of a quarter of it."""
    return site.slice(node, tmp_path, "slice", CAP)


def output(environment: dict[str, str], *command: str | Path) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def expect_the_cap(here: Slice, site: Site, mode: str, *more: str, **added: str) -> None:
    """Run a trap; the client then gets all that its cap allows beside its context."""
    environment = here.environment() | added
    printed = output(environment, site.program("trap_client"), mode, str(CAP), *more)
    assert printed == f"got {CAP - CONTEXT}\n"
    truth = here.truth()
    assert (truth.max_used_bytes[0], truth.used_bytes[0]) == (CAP, 0)


@pytest.mark.parametrize("mode", ["capture", "pointers"])
def test_calls_of_cuda_are_answered_as_by_the_bare_driver(
    sites: dict[str, Site], tmp_path: Path, mode: str
) -> None:
    site = sites["nvidia"]
    program = site.folder / "odd_calls_cuda"
    if not program.exists():
        compile_c(site.folder, program.name, ["odd_calls_cuda.c", *COMMON, *site.vendor.sources])
    with site.simulated(16 * DEVICE) as node:
        here = site.slice(node, tmp_path, "slice", 8 * DEVICE)
        bare = output(node.environment("bare"), program, mode)
        assert bare.count("\n") > 10
        assert output(here.environment(), program, mode) == bare


def test_what_is_forged_is_answered_as_by_the_bare_library(
    here: Slice, node: SimNode, site: Site
) -> None:
    bare = output(node.environment("bare"), site.program("odd_calls"), "forged")
    assert bare.count("\n") > 10
    assert output(here.environment(), site.program("odd_calls"), "forged") == bare
    assert here.charge() == 0


def test_what_a_full_device_refuses_leaves_no_charge(
    node: SimNode, site: Site, tmp_path: Path
) -> None:
    """The slice has room, the device has none: the driver's own refusals are taken back."""
    here = site.slice(node, tmp_path, "roomy", DEVICE)
    room = DEVICE - 3 * CONTEXT - 16 * MIB
    answers = []
    for environment in (node.environment("bare"), here.environment()):
        with Tenant.start(
            site.program("tenant"), node.environment("neighbour"), "hold", "linear", str(room), "0"
        ) as neighbour:
            assert [neighbour.read() for _ in range(3)] == ["ready", str(SUCCESS), "holding"]
            answers.append(output(environment, site.program("odd_calls"), "shortage"))
    assert answers[0].count(f": {site.refusal}\n") > 10
    assert answers[1] == answers[0]
    assert here.charge() == 0


def test_a_refusal_is_forgotten_by_the_next_request_that_fits(here: Slice, site: Site) -> None:
    assert output(here.environment(), site.program("odd_calls"), "sticky") == "ok\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the forwarders are x86-64 code")
def test_a_library_that_forwards_all_names_globally_does_not_call_itself(
    here: Slice, site: Site, tmp_path: Path
) -> None:
    table = ROOT / "csrc" / site.vendor.table / "functions.tsv"
    names = [symbol.name for row in read_table(table) for symbol in row.symbols]
    assert len(names) > 200
    (tmp_path / "stubs.S").write_text("".join(STUB.format(name=name) for name in names))
    (tmp_path / "resolve.c").write_text(RESOLVE)
    sources = [tmp_path / "stubs.S", tmp_path / "resolve.c"]
    library = f'-DLIBRARY="{site.vendor.library}"'
    stubs = compile_c(tmp_path, "libstubs.so", sources, "-shared", "-fPIC", library)
    expect_the_cap(here, site, "stubs", str(stubs))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the patch is x86-64 code")
def test_entry_points_can_be_patched_in_place(here: Slice, site: Site) -> None:
    expect_the_cap(here, site, "patch", *site.vendor.loads)


def test_a_second_preload_stands_before_the_shim(here: Slice, site: Site, tmp_path: Path) -> None:
    (tmp_path / "preload.c").write_text(PRELOAD)
    name = site.vendor.loads[0]
    defines = [f"-DALLOCATE={name}", f'-DNAME="{name}"', f'-DLIBRARY="{site.vendor.library}"']
    sources = [tmp_path / "preload.c"]
    preload = compile_c(tmp_path, "libpreload.so", sources, "-shared", "-fPIC", *defines)
    loaded = " ".join(filter(None, [here.environment().get("LD_PRELOAD"), str(preload)]))
    expect_the_cap(here, site, "linked", LD_PRELOAD=loaded)


def test_addresses_beyond_the_cap_cost_nothing(here: Slice, site: Site) -> None:
    expect_the_cap(here, site, "addresses")


def test_memory_on_the_host_is_not_charged(here: Slice, site: Site) -> None:
    expect_the_cap(here, site, "host")


def test_free_memory_does_not_follow_the_neighbours(
    here: Slice, node: SimNode, site: Site, tmp_path: Path
) -> None:
    other = site.slice(node, tmp_path, "other", CAP)
    with Tenant.start(site.program("tenant"), here.environment(), "serve") as watcher:
        assert watcher.read() == "ready"
        before = watcher.told()
        assert of_slice(before, CAP, CONTEXT)
        with Tenant.start(
            site.program("tenant"), other.environment(), "hold", "linear", str(100 * MIB), "0"
        ) as neighbour:
            assert [neighbour.read() for _ in range(3)] == ["ready", str(SUCCESS), "holding"]
            assert watcher.told() == before
        assert watcher.told() == before
