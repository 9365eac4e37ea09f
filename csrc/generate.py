"""Write everything that is derived from a table of a vendor's functions.

Usage: ``generate.py TABLE shim|sim|docs OUTPUT`` where OUTPUT is a folder for ``shim`` and
``sim`` and a file for ``docs``. The library is known by the folder of the table, such as
``csrc/cuda``. Runs at build time, so it imports nothing but Python's own modules.

The table has one row a public function, tab separated: function, class, by, symbols, reason.

* class: what the function does to a slice, one of ``CLASSES``.
* by: ``shim`` (each of its symbols has a wrapper ``aliquot_SYMBOL`` beside the table), ``noted`` (a
  derived wrapper notes that it was called, and goes on to the driver), ``driver`` (exported, and
  answered by the driver's own address), ``none`` (never exported: it is found in the driver itself,
  behind the shim).
* symbols: ``SYMBOL@SINCE[/ptds|/ptsz]``, each exported form with the version of the interface (of
  CUDA, say) that brought it, 0 where no header and no driver tells; ``ptds`` and ``ptsz`` mark the
  per-thread forms.
* reason: why it is in its class and, where it is not wrapped, why that is right.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = {
    "charge": "gives device memory, or keeps it alive",
    "release": "gives device memory back, or lets go of it",
    "query": "tells how much device memory there is",
    "launch": "runs on the compute units: kernels, graphs, memsets, copies within a device",
    "copy": "moves data by other engines; never delayed, and no time of the compute units",
    "order": "orders work or waits for it; never delayed, since it releases others",
    "lifecycle": "begins or ends something that the slice's books may have to follow",
    "pass": "neither takes memory nor runs work",
}
BY = {"shim": "wrapped", "noted": "noted", "driver": "driver", "none": "not exported"}
FORMS = ("", "ptds", "ptsz")
COLUMNS = ["function", "class", "by", "symbols", "reason"]


@dataclass(frozen=True)
class Library:
    """The library that a table is of.

    ``title`` is for people; ``private`` is the name under which a shim finds the real one.
    ``calls_itself``: it calls its own exported functions as others do, and so looks them up in the
    shim before that is relocated: then exports are plain functions, of what is wrapped only.
    ``meanings`` says what the classes that its functions are in mean for it. ``unsupported``: what
    the simulator's functions that are none call, with their names.
    """

    title: str
    soname: str
    private: str
    calls_itself: bool = False
    unsupported: str = "sim_unsupported"
    meanings: dict[str, str] = field(default_factory=lambda: CLASSES)


LIBRARIES = {
    "cuda": Library("the CUDA driver", "libcuda.so.1", "libcuda-driver.so.1"),
    "nvml": Library(
        "NVML",
        "libnvidia-ml.so.1",
        "libnvidia-ml-driver.so.1",
        calls_itself=True,
        meanings={
            "query": "tells of the devices: which there are, what they have, who is on them",
            "lifecycle": "begins or ends the library's work",
            "pass": "tells nothing that a slice has a part of, or changes what the driver allows",
        },
    ),
    "ascend": Library(
        "the Ascend runtime", "libruntime.so", "libruntime-driver.so", calls_itself=True
    ),
    # Whether it calls itself is not known: then as if it did.
    "cambricon": Library(
        "Cambricon's driver library",
        "libcndrv.so",
        "libcndrv-driver.so",
        calls_itself=True,
        unsupported="cn_unsupported",
    ),
}


class TableError(Exception):
    """A mistake in the table; the text names the line."""


@dataclass(frozen=True)
class Symbol:
    """One exported form of a function; ``since`` is a CUDA version such as 3020, or 0."""

    name: str
    since: int
    form: str


@dataclass(frozen=True)
class Row:
    """One public function, named without version or per-thread suffix."""

    function: str
    kind: str
    by: str
    symbols: tuple[Symbol, ...]
    reason: str

    @property
    def wrapped(self) -> bool:
        """Whether calls come to the shim first."""
        return self.by in ("shim", "noted")


def parse(text: str) -> list[Row]:
    """Read the table; raises TableError with the line number at the first mistake."""
    rows: list[Row] = []
    seen: set[str] = set()
    lines = text.splitlines()
    if not lines or lines[0].split("\t") != COLUMNS:
        raise TableError(f"line 1: expected the columns {' '.join(COLUMNS)}, tab separated")
    for number, line in enumerate(lines[1:], start=2):
        row = _parse_row(number, line)
        for symbol in row.symbols:
            if symbol.name in seen:
                raise TableError(f"line {number}: {symbol.name} is in the table twice")
            seen.add(symbol.name)
        if rows and row.function <= rows[-1].function:
            raise TableError(f"line {number}: {row.function} is out of order")
        rows.append(row)
    return rows


def _parse_row(number: int, line: str) -> Row:
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise TableError(f"line {number}: {len(fields)} fields instead of {len(COLUMNS)}")
    function, kind, by, symbols, reason = fields
    if kind not in CLASSES:
        raise TableError(f"line {number}: {function}: no class is called {kind!r}")
    if by not in BY:
        raise TableError(f"line {number}: {function}: by is {by!r}, not one of {' '.join(BY)}")
    if not reason.strip():
        raise TableError(f"line {number}: {function}: the reason is missing")
    parsed = []
    for item in symbols.split():
        match = re.fullmatch(r"(\w+)@(\d+)(?:/(ptds|ptsz))?", item)
        if not match:
            raise TableError(f"line {number}: {function}: {item!r} is not SYMBOL@SINCE[/FORM]")
        name, since, form = match[1], int(match[2]), match[3] or ""
        version = rf"{function}(_v\d+)?" + (f"_{form}" if form else "")
        if not re.fullmatch(version, name):
            raise TableError(f"line {number}: {name} is not a form of {function}")
        parsed.append(Symbol(name, since, form))
    if not parsed:
        raise TableError(f"line {number}: {function}: no symbol")
    return Row(function, kind, by, tuple(parsed), reason)


def _exported(rows: list[Row]) -> list[tuple[Row, Symbol]]:
    return [(row, symbol) for row in rows if row.by != "none" for symbol in row.symbols]


def _source(about: str, lines: list[str]) -> str:
    head = f"/* {about}\n * Derived from functions.tsv: change it there. */"
    return "\n".join([head, *lines, ""])


def functions_header(rows: list[Row], library: Library) -> str:
    """functions.h: the library's names, and a number for each exported symbol, in table order."""
    names = [f"    F_{symbol.name}," for _, symbol in _exported(rows)]
    return _source(
        f"A number for each exported symbol of {library.title}.",
        [
            "#pragma once",
            "",
            f'#define ALIQUOT_DRIVER_SONAME "{library.soname}"',
            f'#define ALIQUOT_DRIVER_NAME "{library.private}"',
            "",
            *["enum aliquot_fn {", *names, "    F_COUNT", "};"],
        ],
    )


