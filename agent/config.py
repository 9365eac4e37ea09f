"""The agent's configuration: a TOML file, read whole, every mistake in it told at once."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aliquot.shim import region

from . import ascend_config, cambricon_config
from .errors import AliquotError, BadRequestError
from .policies import BURST_SHARE, MOST_FLOOR, MOST_QUIET_MS, POLICIES
from .sizes import Size, parse_size
from .slices import BINPACK, DRIVER, SHIM, SPREAD

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DEFAULT_PATH: Final = Path("/etc/aliquot/config.toml")
EVERY_OTHER: Final = "*"
ANNOTATIONS: Final = "annotations"
ENVIRONMENT: Final = "environment"
HAMI: Final = "hami"
ASCEND: Final = "ascend"
CAMBRICON: Final = "cambricon"
VENDOR_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
"""The form of a vendor's name."""
SOURCES: Final = (ANNOTATIONS, ENVIRONMENT, HAMI, ASCEND, CAMBRICON)

_RUNTIME_DIR: Final = "runtime_dir"
_RUNTIME_DIR_VARIABLE: Final = "ALIQUOT_RUNTIME_DIR"
_MOST_BYTES: Final = 1 << 20
# The path of a Unix socket has 107 bytes, and the longest name in the folder is runtime.sock.
_MOST_RUNTIME_DIR: Final = 107 - len("/runtime.sock")
_MOST_DEVICES: Final = 4096
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that may be asked for; None is no limit.

    Of a container: ``devices`` it may hold, ``memory`` of each of them, and of its time ``cores``
    that are guaranteed and ``cores_max`` that it ever has (percent). Of a namespace: what its
    containers hold together, ``devices`` counted once for each container, a percentage of
    ``memory`` being of all the node's devices, ``cores`` the sum of percentages.

    ``priority`` and ``weight`` are for each container; a namespace's own count before those that
    are for all.
    """

    devices: int | None = None
    memory: Size | None = None
    cores: int | None = None
    cores_max: int | None = None
    priority: int | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings. ``namespace`` is by name; ``*`` is for each that is not named."""

    container: Ceiling = field(default_factory=Ceiling)
    namespace: Mapping[str, Ceiling] = field(default_factory=dict)

    def of_namespace(self, name: str) -> tuple[str, Ceiling]:
        """Return the ceiling that a namespace has, and the name that it is written under."""
        found = name if name in self.namespace else EVERY_OTHER
        return found, self.namespace.get(found, Ceiling())


@dataclass(frozen=True, slots=True)
class Shares:
    """How time is shared out where a container does not say.

    ``native``: containers may ask to take no turns. ``max_containers`` is how many have a part of
    a device each under the policy ``average``. ``round_ms`` is half a round of two.
    """

    policy: str = BURST_SHARE
    quiet_ms: int = 100
    floor: int = 0
    native: bool = False
    max_containers: int = 20
    round_ms: int = 5


@dataclass(frozen=True, slots=True)
class Config:
    """What the agent was told; docs/configuration.md describes each field."""

    runtime_dir: Path = Path("/run/aliquot")
    lib_dir: Path = Path("/var/lib/aliquot/lib")
    cdi_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9435
    sample_seconds: float = 1.0
    placement: str = BINPACK
    require: str = SHIM
    sources: tuple[str, ...] = SOURCES
    vendors: tuple[str, ...] = ()
    default_vendor: str = ""
    withhold: bool = True
    sharing: Shares = field(default_factory=Shares)
    limits: Limits = field(default_factory=Limits)
    ascend: ascend_config.Ascend = field(default_factory=ascend_config.Ascend)
    cambricon: cambricon_config.Cambricon = field(default_factory=cambricon_config.Cambricon)


class ConfigError(AliquotError):
    """A configuration with mistakes. Its text has all of them, one a line, as ``lines`` has."""

    status = 2

    def __init__(self, mistakes: list[str]) -> None:
        """Take the mistakes, each one line."""
        super().__init__("\n".join(mistakes))
        self._mistakes = tuple(mistakes)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each mistake."""
        return self._mistakes


class _Mistake(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with one value, and what to do."""


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the configuration.

    Without ``path`` it is /etc/aliquot/config.toml if that is there, else all defaults.
    ``environment`` is the process' own by default; its ALIQUOT_RUNTIME_DIR counts before the
    file's runtime_dir. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    mistakes: list[str] = []
    table = _read_table(DEFAULT_PATH if path is None else path, optional=path is None)
    name = str(DEFAULT_PATH if path is None else path)
    values = _read_values(table, mistakes)
    mistakes = [f"{name}: {mistake}" for mistake in mistakes]
    own = environment.get(_RUNTIME_DIR_VARIABLE)
    if own:
        try:
            values[_RUNTIME_DIR] = _runtime_dir(own)
        except _Mistake as mistake:
            mistakes.append(f"{_RUNTIME_DIR_VARIABLE}: {mistake}")
    if mistakes:
        raise ConfigError([_printable(mistake) for mistake in mistakes])
    return Config(**values)


