"""What ``aliquot doctor`` looks at beside the devices: the kernel, cgroups, containerd, the agent.

Nothing is changed. What only root may look at is said so, and is no failure.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aliquot.hooks.containerd_config import Containerd, ContainerdError, cri_of

from .config import Config

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

HANDLER: Final = "aliquot"
CONTAINERD_CONFIG: Final = Path("/etc/containerd/config.toml")

_CGROUPS: Final = Path("/sys/fs/cgroup")
_START_AGENT: Final = "start it (systemctl start aliquot-agent)"
_ANNOTATION: Final = "aliquot.dev/*"
# Numbers of system calls since 5.x are the same on every machine.
_CALLS: Final = {"open_tree": 428, "move_mount": 429, "pidfd_open": 434, "openat2": 437}
_CONNECT_SECONDS: Final = 2.0
_TRIAL_SECONDS: Final = 30.0
# In a process of its own: there is no way back out of a namespace.
_NAMESPACE_TRIAL: Final = """
import ctypes, os, sys
flags = 0x10000000 | 0x00020000
if ctypes.CDLL(None, use_errno=True).unshare(flags):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is (``ok``, ``warn``, ``fail``), and how to mend it."""

    check: str
    status: str
    text: str
    mend: str = ""


def kernel() -> Iterator[Finding]:
    """Look for the system calls and file systems that containers are changed with."""
    lacking, barred = [], []
    for name, number in _CALLS.items():
        error = _call_error(number)
        if error == errno.ENOSYS:
            lacking.append(name)
        elif error == errno.EPERM:
            barred.append(name)
    if lacking:
        text = f"{platform.release()} has no {', '.join(lacking)}"
        yield Finding("kernel", FAIL, text, "use Linux 5.6 or newer")
    elif barred:
        text = f"{', '.join(barred)} not allowed here"
        yield Finding("kernel", WARN, text, "look again outside of the sandbox that this runs in")
    else:
        text = f"{platform.release()}: {', '.join(_CALLS)}"
        yield Finding("kernel", OK, text)
    try:
        systems = Path("/proc/filesystems").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        systems = []
    if "overlay" in systems:
        yield Finding("overlay", OK, "the kernel has overlay")
    else:
        text = "the kernel has no overlay, or not loaded yet"
        yield Finding("overlay", WARN, text, "modprobe overlay")


def _call_error(number: int) -> int:
    """Return the error of a system call that is given nonsense on purpose."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    bad = ctypes.c_long(-1)
    libc.syscall(ctypes.c_long(number), bad, None, bad, bad, bad)
    return ctypes.get_errno()


