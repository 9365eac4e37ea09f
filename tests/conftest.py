"""Where the built libraries are, and NVIDIA's own to hold them against."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import aliquot.shim
import hypothesis
import pytest

import nvidia_files
import nvidia_node
from nvidia_node import Node
from tenant_vendors import VENDORS
from tenants import Site

# How fast an input is made says something of the machine's load, nothing of the code.
hypothesis.settings.register_profile(
    "any-load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-load")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak-seconds",
        type=float,
        default=60.0,
        help="how long each soak test runs, in seconds",
    )


@pytest.fixture(scope="session")
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """How long a soak test runs."""
    return float(request.config.getoption("--soak-seconds"))


def _library(package: str, variable: str) -> Path:
    """The library of an installed package; an environment variable names another build of it."""
    if variable in os.environ:
        return Path(os.environ[variable]).resolve()
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or []:
        for folder in ("lib", f"lib/{platform.machine()}"):
            library = Path(place) / folder / "libcuda.so.1"
            if library.exists():
                return library.resolve()
    pytest.fail(f"{package} has no libcuda.so.1: run `make build`")


@pytest.fixture(scope="session")
def shim_library() -> Path:
    """The shim, or the one that ALIQUOT_TEST_SHIM names."""
    return _library("aliquot.shim", "ALIQUOT_TEST_SHIM")


@pytest.fixture(scope="session")
def plain_shim(shim_library: Path) -> Path:
    """The shim as it is shipped; skips the test where it is built with sanitizers."""
    if b"__asan_init" in shim_library.read_bytes():
        pytest.skip("the shim is built with sanitizers, which changes it as a file and at load")
    return shim_library


@pytest.fixture(scope="session")
def nvml_shim() -> Path:
    """The shim of NVML, as it is shipped."""
    library = aliquot.shim.library("libnvidia-ml.so.1")
    assert library.is_file(), "it is not built: run `make build`"
    return library


@pytest.fixture(scope="session")
def sim_library() -> Path:
    """The simulator's driver library, or the one that ALIQUOT_TEST_SIM names."""
    return _library("aliquot.sim", "ALIQUOT_TEST_SIM")


@pytest.fixture(scope="session")
def sites(
    sim_library: Path, shim_library: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Site]:
    """The libraries of each vendor, and the programs for them."""
    found = {}
    for vendor in VENDORS.values():
        name = vendor.names[0]
        shim = shim_library if vendor.name == "nvidia" else aliquot.shim.library(name)
        assert shim.is_file(), "it is not built: run `make build`"
        library = sim_library if vendor.name == "nvidia" else sim_library.with_name(name)
        folder = tmp_path_factory.mktemp(vendor.name)
        found[vendor.name] = Site(vendor, library, shim, folder)
    return found


@pytest.fixture(params=VENDORS)
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """The libraries of a vendor: a test that asks for them is done for each."""
    return sites[request.param]


@pytest.fixture(scope="session")
def sim_nvml(sim_library: Path) -> Path:
    """The simulator's NVML."""
    return sim_library.with_name("libnvidia-ml.so.1")


@pytest.fixture(scope="session")
def header_folder() -> Callable[[str], Path]:
    """Folder of cuda.h of CUDA 11.8, 12.9 or 13.5; skips the test where it cannot be had."""

    def find(version: str) -> Path:
        try:
            return nvidia_files.header_folder(version)
        except nvidia_files.UnreachableError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def nvml_header() -> Callable[[str], Path]:
    """The nvml.h of CUDA 11.8, 12.9 or 13.5; skips the test where it cannot be had."""

    def find(version: str) -> Path:
        try:
            return nvidia_files.management_header(version)
        except nvidia_files.UnreachableError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def real_driver() -> Callable[[str], Path]:
    """NVIDIA's libcuda of driver 535 or 550; skips the test where it cannot be had."""

    def find(version: str) -> Path:
        try:
            return nvidia_files.driver_library(version)
        except nvidia_files.UnreachableError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def real_nvml() -> Callable[[str], Path]:
    """Folder of NVIDIA's NVML of driver 535 or 550; skips the test where it cannot be had."""

    def find(version: str) -> Path:
        try:
            return nvidia_files.management_library(version)
        except nvidia_files.UnreachableError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def odd_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the odd NVML."""
    return nvidia_node.odd_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def start_nvidia(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts a node with libraries from the given folders."""
    made: list[Node] = []

    def begin(*libraries: Path, withhold: bool = True, **environment: str) -> Node:
        made.append(Node(list(libraries), tmp_path, withhold=withhold, environment=environment))
        return made[-1]

    yield begin
    for node in made:
        node.end()


@pytest.fixture
def odd_node(start_nvidia: Callable[..., Node], odd_nvml: Path) -> Node:
    """A node with the odd NVML alone."""
    return start_nvidia(odd_nvml)
