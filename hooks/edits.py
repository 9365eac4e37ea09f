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
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import image, ldcache, planfile
from .errors import EditError
from .folders import DRIVER_FOLDERS
from .plan import BindMount, DeviceNode, Library, Needs

CONFIG: Final = "config.json"
SLICE_ANNOTATION: Final = "aliquot.dev/slice"
# Where a container finds its region and the program that shows it.
REGION_FOLDER: Final = "/run/aliquot"
STAT_PATH: Final = "/usr/bin/aliquot-stat"

_MOST_CONFIG_BYTES: Final = 16 << 20
_OUR_HOOKS: Final = ("createRuntime", "createContainer", "poststop")
_OUR_HOOK_NAME: Final = "aliquot-hook"
_EVERY_HOOK: Final = (
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
)


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
    file = path / CONFIG
    if not path.is_absolute():
        raise EditError(f"{path}: a bundle is named by its absolute path")
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as opened:  # noqa: PTH123 - an open file
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise EditError(f"{file} is not a regular file")
            content = opened.read(_MOST_CONFIG_BYTES + 1)
    except OSError as error:
        raise EditError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_CONFIG_BYTES:
        raise EditError(f"{file} has more than {_MOST_CONFIG_BYTES >> 20} MiB")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EditError(f"{file} is not JSON: {error}") from error
    find = _Finder(str(file))
    config = find.of(config, dict, "the whole")
    find.of(config.get("ociVersion"), str, "ociVersion")
    find.of(config.get("linux"), dict, "linux")
    root = find.of(find.of(config.get("root"), dict, "root").get("path"), str, "root.path")
    if "\0" in root or not root:
        raise EditError(f"{file}: root.path is not a path")
    process = find.of(config.get("process", {}), dict, "process")
    variables = find.texts(process.get("env") or [], "process.env")
    annotations = find.of(config.get("annotations") or {}, dict, "annotations")
    for key, value in annotations.items():
        find.of(value, str, f"annotations.{key}")
    find.hooks(config.get("hooks") or {})
    find.rows(config["linux"].get("devices") or [], "linux.devices")
    find.rows(config.get("mounts") or [], "mounts")
    resources = find.of(config["linux"].get("resources") or {}, dict, "linux.resources")
    find.rows(resources.get("devices") or [], "linux.resources.devices")
    return Bundle(
        path=path,
        config=config,
        annotations=annotations,
        environment=dict(variable.partition("=")[::2] for variable in variables),
        root=path / root,
    )


class _Finder:
    """Insists on the kinds of what is used of config.json; the rest is the runtime's affair."""

    def __init__(self, file: str) -> None:
        self._file = file

    def of(self, value: Any, kind: type, key: str) -> Any:  # noqa: ANN401 - what JSON has
        if not isinstance(value, kind):
            names: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
            raise EditError(f"{self._file}: {key[:200]} is not {names[kind]}")
        return value

    def texts(self, value: Any, key: str) -> list[str]:  # noqa: ANN401 - what JSON has
        return [self.of(item, str, f"an item of {key}") for item in self.of(value, list, key)]

    def rows(self, value: Any, key: str) -> list[dict[str, Any]]:  # noqa: ANN401 - what JSON has
        return [self.of(item, dict, f"an item of {key}") for item in self.of(value, list, key)]

    def hooks(self, value: Any) -> None:  # noqa: ANN401 - what JSON has
        for when, listed in self.of(value, dict, "hooks").items():
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
    path = bundle.path / CONFIG
    before = path.lstat()
    fd, fresh = tempfile.mkstemp(dir=bundle.path, prefix=".config-")
    try:
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - an open file
            # In one piece: json.dump would not use the fast encoder.
            file.write(json.dumps(config))
            file.flush()
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
            os.fchown(fd, before.st_uid, before.st_gid)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def link_char_devices(nodes: Iterable[DeviceNode], dev: Path = Path("/dev")) -> None:
    """Make /dev/char/MAJOR:MINOR on the node for device files that lack it.

    systemd looks a device up there when it writes a container's cgroup rules anew; without the link
    the container loses its devices at the next daemon-reload. Raises OSError.
    """
    for node in nodes:
        kind = {"c": "char", "b": "block"}.get(node.kind)
        path = dev / Path(node.path).relative_to("/dev") if node.path.startswith("/dev/") else None
        if kind is None or path is None or not path.exists():
            continue
        link = dev / kind / f"{node.major}:{node.minor}"
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(mode=0o755, exist_ok=True)
            try:
                link.symlink_to(os.path.relpath(path, link.parent))
            except FileExistsError:
                continue  # another container's admission, or udev, was faster


def _set_environment(config: dict[str, Any], variables: Mapping[str, str]) -> None:
    if "process" not in config:
        return
    before = config["process"].get("env") or []
    kept = [text for text in before if text.partition("=")[0] not in variables]
    config["process"]["env"] = kept + [f"{key}={value}" for key, value in variables.items()]


