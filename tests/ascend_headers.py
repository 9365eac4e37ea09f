"""AscendCL's headers, read as text and by a compiler: what is declared, and how large it is."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nvidia_files

# CANN is on no registry of packages; what is built on it carries its public headers.
WHEEL = "torch_npu==2.14.0"
# Those that are C: what programs call of the runtime is in them.
HEADERS = ("acl/acl.h", "acl/acl_rt_memory_soma.h", "acl/acl_op_compiler.h", "acl/acl_prof.h")


def header_folder() -> Path:
    """The folder in which the headers are below ``acl``.

    Raises UnreachableError if PyPI cannot be reached.
    """
    folder = nvidia_files.cache_folder() / "acl-2-14"
    nvidia_files.unpack_headers(folder, WHEEL, "headers of AscendCL from PyPI")
    return next(folder.glob("**/acl/acl.h")).parent.parent


def without_comments(text: str) -> str:
    """The code alone."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def parameters(text: str) -> tuple[str, ...]:
    """The types of a list of parameters, named or not; an array is a pointer."""
    types = []
    parts = re.split(r",(?![^(]*\))", " ".join(text.split()))
    for part in (part.strip() for part in parts):
        if "[" in part or "(*" in part:
            types.append("void *")
        elif part and part != "void":
            named = re.fullmatch(r"(.*[\s*])(?!const$)([A-Za-z_]\w*)", part)
            words = re.findall(r"\w+", part)
            plain = [word for word in words if word not in ("const", "struct", "unsigned")]
            # (One word is a type, of two the last is a name.)
            types.append(named[1].strip() if named and (len(plain) > 1) else part)
    return tuple(types)


def prototypes(text: str, name: str = r"acl\w+") -> dict[str, tuple[str, ...]]:
    """Types of the parameters of each function that a header declares."""
    declared = re.compile(rf"\b(?:aclError|rtError_t)\s+({name})\s*\(([^;{{]*?)\)\s*;", re.DOTALL)
    return {match[1]: parameters(match[2]) for match in declared.finditer(without_comments(text))}


def declared(folder: Path) -> frozenset[str]:
    """All functions that the headers export."""
    found: set[str] = set()
    for path in folder.glob("acl/**/*.h"):
        text = without_comments(path.read_text(encoding="utf-8", errors="replace"))
        text = re.sub(r"ACL_DEPRECATED_MESSAGE\([^)]*\)|^\s*#[^\n]*", "", text, flags=re.MULTILINE)
        found.update(re.findall(r"\bACL_FUNC_VISIBILITY\b[^;{}()]*?\b(acl\w+)\s*\(", text))
        for start, name in re.findall(r"([^;{}()]*?)\b(acl\w+)\s*\([^;{]*\)\s*;", text):
            if not re.search(r"\b(?:return|typedef|static)\b", start):
                found.add(name)
    return frozenset(found)


def values(
    work: Path,
    expressions: Sequence[str],
    include: Iterable[str],
    folders: Iterable[Path],
    definitions: str = "",
) -> dict[str, int]:
    """What a compiler makes of integer expressions where the headers are included."""
    lines = [f"#include <{name}>" for name in ("stddef.h", "stdint.h", "stdbool.h", *include)]
    lines += ["#include <stdio.h>", definitions, "int main(void) {"]
    lines += [f'    printf("%lld\\n", (long long)({expression}));' for expression in expressions]
    lines += ["    return 0;", "}"]
    source = work / "values.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-std=gnu11", "-w", *(f"-I{folder}" for folder in folders)]
    subprocess.run([*command, "-o", str(work / "values"), str(source)], check=True)
    run = subprocess.run([str(work / "values")], check=True, capture_output=True, text=True)
    return dict(zip(expressions, map(int, run.stdout.split()), strict=True))


def shapes(
    functions: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> dict[str, tuple[tuple[int, bool], ...]]:
    """Of each function's parameters the size, and whether it is a pointer or a handle."""

    def is_pointer(written: str) -> bool:
        return "*" in written

    return {
        name: tuple((sizes[f"sizeof({one})"], is_pointer(one)) for one in types)
        for name, types in functions.items()
    }
