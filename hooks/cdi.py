"""CDI specifications: what a node's device files say that a container needs for a device.

The format is the Container Device Interface's, versions 0.3.0 to 1.1.0, as YAML or JSON. Files are
root's, but may be broken, half-written or of another time: all is bounded, and what cannot be
understood is an error that names the file. Fields that say nothing about files, nodes, environment
and hooks (intelRdt, additionalGids, netDevices, annotations) are not looked at.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from .plan import BindMount, DeviceNode, Hook

VERSIONS: Final = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")

_MOST_FILES: Final = 256
_MOST_BYTES: Final = 4 << 20
# Aliases of YAML let a small file say very much.
_MOST_ITEMS: Final = 1 << 16
_MOST_TEXT: Final = 4096
_SUFFIXES: Final = frozenset({".json", ".yaml", ".yml"})
_KIND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", re.ASCII)
_HOOK_MOMENTS: Final = frozenset(
    {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
)
_NODE_KINDS: Final = {"": "", "b": "b", "c": "c", "u": "c", "p": "p"}
# libyaml's where PyYAML was built with it: ten times as fast.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class CdiError(Exception):
    """A specification cannot be used; the text names the file, what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """A device node as a specification has it; None is what the host's node says."""

    path: str
    host_path: str
    kind: str = ""
    major: int | None = None
    minor: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    access: str = "rw"


@dataclass(frozen=True, slots=True)
class Edits:
    """What is to be done to a container, in the order in which it is written."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Node, ...] = ()
    mounts: tuple[BindMount, ...] = ()
    hooks: tuple[Hook, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        """Return both, these first."""
        return Edits(
            self.env + other.env,
            self.nodes + other.nodes,
            self.mounts + other.mounts,
            self.hooks + other.hooks,
        )


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification: edits of its own, made once, and those of each device by its name."""

    path: Path
    kind: str
    edits: Edits
    devices: Mapping[str, Edits]


@dataclass(frozen=True, slots=True)
class Found:
    """A device, and the specification that has it."""

    spec: Spec
    name: str

    @property
    def edits(self) -> Edits:
        """The device's own edits, without the specification's."""
        return self.spec.devices[self.name]


def read(path: Path) -> Spec:
    """Read a specification. Raises CdiError."""
    return _Reader(path).spec(_parse(path))


def merge(found: Iterable[Found]) -> Edits:
    """Return what a container needs for several devices: each specification's own edits once."""
    devices = list(found)
    merged = Edits()
    for spec in {device.spec.path: device.spec for device in devices}.values():
        merged += spec.edits
    for device in devices:
        merged += device.edits
    return merged


def nodes(edits: Edits, where: str) -> tuple[DeviceNode, ...]:
    """Return the device nodes, each path once, with what the host's nodes say.

    ``where`` names the specification in messages. Raises CdiError for a node that is not there.
    """
    made: dict[str, DeviceNode] = {}
    for node in edits.nodes:
        made[node.path] = _device_node(node, where)
    return tuple(made.values())


@dataclass(slots=True)
class Specs:
    """The specifications in some folders, read again when a file has changed.

    A device of a later folder hides that of an earlier one; of two in the same folder none counts.
    ``faults`` says of the last look which files or devices cannot be used, one line each.
    """

    folders: Sequence[Path]
    faults: tuple[str, ...] = ()
    _known: dict[Path, tuple[tuple[int, ...], Spec | str]] = field(default_factory=dict)

    def devices(self, kind: str) -> dict[str, Found]:
        """Return the devices of a kind (``nvidia.com/gpu``) by name. Raises nothing."""
        faults: list[str] = []
        known: dict[Path, tuple[tuple[int, ...], Spec | str]] = {}
        found: dict[str, Found] = {}
        for folder in self.folders:
            here: dict[str, Found] = {}
            twice: set[str] = set()
            for path in _files(Path(folder), faults):
                entry = self._read(path)
                if entry is None:
                    continue
                known[path] = entry
                spec = entry[1]
                if isinstance(spec, str):
                    faults.append(spec)
                elif spec.kind == kind:
                    for name in spec.devices:
                        if name in here:
                            both = f"{here[name].spec.path} and {path}"
                            faults.append(f"{both} both have {kind}={name}: remove one")
                            twice.add(name)
                        here[name] = Found(spec, name)
            found |= here
            for name in twice:
                del found[name]
        self._known = known
        self.faults = tuple(faults)
        return found

    def _read(self, path: Path) -> tuple[tuple[int, ...], Spec | str] | None:
        try:
            state = path.stat()
        except OSError:
            return None  # it was there a moment ago
        mark = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        before = self._known.get(path)
        if before is not None and before[0] == mark:
            return before
        try:
            return mark, read(path)
        except CdiError as error:
            return mark, str(error)


