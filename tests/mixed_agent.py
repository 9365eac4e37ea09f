"""A whole agent with every vendor: the libraries of the node, and the plug-in on a tree of files.

    mixed_agent.py BASE LIB READY ROOT CDI TREE PORT [VENDOR]

ROOT is where the node's own files lie, CDI its specifications, TREE what the kernel tells of AMD's
and Intel's devices, VENDOR the configuration's default. It writes to the descriptor READY once it
is ready; from SIGUSR1 on every call of Cambricon's library fails.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from aliquot.agent.ascend_config import Ascend
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import Config
from aliquot.agent.daemon import Daemon, real_parts, run_loop
from aliquot.agent.devices import registry
from aliquot.agent.journal import log_to_stderr

from aliquot_drm.amd import Amd
from aliquot_drm.files import Roots
from aliquot_drm.intel import Intel

OWN = ("nvidia", "ascend", "cambricon")
# Those that are called of a library that was found.
ASKED = (
    "Init",
    "GetDeviceCount",
    "GetCardHealthState",
    "GetMemoryUsageV2",
    "GetDeviceUtilizationInfo",
)


def serve(base: Path, lib: Path, ready: int, *where: str) -> None:
    """Run an agent to its end."""
    root, cdi, tree, port, *default = where
    config = Config(
        base,
        lib,
        metrics_port=int(port),
        cdi_dirs=(Path(cdi),),
        sample_seconds=0.05,
        vendors=OWN,
        default_vendor="".join(default),
        cambricon=Cambricon(Path(root)),
        ascend=Ascend(Path(root)),
    )
    kernel = Roots(*(Path(tree, name) for name in ("sys", "proc", "dev", "cgroup")))

    def load() -> registry.Loaded:
        loaded = registry.load(config)
        others = (Amd(config, kernel), Intel(config, kernel))
        return dataclasses.replace(loaded, vendors=(*loaded.vendors, *others))

    def tell() -> None:
        os.write(ready, b"r")
        os.close(ready)

    def fail(*_: object) -> None:
        os.environ["ALIQUOT_SIM_CNDEV_ERRORS"] = " ".join(f"cndev{name}=1" for name in ASKED)

    signal.signal(signal.SIGUSR1, fail)
    log_to_stderr(as_json=False)
    run_loop(Daemon(config, dataclasses.replace(real_parts(config), load=load)).run(tell))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
