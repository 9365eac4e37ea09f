"""``make demo``: unmodified CUDA programs side by side, and every promise holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from aliquot.agent import demo_containers

from clients import need

ROOT = Path(__file__).resolve().parent.parent


def test_the_demonstration_shows_that_every_promise_holds(tmp_path: Path) -> None:
    need("cuda.bindings.driver", "numba.cuda")
    environment = {**os.environ, "ALIQUOT_RUNTIME_DIR": str(tmp_path / "runtime")}
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "aliquot.agent.demo"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=200,
    )
    took = time.monotonic() - began
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith("Every promise holds.")
    assert "BROKEN" not in result.stdout
    held = re.findall(r"^  holds   (.*)$", result.stdout, re.MULTILINE)
    assert len(held) >= 20
    for program in ("demo-small", "demo-large", "demo-serve"):
        assert f"{program} was refused with CUDA's own code 2" in held
        assert f"{program} goes on" in held
    if demo_containers.lacking() is None and "simulated node" in result.stdout:
        for vendor, file in (
            ("nvidia", "/dev/nvidiactl"),
            ("ascend", "/dev/davinci_manager"),
            ("cambricon", "/dev/cambricon_ctl"),
            ("amd", "/dev/kfd"),
        ):
            assert any(
                re.fullmatch(rf"on-{vendor} has .* of {vendor}'s(, .*)?", line) for line in held
            )
            assert f"it has {file}, and no other vendor's" in held
        assert "one page of metrics has all of them" in held
        assert "nothing is allocated on any of 7 devices" in held
    assert result.stderr == ""
    # Thirty seconds for a person, on a machine that does nothing else.
    assert took < 120
    assert list((tmp_path / "runtime").glob("run-*")) == []


def test_without_its_programs_it_is_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "aliquot.agent.demo"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--examples" in line
