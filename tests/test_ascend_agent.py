"""An agent with Ascend devices, from a container's request to its end, by vNPUs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.demo_node import lay_out
from aliquot.agent.ledger import key_of

import images
import vendor_agent
from agent_node import Node, end
from agent_parts import NEEDS_ROOT, swept
from ascend_node import GIB, MIB, AscendNode, Worker, ascend_node, node_text
from commands import ALIQUOT, PATIENCE_SECONDS, wait_for
from edit_parts import LEAST
from oci import program

pytestmark = NEEDS_ROOT
RUNC = shutil.which("runc", path=images.PATH)
CONTROL = ("davinci_manager", "devmm_svm", "hisi_hdc")


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sim_library: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AscendNode]:
    """A simulated node with two devices, 910B3 if not said otherwise, and its files."""
    text = node_text(getattr(request, "param", "910B3"))
    with ascend_node(tmp_path, sim_library, text, with_files=True) as made:
        for name, value in made.environment(os.environ).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@pytest.fixture
def arguments(site: AscendNode, port: int) -> tuple[str, ...]:
    """What the agent is started with."""
    return ("ascend", str(site.folder / "root"), str(port))


@pytest.fixture
def node(tmp_path: Path, site: AscendNode) -> Iterator[Node]:
    """A folder for an agent; whoever still runs in it at the end is ended."""
    del site
    made = Node(tmp_path / "agent", vendor_agent.__file__)
    made.folder.mkdir()
    with swept(made.base):
        yield made
        for pid in made.running:
            end(pid)


@pytest.fixture
def looker(site: AscendNode, tmp_path: Path) -> Iterator[Worker]:
    """Somebody else who asks the driver."""
    (tmp_path / "looker").mkdir()
    made = Worker(tmp_path / "looker", site.environment(os.environ))
    yield made
    made.close()


def vnpus(looker: Worker) -> list[tuple[str, int, int]]:
    """The vNPUs that the driver has: number, GiB and percent."""
    return [
        (one["id"], one["memory_bytes"] // GIB, one["cores"]) for one in looker.get("partitions")
    ]


def bundle(folder: Path, annotations: dict[str, str], *env: str) -> Path:
    """A real bundle with these annotations and variables."""
    (folder / "rootfs").mkdir(parents=True)
    process = {"env": list(env), "args": ["sleep"]}
    hooks = {"prestart": [{"path": "/usr/local/Ascend/Ascend-Docker-Runtime/ascend-docker-hook"}]}
    config = {**LEAST, "annotations": annotations, "process": process, "hooks": hooks}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asking(folder: Path, **asked: str) -> Path:
    """A bundle that asks for this."""
    return bundle(folder, {f"aliquot.dev/{key}": text for key, text in asked.items()})


def changed(asked: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((asked / "config.json").read_text())
    return value


def nodes(asked: Path) -> set[str]:
    return {one["path"] for one in changed(asked)["linux"]["devices"]}


def aliquot(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)}
    return subprocess.run(
        [*ALIQUOT, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE_SECONDS,
    )


def shown(node: Node) -> list[dict[str, Any]]:
    """The devices of the slices."""
    told = aliquot(node, "ps", "--json")
    assert told.returncode == 0, told.stderr
    return [device for piece in json.loads(told.stdout)["slices"] for device in piece["devices"]]


def test_a_container_has_a_vnpu_from_its_start_to_its_end(
    node: Node, site: AscendNode, looker: Worker, arguments: tuple[str, ...], port: int
) -> None:
    with node.agent(*arguments):
        asked = asking(node.folder / "one", memory="10GiB", cores="20")
        started = node.start(asked)
        assert started.returncode == 0, started.stderr
        assert vnpus(looker) == [("100", 16, 25)]
        key = key_of("one", str(asked))
        record = json.loads((node.base / "vnpu/100").read_text())
        assert record["name"] == key
        assert nodes(asked) == {"/dev/davinci100", *(f"/dev/{name}" for name in CONTROL)}
        config = changed(asked)
        assert "ASCEND_VISIBLE_DEVICES=void" in config["process"]["env"]
        assert "ASCEND_DOCKER_RUNTIME=True" in config["process"]["env"]
        hooks = [one["path"] for listed in config["hooks"].values() for one in listed]
        assert not [path for path in hooks if "ascend" in path]
        mounts = {one["destination"]: one["source"] for one in config["mounts"]}
        root = site.folder / "root"
        assert mounts["/usr/local/dcmi"] == f"{root}/usr/local/dcmi"
        plan = (node.base / "containers" / key / "plan").read_bytes()
        assert b"libdcmi.so" in plan
        # It looks as any other slice does, and it is told who holds it.
        (device,) = shown(node)
        assert (device["enforcement"], device["cap_bytes"]) == ("partition", 16 * GIB)
        assert (device["cores"], device["cores_max"]) == (25, 25)
        assert device["partition"] == "100"
        assert "partition 100" in aliquot(node, "ps").stdout
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS
        ) as answer:
            assert b'enforcement="partition"' in answer.read()
        listed = json.loads(aliquot(node, "devices", "--json").stdout)["devices"]
        assert [one["enforcement"] for one in listed] == [["partition", "shim"]] * 2
        assert listed[0]["memory_allocated_bytes"] == 16 * GIB
        refused = aliquot(node, "set", "one", "--memory", "20GiB")
        assert refused.returncode != 0
        assert "cannot be changed while it runs" in refused.stderr
        refused = aliquot(node, "set", "one", "--cores-max", "80")
        assert "is a partition, which has all of its cores always" in refused.stderr
        assert shown(node) == [device]
        node.stop(asked, node.running[0])
        wait_for(lambda: vnpus(looker) == [], "the end of the vNPU")
        assert shown(node) == []
        assert list((node.base / "vnpu").iterdir()) == []
        assert not (root / "dev/vdavinci100").exists()


def test_what_cannot_be_is_told_and_leaves_nothing(
    node: Node, looker: Worker, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        two = node.start(asking(node.folder / "two", memory="10GiB", devices="2"))
        assert "can be partitioned for one device alone" in two.stderr
        # Somebody else has cut the devices up: the driver says so.
        for device in looker.get("enumerate"):
            for number in range(3):
                looker.get("partition", device["uuid"], f"theirs{number}", GIB, 1)
        refused = node.start(asking(node.folder / "one", memory="20GiB"))
        assert refused.returncode != 0
        assert "gives no vNPU of vir10_3c_32g: what is asked for is occupied (-8020)" in (
            refused.stderr
        )
        assert shown(node) == []
        assert not (node.base / "vnpu").is_dir() or not list((node.base / "vnpu").iterdir())
        assert node.start(asking(node.folder / "small", memory="10GiB")).returncode == 0
        assert len(vnpus(looker)) == 7


def test_a_whole_device_needs_no_vnpu(
    node: Node, looker: Worker, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        asked = asking(node.folder / "whole", devices="1")
        assert node.start(asked).returncode == 0
        assert vnpus(looker) == []
        assert nodes(asked) == {"/dev/davinci0", *(f"/dev/{name}" for name in CONTROL)}
        (device,) = shown(node)
        assert (device["enforcement"], device["cap_bytes"]) == ("shim", 64 * GIB)
        # What no template holds is the whole of the other.
        large = asking(node.folder / "large", memory="40GiB")
        assert node.start(large).returncode == 0
        assert "/dev/davinci1" in nodes(large)
        refused = node.start(asking(node.folder / "more", memory="1GiB"))
        assert "free" in refused.stderr


def test_the_vendors_own_variables_are_a_request(
    node: Node, looker: Worker, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        whole = bundle(node.folder / "whole", {}, "ASCEND_VISIBLE_DEVICES=Ascend910-1")
        assert node.start(whole).returncode == 0
        assert "/dev/davinci1" in nodes(whole)
        part = bundle(
            node.folder / "part",
            {},
            "ASCEND_VISIBLE_DEVICES=0",
            "ASCEND_VNPU_SPECS=vir10_3c_32g",
        )
        assert node.start(part).returncode == 0
        assert vnpus(looker) == [("100", 32, 50)]
        assert "/dev/davinci100" in nodes(part)
        both = bundle(
            node.folder / "both", {}, "ASCEND_VISIBLE_DEVICES=0,1", "ASCEND_VNPU_SPECS=vir05_1c_16g"
        )
        assert "is for one device" in node.start(both).stderr


def test_vnpus_that_a_killed_agent_left_are_taken_back_and_those_in_use_stay(
    node: Node, looker: Worker, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments) as agent:
        lives = asking(node.folder / "lives", memory="10GiB")
        dies = asking(node.folder / "dies", memory="10GiB")
        assert node.start(lives).returncode == 0
        assert node.start(dies).returncode == 0
        assert len(vnpus(looker)) == 2
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    # One container ends while nobody looks; one vNPU is nobody's at all, and one somebody else's.
    gone = node.running.pop()
    end(gone)
    uuid = looker.get("enumerate")[1]["uuid"]
    ours = looker.get("partition", uuid, "x", GIB, 1)
    theirs = looker.get("partition", uuid, "y", GIB, 1)
    record = node.base / "vnpu" / ours["id"]
    record.write_text(json.dumps({"uuid": uuid, "name": "nobody-0123abcd"}))
    with node.agent(*arguments):
        wait_for(lambda: len(vnpus(looker)) == 2, "the release of what nobody has")
        assert {one[0] for one in vnpus(looker)} == {"100", theirs["id"]}
        node.stop(lives, node.running[0])
        wait_for(lambda: len(vnpus(looker)) == 1, "the end of the vNPU")


def test_a_device_that_is_ill_is_not_given_and_is_again_once_it_is_well(
    node: Node, site: AscendNode, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        for device in range(2):
            site.inject(device, 0x80E18402, 3)
        wait_for(
            lambda: aliquot(node, "devices", "--json").stdout.count("80E18402") == 2, "the faults"
        )
        refused = node.start(asking(node.folder / "one", memory="1GiB"))
        assert "is unhealthy: fault 80E18402 (critical)" in refused.stderr
        site.inject(1, 0x80E18402, 3, cleared=True)
        wait_for(
            lambda: aliquot(node, "devices", "--json").stdout.count("80E18402") == 1, "its end"
        )
        asked = asking(node.folder / "two", memory="1GiB")
        assert node.start(asked).returncode == 0
        assert "/dev/davinci116" in nodes(asked)


# ---- By the real runtime -------------------------------------------------------------------------


def run_container(
    node: Node, folder: Path, script: str, memory: str, *variables: str, **mounts: Path
) -> subprocess.CompletedProcess[str]:
    """Run a shell's script in a container of ``folder``'s bundle that asks for so much memory.

    ``mounts`` are folders of this machine, by their names below the container's root.
    """
    subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)
    config = changed(folder)
    config["process"].update(terminal=False, args=["/bin/sh", "-c", script])
    config["process"]["env"] += variables
    del config["process"]["rlimits"]
    config["root"]["readonly"] = False
    kept = ("/proc", "/dev", "/sys")
    config["mounts"] = [row for row in config["mounts"] if row["destination"] in kept]
    config["mounts"] += [
        {"destination": f"/{name}", "source": str(path), "type": "bind", "options": ["rbind", "rw"]}
        for name, path in mounts.items()
    ]
    config["annotations"] = {"aliquot.dev/memory": memory}
    (folder / "config.json").write_text(json.dumps(config))
    environment = {
        "PATH": f"{Path(str(RUNC)).parent}:/usr/bin:/bin",
        "ALIQUOT_RUNTIME_DIR": str(node.base),
    }
    command = [str(program("aliquot-runtime")), f"--root={folder}/runc", "run", "ascend-one"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def image_of(tmp_path: Path) -> Path:
    """A bundle's folder with a small system in it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    root = images.system(folder / "rootfs")
    (root / "run").mkdir(exist_ok=True)
    return folder


