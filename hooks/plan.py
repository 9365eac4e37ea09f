"""What a container needs for its devices: what a vendor fills and ``edits`` applies, as values.

Paths are absolute. ``source`` lies on the host, ``destination`` in the container.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device file of the container and the cgroup rule that lets it be used.

    ``source`` is the file on the host, where that has another path.
    """

    path: str
    major: int
    minor: int
    kind: str = "c"
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rw"
    source: str = ""


@dataclass(frozen=True, slots=True)
class BindMount:
    """A file or folder of the host at a path of the container, with OCI mount options."""

    source: str
    destination: str
    options: tuple[str, ...] = ("rbind", "ro", "nosuid", "nodev", "rprivate")


@dataclass(frozen=True, slots=True)
class Library:
    """A driver library of the host that the container's loader is to find.

    ``path`` is the regular file; ``names`` are the names that it needs in the loader's folder, its
    own and those of links (``libcuda.so.550.54.15``, ``libcuda.so.1``, ``libcuda.so``).
    """

    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Substitute:
    """A vendor's library in whose place a shim stands, wherever the container has one.

    ``soname`` is the library's (``libcuda.so.1``); the same name without its number and with any
    other number is covered too. ``driver`` is the private name under which the shim finds the real
    file in the ``.aliquot`` folder beside it (``libcuda-driver.so.1``).
    """

    soname: str
    shim: Path
    driver: str


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook of the vendor's that stays: ``when`` is OCI's name of its moment."""

    when: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """All that a container needs for its devices.

    ``withheld`` are patterns of library names (``libnvidia-vulkan*``) that must not be there.
    ``environment`` also has what switches the vendor's own injection off; ``foreign_hooks`` are
    patterns of the paths of hooks that would inject and are taken out.
    """

    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[BindMount, ...] = ()
    libraries: tuple[Library, ...] = ()
    substitutes: tuple[Substitute, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    foreign_hooks: tuple[str, ...] = ()
