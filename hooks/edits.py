"""What is changed in a container's bundle: its config.json, and the plan for its hook.

``inspect`` reads a bundle, ``apply`` says what it is to be, ``write`` puts that in place, whole or
not at all. A bundle comes from a container runtime, its root file system from an image: both are
input.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import files, image, ldcache, planfile
from .bundle import CONFIG, MOMENTS, Bundle, inspect, inspect_at_once, write
from .errors import EditError
from .folders import DRIVER_FOLDERS
from .plan import BindMount, DeviceNode, Library, Needs

__all__ = [
    "CONFIG",
    "SLICE_ANNOTATION",
    "Bundle",
    "apply",
    "inspect",
    "inspect_at_once",
    "link_char_devices",
    "write",
]

SLICE_ANNOTATION: Final = "aliquot.dev/slice"
# Where a container finds its region and the program that shows it.
REGION_FOLDER: Final = "/run/aliquot"
STAT_PATH: Final = "/usr/bin/aliquot-stat"

# Where, in a folder with libraries, the loader prefers those for better hardware.
_VARIANTS: Final = "glibc-hwcaps/*"
# Larger caches of images are not remembered, so that nobody fills the agent's memory.
_MOST_KEPT_BYTES: Final = 256 << 10
_OUR_HOOKS: Final = ("createRuntime", "createContainer", "poststop")
_OUR_HOOK_NAME: Final = "aliquot-hook"
_NOTHING: Final = r"(?!)"
# -- Changing --------------------------------------------------------------------------------------


def apply(
    bundle: Bundle, needs: Needs, *, folder: Path, hook: Path, stat: Path, runtime_dir: Path
) -> dict[str, Any]:
    """Return what config.json is to be, and write the plan and the loader's cache into ``folder``.

    ``folder`` is the slice's; ``hook`` and ``stat`` are the programs that the container is given.
    Doing it twice is doing it once. Raises EditError, OSError.
    """
    # What is changed below is a new object each time: the bundle stays as it was found.
    config: dict[str, Any] = dict(bundle.config)
    _write_plan(bundle, needs, folder, stat)
    _set_environment(config, needs.environment)
    _set_devices(config, needs.nodes)
    _set_mounts(config, needs)
    _set_hooks(config, needs, hook, folder, runtime_dir)
    config["annotations"] = {**(config.get("annotations") or {}), SLICE_ANNOTATION: folder.name}
    return config


def link_char_devices(nodes: Iterable[DeviceNode], dev: Path = Path("/dev")) -> None:
    """Make /dev/char/MAJOR:MINOR on the node for device files that lack it.

    systemd looks a device up there when it writes a container's cgroup rules anew; without the link
    the container loses its devices at the next daemon-reload. A link to another device is made
    right. Raises OSError.
    """
    for node in nodes:
        kind = {"c": "char", "b": "block"}.get(node.kind)
        name = node.source or node.path
        path = f"{dev}/{name.removeprefix('/dev/')}"
        if kind is None or not name.startswith("/dev/") or not _is_node(path, node):
            continue
        place = f"{dev}/{kind}/{node.major}:{node.minor}"
        if _is_node(place, node):
            continue
        link = Path(place)
        link.parent.mkdir(mode=0o755, exist_ok=True)
        fresh = link.with_name(f".{link.name}.{os.getpid()}.{threading.get_ident()}")
        fresh.symlink_to(os.path.relpath(path, link.parent))
        fresh.replace(link)


def _is_node(path: str, node: DeviceNode) -> bool:
    """Say whether a path leads to the device that a node is of."""
    try:
        found = os.stat(path)  # noqa: PTH116 - of each node of each container
    except OSError:
        return False
    right = stat.S_ISBLK if node.kind == "b" else stat.S_ISCHR
    return right(found.st_mode) and found.st_rdev == os.makedev(node.major, node.minor)


def _set_environment(config: dict[str, Any], variables: Mapping[str, str]) -> None:
    if not config.get("process"):
        return
    before = config["process"].get("env") or []
    kept = [text for text in before if text.partition("=")[0] not in variables]
    env = kept + [f"{key}={value}" for key, value in variables.items()]
    config["process"] = {**config["process"], "env": env}


def _set_devices(config: dict[str, Any], nodes: Iterable[DeviceNode]) -> None:
    nodes = tuple(nodes)
    ours = {node.path for node in nodes}
    linux = config["linux"] = dict(config.get("linux") or {})
    others = [device for device in linux.get("devices") or [] if device["path"] not in ours]
    # Of the same driver, but not of this slice: someone else's injection of all devices.
    foreign = [device for device in others if _is_sibling(device["path"], nodes)]
    linux["devices"] = [device for device in others if device not in foreign]
    # Runtimes cannot make device files in a user namespace: they mount the host's, by its path.
    mounted = _mounted_nodes(config, nodes)
    linux["devices"] += [_device(node) for node in nodes if node not in mounted]
    resources = linux["resources"] = dict(linux.get("resources") or {})
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
    covered = _names_of(tuple(one.soname for one in needs.substitutes))
    withheld = _any_of(needs.withheld)
    folders = []
    for mount in bundle.config.get("mounts") or []:
        folder, name = os.path.split(os.path.normpath(mount["destination"]))
        if (covered.fullmatch(name) or withheld.match(name)) and image.is_plain(folder):
            folders.append(folder)
    return folders


def _is_file(path: str) -> bool:
    return _identity(path) is not None


def _set_hooks(
    config: dict[str, Any], needs: Needs, hook: Path, folder: Path, runtime_dir: Path
) -> None:
    hooks = config["hooks"] = dict(config.get("hooks") or {})
    for when in MOMENTS:
        listed = hooks.get(when)
        if listed:
            hooks[when] = [
                one
                for one in listed
                if not _matches(one, needs.foreign_hooks)
                and os.path.basename(one["path"]) != _OUR_HOOK_NAME  # noqa: PTH119 - a text
            ]
    for one in needs.hooks:
        listed = hooks[one.when] = [*(hooks.get(one.when) or [])]
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
    place = bundle.root
    with image.Root(place) as root:
        home = image.default_folder(root)
        cache = image.read_cache(root)
        scanned = image.other_folders(root, home)
    library_lines = _library_lines(needs)
    adapted = _adapted(cache, needs, home)
    scanned.append(f"{home}/{_VARIANTS}")
    scanned += adapted.folders if adapted else ()
    scanned += _library_path(bundle, {**bundle.environment, **needs.environment})
    scanned += _injected(bundle, needs)
    scanned += DRIVER_FOLDERS
    lines: list[tuple[str, ...]] = [
        ("root", str(place)),
        ("stage", str(folder / "stage")),
        ("region", str(folder / "region")),
        *(("substitute", s.soname, str(s.shim), s.driver) for s in needs.substitutes),
        ("home", home),
        *library_lines,
        *(("withhold", pattern) for pattern in needs.withheld),
        *(("scan", path) for path in dict.fromkeys(scanned) if path != home),
        *(
            ("file", mount.source, mount.destination, "ro" if "ro" in mount.options else "rw")
            for mount in needs.mounts
            if _is_file(mount.source)
        ),
        ("file", str(folder / "region/grant"), f"{REGION_FOLDER}/grant", "ro"),
        ("file", str(folder / "region/usage"), f"{REGION_FOLDER}/usage", "rw"),
        # What is written into a FIFO is not written to its mount.
        ("file", str(folder / "region/bell"), f"{REGION_FOLDER}/bell", "ro"),
        ("file", str(show), STAT_PATH, "ro"),
    ]
    if adapted:
        fresh = folder / "ld.so.cache"
        _write_file(fresh, adapted.data)
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
        if any(map(_names_of((substitute.soname,)).fullmatch, library.names)):
            return ("driver", substitute.soname, str(library.path), *library.names)
    return ("library", str(library.path), *library.names)


@functools.lru_cache(maxsize=32)
def _names_of(sonames: tuple[str, ...]) -> re.Pattern[str]:
    """Return the names of these libraries' files: libcuda.so, libcuda.so.1 and so on."""
    stems = "|".join(re.escape(soname.partition(".so")[0]) for soname in sonames)
    return re.compile(rf"({stems})\.so(\.[0-9]+)*" if sonames else _NOTHING)


