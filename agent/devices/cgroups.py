"""Cgroup v2 for vendors whose driver, or kernel, holds limits of a cgroup."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import VendorError


def limit_folder(root: Path, cgroup: str) -> Path:
    """Return the folder below ``root`` that a limit is for.

    ``cgroup`` is a container's own, as a path or as /proc/PID/cgroup has it. Raises VendorError for
    what is none.
    """
    path = Path(cgroup)
    if not path.is_absolute() or ".." in path.parts or "\0" in cgroup:
        raise VendorError(f"'{cgroup}' is no path of a cgroup")
    inside = path if path.is_relative_to(root) else root / path.relative_to("/")
    if inside == root:
        raise VendorError(f"'{cgroup}' is the root of all cgroups: it takes no limit")
    return inside


def hand_down(root: Path, folder: Path, controller: str) -> None:
    """Let a group and those above it have a controller of the kernel's, as far as that goes."""
    above = [root, *reversed([parent for parent in folder.parents if root in parent.parents])]
    with contextlib.suppress(OSError):
        for parent in above:
            if controller in (parent / "cgroup.controllers").read_text("ascii").split():
                (parent / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")
