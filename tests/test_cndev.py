"""The interface of libcndev.so: as published, as the agent has it, and as the simulator has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aliquot.agent.devices import cndev

from cambricon_node import MIB, ROOT, Node, built
from commands import TESTS

TABLE = TESTS / "cndev_layout.tsv"
# What older libraries have in place of the second version.
OLDER = {"cndevMemoryInfo_t"}


def layouts() -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    """The published sizes, and each field's offset and size."""
    found: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {}
    name = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("\t"):
            field, offset, size = line.split()
            found[name][1][field] = (int(offset), int(size))
        else:
            name, whole = line.split()
            found[name] = (int(whole), {})
    return found


def structures() -> list[str]:
    text = (ROOT / "agent/devices/_cndev.cdef").read_text()
    names = re.findall(r"^\} (\w+);$", text, re.MULTILINE)
    assert len(names) > 20
    return [name for name in names if name not in OLDER]


@pytest.mark.parametrize("name", structures())
def test_a_structure_of_the_agents_is_laid_out_as_published(name: str) -> None:
    size, fields = layouts()[name]
    kind = cndev.ffi.typeof(name)
    assert cndev.ffi.sizeof(kind) == size
    found = {field: (entry.offset, cndev.ffi.sizeof(entry.type)) for field, entry in kind.fields}
    assert found == fields


def test_the_simulators_library_asserts_every_published_offset() -> None:
    text = " ".join((ROOT / "csrc/sim/cndev/layout.c").read_text().split())
    for name, (size, fields) in layouts().items():
        assert f"ABI({name}, {size});" in text
        for field, (offset, whole) in fields.items():
            assert f"AT({name}, {field}, {offset}, {whole});" in text


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled to."""
    return tmp_path_factory.mktemp("cndev")


@pytest.fixture
def node(tmp_path: Path, sim_library: Path) -> Iterator[Node]:
    """A simulated node with two devices."""
    made = Node(tmp_path, sim_library.parent)
    yield made
    made.close()


def client(node: Node, programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(built("client", programs)), *arguments],
        env=node.environment,
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(output: str) -> dict[str, str]:
    """The last of each reading that the client printed."""
    return dict(line.split(" ", 1) for line in output.splitlines() if " " in line)


def test_a_client_without_headers_finds_the_published_interface(node: Node, programs: Path) -> None:
    holder = node.holder(programs, 1)
    assert holder.do("take 64")
    result = client(node, programs)
    assert result.returncode == 0, result.stdout + result.stderr
    said = told(result.stdout)
    assert said["cards"] == "2"
    assert said["name"] == "MLU370-X8"
    assert said["vendor"] == "cabc"
    assert (said["total"], said["used"], said["reserved"]) == ("1088", "64", "64")
    assert said["process"] == f"{holder.pid} {64 << 10}"
    assert (said["links"], said["numa"], said["watts"]) == ("2", "0", "25")
    assert said["health"] == "1 1 4"
    # Half of the card, and a quarter: what is left of the second profile is one more of it.
    assert "capacity 2 2" in result.stdout
    assert "capacity 4 2" in result.stdout
    first, second = re.findall(r"^instance (.*)$", result.stdout, re.MULTILINE)
    assert first == f"client /dev/cambricon-caps/cap_dev1_mi1 50 0 {512 * MIB} 0"
    assert second == f"client /dev/cambricon-caps/cap_dev1_mi1 60 0 {640 * MIB} 0"
    assert said["released"] == "0"
    assert said["event"] == "1 1234 1"


def test_an_instance_holds_its_processes_to_its_limit_and_tells_what_they_use(
    node: Node, programs: Path
) -> None:
    command = [str(built("client", programs)), "hold"]
    holder = node.holder(programs, 1)
    with subprocess.Popen(
        command, env=node.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        lines: list[str] = []
        while len([line for line in lines if line.startswith("instance")]) < 2:
            lines.append(running.stdout.readline())
            assert lines[-1], lines
        assert holder.do("enter 1")
        assert holder.do("take 600")
        assert not holder.do("take 64"), "it has more than the 640 MiB of its instance"
        assert holder.do("take 40")
        rest, _ = running.communicate("\n", timeout=60)
    used = next(line for line in rest.splitlines() if line.startswith("instance"))
    assert used.split()[-2:] == [str(640 * MIB), str(640 * MIB)]
    assert "released 15" in rest, "an instance was released while it was in use"
    assert holder.do("give")


def test_a_process_of_an_instance_that_was_released_gets_nothing(
    node: Node, programs: Path
) -> None:
    node.start()
    uuid = node.get("enumerate")[0]["uuid"]
    made = node.get("partition", uuid, "slice", 256 * MIB, 20)
    holder = node.holder(programs)
    assert holder.do(f"enter {made['id']}")
    assert holder.do("take 16")
    assert holder.do("give")
    node.get("release", made)
    assert not holder.do("take 2")
    again = node.get("partition", uuid, "slice", 256 * MIB, 20)
    assert again["id"] == made["id"]
    assert not holder.do("take 2"), "it came to be in another's instance"
    node.get("release", again)


def test_a_library_is_looked_for_where_the_vendor_puts_it() -> None:
    names = cndev.candidates({"NEUWARE_HOME": "/opt/neuware"})
    assert names[:3] == (
        "libcndev.so",
        "/opt/neuware/lib64/libcndev.so",
        "/opt/neuware/lib/libcndev.so",
    )
    assert "/usr/local/neuware/lib64/libcndev.so" in names


def opened(home: Path, state: Path) -> str:
    """What a process says that loads the library and uses it: where it is, or why it cannot."""
    program = (
        "from aliquot.agent.devices import VendorError, cndev\n"
        "try:\n"
        "    session = cndev.Session()\n"
        "    print(session.path)\n"
        "    with session.held():\n"
        "        print(session.version)\n"
        "except VendorError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "NEUWARE_HOME": str(home), "ALIQUOT_SIM": str(state)}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_a_node_without_the_library_is_told_what_to_do(tmp_path: Path) -> None:
    said = opened(tmp_path, tmp_path)
    assert said.startswith("libcndev.so cannot be loaded (")
    assert "install Cambricon's driver, or name its folder in LD_LIBRARY_PATH" in said


def test_a_library_outside_the_loaders_folders_is_loaded(node: Node, sim_library: Path) -> None:
    (node.folder / "lib64").mkdir()
    link = node.folder / "lib64/libcndev.so"
    link.symlink_to(sim_library.with_name("libcndev.so"))
    assert opened(node.folder, node.state) == f"{link}\n6\n"
    said = opened(node.folder, node.folder / "nowhere")
    assert "cndevInit: no driver (1): load it" in said


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/libcndev.so").write_text("no library")
    assert f"{tmp_path}/lib64/libcndev.so" in opened(tmp_path, tmp_path)


def test_lists_grow_as_far_as_the_library_wants(node: Node, programs: Path) -> None:
    holders = [node.holder(programs) for _ in range(20)]
    assert all(holder.do("take 2") for holder in holders)
    node.start()
    rows = node.get("processes")
    assert sorted(row["pid"] for row in rows) == sorted(holder.pid for holder in holders)
    assert {row["memory_bytes"] for row in rows} == {2 * MIB}
    node.order("cndevGetProcessInfo=9")
    assert node.get("processes") == []
