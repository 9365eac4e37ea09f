"""containerd of other releases than the one installed, unpacked into a cache folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nvidia_files import UnreachableError, cache_folder, debian_package, once

SUITES = {"1.7": "trixie", "2": "sid"}


def containerd(version: str) -> Path:
    """The program of a version of ``SUITES``, which is never started as a service.

    Raises UnreachableError if it cannot be had or does not run here.
    """
    what = f"containerd {version} from Debian's {SUITES[version]}"
    folder = cache_folder() / f"containerd-{version}"
    program = folder / "root/usr/bin/containerd"
    with once(folder) as empty:
        if empty:
            debian_package(folder, "containerd", SUITES[version], "main", what)
            if not program.exists():
                raise UnreachableError(f"{what}: the package holds no usr/bin/containerd")
    try:
        run = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    except OSError as error:
        raise UnreachableError(f"{what}: {error}") from error
    if run.returncode or f" {version}." not in run.stdout:
        raise UnreachableError(f"{what}: it says {(run.stdout or run.stderr).strip()!r}")
    return program
