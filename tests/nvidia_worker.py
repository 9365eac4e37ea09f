"""NVIDIA's vendor module in a process of its own, since a library is loaded once a process.

Reads calls as JSON lines, {"call": NAME, "args": […]}, and answers each with a JSON line: the
values that were returned, or what was raised.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from aliquot.agent.config import Config
from aliquot.agent.devices import VendorError, check
from aliquot.agent.devices.nvidia import Nvidia


def plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return plain_values(asdict(value)) if is_dataclass(value) else plain_values(value)  # type: ignore[arg-type]


def plain_values(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain_values(item) for item in value]
    return value


def main(cdi: str, withhold: str, dev: str, cgroups: str) -> None:
    try:
        vendor = Nvidia(Config(cdi_dirs=(Path(cdi),), withhold=withhold == "withhold"))
    except VendorError as error:
        print(json.dumps({"raised": str(error)}), flush=True)
        return
    # Where this machine's kernel would have a driver's nodes and cgroups.
    vendor._files._dev = Path(dev)
    vendor._files._capabilities = Path(dev) / "capabilities"
    vendor._limits.root = Path(cgroups)
    print(json.dumps({"returned": vendor.name}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any]
        try:
            # The check of vendors, or a method of the vendor's.
            checked = order["call"] == "faults"
            value = check.faults(vendor) if checked else getattr(vendor, order["call"])
            answer = {"returned": plain(value(*order["args"]) if callable(value) else value)}
        except VendorError as error:
            answer = {"raised": str(error)}
        print(json.dumps(answer), flush=True)


main(*sys.argv[1:])
