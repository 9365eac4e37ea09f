"""A program for Ascend devices in a slice: it cannot tell but by its cap, and keeps to that."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aliquot.shim
import pytest

import cuda_headers
import cuda_table
from slices import MIB
from tenants import CONTEXT, PAGE, PATIENCE_SECONDS, TESTS, SimNode, Slice, Tenant, simulated

ROOT = TESTS.parent
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

# How memory is given, and how it is taken.
GIVEN = {
    "acl": "acl",
    "align": "acl",
    "cached": "sync",
    "config": "acl",
    "scheduler": "acl",
    "rt": "rt",
    "rt-cached": "rt-sync",
    "rt-policy": "acl",
    "rt-managed": "rt",
    "dvpp": "rt",
    "dvpp-flag": "rt",
    "physical": "physical",
    "rt-physical": "rt-physical",
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


def sliced(
    node: SimNode, shim: Path, folder: Path, *, cap: int = CAP, cores: int = 100, uuid: bytes = b""
) -> Slice:
    """A slice of the first device."""
    return Slice.make(node, shim, folder, "one", cap, cores, uuid=uuid)


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
    for number, (how, taken) in enumerate(GIVEN.items(), start=3):
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
    wrapped = {
        row.function for row in cuda_table.read_table(cuda_table.ASCEND_TABLE) if row.by == "shim"
    }
    assert exported(aliquot.shim.library("libruntime.so")) == wrapped


def test_every_function_of_the_simulator_is_in_the_table(runtime: Path) -> None:
    rows = {row.function for row in cuda_table.read_table(cuda_table.ASCEND_TABLE)}
    for library in (runtime, runtime.with_name("libascendcl.so")):
        assert exported(library) - rows == set(), library.name


def test_the_coverage_page_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    subprocess.run(
        [sys.executable, cuda_table.GENERATE, cuda_table.ASCEND_TABLE, "docs", page], check=True
    )
    assert page.read_text() == (ROOT / "docs/coverage-ascend.md").read_text(), "run `make build`"
