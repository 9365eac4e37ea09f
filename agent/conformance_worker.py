"""What the conformance checks do inside a slice, with NVIDIA's own Python bindings.

    python -m aliquot.agent.conformance_worker WHAT [ARGUMENT…]

Each answers with one JSON line on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

CHUNK: Final = 64 << 20
_MOST_CHUNKS: Final = 1 << 14
_ROW: Final = 8192


class _WorkerError(Exception):
    """A call that should have worked did not."""


class _Device:
    """The first visible device with its primary context, and ways to take memory of it."""

    def __init__(self) -> None:
        from cuda.bindings import driver  # noqa: PLC0415 - not of every installation

        self.api: Any = driver
        self.call("cuInit", 0)
        self.device = self.call("cuDeviceGet", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", self.device))

    def call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - as the bindings take them
        """Call a function that must work; returns what it answers beside success."""
        code, *values = getattr(self.api, name)(*arguments)
        if int(code):
            raise _WorkerError(f"{name} answers {code.name}")
        return values[0] if len(values) == 1 else tuple(values)

    def families(self) -> dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]]:
        """Return, by name, how to take some bytes and how to give them back."""
        api = self.api
        return {
            "linear": (api.cuMemAlloc, api.cuMemFree),
            "pitched": (
                lambda size: api.cuMemAllocPitch(_ROW, size // _ROW, 16)[:2],
                api.cuMemFree,
            ),
            "managed": (
                lambda size: api.cuMemAllocManaged(
                    size, api.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL.value
                ),
                api.cuMemFree,
            ),
            "pool": (
                lambda size: api.cuMemAllocAsync(size, 0),
                lambda pointer: api.cuMemFreeAsync(pointer, 0),
            ),
            "virtual": (
                lambda size: api.cuMemCreate(size, self._properties(), 0),
                api.cuMemRelease,
            ),
            "array": (
                lambda size: api.cuArrayCreate(self._descriptor(size)),
                api.cuArrayDestroy,
            ),
        }

    def _properties(self) -> Any:  # noqa: ANN401 - a struct of the bindings
        wanted = self.api.CUmemAllocationProp()
        wanted.type = self.api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = self.api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = int(self.device)
        return wanted

    def _descriptor(self, size: int) -> Any:  # noqa: ANN401 - a struct of the bindings
        wanted = self.api.CUDA_ARRAY_DESCRIPTOR()
        # Rows of 1 MiB: arrays may be 65,000 rows high on the smallest devices.
        wanted.Width, wanted.Height, wanted.NumChannels = 1 << 16, size >> 20, 4
        wanted.Format = self.api.CUarray_format.CU_AD_FORMAT_UNSIGNED_INT32
        return wanted

    def fill(self, family: str, limit: int) -> tuple[list[Any], str]:
        """Take chunks until one is refused or ``limit`` bytes are held; "" when none was."""
        take, _ = self.families()[family]
        held: list[Any] = []
        while len(held) * CHUNK < limit and len(held) < _MOST_CHUNKS:
            code, *values = take(CHUNK)
            if int(code):
                return held, str(code.name)
            held.append(values[0])
        return held, ""

    def empty(self, family: str, held: list[Any]) -> None:
        """Give all of it back."""
        _, give = self.families()[family]
        for item in held:
            (code,) = give(item)
            if int(code):
                raise _WorkerError(f"giving {family} memory back answers {code.name}")
        self.call("cuCtxSynchronize")


def _see() -> dict[str, Any]:
    device = _Device()
    free, total = device.call("cuMemGetInfo")
    return {
        "free_bytes": int(free),
        "total_bytes": int(total),
        "device_total_bytes": int(device.call("cuDeviceTotalMem", device.device)),
    }


def _fill(family: str, cap: str) -> dict[str, Any]:
    """Fill the slice, give all back, and fill it again: what was given back counts no more."""
    device = _Device()
    rounds = []
    for _ in range(2):
        held, code = device.fill(family, 2 * int(cap))
        rounds.append({"held_bytes": len(held) * CHUNK, "refusal": code})
        device.empty(family, held)
    take, _ = device.families()[family]
    code, *_ = take(-(-(int(cap) + 1) // CHUNK) * CHUNK)
    return {"rounds": rounds, "more_than_all": str(code.name)}


def _share(part: str) -> dict[str, Any]:
    """Take a part, and let a child take what is left."""
    device = _Device()
    mine, code = device.fill("linear", int(part))
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name, "fill", "linear", part],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer = json.loads(child.stdout)
    return {"own_bytes": len(mine) * CHUNK, "own_refusal": code, "child": answer}


def _death(part: str) -> dict[str, Any]:
    """Let a child take a part and kill it; then take as much."""
    device = _Device()
    child = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "hold", part],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        held = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
    mine, code = device.fill("linear", int(part))
    return {"child": held, "own_bytes": len(mine) * CHUNK, "own_refusal": code}


def _hold(part: str) -> dict[str, Any]:
    """Hold a part until standard input ends."""
    device = _Device()
    held, code = device.fill("linear", int(part))
    print(json.dumps({"held_bytes": len(held) * CHUNK, "refusal": code, "pid": os.getpid()}))
    sys.stdout.flush()
    sys.stdin.read()
    return {}


def _management() -> dict[str, Any]:
    """Say what NVML tells of the device, and which library it is."""
    import pynvml  # noqa: PLC0415 - loads the library that is looked at

    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    totals = [
        int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).total)
        for index in range(count)
    ]
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    files = {line.split(maxsplit=5)[5] for line in maps if "libnvidia-ml" in line}
    return {"count": count, "total_bytes": totals, "files": sorted(files)}


_WHAT: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "see": _see,
    "fill": _fill,
    "share": _share,
    "death": _death,
    "hold": _hold,
    "management": _management,
}


def main(arguments: list[str]) -> int:
    """Do what is asked; the status says whether it could be done."""
    what, *rest = arguments
    try:
        answer = _WHAT[what](*rest)
    except Exception as error:  # noqa: BLE001 - whatever it is goes into the report
        answer = {"error": f"{type(error).__name__}: {error}"}
    if answer:
        print(json.dumps(answer), flush=True)
    return "error" in answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
