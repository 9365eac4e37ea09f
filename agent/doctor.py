"""``aliquot doctor``: what is right and wrong with this node, and how to mend it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aliquot.shim
import click
from aliquot.hooks import cdi, elf
from aliquot.shim import region

from . import config as configuration
from . import doctor_node as node
from . import drivers, rundir, visible
from .config import Config, ConfigError
from .devices import Device, Vendor, VendorError, registry
from .devices.nvidia_files import DRIVER_NAMES, KIND, NVML
from .doctor_node import FAIL, OK, WARN, Finding
from .errors import AliquotError
from .slices import DRIVER, FIRM, SHIM

_HELP = """Say what is right and wrong with this node, and how to mend it.

Nothing is changed. What is only root's to see is looked at when root asks.

The status is 0 when nothing has failed, 1 when something has. A warning is no failure: it says what
works less well, or cannot be told."""

_KERNEL_DRIVER: Final = Path("/proc/driver/nvidia/version")
_NVIDIA: Final = "nvidia"
_SHOWN_NAMES: Final = 6
_CUDA_FUNCTION: Final = re.compile(r"cu[A-Z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", re.ASCII)
_NVML_FUNCTION: Final = re.compile(r"nvml[A-Z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", re.ASCII)


@dataclass(slots=True)
class _Driver:
    """What is known of CUDA's driver, once it was looked for."""

    path: Path | None = None
    devices: tuple[visible.Device, ...] = ()
    others: tuple[str, ...] = ()
    """The vendors of the node's devices, where none is NVIDIA's and none need be."""


@click.command("doctor", help=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The agent's configuration, if it is another than /etc/aliquot/config.toml.",
)
@click.pass_context
def doctor_command(context: click.Context, as_json: bool, config_path: Path | None) -> None:
    """Look at everything, print what was found, and end with 1 when something has failed."""
    findings = examine(config_path)
    failed = sum(finding.status == FAIL for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"findings": rows, "failed": failed}, indent=2))
    else:
        for line in table(findings):
            click.echo(line)
    context.exit(1 if failed else 0)


def examine(config_path: Path | None) -> list[Finding]:
    """Return all findings. A check that fails itself is a finding too."""
    findings: list[Finding] = []
    try:
        config = configuration.load(config_path)
        where = config_path or configuration.DEFAULT_PATH
        text = str(where) if where.exists() else f"the defaults, since there is no {where}"
        findings.append(Finding("configuration", OK, text))
    except ConfigError as error:
        config = Config()
        findings += [
            Finding("configuration", FAIL, line, "correct it; the rest was looked at by defaults")
            for line in error.lines
        ]
    driver = _Driver()
    # First: what devices there are decides which drivers are missed.
    devices = _findings("devices", lambda: _devices(config, driver))
    for name, check in _checks(config, driver, devices):
        findings += _findings(name, check)
    return findings


