"""``aliquot devices``: the devices of this node, and what of them is promised to whom."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import click
from aliquot.shim.region import printable

from . import reach
from .devices import Device, Health, Sample, Vendor, VendorError
from .sizes import format_size
from .slices import NOBODY
from .tables import columns

_HELP: Final = """Show the devices of this node, and what of them is allocated.

The node's agent tells, to root. Where there is none, the vendors' libraries are asked directly,
and nobody knows what is allocated.

\b
MEMORY     what programs can allocate
USED       what anybody has allocated, by the device's account
ALLOCATED  sum of the caps of the slices on the device
CORES      sum of their shares of its time
BUSY       share of time in which kernels ran
HEALTH     ok, or why nothing is placed on the device
BY         who can enforce a memory cap, the strongest first; nobody: it is given as a whole

What is not known is shown as a dash. The status is 1 when a vendor does not tell what it should.
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A device as it is shown: the keys of an object of ``--json``.

    Sizes are bytes, shares of time go from 0 to 1, ``cores_allocated`` is percent. What is not
    known is None.
    """

    index: int
    uuid: str
    vendor: str
    model: str
    memory_bytes: int
    memory_used_bytes: int | None
    memory_allocated_bytes: int | None
    cores_allocated: int | None
    slices: int | None
    busy: float | None
    memory_busy: float | None
    power_watts: float | None
    temperature_celsius: float | None
    healthy: bool | None
    reason: str
    enforcement: tuple[str, ...]
    pci_address: str
    numa_node: int | None
    links: Mapping[str, int]


@dataclass(slots=True)
class Found:
    """All devices, by whom they were told, and one line for each that does not tell.

    ``note`` says why the agent, though there is one, was not asked.
    """

    by_agent: bool
    note: str = ""
    devices: list[Shown] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@click.command("devices", help=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, sizes in bytes.")
@click.option(
    "--all",
    "show_all",
    is_flag=True,
    help="Show all that is known: vendor, whole UUID, PCI address, NUMA node, power, links.",
)
@click.pass_context
def devices_command(context: click.Context, as_json: bool, show_all: bool) -> None:
    """Print what is known."""
    found = find(os.environ)
    for line in [found.note] * bool(found.note) + found.faults:
        click.echo(f"aliquot: {line}", err=True)
    if as_json:
        told = {
            "agent": found.by_agent,
            "devices": [asdict(one) for one in found.devices],
            "faults": found.faults,
        }
        click.echo(json.dumps(told, indent=2))
    else:
        for line in _table(found.devices, show_all=show_all):
            click.echo(line)
    context.exit(1 if found.faults else 0)


def find(environment: Mapping[str, str]) -> Found:
    """Ask the agent, and without one the vendors. Raises AgentError, ConfigError."""
    path, note = reach.socket_path(environment), ""
    if reach.is_there(path):
        # Only now: gRPC takes longer to import than all else takes together.
        from . import rpc  # noqa: PLC0415

        try:
            with rpc.Client(path) as client:
                told = client.devices()
        except reach.AgentAbsentError:
            pass
        except reach.AgentClosedError as error:
            note = f"{error}: what is allocated is not known"
        else:
            return Found(
                by_agent=True,
                devices=[from_agent(one, rpc.known) for one in told.devices],
                faults=list(told.faults),
            )
    return _ask_vendors(note)


def from_agent(one: Any, known: Any) -> Shown:  # noqa: ANN401 - a message's fields are its own
    """Return a device that the agent told of; ``known`` is rpc.known."""
    return Shown(
        index=one.index,
        uuid=one.uuid,
        vendor=one.vendor,
        model=one.model,
        memory_bytes=one.memory_bytes,
        memory_used_bytes=known(one, "memory_used_bytes"),
        memory_allocated_bytes=one.memory_allocated_bytes,
        cores_allocated=one.cores_allocated,
        slices=one.slices,
        busy=known(one, "busy"),
        memory_busy=known(one, "memory_busy"),
        power_watts=known(one, "power_watts"),
        temperature_celsius=known(one, "temperature_celsius"),
        healthy=one.healthy,
        reason=one.reason,
        enforcement=tuple(one.enforcement),
        pci_address=one.pci_address,
        numa_node=known(one, "numa_node"),
        links=dict(one.links),
    )


def _ask_vendors(note: str) -> Found:
    from . import config as configuration  # noqa: PLC0415
    from .devices import registry  # noqa: PLC0415

    loaded = registry.load(configuration.load(None))
    found = Found(by_agent=False, note=note)
    for vendor in loaded.vendors:
        _ask(vendor, found)
    if not loaded.vendors:
        found.faults += [printable(f"{one.name}: {one.reason}") for one in loaded.left_out]
    return found


def _ask(vendor: Vendor, found: Found) -> None:
    """Add a vendor's devices, or why it does not tell them."""
    try:
        devices = vendor.enumerate()
        samples = {sample.uuid: sample for sample in vendor.sample()}
        health = {one.uuid: one for one in vendor.health()}
    except VendorError as error:
        found.faults.append(printable(f"{vendor.name}: {error}"))
    else:
        found.devices += [
            _from_vendor(one, samples.get(one.uuid), health.get(one.uuid)) for one in devices
        ]
    finally:
        vendor.close()


