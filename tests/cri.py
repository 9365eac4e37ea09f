"""The part of a kubelet that the tests play: pods, made by containerd's CRI."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
import pytest
from aliquot.agent.demo_node import Containerd, patiently

HANDLER: Final = "aliquot"
_PROTO: Final = Path(__file__).with_name("cri.proto")


def need_containerd() -> None:
    """Skip the test where no containers can be run, saying why."""
    if os.geteuid() != 0:
        pytest.skip("containers are started by root only")
    for program in ("containerd", "ctr", "runc", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@functools.cache
def _cri() -> tuple[ModuleType, ModuleType]:
    """Compile the interface; answers its messages and its stubs."""
    from grpc_tools import protoc  # noqa: PLC0415 - a build-time package, needed here only

    folder = tempfile.mkdtemp(prefix="cri-")
    try:
        status = protoc.main(
            ["protoc", f"-I{_PROTO.parent}", f"--python_out={folder}",
             f"--grpc_python_out={folder}", _PROTO.name]
        )  # fmt: skip
        assert status == 0
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("cri_pb2"), importlib.import_module("cri_pb2_grpc")
        finally:
            sys.path.remove(folder)
    finally:
        shutil.rmtree(folder)


class CriError(Exception):
    """What containerd answered to a request that it refused."""


@dataclass(slots=True)
class Ran:
    """What a program in a container came to."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Wish:
    """A container that a test wants, and the pod around it."""

    name: str
    image: str
    command: Sequence[str] = ("/bin/sleep", "1000000")
    environment: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[tuple[str, str, bool]] = ()
    namespace: str = "default"
    user: int | None = None
    read_only: bool = False
    privileged: bool = False
    handler: str = HANDLER


class Cri:
    """containerd's side of the interface."""

    def __init__(self, containerd: Containerd) -> None:
        self.folder = containerd.folder
        self._channel = grpc.insecure_channel(f"unix://{containerd.socket}")
        # The service comes some time after the socket.
        for _ in patiently():
            try:
                self.call("Version", _cri()[0].VersionRequest())
            except CriError:
                continue
            return
        pytest.fail(f"containerd has no CRI: {containerd.log()}")

    def call(self, method: str, request: Any) -> Any:
        """Make a call; what is refused is a CriError."""
        stub = _cri()[1].RuntimeServiceStub(self._channel)
        try:
            return getattr(stub, method)(request, timeout=120)
        except grpc.RpcError as error:
            answer: Any = error  # it is the call, too
            raise CriError(answer.details() or str(answer.code())) from None

    @contextlib.contextmanager
    def pod(self, wish: Wish) -> Iterator[Pod]:
        """A pod whose container runs; gone at the end."""
        pod = Pod(self, wish)
        try:
            pod.run_sandbox()
            pod.create()
            pod.start()
            yield pod
        finally:
            pod.remove()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


class Pod:
    """A pod with one container, as a kubelet makes it."""

    def __init__(self, node: Cri, wish: Wish) -> None:
        self.wish = wish
        self._node = node
        self._pb = _cri()[0]
        node_namespace = self._pb.NODE
        self._sandbox_config = self._pb.PodSandboxConfig(
            metadata=self._pb.PodSandboxMetadata(
                name=wish.name, uid=f"uid-{wish.name}", namespace=wish.namespace, attempt=0
            ),
            log_directory=str(node.folder / "log" / wish.name),
            annotations=dict(wish.annotations),
            linux=self._pb.LinuxPodSandboxConfig(
                security_context=self._pb.LinuxSandboxSecurityContext(
                    namespace_options=self._pb.NamespaceOption(
                        network=node_namespace, pid=self._pb.CONTAINER
                    )
                )
            ),
        )
        self.sandbox = ""
        self.container = ""

    def run_sandbox(self) -> None:
        """Start what keeps the pod's namespaces."""
        self.sandbox = self._node.call(
            "RunPodSandbox",
            self._pb.RunPodSandboxRequest(
                config=self._sandbox_config, runtime_handler=self.wish.handler
            ),
        ).pod_sandbox_id

    def create(self) -> None:
        """Prepare the container."""
        wish = self.wish
        context = self._pb.LinuxContainerSecurityContext(
            privileged=wish.privileged,
            readonly_rootfs=wish.read_only,
            namespace_options=self._pb.NamespaceOption(
                network=self._pb.NODE, pid=self._pb.CONTAINER
            ),
        )
        if wish.user is not None:
            context.run_as_user.value = wish.user
        config = self._pb.ContainerConfig(
            metadata=self._pb.ContainerMetadata(name="main", attempt=0),
            image=self._pb.ImageSpec(image=wish.image),
            command=list(wish.command),
            envs=[self._pb.KeyValue(key=k, value=v) for k, v in wish.environment.items()],
            mounts=[
                self._pb.Mount(host_path=host, container_path=inside, readonly=read_only)
                for host, inside, read_only in wish.mounts
            ],
            log_path="main.log",
            linux=self._pb.LinuxContainerConfig(security_context=context),
        )
        self.container = self._node.call(
            "CreateContainer",
            self._pb.CreateContainerRequest(
                pod_sandbox_id=self.sandbox, config=config, sandbox_config=self._sandbox_config
            ),
        ).container_id

    def start(self) -> None:
        """Create and start it, by its runtime."""
        self._node.call("StartContainer", self._pb.ContainerRequest(container_id=self.container))

    def run(self, *command: str, timeout: int = 60) -> Ran:
        """Run a program in the container, as `kubectl exec` does."""
        answer = self._node.call(
            "ExecSync",
            self._pb.ExecSyncRequest(
                container_id=self.container, cmd=list(command), timeout=timeout
            ),
        )
        return Ran(
            answer.exit_code,
            answer.stdout.decode(errors="replace"),
            answer.stderr.decode(errors="replace"),
        )

    def status(self) -> Any:
        """What containerd says of the container."""
        return self._node.call(
            "ContainerStatus", self._pb.ContainerRequest(container_id=self.container)
        ).status

    def wait(self) -> int:
        """Wait until the container's program has ended; answers its status."""
        for _ in patiently():
            status = self.status()
            if status.state == self._pb.CONTAINER_EXITED:
                return int(status.exit_code)
        pytest.fail(f"{self.wish.name} did not end in time")

    def log(self) -> str:
        """What the container's program has written, with the runtime's prefix of each line."""
        path = self._node.folder / "log" / self.wish.name / "main.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End the container's program."""
        if self.container:
            self._node.call(
                "StopContainer",
                self._pb.StopContainerRequest(container_id=self.container, timeout=0),
            )

    def remove(self) -> None:
        """Take everything away, whatever of it there is."""
        self.stop()
        if self.container:
            self._node.call(
                "RemoveContainer", self._pb.ContainerRequest(container_id=self.container)
            )
        if self.sandbox:
            request = self._pb.PodSandboxRequest(pod_sandbox_id=self.sandbox)
            self._node.call("StopPodSandbox", request)
            self._node.call("RemovePodSandbox", request)
        self.container = self.sandbox = ""