@functools.lru_cache(maxsize=32)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for several patterns as file names have them."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or _NOTHING)


def _library_path(bundle: Bundle, environment: Mapping[str, str]) -> list[str]:
    """Return the folders of LD_LIBRARY_PATH, as they are called in the container.

    What depends on the program (``$ORIGIN``) is its own affair.
    """
    text = environment.get("LD_LIBRARY_PATH", "")
    here = (bundle.config.get("process") or {}).get("cwd") or "/"
    folders = []
    for entry in text.replace(";", ":").split(":") if text else ():
        folder = entry if entry.startswith("/") else f"{here}/{entry}".rstrip("/")
        if "$" not in entry and image.is_plain(folder):
            folders += [folder, f"{folder.rstrip('/')}/{_VARIANTS}"]
    return folders


# -- The loader's cache ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Adapted:
    """A cache with the driver in it, and the folders in which the image's own had a driver."""

    data: bytes
    folders: tuple[str, ...]


def _adapted(cache: bytes | None, needs: Needs, home: str) -> _Adapted | None:
    """Return the image's cache with the driver in it, None when there is none. Raises EditError."""
    if cache is None:
        return None
    names = tuple(name for library in needs.libraries for name in library.names)
    sonames = tuple(one.soname for one in needs.substitutes)
    adapt = _adapt if len(cache) <= _MOST_KEPT_BYTES else _adapt.__wrapped__
    return adapt(cache, names, sonames, needs.withheld, home)


@functools.lru_cache(maxsize=32)
def _adapt(
    cache: bytes,
    names: tuple[str, ...],
    sonames: tuple[str, ...],
    withheld: tuple[str, ...],
    home: str,
) -> _Adapted:
    """Do it; remembered, since many containers have the same image. Raises EditError."""
    flags = ldcache.own_flags()
    ours = [
        ldcache.Entry(os.fsencode(name), os.fsencode(f"{home}/{name}"), flags) for name in names
    ]
    replaced = {entry.name for entry in ours}
    unwanted = _any_of(withheld)
    driver = _names_of(sonames)
    kept, folders = [], []
    for entry in image.cache_entries(cache):
        name = os.fsdecode(entry.name)
        folder, _, file = os.fsdecode(entry.path).rpartition("/")
        if driver.fullmatch(name) or driver.fullmatch(file):
            folders.append(folder)
        if entry.name not in replaced and not unwanted.match(name):
            kept.append(entry)
    plain = filter(image.is_plain, dict.fromkeys(folders))
    return _Adapted(ldcache.write([*kept, *ours]), tuple(plain))


def _write_file(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        files.write_all(fd, content)
        # A container in a user namespace reads it as somebody else.
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)
