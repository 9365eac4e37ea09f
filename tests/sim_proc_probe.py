"""What a driver library answers about itself, as JSON: ``sim_proc_probe.py LIBRARY``.

Standard input is ``{"symbols": [NAME…], "questions": [[NAME, VERSION, FLAGS]…]}``. The answer has
``found``, the status and the symbol's name for each question, and ``errors``, name and text of each
result that the library knows. Nothing of it needs a device.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import byref, c_char_p, c_int, c_ulonglong, c_void_p
from typing import Any


def _symbols(library: ctypes.CDLL, asked: list[str]) -> dict[int, str]:
    """Names by address."""
    names: dict[int, str] = {}
    for symbol in asked:
        if hasattr(library, symbol):
            address = ctypes.cast(getattr(library, symbol), c_void_p).value
            assert address
            names.setdefault(address, symbol)
    return names


def _ask(
    library: ctypes.CDLL, name: str, version: int, flags: int
) -> tuple[int, int, int, Any, Any]:
    """Results of both forms of the call, the status, and both pointers."""
    new, old, status = c_void_p(), c_void_p(), c_int(-1)
    result = library.cuGetProcAddress_v2(
        name.encode(), byref(new), version, c_ulonglong(flags), byref(status)
    )
    old_result = library.cuGetProcAddress(name.encode(), byref(old), version, c_ulonglong(flags))
    return result, status.value, old_result, new.value, old.value


def _errors(library: ctypes.CDLL) -> dict[int, list[str]]:
    errors = {}
    for code in range(1000):
        texts = [c_char_p(), c_char_p()]
        if library.cuGetErrorName(code, byref(texts[0])) == 0:
            library.cuGetErrorString(code, byref(texts[1]))
            errors[code] = [(text.value or b"").decode() for text in texts]
    return errors


def main() -> None:
    """Answer the questions."""
    library = ctypes.CDLL(sys.argv[1])
    asked = json.load(sys.stdin)
    names = _symbols(library, asked["symbols"])
    found = []
    for question in asked["questions"]:
        result, status, old_result, new, old = _ask(library, *question)
        found.append([result, status, names.get(new), old_result, names.get(old)])
    json.dump({"found": found, "errors": _errors(library)}, sys.stdout)


if __name__ == "__main__":
    main()