def _from_vendor(device: Device, sample: Sample | None, health: Health | None) -> Shown:
    sample = sample or Sample(device.uuid, None, None, None, None, None)
    return Shown(
        index=device.index,
        uuid=printable(device.uuid),
        vendor=device.vendor,
        model=printable(device.model),
        memory_bytes=device.memory_bytes,
        memory_used_bytes=sample.memory_used_bytes,
        memory_allocated_bytes=None,
        cores_allocated=None,
        slices=None,
        busy=sample.busy,
        memory_busy=sample.memory_busy,
        power_watts=sample.power_watts,
        temperature_celsius=sample.temperature_celsius,
        healthy=health.healthy if health else None,
        reason=printable(health.reason) if health else "",
        enforcement=tuple(device.enforcement),
        pci_address=printable(device.pci_address),
        numa_node=device.numa_node,
        links=dict(device.links),
    )


def _table(devices: Sequence[Shown], *, show_all: bool) -> list[str]:
    head = ["INDEX", "VENDOR", "UUID", "MODEL", "MEMORY", "USED", "ALLOCATED", "CORES", "SLICES",
            "BUSY", "PCI", "NUMA", "POWER", "TEMPERATURE", "HEALTH", "BY", "LINKS"]  # fmt: skip
    rows = [_row(one, devices, show_all=show_all) for one in devices]
    right = {"INDEX", "MEMORY", "USED", "ALLOCATED", "CORES", "SLICES", "BUSY", "NUMA", "POWER",
             "TEMPERATURE"}  # fmt: skip
    more = {"VENDOR", "SLICES", "PCI", "NUMA", "POWER", "TEMPERATURE", "LINKS"}
    if len({one.vendor for one in devices}) > 1:
        # Each vendor's devices are numbered from 0.
        more.remove("VENDOR")
    return columns(head, rows, right=right, hidden=() if show_all else more)


def _row(one: Shown, devices: Sequence[Shown], *, show_all: bool) -> list[str]:
    numbers = {other.uuid: other.index for other in devices if other.vendor == one.vendor}
    return [
        str(one.index),
        one.vendor,
        one.uuid if show_all else one.uuid[:12],
        one.model,
        format_size(one.memory_bytes),
        _or_dash(one.memory_used_bytes, format_size),
        _or_dash(one.memory_allocated_bytes, format_size),
        _or_dash(one.cores_allocated, "{}%".format),
        _or_dash(one.slices, str),
        _or_dash(one.busy, "{:.0%}".format),
        one.pci_address or "-",
        _or_dash(one.numa_node, str),
        _or_dash(one.power_watts, "{:.0f} W".format),
        _or_dash(one.temperature_celsius, "{:.0f} °C".format),
        "-" if one.healthy is None else "ok" if one.healthy else one.reason,
        ",".join(one.enforcement) or NOBODY,
        " ".join(f"{numbers.get(uuid, uuid)}:{count}" for uuid, count in one.links.items()) or "-",
    ]


def _or_dash(value: Any, show: Any) -> str:  # noqa: ANN401 - a reading and what makes it a text
    return "-" if value is None else str(show(value))
