"""The device files and driver files of a simulated node's devices, below a folder of its own.

Only of vendors whose containers get such files from the node itself; NVIDIA's come by a CDI
specification (sim/cdi.py). Device files are null devices: they can be opened, and that is all that
is asked of them. Those of partitions come and go with them, made by the vendor's library.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from . import library
from .node import Node
from .state import LIBRARIES, StateError

ROOT: Final = "root"
"""The folder, in the node's."""

# Major and minor number of /dev/null.
_NULL: Final = os.makedev(1, 3)
_DEVICE: Final = {"ascend": "davinci", "cambricon": "cambricon_dev"}
_CONTROL: Final = {
    "ascend": ("davinci_manager", "devmm_svm", "hisi_hdc"),
    "cambricon": ("cambricon_ctl",),
}
# Where a vendor's installer puts its libraries; the first has the management library.
_FOLDERS: Final = {
    "ascend": (
        "usr/local/dcmi",
        "usr/local/Ascend/driver/include",
        "usr/local/Ascend/driver/lib64/common",
        "usr/local/Ascend/driver/lib64/driver",
    ),
    "cambricon": ("usr/local/neuware/lib64",),
}


def lay_out(node: Node, directory: Path) -> Path:
    """Make the files of the node in ``directory``; returns the folder. Raises StateError."""
    root = directory / ROOT
    try:
        dev = root / "dev"
        dev.mkdir(parents=True)
        for vendor, stem in _DEVICE.items():
            count = sum(1 for device in node.devices if device.vendor == vendor)
            if not count:
                continue
            for name in (*(f"{stem}{minor}" for minor in range(count)), *_CONTROL[vendor]):
                _make_device(dev / name)
            for folder in _FOLDERS[vendor]:
                (root / folder).mkdir(parents=True)
            for name in LIBRARIES[vendor]:
                shutil.copyfile(library().with_name(name), root / _FOLDERS[vendor][0] / name)
    except PermissionError as error:  # also root's in a user namespace
        raise StateError(
            f"{root}: device files are made by the machine's root: run as root"
        ) from error
    except OSError as error:
        raise StateError(f"{error.filename or root}: {error.strerror}") from error
    return root


def _make_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, _NULL)
    path.chmod(0o666)  # whatever the umask