def _files(folder: Path, faults: list[str]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names, most of them not ours
    except FileNotFoundError:
        return []
    except OSError as error:
        faults.append(f"{folder} cannot be read: {error.strerror}")
        return []
    # A writer makes its file under a name with a dot first.
    paths = [folder / n for n in names if n[0] != "." and Path(n).suffix in _SUFFIXES]
    if len(paths) > _MOST_FILES:
        faults.append(f"{folder} has more than {_MOST_FILES} specifications: the others are unread")
    return paths[:_MOST_FILES]


def _parse(path: Path) -> Any:  # noqa: ANN401 - whatever a file holds
    try:
        # What lies there may be a pipe: do not wait for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:  # noqa: PTH123 - an open file
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CdiError(f"{path} is not a file")
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CdiError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise CdiError(f"{path} is longer than {_MOST_BYTES >> 20} MiB: that is no specification")
    try:
        text = data.decode("utf-8")
        # JSON is almost YAML: tabs are not.
        if path.suffix == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except UnicodeDecodeError as error:
        raise CdiError(f"{path} is not UTF-8: write it anew") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise CdiError(f"{path}: {line}{error.problem}: write it anew") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split()) or "too deep"
        raise CdiError(f"{path}: {why}: write it anew") from error


class _Reader:
    """Reads one specification's plain values; every error names the place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = 0

    def spec(self, value: Any) -> Spec:  # noqa: ANN401 - whatever a file holds
        top = self._table(value, "the specification")
        version = self._text(top, "cdiVersion", "the specification").removeprefix("v")
        if version not in VERSIONS:
            known = f"{VERSIONS[0]} to {VERSIONS[-1]}"
            raise self._error(f"cdiVersion '{version}' is not known: known are {known}")
        kind = self._text(top, "kind", "the specification")
        if not _KIND.fullmatch(kind):
            raise self._error(f"kind '{kind}' is not a vendor and a class such as nvidia.com/gpu")
        devices: dict[str, Edits] = {}
        for number, row in enumerate(self._list(top, "devices", "the specification")):
            where = f"devices[{number}]"
            device = self._table(row, where)
            # YAML takes the name 0 for a number.
            name = str(device.get("name", ""))
            if not _NAME.fullmatch(name) or len(name) > _MOST_TEXT:
                raise self._error(f"{where}: '{name[:64]}' is no name of a device")
            if name in devices:
                raise self._error(f"{where}: there is another device '{name}'")
            devices[name] = self._edits(device, where)
        if not devices:
            raise self._error("it has no devices")
        return Spec(self._path, kind, self._edits(top, "the specification"), devices)

    def _error(self, text: str) -> CdiError:
        line = "".join(letter if letter.isprintable() else "?" for letter in text)
        return CdiError(f"{self._path}: {line}: write it anew")

    def _table(self, value: Any, where: str) -> Mapping[str, Any]:  # noqa: ANN401
        if not isinstance(value, dict):
            raise self._error(f"{where} is no table of names and values")
        return value

    def _list(self, table: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = table.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(f"{where}: {key} is no list")
        self._items += len(value)
        if self._items > _MOST_ITEMS:
            raise self._error(f"it has more than {_MOST_ITEMS} entries")
        return value

    def _text(
        self, table: Mapping[str, Any], key: str, where: str, default: str | None = None
    ) -> str:
        value = table.get(key, default)
        if isinstance(value, float) and key == "cdiVersion":
            raise self._error(f"{where}: {key} is {value}: it needs three numbers, in quotes")
        if value is None:
            raise self._error(f"{where} has no {key}")
        if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT or "\0" in value:
            if value == default:
                return str(value)
            raise self._error(f"{where}: {key} is no text that can be used")
        return value

    def _texts(self, table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        values = self._list(table, key, where)
        if not all(isinstance(v, str) and len(v) <= _MOST_TEXT and "\0" not in v for v in values):
            raise self._error(f"{where}: {key} is no list of texts")
        return tuple(values)

    def _path_of(
        self, table: Mapping[str, Any], key: str, where: str, default: str | None = None
    ) -> str:
        value = self._text(table, key, where, default)
        if not value.startswith("/") or ".." in value.split("/"):
            raise self._error(f"{where}: {key} '{value}' is not an absolute path without '..'")
        return value

    def _number(self, table: Mapping[str, Any], key: str, where: str) -> int | None:
        value = table.get(key)
        if value is None:
            return None
        if type(value) is not int or not -1 <= value < 1 << 32:
            raise self._error(f"{where}: {key} is no number that can be used")
        return value

    def _edits(self, table: Mapping[str, Any], where: str) -> Edits:
        value = table.get("containerEdits")
        if value is None:
            return Edits()
        where = f"{where}: containerEdits"
        edits = self._table(value, where)
        env = []
        for pair in self._texts(edits, "env", where):
            name, sign, text = pair.partition("=")
            if not name or not sign:
                raise self._error(f"{where}: env '{pair}' is not NAME=VALUE")
            env.append((name, text))
        return Edits(
            tuple(env),
            tuple(
                self._node(self._table(row, f"{where}.deviceNodes[{n}]"), n, where)
                for n, row in enumerate(self._list(edits, "deviceNodes", where))
            ),
            tuple(
                self._mount(self._table(row, f"{where}.mounts[{n}]"), f"{where}.mounts[{n}]")
                for n, row in enumerate(self._list(edits, "mounts", where))
            ),
            tuple(
                self._hook(self._table(row, f"{where}.hooks[{n}]"), f"{where}.hooks[{n}]")
                for n, row in enumerate(self._list(edits, "hooks", where))
            ),
        )

    def _node(self, row: Mapping[str, Any], number: int, outer: str) -> Node:
        where = f"{outer}.deviceNodes[{number}]"
        path = self._path_of(row, "path", where)
        kind = self._text(row, "type", where, "")
        access = self._text(row, "permissions", where, "rw")
        if kind not in _NODE_KINDS:
            raise self._error(f"{where}: type '{kind}' is not one of b, c, u, p")
        if set(access) - set("rwm"):
            raise self._error(f"{where}: permissions '{access}' are not of r, w and m")
        return Node(
            path=path,
            host_path=self._path_of(row, "hostPath", where, path),
            kind=_NODE_KINDS[kind],
            major=self._number(row, "major", where),
            minor=self._number(row, "minor", where),
            mode=self._number(row, "fileMode", where),
            uid=self._number(row, "uid", where),
            gid=self._number(row, "gid", where),
            access=access,
        )

    def _mount(self, row: Mapping[str, Any], where: str) -> BindMount:
        return BindMount(
            source=self._path_of(row, "hostPath", where),
            destination=self._path_of(row, "containerPath", where),
            options=self._texts(row, "options", where) or ("rbind", "ro"),
        )

    def _hook(self, row: Mapping[str, Any], where: str) -> Hook:
        when = self._text(row, "hookName", where)
        if when not in _HOOK_MOMENTS:
            raise self._error(f"{where}: hookName '{when}' is no moment of a container's life")
        return Hook(
            when=when,
            path=self._path_of(row, "path", where),
            args=self._texts(row, "args", where),
            env=self._texts(row, "env", where),
        )


def _device_node(node: Node, where: str) -> DeviceNode:
    try:
        state = os.stat(node.host_path)  # noqa: PTH116 - of a path as a file has it
    except OSError as error:
        raise CdiError(
            f"{where} names {node.host_path}, which is not there ({error.strerror}): "
            "write it anew, or load the driver"
        ) from error
    if stat.S_ISCHR(state.st_mode):
        kind = "c"
    elif stat.S_ISBLK(state.st_mode):
        kind = "b"
    else:
        raise CdiError(f"{where} names {node.host_path} as a device, which it is not")
    # The host's numbers count: a specification may be older than the driver that gave them.
    return DeviceNode(
        path=node.path,
        major=os.major(state.st_rdev),
        minor=os.minor(state.st_rdev),
        kind=kind,
        mode=stat.S_IMODE(state.st_mode) if node.mode is None else node.mode & 0o777,
        uid=max(0, node.uid or 0),
        gid=max(0, node.gid or 0),
        access=node.access,
        source="" if node.host_path == node.path else node.host_path,
    )
