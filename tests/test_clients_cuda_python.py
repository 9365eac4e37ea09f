"""cuda-python runs unmodified on the simulator: the driver bindings and cuda.core."""

from __future__ import annotations

from clients import SPIN_PTX, WITHOUT_NVJITLINK, Clients, clients, need

__all__ = ["clients"]

DRIVER = f"""
import ctypes
import numpy as np
from cuda.bindings import driver as cu

PTX = {SPIN_PTX!r}.encode()


def do(answer):
    assert answer[0] == cu.CUresult.CUDA_SUCCESS, answer[0]
    return answer[1] if len(answer) == 2 else answer[1:] or None


def fails(answer):
    assert answer[0] != cu.CUresult.CUDA_SUCCESS
    return int(answer[0])
"""


def test_driver_bindings_make_contexts_and_move_memory(clients: Clients) -> None:
    need("cuda.bindings", "numpy")
    client = clients.run(
        DRIVER
        + """
assert fails(cu.cuDeviceGetCount()) == 3
do(cu.cuInit(0))
assert do(cu.cuDeviceGetCount()) == 1
device = do(cu.cuDeviceGet(0))
assert do(cu.cuDeviceGetName(64, device)).startswith(b"Tesla T4")
primary = do(cu.cuDevicePrimaryCtxRetain(device))
do(cu.cuCtxPushCurrent(primary))
free, total = do(cu.cuMemGetInfo())
own = do(cu.cuCtxCreate(None, 0, device))
assert int(do(cu.cuCtxGetCurrent())) == int(own)
data = np.arange(1 << 20, dtype=np.uint8)
memory = do(cu.cuMemAlloc(data.nbytes))
assert do(cu.cuMemGetInfo())[0] < free
do(cu.cuMemcpyHtoD(memory, data.ctypes.data, data.nbytes))
back = np.zeros_like(data)
do(cu.cuMemcpyDtoH(back.ctypes.data, memory, back.nbytes))
assert (back == data).all()
do(cu.cuMemsetD8(memory, 7, 100))
do(cu.cuMemcpyDtoH(back.ctypes.data, memory, back.nbytes))
assert (back[:100] == 7).all() and (back[100:] == data[100:]).all()
do(cu.cuMemFree(memory))
assert fails(cu.cuMemAlloc(total + 1)) == 2
do(cu.cuCtxDestroy(own))
assert do(cu.cuMemGetInfo())[0] == free
pool = do(cu.cuDeviceGetDefaultMemPool(device))
stream = do(cu.cuStreamCreate(0))
taken = do(cu.cuMemAllocAsync(1 << 20, stream))
do(cu.cuMemFreeAsync(taken, stream))
do(cu.cuStreamSynchronize(stream))
assert do(cu.cuMemGetInfo())[0] == free
print("well")
"""
    )
    assert client.output == "well\n"