def _set_devices(config: dict[str, Any], nodes: Iterable[DeviceNode]) -> None:
    nodes = tuple(nodes)
    ours = {node.path for node in nodes}
    linux = config["linux"]
    devices = linux.get("devices") or []
    # Of the same driver, but not of this slice: someone else's injection of all devices.
    foreign = [
        device
        for device in devices
        if device.get("path") not in ours and _is_sibling(device, nodes)
    ]
    # Runtimes cannot make device files in a user namespace: they mount the host's of that path.
    mounted = _mounted_nodes(config, nodes)
    linux["devices"] = [
        device for device in devices if device.get("path") not in ours and device not in foreign
    ] + [_device(node) for node in nodes if node not in mounted]
    resources = linux.setdefault("resources", {}) or {}
    linux["resources"] = resources
    rules = [_rule(node) for node in nodes]
    taken = {(device.get("major"), device.get("minor")) for device in foreign}
    resources["devices"] = [
        rule
        for rule in resources.get("devices") or []
        if rule not in rules and (rule.get("major"), rule.get("minor")) not in taken
    ] + list({json.dumps(rule): rule for rule in rules}.values())


def _mounted_nodes(config: Mapping[str, Any], nodes: Iterable[DeviceNode]) -> list[DeviceNode]:
    """Return the device files that must be mounted, since the host has them elsewhere."""
    namespaces = config["linux"].get("namespaces") or []
    is_mapped = any(isinstance(one, dict) and one.get("type") == "user" for one in namespaces)
    return [node for node in nodes if node.source] if is_mapped else []


def _is_sibling(device: Mapping[str, Any], nodes: Iterable[DeviceNode]) -> bool:
    """Say whether a device file is another one of a numbered family of ours: /dev/nvidia1."""
    path = device.get("path")
    if not isinstance(path, str):
        return False
    stems = {node.path.rstrip("0123456789") for node in nodes if node.path[-1:].isdigit()}
    return path[-1:].isdigit() and path.rstrip("0123456789") in stems


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
    # What someone else mounts of the driver's there is covered, or replaced.
    names = _Names(needs)
    places = {mount.destination for mount in wanted}
    config["mounts"] = [
        mount
        for mount in config.get("mounts") or []
        if mount.get("destination") not in places and not names.is_drivers(mount)
    ] + [
        {
            "destination": mount.destination,
            "type": "bind",
            "source": mount.source,
            "options": list(mount.options),
        }
        for mount in wanted
    ]


class _Names:
    """The driver's libraries by name, and how to tell somebody's mount of one."""

    def __init__(self, needs: Needs) -> None:
        self._files = {str(library.path) for library in needs.libraries}

    def is_drivers(self, mount: Mapping[str, Any]) -> bool:
        source = mount.get("source")
        return isinstance(source, str) and source in self._files


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
        entry: dict[str, Any] = {"path": one.path}
        if one.args:
            entry["args"] = list(one.args)
        if one.env:
            entry["env"] = list(one.env)
        if entry not in hooks.setdefault(one.when, []):
            hooks[one.when].append(entry)
    for when in _OUR_HOOKS:
        hooks.setdefault(when, []).append(
            {
                "path": str(hook),
                "args": [_OUR_HOOK_NAME, when, str(folder)],
                "env": [f"ALIQUOT_RUNTIME_DIR={runtime_dir}"],
            }
        )


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
    scanned += _library_path(bundle.environment)
    scanned += DRIVER_FOLDERS
    lines: list[tuple[str, ...]] = [
        ("root", str(bundle.root)),
        ("stage", str(folder / "stage")),
        ("region", str(folder / "region")),
        *(("substitute", s.soname, str(s.shim), s.driver) for s in needs.substitutes),
        ("home", home),
        *(_library_line(library, needs) for library in needs.libraries),
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


def _library_line(library: Library, needs: Needs) -> tuple[str, ...]:
    for substitute in needs.substitutes:
        if any(_is_name_of(name, substitute.soname) for name in library.names):
            return ("driver", substitute.soname, str(library.path), *library.names)
    return ("library", str(library.path), *library.names)


def _is_name_of(name: str, soname: str) -> bool:
    """Say whether a file's name is one of a library's: libcuda.so, .so.1, .so.550.54."""
    stem = soname.partition(".so")[0] + ".so"
    tail = name.removeprefix(stem)
    return name.startswith(stem) and all(c.isdigit() or c == "." for c in tail)


def _folders_of(entries: Iterable[ldcache.Entry], sonames: Iterable[str]) -> list[str]:
    names = {os.fsencode(soname) for soname in sonames}
    found = [os.fsdecode(entry.path) for entry in entries if entry.name in names]
    return [os.path.dirname(path) for path in found if _is_plain(path)]  # noqa: PTH120 - a text


def _library_path(environment: Mapping[str, str]) -> list[str]:
    return [
        entry
        for entry in environment.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
        if "$" not in entry and _is_plain(entry)
    ]


def _is_plain(path: str) -> bool:
    return path.startswith("/") and not any(letter in path for letter in "\t\n\0*?[")


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
