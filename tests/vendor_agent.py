"""A whole agent with one of our vendors, on whatever node its environment names.

    vendor_agent.py BASE LIB READY VENDOR ROOT PORT

ROOT is where the node's own files lie; specifications are in ``cdi`` beside BASE.
It writes to the descriptor READY once it is ready.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aliquot.agent import keeper
from aliquot.agent.ascend_config import Ascend
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import Config
from aliquot.agent.daemon import Daemon, real_parts, run_loop
from aliquot.agent.journal import log_to_stderr


def serve(base: Path, lib: Path, ready: int, vendor: str, root: Path, port: int) -> None:
    """Run an agent to its end."""
    # What could not be given back is tried again sooner than by an agent whose driver must rest.
    vars(keeper)["_AGAIN_SECONDS"] = 0.1
    config = Config(
        base,
        lib,
        metrics_port=port,
        cdi_dirs=(base.parent / "cdi",),
        sample_seconds=0.05,
        vendors=(vendor,),
        cambricon=Cambricon(root),
        ascend=Ascend(root),
    )

    def tell() -> None:
        os.write(ready, b"r")
        os.close(ready)

    log_to_stderr(as_json=False)
    run_loop(Daemon(config, real_parts(config)).run(tell))


if __name__ == "__main__":
    serve(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4],
        Path(sys.argv[5]),
        int(sys.argv[6]),
    )
