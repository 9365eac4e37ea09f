"""The ``aliquot sim`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from . import cdi, files, run, trace
from .node import Node, NodeError, load_node, profiles
from .state import State, StateError, truth, truth_text

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
# What is asked of a node whose folder is given last.
_ON_DIRECTORY = ("--xid", "--fault", "--trace")


def _fail(text: str, status: int) -> NoReturn:
    """End the command with one line for each mistake."""
    for line in text.splitlines():
        click.echo(f"aliquot sim: {line}", err=True)
    click.get_current_context().exit(status)


def _print_profiles(as_json: bool) -> None:
    nodes = [load_node(name) for name in profiles()]
    if as_json:
        click.echo(json.dumps({"profiles": [_describe(node) for node in nodes]}, indent=2))
        return
    for node in nodes:
        device = node.devices[0]
        cores = "SMs" if device.vendor == "nvidia" else "cores"
        click.echo(
            f"{node.name:12} {len(node.devices)} x {device.model}, "
            f"{device.memory >> 20} MiB, {device.sms} {cores}"
        )


def _describe(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "driver_version": node.driver_version,
        "devices": [
            {
                "vendor": device.vendor,
                "model": device.model,
                "memory_bytes": device.memory,
                "reserved_bytes": device.reserved,
                "sms": device.sms,
                "compute_capability": ".".join(map(str, device.compute_capability)),
            }
            for device in node.devices
        ],
    }


def _print_truth(directory: Path, as_json: bool) -> None:
    found = truth(directory)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else truth_text(found))


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault to inject: an XID of NVIDIA's, or another vendor's code."""

    device: int
    code: int
    is_xid: bool
    severity: int = 0
    cleared: bool = False


def _inject(directory: Path, fault: _Fault) -> None:
    with closing(State(directory)) as state:
        vendor = state.vendor(fault.device)
        if vendor and fault.is_xid != (vendor == "nvidia"):
            option = "--xid" if vendor == "nvidia" else "--fault"
            raise StateError(f"device {fault.device} is {vendor}'s: its faults are {option} N")
        state.inject(fault.device, fault.code, fault.severity, cleared=fault.cleared)


