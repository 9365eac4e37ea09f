"""Calls that block, kept off the event loop.

They run in threads that do not keep the process from ending: a vendor's library may hang in the
driver for good, and the agent must still stop, and serve what does not need that vendor.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from .errors import AliquotError

_T = TypeVar("_T")
_U = TypeVar("_U")
_MOST_THREADS: Final = 4


async def finish(function: Callable[[], _T]) -> _T:
    """Return what ``function`` returns. Whoever is cancelled meanwhile waits for its end first.

    For work of our own, which is bounded and must not go on behind the back of who undoes it.
    """
    # Threads that are there already: for every container some are asked.
    work = asyncio.get_running_loop().run_in_executor(None, _bearable(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _end_of(work)
        raise


async def _end_of(work: asyncio.Future[_T]) -> None:
    """Return once it has ended, whoever is cancelled meanwhile."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


class Caller:
    """Calls to one side that may not answer: so many at once, and none is waited for too long."""

    def __init__(self, name: str, seconds: float, most: int = _MOST_THREADS) -> None:
        """``name`` says in messages who it is that does not answer."""
        self._name = name
        self._seconds = seconds
        self._room = asyncio.Semaphore(most)

    async def call(self, function: Callable[[], _T]) -> _T:
        """Return what ``function`` returns, and raise what it raises.

        Raises AliquotError when it has no turn, or does not return, in time; its thread is then
        left behind, and keeps its place until it does.
        """
        work = await self._begin(function)
        done, _ = await asyncio.wait({work}, timeout=self._seconds)
        if not done:
            raise self._silent()
        return work.result()

    async def call_then(self, function: Callable[[], _T], then: Callable[[_T], _U]) -> _U:
        """Return what ``then`` returns of what ``function`` returned, and raise what either raises.

        ``function`` is as in ``call``. ``then`` is work of our own, as in ``finish``: it follows in
        the same thread, does not begin once nobody waits, and once begun is waited for.
        """
        begun = threading.Lock()  # whoever has it first decides whether `then` begins

        def both() -> tuple[_U] | None:
            result = function()
            return (then(result),) if begun.acquire(blocking=False) else None

        work = await self._begin(both)
        try:
            await asyncio.wait({work}, timeout=self._seconds)
        except asyncio.CancelledError:
            if not begun.acquire(blocking=False):
                await _end_of(work)
            raise
        if not work.done() and begun.acquire(blocking=False):
            raise self._silent()
        try:
            result = await asyncio.shield(work)
        except asyncio.CancelledError:
            await _end_of(work)
            raise
        assert result is not None
        return result[0]

    async def _begin(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Start a thread when there is room for one. Raises AliquotError when there is none."""
        try:
            await asyncio.wait_for(self._room.acquire(), self._seconds)
        except asyncio.TimeoutError:
            raise AliquotError(
                f"{self._name} hangs: earlier calls have not returned for {self._seconds:g} s: "
                "see its driver"
            ) from None
        work = _start(function)
        work.add_done_callback(self._ended)
        return work

    def _silent(self) -> AliquotError:
        return AliquotError(f"{self._name} did not answer within {self._seconds:g} s")

    def _ended(self, work: asyncio.Future[_T]) -> None:
        self._room.release()
        if not work.cancelled():
            # Whoever has stopped waiting does not hear of it.
            work.exception()


def _bearable(function: Callable[[], _T]) -> Callable[[], _T]:
    """Return ``function`` with a StopIteration as another error: no future takes that."""

    def call() -> _T:
        try:
            return function()
        except StopIteration as raised:
            raise RuntimeError(f"StopIteration: {raised}") from raised

    return call


def _start(function: Callable[[], _T]) -> asyncio.Future[_T]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type] # without an error there is one
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = _bearable(function)()
        except BaseException as raised:  # noqa: BLE001 - it belongs to who waits
            error = raised
        # The loop has ended: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, result, error)

    # (`threading` would have the loop wait until the thread runs.)
    _thread.start_new_thread(work, ())
    return future
