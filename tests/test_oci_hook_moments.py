"""``aliquot-hook`` in all its moments: with the agent, and called by a real runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import oci
from commands import PATIENCE_SECONDS
from oci import Agent, Bundle, granting, one_line, program, reply

RUNC = shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin")
BUSYBOX = Path("/bin/busybox")


def _static(path: Path) -> bool:
    return path.exists() and b"ld-linux" not in path.read_bytes()[:4096]


needs_runc = pytest.mark.skipif(
    os.geteuid() != 0 or not RUNC or not _static(BUSYBOX),
    reason="a container needs root, runc and a static /bin/busybox",
)


def hook(base: Path, *arguments: str, state: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("aliquot-hook"), *arguments],
        env={"ALIQUOT_RUNTIME_DIR": str(base)},
        input=state if isinstance(state, str) else json.dumps(state),
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


STATE = {
    "ociVersion": "1.0.2-dev",
    "id": "c1",
    "status": "creating",
    "pid": 4711,
    "bundle": "/run/bundle",
    "annotations": {"id": "other", "nested": '{"pid": 1}'},
}


def test_create_runtime_tells_the_agent_who_it_is(tmp_path: Path) -> None:
    with granting(tmp_path) as agent:
        result = hook(tmp_path, "createRuntime", "/slices/c1", state=STATE)
    assert (result.returncode, result.stderr) == (0, "")
    told = {"slice": "/slices/c1", "id": "c1", "pid": "4711", "bundle": "/run/bundle"}
    assert [asked[:2] for asked in agent.asked] == [(oci.CREATE_RUNTIME, told)]


def test_create_runtime_fails_without_the_agents_consent(tmp_path: Path) -> None:
    result = hook(tmp_path, "createRuntime", "/slices/c1", state=STATE)
    assert result.returncode == 1
    assert "the agent does not answer" in one_line(result, "aliquot-hook")
    with Agent(tmp_path, lambda kind, _: reply(kind, oci.REFUSED, "the slice\nis gone")):
        result = hook(tmp_path, "createRuntime", "/slices/c1", state=STATE)
    assert result.returncode == 1
    assert one_line(result, "aliquot-hook") == "aliquot-hook: the slice?is gone"


def test_poststop_tells_the_agent_and_never_fails_without_it(tmp_path: Path) -> None:
    stopped = {**STATE, "pid": 0, "status": "stopped"}
    with granting(tmp_path) as agent:
        result = hook(tmp_path, "poststop", "/slices/c1", state=stopped)
        assert (result.returncode, result.stderr) == (0, "")
    told = {"slice": "/slices/c1", "id": "c1"}
    assert [asked[:2] for asked in agent.asked] == [(oci.POSTSTOP, told)]
    result = hook(tmp_path, "poststop", "/slices/c1", state=stopped)
    assert result.returncode == 0
    assert "the agent does not answer" in one_line(result, "aliquot-hook")
    with Agent(tmp_path, lambda kind, _: reply(kind, oci.REFUSED, "no such slice")):
        result = hook(tmp_path, "poststop", "/slices/c1", state=stopped)
    assert result.returncode == 0
    assert one_line(result, "aliquot-hook") == "aliquot-hook: no such slice"


@pytest.mark.parametrize("moment", ["createRuntime", "poststop"])
@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("", "no object"),
        ("[]", "no object"),
        ('{"id": "c1"', "without '}'"),
        ('{"pid": 1}', "no id"),
        ('{"id": ""}', "no id"),
        ('{"id": "c1", "id": "c2"}', "a second value"),
        ('{"id": "a\\u0000b"}', "control character"),
        ('{"id": "c1", "pid": -1}', "no number"),
        ('{"x": "' + "x" * (4 << 20) + '"}', "File too large"),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path: Path, moment: str, state: str, why: str) -> None:
    with granting(tmp_path) as agent:
        result = hook(tmp_path, moment, "/slices/c1", state=state)
    assert result.returncode == 1
    assert why in one_line(result, "aliquot-hook")
    assert agent.asked == []


@pytest.mark.parametrize("lacking", ["pid", "bundle"])
def test_create_runtime_needs_pid_and_bundle(tmp_path: Path, lacking: str) -> None:
    state = {key: value for key, value in STATE.items() if key != lacking}
    result = hook(tmp_path, "createRuntime", "/slices/c1", state=state)
    assert result.returncode == 1
    assert lacking in one_line(result, "aliquot-hook")


@pytest.mark.parametrize(
    "arguments", [[], ["createRuntime"], ["prestart", "/x"], ["poststop", "x"], ["a", "/b", "c"]]
)
def test_other_calls_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    result = hook(tmp_path, *arguments, state=STATE)
    assert result.returncode == 2
    assert "usage: aliquot-hook " in one_line(result, "aliquot-hook")


# -- By a real runtime --------------------------------------------------------------------------


class Container:
    """A bundle that runc starts through aliquot-runtime, with the hook as the agent adds it."""

    def __init__(self, folder: Path, script: str, *, userns: bool = False) -> None:
        self.bundle = Bundle(folder)
        self.base = folder / "base"
        self.base.mkdir()
        self.id = f"aliquot-test-{os.getpid()}-{folder.parent.name[-8:]}"
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
            (self.bundle.root / name).mkdir()
        shutil.copy2(BUSYBOX, self.bundle.root / "bin/busybox")
        for path in (folder.parent, folder, self.bundle.slice, self.bundle.slice / "region"):
            path.chmod(0o755)
        subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)
        self.file = folder / "config.json"
        config = json.loads(self.file.read_text())
        config["root"] = {"path": str(self.bundle.root), "readonly": True}
        process = config["process"]
        process["terminal"] = False
        process["args"] = ["/bin/busybox", "sh", "-c", script]
        del process["rlimits"]
        kept = ("/proc", "/dev", "/sys")
        config["mounts"] = [row for row in config["mounts"] if row["destination"] in kept]
        if userns:
            config["mounts"][-1] = {
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            }
            config["linux"]["namespaces"].append({"type": "user"})
            mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
            config["linux"].update(uidMappings=mapping, gidMappings=mapping)
        environment = [f"ALIQUOT_RUNTIME_DIR={self.base}"]
        own = str(program("aliquot-hook"))
        config["hooks"] = {
            moment: [
                {
                    "path": own,
                    "args": ["aliquot-hook", moment, str(self.bundle.slice)],
                    "env": environment,
                }
            ]
            for moment in ("createRuntime", "createContainer", "poststop")
        }
        self.config: dict[str, Any] = config

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run aliquot-runtime in the bundle's folder, with output in files as containerd has it."""
        out, err = self.base / "stdout", self.base / "stderr"
        with out.open("w") as stdout, err.open("w") as stderr:
            result = subprocess.run(
                [
                    program("aliquot-runtime"),
                    f"--root={self.base}/runc",
                    "--log",
                    str(self.base / "log.json"),
                    "--log-format",
                    "json",
                    *arguments,
                ],
                check=False,
                cwd=self.bundle.folder,
                env={**os.environ, "ALIQUOT_RUNTIME_DIR": str(self.base), "PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                timeout=PATIENCE_SECONDS,
            )
        return subprocess.CompletedProcess(
            result.args, result.returncode, out.read_text(), err.read_text()
        )

    def write(self) -> None:
        """Write the bundle's files."""
        self.bundle.write()
        self.file.write_text(json.dumps(self.config))

    def said(self) -> str:
        """The last error in runc's log: what containerd would tell the user."""
        lines = (self.base / "log.json").read_text().splitlines()
        errors = [row for row in map(json.loads, lines) if row["level"] == "error"]
        message: str = errors[-1]["msg"]
        return message


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that root of a user namespace reaches, too."""
    with tempfile.TemporaryDirectory(prefix="aliquot-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


HOME = "/usr/lib/x86_64-linux-gnu"
SCRIPT = (
    f"cd {HOME} && busybox cat libcuda.so.1 .aliquot/libcuda-driver.so.1 .aliquot/grant && "
    "echo && : >> .aliquot/usage && echo wrote && "
    "(: >> libcuda.so) 2>/dev/null || echo kept"
).replace("busybox", "/bin/busybox")


@needs_runc
@pytest.mark.parametrize("userns", [False, True])
def test_a_real_container_has_its_slice(folder: Path, userns: bool) -> None:
    script = f"{SCRIPT}; echo rang > .aliquot/bell"
    container = Container(folder / "b", script, userns=userns)
    container.bundle.usual()
    container.bundle.image_link(f"{HOME}/libcuda.so.1", "/proc/self/exe")
    (container.bundle.slice / "region/usage").chmod(0o666)
    container.write()
    bell = os.open(container.bundle.slice / "region/bell", os.O_RDWR | os.O_NONBLOCK)
    before = Path("/proc/self/mountinfo").read_text()
    with granting(container.base) as agent:
        result = container.call("run", container.id)
    assert result.returncode == 0, (result.stderr, container.said())
    assert os.read(bell, 4096) == b"rang\n"
    os.close(bell)
    assert result.stdout == "host shimhost drivergrant\nwrote\nkept\n"
    kinds = [kind for kind, _, _ in agent.asked]
    assert kinds == [oci.CREATE, oci.CREATE_RUNTIME, oci.POSTSTOP]
    create, created, stopped = (request for _, request, _ in agent.asked)
    assert create == {"id": container.id, "bundle": str(container.bundle.folder)}
    assert int(created.pop("pid")) > 0
    common = {"id": container.id, "slice": str(container.bundle.slice)}
    assert created == {**common, "bundle": str(container.bundle.folder)}
    assert stopped == common
    assert Path("/proc/self/mountinfo").read_text() == before


@needs_runc
def test_exec_and_delete_work_and_the_agent_may_be_gone_by_then(folder: Path) -> None:
    container = Container(folder / "b", "exec /bin/busybox sleep 1000")
    container.bundle.usual()
    container.write()
    try:
        with granting(container.base):
            made = container.call("create", container.id)
            assert made.returncode == 0, (made.stderr, container.said())
        assert container.call("start", container.id).returncode == 0
        shown = container.call(
            "exec", container.id, "/bin/busybox", "env", "-i", "/bin/busybox", "sh", "-c", SCRIPT
        )
        assert shown.stdout == "host shimhost drivergrant\nwrote\nkept\n", shown.stderr
    finally:
        ended = container.call("delete", "--force", container.id)
    assert ended.returncode == 0, ended.stderr
    assert container.call("state", container.id).returncode != 0


@needs_runc
def test_a_refusal_by_the_hook_reaches_the_user(folder: Path) -> None:
    container = Container(folder / "b", "true")
    container.bundle.usual()
    container.bundle.image_link("/usr/lib", "/proc/self")
    container.write()
    with granting(container.base) as agent:
        result = container.call("run", container.id)
    assert result.returncode != 0
    assert "aliquot-hook: " in container.said()
    assert f"making {HOME}: it lies on proc" in container.said()
    assert [kind for kind, _, _ in agent.asked][-1] == oci.POSTSTOP


@needs_runc
def test_a_refusal_by_the_agent_reaches_the_user(folder: Path) -> None:
    container = Container(folder / "b", "true")
    container.bundle.usual()
    container.write()
    with Agent(container.base, lambda kind, _: reply(kind, oci.REFUSED, "no room")) as agent:
        result = container.call("run", container.id)
    assert result.returncode == 1
    assert container.said() == "aliquot: no room"
    assert len(agent.asked) == 1
