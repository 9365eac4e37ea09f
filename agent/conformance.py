"""``make conformance``: whether the caps hold on this machine's own NVIDIA device.

Each check runs a program in a slice made by `aliquot run`, and looks at what the device answered.
The report has versions, the device's model and each check's result, and nothing that names the
machine or its user: it is made to be sent to us. Where the kernel has no NVIDIA driver every check
is skipped. A device counts only when the kernel's driver lists its UUID, so that no other library
in CUDA's place is taken for a device.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click

from . import contexts, doctor, drivers, visible
from .conformance_worker import CHUNK
from .devices.nvidia_files import NVML
from .errors import AliquotError
from .sizes import format_size

PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"

_OUT_OF_MEMORY: Final = "CUDA_ERROR_OUT_OF_MEMORY"
_FAMILIES: Final = ("linear", "pitched", "managed", "pool", "virtual", "array")
_CARDS: Final = Path("/proc/driver/nvidia/gpus")
_MOST_CAP: Final = 4 << 30
_PATIENCE_SECONDS: Final = 600.0
_WORKER: Final = "aliquot.agent.conformance_worker"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a check, and why if it did not pass."""

    name: str
    outcome: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A device to try the caps on. ``cost`` is what a context takes of it, 0 when unknown."""

    index: int
    uuid: str
    model: str
    total_bytes: int
    cap: int
    cost: int
    cuda: int
    environment: Mapping[str, str]


class _NotDoneError(Exception):
    """A check that could not be done; the text says why."""


class _BrokenError(Exception):
    """A promise that was not kept; the text says which."""


@click.command("conformance")
@click.option("--report", type=click.Path(path_type=Path), help="Where the report is to go.")
@click.option("--device", type=int, default=0, show_default=True, help="CUDA's number of it.")
@click.pass_context
def conformance_command(context: click.Context, report: Path | None, device: int) -> None:
    """Check that the caps hold on this machine's NVIDIA device."""
    release = doctor.kernel_driver()
    if release is None:
        reason = "no device: the kernel has no NVIDIA driver"
        results = [Result(name, SKIPPED, reason) for name, _ in _checks()]
    else:
        try:
            trial = find(device, os.environ)
        except AliquotError as error:
            results = [Result(name, SKIPPED, str(error)) for name, _ in _checks()]
        else:
            results = run(trial)
            path = report or Path(f"conformance-{release}.json")
            path.write_text(json.dumps(_report(trial, release, results), indent=2) + "\n", "utf-8")
            click.echo(f"report: {path}")
    for line in lines(results):
        click.echo(line)
    context.exit(1 if any(result.outcome == FAILED for result in results) else 0)


def find(index: int, environment: Mapping[str, str], cards: Path = _CARDS) -> Trial:
    """Return the device to try. Raises AliquotError when it is none of the kernel's driver."""
    driver = drivers.find(environment).driver
    version, devices = visible.enumerate_devices(driver, environment)
    # (Only now: the kernel's driver learns a UUID when the device is first used.)
    known = "\n".join(_informations(cards)).lower()
    for device in devices:
        if device.index == index and device.uuid_text.lower() in known:
            return trial_of(device, driver, version, environment)
    raise AliquotError(
        f"no device: CUDA's device {index} is none that the kernel's NVIDIA driver has in {cards}"
    )


