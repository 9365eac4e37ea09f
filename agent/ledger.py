"""The ledger: which slice belongs to which container. A folder for each, and nothing else.

    <base>/containers/KEY/     KEY is the container's id and the beginning of its bundle's SHA-256
        slice.json             written whole before anything else is made
        region/                a tmpfs of its own with ``grant``, ``usage`` and ``bell``
        stage/                 where the container's hook mounts its staging folder
        …                      what the edits of its bundle add

What is allocated is the sum over the slices; no total is stored that could drift. A slice is whole
when its ``slice.json`` is sound and its region is there: the container's bundle names the folder
only after that. So what is found half-made was promised to nobody, and is taken away.

A folder whose ``slice.json`` is damaged, or another version's, may still be a living container's:
some process holds a slot of ``usage``, or is in a cgroup with the container's id. It is reported in
``broken``, and what its ``grant`` says stays reserved, until nobody is left.

Everything here is synchronous and takes a few system calls on a tmpfs. One thread changes it;
``slices`` and ``of_pid`` may be called from others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aliquot.hooks import files
from aliquot.shim import region
from aliquot.shim.region import GrantedDevice, RegionDevice

from . import mounts, processes
from .errors import AliquotError, BadRequestError
from .policies import MOST_FLOOR, MOST_QUIET_MS
from .rundir import open_inside
from .slices import Container, Part, Slice, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .devices import Device

SLICE: Final = "slice.json"
REGION: Final = "region"
STAGE: Final = "stage"

_NEW: Final = ".slice.json.new"
_MOST_SLICE_BYTES: Final = 1 << 18
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_KEY: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127})-[0-9a-f]{8}", re.ASCII)
_MOST_BYTES: Final = 1 << 53
_MOST_TEXT: Final = 4096
# The folder, the bell, and two files, each of which has two names while it is made.
_REGION_INODES: Final = 8
_SPARE_PAGES: Final = 2


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder without a readable ``slice.json`` of which something lives.

    ``granted`` is what its ``grant`` says, empty when that cannot be read either.
    """

    key: str
    reason: str
    granted: tuple[GrantedDevice, ...]


def key_of(container_id: str, bundle: str) -> str:
    """Return the name of a container's folder. Raises BadRequestError for an id that is none.

    Ids are unique within one client of the container runtime; bundles are unique on the node.
    """
    if not _ID.fullmatch(container_id):
        raise BadRequestError(
            f"'{region.printable(container_id[:140])}' is not a container's id: "
            "letters, digits, '_', '.' and '-', at most 128"
        )
    return f"{container_id}-{hashlib.sha256(os.fsencode(bundle)).hexdigest()[:8]}"


