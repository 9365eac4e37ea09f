"""A whole agent whose vendors are the plug-in's, on a tree of files.

    drm_agent.py BASE LIB READY TREE PORT

It writes to the descriptor READY once it is ready.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from aliquot.agent.config import Config
from aliquot.agent.daemon import Daemon, real_parts, run_loop
from aliquot.agent.devices.registry import Loaded
from aliquot.agent.journal import log_to_stderr

from aliquot_drm.amd import Amd
from aliquot_drm.files import Roots
from aliquot_drm.intel import Intel


def serve(base: Path, lib: Path, ready: int, tree: Path, port: int) -> None:
    """Run an agent to its end."""
    config = Config(base, lib, metrics_port=port, sample_seconds=0.05)
    roots = Roots(tree / "sys", tree / "proc", tree / "dev", tree / "cgroup")

    def load() -> Loaded:
        return Loaded((Amd(config, roots), Intel(config, roots)), ())

    def tell() -> None:
        os.write(ready, b"r")
        os.close(ready)

    log_to_stderr(as_json=False)
    run_loop(Daemon(config, dataclasses.replace(real_parts(config), load=load)).run(tell))


if __name__ == "__main__":
    serve(
        Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])
    )
