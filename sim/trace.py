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
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

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
# Threads of a process: turns by device; streams, each with its launches before it; its threads.
_TURNS: Final = 1
_WAITS: Final = 100
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


class _Record(NamedTuple):
    """``struct sim_record`` (csrc/sim/state.h), in its order."""

    sequence: int
    queued_ns: int
    since_ns: int
    start_ns: int
    end_ns: int
    size: int
    stream: int
    process: int
    sms: int
    kind: int
    flags: int
    lane: int
    name: bytes


_RECORD: Final = struct.Struct("=7Q2I3B61s")
assert _RECORD.size == ffi.sizeof("struct sim_record")


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
        self._costs = [state.launch_cost(index) for index in range(len(self._devices))]
        self._launched: dict[tuple[int, int], int] = {}
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

    def read(self) -> int:
        """Write what has come by now, or some of it; answers how many records that was."""
        count = 0
        for index, device in enumerate(self._devices):
            self._read_turns(index, device)
            count += self._read_records(index, device, last=False)
        return count

    def read_rest(self, show: Callable[[Tracer], None]) -> None:
        """Write all that there is at this moment, however much comes meanwhile.

        ``show`` is called from time to time.
        """
        for index, device in enumerate(self._devices):
            turns, records = self._state.recorded(index)
            while device.turn[0] < turns and self._read_turns(index, device):
                show(self)
            while device.record[0] < records:
                self._read_records(index, device, last=True)
                show(self)

    def end(self) -> None:
        """Write the end of the file."""
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
        self._decode(index, count)
        return count

    def _decode(self, index: int, count: int) -> None:
        """Write what the buffer holds of records; field by field through cffi takes too long."""
        for fields in _RECORD.iter_unpack(ffi.buffer(self._records, count * _RECORD.size)):
            record = _Record(*fields)
            self._record(index, record)

    # ---- Writing -------------------------------------------------------------------------------

    def _write(self, event: dict[str, Any]) -> None:
        self._out.write(json.dumps(event) + ",\n")
        self.events += 1

    def _slice(self, where: tuple[int, int], name: str, start: int, end: int, rest: str) -> None:
        """Write a slice; times in nanoseconds. ``rest`` is further keys, as JSON.

        There may be a million of these, so they are put together by hand.
        """
        self._out.write(
            f'{{"ph":"X","name":{_quoted(name)},"pid":{where[0]},"tid":{where[1]},'
            f'"ts":{_us(start)},"dur":{_us(end - start)},{rest}}},\n'
        )
        self.events += 1

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
            self._slice(turns, "wait for turn", span.since, span.start, '"cat":"turn wait"')
        device = (index + 1, _HOLDERS)
        if span.kind == lib.SIM_TURN_SWITCH:
            self._slice(device, f"switch to {who}", span.start, span.end, '"cat":"switch"')
            self._slice(turns, "switch", span.start, span.end, '"cat":"switch"')
            return
        if self._state.together(index):
            # Several hold it at once, so that each needs a track of its own.
            device = self._thread(index + 1, _STREAMS + span.number, f"held by {who}", 1)
        rest = f'"cat":"turn","args":{{"ran_us":{_us(span.ran)}}}'
        self._slice(device, who, span.start, span.end, rest)
        self._slice(turns, "turn", span.start, span.end, rest)

    def _copy(self, index: int, turn: Any) -> None:  # noqa: ANN401 - cffi's values have no types
        where = self._thread(
            index + 1, _ENGINES + turn.engine, f"copy engine {turn.engine}", _ENGINES + turn.engine
        )
        rest = f'"cat":"copy","args":{{"by":{_quoted(self._who(turn.process))}}}'
        self._slice(where, _LANES[turn.lane], turn.from_ns, turn.to_ns, rest)

    def _record(self, index: int, record: _Record) -> None:
        self._who(record.process)
        own = _FIRST_PROCESS + record.process
        name = record.name.partition(b"\0")[0].decode(errors="replace")
        if record.kind == lib.SIM_RECORD_BLOCK:
            thread = record.stream
            where = self._thread(own, _THREADS + thread, f"waits of thread {thread}", _WAITS)
            rest = f'"cat":"wait","args":{{"device":{index}}}'
            self._slice(where, f"wait: {name}", record.start_ns, record.end_ns, rest)
            return
        title, category = _title(record, name)
        # A stream's number is the process's own. Its launches have the track before it.
        track = _STREAMS + 2 * (record.stream * len(self._devices) + index)
        launches, where = (own, track), (own, track + 1)
        if where not in self._tracks:
            text = f"stream {record.stream} on device {index}"
            self._thread(*where, text, track + 1)
            self._thread(*launches, f"launches into {text}", track)
        args = (
            f'"launched_us":{_us(record.queued_ns)},'
            f'"launch_to_end_us":{_us(record.end_ns - record.queued_ns)},'
            f'"waited_us":{_us(max(0, record.start_ns - record.queued_ns))}'
        )
        if record.sms:
            args += f',"sms":{record.sms}'
        if category in ("copy", "fill"):
            args += f',"bytes":{record.size}'
        self._flow += 1
        if record.flags & lib.SIM_RECORD_NODE:
            self._node(where, title, record, args)
            return
        rest = f'"cat":"{category}","args":{{{args}}}'
        if category == "wait":
            self._slice(where, title, record.start_ns, record.end_ns, rest)
            return
        if record.start_ns > record.since_ns:
            # It was its turn in the stream, but the device was not there for it.
            self._slice(where, "wait for device", record.since_ns, record.start_ns, '"cat":"wait"')
        # Records of a stream come in the order of its launches. Several threads may launch into it.
        queued = record.queued_ns
        cost = self._costs[index] if category == "kernel" else 0
        cost = min(cost, queued - self._launched.get(launches, 0))
        self._launched[launches] = queued
        arrow = f'"bind_id":"0x{self._flow:x}"'
        rest_of_launch = f'"cat":"launch","flow_out":true,{arrow}'
        self._slice(launches, f"launch {title}", queued - cost, queued, rest_of_launch)
        self._slice(where, title, record.start_ns, record.end_ns, f'{rest},"flow_in":true,{arrow}')

    def _node(self, where: tuple[int, int], name: str, record: _Record, args: str) -> None:
        """Write a graph's node: those of one launch overlap, which slices of a track may not."""
        for phase, at in (("b", record.start_ns), ("e", record.end_ns)):
            self._out.write(
                f'{{"ph":"{phase}","name":{_quoted(name)},"cat":"graph node","id":{self._flow},'
                f'"pid":{where[0]},"tid":{where[1]},"ts":{_us(at)},"args":{{{args}}}}},\n'
            )
            self.events += 1


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return json.dumps(text)


def _us(ns: int) -> str:
    """Return nanoseconds as microseconds, exactly."""
    return f"{ns // 1000}.{ns % 1000:03}"


def _title(record: _Record, name: str) -> tuple[str, str]:
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


def _text(value: Any) -> str:  # noqa: ANN401 - cffi's values have no types
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
            _finish(tracer, [])
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
    tracer.read_rest(progress.show)
    tracer.end()
    progress.clear()
