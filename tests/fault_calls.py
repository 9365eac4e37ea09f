"""Arguments for functions of which only the prototype is known: enough to reach the driver.

A letter stands for an argument, as fault_client.c has it.
"""

from __future__ import annotations

import re
from functools import cache

import nvidia_files
from cuda_table import ROOT
from tenant_vendors import VENDORS, Vendor

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^\s*#(?:[^\n]*\\\n)*[^\n]*", re.DOTALL | re.MULTILINE)
_PROTOTYPE = re.compile(r"\b(\w+)\s*\(([^(){};]*)\)\s*;")
_HANDLE = re.compile(r"typedef\s+(?:struct\s+\w+|void)\s*\*\s*([\w\s,*]+);")
_PER_THREAD = re.compile(r"(_ptsz|_ptds)$")
_VERSION = re.compile(r"_[vV]\d+$")


def _header(vendor: Vendor) -> str:
    if vendor.name == "nvidia":
        path = nvidia_files.header_folder("13.5") / "cuda.h"
    else:
        name = {"ascend": "runtime.h", "cambricon": "cndrv.h"}[vendor.name]
        path = ROOT / "csrc" / vendor.table / name
    return _COMMENT.sub(" ", path.read_text(encoding="utf-8", errors="replace"))


@cache
def _prototypes(vendor: str, text: str) -> dict[str, list[str]]:
    found = {}
    for name, parameters in _PROTOTYPE.findall(text):
        listed = [" ".join(parameter.split()) for parameter in parameters.split(",")]
        found[name] = [] if listed in (["void"], [""]) else listed
    return found


@cache
def _read(name: str) -> str:
    return _header(VENDORS[name])


def _letter(parameter: str, handles: frozenset[str], handle: str, number: str) -> str:
    if "*" in parameter or "[" in parameter:
        return "p"
    words = set(re.findall(r"\w+", parameter))
    return handle if words & handles else number


def arguments_of(vendor: Vendor, name: str) -> list[str]:
    """Some ways to call it: its handles none or places of zeros, its numbers 0, 1 or 4096."""
    text = _read(vendor.name)
    prototypes = _prototypes(vendor.name, text)
    base = _PER_THREAD.sub("", name)
    parameters = next(
        (prototypes[n] for n in (name, base, _VERSION.sub("", base)) if n in prototypes), None
    )
    if parameters is None:
        return ["pppppppppppp", "kkkkkkkkkkkk"]
    handles = frozenset(
        word for names in _HANDLE.findall(text) for word in re.findall(r"\w+", names)
    )
    ways = (("0", "k"), ("0", "1"), ("p", "k"), ("p", "1"), ("0", "0"))
    made = ["".join(_letter(p, handles, *way) for p in parameters) or "-" for way in ways]
    return list(dict.fromkeys(made))
