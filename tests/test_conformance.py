"""Checks on a real device: none is claimed where there is none, and a cap that leaks is found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from aliquot.agent import conformance, doctor, drivers, visible
from aliquot.agent.errors import AliquotError

from clients import need
from commands import Desk, desk, needs_namespaces

MIB = 1 << 20

NODE = """
[[device]]
model = "Small"
memory = "4GiB"
context = "100MiB"
"""


@pytest.fixture
def here(sim_library: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """A desk on a simulated node of one small device."""
    file, node = tmp_path / "node.toml", tmp_path / "node"
    file.write_text(NODE)
    made = desk(sim_library, shim_library, tmp_path)
    kept = made.run("sim", "--node", str(file), "--keep", str(node), "--", "true")
    assert kept.returncode == 0, kept.stderr
    made.environment["ALIQUOT_SIM"] = str(node)
    return made


@pytest.fixture
def trial(here: Desk) -> conformance.Trial:
    """The simulated device as one to try: what the command itself refuses to do."""
    need("cuda.bindings.driver")
    driver = drivers.find(here.environment).driver
    version, (device,) = visible.enumerate_devices(driver, here.environment)
    return conformance.trial_of(device, driver, version, here.environment)


@pytest.mark.skipif(doctor.kernel_driver() is not None, reason="this machine has NVIDIA's driver")
def test_without_nvidias_driver_everything_is_skipped_even_on_the_simulator(here: Desk) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "aliquot.agent.conformance"],
        check=False,
        capture_output=True,
        text=True,
        env=here.environment,
        cwd=here.runtime.parent,
    )
    assert (result.returncode, result.stderr) == (0, "")
    *rows, last = result.stdout.splitlines()
    assert last == f"0 passed, 0 failed, {len(rows)} skipped"
    assert len(rows) >= 10
    assert all("no device: the kernel has no NVIDIA driver" in row for row in rows)
    assert not list(here.runtime.parent.glob("conformance-*"))


def test_a_device_that_the_kernels_driver_does_not_list_is_none(here: Desk, tmp_path: Path) -> None:
    cards = tmp_path / "gpus"
    (cards / "0000:01:00.0").mkdir(parents=True)
    information = cards / "0000:01:00.0/information"
    information.write_text("GPU UUID: \t GPU-00000000-0000-0000-0000-00000000000f\n")
    with pytest.raises(AliquotError, match="is none that the kernel's NVIDIA driver has"):
        conformance.find(0, here.environment, cards)
    driver = drivers.find(here.environment).driver
    _, (device,) = visible.enumerate_devices(driver, here.environment)
    information.write_text(f"Model: \t x\nGPU UUID: \t {device.uuid_text.upper()}\n")
    assert conformance.find(0, here.environment, cards).uuid == device.uuid_text


@needs_namespaces
def test_the_checks_pass_where_the_caps_hold(trial: conformance.Trial) -> None:
    results = conformance.run(trial)
    failed = [result for result in results if result.outcome == conformance.FAILED]
    assert failed == []
    passed = {result.name for result in results if result.outcome == conformance.PASSED}
    skipped = {result.name: result.text for result in results if result.name not in passed}
    # What the simulated node cannot tell is said, and is no part of a slice's own promises.
    assert set(skipped) <= {"the driver counts no more than the cap", "NVML shows the cap"}
    assert all(skipped.values())


def test_the_checks_fail_where_no_cap_is_kept(
    trial: conformance.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "_slice_command", lambda _, *what: conformance._worker(*what))
    results = {result.name: result for result in conformance.run(trial)}
    assert results["cuMemGetInfo and cuDeviceTotalMem show the cap"].outcome == conformance.FAILED
    for family in ("linear", "pitched", "managed", "pool", "virtual", "array"):
        result = results[f"{family} memory is refused at the cap"]
        assert result.outcome == conformance.FAILED, result
    assert results["a child shares the slice"].outcome == conformance.FAILED


def test_a_device_in_use_is_not_judged(trial: conformance.Trial) -> None:
    result = conformance._run(
        "x", conformance._refuses("linear"), replace(trial, cap=trial.total_bytes)
    )
    assert result.outcome == conformance.SKIPPED
    assert "end what else runs on it" in result.text


def test_the_report_names_versions_and_results_and_nobody(trial: conformance.Trial) -> None:
    rows = [conformance.Result("a", conformance.FAILED, f"{Path.home()}/x {sys.prefix}/y")]
    report = conformance._report(trial, "550.1", rows)
    assert report["driver"] == "550.1"
    assert report["device"]["model"] == "Small"
    text = json.dumps(report)
    assert "aliquot" in report
    for secret in (trial.uuid, f"{Path.home()}/x", sys.prefix):
        assert secret not in text
    assert list(conformance.lines(rows))[-1] == "0 passed, 1 failed, 0 skipped"