def trial_of(
    device: visible.Device, driver: str, version: int, environment: Mapping[str, str]
) -> Trial:
    """Return how a device is tried: with a cap that leaves room beside it."""
    cost = contexts.costs(driver, version, [device], environment)[device.index]
    cap = min(_MOST_CAP, device.total_bytes // 2) // CHUNK * CHUNK
    return Trial(
        index=device.index,
        uuid=device.uuid_text,
        model=device.name,
        total_bytes=device.total_bytes,
        cap=cap,
        cost=cost,
        cuda=version,
        environment=dict(environment),
    )


def run(trial: Trial) -> list[Result]:
    """Run all checks, one after the other."""
    return [_run(name, check, trial) for name, check in _checks()]


def lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each result, and the sum in pytest's words."""
    for result in results:
        text = f": {result.text}" if result.text else ""
        yield f"{result.outcome.upper():7} {result.name}{text}"
    counts = [
        f"{sum(result.outcome == outcome for result in results)} {outcome}"
        for outcome in (PASSED, FAILED, SKIPPED)
    ]
    yield ", ".join(counts)


def _informations(cards: Path) -> Iterator[str]:
    for file in sorted(cards.glob("*/information")):
        with file.open(encoding="ascii", errors="replace") as opened:
            yield opened.read(1 << 16)


def _run(name: str, check: Callable[[Trial], None], trial: Trial) -> Result:
    try:
        check(trial)
    except _NotDoneError as error:
        return Result(name, SKIPPED, str(error))
    except (_BrokenError, KeyError, TypeError, IndexError) as error:
        # (What a worker answers in another form is a failure too.)
        return Result(name, FAILED, str(error) or type(error).__name__)
    except subprocess.TimeoutExpired:
        return Result(name, FAILED, f"it did not end within {_PATIENCE_SECONDS:.0f} s")
    return Result(name, PASSED)


def _checks() -> Iterator[tuple[str, Callable[[Trial], None]]]:
    yield "cuMemGetInfo and cuDeviceTotalMem show the cap", _shows_the_cap
    for family in _FAMILIES:
        yield f"{family} memory is refused at the cap", _refuses(family)
    yield "a child shares the slice", _child_shares
    yield "a killed process owes nothing", _death_frees
    yield "the driver counts no more than the cap", _driver_agrees
    yield "NVML shows the cap", _management_shows_the_cap


def _shows_the_cap(trial: Trial) -> None:
    seen = _in_slice(trial, "see")
    _demand(seen["total_bytes"] == trial.cap, "cuMemGetInfo", seen["total_bytes"], trial.cap)
    total = seen["device_total_bytes"]
    _demand(total == trial.cap, "cuDeviceTotalMem", total, trial.cap)
    _demand(seen["free_bytes"] <= trial.cap, "the free memory", seen["free_bytes"], trial.cap)


def _refuses(family: str) -> Callable[[Trial], None]:
    def check(trial: Trial) -> None:
        _need_room(trial)
        answer = _in_slice(trial, "fill", family, str(trial.cap))
        for row in answer["rounds"]:
            if row["refusal"] != _OUT_OF_MEMORY:
                raise _BrokenError(f"the refusal is '{row['refusal']}', not {_OUT_OF_MEMORY}")
            _demand(row["held_bytes"] <= trial.cap, "what was given", row["held_bytes"], trial.cap)
            least = _least(trial, trial.cap, processes=1)
            _demand(row["held_bytes"] >= least, "what was given", row["held_bytes"], least)
        if answer["more_than_all"] != _OUT_OF_MEMORY:
            raise _BrokenError(f"more than the cap at once is answered {answer['more_than_all']}")

    return check


def _child_shares(trial: Trial) -> None:
    _need_room(trial)
    part = trial.cap // 2 // CHUNK * CHUNK
    answer = _in_slice(trial, "share", str(part))
    if answer["own_refusal"]:
        raise _BrokenError(f"half of the slice is refused: {answer['own_refusal']}")
    row = answer["child"]["rounds"][0]
    if row["refusal"] != _OUT_OF_MEMORY:
        raise _BrokenError(f"the child's refusal is '{row['refusal']}'")
    both = answer["own_bytes"] + row["held_bytes"]
    _demand(both <= trial.cap, "what both were given", both, trial.cap)
    least = _least(trial, trial.cap, processes=2)
    _demand(both >= least, "what both were given", both, least)


def _death_frees(trial: Trial) -> None:
    _need_room(trial)
    part = trial.cap * 3 // 4 - 2 * trial.cost
    if part < CHUNK:
        raise _NotDoneError("contexts take most of the cap on this device")
    answer = _in_slice(trial, "death", str(part))
    if answer["child"]["refusal"] or answer["own_refusal"]:
        raise _BrokenError(f"what the dead process held is not free: {answer['own_refusal']}")


def _driver_agrees(trial: Trial) -> None:
    """Compare with what the driver counts for the process, seen from outside of the slice."""
    _need_room(trial)
    process = subprocess.Popen(
        _slice_command(trial, "hold", str(2 * trial.cap)),
        env=dict(trial.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        held = _parsed(process.stdout.readline(), process)
        counted = _counted(trial, int(held["pid"]))
    finally:
        process.communicate(timeout=_PATIENCE_SECONDS)
    _demand(counted >= held["held_bytes"], "the driver's count", counted, held["held_bytes"])
    _demand(counted <= trial.cap, "the driver's count", counted, trial.cap)


def _counted(trial: Trial, pid: int) -> int:
    script = (
        "import json, pynvml\n"
        "pynvml.nvmlInit()\n"
        "rows = [row for index in range(pynvml.nvmlDeviceGetCount()) for row in"
        " pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))]\n"
        "print(json.dumps({row.pid: row.usedGpuMemory for row in rows}))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=dict(trial.environment),
        timeout=_PATIENCE_SECONDS,
    )
    if asked.returncode:
        raise _NotDoneError(f"NVML cannot be asked: {asked.stderr.strip().splitlines()[-1]}")
    counted = json.loads(asked.stdout).get(str(pid))
    if counted is None:
        raise _NotDoneError("the driver does not tell the memory of a process here")
    return int(counted)


def _management_shows_the_cap(trial: Trial) -> None:
    shim = doctor.shim_path().with_name(NVML)
    if not shim.is_file():
        raise _NotDoneError("this installation has no NVML shim")
    seen = _in_slice(trial, "management")
    if not any(Path(file).exists() and shim.samefile(file) for file in seen["files"]):
        raise _NotDoneError("`aliquot run` leaves NVML as it is")
    if seen["total_bytes"] != [trial.cap]:
        raise _BrokenError(f"NVML shows devices of {seen['total_bytes']} bytes, not {trial.cap}")


def _least(trial: Trial, cap: int, processes: int) -> int:
    """Return what programs must at least get of the cap: all but contexts and a broken chunk."""
    return cap - processes * (2 * trial.cost + CHUNK) - CHUNK


def _need_room(trial: Trial) -> None:
    """See that it is the cap that refuses, and not the device."""
    # (In a slice the device is the first; outside of it, it must be made so.)
    alone = replace(trial, environment={**trial.environment, "CUDA_VISIBLE_DEVICES": trial.uuid})
    free = _parsed_run(alone, _worker("see"))["free_bytes"]
    if free < trial.cap + trial.cap // 4:
        text = f"{format_size(free)} free on the device: end what else runs on it"
        raise _NotDoneError(text)


def _demand(holds: bool, what: str, found: int, wanted: int) -> None:
    if not holds:
        raise _BrokenError(f"{what}: {found} bytes, and {wanted} are the bound")


def _worker(*arguments: str) -> list[str]:
    return [sys.executable, "-m", _WORKER, *arguments]


def _slice_command(trial: Trial, *arguments: str) -> list[str]:
    made = [sys.executable, "-m", "aliquot.agent", "run", "--memory", str(trial.cap)]
    return [*made, "--device", str(trial.index), "--", *_worker(*arguments)]


def _in_slice(trial: Trial, *arguments: str) -> dict[str, Any]:
    return _parsed_run(trial, _slice_command(trial, *arguments))


def _parsed_run(trial: Trial, command: list[str]) -> dict[str, Any]:
    if importlib.util.find_spec("cuda") is None:
        raise _NotDoneError("cuda-python is not installed: pip install cuda-python")
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        env=dict(trial.environment),
        stdin=subprocess.DEVNULL,
        timeout=_PATIENCE_SECONDS,
    )
    last = (result.stdout.splitlines() or [""])[-1]
    try:
        answer = json.loads(last)
    except ValueError:
        said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        raise _BrokenError(f"no answer, status {result.returncode}: {said}") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise _BrokenError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer


def _parsed(line: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = {"error": f"no answer, status {process.poll()}"}
    if "error" in answer:
        raise _BrokenError(str(answer["error"]))
    found: dict[str, Any] = answer
    return found


def _report(trial: Trial, release: str, results: Sequence[Result]) -> dict[str, Any]:
    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    # The kernel's name may have the machine's in it.
    kernel = re.match(r"[0-9]+(\.[0-9]+)*", platform.release())
    return {
        "aliquot": version("aliquot"),
        "cuda-python": version("cuda-python"),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "kernel": kernel[0] if kernel else "",
        "driver": release,
        "cuda": trial.cuda,
        "device": {
            "model": trial.model,
            "total_bytes": trial.total_bytes,
            "context_bytes": trial.cost,
        },
        "cap_bytes": trial.cap,
        "results": [asdict(replace(row, text=_anonymous(row.text))) for row in results],
    }


def _anonymous(text: str) -> str:
    """Return a text without what names the machine or its user: their paths, its name."""
    for found, put in ((sys.prefix, "PREFIX"), (str(Path.home()), "HOME")):
        text = text.replace(found, put) if len(found) > 1 else text
    return re.sub(rf"\b{re.escape(platform.node())}\b", "HOST", text) if platform.node() else text


if __name__ == "__main__":
    conformance_command()
