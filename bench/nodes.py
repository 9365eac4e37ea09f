"""A node for the benches of containers: simulated devices, an agent, and bundles for a runtime."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vendors
from common import BenchError, fast_folder
from vendors import Vendor

if TYPE_CHECKING:
    from aliquot.agent.demo_node import AgentProcess


# Where the kernel gives real-time threads of each control group their part, and what a container
# gets of each second.
_REAL_TIME = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")
_REAL_TIME_US = 200_000


def make_real_time(name: str) -> None:
    """Have all threads of a program's processes go before what else the machine does.

    A priority counts only within a container. Does nothing where the kernel does not let us.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = os.fsdecode((process / "cmdline").read_bytes().split(b"\0")[0])
            for thread in process.glob("task/*") if Path(command).name == name else ():
                os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


@dataclass(frozen=True, slots=True)
class NodeBed:
    """A running agent on simulated devices, and the parts of a container.

    Its devices are ``vendor``'s. ``environment`` is for runtimes; ``wrapper`` is aliquot-runtime;
    ``runtime`` the real one. ``real_time``: containers may have threads that go before all others
    on the machine.
    """

    folder: Path
    agent: AgentProcess
    wrapper: Path
    runtime: Path
    environment: dict[str, str]
    real_time: bool = False
    vendor: Vendor = vendors.NVIDIA

    @property
    def socket(self) -> Path:
        """Where the agent answers runtimes."""
        return self.folder / "run/runtime.sock"

    def uuids(self) -> list[str]:
        """Return the UUIDs of the node's devices, as containers may ask for them."""
        command = [sys.executable, "-m", "aliquot.agent", "devices", "--json"]
        said = subprocess.run(command, env=self.environment, capture_output=True, check=True)
        return [device["uuid"] for device in json.loads(said.stdout)["devices"]]

    def bundle_path(self, name: str) -> Path:
        """Return where the bundle of a container lies."""
        return self.folder / "bundles" / name

    def bundle(self, name: str, *command: str, **environment: str) -> Path:
        """Make the bundle of a container, or make it as it was. Returns its folder.

        Without a command it sleeps.
        """
        folder = self.bundle_path(name)
        folder.mkdir(parents=True, exist_ok=True)
        config = self._config(name)
        config["process"]["args"] = [*command] or ["/bin/sleep", "1000000"]
        config["process"]["env"] += [f"{key}={value}" for key, value in environment.items()]
        if self.real_time and _REAL_TIME.exists():
            resources = config["linux"].setdefault("resources", {})
            resources["cpu"] = {"realtimePeriod": 1_000_000, "realtimeRuntime": _REAL_TIME_US}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    def _config(self, name: str) -> dict[str, Any]:
        template: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        process = template["process"]
        process["terminal"] = False
        # Both need privileges that root in a container lacks.
        process.pop("rlimits", None)
        process.pop("oomScoreAdj", None)
        # Another bed on this machine may have containers of the same names.
        template["linux"]["cgroupsPath"] = f"/{self.folder.name}-{name}"
        template["mounts"] += self.vendor.mounts(self.folder / "node")
        template["root"] = {"path": str(self.folder / "rootfs"), "readonly": False}
        return template

    def processor_ms(self) -> float:
        """Return the processor time that the agent and the runtimes that ended have had so far."""
        # Linux' clock of another process: its number, inverted, before three bits for the kind.
        agent = time.clock_gettime((~self.agent.pid << 3) | 2)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (agent + ended.ru_utime + ended.ru_stime) * 1000

    def container_ms(self, name: str) -> float:
        """Return the processor time of a container's cgroup: what made it from the inside, too."""
        said = subprocess.run(
            [str(self.runtime), "--root", str(self.folder / "state"), "state", name],
            capture_output=True,
            check=True,
        )
        pid = json.loads(said.stdout)["pid"]
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpuacct" in controllers.split(","):
                text = Path(f"/sys/fs/cgroup/cpuacct{path}/cpuacct.usage").read_text()
                return int(text) / 1e6
            file = Path(f"/sys/fs/cgroup{path}/cpu.stat")
            if not controllers and file.exists():
                return int(file.read_text().split()[1]) / 1e3
        raise BenchError(f"container {name} is in no cgroup that counts its processor time")

    def call(self, runtime: Path, *arguments: str) -> None:
        """Run a runtime to its end. Raises BenchError."""
        # Not a pipe: the container keeps what it inherits.
        with (self.folder / "said").open("w+b") as said:
            done = subprocess.run(
                [str(runtime), "--root", str(self.folder / "state"), *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                check=False,
            )
            if done.returncode:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
                raise BenchError(f"{runtime.name} {arguments[0]}: {text}")

    @contextlib.contextmanager
    def container(
        self, name: str, *command: str, **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a container with a slice by what ``environment`` asks for, until the block ends.

        The process is the runtime's, whose standard input and output are the container's. The
        simulator's truth calls the container's processes by its name.
        """
        bundle = self.bundle(name, *command, ALIQUOT_SIM_GROUP=name, **environment)
        line = [str(self.wrapper), "--root", str(self.folder / "state")]
        with subprocess.Popen(
            [*line, "run", "--bundle", str(bundle), name],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                self.call(self.wrapper, "delete", "--force", name)


@contextlib.contextmanager
def node_bed(
    node: str = "a100x2",
    *,
    programs: Mapping[str, Path] | None = None,
    vendor: Vendor = vendors.NVIDIA,
    **settings: object,
) -> Iterator[NodeBed]:
    """Make the node: a profile or a node file, ``programs`` in the image by their paths.

    All its devices are ``vendor``'s. ``settings`` are more of the agent's. Raises BenchError.
    """
    try:
        import aliquot.shim  # noqa: PLC0415 - what is missing is said in one line
        import aliquot.sim  # noqa: PLC0415 - as above
        from aliquot.agent.demo_node import AgentProcess, lay_out  # noqa: PLC0415 - as above
        from aliquot.agent.errors import AliquotError  # noqa: PLC0415 - as above
    except ImportError as error:
        raise BenchError(f"aliquot is not built ({error}): run `make build`") from error
    if os.geteuid():
        raise BenchError("containers are started by root only")
    runc = shutil.which("runc") or shutil.which("runc", path="/usr/sbin:/sbin")
    if runc is None:
        raise BenchError("there is no runc: install it (Debian: apt-get install runc)")
    # In memory, as /run is, where bundles and the ledger lie on a node.
    with tempfile.TemporaryDirectory(prefix="aq-bench-", dir=fast_folder()) as name:
        folder = Path(name)
        folder.chmod(0o711)
        subprocess.run(
            [sys.executable, "-m", "aliquot.agent", "sim", "--node", node,
             "--keep", str(folder / "node"), "--shared", "--cdi", str(folder / "cdi"),
             *(() if vendor is vendors.NVIDIA else ("--files",)), "--", "true"],
            check=True,
        )  # fmt: skip
        base = {k: v for k, v in os.environ.items() if not k.startswith(("ALIQUOT_", "CUDA_"))}
        config = {
            "runtime_dir": str(folder / "run"),
            "lib_dir": str(folder / "lib"),
            "cdi_dirs": [str(folder / "cdi")],
            "metrics_port": 0,
            **vendor.settings(folder / "node"),
            **settings,
        }
        agent = AgentProcess(
            folder,
            "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()),
            {
                **base,
                "ALIQUOT_SIM": str(folder / "node"),
                "LD_LIBRARY_PATH": str(folder / "node/driver"),
                "ALIQUOT_CACHE_DIR": str(folder / "node/cache"),
            },
        )
        simulated = aliquot.sim.library().parent
        lay_out(folder / "rootfs", {**(programs or {}), **vendor.image(simulated)})
        subprocess.run([runc, "spec"], cwd=folder, check=True)
        try:
            vendor.prepare(folder / "node", base)
            agent.start()
            yield NodeBed(
                folder,
                agent,
                aliquot.shim.program("aliquot-runtime"),
                Path(runc),
                {**base, "ALIQUOT_RUNTIME_DIR": str(folder / "run")},
                vendor=vendor,
            )
        except AliquotError as error:
            raise BenchError(str(error)) from error
        finally:
            agent.end()
