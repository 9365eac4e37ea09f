"""Write what NVML exports and the simulator does not implement, from NVML's own header.

Usage: ``generate.py NVML_H OUTPUT``: ``stubs.c``, a weak definition of each function that answers
NVML_ERROR_NOT_SUPPORTED, and ``exports.map``. Runs at build time.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_NOT_SUPPORTED = 3
# Asked for by nvidia-smi, and old names that the real library still has; in no header.
_UNDECLARED = (
    "nvmlInternalGetExportTable",
    "nvmlGetBlacklistDeviceCount",
    "nvmlGetBlacklistDeviceInfoByIndex",
)


def functions(header: str) -> list[str]:
    """Return every function that the header declares, of all versions."""
    declared = re.findall(r"\bDECLDIR\b[^(;]*?\b(nvml\w+)\s*\(", header)
    return sorted({*declared, *_UNDECLARED})


def main(arguments: list[str]) -> int:
    """Write both files; answers the exit status."""
    if len(arguments) != 2:
        print("usage: generate.py NVML_H OUTPUT", file=sys.stderr)
        return 2
    header, output = map(Path, arguments)
    names = functions(header.read_text(encoding="utf-8", errors="replace"))
    if len(names) < 300:
        print(f"{header} declares only {len(names)} functions: not NVML's header", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    stubs = [
        f"__attribute__((weak)) int {name}(void);\nint {name}(void) {{ return {_NOT_SUPPORTED}; }}"
        for name in names
    ]
    (output / "stubs.c").write_text("\n".join([*stubs, ""]), encoding="utf-8")
    exports = "".join(f"    {name};\n" for name in names)
    (output / "exports.map").write_text(
        "{\nglobal:\n" + exports + "local:\n    *;\n};\n", encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
