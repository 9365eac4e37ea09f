/* Copies and fills: every kind of memory, every shape, and what their calls wait for. */
#include "exec_client.h"

static uint8_t *pattern(size_t bytes, unsigned seed) {
    uint8_t *data = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)((i * 2654435761u + seed) >> 7);
    return data;
}

/* What is on the device must be what is in `wanted`. */
static void expect(CUdeviceptr ptr, const uint8_t *wanted, size_t bytes) {
    uint8_t *back = malloc(bytes);
    OK(cuMemcpyDtoH(back, ptr, bytes));
    for (size_t i = 0; i < bytes; i++)
        if (back[i] != wanted[i])
            fail(__FILE__, (int)i, "byte", back[i], wanted[i]);
    free(back);
}

/* ---- Lines --------------------------------------------------------------------------------- */

static void bytes_arrive_whatever_the_size(void) {
    client_start(0);
    CUdeviceptr a = alloc(9 << 20), b = alloc(9 << 20);
    const size_t sizes[] = {0, 1, 3, 4096, 65535, 65536, 65537, 1 << 20, (8 << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *data = pattern(sizes[i] + 1, (unsigned)i), *back = calloc(1, sizes[i] + 1);
        OK(cuMemcpyHtoD(a + 3, data, sizes[i]));
        OK(cuMemcpyDtoD(b + 1, a + 3, sizes[i]));
        OK(cuMemcpyDtoH(back, b + 1, sizes[i]));
        CHECK(memcmp(back, data, sizes[i]) == 0);
        memset(back, 0, sizes[i]);
        OK(cuMemcpy((CUdeviceptr)(uintptr_t)back, b + 1, sizes[i]));
        CHECK(memcmp(back, data, sizes[i]) == 0);
        OK(cuMemcpyAsync(a, (CUdeviceptr)(uintptr_t)data, sizes[i], NULL));
        OK(cuMemcpyDtoHAsync(back, a, sizes[i], NULL));
        CHECK(memcmp(back, data, sizes[i]) == 0); /* pageable: it is there on return */
        free(data);
        free(back);
    }
}

static void addresses_that_are_none_are_refused(void) {
    client_start(0);
    uint8_t host[64];
    CUdeviceptr a = alloc(4096);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a + 4000, host, 128)); /* beyond the end */
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD((CUdeviceptr)(uintptr_t)host, host, 4));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(host, 0, 4));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(NULL, a, 4));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoD(a, a + 4090, 64));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(a, 1, 5000));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(a + 2, 1, 1));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD16(a + 1, 1, 1));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD2D8(a, 16, 1, 32, 2));
    OK(cuMemFree(a));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, host, 4));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy(a, (CUdeviceptr)(uintptr_t)host, 4));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy((CUdeviceptr)(uintptr_t)host, a, 4));
    OK(cuMemcpyHtoD(a, host, 0));
    OK(cuMemsetD8(a, 0, 0));
}

static void fills_write_their_elements(void) {
    client_start(0);
    const size_t bytes = 3 << 20;
    CUdeviceptr a = alloc(bytes);
    uint8_t *wanted = calloc(1, bytes);
    OK(cuMemsetD8(a + 1, 0xa5, 100001));
    memset(wanted + 1, 0xa5, 100001);
    OK(cuMemsetD16(a + 200000, 0xbeef, 50001));
    for (size_t i = 0; i < 50001; i++)
        memcpy(wanted + 200000 + 2 * i, "\xef\xbe", 2);
    OK(cuMemsetD32(a + 400000, 0x01020304, 300000));
    for (size_t i = 0; i < 300000; i++)
        memcpy(wanted + 400000 + 4 * i, "\x04\x03\x02\x01", 4);
    OK(cuMemsetD2D8(a + 2000000, 512, 0x11, 300, 5));
    for (size_t y = 0; y < 5; y++)
        memset(wanted + 2000000 + y * 512, 0x11, 300);
    OK(cuMemsetD2D16(a + 2010000, 512, 0x1234, 30, 3));
    for (size_t y = 0; y < 3; y++)
        for (size_t x = 0; x < 30; x++)
            memcpy(wanted + 2010000 + y * 512 + 2 * x, "\x34\x12", 2);
    OK(cuMemsetD2D32Async(a + 2020000, 512, 0xdeadbeef, 128, 4, NULL));
    for (size_t i = 0; i < 512; i++)
        memcpy(wanted + 2020000 + 4 * i, "\xef\xbe\xad\xde", 4);
    expect(a, wanted, bytes);
    OK(cuMemsetD8(a + 5, 0, bytes - 9)); /* zeroes may give pages back: the edges stay */
    memset(wanted + 5, 0, bytes - 9);
    expect(a, wanted, bytes);
    free(wanted);
}

