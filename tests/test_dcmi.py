"""libdcmi.so of the simulator and the agent's binding: the published ABI, field by field."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.devices import dcmi

from ascend_node import GIB, AscendNode, ascend_node, compile_client, node_text
from commands import TESTS

ROOT = TESTS.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="vNPUs are made by root alone")


def layouts() -> dict[str, tuple[int, list[tuple[str, int, int]]]]:
    """The published sizes, and the name, offset and size of each field, also of inner ones."""
    found: dict[str, tuple[int, list[tuple[str, int, int]]]] = {}
    name = ""
    for line in (TESTS / "dcmi_layout.tsv").read_text().splitlines():
        if line.startswith("\t"):
            field, offset, size = line.split()
            found[name][1].append((field, int(offset), int(size)))
        else:
            name, whole = line.split()
            found[name] = (int(whole), [])
    return found


def leaves(kind: Any, base: int = 0, path: str = "") -> Iterator[tuple[str, int, int]]:
    """The fields of a structure, those of inner ones in their place, by their paths."""
    for name, field in kind.fields:
        at, inner = base + field.offset, field.type
        if inner.kind in ("struct", "union"):
            yield from leaves(inner, at, f"{path}{name}.")
        else:
            yield f"{path}{name}", at, dcmi.ffi.sizeof(inner)


def structures() -> list[str]:
    text = (ROOT / "agent/devices/_dcmi.cdef").read_text()
    names = re.findall(r"^struct (\w+) \{", text, re.MULTILINE)
    assert len(names) >= 20
    return names


@pytest.mark.parametrize("name", structures())
def test_a_structure_of_the_agents_is_laid_out_as_published(name: str) -> None:
    size, published = layouts()[name]
    kind = dcmi.ffi.typeof(f"struct {name}")
    assert dcmi.ffi.sizeof(kind) == size
    found = [(path.rpartition(".")[2], at, bytes_) for path, at, bytes_ in leaves(kind)]
    if name == "dcmi_event":
        assert found[0] == published[0]
        assert found[1][1] == 8
    else:
        assert found == published


def test_the_simulators_structures_are_laid_out_as_published(tmp_path: Path) -> None:
    """Every field of every structure, by the compiler that the library is made with."""
    lines = ['#include "sim/dcmi/dcmi.h"']
    agents = set(structures())
    for name, (size, published) in layouts().items():
        lines.append(f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");')
        paths = [field for field, _, _ in published]
        if name in agents:
            kind = dcmi.ffi.typeof(f"struct {name}")
            paths = [path for path, _, _ in leaves(kind)][: len(paths)]
        for path, (_, at, bytes_) in zip(paths, published, strict=True):
            lines.append(f'_Static_assert(offsetof(struct {name}, {path}) == {at}, "{path}");')
            field = f"(((struct {name} *)0)->{path})"
            lines.append(f'_Static_assert(sizeof{field} == {bytes_}, "{path}");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-std=gnu11", "-fsyntax-only", f"-I{ROOT / 'csrc'}", str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(lines) > 300


# ---- The library, by a client without headers ----------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("client"))


def run(client: Path, node: AscendNode, *arguments: str) -> list[str]:
    done = subprocess.run(
        [str(client), *arguments],
        env=node.environment(os.environ),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_client_reads_a_device_of_the_node(
    client: Path, tmp_path: Path, sim_library: Path
) -> None:
    with ascend_node(tmp_path, sim_library) as node:
        holder = node.holder(0)
        assert holder.do("take 3000")
        lines = run(client, node)
    assert lines[:4] == ["card 0 has 1", "device 0 0", "card 1 has 1", "device 1 1"]
    assert "chip Ascend 910B3 20" in lines
    assert "pci 19e5:20b0 0:16:0.0" in lines
    assert "power 400" in lines  # tenths of a watt: a tenth of the limit, idle
    assert "degrees 30" in lines
    assert "health 0" in lines
    assert "hbm 65536 used 3000" in lines
    assert "ddr 0 free 0 busy 0" in lines
    assert f"process {holder.pid} {3000 << 20}" in lines


def test_a_chip_without_hbm_tells_its_other_memory(
    client: Path, tmp_path: Path, sim_library: Path
) -> None:
    text = node_text("310P3", 1, 24576, 8)
    with ascend_node(tmp_path, sim_library, text) as node:
        lines = run(client, node)
    assert "hbm -8255" in lines
    assert "ddr 21527 free 21527 busy 0" in lines
    assert "old 21527 busy 0" in lines


def test_a_card_of_two_dies_has_two_devices(
    client: Path, tmp_path: Path, sim_library: Path
) -> None:
    with ascend_node(tmp_path, sim_library, node_text("910C", 4)) as node:
        lines = run(client, node)
    assert lines[:6] == [
        "card 0 has 2",
        "device 0 0",
        "device 1 1",
        "card 1 has 2",
        "device 2 2",
        "device 3 3",
    ]


@needs_root
@pytest.mark.parametrize(
    ("model", "memory", "cores", "template", "has", "left"),
    [
        ("910A", 32768, 30, "vir02", (2, 2184, 1), (28, 30584)),
        ("910A", 32768, 30, "vir16", (16, 17476, 7), (14, 15292)),
        ("910B2", 65536, 24, "vir12_3c_32g", (12, 32768, 3), (12, 32768)),
        ("910B3", 65536, 20, "vir05_1c_16g", (5, 16384, 1), (15, 49152)),
        ("910B4-1", 65536, 20, "vir10_3c_32g", (10, 32768, 3), (10, 32768)),
        ("910B4", 32768, 20, "vir10_3c_16g", (10, 16384, 3), (10, 16384)),
        ("910C", 65536, 20, "vir05_1c_16g", (5, 16384, 1), (15, 49152)),
        ("310P3", 24576, 8, "vir04", (4, 12288, 4), (4, 9239)),
    ],
)
def test_vnpus_come_by_the_published_templates(
    client: Path,
    tmp_path: Path,
    sim_library: Path,
    model: str,
    memory: int,
    cores: int,
    template: str,
    has: tuple[int, int, int],
    left: tuple[int, int],
) -> None:
    with ascend_node(tmp_path, sim_library, node_text(model, 2, memory, cores)) as node:
        lines = run(client, node, template)
    whole = 21527 if model == "310P3" else memory
    assert lines[-4:] == [
        "vdev 100",
        f"total 1 first 100 cores {cores} memory {whole}",
        f"free cores {left[0]} memory {left[1]}",
        f"one {template} cores {has[0]} memory {has[1]} cpus {has[2]}",
    ]


def test_fault_events_reach_who_subscribed(client: Path, tmp_path: Path, sim_library: Path) -> None:
    sim = [sys.executable, "-m", "aliquot.sim"]
    with (
        ascend_node(tmp_path, sim_library) as node,
        subprocess.Popen(
            [str(client), "events", "2"],
            env=node.environment(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "subscribed\n"
        # A notice is below what is asked for, and another device's no affair of ours.
        for more in (
            ["--fault", "80E18000", "--severity", "0", "--device", "0"],
            ["--fault", "80E18001", "--device", "1"],
            ["--fault", "0x80E18005", "--severity", "3", "--device", "0"],
            ["--fault", "80E18005", "--severity", "3", "--cleared", "--device", "0"],
        ):
            subprocess.run([*sim, *more, str(node.folder)], check=True, timeout=60)
        assert process.stdout.read().splitlines() == [
            "event 0 80e18005 device 0 severity 3 assertion 1",
            "event 0 80e18005 device 0 severity 3 assertion 0",
        ]
        assert process.wait(60) == 0


def test_a_fault_is_told_by_the_vendors_option(tmp_path: Path, sim_library: Path) -> None:
    text = node_text(count=1) + "[[device]]\n"
    with ascend_node(tmp_path, sim_library, text) as node:
        for options, reason in (
            (["--xid", "79", "--device", "0"], "its faults are --fault N"),
            (["--fault", "79", "--device", "1"], "its faults are --xid N"),
            (["--fault", "zz", "--device", "0"], "is no code"),
            (["--fault", "79", "--device", "9"], "there is no device 9"),
        ):
            command = [sys.executable, "-m", "aliquot.sim", *options, str(node.folder)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
            assert done.returncode != 0
            assert reason in done.stderr


@needs_root
def test_a_vnpu_outlives_who_made_it(tmp_path: Path, sim_library: Path) -> None:
    script = """
