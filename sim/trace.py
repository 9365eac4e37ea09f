"""The truth of a node as a Chrome trace, which Perfetto (ui.perfetto.dev) opens.

Each device has a track of who held it, of the switches between processes, and of each copy engine.
Each process has tracks of its own: its turns on each device, its launches, what its streams did and
waited for, and when its threads waited. A process in a container has the container's name.

Times in the file are microseconds of CLOCK_MONOTONIC, which C has in nanoseconds. Everything is
written as it is read, so that a trace may be longer than memory.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from ._state import ffi, lib
from .state import State, StateError

_ROOM: Final = 1024
_PAUSE_SECONDS: Final = 0.02
# A record that is not whole after so long has a writer that was killed.
_PATIENCE_SECONDS: Final = 0.2
_PROGRESS_SECONDS: Final = 0.5

# Processes of the trace: devices come first, then the node's processes by number.
_FIRST_PROCESS: Final = 1000
# Threads of a device: who held it, then copy engines.
_HOLDERS: Final = 1
_ENGINES: Final = 100
# Threads of a process: turns and launches by device, threads that waited and streams by number.
_TURNS: Final = 1
_LAUNCHES: Final = 100
_STREAMS: Final = 1000
_THREADS: Final = 1 << 24

_LANES: Final = ("copy to device", "copy to host", "copy between devices")


@dataclass(slots=True)
class _Span:
    """A slice that may still grow: a turn is read in pieces. Times in nanoseconds."""

    start: int
    end: int
    ran: int
    number: int
    kind: int
    since: int


@dataclass(slots=True)
class _Device:
    """How far one device has been read."""

    turn: Any = field(default_factory=lambda: ffi.new("uint64_t *"))
    record: Any = field(default_factory=lambda: ffi.new("uint64_t *"))
    stuck_since: float | None = None
    open: dict[tuple[int, int], _Span] = field(default_factory=dict)


class Tracer:
    """Writes what a node's state says, piece by piece, to a file that is open.

    ``events`` counts what was written, ``lost`` what the state no longer had when it was read.
    """

    def __init__(self, state: State, out: TextIO) -> None:
        """Begin a trace; what the state still has of before belongs to it."""
        self._state = state
        self._out = out
        self._turns = ffi.new("struct sim_turn[]", _ROOM)
        self._records = ffi.new("struct sim_record[]", _ROOM)
        self._lost = ffi.new("uint64_t *")
        self._process = ffi.new("struct sim_process *")
        self._devices = [_Device() for _ in state.models()]
        self._known: dict[int, str] = {}
        self._tracks: set[tuple[int, int]] = set()
        self._flow = 0
        self.events = 0
        out.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        for index, model in enumerate(state.models()):
            self._name(index + 1, f"device {index}: {model}", index)
            self._thread(index + 1, _HOLDERS, "held by", 0)

    @property
    def lost(self) -> int:
        """Records and turns that were overwritten before they were read."""
        return int(self._lost[0])

    def read(self, *, last: bool = False) -> int:
        """Write what there is by now; answers how many turns and records that was.

        ``last``: nobody writes any more, so that nothing is waited for.
        """
        return sum(
            self._read_turns(index, device) + self._read_records(index, device, last=last)
            for index, device in enumerate(self._devices)
        )

    def end(self) -> None:
        """Write what is left, and the end of the file."""
        while self.read(last=True):
            pass
        for index, device in enumerate(self._devices):
            for span in device.open.values():
                self._turn(index, span)
            device.open.clear()
        other = {"lost": self.lost, "clock": "CLOCK_MONOTONIC"}
        # The last event needs no comma after it.
        end = {"name": "end of trace", "ph": "M", "pid": 0, "args": other}
        self._out.write(f'{json.dumps(end)}\n],"otherData":{json.dumps(other)}}}\n')
        self._out.flush()

    # ---- Reading -------------------------------------------------------------------------------

    def _read_turns(self, index: int, device: _Device) -> int:
        count = self._state.turns(index, device.turn, self._turns, _ROOM, self._lost)
        for turn in self._turns[0:count]:
            if turn.kind == lib.SIM_TURN_COPY:
                self._copy(index, turn)
                continue
            key = (turn.process, turn.kind)
            ran = turn.to_run_ns - turn.from_run_ns
            span = device.open.get(key)
            if span is not None and span.end == turn.from_ns:
                span.end = turn.to_ns
                span.ran += ran
                continue
            if span is not None:
                self._turn(index, span)
            device.open[key] = _Span(
                turn.from_ns, turn.to_ns, ran, turn.process, turn.kind, turn.since_ns
            )
        return count

    def _read_records(self, index: int, device: _Device, *, last: bool) -> int:
        now = time.monotonic()
        skip = last or (
            device.stuck_since is not None and now - device.stuck_since > _PATIENCE_SECONDS
        )
        count = self._state.records(index, device.record, self._records, _ROOM, skip, self._lost)
        if count:
            device.stuck_since = None
        elif device.stuck_since is None:
            device.stuck_since = now
        for record in self._records[0:count]:
            self._record(index, record)
        return count

    # ---- Writing -------------------------------------------------------------------------------

    def _write(self, event: dict[str, Any]) -> None:
        self._out.write(json.dumps(event, separators=(",", ":")))
        self._out.write(",\n")
        self.events += 1

    def _slice(
        self, where: tuple[int, int], name: str, start: int, end: int, **more: object
    ) -> None:
        """Write a slice; times in nanoseconds. ``more`` are further keys of the event."""
        self._write(
            {
                "ph": "X",
                "name": name,
                "pid": where[0],
                "tid": where[1],
                "ts": start / 1000,
                "dur": (end - start) / 1000,
                **more,
            }
        )

    def _name(self, process: int, name: str, place: int) -> None:
        for key, args in (
            ("process_name", {"name": name}),
            ("process_sort_index", {"sort_index": place}),
        ):
            self._write({"ph": "M", "name": key, "pid": process, "tid": 0, "args": args})

    def _thread(self, process: int, thread: int, name: str, place: int) -> tuple[int, int]:
        """Return a track, which is named when it is first used."""
        where = (process, thread)
        if where not in self._tracks:
            self._tracks.add(where)
            for key, args in (
                ("thread_name", {"name": name}),
                ("thread_sort_index", {"sort_index": place}),
            ):
                self._write({"ph": "M", "name": key, "pid": process, "tid": thread, "args": args})
        return where

    def _who(self, number: int) -> str:
        """Return what a process is called; its tracks' name is written with the first use."""
        if number in self._known:
            return self._known[number]
        process = self._process
        name, labels = f"process {number}", ""
        if self._state.process(number, process):
            name = f"{_text(process.command)} ({process.pid})"
            labels = _text(process.container) or self._state.group(process.group)
        if labels:
            name = f"{labels}: {name}"
        self._known[number] = name
        self._name(_FIRST_PROCESS + number, name, _FIRST_PROCESS + number)
        if labels:
            args = {"labels": labels}
            event = {"ph": "M", "name": "process_labels", "pid": _FIRST_PROCESS + number}
            self._write({**event, "tid": 0, "args": args})
        return name

    def _turn(self, index: int, span: _Span) -> None:
        who = self._who(span.number)
        own = _FIRST_PROCESS + span.number
        turns = self._thread(own, _TURNS + index, f"turns on device {index}", _TURNS + index)
        if span.start > span.since:
            self._slice(turns, "wait for turn", span.since, span.start, cat="turn wait")
        if span.kind == lib.SIM_TURN_SWITCH:
            self._slice((index + 1, _HOLDERS), f"switch to {who}", span.start, span.end)
            self._slice(turns, "switch", span.start, span.end, cat="switch")
            return
        args = {"ran_us": span.ran / 1000}
        device = (index + 1, _HOLDERS)
        if self._state.together(index):
            # Several hold it at once, so that each needs a track of its own.
            device = self._thread(index + 1, _STREAMS + span.number, f"held by {who}", 1)
        self._slice(device, who, span.start, span.end, cat="turn", args=args)
        self._slice(turns, "turn", span.start, span.end, cat="turn", args=args)

    def _copy(self, index: int, turn: Any) -> None:  # noqa: ANN401 - cffi's values have no types
        where = self._thread(
            index + 1, _ENGINES + turn.engine, f"copy engine {turn.engine}", _ENGINES + turn.engine
        )
        args = {"by": self._who(turn.process)}
        self._slice(where, _LANES[turn.lane], turn.from_ns, turn.to_ns, cat="copy", args=args)

    def _record(self, index: int, record: Any) -> None:  # noqa: ANN401 - as above
        self._who(record.process)
        own = _FIRST_PROCESS + record.process
        name = _text(record.name)
        if record.kind == lib.SIM_RECORD_BLOCK:
            track = _THREADS + record.stream
            where = self._thread(own, track, f"waits of thread {record.stream}", _LAUNCHES - 1)
            args = {"device": index}
            self._slice(
                where, f"wait: {name}", record.start_ns, record.end_ns, cat="wait", args=args
            )
            return
        title, category = _title(record, name)
        # A stream's number is the process's own; a graph's nodes run beside each other.
        node = bool(record.flags & lib.SIM_RECORD_NODE)
        track = _STREAMS + 2 * record.stream * len(self._devices) + 2 * index
        text = f"stream {record.stream} on device {index}"
        where = self._thread(own, track, text, track)
        args = {
            "launched_us": record.queued_ns / 1000,
            "launch_to_end_us": (record.end_ns - record.queued_ns) / 1000,
            "waited_us": (record.start_ns - record.queued_ns) / 1000,
        }
        if record.sms:
            args["sms"] = record.sms
        if category in ("copy", "fill"):
            args["bytes"] = record.bytes
        if node:
            self._flow += 1
            self._async(where, title, record, args)
            return
        if category == "wait":
            self._slice(where, title, record.start_ns, record.end_ns, cat=category, args=args)
            return
        if record.start_ns > record.since_ns:
            # It was its turn in the stream, but the device was not there for it.
            self._slice(where, "wait for device", record.since_ns, record.start_ns, cat="wait")
        self._flow += 1
        arrow = {"bind_id": f"0x{self._flow:x}"}
        cost = self._state.launch_cost(index) if category == "kernel" else 0
        launches = self._thread(
            own, _LAUNCHES + index, f"launches on device {index}", _LAUNCHES + index
        )
        self._slice(
            launches,
            f"launch {title}",
            record.queued_ns - cost,
            record.queued_ns,
            cat="launch",
            flow_out=True,
            **arrow,
        )
        self._slice(
            where,
            title,
            record.start_ns,
            record.end_ns,
            cat=category,
            args=args,
            flow_in=True,
            **arrow,
        )

    def _async(
        self,
        where: tuple[int, int],
        name: str,
        record: Any,  # noqa: ANN401 - as above
        args: Mapping[str, object],
    ) -> None:
        """Write a graph's node: those of one launch overlap, which slices of a track may not."""
        common = {"name": name, "cat": "graph node", "id": self._flow, "pid": where[0]}
        for phase, at in (("b", record.start_ns), ("e", record.end_ns)):
            event = {"ph": phase, **common, "tid": where[1], "ts": at / 1000}
            self._write({**event, "args": args} if phase == "b" else event)


