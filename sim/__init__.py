"""A simulated node: software accelerators behind the vendors' C interfaces.

The driver library is C (csrc/sim); here are the node files, the state that its processes share, and
what it says that they hold.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["library", "make_bench"]


def library() -> Path:
    """Return the path of the simulator's driver library, ``libcuda.so.1``.

    It lies beside the compiled binding, which is also right where an editable installation keeps
    compiled files away from the sources. Nothing is promised about the file's existence: a source
    tree that was never built has none.
    """
    from . import _state  # noqa: PLC0415 - asking for the path is no reason to load it earlier

    return Path(_state.__file__).parent / "lib" / "libcuda.so.1"


def make_bench(folder: Path) -> bytes:
    """Make a node whose calls cost nothing in ``folder``, which must not exist yet.

    It has one device of 16 GiB, whose contexts take one page of 2 MiB. Returns the device's UUID
    (16 bytes). Raises ``aliquot.sim.state.StateError``.
    """
    from .node import Device, Node  # noqa: PLC0415 - as above
    from .state import create  # noqa: PLC0415 - as above

    device = Device(model="bench", memory=16 << 30, context=2 << 20)
    node = Node.of("bench", [device])
    create(node, folder)
    return node.devices[0].uuid
