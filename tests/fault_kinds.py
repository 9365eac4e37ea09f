"""The management libraries whose functions are made to fail, each with what is particular to it.

What the agent binds of a library, and how its functions are called, is read where the agent has it:
the declarations beside its modules, or for NVIDIA's the functions of pynvml that these name.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import mock

import pynvml
from aliquot.agent import devices
from aliquot.agent.ascend_config import Ascend as AscendConfig
from aliquot.agent.cambricon_config import Cambricon as CambriconConfig
from aliquot.agent.config import Config
from aliquot.agent.devices import (
    Vendor,
    cambricon,
    cambricon_smlu,
    cndev,
    dcmi,
    nvidia,
    nvidia_health,
    nvml,
)
from aliquot.agent.devices.ascend import Ascend
from aliquot.sim.state import State

from commands import PATIENCE_SECONDS
from failing_library import FailingLibrary, Only

XID = 0x1234
MIB = 1 << 20


@dataclass(frozen=True)
class Function:
    """A function of C: the types and names of its arguments."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    # Whether it answers a text, of which none is all that can go wrong.
    text: bool = False

    def place(self, names: Mapping[str, int]) -> tuple[int, int] | None:
        """The first argument that is of these names or types, and the mask that they have."""
        for number, (kind, name) in enumerate(self.arguments):
            for mask in (names.get(name), names.get(kind)):
                if mask is not None:
                    return number, mask
        return None


def declared(file: str) -> dict[str, Function]:
    """The functions that a file beside the agent's modules declares."""
    text = resources.files(devices).joinpath(file).read_text("utf-8")
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    found = {}
    pattern = r"^([\w ]+[ *])(\w+)\(([^;]*)\);"
    for kind, name, inner in re.findall(pattern, text, re.MULTILINE):
        found[name] = Function(name, _arguments(inner), text="*" in kind)
    return found


def _arguments(inner: str) -> tuple[tuple[str, str], ...]:
    arguments = []
    for one in inner.replace("\n", " ").split(",") if inner != "void" else ():
        kind, _, called = one.strip().rpartition(" ")
        stars = " *" if called.startswith("*") else ""
        arguments.append((kind.strip() + stars, called.lstrip("*")))
    return tuple(arguments)


def numbers_in(ffi: Any, kind: str) -> Iterator[tuple[int, int]]:
    """Size and offset of the whole numbers behind a pointer of that type, or the first of them."""
    try:
        item = ffi.typeof(kind.removesuffix(" *").removeprefix("const "))
    except Exception:  # noqa: BLE001 - cffi has an error of its own for each thing that is wrong
        return
    if item.kind == "primitive":
        if item.cname not in ("char", "float", "double") and ffi.sizeof(item) in (4, 8):
            yield ffi.sizeof(item), 0
    elif item.kind == "struct":
        yield from _fields(ffi, item, 0)


def _fields(ffi: Any, kind: Any, base: int) -> Iterator[tuple[int, int]]:
    for name, one in kind.fields:
        inner, at = one.type, base + one.offset
        if inner.kind == "array":
            inner = inner.item
        if inner.kind in ("struct", "union"):
            yield from _fields(ffi, inner, at)
        elif name == "version" or "reserve" in name:
            continue
        elif inner.kind == "primitive" and ffi.sizeof(inner) in (4, 8) and inner.cname != "float":
            yield ffi.sizeof(inner), at


