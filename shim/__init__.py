"""What runs inside a container, as the node sees it: the built shim and the region's two files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["library"]


def library() -> Path:
    """Return the path of the built shim, ``libcuda.so.1``.

    It lies beside the compiled binding, which is also right where an editable installation keeps
    compiled files away from the sources. Nothing is promised about the file's existence: a source
    tree that was never built has none.
    """
    from . import _region  # noqa: PLC0415 - asking for the path is no reason to load it earlier

    return Path(_region.__file__).parent / "lib" / "libcuda.so.1"
