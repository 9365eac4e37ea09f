"""Admission: from a container's bundle to its slice, or the one line that says why not.

Everything is decided before anything is changed. Placing a slice and writing it down is one step of
the event loop, so that no two containers are given the same memory; the slow rest (the vendor's
files, a look into the image) goes on for several at once. Whatever fails after the ledger has the
slice takes it out again, and the bundle's config.json is replaced last, whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from aliquot.hooks.plan import DeviceNode, Needs
from aliquot.shim import region

from . import changes
from .blocking import Caller, finish
from .deposit import Deposit
from .devices import Device, Partition, Vendor, VendorError
from .errors import AliquotError
from .keeper import Keeper, has_ended
from .ledger import Ledger, key_of
from .slices import FIRM, Container, Part, Request, Slice
from .wire import Peer

# How containerd and CRI-O say that a container only keeps a pod's namespaces.
_PAUSE: Final = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
# What they call a container; the first that is there counts.
_NAMESPACE: Final = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
_POD: Final = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
_NAME: Final = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
_CONTAINERD_TASKS: Final = "io.containerd.runtime.v2.task"
_MOST_NAME: Final = 253
_log: Final = logging.getLogger(__name__)


class BundleView(Protocol):
    """What admission reads of a bundle."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """The container's annotations."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of its first process."""
        ...


B = TypeVar("B", bound=BundleView)


_B_contra = TypeVar("_B_contra", bound=BundleView, contravariant=True)


class Apply(Protocol[_B_contra]):
    """``aliquot.hooks.edits.apply``."""

    def __call__(
        self,
        bundle: _B_contra,
        needs: Needs,
        *,
        folder: Path,
        hook: Path,
        stat: Path,
        runtime_dir: Path,
    ) -> dict[str, Any]:
        """Return what config.json is to be, and write into ``folder`` what the hook needs."""
        ...


@dataclass(frozen=True, slots=True)
class Tools(Generic[B]):
    """What admission is done with.

    ``read`` and ``place`` know the configuration already; ``faults`` are what those of the bundle
    raise, with one line for people. ``inspect_at_once`` reads a bundle that is at hand, without
    waiting for anything, and returns None for others.
    """

    inspect: Callable[[Path], B]
    read: Callable[[Mapping[str, str], Mapping[str, str], str], Request | None]
    place: Callable[
        [Request, Sequence[Device], Sequence[Slice], Mapping[str, str], Container, Sequence[str]],
        tuple[Part, ...],
    ]
    apply: Apply[B]
    write: Callable[[B, dict[str, Any]], None]
    link_char_devices: Callable[[Sequence[DeviceNode]], None]
    faults: tuple[type[Exception], ...] = ()
    inspect_at_once: Callable[[Path], B | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Programs:
    """The deposited programs that containers' hooks run and containers are given."""

    hook: Path
    stat: Path


class Node(Protocol):
    """What is known of the node at this moment."""

    @property
    def devices(self) -> Sequence[Device]:
        """Its devices."""
        ...

    @property
    def vendors(self) -> Sequence[Vendor]:
        """The vendors that they come from."""
        ...

    @property
    def silent(self) -> Sequence[str]:
        """The vendors whose libraries are there and have not told of any device, by name."""
        ...

    @property
    def unhealthy(self) -> Mapping[str, str]:
        """Why devices cannot be used, by UUID."""
        ...

    async def looked(self) -> None:
        """Return once the vendors have been asked for their devices, or did not answer."""
        ...


class Admission(Generic[B]):
    """Decides about containers, in the event loop."""

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        keeper: Keeper,
        tools: Tools[B],
        deposit: Deposit,
        programs: Programs,
    ) -> None:
        """Nothing is read before ``create``."""
        self._node = node
        self._ledger = ledger
        self._keeper = keeper
        self._tools = tools
        self._deposit = deposit
        self._programs = programs
        self._expected: tuple[type[Exception], ...] = (
            *(AliquotError, VendorError, OSError),
            *tools.faults,
        )

    async def create(self, fields: Mapping[str, str], peer: Peer) -> None:
        """Give a container its slice and change its bundle; one that asks for none is left alone.

        ``peer`` is the maker, to whom the slice belongs until the first process is told. Raises
        AliquotError with the line that the container's owner is to read; then nothing is changed.
        """
        path = fields["bundle"]
        key = key_of(fields["id"], path)
        container = Container(fields["id"], path)
        if not Path(path).is_absolute():
            raise AliquotError(f"container {container.shown}: its bundle is no absolute path")
        try:
            async with self._keeper.locked(key):
                bundle = self._tools.inspect_at_once(Path(path))
                if bundle is None:
                    bundle = await finish(lambda: self._tools.inspect(Path(path)))
                container = _container(container, bundle.annotations)
                await self._make_way(key, container, peer)
                if any(bundle.annotations.get(name) == "sandbox" for name in _PAUSE):
                    return
                request = self._tools.read(bundle.annotations, bundle.environment, container.name)
                if request is not None:
                    await self._admit(key, container, bundle, request, peer)
        except self._expected as error:
            refusal = _refusal(container, error)
            _log.warning("refused: %s", refusal)
            raise refusal from error
        except Exception as error:
            _log.exception("container %s could not be decided about", container.shown)
            raise _refusal(container, AliquotError("the agent failed: see its log")) from error

    async def _make_way(self, key: str, container: Container, peer: Peer) -> None:
        """Take away what an earlier try in the same bundle left. Raises AliquotError."""
        former = self._ledger.get(key)
        if former is not None:
            mine = not former.init_pid and former.maker_pid == peer.pid
            if not mine and not has_ended(former):
                pid = former.init_pid or former.maker_pid
                raise AliquotError(
                    f"container {container.shown} is there already, with process {pid}: "
                    "delete it first"
                )
            await self._keeper.release(former)
        if key in self._ledger.broken and key not in self._ledger.settle_broken():
            raise AliquotError(f"something of it lives: {self._ledger.broken[key].reason}")

    async def _admit(
        self, key: str, container: Container, bundle: B, request: Request, peer: Peer
    ) -> None:
        await self._node.looked()
        devices = self._node.devices
        # From here to `add` nobody else has a turn: what was found free is free.
        taken = self._ledger.reserved(devices)
        node = self._node
        parts = self._tools.place(request, devices, taken, node.unhealthy, container, node.silent)
        piece = Slice(
            key=key,
            container=container,
            parts=parts,
            created_unix_ns=time.time_ns(),
            maker_pid=peer.pid,
            maker_start=peer.start,
            policy=request.policy,
            group=request.group,
            quiet_ms=request.quiet_ms,
            floor=request.floor,
            native=request.native,
        )
        folder = self._ledger.add(piece, _region_devices(parts, devices))
        try:
            # Written down above: whoever comes after a crash knows what to take back.
            piece, cut = await self._keeper.cut(piece)
            # What a region is not made with.
            changes.tell(self._ledger, piece)
            await self._apply(bundle, piece.parts, cut, folder)
        except BaseException:
            await self._keeper.abandon(key)
            raise
        # Not before: whoever asked is answered first, and that it may have ended is seen then, too.
        self._keeper.hold(piece)
        shares = "; ".join(
            f"{changes.told(part)}, held by the {part.enforcement}" for part in piece.parts
        )
        # Written once whoever asked has the answer.
        asyncio.get_running_loop().call_soon(
            _log.info, "container %s gets %s", container.shown, shares
        )

    async def _apply(
        self, bundle: B, parts: Iterable[Part], cut: Mapping[str, Partition], folder: Path
    ) -> None:
        """Ask the vendors what the container needs, and change its bundle. Raises AliquotError."""
        by_vendor: dict[str, list[str]] = {}
        for part in parts:
            by_vendor.setdefault(part.vendor, []).append(part.uuid)
        vendors = {vendor.name: vendor for vendor in self._node.vendors}
        calls: list[tuple[Caller, Callable[[], Needs]]] = []
        for name, uuids in by_vendor.items():
            if name not in vendors:
                raise AliquotError(f"the library of {name} cannot be used any more")
            ask_for = partial(vendors[name].needs, uuids)
            own = {uuid: cut[uuid] for uuid in uuids if uuid in cut}
            if own:
                ask_for = partial(vendors[name].needs, uuids, own)
            calls.append((self._keeper.caller(name), ask_for))
        *others, (last, ask) = calls
        found = [await caller.call(call) for caller, call in others]
        # In the same thread: each change of threads may have to wait for a processor.
        await last.call_then(ask, lambda needs: self._edit(bundle, merged([*found, needs]), folder))

    def _edit(self, bundle: B, needs: Needs, folder: Path) -> None:
        copies = tuple(
            dataclasses.replace(one, shim=self._deposit.put(one.shim)) for one in needs.substitutes
        )
        config = self._tools.apply(
            bundle,
            dataclasses.replace(needs, substitutes=copies),
            folder=folder,
            hook=self._programs.hook,
            stat=self._programs.stat,
            runtime_dir=self._ledger.base,
        )
        self._tools.link_char_devices(needs.nodes)
        self._tools.write(bundle, config)


