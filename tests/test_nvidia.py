"""NVIDIA's devices: what NVML says becomes values, whatever it says."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import drivers, visible

import nvidia_files
from clients import need
from commands import TESTS, UUIDS, Desk, desk, odd_driver

MIB = 1 << 20
PARTS = ("MIG-00000001-0000-0000-0000-000000000000", "MIG-00000002-0000-0000-0000-000000000000")


@pytest.fixture(scope="session")
def odd_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the odd NVML."""
    folder = tmp_path_factory.mktemp("nvml")
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command += ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    command += ["-o", str(folder / "libnvidia-ml.so.999.1"), str(TESTS / "odd_nvml.c")]
    subprocess.run(command, check=True)
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.999.1")
    return folder


class Node:
    """A node with the odd NVML, and a process that asks it."""

    def __init__(
        self,
        libraries: list[Path],
        folder: Path,
        *,
        withhold: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.told = folder / "told"
        self.limits = folder / "limits"
        self.cgroups = folder / "cgroup"
        self.dev = folder / "dev"
        self.cdi = folder / "cdi"
        for made in (self.cgroups, self.dev, self.cdi):
            made.mkdir(exist_ok=True)
        self.tell()
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "ODD_NVML": str(self.told),
            "ODD_LIMITS": str(self.limits),
            "ALIQUOT_CACHE_DIR": str(folder / "cache"),
            **(environment or {}),
        }
        arguments = [str(self.cdi), "withhold" if withhold else "all", str(self.dev)]
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "nvidia_worker.py"), *arguments, str(self.cgroups)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def tell(self, *words: str) -> None:
        """Tell the odd NVML how to answer from now on."""
        new = self.told.with_suffix(".new")
        new.write_text(" ".join(words))
        new.replace(self.told)

    def ask(self, call: str, *args: Any) -> dict[str, Any]:
        """The answer to a call: ``returned`` or ``raised``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": call, "args": args}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def get(self, call: str, *args: Any) -> Any:
        """What a call returns."""
        answer = self.ask(call, *args)
        assert "returned" in answer, answer
        return answer["returned"]

    def ill(self) -> dict[str, str]:
        """The devices that are unhealthy now, and why."""
        return {row["uuid"]: row["reason"] for row in self.get("health") if not row["healthy"]}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let the worker end, which it must do without a fault."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts a node with libraries from the given folders."""
    made: list[Node] = []

    def begin(*libraries: Path, withhold: bool = True, **environment: str) -> Node:
        made.append(Node(list(libraries), tmp_path, withhold=withhold, environment=environment))
        return made[-1]

    yield begin
    for node in made:
        node.end()


@pytest.fixture
def node(start: Callable[..., Node], odd_library: Path) -> Node:
    """A node with the odd NVML alone."""
    return start(odd_library)


# -- what there is --


def test_a_device_is_what_nvml_says_of_it(node: Node) -> None:
    first, second = node.get("enumerate")
    assert first == {
        "vendor": "nvidia",
        "index": 0,
        "uuid": UUIDS[0],
        "uuid_bytes": "1a" * 16,
        "model": "Odd",
        "memory_bytes": (16384 - 284) * MIB,
        "page_bytes": 2 * MIB,
        "context_bytes": 0,
        "pci_address": "0000:a0:00.0",
        "numa_node": 64,
        "links": {UUIDS[1]: 2},
        "enforcement": ["shim"],
    }
    assert (second["uuid"], second["pci_address"], second["numa_node"]) == (
        UUIDS[1],
        "0000:a1:00.0",
        65,
    )
    assert second["links"] == {UUIDS[0]: 2}


def test_links_that_meet_in_a_switch_lead_to_each_other(node: Node) -> None:
    node.tell("switch=1")
    assert [row["links"] for row in node.get("enumerate")] == [{UUIDS[1]: 2}, {UUIDS[0]: 2}]


def test_partitions_are_devices_and_their_card_is_none(node: Node) -> None:
    node.tell("mig=0")
    devices = node.get("enumerate")
    assert [row["uuid"] for row in devices] == [*PARTS, UUIDS[1]]
    assert [row["index"] for row in devices] == [0, 1, 2]
    assert devices[0]["model"] == "Odd MIG 1g.5gb"
    assert devices[0]["links"] == {}
    assert devices[0]["pci_address"] == "0000:a0:00.0"
    sample = node.get("sample")[0]
    assert sample["memory_used_bytes"] == 100 * MIB
    assert (sample["busy"], sample["power_watts"], sample["temperature_celsius"]) == (None,) * 3


def test_a_card_that_is_to_be_divided_and_is_not_is_told(node: Node) -> None:
    node.tell("mig=0", "parts=0")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert node.get("left_out") == ["device 0: MIG is on, and it has no partition: make some"]


def test_a_partition_that_cuda_could_not_name_is_left_out_with_the_reason(node: Node) -> None:
    node.tell("mig=0", "old_mig=1")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert len(node.get("left_out")) == 2
    assert "none that CUDA knows: update the driver" in node.get("left_out")[0]


def test_a_device_that_is_lost_at_the_start_does_not_hide_the_others(node: Node) -> None:
    node.tell("DeviceGetHandleByIndex@0=15")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[1]]
    assert node.get("left_out") == ["device 0: GPU is lost (15)"]


def test_before_510_memory_is_what_the_first_form_says(node: Node) -> None:
    node.tell("DeviceGetMemoryInfo_v2=13")
    assert node.get("enumerate")[0]["memory_bytes"] == 16384 * MIB
    assert node.get("sample")[0]["memory_used_bytes"] == 384 * MIB


def test_a_device_without_memory_of_its_own_is_left_out_with_the_reason(node: Node) -> None:
    node.tell("DeviceGetMemoryInfo_v2@1=3", "DeviceGetMemoryInfo@1=3")
    assert [row["uuid"] for row in node.get("enumerate")] == [UUIDS[0]]
    assert "does not tell its memory" in node.get("left_out")[0]


def test_what_a_context_costs_comes_from_the_cuda_driver(
    start: Callable[..., Node], odd_library: Path, tmp_path: Path
) -> None:
    driver = odd_driver(tmp_path / "driver")
    (tmp_path / "cache").mkdir()
    known = {f"{uuid} 13000 {(n + 1) << 34}": (n + 3) * MIB for n, uuid in enumerate(UUIDS)}
    (tmp_path / "cache/contexts.json").write_text(json.dumps({"format": 1, "context_bytes": known}))
    node = start(odd_library, driver.parent)
    assert [row["context_bytes"] for row in node.get("enumerate")] == [3 * MIB, 4 * MIB]


# -- readings --


def test_a_sample_has_what_the_device_reads(node: Node) -> None:
    assert node.get("sample")[0] == {
        "uuid": UUIDS[0],
        "memory_used_bytes": 100 * MIB,
        "busy": 0.75,
        "memory_busy": 0.25,
        "power_watts": 123.456,
        "temperature_celsius": 40.0,
    }


@pytest.mark.parametrize(
    ("function", "reading"),
    [
        ("DeviceGetUtilizationRates", "busy"),
        ("DeviceGetPowerUsage", "power_watts"),
        ("DeviceGetTemperature", "temperature_celsius"),
    ],
)
def test_a_reading_that_a_device_lacks_is_none_and_the_others_stay(
    node: Node, function: str, reading: str
) -> None:
    node.tell(f"{function}@0=3")
    first, second = node.get("sample")
    lacking = {name for name, value in first.items() if value is None}
    assert lacking == ({"busy", "memory_busy"} if reading == "busy" else {reading})
    assert None not in second.values()


def test_a_share_that_is_none_is_not_believed(node: Node) -> None:
    node.tell("busy=4294967295")
    assert node.get("sample")[0]["busy"] is None


def test_a_lost_device_reads_nothing_and_the_others_do(node: Node) -> None:
    node.get("enumerate")
    lost = ("MemoryInfo_v2", "MemoryInfo", "UtilizationRates", "PowerUsage", "Temperature")
    node.tell(*(f"DeviceGet{name}@0=15" for name in lost))
    first, second = node.get("sample")
    assert set(first.values()) == {UUIDS[0], None}
    assert second["memory_used_bytes"] == 100 * MIB