def test_driver_bindings_load_modules_and_launch_their_kernels(clients: Clients) -> None:
    need("cuda.bindings", "numpy")
    client = clients.run(
        DRIVER
        + """
do(cu.cuInit(0))
device = do(cu.cuDeviceGet(0))
do(cu.cuCtxPushCurrent(do(cu.cuDevicePrimaryCtxRetain(device))))
module = do(cu.cuModuleLoadData(PTX))
assert fails(cu.cuModuleGetFunction(module, b"nobody")) == 500
assert fails(cu.cuModuleGetGlobal(module, b"nothing")) == 500
assert fails(cu.cuModuleLoadData(b"no image")) == 200
assert fails(cu.cuModuleLoadData(PTX.replace(b"ret;", b"ret", 1).replace(b"}", b"", 1))) == 218
address, size = do(cu.cuModuleGetGlobal(module, b"done"))
values = np.zeros(2, dtype=np.uint64)
assert size == values.nbytes
do(cu.cuMemcpyDtoH(values.ctypes.data, address, size))
assert list(values) == [17, 42]
mixed = do(cu.cuModuleGetFunction(module, b"mixed"))
limit = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
shared = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
assert do(cu.cuFuncGetAttribute(limit, mixed)) == 128
assert do(cu.cuFuncGetAttribute(shared, mixed)) == 256
assert [do(cu.cuFuncGetParamInfo(mixed, i)) for i in range(3)] == [(0, 4), (8, 8), (16, 4)]
assert do(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(mixed, 128, 0)) == 8
types = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_float)
stream = do(cu.cuStreamCreate(0))
do(cu.cuLaunchKernel(mixed, 2, 1, 1, 128, 1, 1, 0, stream, ((1, 0, 2.0), types), 0))
too_large = cu.cuLaunchKernel(mixed, 2, 1, 1, 129, 1, 1, 0, stream, ((1, 0, 2.0), types), 0)
assert fails(too_large) == 1
spin = do(cu.cuModuleGetFunction(module, b"aliquot_spin_ns"))
start, end = do(cu.cuEventCreate(0)), do(cu.cuEventCreate(0))
do(cu.cuEventRecord(start, stream))
for _ in range(3):
    do(cu.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, ((5_000_000,), (ctypes.c_uint64,)), 0))
do(cu.cuEventRecord(end, stream))
do(cu.cuEventSynchronize(end))
assert do(cu.cuEventElapsedTime(start, end)) >= 15.0
do(cu.cuModuleUnload(module))
assert fails(cu.cuModuleGetFunction(module, b"mixed")) == 400
library = do(cu.cuLibraryLoadData(PTX, None, None, 0, None, None, 0))
kernel = do(cu.cuLibraryGetKernel(library, b"mixed"))
handle = cu.CUfunction(int(kernel))
do(cu.cuLaunchKernel(handle, 1, 1, 1, 1, 1, 1, 0, stream, ((1, 0, 2.0), types), 0))
do(cu.cuStreamSynchronize(stream))
do(cu.cuLibraryUnload(library))
assert fails(cu.cuKernelGetFunction(kernel)) == 400
print("well")
"""
    )
    assert client.output == "well\n"
    assert client.asked.launches["aliquot_spin_ns"] == 3
    assert client.asked.launches["mixed"] >= 2


def test_driver_bindings_capture_and_launch_graphs(clients: Clients) -> None:
    need("cuda.bindings", "numpy")
    client = clients.run(
        DRIVER
        + """
do(cu.cuInit(0))
device = do(cu.cuDeviceGet(0))
do(cu.cuCtxPushCurrent(do(cu.cuDevicePrimaryCtxRetain(device))))
module = do(cu.cuModuleLoadData(PTX))
spin = do(cu.cuModuleGetFunction(module, b"aliquot_spin_ns"))
stream = do(cu.cuStreamCreate(0))
data, back = np.arange(1024, dtype=np.uint8), np.zeros(1024, dtype=np.uint8)
memory = do(cu.cuMemAlloc(data.nbytes))
do(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
do(cu.cuMemcpyHtoDAsync(memory, data.ctypes.data, data.nbytes, stream))
do(cu.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, ((4_000_000,), (ctypes.c_uint64,)), 0))
do(cu.cuMemcpyDtoHAsync(back.ctypes.data, memory, back.nbytes, stream))
graph = do(cu.cuStreamEndCapture(stream))
assert not back.any()
assert do(cu.cuGraphGetNodes(graph, 10))[1] == 3
run = do(cu.cuGraphInstantiate(graph, 0))
start, end = do(cu.cuEventCreate(0)), do(cu.cuEventCreate(0))
do(cu.cuEventRecord(start, stream))
do(cu.cuGraphLaunch(run, stream))
do(cu.cuGraphLaunch(run, stream))
do(cu.cuEventRecord(end, stream))
do(cu.cuStreamSynchronize(stream))
assert (back == data).all()
assert do(cu.cuEventElapsedTime(start, end)) >= 8.0
do(cu.cuGraphExecDestroy(run))
do(cu.cuGraphDestroy(graph))
print("well")
"""
    )
    assert client.output == "well\n"
    assert client.asked.graphs == 2


