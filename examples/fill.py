"""Take device memory until there is no more, then work on with what there is.

Prints a line when it is refused, then one a second with the rounds of work that it has done, until
its standard input ends or it is interrupted.
"""

from __future__ import annotations

import argparse
import select
import sys
import time
from typing import Any

from cuda.bindings import driver

MIB = 1 << 20


def check(answer: tuple[Any, ...]) -> Any:  # noqa: ANN401 - whatever the call gives
    """Return what a driver call gave; ends the program when it failed."""
    code, *values = answer
    if code != driver.CUresult.CUDA_SUCCESS:
        sys.exit(f"{code.name} ({int(code)})")
    return values[0] if len(values) == 1 else values


def fill(step: int) -> tuple[list[int], int]:
    """Allocate ``step`` bytes again and again; returns the pointers and the code that ended it."""
    pointers: list[int] = []
    while True:
        code, pointer = driver.cuMemAlloc(step)
        if code != driver.CUresult.CUDA_SUCCESS:
            print(f"refused {code.name} {int(code)} holding {len(pointers) * step}", flush=True)
            return pointers, int(code)
        pointers.append(int(pointer))


def work(pointers: list[int], number: int) -> None:
    """Write a pattern into a little of each allocation and read it back."""
    host = bytearray(64)
    for pointer in pointers:
        check(driver.cuMemsetD8(pointer, number % 256, len(host)))
        check(driver.cuMemcpyDtoH(host, pointer, len(host)))
        if host != bytes([number % 256]) * len(host):
            sys.exit("read something else than was written")


def main() -> None:
    """Fill, then work until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=256, help="MiB of one allocation")
    parser.add_argument("--keep-asking", action="store_true", help="ask for more while working")
    options = parser.parse_args()
    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
    free, total = check(driver.cuMemGetInfo())
    print(f"sees {total} free {free}", flush=True)
    pointers, _ = fill(options.step * MIB)
    rounds, told = 0, time.monotonic()
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        work(pointers, rounds)
        rounds += 1
        if options.keep_asking:
            code, pointer = driver.cuMemAlloc(options.step * MIB)
            if code == driver.CUresult.CUDA_SUCCESS:
                pointers.append(int(pointer))
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            print(f"rounds {rounds}", flush=True)


if __name__ == "__main__":
    main()