def shim_exports(rows: list[Row]) -> str:
    """exports.c: each symbol as an indirect function, resolved when it is first looked up.

    The resolver answers NULL where the driver lacks the symbol, and dlsym then does too.
    Resolvers may run before the sanitizers' own set-up, hence the attributes.
    """
    lines = [
        '#include "functions.h"',
        "",
        "void *aliquot_export(unsigned fn);",
        "typedef void (*function)(void);",
        "#ifdef __clang__",
        '#define NO_SANITIZE_UNDEFINED no_sanitize("undefined")',
        "#else",
        "#define NO_SANITIZE_UNDEFINED no_sanitize_undefined",
        "#endif",
        "#define RESOLVER                                                                       \\",
        "    __attribute__((used, no_stack_protector, no_sanitize_address,                      \\",
        "                   no_sanitize_thread, NO_SANITIZE_UNDEFINED)) static function",
        '#define EXPORT(resolver) __attribute__((ifunc(resolver), visibility("default"))) void',
        "",
    ]
    for _, symbol in _exported(rows):
        name = symbol.name
        lines += [
            f"RESOLVER resolve_{name}(void) {{ return (function)aliquot_export(F_{name}); }}",
            f'EXPORT("resolve_{name}") {name}(void);',
        ]
    return _source("The exports of the shim.", lines)


