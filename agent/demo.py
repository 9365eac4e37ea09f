"""The demonstration: containers, then programs, side by side on one device under their own caps.

``python -m aliquot.agent.demo`` uses the machine's NVIDIA device, and a simulated node where there
is none. It shows what is promised and looks whether it holds; the status is 1 when anything does
not. The programs are those of ``examples/``, which know nothing of Aliquot. Containers are shown
where they can be started: by root, with containerd.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import demo_containers, demo_vendors, drivers, visible
from .demo_voice import Demo
from .errors import AliquotError
from .sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

_NODE: Final = "mixed.toml"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a fresh folder of our own is made in it
_ALIQUOT: Final = (sys.executable, "-m", "aliquot.agent")
_PATIENCE_SECONDS: Final = 60.0
_OUT_OF_MEMORY: Final = 2


class _Program:
    """A program in a slice of its own; its lines are read as they come."""

    def __init__(self, name: str, memory: str, *command: str) -> None:
        self.name = name
        self._options = ("run", "--name", name, "--memory", memory, "--device", "0", "--")
        self._command = command
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [*_ALIQUOT, *self._options, sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def shown(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["aliquot", *self._options, "python", *self._command])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.strip())
                self._news.notify_all()
        with self._news:
            self._lines.append("ended")
            self._news.notify_all()

    def wait_for(self, start: str, after: int = 0) -> list[str]:
        """Return the words of the next line from ``after`` on that begins with ``start``."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with self._news:
            while True:
                for line in self._lines[after:]:
                    if line.startswith(start):
                        return line.split()
                    if line == "ended":
                        raise AliquotError(f"{self.name} ended: {self._lines[-2:]}")
                if not self._news.wait(deadline - time.monotonic()):
                    raise AliquotError(f"{self.name} did not say '{start}' in time")

    def goes_on(self, start: str) -> bool:
        """Say whether the program tells of more work done than before, from now on."""
        with self._news:
            after = len(self._lines)
        first = int(self.wait_for(start, after)[1])
        with self._news:
            after = len(self._lines)
        return int(self.wait_for(start, after)[1]) > first

    def kill_inside(self, pid: int) -> int:
        """Kill a process of the slice; returns the command's status."""
        os.kill(pid, signal.SIGKILL)
        return self._process.wait(_PATIENCE_SECONDS)

    def end(self) -> int:
        """Let the program end by itself; returns its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(_PATIENCE_SECONDS)
        self._reader.join(_PATIENCE_SECONDS)
        return status

    def abandon(self) -> None:
        """End what is left, however the demonstration ended."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(_PATIENCE_SECONDS)


def _slices() -> dict[str, dict[str, Any]]:
    # Its status tells of anybody's slices, also of those that cannot be read.
    shown = subprocess.run(
        [*_ALIQUOT, "ps", "--json"], check=False, stdout=subprocess.PIPE, text=True
    ).stdout
    return {piece["name"]: piece for piece in json.loads(shown)["slices"]}


