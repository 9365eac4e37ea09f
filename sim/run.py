"""Running a program on a simulated node that lives as long as the program."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import library
from .node import Node
from .state import StateError, create, environment, truth

_PREFIX: Final = "aliquot-sim-"
_LOCK: Final = "runner"
_PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
    signal.SIGWINCH,
)
# What the terminal sends, it sends to the program too.
_FROM_KERNEL: Final = 0x80


def shared_folder() -> Path:
    """Where states are made: in memory, where the system has such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder of our own is made in it
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def prepared(node: Node, keep: Path | None = None, *, shared: bool = False) -> Iterator[Path]:
    """Make a node's state; removed at the end unless ``keep`` names its directory.

    ``shared``: for all users of the machine. Raises StateError.
    """
    if keep is not None:
        create(node, keep, shared=shared)
        yield keep.resolve()
        return
    _remove_abandoned()
    try:
        home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=shared_folder()))
    except OSError as error:
        raise StateError(f"{shared_folder()}: {error.strerror}") from error
    # Held while we live, so that a later start can tell what nobody will remove any more.
    held = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        if shared:
            home.chmod(0o711)
        create(node, home / "node", shared=shared)
        yield home / "node"
    finally:
        shutil.rmtree(home, ignore_errors=True)
        os.close(held)


def _remove_abandoned() -> None:
    """Remove states whose `aliquot sim` was killed: they lie in memory."""
    for home in shared_folder().glob(f"{_PREFIX}*"):
        try:
            if home.stat().st_uid != os.geteuid():
                continue
            held = os.open(home / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # it is just being made, or removed
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _in_use(home / "node"):
                shutil.rmtree(home, ignore_errors=True)
        except OSError:
            pass  # its `aliquot sim` lives
        finally:
            os.close(held)


def _in_use(directory: Path) -> bool:
    """Whether a program has outlived its `aliquot sim`."""
    try:
        return any(not process.dead for process in truth(directory).processes)
    except StateError:
        return False


def run_on(directory: Path, command: Sequence[str]) -> int:
    """Run a command on the node in ``directory``, to its end; signals to us are passed on.

    Returns its exit status, or 128 and the number of the signal that killed it. Raises OSError
    when it cannot be started.
    """
    signals = {*_PASSED_ON, signal.SIGCHLD}
    # Whoever ignores it, and has us inherit that, would take the status from us.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            environment(directory, library(), os.environ),
            setsigmask=before,
        )
        while True:
            arrived = signal.sigwaitinfo(signals)
            if arrived.si_signo == signal.SIGCHLD:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
            elif arrived.si_code != _FROM_KERNEL:
                os.kill(pid, arrived.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_as(status: int) -> int:
    """End as the command did: return its status, or die of the signal that killed it."""
    if status >= 0:
        return status
    number = -status
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core that counts is the command's
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