def merged(needs: Sequence[Needs]) -> Needs:
    """Return all that several vendors' devices need, each thing once."""
    result = Needs()
    for one in needs:
        joined: dict[str, Any] = {"environment": {**result.environment, **one.environment}}
        for field in dataclasses.fields(Needs):
            if field.name not in joined:
                both = (*getattr(result, field.name), *getattr(one, field.name))
                joined[field.name] = tuple(dict.fromkeys(both))
        result = Needs(**joined)
    return result


def _region_devices(
    parts: Iterable[Part], devices: Iterable[Device]
) -> tuple[region.RegionDevice, ...]:
    known = {device.uuid: device for device in devices}
    return tuple(
        region.RegionDevice(
            uuid=known[part.uuid].uuid_bytes,
            cap=part.memory_bytes,
            page_bytes=known[part.uuid].page_bytes,
            context_bytes=known[part.uuid].context_bytes,
            cores=part.cores_max,
            by_driver=part.enforcement in FIRM,
            label=part.uuid,
            shared=True,
            cores_min=part.cores,
            weight=part.weight,
            priority=part.priority,
        )
        for part in parts
    )


def _container(bare: Container, annotations: Mapping[str, str]) -> Container:
    def first(names: Sequence[str]) -> str:
        text = next((annotations[name] for name in names if annotations.get(name)), "")
        return region.printable(text[:_MOST_NAME])

    return dataclasses.replace(
        bare,
        namespace=first(_NAMESPACE) or _containerd_namespace(bare.bundle),
        pod=first(_POD),
        name=first(_NAME),
    )


def _containerd_namespace(bundle: str) -> str:
    """Return containerd's own namespace, which is in the path of its bundles."""
    _, found, rest = bundle.partition(f"/{_CONTAINERD_TASKS}/")
    return region.printable(rest.split("/")[0][:_MOST_NAME]) if found else ""


def _refusal(container: Container, error: Exception) -> AliquotError:
    """Return the line that names the container, once, and says why not."""
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    else:
        text = str(error)
    if not text.startswith((container.shown, f"container {container.shown}")):
        text = f"container {container.shown}: {text}"
    return AliquotError("; ".join(text.splitlines()))
