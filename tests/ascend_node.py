"""A simulated node with Ascend devices: programs on it, and the module that asks it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aliquot.sim import files
from aliquot.sim.node import parse_node
from aliquot.sim.state import State, create, environment

from cambricon_node import Holder
from cambricon_node import built as built_of_cambricon
from commands import TESTS
from module_worker import Asked

MIB = 1 << 20
GIB = 1 << 30


def node_text(model: str = "910B3", count: int = 2, memory: int = 65536, cores: int = 20) -> str:
    """A node of so many chips; a chip that is not known has no vNPUs."""
    reserved = 'reserved = "3049MiB"\n' if model == "310P3" else ""
    return f"""
[[device]]
vendor = "ascend"
count = {count}
model = "{model}"
memory = "{memory}MiB"
{reserved}page_size = "1MiB"
sms = {cores}
nvlinks = 1
numa_node = 0
power_watts = 400
"""


class AscendNode:
    """A node's state, and what runs on it."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self._library = library
        self.holders: list[Holder] = []

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """What a program is started with to run on the node."""
        return environment(self.folder, self._library, base)

    def holder(self, device: int) -> Holder:
        """A process that can hold memory of a device."""
        program = built_of_cambricon("holder", self.folder.parent)
        self.holders.append(Holder(program, self.folder, device))
        return self.holders[-1]

    def inject(self, device: int, code: int, severity: int = 2, *, cleared: bool = False) -> None:
        """Let a device report a fault, or its end."""
        state = State(self.folder)
        state.inject(device, code, severity, cleared=cleared)
        state.close()


@contextmanager
def ascend_node(
    home: Path, library: Path, text: str = "", *, with_files: bool = False
) -> Iterator[AscendNode]:
    """Make a node in ``home``."""
    node = parse_node(text or node_text(), "test.toml", "test")
    create(node, home / "node")
    if with_files:
        files.lay_out(node, home / "node")
    made = AscendNode(home / "node", library)
    try:
        yield made
    finally:
        for holder in made.holders:
            holder.end()


def compile_client(folder: Path) -> Path:
    """Compile the client that knows no header."""
    program = folder / "dcmi_client"
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    source = str(TESTS / "dcmi_client.c")
    subprocess.run([*command, source, "-o", str(program), "-ldl"], check=True)
    return program


class Worker(Asked):
    """The agent's module in a process of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str], root: str = "/") -> None:
        (folder / "cdi").mkdir(exist_ok=True)
        module = "aliquot.agent.devices.ascend:Ascend"
        arguments = (module, str(folder / "cdi"), root)
        self.begun = self.launch("vendor_worker.py", *arguments, env=environment)

    def close(self) -> None:
        """End it."""
        self.finish()


def odd_library(
    folder: Path, names: Iterable[str], real: Path, called: Mapping[str, str] | None = None
) -> Path:
    """Compile a libdcmi.so that has these functions alone, each of which the real one answers.

    ``called`` is what the real one calls a function otherwise. ODD_DCMI, such as
    "dcmi_init=-8012,…", has functions answer something else while it is set.
    """
    lines = [
        "#include <dlfcn.h>",
        "#include <stdlib.h>",
        "#include <string.h>",
        "typedef int (*any)(long, long, long, long, long, long);",
        "static int answer(const char *name, const char *called,",
        "                  long a, long b, long c, long d, long e, long f) {",
        '    const char *at = getenv("ODD_DCMI");',
        "    size_t length = strlen(name);",
        "    while (at && (at = strstr(at, name))) {",
        "        if (at[length] == '=')",
        "            return atoi(at + length + 1);",
        "        at += length;",
        "    }",
        f'    void *real = dlopen("{real}", RTLD_NOW);',
        "    any found = real ? (any)dlsym(real, called) : NULL;",
        "    return found ? found(a, b, c, d, e, f) : -8255;",
        "}",
    ]
    lines += [
        f"int {name}(long a, long b, long c, long d, long e, long f) "
        f'{{ return answer("{name}", "{(called or {}).get(name, name)}", a, b, c, d, e, f); }}'
        for name in names
    ]
    folder.mkdir(exist_ok=True)
    source = folder / "odd_dcmi.c"
    source.write_text("\n".join(lines) + "\n")
    library = folder / "libdcmi.so"
    command = ["gcc", "-std=gnu11", "-O1", "-shared", "-fPIC", str(source), "-ldl"]
    subprocess.run([*command, "-o", str(library)], check=True)
    return library
