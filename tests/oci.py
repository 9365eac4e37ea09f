"""What tests of the small programs share: where they are, an agent, namespaces."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aliquot.shim import region

from commands import PATIENCE_SECONDS

if TYPE_CHECKING:
    from typing_extensions import Self

MAGIC, MOST = 0x31515141, 65536
CREATE, CREATE_RUNTIME, POSTSTOP = 1, 2, 3
OK, REFUSED = 0, 1
LINK_TEXT = b"aliquot-link\n"


def program(name: str, arch: str | None = None) -> Path:
    """The installed program."""
    spec = importlib.util.find_spec("aliquot.shim")
    for place in (spec.submodule_search_locations if spec else None) or []:
        path = Path(place) / "bin" / (arch or platform.machine()) / name
        if path.exists():
            return path.resolve()
    pytest.fail(f"aliquot.shim has no bin/…/{name}: run `make build`")


def one_line(result: subprocess.CompletedProcess[str], name: str) -> str:
    """The one line in which a program said what is wrong."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{name}: "), lines[0]
    assert lines[0].isprintable(), lines[0]
    return lines[0]


@dataclass
class Agent:
    """The agent's end of the runtime socket in folder ``base``: keeps what it was asked.

    ``answer`` gets the kind and the request's texts; it returns the bytes of the reply, or None for
    none at all: the connection stays open.
    """

    base: Path
    answer: Callable[[int, dict[str, str]], bytes | None]
    asked: list[tuple[int, dict[str, str], int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.base, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{folder}/runtime.sock")
        os.close(folder)
        self._listener.listen(8)
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_SECONDS)
        self._listener.close()
        for connection in self._held:
            connection.close()
        (self.base / "runtime.sock").unlink()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            pid = struct.unpack(
                "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )[0]
            head = connection.recv(16, socket.MSG_WAITALL)
            magic, kind, status, length = struct.unpack("<4I", head)
            assert (magic, status) == (MAGIC, 0)
            body = connection.recv(length, socket.MSG_WAITALL) if length else b""
            assert body.endswith(b"\0")
            texts = [text.decode() for text in body[:-1].split(b"\0")]
            request = dict(text.split("=", 1) for text in texts)
            self.asked.append((kind, request, pid))
            reply = self.answer(kind, request)
            if reply is None:
                self._held.append(connection)
                continue
            connection.sendall(reply)
            connection.close()


def reply(kind: int, status: int = OK, text: str = "", magic: int = MAGIC) -> bytes:
    """The frame of a reply."""
    data = text.encode()
    return struct.pack("<4I", magic, kind, status, len(data)) + data


def granting(base: Path) -> Agent:
    """An agent that agrees to everything."""
    return Agent(base, lambda kind, _: reply(kind))


# Runs in a namespace of its own: prepares mounts, runs the hook, and tells what the container sees.
_INSIDE = r"""
import json, os, subprocess, sys
task = json.loads(sys.argv[1])
root = task["root"]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", root, root], check=True)
for command in task["before"]:
    subprocess.run(command, check=True)
if task["seccomp"]:
    import ctypes, struct
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 442), (0x06, 0, 0, 0x00050000 | 38),
            (0x06, 0, 0, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0, ctypes.get_errno()
hook = [subprocess.run([task["hook"], "createContainer", task["slice"]], cwd=root,
                       capture_output=True, text=True, stdin=subprocess.DEVNULL)
        for _ in range(task["times"])][-1]
with open("/proc/self/mountinfo") as table:
    mounts = table.read()
os.chroot(root)
os.chdir("/")
seen = {}
for path in task["look"]:
    try:
        status = os.lstat(path)
    except OSError as error:
        seen[path] = {"error": error.errno}
        continue
    what = {"mode": status.st_mode, "uid": status.st_uid}
    try:
        flags = os.statvfs(path).f_flag
        what.update(ro=bool(flags & 1), nosuid=bool(flags & 2), nodev=bool(flags & 4))
    except OSError:
        pass
    if status.st_mode & 0o170000 == 0o040000:
        what["names"] = sorted(os.listdir(path))
    elif status.st_mode & 0o170000 == 0o100000:
        with open(path, "rb") as file:
            what["text"] = file.read(4096).decode(errors="replace")
    elif status.st_mode & 0o170000 == 0o120000:
        what["link"] = os.readlink(path)
    seen[path] = what
for path in task["write"]:
    try:
        os.close(os.open(path, os.O_RDWR))
        seen.setdefault(path, {})["writable"] = True
    except OSError as error:
        seen.setdefault(path, {})["writable"] = error.errno
print(json.dumps({"code": hook.returncode, "stderr": hook.stderr, "stdout": hook.stdout,
                  "seen": seen, "mounts": mounts}))
"""


@dataclass
class Seen:
    """What the hook did, and what the container sees then."""

    code: int
    stderr: str
    stdout: str
    seen: dict[str, dict[str, Any]]
    mounts: str

    def text(self, path: str) -> str:
        """What a regular file says."""
        what = self.seen[path]
        assert "text" in what, (path, what, self.stderr)
        text: str = what["text"]
        return text

    def refusal(self) -> str:
        """The one line in which the hook refused."""
        assert self.code == 1, (self.code, self.stderr)
        result = subprocess.CompletedProcess([], self.code, self.stdout, self.stderr)
        return one_line(result, "aliquot-hook")


@dataclass
class Bundle:
    """A slice's folder and an image, both of files that say who they are."""

    folder: Path
    userns: bool = False

    def __post_init__(self) -> None:
        """Make the folders."""
        self.root = self.folder / "root"
        self.slice = self.folder / "slice"
        self.host = self.folder / "host"
        for folder in (self.root, self.slice / "stage", self.slice / "region", self.host):
            folder.mkdir(parents=True)
        (self.slice / "region/grant").write_text("grant")
        (self.slice / "region/usage").write_text("usage")
        fd = os.open(self.slice / "region", os.O_RDONLY | os.O_DIRECTORY)
        region.create_bell(fd)
        os.close(fd)
        self.lines: list[tuple[str, ...]] = [
            ("aliquot-plan", "1"),
            ("root", str(self.root)),
            ("stage", str(self.slice / "stage")),
            ("region", str(self.slice / "region")),
        ]

    def host_file(self, name: str, text: str | None = None) -> str:
        """A file of the node."""
        path = self.host / name
        path.write_text(text if text is not None else f"host {name}")
        return str(path)

    def image_file(self, path: str, text: str = "image") -> Path:
        """A file of the image."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def image_link(self, path: str, target: str) -> Path:
        """A link of the image."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)
        return file

    def plan(self, *lines: tuple[str, ...]) -> None:
        """Add lines to the plan."""
        self.lines += lines

    def usual(self, home: str = "/usr/lib/x86_64-linux-gnu") -> None:
        """The plan of an NVIDIA node: one library with a shim, home, the places of cuda-compat."""
        self.plan(
            ("substitute", "libcuda.so.1", self.host_file("shim"), "libcuda-driver.so.1"),
            ("home", home),
            (
                "driver",
                "libcuda.so.1",
                self.host_file("driver"),
                "libcuda.so.550.1",
                "libcuda.so.1",
                "libcuda.so",
            ),
            ("library", self.host_file("ptx"), "libptx.so.1", "libptx.so.550.1"),
            ("scan", "/usr/local/cuda*/compat"),
            ("scan", "/usr/local/cuda/lib64/stubs"),
            ("withhold", "libvulkan*"),
        )

    def write(self) -> None:
        """Write the plan as it is."""
        text = "".join("\t".join(line) + "\n" for line in self.lines)
        (self.slice / "plan").write_text(text)

    def run(
        self,
        *look: str,
        before: Sequence[Sequence[str]] = (),
        write: Sequence[str] = (),
        seccomp: bool = False,
        times: int = 1,
    ) -> Seen:
        """Run the hook in namespaces of its own, and look at paths as the container sees them."""
        self.write()
        task = {
            "root": str(self.root),
            "slice": str(self.slice),
            "hook": str(program("aliquot-hook")),
            "before": [list(command) for command in before],
            "look": look,
            "write": list(write),
            "seccomp": seccomp,
            "times": times,
        }
        unshare = ["unshare", "-Urm" if self.userns or os.geteuid() else "-m"]
        result = subprocess.run(
            [*unshare, sys.executable, "-I", "-c", _INSIDE, json.dumps(task)],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert result.returncode == 0, result.stderr
        return Seen(**json.loads(result.stdout))

    def image(self) -> dict[str, tuple[int, str]]:
        """Every path of the image with its kind and text: to see that nothing was changed."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            kind = path.lstat().st_mode
            text = str(path.readlink()) if path.is_symlink() else ""
            if not path.is_symlink() and path.is_file():
                text = path.read_text()
            found[str(path.relative_to(self.root))] = (kind, text)
        return found
