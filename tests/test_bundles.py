"""What is read of a bundle: anything may be in it, and it is changed or refused."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliquot.hooks import edits, files
from aliquot.hooks.errors import EditError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edit_parts import LEAST, Desk, open_files


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A bundle that has only what every bundle has."""
    desk = Desk(tmp_path)
    desk.set(LEAST)
    return desk


def test_a_bundle_of_runcs_is_read(desk: Desk) -> None:
    (desk.bundle / "config.json").unlink()
    config = desk.by_runc()
    bundle = edits.inspect(desk.bundle)
    assert bundle.config == config
    assert bundle.root == desk.root.resolve()
    assert bundle.environment["PATH"].startswith("/usr/local/sbin")
    assert bundle.annotations == {}


def test_the_last_of_two_variables_counts_and_null_is_nothing(desk: Desk) -> None:
    process = {"env": ["A=1", "B==2=", "A=3", "C"]}
    desk.set({**LEAST, "process": process, "annotations": {"a": "b"}, "hooks": None})
    bundle = edits.inspect(desk.bundle)
    assert bundle.environment == {"A": "3", "B": "=2=", "C": ""}
    assert bundle.annotations == {"a": "b"}
    nothing = dict.fromkeys(("process", "annotations", "hooks", "mounts", "linux"))
    desk.set({**LEAST, **nothing})
    assert edits.inspect(desk.bundle).environment == {}
    assert desk.apply()["process"] is None


def test_the_root_is_named_without_links_and_steps(desk: Desk) -> None:
    (desk.folder / "images/one").mkdir(parents=True)
    (desk.bundle / "link").symlink_to("../images/one")
    for text in ("link", "../bundle/link", str(desk.bundle / "link/.")):
        desk.set({**LEAST, "root": {"path": text}})
        assert edits.inspect(desk.bundle).root == (desk.folder / "images/one").resolve()


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "the whole is not an object"),
    "no version": ({"root": {"path": "/"}}, "ociVersion is not a text"),
    "no root": ({"ociVersion": "1"}, "root is not an object"),
    "no path": ({**LEAST, "root": {}}, r"root\.path is not a text"),
    "an empty path": ({**LEAST, "root": {"path": ""}}, "is not a path"),
    "a NUL in the path": ({**LEAST, "root": {"path": "a\0"}}, "is not a path"),
    "half a character": ({**LEAST, "root": {"path": "\ud800"}}, "is not a path"),
    "env is a text": ({**LEAST, "process": {"env": "A=b"}}, r"process\.env is not a list"),
    "env has a number": ({**LEAST, "process": {"env": [1]}}, r"item of process\.env is not a text"),
    "an annotation": ({**LEAST, "annotations": {"a\nb": 1}}, r"annotations\.a\?b is not a text"),
    "a hook": ({**LEAST, "hooks": {"prestart": [{}]}}, "path of a hook in hooks.prestart"),
    "hooks": ({**LEAST, "hooks": {"prestart": 7}}, r"hooks\.prestart is not a list"),
    "a mount": ({**LEAST, "mounts": [{"source": "/"}]}, "destination of a mount is not a text"),
    "a source": ({**LEAST, "mounts": [{"destination": "/", "source": 1}]}, "source of a mount"),
    "a device": ({**LEAST, "linux": {"devices": [{"path": 3}]}}, "path of a device is not a text"),
    "another spelling": ({**LEAST, "Linux": {}}, "linux is written 'Linux'"),
    "a spelling of Go's": (
        {**LEAST, "process": {"en\u0056": []}},
        r"process\.env is written 'enV'",
    ),
    "a long s": ({**LEAST, "hook\u017f": {}}, "hooks is written"),
    "a hook's moment": (
        {**LEAST, "hooks": {"preStart": []}},
        r"hooks\.prestart is written 'preStart'",
    ),
    "cwd": ({**LEAST, "process": {"cwd": 1}}, r"process\.cwd is not a text"),
    "resources": ({**LEAST, "linux": {"resources": 3}}, r"linux\.resources is not an object"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_bundle_is_said_in_one_line(desk: Desk, what: str) -> None:
    config, match = BAD[what]
    desk.set(config)
    with pytest.raises(EditError, match=match) as caught:
        edits.inspect(desk.bundle)
    assert str(caught.value).startswith(f"{desk.bundle}/config.json")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' twice"),
        ("{}".encode("utf-16"), "is not JSON"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b"[" * 100000, "is not JSON"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 64 deep"),
        (b" " * ((16 << 20) + 1), "more than 16 MiB"),
    ],
)
def test_what_is_no_json_is_refused(desk: Desk, content: bytes, match: str) -> None:
    (desk.bundle / "config.json").write_bytes(content)
    with pytest.raises(EditError, match=match):
        edits.inspect(desk.bundle)