def _read_table(path: Path, *, optional: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        if optional:
            return {}
        hint = "write it, such as packaging/config.toml, or name another"
        raise ConfigError([_printable(f"{path}: there is no such file: {hint}")]) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([_printable(f"{path}: cannot be read: {reason}")]) from error
    if len(content) > _MOST_BYTES:
        raise ConfigError([_printable(f"{path}: is longer than 1 MiB: that is no configuration")])
    try:
        table: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error) or "too deep"
        raise ConfigError([_printable(f"{path}: is not TOML: {why}")]) from error
    return table


def _read_values(table: Mapping[str, Any], mistakes: list[str]) -> dict[str, Any]:
    tables = ("sharing", "limits", "ascend", "cambricon")
    values = _read_keys(table, _READERS, "", mistakes, also=tables)
    if "sharing" in table:
        own = _as_table(table["sharing"], "sharing", mistakes)
        values["sharing"] = Shares(**_read_keys(own, _SHARING_READERS, "sharing.", mistakes))
    if "limits" in table:
        values["limits"] = _read_limits(table["limits"], mistakes)
    if "ascend" in table:
        own = _as_table(table["ascend"], "ascend", mistakes)
        values["ascend"] = ascend_config.read(own, mistakes)
    if "cambricon" in table:
        own = _as_table(table["cambricon"], "cambricon", mistakes)
        values["cambricon"] = cambricon_config.read(own, mistakes)
    return values


def _read_limits(table: object, mistakes: list[str]) -> Limits:
    groups = _as_table(table, "limits", mistakes)
    _find_unknown(groups, ("container", "namespace"), "limits.", mistakes)
    container = Ceiling()
    if "container" in groups:
        where = "limits.container"
        own = _as_table(groups["container"], where, mistakes)
        container = Ceiling(**_read_keys(own, _CONTAINER_READERS, f"{where}.", mistakes))
    by_name: dict[str, Ceiling] = {}
    where = "limits.namespace"
    for name, value in _as_table(groups.get("namespace", {}), where, mistakes).items():
        if name != EVERY_OTHER and (len(name) > 76 or not _NAMESPACE.fullmatch(name)):
            mistakes.append(
                f"{where}: '{name}' cannot be a namespace's name: "
                'write one as the cluster has it, or "*" for every other'
            )
            continue
        inner = f"{where}.{name}" if _NAMESPACE.fullmatch(name) else f'{where}."{name}"'
        own = _as_table(value, inner, mistakes)
        by_name[name] = Ceiling(**_read_keys(own, _NAMESPACE_READERS, f"{inner}.", mistakes))
    return Limits(container, by_name)


def _read_keys(
    table: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], Any]],
    prefix: str,
    mistakes: list[str],
    also: tuple[str, ...] = (),
) -> dict[str, Any]:
    _find_unknown(table, (*readers, *also), prefix, mistakes)
    values: dict[str, Any] = {}
    for key, reader in readers.items():
        if key not in table:
            continue
        try:
            values[key] = reader(table[key])
        except _Mistake as mistake:
            mistakes.append(f"{prefix}{key}: {mistake}")
    return values


def _find_unknown(
    table: Mapping[str, Any], known: tuple[str, ...], prefix: str, mistakes: list[str]
) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            what = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            mistakes.append(f"{prefix}{key}: is not a key: {what}")


