"""Write the C source of a cffi module from its declarations.

Usage: ``binding.py MODULE CDEF OUTPUT``. CDEF is plain C that cffi understands; its lines that
begin with ``//#`` are the C source's own preprocessor lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI


def main(arguments: list[str]) -> int:
    """Write OUTPUT; answers the exit status."""
    if len(arguments) != 3:
        print("usage: binding.py MODULE CDEF OUTPUT", file=sys.stderr)
        return 2
    module, cdef, output = arguments[0], Path(arguments[1]), Path(arguments[2])
    text = cdef.read_text(encoding="utf-8")
    includes = [line[2:] for line in text.splitlines() if line.startswith("//#")]
    ffi = FFI()
    ffi.cdef(text)
    ffi.set_source(module, "\n".join(includes))
    output.parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(str(output))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
