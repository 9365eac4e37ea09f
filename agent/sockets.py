"""The agent's sockets: its own, those that systemd passes, and the word that it is ready.

See sd_listen_fds(3) and sd_notify(3).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Collection, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import AliquotError

_FIRST_PASSED: Final = 3
_MOST_PASSED: Final = 16
# More wait for a moment in which hundreds of containers start than Python's default has room for.
_BACKLOG: Final = 512
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening Unix socket, and its path."""

    socket: socket.socket
    path: Path

    def close(self) -> None:
        """Listen no more; the path stays."""
        self.socket.close()


@contextlib.contextmanager
def listen(path: Path) -> Iterator[Listening]:
    """Listen on ``path``, to which only root can connect, and remove it at the end.

    Whoever listened there before is gone: the caller has the folder to itself. Raises AliquotError.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with opened:
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise AliquotError(f"{path} is in the way of the agent's socket: remove it")
                path.unlink()
            opened.bind(str(path))
            # Until it listens nobody can connect, whatever its mode is for that moment.
            path.chmod(0o600)
            opened.listen(_BACKLOG)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise AliquotError(f"{path} cannot be listened on: {why}") from error
        try:
            yield Listening(opened, path)
        finally:
            path.unlink(missing_ok=True)


def passed(environment: MutableMapping[str, str], names: Collection[str]) -> dict[str, Listening]:
    """Return the sockets that systemd passed, by name, and forget that it did.

    Those of other names are closed. Raises AliquotError for one that is not what it should be.
    """
    told = {key: environment.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES")}
    if told["PID"] != str(os.getpid()):
        return {}
    count = int(told["FDS"]) if told["FDS"].isascii() and told["FDS"].isdigit() else 0
    if not 0 < count <= _MOST_PASSED:
        raise AliquotError(f"LISTEN_FDS: '{told['FDS']}' is no number of sockets to listen on")
    called = told["FDNAMES"].split(":")
    if len(called) != count:
        raise AliquotError(
            f"LISTEN_FDNAMES has not {count} names: give each socket FileDescriptorName="
        )
    found: dict[str, Listening] = {}
    for number, name in enumerate(called):
        fd = _FIRST_PASSED + number
        os.set_inheritable(fd, False)
        if name not in names or name in found:
            _log.warning("a socket named %s was passed, which the agent has no use for", name)
            os.close(fd)
            continue
        found[name] = _checked(fd, name)
    return found


def _checked(fd: int, name: str) -> Listening:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise AliquotError(f"what was passed as {name} is no socket: see ListenStream=")
    opened = socket.socket(fileno=fd)
    path = opened.getsockname()
    if (
        opened.family != socket.AF_UNIX
        or opened.type != socket.SOCK_STREAM
        or not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        or not isinstance(path, str)
        or not path.startswith("/")
    ):
        raise AliquotError(f"the socket {name} is no listening Unix stream socket with a path")
    status = Path(path).lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise AliquotError(f"{path}: others may connect to it: give it SocketMode=0600")
    return Listening(opened, Path(path))


def notify(state: str) -> None:
    """Tell systemd, where it started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
