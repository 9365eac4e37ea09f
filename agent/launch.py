"""Starting the program of a slice, standing by while it runs, and passing on how it ended.

The program stays in the command's process group: the terminal's signals reach it directly, and what
is sent to the command alone is handed on. The command stops when the program stops, so that the
shell gets its terminal back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from . import namespace
from .errors import AliquotError, NoNamespaceError
from .visible import PROBE_TIMEOUT_SECONDS, probe_command, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

_SYNCHRONOUS: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGKILL,
        signal.SIGSTOP,
    }
)
_TERMINAL_STOPS: Final = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
# A report fits into a pipe's atomic write of 4096 bytes even when every letter is escaped.
_MOST_REPORT_LETTERS: Final = 600


@dataclass(frozen=True, slots=True)
class Program:
    """What is started, and in what surroundings.

    ``covers`` is empty where no namespace is wanted. ``paths`` are names that must all lead to
    ``shim`` in there.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    covers: tuple[namespace.Cover, ...]
    shim: Path
    paths: tuple[str, ...]
    vendor: str


class NotStartedError(AliquotError):
    """The program could not be executed; ``status`` is what a shell would answer."""

    def __init__(self, message: str, status: int) -> None:
        """Say why, and what to end with."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HeldSignals:
    """The signals that wait for ``run`` to take them, and the mask that a program gets."""

    watched: frozenset[int]
    mask: frozenset[int]


@contextlib.contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Hold back all signals, so that none ends us between making a slice and removing it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    watched = frozenset(signal.valid_signals()) - _SYNCHRONOUS
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        yield HeldSignals(watched, frozenset(mask))
    finally:
        # One that came after the program's end would end us: it is our own, from the pipe.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run(program: Program, lock_fd: int, held: HeldSignals, on_start: Callable[[int], None]) -> int:
    """Start the program and wait for its end; return its status as a shell has it.

    ``lock_fd`` is a descriptor that it shall inherit. ``on_start`` is called with its pid once it
    is executed. Raises NoNamespaceError, NotStartedError or AliquotError when it was not.
    """
    report, report_end = os.pipe()
    pid = os.fork()
    if not pid:
        _become(program, report_end, held.mask)
    try:
        os.close(report_end)
        os.close(lock_fd)
        # SIGIO tells when the other end is closed, by executing the program or by dying.
        fcntl.fcntl(report, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(report, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        return _Supervisor(pid, report, on_start).wait(held.watched)
    finally:
        os.close(report)


class _Supervisor:
    """Stands by one child."""

    def __init__(self, pid: int, report: int, on_start: Callable[[int], None]) -> None:
        self._pid = pid
        self._report = report
        self._on_start = on_start
        self._text = b""
        self._started = False
        self._stopped = False

    def wait(self, watched: frozenset[int]) -> int:
        """Return the child's status. Raises what it reported instead of starting."""
        # It may all be over before SIGIO was asked for.
        self._read_report()
        while True:
            info = signal.sigwaitinfo(watched)
            if info.si_signo == signal.SIGIO and info.si_code > 0:
                self._read_report()
            elif info.si_signo == signal.SIGCHLD:
                status = self._reap()
                if status is not None:
                    self._read_report()
                    if self._text:
                        _raise_report(self._text)
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
            elif info.si_signo == signal.SIGTSTP and info.si_code > 0:
                # The terminal's: the program has it too and decides. If it has been stopped by
                # other means, the shell still waits for us.
                if self._stopped:
                    self._stop()
            elif info.si_code <= 0 and info.si_pid != self._pid:
                # From a process, to us alone. What the kernel sends it sends to the whole group.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self._pid, info.si_signo)

    def _read_report(self) -> None:
        while True:
            try:
                part = os.read(self._report, 4096)
            except BlockingIOError:
                return
            self._text += part
            if not part:
                if not self._started and not self._text:
                    self._started = True
                    self._on_start(self._pid)
                return

    def _reap(self) -> int | None:
        """Take up news of children; return our child's status when it has ended."""
        ended: int | None = None
        while True:
            try:
                # As process 1 of a container we also have others' orphans.
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return ended
            if not pid:
                return ended
            if pid != self._pid:
                continue
            if os.WIFSTOPPED(status):
                self._stopped = True
                if os.WSTOPSIG(status) in _TERMINAL_STOPS:
                    self._stop()
            elif os.WIFCONTINUED(status):
                self._stopped = False
            else:
                ended = status

    def _stop(self) -> None:
        """Stop with the program, and wake it when we are woken."""
        os.kill(os.getpid(), signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, signal.SIGCONT)


def _raise_report(text: bytes) -> NoReturn:
    report = json.loads(text)
    if report["kind"] == "namespace":
        raise NoNamespaceError(report["text"])
    if report["kind"] == "exec":
        raise NotStartedError(report["text"], report["status"])
    raise AliquotError(report["text"])


def _become(program: Program, report_end: int, mask: frozenset[int]) -> NoReturn:
    """Turn this forked child into the program, or report why not. Never returns."""
    report: dict[str, str | int]
    try:
        _reset_signals(mask)
        if program.covers:
            namespace.enter(program.covers)
        check(program)
        _execute(program)
    except NoNamespaceError as error:
        report = {"kind": "namespace", "text": str(error)}
    except NotStartedError as error:
        report = {"kind": "exec", "text": str(error), "status": error.status}
    except AliquotError as error:
        report = {"kind": "error", "text": str(error)}
    except BaseException as error:  # noqa: BLE001 - nothing may run on in the child
        report = {"kind": "error", "text": f"starting failed: {type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        report["text"] = str(report["text"])[:_MOST_REPORT_LETTERS]
        os.write(report_end, json.dumps(report).encode())
    os._exit(NOT_FOUND)


def _reset_signals(mask: frozenset[int]) -> None:
    # What Python set for itself. An ignored SIGINT (nohup, background jobs) was left alone by it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def check(program: Program) -> None:
    """See in a process of its own that the shim is what loads, and that it answers.

    Raises AliquotError.
    """
    try:
        result = subprocess.run(
            probe_command("check", program.vendor, str(program.shim), *program.paths),
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AliquotError(
            f"the driver did not answer in the slice within {PROBE_TIMEOUT_SECONDS:.0f} s"
        ) from error
    said = [line for line in result.stderr.splitlines() if line.startswith("aliquot: ")]
    try:
        read_answer(result.stdout, "the driver does not work in the slice")
    except AliquotError as error:
        # The shim says on standard error what the driver's code cannot.
        raise AliquotError(": ".join([str(error), *(line[9:] for line in said)])) from error


def _execute(program: Program) -> NoReturn:
    name = program.command[0]
    # Not execvp's own search: it takes a folder of PATH that may not be read for a refusal.
    path = name if "/" in name else shutil.which(name, path=program.environment.get("PATH"))
    why, status = "no such program or interpreter", NOT_FOUND
    try:
        if path:
            os.execve(path, program.command, program.environment)  # noqa: S606 - the purpose
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            why, status = error.strerror or "unknown", NOT_EXECUTABLE
    raise NotStartedError(f"'{name}' cannot be run: {why}", status)