/* ---- What calls wait for ------------------------------------------------------------------- */

static void a_pageable_source_is_read_before_the_call_returns(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    const size_t sizes[] = {100, 100000, 4 << 20};
    for (int i = 0; i < 3; i++) {
        CUdeviceptr a = alloc(sizes[i]);
        uint8_t *data = pattern(sizes[i], 7), *kept = pattern(sizes[i], 7);
        run(stream, 20 * MS, 1); /* no gate: a large one may wait for its turn */
        OK(cuMemcpyHtoDAsync(a, data, sizes[i], stream));
        memset(data, 0xee, sizes[i]);
        OK(cuStreamSynchronize(stream));
        expect(a, kept, sizes[i]);
        free(data);
        free(kept);
    }
}

static void pinned_memory_is_copied_in_stream_order(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    uint32_t *host;
    OK(cuMemHostAlloc((void **)&host, 4096, 0));
    CUdeviceptr a = alloc(4096);
    host[0] = 1;
    shut(stream, 0);
    OK(cuMemcpyHtoDAsync(a, host, 4, stream));
    OK(cuMemcpyDtoHAsync(host + 1, a, 4, stream));
    host[0] = 2; /* before its turn */
    host[1] = 0;
    GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    SAME(host[1], 0);
    open_gate(0);
    OK(cuStreamSynchronize(stream));
    SAME(host[1], 2);
    OK(cuMemFreeHost(host));
}

static void copies_within_the_device_do_not_keep_the_caller(void) {
    client_start(0);
    CUdeviceptr a = alloc(4096), b = alloc(4096);
    shut(NULL, 0);
    CUevent end = mark(NULL);
    OK(cuMemsetD8(a, 7, 4096));
    OK(cuMemcpyDtoD(b, a, 4096));
    OK(cuMemsetD2D8(a, 64, 9, 64, 64));
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(end));
    SAME(peek32(b), 0);
    open_gate(0);
    SAME(read32(b), 0x07070707); /* which waits */
    OK(cuEventQuery(end));
    SAME(read32(a), 0x09090909);
}

static void large_copies_leave_other_streams_alone(void) {
    client_start(0);
    const size_t bytes = 64 << 20;
    uint8_t *host;
    OK(cuMemHostAlloc((void **)&host, bytes, 0));
    memset(host, 5, bytes);
    CUdeviceptr a = alloc(bytes), word = alloc(4);
    CUstream s = new_stream(CU_STREAM_NON_BLOCKING), t = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 4; i++)
        OK(cuMemcpyHtoDAsync(a, host, bytes, s));
    OK(cuMemsetD32Async(word, 1, 1, t));
    OK(cuStreamSynchronize(t));
    SAME(peek32(word), 1);
    OK(cuStreamSynchronize(s));
    SAME(peek32(a + bytes - 4), 0x05050505);
}

/* ---- Rows, boxes, arrays ------------------------------------------------------------------- */

static void rows_keep_their_pitches(void) {
    client_start(0);
    CUdeviceptr a;
    size_t pitch;
    OK(cuMemAllocPitch(&a, &pitch, 100, 20, 4));
    CHECK(pitch >= 100);
    uint8_t *data = pattern(64 * 20, 3), *back = calloc(1, 128 * 20);
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                          .srcHost = data,
                          .srcPitch = 64,
                          .srcXInBytes = 4,
                          .srcY = 2,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .dstDevice = a,
                          .dstPitch = pitch,
                          .dstXInBytes = 10,
                          .dstY = 1,
                          .WidthInBytes = 50,
                          .Height = 12};
    OK(cuMemcpy2D(&copy));
    CUDA_MEMCPY2D out = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                         .srcDevice = a,
                         .srcPitch = pitch,
                         .srcXInBytes = 10,
                         .srcY = 1,
                         .dstMemoryType = CU_MEMORYTYPE_HOST,
                         .dstHost = back,
                         .dstPitch = 128,
                         .dstXInBytes = 1,
                         .dstY = 3,
                         .WidthInBytes = 50,
                         .Height = 12};
    OK(cuMemcpy2DAsync(&out, NULL));
    OK(cuCtxSynchronize());
    for (int y = 0; y < 12; y++)
        CHECK(memcmp(back + (3 + y) * 128 + 1, data + (2 + y) * 64 + 4, 50) == 0);
    SAME(back[3 * 128], 0);
    SAME(back[3 * 128 + 51], 0);
    copy.dstPitch = 55; /* less than what a row reaches */
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2DUnaligned(&copy));
    copy.dstPitch = pitch;
    copy.Height = 40; /* beyond the allocation */
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&copy));
    copy.Height = 0;
    OK(cuMemcpy2D(&copy));
    copy.srcMemoryType = 9;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&copy));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(NULL));
}

