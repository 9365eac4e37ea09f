"""``aliquot install containerd`` as tests run it: a folder, a containerd, and what it sees."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import ALIQUOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

TABLES = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}


@dataclass(frozen=True)
class Shop:
    """A containerd, a folder for its configuration, and whoever installs there."""

    program: str
    version: str
    folder: Path
    binary: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "config.toml"

    def write(self, text: str, name: str = "config.toml") -> Path:
        """Write the configuration, or another file beside it."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def install(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``aliquot install containerd``."""
        command = [*ALIQUOT, "install", "containerd", "--config", str(self.config)]
        command += ["--containerd", self.program, "--binary", str(self.binary), *options]
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert not check or run.returncode == 0, run.stderr
        return run

    def refuse(self, *options: str) -> str:
        """The line with which it is refused; nothing is changed."""
        before = self.content()
        run = self.install(*options, check=False)
        assert run.returncode in (1, 2), run.stdout
        (line,) = run.stderr.splitlines()
        assert line.startswith("aliquot: ")
        assert self.content() == before
        return line

    def dump(self, config: Path | None = None) -> dict[str, Any]:
        """What containerd takes the configuration for, with the defaults where there is none."""
        arguments = ["config", "default"]
        if config or self.config.exists():
            arguments = ["--config", str(config or self.config), "config", "dump"]
        run = subprocess.run(
            [self.program, *arguments], check=True, capture_output=True, text=True, cwd="/"
        )
        table: dict[str, Any] = tomllib.loads(run.stdout)
        return table

    def handlers(self) -> dict[str, Any]:
        """The runtimes that containerd sees."""
        meant = self.dump()
        found: dict[str, Any] = meant["plugins"][TABLES[meant["version"]]]["containerd"]["runtimes"]
        return found

    def content(self) -> dict[str, bytes | str]:
        """All that lies in the folder."""
        found: dict[str, bytes | str] = {}
        for path in self.folder.glob("**/*"):
            name = str(path.relative_to(self.folder))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


def flat(table: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that says something, by its path; which files were read is left out."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, (*path, key))
        elif value and (path or key != "imports"):
            found |= {(*path, key): value}
    return found


def without(meant: dict[str, Any], name: str) -> dict[tuple[str, ...], Any]:
    """What a configuration says of all but one runtime."""
    return {
        path: value
        for path, value in flat(meant).items()
        if "runtimes" not in path or path[path.index("runtimes") + 1] != name
    }


def make_shop(program: str, tmp_path: Path) -> Shop:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    binary = tmp_path / "bin/aliquot-runtime"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    folder = tmp_path / "containerd"
    folder.mkdir()
    return Shop(program, said.stdout.split()[2], folder, binary)
