"""A driver that fails on demand, between a vendor's shim and its driver, and a program on it.

The failing driver (fault_driver.c) lies where the shim finds its driver, and finds the simulator's
library beside it under another name. The program (fault_client.c) is told which call is to fail.
"""

from __future__ import annotations

import platform
import re
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tenant_vendors import COMMON
from tenants import PATIENCE_SECONDS, TESTS, Box, Site, Slice, compile_c

TRUE_NAME = "libdriver-true.so"
_CFLAGS = ["-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]

ANSWER = re.compile(r"(\S+) calls=(\d+) failed=(\d+) first=(\S+) in=(\S+) answer=(\d+) text=(.*)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command: fault_client.c says what the members mean."""

    what: str
    calls: int
    failed: int
    first: str
    within: str
    answer: int
    text: str

    @property
    def own(self) -> bool:
        """Whether the call that failed is the one that the program made."""
        return self.first == self.within


def need_stubs() -> None:
    """Skip the test where stubs of no signature are not written for the machine."""
    if platform.machine() != "x86_64":
        pytest.skip("the failing driver's stubs are x86-64's")


def functions_of(library: Path) -> list[str]:
    """The functions that a library exports."""
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True
    ).stdout
    found = (line.split() for line in shown.splitlines())
    return sorted({name.partition("@")[0] for _, kind, name in found if kind in "TWi"})


def build_driver(site: Site) -> Path:
    """The failing driver of a vendor, with all that the simulator's library exports."""
    made = site.folder / "faults" / site.vendor.names[1]
    if made.exists():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    names = made.with_name("names.inc")
    lines = (f"F({i}, {name})" for i, name in enumerate(functions_of(site.library)))
    names.write_text("\n".join(lines) + "\n")
    # Gives it its DT_NEEDED: the true driver's own SONAME is the shim's name.
    empty = made.with_name("empty.c")
    empty.write_text("extern int fault_driver_needs;\n")
    stand_in = made.with_name("stand_in.so")
    shared = ["gcc", "-shared", "-fPIC", *_CFLAGS]
    subprocess.run(
        [*shared, str(empty), "-o", str(stand_in), f"-Wl,-soname,{TRUE_NAME}"], check=True
    )
    subprocess.run(
        [
            *(*shared, "-fvisibility=hidden", f'-DNAMES="{names}"', f'-DTRUE_DRIVER="{TRUE_NAME}"'),
            *(str(TESTS / "fault_driver.c"), "-o", str(made), f"-Wl,-soname,{made.name}"),
            *("-Wl,--no-as-needed", str(stand_in), "-Wl,-rpath,$ORIGIN", "-ldl", "-lpthread"),
        ],
        check=True,
    )
    return made


def build_client(site: Site) -> Path:
    """The program for a vendor."""
    program = site.folder / "fault_client"
    if not program.exists():
        sources = ["fault_client.c", *COMMON, *site.vendor.sources]
        wrapped = (f"-Wl,--wrap={name}" for name in ("symbol_of", "hold_letters"))
        compile_c(site.folder, program.name, sources, *wrapped)
    return program


def put_between(site: Site, here: Slice) -> Path:
    """Put the failing driver between a slice's shim and the driver; answers its file."""
    hidden = here.library.parent / ".aliquot"
    driver = hidden / site.vendor.names[1]
    (hidden / TRUE_NAME).symlink_to(driver.readlink())
    driver.unlink()
    driver.write_bytes(build_driver(site).read_bytes())
    return driver


@dataclass
class Faulty:
    """A running program of fault_client.c in a slice."""

    process: subprocess.Popen[str]
    errors: Path
    holding: Callable[[], None]
    """Called while the program holds what it got although a call has failed."""
    lines: list[str] = field(default_factory=list)

    def ask(self, *words: object) -> Answer | None:
        """Give it a command. None: it answered that it has no such function."""
        line = " ".join(str(word) for word in words)
        self.lines.append(line)
        said = self._say(line)
        if said == "holding":
            self.holding()
            said = self._say("go")
        if said == "absent":
            return None
        match = ANSWER.fullmatch(said)
        if not match:
            status = self.process.wait(PATIENCE_SECONDS)
            pytest.fail(f"it said {said!r} and ended with {status} at: {self._last()}")
        what, calls, failed, first, within, answer, text = match.groups()
        return Answer(what, int(calls), int(failed), first, within, int(answer), text)

    def _last(self) -> str:
        return "; ".join(self.lines[-6:])

    def _say(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0]:
            pytest.fail(f"it hangs at: {self._last()}")
        return self.process.stdout.readline().rstrip("\n")

    def do(self, *words: object) -> Answer:
        """Give it a command that it knows."""
        answer = self.ask(*words)
        assert answer
        return answer

    def end(self) -> None:
        """End it as programs end; it must have said nothing on standard error."""
        assert self.process.stdin
        self.process.stdin.close()
        status = self.process.wait(PATIENCE_SECONDS)
        said = self.errors.read_text()
        assert (status, said) == (0, ""), f"after: {self._last()}"

    def kill(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


@contextmanager
def running(
    site: Site, here: Slice, driver: Path, box: Box, holding: Callable[[], None] = lambda: None
) -> Iterator[Faulty]:
    """The program, waiting for commands."""
    errors = here.library.parent / "stderr"
    way = "address" if site.vendor.name == "ascend" else "symbol"
    client = build_client(site)
    with errors.open("w") as file:
        process = subprocess.Popen(
            [str(client), site.vendor.library, str(driver), way, box.arguments()[1]],
            env=here.environment(),
            pass_fds=box.descriptors(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    faulty = Faulty(process, errors, holding)
    try:
        yield faulty
    finally:
        faulty.kill()