class Ledger:
    """The slices of a node, below the runtime folder ``base``."""

    def __init__(self, base: Path) -> None:
        """Nothing is read or made before ``open``."""
        self.base = base
        self.root = base / "containers"
        self.broken: dict[str, Broken] = {}
        self.faults: list[str] = []
        self._slices: dict[str, Slice] = {}
        self._watchers: list[Callable[[], None]] = []

    # -- Reading -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Read what is there, and take away what was half made.

        ``faults`` then has a line for each folder with which something is wrong. Raises
        AliquotError when the base cannot be used.
        """
        self._make_root()
        self._slices, self.broken, self.faults = {}, {}, []
        try:
            names = sorted(os.listdir(self.root))  # noqa: PTH208 - names are what is wanted
        except OSError as error:
            raise AliquotError(f"{self.root} cannot be read: {error.strerror}") from error
        for name in names:
            try:
                self._take_up(name)
            except OSError as error:  # noqa: PERF203 - one broken folder is no other's affair
                self.faults.append(f"{self.root / name}: {error.strerror}: it is left as it is")

    def slices(self) -> tuple[Slice, ...]:
        """Return all slices, the oldest first."""
        return tuple(sorted(self._slices.values(), key=lambda piece: piece.created_unix_ns))

    def get(self, key: str) -> Slice | None:
        """Return a slice by its key."""
        return self._slices.get(key)

    def folder(self, key: str) -> Path:
        """Return a slice's folder."""
        return self.root / key

    def region(self, key: str) -> Path:
        """Return the folder with a slice's ``grant``, ``usage`` and ``bell``."""
        return self.root / key / REGION

    def of_pid(self, pid: int) -> Slice | None:
        """Return the slice in whose cgroups, or below them, a process is.

        A container whose first process is not known yet, or has no cgroup of its own, is known by
        its id as a whole part of a cgroup's path.
        """
        return self.of_cgroups(processes.cgroups(pid))

    def of_cgroups(self, lines: Sequence[str]) -> Slice | None:
        """Return the slice in whose cgroups, or below them, a process with these lines is."""
        for piece in self.slices():
            if piece.cgroups:
                if processes.inside(lines, piece.cgroups):
                    return piece
            elif processes.names_container(lines, piece.container.id):
                return piece
        return None

    def reserved(self, devices: Sequence[Device]) -> tuple[Slice, ...]:
        """Return all slices, and for each broken folder one with what its ``grant`` holds."""
        return self.slices() + tuple(_salvaged(one, devices) for one in self.broken.values())

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have ``changed`` called after a slice came, changed or went; returns what ends that."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    # -- Writing -----------------------------------------------------------------------------------

    def add(self, piece: Slice, devices: Sequence[RegionDevice]) -> Path:
        """Write a slice down and make its region, all or nothing; returns its folder.

        Raises AliquotError, also when there is a folder of that key.
        """
        folder = self.folder(piece.key)
        if not _KEY.fullmatch(piece.key):
            raise BadRequestError(f"'{region.printable(piece.key)}' is not a slice's key")
        if piece.key in self._slices or piece.key in self.broken:
            raise AliquotError(f"{folder} is a slice's already: remove that first")
        try:
            folder.mkdir(mode=0o711)
        except OSError as error:
            raise AliquotError(f"{folder} cannot be made: {error.strerror}") from error
        try:
            folder.chmod(0o711)
            self._write(piece)
            (folder / STAGE).mkdir(mode=0o755)
            self._make_region(piece, devices)
        except OSError as error:
            self._sweep(piece.key)
            what = error.filename or folder
            raise AliquotError(f"{what} cannot be made: {error.strerror}") from error
        except BaseException:
            self._sweep(piece.key)
            raise
        self._slices[piece.key] = piece
        self._tell()
        return folder

    def replace(self, piece: Slice) -> None:
        """Write what has become known of a slice. Raises AliquotError; then nothing is changed."""
        if piece.key not in self._slices:
            raise AliquotError(f"{self.folder(piece.key)} is no slice")
        try:
            self._write(piece)
        except OSError as error:
            path = self.folder(piece.key) / SLICE
            raise AliquotError(f"{path} cannot be written: {error.strerror}") from error
        self._slices[piece.key] = piece
        self._tell()

    def remove(self, key: str) -> None:
        """Give back all that a slice or a broken folder holds; without one nothing happens.

        Raises AliquotError when the folder does not go; what it holds then stays reserved.
        """
        if key not in self._slices and key not in self.broken:
            return
        self._sweep(key)
        if os.path.lexists(self.folder(key)):
            raise AliquotError(f"{self.folder(key)} cannot be removed: see what uses it")
        self._slices.pop(key, None)
        self.broken.pop(key, None)
        self._tell()

    def settle_broken(self) -> tuple[str, ...]:
        """Remove broken folders of which nothing lives any more; returns their keys."""
        gone = tuple(key for key in self.broken if not self._lives(key))
        for key in gone:
            self.remove(key)
        return gone

    # -- Inside ------------------------------------------------------------------------------------

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def _make_root(self) -> None:
        try:
            # Containers that are not root pass through, and list nothing.
            self.base.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.root.mkdir(mode=0o711, exist_ok=True)
            for folder in (self.base, self.root):
                status = folder.lstat()
                if (
                    not stat.S_ISDIR(status.st_mode)
                    or status.st_uid != os.geteuid()
                    or status.st_mode & 0o022
                ):
                    raise AliquotError(
                        f"{folder} belongs to somebody else, or others may write there: "
                        "give it to root with mode 0711, or name another runtime_dir"
                    )
                folder.chmod(0o711)
        except OSError as error:
            raise AliquotError(f"{self.root} cannot be used: {error.strerror}") from error

    def _take_up(self, name: str) -> None:
        """Read one folder: a slice, something broken, or what is to be taken away."""
        folder = self.root / name
        if not _KEY.fullmatch(name) or not stat.S_ISDIR(folder.lstat().st_mode):
            self.faults.append(f"{folder} is no slice's folder: remove it")
            return
        try:
            piece = _read(folder)
        except FileNotFoundError:
            reason = f"{folder / SLICE} is missing"
        except OSError as error:
            reason = f"{folder / SLICE} cannot be read: {error.strerror}"
        except (ValueError, RecursionError) as error:
            reason = f"{folder / SLICE} is damaged: {region.printable(str(error))}"
        else:
            if self._region_is_whole(name):
                self._slices[name] = piece
            elif piece.init_pid and processes.alive(piece.init_pid, piece.init_start):
                # Not half-made: somebody took the mount away. The container has its own.
                self._slices[name] = piece
                self.faults.append(f"{folder / REGION} is gone while its container lives")
            else:
                self._sweep(name)
            return
        if self._lives(name):
            self.broken[name] = Broken(name, reason, self._granted(name))
            self.faults.append(f"{reason}: something of it lives, its share stays reserved")
        else:
            if "missing" not in reason:
                self.faults.append(f"{reason}: nothing of it lives, it is removed")
            self._sweep(name)

    def _lives(self, key: str) -> bool:
        """Say whether a process holds a slot of the region, or is in the container's cgroup."""
        match = _KEY.fullmatch(key)
        assert match
        try:
            with _opened(self.region(key)) as dirfd:
                fd = open_inside(dirfd, "usage")
            try:
                if region.any_alive(fd):
                    return True
            finally:
                os.close(fd)
        except OSError:
            pass  # no region: then nobody holds a slot of it
        return any(
            processes.names_container(processes.cgroups(int(name)), match[1])
            for name in os.listdir("/proc")  # noqa: PTH208 - names are what is wanted
            if name.isdigit()
        )

    def _granted(self, key: str) -> tuple[GrantedDevice, ...]:
        try:
            with _opened(self.region(key)) as dirfd:
                fd = open_inside(dirfd, "grant")
            try:
                return region.read_grant(fd, f"{self.region(key)}/grant").devices
            finally:
                os.close(fd)
        except (OSError, region.RegionError):
            return ()

    def _region_is_whole(self, key: str) -> bool:
        """Say whether both files are there; what is in ``usage`` is the container's own affair."""
        if not self._granted(key):
            return False
        try:
            return stat.S_ISREG((self.region(key) / "usage").lstat().st_mode)
        except OSError:
            return False

    def _write(self, piece: Slice) -> None:
        """Write ``slice.json``: after a crash it is the old or the new one. Raises OSError."""
        with _opened(self.folder(piece.key)) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(_NEW, flags, 0o600, dir_fd=folder)
            try:
                files.write_all(fd, f"{json.dumps(to_json(piece))}\n".encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(_NEW, SLICE, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def _make_region(self, piece: Slice, devices: Sequence[RegionDevice]) -> None:
        place = self.region(piece.key)
        place.mkdir(mode=0o755)
        page = os.sysconf("SC_PAGE_SIZE")
        sizes = (region.GRANT_BYTES, region.USAGE_BYTES)
        room = (sum(-(-size // page) for size in sizes) + _SPARE_PAGES) * page
        flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
        options = f"mode=0755,size={room},nr_inodes={_REGION_INODES}"
        try:
            mounts.mount("aliquot", str(place), "tmpfs", flags, options)
        except OSError as error:
            raise OSError(error.errno, f"a tmpfs: {error.strerror}", str(place)) from error
        name = piece.container.shown.encode()[: region.MAX_NAME_BYTES].decode(errors="ignore")
        with _opened(place) as dirfd:
            region.create(dirfd, name, devices)
            region.create_bell(dirfd)

    def _sweep(self, name: str) -> None:
        """Take a folder away, as far as it goes. Whoever has the region mounted keeps it."""
        folder = self.root / name
        with contextlib.suppress(OSError):
            # The kernel says when nothing is mounted there any more.
            while True:
                mounts.unmount(str(folder / REGION))
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> Slice:
    """Read ``slice.json`` of a folder. Raises OSError, ValueError."""
    with _opened(folder) as dirfd:
        fd = open_inside(dirfd, SLICE)
    with open(fd, "rb") as file:  # noqa: PTH123 - an open file
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError(errno.EPERM, "it is not root's alone")
        content = file.read(_MOST_SLICE_BYTES + 1)
    if len(content) > _MOST_SLICE_BYTES:
        raise ValueError("it is too long")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - a file has no type
    piece = from_json(value)
    _check(piece)
    if piece.key != folder.name:
        raise ValueError("it is another slice's")
    if piece.key != key_of(piece.container.id, piece.container.bundle):
        raise ValueError("its container has another key")
    return piece


def _check(piece: Slice) -> None:
    """Raise ValueError unless every field has its type and is within its bounds."""
    container = piece.container
    texts = [piece.key, container.id, container.bundle, container.namespace, container.pod]
    texts += [container.name, *piece.cgroups, piece.policy, piece.group]
    _insist(isinstance(piece.labels, dict), "labels")
    texts += [*piece.labels, *piece.labels.values()]
    for part in piece.parts:
        texts += [part.uuid, part.vendor, part.enforcement, part.partition]
        _insist(_is_number(part.memory_bytes, 0, _MOST_BYTES), "memory_bytes")
        _insist(_is_number(part.cores_max, 1, 100), "cores_max")
        _insist(_is_number(part.cores, 0, part.cores_max), "cores")
        _insist(_is_number(part.weight, 1, region.MAX_WEIGHT), "weight")
        most = region.MAX_PRIORITY
        _insist(_is_number(part.priority, -most, most), "priority")
    _insist(all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in texts), "a text")
    _insist(1 <= len(piece.parts) <= region.MAX_DEVICES, "the number of parts")
    uuids = {part.uuid for part in piece.parts}
    _insist(len(uuids) == len(piece.parts) and "" not in uuids, "uuid")
    _insist(_is_number(piece.quiet_ms, 0, MOST_QUIET_MS), "quiet_ms")
    _insist(_is_number(piece.floor, 0, MOST_FLOOR), "floor")
    _insist(type(piece.native) is bool, "native")
    for name in ("created_unix_ns", "maker_pid", "maker_start", "init_pid", "init_start"):
        _insist(_is_number(getattr(piece, name), 0, (1 << 63) - 1), name)


def _insist(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"{what} is not what it should be")


def _is_number(value: Any, least: int, most: int) -> bool:  # noqa: ANN401 - whatever a file holds
    return type(value) is int and least <= value <= most


def _salvaged(one: Broken, devices: Sequence[Device]) -> Slice:
    known = {device.uuid_bytes: device for device in devices}
    match = _KEY.fullmatch(one.key)
    assert match
    return Slice(
        key=one.key,
        container=Container(match[1], ""),
        parts=tuple(
            Part(
                uuid=known[granted.uuid].uuid,
                vendor=known[granted.uuid].vendor,
                memory_bytes=(
                    known[granted.uuid].memory_bytes if granted.cap is None else granted.cap
                ),
                cores=granted.cores_min,
                enforcement="driver" if granted.by_driver else "shim",
                cores_max=granted.cores,
                weight=granted.weight,
                priority=granted.priority,
            )
            for granted in one.granted
            if granted.uuid in known
        ),
        created_unix_ns=0,
        maker_pid=0,
        maker_start=0,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