def _as_table(value: object, where: str, mistakes: list[str]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    mistakes.append(f"{where}: is {_shown(value)}, not a table: write [{where}] and keys below it")
    return {}


# -- Values --------------------------------------------------------------------------------------


def _path(value: object) -> Path:
    if not isinstance(value, str):
        raise _Mistake(f"is {_shown(value)}, not a path: write an absolute one in quotes")
    if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise _Mistake(f"{_shown(value)} is not an absolute path without '..'")
    return Path(value)


def _runtime_dir(value: object) -> Path:
    path = _path(value)
    if len(os.fsencode(path)) > _MOST_RUNTIME_DIR:
        raise _Mistake(
            f"{_shown(value)} is too long for the sockets in it: at most {_MOST_RUNTIME_DIR} bytes"
        )
    return path


def _paths(value: object) -> tuple[Path, ...]:
    return tuple(_path(one) for one in _list(value, "paths"))


def _list(value: object, of: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Mistake(f'is {_shown(value)}, not a list of {of}: write ["…", "…"]')
    for number, one in enumerate(value):
        if one in value[:number]:
            raise _Mistake(f"has {_shown(one)} twice: name each once")
    return value


def _address(value: object) -> str:
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError  # noqa: TRY301 - as what is no address
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise _Mistake(
            f'{_shown(value)} is not an IP address: write "127.0.0.1", or "0.0.0.0" for all'
        ) from error


def _whole(least: int, most: int, what: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _Mistake(f"{_shown(value)} is not {what}: a number from {least} to {most}")
        return value

    return read


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 60:
        raise _Mistake(f"{_shown(value)} is not a time in seconds from 0.1 to 60")
    return float(value)


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise _Mistake(f"{_shown(value)} is not one of {', '.join(choices)}")
        return str(value)

    return read


def _sources(value: object) -> tuple[str, ...]:
    names = _list(value, "sources")
    if not names:
        raise _Mistake(f"is empty, so that nobody could ask: name some of {', '.join(SOURCES)}")
    return tuple(_one_of(*SOURCES)(name) for name in names)


def _vendors(value: object) -> tuple[str, ...]:
    return tuple(_vendor(name) for name in _list(value, "vendors"))


def _vendor(value: object) -> str:
    if not isinstance(value, str) or not VENDOR_NAME.fullmatch(value):
        raise _Mistake(f'{_shown(value)} is not a vendor\'s name, such as "nvidia"')
    return value


def _vendor_or_none(value: object) -> str:
    return "" if value == "" else _vendor(value)


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Mistake(f"{_shown(value)} is not true or false")
    return value


def _size(value: object) -> Size:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Mistake(f'{_shown(value)} is not a size: write "4GiB" or "25%"')
    try:
        return parse_size(str(value), "")
    except BadRequestError as error:
        # The key stands before it already.
        raise _Mistake(str(error).removeprefix(": ")) from error


def _shown(value: object) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    _RUNTIME_DIR: _runtime_dir,
    "lib_dir": _path,
    "cdi_dirs": _paths,
    "metrics_address": _address,
    "metrics_port": _whole(0, 65535, "a port"),
    "sample_seconds": _seconds,
    "placement": _one_of(BINPACK, SPREAD),
    "require": _one_of(SHIM, DRIVER),
    "sources": _sources,
    "vendors": _vendors,
    "default_vendor": _vendor_or_none,
    "withhold": _yes_or_no,
}
_SHARING_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "policy": _one_of(*POLICIES),
    "quiet_ms": _whole(0, MOST_QUIET_MS, "a time in milliseconds"),
    "floor": _whole(0, MOST_FLOOR, "percent of a device's time"),
    "native": _yes_or_no,
    "max_containers": _whole(1, 100, "a number of containers"),
    "round_ms": _whole(1, 1000, "a time in milliseconds"),
}
_PRECEDENCE_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "priority": _whole(-region.MAX_PRIORITY, region.MAX_PRIORITY, "a priority"),
    "weight": _whole(1, region.MAX_WEIGHT, "a weight"),
}
_CONTAINER_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "devices": _whole(1, _MOST_DEVICES, "a number of devices"),
    "memory": _size,
    "cores": _whole(1, 100, "percent of a device's time"),
    "cores_max": _whole(1, 100, "percent of a device's time"),
    **_PRECEDENCE_READERS,
}
# What many containers hold together; 0 is for a namespace that gets none.
_NAMESPACE_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "devices": _whole(0, 1000 * _MOST_DEVICES, "a number of devices"),
    "memory": _size,
    "cores": _whole(0, 100 * _MOST_DEVICES, "percent, summed over devices"),
    **_PRECEDENCE_READERS,
}
KEYS: Final = (
    *_READERS,
    *(f"sharing.{key}" for key in _SHARING_READERS),
    *(f"limits.container.{key}" for key in _CONTAINER_READERS),
    *(f"limits.namespace.NAME.{key}" for key in _NAMESPACE_READERS),
    *(f"ascend.{key}" for key in ascend_config.KEYS),
    *(f"cambricon.{key}" for key in cambricon_config.KEYS),
)
"""Every key there is, as docs/configuration.md heads its sections."""