def namespaces() -> Iterator[Finding]:
    """Try what ``aliquot run`` does for a user who is not root."""
    try:
        trial = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _NAMESPACE_TRIAL],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_SECONDS,
        )
        why = trial.stderr.strip().splitlines()[-1:] if trial.returncode else []
    except (OSError, subprocess.TimeoutExpired) as error:
        why = [str(error)]
    if not why:
        yield Finding("namespaces", OK, "user namespaces are allowed")
        return
    hints = [
        f"{name}={value}"
        for name, bad in (
            ("kernel.unprivileged_userns_clone", "0"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1"),
            ("user.max_user_namespaces", "0"),
        )
        if (value := _sysctl(name)) == bad
    ]
    text = f"no user namespace ({why[0]}): `aliquot run` of users falls back to LD_PRELOAD"
    yield Finding("namespaces", WARN, text, f"change {', '.join(hints)}" if hints else "allow them")


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return None


def cgroups(root: Path = _CGROUPS) -> Iterator[Finding]:
    """Look at the version of cgroups and what is handed down."""
    controllers = _words(root / "cgroup.controllers")
    if controllers is None:
        yield Finding(
            "cgroups",
            WARN,
            f"{root} is not cgroup v2: memory limits of the driver's own cannot be used",
            "boot with systemd.unified_cgroup_hierarchy=1 if the driver is to hold the caps",
        )
        return
    handed = _words(root / "cgroup.subtree_control") or set()
    missing = {"cpu", "memory", "pids"} & controllers - handed
    if missing:
        names = ", ".join(sorted(missing))
        yield Finding(
            "cgroups",
            WARN,
            f"cgroup v2; {names} not handed down from {root}",
            f"echo {' '.join(f'+{name}' for name in sorted(missing))} "
            f"> {root}/cgroup.subtree_control",
        )
    else:
        yield Finding("cgroups", OK, f"cgroup v2 with {', '.join(sorted(controllers))}")
    if not os.access(root, os.W_OK) and os.geteuid() == 0:
        yield Finding(
            "cgroups", FAIL, f"{root} cannot be written: no container can be started", "remount it"
        )


def _words(path: Path) -> set[str] | None:
    try:
        return set(path.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return None


def folders(config: Config, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Finding]:
    """Look at how the file systems are mounted on which libraries and regions lie."""
    table = _mounts(mounts)
    point, options = _mount_of(config.lib_dir, table)
    if "noexec" in options:
        yield Finding(
            "lib_dir",
            FAIL,
            f"{config.lib_dir} lies on {point}, which is mounted noexec: no shim can be loaded",
            "name another folder as lib_dir, or remount it",
        )
    elif "ro" in options:
        yield Finding(
            "lib_dir",
            FAIL,
            f"{config.lib_dir} lies on {point}, which is mounted read-only",
            "name another folder as lib_dir",
        )
    else:
        yield Finding("lib_dir", OK, f"{config.lib_dir} on {point}")
    point, options = _mount_of(config.runtime_dir, table)
    if "ro" in options:
        yield Finding(
            "runtime_dir",
            FAIL,
            f"{config.runtime_dir} lies on {point}, which is mounted read-only",
            "name another folder as runtime_dir",
        )
    else:
        yield Finding("runtime_dir", OK, f"{config.runtime_dir} on {point}")


def _mounts(file: Path) -> list[tuple[Path, set[str]]]:
    rows = []
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 6 and "-" in fields:
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            # Options of the mount, then those of the file system.
            rows.append((Path(path), {*fields[5].split(","), *fields[-1].split(",")[:1]}))
    return rows


def _mount_of(folder: Path, table: list[tuple[Path, set[str]]]) -> tuple[Path, set[str]]:
    """Return the mount that a folder lies on, or would: of several there, the last one."""
    real = folder.resolve()
    found: tuple[Path, set[str]] = (Path("/"), set())
    for point, options in table:
        if real.is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = (point, options)
    return found


def agent(config: Config) -> Iterator[Finding]:
    """Look at the agent's sockets: there, root's alone, and somebody answers."""
    base = config.runtime_dir
    try:
        state = base.stat()
    except FileNotFoundError:
        yield Finding("agent", FAIL, f"{base} is not there: the agent does not run", _START_AGENT)
        return
    except OSError as error:
        yield Finding("agent", WARN, f"{base}: {error.strerror}", "look again as root")
        return
    if state.st_uid != 0 or state.st_mode & 0o022:
        text = f"{base} belongs to user {state.st_uid} with mode {stat.S_IMODE(state.st_mode):o}"
        yield Finding("agent", FAIL, text, f"chown root {base} and chmod 0711 {base}")
    for name in ("runtime.sock", "agent.sock"):
        yield _socket(base / name)


def _socket(path: Path) -> Finding:  # noqa: PLR0911 - one a kind of fault
    try:
        state = path.lstat()
    except FileNotFoundError:
        return Finding("agent", FAIL, f"{path} is not there: the agent does not run", _START_AGENT)
    except OSError as error:
        return Finding("agent", WARN, f"{path}: {error.strerror}", "look again as root")
    if not stat.S_ISSOCK(state.st_mode):
        return Finding("agent", FAIL, f"{path} is no socket", f"remove it and {_START_AGENT}")
    if stat.S_IMODE(state.st_mode) != 0o600 or state.st_uid != 0:
        text = f"{path} has mode {stat.S_IMODE(state.st_mode):o} and user {state.st_uid}"
        return Finding("agent", FAIL, text, f"it must be root's with 0600: re{_START_AGENT}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_CONNECT_SECONDS)
            client.connect(str(path))
    except PermissionError:
        return Finding("agent", WARN, f"{path} is root's alone", "look again as root")
    except OSError as error:
        text = f"nobody answers on {path} ({error.strerror or error})"
        return Finding("agent", FAIL, text, _START_AGENT)
    return Finding("agent", OK, f"{path} answers")


def containerd(config_path: Path = CONTAINERD_CONFIG) -> Iterator[Finding]:
    """Look for the runtime handler in what containerd understands of its configuration."""
    program = shutil.which(
        "containerd", path=f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin"
    )
    if program is None:
        yield Finding(
            "containerd", WARN, "no containerd on PATH: only `aliquot run` works here", "install it"
        )
        return
    asked = Containerd(program)
    try:
        version = asked.version()
        table = asked.dump(config_path) if config_path.exists() else asked.default()
    except ContainerdError as error:
        yield Finding("containerd", FAIL, str(error), "mend containerd's configuration")
        return
    handlers = _handlers(table)
    handler = handlers.get(HANDLER)
    if handler is None:
        yield Finding(
            "containerd",
            FAIL,
            f"containerd {version} has no runtime handler '{HANDLER}'",
            "aliquot install containerd, then systemctl restart containerd",
        )
        return
    yield _handler(version, handler)


def _handlers(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runtime handlers of the CRI plugin."""
    runtimes = cri_of(table).get("containerd", {}).get("runtimes", {})
    return {name: row for name, row in runtimes.items() if isinstance(row, dict)}


def _handler(version: str, handler: Mapping[str, Any]) -> Finding:
    again = "aliquot install containerd, then systemctl restart containerd"
    binary = str(handler.get("options", {}).get("BinaryName", ""))
    passed = {*handler.get("pod_annotations", ()), *handler.get("container_annotations", ())}
    if not binary or not os.access(binary, os.X_OK):
        text = f"the handler '{HANDLER}' runs '{binary}', which is no program"
        return Finding("containerd", FAIL, text, again)
    if _ANNOTATION not in passed:
        text = f"the handler '{HANDLER}' passes no annotations {_ANNOTATION}"
        return Finding("containerd", WARN, text, again)
    text = f"containerd {version} has the handler '{HANDLER}' ({binary})"
    return Finding("containerd", OK, text)


def uses_systemd_cgroups(config_path: Path = CONTAINERD_CONFIG) -> bool:
    """Return whether containers of the handler, or of any, get their cgroups from systemd."""
    program = shutil.which("containerd")
    if program is None or not config_path.exists():
        return False
    try:
        handlers = _handlers(Containerd(program).dump(config_path))
    except ContainerdError:
        return False
    return any(
        bool(handler.get("options", {}).get("SystemdCgroup")) for handler in handlers.values()
    )


def device_links(
    systemd: bool, dev: Path = Path("/dev"), pattern: str = "nvidia*"
) -> Iterator[Finding]:
    """Look for /dev/char/MAJ:MIN of the driver's nodes, by which systemd finds a device's rule."""
    nodes = []
    for path in [*sorted(dev.glob(pattern)), *sorted(dev.glob(f"{pattern}/*"))]:
        try:
            state = path.stat()
        except OSError:
            continue
        if stat.S_ISCHR(state.st_mode):
            nodes.append((path, dev / f"char/{os.major(state.st_rdev)}:{os.minor(state.st_rdev)}"))
    missing = [str(path) for path, link in nodes if not link.exists()]
    if not nodes or not missing:
        if nodes:
            yield Finding("device links", OK, f"all {len(nodes)} device nodes are in {dev}/char")
        return
    text = f"{', '.join(missing[:4])}{' …' if len(missing) > 4 else ''} not in {dev}/char"
    if systemd:
        text += ": a `systemctl daemon-reload` takes them from running containers"
    yield Finding(
        "device links",
        WARN if systemd else OK,
        text if systemd else f"{text}, which only systemd's cgroups need",
        "nvidia-ctk system create-dev-char-symlinks --create-all (the agent makes those of slices)"
        if systemd
        else "",
    )