@dataclass
class Kind:
    """A library, its node and the module that asks it."""

    name: str
    file: str
    devices: int
    splits: bool
    functions: Mapping[str, Function]
    codes: tuple[int, ...]
    # With these the library says that there is no driver any more.
    ended: frozenset[int]
    ffi: Any = None
    # Some of the codes, each of its own kind; functions that are tried whatever was tried of them.
    few: tuple[int, ...] = ()
    again: frozenset[str] = frozenset()
    # What is an answer though it is an error's code: there is none of that, or nothing new.
    answers: frozenset[tuple[str, int]] = frozenset()
    # Whether a fault is over before its device was reset.
    ends: bool = True
    # How many devices the first card is.
    parts: int = 0
    # What functions answer that the stand-in lacks.
    lacking: int = 0
    # Whether a device that says so is told apart from a driver that is not there.
    tells_ends_apart: bool = False
    # Other names of functions that the stand-in has under one alone.
    called: Mapping[str, str] = field(default_factory=dict)
    # The bits of arguments that say which device, by their name or type.
    which: Mapping[str, int] = field(default_factory=dict)
    # What is told of a device whose model, memory, … another function tells.
    models: tuple[str, ...] = ()
    other_sizes: tuple[int, ...] = ()
    other_readings: tuple[str, ...] = ()
    # Without which a device is told as unhealthy, and the codes that are an answer all the same.
    health: Mapping[str, frozenset[int]] = field(default_factory=dict)
    # What is read where the stand-in reads 0: function, argument, number, bytes, offset.
    readings: tuple[tuple[str, int, int, int, int], ...] = ()
    config: Config = field(default_factory=Config)

    @property
    def bound(self) -> tuple[str, ...]:
        """The names of the functions."""
        return tuple(self.functions)

    def had_by(self, real: Path) -> tuple[str, ...]:
        """The functions that a stand-in has; where it answers for others, all."""
        library = ctypes.CDLL(str(real))
        return tuple(
            name
            for name in self.bound
            if self.lacking or hasattr(library, self.called.get(name, name))
        )

    def before(self, folder: Path, real: Path) -> Path:
        """Put a library before the stand-in that reads no zeros."""
        if not self.readings:
            return real
        names = [self.called.get(name, name) for name in self.had_by(real)]
        made = FailingLibrary(folder, real, names)
        for name, out, value, size, offset in self.readings:
            if name not in names:
                continue
            made.write(name, out, value, size, offset)
        return made.path

    def prepare(self, folder: Path, root: Path) -> None:
        """Set up what modules are made with."""
        (folder / "cdi").mkdir(exist_ok=True)
        self.config = Config(
            cdi_dirs=(folder / "cdi",),
            runtime_dir=folder / "run",
            ascend=AscendConfig(root),
            cambricon=CambriconConfig(root),
        )

    def load(self, library: Path) -> None:
        """Have the next modules load this library."""
        raise NotImplementedError

    def make(self) -> Vendor:
        """Make a module."""
        raise NotImplementedError

    def codes_of(self, name: str) -> tuple[int, ...]:
        """What a function is made to answer; the first is tried with all that is done."""
        return (0,) if self.functions[name].text else self.codes

    def only(self, name: str, place: int) -> Only | None:
        """Which calls of a function are about a device; None where that cannot be told."""
        found = self.functions[name].place(self.which)
        return None if found is None else Only(found[0], place, found[1])

    def numbers(self, name: str) -> Iterable[tuple[int, int, int]]:
        """The numbers that a function writes: argument, size and offset."""
        for number, (kind, _) in enumerate(self.functions[name].arguments):
            if kind.endswith(" *") and "const" not in kind:
                for size, offset in numbers_in(self.ffi, kind):
                    yield number, size, offset

    def of(self, place: int, uuids: Sequence[str]) -> Sequence[str]:
        """The devices that are of a place."""
        return uuids[place : place + 1] if not self.parts else uuids[: self.parts]

    def ill(self, name: str, code: int, uuids: Sequence[str]) -> Sequence[str]:
        """The devices that are to be told as unhealthy when a function answers ``code``."""
        answers = self.health.get(name)
        return () if answers is None or code in answers else uuids

    def limited(self, vendor: Vendor) -> None:
        """Have a limit set and taken back, where the driver holds them."""

    def traces(self, vendor: Vendor) -> Any:
        """All that partitions leave on the node."""
        raise NotImplementedError

    def clean(self, vendor: Vendor) -> None:
        """Remove all partitions of the first device."""
        raise NotImplementedError

    def tells_events(self, vendor: Vendor) -> bool:
        """Whether a fault is told by its event; it is over afterwards, if that ``ends``."""
        raise NotImplementedError


def inject(code: int, severity: int = 0, *, cleared: bool = False) -> None:
    """Let the first device of the simulated node have a fault, or have had it."""
    state = State(Path(os.environ["ALIQUOT_SIM"]))
    state.inject(0, code, severity, cleared=cleared)
    state.close()


def reason(vendor: Vendor) -> str:
    """What is said of the first device."""
    return vendor.health()[0].reason


# -- Ascend ----------------------------------------------------------------------------------------


