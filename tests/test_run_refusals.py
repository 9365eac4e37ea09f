"""What ``aliquot run`` cannot do is one line that says why, and leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from aliquot.shim import region
from aliquot.shim._region import lib

from commands import ALIQUOT, UUIDS, Desk, needs_namespaces, odd_desk, odd_driver, one_line


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver of two devices that the simulator does not make."""
    return odd_driver(tmp_path_factory.mktemp("odd") / "driver")


@pytest.fixture
def here(driver: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """A desk with that driver."""
    return odd_desk(driver, shim_library, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--memory", "17GiB", "--device", "0"], "more than device 0"),
        (["--memory", "0=1GiB,2=1GiB"], "no device 2"),
        (["--memory", "1GiB", "--device", "5"], "no device '5'"),
        (["--memory", "1GiB", "--device", "-1"], "no device '-1'"),
        (["--memory", "1GiB", "--device", "9" * 5000], "no device"),
        (["--memory", "1GiB", "--device", "0,0"], "names device 0 again"),
        (["--memory", "1GiB", "--device", "GPU-1"], "fits several devices"),
        (["--memory", "1GiB", "--device", "GPU-77"], "no device 'GPU-77'"),
        (["--memory", "1GiB", "--device", "0,,1"], "empty name"),
        (["--memory", "0=1GiB", "--device", "1"], "not one of --device"),
        (["--memory", "0=1GiB", "--device", "0,1"], "device 1 has no size"),
        (["--memory", "0.000000001%"], "is no memory"),
        (["--memory", "1GiB", "--name", "../x"], "is not a name"),
        (["--memory", "1GiB", "--name", "n" * 64], "is not a name"),
        (["--cores", "0"], "--cores: '0' is not a share of a device's time"),
        (["--memory", "1GiB", "--cores", "101"], "whole number from 1 to 100"),
        (["--cores", "half"], "--cores: 'half'"),
        ([], "no cap is given: add --memory"),
    ],
)
def test_an_impossible_request_is_one_line_and_leaves_nothing(
    here: Desk, arguments: list[str], wrong: str
) -> None:
    result = here.run("run", *arguments, "--", "touch", str(here.runtime / "ran"))
    assert result.returncode == 2, result.stderr
    assert wrong in one_line(result)
    assert not here.runtime.exists()


def test_devices_are_chosen_by_number_uuid_and_beginning(here: Desk) -> None:
    for selector, chosen in (
        ("0", UUIDS[0]),
        ("1", UUIDS[1]),
        ("1,0", f"{UUIDS[0]},{UUIDS[1]}"),
        ("all", f"{UUIDS[0]},{UUIDS[1]}"),
        (UUIDS[1], UUIDS[1]),
        ("GPU-1b", UUIDS[1]),
        ("gpu-1B1B", UUIDS[1]),
        ("1b1b", UUIDS[1]),
    ):
        result = here.run("run", "--memory", "50%", "--device", selector, "--", "/usr/bin/env")
        assert f"CUDA_VISIBLE_DEVICES={chosen}\n" in result.stdout, (selector, result.stderr)


def test_limits_in_hamis_environment_are_understood(here: Desk) -> None:
    hami = {"CUDA_DEVICE_MEMORY_LIMIT": "2g", "CUDA_DEVICE_MEMORY_LIMIT_1": "0x600m"}
    caps = _caps(here, [], hami)
    assert caps == [2 << 30, 0x600 << 20]
    assert _caps(here, ["--memory", "1GiB"], hami) == [1 << 30, 1 << 30]
    assert _caps(here, ["--device", "1"], hami) == [0x600 << 20]
    only = {"CUDA_DEVICE_MEMORY_LIMIT_1": "3000m"}
    assert _caps(here, [], only) == [3000 << 20]


def _caps(here: Desk, arguments: list[str], env: dict[str, str]) -> list[int]:
    result = here.run("run", "--json", *arguments, "--", "true", env=env)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stderr.splitlines()]
    (started,) = [event for event in events if event["event"] == "started"]
    return [device["cap_bytes"] for device in started["devices"]]


@pytest.mark.parametrize(
    ("arguments", "env", "cores", "gate"),
    [
        (["--memory", "1GiB"], {}, 100, "FREE"),
        (["--memory", "1GiB", "--cores", "100"], {}, 100, "FREE"),
        (["--memory", "1GiB", "--cores", "30%"], {}, 30, "OPEN"),
        (["--cores", "30"], {}, 30, "OPEN"),
        ([], {"CUDA_DEVICE_SM_LIMIT": "40"}, 40, "OPEN"),
        (["--memory", "1GiB"], {"CUDA_DEVICE_SM_LIMIT": "40"}, 40, "OPEN"),
        (["--cores", "7"], {"CUDA_DEVICE_SM_LIMIT": "40"}, 7, "OPEN"),
        (["--memory", "1GiB"], {"CUDA_DEVICE_SM_LIMIT": "0"}, 100, "FREE"),
    ],
)
def test_a_cap_on_time_is_in_the_grant(
    here: Desk,
    tmp_path: Path,
    arguments: list[str],
    env: dict[str, str],
    cores: int,
    gate: str,
) -> None:
    copy = tmp_path / "grant"
    script = 'cp "${LD_LIBRARY_PATH%%:*}/.aliquot/grant" "$0"'
    command = ["--mode", "environment", "--", "sh", "-c", script, str(copy)]
    result = here.run("run", "--device", "0", *arguments, *command, env=env)
    assert result.returncode == 0, result.stderr
    with copy.open("rb") as file:
        (granted,) = region.read_grant(file.fileno(), "grant").devices
        offset, size = region._word(("device", 0, "gate"))
        word = int.from_bytes(os.pread(file.fileno(), size, offset), "little")
    assert granted.cores == cores
    # Without a cap on memory either, all of it is had.
    assert granted.cap == (1 << 30 if "--memory" in arguments else 1 << 34)
    assert word & 3 == getattr(lib, f"ALIQUOT_GATE_{gate}")