def _findings(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except (OSError, AliquotError) as error:
        findings.append(Finding(name, FAIL, str(error), "report this, if it is not clear why"))
    return findings


def table(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of the table: one a finding, and below it how to mend it."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.check:{width}}  {_printable(finding.text)}")
        if finding.mend:
            lines.append(f"{'':4}  {'':{width}}  -> {_printable(finding.mend)}")
    counts = [
        f"{sum(finding.status == status for finding in findings)} {status}"
        for status in (OK, WARN, FAIL)
    ]
    return [*lines, "", ", ".join(counts)]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _checks(
    config: Config, driver: _Driver, devices: Sequence[Finding]
) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    yield "driver", lambda: _driver(driver, config)
    yield "devices", lambda: devices
    yield "shim", lambda: _shim(driver)
    yield "functions", lambda: _functions(driver)
    yield "CDI", lambda: _specifications(config, driver)
    yield "containerd", node.containerd
    yield "agent", lambda: node.agent(config)
    yield "folders", lambda: node.folders(config)
    yield "cgroups", node.cgroups
    yield "device links", lambda: node.device_links(node.uses_systemd_cgroups())
    yield "kernel", node.kernel
    yield "namespaces", node.namespaces


# -- the driver --


def _driver(driver: _Driver, config: Config) -> Iterator[Finding]:
    release = kernel_driver()
    if release is None and driver.others:
        text = f"NVIDIA's is not needed: the devices are of {', '.join(driver.others)}"
        yield Finding("driver", OK, text)
    elif release is None:
        yield Finding(
            "driver",
            WARN,
            f"the kernel's NVIDIA driver is not loaded ({_KERNEL_DRIVER} is not there)",
            "modprobe nvidia, or install the driver",
        )
    else:
        yield Finding("driver", OK, f"the kernel has NVIDIA's driver {release}")
        if not Path("/dev/nvidia-uvm").exists():
            text = "/dev/nvidia-uvm is not there: CUDA does not start in containers"
            yield Finding("driver", WARN, text, "nvidia-modprobe -c 0 -u")
    try:
        path = Path(drivers.find(os.environ).driver)
    except AliquotError as error:
        if cdi.Specs(config.cdi_dirs).devices(KIND):
            text = f"{error}: containers get the driver of the CDI specification only"
            yield Finding("driver", WARN, text)
        elif release is not None or not driver.others:
            yield Finding("driver", FAIL, str(error))
        return
    driver.path = path
    try:
        version, driver.devices = visible.enumerate_devices(str(path), os.environ)
    except AliquotError as error:
        # (It begins with the driver's path.)
        yield Finding("driver", FAIL, str(error), "look at the kernel's log")
        return
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
    yield Finding("driver", OK, f"{path}: {cuda}, {len(driver.devices)} device(s)")


def kernel_driver(file: Path = _KERNEL_DRIVER) -> str | None:
    """Return the release of the NVIDIA driver that the kernel has, None when it has none."""
    try:
        with file.open(encoding="ascii", errors="replace") as opened:
            text = opened.read(4096)
    except OSError:
        return None
    found = re.search(r"\b[0-9]+\.[0-9]+(?:\.[0-9]+)?\b", text)
    return found[0] if found else "of an unknown release"


def _devices(config: Config, driver: _Driver) -> Iterator[Finding]:
    loaded = registry.load(config)
    for left in loaded.left_out:
        wanted = not config.vendors or left.name in config.vendors
        yield Finding("devices", WARN if wanted else OK, f"{left.name}: {left.reason}")
    having = []
    for vendor in loaded.vendors:
        found = _of_vendor(vendor, config)
        if found:
            having.append(vendor.name)
        yield from found
    if _NVIDIA not in (*having, *config.vendors):
        driver.others = tuple(having)
    if not having:
        yield Finding("devices", FAIL, "there is no device to share", "see the lines above")


def _of_vendor(vendor: Vendor, config: Config) -> list[Finding]:
    """Return what there is to say of a vendor's devices; nothing when it has none."""
    try:
        return list(_of_devices(vendor, vendor.enumerate(), config))
    except VendorError as error:
        return [Finding("devices", FAIL, f"{vendor.name}: {error}")]
    finally:
        vendor.close()


def _of_devices(vendor: Vendor, devices: Sequence[Device], config: Config) -> Iterator[Finding]:
    ill = {row.uuid: row.reason for row in vendor.health() if not row.healthy}
    for reason in getattr(vendor, "left_out", ()):
        yield Finding("devices", WARN, f"{vendor.name}: {reason}")
    for device in devices:
        held = " or ".join(device.enforcement) or "nobody, it is given as a whole"
        text = f"{device.uuid} ({device.model}): memory caps held by {held}"
        if device.uuid in ill:
            yield Finding("devices", FAIL, f"{device.uuid}: {ill[device.uuid]}")
        elif config.require == DRIVER and FIRM.isdisjoint(device.enforcement):
            mend = (
                "needs NVIDIA's driver 615 or newer or, for others, the kernel's dmem controller, "
                'and cgroup v2; or require = "shim"'
            )
            yield Finding("devices", FAIL, f"{text}, not by {config.require}", mend)
        else:
            yield Finding("devices", OK, text)
        if not device.context_bytes and SHIM in device.enforcement:
            text = f"{device.uuid}: what a context costs could not be measured; it counts as 0"
            yield Finding("devices", WARN, text)


# -- the shim --


def shim_path() -> Path:
    """Return the shim that is put in the place of CUDA's driver."""
    return Path(os.environ.get("ALIQUOT_SHIM") or aliquot.shim.library())


def _shim(driver: _Driver) -> Iterator[Finding]:
    shim = shim_path()
    if not shim.is_file():
        yield Finding("shim", FAIL, f"{shim} is missing", "install aliquot again")
        return
    if driver.path is None:
        text = f"{shim}: there is no driver to try it on"
        yield Finding("shim", OK if driver.others else WARN, text)
        return
    with tempfile.TemporaryDirectory(prefix="aliquot-doctor-") as name:
        answer = _try_shim(shim, driver, Path(name))
    error = str(answer.get("error", ""))
    if not error:
        yield Finding("shim", OK, f"{shim} works on {driver.path}")
    elif error.startswith("cuInit answers") and not driver.devices:
        # It was loaded, and what the driver behind it said came through.
        yield Finding("shim", OK, f"{shim} loads on {driver.path} (which has no device)")
    else:
        error = error.replace(name, "")
        yield Finding("shim", FAIL, f"{shim} on {driver.path}: {error}", "report this driver")


def _try_shim(shim: Path, driver: _Driver, folder: Path) -> dict[str, Any]:
    """Lay the shim out before the driver as in a container, and let a process ask it."""
    hidden = folder / rundir.REGION_FOLDER
    hidden.mkdir()
    (hidden / DRIVER_NAMES["libcuda.so.1"]).symlink_to(str(driver.path))
    (folder / "libcuda.so.1").symlink_to(shim.resolve())
    devices = [
        region.RegionDevice(device.uuid, device.total_bytes, device.page_bytes, 0)
        for device in driver.devices[: region.MAX_DEVICES]
    ] or [region.RegionDevice(bytes(16), 1 << 30, 2 << 20, 0)]
    fd = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
    try:
        region.create(fd, "doctor", devices)
    finally:
        os.close(fd)
    try:
        trial = subprocess.run(
            visible.probe_command("list", "nvidia", str(folder / "libcuda.so.1")),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=visible.PROBE_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": "it does not answer"}
    with contextlib.suppress(ValueError):
        answer = json.loads(trial.stdout)
        if isinstance(answer, dict):
            return answer
    return {"error": f"the process that loaded it ended with status {trial.returncode}"}


def _functions(driver: _Driver) -> Iterator[Finding]:
    if driver.path is None:
        return
    yield _unknown("CUDA", driver.path, shim_path(), _CUDA_FUNCTION)
    management = _beside(driver.path, NVML)
    shim = aliquot.shim.library().with_name(NVML)
    if management is not None and shim.is_file():
        yield _unknown("NVML", management, shim, _NVML_FUNCTION)


def _unknown(what: str, driver: Path, shim: Path, form: re.Pattern[str]) -> Finding:
    """Compare what a driver exports with the shim, which has every name of its table."""
    try:
        theirs = elf.read(driver, exports=True).exports
        ours = elf.read(shim, exports=True).exports
    except elf.ElfError as error:
        return Finding("functions", FAIL, str(error), "reinstall the driver, or aliquot")
    unknown = sorted(name for name in theirs - ours if form.fullmatch(name))
    if not unknown:
        count = sum(bool(form.fullmatch(name)) for name in theirs)
        return Finding("functions", OK, f"{what}: the shim knows all {count} of {driver.name}")
    names = ", ".join(unknown[:_SHOWN_NAMES]) + (" …" if len(unknown) > _SHOWN_NAMES else "")
    text = f"{what}: {len(unknown)} function(s) of {driver.name} that the shim does not know"
    return Finding(
        "functions",
        WARN,
        f"{text}, and that go uncounted: {names}",
        "update aliquot; a function that gives memory is not held to the cap",
    )


def _beside(driver: Path, name: str) -> Path | None:
    for folder in (str(driver.parent), *drivers.loader_folders(os.environ)):
        path = Path(folder) / name
        if path.is_file():
            return path.resolve()
    return None


def _specifications(config: Config, driver: _Driver) -> Iterator[Finding]:
    specs = cdi.Specs(config.cdi_dirs)
    devices = specs.devices(KIND)
    for fault in specs.faults:
        yield Finding("CDI", WARN, fault)
    folders = ", ".join(map(str, config.cdi_dirs))
    if devices:
        files = sorted({str(found.spec.path) for found in devices.values()})
        yield Finding("CDI", OK, f"{', '.join(files)}: {len(devices)} names of {KIND}")
        for found in devices.values():
            gone = [m.source for m in found.spec.edits.mounts if not os.path.lexists(m.source)]
            if gone:
                text = f"{found.spec.path} names {gone[0]}, which is not there"
                yield Finding("CDI", FAIL, text, "nvidia-ctk cdi generate")
                break
    elif not driver.others:
        text = f"no specification of {KIND} in {folders}: the driver's files are looked for"
        yield Finding("CDI", OK, text)