def _title(record: Any, name: str) -> tuple[str, str]:  # noqa: ANN401 - cffi's values have no types
    """Return what a piece of work is called, and its category."""
    kind = record.kind
    if kind == lib.SIM_RECORD_KERNEL:
        return name or "kernel", "kernel"
    if kind == lib.SIM_RECORD_COPY:
        return ("copy within device" if record.sms else _LANES[record.lane]), "copy"
    if kind == lib.SIM_RECORD_FILL:
        return "fill", "fill"
    if kind == lib.SIM_RECORD_GRAPH:
        return "graph", "graph"
    if kind == lib.SIM_RECORD_HOST:
        return "host function", "host"
    return f"wait for {name}", "wait"


def _text(value: Any) -> str:  # noqa: ANN401 - as above
    raw = ffi.string(value)
    assert isinstance(raw, bytes)
    return raw.decode(errors="replace")


# ---- Whole traces --------------------------------------------------------------------------------


class _Progress:
    """A line on a terminal that says how far it is; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def show(self, tracer: Tracer) -> None:
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            sys.stderr.write(f"\raliquot sim: trace: {tracer.events} events")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _open(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        raise StateError(f"{file}: {error.strerror}") from error


def write(directory: Path, file: Path) -> Tracer:
    """Write what the state in ``directory`` has on record into ``file``. Raises StateError."""
    with closing(State(directory)) as state, _open(file) as out:
        try:
            tracer = Tracer(state, out)
            progress = _Progress()
            # What is done from now on is the next trace's.
            left = state.recorded()
            while left > 0 and (count := tracer.read(last=True)):
                left -= count
                progress.show(tracer)
            tracer.end()
            progress.clear()
        except OSError as error:
            raise StateError(f"{file}: {error.strerror}") from error
        return tracer


@contextmanager
def written(directory: Path, file: Path) -> Iterator[Tracer]:
    """Write what is done on the node in ``directory`` into ``file`` meanwhile. Raises StateError.

    A thread reads as it happens, since the state keeps only the youngest records.
    """
    with closing(State(directory)) as state, _open(file) as out:
        state.trace()
        tracer = Tracer(state, out)
        over = threading.Event()
        failed: list[OSError] = []

        def follow() -> None:
            try:
                while not over.is_set():
                    if not tracer.read():
                        over.wait(_PAUSE_SECONDS)
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=follow, name="trace", daemon=True)
        # Signals are waited for by the main thread, so no other one may take them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield tracer
        finally:
            over.set()
            thread.join()
            try:
                _finish(tracer, failed)
            except OSError as error:
                raise StateError(f"{file}: {error.strerror}") from error


def _finish(tracer: Tracer, failed: list[OSError]) -> None:
    """Write what is left; raises what kept the thread from writing."""
    if failed:
        raise failed[0]
    progress = _Progress()
    while tracer.read(last=True):
        progress.show(tracer)
    tracer.end()
    progress.clear()