class AscendKind(Kind):
    """DCMI, of either generation."""

    faults: int = 0

    def load(self, library: Path) -> None:
        """See Kind."""
        mock.patch.object(
            dcmi, "_load", side_effect=lambda _: dcmi.ffi.dlopen(str(library))
        ).start()

    def make(self) -> Vendor:
        """See Kind."""
        return Ascend(self.config)

    def traces(self, vendor: Vendor) -> Any:
        """See Kind."""
        assert isinstance(vendor, Ascend)
        return tuple(vendor.partitions()), vendor._records.all()

    def clean(self, vendor: Vendor) -> None:
        """See Kind."""
        assert isinstance(vendor, Ascend)
        with vendor._session.held():
            for one in vendor.partitions():
                vendor._session.call("dcmi_set_destroy_vdevice", 0, 0, int(one.id))
        for number in vendor._records.all():
            vendor._records.remove(number)

    def tells_events(self, vendor: Vendor) -> bool:
        """See Kind."""
        vendor.health()
        # (One is told to all who ever subscribed in this process.)
        assert isinstance(vendor, Ascend)
        if vendor._session._subscribed != {known.at for known in vendor._known}:
            return False
        dcmi.events()
        # (Another one each time: what comes again within a day is not forgotten.)
        self.faults += 1
        code = XID + self.faults
        inject(code, 2)
        # (The library tells it in a thread of its own.)
        deadline = time.monotonic() + 1
        while not dcmi._events and time.monotonic() < deadline:
            time.sleep(0.001)
        told = bool(dcmi._events) and f"{code:08X}" in reason(vendor)
        inject(code, 2, cleared=True)
        while told and not dcmi._events and time.monotonic() < deadline + PATIENCE_SECONDS:
            time.sleep(0.001)
        return told and not reason(vendor)


_DCMI = declared("_dcmi.cdef")
_DCMI_CODES = (
    -8005,
    *(code for code in dcmi._ERRORS if code > -90000 and code != -8005),
    -7777,
)
_DCMI_WHICH = dict.fromkeys(("card_id", "card_id1", "logicid", "dev_id", "dev_id1"), 4294967295)


def _ascend(name: str, prefix: str, **more: Any) -> AscendKind:
    health = f"{prefix}get_device_health"
    return AscendKind(
        name=name,
        file="libdcmi.so",
        devices=2,
        functions={name: one for name, one in _DCMI.items() if name.startswith(prefix)},
        codes=_DCMI_CODES,
        ended=frozenset({dcmi.NOT_READY}),
        ffi=dcmi.ffi,
        which=_DCMI_WHICH,
        models=("Ascend NPU",),
        health={health: frozenset()},
        readings=(
            (f"{prefix}get_device_utilization_rate", len(more["at"]) + 1, 42, 4, 0),
            (f"{prefix}get_device_hbm_info", len(more["at"]), 300, 8, 16),
            *(
                (
                    ("dcmi_get_device_memory_info_v3", 2, 20000, 8, 8),
                    ("dcmi_get_memory_info", 2, 9, 4, 12),
                )
                if prefix == "dcmi_"
                else ()
            ),
        ),
        tells_ends_apart=True,
        few=(-8005, dcmi.NOT_READY, dcmi.NOT_SUPPORTED, -7777),
        other_readings=("memory_used_bytes",),
        **{key: value for key, value in more.items() if key != "at"},
    )


# -- Cambricon -------------------------------------------------------------------------------------


class CambriconKind(Kind):
    """CNDev."""

    def load(self, library: Path) -> None:
        """See Kind."""
        # (Whether there is an event is seen at once here.)
        mock.patch.object(cambricon, "_EVENT_WAIT_MS", 0).start()
        cndev._opened = lambda *_: (cndev.ffi.dlopen(str(library)), str(library))

    def make(self) -> Vendor:
        """See Kind."""
        return cambricon.Cambricon(self.config)

    def traces(self, vendor: Vendor) -> Any:
        """See Kind."""
        assert isinstance(vendor, cambricon.Cambricon)
        there = tuple(vendor.partitions())
        with vendor._session.held():
            profiles = [
                vendor._session.read("cndevSMluProfileIdInfo_t", "cndevGetSMluProfileIdInfo", slot)
                for slot in range(self.devices)
            ]
        return there, [list(one.profileId[0 : one.count]) for one in profiles]

    def clean(self, vendor: Vendor) -> None:
        """See Kind."""
        assert isinstance(vendor, cambricon.Cambricon)
        session = vendor._session
        with session.held():
            for one in cambricon_smlu.instances(session, 0):
                session.call("cndevDestroySMluInstanceByHandle", one.handle(0))
            left = session.read("cndevSMluProfileIdInfo_t", "cndevGetSMluProfileIdInfo", 0)
            for number in left.profileId[0 : left.count]:
                session.call("cndevDestroySMluProfileInfo", number, 0)

    def tells_events(self, vendor: Vendor) -> bool:
        """See Kind."""
        vendor.health()
        inject(XID)
        told = f"XID 0x{XID:x}" in reason(vendor)
        inject(XID, cleared=True)
        return told and not reason(vendor)


