"""Print the folder of cuda.h in the installed nvidia-cuda-runtime wheel, if there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> int:
    """Look through every folder that makes up the namespace package ``nvidia``."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for header in sorted(Path(folder).glob("cu1[3-9]/include/cuda.h")):
            print(header.parent)
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