import ctypes, os, signal, sys
d = ctypes.CDLL("libdcmi.so")
assert d.dcmi_init() == 0
wanted = (ctypes.c_uint32 * 26)(0xffffffff, 0xffffffff)
ctypes.memmove(ctypes.addressof(wanted) + 8, b"vir05_1c_16g", 13)
out = (ctypes.c_uint32 * 13)()
assert d.dcmi_create_vdevice(1, 0, wanted, out) == 0
assert out[0] == 116, out[0]
os.kill(os.getpid(), signal.SIGKILL)
"""
    look = """
import ctypes
d = ctypes.CDLL("libdcmi.so")
assert d.dcmi_init() == 0
total = (ctypes.c_uint32 * 90)()
size = ctypes.c_uint(360)
assert d.dcmi_get_device_info(1, 0, 52, 1, total, ctypes.byref(size)) == 0
print(total[0], total[1])
"""
    with ascend_node(tmp_path, sim_library) as node:
        env = node.environment(os.environ)
        made = subprocess.run([sys.executable, "-c", script], env=env, check=False, timeout=60)
        assert made.returncode == -signal.SIGKILL
        seen = subprocess.run(
            [sys.executable, "-c", look],
            env=env,
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert seen.stdout == "1 116\n"


def test_a_device_that_is_used_as_a_whole_gives_no_vnpu(
    client: Path, tmp_path: Path, sim_library: Path
) -> None:
    with ascend_node(tmp_path, sim_library) as node:
        assert node.holder(0).do(f"take {GIB >> 20}")
        done = subprocess.run(
            [str(client), "vir05_1c_16g"],
            env=node.environment(os.environ),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    wanted = -8020 if os.geteuid() == 0 else -8002
    assert done.stdout.endswith(f"create answered {wanted}, not 0\n")


@needs_root
def test_programs_in_a_vnpu_have_what_it_has_and_keep_it(
    client: Path, tmp_path: Path, sim_library: Path
) -> None:
    """What a container with the vNPU's device file sees, and the driver's refusal to destroy it."""
    make = """
