"""The containers of the demonstration: real ones, by containerd through Aliquot's handler."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aliquot.shim

from . import demo_vendors
from .demo_node import AgentProcess, Containerd, lay_out, pack, patiently
from .demo_voice import Demo
from .errors import AliquotError
from .requests import variable
from .sizes import format_size

_IMAGE: Final = "docker.io/local/hold:1"
_OUT_OF_MEMORY: Final = 2
# What containers run: one holds so many MiB until it is stopped, the other always has work.
_HOLD: Final = ("/usr/bin/hold", "hold", "512")
_WORK: Final = ("/usr/bin/work",)
# Programs of the image, each one C file of the examples.
_IMAGE_PROGRAMS: Final = ("hold", "work")
# How far from what it was promised a share of time of one second may be, while others want the
# processors, too.
_POINTS: Final = 5
_PROGRAMS: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "cc": "gcc",
}


def lacking() -> str | None:
    """Say why containers cannot be shown here; None when they can."""
    if os.geteuid() != 0:
        return "they are started by root only (sudo make demo)"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt-get install {package})"
    return None


class Node:
    """An agent, a containerd, and what a person would type to use them."""

    def __init__(self, demo: Demo, folder: Path, cdi: Path | None, root: Path | None) -> None:
        """Nothing runs yet; ``cdi`` and ``root`` are as in ``show``."""
        self.folder = folder
        self._demo = demo
        self.runtime_dir = folder / "run"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.metrics_port: int = free.getsockname()[1]
        settings: dict[str, Any] = {
            "runtime_dir": str(self.runtime_dir),
            "lib_dir": str(folder / "lib"),
            "metrics_port": self.metrics_port,
        }
        if cdi is not None:
            settings["cdi_dirs"] = [str(cdi)]
        config = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        if root is not None:
            for vendor in ("ascend", "cambricon"):
                config += f"[{vendor}]\nroot = {json.dumps(str(root))}\n"
        self.environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(self.runtime_dir)}
        self.agent = AgentProcess(folder, config, self.environment)
        self.handler = aliquot.shim.program("aliquot-runtime")
        self.containerd = Containerd(
            folder / "containerd", {"aliquot": self.handler}, self.environment
        )

    def run_line(
        self, name: str, limits: Mapping[str, str], program: Sequence[str] = _HOLD
    ) -> list[str]:
        """Return what containerd's client is told to start a container with limits."""
        asked = [part for key, value in limits.items() for part in ("--env", f"{key}={value}")]
        handler = ["--runtime", "io.containerd.runc.v2", "--runc-binary", str(self.handler)]
        return ["run", "--detach", *handler, *asked, _IMAGE, name, *program]

    def fill(self, name: str) -> dict[str, int]:
        """Take memory in a container until CUDA says that there is no more. Sizes are bytes."""
        out = self.containerd.ctr(
            "tasks", "exec", "--exec-id", "fill", name, "/usr/bin/hold", "fill"
        ).stdout
        found = dict(re.findall(r"(\w+)=(\d+)", out))
        if "refused" not in found:
            raise AliquotError(f"{name} said nothing of its memory: {out!r}")
        return {key: int(value) for key, value in found.items()}

    def show(self, *arguments: str) -> None:
        """Say what a command of ours prints."""
        _print(self._demo, shlex.join(["aliquot", *arguments]), self.aliquot(*arguments))

    def aliquot(self, *arguments: str) -> str:
        """Return what a command of ours prints."""
        return subprocess.run(
            [sys.executable, "-m", "aliquot.agent", *arguments],
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def slices(self) -> dict[str, dict[str, Any]]:
        """Return what `aliquot ps` says of the containers, by their names."""
        shown = json.loads(self.aliquot("ps", "--json"))["slices"]
        return {piece["name"]: piece for piece in shown if piece["kind"] == "container"}

    def metric(self, name: str) -> list[str]:
        """Return the lines of a scrape that begin with a metric's name."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return [line for line in text.splitlines() if line.startswith(f"{name}{{")]

    def remove(self, name: str) -> None:
        """Stop a container and take it away."""
        self.containerd.ctr("tasks", "delete", "--force", name)
        self.containerd.ctr("containers", "delete", name)


@contextlib.contextmanager
def _node(demo: Demo, examples: Path, cdi: Path | None, root: Path | None) -> Iterator[Node]:
    # A short path: the sockets lie in it. Containers pass through it.
    with tempfile.TemporaryDirectory(prefix="aq-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        node = Node(demo, folder, cdi, root)
        programs = {f"/usr/bin/{one}": folder / one for one in _IMAGE_PROGRAMS}
        for program in programs.values():
            source = examples / f"{program.name}.c"
            subprocess.run(["cc", "-O1", "-o", str(program), str(source), "-ldl"], check=True)
        image = pack(lay_out(folder / "image", programs), _IMAGE, folder / "image.tar")
        try:
            node.agent.start()
            node.containerd.start()
            node.containerd.load(image)
            yield node
        finally:
            node.containerd.stop()
            node.agent.end()


def show(demo: Demo, examples: Path, cdi: Path | None, root: Path | None) -> None:
    """Show containers side by side. Raises AliquotError when something cannot be run.

    ``cdi`` is the folder of the node's CDI specifications; None means the usual ones. ``root`` is
    where the files of other vendors' devices lie, on a node that has some; None: it has none.
    """
    demo.chapter("A node: an agent, and a containerd with a runtime handler of ours")
    with _node(demo, examples, cdi, root) as node:
        demo.say(f"$ aliquot agent --config {node.agent.config} &")
        node.show("devices")
        running: list[str] = []
        try:
            _show_two(demo, node, running)
            for name in list(running):
                node.remove(name)
                running.remove(name)
            _show_time(demo, node, running)
            for name in list(running):
                node.remove(name)
                running.remove(name)
            if root is not None:
                demo_vendors.show(demo, node, running)
        finally:
            for name in running:
                with contextlib.suppress(AliquotError):
                    node.remove(name)


def _print(demo: Demo, command: str, out: str) -> None:
    demo.say(f"$ {command}")
    for line in out.splitlines():
        demo.say(line)
    print()


def _show_two(demo: Demo, node: Node, running: list[str]) -> None:
    demo.chapter("Two containers on one device, each with its own cap")
    wishes = {
        "notebook": {variable("memory"): "2GiB"},
        "training": {variable("memory"): "10%", variable("cores"): "50"},
    }
    for name, limits in wishes.items():
        line = node.run_line(name, limits)
        demo.say(f"$ ctr {shlex.join(line)}")
        node.containerd.ctr(*line)
        running.append(name)
    filled = {name: node.fill(name) for name in wishes}
    devices: dict[str, dict[str, Any]] = {}
    for _ in patiently():
        slices = node.slices()
        devices = {name: slices[name]["devices"][0] for name in wishes}
        # The agent reads what they hold once a second.
        if all(device["charge_bytes"] and device["refusals"] for device in devices.values()):
            break
    demo.promise(
        "the agent placed both on the same device",
        len({device["uuid"] for device in devices.values()}) == 1,
    )
    for name, found in filled.items():
        cap = devices[name]["cap_bytes"]
        demo.promise(
            f"{name} sees a device of {format_size(found['total'])}, its cap", found["total"] == cap
        )
        demo.promise(
            f"a second program in {name} was refused with CUDA's own code {_OUT_OF_MEMORY}, "
            f"holding {format_size(found['held'])} beside its context",
            found["refused"] == _OUT_OF_MEMORY and 0 < found["held"] < cap,
        )
    node.show("ps")
    caps = node.metric("aliquot_container_memory_cap_bytes")
    _print(demo, f"curl -s http://127.0.0.1:{node.metrics_port}/metrics", "\n".join(caps))
    demo.promise("both are in the metrics", len(caps) == len(wishes))
    _show_refusal(demo, node)
    _show_end(demo, node, running, devices)


def _show_refusal(demo: Demo, node: Node) -> None:
    demo.chapter("A third that asks for more than is left does not start, and hears why")
    line = node.run_line("greedy", {variable("memory"): "900GiB"})
    demo.say(f"$ ctr {shlex.join(line)}")
    refused = node.containerd.ctr(*line, check=False)
    demo.say(refused.stderr.strip().splitlines()[-1] if refused.stderr else "")
    node.containerd.ctr("containers", "delete", "greedy", check=False)
    demo.promise("it was refused, and the reason says how much", "900.0 GiB" in refused.stderr)


def _show_end(
    demo: Demo, node: Node, running: list[str], devices: Mapping[str, dict[str, Any]]
) -> None:
    demo.chapter("One is stopped: all it held is given back, and the other goes on")
    gone, stays = running
    demo.say(f"$ ctr tasks delete --force {gone}")
    node.remove(gone)
    running.remove(gone)
    uuid = devices[stays]["uuid"]
    left = [f"{float(devices[stays]['cap_bytes'])}"]
    allocated: list[str] = []
    for _ in patiently():
        lines = node.metric("aliquot_device_memory_allocated_bytes")
        allocated = [line.split()[-1] for line in lines if uuid in line]
        if [float(value) for value in allocated] == [float(value) for value in left]:
            break
    demo.promise(f"only {stays} is left in the books", set(node.slices()) == {stays})
    demo.promise(
        "the device's allocation is the cap of the one that is left",
        [float(value) for value in allocated] == [float(value) for value in left],
    )
    demo.promise(f"{stays} goes on", node.fill(stays)["refused"] == _OUT_OF_MEMORY)


def _show_time(demo: Demo, node: Node, running: list[str]) -> None:
    demo.chapter("Two that want all of a device's time: each has what it was promised")
    promised = {"train": 30, "serve": 70}
    for name, cores in promised.items():
        wishes = {variable("memory"): "25%", variable("cores"): str(cores)}
        line = node.run_line(name, wishes, _WORK)
        demo.say(f"$ ctr {shlex.join(line)}")
        node.containerd.ctr(*line)
        running.append(name)
    _promise_shares(demo, node, promised)
    node.show("top", "--once")
    demo.chapter("Their shares are changed while they run")
    promised = {"train": 60, "serve": 40}
    # Not more than all of it at any time: first who gives.
    for name, cores in sorted(promised.items(), key=lambda one: one[1]):
        node.show("set", name, "--cores", str(cores))
    _promise_shares(demo, node, promised)


def _promise_shares(demo: Demo, node: Node, promised: Mapping[str, int]) -> None:
    shares: dict[str, float] = {}
    for _ in patiently():
        slices = node.slices()
        received = {name: slices[name]["devices"][0]["received"] for name in promised}
        shares = {name: 100 * one for name, one in received.items() if one is not None}
        if len(shares) == len(promised) and all(
            abs(shares[name] - cores) <= _POINTS for name, cores in promised.items()
        ):
            break
    for name, cores in promised.items():
        had = shares.get(name, 0.0)
        demo.promise(
            f"{name} has {had:.0f}% of the device's time, and was promised {cores}%",
            abs(had - cores) <= _POINTS,
        )
