"""The simulator's record of who occupied which device when, and the trace that is made of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aliquot.sim import library
from aliquot.sim.node import COSTS, NodeError, load_node, parse_node
from aliquot.sim.state import create, environment

HERE = Path(__file__).resolve().parent
PROGRAMS = ("exec_trace", "exec_share")

# A millisecond for a megabyte; kernels and calls cost nothing but what tests ask for.
NODE = """
[[device]]
model = "Test device"
memory = "2GiB"
context = "64MiB"
sms = 40
kernel_ns = 0
wave_ns = 0
host_copy_mb_per_s = 1_000
"""


@pytest.fixture(scope="session")
def programs(
    header_folder: Callable[[str], Path],
    sim_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of the compiled programs."""
    folder = tmp_path_factory.mktemp("trace")
    for program in PROGRAMS:
        subprocess.run(
            [
                *("gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
                *("-I", header_folder("13.5"), "-o", folder / program, HERE / f"{program}.c"),
                *("-L", sim_library.parent, "-l:libcuda.so.1", "-lpthread"),
                "-Wl,--unresolved-symbols=ignore-in-shared-libs",
            ],
            check=True,
        )
    return folder


class Bench:
    """Programs on nodes of one device."""

    def __init__(self, programs: Path, library: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self._library = library
        self._states: list[Path] = []

    def node(self, more: str = "") -> Path:
        """Write a node file with further keys of the device."""
        file = self.folder / "node.toml"
        file.write_text(NODE + more)
        return file

    def state(self, node: Path) -> Path:
        """Make a node that stays until the test is over."""
        state = Path("/dev/shm") / f"aliquot-trace-{os.getpid()}-{len(self._states)}"
        self._states.append(state)
        create(load_node(str(node)), state)
        return state

    def run(self, state: Path, *commands: str) -> list[list[float]]:
        """Run commands at a time; answers the numbers that each printed."""
        script = "\n".join(f"({command}) > {i} &" for i, command in enumerate(commands))
        subprocess.run(
            ["/bin/sh", "-ec", f"{script}\nwait"],
            check=True,
            cwd=self.folder,
            env=environment(state, self._library, self.environment()),
            timeout=60,
        )
        texts = [(self.folder / str(i)).read_text().split() for i in range(len(commands))]
        return [[float(word) for word in text if word != "ready"] for text in texts]

    def environment(self) -> dict[str, str]:
        """Return one in which the programs are found."""
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def sim(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the command `aliquot sim`."""
        return subprocess.run(
            [sys.executable, "-m", "aliquot.sim", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment(),
            timeout=120,
        )

    def traced(self, node: Path, *command: str) -> Trace:
        """Run a command with a trace of it."""
        file = self.folder / "trace.json"
        done = self.sim("--node", node, "--trace", file, "--", *command)
        assert done.returncode == 0, done.stderr
        return Trace(file)

    def close(self) -> None:
        """Remove the nodes."""
        for state in self._states:
            shutil.rmtree(state)


class Trace:
    """A trace as Perfetto reads it. Times are microseconds."""

    def __init__(self, file: Path) -> None:
        whole = json.loads(file.read_text())
        self.lost: int = whole["otherData"]["lost"]
        events: list[dict[str, Any]] = whole["traceEvents"]
        self.events = [event for event in events if event["ph"] != "M"]
        self.processes = {
            event["pid"]: event["args"]["name"]
            for event in events
            if event["name"] == "process_name"
        }
        self.threads = {
            (event["pid"], event["tid"]): event["args"]["name"]
            for event in events
            if event["name"] == "thread_name"
        }
        self._check()

    def _check(self) -> None:
        """Every slice lies on a named track, and those of one track follow each other."""
        tracks: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        begun: dict[int, dict[str, Any]] = {}
        for event in self.events:
            assert event["pid"] in self.processes
            assert (event["pid"], event["tid"]) in self.threads
            if event["ph"] == "X":
                assert event["dur"] >= 0
                tracks[event["pid"], event["tid"]].append(event)
            elif event["ph"] == "b":
                begun[event["id"]] = event
            else:
                assert event["ph"] == "e"
                assert event["ts"] >= begun.pop(event["id"])["ts"]
        assert not begun
        for track, slices in tracks.items():
            slices.sort(key=lambda event: (event["ts"], event["dur"]))
            for one, next_ in pairwise(slices):
                assert one["ts"] + one["dur"] <= next_["ts"] + 0.0015, (track, one, next_)

    def of(self, category: str, track: str = "", pid: int | None = None) -> list[dict[str, Any]]:
        """The slices of a category, on tracks whose name begins so."""
        found = [
            event
            for event in self.events
            if event.get("cat") == category
            and event["ph"] in "Xb"
            and self.threads[event["pid"], event["tid"]].startswith(track)
            and pid in (None, event["pid"])
        ]
        return sorted(found, key=lambda event: float(event["ts"]))

    def total(self, category: str, track: str = "", pid: int | None = None) -> float:
        """How long they are together, in milliseconds."""
        return sum(float(event["dur"]) for event in self.of(category, track, pid)) / 1000


@pytest.fixture
def bench(programs: Path, sim_library: Path, tmp_path: Path) -> Iterator[Bench]:
    """Where programs run."""
    made = Bench(programs, sim_library, tmp_path)
    yield made
    made.close()


BUSY = "echo go | exec_share busy {} 1"

# ---- The model, seen from programs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("engines", "ends"),
    [
        # Two ways, each with one copy at a time; and the processors are nobody's concern.
        (3, [4, 8, 4, 6]),
        (2, [4, 8, 4, 6]),
        # One engine takes them one after another.
        (1, [4, 8, 12, 6]),
    ],
)
def test_copies_share_engines_and_lanes_and_run_beside_kernels(
    bench: Bench, engines: int, ends: list[float]
) -> None:
    state = bench.state(bench.node(f"copy_engines = {engines}\n"))
    (found,) = bench.run(state, "exec_trace lanes")
    if engines == 1:
        # Which of those that begin at once is first is nobody's promise.
        assert (sorted(found[:3]), found[3]) == ([4, 8, 12], 6)
    else:
        assert sorted(found[:2]) == ends[:2]
        assert found[2:] == ends[2:]


@pytest.mark.parametrize(("blocks", "least", "most"), [(40, 300, 301), (4000, 500, 601)])
def test_under_mps_processes_run_together_as_far_as_the_processors_go(
    bench: Bench, blocks: int, least: float, most: float
) -> None:
    state = bench.state(bench.node("mps = true\n"))
    command = f"{BUSY.format(300)} {blocks}"
    found = bench.run(state, command, command)
    # Half of the processors each: neither slows the other down. All of them each: half the pace
    # while both are there; they do not start at once. One sees what the other begins or ends when
    # its engine next looks, which is in time but not at once.
    for (took,) in found:
        assert least <= took + 0.01
        assert took <= most


def test_switches_take_time_only_while_several_processes_want_the_device(bench: Bench) -> None:
    node = bench.node("switch_ns = 500_000\ntime_slice_ns = 1_000_000\n")
    trace = bench.traced(node, "/bin/sh", "-c", f"{BUSY.format(50)} & {BUSY.format(50)}; wait")
    assert trace.total("turn", "held by") == pytest.approx(100, abs=0.001)
    switches = [event for event in trace.events if event["name"].startswith("switch to")]
    assert len(switches) > 20
    # Each takes its time, but for one that nobody wanted any more before it was over.
    assert {event["dur"] for event in switches} == {500}
    alone = bench.traced(node, "/bin/sh", "-c", BUSY.format(50))
    assert len([event for event in alone.events if event["name"].startswith("switch to")]) == 1


@pytest.mark.parametrize("cost", [cost for cost in COSTS if cost != "nvml_ns"])
def test_every_call_takes_what_the_node_says(bench: Bench, cost: str) -> None:
    state = bench.state(bench.node(f"costs = {{ {cost} = 3_000_000 }}\n"))
    done = subprocess.run(
        ["exec_trace", "calls"],
        check=True,
        capture_output=True,
        text=True,
        env=environment(state, library(), bench.environment()),
        timeout=60,
    )
    took = {name: float(ms) for name, ms in map(str.split, done.stdout.splitlines())}
    assert set(took) == {key.removesuffix("_ns") for key in COSTS if key != "nvml_ns"}
    assert took[cost.removesuffix("_ns")] >= 3


def test_nvml_takes_what_the_node_says(bench: Bench) -> None:
    state = bench.state(bench.node("costs = { nvml_ns = 3_000_000 }\n"))
    script = (
        "import pynvml, time; pynvml.nvmlInit(); "
        "device = pynvml.nvmlDeviceGetHandleByIndex(0); before = time.monotonic(); "
        "pynvml.nvmlDeviceGetMemoryInfo(device); print(time.monotonic() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=environment(state, library(), bench.environment()),
        timeout=60,
    )
    assert float(done.stdout) >= 0.003


# ---- The trace -----------------------------------------------------------------------------------


def test_a_trace_has_what_a_process_did_and_waited_for(bench: Bench) -> None:
    trace = bench.traced(bench.node(), "exec_trace", "scene")
    assert trace.lost == 0
    own = next(pid for pid, name in trace.processes.items() if name.startswith("exec_trace ("))
    kernels = trace.of("kernel", "stream", own)
    assert [event["dur"] for event in kernels] == [5000, 3000, 2000]
    assert {event["name"] for event in kernels} == {"aliquot_spin_ns"}
    assert [event["args"]["sms"] for event in kernels] == [10, 10, 40]
    # Those of half a device at most ran side by side, and the copy beside them.
    start = kernels[0]["ts"]
    assert [round(event["ts"] - start) for event in kernels] == [0, 4000, 7000]
    copies = [event for event in trace.of("copy", "stream", own) if event["dur"] > 1000]
    assert [(event["name"], event["dur"], event["args"]["bytes"]) for event in copies] == [
        ("copy to device", 4000, 4_000_000)
    ]
    engine = [event for event in trace.of("copy", "copy engine", 1) if event["dur"] > 1000]
    assert [(event["ts"], event["dur"]) for event in engine] == [(copies[0]["ts"], 4000)]
    waits = [
        event for event in trace.of("wait", "stream", own) if event["name"] == "wait for event"
    ]
    assert (round(waits[-1]["ts"] - start), round(waits[-1]["dur"])) == (5000, 2000)
    assert any(event["name"] == "wait for value" for event in trace.of("wait", "stream", own))
    assert len(trace.of("host", "stream", own)) == 1
    assert any(event["args"]["bytes"] == 4_000_000 for event in trace.of("fill", "stream", own))
    # The graph's two kernels, one after the other.
    (graph,) = trace.of("graph", "stream", own)
    assert graph["dur"] == 2000
    assert len(trace.of("graph node", "stream", own)) >= 2
    # Every kernel and graph was launched, before it ran, and an arrow says which launch was whose.
    launches = {event["bind_id"]: event for event in trace.of("launch", "launches", own)}
    for event in (*kernels, graph):
        assert launches[event["bind_id"]]["ts"] <= event["ts"]
        assert event["args"]["launched_us"] == pytest.approx(launches[event["bind_id"]]["ts"])
    # The host's thread waited for all of it.
    assert any(event["dur"] > 1000 for event in trace.of("wait", "waits of thread", own))


def test_a_process_in_a_container_is_called_by_it(bench: Bench) -> None:
    unshare = ["unshare", "-pfu"] if os.geteuid() == 0 else ["unshare", "-Urpfu"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no namespaces can be made here")
    script = f"hostname web-1; {BUSY.format(5)}"
    trace = bench.traced(bench.node(), *unshare, "/bin/sh", "-c", script)
    group = Path("/proc/self/cgroup").read_text().splitlines()[0].partition("/")[2]
    name = group.rpartition("/")[2] or "web-1"
    assert any(known.startswith(f"{name}: exec_share (") for known in trace.processes.values())
    held = [event for event in trace.of("turn", "held by") if event["name"].startswith(f"{name}: ")]
    assert sum(event["dur"] for event in held) == pytest.approx(5000)


def test_two_processes_turns_add_up_to_the_time_that_passed(bench: Bench) -> None:
    named = "ALIQUOT_SIM_GROUP={} exec_share busy {} 1"
    trace = bench.traced(
        bench.node("switch_ns = 100_000\n"),
        "/bin/sh",
        "-c",
        f"echo go | {named.format('one', 200)} & echo go | {named.format('two', 120)}; wait",
    )
    assert trace.lost == 0
    pids = {name.split(":")[0]: pid for pid, name in trace.processes.items() if pid >= 1000}
    held = sorted(
        (
            event
            for event in trace.events
            if event["ph"] == "X" and trace.threads[event["pid"], event["tid"]] == "held by"
        ),
        key=lambda event: float(event["ts"]),
    )
    # What each got, on the device's track as on its own, is what its kernels take.
    for name, wanted in (("one", 200), ("two", 120)):
        assert trace.total("turn", "turns", pids[name]) == pytest.approx(wanted, abs=0.001)
        mine = [event for event in held if event["name"].startswith(f"{name}:")]
        assert sum(event["dur"] for event in mine) / 1000 == pytest.approx(wanted, abs=0.001)
        kernels = trace.of("kernel", "stream", pids[name])
        assert len(kernels) == wanted
        assert len(trace.of("launch", "launches", pids[name])) >= wanted
        # It had a turn, or was given one, or waited for one, from its first kernel to its last.
        track = [
            event
            for event in trace.events
            if event["pid"] == pids[name]
            and trace.threads[event["pid"], event["tid"]].startswith("turns")
        ]
        end = kernels[-1]["ts"] + kernels[-1]["dur"]
        assert trace.total("turn wait", "turns", pids[name]) > 0
        assert sum(event["dur"] for event in track) == pytest.approx(
            end - min(event["ts"] for event in track), abs=0.01
        )
    # Turns, switches and the gaps between are all the time there was.
    gaps = [next_["ts"] - one["ts"] - one["dur"] for one, next_ in pairwise(held)]
    span = held[-1]["ts"] + held[-1]["dur"] - held[0]["ts"]
    assert min(gaps) >= -0.0015
    assert sum(event["dur"] for event in held) + sum(gaps) == pytest.approx(span)
    # While both wanted it, nobody left it idle: a turn is followed by a switch at once.
    switches = [event for event in held if event.get("cat") != "turn"]
    assert len(switches) > 40


def test_what_a_kept_node_has_on_record_is_written_later(bench: Bench) -> None:
    file = bench.folder / "later.json"
    for record, kernels in ((False, 0), (True, 30)):
        node = bench.folder / "node.toml"
        node.write_text(f"trace = {str(record).lower()}\n{NODE}")
        state = bench.state(node)
        bench.run(state, BUSY.format(30))
        done = bench.sim("--trace", file, state)
        assert done.returncode == 0, done.stderr
        trace = Trace(file)
        # Turns are always on record, kernels where the node says so.
        assert trace.total("turn", "held by", 1) == pytest.approx(30, abs=0.001)
        assert len(trace.of("kernel")) == kernels


def test_what_is_under_way_is_in_the_trace_as_far_as_it_has_come(bench: Bench) -> None:
    state = bench.state(bench.node())
    holder = subprocess.Popen(
        ["exec_share", "hold", "60000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(state, library(), bench.environment()),
    )
    try:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n"
        holder.stdin.write("go\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "running\n"
        files = [bench.folder / name for name in ("one", "two")]
        for file in files:
            assert bench.sim("--trace", file, state).returncode == 0
        lengths = [Trace(file).total("turn", "held by") for file in files]
        assert 0 < lengths[0] < lengths[1] < 60000
    finally:
        holder.kill()
        holder.communicate()


def test_killed_processes_leave_a_trace_that_is_whole(bench: Bench) -> None:
    (bench.folder / "go").write_text("go\n")
    script = (
        "for n in 1 2 3; do mkfifo {0}$n; exec_share churn < go > {0}$n & one=$!; "
        "{{ read ready; read churns; sleep 0.2; }} < {0}$n; kill -KILL $one; wait $one || :; done"
    )
    node = bench.node("switch_ns = 10_000\ntime_slice_ns = 100_000\n")
    both = f"({script.format('a')}) & ({script.format('b')}); wait"
    trace = bench.traced(node, "/bin/sh", "-c", both)
    assert len({event["pid"] for event in trace.of("kernel", "stream")}) == 6
    held = [event for event in trace.events if event["pid"] == 1 and event["tid"] == 1]
    assert sum(event["dur"] for event in held) > 100_000


def test_what_came_too_fast_for_the_record_is_counted(bench: Bench) -> None:
    node = bench.folder / "node.toml"
    node.write_text(f"trace = true\n{NODE}")
    state = bench.state(node)
    bench.run(state, "exec_trace many 20000")
    file = bench.folder / "trace.json"
    done = bench.sim("--trace", file, state)
    trace = Trace(file)
    assert done.returncode == 0
    assert trace.lost >= 20000 - 16384
    assert f"lacks {trace.lost} turns and records" in done.stderr
    assert len(trace.of("kernel")) + trace.lost >= 20000


def test_a_trace_that_cannot_be_written_is_one_line(bench: Bench) -> None:
    done = bench.sim("--node", bench.node(), "--trace", "/nowhere/trace", "--", "true")
    assert (done.returncode, done.stderr) == (
        1,
        "aliquot sim: /nowhere/trace: No such file or directory\n",
    )
    done = bench.sim("--trace", bench.folder / "trace", bench.folder / "none")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    done = bench.sim("--trace", bench.folder / "trace")
    assert done.returncode == 2
    assert "--trace FILE DIR" in done.stderr


def test_settings_of_time_are_checked() -> None:
    wrong = {
        "switch_ns": "-1",
        "mps": "1",
        "copy_engines": "0",
    }
    for key, value in wrong.items():
        with pytest.raises(NodeError) as caught:
            parse_node(f"[[device]]\n{key} = {value}\n", "file", "name")
        (mistake,) = caught.value.mistakes
        assert (mistake.line, mistake.key) == (2, f"device[0].{key}")
    with pytest.raises(NodeError, match="file:1: trace: 3 is neither true nor false"):
        parse_node("trace = 3\n[[device]]\n", "file", "name")