def test_cuda_core_compiles_links_and_launches(clients: Clients) -> None:
    need("cuda.core", "numpy")
    client = clients.run(
        f"""
import numpy as np
from cuda.core import Device, LaunchConfig, ObjectCode, Program, ProgramOptions, launch

PTX = {SPIN_PTX!r}
device = Device()
device.set_current()
assert device.name.startswith("Tesla T4")
assert device.properties.multiprocessor_count == 40
stream = device.create_stream()
config = LaunchConfig(grid=1, block=1)

code = ObjectCode.from_ptx(PTX.encode())
spin = code.get_kernel("aliquot_spin_ns")
assert spin.num_arguments == 1
launch(stream, config, spin, np.uint64(1_000_000))
stream.sync()

try:
    source = 'extern "C" __global__ void from_cpp(float *x, float y) {{ x[threadIdx.x] = y; }}'
    made = Program(source, "c++", ProgramOptions(arch=f"sm_{{device.arch}}")).compile("cubin")
except Exception as error:
    print("no compiler:", error)
else:
    kernel = made.get_kernel("from_cpp")
    assert kernel.num_arguments == 2
    buffer = device.allocate(1 << 16, stream=stream)
    launch(stream, LaunchConfig(grid=2, block=64), kernel, buffer, np.float32(1))
    stream.sync()
    buffer.close(stream)
print("well")
"""
    )
    assert client.output.endswith("well\n")
    assert client.asked.launches["aliquot_spin_ns"] == 1
    if "no compiler" not in client.output:
        assert client.asked.launches["from_cpp"] == 1


def test_cuda_core_links_ptx_with_the_driver(clients: Clients) -> None:
    need("cuda.core", "numpy")
    client = clients.run(
        WITHOUT_NVJITLINK
        + """
import numpy as np
from cuda.core import Device, LaunchConfig, Linker, LinkerOptions, ObjectCode, launch

device = Device()
device.set_current()
head = ".version 7.0\\n.target sm_70\\n.address_size 64\\n"
caller = head + '''.extern .func (.param .b32 r) twice(.param .b32 a);
.visible .entry calls(.param .u32 n) { .reg .b32 %r<3>; .param .b32 x; .param .b32 y;
  call.uni (y), twice, (x); ret; }'''
callee = head + ".visible .func (.param .b32 r) twice(.param .b32 a) { ret; }"
options = LinkerOptions(arch=f"sm_{device.arch}")
parts = [ObjectCode.from_ptx(text.encode()) for text in (caller, callee)]
assert Linker.which_backend() == "driver"
kernel = Linker(*parts, options=options).link("cubin").get_kernel("calls")
assert kernel.num_arguments == 1
stream = device.create_stream()
launch(stream, LaunchConfig(grid=1, block=1), kernel, np.uint32(1))
stream.sync()
try:
    Linker(parts[0], options=options).link("cubin")
except Exception as error:
    assert "Undefined reference to 'twice'" in str(error), error
else:
    raise SystemExit("an undefined name was linked")
try:
    Linker(parts[1], parts[1], ObjectCode.from_ptx(b"no PTX"), options=options)
except Exception as error:
    assert "Missing .version" in str(error), error
else:
    raise SystemExit("what is no PTX was linked")
print("well")
"""
    )
    assert client.output == "well\n"
    assert client.asked.launches["calls"] == 1


def test_cuda_core_takes_memory_from_its_resources(clients: Clients) -> None:
    need("cuda.core", "numpy")
    client = clients.run(
        """
from cuda.core import Device, DeviceMemoryResource, PinnedMemoryResource

device = Device()
device.set_current()
stream = device.create_stream()
resource = DeviceMemoryResource(device)
buffers = [resource.allocate(1 << 20, stream=stream) for _ in range(8)]
assert len({int(buffer.handle) for buffer in buffers}) == 8
other = device.allocate(1 << 20, stream=stream)
other.copy_from(buffers[0], stream=stream)
for buffer in [*buffers, other]:
    buffer.close(stream)
stream.sync()
event = stream.record()
event.sync()
assert event.is_done
print("well")
"""
    )
    assert client.output == "well\n"


def test_cuda_core_builds_graphs(clients: Clients) -> None:
    need("cuda.core", "numpy")
    client = clients.run(
        f"""
import numpy as np
from cuda.core import Device, LaunchConfig, ObjectCode, launch

device = Device()
device.set_current()
stream = device.create_stream()
spin = ObjectCode.from_ptx({SPIN_PTX!r}.encode()).get_kernel("aliquot_spin_ns")
builder = device.create_graph_builder()
builder.begin_building()
for _ in range(4):
    launch(builder, LaunchConfig(grid=1, block=1), spin, np.uint64(1_000_000))
graph = builder.end_building().complete()
graph.upload(stream)
graph.launch(stream)
stream.sync()
print("well")
"""
    )
    assert client.output == "well\n"
    assert client.asked.graphs == 1