@images.needs_ldconfig
@pytest.mark.skipif(not RUNC, reason="a container needs runc")
def test_a_real_container_has_its_vnpus_node_and_the_drivers_library(
    node: Node, looker: Worker, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    script = "ls -l /dev/davinci*; ls /usr/local/dcmi; : < /dev/davinci100 && echo opened; env"
    folder = image_of(tmp_path)
    with node.agent(*arguments):
        done = run_container(node, folder, script, "10GiB")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert "opened" in lines
        assert "libdcmi.so" in lines
        assert "ASCEND_VISIBLE_DEVICES=void" in lines
        listed = [line for line in lines if line.startswith("c")]
        assert {line.split()[-1] for line in listed} == {
            "/dev/davinci100",
            "/dev/davinci_manager",
        }
        # It has ended: so has its vNPU.
        wait_for(lambda: vnpus(looker) == [], "the end of the vNPU")
        assert node.names() == set()


@images.needs_ldconfig
@pytest.mark.skipif(not RUNC, reason="a container needs runc")
@pytest.mark.parametrize("site", ["910X"], indirect=True)
def test_a_real_container_without_a_vnpu_is_held_by_the_shim_of_its_own_runtime(
    node: Node, site: AscendNode, arguments: tuple[str, ...], tmp_path: Path, sim_library: Path
) -> None:
    client = tmp_path / "client"
    source = Path(__file__).with_name("ascend_client.c")
    command = ["gcc", "-D_GNU_SOURCE", "-DBY_DLOPEN", "-o", str(client), str(source), "-ldl"]
    subprocess.run(command, check=True)
    # CANN is the image's, in a version's folder that a link leads to.
    toolkit = "usr/local/Ascend/ascend-toolkit"
    programs = {"/bin/client": client}
    for name in ("libruntime.so", "libascendcl.so"):
        programs[f"/{toolkit}/8.5.0/lib64/{name}"] = sim_library.with_name(name)
    folder = tmp_path / "bundle"
    root = lay_out(folder / "rootfs", programs)
    (root / toolkit / "latest").symlink_to("8.5.0")
    asked = f"set 0\\ninfo acl 1\\ngive align {2 * GIB}\\ngive align {GIB}\\n"
    script = f"printf '{asked}' | /bin/client; ls /dev"
    with node.agent(*arguments):
        done = run_container(
            node,
            folder,
            script,
            "2GiB",
            "LD_LIBRARY_PATH=/usr/local/Ascend/ascend-toolkit/latest/lib64",
            "ALIQUOT_SIM=/simulated",
            # (Without the devices' own files the simulator shows the node's both.)
            "ASCEND_RT_VISIBLE_DEVICES=0",
            simulated=site.folder,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    context = 200 * MIB
    assert said[:3] == ["0", f"0 {2 * GIB - context} {2 * GIB}", "207001 0"], done.stderr
    assert said[3] == "0 1"
    assert "davinci0" in said
