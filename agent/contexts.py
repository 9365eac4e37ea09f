"""What one context costs on a device: measured once, then remembered.

A context is made by a driver call whose cost no interface tells in advance. So two processes are
started: one holds a context and reads the free memory before and after the other has made its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import AliquotError
from .visible import PROBE_TIMEOUT_SECONDS, Device, probe_command, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ROUNDS: Final = 3
_CACHE_FORMAT: Final = 1
_MOST_CACHE_BYTES: Final = 1 << 20


def costs(
    driver: str, version: int, devices: Sequence[Device], environment: Mapping[str, str]
) -> dict[int, int]:
    """Return the bytes that one context takes, by device index; 0 where it cannot be told.

    Known costs come from the cache; the others are measured, all devices side by side.
    """
    folder = cache_folder(environment)
    with _locked(folder):
        # Under the lock: two that measure the same device at once would measure each other.
        known = _load(folder)
        missing = [device for device in devices if _key(device, version) not in known]
        if missing:
            for device, cost in zip(missing, _measure(driver, missing, environment), strict=True):
                if cost:
                    known[_key(device, version)] = cost
            _store(folder, known)
    return {device.index: known.get(_key(device, version), 0) for device in devices}


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Return where measurements of this machine are kept; None when there is no such place."""
    own = environment.get("ALIQUOT_CACHE_DIR")
    if own:
        return Path(own)
    user = environment.get("XDG_CACHE_HOME")
    if user and Path(user).is_absolute():
        return Path(user) / "aliquot"
    if os.geteuid() == 0:
        return Path("/var/cache/aliquot")
    home = environment.get("HOME")
    if home and Path(home).is_absolute():
        return Path(home) / ".cache" / "aliquot"
    return None


def _key(device: Device, version: int) -> str:
    return f"{device.uuid_text} {version} {device.total_bytes}"


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Hold the cache's lock; where the folder cannot be had, go on without."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(
            folder / "contexts.lock",
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _load(folder: Path | None) -> dict[str, int]:
    """Read the cache. It is only a memory: whatever is wrong with it means measuring again."""
    if folder is None:
        return {}
    path = folder / "contexts.json"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:  # noqa: PTH123 - an open file
            if os.fstat(fd).st_uid not in (0, os.geteuid()):
                return {}
            content = json.loads(file.read(_MOST_CACHE_BYTES))
        if content["format"] != _CACHE_FORMAT:
            return {}
        return {
            str(key): value
            for key, value in content["context_bytes"].items()
            if isinstance(value, int) and 0 < value < 1 << 40
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _store(folder: Path | None, known: Mapping[str, int]) -> None:
    if folder is None:
        return
    content = {"format": _CACHE_FORMAT, "context_bytes": dict(sorted(known.items()))}
    with contextlib.suppress(OSError):
        fd, name = tempfile.mkstemp(dir=folder, prefix=".contexts-")
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - an open file
                json.dump(content, file, indent=1)
                os.fchmod(fd, 0o644)
            Path(name).replace(folder / "contexts.json")
        except OSError:
            Path(name).unlink(missing_ok=True)


def _measure(driver: str, devices: Sequence[Device], environment: Mapping[str, str]) -> list[int]:
    """Return the cost of a context for each device, 0 where it cannot be told."""
    samples: list[list[int]] = [[] for _ in devices]
    deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
    with contextlib.ExitStack() as readers:
        try:
            reader = [
                readers.enter_context(_Probe("read", driver, device, environment, deadline))
                for device in devices
            ]
            for probe in reader:
                probe.answer()
            for _ in range(_ROUNDS):
                before = [probe.free_bytes() for probe in reader]
                with contextlib.ExitStack() as holders:
                    holder = [
                        holders.enter_context(_Probe("hold", driver, device, environment, deadline))
                        for device in devices
                    ]
                    for probe in holder:
                        probe.answer()
                    for number, probe in enumerate(reader):
                        samples[number].append(before[number] - probe.free_bytes())
        except AliquotError:
            return [0 for _ in devices]
    # What others allocate and free meanwhile spoils a sample, seldom two.
    return [max(0, int(statistics.median(row))) for row in samples]


class _Probe:
    """A process that holds a context on one device until it is left."""

    def __init__(
        self,
        what: str,
        driver: str,
        device: Device,
        environment: Mapping[str, str],
        deadline: float,
    ) -> None:
        self._deadline = deadline
        self._name = f"device {device.index}"
        self._process = subprocess.Popen(
            probe_command(what, device.make.vendor, driver, str(device.index)),
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def __enter__(self) -> _Probe:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        left = max(0.0, self._deadline - time.monotonic())
        if not select.select([self._process.stdout], [], [], left)[0]:
            raise AliquotError(f"{self._name} did not answer in time")
        return read_answer(self._process.stdout.readline().decode(errors="replace"), self._name)

    def free_bytes(self) -> int:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
        except OSError as error:
            raise AliquotError(f"{self._name} does not answer: {error.strerror}") from error
        return int(self.answer()["free_bytes"])
