"""AMD's and Intel's devices: what sysfs says becomes values, whatever it says."""

from __future__ import annotations

import ast
import os
from importlib import metadata
from pathlib import Path

import pytest
from aliquot.agent import doctor
from aliquot.agent.config import Config
from aliquot.agent.devices import VendorError, check, registry

import aliquot_drm
from agent_parts import cgroup
from aliquot_drm.amd import Amd
from aliquot_drm.dmem import Dmem
from aliquot_drm.files import Roots
from aliquot_drm.intel import Intel
from drm_tree import (
    ARC,
    ARC_BYTES,
    GIB,
    MI300X,
    MI300X_BYTES,
    MIB,
    NAVI,
    NAVI_BYTES,
    Tree,
    arc,
    laptop,
    mi300x,
    navi,
)

NAVI_UUID = "PCI-0000-03-00-0"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A node without devices."""
    return Tree(tmp_path / "node")


# -- a plug-in like any other --


def test_the_plug_in_is_found_by_its_entry_points() -> None:
    points = {point.name: point for point in metadata.entry_points(group=registry.GROUP)}
    assert points["amd"].load() is Amd
    assert points["intel"].load() is Intel


def test_an_agent_that_has_another_root_finds_the_nodes_folders_below_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    mi300x(tree)
    monkeypatch.setenv("ALIQUOT_DRM_ROOT", str(tree.sys.parent))
    vendor = Amd(Config())
    assert [device.pci_address for device in vendor.enumerate()] == list(MI300X)
    assert vendor.roots.cgroups == tree.sys / "fs/cgroup/unified"
    for wrong in ("node", "/host/../x"):
        monkeypatch.setenv("ALIQUOT_DRM_ROOT", wrong)
        with pytest.raises(VendorError, match="is not an absolute path"):
            Amd(Config())
    monkeypatch.setenv("ALIQUOT_DRM_ROOT", "")
    assert Roots.of(os.environ) == Roots()


def test_it_uses_nothing_of_the_agent_but_the_public_protocol() -> None:
    allowed = ("aliquot.agent.devices", "aliquot.hooks.plan")
    found = set()
    (folder,) = aliquot_drm.__path__
    for file in Path(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
            # Nothing is imported by a string either.
            assert not (isinstance(node, ast.Name) and node.id in {"__import__", "importlib"})
    ours = {name for name in found if name.split(".")[0] == "aliquot"}
    assert {"aliquot.agent.devices", "aliquot.hooks.plan"} <= ours
    assert {
        name for name in ours if not any(f"{name}.".startswith(f"{one}.") for one in allowed)
    } == set()
    # Of the folder of vendors, other vendors are not the protocol.
    assert {name for name in ours if name.startswith("aliquot.agent.devices.")} <= {
        "aliquot.agent.devices.cgroups"
    }


def test_building_aliquot_does_not_need_it() -> None:
    files = {str(path) for path in metadata.files("aliquot") or []}
    assert [name for name in files if "aliquot_drm" in name] == []
    assert {str(path) for path in metadata.files("aliquot-drm") or []} >= {"aliquot_drm/amd.py"}


@pytest.mark.parametrize(
    ("make", "kind"), [(mi300x, Amd), (navi, Amd), (arc, Intel), (laptop, Intel)]
)
def test_it_passes_the_check_of_vendors(tree: Tree, make: object, kind: type[Amd | Intel]) -> None:
    assert callable(make)
    make(tree)
    tree.dmem({f"drm/{NAVI}/vram": NAVI_BYTES, f"drm/{ARC}/vram0": ARC_BYTES})
    assert check.faults(kind(None, tree.roots)) == []


def test_it_passes_the_check_of_vendors_on_this_machine() -> None:
    """Whatever this kernel has."""
    loaded = registry.load(Config(vendors=("amd", "intel")))
    for left in loaded.left_out:
        if left.name in ("amd", "intel"):
            assert "the kernel has no driver of" in left.reason
    for vendor in loaded.vendors:
        assert check.faults(vendor) == []


@pytest.mark.parametrize("kind", [Amd, Intel])
def test_without_a_driver_there_is_no_vendor(tree: Tree, kind: type[Amd | Intel]) -> None:
    with pytest.raises(VendorError, match=r"the kernel has no driver of \w+'s \(.*\): load it"):
        kind(None, tree.roots)


# -- what there is --


def test_eight_mi300x_are_linked_each_to_each(tree: Tree) -> None:
    mi300x(tree)
    devices = Amd(None, tree.roots).enumerate()
    assert [device.pci_address for device in devices] == list(MI300X)
    assert [device.index for device in devices] == list(range(8))
    first = devices[0]
    assert first.uuid == "GPU-9a1f000000000001"
    assert first.uuid_bytes == b"9a1f000000000001"
    assert first.model == "AMD Instinct MI300X OAM"
    assert (first.memory_bytes, first.page_bytes) == (MI300X_BYTES, 4096)
    assert first.links == {device.uuid: 1 for device in devices[1:]}
    assert [device.numa_node for device in devices] == [0] * 4 + [1] * 4
    assert {device.enforcement for device in devices} == {()}


def test_devices_come_in_rocms_order(tree: Tree) -> None:
    navi(tree)
    tree.card("amdgpu", "0000:83:00.0", 1, {"unique_id": "ab", "mem_info_vram_total": str(GIB)})
    tree.kfd([{"cpu_cores_count": 8}, {"gpu_id": 7, "location_id": 0x8300, "domain": 0}], {})
    devices = Amd(None, tree.roots).enumerate()
    assert [device.pci_address for device in devices] == ["0000:83:00.0", NAVI]
    assert devices[0].uuid == "GPU-00000000000000ab"


def test_a_number_that_only_kfd_tells_names_the_device_too(tree: Tree) -> None:
    folder = navi(tree)
    tree.kfd([{"gpu_id": 7, "location_id": 0x0300, "domain": 0, "unique_id": 255}], {})
    assert Amd(None, tree.roots).enumerate()[0].uuid == "GPU-00000000000000ff"
    tree.write(folder / "unique_id", "0")
    assert Amd(None, tree.roots).enumerate()[0].uuid == "GPU-00000000000000ff"


def test_a_device_without_a_number_is_named_by_its_place_and_says_so(
    tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    navi(tree)
    caplog.set_level("INFO")
    (device,) = Amd(None, tree.roots).enumerate()
    assert device.uuid == NAVI_UUID
    assert device.uuid_bytes == b"0000:03:00.0\0\0\0\0"
    assert f"{NAVI_UUID}: the device has no number of its own" in caplog.text
    assert device.numa_node is None


def test_two_devices_of_one_number_are_two(tree: Tree) -> None:
    for number, address in enumerate(("0000:03:00.0", "0000:04:00.0")):
        files = {"unique_id": "5", "mem_info_vram_total": str(GIB)}
        tree.card("amdgpu", address, number, files)
    uuids = [device.uuid for device in Amd(None, tree.roots).enumerate()]
    assert uuids == ["GPU-0000000000000005", "PCI-0000-04-00-0"]


def test_partitions_of_a_device_give_it_their_files(tree: Tree) -> None:
    navi(tree)
    nodes = [
        {"gpu_id": 7 + n, "location_id": n << 28 | 0x0300, "domain": 0, "drm_render_minor": 128 + n}
        for n in range(3)
    ]
    tree.kfd(nodes, {0: [1, 2], 1: [0, 2]})
    for minor in (129, 130):
        (tree.dev / f"dri/renderD{minor}").touch()
    amd = Amd(None, tree.roots)
    (device,) = amd.enumerate()
    assert device.links == {}
    paths = [node.path for node in amd.needs([device.uuid]).nodes]
    assert paths == [
        *("/dev/dri/card0", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/dri/renderD130"),
        "/dev/kfd",
    ]


def test_an_arc_has_the_memory_that_the_controller_tells(tree: Tree) -> None:
    arc(tree)
    (device,) = Intel(None, tree.roots).enumerate()
    assert (device.vendor, device.uuid) == ("intel", "PCI-0000-04-00-0")
    assert device.memory_bytes == ARC_BYTES
    assert device.enforcement == ("driver",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tile0/physical_vram_size_bytes", "0x0000000200000000"),
        ("drm/card0/lmem_total_bytes", "8589934592"),
    ],
)
def test_intels_drivers_tell_memory_each_in_its_way(tree: Tree, name: str, text: str) -> None:
    folder = tree.card("xe", ARC, 0, {"vendor": "0x8086", "device": "0x56a0"})
    tree.write(folder / name, text)
    intel = Intel(None, tree.roots)
    assert intel.enumerate()[0].memory_bytes == 8 * GIB
    assert intel.sample()[0].memory_used_bytes is None
    tree.write(folder / "drm/card0/lmem_total_bytes", "8589934592")
    tree.write(folder / "drm/card0/lmem_avail_bytes", "8589934000")
    assert intel.sample()[0].memory_used_bytes == 592


def test_a_laptop_has_nothing_to_share(tree: Tree) -> None:
    laptop(tree)
    intel = Intel(None, tree.roots)
    assert intel.enumerate() == ()
    assert intel.left_out == ("0000:00:02.0: i915 tells no memory of its own of it",)
    assert (intel.sample(), intel.processes(), intel.health()) == ((), (), ())


def test_the_model_is_pcis_name_for_it_or_its_number(tree: Tree, tmp_path: Path) -> None:
    from aliquot_drm import cards  # noqa: PLC0415

    navi(tree)
    (card,) = cards.find(tree.sys, "amdgpu")
    ids = tmp_path / "pci.ids"
    ids.write_text(
        "# PCI\n1001  Other\n\t744c  Not this\n1002  AMD/ATI\n\t73ff  Navi 23\n"
        "\t744c  Navi 31 [Radeon RX 7900]\n\t\t1002 0e3b  Sub\n8086  Intel\n\t744c  Nor this\n"
    )
    assert cards.model(card, "AMD", [str(ids)]) == "AMD Navi 31 [Radeon RX 7900]"
    assert cards.model(card, "AMD", []) == "AMD 744c"


def test_the_doctor_says_who_holds_caps_and_what_is_missing_for_it(tree: Tree) -> None:
    navi(tree)
    tree.card("amdgpu", "0000:09:00.0", 1, {"unique_id": "9"})

    def findings(require: str) -> list[tuple[str, str]]:
        found = doctor._of_vendor(Amd(None, tree.roots), Config(require=require))
        return [(one.status, f"{one.text} {one.mend}") for one in found]

    text = f"{NAVI_UUID} (Radeon): memory caps held by nobody, it is given as a whole"
    tree.write(tree.sys / f"devices/pci0000:00/{NAVI}/product_name", "Radeon")
    left = "amd: 0000:09:00.0: amdgpu tells no memory of its own of it "
    assert findings("shim") == [("warn", left), ("ok", f"{text} ")]
    (_, (status, told)) = findings("driver")
    assert status == "fail"
    assert "the kernel's dmem controller, and cgroup v2" in told
    tree.dmem({f"drm/{NAVI}/vram": NAVI_BYTES})
    for require in ("shim", "driver"):
        (_, (status, told)) = findings(require)
        assert (status, "held by driver" in told) == ("ok", True)


# -- what they read --


def test_readings_are_those_of_the_kernel_in_our_units(tree: Tree) -> None:
    mi300x(tree)
    amd = Amd(None, tree.roots)
    third = amd.sample()[3]
    assert third.uuid == "GPU-9a1f000000000004"
    assert third.memory_used_bytes == 298 * MIB + 3
    assert (third.busy, third.memory_busy) == (0.3, 0.03)
    assert (third.power_watts, third.temperature_celsius) == (141.0, 45.0)


def test_the_edge_counts_before_the_junction(tree: Tree) -> None:
    navi(tree)
    sample = Amd(None, tree.roots).sample()[0]
    assert (sample.power_watts, sample.temperature_celsius) == (63.5, 41.0)


def test_intels_power_is_the_mean_since_the_last_look(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = arc(tree)
    intel = Intel(None, tree.roots)
    now = [10**9]
    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    assert intel.sample()[0].power_watts is None
    now[0] += 2 * 10**9
    tree.write(folder / "hwmon/hwmon4/energy1_input", str(1_000_000 + 90_000_000))
    assert intel.sample()[0].power_watts == pytest.approx(45.0)
    assert intel.sample()[0].temperature_celsius == 47.0
    # The counter began anew.
    tree.write(folder / "hwmon/hwmon4/energy1_input", "5")
    assert intel.sample()[0].power_watts is None


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "-1", "1e9", "0x", "١٢", "9" * 21, "1" * 5000, "12 13", "\0\0\0", "N/A"],
)
def test_what_is_no_reading_is_absent_and_never_zero(tree: Tree, text: str) -> None:
    folder = navi(tree)
    amd = Amd(None, tree.roots)
    amd.enumerate()
    for name in ("mem_info_vram_used", "gpu_busy_percent", "hwmon/hwmon2/power1_average"):
        (folder / name).write_text(text)
    (folder / "hwmon/hwmon2/temp1_input").write_text(text or "x")
    sample = amd.sample()[0]
    assert sample.memory_used_bytes is None
    assert (sample.busy, sample.memory_busy, sample.power_watts) == (None, None, None)
    # Where it is cold, the edge can be below zero.
    assert sample.temperature_celsius == (-0.001 if text == "-1" else 52.0)


def test_a_share_above_all_is_none(tree: Tree) -> None:
    tree.write(navi(tree) / "gpu_busy_percent", "101")
    assert Amd(None, tree.roots).sample()[0].busy is None


def test_files_that_are_something_else_are_no_readings(tree: Tree) -> None:
    folder = navi(tree)
    amd = Amd(None, tree.roots)
    amd.enumerate()
    (folder / "gpu_busy_percent").unlink()
    (folder / "gpu_busy_percent").mkdir()
    (folder / "mem_info_vram_used").unlink()
    os.mkfifo(folder / "mem_info_vram_used")
    sample = amd.sample()[0]
    assert (sample.busy, sample.memory_used_bytes) == (None, None)


def test_a_device_that_sleeps_is_not_woken(tree: Tree) -> None:
    folder = navi(tree)
    tree.write(folder / "power/runtime_status", "suspended")
    (folder / "config").write_bytes(b"\xff\xff\xff\xff")
    amd = Amd(None, tree.roots)
    sample = amd.sample()[0]
    assert sample.memory_used_bytes == GIB
    assert (sample.busy, sample.power_watts, sample.temperature_celsius) == (None, None, None)
    assert amd.health()[0].healthy


# -- health --


def test_a_card_that_goes_away_is_unhealthy_and_reads_nothing(tree: Tree) -> None:
    mi300x(tree)
    amd = Amd(None, tree.roots)
    assert all(one.healthy for one in amd.health())
    tree.unplug("amdgpu", MI300X[2])
    ill = [one for one in amd.health() if not one.healthy]
    assert [one.uuid for one in ill] == ["GPU-9a1f000000000003"]
    assert ill[0].reason == f"amdgpu does not have {MI300X[2]} any more: see the kernel's log"
    sample = amd.sample()[2]
    assert (sample.memory_used_bytes, sample.busy, sample.power_watts) == (None, None, None)
    assert amd.processes() == ()
    assert len(amd.sample()) == 8
    # What is plugged in again is well again.
    tree.card("amdgpu", MI300X[2], 2, {"mem_info_vram_used": "5"})
    assert all(one.healthy for one in amd.health())


def test_a_card_that_does_not_answer_on_pci_is_unhealthy(tree: Tree) -> None:
    folder = navi(tree)
    amd = Amd(None, tree.roots)
    (folder / "config").write_bytes(bytes.fromhex("02104c74"))
    assert amd.health()[0].healthy
    (folder / "config").write_bytes(b"\xff" * 64)
    assert "does not answer on PCI" in amd.health()[0].reason


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("ras/umc_err_count", "ue: 2\nce: 9", "uncorrectable errors of umc (RAS): 2 since"),
        ("aer_dev_fatal", "DLP 1\nTOTAL_ERR_FATAL 1", "fatal errors of PCI (AER): 1 since"),
    ],
)
def test_an_error_that_nothing_corrected_makes_unhealthy_for_good(
    tree: Tree, name: str, text: str, reason: str
) -> None:
    folder = navi(tree)
    tree.write(folder / "ras/umc_err_count", "ue: 0\nce: 4")
    amd = Amd(None, tree.roots)
    assert amd.health()[0].healthy
    tree.write(folder / "ras/umc_err_count", "ue: 0\nce: 40")
    assert amd.health()[0].healthy
    tree.write(folder / name, text)
    assert reason in amd.health()[0].reason
    tree.write(folder / name, "ue: 0\nTOTAL_ERR_FATAL 0")
    assert reason in amd.health()[0].reason


def test_errors_from_before_the_agent_began_are_no_fault(tree: Tree) -> None:
    tree.write(navi(tree) / "ras/umc_err_count", "ue: 7\nce: 0")
    amd = Amd(None, tree.roots)
    assert amd.health()[0].healthy
    assert amd.health()[0].healthy


# -- what containers get --


def test_a_container_gets_the_files_of_its_device_and_kfds(tree: Tree) -> None:
    mi300x(tree)
    amd = Amd(None, tree.roots)
    uuids = [device.uuid for device in amd.enumerate()]
    needs = amd.needs([uuids[1], uuids[7]])
    assert [(node.path, node.major, node.minor) for node in needs.nodes] == [
        ("/dev/dri/card1", 226, 1),
        ("/dev/dri/renderD129", 226, 129),
        ("/dev/dri/card7", 226, 7),
        ("/dev/dri/renderD135", 226, 135),
        ("/dev/kfd", 511, 0),
    ]
    for node in needs.nodes:
        # Whatever group has it on the host, whoever is in the container may use it.
        assert (node.mode, node.kind, node.access) == (0o666, "c", "rw")
        assert node.source == str(tree.dev / node.path.removeprefix("/dev/"))
    # AMD's own runtime, where it comes after us, adds none.
    assert needs.environment == {"AMD_VISIBLE_DEVICES": "none"}
    assert not needs.substitutes
    assert not needs.libraries


def test_the_host_keeps_owner_and_group(tree: Tree) -> None:
    arc(tree)
    file = tree.dev / "dri/renderD128"
    if os.geteuid() == 0:
        os.chown(file, 0, 105)
    intel = Intel(None, tree.roots)
    (card, render) = intel.needs([intel.enumerate()[0].uuid]).nodes
    assert card.path == "/dev/dri/card0"
    assert (render.path, render.gid) == ("/dev/dri/renderD128", file.stat().st_gid)


def test_a_file_that_the_host_does_not_have_is_told(tree: Tree) -> None:
    navi(tree)
    amd = Amd(None, tree.roots)
    amd.enumerate()
    (tree.dev / "dri/renderD128").unlink()
    with pytest.raises(VendorError, match="renderD128 cannot be found"):
        amd.needs([NAVI_UUID])


# -- caps that the kernel holds --


@pytest.fixture
def capped(tree: Tree) -> Amd:
    """A device whose memory the kernel's controller holds."""
    navi(tree)
    tree.dmem({f"drm/{NAVI}/vram": NAVI_BYTES, "drm/0000:99:00.0/vram": 1})
    return Amd(None, tree.roots)


