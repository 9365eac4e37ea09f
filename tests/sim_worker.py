"""A process on a simulated node that does what it is told: one call a line, one answer a line.

``sim_worker.py [SOCKET]``: reads JSON arrays ``[NAME, ARGUMENT…]`` from standard input, where NAME
is a method of ``Worker``, and answers ``[RESULT, VALUE]``. Descriptors come and go through the Unix
socket with that descriptor number. It needs nothing but Python and the driver's library.
"""

# ruff: noqa: D102 - a method is named after the call that it makes

from __future__ import annotations

import array
import ctypes
import json
import os
import socket
import sys
from ctypes import byref, c_char, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

DEVICE, HOST_NUMA = 1, 3
PINNED = 1
POSIX_DESCRIPTOR = 1
READ_WRITE = 3


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", c_int), ("id", c_int))


class Prop(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", Location),
        ("win32", c_void_p),
        ("flags", c_char * 8),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", Location), ("flags", c_int))


class PoolProps(ctypes.Structure):
    """CUmemPoolProps."""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", Location),
        ("win32", c_void_p),
        ("max_size", c_size_t),
        ("usage", ctypes.c_ushort),
        ("reserved", c_char * 54),
    )


class ArrayDesc(ctypes.Structure):
    """CUDA_ARRAY3D_DESCRIPTOR."""

    _fields_ = (
        ("width", c_size_t),
        ("height", c_size_t),
        ("depth", c_size_t),
        ("format", c_int),
        ("channels", c_uint),
        ("flags", c_uint),
    )


class ExternalDesc(ctypes.Structure):
    """CUDA_EXTERNAL_MEMORY_HANDLE_DESC, on 64-bit Linux."""

    _fields_ = (
        ("type", c_int),
        ("pad", c_int),
        ("descriptor", c_int),
        ("rest", c_char * 12),
        ("size", c_ulonglong),
        ("flags", c_uint),
        ("reserved", c_uint * 16),
    )


class BufferDesc(ctypes.Structure):
    """CUDA_EXTERNAL_MEMORY_BUFFER_DESC."""

    _fields_ = (
        ("offset", c_ulonglong),
        ("size", c_ulonglong),
        ("flags", c_uint),
        ("reserved", c_uint * 16),
    )


class MulticastProp(ctypes.Structure):
    """CUmulticastObjectProp."""

    _fields_ = (
        ("devices", c_uint),
        ("size", c_size_t),
        ("handle_types", c_ulonglong),
        ("flags", c_ulonglong),
    )


class IpcHandle(ctypes.Structure):
    """CUipcMemHandle."""

    _fields_ = (("bytes", c_char * 64),)


def _prop(kind: int, where: int, shareable: bool) -> Prop:
    handles = POSIX_DESCRIPTOR if shareable else 0
    return Prop(type=PINNED, handle_types=handles, location=Location(kind, where))


Answer = tuple[int, Any]


