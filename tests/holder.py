"""A program that allocates device memory and stays: ``holder.py [LIBRARY] [MIB…]``.

It prints a line for each step, and ends when its standard input does.
"""

from __future__ import annotations

import ctypes
import sys

library, *sizes = [*sys.argv[1:], "libcuda.so.1"][: max(1, len(sys.argv) - 1)]
cuda = ctypes.CDLL(library)
print("init", cuda.cuInit(0), flush=True)
context = ctypes.c_void_p()
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
cuda.cuCtxSetCurrent(context)
for size in sizes:
    address = ctypes.c_ulonglong()
    code = cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(size) << 20))
    print(size, code, flush=True)
print("holding", flush=True)
sys.stdin.read()
