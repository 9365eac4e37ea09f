"""A library before another one, whose functions answer errors when they are told to.

It is made of a list of names alone: a function that is not told anything jumps to the one behind it
with all that it was called with, whatever that is. What functions are told lies in a file that the
library maps, so that whoever has it may change it at any moment, from any process.
"""

from __future__ import annotations

import mmap
import platform
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What a function is told: u32 calls, failed; u32 mode, i32 code; u32 argument, out, bytes, skip;
# u64 mask, value; u64 written, offset.
_ENTRY: Final = struct.Struct("=IIIiIIIIQQQQ")
_U64: Final = (1 << 64) - 1
_PASS, _FAIL, _FAIL_AFTER, _WRITE = range(4)

# Arguments beyond the sixth are passed on where a function passes, and nowhere else.
_SOURCE: Final = """
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct entry {
    uint32_t calls, failed, mode;
    int32_t code;
    uint32_t argument, out, bytes, skip;
    uint64_t mask, value, written, offset;
};
static struct entry *page;
static const char *const names[] = {@CALLED@};
enum { COUNT = sizeof names / sizeof *names };
__attribute__((visibility("hidden"))) void *failing_real[COUNT];

static long lacks(void) { return @LACKING@; }

__attribute__((constructor)) static void begin(void) {
    int fd = open("@PAGE@", O_RDWR | O_CLOEXEC);
    page = mmap(NULL, COUNT * sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *real = dlopen("@REAL@", RTLD_NOW | RTLD_LOCAL);
    if (fd < 0 || page == MAP_FAILED || !real)
        abort();
    close(fd);
    for (unsigned i = 0; i < COUNT; i++) {
        failing_real[i] = dlsym(real, names[i]);
        if (!failing_real[i])
            failing_real[i] = (void *)lacks;
    }
}

/* What a call is to do, by its first six arguments; a code goes into their first place. No register
 * of floating point is touched. */
__attribute__((visibility("hidden"), target("general-regs-only"))) unsigned
failing_decide(uint64_t *arguments, uint64_t number) {
    struct entry *own = &page[number];
    __atomic_add_fetch(&own->calls, 1, __ATOMIC_RELAXED);
    unsigned mode = __atomic_load_n(&own->mode, __ATOMIC_ACQUIRE);
    if (!mode || (arguments[own->argument] & own->mask) != own->value)
        return 0;
    if (own->skip) {
        own->skip--;
        return 0;
    }
    __atomic_add_fetch(&own->failed, 1, __ATOMIC_RELAXED);
    if (mode == 1)
        arguments[0] = (uint64_t)(int64_t)own->code;
    return mode;
}

/* What a call answers that was made. */
__attribute__((visibility("hidden"))) long failing_after(const uint64_t *arguments, uint64_t number,
                                                         long answer) {
    const struct entry *own = &page[number];
    if (own->mode == 2)
        return own->code;
    if (answer == 0 && arguments[own->out])
        memcpy((char *)arguments[own->out] + own->offset, &own->written, own->bytes);
    return answer;
}

__asm__(
    ".text\\n"
    ".type failing_any,@function\\n"
    "failing_any:\\n"
    "  pushq %r11\\n"
    "  pushq %rax\\n"
    "  pushq %r9\\n  pushq %r8\\n  pushq %rcx\\n  pushq %rdx\\n  pushq %rsi\\n  pushq %rdi\\n"
    "  subq $8, %rsp\\n"
    "  leaq 8(%rsp), %rdi\\n"
    "  movq %r11, %rsi\\n"
    "  call failing_decide\\n"
    "  addq $8, %rsp\\n"
    "  movl %eax, %r10d\\n"
    "  popq %rdi\\n  popq %rsi\\n  popq %rdx\\n  popq %rcx\\n  popq %r8\\n  popq %r9\\n"
    "  popq %rax\\n"
    "  popq %r11\\n"
    "  testl %r10d, %r10d\\n"
    "  jnz 1f\\n"
    "  leaq failing_real(%rip), %r10\\n"
    "  jmpq *(%r10,%r11,8)\\n"
    "1: cmpl $1, %r10d\\n"
    "  jne 2f\\n"
    "  movq %rdi, %rax\\n"
    "  ret\\n"
    "2: pushq %r11\\n"
    "  pushq %r9\\n  pushq %r8\\n  pushq %rcx\\n  pushq %rdx\\n  pushq %rsi\\n  pushq %rdi\\n"
    "  leaq failing_real(%rip), %r10\\n"
    "  call *(%r10,%r11,8)\\n"
    "  movq %rsp, %rdi\\n"
    "  movq 48(%rsp), %rsi\\n"
    "  movq %rax, %rdx\\n"
    "  call failing_after\\n"
    "  addq $56, %rsp\\n"
    "  ret\\n"
@FUNCTIONS@
);
"""