def _show_slices(demo: Demo) -> None:
    demo.say("$ aliquot ps")
    for line in subprocess.run(
        [*_ALIQUOT, "ps"], check=False, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines():
        demo.say(line)
    print()


def _show(demo: Demo, examples: Path) -> None:
    """Show it all. Raises AliquotError when a program fails that should not."""
    started: list[_Program] = []

    def start(name: str, memory: str, *command: str) -> _Program:
        program = _Program(f"demo-{name}", memory, *command)
        started.append(program)
        demo.say(f"$ {program.shown} &")
        return program

    fill = str(examples / "fill.py")
    try:
        demo.chapter("Three programs on device 0, each with its own cap")
        small = start("small", "2GiB", fill, "--step", "64", "--keep-asking")
        large = start("large", "10%", fill, "--step", "256", "--keep-asking")
        serve = start("serve", "1GiB", str(examples / "serve.py"), "--batch", "2048")
        _show_caps(demo, [small, large], serve)
        _show_rest(demo, small, large, serve)
        _show_death(demo, small, large, lambda: start("again", "2GiB", fill, "--step", "64"))
        demo.chapter("The others end by themselves, and nothing is left")
        for program in started[1:]:
            demo.promise(f"{program.name} ended with status 0", program.end() == 0)
        left = [name for name in _slices() if name.startswith("demo-")]
        demo.promise("no slice is left", not left)
    finally:
        for program in started:
            program.abandon()


def _show_caps(demo: Demo, fillers: list[_Program], serve: _Program) -> None:
    demo.chapter("Each takes memory until CUDA itself says that there is no more")
    for program in fillers:
        total = int(program.wait_for("sees")[1])
        words = program.wait_for("refused")
        cap = _slices()[program.name]["devices"][0]["cap_bytes"]
        demo.say(
            f"{program.name} sees a device of {format_size(total)}; it was refused with "
            f"{words[1]} holding {format_size(int(words[4]))} beside its context"
        )
        demo.promise(f"{program.name} sees its cap as the device's memory", total == cap)
        demo.promise(
            f"{program.name} was refused with CUDA's own code {_OUT_OF_MEMORY}",
            int(words[2]) == _OUT_OF_MEMORY,
        )
        demo.promise(f"{program.name} got no more than its cap", 0 < int(words[4]) <= cap)
    words = serve.wait_for("refused")
    demo.say(f"{serve.name} turned a batch away: {words[1]}")
    demo.promise(
        f"{serve.name} was refused with CUDA's own code {_OUT_OF_MEMORY}",
        int(words[2]) == _OUT_OF_MEMORY,
    )


def _show_rest(demo: Demo, small: _Program, large: _Program, serve: _Program) -> None:
    demo.chapter("Being refused again and again, all of them go on working side by side")
    for program, word in ((small, "rounds"), (large, "rounds"), (serve, "answered")):
        demo.promise(f"{program.name} goes on", program.goes_on(word))
    demo.chapter("What each holds")
    _show_slices(demo)
    pieces = _slices()
    for program in (small, large, serve):
        (device,) = pieces[program.name]["devices"]
        cap = device["cap_bytes"]
        demo.promise(
            f"{program.name} holds {format_size(device['charge_bytes'])} and never held more than "
            f"{format_size(device['peak_bytes'])} of {format_size(cap)}",
            device["charge_bytes"] <= device["peak_bytes"] <= cap,
        )
        demo.promise(
            f"{program.name} was refused, {device['refusals']} times", device["refusals"] > 0
        )


def _show_death(
    demo: Demo, victim: _Program, other: _Program, again: Callable[[], _Program]
) -> None:
    demo.chapter("One is killed with kill -9: it owes nothing, and the others do not notice")
    held = int(victim.wait_for("refused")[4])
    (process,) = _slices()[victim.name]["processes"]
    demo.say(f"$ kill -9 {process['pid']}")
    demo.promise(f"{victim.name} ended with status 137", victim.kill_inside(process["pid"]) == 137)
    demo.promise(f"the slice of {victim.name} is gone", victim.name not in _slices())
    demo.promise(f"{other.name} goes on", other.goes_on("rounds"))
    successor = again()
    words = successor.wait_for("refused")
    demo.promise(
        f"{successor.name} gets {format_size(int(words[4]))}, as much as the one before",
        int(words[4]) == held,
    )


def _own_device() -> str | None:
    """Return what the machine's first device is called; None where there is none to be used."""
    try:
        installation = drivers.find(os.environ)
        _, found = visible.enumerate_devices(installation.driver, os.environ)
    except AliquotError:
        return None
    return f"{found[0].name}, {format_size(found[0].total_bytes)}"


def _on_simulated_node(examples: Path) -> int:
    """Run the same program again where there are devices; returns its status."""
    # In memory, where the system has such a place: what the devices hold lies there.
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="aliquot-demo-", dir=memory) as name:
        folder = Path(name)
        folder.chmod(0o711)
        again = [sys.executable, "-m", "aliquot.agent.demo", "--simulated"]
        command = ["sim", "--node", str(examples / _NODE)]
        # Containers reach the node by device files and specifications, which only root can make.
        if not demo_containers.lacking():
            node, cdi = folder / "node", folder / "cdi"
            command += ["--keep", str(node), "--shared", "--cdi", str(cdi), "--files"]
            again += ["--cdi", str(cdi), "--root", str(node / "root")]
        again += ["--examples", str(examples)]
        return subprocess.call([*_ALIQUOT, *command, "--", *again])


def main() -> int:
    """Run the demonstration, on a simulated node where the machine has no device."""
    parser = argparse.ArgumentParser(prog="python -m aliquot.agent.demo", description=__doc__)
    parser.add_argument("--examples", type=Path, default=Path("examples"), metavar="DIR")
    parser.add_argument("--simulated", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cdi", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.examples / "fill.py").is_file():
        print(f"aliquot: {options.examples} has no examples: run this in the checkout, or name "
              "them with --examples", file=sys.stderr)  # fmt: skip
        return 2
    device = _own_device()
    if device is None and not options.simulated:
        return _on_simulated_node(options.examples)
    demo = Demo()
    if options.simulated:
        print(f"No CUDA device here: this runs on the simulated node {options.examples / _NODE}.")
    print(f"Device 0: {device}")
    try:
        lacking = demo_containers.lacking()
        if lacking:
            print(f"\nNo containers are shown: {lacking}.")
        else:
            if options.root is not None:
                demo_vendors.lay_out_amd(options.root)
                os.environ["ALIQUOT_DRM_ROOT"] = str(options.root)
            demo_containers.show(demo, options.examples, options.cdi, options.root)
        _show(demo, options.examples)
    except AliquotError as error:
        demo.promise(f"the demonstration runs to its end: {error}", holds=False)
    print()
    if demo.broken:
        print(f"{demo.broken} promises are BROKEN.")
        return 1
    print("Every promise holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