import ctypes, sys
d = ctypes.CDLL("libdcmi.so")
assert d.dcmi_init() == 0
wanted = (ctypes.c_uint32 * 26)(0xffffffff, 0xffffffff)
ctypes.memmove(ctypes.addressof(wanted) + 8, b"vir05_1c_16g", 13)
out = (ctypes.c_uint32 * 13)()
print(d.dcmi_set_destroy_vdevice(0, 0, 100) if sys.argv[1:] else
      d.dcmi_create_vdevice(0, 0, wanted, out))
"""
    with ascend_node(tmp_path, sim_library) as node:
        env = node.environment(os.environ)

        def driver(*arguments: str) -> int:
            command = [sys.executable, "-c", make, *arguments]
            done = subprocess.run(
                command, env=env, check=True, capture_output=True, text=True, timeout=60
            )
            return int(done.stdout)

        assert driver() == 0
        holder = node.holder(0)
        assert holder.do("enter 100")
        assert holder.do("take 16000")
        assert not holder.do("take 400"), "more than the vNPU has"
        script = " && ".join(
            [
                "mkdir -p /run/aliquot-sim",
                f"mount --bind {node.folder} /run/aliquot-sim",
                f"cp {client} /run/aliquot-sim/client",
                "mount -t tmpfs tmpfs /dev",
                "mknod -m 666 /dev/davinci100 c 1 3",
                "exec /run/aliquot-sim/client",
            ]
        )
        inside = {key: value for key, value in env.items() if key != "ALIQUOT_SIM"}
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            env=inside,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert lines[:2] == ["card 0 has 1", "device 0 0"]
        assert "card 1 has 1" not in lines
        assert "chip Ascend 910B3 5" in lines
        assert "hbm 16384 used 16000" in lines
        assert driver("destroy") == -8020
        assert holder.do("give")
        assert driver("destroy") == 0
        assert not holder.do("take 1"), "its vNPU is gone"