static void boxes_go_through_arrays(void) {
    client_start(0);
    CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = 16,
                                          .Height = 8,
                                          .Depth = 4,
                                          .Format = CU_AD_FORMAT_UNSIGNED_INT16,
                                          .NumChannels = 2};
    CUarray array;
    OK(cuArray3DCreate(&array, &descriptor));
    uint8_t *data = pattern(64 * 8 * 4, 1), *back = calloc(1, 64 * 8 * 4);
    CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                          .srcHost = data,
                          .srcPitch = 64,
                          .srcHeight = 8,
                          .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                          .dstArray = array,
                          .WidthInBytes = 64,
                          .Height = 8,
                          .Depth = 4};
    OK(cuMemcpy3D(&copy));
    CUDA_MEMCPY3D out = {.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                         .srcArray = array,
                         .srcXInBytes = 8,
                         .srcY = 1,
                         .srcZ = 1,
                         .dstMemoryType = CU_MEMORYTYPE_HOST,
                         .dstHost = back,
                         .dstPitch = 40,
                         .dstHeight = 6,
                         .WidthInBytes = 40,
                         .Height = 6,
                         .Depth = 3};
    OK(cuMemcpy3D(&out));
    for (int z = 0; z < 3; z++)
        for (int y = 0; y < 6; y++)
            CHECK(memcmp(back + (z * 6 + y) * 40, data + ((z + 1) * 8 + y + 1) * 64 + 8, 40) == 0);
    out.srcXInBytes = 6; /* inside an element */
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D(&out));
    out.srcXInBytes = 28;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D(&out));
    out.srcXInBytes = 8;
    out.srcZ = 2;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy3D(&out));
    out.srcArray = (CUarray)back;
    GIVES(CUDA_ERROR_INVALID_HANDLE, cuMemcpy3D(&out));
    OK(cuArrayDestroy(array));
}

static void lines_go_through_arrays(void) {
    client_start(0);
    CUDA_ARRAY_DESCRIPTOR descriptor = {
        .Width = 1000, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 1};
    CUarray a, b;
    OK(cuArrayCreate(&a, &descriptor));
    OK(cuArrayCreate(&b, &descriptor));
    uint8_t *data = pattern(1000, 5), back[1000] = {0};
    CUdeviceptr ptr = alloc(1000);
    OK(cuMemcpyHtoA(a, 10, data, 900));
    OK(cuMemcpyAtoA(b, 5, a, 10, 900));
    OK(cuMemcpyAtoD(ptr, b, 5, 900));
    OK(cuMemcpyDtoA(a, 100, ptr, 900));
    OK(cuMemcpyAtoHAsync(back, a, 100, 900, NULL));
    OK(cuCtxSynchronize());
    CHECK(memcmp(back, data, 900) == 0);
    OK(cuMemcpyHtoAAsync(a, 0, data, 1000, NULL));
    OK(cuMemcpyAtoH(back, a, 0, 1000));
    CHECK(memcmp(back, data, 1000) == 0);
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyAtoH(back, a, 1, 1000));
}

/* ---- Several devices ----------------------------------------------------------------------- */

static void copies_between_devices_are_ordered_with_both(void) {
    CUcontext first, second;
    client_start(0);
    first = client_ctx;
    CUdeviceptr a = alloc(1 << 20);
    uint8_t *data = pattern(1 << 20, 9);
    client_start(1);
    second = client_ctx;
    CUdeviceptr b = alloc(1 << 20);
    run(NULL, 20 * MS, 1);
    OK(cuMemcpyHtoDAsync(b, data, 1 << 20, NULL));
    OK(cuCtxSetCurrent(first));
    OK(cuMemcpyPeer(a, first, b, second, 1 << 20)); /* behind what the second has queued */
    expect(a, data, 1 << 20);
    OK(cuMemsetD8(a, 1, 1 << 20));
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuCtxSynchronize());
    OK(cuMemcpyPeerAsync(b, second, a, first, 4096, stream));
    OK(cuStreamSynchronize(stream));
    SAME(peek32(b), 0x01010101);
    CUDA_MEMCPY3D_PEER copy = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                               .srcDevice = a,
                               .srcContext = first,
                               .srcPitch = 128,
                               .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                               .dstDevice = b + 8192,
                               .dstContext = second,
                               .dstPitch = 256,
                               .WidthInBytes = 100,
                               .Height = 3,
                               .Depth = 1};
    OK(cuMemcpy3DPeer(&copy));
    OK(cuMemcpy3DPeerAsync(&copy, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuCtxSynchronize());
    SAME(peek32(b + 8192 + 256), 0x01010101);
    GIVES(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyPeer(a, first, b, (CUcontext)data, 4));
}

