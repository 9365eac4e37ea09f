"""A whole node for the tests: simulated devices, an agent, a containerd with Aliquot's handler."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import aliquot.shim
import pytest
from aliquot.agent.demo_node import AgentProcess, Containerd, lay_out, pack, patiently
from aliquot.sim.state import GroupTruth, truth

from cri import HANDLER, Cri, Pod, Wish

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGE: Final = "docker.io/local/cuda:1"
GIB: Final = 1 << 30
MIB: Final = 1 << 20
OUT_OF_MEMORY: Final = 2


@dataclass(frozen=True, slots=True)
class Filled:
    """What `hold` was told by CUDA. Sizes are bytes."""

    count: int
    total: int
    free: int
    held: int
    refused: int


def read_filled(out: str, err: str = "") -> Filled:
    """Read the line that `hold` prints."""
    match = re.search(r"count=(\d+) total=(\d+) free=(\d+) held=(\d+) refused=(\d+)", out, re.ASCII)
    assert match, f"it said '{out}' and '{err}'"
    return Filled(*map(int, match.groups()))


def compile_hold(folder: Path, *options: str) -> Path:
    """Compile the example program that takes device memory."""
    program = folder / "hold"
    subprocess.run(
        ["cc", "-O1", *options, "-o", str(program), str(ROOT / "examples/hold.c"), "-ldl"],
        check=True,
        capture_output=True,
    )
    return program


class Site:
    """A node. Its folder is short, for the sockets in it."""

    def __init__(self, profile: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aq-"))
        # Containers of other users and of user namespaces pass through it.
        self.folder.chmod(0o711)
        self.node = self.folder / "node"
        self.runtime_dir = self.folder / "run"
        self.metrics_port = _free_port()
        self.hold = compile_hold(self.folder)
        subprocess.run(
            [sys.executable, "-m", "aliquot.agent", "sim", "--node", profile,
             "--keep", str(self.node), "--shared", "--cdi", str(self.folder / "cdi"), "--", "true"],
            check=True,
        )  # fmt: skip
        self.agent = AgentProcess(self.folder, self._config(), self._environment())
        self.containerd = Containerd(
            self.folder / "containerd",
            {HANDLER: aliquot.shim.program("aliquot-runtime")},
            {**os.environ, "ALIQUOT_RUNTIME_DIR": str(self.runtime_dir)},
        )
        self._cri: Cri | None = None

    def _environment(self) -> dict[str, str]:
        base = {k: v for k, v in os.environ.items() if not k.startswith(("ALIQUOT_", "CUDA_"))}
        return {
            **base,
            "ALIQUOT_SIM": str(self.node),
            "LD_LIBRARY_PATH": str(self.node / "driver"),
            "ALIQUOT_CACHE_DIR": str(self.node / "cache"),
        }

    def _config(self) -> str:
        quoted = json.dumps
        return "\n".join(
            [
                f"runtime_dir = {quoted(str(self.runtime_dir))}",
                f"lib_dir = {quoted(str(self.folder / 'lib'))}",
                f"cdi_dirs = [{quoted(str(self.folder / 'cdi'))}]",
                f"metrics_port = {self.metrics_port}",
                "",
            ]
        )

    def start(self) -> None:
        """Start it all."""
        self.agent.start()
        self.containerd.start()
        (self.folder / "static").mkdir()
        static = compile_hold(self.folder / "static", "-static")
        root = lay_out(
            self.folder / "image", {"/usr/bin/hold": self.hold, "/usr/bin/hold-static": static}
        )
        self.load(root, IMAGE)
        self.load(root, "docker.io/local/pause:1")

    def load(self, root: Path, name: str) -> None:
        """Make an image of a folder and give it to containerd."""
        self.containerd.load(pack(root, name, self.folder / "image.tar"))

    @cached_property
    def cri(self) -> Cri:
        """Kubernetes' way to containerd."""
        self._cri = Cri(self.containerd)
        return self._cri

    def aliquot(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as a person on the node would."""
        run = subprocess.run(
            [sys.executable, "-m", "aliquot.agent", *arguments],
            env={**self._environment(), "ALIQUOT_RUNTIME_DIR": str(self.runtime_dir)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert not check or run.returncode == 0, run.stderr
        return run

    def slices(self) -> dict[str, dict[str, Any]]:
        """What `aliquot ps` says of containers, by pod."""
        shown = json.loads(self.aliquot("ps", "--json").stdout)
        assert shown["faults"] == []
        return {piece["pod"]: piece for piece in shown["slices"] if piece["kind"] == "container"}

    def charge(self, pod: str) -> int:
        """What the processes of a pod are charged; 0 while nobody has read it."""
        shown = json.loads(self.aliquot("ps", "--json", check=False).stdout)
        pieces = [piece for piece in shown["slices"] if piece.get("pod") == pod]
        return sum(d["charge_bytes"] or 0 for piece in pieces for d in piece["devices"])

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What a scrape of the agent gives: values by name and labels."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10
        ) as answer:
            text = answer.read().decode()
        found = {}
        for name, labels, value in re.findall(
            r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE
        ):
            pairs = frozenset(re.findall(r'(\w+)="([^"]*)"', labels))
            found[name, pairs] = float(value)
        return found

    def metric(self, name: str, **labels: str) -> list[float]:
        """The values of a metric whose labels have these."""
        wanted = set(labels.items())
        return [value for (found, pairs), value in self.metrics().items()
                if found == name and wanted <= pairs]  # fmt: skip

    def pod(self, name: str, **wish: Any) -> contextlib.AbstractContextManager[Pod]:
        """A pod whose container runs, counted by the simulator under its name."""
        return self.cri.pod(self.wish(name, **wish))

    def wish(self, name: str, environment: Mapping[str, str] | None = None, **wish: Any) -> Wish:
        """A pod with the image of the tests, counted by the simulator under its name."""
        wish.setdefault("image", IMAGE)
        return Wish(name, environment={"ALIQUOT_SIM_GROUP": name, **(environment or {})}, **wish)

    @contextlib.contextmanager
    def mapped(self, name: str, first: int, **environment: str) -> Iterator[Callable[..., str]]:
        """A container whose root is the host's user ``first``; answers how to run a program."""
        bundle = self.folder / "bundles" / name
        bundle.mkdir(parents=True)
        root = lay_out(bundle / "rootfs", {"/usr/bin/hold": self.hold})
        for path in [root, *root.rglob("*")]:
            os.chown(path, first, first, follow_symlinks=False)
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        process = config["process"]
        process["terminal"] = False
        process["args"] = ["/bin/sleep", "1000000"]
        process["env"] += [f"{key}={value}" for key, value in environment.items()]
        # Both need privileges that root in a container lacks.
        process.pop("rlimits", None)
        process.pop("oomScoreAdj", None)
        config["root"] = {"path": "rootfs", "readonly": False}
        ids = [{"containerID": 0, "hostID": first, "size": 65536}]
        config["linux"] |= {"uidMappings": ids, "gidMappings": ids}
        config["linux"]["namespaces"].append({"type": "user"})
        (bundle / "config.json").write_text(json.dumps(config))

        def call(*arguments: str) -> str:
            # Into files: the container keeps what it inherits.
            with (bundle / "out").open("w+") as out:
                done = subprocess.run(
                    [str(aliquot.shim.program("aliquot-runtime")),
                     "--root", str(self.folder / "runc"), *arguments],
                    env={**os.environ, "ALIQUOT_RUNTIME_DIR": str(self.runtime_dir)},
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
                )  # fmt: skip
                out.seek(0)
                said = out.read()
            assert done.returncode == 0, said
            return said

        call("run", "--detach", "--bundle", str(bundle), name)
        try:
            yield lambda *command: call("exec", name, *command)
        finally:
            call("delete", "--force", name)

    def fill(self, pod: Pod, *arguments: str) -> Filled:
        """Take memory in a pod, through exec, until CUDA says that there is no more."""
        ran = pod.run("/usr/bin/hold", "fill", *arguments)
        return read_filled(ran.out, ran.err)

    def counted(self, group: str) -> GroupTruth:
        """What the simulator itself counted for a pod's processes."""
        return truth(self.node).group(group)

    def until(self, holds: Any, what: str) -> None:
        """Wait until ``holds()`` is true, for what comes by itself in a moment."""
        for _ in patiently():
            if holds():
                return
        pytest.fail(f"it never came: {what}\n{self.agent.log()}")

    def close(self) -> None:
        """End it all, and leave nothing behind."""
        if self._cri is not None:
            self._cri.close()
        self.containerd.stop()
        self.agent.end()
        for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
            place = line.split()[4]
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(profile: str = "a100x2") -> Iterator[Site]:
    """A node that runs, and leaves nothing behind."""
    site = Site(profile)
    try:
        site.start()
        yield site
    finally:
        site.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def python_mounts() -> list[tuple[str, str, bool]]:
    """The machine's folders and files by which this very Python runs in a container."""
    places = {sys.prefix, os.path.realpath(sys.executable)}
    base = sys.base_prefix
    places.add(sysconfig.get_path("stdlib") if base == "/usr" else base)
    return [(place, place, True) for place in sorted(places)]


def python_programs() -> list[Path]:
    """What of this Python needs libraries: the interpreter and its compiled modules."""
    return [
        Path(sys.executable).resolve(),
        *Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so"),
    ]