def _missing(path: Path) -> None:
    del path


def _link(path: Path) -> None:
    path.with_name("other.json").write_text(json.dumps(LEAST))
    path.symlink_to("other.json")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a tmpfs, as /run is on a node."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_a_bundle_that_is_at_hand_is_read_alike_at_once(memory: Path) -> None:
    config = {**LEAST, "process": {"env": ["A=1"]}, "annotations": {"a": "b"}}
    (memory / "config.json").write_text(json.dumps(config))
    assert edits.inspect_at_once(memory) == edits.inspect(memory)
    (memory / "config.json").write_bytes(b'{"a": 1, "a": 2}')
    with pytest.raises(EditError, match="'a' twice"):
        edits.inspect_at_once(memory)


def _long(path: Path) -> None:
    path.write_text(json.dumps({**LEAST, "annotations": {"a": "b" * (128 << 10)}}))


@pytest.mark.parametrize("make", [lambda _: None, os.mkfifo, Path.mkdir, _long, _link])
def test_no_other_bundle_is_read_at_once(memory: Path, make: Callable[[Path], object]) -> None:
    make(memory / "config.json")
    before = open_files()
    assert edits.inspect_at_once(memory) is None
    assert open_files() == before


def test_a_bundle_on_a_disk_is_not_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LEAST))
    on_disk = files.is_in_memory(fd := os.open(tmp_path, os.O_PATH)) is False
    os.close(fd)
    assert (edits.inspect_at_once(tmp_path) is None) is on_disk
    assert edits.inspect_at_once(Path("relative")) is None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_missing, "cannot be read: No such file"),
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (_link, "cannot be read"),
    ],
)
def test_what_is_no_file_is_not_waited_for(
    desk: Desk, make: Callable[[Path], None], match: str
) -> None:
    (desk.bundle / "config.json").unlink()
    make(desk.bundle / "config.json")
    before = open_files()
    with pytest.raises(EditError, match=match):
        edits.inspect(desk.bundle)
    assert open_files() == before


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
_PATHS = st.sampled_from(["/dev/nvidia0", "/dev/nvidia1", "/dev/null", "", "x"])


def _rows(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    row = st.fixed_dictionaries({}, optional=fields)
    return st.lists(row | _JSON, max_size=3) | _JSON


# A bundle in which everything that is looked at may be anything.
_BUNDLES = st.fixed_dictionaries(
    {"ociVersion": st.just("1.0.2"), "root": st.just({"path": "rootfs"})},
    optional={
        "process": st.fixed_dictionaries({}, optional={"env": st.lists(st.text()) | _JSON}) | _JSON,
        "annotations": st.dictionaries(st.text(max_size=6), st.text(max_size=6) | _JSON),
        "mounts": _rows(destination=_PATHS | _JSON, source=_PATHS | _JSON, options=_JSON),
        "hooks": st.dictionaries(
            st.sampled_from(["prestart", "poststop", "createRuntime", "other"]),
            _rows(path=_PATHS | _JSON, args=_JSON),
        )
        | _JSON,
        "linux": st.fixed_dictionaries(
            {},
            optional={
                "devices": _rows(path=_PATHS | _JSON, major=_JSON, minor=_JSON),
                "namespaces": _rows(type=st.just("user") | _JSON),
                "resources": st.fixed_dictionaries(
                    {},
                    optional={
                        "devices": _rows(
                            allow=_JSON,
                            type=st.just("c") | _JSON,
                            major=st.just(195) | _JSON,
                            minor=_JSON,
                            access=st.just("rw") | _JSON,
                        )
                    },
                )
                | _JSON,
            },
        )
        | _JSON,
    },
)
_QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@_QUICK
@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_at_all_is_refused_in_one_line(desk: Desk, content: bytes) -> None:
    (desk.bundle / "config.json").write_bytes(content)
    with pytest.raises(EditError) as caught:
        edits.inspect(desk.bundle)
    assert str(caught.value).isprintable()


@_QUICK
@given(_BUNDLES)
def test_a_bundle_with_anything_in_it_is_changed_or_refused(desk: Desk, config: Any) -> None:
    desk.set(config)
    try:
        bundle = edits.inspect(desk.bundle)
        before = copy.deepcopy(bundle.config)
        changed = desk.apply()
    except EditError as error:
        assert str(error).isprintable()  # noqa: PT017 - being changed is right, too
        return
    assert bundle.config == before
    edits.write(bundle, changed)
    assert desk.config() == changed
    assert desk.apply() == changed