_CNDEV_CODES = (cndev.UNKNOWN, *(code for code in cndev._TEXTS if code != cndev.UNKNOWN), 77, -3)


def _cambricon(name: str, **more: Any) -> CambriconKind:
    return CambriconKind(
        name=name,
        file="libcndev.so",
        functions=declared("_cndev.cdef"),
        codes=_CNDEV_CODES,
        ended=cndev.ENDED,
        few=(cndev.UNKNOWN, cndev.NO_DRIVER, cndev.NOT_SUPPORTED, 77),
        ffi=cndev.ffi,
        which={"cndevDevice_t": 0xFFFFFFFF, "cndevMluInstance_t": 0xFF},
        models=more.pop("models", ("MLU",)),
        other_sizes=(1088 * MIB,),
        health={"cndevGetCardHealthState": frozenset(), "cndevGetCardHealthStateV2": frozenset()},
        readings=(("cndevGetDeviceUtilizationInfo", 0, 42, 4, 4),),
        **more,
    )


# -- NVIDIA ----------------------------------------------------------------------------------------


class NvidiaKind(Kind):
    """NVML, by the odd library of the tests, which has all that the simulator's has not."""

    # What the odd library is told besides, and how many events there were.
    words: str = "driver=615"
    events: int = 0

    def before(self, folder: Path, real: Path) -> Path:
        """See Kind."""
        self.real = ctypes.CDLL(str(real))
        return super().before(folder, real)

    def tell(self, *more: str) -> None:
        """Tell the odd library how to answer."""
        file = Path(os.environ["ODD_NVML"])
        fresh = file.with_suffix(".new")
        fresh.write_text(" ".join((self.words, f"events={self.events} samples=3 fresh=1", *more)))
        fresh.replace(file)

    def prepare(self, folder: Path, root: Path) -> None:
        """See Kind."""
        super().prepare(folder, root)
        self.cgroups = folder / "cgroup"
        (self.cgroups / "slice").mkdir(parents=True)
        (self.cgroups / "cgroup.controllers").write_text("dmem\n")
        # (What a context takes is measured by programs of CUDA's.)
        mock.patch.object(nvidia, "_context_costs", return_value={}).start()
        self.tell()

    def load(self, library: Path) -> None:
        """See Kind."""
        pynvml.nvmlLib = ctypes.CDLL(str(library))
        pynvml._nvmlLib_refcount = 0
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def make(self) -> Vendor:
        """See Kind."""
        made = nvidia.Nvidia(self.config)
        made._limits.root = self.cgroups
        return made

    def only(self, name: str, place: int) -> Only | None:
        """See Kind."""
        arguments = self.functions[name].arguments
        if not arguments or arguments[0][0] not in ("nvmlDevice_t", "unsigned int"):
            return None
        if arguments[0][0] == "unsigned int":
            return Only(0, place) if "ByIndex" in name else None
        if self.devices > 2:
            # (Partitions have handles of their own.)
            return None
        handle = ctypes.c_void_p()
        self.real.nvmlInit_v2()
        self.real.nvmlDeviceGetHandleByIndex_v2(place, ctypes.byref(handle))
        return Only(0, handle.value or 0, (1 << 64) - 1)

    def numbers(self, name: str) -> Iterable[tuple[int, int, int]]:
        """See Kind."""
        sizes = {"unsigned int *": 4, "int *": 4, "unsigned long long *": 8}
        for number, (kind, _) in enumerate(self.functions[name].arguments):
            if kind in sizes:
                yield number, sizes[kind], 0

    def limited(self, vendor: Vendor) -> None:
        """Have a limit set and taken back."""
        assert isinstance(vendor, nvidia.Nvidia)
        uuid = vendor._known[0].device.uuid if vendor._known else "none"
        for size in (MIB, None):
            vendor.limit_memory(uuid, "/slice", size)

    def traces(self, vendor: Vendor) -> Any:
        """See Kind."""
        return tuple(vendor.partitions())

    def tells_events(self, vendor: Vendor) -> bool:
        """See Kind."""
        vendor.health()
        self.events += 1
        self.tell("xid=79")
        return "XID 79" in reason(vendor)