def test_a_cap_on_time_that_hami_would_drop_is_refused(here: Desk) -> None:
    for value in ("", "101", "x", "-1"):
        result = here.run(
            "run", "--memory", "1GiB", "--", "true", env={"CUDA_DEVICE_SM_LIMIT": value}
        )
        assert result.returncode == 2
        assert "CUDA_DEVICE_SM_LIMIT: " in one_line(result)


@pytest.mark.parametrize("value", ["", "x", "4GiB", "-1", "0", "1.5g", "099", "1t"])
def test_a_limit_that_hami_would_drop_quietly_is_refused(here: Desk, value: str) -> None:
    result = here.run("run", "--", "true", env={"CUDA_DEVICE_MEMORY_LIMIT_0": value})
    assert result.returncode == 2
    assert "CUDA_DEVICE_MEMORY_LIMIT_0" in one_line(result)


def test_no_driver_is_one_line_that_says_where_it_was_looked_for(
    here: Desk, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"LD_LIBRARY_PATH": str(empty)})
    assert result.returncode == 1
    line = one_line(result)
    assert "no CUDA driver" in line
    assert str(empty) in line
    assert not here.runtime.exists()


def test_a_dangling_driver_is_one_line_that_names_it(here: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "dangling"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to("libcuda.so.535.1")
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"LD_LIBRARY_PATH": str(folder)})
    assert result.returncode == 1
    line = one_line(result)
    assert str(folder / "libcuda.so.1") in line
    assert str(folder / "libcuda.so.535.1") in line


@pytest.mark.parametrize("kind", ["text", "folder", "pipe", "truncated", "foreign", "empty"])
def test_what_is_no_driver_is_one_line_that_names_it(
    here: Desk, driver: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    wrong = folder / "libcuda.so.1"
    content = driver.read_bytes()
    if kind == "folder":
        wrong.mkdir()
    elif kind == "pipe":
        os.mkfifo(wrong)
    elif kind == "truncated":
        wrong.write_bytes(content[:200])
    elif kind == "foreign":
        wrong.write_bytes(content[:18] + b"\x08\x00" + content[20:])
    else:
        wrong.write_text("" if kind == "empty" else "hello, this is no library")
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"LD_LIBRARY_PATH": str(folder)})
    assert result.returncode == 1
    assert str(wrong) in one_line(result)


def test_a_library_that_is_no_driver_is_one_line(here: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    mapped = Path("/proc/self/maps").read_text().split()
    other = next(word for word in mapped if word.startswith("/") and "/libc.so" in word)
    (folder / "libcuda.so.1").symlink_to(other)
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"LD_LIBRARY_PATH": str(folder)})
    assert result.returncode == 1
    assert "cuInit" in one_line(result)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ("100", "CUDA_ERROR_NO_DEVICE (100)"),
        ("999", "CUDA_ERROR_UNKNOWN (999)"),
        ("die", "gave no answer"),
    ],
)
def test_a_driver_that_fails_is_one_line(here: Desk, told: str, wrong: str) -> None:
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"ODD_INIT": told})
    assert result.returncode == 1
    assert wrong in one_line(result)
    assert here.left_behind() == []


def test_no_visible_device_is_one_line(here: Desk) -> None:
    result = here.run("run", "--memory", "1GiB", "--", "true", env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 1
    assert "CUDA_VISIBLE_DEVICES" in one_line(result)


@needs_namespaces
def test_a_slice_in_a_slice_is_refused(here: Desk) -> None:
    for mode in ("namespace", "environment"):
        command = ["run", "--mode", mode, "--memory", "1GiB", "--", *ALIQUOT, "run"]
        result = here.run(*command, "--memory", "1GiB", "--", "true")
        assert result.returncode == 1
        assert "already inside a slice" in result.stderr


def test_a_base_of_somebody_else_is_refused(here: Desk, tmp_path: Path) -> None:
    for number, spoil in enumerate((_open_to_all, _link_elsewhere, _plain_file)):
        base = tmp_path / f"base{number}"
        spoil(base)
        result = here.run(
            "run", "--memory", "1GiB", "--", "true", env={"ALIQUOT_RUNTIME_DIR": str(base)}
        )
        assert result.returncode == 1
        assert str(base) in result.stderr.splitlines()[-1]
        assert "ALIQUOT_RUNTIME_DIR" in result.stderr.splitlines()[-1]


def _open_to_all(base: Path) -> None:
    base.mkdir()
    base.chmod(0o777)


def _link_elsewhere(base: Path) -> None:
    base.with_suffix(".target").mkdir()
    base.symlink_to(base.with_suffix(".target"))


def _plain_file(base: Path) -> None:
    base.write_text("")