class Worker:
    """The calls. Each answers the driver's result and what the call gave, None where nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.socket = None if descriptor is None else socket.socket(fileno=descriptor)

    def _number(self, name: str, kind: Any, *arguments: Any) -> Answer:
        """Call a function that writes a number through its first argument."""
        value = kind()
        result = getattr(self.cuda, name)(byref(value), *arguments)
        return result, value.value

    # -- process, contexts

    def init(self) -> Answer:
        return self.cuda.cuInit(0), None

    def raw(self, name: str, *arguments: int) -> Answer:
        """Call any function whose arguments are 64-bit numbers."""
        return getattr(self.cuda, name)(*map(c_ulonglong, arguments)), None

    def number(self, name: str, *arguments: int) -> Answer:
        """Call a function that writes a 64-bit number, the rest being 64-bit numbers."""
        return self._number(name, c_ulonglong, *map(c_ulonglong, arguments))

    def start(self, dev: int = 0) -> Answer:
        """cuInit, and the device's primary context made current."""
        result = self.cuda.cuInit(0)
        context = c_void_p()
        result = result or self.cuda.cuDevicePrimaryCtxRetain(byref(context), dev)
        return result or self.cuda.cuCtxSetCurrent(context), context.value

    def devices(self) -> Answer:
        """UUIDs of the visible devices."""
        count = c_int()
        result = self.cuda.cuDeviceGetCount(byref(count))
        uuids = []
        for dev in range(count.value):
            raw = (c_char * 16)()
            self.cuda.cuDeviceGetUuid_v2(raw, dev)
            uuids.append(raw.raw.hex())
        return result, uuids

    def context(self, dev: int = 0) -> Answer:
        return self._number("cuCtxCreate_v2", c_ulonglong, 0, dev)

    def info(self) -> Answer:
        free, total = c_size_t(), c_size_t()
        result = self.cuda.cuMemGetInfo_v2(byref(free), byref(total))
        return result, [free.value, total.value]

    def limit(self, limit: int, value: int) -> Answer:
        return self.cuda.cuCtxSetLimit(limit, c_size_t(value)), None

    def fork(self) -> Answer:
        """What a child of fork gets: results of cuInit, cuMemAlloc, cuCtxGetCurrent."""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            pointer = c_ulonglong()
            results = [
                self.cuda.cuInit(0),
                self.cuda.cuMemAlloc_v2(byref(pointer), c_size_t(4096)),
                self.cuda.cuCtxGetCurrent(byref(pointer)),
            ]
            os.write(writer, json.dumps(results).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        with os.fdopen(reader) as stream:
            return 0, json.load(stream)

    def close_all(self) -> Answer:
        """Close every descriptor that is not ours, as daemons do."""
        keep = 2 if self.socket is None else self.socket.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 65536)
        return 0, None

    # -- linear memory

    def alloc(self, size: int) -> Answer:
        return self._number("cuMemAlloc_v2", c_ulonglong, c_size_t(size))

    def managed(self, size: int) -> Answer:
        return self._number("cuMemAllocManaged", c_ulonglong, c_size_t(size), 1)

    def free(self, pointer: int) -> Answer:
        return self.cuda.cuMemFree_v2(c_ulonglong(pointer)), None

    def pitch(self, width: int, height: int) -> Answer:
        pointer, pitch = c_ulonglong(), c_size_t()
        result = self.cuda.cuMemAllocPitch_v2(
            byref(pointer), byref(pitch), c_size_t(width), c_size_t(height), 4
        )
        return result, [pointer.value, pitch.value]

    def host(self, size: int) -> Answer:
        return self._number("cuMemHostAlloc", c_ulonglong, c_size_t(size), 0)

    def free_host(self, pointer: int) -> Answer:
        return self.cuda.cuMemFreeHost(c_void_p(pointer)), None

    def write(self, pointer: int, text: str) -> Answer:
        data = text.encode()
        return self.cuda.cuMemcpyHtoD_v2(c_ulonglong(pointer), data, c_size_t(len(data))), None

    def read(self, pointer: int, size: int) -> Answer:
        data = (c_char * size)()
        result = self.cuda.cuMemcpyDtoH_v2(data, c_ulonglong(pointer), c_size_t(size))
        return result, data.raw.decode(errors="replace")

    def fill(self, pointer: int, size: int) -> Answer:
        result = self.cuda.cuMemsetD8_v2(c_ulonglong(pointer), 0x5A, c_size_t(size))
        return result or self.cuda.cuCtxSynchronize(), None

    def range(self, pointer: int) -> Answer:
        base, size = c_ulonglong(), c_size_t()
        result = self.cuda.cuMemGetAddressRange_v2(byref(base), byref(size), c_ulonglong(pointer))
        return result, [base.value, size.value]

    def attribute(self, attribute: int, pointer: int) -> Answer:
        return self._number("cuPointerGetAttribute", c_ulonglong, attribute, c_ulonglong(pointer))

    def register(self, size: int) -> Answer:
        """Register ordinary memory of the process, which is kept."""
        memory = ctypes.create_string_buffer(size)
        self.kept = memory
        address = ctypes.addressof(memory)
        return self.cuda.cuMemHostRegister_v2(c_void_p(address), c_size_t(size), 0), address

    # -- pools

    def pool(self, shareable: bool = False, max_size: int = 0) -> Answer:
        props = PoolProps(
            type=PINNED,
            handle_types=POSIX_DESCRIPTOR if shareable else 0,
            location=Location(DEVICE, 0),
            max_size=max_size,
        )
        return self._number("cuMemPoolCreate", c_ulonglong, byref(props))

    def default_pool(self) -> Answer:
        return self._number("cuDeviceGetDefaultMemPool", c_ulonglong, 0)

    def alloc_async(self, size: int, pool: int = 0, stream: int = 0) -> Answer:
        if not pool:
            return self._number("cuMemAllocAsync", c_ulonglong, c_size_t(size), c_void_p(stream))
        return self._number(
            "cuMemAllocFromPoolAsync",
            c_ulonglong,
            c_size_t(size),
            c_void_p(pool),
            c_void_p(stream),
        )

    def free_async(self, pointer: int, stream: int = 0) -> Answer:
        return self.cuda.cuMemFreeAsync(c_ulonglong(pointer), c_void_p(stream)), None

    def sync(self) -> Answer:
        return self.cuda.cuCtxSynchronize(), None

    def pool_get(self, pool: int, attribute: int) -> Answer:
        value = c_ulonglong()
        result = self.cuda.cuMemPoolGetAttribute(c_void_p(pool), attribute, byref(value))
        return result, value.value

    def pool_set(self, pool: int, attribute: int, value: int) -> Answer:
        held = c_ulonglong(value)
        return self.cuda.cuMemPoolSetAttribute(c_void_p(pool), attribute, byref(held)), None

    def pool_trim(self, pool: int, keep: int) -> Answer:
        return self.cuda.cuMemPoolTrimTo(c_void_p(pool), c_size_t(keep)), None

    def pool_destroy(self, pool: int) -> Answer:
        return self.cuda.cuMemPoolDestroy(c_void_p(pool)), None

    def pool_export(self, pool: int) -> Answer:
        """Send the pool's descriptor through the socket."""
        descriptor = c_int(-1)
        result = self.cuda.cuMemPoolExportToShareableHandle(
            byref(descriptor), c_void_p(pool), POSIX_DESCRIPTOR, c_ulonglong(0)
        )
        if not result:
            self._send(descriptor.value)
        return result, None

    def pool_import(self) -> Answer:
        descriptor = self._receive()
        result, pool = self._number(
            "cuMemPoolImportFromShareableHandle",
            c_ulonglong,
            c_void_p(descriptor),
            POSIX_DESCRIPTOR,
            c_ulonglong(0),
        )
        os.close(descriptor)
        return result, pool

    def pointer_export(self, pointer: int) -> Answer:
        data = IpcHandle()
        result = self.cuda.cuMemPoolExportPointer(byref(data), c_ulonglong(pointer))
        return result, bytes(data).hex()

    def pointer_import(self, pool: int, data: str) -> Answer:
        handle = IpcHandle.from_buffer_copy(bytes.fromhex(data))
        return self._number("cuMemPoolImportPointer", c_ulonglong, c_void_p(pool), byref(handle))

    # -- virtual memory

    def create(
        self, size: int, kind: int = DEVICE, shareable: bool = False, where: int = 0
    ) -> Answer:
        prop = _prop(kind, where, shareable)
        return self._number("cuMemCreate", c_ulonglong, c_size_t(size), byref(prop), c_ulonglong(0))

    def release(self, handle: int) -> Answer:
        return self.cuda.cuMemRelease(c_ulonglong(handle)), None

    def retain(self, pointer: int) -> Answer:
        return self._number("cuMemRetainAllocationHandle", c_ulonglong, c_void_p(pointer))

    def reserve(self, size: int, wish: int = 0) -> Answer:
        return self._number(
            "cuMemAddressReserve",
            c_ulonglong,
            c_size_t(size),
            c_size_t(0),
            c_ulonglong(wish),
            c_ulonglong(0),
        )

    def unreserve(self, pointer: int, size: int) -> Answer:
        return self.cuda.cuMemAddressFree(c_ulonglong(pointer), c_size_t(size)), None

    def map(self, pointer: int, size: int, handle: int) -> Answer:
        result = self.cuda.cuMemMap(
            c_ulonglong(pointer), c_size_t(size), c_size_t(0), c_ulonglong(handle), c_ulonglong(0)
        )
        return result, None

    def access(
        self, pointer: int, size: int, flags: int = READ_WRITE, kind: int = DEVICE, where: int = 0
    ) -> Answer:
        wish = Access(Location(kind, where), flags)
        result = self.cuda.cuMemSetAccess(
            c_ulonglong(pointer), c_size_t(size), byref(wish), c_size_t(1)
        )
        return result, None

    def unmap(self, pointer: int, size: int) -> Answer:
        return self.cuda.cuMemUnmap(c_ulonglong(pointer), c_size_t(size)), None

    def export(self, handle: int) -> Answer:
        """Send the handle's descriptor through the socket; the own one is closed."""
        descriptor = c_int(-1)
        result = self.cuda.cuMemExportToShareableHandle(
            byref(descriptor), c_ulonglong(handle), POSIX_DESCRIPTOR, c_ulonglong(0)
        )
        if not result:
            self._send(descriptor.value)
        return result, None

    def take(self) -> Answer:
        """Take a descriptor from the socket and keep it open."""
        return 0, self._receive()

    def close(self, descriptor: int) -> Answer:
        os.close(descriptor)
        return 0, None

    def import_(self, descriptor: int) -> Answer:
        return self._number(
            "cuMemImportFromShareableHandle",
            c_ulonglong,
            c_void_p(descriptor),
            POSIX_DESCRIPTOR,
        )

    def external(self, descriptor: int, size: int) -> Answer:
        desc = ExternalDesc(type=1, descriptor=descriptor, size=size)
        return self._number("cuImportExternalMemory", c_ulonglong, byref(desc))

    def buffer(self, external: int, offset: int, size: int) -> Answer:
        desc = BufferDesc(offset=offset, size=size)
        return self._number(
            "cuExternalMemoryGetMappedBuffer", c_ulonglong, c_void_p(external), byref(desc)
        )

    def multicast(self, devices: int, size: int) -> Answer:
        prop = MulticastProp(devices=devices, size=size, handle_types=POSIX_DESCRIPTOR)
        return self._number("cuMulticastCreate", c_ulonglong, byref(prop))

    # -- IPC

    def ipc(self, pointer: int) -> Answer:
        handle = IpcHandle()
        result = self.cuda.cuIpcGetMemHandle(byref(handle), c_ulonglong(pointer))
        return result, bytes(handle).hex()

    def open(self, handle: str) -> Answer:
        passed = IpcHandle.from_buffer_copy(bytes.fromhex(handle))
        return self._number("cuIpcOpenMemHandle_v2", c_ulonglong, passed, c_uint(1))

    def shut(self, pointer: int) -> Answer:
        return self.cuda.cuIpcCloseMemHandle(c_ulonglong(pointer)), None

    # -- arrays

    def array(self, width: int, height: int, depth: int, flags: int = 0) -> Answer:
        """Elements of 4 bytes."""
        desc = ArrayDesc(width, height, depth, 0x20, 1, flags)
        return self._number("cuArray3DCreate_v2", c_ulonglong, byref(desc))

    def mipmap(self, width: int, height: int, depth: int, levels: int) -> Answer:
        desc = ArrayDesc(width, height, depth, 0x20, 1, 0)
        return self._number("cuMipmappedArrayCreate", c_ulonglong, byref(desc), levels)

    def level(self, mipmap: int, level: int) -> Answer:
        return self._number("cuMipmappedArrayGetLevel", c_ulonglong, c_void_p(mipmap), level)

    # -- the socket

    def _send(self, descriptor: int) -> None:
        assert self.socket is not None
        rights = array.array("i", [descriptor])
        self.socket.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(descriptor)

    def _receive(self) -> int:
        assert self.socket is not None
        found = array.array("i")
        _, ancillary, _, _ = self.socket.recvmsg(1, socket.CMSG_SPACE(found.itemsize))
        found.frombytes(ancillary[0][2][: found.itemsize])
        return found[0]


def main() -> None:
    worker = Worker(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
