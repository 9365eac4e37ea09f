"""``aliquot run``: start a program that holds no more of a device than its slice."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aliquot.shim
import click
from aliquot.shim import region

from . import (
    config,
    contexts,
    drivers,
    launch,
    makes,
    policies,
    requests,
    rundir,
    sizes,
    visible,
)
from .errors import AliquotError, BadRequestError, NoNamespaceError
from .namespace import Cover

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HELP = """Run CMD with a cap on one or more devices: on memory, on time, or on both.

CMD and everything that it starts share one slice. An allocation beyond the cap gets the vendor's
own out-of-memory error, launches wait so that no more time is used than --cores says, and the
devices of the slice are the only ones that CMD sees. Time is counted for this slice alone: what
others on the device have of it is theirs to see to.

\b
Sizes:    4GiB 4096MiB 512KiB 1TiB (powers of 1024), 4GB 500MB 1KB (powers of 1000),
          4294967296 (bytes), 25% (of the device's memory)
Cores:    30   30%   (of each device's time, 1 to 100)
Devices:  0   0,1   GPU-5b0a   all   (numbers as CMD would see them, or beginnings of UUIDs)
Vendors:  nvidia, ascend, cambricon: whose devices; all of a slice are one vendor's

\b
Examples:
  aliquot run --memory 4GiB --device 0 -- python train.py
  aliquot run --memory 0=4GiB,1=25% --cores 30 -- python train.py
  aliquot run --vendor ascend --memory 16GiB --device 0 -- python train.py

Without --vendor they are those of the configuration's default_vendor, else of the only vendor whose
library CMD would find, and NVIDIA's where there are several.

Without --memory, CUDA_DEVICE_MEMORY_LIMIT and CUDA_DEVICE_MEMORY_LIMIT_<i> are read as HAMi does,
without --cores CUDA_DEVICE_SM_LIMIT.
The status is CMD's; 128+n when signal n ended it; 127 or 126 when it could not be run; 2 when the
request makes no sense; 1 when the slice could not be made."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice that is about to be made."""

    name: str | None
    installation: drivers.Installation
    version: int
    cores: int
    shares: tuple[visible.Share, ...]
    context_bytes: Mapping[int, int]
    shim: Path


class _Voice:
    """What the command itself says, on standard error: lines for people, or JSON lines."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def event(self, kind: str, **facts: Any) -> None:  # noqa: ANN401 - whatever JSON takes
        if self._as_json:
            print(json.dumps({"event": kind, **facts}), file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        if self._as_json:
            self.event("warning", text=text)
        else:
            click.echo(f"aliquot: {text}", err=True)


@click.command("run", help=_HELP, context_settings={"allow_interspersed_args": False})
@click.option("--memory", metavar="SIZE|I=SIZE,…", help="What the slice may hold of each device.")
@click.option(
    "--cores", metavar="N", help="Percent of each device's time that the slice never passes."
)
@click.option("--device", metavar="SEL", help="The devices of the slice; all when not given.")
@click.option(
    "--vendor", type=click.Choice(sorted(makes.MAKES)), help="Whose devices the slice has."
)
@click.option("--name", metavar="NAME", help="What the slice is called in `aliquot ps`.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "namespace", "environment"]),
    default="auto",
    show_default=True,
    help="How the shim gets in the driver's place.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Say what happens as JSON lines on standard error."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
@click.pass_context
def run_command(
    context: click.Context,
    memory: str | None,
    cores: str | None,
    device: str | None,
    vendor: str | None,
    name: str | None,
    mode: str,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Make a slice, run CMD in it, and end as CMD ends."""
    voice = _Voice(as_json)
    try:
        limits = None if memory is None else sizes.parse_limits(memory)
        most = None if cores is None else policies.parse_cores(cores, "--cores")
        if limits is None and most is None and vendor is None:
            # HAMi's variables are about NVIDIA's devices, as in a container.
            vendor = makes.NVIDIA.vendor if requests.has_hamis(os.environ) else None
            if vendor is None:
                raise _no_cap()
        installation = _find(os.environ, vendor)
        if installation.make is makes.NVIDIA:
            limits = limits or sizes.limits_from_environment(os.environ)
            most = most or _hami_cores(os.environ)
        if limits is None and most is None:
            raise _no_cap()
        if limits is None:
            limits = sizes.parse_limits("100%")
        wanted = _plan(installation, limits, most or policies.ALL_CORES, device, name, voice)
        status = _run(wanted, mode, command, voice)
    except AliquotError as error:
        if not as_json:
            raise
        voice.event("error", text=str(error), status=error.status)
        status = error.status
    context.exit(status)


def _no_cap() -> BadRequestError:
    return BadRequestError(
        "no cap is given: add --memory, such as --memory 4GiB, or --cores, such as --cores 30"
    )


def _hami_cores(environment: Mapping[str, str]) -> int | None:
    """Return the most of a device's time that HAMi's variable says, None when it says nothing."""
    name = policies.HAMI_CORES
    return policies.parse_hami_cores(environment[name], name) if name in environment else None


def _plan(
    installation: drivers.Installation,
    limits: sizes.Limits,
    cores: int,
    device: str | None,
    name: str | None,
    voice: _Voice,
) -> _Slice:
    """Decide what the slice gets. Nothing is made yet, but for the memory of context costs."""
    if name is not None:
        rundir.check_name(name)
    environment = os.environ
    make = installation.make
    shim = Path(environment.get("ALIQUOT_SHIM") or aliquot.shim.library(make.soname))
    if not shim.is_file():
        raise AliquotError(f"the shim {shim} is missing: install aliquot again")
    _refuse_nesting(installation, shim)
    version, found = visible.enumerate_devices(installation.driver, environment, make)
    chosen = visible.shares(found, limits, device)
    if len(chosen) > region.MAX_DEVICES:
        raise BadRequestError(
            f"a slice has at most {region.MAX_DEVICES} devices, not {len(chosen)}: "
            "choose some with --device"
        )
    costs = contexts.costs(
        installation.driver, version, [share.device for share in chosen], environment
    )
    for share in chosen:
        cost = costs[share.device.index]
        where = f"device {share.device.index} ({share.device.name})"
        if not cost:
            voice.warning(f"{where}: what a context costs could not be measured; it counts as 0")
        elif cost > share.cap_bytes:
            voice.warning(
                f"{where}: one context takes {sizes.format_size(cost)}, more than the cap of "
                f"{sizes.format_size(share.cap_bytes)}: every program will be out of memory"
            )
    return _Slice(name, installation, version, cores, chosen, costs, shim.resolve())


def _find(environment: Mapping[str, str], vendor: str | None) -> drivers.Installation:
    """Find the library of the vendor that is meant. Raises AliquotError."""
    said = vendor or _configured()
    if said:
        if said not in makes.MAKES:
            raise AliquotError(
                f"default_vendor is {said}, for which `aliquot run` has no shim: name one of "
                f"{', '.join(makes.MAKES)} as --vendor"
            )
        return drivers.find(environment, make=makes.MAKES[said])
    absent: list[str] = []
    found: list[drivers.Installation] = []
    # The usual one first: if his is there and cannot be used, nobody else's is taken for it.
    for make in makes.MAKES.values():
        try:
            found.append(drivers.find(environment, make=make))
        except drivers.AbsentError as error:
            absent.append(str(error))
        if found and make is makes.NVIDIA:
            break
    if not found:
        raise AliquotError(absent[0])
    if len(found) > 1:
        raise BadRequestError(
            f"there are devices of {', '.join(one.make.vendor for one in found)}: "
            "say whose with --vendor, or as default_vendor in the configuration"
        )
    return found[0]


def _configured() -> str:
    """Return the node's default_vendor, "" where nobody says it or this user may not know it."""
    try:
        return config.load(None, {}).default_vendor
    except config.ConfigError:
        return ""


def _refuse_nesting(installation: drivers.Installation, shim: Path) -> None:
    """Raise AliquotError where the driver is a shim: a slice of a slice would count twice."""
    beside = Path(installation.driver).parent / rundir.REGION_FOLDER / installation.make.link
    if beside.exists() or Path(installation.driver) == shim.resolve():
        raise AliquotError(
            "this is already inside a slice, and a slice cannot be divided: "
            "start both with `aliquot run` from outside"
        )


@dataclass(frozen=True, slots=True)
class _Making:
    """A slice that is being made."""

    wanted: _Slice
    run: rundir.RunDirectory
    command: tuple[str, ...]
    held: launch.HeldSignals
    voice: _Voice


def _run(wanted: _Slice, mode: str, command: tuple[str, ...], voice: _Voice) -> int:
    with launch.held_signals() as held:
        run = rundir.create(rundir.base_folder(os.environ), wanted.name)
        try:
            making = _Making(wanted, run, command, held, voice)
            if mode == "environment":
                return _run_as(making, "environment")
            try:
                return _run_as(making, "namespace")
            except NoNamespaceError as error:
                if mode == "namespace":
                    raise AliquotError(
                        f"the slice needs {error}: allow it, or use --mode environment"
                    ) from error
                voice.warning(
                    f"no namespace ({error}): using LD_PRELOAD, which a program can slip by "
                    "opening the driver by its path"
                )
            rundir.clear(run)
            return _run_as(making, "environment")
        finally:
            if not rundir.remove_if_ended(run):
                _stay_behind(run)


def _run_as(making: _Making, mode: str) -> int:
    """Lay the slice out for ``mode`` and run the program in it."""
    wanted, run, command, voice = making.wanted, making.run, making.command, making.voice
    folders = _folders(wanted.installation) if mode == "namespace" else [_main(wanted.installation)]
    make = wanted.installation.make
    beside = aliquot.shim.library(make.management.soname) if make.management else None
    shims = rundir.Shims(make, wanted.shim, beside)
    rundir.lay_out(run, _region(wanted), shims, folders, mounted=mode == "namespace")
    rundir.write_meta(run, _meta(wanted, run, mode, command))
    covers: tuple[Cover, ...] = ()
    if mode == "namespace":
        lib_of = {folder: str(rundir.lib_folder(run, n)) for n, folder in enumerate(folders)}
        # A folder goes before what is in it, as the installation lists them.
        covers = tuple(
            Cover(folder, lib_of[folder], make) for folder in wanted.installation.folders
        )
        environment = _environment(wanted.shares, make)
        paths = [f"{folder.path}/{name}" for folder in folders for name in folder.names]
    else:
        lib = str(rundir.lib_folder(run, 0))
        environment = _preload(_environment(wanted.shares, make), f"{lib}/{make.soname}")
        paths = [f"{lib}/{make.names[0]}"]
    program = launch.Program(command, environment, covers, wanted.shim, tuple(paths), make.vendor)
    status = launch.run(
        program,
        rundir.inheritable_lock(run),
        making.held,
        lambda pid: voice.event(
            "started", slice=run.name, run=str(run.path), pid=pid, **_public(wanted, mode)
        ),
    )
    voice.event("ended", slice=run.name, status=status, devices=_ending(wanted, run))
    return status


def _main(installation: drivers.Installation) -> drivers.DriverFolder:
    """Return the folder whose driver the program would load."""
    for folder in installation.folders:
        if folder.driver == installation.driver:
            return folder
    raise AliquotError(f"the driver {installation.driver} has no folder of its own")


def _folders(installation: drivers.Installation) -> list[drivers.DriverFolder]:
    main = _main(installation)
    return [main, *(folder for folder in installation.folders if folder is not main)]


def _region(wanted: _Slice) -> list[region.RegionDevice]:
    return [
        region.RegionDevice(
            uuid=share.device.uuid,
            cap=share.cap_bytes,
            page_bytes=share.device.page_bytes,
            context_bytes=wanted.context_bytes[share.device.index],
            cores=wanted.cores,
            label=share.device.uuid_text,
        )
        for share in wanted.shares
    ]


def _environment(shares: Sequence[visible.Share], make: makes.Make) -> dict[str, str]:
    """Return the program's environment: ours, with only the slice's devices visible."""
    environment = dict(os.environ)
    if b"\0LC_CTYPE=" not in _first_environment():
        # Python put it there for itself, where the locale was C (PEP 538).
        environment.pop("LC_CTYPE", None)
    environment[make.visible] = ",".join(
        share.device.uuid_text if make.by_uuid else _number(share.device.index, make, environment)
        for share in shares
    )
    return environment


def _number(index: int, make: makes.Make, environment: Mapping[str, str]) -> str:
    """Return what the vendor's variable calls the device that we see as ``index``.

    What the variable had before says which of the node's devices that is.
    """
    before = environment.get(make.visible)
    names = [name.strip() for name in before.split(",")] if before else []
    return names[index] if index < len(names) else str(index)


def _first_environment() -> bytes:
    """Return the environment that this process was started with."""
    try:
        return b"\0" + Path("/proc/self/environ").read_bytes()
    except OSError:
        return b""


def _preload(environment: dict[str, str], shim: str) -> dict[str, str]:
    """Add what leads the loader to ``shim``, and all names beside it, without mounts."""
    lib = os.fspath(Path(shim).parent)
    if any(letter in ": ;$" for letter in lib):
        raise AliquotError(
            f"{lib} cannot stand in LD_PRELOAD: name a folder without blanks, ':', ';' and '$' "
            "in ALIQUOT_RUNTIME_DIR"
        )
    before = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = f"{lib}:{before}" if before else lib
    loaded = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{loaded}:{shim}" if loaded else shim
    return environment


def _public(wanted: _Slice, mode: str) -> dict[str, Any]:
    """Return what meta.json and the ``started`` event say of the slice."""
    return {
        "mode": mode,
        "vendor": wanted.installation.make.vendor,
        "driver": wanted.installation.driver,
        "driver_version": wanted.version,
        "devices": [
            {
                "index": share.device.index,
                "uuid": share.device.uuid_text,
                "name": share.device.name,
                "total_bytes": share.device.total_bytes,
                "cap_bytes": share.cap_bytes,
                "cores_max": wanted.cores,
                "context_bytes": wanted.context_bytes[share.device.index],
            }
            for share in wanted.shares
        ],
    }


def _meta(
    wanted: _Slice, run: rundir.RunDirectory, mode: str, command: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "name": run.name,
        "command": list(command),
        "started_unix_ns": time.time_ns(),
        "maker_pid": os.getpid(),
        **_public(wanted, mode),
    }


def _ending(wanted: _Slice, run: rundir.RunDirectory) -> list[dict[str, Any]]:
    """Return what the slice came to, for the ``ended`` event; nothing if it cannot be read."""
    try:
        with (run.region_folder / "usage").open("rb") as file:
            usage = region.read_usage(file.fileno(), "usage", len(wanted.shares))
    except (OSError, region.RegionError):
        return []
    return [
        {
            "uuid": share.device.uuid_text,
            "peak_bytes": used.peak,
            "refusals": used.refusals,
        }
        for share, used in zip(wanted.shares, usage.devices, strict=True)
    ]


def _stay_behind(run: rundir.RunDirectory) -> None:
    """Leave a process that removes the run directory when the last one of the slice is gone."""
    if os.fork():
        return
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
            with contextlib.suppress(OSError):
                if int(name) > 2:
                    os.close(int(name))
        rundir.remove_when_ended(run)
    finally:
        with contextlib.suppress(OSError):
            os._exit(0)
