"""Where programs find a driver that is not in the loader's own folders."""

from __future__ import annotations

from typing import Final

# Reached by an absolute path or a library path: the compatibility drivers of CUDA's own packages,
# what container toolkits and other systems use, and the runtimes of other vendors.
DRIVER_FOLDERS: Final = (
    "/usr/local/cuda*/compat",
    "/usr/local/cuda*/compat/lib.real",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/usr/lib/wsl/drivers/*",
    "/run/opengl-driver/lib",
    # Ascend's runtime is the image's: CANN's packages in their versions, and for each machine. (A
    # pattern has its star in one place. What is reached by several ways is covered once.)
    "/usr/local/Ascend/*/lib64",
    "/usr/local/Ascend/cann/*/lib64",
    "/usr/local/Ascend/ascend-toolkit/*/lib64",
    "/usr/local/Ascend/ascend-toolkit/latest/*/lib64",
    "/usr/local/Ascend/nnrt/*/lib64",
    "/usr/local/Ascend/nnrt/latest/*/lib64",
    "/usr/local/Ascend/nnae/*/lib64",
    "/usr/local/Ascend/nnae/latest/*/lib64",
)
