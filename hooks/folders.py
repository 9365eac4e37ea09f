"""Where programs find a driver that is not in the loader's own folders."""

from __future__ import annotations

from typing import Final

# Reached by an absolute path or a library path: the compatibility drivers of CUDA's own packages,
# and what container toolkits and other systems use.
DRIVER_FOLDERS: Final = (
    "/usr/local/cuda*/compat",
    "/usr/local/cuda*/compat/lib.real",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/usr/lib/wsl/drivers/*",
    "/run/opengl-driver/lib",
)
