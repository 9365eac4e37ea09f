"""What containerd takes a configuration for: its files, its imports, and itself to ask."""

from __future__ import annotations

import glob
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

CRI: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""The plugin that has the runtimes, by schema."""

_MOST_BYTES: Final = 4 << 20
_PATIENCE_SECONDS: Final = 60.0

Table = Mapping[str, Any]


class ContainerdError(Exception):
    """A configuration that cannot be used or changed: which, why and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Containerd:
    """The containerd program, which is asked what a configuration means and never serves."""

    program: str

    def version(self) -> str:
        """Return its version, ``1.6.20``. Raises ContainerdError."""
        words = self._run("--version").split()
        # `containerd github.com/containerd/containerd v1.7.24 HASH`
        return words[2].removeprefix("v").partition("~")[0] if len(words) > 2 else "unknown"

    def dump(self, config: Path, shown: Path | None = None) -> dict[str, Any]:
        """Return what a file means to it, defaults and imports included. Raises ContainerdError."""
        try:
            table: dict[str, Any] = tomllib.loads(
                self._run("--config", str(config), "config", "dump")
            )
        except ContainerdError as error:
            text = str(error).replace(str(config), str(shown or config))
            raise ContainerdError(f"{shown or config}: {text}") from error
        except ValueError as error:
            raise ContainerdError(f"{self.program} config dump gives no TOML: {error}") from error
        return table

    def default(self) -> dict[str, Any]:
        """Return its built-in configuration. Raises ContainerdError."""
        try:
            table: dict[str, Any] = tomllib.loads(self._run("config", "default"))
        except ValueError as error:
            raise ContainerdError(f"{self.program}: its default is no TOML: {error}") from error
        return table

    def schema(self) -> int:
        """Return the schema of its own configuration. Raises ContainerdError."""
        return int(self.default().get("version", 2))

    def _run(self, *arguments: str) -> str:
        try:
            # Patterns in `imports` are relative to the service's working directory.
            run = subprocess.run(
                [self.program, *arguments],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                cwd="/",
                timeout=_PATIENCE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else "it does not end"
            raise ContainerdError(f"{self.program} cannot be asked: {reason}") from error
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            raise ContainerdError(
                f"containerd refuses it: {lines[-1] if lines else f'status {run.returncode}'}"
            )
        return run.stdout


def read(file: Path) -> bytes | None:
    """Return a file's content, None when it is not there. Raises ContainerdError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContainerdError(f"{file}: cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ContainerdError(f"{file}: is longer than 4 MiB: that is no configuration")
    return content


def meaning(
    config: Path,
    main: bytes | None,
    program: Containerd,
    changed: Mapping[Path, bytes | None] | None = None,
) -> dict[str, Any]:
    """Return what containerd takes a configuration for, with other content in some of its files.

    Nothing is written beside the configuration: what is tried lies in a folder of its own.
    """
    changed = dict(changed or {})
    if main is not None and not changed:
        return program.dump(config)
    content = changed.pop(config, main)
    if content is None:
        # The built-in configuration, which is what a service without a file has.
        content = f"version = {program.schema()}\n".encode()
    with tempfile.TemporaryDirectory(prefix="aliquot-containerd-") as folder:
        trial = Path(folder) / "config.toml"
        table = parse(config, decode(config, content))
        imports = table.get("imports") or []
        if changed or any(not str(name).startswith("/") for name in imports):
            old = program.schema() < 3
            files = (
                imported_files(config, content) if old else [config.parent / one for one in imports]
            )
            document = _document(config, content)
            document["imports"] = [
                _trial(Path(folder), number, file, changed) if old else str(file)
                for number, file in enumerate(files)
            ]
            content = tomlkit.dumps(document).encode()
        trial.write_bytes(content)
        meant = program.dump(trial, shown=config)
    # Ours, and the same for every file that is tried.
    meant.pop("imports", None)
    return meant


def imported_files(config: Path, main: bytes) -> list[Path]:
    """Return the files that containerd 1.x reads after the configuration, in its order.

    `config dump` tells them, but in any order. Of tables that several have, the last one counts.
    """
    found: list[Path] = []
    pending = [(config, main)]
    while pending:
        file, content = pending.pop(0)
        for name in parse(file, decode(file, content)).get("imports", ()):
            paths = [file.parent / name]
            if "*" in name:
                # Relative to its working directory, which is / for a service.
                paths = [Path("/") / one for one in sorted(glob.glob(name, root_dir="/"))]  # noqa: PTH207
            for path in paths:
                inner = read(path)
                if path not in (config, *found) and inner is not None:
                    found.append(path)
                    pending.append((path, inner))
    return found


def _trial(folder: Path, number: int, path: Path, changed: Mapping[Path, bytes | None]) -> str:
    """Return the path under which an imported file is tried."""
    content = changed.get(path.resolve())
    if content is None:
        content = read(path) or b""
    document = _document(path, content)
    # All that is imported is named already.
    document.pop("imports", None)
    trial = folder / f"import-{number}.toml"
    trial.write_text(tomlkit.dumps(document), encoding="utf-8")
    return str(trial)


def cri_of(table: Table, schema: int | None = None) -> dict[str, Any]:
    """Return the CRI plugin's table, empty when there is none."""
    number = table.get("version", 2) if schema is None else schema
    return _inner(table, ("plugins", CRI[max(2, min(number, 3))]))


def runtimes_of(table: Table, schema: int) -> dict[str, Any]:
    """Return the table of runtimes, which may be changed; an empty one when there is none."""
    return _inner(cri_of(table, schema), ("containerd", "runtimes"))


def _inner(table: Table, keys: Sequence[str]) -> dict[str, Any]:
    found: Any = table
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def decode(file: Path, content: bytes) -> str:
    """Return a file's text. Raises ContainerdError."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContainerdError(f"{file}: is not UTF-8, as TOML must be") from error


def _document(file: Path, content: bytes) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(decode(file, content))
    except TOMLKitError as error:
        raise ContainerdError(f"{file}: cannot be rewritten to be tried: {error}") from error


def parse(file: Path, text: str) -> dict[str, Any]:
    """Return what a file's text says. Raises ContainerdError."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContainerdError(f"{file}: is not TOML: {error}") from error
    return table
