"""What is changed in a container's bundle: its config.json, and the plan for its hook.

``inspect`` reads a bundle, ``apply`` says what it is to be, ``write`` puts that in place, whole or
not at all. A bundle comes from a container runtime, its root file system from an image: both are
input.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import image, ldcache, planfile
from .errors import EditError, shown
from .folders import DRIVER_FOLDERS
from .plan import BindMount, DeviceNode, Library, Needs

CONFIG: Final = "config.json"
SLICE_ANNOTATION: Final = "aliquot.dev/slice"
# Where a container finds its region and the program that shows it.
REGION_FOLDER: Final = "/run/aliquot"
STAT_PATH: Final = "/usr/bin/aliquot-stat"

_MOST_CONFIG_BYTES: Final = 16 << 20
# The specification's own structure is seven deep.
_MOST_DEPTH: Final = 64
_OUR_HOOKS: Final = ("createRuntime", "createContainer", "poststop")
_OUR_HOOK_NAME: Final = "aliquot-hook"
_EVERY_HOOK: Final = (
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
)
# What is read or changed of the objects of a config.json.
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("ociVersion", "root", "process", "mounts", "hooks", "annotations", "linux"),
    "root": ("path",),
    "process": ("env", "cwd"),
    "linux": ("devices", "namespaces", "resources"),
    "linux.resources": ("devices",),
    "hooks": _EVERY_HOOK,
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it was found. ``config`` is config.json; nothing changes it."""

    path: Path
    config: Mapping[str, Any]
    annotations: Mapping[str, str]
    environment: Mapping[str, str]
    root: Path


# -- Reading ---------------------------------------------------------------------------------------


def inspect(path: Path) -> Bundle:
    """Read a bundle. Raises EditError, one line with the file and the key that is wrong."""
    if not path.is_absolute():
        raise EditError(f"{path}: a bundle is named by its absolute path")
    file = path / CONFIG
    find = _Finder(str(file))
    config = find.keys(find.of(_read_json(file), dict, "the whole"), "")
    find.of(config.get("ociVersion"), str, "ociVersion")
    root = find.keys(find.of(config.get("root"), dict, "root"), "root")
    path_of_root = find.of(root.get("path"), str, "root.path")
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
        root=_root(path, path_of_root, file),
    )


