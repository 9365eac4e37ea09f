"""Has each function of a management library fail, alone, and looks what the vendor's module does.

    fault_worker.py KIND FOLDER REAL ROOT DONE

KIND is a name of fault_kinds.KINDS, REAL the library behind the one that fails, ROOT where the
node's own files lie, DONE functions that were tried with another kind of it. The node is in the
environment. What is wrong is written as a JSON line at the
end: see tests/test_vendor_faults.py.

Functions that are called only where others are missing are found by leaving those out, one after
the other: a *setting* is the functions that a library lacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aliquot.agent.devices import Device, Health, Partition, Sample, Vendor, VendorError, check

from failing_library import FailingLibrary, Only
from fault_kinds import KINDS, Kind

MIB = 1 << 20
SLICE = "slice-0123abcd"
ASKED = (100 * MIB, 10)
WIDER = (200 * MIB, 20)
# More settings than this one after the other do not lead to functions that were not called before.
DEEP = 3
# Of calls of one function in the course of making a partition, so many fail, each alone.
LATER = 3
# What no answer may be taken for: as 32 bits, and as they are read with and without a sign.
ODD = (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)


@dataclass(frozen=True)
class Refused:
    """A question that was refused; ``text`` is why. Of partitions what was told all the same."""

    text: str
    found: tuple[Partition, ...] = ()
    untold: frozenset[str] = frozenset()


@dataclass
class Told:
    """What a module answered, by question."""

    answers: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, what: str) -> Any:  # noqa: D105 - as every other of its name
        return self.answers.get(what)

    def rows(self, what: str) -> dict[str, Any]:
        """The rows of an answer by their device; empty where it was refused."""
        found = self.answers.get(what)
        return {} if isinstance(found, Refused) or found is None else {r.uuid: r for r in found}


class Explorer:
    """One kind of library, and all that is tried with it."""

    def __init__(self, kind: Kind, folder: Path, real: Path, root: Path, done: set[str]) -> None:
        self.done = done
        self.kind = kind
        self.folder = folder
        self.findings: list[str] = []
        self.made_to_fail: set[str] = set()
        self.cases = self.failures = 0
        # Whether what fails is an answer all the same.
        self.answered = False
        # Functions that are called anyway, and those that are where another one fails.
        self.seen: set[str] = set()
        self.later: dict[str, tuple[str, int]] = {}
        self.case = ""
        self.library = FailingLibrary(
            folder / "failing",
            kind.before(folder / "telling", real),
            kind.had_by(real),
            called=kind.called,
            lacking=kind.lacking,
            soname=kind.file,
        )
        kind.prepare(folder, root)
        self.usual: Told = Told()
        self.full: Told = Told()
        self.uuids: tuple[str, ...] = ()

    def wrong(self, text: str) -> None:
        """Write down what is wrong in this case."""
        self.findings.append(f"{self.case}: {text}")

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, told: Told, what: str, question: Callable[[], Any]) -> Any:
        """Ask, and take note of what was answered; only a VendorError of one line is a refusal."""
        try:
            answer = question()
            if isinstance(answer, Sequence) and not isinstance(answer, str):
                answer = tuple(answer)
        except VendorError as error:
            found = getattr(error, "found", ())
            answer = Refused(str(error), found, getattr(error, "untold", frozenset()))
            if not answer.text or "\n" in answer.text:
                self.wrong(f"{what} is refused with {answer.text!r}, which is not one line")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            answer = Refused(f"{type(error).__name__}: {error}")
            self.wrong(f"{what} raises {type(error).__name__}: {error}")
        told.answers[what] = answer
        return answer

    def look(self, vendor: Vendor, told: Told | None = None) -> Told:
        """Ask all that is asked again and again."""
        told = told or Told()
        self.ask(told, "processes", vendor.processes)
        told.answers["unlisted"] = getattr(vendor, "unlisted", frozenset())
        self.ask(told, "partitions", getattr(vendor, "partitions", tuple))
        self.ask(told, "sample", vendor.sample)
        self.ask(told, "health", vendor.health)
        self.ask(told, "limits", lambda: self.kind.limited(vendor))
        return told

    def begin(self) -> tuple[Vendor | None, Told]:
        """Make a module, and ask it all that is asked at the start, and then again and again."""
        told = Told()
        vendor = self.ask(told, "begin", self.kind.make)
        if isinstance(vendor, Refused):
            return None, told
        self.ask(told, "enumerate", vendor.enumerate)
        self.ask(told, "left_out", lambda: vendor.left_out)
        if hasattr(vendor, "driver_version"):
            self.ask(told, "version", vendor.driver_version)
        self.look(vendor, told)
        for uuid in told.rows("enumerate"):
            self.ask(told, f"needs {uuid}", partial(vendor.needs, [uuid]))
        return vendor, told

    # -- what is to hold ---------------------------------------------------------------------------

    def compare(self, told: Told, usual: Told, place: int | None, *, ended: bool) -> None:
        """Hold answers against the usual ones.

        ``place`` is the device that fails, None for all; ``ended``: the library says that there is
        no driver any more, upon which anything may be refused.
        """
        ill = set(self.uuids if place is None else self.kind.of(place, self.uuids))
        if not ended:
            for what in ("enumerate", "sample", "processes", "health"):
                answer = told[what]
                if isinstance(answer, Refused) and place is not None:
                    self.wrong(f"{what} of one device is refused for all: {answer.text}")
            answer = told["partitions"]
            if isinstance(answer, Refused) and place is not None and not answer.untold <= ill:
                self.wrong(f"partitions of {answer.untold} are not told: {answer.text}")
        if self.answered:
            return
        self._devices(told, usual, ill)
        self._samples(told, usual, ill)
        self._processes(told, usual, ill)
        self._health(told, usual, ill, ended=ended)
        self._rows(told, set(self.uuids))

    def _devices(self, told: Told, usual: Told, ill: set[str]) -> None:
        if told["enumerate"] is None or isinstance(told["enumerate"], Refused):
            return
        found, known = told.rows("enumerate"), usual.rows("enumerate")
        lines = told["left_out"]
        missing = len(known) - len(found) - (self.kind.parts and self.kind.parts - 1)
        if len(lines) < missing:
            self.wrong(f"{missing} devices are not told, with reasons {lines}")
        if any(not line or "\n" in line for line in lines):
            self.wrong(f"reasons are not lines: {lines}")
        for uuid, device in known.items():
            other = found.get(uuid)
            if uuid not in ill:
                if other is None:
                    self.wrong(f"{uuid} is left out, which did not fail: {lines}")
                elif self.place(other) != self.place(device):
                    self.wrong(f"{uuid} did not fail, and is {_difference(device, other)}")
            elif other is not None:
                self._device(device, other)
        for uuid in found.keys() - known.keys():
            self.wrong(f"{uuid} is told, which there is not")

    def place(self, device: Device) -> Device:
        """A device without what others decide, as how many there are before it."""
        index = 0 if self.kind.parts else device.index
        return dataclasses.replace(device, index=index, links={})

    def _device(self, usual: Device, device: Device) -> None:
        """A device of which something is not told has the rest, and nothing that is made up."""
        absent: dict[str, tuple[Any, ...]] = {
            "index": (device.index,),
            "pci_address": ("",),
            "numa_node": (None,),
            "links": tuple([device.links] if set(device.links) <= set(usual.links) else []),
            "model": self.kind.models,
            "context_bytes": (0,),
            "enforcement": (("shim",),),
            "splits": (False,),
            "shapes": ((),),
            # What the driver keeps of it is told by one of two functions.
            "memory_bytes": self.kind.other_sizes,
        }
        for name in (one.name for one in dataclasses.fields(Device)):
            value, before = getattr(device, name), getattr(usual, name)
            if value != before and value not in absent.get(name, ()):
                self.wrong(f"{name} of {device.uuid} is {value!r}, usually {before!r}")

    def _samples(self, told: Told, usual: Told, ill: set[str]) -> None:
        found, known = told.rows("sample"), usual.rows("sample")
        if isinstance(told["sample"], Refused):
            return
        for uuid, row in known.items():
            other = found.get(uuid)
            if other is None:
                if uuid not in ill:
                    self.wrong(f"no readings of {uuid}, which did not fail")
                continue
            for name in (one.name for one in dataclasses.fields(Sample)):
                value, before = getattr(other, name), getattr(row, name)
                if value == before:
                    continue
                if uuid not in ill:
                    self.wrong(f"{name} of {uuid}, which did not fail, is {value!r}")
                elif value is not None and (not value or name not in self.kind.other_readings):
                    self.wrong(f"{name} of {uuid} is {value!r}, not None; usually {before!r}")

    def _processes(self, told: Told, usual: Told, ill: set[str]) -> None:
        if isinstance(told["processes"], Refused):
            return
        found = {(row.uuid, row.pid): row for row in told["processes"] or ()}
        known = {(row.uuid, row.pid): row for row in usual["processes"] or ()}
        for key, row in known.items():
            other = found.get(key)
            if key[0] not in ill:
                if other != row:
                    self.wrong(f"process {key} is {other!r} and usually {row!r}")
            elif other is not None:
                for name in ("memory_bytes", "busy", "memory_busy"):
                    value, before = getattr(other, name), getattr(row, name)
                    if value not in (before, None) and key[0] not in told["unlisted"]:
                        text = f"{value!r}, usually {before!r}"
                        self.wrong(f"{name} of process {key} is {text}")
        for key in found.keys() - known.keys():
            self.wrong(f"process {key} is told, which there is not")
        for uuid in {uuid for uuid, _ in known.keys() - found.keys()} & told.rows(
            "enumerate"
        ).keys():
            if uuid not in told["unlisted"]:
                self.wrong(f"processes of {uuid} are not told, and are told to be none")

    def _health(self, told: Told, usual: Told, ill: set[str], *, ended: bool) -> None:
        for uuid, row in told.rows("health").items():
            if not row.healthy and not ended and uuid not in ill:
                self.wrong(f"{uuid} is unhealthy, which did not fail: {row.reason}")
        known = set(usual.rows("health"))
        if not isinstance(told["health"], Refused) and told.rows("enumerate").keys() == known:
            for uuid in known - told.rows("health").keys():
                self.wrong(f"nothing is told of the health of {uuid}")

    def _rows(self, told: Told, known: set[str]) -> None:
        """Whatever is told follows the protocol."""
        for what, kind in (("sample", Sample), ("health", Health)):
            if told[what] is not None and not isinstance(told[what], Refused):
                rows = told[what]
                for text in check._of_rows(what, rows, kind, {row.uuid for row in rows} & known):
                    self.wrong(text)
        for text in () if isinstance(told["processes"], Refused) else told["processes"] or ():
            for wrong in check._of_row(text):
                self.wrong(f"process {text}: {wrong}")

    # -- partitions --------------------------------------------------------------------------------

    def cut(self, vendor: Vendor, uuid: str, size: tuple[int, int] = ASKED) -> Any:
        """Have a partition made; what was answered."""
        return self.ask(Told(), "partition", lambda: vendor.partition(uuid, SLICE, *size))

    def ours(self, vendor: Vendor) -> list[Partition]:
        """The partitions that there are of our slice."""
        return [one for one in vendor.partitions() if one.name == SLICE]

    def partitioned(self, vendor: Vendor, tell: Callable[[], None], name: str) -> None:
        """Make, change and give back a partition, each of it while a function fails."""
        uuid = self.uuids[0]
        before = self.kind.traces(vendor)

        tell()
        made = self.cut(vendor, uuid)
        needs: Any = None
        if isinstance(made, Partition):
            needs = self.ask(Told(), "needs", lambda: vendor.needs([uuid], {uuid: made}))
        self.note(name)
        self.library.mend(name)
        if isinstance(made, Refused):
            if self.kind.traces(vendor) != before:
                left = self.kind.traces(vendor)
                self.wrong(f"a partition is refused ({made.text}) and leaves {left}, not {before}")
                self.kind.clean(vendor)
        else:
            if made.memory_bytes < ASKED[0] or made.cores < ASKED[1]:
                self.wrong(f"a partition is {made}, less than {ASKED}")
            if [one.id for one in self.ours(vendor)] != [made.id]:
                self.wrong(f"a partition was made, {made}, and there is {self.ours(vendor)}")
            if needs is not None and not isinstance(needs, Refused) and not needs.nodes:
                self.wrong("a partition needs no device file")
            for one in self.ours(vendor):
                vendor.release(one)

        made = vendor.partition(uuid, SLICE, *ASKED)
        tell()
        changed = self.ask(Told(), "resize", lambda: vendor.resize(made, *WIDER))
        self.note(name)
        self.library.mend(name)
        (now,) = self.ours(vendor)
        sizes = (now.memory_bytes, now.cores)
        if isinstance(changed, Refused):
            if sizes != (made.memory_bytes, made.cores):
                self.wrong(f"a change is refused ({changed.text}), and it is {now}")
                with contextlib.suppress(VendorError):
                    vendor.resize(made, made.memory_bytes, made.cores)
        elif sizes != (changed.memory_bytes, changed.cores):
            self.wrong(f"a change is told as {changed}, and it is {now}")

        (made,) = self.ours(vendor)
        tell()
        gone = self.ask(Told(), "release", lambda: vendor.release(made))
        self.note(name)
        self.library.mend(name)
        left = self.ours(vendor)
        if gone is None and left:
            self.wrong(f"a partition was given back without a word, and is {left}")
        # Who could not give it back tries again.
        for one in left:
            vendor.release(one)
        vendor.release(made)
        if self.kind.traces(vendor) != before:
            self.wrong(f"a partition was given back and leaves {self.kind.traces(vendor)}")
            self.kind.clean(vendor)

    # -- cases -------------------------------------------------------------------------------------

    def from_the_start(
        self, name: str, code: int, place: int | None, *, ended: bool
    ) -> Vendor | None:
        """A function fails from before a module is made; then it is mended."""
        vendor, told = self.begin()
        self.note(name, code)
        self.compare(told, self.usual, place, ended=ended)
        self.library.mend(name)
        if vendor is not None:
            self.back(vendor)
        return vendor

    def meanwhile(
        self, vendor: Vendor, name: str, code: int, place: int | None, *, ended: bool
    ) -> None:
        """A function fails while a module is used; then it is mended."""
        told = self.look(vendor)
        failed = self.library.failed(name)
        self.note(name)
        self.library.mend(name)
        if not failed:
            return
        self.compare(told, self.usual, place, ended=ended)
        failing = self.uuids if place is None else self.kind.of(place, self.uuids)
        ill = self.kind.ill(name, code, failing)
        for uuid in failing:
            row = told.rows("health").get(uuid)
            if row is not None and row.healthy and uuid in ill:
                self.wrong(f"{uuid} is told as healthy, of which that cannot be asked")
            if row is not None and not row.healthy and uuid not in ill and not ended:
                self.wrong(f"{uuid} is told as unhealthy: {row.reason}")
        self.back(vendor)

    def back(self, vendor: Vendor) -> None:
        """All is as it was, at the second look at the latest."""
        told = Told()
        self.ask(told, "enumerate", vendor.enumerate)
        self.look(vendor)
        self.look(vendor, told)
        for what in ("enumerate", "sample", "processes", "health", "partitions"):
            if told[what] != self.usual[what]:
                self.wrong(f"{what} stays {told[what]!r} after it was mended")

    def note(self, name: str, code: int | None = None) -> None:
        """Take note whether a function did fail, and what is called then alone."""
        if code is not None:
            for other in self.library.calls().keys() - self.seen - self.later.keys():
                self.later[other] = (name, code)
        if self.library.failed(name):
            self.failures += 1
            self.made_to_fail.add(name)

    def one(self, setting: str, name: str, code: int, place: int | None, *, whole: bool) -> None:
        """Have a function answer ``code``, of one device or of all."""
        only = Only(mask=0) if place is None else self.kind.only(name, place)
        if only is None:
            return
        self.cases += 1
        self.answered = (name, code) in self.kind.answers
        self.case = f"{setting}{name}={code}" + ("" if place is None else f" of device {place}")
        ended = code in self.kind.ended and (place is None or not self.kind.tells_ends_apart)

        def tell() -> None:
            self.library.fail(name, code, only)

        tell()
        vendor = self.from_the_start(name, code, place, ended=ended)
        if vendor is None:
            # (Without this function the library is none.)
            vendor, _ = self.begin()
        elif whole and not self.kind.tells_events(vendor):
            self.wrong("events are not told after it was mended")
        if vendor is not None and whole and not self.kind.ends:
            vendor.close()
            vendor, _ = self.begin()
        if vendor is None:
            self.wrong("no module can be made any more")
            return
        tell()
        self.meanwhile(vendor, name, code, place, ended=ended)
        if whole:
            self.whole(vendor, name, code, only)
            # At the end, too.
            tell()
            self.ask(Told(), "close", vendor.close)
            self.note(name)
            self.library.mend(name)
        else:
            vendor.close()

    def whole(self, vendor: Vendor, name: str, code: int, only: Only) -> None:
        """Have a function fail in the course of all that is done seldom."""
        case = self.case
        for done in (False, True) if self.kind.splits else ():
            # Having done it, and told as if it were not, is what a timeout is.
            for skip in range(LATER):
                self.case = f"{case}, call {skip + 1}{', having done it' if done else ''}"
                failed = self.tried(
                    vendor,
                    partial(self.library.fail, name, code, only, done=done, skip=skip),
                    name,
                )
                if not failed:
                    break
        self.case = case
        if not self.kind.tells_events(vendor):
            self.wrong("events are not told any more after it was mended")

    def tried(self, vendor: Vendor, tell: Callable[[], None], name: str) -> bool:
        """Partition, whatever comes of it; says whether a function failed meanwhile."""
        self.failures = 0
        try:
            self.partitioned(vendor, tell, name)
        except (VendorError, ValueError) as error:
            self.wrong(f"partitions cannot be made or told after it was mended: {error}")
            self.library.mend()
            self.kind.clean(vendor)
        return self.failures > 0

    def both(self, setting: str, trigger: tuple[str, int], name: str) -> None:
        """Have a function fail that is called only where another one has failed."""
        for code in self.kind.codes_of(name):
            self.cases += 1
            self.case = f"{setting}{trigger[0]}={trigger[1]} and {name}={code}"
            self.library.fail(*trigger)
            self.library.fail(name, code)
            vendor, told = self.begin()
            self.note(name)
            self._rows(told, set(told.rows("enumerate")))
            self.library.mend()
            if vendor is not None:
                self.back(vendor)
                vendor.close()

    def odd(self, setting: str, name: str) -> None:
        """Have a function write numbers that are none."""
        for number, size, offset in self.kind.numbers(name):
            for value in ODD:
                self.cases += 1
                self.case = f"{setting}{name} writes {value:#x} to argument {number} at {offset}"
                self.library.write(name, number, value, size, offset)
                vendor, told = self.begin()
                found = told.rows("enumerate")
                if vendor is not None:
                    for text in check._of_devices(vendor, tuple(found.values())):
                        self.wrong(text)
                self._rows(told, set(found))
                seldom = self.kind.splits and not self.library.failed(name)
                if vendor is not None and self.kind.splits:
                    for uuid in found:
                        self.cut(vendor, uuid)
                self.library.mend(name)
                if vendor is None:
                    continue
                if self.kind.splits:
                    for one in self.ours(vendor):
                        vendor.release(one)
                self.back(vendor)
                if seldom:
                    where = (number, value, size, offset)
                    self.tried(vendor, partial(self.library.write, name, *where), name)
                vendor.close()

    # -- all of it ---------------------------------------------------------------------------------

    def settings(self) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        """The functions that are missing, and those that are called then and were not before."""
        seen = self.seen
        later: list[tuple[str, ...]] = [()]
        number = 0
        while later:
            lacks = later.pop(0)
            number += 1
            copy = self.library.without(self.folder / f"lacks{number}", *lacks)
            self.kind.load(copy)
            self.library.mend()
            self.library.forget_calls()
            self.case = f"without {', '.join(lacks)}" if lacks else "as it is"
            vendor, told = self.begin()
            self.answered = any(
                (name, code) in self.kind.answers for name in lacks for code in (13,)
            )
            if lacks and not self.kind.again & set(lacks):
                self.uuids = tuple(self.full.rows("enumerate"))
                self.compare(told, self.full, None, ended=False)
            if vendor is None or isinstance(told["enumerate"], Refused):
                # (Then nothing else is called.)
                continue
            self.uuids = tuple(told.rows("enumerate"))
            self.usual = told
            if len(self.uuids) < self.kind.devices:
                continue
            if self.kind.splits and told["enumerate"][0].splits:
                made = self.cut(vendor, self.uuids[0])
                if isinstance(made, Partition):
                    vendor.needs([self.uuids[0]], {self.uuids[0]: made})
                    self.ask(Told(), "resize", partial(vendor.resize, made, *WIDER))
                    for one in self.ours(vendor):
                        vendor.release(one)
            vendor.close()
            if not lacks:
                self.full = told
            new = [name for name in self.library.calls() if name not in seen]
            seen.update(new)
            if new and len(lacks) < DEEP:
                later += [(*lacks, name) for name in new]
            yield lacks, new

    def explore(self) -> None:
        """Try all that is to be tried."""
        for lacks, new in self.settings():
            setting = f"without {', '.join(lacks)}: " if lacks else ""
            for name in (one for one in new if one not in self.done - self.kind.again):
                codes = self.kind.codes_of(name)
                for code in codes:
                    self.one(setting, name, code, None, whole=code == codes[0])
                # Of one device those that are unlike each other.
                for code in codes if len(codes) == 1 else self.kind.few:
                    self.one(setting, name, code, 0, whole=code == codes[0])
                self.odd(setting, name)
            for name, trigger in self.later.items():
                self.both(setting, trigger, name)
            self.later = {}


def _difference(one: Device, other: Device) -> str:
    names = [f.name for f in dataclasses.fields(Device) if f.name != "links"]
    return ", ".join(
        f"{name} {getattr(other, name)!r} for {getattr(one, name)!r}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    )


def main(kind: str, folder: str, real: str, root: str, done: str) -> None:
    faulthandler.enable()
    where = Path(folder), Path(real), Path(root)
    explorer = Explorer(KINDS[kind], *where, set(done.split(",")))
    explorer.explore()
    print(
        json.dumps(
            {
                "findings": explorer.findings,
                "cases": explorer.cases,
                "seconds": time.process_time(),
                "bound": sorted(explorer.kind.bound),
                "failed": sorted(explorer.made_to_fail),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
