"""NVIDIA's own headers and driver libraries, fetched into a cache folder and never installed.

Headers come from the PyPI wheels of the CUDA runtime, drivers from Debian's non-free packages.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHEELS = {
    "11.8": "nvidia-cuda-runtime-cu11==11.8.*",
    "12.9": "nvidia-cuda-runtime-cu12==12.9.*",
    "13.5": "nvidia-cuda-runtime==13.5.*",
}
NVML_WHEELS = {
    "11.8": "nvidia-nvml-dev-cu11==11.8.*",
    "12.9": "nvidia-nvml-dev-cu12==12.9.*",
}
SUITES = {"535": "bookworm", "550": "trixie"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class UnreachableError(Exception):
    """What could not be had, and why, in one line."""


def cache_folder() -> Path:
    """The folder in which fetched files are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "aliquot-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; yields whether it is still to be filled."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        if done.exists():
            yield False
            return
        folder.mkdir(exist_ok=True)
        yield True
        done.touch()


def _run(what: str, command: list[str], cwd: Path) -> None:
    try:
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=cwd, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(f"{what}: {error}") from error
    if run.returncode:
        lines = (run.stderr or run.stdout).strip().splitlines()
        raise UnreachableError(f"{what}: {lines[-1] if lines else f'status {run.returncode}'}")


def header_folder(version: str) -> Path:
    """The folder with cuda.h of a CUDA version of ``WHEELS``.

    Raises UnreachableError if PyPI cannot be reached.
    """
    installed = importlib.util.find_spec("nvidia")
    for place in (installed.submodule_search_locations if installed else None) or []:
        header = Path(place) / "cu13/include/cuda.h"
        if version == "13.5" and header.exists() and "CUDA_VERSION 13050" in header.read_text():
            return header.parent
    folder = cache_folder() / f"cuda-{version.replace('.', '-')}"
    unpack_headers(folder, WHEELS[version], f"headers of CUDA {version} from PyPI")
    return next(folder.glob("**/cuda.h")).parent


def management_header(version: str) -> Path:
    """The nvml.h of a CUDA version of ``NVML_WHEELS``, or of 13.5.

    Raises UnreachableError if PyPI cannot be reached.
    """
    if version not in NVML_WHEELS:
        return header_folder(version) / "nvml.h"
    folder = cache_folder() / f"nvml-header-{version.replace('.', '-')}"
    unpack_headers(folder, NVML_WHEELS[version], f"nvml.h of CUDA {version} from PyPI")
    return next(folder.glob("**/nvml.h"))


def unpack_headers(folder: Path, requirement: str, what: str) -> None:
    """Fetch the headers of a wheel.

    Raises UnreachableError if PyPI cannot be reached.
    """
    with once(folder) as empty:
        if not empty:
            return
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        pip += ["--only-binary", ":all:", "-d", str(folder), requirement]
        _run(what, pip, folder)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [n for n in archive.namelist() if n[-2:] == ".h"])
            wheel.unlink()


def debian_package(folder: Path, package: str, suite: str, component: str, what: str) -> Path:
    """Unpack a package of one of Debian's suites below ``folder``; returns the folder of its files.

    Its own lists are used and nothing is installed. Raises UnreachableError if Debian's archive,
    its key or its tools cannot be reached.
    """
    if not KEYRING.exists():
        raise UnreachableError(f"{what}: no {KEYRING} to check Debian's archive")
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(
        f"deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian {suite} {component}\n"
    )
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::SourceList={sources}"]
    apt += ["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::Etc::Parts=/dev/null"]
    apt += ["-o", f"Dir::State::Lists={folder / 'lists'}"]
    apt += ["-o", f"Dir::Cache={folder / 'cache'}", "-o", "APT::Sandbox::User=root"]
    _run(what, [*apt, "update"], folder)
    _run(what, [*apt, "download", f"{package}:amd64"], folder)
    for file in folder.glob(f"{package}_*.deb"):
        _run(what, ["dpkg", "-x", str(file), str(folder / "root")], folder)
        file.unlink()
    return folder / "root"


def driver_library(version: str) -> Path:
    """The real libcuda.so of a driver version of ``SUITES``, unpacked.

    Raises UnreachableError if Debian's archive, its key or its tools cannot be reached.
    """
    folder = cache_folder() / f"driver-{version}"
    with once(folder) as empty:
        if empty:
            what = f"driver {version} from Debian's {SUITES[version]} non-free"
            root = debian_package(folder, "libcuda1", SUITES[version], "non-free", what)
            if not list(root.glob(f"**/libcuda.so.{version}.*")):
                raise UnreachableError(f"{what}: the package holds no libcuda.so.{version}.*")
    return next(folder.glob(f"root/**/libcuda.so.{version}.*"))


def management_library(version: str) -> Path:
    """The folder of the real libnvidia-ml.so.1 of a driver version of ``SUITES``, unpacked.

    Raises UnreachableError as ``driver_library`` does.
    """
    folder = cache_folder() / f"nvml-{version}"
    with once(folder) as empty:
        if empty:
            what = f"NVML {version} from Debian's {SUITES[version]} non-free"
            root = debian_package(folder, "libnvidia-ml1", SUITES[version], "non-free", what)
            files = list(root.glob(f"**/libnvidia-ml.so.{version}.*"))
            if not files:
                raise UnreachableError(f"{what}: the package holds no libnvidia-ml.so.{version}.*")
            # (Debian's own link leads to what an alternative would make.)
            (folder / "libnvidia-ml.so.1").symlink_to(files[0])
    return folder