def _of_pynvml() -> set[str]:
    """The functions of C that the agent's modules have pynvml call."""
    text = "".join(
        resources.files(devices).joinpath(file).read_text("utf-8")
        for file in ("nvml.py", "nvidia.py", "nvidia_health.py", "nvidia_limits.py")
    )
    # (These names are put together there.)
    assert 'f"nvmlDeviceGet{kind}RunningProcesses{version}"' in text
    named = {
        f"nvmlDeviceGet{kind}RunningProcesses{version}"
        for kind in ("Compute", "Graphics", "MPSCompute")
        for version in ("_v2", "_v3")
    }
    later = {*re.findall(r"\bnvml[A-Z]\w+", text), *named}
    done: set[str] = set()
    found: set[str] = {"nvmlDeviceSetMemoryLimits_v1"}
    while later:
        name = later.pop()
        function = getattr(pynvml, name, None)
        done.add(name)
        if inspect.isfunction(function):
            source = inspect.getsource(function)
            found |= set(re.findall(r"_nvmlGetFunctionPointer\([\"'](\w+)[\"']\)", source))
            later |= set(re.findall(r"\bnvml[A-Z]\w+(?=\()", source)) - done
    return found


def _of_nvml() -> dict[str, Function]:
    """The functions of the vendor's header, and of newer ones, that the agent has called."""
    package = importlib.util.find_spec("nvidia")
    (folder,) = (package and package.submodule_search_locations) or ("",)
    text = (Path(folder) / "cu13/include/nvml.h").read_text("utf-8", "replace")
    known = {
        name: Function(name, _arguments(inner))
        for name, inner in re.findall(r"nvmlReturn_t DECLDIR (\w+)\(([^;]*?)\);", text)
    }
    return {
        name: known.get(name, Function(name, (("nvmlDevice_t", "device"),)))
        for name in sorted(_of_pynvml())
    }


def _nvidia(name: str, words: str, **more: Any) -> NvidiaKind:
    errors = {
        value
        for key, value in vars(pynvml).items()
        if key.startswith("NVML_ERROR_") and isinstance(value, int)
    }
    made = NvidiaKind(
        name=name,
        file="libnvidia-ml.so.1",
        splits=False,
        functions=_of_nvml(),
        codes=(
            pynvml.NVML_ERROR_UNKNOWN,
            *sorted(errors - {pynvml.NVML_ERROR_UNKNOWN}),
            12345,
        ),
        ended=nvml.ENDED,
        ends=False,
        answers=frozenset(
            {("nvmlDeviceGetProcessUtilization", pynvml.NVML_ERROR_NOT_FOUND)}
            | {
                (f"nvmlDeviceGet{kind}RunningProcesses{version}", code)
                for kind in ("Compute", "Graphics")
                for version in ("_v2", "_v3")
                for code in (
                    pynvml.NVML_ERROR_NOT_SUPPORTED,
                    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                )
            }
        ),
        few=(
            pynvml.NVML_ERROR_UNKNOWN,
            pynvml.NVML_ERROR_UNINITIALIZED,
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            pynvml.NVML_ERROR_GPU_IS_LOST,
            12345,
        ),
        lacking=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        models=("NVIDIA",),
        other_sizes=(16384 * MIB,),
        other_readings=("memory_used_bytes",),
        health={"nvmlDeviceGetMemoryInfo": nvidia_health._ANSWERS},
        **more,
    )
    made.words = words
    return made


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _ascend("ascend", "dcmi_", splits=True, at=("card", "place")),
        _ascend("ascend-ddr", "dcmi_", splits=True, at=("card", "place")),
        _ascend(
            "ascend-950",
            "dcmiv2_",
            splits=False,
            at=("number",),
            called={
                # What the vendor's own plugin calls otherwise than the driver's header does.
                "dcmiv2_get_device_die": "dcmiv2_get_device_die_id",
                "dcmiv2_get_device_errorcode": "dcmiv2_get_device_error_code_list",
                "dcmiv2_get_device_resource_info": "dcmiv2_get_device_proc_mem_info",
                "dcmiv2_get_chip_phyid_from_dev_id": "dcmiv2_get_chip_phy_id_by_dev_id",
            },
        ),
        _cambricon("cambricon", devices=2, splits=True),
        _cambricon(
            "cambricon-mim",
            devices=3,
            splits=False,
            parts=2,
            again=frozenset({"cndevGetMimMode", "cndevGetAllMluInstanceInfo"}),
            models=("MLU", "MLU MIM 50m.0gb", "MLU MIM 25m.0gb"),
        ),
        _cambricon("cambricon-older", devices=2, splits=False),
        _nvidia("nvidia", "driver=615", devices=2),
        _nvidia(
            "nvidia-mig",
            "mig=0",
            devices=3,
            parts=2,
            again=frozenset({"nvmlDeviceGetMigMode"} | {n for n in _of_nvml() if "Mig" in n}),
        ),
    )
}
