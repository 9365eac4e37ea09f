"""What tells vendors apart for ``aliquot run``: which library a program loads, by what names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Management:
    """A library beside the driver that shows devices; ``link`` is the real one behind the shim."""

    soname: str
    pattern: re.Pattern[str]
    link: str


@dataclass(frozen=True, slots=True)
class Make:
    """A vendor's library that a shim stands for.

    ``what`` is what people call it, ``pattern`` its files' names, ``link`` the private name of the
    real one behind the shim (csrc/generate.py), ``names`` those that always lead to the shim.
    ``visible`` is the variable that says which devices a program sees; ``by_uuid`` whether that
    takes UUIDs, else it takes numbers. ``prefix`` begins a UUID as people write it; ``first_call``
    is the function that may hang.
    """

    vendor: str
    what: str
    soname: str
    pattern: re.Pattern[str]
    link: str
    names: tuple[str, ...]
    visible: str
    by_uuid: bool
    prefix: str
    first_call: str
    management: Management | None = None


NVIDIA: Final = Make(
    vendor="nvidia",
    what="CUDA driver",
    soname="libcuda.so.1",
    pattern=re.compile(r"libcuda\.so(\.[0-9]+)*", re.ASCII),
    link="libcuda-driver.so.1",
    names=("libcuda.so", "libcuda.so.1"),
    visible="CUDA_VISIBLE_DEVICES",
    by_uuid=True,
    prefix="GPU-",
    first_call="cuInit",
    management=Management(
        "libnvidia-ml.so.1",
        re.compile(r"libnvidia-ml\.so(\.[0-9]+)*", re.ASCII),
        "libnvidia-ml-driver.so.1",
    ),
)
ASCEND: Final = Make(
    vendor="ascend",
    what="Ascend runtime",
    soname="libruntime.so",
    pattern=re.compile(r"libruntime\.so(\.[0-9]+)*", re.ASCII),
    link="libruntime-driver.so",
    names=("libruntime.so",),
    visible="ASCEND_RT_VISIBLE_DEVICES",
    by_uuid=False,
    prefix="NPU-",
    first_call="rtGetDeviceCount",
)
CAMBRICON: Final = Make(
    vendor="cambricon",
    what="Cambricon driver",
    soname="libcndrv.so",
    pattern=re.compile(r"libcndrv\.so(\.[0-9]+)*", re.ASCII),
    link="libcndrv-driver.so",
    names=("libcndrv.so",),
    visible="MLU_VISIBLE_DEVICES",
    by_uuid=False,
    prefix="MLU-",
    first_call="cnInit",
)
MAKES: Final = {make.vendor: make for make in (NVIDIA, ASCEND, CAMBRICON)}
