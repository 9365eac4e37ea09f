"""Asks a driver library what it answers to look-ups, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
# Asked for besides every function: nothing, versioned names, names that are nobody's.
ODD_NAMES = ("", "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cuNobodyKnowsThis", "cudbgGetAPI")


def probe(library: Path, driver: Path, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run probe_driver.py in a process of its own."""
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(request))
    command = [sys.executable, str(TESTS / "probe_driver.py"), str(library), str(driver)]
    command += [str(folder / "request.json"), str(folder / "answer.json")]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer
