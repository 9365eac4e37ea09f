/* Functions that stand before others of any signature, on x86-64: a call of one is seen when it comes and
 * when it returns, and may be answered without the other.
 *
 * All arguments, those on the stack too, are left where they are: so the address of return is kept aside
 * while the other function runs, and given back by whoever sees the call return.
 */
#ifndef FAULT_STUB_H
#define FAULT_STUB_H

#include <stdint.h>

/* What is to be done with a call: it goes on to `target`, or is answered with `code` where that is NULL. */
struct fault_verdict {
    void *target;
    uint64_t code;
};

/* The arguments of a call that lie in registers, and where it returns to. */
struct fault_frame {
    uint64_t argument[6];
};

/* `PREFIX_enter(number, frame, back)` decides on a call of the function of that number; where it goes on,
 * `PREFIX_leave(answer)` is told its answer and returns `back`. A stub has its number in r11. */
#define FAULT_STUBS(PREFIX)                                                                        \
    __asm__(".text\n.type " #PREFIX "_common, @function\n" #PREFIX "_common:\n"                    \
            "push %rbp\n mov %rsp, %rbp\n"                                                         \
            "sub $192, %rsp\n"                                                                     \
            "mov %rdi, (%rsp)\n mov %rsi, 8(%rsp)\n mov %rdx, 16(%rsp)\n"                          \
            "mov %rcx, 24(%rsp)\n mov %r8, 32(%rsp)\n mov %r9, 40(%rsp)\n mov %rax, 48(%rsp)\n"    \
            "movups %xmm0, 64(%rsp)\n movups %xmm1, 80(%rsp)\n movups %xmm2, 96(%rsp)\n"           \
            "movups %xmm3, 112(%rsp)\n movups %xmm4, 128(%rsp)\n movups %xmm5, 144(%rsp)\n"        \
            "movups %xmm6, 160(%rsp)\n movups %xmm7, 176(%rsp)\n"                                  \
            "mov %r11, %rdi\n mov %rsp, %rsi\n mov 8(%rbp), %rdx\n"                                \
            "call " #PREFIX "_enter\n"                                                             \
            "mov %rax, %r11\n mov %rdx, %r10\n"                                                    \
            "mov (%rsp), %rdi\n mov 8(%rsp), %rsi\n mov 16(%rsp), %rdx\n"                          \
            "mov 24(%rsp), %rcx\n mov 32(%rsp), %r8\n mov 40(%rsp), %r9\n mov 48(%rsp), %rax\n"    \
            "movups 64(%rsp), %xmm0\n movups 80(%rsp), %xmm1\n movups 96(%rsp), %xmm2\n"           \
            "movups 112(%rsp), %xmm3\n movups 128(%rsp), %xmm4\n movups 144(%rsp), %xmm5\n"        \
            "movups 160(%rsp), %xmm6\n movups 176(%rsp), %xmm7\n"                                  \
            "leave\n"                                                                              \
            "test %r11, %r11\n jz 1f\n"                                                            \
            "add $8, %rsp\n call *%r11\n sub $8, %rsp\n"                                           \
            "push %rax\n push %rdx\n sub $8, %rsp\n"                                               \
            "mov %rax, %rdi\n call " #PREFIX "_leave\n"                                            \
            "mov %rax, 24(%rsp)\n add $8, %rsp\n pop %rdx\n pop %rax\n ret\n"                      \
            "1: mov %r10, %rax\n ret\n"                                                            \
            ".size " #PREFIX "_common, . - " #PREFIX "_common\n");                                 \
    __attribute__((used)) struct fault_verdict PREFIX##_enter(                                     \
        uint64_t number, const struct fault_frame *frame, void *back);                             \
    __attribute__((used)) void *PREFIX##_leave(uint64_t answer)

#endif
