"""A program of cuda-python's driver bindings: streams, events, captures and graphs.

Run by test_sim_exec.py on a simulated node; it ends with "well".
"""

from __future__ import annotations

import ctypes
from typing import Any

from cuda.bindings import driver as cu

PTX = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry aliquot_spin_ns(.param .u64 ns) { ret; }
"""


def do(answer: Any) -> Any:
    """The values of a call that must succeed."""
    assert answer[0] == cu.CUresult.CUDA_SUCCESS, answer[0]
    return answer[1] if len(answer) == 2 else answer[1:] or None


def code(answer: Any) -> int:
    """The result code of a call."""
    return int(answer[0])


do(cu.cuInit(0))
device = do(cu.cuDeviceGet(0))
context = do(cu.cuDevicePrimaryCtxRetain(device))
do(cu.cuCtxSetCurrent(context))
spin = do(cu.cuModuleGetFunction(do(cu.cuModuleLoadData(PTX)), b"aliquot_spin_ns"))
stream = do(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))


def run(milliseconds: float, where: Any = stream) -> None:
    """Queue a kernel that takes so long."""
    arguments = ((int(milliseconds * 1e6),), (ctypes.c_uint64,))
    do(cu.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, where, arguments, 0))


# Events and the time between them.
begin, end = (do(cu.cuEventCreate(0)) for _ in range(2))
run(1)
do(cu.cuEventRecord(begin, stream))
for _ in range(5):
    run(2)
do(cu.cuEventRecord(end, stream))
do(cu.cuEventSynchronize(end))
assert do(cu.cuEventElapsedTime(begin, end)) >= 9.999
assert code(cu.cuStreamQuery(stream)) == 0

# Copies in stream order between pinned and device memory.
memory = do(cu.cuMemAlloc(4096))
pinned = do(cu.cuMemHostAlloc(4096, 0))
words = (ctypes.c_uint32 * 1024).from_address(pinned)
do(cu.cuMemsetD32Async(memory, 0x2A, 1024, stream))
do(cu.cuMemcpyDtoHAsync(pinned, memory, 4096, stream))
do(cu.cuStreamSynchronize(stream))
assert words[0] == words[1023] == 0x2A

# A capture with a fork, launched twice.
other = do(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
fork, join = (do(cu.cuEventCreate(2)) for _ in range(2))
mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
do(cu.cuStreamBeginCapture(stream, mode))
do(cu.cuMemsetD32Async(memory, 1, 16, stream))
do(cu.cuEventRecord(fork, stream))
do(cu.cuStreamWaitEvent(other, fork, 0))
do(cu.cuMemsetD32Async(int(memory) + 64, 2, 16, other))
do(cu.cuEventRecord(join, other))
run(1)
do(cu.cuStreamWaitEvent(stream, join, 0))
do(cu.cuMemcpyDtoHAsync(pinned, memory, 128, stream))
assert code(cu.cuMemAlloc(64)) == 900
assert code(cu.cuStreamEndCapture(stream)) == 901
do(cu.cuStreamBeginCapture(stream, mode))
do(cu.cuMemsetD32Async(memory, 1, 16, stream))
do(cu.cuEventRecord(fork, stream))
do(cu.cuStreamWaitEvent(other, fork, 0))
do(cu.cuMemsetD32Async(int(memory) + 64, 2, 16, other))
do(cu.cuEventRecord(join, other))
run(1)
do(cu.cuStreamWaitEvent(stream, join, 0))
do(cu.cuMemcpyDtoHAsync(pinned, memory, 128, stream))
status, number, *_ = do(cu.cuStreamGetCaptureInfo(stream))
assert int(status) == 1
assert int(number) > 0
graph = do(cu.cuStreamEndCapture(stream))
assert do(cu.cuGraphGetNodes(graph, 16))[1] == 4
executable = do(cu.cuGraphInstantiate(graph, 0))
for _ in range(2):
    words[0] = words[16] = 0
    do(cu.cuGraphLaunch(executable, stream))
    do(cu.cuStreamSynchronize(stream))
    assert (words[0], words[16]) == (1, 2)

# A built graph, changed in place.
built = do(cu.cuGraphCreate(0))
fill = cu.CUDA_MEMSET_NODE_PARAMS()
fill.dst, fill.value, fill.elementSize, fill.width, fill.height = memory, 9, 4, 4, 1
node = do(cu.cuGraphAddMemsetNode(built, None, 0, fill, context))
changing = do(cu.cuGraphInstantiate(built, 0))
fill.value = 10
do(cu.cuGraphExecMemsetNodeSetParams(changing, node, fill, context))
do(cu.cuGraphLaunch(changing, stream))
do(cu.cuStreamSynchronize(stream))
do(cu.cuMemcpyDtoH(pinned, memory, 16))
assert words[0] == 10
for made in (executable, changing):
    do(cu.cuGraphExecDestroy(made))
for drawn in (graph, built):
    do(cu.cuGraphDestroy(drawn))

# A host function, called when its turn comes.
called: list[int] = []
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: called.append(1))
address = ctypes.cast(function, ctypes.c_void_p).value
run(1)
do(cu.cuLaunchHostFunc(stream, cu.CUhostFn(address), 0))
do(cu.cuStreamSynchronize(stream))
assert called == [1]
do(cu.cuStreamDestroy(stream))
assert code(cu.cuStreamQuery(stream)) == 400
print("well")
