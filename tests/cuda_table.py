"""The tables of functions, read by the program that derives everything from it."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc/cuda/functions.tsv"
NVML_TABLE = ROOT / "csrc/nvml/functions.tsv"
CAMBRICON_TABLE = ROOT / "csrc/cambricon/functions.tsv"
ASCEND_TABLE = ROOT / "csrc/ascend/functions.tsv"
GENERATE = ROOT / "csrc/generate.py"


class Symbol(Protocol):
    """One exported form."""

    name: str
    since: int
    form: str


class Row(Protocol):
    """One public function."""

    function: str
    kind: str
    by: str
    symbols: tuple[Symbol, ...]
    reason: str

    @property
    def wrapped(self) -> bool:
        """Whether calls come to the shim first."""
        ...


@cache
def generator() -> ModuleType:
    """csrc/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", GENERATE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def read_table(table: Path = TABLE) -> list[Row]:
    """All rows of a table, CUDA's if not said otherwise, in order."""
    return cast("list[Row]", generator().parse(table.read_text(encoding="utf-8")))
