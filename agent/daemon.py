"""``aliquot agent``: the node agent, in one event loop.

It asks the vendors for their devices, answers container runtimes and tools on two Unix sockets,
keeps the ledger, reads the devices and tells Prometheus. It may be stopped, killed and started
again at any time: slices and running containers stay.

Deleting containers never waits for a vendor's library: requests are served from the first moment,
and only a container that asks for a slice waits until the devices are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from aliquot.shim.arbiter import Settings

from . import changes, processes, sockets, wire
from .admission import Admission, Programs, Tools
from .blocking import Caller, finish
from .deposit import PROGRAM, Deposit
from .devices import Device, Vendor, VendorError
from .errors import AliquotError
from .journal import log_to_stderr
from .keeper import Keeper
from .ledger import Ledger
from .sharing import Sharing, share
from .slices import Request, Slice

if TYPE_CHECKING:
    from .config import Config
    from .devices.registry import Loaded
    from .readings import Readings

RUNTIME_SOCKET: Final = "runtime.sock"
LOCK: Final = "agent.lock"

# The first look at devices may measure what a context takes on each.
_LOOK_SECONDS: Final = 300.0
_READY_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 30.0
_THREAD_SECONDS: Final = 2.0
_UUID_BYTES: Final = 16
_log: Final = logging.getLogger(__name__)

_HELP = """Run the node agent, in the foreground.

It needs root. Containers that run are not touched when it stops, and it knows them again when it
starts. What it can be told is described in docs/configuration.md."""


Service = Callable[["Daemon"], contextlib.AbstractAsyncContextManager[object]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon is made of besides its own.

    ``load`` returns the vendors, and those that cannot be used with the reason. ``programs`` are
    aliquot-hook and aliquot-stat as they are installed. ``services`` go on while their block lasts;
    one that cannot begin is reported, and tried again and again while the agent goes on without it.
    """

    load: Callable[[], Loaded]
    tools: Tools[Any]
    programs: Callable[[], tuple[Path, Path]]
    services: Sequence[tuple[str, Service]] = ()


