"""NVIDIA's vendor module in a process of its own: see module_worker.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from aliquot.agent.config import Config
from aliquot.agent.devices import VendorError, check
from aliquot.agent.devices.nvidia import Nvidia

from module_worker import plain


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
