"""Answer small requests with a kernel, and now and then a batch that needs more memory.

A batch that does not fit is turned away, as a server should; the small ones go on. Prints a line
when it first turns one away, and regularly how many requests were answered, until its standard
input ends or it is interrupted.
"""

from __future__ import annotations

import argparse
import select
import sys
import time

import numpy as np
from numba import cuda
from numba.cuda.cudadrv.driver import CudaAPIError

MIB = 1 << 20


@cuda.jit("void(float32[::1], float32)")
def scale(values, factor):  # noqa: ANN001, ANN201 - compiled for the device
    """Multiply each value by ``factor``."""
    place = cuda.grid(1)
    if place < values.size:
        values[place] *= factor


def answer(size: int) -> None:
    """Copy ``size`` bytes to the device, run the kernel over them, and let go of them."""
    values = cuda.device_array(size // 4, dtype=np.float32)
    scale[(size // 4 + 255) // 256, 256](values, np.float32(2))
    cuda.synchronize()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2048, help="MiB of a large batch")
    options = parser.parse_args()
    answered = turned_away = 0
    told = time.monotonic()
    context = cuda.current_context()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(20):
            answer(MIB)
            answered += 1
        try:
            answer(options.batch * MIB)
        except CudaAPIError as error:
            turned_away += 1
            if turned_away == 1:
                print(f"refused {error.msg.split()[-1]} {int(error.code)}", flush=True)
        context.deallocations.clear()
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            print(f"answered {answered} turned away {turned_away}", flush=True)


if __name__ == "__main__":
    main()
