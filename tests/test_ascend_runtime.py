"""A program for Ascend devices in a slice: it cannot tell but by its cap, and keeps to that."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import aliquot.shim
import pytest
from aliquot.shim import region
from aliquot.sim.node import Device

import cuda_headers
import cuda_table
from slices import MIB, lay_out
from tenants import CONTEXT, PAGE, PATIENCE_SECONDS, TESTS, SimNode, Slice, Tenant, simulated

ROOT = TESTS.parent
TABLE = ROOT / "csrc/ascend/functions.tsv"
RUNTIME = ("libruntime.so", "libruntime-driver.so")
MEMORY = 2048 * MIB
CAP = 256 * MIB
ROOM = (CAP - CONTEXT) // PAGE  # pages beside the device's own
OK = 0
BAD_ARGUMENT = 107000
NO_CONTEXT = 107002
OUT_OF_MEMORY = 207001
FAILED = 507899
MS = 1_000_000
# What a slice may be ahead of its cap: the bucket, a window, and a launch that nobody has measured.
AHEAD_NS = 40 * MS

# How memory is given, what is asked for so that it takes so many whole pages, and how it is taken.
PADDED = 64
GIVEN = {
    "acl": (PADDED, "acl"),
    "align": (0, "acl"),
    "cached": (PADDED, "sync"),
    "config": (0, "acl"),
    "scheduler": (0, "acl"),
    "rt": (0, "rt"),
    "rt-cached": (0, "rt-sync"),
    "rt-policy": (0, "acl"),
    "rt-managed": (0, "rt"),
    "dvpp": (0, "rt"),
    "dvpp-flag": (0, "rt"),
    "physical": (0, "physical"),
    "rt-physical": (0, "rt-physical"),
}


@pytest.fixture(scope="session")
def runtime(sim_library: Path) -> Path:
    """The simulator's libruntime.so; libascendcl.so is beside it."""
    return sim_library.with_name("libruntime.so")


@pytest.fixture(scope="session")
def shim() -> Path:
    """The shim in front of it."""
    library = aliquot.shim.library("libruntime.so")
    assert library.is_file(), "it is not built: run `make build`"
    return library


