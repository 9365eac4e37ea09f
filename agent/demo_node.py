"""A node for the demonstration and the tests: a containerd of one's own, and small images.

Its root, state and sockets lie in a folder of their own; nothing of the machine's is touched. An
image has BusyBox, given programs, and what they need of the machine's libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from .errors import AliquotError

PATIENCE_SECONDS: Final = 60.0
# What images call a machine.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

# What a shell and a test need of BusyBox.
APPLETS = (
    *("cat", "chmod", "chown", "dd", "df", "echo", "env", "false", "grep", "head", "id", "ln"),
    *("ls", "mkdir", "mount", "ps", "rm", "sh", "sleep", "stat", "sync", "touch", "true"),
    *("truncate", "wc"),
)


# Of the C library, which no image has only parts of.
_C_LIBRARY: Final = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libm.so.6", "libutil.so.1")


def libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the loader and every library that the programs need, as the loader finds them."""
    found: dict[str, None] = {}
    for program in programs:
        listed = subprocess.run(
            ["ldd", str(program)], check=False, capture_output=True, text=True
        ).stdout
        for path in re.findall(r"(?:=> |^\s+)(/\S+)", listed, re.MULTILINE):
            found[path] = None
    whole = [
        Path(path).with_name(name)
        for path in found
        if path.endswith("/libc.so.6")
        for name in _C_LIBRARY
    ]
    return [Path(path) for path in found] + [path for path in whole if path.exists()]


def lay_out(root: Path, programs: Mapping[str, Path]) -> Path:
    """Fill the folder ``root`` with a small system and ``programs``, by their paths in it."""
    for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise AliquotError("busybox is missing: install busybox-static")
    shutil.copy2(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    # As Debian and its kin have it: one tree, and links from where it was.
    for name in ("lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for path, program in programs.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program, place)
    for library in libraries(programs.values()):
        # Under both names: static programs look for the loader beside the C library.
        for source in (library, library.resolve()):
            place = root / str(source).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                shutil.copy2(source, place)
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    return root


def pack(root: Path, name: str, archive: Path) -> Path:
    """Write ``root`` as an image called ``name`` (with a tag) to the file ``archive``.

    Its program waits, so that it serves as a pod's pause image, too.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".", filter=_as_root)
    layer_digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "Cmd": ["/bin/sleep", "1000000"],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [
        {"Config": config_name, "RepoTags": [name], "Layers": [f"{layer_digest}/layer.tar"]}
    ]
    with tarfile.open(archive, "w") as tar:
        for path, content in (
            (config_name, config),
            (f"{layer_digest}/layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


class Containerd:
    """A containerd, with the handlers that its configuration names: name and runtime program."""

    def __init__(
        self, folder: Path, handlers: Mapping[str, Path], environment: Mapping[str, str]
    ) -> None:
        """Write the configuration; nothing runs yet. ``environment`` reaches the runtimes."""
        self.folder = folder
        self.socket = folder / "containerd.sock"
        self.config = folder / "config.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(_config(folder, self.socket, handlers), encoding="utf-8")
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises AliquotError."""
        with (self.folder / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.config)],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        for _ in patiently():
            if self.ctr("version", check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
        raise AliquotError(f"containerd does not answer: {self.log()}")

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run containerd's own client in Kubernetes' namespace. Raises AliquotError."""
        run = subprocess.run(
            ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        if check and run.returncode:
            raise AliquotError(f"ctr {' '.join(arguments[:2])}: {run.stderr.strip()}")
        return run

    def load(self, archive: Path) -> None:
        """Take an image from an archive. Raises AliquotError."""
        self.ctr("images", "import", str(archive))

    def log(self) -> str:
        """Return the end of what it has logged."""
        return (self.folder / "containerd.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Stop it, and what it leaves running by itself: the shims of its containers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (process / "cmdline").read_bytes().split(b"\0")
                if b"containerd-shim" in line[0] and os.fsencode(self.socket) in line:
                    os.kill(int(process.name), signal.SIGKILL)


class AgentProcess:
    """An agent of one's own, on the devices that its environment shows."""

    def __init__(self, folder: Path, config: str, environment: Mapping[str, str]) -> None:
        """Write its configuration file; nothing runs yet."""
        self.folder = folder
        self.config = folder / "aliquot.toml"
        self.config.write_text(config, encoding="utf-8")
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its pid, once it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it says that it is ready. Raises AliquotError."""
        ready = self.folder / "notify.sock"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(ready))
            with (self.folder / "agent.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "aliquot.agent", "agent", "--config", str(self.config)],
                    env={**self._environment, "NOTIFY_SOCKET": str(ready)},
                    stdout=log,
                    stderr=log,
                )
            pidfd = os.pidfd_open(self._process.pid)
            try:
                able, _, _ = select.select([told.fileno(), pidfd], [], [], PATIENCE_SECONDS)
                if told.fileno() not in able or b"READY=1" not in told.recv(4096).splitlines():
                    raise AliquotError(f"the agent did not start: {self.log()}")
            finally:
                os.close(pidfd)

    def log(self) -> str:
        """Return the end of what it has logged."""
        return (self.folder / "agent.log").read_text(errors="replace")[-4000:]

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; returns its status, negative for the signal that ended it."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        status = self._process.wait(PATIENCE_SECONDS)
        self._process = None
        return status


def patiently(seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Yield now and then until ``seconds`` are over, for what nobody tells of."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


# Snapshotters that only complain where their file systems are missing.
_UNUSED: Final = tuple(
    f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")
)


def _config(folder: Path, address: Path, handlers: Mapping[str, Path]) -> str:
    quoted = json.dumps
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    lines = [
        "version = 2",
        f"root = {quoted(str(folder / 'root'))}",
        f"state = {quoted(str(folder / 'state'))}",
        f"disabled_plugins = {quoted(list(_UNUSED))}",
        "[grpc]",
        f"address = {quoted(str(address))}",
        f"[{cri}]",
        "restrict_oom_score_adj = true",
        "disable_tcp_service = true",
        'stream_server_address = "127.0.0.1"',
        'stream_server_port = "0"',
        'sandbox_image = "docker.io/local/pause:1"',
        f"[{cri}.cni]",
        f"conf_dir = {quoted(str(folder / 'cni'))}",
        f"[{cri}.containerd]",
        'default_runtime_name = "plain"',
        f"[{cri}.containerd.runtimes.plain]",
        'runtime_type = "io.containerd.runc.v2"',
    ]
    for name, binary in handlers.items():
        lines += [
            f"[{cri}.containerd.runtimes.{name}]",
            'runtime_type = "io.containerd.runc.v2"',
            'pod_annotations = ["aliquot.dev/*"]',
            'container_annotations = ["aliquot.dev/*"]',
            f"[{cri}.containerd.runtimes.{name}.options]",
            f"BinaryName = {quoted(str(binary))}",
        ]
    return "\n".join([*lines, ""])