class _Code(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A fault's code, as vendors write it: hexadecimal with or without 0x."""

    name = "code"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - a text, or what was converted already
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Read it."""
        try:
            code = value if isinstance(value, int) else int(value, 16)
        except ValueError:
            code = 0
        if not 0 < code < 1 << 32:
            self.fail(f"{value!r} is no code, such as 80E18005", param, ctx)
        return code


def _write_trace(directory: Path, file: Path) -> None:
    tracer = trace.write(directory, file)
    click.echo(f"{file}: {tracer.events} events")
    _say_lost(tracer)


def _say_lost(tracer: trace.Tracer) -> None:
    if tracer.lost:
        click.echo(
            f"aliquot sim: the trace lacks {tracer.lost} turns and records, which came faster than "
            "they were written",
            err=True,
        )


@dataclass(frozen=True, slots=True)
class _Ways:
    """How a node is made: where it stays, whose it is, where CDI specification and trace go."""

    keep: Path | None = None
    shared: bool = False
    cdi: Path | None = None
    trace: Path | None = None
    files: bool = False


def _run(node: Node, ways: _Ways, as_json: bool, command: Sequence[str]) -> int:
    keep = ways.keep
    with run.prepared(node, keep, shared=ways.shared) as directory:
        if ways.files:
            files.lay_out(node, directory)
        try:
            with ExitStack() as stack:
                stack.enter_context(cdi.written(node, directory, ways.cdi, keep=keep is not None))
                tracer = None
                if ways.trace is not None:
                    tracer = stack.enter_context(trace.written(directory, ways.trace))
                status = run.run_on(directory, command)
            if tracer is not None:
                _say_lost(tracer)
        except FileNotFoundError:
            _fail(f"{command[0]}: command not found", _NOT_FOUND)
        except OSError as error:
            _fail(f"{command[0]}: {error.strerror}", _NOT_EXECUTABLE)
        if as_json:
            found = truth(directory).as_dict()
            report = {"status": status, "directory": str(directory) if keep else None, **found}
            click.echo(json.dumps(report, indent=2))
    return run.end_as(status)


def _check(modes: dict[str, bool], ways: _Ways, command: Sequence[str]) -> None:
    """Refuse options that do not go together."""
    asked = [name for name, given in modes.items() if given]
    if len(asked) != 1:
        raise click.UsageError(
            "give one of --node, --trace, --truth, --xid, --fault and --profiles"
        )
    if asked == ["--node"]:
        if not command:
            raise click.UsageError("no command to run: write it after --")
    elif asked == ["--trace"] and len(command) != 1:
        raise click.UsageError("write it so: --trace FILE DIR, or --node … --trace FILE -- CMD")
    elif replace(ways, trace=None) != _Ways() or (command and asked[0] not in _ON_DIRECTORY):
        raise click.UsageError(
            f"{asked[0]} takes neither a command nor --keep, --shared, --cdi and --files"
        )


@click.command(
    name="sim",
    context_settings={
        "ignore_unknown_options": False,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    },
)
@click.option(
    "--node",
    "which",
    metavar="PROFILE|FILE",
    help="The node: a profile's name or a TOML file (docs/simulator.md).",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make the state in DIR and leave it there.",
)
@click.option("--shared", is_flag=True, help="Let all users of the machine run on the node.")
@click.option(
    "--cdi",
    "cdi_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a CDI specification of the node into DIR, for containers (as root).",
)
@click.option(
    "--files",
    "with_files",
    is_flag=True,
    help="Lay out the device and driver files of Ascend's and Cambricon's devices in the node's "
    "folder, below root (as root).",
)
@click.option(
    "--xid",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="With --device, let a device of the node in DIR, given last, report the fault N.",
)
@click.option(
    "--fault",
    type=_Code(),
    metavar="CODE",
    help="The same of another vendor's device: a fault that stands until it is --cleared.",
)
@click.option(
    "--severity",
    type=click.IntRange(0, 3),
    default=2,
    show_default=True,
    help="Of --fault: 0 a notice, 1 minor, 2 major, 3 critical.",
)
@click.option("--cleared", is_flag=True, help="Of --fault: it is over.")
@click.option(
    "--device", type=click.IntRange(0), metavar="I", help="The device for --xid and --fault."
)
@click.option(
    "--truth",
    "truth_of",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Show who holds what on the node in DIR.",
)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write who occupied the devices when into FILE, a Chrome trace, which Perfetto opens: "
    "while CMD runs, or what the node in DIR has on record.",
)
@click.option("--profiles", "list_profiles", is_flag=True, help="List the profiles.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; with CMD, a report when it has ended."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARG]... | DIR]")
def sim_command(
    which: str | None,
    keep: Path | None,
    shared: bool,
    cdi_folder: Path | None,
    with_files: bool,
    xid: int | None,
    fault: int | None,
    severity: int,
    cleared: bool,
    device: int | None,
    truth_of: Path | None,
    trace_file: Path | None,
    list_profiles: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Run CMD on a simulated node.

    The node lives as long as CMD; every program that CMD starts runs on it too.
    """
    modes = {
        "--node": which is not None,
        "--truth": truth_of is not None,
        "--trace": trace_file is not None and which is None,
        "--xid": xid is not None,
        "--fault": fault is not None,
        "--profiles": list_profiles,
    }
    ways = _Ways(keep, shared, cdi_folder, trace_file, with_files)
    _check(modes, ways, command)
    code = fault if xid is None else xid
    if (device is None) != (code is None) or (code is not None and len(command) != 1):
        raise click.UsageError("write it so: --xid N --device I DIR (or --fault CODE)")
    try:
        if list_profiles:
            _print_profiles(as_json)
        elif truth_of is not None:
            _print_truth(truth_of, as_json)
        elif code is not None and device is not None:
            told = _Fault(device, code, xid is not None, severity, cleared)
            _inject(Path(command[0]), told)
        elif trace_file is not None and which is None:
            _write_trace(Path(command[0]), trace_file)
        elif which is not None:
            node = load_node(which)
            sys.stdout.flush()
            status = _run(node, ways, as_json, command)
            click.get_current_context().exit(status)
    except NodeError as error:
        _fail(str(error), 2)
    except StateError as error:
        _fail(str(error), 1)
