"""The terminal of a command that shows something until it is told to end: keys, and its size."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

_MOST_KEYS: Final = 64
# What arrows and other keys that are no letters send.
_ESCAPES: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
RESIZED: Final = "resized"
SUSPENDED: Final = "suspended"


class EndedError(BaseException):
    """The process was told to end, by ``number``."""

    def __init__(self, number: int) -> None:
        """It was this signal."""
        super().__init__(number)
        self.number = number


class Keys:
    """What is typed, and what happens to the terminal. Made by ``keys``."""

    def __init__(self, source: int | None, wake: int) -> None:
        """``source`` is the terminal, ``wake`` becomes readable with each signal."""
        self._source = source
        self._wake = wake
        self._before = None if source is None else termios.tcgetattr(source)
        self._news: list[str] = []

    def tell(self, news: str) -> None:
        """Let ``wait`` return ``news``; for handlers of signals."""
        self._news.append(news)

    def wait(self, seconds: float) -> Iterator[str]:
        """Yield keys and news until ``seconds`` are over."""
        end = time.monotonic() + seconds
        while True:
            yield from self._told()
            left = end - time.monotonic()
            if left <= 0:
                return
            watched = [self._wake] if self._source is None else [self._wake, self._source]
            ready, _, _ = select.select(watched, (), (), left)
            if self._wake in ready:
                os.read(self._wake, _MOST_KEYS)
            if self._source in ready:
                yield from self._typed()

    def begin(self) -> None:
        """Get keys as they are typed, unseen."""
        if self._source is not None:
            tty.setcbreak(self._source)

    def end(self) -> None:
        """Leave the terminal as it was before."""
        if self._before is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    def suspend(self) -> None:
        """Stop as Ctrl-Z does it, and return when told to go on."""
        self.end()
        with _handled(signal.SIGTSTP, signal.SIG_DFL):
            os.kill(os.getpid(), signal.SIGTSTP)
        self.begin()

    def _told(self) -> list[str]:
        told, self._news = self._news, []
        return told

    def _typed(self) -> str:
        assert self._source is not None
        try:
            typed = os.read(self._source, _MOST_KEYS)
        except OSError:
            typed = b""
        if not typed:
            # Nobody types there any more.
            self._source = None
        return _ESCAPES.sub("", typed.decode(errors="replace"))


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """Have single keys of the standard input, where it is a terminal, while the block lasts.

    SIGTERM and SIGHUP raise EndedError, Ctrl-C KeyboardInterrupt. The terminal is as before
    afterwards.
    """
    with contextlib.ExitStack() as stack:
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, wake)
        stack.callback(os.close, woken)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(woken, warn_on_full_buffer=False))
        typed = sys.stdin is not None and sys.stdin.isatty()
        made = Keys(sys.stdin.fileno() if typed else None, wake)

        def end(number: int, _: FrameType | None) -> None:
            raise EndedError(number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            stack.enter_context(_handled(number, end))
        stack.enter_context(_handled(signal.SIGWINCH, lambda *_: made.tell(RESIZED)))
        stack.enter_context(_handled(signal.SIGTSTP, lambda *_: made.tell(SUSPENDED)))
        stack.callback(made.end)
        made.begin()
        yield made


@contextlib.contextmanager
def _handled(
    number: signal.Signals, handler: Callable[..., Any] | signal.Handlers
) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