def _read_json(file: Path) -> Any:  # noqa: ANN401 - what JSON has
    try:
        # What lies there may be a pipe: do not wait for its other end.
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise EditError(f"{file} is not a regular file")
            with open(fd, "rb", closefd=False) as opened:
                content = opened.read(_MOST_CONFIG_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise EditError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_CONFIG_BYTES:
        raise EditError(f"{file} has more than {_MOST_CONFIG_BYTES >> 20} MiB")
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
    level = [config]
    for _ in range(_MOST_DEPTH):
        level = [value for one in level for value in _values(one)]
        if not level:
            return
    raise EditError(f"{file} is nested more than {_MOST_DEPTH} deep")


def _values(value: Any) -> Iterable[Any]:  # noqa: ANN401 - what JSON has
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _root(bundle: Path, text: str, file: Path) -> Path:
    """Return where the root file system is, free of links: the hook finds it by this name."""
    try:
        root = os.path.realpath(bundle / text) if text else None
    except ValueError:  # a NUL, or half of a character
        root = None
    if root is None:
        raise EditError(f"{file}: root.path '{shown(text)}' is not a path")
    return Path(root)


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


# -- Changing --------------------------------------------------------------------------------------


def apply(
    bundle: Bundle, needs: Needs, *, folder: Path, hook: Path, stat: Path, runtime_dir: Path
) -> dict[str, Any]:
    """Return what config.json is to be, and write the plan and the loader's cache into ``folder``.

    ``folder`` is the slice's; ``hook`` and ``stat`` are the programs that the container is given.
    Doing it twice is doing it once. Raises EditError, OSError.
    """
    config: dict[str, Any] = copy.deepcopy(dict(bundle.config))
    _write_plan(bundle, needs, folder, stat)
    _set_environment(config, needs.environment)
    _set_devices(config, needs.nodes)
    _set_mounts(config, needs)
    _set_hooks(config, needs, hook, folder, runtime_dir)
    config["annotations"] = {**(config.get("annotations") or {}), SLICE_ANNOTATION: folder.name}
    return config


def write(bundle: Bundle, config: Mapping[str, Any]) -> None:
    """Replace the bundle's config.json, whole or not at all. Raises OSError."""
    # In one piece: json.dump would not use the fast encoder.
    content = json.dumps(config, allow_nan=False).encode("ascii")
    path = bundle.path / CONFIG
    before = path.lstat()
    fd, fresh = tempfile.mkstemp(dir=bundle.path, prefix=".config-")
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - an open file
            file.write(content)
            file.flush()
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
            os.fchown(fd, before.st_uid, before.st_gid)
            # Or a crash might leave an empty file under the name.
            os.fsync(fd)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def link_char_devices(nodes: Iterable[DeviceNode], dev: Path = Path("/dev")) -> None:
    """Make /dev/char/MAJOR:MINOR on the node for device files that lack it.

    systemd looks a device up there when it writes a container's cgroup rules anew; without the link
    the container loses its devices at the next daemon-reload. A link to another device is made
    right. Raises OSError.
    """
    for node in nodes:
        kind = {"c": "char", "b": "block"}.get(node.kind)
        name = node.source or node.path
        path = dev / name.removeprefix("/dev/")
        if kind is None or not name.startswith("/dev/") or not _is_node(path, node):
            continue
        link = dev / kind / f"{node.major}:{node.minor}"
        if _is_node(link, node):
            continue
        link.parent.mkdir(mode=0o755, exist_ok=True)
        fresh = link.with_name(f".{link.name}.{os.getpid()}.{threading.get_ident()}")
        fresh.symlink_to(os.path.relpath(path, link.parent))
        fresh.replace(link)


def _is_node(path: Path, node: DeviceNode) -> bool:
    """Say whether a path leads to the device that a node is of."""
    try:
        found = path.stat()
    except OSError:
        return False
    right = stat.S_ISBLK if node.kind == "b" else stat.S_ISCHR
    return right(found.st_mode) and found.st_rdev == os.makedev(node.major, node.minor)


def _set_environment(config: dict[str, Any], variables: Mapping[str, str]) -> None:
    if not config.get("process"):
        return
    before = config["process"].get("env") or []
    kept = [text for text in before if text.partition("=")[0] not in variables]
    config["process"]["env"] = kept + [f"{key}={value}" for key, value in variables.items()]


def _set_devices(config: dict[str, Any], nodes: Iterable[DeviceNode]) -> None:
    nodes = tuple(nodes)
    ours = {node.path for node in nodes}
    linux = config["linux"] = config.get("linux") or {}
    others = [device for device in linux.get("devices") or [] if device["path"] not in ours]
    # Of the same driver, but not of this slice: someone else's injection of all devices.
    foreign = [device for device in others if _is_sibling(device["path"], nodes)]
    linux["devices"] = [device for device in others if device not in foreign]
    # Runtimes cannot make device files in a user namespace: they mount the host's, by its path.
    mounted = _mounted_nodes(config, nodes)
    linux["devices"] += [_device(node) for node in nodes if node not in mounted]
    resources = linux["resources"] = linux.get("resources") or {}
    rules = [_rule(node) for node in nodes]
    resources["devices"] = [
        rule
        for rule in resources.get("devices") or []
        if rule not in rules
        and not any(_is_for(rule, device) for device in foreign)
        and not _is_of_all(rule, nodes)
    ] + list({json.dumps(rule): rule for rule in rules}.values())


def _mounted_nodes(config: Mapping[str, Any], nodes: Iterable[DeviceNode]) -> list[DeviceNode]:
    """Return the device files that must be mounted, since the host has them elsewhere."""
    namespaces = config["linux"].get("namespaces") or []
    is_mapped = any(one.get("type") == "user" for one in namespaces)
    return [node for node in nodes if node.source] if is_mapped else []


def _is_sibling(path: str, nodes: Iterable[DeviceNode]) -> bool:
    """Say whether a device file is another one of a numbered family of ours: /dev/nvidia1."""
    stems = {node.path.rstrip("0123456789") for node in nodes if node.path[-1:].isdigit()}
    return path[-1:].isdigit() and path.rstrip("0123456789") in stems


def _is_for(rule: Mapping[str, Any], device: Mapping[str, Any]) -> bool:
    """Say whether a rule opens this very device: one without a number is for all."""
    same = all(rule.get(key) == device.get(key) for key in ("type", "major", "minor"))
    return same and bool(rule.get("allow")) and rule.get("major") is not None


def _is_of_all(rule: Mapping[str, Any], nodes: Iterable[DeviceNode]) -> bool:
    """Say whether a rule opens all devices of a driver of ours, of which the slice has some.

    (A rule for all devices of all drivers makes a privileged container, and is somebody's will.)
    """
    return (
        bool(rule.get("allow"))
        and (rule.get("minor") is None or rule["minor"] == -1)
        and any((rule.get("type"), rule.get("major")) == (node.kind, node.major) for node in nodes)
        and bool(set(rule.get("access") or "rwm") & set("rw"))
    )


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _rule(node: DeviceNode) -> dict[str, Any]:
    return {
        "allow": True,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "access": node.access,
    }


def _set_mounts(config: dict[str, Any], needs: Needs) -> None:
    """Folders and sockets are the runtime's to mount; files are the hook's, see the plan."""
    wanted = [mount for mount in needs.mounts if not _is_file(mount.source)]
    wanted += [
        BindMount(node.source, node.path, ("bind", "rw", "nosuid", "noexec", "rprivate"))
        for node in _mounted_nodes(config, needs.nodes)
    ]
    places = {os.path.normpath(mount.destination) for mount in wanted}
    files = _files_of(needs)
    config["mounts"] = [
        mount
        for mount in config.get("mounts") or []
        if os.path.normpath(mount["destination"]) not in places and _file_of(mount) not in files
    ] + [_bind(mount) for mount in wanted]


def _bind(mount: BindMount) -> dict[str, Any]:
    options = list(mount.options)
    if not {"bind", "rbind"} & set(options):
        options.insert(0, "rbind")
    return {
        "destination": mount.destination,
        "type": "bind",
        "source": mount.source,
        "options": options,
    }


def _files_of(needs: Needs) -> set[tuple[int, int]]:
    """Return the driver's libraries as files: somebody else's mount of one has another path."""
    found = (_identity(str(library.path)) for library in needs.libraries)
    return {identity for identity in found if identity is not None}


def _file_of(mount: Mapping[str, Any]) -> tuple[int, int] | None:
    source = mount.get("source") or ""
    return _identity(source) if source.startswith("/") else None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a text of a bundle
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _injected(bundle: Bundle, needs: Needs) -> list[str]:
    """Return the folders in which somebody mounts a library that is ours to cover or withhold.

    Such as another version of the driver, from another folder of the host: what it is for is not
    known, so it stays, behind the shim.
    """
    folders = []
    for mount in bundle.config.get("mounts") or []:
        folder, name = os.path.split(os.path.normpath(mount["destination"]))
        covered = any(_is_name_of(name, one.soname) for one in needs.substitutes)
        withheld = any(fnmatch.fnmatchcase(name, pattern) for pattern in needs.withheld)
        if (covered or withheld) and image.is_plain(folder):
            folders.append(folder)
    return folders


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


def _set_hooks(
    config: dict[str, Any], needs: Needs, hook: Path, folder: Path, runtime_dir: Path
) -> None:
    hooks = config.get("hooks") or {}
    config["hooks"] = hooks
    for when in _EVERY_HOOK:
        listed = hooks.get(when)
        if listed:
            hooks[when] = [
                one
                for one in listed
                if not _matches(one, needs.foreign_hooks)
                and os.path.basename(one["path"]) != _OUR_HOOK_NAME  # noqa: PTH119 - a text
            ]
    for one in needs.hooks:
        listed = hooks[one.when] = hooks.get(one.when) or []
        entry: dict[str, Any] = {"path": one.path}
        if one.args:
            entry["args"] = list(one.args)
        if one.env:
            entry["env"] = list(one.env)
        if entry not in listed:
            listed.append(entry)
    for when in _OUR_HOOKS:
        ours = {
            "path": str(hook),
            "args": [_OUR_HOOK_NAME, when, str(folder)],
            "env": [f"ALIQUOT_RUNTIME_DIR={runtime_dir}"],
        }
        hooks[when] = [*(hooks.get(when) or []), ours]


def _matches(hook: Mapping[str, Any], patterns: Iterable[str]) -> bool:
    names = {os.path.basename(hook["path"]), hook["path"]}  # noqa: PTH119 - a text
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


# -- The plan --------------------------------------------------------------------------------------


def _write_plan(bundle: Bundle, needs: Needs, folder: Path, show: Path) -> None:
    with image.Root(bundle.root) as root:
        home = image.default_folder(root)
        entries = image.cache_entries(root)
        scanned = image.other_folders(root, home)
    sonames = {substitute.soname for substitute in needs.substitutes}
    scanned += _folders_of(entries or [], sonames)
    scanned += _library_path({**bundle.environment, **needs.environment})
    scanned += _injected(bundle, needs)
    scanned += DRIVER_FOLDERS
    lines: list[tuple[str, ...]] = [
        ("root", str(bundle.root)),
        ("stage", str(folder / "stage")),
        ("region", str(folder / "region")),
        *(("substitute", s.soname, str(s.shim), s.driver) for s in needs.substitutes),
        ("home", home),
        *_library_lines(needs),
        *(("withhold", pattern) for pattern in needs.withheld),
        *(("scan", path) for path in dict.fromkeys(scanned) if path != home),
        *(
            ("file", mount.source, mount.destination, "ro" if "ro" in mount.options else "rw")
            for mount in needs.mounts
            if _is_file(mount.source)
        ),
        ("file", str(folder / "region/grant"), f"{REGION_FOLDER}/grant", "ro"),
        ("file", str(folder / "region/usage"), f"{REGION_FOLDER}/usage", "rw"),
        ("file", str(show), STAT_PATH, "ro"),
    ]
    if entries is not None:
        fresh = folder / "ld.so.cache"
        _write_file(fresh, ldcache.write(_with_driver(entries, needs, home)))
        lines.append(("cache", str(fresh)))
    _write_file(folder / "plan", planfile.encode(lines))


def _library_lines(needs: Needs) -> list[tuple[str, ...]]:
    lines = [_library_line(library, needs) for library in needs.libraries]
    drivers: dict[str, str] = {}
    for _, soname, path, *_ in (line for line in lines if line[0] == "driver"):
        if drivers.setdefault(soname, path) != path:
            raise EditError(
                f"two of {soname} for one container, {drivers[soname]} and {path}: "
                "leave one in the node's CDI specifications"
            )
    return list(dict.fromkeys(lines))


def _library_line(library: Library, needs: Needs) -> tuple[str, ...]:
    for substitute in needs.substitutes:
        if any(_is_name_of(name, substitute.soname) for name in library.names):
            return ("driver", substitute.soname, str(library.path), *library.names)
    return ("library", str(library.path), *library.names)


def _is_name_of(name: str, soname: str) -> bool:
    """Say whether a file's name is one of a library's: libcuda.so, .so.1, .so.550.54."""
    stem = soname.partition(".so")[0] + ".so"
    return re.fullmatch(re.escape(stem) + r"(\.[0-9]+)*", name) is not None


def _folders_of(entries: Iterable[ldcache.Entry], sonames: Iterable[str]) -> list[str]:
    names = {os.fsencode(soname) for soname in sonames}
    found = [os.fsdecode(entry.path) for entry in entries if entry.name in names]
    return [os.path.dirname(path) for path in found if image.is_plain(path)]  # noqa: PTH120 - a text


def _library_path(environment: Mapping[str, str]) -> list[str]:
    return [
        entry
        for entry in environment.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
        if "$" not in entry and image.is_plain(entry)
    ]


def _with_driver(entries: Iterable[ldcache.Entry], needs: Needs, home: str) -> list[ldcache.Entry]:
    flags = ldcache.own_flags()
    ours = [
        ldcache.Entry(os.fsencode(name), os.fsencode(f"{home}/{name}"), flags)
        for library in needs.libraries
        for name in library.names
    ]
    replaced = {entry.name for entry in ours}
    kept = [
        entry
        for entry in entries
        if entry.name not in replaced
        and not any(fnmatch.fnmatchcase(os.fsdecode(entry.name), p) for p in needs.withheld)
    ]
    return [*kept, *ours]


def _write_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    # A container in a user namespace reads it as somebody else.
    path.chmod(0o644)
