"""An agent with Cambricon's devices, from a container's request to its end, by shares of cards."""

from __future__ import annotations

import json
import os
import re
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
from aliquot.sim import cdi
from aliquot.sim.node import parse_node

import cambricon_node
import images
import oci
import vendor_agent
from agent_node import Node, end
from agent_parts import NEEDS_ROOT, swept
from cambricon_node import MIB, NODE, Holder, built
from commands import ALIQUOT, TESTS, wait_for
from edit_parts import LEAST
from failing_library import FailingLibrary

pytestmark = NEEDS_ROOT
# Of the library.
FUNCTIONS = tuple(
    re.findall(r"\b(cndev\w+)\(", (TESTS.parent / "agent/devices/_cndev.cdef").read_text())
)
RUNC = shutil.which("runc", path=images.PATH)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled to."""
    return tmp_path_factory.mktemp("cambricon-agent")


@pytest.fixture
def site(
    tmp_path: Path, sim_library: Path, request: pytest.FixtureRequest
) -> Iterator[cambricon_node.Node]:
    """A simulated node with two cards, and their device files in a root of its own."""
    library = tmp_path / "lib"
    library.mkdir()
    (library / "libcndev.so").symlink_to(sim_library.with_name("libcndev.so"))
    made = cambricon_node.Node(tmp_path, library, getattr(request, "param", NODE))
    dev = made.state / "root/dev"
    for name in ("cambricon_ctl", "cambricon_dev0", "cambricon_dev1"):
        os.mknod(dev / name, 0o020666, os.makedev(1, 3))
    yield made
    made.close()


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@pytest.fixture
def arguments(site: cambricon_node.Node, port: int) -> tuple[str, ...]:
    """What the agent is started with."""
    return ("cambricon", str(site.state / "root"), str(port))


@pytest.fixture
def node(
    tmp_path: Path, site: cambricon_node.Node, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Node]:
    """A folder for an agent; whoever still runs in it at the end is ended."""
    for name in ("ALIQUOT_SIM", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, site.environment[name])
    made = Node(tmp_path / "node", vendor_agent.__file__)
    made.folder.mkdir()
    with swept(made.base):
        yield made
        for pid in made.running:
            end(pid)


def bundle(folder: Path, annotations: dict[str, str], *env: str) -> Path:
    """A real bundle with these annotations and variables."""
    (folder / "rootfs").mkdir(parents=True)
    process = {"env": list(env), "args": ["sleep"]}
    config = {**LEAST, "annotations": annotations, "process": process}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asking(folder: Path, **asked: str) -> Path:
    """A bundle that asks for this."""
    return bundle(folder, {f"aliquot.dev/{key}": text for key, text in asked.items()})


def aliquot(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(node.base)}
    return subprocess.run(
        [*ALIQUOT, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def shown(node: Node) -> list[dict[str, Any]]:
    """The devices of the slices."""
    told = aliquot(node, "ps", "--json")
    assert told.returncode == 0, told.stderr
    return [device for piece in json.loads(told.stdout)["slices"] for device in piece["devices"]]


def instances(site: cambricon_node.Node) -> list[dict[str, Any]]:
    """The instances that the driver has, whoever asks."""
    if site.worker is None:
        assert site.start() == {"returned": "cambricon"}
    found: list[dict[str, Any]] = site.get("partitions")
    return found


def believes_the_driver(node: Node, site: cambricon_node.Node, programs: Path, share: str) -> None:
    """What the driver says that a share uses is told, though nobody in the container is seen to."""
    elsewhere = site.holder(programs)
    assert elsewhere.do(f"enter {share}")
    assert elsewhere.do("take 32")
    wait_for(lambda: shown(node)[0]["unseen_bytes"] == 32 * MIB, "what the driver tells")
    elsewhere.end()


def nodes(asked: Path) -> dict[str, tuple[int, int]]:
    config = json.loads((asked / "config.json").read_text())
    return {one["path"]: (one["major"], one["minor"]) for one in config["linux"]["devices"]}


@pytest.mark.skipif(not RUNC, reason="there is no runc")
def test_a_container_has_a_share_of_a_card_from_its_start_to_its_end(
    node: Node,
    site: cambricon_node.Node,
    arguments: tuple[str, ...],
    port: int,
    programs: Path,
) -> None:
    cdi.write(parse_node(NODE, "test.toml", "test"), site.state, node.folder / "cdi")
    with node.agent(*arguments):
        folder = node.folder / f"one-{os.getpid()}"
        uuid = site_uuid(site)
        asked = {"memory": "256MiB", "cores": "30", "uuid": uuid}
        inside = Inside(node, folder, built("holder", programs), 0, **asked)
        (share,) = instances(site)
        assert share["name"] == key_of(folder.name, str(folder))
        assert (share["memory_bytes"], share["cores"]) == (256 * MIB, 30)
        file = f"/dev/cambricon-caps/cap_dev0_mi{share['id']}"
        assert {"/dev/cambricon_dev0", "/dev/cambricon_ctl", file} <= set(nodes(folder))
        config = json.loads((folder / "config.json").read_text())
        assert "CAMBRICON_VISIBLE_DEVICES=void" in config["process"]["env"]
        (device,) = shown(node)
        assert device["enforcement"] == "partition"
        assert device["partition"]
        assert f"partition {device['partition']}" in aliquot(node, "ps").stdout
        assert (device["cap_bytes"], device["cores"], device["cores_max"]) == (256 * MIB, 30, 30)
        believes_the_driver(node, site, programs, share["id"])
        # It is the driver that holds it to that, by the file that it has.
        assert inside.do("take 256")
        assert not inside.do("take 2")
        told = aliquot(node, "set", folder.name, "--memory", "512MiB", "--cores", "60", "--json")
        assert told.returncode == 0, told.stderr
        (device,) = json.loads(told.stdout)["devices"]
        assert (device["cap_bytes"], device["cores"]) == (512 * MIB, 60)
        assert inside.do("take 256"), "the new limit does not hold at once"
        assert not inside.do("take 2")
        refused = aliquot(node, "set", folder.name, "--memory", "2GiB")
        assert refused.returncode != 0
        (share,) = instances(site)
        assert (share["memory_bytes"], share["cores"]) == (512 * MIB, 60)
        assert 'enforcement="partition"' in metrics(port)
        inside.end()
        assert inside.process.returncode == 0
        wait_for(lambda: instances(site) == [], "the end of the share")
        assert not (site.state / "root" / file[1:]).exists()
        assert shown(node) == []


def test_instances_of_the_hardware_are_shown_as_devices(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...], programs: Path
) -> None:
    admin = site.holder(programs)
    assert admin.do("mim 1")
    assert admin.do("share 512 50 first")
    with node.agent(*arguments):
        told = aliquot(node, "devices", "--json")
        assert told.returncode == 0, told.stderr
        first, card = json.loads(told.stdout)["devices"]
        assert first["model"].startswith("MLU370-X8 MIM 50m.")
        assert first["memory_bytes"] == 512 * MIB
        assert first["enforcement"] == ["shim"]
        assert card["model"] == "MLU370-X8"


@pytest.mark.skipif(not RUNC, reason="there is no runc")
# Contexts that take what is estimated.
@pytest.mark.parametrize("site", [NODE + 'context = "128MiB"\n'], indirect=True)
@pytest.mark.parametrize("place", ["usr/local/neuware/lib64/libcndrv.so", "opt/libcndrv.so.2.15.5"])
def test_without_shares_a_container_is_held_by_the_shim_before_its_image_s_library(
    node: Node,
    site: cambricon_node.Node,
    arguments: tuple[str, ...],
    sim_library: Path,
    programs: Path,
    place: str,
) -> None:
    theirs = site.holder(programs)
    assert theirs.do("smlu 0")
    cdi.write(parse_node(NODE, "test.toml", "test"), site.state, node.folder / "cdi")
    driver = sim_library.with_name("libcndrv.so")
    client = cndrv_client(driver, programs)
    folder = node.folder / f"soft-{os.getpid()}"
    root = lay_out(folder / "rootfs", {"/client": client})
    library = root / place
    library.parent.mkdir(parents=True)
    shutil.copy(driver, library)
    if library.name != driver.name:
        (library.parent / driver.name).symlink_to(library.name)
    with node.agent(*arguments):
        uuid = site_uuid(site)
        asked = {"memory": "256MiB", "uuid": uuid}
        variables = [f"LD_LIBRARY_PATH=/{library.parent.relative_to(root)}"]
        inside = Container(node, folder, ["/client", "fill"], variables, **asked)
        (device,) = shown(node)
        assert (device["enforcement"], device["cap_bytes"]) == ("shim", 256 * MIB)
        assert inside.say("go") == "filled 64 100100"
        (device,) = shown(node)
        assert device["charge_bytes"] == 256 * MIB
        inside.process.communicate("go\n", timeout=60)
        assert inside.process.returncode == 0
        wait_for(lambda: shown(node) == [], "its end")
    assert instances(site) == []


def cndrv_client(driver: Path, folder: Path) -> Path:
    """The client of the driver's library."""
    program = folder / "cndrv_client"
    command = ["gcc", "-std=gnu11", "-O1", str(TESTS / "cndrv_client.c"), "-o", str(program)]
    command += [f"-L{driver.parent}", "-l:libcndrv.so", "-Wl,--allow-shlib-undefined"]
    subprocess.run(command, check=True)
    return program


