"""What the small programs parse is parsed right, on whatever input, without a step too far."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import ROOT

SOURCES = ("util", "state", "plan", "runc_args")


class Parser:
    """The parsers in a process of their own, which ends at the first fault."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1"},
        )

    def __call__(self, kind: bytes, data: bytes) -> bytes:
        """The answer to one input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(kind + struct.pack("<I", len(data)) + data)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            pytest.fail(self._process.stderr.read().decode(errors="replace"))
        return line.rstrip(b"\n")

    def close(self) -> None:
        """End it, which is when leaks are looked for."""
        _, errors = self._process.communicate()
        assert self._process.returncode == 0, errors.decode(errors="replace")


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parser]:
    """The parsers with sanitizers."""
    path = tmp_path_factory.mktemp("parse") / "parse"
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{ROOT}/csrc"]
    command += [f"{ROOT}/csrc/oci/{name}.c" for name in SOURCES]
    subprocess.run([*command, f"{ROOT}/tests/oci_parse.c", "-o", str(path)], check=True)
    made = Parser(path)
    yield made
    made.close()


def fuzz(function: Any) -> Any:
    """Many examples: each costs microseconds."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=600, deadline=None, suppress_health_check=checks)(function)


@dataclass(frozen=True)
class _Whole:
    """A number without fraction or exponent, as it was written."""

    text: str


def _refuse(word: str) -> None:
    raise ValueError(word)


def _is_name(text: object) -> bool:
    """Whether a value may be an id or a bundle."""
    return isinstance(text, str) and not any(ord(c) < 32 or ord(c) == 127 for c in text)


def _expected(data: bytes) -> tuple[int, str | None, str | None] | None:
    """What Python reads from a state, held to what OCI says of it; None when it is none."""
    objects: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(pairs)
        return dict(pairs)

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=keep, parse_constant=_refuse, parse_int=_Whole)
        # Half a surrogate pair, which Python lets pass, is no text.
        json.dumps(objects, ensure_ascii=False, default=str).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # The outermost object ends last.
    keys = [key for key, _ in objects[-1]]
    if any(keys.count(key) > 1 for key in ("id", "bundle", "pid")):
        return None
    if not all(_is_name(value.get(key, "")) for key in ("id", "bundle")):
        return None
    pid = value.get("pid", _Whole("0"))
    if not isinstance(pid, _Whole) or pid.text.startswith("-") or int(pid.text) > 2**31 - 1:
        return None
    return int(pid.text), value.get("id"), value.get("bundle")


def _given(line: bytes) -> tuple[int, str | None, str | None] | None:
    word, _, rest = line.partition(b" ")
    assert word in {b"yes", b"no"}, line
    if word == b"no":
        assert rest
        return None
    pid, *texts = rest.decode().split(" ")
    found = [None if text == "-" else bytes.fromhex(text[1:]).decode("utf-8") for text in texts]
    return int(pid), found[0], found[1]


_TEXTS = st.text() | st.sampled_from(["id", "pid", "bundle", "\x00", "é", "\U0001f600", '"\\/'])
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)
_STATES = st.fixed_dictionaries(
    {},
    optional={
        "ociVersion": st.just("1.0.2"),
        "id": st.text(st.characters(min_codepoint=32), max_size=8) | _VALUES,
        "pid": st.integers(-1, 2**31) | _VALUES,
        "bundle": st.just("/run/b ü") | _VALUES,
        "annotations": _VALUES,
    },
)


@fuzz
@given(
    state=_STATES,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 1]),
    around=st.sampled_from(["", " ", "\r\n\t"]),
)
def test_states_are_read_as_python_reads_them(
    parser: Parser, state: dict[str, Any], ascii_only: bool, indent: int | None, around: str
) -> None:
    try:
        data = json.dumps(state, ensure_ascii=ascii_only, indent=indent).encode()
    except UnicodeEncodeError:
        return
    data = around.encode() + data + around.encode()
    assert _given(parser(b"s", data)) == _expected(data)


_PIECES = st.sampled_from(
    [
        *'{}[]:,"\\ \n-+.eE019',
        '"id"',
        '"pid"',
        '"bundle"',
        '"i\\u0064"',
        ":",
        '"a"',
        "true",
        "false",
        "null",
        "1e9",
        "\\u0000",
        "\\ud83d\\ude00",
        "\\ud83d",
        "é",
        "\x7f",
        "\x01",
        "NaN",
        "Infinity",
        "0x1",
        "/*",
    ]
)