class Daemon:
    """The agent. Its attributes are what readings, metrics and tools see of it.

    ``unhealthy`` has a reason for each device that cannot be used, by UUID; readings write it.
    ``passed`` are the sockets that systemd listens on for us, by name.
    """

    def __init__(self, config: Config, parts: Parts | None = None) -> None:
        """Nothing is read or made before ``run``; ``parts`` are the real ones by default."""
        self.config = config
        self.ledger = Ledger(config.runtime_dir)
        self.vendors: tuple[Vendor, ...] = ()
        self.devices: tuple[Device, ...] = ()
        self.unhealthy: dict[str, str] = {}
        self.passed: dict[str, sockets.Listening] = {}
        self.keeper = Keeper(self.ledger, lambda: self._loaded, self.looked)
        self.sharing = Sharing(Settings(round_ns=config.sharing.round_ms * 1_000_000))
        self.changes = changes.Changes(self)
        self.readings: Readings
        self._parts = parts
        self._deposit = Deposit(config.lib_dir)
        self._looked = asyncio.Event()
        self._loaded: Sequence[Vendor] = ()
        self._found: dict[str, Sequence[Device]] = {}
        self._complaints: dict[str, str] = {}
        self._unloaded: Sequence[str] = ()

    @property
    def silent(self) -> Sequence[str]:
        """The vendors whose libraries have not told their devices, by name.

        Of those whose libraries cannot be used, only whose devices the kernel shows.
        """
        asked = [vendor.name for vendor in self._loaded if vendor.name not in self._found]
        return [*asked, *self._unloaded]

    async def looked(self) -> None:
        """Return once the vendors have been asked for their devices, or did not answer."""
        await self._looked.wait()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT; ``ready`` is called once devices are known.

        Raises AliquotError when it cannot begin.
        """
        processes.require_pidfd()
        parts = self._parts or real_parts(self.config)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_alone(self.config.runtime_dir))
            self.passed = sockets.passed(os.environ, ("runtime", "agent"))
            for listening in self.passed.values():
                stack.callback(listening.close)
            self.ledger.open()
            for fault in self.ledger.faults:
                _log.warning("%s", fault)
            admission = await self._admission(parts)
            stack.push_async_callback(self.keeper.close)
            await self.keeper.settle()
            for fault in changes.agree(self.ledger):
                _log.warning("%s", fault)
            # Containers that run take turns again before anything else is asked.
            turns = _serving("sharing of time", lambda node: share(node, node.sharing), self)
            await stack.enter_async_context(turns)
            await finish(self._collect)
            stack.push_async_callback(self._close_vendors)

            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            # There is nothing to read again; who sends it out of habit does no harm.
            loop.add_signal_handler(signal.SIGHUP, _nothing)

            listening = self.passed.get("runtime") or stack.enter_context(
                sockets.listen(self.config.runtime_dir / RUNTIME_SOCKET)
            )
            server = wire.Server(listening.socket, self._handler(admission), self._is_tenant)
            serving = await stack.enter_async_context(_task(server.run()))
            await stack.enter_async_context(_task(self._find_devices(parts)))
            await stack.enter_async_context(_task(self.keeper.limit_again()))
            await _first(stop.wait(), self.looked())
            if not stop.is_set():
                for name, service in parts.services:
                    await stack.enter_async_context(_serving(name, service, self))
                ready()
                sockets.notify("READY=1")
                _log.info(
                    "ready: %d devices, %d slices", len(self.devices), len(self.ledger.slices())
                )
            await _first(stop.wait(), asyncio.shield(serving))
            sockets.notify("STOPPING=1")
            if serving.done():
                serving.result()
            _log.info("stopped; slices stay")

    async def _admission(self, parts: Parts) -> Admission[Any]:
        hook, stat = parts.programs()
        put = self._deposit.put
        programs = await finish(lambda: Programs(put(hook, PROGRAM), put(stat, PROGRAM)))
        return Admission(self, self.ledger, self.keeper, parts.tools, self._deposit, programs)

    def _collect(self) -> None:
        """Remove copies that no container refers to any more."""
        if self.ledger.broken:
            # Nobody knows to which they refer.
            return
        referring = [
            path
            for piece in self.ledger.slices()
            for path in (
                self.ledger.folder(piece.key) / "plan",
                Path(piece.container.bundle) / "config.json",
            )
        ]
        try:
            for name in self._deposit.collect(referring):
                _log.info("%s/%s is used no more, and removed", self.config.lib_dir, name)
        except OSError as error:
            _log.warning("old copies stay: %s: %s", error.filename, error.strerror)

    def _handler(self, admission: Admission[Any]) -> wire.Handler:
        answers = {
            wire.CREATE: admission.create,
            wire.CREATE_RUNTIME: self.keeper.started,
            wire.POSTSTOP: self.keeper.stopped,
        }

        async def handle(asked: wire.Asked, peer: wire.Peer) -> None:
            await answers[asked.kind](asked.fields, peer)

        return handle

    def _is_tenant(self, pid: int) -> bool:
        return self.ledger.of_pid(pid) is not None

    def retold(self, piece: Slice) -> None:
        """Tell the arbiter what a slice has now. Raises AliquotError."""
        self.sharing.change(piece)

    # -- Devices -----------------------------------------------------------------------------------

    async def _find_devices(self, parts: Parts) -> None:
        """Ask all vendors for their devices, and those that cannot tell again and again."""
        loop = asyncio.get_running_loop()
        try:
            loaded = await self.keeper.caller("vendors").call(parts.load)
            self._loaded = loaded.vendors
            for one in loaded.left_out:
                _log.info("%s is not used: %s", one.name, one.reason)
                if sign := loaded.signs.get(one.name):
                    _log.warning("%s: %s is there, and its library cannot be used", one.name, sign)
            self._unloaded = [one.name for one in loaded.left_out if one.name in loaded.signs]
            firsts = [(vendor, loop.create_task(self._ask(vendor))) for vendor in self._loaded]
            if firsts:
                await asyncio.wait({task for _, task in firsts}, timeout=_READY_SECONDS)
        except AliquotError as error:
            _log.error("no device can be used: %s", error)
            return
        finally:
            self._looked.set()
        await asyncio.gather(*(self._ask_again(vendor, first) for vendor, first in firsts))

    async def _ask_again(self, vendor: Vendor, first: asyncio.Task[bool]) -> None:
        known = await first
        while not known:
            await asyncio.sleep(_AGAIN_SECONDS)
            known = await self._ask(vendor)

    async def _ask(self, vendor: Vendor) -> bool:
        """Learn a vendor's devices; says whether it told them. What it raises stops nobody."""
        caller = Caller(f"the library of {vendor.name}", _LOOK_SECONDS)
        try:
            devices = tuple(await caller.call(vendor.enumerate))
        except (AliquotError, VendorError) as error:
            self._told(vendor, str(error))
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            self._told(vendor, f"enumerate failed: {type(error).__name__}: {error}")
        else:
            for reason in getattr(vendor, "left_out", ()):
                _log.warning("%s: left out: %s", vendor.name, reason)
            # Before anybody is given what they take.
            await self.keeper.reclaim(vendor)
            self._found[vendor.name] = devices
            self.vendors = tuple(one for one in self._loaded if one.name in self._found)
            known: dict[str, Device] = {}
            for device in (one for name in self.vendors for one in self._found[name.name]):
                if len(device.uuid_bytes) != _UUID_BYTES or device.uuid in known:
                    _log.warning("%s is no device's UUID, or another's: left out", device.uuid)
                else:
                    known[device.uuid] = device
            self.devices = tuple(known.values())
            return True
        return False

    def _told(self, vendor: Vendor, text: str) -> None:
        """Log what a vendor says when it is not what it said before."""
        if self._complaints.get(vendor.name) != text:
            self._complaints[vendor.name] = text
            _log.warning("%s: %s", vendor.name, text)

    async def _close_vendors(self) -> None:
        for vendor in self._loaded:
            try:
                await Caller(vendor.name, _THREAD_SECONDS).call(vendor.close)
            except Exception as error:  # noqa: BLE001, PERF203 - a plug-in may raise anything
                _log.warning("%s: close failed: %s", vendor.name, error)


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Hold the base's lock. Raises AliquotError when another agent has it."""
    path = base / LOCK
    try:
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise AliquotError(
            f"{path} cannot be made: {error.strerror}: see runtime_dir in the configuration"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(fd, 20, 0).decode(errors="replace").strip()
            raise AliquotError(
                f"another agent runs in {base}, as process {who}: stop it first"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _serving(name: str, service: Service, daemon: Daemon) -> AsyncIterator[None]:
    """Have a service for as long as the block lasts, or say why there is none."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(service(daemon))
        except AliquotError as error:
            _log.error(
                "%s: the agent goes on without %s, and tries again every %.0f s",
                error,
                name,
                _AGAIN_SECONDS,
            )
            await stack.enter_async_context(_task(_serve_later(name, service, daemon)))
        except Exception:  # noqa: BLE001 - containers must be served all the same
            _log.exception("the agent goes on without %s", name)
        yield


async def _serve_later(name: str, service: Service, daemon: Daemon) -> None:
    """Have a service once it can be had, until cancelled."""
    while True:
        await asyncio.sleep(_AGAIN_SECONDS)
        try:
            async with service(daemon):
                _log.info("%s: begun after all", name)
                await asyncio.get_running_loop().create_future()
        except AliquotError:
            pass  # It has been told of.
        except Exception:  # noqa: BLE001 - containers must be served all the same
            _log.exception("the agent goes on without %s", name)
            return


async def _first(*waits: Awaitable[Any]) -> None:
    """Return once one of several has come."""
    tasks = {asyncio.ensure_future(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _nothing() -> None:
    """Do nothing."""


def real_parts(config: Config) -> Parts:
    """Return what the agent of a node is made of."""
    # Nothing of it is loaded to check a configuration.
    from aliquot.hooks import edits  # noqa: PLC0415
    from aliquot.hooks.errors import EditError  # noqa: PLC0415
    from aliquot.shim import program  # noqa: PLC0415

    from . import placement, requests  # noqa: PLC0415
    from .devices import registry  # noqa: PLC0415

    def read(
        annotations: Mapping[str, str], environment: Mapping[str, str], name: str
    ) -> Request | None:
        # What an earlier try wrote into the bundle asks for nothing.
        asked = {key: text for key, text in annotations.items() if key != edits.SLICE_ANNOTATION}
        request: Request | None = requests.read(asked, environment, name, config)
        return request

    return Parts(
        load=lambda: registry.load(config),
        tools=Tools(
            inspect=edits.inspect,
            read=read,
            place=lambda request, devices, slices, unhealthy, container, silent: placement.place(
                request, devices, slices, unhealthy, container, config, silent
            ),
            apply=edits.apply,
            write=edits.write,
            link_char_devices=edits.link_char_devices,
            faults=(EditError,),
            inspect_at_once=edits.inspect_at_once,
        ),
        programs=lambda: (program("aliquot-hook"), program("aliquot-stat")),
        services=_services(),
    )


def _services() -> Sequence[tuple[str, Service]]:
    from . import metrics, rpc  # noqa: PLC0415
    from .readings import Readings  # noqa: PLC0415

    @contextlib.asynccontextmanager
    async def read(daemon: Daemon) -> AsyncIterator[None]:
        daemon.readings = Readings(daemon, daemon.sharing.accounts)
        async with _task(daemon.readings.run()):
            yield

    return (("readings", read), ("metrics", metrics.serve), ("tools", rpc.serve))


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run the agent to its end, which no call that hangs in a vendor's library can keep it from."""
    loop = asyncio.new_event_loop()
    executor = ThreadPoolExecutor(thread_name_prefix="aliquot")
    loop.set_default_executor(executor)
    status = 1
    try:
        loop.run_until_complete(work)
        status = 0
    finally:
        loop.run_until_complete(_end_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        executor.shutdown(wait=False, cancel_futures=True)
        for thread in threading.enumerate():
            if thread.name.startswith("aliquot"):
                thread.join(_THREAD_SECONDS)
                if thread.is_alive() and status == 0:
                    _log.warning("a call has not returned: the agent ends without it")
                    logging.shutdown()
                    os._exit(status)


async def _end_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@click.command("agent", help=_HELP)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file.  [default: /etc/aliquot/config.toml where it is]",
)
@click.option("--check", is_flag=True, help="Read the configuration, say what is wrong, and end.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON objects, one a line.")
def agent_command(path: Path | None, check: bool, as_json: bool) -> None:
    """Serve until a signal ends it."""
    from . import config as configuration  # noqa: PLC0415 - nothing before it is asked for

    config = configuration.load(path)
    if check:
        name = path or configuration.DEFAULT_PATH
        click.echo(f"{name}: no mistakes" if name.exists() else f"{name}: not there, all defaults")
        return
    if os.geteuid() != 0:
        raise AliquotError("the agent needs root: sudo aliquot agent")
    os.umask(0o022)
    log_to_stderr(as_json=as_json)
    run_loop(_run(config))


async def _run(config: Config) -> None:
    await Daemon(config).run()
