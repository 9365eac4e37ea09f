/* What operations do to memory. Device addresses are host addresses, so bytes are moved by the CPU;
 * kernels are not computed. */
#include "event_shared.h"
#include "exec_impl.h"

#include <string.h>
#include <sys/mman.h>

static void *at(CUdeviceptr ptr) { return (void *)(uintptr_t)ptr; }

/* Zeroes many bytes. Whole pages of device memory are given back to the host instead: they read as
 * zero and cost nothing until they are written. */
static void zero(uint8_t *dst, size_t bytes) {
    enum { PAGE = 2 << 20 };
    uintptr_t first = ((uintptr_t)dst + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t last = ((uintptr_t)dst + bytes) & ~(uintptr_t)(PAGE - 1);
    if (first < last && madvise((void *)first, last - first, MADV_REMOVE) == 0) {
        memset(dst, 0, first - (uintptr_t)dst);
        memset((void *)last, 0, (uintptr_t)dst + bytes - last);
        return;
    }
    memset(dst, 0, bytes);
}

static void fill(uint8_t *dst, size_t bytes, uint32_t value, unsigned width) {
    if (value == 0) {
        zero(dst, bytes);
        return;
    }
    if (width == 1) {
        memset(dst, (int)value, bytes);
        return;
    }
    /* The first value, then what is there already, doubling. */
    size_t done = width < bytes ? width : bytes;
    memcpy(dst, &value, done); /* little-endian: the low bytes come first */
    while (done < bytes) {
        size_t next = done < bytes - done ? done : bytes - done;
        next = next > 1 << 16 ? 1 << 16 : next; /* stay in the cache */
        memcpy(dst + done, dst + done % width, next);
        done += next;
    }
}

static void do_job(const struct sim_job *job) {
    for (size_t z = 0; z < job->depth; z++) {
        for (size_t y = 0; y < job->height; y++) {
            uint8_t *dst = job->dst + z * job->dst_slice + y * job->dst_pitch;
            if (job->src == NULL)
                fill(dst, job->row_bytes, job->value, job->width);
            else
                memmove(dst, job->src + z * job->src_slice + y * job->src_pitch, job->row_bytes);
        }
    }
}

/* From the first byte that a job writes to the last. */
static size_t job_extent(const struct sim_job *job) {
    if (job->row_bytes == 0 || job->height == 0 || job->depth == 0)
        return 0;
    return (job->depth - 1) * job->dst_slice + (job->height - 1) * job->dst_pitch + job->row_bytes;
}

static void write_word(const struct sim_op *op) {
    /* Release: what was written before is seen by who waits for the word. */
    if ((op->flags & SIM_OP_WORD_64) != 0)
        __atomic_store_n((uint64_t *)at(op->word.ptr), op->word.value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)at(op->word.ptr), (uint32_t)op->word.value, __ATOMIC_RELEASE);
}

/* Whether a word of `bits` bits has what the wait asks for. */
static bool satisfied(uint64_t word, uint64_t value, unsigned compare, unsigned bits) {
    uint64_t mask = bits == 64 ? UINT64_MAX : UINT32_MAX;
    switch (compare) {
    case CU_STREAM_WAIT_VALUE_EQ:
        return word == value;
    case CU_STREAM_WAIT_VALUE_AND:
        return (word & value) != 0;
    case CU_STREAM_WAIT_VALUE_NOR:
        return (~(word | value) & mask) != 0;
    default: /* cyclic: the difference, taken as signed, is not negative */
        return ((word - value) >> (bits - 1) & 1) == 0;
    }
}

static bool poll_word(const struct sim_op *op) {
    bool wide = (op->flags & SIM_OP_WORD_64) != 0;
    if (sim_memory_check(op->word.ptr, wide ? 8 : 4, false) != CUDA_SUCCESS) {
        sim_log("a stream waits for a word at %p, which is no longer mapped: it goes on",
                at(op->word.ptr));
        return true;
    }
    /* Acquire: pairs with whoever releases the stream by writing the word. */
    if (wide)
        return satisfied(__atomic_load_n((uint64_t *)at(op->word.ptr), __ATOMIC_ACQUIRE),
                         op->word.value, op->compare, 64);
    return satisfied(__atomic_load_n((uint32_t *)at(op->word.ptr), __ATOMIC_ACQUIRE),
                     (uint32_t)op->word.value, op->compare, 32);
}

/* Whether the source of a copy is still there: a graph may have outlived its memory. */
static bool readable(const struct sim_op *op) {
    if ((op->flags & SIM_OP_KNOWN_SOURCE) == 0 ||
        sim_memory_check(op->copy.src, op->copy.bytes, false) == CUDA_SUCCESS)
        return true;
    sim_log("%zu bytes at %p were to be read after they were freed: left out", op->copy.bytes,
            at(op->copy.src));
    return false;
}

static bool writable(CUdeviceptr dst, size_t bytes) {
    if (bytes == 0)
        return false;
    if (sim_memory_touch(dst, bytes))
        return true;
    sim_log("%zu bytes at %p were to be written after they were freed: left out", bytes, at(dst));
    return false;
}

bool sim_effect(const struct sim_op *op) {
    switch (op->kind) {
    case SIM_OP_COPY:
        if (readable(op) && writable(op->copy.dst, op->copy.bytes))
            memmove(at(op->copy.dst), at(op->copy.src), op->copy.bytes);
        return true;
    case SIM_OP_FILL:
        if (writable(op->fill.dst, op->fill.bytes))
            fill(at(op->fill.dst), op->fill.bytes, op->fill.value, op->width);
        return true;
    case SIM_OP_JOB:
        if (writable((CUdeviceptr)(uintptr_t)op->job->dst, job_extent(op->job)))
            do_job(op->job);
        return true;
    case SIM_OP_WRITE:
        if (writable(op->word.ptr, (op->flags & SIM_OP_WORD_64) != 0 ? 8 : 4))
            write_word(op);
        return true;
    case SIM_OP_POLL:
        return poll_word(op);
    case SIM_OP_SHARED: /* whether its process lives is asked while nothing happens for long */
        return sim_shared_event_done(op->shared.event, op->shared.number,
                                     sim_engine.poll_ns >= SIM_POLL_LAST_NS);
    default:
        return true;
    }
}

size_t sim_effect_bytes(const struct sim_op *op) {
    switch (op->kind) {
    case SIM_OP_COPY:
        return op->copy.bytes;
    case SIM_OP_FILL:
        return op->fill.bytes;
    case SIM_OP_JOB:
        return op->job->row_bytes * op->job->height * op->job->depth;
    default:
        return 0;
    }
}