/* ---- Batches ------------------------------------------------------------------------------- */

static void a_batch_copies_all_or_refuses(void) {
    client_start(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUdeviceptr a = alloc(4096), b = alloc(4096), c = alloc(4096);
    uint32_t word = 0x12345678, back = 0;
    CUdeviceptr dsts[] = {a, b, (CUdeviceptr)(uintptr_t)&back};
    CUdeviceptr srcs[] = {(CUdeviceptr)(uintptr_t)&word, c, c};
    size_t sizes[] = {4, 4096, 4};
    CUmemcpyAttributes attributes[2] = {
        {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL},
        {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM}};
    size_t starts[] = {0, 1};
    OK(cuMemsetD8(c, 3, 4096));
    OK(cuCtxSynchronize());
    run(stream, 10 * MS, 1);
    OK(cuMemcpyBatchAsync(dsts, srcs, sizes, 3, attributes, starts, 2, stream));
    word = 0;
    OK(cuStreamSynchronize(stream));
    SAME(peek32(a), 0x12345678);
    SAME(peek32(b + 4092), 0x03030303);
    SAME(back, 0x03030303);
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuMemcpyBatchAsync(dsts, srcs, sizes, 3, attributes, starts, 2, NULL));
    attributes[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_INVALID;
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuMemcpyBatchAsync(dsts, srcs, sizes, 3, attributes, starts, 2, stream));
    CUDA_MEMCPY3D_BATCH_OP op = {
        .src = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = c, .rowLength = 64}},
        .dst = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = a, .rowLength = 32}},
        .extent = {.width = 16, .height = 4, .depth = 1},
        .srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
    OK(cuMemcpy3DBatchAsync(1, &op, 0, stream));
    OK(cuStreamSynchronize(stream));
    SAME(peek32(a + 3 * 32), 0x03030303);
    SAME(peek32(a + 16), 0);
    op.extent.width = 40;
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DBatchAsync(1, &op, 0, stream));
}

/* ---- Managed memory ------------------------------------------------------------------------ */

static void prefetches_and_advice_are_checked(void) {
    client_start(0);
    CUdeviceptr managed, plain = alloc(4096);
    OK(cuMemAllocManaged(&managed, 1 << 20, CU_MEM_ATTACH_GLOBAL));
    CUmemLocation device = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0};
    CUmemLocation nowhere = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 99};
    CUmemLocation host = {.type = CU_MEM_LOCATION_TYPE_HOST};
    CUstream stream = new_stream(0);
    OK(cuMemPrefetchAsync(managed, 1 << 20, device, 0, stream));
    OK(cuMemPrefetchAsync(managed, 100, host, 0, stream));
    GIVES(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync(managed, 100, nowhere, 0, stream));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(plain, 100, device, 0, stream));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(managed, 2 << 20, device, 0, stream));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(managed, 100, device, 1, stream));
    OK(cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, device));
    OK(cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, host));
    GIVES(CUDA_ERROR_INVALID_DEVICE,
          cuMemAdvise(managed, 4096, CU_MEM_ADVISE_SET_ACCESSED_BY, nowhere));
    GIVES(CUDA_ERROR_INVALID_VALUE,
          cuMemAdvise(plain, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, device));
    OK(cuStreamAttachMemAsync(stream, managed, 0, CU_MEM_ATTACH_SINGLE));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(NULL, managed, 0, CU_MEM_ATTACH_SINGLE));
    GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(stream, plain, 0, CU_MEM_ATTACH_GLOBAL));
}

const struct client_case client_cases[] = {
    {"bytes_arrive_whatever_the_size", bytes_arrive_whatever_the_size},
    {"addresses_that_are_none_are_refused", addresses_that_are_none_are_refused},
    {"fills_write_their_elements", fills_write_their_elements},
    {"a_pageable_source_is_read_before_the_call_returns",
     a_pageable_source_is_read_before_the_call_returns},
    {"pinned_memory_is_copied_in_stream_order", pinned_memory_is_copied_in_stream_order},
    {"copies_within_the_device_do_not_keep_the_caller",
     copies_within_the_device_do_not_keep_the_caller},
    {"large_copies_leave_other_streams_alone", large_copies_leave_other_streams_alone},
    {"rows_keep_their_pitches", rows_keep_their_pitches},
    {"boxes_go_through_arrays", boxes_go_through_arrays},
    {"lines_go_through_arrays", lines_go_through_arrays},
    {"copies_between_devices_are_ordered_with_both", copies_between_devices_are_ordered_with_both},
    {"a_batch_copies_all_or_refuses", a_batch_copies_all_or_refuses},
    {"prefetches_and_advice_are_checked", prefetches_and_advice_are_checked},
    {NULL, NULL},
};
