"""CDI specifications: what is read of them, which one counts, and how mistakes are told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from aliquot.hooks import cdi

KIND = "vendor.com/device"


def spec(version: str = "0.5.0", names: tuple[str, ...] = ("0",), **edits: Any) -> dict[str, Any]:
    """A specification whose devices have nothing of their own."""
    return {
        "cdiVersion": version,
        "kind": KIND,
        "devices": [{"name": name, "containerEdits": {}} for name in names],
        "containerEdits": edits,
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content)
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
@pytest.mark.parametrize("version", cdi.VERSIONS)
def test_every_version_is_read_in_both_forms(tmp_path: Path, version: str, suffix: str) -> None:
    content = spec(
        version,
        ("0", "GPU-1a", "mig0:1"),
        env=["A=b", "C=d=e"],
        deviceNodes=[{"path": "/dev/x", "hostPath": "/dev/null", "fileMode": 0o600, "uid": 7}],
        mounts=[{"hostPath": "/lib/a", "containerPath": "/lib/b", "options": ["ro", "bind"]}],
        hooks=[{"hookName": "createContainer", "path": "/h", "args": ["h", "x"], "timeout": 3}],
        additionalGids=[4],
        intelRdt={"closID": "x"},
    )
    read = cdi.read(write(tmp_path / f"a.{suffix}", content))
    assert list(read.devices) == ["0", "GPU-1a", "mig0:1"]
    assert read.edits.env == (("A", "b"), ("C", "d=e"))
    assert read.edits.mounts[0].options == ("ro", "bind")
    assert (read.edits.hooks[0].when, read.edits.hooks[0].args) == ("createContainer", ("h", "x"))
    (node,) = cdi.nodes(read.edits, "a")
    assert (node.path, node.major, node.minor, node.kind) == ("/dev/x", 1, 3, "c")
    assert (node.mode, node.uid, node.gid, node.access) == (0o600, 7, 0, "rw")


def test_a_name_that_yaml_takes_for_a_number_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("cdiVersion: 0.5.0\nkind: vendor.com/device\ndevices:\n- name: 0\n")
    assert list(cdi.read(path).devices) == ["0"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cdiVersion": "0.2.0"}, "cdiVersion '0.2.0' is not known: known are 0.3.0 to 1.1.0"),
        ({"cdiVersion": 1.0}, "cdiVersion is 1.0: it needs three numbers, in quotes"),
        ({"cdiVersion": None}, "the specification has no cdiVersion"),
        ({"kind": "gpu"}, "kind 'gpu' is not a vendor and a class"),
        ({"devices": []}, "it has no devices"),
        ({"devices": {}}, "devices is no list"),
        ({"devices": ["x"]}, "devices[0] is no table"),
        ({"devices": [{"name": "a b"}]}, "devices[0]: 'a b' is no name"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, "there is another device 'a'"),
        ({"containerEdits": []}, "containerEdits is no table"),
        ({"containerEdits": {"env": ["A"]}}, "env 'A' is not NAME=VALUE"),
        ({"containerEdits": {"env": [1]}}, "env is no list of texts"),
        (
            {"containerEdits": {"mounts": [{"hostPath": "a", "containerPath": "/b"}]}},
            "containerEdits.mounts[0]: hostPath 'a' is not an absolute path",
        ),
        (
            {"containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "/b/../c"}]}},
            "containerPath '/b/../c' is not an absolute path without '..'",
        ),
        ({"containerEdits": {"mounts": [{"hostPath": "/a"}]}}, "has no containerPath"),
        ({"containerEdits": {"deviceNodes": [{"path": "/d", "type": "x"}]}}, "type 'x'"),
        ({"containerEdits": {"deviceNodes": [{"path": "/d", "uid": "0"}]}}, "uid is no number"),
        (
            {"containerEdits": {"deviceNodes": [{"path": "/d", "permissions": "rx"}]}},
            "permissions 'rx' are not of r, w and m",
        ),
        ({"containerEdits": {"hooks": [{"hookName": "never", "path": "/h"}]}}, "'never'"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_place(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    path = write(tmp_path / "a.json", {**spec(), **change})
    with pytest.raises(cdi.CdiError) as told:
        cdi.read(path)
    assert str(told.value).startswith(f"{path}: ")
    assert text in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.yaml", b"a: [", "line"),
        ("a.json", b"{", "write it anew"),
        ("a.yaml", b"\xff\xfe\x00", "write it anew"),
        ("a.json", b"\xff", "is not UTF-8"),
        ("a.yaml", b"[" * 100_000, "write it anew"),
        ("a.json", b"[" * 100_000, "write it anew"),
        ("a.yaml", b"# " + b"x" * (5 << 20), "is longer than 4 MiB"),
        ("a.yaml", b"", "is no table"),
        ("a.yaml", b"!!python/object/apply:os.system ['true']", "write it anew"),
    ],
)
def test_what_is_no_specification_is_an_error_in_one_line(
    tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(cdi.CdiError) as told:
        cdi.read(path)
    assert str(told.value).startswith(str(path))
    assert text in str(told.value)
    assert "\n" not in str(told.value)


def test_aliases_that_multiply_are_bounded(tmp_path: Path) -> None:
    lines = ["a: &a {path: /dev/null}", "b: &b [" + ", ".join(["*a"] * 1000) + "]"]
    lines += ["c: &c {containerEdits: {deviceNodes: *b}}", "cdiVersion: 0.5.0", f"kind: {KIND}"]
    lines += ["devices:"]
    lines += [f"- {{name: d{n}, containerEdits: {{deviceNodes: *b}}}}" for n in range(1000)]
    path = tmp_path / "a.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(cdi.CdiError, match="more than 65536 entries"):
        cdi.read(path)


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    specs = cdi.Specs([tmp_path])
    assert specs.devices(KIND) == {}
    assert specs.faults == (f"{tmp_path}/a.yaml is not a file",)


def test_a_later_folder_counts_before_an_earlier_one(tmp_path: Path) -> None:
    early, late = tmp_path / "etc", tmp_path / "run"
    write(early / "a.json", spec(names=("0", "1"), env=["FROM=etc"]))
    write(late / "a.yaml", spec(names=("1", "2"), env=["FROM=run"]))
    write(late / "other.json", {**spec(), "kind": "other.com/device"})
    (late / ".being-written.json").write_text("{")
    (late / "README").write_text("no specification")
    specs = cdi.Specs([early, late, tmp_path / "missing"])
    devices = specs.devices(KIND)
    assert {name: found.spec.path.parent for name, found in devices.items()} == {
        "0": early,
        "1": late,
        "2": late,
    }
    assert specs.faults == ()


def test_of_two_devices_with_one_name_in_a_folder_none_counts(tmp_path: Path) -> None:
    write(tmp_path / "d/a.json", spec(names=("0", "1")))
    write(tmp_path / "d/b.json", spec(names=("1", "2")))
    specs = cdi.Specs([tmp_path / "d"])
    assert sorted(specs.devices(KIND)) == ["0", "2"]
    (fault,) = specs.faults
    assert f"{tmp_path}/d/a.json and {tmp_path}/d/b.json both have {KIND}=1" in fault


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path / "d/a.json", spec())
    (tmp_path / "d/b.json").write_text("{")
    specs = cdi.Specs([tmp_path / "d"])
    assert list(specs.devices(KIND)) == ["0"]
    assert specs.faults[0].startswith(f"{tmp_path}/d/b.json: ")


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "d/a.json", spec())
    specs = cdi.Specs([tmp_path / "d"])
    first = specs.devices(KIND)["0"].spec
    assert specs.devices(KIND)["0"].spec is first
    new = write(tmp_path / "new.json", spec(names=("0", "1")))
    new.replace(path)
    assert sorted(specs.devices(KIND)) == ["0", "1"]
    path.unlink()
    assert specs.devices(KIND) == {}


def test_edits_of_a_specification_come_once_and_before_its_devices(tmp_path: Path) -> None:
    content = spec(names=(), env=["ALL=1"])
    content["devices"] = [
        {"name": name, "containerEdits": {"env": [f"DEVICE={name}"]}} for name in ("0", "1")
    ]
    write(tmp_path / "d/a.json", content)
    found = cdi.Specs([tmp_path / "d"]).devices(KIND)
    merged = cdi.merge([found["1"], found["0"]])
    assert merged.env == (("ALL", "1"), ("DEVICE", "1"), ("DEVICE", "0"))


def test_a_node_that_is_not_there_or_no_device_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "gone", file):
        read = cdi.read(write(tmp_path / "a.json", spec(deviceNodes=[{"path": str(path)}])))
        with pytest.raises(cdi.CdiError, match=f"a.json names {path}"):
            cdi.nodes(read.edits, "a.json")
