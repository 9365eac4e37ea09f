"""Which driver a program would load, and every folder that has a name for one.

The search is the dynamic loader's: ``LD_LIBRARY_PATH``, then its cache, then the default folders
(ld.so(8)). Nothing is loaded here.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aliquot.hooks import ldcache
from aliquot.hooks.errors import EditError
from aliquot.hooks.folders import DRIVER_FOLDERS

from .errors import AliquotError
from .makes import NVIDIA, Make

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CACHE_PATH: Final = Path("/etc/ld.so.cache")

_MOST_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Library:
    """A library in a folder: the files' names in it, and the regular file that they mean."""

    names: tuple[str, ...]
    file: str


@dataclass(frozen=True, slots=True)
class DriverFolder:
    """A folder in which a driver has names: what must lead to the shim instead.

    ``path`` is free of links; ``names`` are the files' names in it; ``driver`` is the regular file
    that they mean. ``management`` is the management library beside it (NVML), None when there is
    none: drivers come with it.
    """

    path: str
    names: tuple[str, ...]
    driver: str
    management: Library | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """The driver a program would load: its regular file, and all folders with a driver's name.

    ``make`` is whose it is.

    A folder comes before the folders in it. The first one with ``driver`` is where the loader finds
    it.
    """

    driver: str
    folders: tuple[DriverFolder, ...]
    make: Make = NVIDIA


class AbsentError(AliquotError):
    """There is no driver, not even one that cannot be used."""


def find(
    environment: Mapping[str, str], cache: Path = CACHE_PATH, make: Make = NVIDIA
) -> Installation:
    """Find the driver that the loader would load for a program with ``environment``.

    Raises AbsentError naming what was looked at when there is none, AliquotError when it cannot be
    used.
    """
    faults: list[str] = []
    for folder in loader_folders(environment, cache, make):
        path = os.path.join(folder, make.soname)
        fault = _fault(path)
        if fault is None:
            folders = _folders(path, environment, cache, make)
            return Installation(os.path.realpath(path), folders, make)
        if fault:
            faults.append(fault)
    if faults:
        raise AliquotError(f"no usable {make.what}: {'; '.join(faults)}: reinstall the driver")
    library_path = environment.get("LD_LIBRARY_PATH")
    places = ["the loader's cache", *_default_folders()]
    if library_path:
        places.insert(0, f"LD_LIBRARY_PATH ({library_path})")
    raise AbsentError(
        f"no {make.what}: {make.soname} is in none of {', '.join(places)}: "
        "install the driver, or name its folder in LD_LIBRARY_PATH"
    )


def loader_folders(
    environment: Mapping[str, str], cache: Path = CACHE_PATH, make: Make = NVIDIA
) -> list[str]:
    """Return the folders in which the loader looks for the driver, in its order."""
    folders = [
        entry or "."
        for entry in re.split("[:;]", environment.get("LD_LIBRARY_PATH", ""))
        # Tokens such as $ORIGIN depend on the program that is loaded.
        if "$" not in entry and (entry or environment.get("LD_LIBRARY_PATH"))
    ]
    folders += [os.path.dirname(path) for path in _cached_paths(cache, make)]
    folders += _default_folders()
    return list(dict.fromkeys(folders))


def _default_folders() -> list[str]:
    machine = f"{os.uname().machine}-linux-gnu"
    candidates = [f"{top}/{machine}" for top in ("/lib", "/usr/lib")]
    candidates += ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    return [folder for folder in candidates if Path(folder).is_dir()]


def _cached_paths(cache: Path, make: Make) -> list[str]:
    """Return what the loader's cache has for any name of the driver; nothing for a broken cache."""
    try:
        entries = ldcache.read(cache.read_bytes())
    except (OSError, EditError):
        return []
    paths = [os.fsdecode(e.path) for e in entries if make.pattern.fullmatch(os.fsdecode(e.name))]
    return [path for path in paths if path.startswith("/")]


def _fault(path: str) -> str | None:  # noqa: PLR0911 - one a kind of fault
    """Return why ``path`` cannot be loaded, "" when nothing is there, None when it can."""
    try:
        if not os.path.lexists(path):
            return ""
        with open(path, "rb", opener=_open_file) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return f"{path} is not a file"
            head = file.read(20)
    except FileNotFoundError:
        return f"{path} leads to {os.path.realpath(path)}, which does not exist"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if head[:4] != b"\x7fELF":
        return f"{path} is not a library"
    if (head[4:6], head[18:20]) != _own_machine():
        # The loader passes over libraries of other machines too (a 32-bit driver, say).
        return f"{path} is a library for another machine"
    return None


def _open_file(path: str, flags: int) -> int:
    # What lies there may be a pipe: do not wait for its other end.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _own_machine() -> tuple[bytes, bytes]:
    with Path("/proc/self/exe").open("rb") as file:
        head = file.read(20)
    return head[4:6], head[18:20]


def _folders(
    found: str, environment: Mapping[str, str], cache: Path, make: Make
) -> tuple[DriverFolder, ...]:
    """Return every folder with a driver's name, parents before what is in them."""
    places = [os.path.dirname(step) for step in _chain(found)]
    places += loader_folders(environment, cache, make)
    for pattern in DRIVER_FOLDERS:
        places += sorted(glob.glob(pattern))
    folders: dict[str, DriverFolder] = {}
    for place in places:
        path = os.path.realpath(place)
        if path in folders:
            continue
        folder = _driver_folder(path, make)
        if folder:
            folders[path] = folder
    return tuple(sorted(folders.values(), key=lambda folder: folder.path.count("/")))


def _chain(path: str) -> Iterator[str]:
    """Yield ``path`` and what each symbolic link on its way to the file leads to."""
    for _ in range(_MOST_LINKS):
        yield path
        if not os.path.islink(path):
            return
        folder = os.path.realpath(os.path.dirname(path))
        path = os.path.join(folder, os.readlink(path))


def _driver_folder(path: str, make: Make) -> DriverFolder | None:
    # A stub answers 34 to everything: it is there to link against and must stay what it is.
    if os.path.basename(path) == "stubs":
        return None
    driver = _library(path, make.soname, make.pattern)
    if driver is None:
        return None
    beside = make.management
    management = _library(path, beside.soname, beside.pattern) if beside else None
    return DriverFolder(path, driver.names, driver.file, management)


def _library(path: str, soname: str, pattern: re.Pattern[str]) -> Library | None:
    """Return the library that a folder has by names of ``pattern``."""
    try:
        names = sorted(name for name in os.listdir(path) if pattern.fullmatch(name))
    except OSError:
        return None
    # The loader's own name decides; without it, the file with the longest version.
    for name in sorted(names, key=lambda name: (name != soname, -len(name))):
        file = os.path.join(path, name)
        if _fault(file) is None:
            real = os.path.realpath(file)
            if os.path.basename(os.path.dirname(real)) != "stubs":
                return Library(tuple(names), real)
    return None