def test_processes_of_both_kinds_are_told_once_each(node: Node) -> None:
    rows = node.get("processes")
    assert {row["uuid"] for row in rows} == {UUIDS[0]}
    assert {row["pid"]: row["memory_bytes"] for row in rows} == {
        100: 50 * MIB,
        101: None,
        102: 9 * MIB,
        103: 1 * MIB,
    }


def test_an_older_library_lists_processes_in_its_own_form(node: Node) -> None:
    node.tell("Compute_v3=13")
    assert {row["pid"] for row in node.get("processes")} == {100, 101, 102, 103}


def test_a_device_that_lists_no_processes_has_none(node: Node) -> None:
    node.tell("Compute=4", "Graphics=3")
    assert node.get("processes") == []


def test_a_process_is_as_busy_as_its_newest_sample_says(node: Node) -> None:
    def busy() -> dict[int, float | None]:
        return {row["pid"]: row["busy"] for row in node.get("processes")}

    # No sample yet is no use yet.
    assert busy() == {100: 0.0, 101: 0.0, 102: 0.0, 103: 0.0}
    node.tell("samples=5")
    # 900 % is no share; nobody has pid 0, and 9999 is gone already.
    assert busy() == {100: 0.4, 101: 0.0, 102: None, 103: 0.0}
    # No new sample: the last one counts once more, and then no longer.
    assert busy()[100] == 0.4
    assert busy()[100] == 0.0
    node.tell("samples=6")
    assert busy() == {100: 0.0, 101: 0.0, 102: 0.0, 103: 0.05}


def test_where_utilisation_is_not_told_it_is_none(node: Node) -> None:
    node.tell("samples=5", "DeviceGetProcessUtilization=3")
    assert {row["busy"] for row in node.get("processes")} == {None}


# -- health --


def test_all_is_well_without_events(node: Node) -> None:
    assert node.get("health") == [{"uuid": uuid, "healthy": True, "reason": ""} for uuid in UUIDS]


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_an_applications_own_fault_is_not_the_devices(node: Node, xid: int) -> None:
    node.tell("events=1", f"xid={xid}")
    assert node.ill() == {}


def test_another_xid_takes_down_its_device_for_good(node: Node) -> None:
    node.tell("events=2", "xid=48", "event_card=1")
    for _ in range(3):
        assert list(node.ill()) == [UUIDS[1]]
    assert "XID 48" in node.ill()[UUIDS[1]]


def test_an_uncorrectable_memory_error_takes_down_its_device(node: Node) -> None:
    node.tell("events=1", "event_type=2")
    assert "uncorrectable memory error" in node.ill()[UUIDS[0]]


def test_a_fault_is_over_when_the_driver_asks_for_nothing_more(node: Node) -> None:
    node.tell("events=1", "action=1")
    assert node.ill() == {UUIDS[0]: "the driver asks for a reset of the device"} | {
        UUIDS[1]: "the driver asks for a reset of the device"
    }
    node.tell("events=1", "action=0")
    assert node.ill() == {}
    # A fault of this moment is shown even where nothing is to be done about it.
    node.tell("events=2", "action=0")
    assert list(node.ill()) == [UUIDS[0]]
    assert node.ill() == {}


def test_a_lost_device_comes_back_when_it_was_reset(node: Node) -> None:
    node.tell("events=1", "xid=79", "DeviceGetMemoryInfo@0=15")
    assert "GPU is lost (15)" in node.ill()[UUIDS[0]]
    assert list(node.ill()) == [UUIDS[0]]
    # An error of another kind on the way is no proof, and does not undo what was seen.
    node.tell("events=1", "DeviceGetMemoryInfo@0=999")
    assert "(999)" in node.ill()[UUIDS[0]]
    node.tell("events=1")
    assert node.ill() == {}


def test_an_error_that_passes_does_not_clear_a_fault(node: Node) -> None:
    node.tell("events=1", "DeviceGetMemoryInfo@0=999")
    assert "does not answer" in node.ill()[UUIDS[0]]
    node.tell("events=1")
    assert "XID 79" in node.ill()[UUIDS[0]]


def test_a_partitions_fault_is_not_its_neighbours(node: Node) -> None:
    node.tell("mig=0")
    node.get("enumerate")
    node.tell("mig=0", "events=1", "event_gi=8")
    assert list(node.ill()) == [PARTS[1]]
    node.tell("mig=0", "events=2")
    assert list(node.ill()) == list(PARTS)


def test_an_event_of_no_device_takes_nobody_down(node: Node) -> None:
    node.tell("events=1", "event_lost=1")
    assert node.ill() == {}


@pytest.mark.parametrize("code", [15, 999])
def test_when_events_fail_the_devices_still_answer_for_themselves(node: Node, code: int) -> None:
    node.tell(f"EventSetWait={code}", "DeviceGetMemoryInfo@1=15")
    assert list(node.ill()) == [UUIDS[1]]
    # And events are told again when they can be.
    node.tell("events=1")
    assert list(node.ill()) == [UUIDS[0]]


def test_a_device_without_events_is_well(node: Node) -> None:
    node.tell("DeviceGetSupportedEventTypes=3", "DeviceRegisterEvents=3", "EventSetCreate=3")
    assert node.ill() == {}
    node.tell("types=0")
    assert node.ill() == {}


# -- the library is lost, and comes back --


def test_a_session_that_ended_is_begun_anew_at_the_next_call(node: Node) -> None:
    node.get("enumerate")
    node.tell("DeviceGetCount=1", "DeviceGetMemoryInfo_v2=1")
    assert "answers: Uninitialized (1)" in node.ask("sample")["raised"]
    node.tell()
    assert len(node.get("sample")) == 2


def test_while_the_driver_is_unloaded_every_device_is_unhealthy(node: Node) -> None:
    node.tell("events=1")
    assert list(node.ill()) == [UUIDS[0]]
    node.tell("events=1", "DeviceGetMemoryInfo=9", "Init=9")
    reasons = node.ill()
    assert list(reasons) == list(UUIDS)
    assert "Driver Not Loaded (9): load it" in reasons[UUIDS[0]]
    assert "Driver Not Loaded" in node.ask("processes")["raised"]
    # To load it again, nobody may have used it, and loading resets: no fault is left.
    node.tell("events=1")
    assert node.ill() == {}


def test_a_driver_that_was_updated_says_what_to_restart(node: Node) -> None:
    node.tell("Init=18")
    assert "restart the agent" in node.ask("enumerate")["raised"]


def test_without_a_library_there_is_no_vendor(start: Callable[..., Node], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "libnvidia-ml.so.1").write_text("no library" * 100)
    node = start(broken)
    assert "libnvidia-ml.so.1 cannot be loaded" in node.first["raised"]
    assert "invalid ELF header" in node.first["raised"]


@pytest.mark.parametrize("version", sorted(nvidia_files.SUITES))
def test_nvidias_own_library_without_a_device_is_an_error_in_one_line(
    start: Callable[..., Node], real_nvml: Callable[[str], Path], version: str
) -> None:
    node = start(real_nvml(version))
    assert node.first == {"returned": "nvidia"}
    for call in ("enumerate", "sample", "processes"):
        text = node.ask(call)["raised"]
        assert "Driver Not Loaded (9)" in text, text
        assert "\n" not in text
    assert node.get("health") == []


# -- limits of the driver's own --


def cgroup(node: Node, name: str = "pods/leaf") -> Path:
    """A cgroup as a kernel with version 2 has it."""
    (node.cgroups / "cgroup.controllers").write_text("cpu memory dmem\n")
    leaf = node.cgroups / name
    leaf.mkdir(parents=True)
    for folder in (leaf.parent, leaf):
        (folder / "cgroup.controllers").write_text("dmem\n")
    return leaf


def calls(node: Node) -> list[list[str]]:
    """The limits that the library was told, but those of trials."""
    lines = node.limits.read_text().splitlines() if node.limits.exists() else []
    return [line.split() for line in lines if "aliquot-trial" not in line]


