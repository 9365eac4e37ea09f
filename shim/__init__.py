"""What runs inside a container, as the node sees it: the built files and the region's two files."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

__all__ = ["library", "program"]


def library(soname: str = "libcuda.so.1", arch: str | None = None) -> Path:
    """Return the path of a built shim, for this machine or another ``arch``.

    There are ``libcuda.so.1``, ``libnvidia-ml.so.1``, ``libruntime.so`` (Ascend's) and
    ``libcndrv.so`` (Cambricon's), for ``x86_64`` and ``aarch64``. They lie beside the compiled
    binding, which is also right where an editable installation keeps compiled files away from the
    sources. Nothing is promised about the file's existence: a source tree that was never built has
    none.
    """
    return _built() / "lib" / (arch or platform.machine()) / soname


def program(name: str, arch: str | None = None) -> Path:
    """Return the path of a built program: ``aliquot-runtime``, ``aliquot-hook``, ``aliquot-stat``.

    As of a library, nothing is promised about its existence.
    """
    return _built() / "bin" / (arch or platform.machine()) / name


@functools.cache
def _built() -> Path:
    from . import _region  # noqa: PLC0415 - asking for the path is no reason to load it earlier

    return Path(_region.__file__).parent