def test_where_the_kernel_has_the_controller_it_holds_caps(tree: Tree, capped: Amd) -> None:
    assert capped.enumerate()[0].enforcement == ("driver",)
    leaf = tree.group("/pods/leaf")
    capped.limit_memory(NAVI_UUID, str(leaf), 5 * MIB)
    capped.limit_memory(NAVI_UUID, "/pods/leaf", 6 * MIB)
    capped.limit_memory(NAVI_UUID, str(leaf), None)
    region = f"drm/{NAVI}/vram"
    assert (leaf / "dmem.max").read_text().splitlines() == [
        f"{region} {5 * MIB}",
        f"{region} {6 * MIB}",
        f"{region} max",
    ]


@pytest.mark.parametrize(
    "capacity",
    [
        "",
        "garbage",
        f"drm/{NAVI}/vram",
        f"drm/{NAVI}/vram zero",
        f"drm/{NAVI}/vram 0",
        f"drm/{NAVI}/stolen 5",
        f"drm/{NAVI}0/vram 5",
        # One cap cannot be held over two memories.
        f"drm/{NAVI}/vram0 {GIB}\ndrm/{NAVI}/vram1 {GIB}",
        "x" * (1 << 17) + f"\ndrm/{NAVI}/vram {GIB}",
    ],
)
def test_without_one_region_of_its_own_a_device_offers_no_enforcement(
    tree: Tree, capacity: str
) -> None:
    navi(tree)
    tree.write(tree.cgroup / "dmem.capacity", capacity)
    amd = Amd(None, tree.roots)
    assert amd.enumerate()[0].enforcement == ()
    with pytest.raises(VendorError, match="no dmem controller"):
        amd.limit_memory(NAVI_UUID, str(tree.group("/leaf")), MIB)


def test_the_controller_is_handed_down_to_the_group(tree: Tree, capped: Amd) -> None:
    leaf = tree.group("/pods/leaf")
    (leaf / "dmem.max").unlink()
    for folder in (tree.cgroup, leaf.parent):
        (folder / "cgroup.controllers").write_text("cpu dmem\n")
        (folder / "cgroup.subtree_control").write_text("")
    with pytest.raises(VendorError, match="could not be set to 1048576: No such file"):
        capped.limit_memory(NAVI_UUID, str(leaf), MIB)
    for folder in (tree.cgroup, leaf.parent):
        assert (folder / "cgroup.subtree_control").read_text() == "+dmem"
    assert not (leaf / "dmem.max").exists()


def test_a_cap_that_the_kernel_does_not_take_is_an_error(
    tree: Tree, capped: Amd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers nothing when a group holds more already, and leaves the cap as it was."""
    leaf = tree.group("/leaf")
    tree.write(leaf / "dmem.max", f"drm/{NAVI}/vram {9 * MIB}")
    monkeypatch.setattr("aliquot_drm.dmem._write", lambda *_: None)
    capped.limit_memory(NAVI_UUID, str(leaf), 9 * MIB)
    with pytest.raises(VendorError, match="the group holds more, and has to free it first"):
        capped.limit_memory(NAVI_UUID, str(leaf), 8 * MIB)
    tree.write(leaf / "dmem.max", f"drm/{NAVI}/vram max")
    with pytest.raises(VendorError, match="the group holds more, and has to free it first"):
        capped.limit_memory(NAVI_UUID, str(leaf), 8 * MIB)


def test_a_link_in_the_place_of_a_cgroups_file_is_not_followed(tree: Tree, capped: Amd) -> None:
    leaf = tree.group("/leaf")
    (leaf / "dmem.max").rename(leaf / "other")
    (leaf / "dmem.max").symlink_to("other")
    with pytest.raises(VendorError, match="could not be set"):
        capped.limit_memory(NAVI_UUID, str(leaf), MIB)
    assert (leaf / "other").read_text() == ""


def test_taking_back_from_a_group_that_is_gone_is_well(tree: Tree, capped: Amd) -> None:
    capped.limit_memory(NAVI_UUID, "/pods/gone", None)
    (tree.cgroup / "bare").mkdir()
    capped.limit_memory(NAVI_UUID, "/bare", None)


@pytest.mark.parametrize("path", ["", "relative", "/../etc", "/", "/a/../../b", "/\0"])
def test_a_limit_is_never_set_outside_the_cgroups(capped: Amd, path: str) -> None:
    with pytest.raises(VendorError, match="cgroup"):
        capped.limit_memory(NAVI_UUID, path, MIB)


def test_a_reading_that_hangs_keeps_no_container_waiting(tree: Tree, capped: Amd) -> None:
    capped.enumerate()
    leaf = tree.group("/leaf")
    with capped._reading:
        assert capped.needs([NAVI_UUID]).nodes
        capped.limit_memory(NAVI_UUID, str(leaf), MIB)


def test_the_controller_of_this_kernel_takes_caps_and_gives_them_back() -> None:
    dmem = Dmem(Roots().cgroups)
    regions = dmem.regions()
    if not regions:
        pytest.skip("this kernel's dmem controller has no region, or it has no such controller")
    region, size = next(iter(regions.items()))
    with cgroup("cgroup2", f"aliquot-dmem-{os.getpid()}") as folder:
        dmem.limit(region, str(folder), size // 2)
        assert f"{region} {size // 2}" in (folder / "dmem.max").read_text()
        dmem.limit(region, str(folder), None)
        assert f"{region} max" in (folder / "dmem.max").read_text()


def test_cgroup_2_is_found_beside_version_1(tmp_path: Path) -> None:
    roots = Roots(sys=tmp_path)
    assert roots.cgroups == tmp_path / "fs/cgroup/unified"
    Tree.write(tmp_path / "fs/cgroup/cgroup.controllers", "cpu")
    assert roots.cgroups == tmp_path / "fs/cgroup"