def plain_exports(rows: list[Row]) -> str:
    """exports.c: each wrapped symbol as a jump to its wrapper, which sees its caller's caller.

    What is not wrapped is found in the real library, behind the shim. Derived wrappers would need
    that to be found already. Raises TableError.
    """
    for row in rows:
        if row.by == "noted":
            raise TableError(f"{row.function}: noted, in a library that calls itself")
    lines = [
        "#ifdef __x86_64__",
        '#define JUMP "jmp "',
        "#else",
        '#define JUMP "b "',
        "#endif",
        "#define EXPORT(name)                                                                   \\",
        '    __asm__(".text\\n.globl " #name "\\n.type " #name ", %function\\n" \\',
        '            #name ":\\n" JUMP "aliquot_" #name "\\n.size " #name ", . - " #name)',
        "",
    ]
    lines += [f"EXPORT({s.name});" for row, s in _exported(rows) if row.by == "shim"]
    return _source("The exports of the shim.", lines)


# Assembler of the derived wrappers: NOTED(symbol, its place in aliquot_real in bytes).
_NOTED = r"""
/* aliquot_aside is set, and the driver called with all arguments where they are. */
#ifdef __x86_64__
#define NOTE(real) \
    "cmpb $0, aliquot_aside(%rip)\n" \
    "jne 1f\n" \
    "movb $1, aliquot_aside(%rip)\n" \
    "1: jmp *" real "(%rip)\n"
#else
#define NOTE(real) \
    "adrp x16, aliquot_aside\n" \
    "ldrb w17, [x16, :lo12:aliquot_aside]\n" \
    "cbnz w17, 1f\n" \
    "mov w17, #1\n" \
    "strb w17, [x16, :lo12:aliquot_aside]\n" \
    "1: adrp x16, " real "\n" \
    "ldr x16, [x16, :lo12:" real "]\n" \
    "br x16\n"
#endif
#define NOTED(name, place) \
    __asm__(".text\n.globl " name "\n.hidden " name "\n.type " name ", %function\n" \
            ".balign 4\n" name ":\n" NOTE("aliquot_real+" #place) \
            ".size " name ", . - " name "\n")
"""


def _noted(exported: list[tuple[Row, Symbol]]) -> list[str]:
    lines = [
        f'NOTED("aliquot_{symbol.name}", {number * 8});'
        for number, (row, symbol) in enumerate(exported)
        if row.by == "noted"
    ]
    return [*_NOTED.splitlines(), *lines, ""] if lines else []


def shim_table(rows: list[Row]) -> str:
    """table.c: name and wrapper of each symbol; a missing wrapper fails the link by its name.

    Names are one text, and wrappers are told by how far they lie from their entries, so that there
    are no pointers that the loader would have to relocate.
    """
    exported = _exported(rows)
    names = [f'    "{symbol.name}\\0"' for _, symbol in exported]
    entries = [f"aliquot_{s.name} - ." if row.wrapped else "0" for row, s in exported]
    return _source(
        "Name and wrapper of each symbol; none where the driver's own address is handed out.",
        [
            '__attribute__((visibility("hidden"))) extern const char aliquot_fn_names[];',
            "const char aliquot_fn_names[] =",
            *names,
            "    ;",
            "",
            *_noted(exported),
            "__asm__(",
            r'    ".section .rodata.aliquot_fn_wrapper, \"a\"\n"',
            r'    ".balign 4\n"',
            r'    ".globl aliquot_fn_wrapper\n"',
            r'    ".hidden aliquot_fn_wrapper\n"',
            r'    "aliquot_fn_wrapper:\n"',
            *[rf'    ".long {entry}\n"' for entry in entries],
            r'    ".previous\n");',
        ],
    )


def sim_stubs(rows: list[Row], library: Library) -> str:
    """stubs.c: a weak definition of each symbol, for what the simulator does not implement."""
    lines = [f"int {library.unsupported}(const char *name);", ""]
    for _, symbol in _exported(rows):
        name = symbol.name
        lines += [
            f"__attribute__((weak)) int {name}(void);",
            f'int {name}(void) {{ return {library.unsupported}("{name}"); }}',
        ]
    return _source("What the simulator does not implement says so.", lines)


