"""What NVIDIA's headers and driver libraries say, read as text and as symbol tables."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

PRODUCTS = ("cuda.h", "cudaGL.h", "cudaEGL.h", "cudaVDPAU.h", "cudaProfiler.h")


@dataclass(frozen=True, slots=True)
class Headers:
    """The driver functions of one CUDA version.

    ``symbols`` are all exported names that the headers declare or rename to, old versions and
    per-thread forms included. ``versions`` are ``(function, CUDA version, "" | "ptds" | "ptsz")``
    as the pointer types name them.
    """

    symbols: frozenset[str]
    versions: frozenset[tuple[str, int, str]]


def read_headers(folder: Path) -> Headers:
    """Read the headers of one CUDA version; a product header that it lacks adds nothing."""
    symbols: set[str] = set()
    for name in PRODUCTS:
        path = folder / name
        if path.exists():
            symbols |= _symbols(path.read_text(encoding="utf-8", errors="replace"))
    versions = set()
    for path in folder.glob("cuda*Typedefs.h"):
        text = path.read_text(encoding="utf-8", errors="replace")
        for match in re.finditer(r"\bPFN_(cu\w+?)_v(\d+)(?:_(ptds|ptsz))?\)\s*\(", text):
            versions.add((match[1], int(match[2]), match[3] or ""))
    return Headers(frozenset(symbols), frozenset(versions))


def _symbols(text: str) -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"//.*", "", text)
    found = {match[1] for match in re.finditer(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(", text)}
    rename = r"#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_(PTDS|PTSZ)\()?(cu[A-Z]\w*)"
    for match in re.finditer(rename, text):
        found.add(match[2])
        if match[1]:
            found.add(f"{match[2]}_{match[1].lower()}")
    # Inline conveniences of the headers for programs, which no driver exports.
    return found - {"cuGetProcAddress_ptsz", "cuGetProcAddress_v2_ptsz"}


def nvml_functions(header: Path) -> frozenset[str]:
    """The functions that nvml.h declares or renames to, old versions included."""
    text = header.read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    declared = re.findall(r"\bDECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(", text)
    renamed = re.findall(r"#\s*define\s+nvml\w+\s+(nvml[A-Z]\w*_v\d+)\b", text)
    return frozenset(declared) | frozenset(renamed)


def exports(library: Path) -> dict[str, int]:
    """Name and offset of everything that a shared library exports."""
    return _nm("-D", "--defined-only", str(library))


def own_symbols(library: Path) -> dict[str, int]:
    """Name and offset of everything in a library's full symbol table; empty if it is stripped."""
    return _nm("--defined-only", str(library))


def _nm(*arguments: str) -> dict[str, int]:
    run = subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True)
    found = {}
    for line in run.stdout.splitlines():
        address, _, name = line.split(maxsplit=2)
        found[name.split("@")[0]] = int(address, 16)
    return found
