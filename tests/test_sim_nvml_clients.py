"""Real clients of NVML on the simulator's, as they are, and NVIDIA's library beside ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nvidia_files
from clients import need
from sim_node import MIB, NodeUnderTest, node_of

NODE = """
driver = "580.65.06"
[[device]]
count = 2
model = "Simulated A100"
memory = "1GiB"
reserved = "64MiB"
context = "8MiB"
"""


@pytest.fixture
def node(sim_library: Path) -> Iterator[NodeUnderTest]:
    with node_of(NODE, sim_library) as made:
        yield made


def test_gpustat_shows_the_node(node: NodeUnderTest) -> None:
    need("gpustat")
    process = node.process()
    process.ok("alloc", 100 * MIB)
    ran = subprocess.run(
        [sys.executable, "-m", "gpustat", "--json"],
        env=node.environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, second = json.loads(ran.stdout)["gpus"]
    assert first["name"] == "Simulated A100"
    assert [(item["pid"], item["gpu_memory_usage"]) for item in first["processes"]] == [
        (process.pid, 108)
    ]
    assert second["processes"] == []
    assert first["memory.total"] == 1024


def test_nvitop_shows_the_node(node: NodeUnderTest) -> None:
    need("nvitop")
    process = node.process()
    process.ok("alloc", 100 * MIB)
    ran = subprocess.run(
        [sys.executable, "-m", "nvitop", "--once", "--colorful", "--no-unicode"],
        env={**node.environment(), "COLUMNS": "120", "TERM": "dumb"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout)
    assert "580.65.06" in plain
    assert re.search(rf"\b0\s+{process.pid} C\b.* 108\.0MiB", plain), plain


def unpacked(package: str, version: str) -> Path:
    """A package of NVIDIA's driver from Debian, unpacked; skips the test where it cannot be had."""
    suite = nvidia_files.SUITES[version]
    folder = nvidia_files.cache_folder() / f"{package}-{version}"
    try:
        with nvidia_files.once(folder) as empty:
            if empty:
                what = f"{package} {version} from Debian's {suite} non-free"
                nvidia_files.debian_package(folder, package, suite, "non-free", what)
    except nvidia_files.UnreachableError as error:
        pytest.skip(str(error))
    return folder / "root"


@pytest.mark.parametrize("version", ["535", "550"])
def test_the_real_nvidia_smi_shows_the_node(node: NodeUnderTest, version: str) -> None:
    found = sorted(unpacked("nvidia-smi", version).rglob("nvidia-smi"))
    programs = [path for path in found if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    assert programs, found
    process = node.process()
    process.ok("alloc", 100 * MIB)

    def smi(*arguments: str) -> str:
        ran = subprocess.run(
            [programs[0], *arguments],
            env=node.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    lines = smi("-L").splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"GPU {i}: Simulated A100" for i in (0, 1)]
    query = "--query-gpu=index,name,memory.total,memory.used,utilization.gpu,mig.mode.current"
    rows = smi(query, "--format=csv,noheader,nounits").splitlines()
    assert rows[0].split(", ")[:5] == ["0", "Simulated A100", "1024", "108", "0"]
    assert rows[0].split(", ")[5] == "[N/A]"
    assert "580.65.06" in smi()


@pytest.mark.parametrize("version", ["535", "550"])
def test_errors_and_functions_are_the_real_librarys(sim_library: Path, version: str) -> None:
    library = sim_library.with_name("libnvidia-ml.so.1")
    root = unpacked("libnvidia-ml1", version)
    (real,) = (p for p in root.rglob("libnvidia-ml.so.*.*") if not p.is_symlink())

    def strings(path: Path) -> list[bytes]:
        program = (
            "import ctypes, sys\n"
            "text = ctypes.CDLL(sys.argv[1]).nvmlErrorString\n"
            "text.restype = ctypes.c_char_p\n"
            "print([text(n) for n in [*range(29), 999, 1234]])"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, path], check=True, capture_output=True, text=True
        )
        return [bytes(text, "ascii") for text in re.findall(r"b['\"](.*?)['\"]", ran.stdout)]

    unknown = b"Unknown Error"
    pairs = zip(strings(library), strings(real), strict=True)
    # The older one does not know the newest errors.
    assert [pair for pair in pairs if pair[0] != pair[1] != unknown] == []
    assert strings(library)[-2:] == [unknown, unknown]
    missing = exported(real) - exported(library)
    # What the real one exports beside its header is for NVIDIA's own tools.
    assert {name for name in missing if not name.startswith("nvmlInternal")} == set()


def exported(library: Path) -> set[str]:
    ran = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    )
    return set(re.findall(r" [TW] (nvml\w+)", ran.stdout))


def test_everything_in_the_header_is_exported(
    sim_library: Path, header_folder: Callable[[str], Path]
) -> None:
    header = header_folder("13.5") / "nvml.h"
    if not header.exists():
        pytest.skip(f"no {header}")
    library = sim_library.with_name("libnvidia-ml.so.1")
    declared = set(re.findall(r"\bDECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(", header.read_text()))
    assert "nvmlErrorString" in declared
    assert len(declared) > 400
    assert declared - exported(library) == set()
