"""A container's bundle: its config.json, read as runtimes read it and replaced whole or not at all.

A bundle comes from a container runtime, and much of its text from whoever asked for the container:
it is input.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import files
from .errors import EditError, shown

CONFIG: Final = "config.json"
MOMENTS: Final = (
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
)
_MOST_CONFIG_BYTES: Final = 16 << 20
# Parsed in a millisecond or two.
_MOST_AT_ONCE_BYTES: Final = 128 << 10
# The specification's own structure is seven deep.
_MOST_DEPTH: Final = 64
_NESTING: Final = (dict, list)
# What is read or changed of the objects of a config.json.
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("ociVersion", "root", "process", "mounts", "hooks", "annotations", "linux"),
    "root": ("path",),
    "process": ("env", "cwd"),
    "linux": ("devices", "namespaces", "resources"),
    "linux.resources": ("devices",),
    "hooks": MOMENTS,
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it was found. ``config`` is config.json; nothing changes it."""

    path: Path
    config: Mapping[str, Any]
    annotations: Mapping[str, str]
    environment: Mapping[str, str]

    @property
    def root(self) -> Path:
        """Where the root file system is, free of links: the hook finds it by this name."""
        return Path(os.path.realpath(self.path / self.config["root"]["path"]))


def inspect(path: Path) -> Bundle:
    """Read a bundle. Raises EditError, one line with the file and the key that is wrong."""
    if not path.is_absolute():
        raise EditError(f"{path}: a bundle is named by its absolute path")
    file = path / CONFIG
    return _understood(path, _read(file))


def inspect_at_once(path: Path) -> Bundle | None:
    """Do the same if it waits for no disk or server and takes no time: the usual bundle in /run.

    None for any other, also where the kernel cannot tell (before 5.12). Raises EditError.
    """
    file = path / CONFIG
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = files.openat2(bytes(file), flags, files.RESOLVE_CACHED)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        at_hand = (
            stat.S_ISREG(status.st_mode)
            and status.st_size <= _MOST_AT_ONCE_BYTES
            and files.is_in_memory(fd)
        )
        content = files.read_all(fd, _MOST_AT_ONCE_BYTES) if at_hand else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    if not path.is_absolute() or not 0 < len(content) <= _MOST_AT_ONCE_BYTES:
        return None
    return _understood(path, content)


def _understood(path: Path, content: bytes) -> Bundle:
    """Return the bundle with this config.json. Raises EditError."""
    file = path / CONFIG
    find = _Finder(str(file))
    config = find.keys(find.of(_parsed(content, file), dict, "the whole"), "")
    find.of(config.get("ociVersion"), str, "ociVersion")
    root = find.keys(find.of(config.get("root"), dict, "root"), "root")
    _check_root(find.of(root.get("path"), str, "root.path"), file)
    # What is null is absent: so the runtimes, which are written in Go, read and write it.
    process = find.keys(find.of(config.get("process") or {}, dict, "process"), "process")
    find.of(process.get("cwd") or "", str, "process.cwd")
    variables = find.texts(process.get("env") or [], "process.env")
    annotations = find.of(config.get("annotations") or {}, dict, "annotations")
    for key, value in annotations.items():
        find.of(value, str, f"annotations.{key}")
    find.hooks(config.get("hooks") or {})
    for mount in find.rows(config.get("mounts") or [], "mounts"):
        find.of(mount.get("destination"), str, "the destination of a mount")
        find.of(mount.get("source") or "", str, "the source of a mount")
    linux = find.keys(find.of(config.get("linux") or {}, dict, "linux"), "linux")
    for device in find.rows(linux.get("devices") or [], "linux.devices"):
        find.of(device.get("path"), str, "the path of a device")
    find.rows(linux.get("namespaces") or [], "linux.namespaces")
    resources = find.of(linux.get("resources") or {}, dict, "linux.resources")
    find.keys(resources, "linux.resources")
    for rule in find.rows(resources.get("devices") or [], "linux.resources.devices"):
        find.of(rule.get("access") or "", str, "the access of a device's rule")
    return Bundle(
        path=path,
        config=config,
        annotations=annotations,
        environment=dict(variable.partition("=")[::2] for variable in variables),
    )