@dataclass(frozen=True, slots=True)
class Only:
    """Which calls fail: those of which an argument has a value, in the bits of ``mask``."""

    argument: int = 0
    value: int = 0
    mask: int = 0xFFFFFFFF


class FailingLibrary:
    """The library at ``path``, with these functions of the one at ``real``.

    ``called`` is what ``real`` calls some of them. What it lacks answers ``lacking`` always. It
    must be of x86-64.
    """

    def __init__(
        self,
        folder: Path,
        real: Path,
        names: Iterable[str],
        *,
        called: Mapping[str, str] | None = None,
        lacking: int = 0,
        soname: str = "",
    ) -> None:
        if platform.machine() != "x86_64":
            raise NotImplementedError("functions of unknown arguments are passed on x86-64 alone")
        self.names = tuple(dict.fromkeys(names))
        self._at = {name: number for number, name in enumerate(self.names)}
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / (soname or real.name)
        page = folder / "failing.page"
        page.write_bytes(bytes(_ENTRY.size * len(self.names)))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)
        functions = [
            f'    ".globl {name}\\n.type {name},@function\\n{name}:\\n"\n'
            f'    "  endbr64\\n  movl ${number}, %r11d\\n  jmp failing_any\\n"'
            for number, name in enumerate(self.names)
        ]
        text = _SOURCE
        for key, value in (
            ("CALLED", ", ".join(f'"{(called or {}).get(name, name)}"' for name in self.names)),
            ("LACKING", str(lacking)),
            ("PAGE", str(page)),
            ("REAL", str(real)),
            ("FUNCTIONS", "\n".join(functions)),
        ):
            text = text.replace(f"@{key}@", value)
        source = folder / "failing.c"
        source.write_text(text)
        command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared"]
        command += ["-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{self.path.name}"]
        subprocess.run([*command, str(source), "-o", str(self.path), "-ldl"], check=True)

    def without(self, folder: Path, *names: str) -> Path:
        """Return a copy that lacks functions, and is told the same."""
        image = self.path.read_bytes()
        for name in names:
            # In the table of what it exports, which comes first in the file: what is looked for is
            # not found under another name.
            begin = image.index(b"\0" + name.encode() + b"\0") + 1
            image = image[:begin] + b"-" + image[begin + 1 :]
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / self.path.name
        copy.write_bytes(image)
        return copy

    # -- what functions are told --

    def _tell(
        self,
        name: str,
        mode: int,
        only: Only,
        *,
        code: int = 0,
        out: int = 0,
        size: int = 0,
        skip: int = 0,
        written: int = 0,
        offset: int = 0,
    ) -> None:
        at = self._at[name] * _ENTRY.size
        calls, _ = struct.unpack_from("=II", self._page, at)
        where = (only.argument, out, size, skip, only.mask, only.value)
        whole = _ENTRY.pack(calls, 0, mode, code, *where, written & _U64, offset)
        # (The mode last: who reads it finds the rest.)
        self._page[at + 12 : at + _ENTRY.size] = whole[12:]
        self._page[at : at + 12] = whole[:12]

    def fail(
        self, name: str, code: int, only: Only = Only(mask=0), *, done: bool = False, skip: int = 0
    ) -> None:
        """Have a function answer ``code`` after ``skip`` calls; ``done``: having done it."""
        self._tell(name, _FAIL_AFTER if done else _FAIL, only, code=code, skip=skip)

    def write(self, name: str, out: int, value: int, size: int = 4, offset: int = 0) -> None:
        """Have a function that succeeds write a number where argument ``out`` leads, behind it."""
        self._tell(name, _WRITE, Only(mask=0), out=out, size=size, written=value, offset=offset)

    def mend(self, *names: str) -> None:
        """Tell these functions, or all, nothing any more."""
        for name in names or self.names:
            self._tell(name, _PASS, Only(mask=0))

    def failed(self, name: str) -> int:
        """Return how often a function has failed since it was told to."""
        return int(struct.unpack_from("=II", self._page, self._at[name] * _ENTRY.size)[1])

    def calls(self) -> dict[str, int]:
        """Return how often each function was called, of those that were."""
        counts = {
            name: int(struct.unpack_from("=I", self._page, at * _ENTRY.size)[0])
            for name, at in self._at.items()
        }
        return {name: count for name, count in counts.items() if count}

    def forget_calls(self) -> None:
        """Count calls from none."""
        for at in self._at.values():
            struct.pack_into("=I", self._page, at * _ENTRY.size, 0)