@fuzz
@given(pieces=st.lists(_PIECES, max_size=24), inside=st.booleans())
@example(pieces=['"id"', ":", '"a"', ",", '"id"', ":", '"a"'], inside=True)
@example(pieces=['"i\\u0064"', ":", '"a"', ",", '"id"', ":", '"a"'], inside=True)
@example(pieces=['"pid"', ":", "0", "1"], inside=True)
@example(pieces=['"pid"', ":", "-", "0"], inside=True)
@example(pieces=['"a"', ":", "1", ","], inside=True)
@example(pieces=['"a"', ":", "[", "1", ",", "]"], inside=True)
def test_broken_states_are_refused_as_python_refuses_them(
    parser: Parser, pieces: list[str], inside: bool
) -> None:
    text = "".join(pieces)
    data = ("{" + text + "}" if inside else text).encode()
    assert _given(parser(b"s", data)) == _expected(data)


@fuzz
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b'{"id":"', b'{"a":"\xed\xa0\x80']))
def test_states_of_any_bytes_do_no_harm(parser: Parser, data: bytes, head: bytes) -> None:
    assert _given(parser(b"s", head + data)) == _expected(head + data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_states_are_refused(parser: Parser, opening: bytes) -> None:
    assert b"too many values within values" in parser(b"s", b'{"x":' + opening * 100000)


def test_a_large_state_is_read(parser: Parser) -> None:
    state = {"annotations": {str(n): "x" * 1000 for n in range(3000)}, "pid": 4, "id": "c"}
    assert _given(parser(b"s", json.dumps(state).encode())) == (4, "c", None)


_WORDS = st.sampled_from(
    [
        "aliquot-plan",
        "//a/./b//",
        "/./",
        "1",
        "root",
        "stage",
        "region",
        "substitute",
        "home",
        "driver",
        "library",
        "file",
        "scan",
        "withhold",
        "cache",
        "/a",
        "/b/c",
        "/",
        "relative",
        "/a/../b",
        "/a*/b",
        "libcuda.so.1",
        "libcuda.so",
        "libx.so.2",
        "a/b",
        ".aliquot",
        "..",
        "",
        "ro",
        "rw",
        "x",
    ]
)
_HEAD = "aliquot-plan\t1\nroot\t/r\n"


@fuzz
@given(
    lines=st.lists(st.lists(_WORDS, min_size=1, max_size=6), max_size=12),
    head=st.sampled_from([_HEAD, _HEAD + "stage\t/s\nregion\t/g\nhome\t/h\n", ""]),
    end=st.sampled_from(["", "\n", "\t\n", "x"]),
)
def test_plans_of_any_words_do_no_harm(
    parser: Parser, lines: list[list[str]], head: str, end: str
) -> None:
    text = head + "".join("\t".join(line) + "\n" for line in lines) + end
    answer = parser(b"p", text.encode())
    assert answer.startswith((b"yes ", b"no the plan"))
    if answer.startswith(b"yes"):
        kinds = [line.split("\t")[0] for line in text.splitlines()]
        counted = [int(word) for word in answer.split(b" ")[3:8]]
        names = ("substitute", "library", "file", "scan", "withhold")
        assert counted == [kinds.count(name) for name in names]


@fuzz
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", _HEAD.encode()]))
def test_plans_of_any_bytes_do_no_harm(parser: Parser, data: bytes, head: bytes) -> None:
    assert parser(b"p", head + data).startswith((b"yes ", b"no the plan"))


def test_a_plan_is_read(parser: Parser) -> None:
    text = _HEAD + "driver\tlibc.so.1\t/d\tn1\tn2\nhome\t/home\nlibrary\t/l\tl1\tl2\tl3\n"
    text += "region\t/g\nsubstitute\tlibc.so.1\t/s\tp\nstage\t/st\n"
    words = parser(b"p", text.encode()).decode().split(" ")
    shown = [bytes.fromhex(word[1:]).decode() if word[0] == "=" else word for word in words]
    expected = ["yes", "/r", "/home", "1", "1", "0", "0", "0", "/d", "n1", "n2", "l1", "l2", "l3"]
    assert shown == expected


_ARGUMENTS = st.sampled_from(
    [
        "runc",
        "create",
        "run",
        "restore",
        "start",
        "--bundle",
        "-b",
        "--bundle=x",
        "-b=",
        "-",
        "--",
        "--log",
        "--log=y",
        "--log-format",
        "json",
        "--log-format=json",
        "--help",
        "-h",
        "=",
        "--=",
        "--version",
        "c1",
        "--root",
        "",
    ]
)


@fuzz
@given(arguments=st.lists(_ARGUMENTS, max_size=10))
def test_arguments_do_no_harm(parser: Parser, arguments: list[str]) -> None:
    data = b"".join(argument.encode() + b"\0" for argument in arguments)
    answer = parser(b"a", data)
    assert re.fullmatch(rb"[01]( (-|=[0-9a-f]*)){3} [01]", answer)
    if answer.startswith(b"1"):
        assert {"create", "run", "restore"} & set(arguments[1:])
