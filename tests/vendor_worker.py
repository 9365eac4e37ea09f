"""A vendor's module in a process of its own: see module_worker.py.

    vendor_worker.py MODULE:CLASS CDI-FOLDER ROOT

A table with an ``id`` among the arguments is a partition. The call ``environ`` sets variables,
``check`` holds the module against the protocol.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from aliquot.agent.ascend_config import Ascend
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import Config
from aliquot.agent.devices import Partition, VendorError, check

from module_worker import plain


def argument(value: Any) -> Any:
    if isinstance(value, dict):
        if "id" in value:
            return Partition(**value)
        return {key: argument(item) for key, item in value.items()}
    return value


def main(where: str, cdi: str, root: str) -> None:
    module, _, name = where.partition(":")
    try:
        settings = Config(
            cdi_dirs=(Path(cdi),),
            runtime_dir=Path(cdi).parent / "run",
            cambricon=Cambricon(Path(root)),
            ascend=Ascend(Path(root), faults={0x80E1801E: "NotHandle", 0x80E18402: "RestartNPU"}),
        )
        vendor = getattr(importlib.import_module(module), name)(settings)
    except VendorError as error:
        print(json.dumps({"raised": str(error)}), flush=True)
        return
    print(json.dumps({"returned": vendor.name}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any]
        try:
            if order["call"] == "environ":
                os.environ.update(order["args"][0])
                value: Any = None
            elif order["call"] == "check":
                value = check.faults(vendor)
            else:
                value = getattr(vendor, order["call"])
                value = value(*map(argument, order["args"])) if callable(value) else value
            answer = {"returned": plain(value)}
        except VendorError as error:
            answer = {"raised": str(error)}
        print(json.dumps(answer), flush=True)


main(*sys.argv[1:])