@pytest.fixture(scope="module", params=["linked", "opened"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runtime: Path
) -> Path:
    """The program, linked with the libraries or opening them itself."""
    path = tmp_path_factory.mktemp("client") / str(request.param)
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    command += ["-o", str(path), str(TESTS / "ascend_client.c")]
    if request.param == "opened":
        command += ["-DBY_DLOPEN"]
    else:
        command += ["-L", str(runtime.parent), "-l:libascendcl.so", "-l:libruntime.so"]
        command += ["-Wl,--unresolved-symbols=ignore-in-shared-libs"]
    subprocess.run([*command, "-ldl"], check=True)
    return path


@pytest.fixture
def node(runtime: Path) -> Iterator[SimNode]:
    """A node with two Ascend devices, of which slices have the first."""
    with simulated(runtime, MEMORY, vendor="ascend") as found:
        yield found


def device_of(device: Device, cap: int, cores: int, uuid: bytes = b"") -> region.RegionDevice:
    """A device as its slice's files say it."""
    return region.RegionDevice(
        uuid=uuid or device.uuid,
        cap=cap,
        page_bytes=device.page_size,
        context_bytes=device.context,
        cores=cores,
    )


def sliced(
    node: SimNode, shim: Path, folder: Path, *, cap: int = CAP, cores: int = 100, uuid: bytes = b""
) -> Slice:
    """A slice of the first device."""
    devices = (device_of(node.device, cap, cores, uuid),)
    library = lay_out(shim, node.library, folder / "one", devices, RUNTIME)
    (library.parent / "libascendcl.so").symlink_to(node.library.with_name("libascendcl.so"))
    return Slice(node, "one", cap, library)


@contextmanager
def program(client: Path, environment: dict[str, str], visible: str = "0") -> Iterator[Tenant]:
    """The program, obeying; it sees these devices of the node."""
    process = subprocess.Popen(
        [str(client)],
        env=environment | {"ASCEND_RT_VISIBLE_DEVICES": visible},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with Tenant(process) as tenant:
        yield tenant


def give(tenant: Tenant, how: str, size: int) -> tuple[int, int]:
    """The answer to a request for memory, and the number of what was given."""
    code, number = tenant.ask("give", how, size).split()
    return int(code), int(number)


def info(tenant: Tenant, how: str = "acl", kind: int = 1) -> tuple[int, int]:
    """Free and total memory as the program is told."""
    code, free, total = tenant.ask("info", how, kind).split()
    assert int(code) == OK
    return int(free), int(total)


def script(odd: int) -> list[str]:
    """What a program does that stays below its cap; ``odd`` is no device."""
    lines = ["devices", "give acl 100", "set 0", "set 0", "info acl 99", "load /bin/true"]
    lines += ["give acl 0", "take acl 999", "use 0 10", "give physical 5"]
    for number, (how, (_, taken)) in enumerate(GIVEN.items(), start=3):
        lines += [f"give {how} {6 * MIB}"]
        if "physical" not in how:
            lines += [f"use {number} {6 * MIB}"]
        lines += [f"take {taken} {number}"]
    lines += [f"launch {how} 1000" for how in ("acl", "v2", "host", "rt", "flag", "handle")]
    lines += ["launch default 1000", "sync x", "churn align 100 5000", "context 0"]
    return [*lines, "reset 0", "force 0", "give acl 100", "info rt", f"set {odd}"]


def test_a_program_cannot_tell_the_shim_from_the_runtime(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    bare = node.environment("bare") | {"ASCEND_RT_VISIBLE_DEVICES": "0"}
    within = here.environment() | {"ASCEND_RT_VISIBLE_DEVICES": "0"}
    said = [
        subprocess.run(
            [str(client)],
            env=environment,
            input="\n".join(script(7)) + "\n",
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        for environment in (bare, within)
    ]
    assert said[0].stdout == said[1].stdout
    assert "not so" not in said[0].stdout
    # All of it is a function that there is, and what was written was read.
    assert "-1" not in said[0].stdout.splitlines()
    assert not said[1].stderr
    assert here.charge() == 0
    assert here.truth().max_used_bytes[0] > CONTEXT


@pytest.mark.parametrize("how", GIVEN)
def test_memory_is_had_to_the_last_page_of_the_cap_and_not_one_more(
    client: Path, node: SimNode, shim: Path, tmp_path: Path, how: str
) -> None:
    padding, taken = GIVEN[how]
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        assert here.charge() == here.truth().used_bytes[0] == CONTEXT
        pieces = []
        for _ in range(ROOM // 8):
            code, number = give(tenant, how, 8 * PAGE - padding)
            assert code == OK
            pieces.append(number)
        # Counted once, however many functions it went through.
        assert here.charge() == here.truth().used_bytes[0] == CONTEXT + len(pieces) * 8 * PAGE
        assert ROOM % 8 == 0
        assert info(tenant)[0] == 0
        assert give(tenant, how, PAGE)[0] == OUT_OF_MEMORY
        assert give(tenant, how, 1 << 62)[0] == OUT_OF_MEMORY
        assert here.truth().max_used_bytes[0] == CAP
        assert tenant.do("take", taken, pieces.pop()) == OK
        assert give(tenant, how, 8 * PAGE - padding)[0] == OK
        assert here.charge() == here.truth().used_bytes[0] == CAP
        assert here.usage().devices[0].refusals >= 2


def test_small_pieces_share_pages(client: Path, node: SimNode, shim: Path, tmp_path: Path) -> None:
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as tenant:
        tenant.do("set", 0)
        assert tenant.do("churn", "acl", 1000, 5000) == OK
        assert here.charge() == here.truth().used_bytes[0]
        for number in range(1000):
            assert tenant.do("take", "acl", number) == OK
        assert here.charge() == here.truth().used_bytes[0] == CONTEXT


def test_the_slice_is_shown_in_place_of_the_device(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as one, program(client, here.environment()) as two:
        for tenant in (one, two):
            assert tenant.do("set", 0) == OK
        _, number = give(one, "align", 10 * PAGE)
        left = CAP - 2 * CONTEXT - 10 * PAGE
        for tenant in (one, two):
            for how, kind in (("acl", 1), ("acl", 4), ("rt", 0), ("ex", 1)):
                assert info(tenant, how, kind) == (left, CAP)
        assert one.do("take", "acl", number) == OK
        assert info(two) == (CAP - 2 * CONTEXT, CAP)


def test_physical_memory_is_charged_until_its_last_handle_and_mapping_are_gone(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)

    def held() -> int:
        assert here.charge() == here.truth().used_bytes[0]
        return (here.charge() - CONTEXT) // PAGE

    with program(client, here.environment()) as tenant:
        tenant.do("set", 0)
        _, handle = give(tenant, "physical", 4 * PAGE)
        code, range_ = map(int, tenant.ask("map", handle, 4 * PAGE).split())
        assert (code, held()) == (OK, 4)
        assert tenant.do("use", range_, 4 * PAGE) == OK
        code, other = map(int, tenant.ask("retain", range_).split())
        assert code == OK
        assert tenant.do("take", "physical", handle) == OK
        assert tenant.do("take", "rt-physical", other) == OK
        assert held() == 4
        assert tenant.do("take", "physical", handle) != OK
        assert tenant.do("unmap", range_) == OK
        assert held() == 0
        assert tenant.do("unmap", range_) != OK
        assert held() == 0


def test_what_lived_on_a_device_ends_with_it(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as tenant:
        for end in ("reset", "force"):
            assert [tenant.do("set", 0), tenant.do("set", 0, 1)] == [OK, OK]
            assert tenant.do("load", "/bin/true") == OK
            assert tenant.do("launch", "acl", MS) == OK
            assert give(tenant, "acl", 3 * PAGE)[0] == OK
            code, context = map(int, tenant.ask("context", 0).split())
            assert code == OK
            assert here.charge() == CONTEXT + 4 * PAGE
            if end == "reset":
                assert [tenant.do("reset", 0), tenant.do("reset", 0)] == [OK, OK]
                # The program's own context still holds it.
                assert here.charge() == here.truth().used_bytes[0] == CONTEXT + 4 * PAGE
                assert tenant.do("end", context) == OK
            else:
                assert tenant.do("force", 0) == OK
                assert tenant.do("end", context) == NO_CONTEXT
            assert here.truth().used_bytes[0] == 0
            assert here.charge() == 0
            assert give(tenant, "acl", PAGE)[0] == NO_CONTEXT


def test_a_device_that_does_not_fit_is_refused(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path, cap=CONTEXT - PAGE)
    with program(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OUT_OF_MEMORY
        assert tenant.do("set", 0, 1) == OUT_OF_MEMORY
        assert tenant.ask("context", 0).split()[0] == str(OUT_OF_MEMORY)
        assert (here.charge(), here.truth().max_used_bytes[0]) == (0, 0)


def test_a_device_of_others_gives_nothing(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    other = here.environment() | {"ASCEND_RT_VISIBLE_DEVICES": "1,0"}
    process = subprocess.run(
        [str(client)],
        env=other,
        input="set 0\nset 1\ninfo rt\ngive acl 100\n",
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    lines = process.stdout.splitlines()
    assert lines[:2] == [str(OUT_OF_MEMORY), str(OK)]
    assert lines[2].split()[2] == str(CAP)


def test_devices_that_the_grant_knows_by_other_uuids_are_found_by_their_places(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path, uuid=bytes(16))
    for visible in ("0", "0,1"):
        with program(client, here.environment(), visible) as tenant:
            assert tenant.do("set", 0) == OK
            assert info(tenant) == (CAP - CONTEXT, CAP)
            assert give(tenant, "acl", CAP)[0] == OUT_OF_MEMORY
            if visible != "0":
                assert tenant.do("set", 1) == OUT_OF_MEMORY


def test_a_killed_process_gives_its_memory_back(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as one, program(client, here.environment()) as two:
        assert [one.do("set", 0), two.do("set", 0)] == [OK, OK]
        for _ in range(3):
            assert give(one, "rt", 64 * MIB)[0] == OK
        assert give(two, "acl", 64 * MIB)[0] == OUT_OF_MEMORY
        one.kill()
        for _ in range(3):
            assert give(two, "align", 64 * MIB)[0] == OK
        assert here.charge() == CONTEXT + 192 * MIB


def test_processes_that_ask_at_once_never_have_more_than_the_cap(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)

    # (What a process had when it ended is the device's for a while after it is nobody's.)
    def check() -> None:
        assert here.charge() == here.truth().used_bytes[0]
        assert here.truth().max_used_bytes[0] <= CAP

    together = threading.Barrier(4, check)

    def storm(seed: int) -> int:
        had = 0
        hows = [*GIVEN.items()]
        pieces: list[tuple[str, int]] = []
        with program(client, here.environment()) as tenant:
            assert tenant.do("set", 0) == OK
            together.wait(PATIENCE_SECONDS)
            for step in range(150):
                how, (_, taken) = hows[(seed * 7 + step) % len(hows)]
                code, number = give(tenant, how, (1 + (step * seed) % 40) * PAGE)
                assert code in (OK, OUT_OF_MEMORY)
                had += code == OK
                pieces += [(taken, number)] if code == OK else []
                if len(pieces) > step % 3:
                    assert tenant.do("take", *pieces.pop(0)) == OK
            together.wait(PATIENCE_SECONDS)
            assert tenant.end() == 0
        return had

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(storm, range(1, 5))) > 0
    here.wait_until_empty()


def test_a_forked_child_has_a_slot_of_its_own_or_none(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    with program(client, here.environment()) as tenant:
        # Before the runtime is used it is the child that begins.
        assert tenant.do("fork") == OK
        bare = tenant.do("set", 0)
        with program(client, node.environment("bare")) as other:
            other.do("fork")
            assert other.do("set", 0) == bare
        with program(client, here.environment()) as parent:
            assert parent.do("set", 0) == OK
            held = here.charge()
            assert parent.do("fork") == OK
            # The runtime does not live on in a child, with the shim or without.
            assert parent.do("set", 0) != OK
            assert give(parent, "acl", PAGE)[0] != OK
            assert here.charge() == held


def test_without_its_region_no_device_can_be_had(
    client: Path, node: SimNode, shim: Path, tmp_path: Path
) -> None:
    here = sliced(node, shim, tmp_path)
    here.usage_path.unlink()
    process = subprocess.run(
        [str(client)],
        env=here.environment(),
        input="set 0\nset 0 1\n",
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert process.stdout.splitlines() == [str(FAILED)] * 2
    assert re.fullmatch(
        r"aliquot: no Ascend device in this process: cannot open .*/usage: .*\n", process.stderr
    )
    assert node.truth("one").max_used_bytes[0] == 0


# -- Time: every function that launches. All else is in test_time_shim.py ------------------------


def ran(tenant: Tenant, how: str, ns: int, count: int) -> int:
    """Runs kernels; the device's time from the first one's beginning to the last one's end."""
    code, took = tenant.ask("run", how, ns, count).split()
    assert int(code) == OK
    return int(took)


@pytest.mark.parametrize("how", ["acl", "v2", "host", "rt", "flag", "handle"])
def test_launches_keep_to_their_part_of_the_time(
    client: Path, node: SimNode, shim: Path, tmp_path: Path, how: str
) -> None:
    here = sliced(node, shim, tmp_path, cores=25)
    with program(client, here.environment()) as tenant:
        assert tenant.do("set", 0) == OK
        assert tenant.do("load", "/bin/true") == OK
        began = time.monotonic_ns()
        took = ran(tenant, how, 5 * MS, 60)
        # Work that the cap spreads over time cannot be done sooner.
        assert time.monotonic_ns() - began >= (300 * MS - AHEAD_NS) * 4
        assert took >= 300 * MS
        # Measured by the runtime's events, to the last one that was looked at.
        assert here.usage().devices[0].device_ns >= 300 * MS - AHEAD_NS


# -- The table ------------------------------------------------------------------------------------


def exported(library: Path) -> set[str]:
    """The names of functions that a library exports."""
    names = cuda_headers.exports(library)
    return {name for name in names if name.startswith(("rt", "acl"))}


def test_every_function_of_the_shim_is_in_the_table_and_exported() -> None:
    wrapped = {row.function for row in cuda_table.read_table(TABLE) if row.by == "shim"}
    assert exported(aliquot.shim.library("libruntime.so")) == wrapped


def test_every_function_of_the_simulator_is_in_the_table(runtime: Path) -> None:
    rows = {row.function for row in cuda_table.read_table(TABLE)}
    for library in (runtime, runtime.with_name("libascendcl.so")):
        assert exported(library) - rows == set(), library.name


def test_the_coverage_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    subprocess.run([sys.executable, cuda_table.GENERATE, TABLE, "docs", page], check=True)
    assert page.read_text() == (ROOT / "docs/coverage-ascend.md").read_text(), "run `make build`"
