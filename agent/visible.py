"""The devices that a program would see, and which of them a slice is to have."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import AliquotError, BadRequestError
from .makes import NVIDIA, Make
from .sizes import Limits, Size, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROBE: Final = Path(__file__).with_name("probe.py")
# NVIDIA's granularity on every device since Pascal, for drivers that do not say.
_USUAL_PAGE_BYTES: Final = 2 << 20
# A driver that hangs must not hang the command; the first cuInit after boot may take many seconds.
PROBE_TIMEOUT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the driver describes it; ``index`` is its number among the visible ones."""

    index: int
    name: str
    uuid: bytes
    total_bytes: int
    page_bytes: int
    make: Make = NVIDIA

    @property
    def uuid_text(self) -> str:
        """The UUID as people write it, and CUDA_VISIBLE_DEVICES takes it."""
        return format_uuid(self.uuid, self.name, self.make.prefix)


@dataclass(frozen=True, slots=True)
class Share:
    """What a slice is to have of one device."""

    device: Device
    cap_bytes: int


def format_uuid(uuid: bytes, name: str, prefix: str = NVIDIA.prefix) -> str:
    """Return ``uuid`` as NVIDIA writes it; a device's name says whether it is a MIG partition.

    Other vendors' have another prefix. Ascend's runtime tells other UUIDs than its DCMI library.
    """
    digits = uuid.hex()
    parts = (digits[0:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])
    return ("MIG-" if " MIG " in name else prefix) + "-".join(parts)


def probe_command(*arguments: str) -> list[str]:
    """Return the command line that asks the driver something, see probe.py."""
    return [sys.executable, "-I", "-S", str(_PROBE), *arguments]


def read_answer(output: str, what: str) -> dict[str, Any]:
    """Return the answer in a line of the probe's output. Raises AliquotError for a refusal."""
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise AliquotError(f"{what} gave no answer: the driver ended the process that asked it")
    if "error" in answer:
        raise AliquotError(f"{what}: {answer['error']}")
    return answer


def enumerate_devices(
    driver: str, environment: Mapping[str, str], make: Make = NVIDIA
) -> tuple[int, tuple[Device, ...]]:
    """Ask the driver file for its version and devices, in a process with ``environment``.

    Raises AliquotError when it cannot be loaded, does not answer, or has no device.
    """
    what = f"driver {driver}"
    try:
        result = subprocess.run(
            probe_command("list", make.vendor, driver),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AliquotError(
            f"{what} did not answer {make.first_call} within {PROBE_TIMEOUT_SECONDS:.0f} s: "
            "look at the kernel's log"
        ) from error
    answer = read_answer(result.stdout, what)
    devices = tuple(
        Device(
            index=int(row["index"]),
            name=str(row["name"]),
            uuid=bytes.fromhex(row["uuid"]),
            total_bytes=int(row["total_bytes"]),
            page_bytes=_page_bytes(int(row["page_bytes"])),
            make=make,
        )
        for row in answer["devices"]
    )
    if not devices:
        hidden = environment.get(make.visible)
        why = f": {make.visible} is '{hidden}'" if hidden is not None else ""
        raise AliquotError(f"{what} shows no device{why}")
    return int(answer["version"]), devices


def _page_bytes(reported: int) -> int:
    usable = reported > 0 and not reported & (reported - 1)
    return reported if usable else _USUAL_PAGE_BYTES


def select(devices: Sequence[Device], selector: str) -> tuple[Device, ...]:
    """Return the devices that ``selector`` names, in the driver's order.

    A selector is ``all`` or names with commas between them: numbers, or beginnings of UUIDs that
    fit one device. Raises BadRequestError.
    """
    if selector == "all":
        return tuple(devices)
    chosen: dict[int, str] = {}
    for part in selector.split(","):
        device = _select_one(devices, part.strip(), selector)
        if device.index in chosen:
            raise BadRequestError(
                f"--device: '{part}' in '{selector}' names device {device.index} again"
            )
        chosen[device.index] = part
    return tuple(device for device in devices if device.index in chosen)


def _select_one(devices: Sequence[Device], part: str, selector: str) -> Device:
    if part.isascii() and part.isdigit():
        number = part.lstrip("0") or "0"
        matches = [device for device in devices if str(device.index) == number]
    elif part:
        wanted = part.lower()
        matches = [
            device
            for device in devices
            if device.uuid_text.lower().startswith(wanted)
            or device.uuid_text.lower()[4:].startswith(wanted)
        ]
    else:
        raise BadRequestError(f"--device: '{selector}' has an empty name in it")
    if not matches:
        raise BadRequestError(f"--device: there is no device '{part}': {_choice(devices)}")
    if len(matches) > 1:
        several = ", ".join(f"{device.index} ({device.uuid_text})" for device in matches)
        raise BadRequestError(f"--device: '{part}' fits several devices: {several}")
    return matches[0]


def _choice(devices: Sequence[Device]) -> str:
    if len(devices) == 1:
        return f"the only one is 0 ({devices[0].uuid_text})"
    return f"the driver has 0 to {len(devices) - 1}"


def shares(devices: Sequence[Device], limits: Limits, selector: str | None) -> tuple[Share, ...]:
    """Return what a slice gets of which devices, in the driver's order. Raises BadRequestError."""
    known = {device.index for device in devices}
    for index in limits.by_index:
        if index not in known:
            raise BadRequestError(
                f"{limits.origin}: there is no device {index}: {_choice(devices)}"
            )
    if selector is not None:
        chosen = select(devices, selector)
        picked = {device.index for device in chosen}
        for index in limits.by_index:
            # What HAMi's environment says of devices that were not picked does not matter.
            if index not in picked and limits.origin == "--memory":
                raise BadRequestError(f"--memory: device {index} is not one of --device {selector}")
    elif limits.each is not None:
        chosen = tuple(devices)
    else:
        chosen = tuple(device for device in devices if device.index in limits.by_index)
    return tuple(Share(device, _cap(device, limits)) for device in chosen)


def _cap(device: Device, limits: Limits) -> int:
    size: Size | None = limits.by_index.get(device.index, limits.each)
    if size is None:
        raise BadRequestError(f"{limits.origin}: device {device.index} has no size")
    cap = size.of(device.total_bytes)
    if cap > device.total_bytes:
        raise BadRequestError(
            f"{limits.origin}: {size.text} is more than device {device.index} "
            f"({device.name}) has: at most {format_size(device.total_bytes)}"
        )
    if cap < 1:
        raise BadRequestError(f"{limits.origin}: {size.text} of device {device.index} is no memory")
    return cap