def sim_proc(rows: list[Row]) -> str:
    """proc.c: what cuGetProcAddress chooses from, sorted by base name, then by version."""
    exported = [
        (row.function.encode(), symbol.since, FORMS.index(symbol.form), symbol.name)
        for row, symbol in _exported(rows)
        if symbol.since
    ]
    exported.sort()
    return _source(
        "What cuGetProcAddress chooses from. form: 0 plain, 1 ptds, 2 ptsz.",
        [
            "#include <stddef.h>",
            "",
            "struct sim_proc {",
            "    const char *base, *symbol;",
            "    int since, form;",
            "    void *address;",
            "};",
            "",
            *[f"int {name}(void);" for _, _, _, name in exported],
            "",
            f"extern const struct sim_proc sim_proc_table[{len(exported)}];",
            "extern const size_t sim_proc_count;",
            "",
            f"const size_t sim_proc_count = {len(exported)};",
            f"const struct sim_proc sim_proc_table[{len(exported)}] = {{",
            *[
                f'    {{"{base.decode()}", "{name}", {since}, {form}, (void *){name}}},'
                for base, since, form, name in exported
            ],
            "};",
        ],
    )


def sim_map(rows: list[Row]) -> str:
    """exports.map: the simulator exports what a driver exports, and nothing else."""
    names = "".join(f"    {symbol.name};\n" for _, symbol in _exported(rows))
    return "{\nglobal:\n" + names + "local:\n    *;\n};\n"


def coverage(rows: list[Row], library: Library, folder: str) -> str:
    """The coverage page: every function, by class."""
    count = sum(len(row.symbols) for row in rows)
    lines = [
        f"# Coverage of {library.title}",
        "",
        f"<!-- Derived from csrc/{folder}/functions.tsv: change it there. -->",
        "",
        f"{len(rows)} public functions with {count} exported forms, each in one class.",
        "*wrapped*: the shim looks at the call. *noted*: it notes that there was one.",
        "*driver*: the call goes straight to the driver.",
        "*not exported*: found in the driver itself, never in the shim.",
        "",
        f"| class | what its functions do | {' | '.join(BY.values())} |",
        "|---|---|" + "---:|" * len(BY),
    ]
    for kind, meaning in library.meanings.items():
        counts = [sum(row.kind == kind and row.by == by for row in rows) for by in BY]
        lines.append(f"| {kind} | {meaning} | {' | '.join(map(str, counts))} |")
    for kind in library.meanings:
        lines += ["", f"## {kind}", "", "| function | forms | by | why |", "|---|---|---|---|"]
        for row in rows:
            if row.kind == kind:
                forms = " ".join(f"`{symbol.name}`" for symbol in row.symbols)
                lines.append(f"| `{row.function}` | {forms} | {BY[row.by]} | {row.reason} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write the part that is asked for; answers the exit status."""
    if len(arguments) != 3 or arguments[1] not in ("shim", "sim", "docs"):
        print("usage: generate.py TABLE shim|sim|docs OUTPUT", file=sys.stderr)
        return 2
    table, part, output = Path(arguments[0]), arguments[1], Path(arguments[2])
    folder = table.resolve().parent.name
    library = LIBRARIES.get(folder)
    if library is None:
        print(f"{table}: no library is known by the folder '{folder}'", file=sys.stderr)
        return 1
    try:
        rows = parse(table.read_text(encoding="utf-8"))
    except (OSError, TableError) as error:
        print(f"{table}: {error}", file=sys.stderr)
        return 1
    if part == "docs":
        output.write_text(coverage(rows, library, folder), encoding="utf-8")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    files = {"functions.h": functions_header(rows, library)}
    if part == "shim":
        exports = plain_exports(rows) if library.calls_itself else shim_exports(rows)
        files |= {"exports.c": exports, "table.c": shim_table(rows)}
    else:
        files |= {
            "stubs.c": sim_stubs(rows, library),
            "proc.c": sim_proc(rows),
            "exports.map": sim_map(rows),
        }
    for name, text in files.items():
        (output / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