def _read(file: Path) -> bytes:
    try:
        # What lies there may be a pipe: do not wait for its other end.
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise EditError(f"{file} is not a regular file")
            content = files.read_all(fd, _MOST_CONFIG_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise EditError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_CONFIG_BYTES:
        raise EditError(f"{file} has more than {_MOST_CONFIG_BYTES >> 20} MiB")
    return content


def _parsed(content: bytes, file: Path) -> Any:  # noqa: ANN401 - what JSON has
    try:
        # (Of bytes, json would also take UTF-16, which no runtime does.)
        config = json.loads(
            content.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except (ValueError, RecursionError) as error:
        raise EditError(f"{file} is not JSON: {shown(str(error))}") from error
    _check_depth(config, file)
    return config


def _refuse_constant(text: str) -> None:
    raise ValueError(f"it has {text}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. Of two of the same name one would count here and another elsewhere."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has '{next(n for n in names if names.count(n) > 1)}' twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"it has the number {text}")
    return value


def _check_depth(config: Any, file: Path) -> None:  # noqa: ANN401 - what JSON has
    """Copying and writing recurse: what is too deep for that is refused before anything is done."""
    level = [config] if type(config) in _NESTING else []
    for _ in range(_MOST_DEPTH):
        level = [
            value
            for one in level
            for value in (one.values() if type(one) is dict else one)
            if type(value) in _NESTING
        ]
        if not level:
            return
    raise EditError(f"{file} is nested more than {_MOST_DEPTH} deep")


def _check_root(text: str, file: Path) -> None:
    try:
        right = text and "\0" not in text and os.fsencode(text)
    except UnicodeEncodeError:  # half of a character
        right = False
    if not right:
        raise EditError(f"{file}: root.path '{shown(text)}' is not a path")


class _Finder:
    """Insists on the kinds of what is used of config.json; the rest is the runtime's affair."""

    def __init__(self, file: str) -> None:
        self._file = file

    def of(self, value: Any, kind: type, key: str) -> Any:  # noqa: ANN401 - what JSON has
        if not isinstance(value, kind):
            names: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
            raise EditError(f"{self._file}: {shown(key)} is not {names[kind]}")
        return value

    def keys(self, value: dict[str, Any], key: str) -> dict[str, Any]:
        """Refuse other spellings of what we read: runtimes written in Go take them for the same."""
        meant = {name.casefold(): name for name in _KEYS[key]}
        for name in value:
            known = meant.get(name.casefold(), name)
            if known != name:
                where = f"{key}.{known}" if key else known
                raise EditError(f"{self._file}: {where} is written '{shown(name)}'")
        return value

    def texts(self, value: Any, key: str) -> list[str]:  # noqa: ANN401 - what JSON has
        return [self.of(item, str, f"an item of {key}") for item in self.of(value, list, key)]

    def rows(self, value: Any, key: str) -> list[dict[str, Any]]:  # noqa: ANN401 - what JSON has
        return [self.of(item, dict, f"an item of {key}") for item in self.of(value, list, key)]

    def hooks(self, value: Any) -> None:  # noqa: ANN401 - what JSON has
        for when, listed in self.keys(self.of(value, dict, "hooks"), "hooks").items():
            for hook in self.rows(listed or [], f"hooks.{when}"):
                self.of(hook.get("path"), str, f"the path of a hook in hooks.{when}")
                self.texts(hook.get("args") or [], f"the args of a hook in hooks.{when}")


def write(bundle: Bundle, config: Mapping[str, Any]) -> None:
    """Replace the bundle's config.json, whole or not at all. Raises OSError."""
    # In one piece: json.dump would not use the fast encoder.
    content = json.dumps(config, allow_nan=False).encode("ascii")
    path = bundle.path / CONFIG
    before = path.lstat()
    fd, fresh = tempfile.mkstemp(dir=bundle.path, prefix=".config-")
    try:
        try:
            files.write_all(fd, content)
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
            os.fchown(fd, before.st_uid, before.st_gid)
            # Or a crash might leave an empty file under the name.
            os.fsync(fd)
        finally:
            os.close(fd)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