class Container:
    """A container that a real runtime runs, in the folder of its bundle."""

    def __init__(
        self, node: Node, folder: Path, args: list[str], variables: list[str], **asked: str
    ) -> None:
        subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)
        config = json.loads((folder / "config.json").read_text())
        config["process"].update(terminal=False, args=args)
        config["process"]["env"] += variables
        del config["process"]["rlimits"]
        config["annotations"] = {f"aliquot.dev/{key}": text for key, text in asked.items()}
        (folder / "config.json").write_text(json.dumps(config))
        environment = {
            **{k: v for k, v in os.environ.items() if k not in ("ALIQUOT_SIM", "LD_LIBRARY_PATH")},
            "ALIQUOT_RUNTIME_DIR": str(node.base),
        }
        self.process = subprocess.Popen(
            [str(oci.program("aliquot-runtime")), f"--root={folder}/runc", "run", folder.name],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.read() == "ready"

    def read(self) -> str:
        """Return the next line of its program."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def say(self, word: str) -> str:
        """Return what its program answers."""
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()


class Inside(Holder):
    """A container that a real runtime runs, whose only program holds memory of a card."""

    def __init__(self, node: Node, folder: Path, program: Path, device: int, **asked: str) -> None:
        self.folder = folder
        (folder / "rootfs").mkdir(parents=True)
        shutil.copy(program, folder / "rootfs/holder")
        subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)
        config = json.loads((folder / "config.json").read_text())
        args = ["/holder", cdi.INSIDE, str(device)]
        config["process"].update(terminal=False, args=args)
        del config["process"]["rlimits"]
        config["annotations"] = {f"aliquot.dev/{key}": text for key, text in asked.items()}
        (folder / "config.json").write_text(json.dumps(config))
        environment = {
            **{k: v for k, v in os.environ.items() if k not in ("ALIQUOT_SIM", "LD_LIBRARY_PATH")},
            "ALIQUOT_RUNTIME_DIR": str(node.base),
        }
        self.process = subprocess.Popen(
            [str(oci.program("aliquot-runtime")), f"--root={folder}/runc", "run", folder.name],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        said = self._answer()
        assert said == "ok", said


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def test_shares_that_a_killed_agent_left_are_taken_back_and_those_in_use_stay(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments) as agent:
        lives = asking(node.folder / "lives", memory="128MiB")
        dies = asking(node.folder / "dies", memory="128MiB")
        assert node.start(lives).returncode == 0
        assert node.start(dies).returncode == 0
        assert len(instances(site)) == 2
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    # One container ends while nobody looks, and one instance is nobody's at all.
    gone = node.running.pop()
    end(gone)
    orphan = site.get(
        "partition", site.get("enumerate")[0]["uuid"], "nobody-0123456789ab", 64 * MIB, 5
    )
    assert orphan in instances(site)
    with node.agent(*arguments):
        wait_for(lambda: len(instances(site)) == 1, "the release of what nobody has")
        (share,) = instances(site)
        assert share["name"] == key_of("lives", str(lives))
        (device,) = shown(node)
        assert device["cap_bytes"] == 128 * MIB
        told = aliquot(node, "set", "lives", "--memory", "192MiB")
        assert told.returncode == 0, told.stderr
        assert instances(site)[0]["memory_bytes"] == 192 * MIB
        node.stop(lives, node.running[0])
        wait_for(lambda: instances(site) == [], "the end of the share")


def test_what_the_driver_refuses_is_told_and_leaves_nothing(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...], programs: Path
) -> None:
    theirs = site.holder(programs)
    assert theirs.do("share 900 90 plugin")
    with node.agent(*arguments):
        uuid = site_uuid(site)
        refused = node.start(asking(node.folder / "one", memory="256MiB", uuid=uuid))
        assert refused.returncode != 0
        assert "insufficient space (9)" in refused.stderr
        assert [one["name"] for one in instances(site)] == [""]
        assert shown(node) == []
        assert node.start(asking(node.folder / "two", memory="64MiB", uuid=uuid)).returncode == 0


@pytest.fixture
def failing(site: cambricon_node.Node, sim_library: Path) -> FailingLibrary:
    """What makes functions of the node's library fail."""
    library = site.folder / "lib"
    (library / "libcndev.so").unlink()
    return FailingLibrary(library, sim_library.with_name("libcndev.so"), FUNCTIONS)


@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
def test_what_fails_at_the_driver_is_one_line_and_all_stays_as_it_was(
    failing: FailingLibrary,
    node: Node,
    site: cambricon_node.Node,
    arguments: tuple[str, ...],
    done: bool,
) -> None:
    """Whether the driver has done what it says that it could not, or has not."""
    with node.agent(*arguments):
        uuid = site_uuid(site)
        asked = asking(node.folder / "one", memory="128MiB", uuid=uuid)
        assert node.start(asked).returncode == 0
        before = instances(site)

        failing.fail("cndevUpdateSMluInstanceQuotaByHandle", 17, done=done)
        refused = aliquot(node, "set", "one", "--memory", "256MiB", "--cores", "50")
        failing.mend()
        assert refused.returncode != 0
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "timeout (17)" in refused.stderr
        assert instances(site) == before
        assert [row["cap_bytes"] for row in shown(node)] == [128 * MIB]

        for function in ("cndevCreateSMluProfileInfo", "cndevCreateSMluInstanceByProfileId"):
            failing.fail(function, 17, done=done)
            refused = node.start(asking(node.folder / function, memory="64MiB", uuid=uuid))
            failing.mend()
            assert refused.returncode != 0
            assert refused.stderr.count("\n") == 1, refused.stderr
            assert "timeout (17)" in refused.stderr
            assert instances(site) == before
            assert node.names() == {"one"}

        function = "cndevDestroySMluInstanceByHandle"
        failing.fail(function, 17, done=done)
        end(node.running.pop())
        # What did not go is tried again, and is somebody's until it has gone.
        wait_for(lambda: failing.failed(function) > (0 if done else 1), "another try")
        assert done or len(shown(node)) == 1
        failing.mend()
        wait_for(lambda: shown(node) == [], "the end of the slice")
        assert instances(site) == []


def site_uuid(site: cambricon_node.Node) -> str:
    instances(site)
    uuid: str = site.get("enumerate")[0]["uuid"]
    return uuid


def test_a_card_is_given_whole_by_the_vendors_own_variable(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        asked = bundle(node.folder / "whole", {}, "CAMBRICON_VISIBLE_DEVICES=1")
        started = node.start(asked)
        assert started.returncode == 0, started.stderr
        assert nodes(asked) == {"/dev/cambricon_dev1": (1, 3), "/dev/cambricon_ctl": (1, 3)}
        assert instances(site) == []
        (device,) = shown(node)
        assert device["cap_bytes"] == 1024 * MIB
        again = node.start(asking(node.folder / "again", memory="64MiB", uuid="cambricon:1"))
        assert again.returncode != 0


def test_the_scheduler_s_annotation_is_a_share_of_the_card_in_its_slot(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        profile = {"CAMBRICON_DSMLU_PROFILE": "1_20_25", "CAMBRICON_DSMLU_ASSIGHED": "false"}
        started = node.start(bundle(node.folder / "pod", profile))
        assert started.returncode == 0, started.stderr
        (share,) = instances(site)
        assert share["uuid"] == site.get("enumerate")[1]["uuid"]
        assert (share["memory_bytes"], share["cores"]) == (256 * MIB, 20)
        assigned = {**profile, "CAMBRICON_DSMLU_ASSIGNED": "true"}
        plugin = bundle(node.folder / "plugin", assigned)
        assert node.start(plugin).returncode != 0, "it has no slice"
        assert len(instances(site)) == 1


def test_a_card_that_is_ill_is_not_given_and_is_again_once_it_is_well(
    node: Node, site: cambricon_node.Node, arguments: tuple[str, ...]
) -> None:
    with node.agent(*arguments):
        site.fault(0, 0x77)
        site.fault(1, 0x77)
        wait_for(
            lambda: "injected fault 0x77" in aliquot(node, "devices", "--json").stdout, "the fault"
        )
        refused = node.start(asking(node.folder / "one", memory="64MiB"))
        assert "is unhealthy: injected fault 0x77" in refused.stderr
        site.fault(1, 0x77, cleared=True)
        wait_for(
            lambda: aliquot(node, "devices", "--json").stdout.count("injected fault") == 1,
            "its end",
        )
        assert node.start(asking(node.folder / "two", memory="64MiB")).returncode == 0
        assert instances(site)[0]["uuid"] == site.get("enumerate")[1]["uuid"]
