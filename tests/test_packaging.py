"""What is shipped beside the package: the units, the RuntimeClass."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PACKAGING = Path(__file__).resolve().parent.parent / "packaging"
UNITS = sorted((PACKAGING / "systemd").iterdir())
# Every setting of systemd.exec(5) that gives a service a mount namespace of its own; ProtectClock
# and DevicePolicy, which close devices.
APART = {
    "BindPaths", "BindReadOnlyPaths", "DeviceAllow", "DevicePolicy", "DynamicUser", "ExecPaths",
    "ExtensionDirectories", "ExtensionImages", "InaccessiblePaths", "JoinsNamespaceOf",
    "MountAPIVFS", "MountFlags", "MountImages", "NoExecPaths", "PrivateDevices", "PrivateIPC",
    "PrivateMounts", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock",
    "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
    "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage", "TemporaryFileSystem",
}  # fmt: skip


def unit(path: Path) -> dict[str, dict[str, str]]:
    """A unit's settings; of one that stands there twice all values, as systemd adds them up."""

    class Adding(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: str, value: object) -> None:
            if isinstance(value, list) and key in self:
                value = [*self[key], *value]
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Adding, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path, encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze is installed")
    for path in UNITS:
        text = path.read_text(encoding="utf-8")
        # The command is where it is.
        text = text.replace(
            "/usr/local/bin/aliquot", str(Path(sys.executable).with_name("aliquot"))
        )
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [
            program,
            "verify",
            "--man=no",
            "--recursive-errors=no",
            *(tmp_path / p.name for p in UNITS),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in run.stderr.splitlines() if "aliquot" in line]
    assert (run.returncode, said) == (0, [])


def test_the_service_sees_the_hosts_mounts_and_devices() -> None:
    service = unit(PACKAGING / "systemd/aliquot-agent.service")["Service"]
    assert not APART & service.keys()
    assert service["Type"] == "notify"
    # The arbiter's thread.
    assert service["LimitRTPRIO"] == "1"
    assert "RestrictRealtime" not in service
    kept = service["CapabilityBoundingSet"].split()
    assert {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_CHOWN"} <= set(kept)
    assert all(name.startswith("CAP_") for name in kept)


def test_each_socket_has_its_name_and_is_roots_alone() -> None:
    sockets = {
        unit(path)["Socket"]["FileDescriptorName"]: unit(path)["Socket"]
        for path in UNITS
        if path.suffix == ".socket"
    }
    assert {name: one["ListenStream"] for name, one in sockets.items()} == {
        "agent": "/run/aliquot/agent.sock",
        "runtime": "/run/aliquot/runtime.sock",
    }
    for one in sockets.values():
        assert (one["SocketMode"], one["DirectoryMode"]) == ("0600", "0711")
        assert one["Service"] == "aliquot-agent.service"
    service = unit(PACKAGING / "systemd/aliquot-agent.service")["Service"]
    names = {path.name for path in UNITS if path.suffix == ".socket"}
    assert set(service["Sockets"].split()) == names


def test_the_runtime_class_names_the_handler_that_is_installed() -> None:
    text = (PACKAGING / "kubernetes/runtimeclass.yaml").read_text(encoding="utf-8")
    runtime = yaml.safe_load(text)
    assert (runtime["apiVersion"], runtime["kind"]) == ("node.k8s.io/v1", "RuntimeClass")
    run = subprocess.run(
        [sys.executable, "-m", "aliquot.agent", "install", "containerd", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"[default: {runtime['handler']}]" in " ".join(run.stdout.split())
