"""Keeps slices for as long as their containers live, and no longer.

Until a container's runtime has told its first process, a slice belongs to the process that asked
for it; from then on to that first process, and after its end to what is left in its cgroups: where
containers share a pid namespace, processes outlive the first. The kernel tells of each end, so that
nothing depends on poststop. Whoever ended while no agent ran is found at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from . import processes
from .blocking import Caller
from .devices import Partition, UntoldError, Vendor, VendorError, partitions_of
from .errors import AliquotError
from .ledger import Ledger
from .slices import DRIVER, FIRM, PARTITION, Part, Slice
from .wire import Peer

_VENDOR_SECONDS: Final = 30.0
# Before something that failed is tried again.
_AGAIN_SECONDS: Final = 10.0
# Deleting a container waits so long for its share to be free again, and then no longer.
_STOP_SECONDS: Final = 2.0
_log: Final = logging.getLogger(__name__)


class Keeper:
    """Watches over the slices of a ledger, in one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        vendors: Callable[[], Sequence[Vendor]],
        looked: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing is watched before ``settle`` or ``hold``.

        ``vendors`` are known once ``looked`` returns.
        """
        self._ledger = ledger
        self._vendors = vendors
        self._looked = looked
        self._callers: dict[str, Caller] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stops: set[asyncio.Task[None]] = set()
        # A lock for each key that somebody works on, and how many do.
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def caller(self, vendor: str) -> Caller:
        """Return what a vendor's blocking functions are called by."""
        if vendor not in self._callers:
            self._callers[vendor] = Caller(f"the library of {vendor}", _VENDOR_SECONDS)
        return self._callers[vendor]

    @contextlib.asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[None]:
        """Have a slice, or a key that may become one, to oneself."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    async def settle(self) -> None:
        """Release all slices that have ended, and watch the others.

        Those whose cap a driver or a partition holds follow once the vendors are known.
        """
        for piece in self._ledger.slices():
            if has_ended(piece) and all(part.enforcement not in FIRM for part in piece.parts):
                try:
                    async with self.locked(piece.key):
                        await self._release(piece)
                except AliquotError as error:
                    _log.error("%s", error)
                else:
                    continue
            self.hold(piece)

    def hold(self, piece: Slice) -> None:
        """Watch whom a slice belongs to now, in place of whom it belonged to before."""
        self.let_go(piece.key)
        task = asyncio.get_running_loop().create_task(self._watch(piece))
        self._watches[piece.key] = task

        def forget(ended: asyncio.Task[None]) -> None:
            if self._watches.get(piece.key) is ended:
                del self._watches[piece.key]
            if not ended.cancelled() and ended.exception() is not None:
                _log.error("%s is not watched any more", piece.key, exc_info=ended.exception())

        task.add_done_callback(forget)

    def let_go(self, key: str) -> None:
        """Watch a slice no more."""
        task = self._watches.pop(key, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def close(self) -> None:
        """Watch nothing any more; slices stay."""
        tasks = [*self._watches.values(), *self._stops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- What the hooks tell -----------------------------------------------------------------------

    async def started(self, fields: Mapping[str, str], peer: Peer) -> None:
        """Take note of a container's first process, and let drivers hold its caps.

        Raises AliquotError, upon which the container's runtime ends it.
        """
        key = self._key(fields["slice"])
        async with self.locked(key):
            piece = self._ledger.get(key)
            if piece is None or piece.container.id != fields["id"]:
                raise AliquotError(
                    f"container {_short(fields['id'])} has no slice in {_short(fields['slice'])}: "
                    "create it anew"
                )
            fresh = self._with_init(piece, fields["pid"], peer)
            self._ledger.replace(fresh)
            self.hold(fresh)
            # After it was written down: whoever comes after a crash knows what to take back.
            await self._limit(fresh)
            # Written once whoever asked has the answer.
            asyncio.get_running_loop().call_soon(
                _log.info,
                "container %s runs as process %d",
                *(fresh.container.shown, fresh.init_pid),
            )

    def _with_init(self, piece: Slice, text: str, peer: Peer) -> Slice:
        shown = piece.container.shown
        pid = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
        start = processes.living_since(pid) if pid > 1 else None
        if start is None:
            raise AliquotError(f"container {shown}: there is no process {_short(text)} to run it")
        again = not piece.init_pid or (pid, start) == (piece.init_pid, piece.init_start)
        if not again and not has_ended(piece):
            raise AliquotError(f"container {shown} runs already, as process {piece.init_pid}")
        lines = processes.cgroups(pid)
        other = self._ledger.of_cgroups(lines)
        if other is not None and other.key != piece.key:
            raise AliquotError(
                f"container {shown}: process {pid} is container {other.container.shown}'s"
            )
        groups = processes.own_cgroups(lines, processes.cgroups(peer.pid))
        return dataclasses.replace(piece, init_pid=pid, init_start=start, cgroups=groups)

    async def stopped(self, fields: Mapping[str, str], peer: Peer) -> None:
        """Release a slice whose container has been deleted. Without one nothing happens.

        What cannot be released yet goes when its last process does.
        """
        key = self._key(fields["slice"])
        if key in self._ledger.broken:
            self._ledger.settle_broken()
        task = asyncio.get_running_loop().create_task(self._stop(key, fields["id"], peer))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        done, _ = await asyncio.wait({task}, timeout=_STOP_SECONDS)
        if done:
            task.result()

    async def _stop(self, key: str, container_id: str, peer: Peer) -> None:
        async with self.locked(key):
            piece = self._ledger.get(key)
            if piece is None:
                return
            if piece.container.id != container_id:
                raise AliquotError(f"{key} is not container {_short(container_id)}'s slice")
            # Before it is told the first process, a runtime says itself that it failed. Anybody
            # else speaks of an earlier try in the same bundle.
            if has_ended(piece) or (
                not piece.init_pid and processes.descends(peer.pid, piece.maker_pid)
            ):
                await self._release(piece)
            else:
                _log.info("container %s has still processes", piece.container.shown)

    def _key(self, folder: str) -> str:
        path = Path(folder)
        if path.parent != self._ledger.root:
            raise AliquotError(f"{_short(folder)} is not in {self._ledger.root}: see runtime_dir")
        return path.name

    # -- Ends --------------------------------------------------------------------------------------

    async def _watch(self, piece: Slice) -> None:
        while True:
            try:
                if piece.init_pid:
                    await processes.wait_exit(piece.init_pid, piece.init_start)
                    await processes.wait_empty(piece.cgroups)
                else:
                    await processes.wait_exit(piece.maker_pid, piece.maker_start)
                async with self.locked(piece.key):
                    if self._ledger.get(piece.key) == piece:
                        await self._release(piece)
            except (OSError, AliquotError) as error:  # noqa: PERF203 - it tries again
                _log.warning("container %s: %s", piece.container.shown, error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    async def release(self, piece: Slice) -> None:
        """Give back what a slice holds. Its key is locked. Raises AliquotError."""
        await self._release(piece)

    async def _release(self, piece: Slice) -> None:
        for part in piece.parts:
            if part.enforcement == DRIVER and piece.cgroups:
                await self._take_back(piece, part)
            if part.enforcement == PARTITION:
                await self._give_back(piece, part)
        self._ledger.remove(piece.key)
        self.let_go(piece.key)
        _log.info("container %s gave its slice back", piece.container.shown)

    # -- Partitions --------------------------------------------------------------------------------

    async def cut(self, piece: Slice) -> tuple[Slice, Mapping[str, Partition]]:
        """Have a slice's partitions made; returns the slice with them, and them by UUID.

        Its key is locked, and the ledger has it. Raises AliquotError and VendorError; what was made
        by then is for ``abandon`` to give back.
        """
        made: dict[str, Partition] = {}
        for part in piece.parts:
            if part.enforcement != PARTITION:
                continue
            one = made[part.uuid] = await self._cut(piece, part)
            piece = _with_partition(piece, one)
            self._ledger.replace(piece)
        return piece, made

    async def _cut(self, piece: Slice, part: Part) -> Partition:
        vendor = await self._vendor(part.vendor)
        # Whoever has it first decides whether what is made is had, or given back by its maker.
        told = threading.Lock()

        def make() -> Partition:
            one = vendor.partition(part.uuid, piece.key, part.memory_bytes, part.cores)
            if not told.acquire(blocking=False):
                vendor.release(one)
            return one

        try:
            return await self.caller(vendor.name).call(make)
        except BaseException:
            told.acquire(blocking=False)
            raise

    async def abandon(self, key: str) -> None:
        """Take back a slice of which nothing came. Its key is locked.

        What cannot be taken back now is tried again once its maker has ended.
        """
        piece = self._ledger.get(key)
        if piece is None:
            return
        if all(part.enforcement != PARTITION for part in piece.parts):
            self._ledger.remove(key)
            return
        try:
            await self._release(piece)
        except BaseException as error:
            self.hold(piece)
            if not isinstance(error, AliquotError):
                raise
            _log.warning("container %s: %s", piece.container.shown, error)

    async def _give_back(self, piece: Slice, part: Part) -> None:
        """Release what partitions of a device a slice has. Raises AliquotError."""
        vendor = await self._vendor(part.vendor)

        def release() -> None:
            # By its name: that of one which was being made is not written down yet.
            for one in partitions_of(vendor, part.uuid):
                if one.name == piece.key:
                    vendor.release(one)

        try:
            await self.caller(vendor.name).call(release)
        except VendorError as error:
            raise AliquotError(f"its partition stays: {error}") from error

    async def reclaim(self, vendor: Vendor) -> None:
        """Give back partitions of slices that the ledger does not have: survivors of a crash."""
        # Vendors from before there were partitions have none.
        ask = getattr(vendor, "partitions", tuple)
        faults: list[str] = []
        found: Sequence[Partition] = ()
        try:
            found = await self.caller(vendor.name).call(ask)
        except UntoldError as error:
            found = error.found
            faults.append(str(error))
        except (VendorError, AliquotError) as error:
            faults.append(str(error))
        for one in found:
            if not one.name or self._ledger.get(one.name) or one.name in self._ledger.broken:
                continue
            try:
                await self.caller(vendor.name).call(partial(vendor.release, one))
                _log.info("partition %s of %s was nobody's any more", one.id, one.uuid)
            except (VendorError, AliquotError) as error:
                # (One is no other's affair.)
                faults.append(str(error))
        for fault in faults:
            _log.warning("%s: partitions of a crash may be left: %s", vendor.name, fault)

    async def _vendor(self, name: str) -> Vendor:
        """Return a vendor by its name. Raises AliquotError."""
        await self._looked()
        for vendor in self._vendors():
            if vendor.name == name:
                return vendor
        raise AliquotError(f"the library of {name} cannot be used any more")

    # -- Caps that the driver holds ----------------------------------------------------------------

    async def _limit(self, piece: Slice) -> None:
        for part in piece.parts:
            if part.enforcement != DRIVER:
                continue
            shown = piece.container.shown
            folder = _unified(piece)
            if folder is None or not folder.is_dir():
                raise AliquotError(
                    f"container {shown}: it has no cgroup v2 of its own, by which the driver of "
                    f"{part.uuid} could hold its cap: see require in the configuration"
                )
            try:
                await self._set_limit(part, folder, part.memory_bytes)
            except (VendorError, AliquotError) as error:
                for other in piece.parts:
                    if other.enforcement == DRIVER:
                        await self._take_back(piece, other)
                raise AliquotError(f"container {shown}: {error}") from error

    async def change_limits(self, before: Slice, fresh: Slice) -> Slice:
        """Have drivers hold the caps of a slice that have changed, all or none of them.

        Its key is locked. Returns the slice as it is then: partitions may be larger than what was
        asked for. Raises AliquotError.
        """
        resized = await self._resize(before, fresh)
        try:
            await self._change_limits(before, fresh)
        except AliquotError:
            await self._resize(resized, before)
            raise
        return resized

    async def _resize(self, before: Slice, fresh: Slice) -> Slice:
        shown = fresh.container.shown
        done: list[tuple[Part, Partition]] = []
        result = fresh
        for old, new in zip(before.parts, fresh.parts, strict=True):
            size = (new.memory_bytes, new.cores)
            if new.enforcement != PARTITION or size == (old.memory_bytes, old.cores):
                continue
            vendor = await self._vendor(new.vendor)
            now = Partition(new.uuid, new.partition, fresh.key, old.memory_bytes, old.cores)
            try:
                one = await self.caller(vendor.name).call(partial(vendor.resize, now, *size))
            except (VendorError, AliquotError) as error:
                for part, changed in done:
                    back = partial(vendor.resize, changed, part.memory_bytes, part.cores)
                    with contextlib.suppress(VendorError, AliquotError):
                        await self.caller(vendor.name).call(back)
                raise AliquotError(f"container {shown}: {error}") from error
            done.append((old, one))
            result = _with_partition(result, one)
        return result

    async def _change_limits(self, before: Slice, fresh: Slice) -> None:
        changed = [
            (old, new)
            for old, new in zip(before.parts, fresh.parts, strict=True)
            if new.enforcement == DRIVER and new.memory_bytes != old.memory_bytes
        ]
        if not changed or not fresh.init_pid:
            # One that starts gets its limits once its first process is told.
            return
        shown = fresh.container.shown
        folder = _unified(fresh)
        if folder is None:
            raise AliquotError(
                f"container {shown}: its cgroup is gone, by which a driver limits it"
            )
        for number, (_, part) in enumerate(changed):
            try:
                await self._set_limit(part, folder, part.memory_bytes)
            except (VendorError, AliquotError) as error:  # noqa: PERF203 - it ends the loop
                for old, _ in changed[: number + 1]:
                    with contextlib.suppress(VendorError, AliquotError):
                        await self._set_limit(old, folder, old.memory_bytes)
                raise AliquotError(f"container {shown}: {error}") from error

    async def limit_again(self) -> None:
        """Have drivers hold the caps that the ledger has.

        An agent may have ended between writing one down and telling it.
        """
        await self._looked()
        for key in [piece.key for piece in self._ledger.slices()]:
            async with self.locked(key):
                piece = self._ledger.get(key)
                folder = _unified(piece) if piece is not None and piece.init_pid else None
                if piece is None or folder is None or has_ended(piece):
                    continue
                for part in piece.parts:
                    if part.enforcement != DRIVER:
                        continue
                    try:
                        await self._set_limit(part, folder, part.memory_bytes)
                    except (VendorError, AliquotError) as error:
                        _log.warning("container %s: %s", piece.container.shown, error)

    async def _take_back(self, piece: Slice, part: Part) -> None:
        folder = _unified(piece)
        if folder is None:
            return
        try:
            await self._set_limit(part, folder, None)
        except (VendorError, AliquotError) as error:
            # With its cgroup gone there is nothing left that could be limited.
            level = logging.WARNING if folder.is_dir() else logging.DEBUG
            _log.log(level, "container %s: limit of %s: %s", piece.key, part.uuid, error)

    async def _set_limit(self, part: Part, folder: Path, limit: int | None) -> None:
        vendor = await self._vendor(part.vendor)
        call = partial(vendor.limit_memory, part.uuid, str(folder), limit)
        await self.caller(vendor.name).call(call)


def _with_partition(piece: Slice, one: Partition) -> Slice:
    """Return a slice with what a partition really has."""
    parts = tuple(
        dataclasses.replace(
            part,
            partition=one.id,
            memory_bytes=one.memory_bytes,
            cores=one.cores,
            cores_max=max(one.cores, 1),
        )
        if part.uuid == one.uuid
        else part
        for part in piece.parts
    )
    return dataclasses.replace(piece, parts=parts)


def has_ended(piece: Slice) -> bool:
    """Say whether nobody is left to whom a slice belongs."""
    if not piece.init_pid:
        return not processes.alive(piece.maker_pid, piece.maker_start)
    return not (
        processes.alive(piece.init_pid, piece.init_start) or processes.populated(piece.cgroups)
    )


def _unified(piece: Slice) -> Path | None:
    try:
        return processes.unified_folder(piece.cgroups)
    except OSError:
        return None


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