def test_a_driver_since_615_holds_limits_where_there_is_cgroup_2(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    assert node.get("enumerate")[0]["enforcement"] == ["driver", "shim"]
    trials = node.limits.read_text().splitlines()
    assert [line.split()[2:] for line in trials[:2]] == [
        [str(2 * MIB), str(2 * MIB), "0"],
        ["0", str((1 << 64) - 1), "0"],
    ]
    assert sorted(path.name for path in node.cgroups.iterdir()) == ["cgroup.controllers", "pods"]
    # A path, or what /proc/PID/cgroup says.
    node.get("limit_memory", UUIDS[1], str(leaf), 5 * MIB)
    node.get("limit_memory", UUIDS[1], "/pods/leaf", None)
    assert calls(node) == [
        ["1", str(leaf), str(5 * MIB), str(5 * MIB), "0"],
        ["1", str(leaf), "0", str((1 << 64) - 1), "0"],
    ]


@pytest.mark.parametrize("words", [["driver=610"], ["driver=615", "DeviceSetMemoryLimits=3"]])
def test_a_driver_that_cannot_hold_limits_leaves_them_to_the_shim(
    node: Node, words: list[str]
) -> None:
    cgroup(node)
    node.tell(*words)
    assert node.get("enumerate")[0]["enforcement"] == ["shim"]
    answer = node.ask("limit_memory", UUIDS[0], "/pods/leaf", MIB)
    assert "cannot hold memory limits" in answer["raised"]
    assert calls(node) == []


def test_without_cgroup_2_limits_are_the_shims(node: Node) -> None:
    node.tell("driver=615")
    assert node.get("enumerate")[0]["enforcement"] == ["shim"]
    assert not node.limits.exists()


def test_partitions_take_no_limit(node: Node) -> None:
    cgroup(node)
    node.tell("driver=615", "mig=0")
    rows = node.get("enumerate")
    assert [row["enforcement"] for row in rows] == [["shim"], ["shim"], ["driver", "shim"]]


def test_a_limit_that_is_refused_says_where_and_why(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.tell("driver=615", "DeviceSetMemoryLimits=2")
    text = node.ask("limit_memory", UUIDS[0], str(leaf), MIB)["raised"]
    assert text.startswith(UUIDS[0])
    assert str(leaf) in text
    assert "Invalid Argument (2)" in text


def test_the_controller_is_handed_down_to_a_group_that_lacks_it(node: Node) -> None:
    leaf = cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.tell("driver=615", "DeviceSetMemoryLimits=6")
    assert "Not Found" in node.ask("limit_memory", UUIDS[0], str(leaf), MIB)["raised"]
    assert len(calls(node)) == 2
    for folder in (node.cgroups, leaf.parent):
        assert (folder / "cgroup.subtree_control").read_text() == "+dmem"
    assert not (leaf / "cgroup.subtree_control").exists()


def test_taking_a_limit_back_from_a_group_that_is_gone_is_well(node: Node) -> None:
    cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    node.get("limit_memory", UUIDS[0], "/pods/gone", None)
    assert calls(node) == []


@pytest.mark.parametrize("path", ["/", "relative", "/../etc", "/pods/../.."])
def test_a_limit_is_never_set_outside_the_cgroups(node: Node, path: str) -> None:
    cgroup(node)
    node.tell("driver=615")
    node.get("enumerate")
    assert "cgroup" in node.ask("limit_memory", UUIDS[0], path, MIB)["raised"]
    assert calls(node) == []


def test_an_unknown_device_takes_no_limit(node: Node) -> None:
    assert "there is no such device" in node.ask("limit_memory", "GPU-x", "/a", 1)["raised"]


# -- what a container needs --


@pytest.fixture
def driver_folder(odd_library: Path, tmp_path: Path) -> Path:
    """A folder laid out as a driver's, with what an update and other packages left there."""
    cuda = odd_driver(tmp_path / "lib")
    real = cuda.resolve()
    nvml = odd_library / "libnvidia-ml.so.999.1"
    for name in ("libnvidia-ml.so.999.1", "libnvidia-ptxjitcompiler.so.999.1"):
        (real.parent / name).write_bytes(nvml.read_bytes())
    for name in ("libnvidia-ptxjitcompiler.so.1000.1", "libnvidia-opencl.so.999.1"):
        (real.parent / name).write_bytes(nvml.read_bytes())
    (real.parent / "libnvidia-nvvm70.so.4").write_bytes(nvml.read_bytes())
    (real.parent / "libEGL_nvidia.so.999.1").write_bytes(nvml.read_bytes())
    (real.parent / "libnvidia-cfg.so.1").write_text("a linker script")
    (real.parent / "libcuda.so").symlink_to("libcuda.so.1")
    (real.parent / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.999.1")
    return real.parent


def null_nodes(node: Node, *names: str) -> None:
    """Make nodes as copies of /dev/null."""
    for name in names:
        path = node.dev / name
        path.parent.mkdir(exist_ok=True)
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("this user may make no device nodes")
        path.chmod(0o666)


def test_without_a_specification_the_driver_is_found_on_the_node(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder)
    null_nodes(node, "nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm", "nvidia-modeset")
    needs = node.get("needs", [UUIDS[0]])
    # The card's minor, not its index.
    assert [row["path"] for row in needs["nodes"]] == [
        str(node.dev / name) for name in ("nvidiactl", "nvidia1", "nvidia-uvm")
    ]
    assert {(row["major"], row["minor"], row["mode"]) for row in needs["nodes"]} == {(1, 3, 0o666)}
    libraries = {Path(row["path"]).name: row["names"] for row in needs["libraries"]}
    nvml = ["libnvidia-ml.so.1", "libnvidia-ml.so.999.1"]
    assert libraries == {
        "libcuda.so.999.1": ["libcuda.so", "libcuda.so.1", "libcuda.so.999.1"],
        "libnvidia-nvvm70.so.4": ["libnvidia-ml.so.1", "libnvidia-nvvm70.so.4"],
        # (The stand-ins are copies of the odd NVML, and so is their SONAME.)
        "libnvidia-ptxjitcompiler.so.999.1": [
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.999.1",
        ],
        "libnvidia-ml.so.999.1": nvml,
    }
    assert needs["environment"] == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert "libnvidia-opencl*" in needs["withheld"]
    assert needs["substitutes"][0]["soname"] == "libcuda.so.1"
    assert needs["substitutes"][0]["driver"] == "libcuda-driver.so.1"
    assert any(
        pattern.endswith("nvidia-container-runtime-hook") for pattern in needs["foreign_hooks"]
    )


def test_opencl_is_handed_in_where_nothing_is_withheld(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder, withhold=False)
    null_nodes(node, "nvidiactl", "nvidia1", "nvidia-modeset")
    needs = node.get("needs", [UUIDS[0]])
    assert "libnvidia-opencl.so.999.1" in {Path(r["path"]).name for r in needs["libraries"]}
    assert needs["withheld"] == []
    assert needs["nodes"][-1]["path"].endswith("nvidia-modeset")


def test_a_partition_needs_its_cards_node_and_its_capabilities(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder)
    node.tell("mig=0")
    node.get("enumerate")
    null_nodes(node, "nvidiactl", "nvidia1", "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31")
    card = node.dev / "capabilities/gpu1/mig/gi7"
    (card / "ci0").mkdir(parents=True)
    (card / "access").write_text("DeviceFileMinor: 30\nDeviceFileMode: 292\n")
    (card / "ci0/access").write_text("DeviceFileMinor: 31\n")
    names = [Path(row["path"]).name for row in node.get("needs", [PARTS[0]])["nodes"]]
    assert names == ["nvidiactl", "nvidia1", "nvidia-cap30", "nvidia-cap31"]
    assert "is MIG on?" in node.ask("needs", [PARTS[1]])["raised"]


def test_a_node_that_is_missing_is_named(start: Callable[..., Node], driver_folder: Path) -> None:
    node = start(driver_folder)
    text = node.ask("needs", [UUIDS[0]])["raised"]
    assert text.startswith(f"{node.dev}/nvidiactl is not there: make the driver's nodes")


def test_without_a_cuda_driver_there_is_nothing_to_hand_in(node: Node) -> None:
    null_nodes(node, "nvidiactl", "nvidia1")
    assert "no CUDA driver" in node.ask("needs", [UUIDS[0]])["raised"]


def write_spec(node: Node, names: list[str], *, minor: int, driver: Path) -> None:
    """Write a specification as nvidia-ctk does, for one device."""
    folder = "/usr/lib/x86_64-linux-gnu"
    edits = [
        {"hostPath": str(driver / name), "containerPath": f"{folder}/{name}"}
        for name in ("libcuda.so.999.1", "libnvidia-ml.so.999.1", "libEGL_nvidia.so.999.1")
    ]
    icd = driver / "nvidia_icd.json"
    icd.write_text("{}")
    edits.append({"hostPath": str(icd), "containerPath": "/etc/vulkan/icd.d/nvidia_icd.json"})
    edits.append({"hostPath": "/bin/true", "containerPath": "/usr/bin/nvidia-smi"})
    link = ["nvidia-cdi-hook", "create-symlinks"]
    link += ["--link", f"libcuda.so.1::{folder}/libcuda.so"]
    link += ["--link", f"../libglxserver_nvidia.so.9::{folder}/xorg/libglxserver_nvidia.so"]
    hooks = [
        {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": link},
        {"hookName": "createRuntime", "path": "/opt/site/hook", "args": ["hook", "now"]},
    ]
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": name,
                "containerEdits": {
                    "deviceNodes": [{"path": f"/dev/nvidia{minor}", "hostPath": "/dev/null"}]
                },
            }
            for name in names
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=all", "SITE=here"],
            "deviceNodes": [
                {"path": f"/dev/{name}", "hostPath": "/dev/null"}
                for name in ("nvidiactl", "nvidia-modeset", "dri/renderD128")
            ],
            "mounts": edits,
            "hooks": hooks,
        },
    }
    (node.cdi / "nvidia.json").write_text(json.dumps(spec))


def test_a_specification_says_what_is_needed_where_it_has_the_device(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    needs = node.get("needs", [UUIDS[0]])
    assert [row["path"] for row in needs["nodes"]] == ["/dev/nvidiactl", "/dev/nvidia1"]
    assert {Path(row["path"]).name: row["names"] for row in needs["libraries"]} == {
        "libcuda.so.999.1": ["libcuda.so", "libcuda.so.1", "libcuda.so.999.1"],
        "libnvidia-ml.so.999.1": ["libnvidia-ml.so.1", "libnvidia-ml.so.999.1"],
    }
    assert [row["destination"] for row in needs["mounts"]] == ["/usr/bin/nvidia-smi"]
    assert needs["environment"] == {"NVIDIA_VISIBLE_DEVICES": "void", "SITE": "here"}
    assert [row["path"] for row in needs["hooks"]] == ["/opt/site/hook"]


def test_where_nothing_is_withheld_a_specification_counts_whole(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder, withhold=False)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    needs = node.get("needs", [UUIDS[0]])
    assert {row["path"] for row in needs["nodes"]} == {
        f"/dev/{name}" for name in ("nvidiactl", "nvidia-modeset", "dri/renderD128", "nvidia1")
    }
    assert "/etc/vulkan/icd.d/nvidia_icd.json" in {row["destination"] for row in needs["mounts"]}
    assert "libEGL_nvidia.so.999.1" in {Path(row["path"]).name for row in needs["libraries"]}


def test_a_specification_of_another_card_of_that_number_is_not_used(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder)
    # Number 0 was the card with node 0 when this was written; now that is card 1.
    write_spec(node, ["0"], minor=0, driver=driver_folder)
    assert "nvidiactl is not there" in node.ask("needs", [UUIDS[0]])["raised"]


def test_a_file_that_a_specification_names_and_an_update_took_is_an_error(
    start: Callable[..., Node], driver_folder: Path
) -> None:
    node = start(driver_folder)
    write_spec(node, [UUIDS[0]], minor=1, driver=driver_folder)
    (driver_folder / "libnvidia-ml.so.999.1").unlink()
    text = node.ask("needs", [UUIDS[0]])["raised"]
    assert text.startswith(f"{node.cdi}/nvidia.json names {driver_folder}/libnvidia-ml.so.999.1")
    assert "nvidia-ctk cdi generate" in text


# -- on the simulator, whose NVML and CUDA tell one story --

SIMULATED = """
[[device]]
count = 2
model = "Small"
memory = "4GiB"
context = "100MiB"
"""


@pytest.fixture
def simulated(
    sim_library: Path, shim_library: Path, tmp_path: Path, start: Callable[..., Node]
) -> tuple[Desk, Node]:
    """A simulated node: somebody who runs programs on it, and the vendor's module."""
    if not (sim_library.parent / "libnvidia-ml.so.1").exists():
        pytest.skip("the simulator has no NVML")
    made = desk(sim_library, shim_library, tmp_path)
    file, state = tmp_path / "node.toml", tmp_path / "state"
    file.write_text(SIMULATED)
    (tmp_path / "cdi").mkdir()
    options = ["--cdi", str(tmp_path / "cdi")] if os.geteuid() == 0 else []
    kept = made.run("sim", "--node", str(file), "--keep", str(state), *options, "--", "true")
    assert kept.returncode == 0, kept.stderr
    made.environment["ALIQUOT_SIM"] = str(state)
    return made, start(sim_library.parent, ALIQUOT_SIM=str(state))


def test_a_simulated_device_is_what_cuda_says_of_it(simulated: tuple[Desk, Node]) -> None:
    made, node = simulated
    version, devices = visible.enumerate_devices(
        drivers.find(made.environment).driver, made.environment
    )
    assert version > 0
    rows = node.get("enumerate")
    assert [
        (row["uuid"], row["uuid_bytes"], row["model"], row["memory_bytes"], row["page_bytes"])
        for row in rows
    ] == [
        (each.uuid_text, each.uuid.hex(), each.name, each.total_bytes, each.page_bytes)
        for each in devices
    ]
    assert {row["context_bytes"] for row in rows} == {100 * MIB}


def test_a_program_on_the_simulator_is_a_process_with_its_memory(
    simulated: tuple[Desk, Node],
) -> None:
    need("cuda.bindings.driver")
    made, node = simulated
    command = [sys.executable, "-m", "aliquot.agent.conformance_worker", "hold", str(512 * MIB)]
    with subprocess.Popen(
        command,
        env={**made.environment, "CUDA_VISIBLE_DEVICES": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert json.loads(program.stdout.readline())["held_bytes"] == 512 * MIB
        (row,) = node.get("processes")
        assert row["pid"] == program.pid
        assert row["uuid"] == node.get("enumerate")[1]["uuid"]
        assert row["memory_bytes"] == 612 * MIB
        assert [row["memory_used_bytes"] for row in node.get("sample")] == [0, 612 * MIB]
        program.stdin.close()
    assert node.get("processes") == []


def test_a_fault_on_the_simulator_takes_down_its_device(simulated: tuple[Desk, Node]) -> None:
    made, node = simulated
    assert node.ill() == {}
    state = made.environment["ALIQUOT_SIM"]
    uuid = node.get("enumerate")[1]["uuid"]
    for xid, ill in (("13", []), ("79", [uuid])):
        told = made.run("sim", "--xid", xid, "--device", "1", "--of", state)
        assert told.returncode == 0, told.stderr
        assert list(node.ill()) == ill


def test_a_simulated_nodes_specification_says_what_a_container_needs(
    simulated: tuple[Desk, Node],
) -> None:
    if os.geteuid():
        pytest.skip("device nodes are made by root")
    made, node = simulated
    needs = node.get("needs", [node.get("enumerate")[1]["uuid"]])
    assert {row["path"] for row in needs["nodes"]} >= {"/dev/nvidia1", "/dev/nvidiactl"}
    assert "/dev/nvidia0" not in {row["path"] for row in needs["nodes"]}
    names = {row["names"][1] for row in needs["libraries"]}
    assert names == {"libcuda.so.1", "libnvidia-ml.so.1"}
    assert made.environment["ALIQUOT_SIM"] in {row["source"] for row in needs["mounts"]}
    assert needs["hooks"] == []
