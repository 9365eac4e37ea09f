"""The ``aliquot`` command itself: its help, its sizes, its errors, and what is written of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import pytest
from aliquot.agent import sizes
from aliquot.agent.errors import BadRequestError
from hypothesis import given
from hypothesis import strategies as st

from commands import ALIQUOT

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
GIB = 1 << 30


def aliquot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALIQUOT, *arguments], check=False, capture_output=True, text=True, timeout=60
    )


# -- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("4294967296", 4 * GIB),
        ("1B", 1),
        ("1KiB", 1024),
        ("4096MiB", 4 * GIB),
        ("4GiB", 4 * GIB),
        ("4 GiB", 4 * GIB),
        ("1TiB", 1 << 40),
        ("1KB", 1000),
        ("500MB", 500_000_000),
        ("4GB", 4_000_000_000),
        ("1TB", 10**12),
        ("1.5GiB", 3 * GIB // 2),
        ("0.1GiB", GIB // 10),
        ("25%", 20 * GIB),
        ("12.5%", 10 * GIB),
        ("100%", 80 * GIB),
        ("33%", 33 * 80 * GIB // 100),
    ],
)
def test_a_size_is_exactly_what_it_says(text: str, expected: int) -> None:
    assert sizes.parse_size(text, "--memory").of(80 * GIB) == expected


@given(st.integers(1, 1 << 62), st.sampled_from(sorted(sizes.UNITS)))
def test_every_whole_number_of_every_unit_is_exact(number: int, unit: str) -> None:
    size = sizes.parse_size(f"{number}{unit}", "--memory")
    assert size.of(1) == number * sizes.UNITS[unit]


@given(st.text(max_size=12))
def test_any_other_text_is_refused_with_one_line(text: str) -> None:
    try:
        size = sizes.parse_size(text, "--memory")
    except BadRequestError as error:
        assert str(error).startswith("--memory: ")  # noqa: PT017 - either answer is right
    else:
        assert size.amount > 0
        assert re.fullmatch(r"\s*[0-9.]+ ?[A-Za-z%]*\s*", text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "GiB", "-1", "-4GiB", "+4GiB", "4Gib", "4gib", "4G", "4Gi", "4m", "0", "0GiB", "0%",
     "-5%", "101%", "1e9", "0x10", "4GiB5", "4,5GiB", "٤GiB", "nan", "inf%", "0.5B"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        sizes.parse_size(text, "--memory")
    assert "\n" not in str(caught.value)


def test_sizes_by_device_are_told_apart() -> None:
    limits = sizes.parse_limits("0=4GiB, 2=25%")
    assert limits.each is None
    assert {n: size.of(80 * GIB) for n, size in limits.by_index.items()} == {
        0: 4 * GIB,
        2: 20 * GIB,
    }
    assert sizes.parse_limits("1GiB").each == sizes.Size("1GiB", Fraction(GIB))


@pytest.mark.parametrize(
    "text", ["0=1GiB,0=2GiB", "0=", "=1GiB", "a=1GiB", "-1=1GiB", "0=1GiB,", "0=1GiB,2GiB",
             "1GiB,2GiB", "0:1GiB", "0=1GiB;1=1GiB", "0=1=1GiB"],
)  # fmt: skip
def test_malformed_limits_are_refused(text: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        sizes.parse_limits(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1g", GIB), ("1G", GIB), ("3000m", 3000 * MIB), ("5K", 5 * 1024), ("7", 7),
     ("0x10m", 16 * MIB), ("010k", 8 * 1024)],
)  # fmt: skip
def test_hamis_sizes_are_what_hami_takes_them_for(text: str, expected: int) -> None:
    limits = sizes.limits_from_environment({"CUDA_DEVICE_MEMORY_LIMIT": text})
    assert limits is not None
    assert limits.each is not None
    assert limits.each.of(1) == expected


def test_no_limit_in_the_environment_is_none() -> None:
    assert sizes.limits_from_environment({"CUDA_DEVICE_SM_LIMIT": "50"}) is None


@pytest.mark.parametrize("name", ["_x", "_", "_01", "_-1", "_0_0"])
def test_a_limit_of_no_device_is_refused(name: str) -> None:
    with pytest.raises(BadRequestError):
        sizes.limits_from_environment({f"CUDA_DEVICE_MEMORY_LIMIT{name}": "1g"})


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0.0 MiB"), (MIB, "1.0 MiB"), (GIB - 1, "1024.0 MiB"), (GIB, "1.0 GiB")]
)
def test_sizes_are_shown_in_the_unit_that_fits(size: int, shown: str) -> None:
    assert sizes.format_size(size) == shown


# -- The command ---------------------------------------------------------------------------------


def test_help_is_there_for_everybody() -> None:
    top = aliquot("--help")
    assert top.returncode == 0
    for name in ("run", "ps", "set", "devices", "sim"):
        assert re.search(rf"^  {name} ", top.stdout, re.MULTILINE)
        own = aliquot(name, "--help")
        assert own.returncode == 0, own.stderr
        assert own.stdout.startswith(f"Usage: aliquot {name} ")
    assert aliquot().returncode == 2


def test_the_version_is_the_distributions() -> None:
    result = aliquot("--version")
    assert result.stdout == f"aliquot {metadata.version('aliquot')}\n"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["walk"], "walk"),
        (["run"], "CMD"),
        (["run", "--memory"], "--memory"),
        (["run", "--memory", "1GiB"], "CMD"),
        (["run", "--mode", "magic", "--memory", "1GiB", "--", "ls"], "magic"),
        (["run", "--memory", "nothing", "--", "ls"], "nothing"),
        (["run", "--memory", "a\nb\x1b[2J", "--", "ls"], "'a?b?[2J'"),
        (["run", "--memory", "9" * 5000, "--", "ls"], "is not a size"),
        (["run", "--memory", os.fsdecode(b"\xff\xfe"), "--", "ls"], "is not a size"),
        (["ps", "--walk"], "--walk"),
        (["ps", "extra"], "extra"),
        (["devices", "extra"], "extra"),
        (["set"], "CONTAINER"),
        (["set", "x"], "nothing is to be changed: add --memory"),
        (["set", "x", "--cores", "101"], "--cores: '101'"),
        (["set", "x", "--cores-max", "0"], "--cores-max: '0'"),
        (["set", "x", "--weight", "heavy"], "--weight: 'heavy' is not a weight"),
        (["set", "x", "--priority", "-101"], "--priority: '-101'"),
        (["set", "x", "--policy", "fair"], "--policy: 'fair' is not a policy"),
        (["set", "x", "--quiet", "1s"], "--quiet: '1s'"),
        (["set", "x", "--floor", "91"], "--floor: '91'"),
        (["set", "x", "--memory", "4Gi"], "--memory: 'Gi'"),
        (["run", "--cores", "0", "--", "ls"], "--cores: '0'"),
        (["--walk"], "--walk"),
    ],
)
def test_a_mistake_is_one_line_with_status_2(arguments: list[str], wrong: str) -> None:
    result = aliquot(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("aliquot: ")
    assert wrong in line
    assert result.stdout == ""


def test_a_mistake_is_an_object_where_a_script_asked_for_json() -> None:
    result = aliquot("run", "--json", "--memory", "nothing", "--", "ls")
    assert result.returncode == 2
    assert result.stderr.startswith('{"event": "error", "text": "--memory: ')


def test_a_command_loads_no_more_than_it_needs() -> None:
    script = "import sys\nfrom aliquot.agent.cli import main\nmain(sys.argv[1:])\n"
    script += "print(sorted(name for name in sys.modules if name.startswith('aliquot')))"
    for arguments, absent in (
        (["--help"], ("aliquot.shim", "aliquot.sim", "aliquot.agent.run")),
        (["ps"], ("aliquot.sim", "aliquot.agent.run", "aliquot.agent.rpc")),
    ):
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
        )
        loaded = result.stdout.splitlines()[-1]
        assert not [name for name in absent if f"'{name}'" in loaded], loaded


def test_the_agent_does_not_know_the_simulator() -> None:
    for path in (ROOT / "agent").glob("**/*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name == "cli.py":
            text = text.replace("aliquot.sim.cli:sim_command", "")
        assert path.name == "demo.py" or "aliquot.sim" not in text, path
        assert "ALIQUOT_SIM" not in text, path


# -- What is written of it -----------------------------------------------------------------------


def test_every_environment_variable_is_documented_and_no_other() -> None:
    """A name counts where a program reads it: getenv in C, an environment's key in Python."""
    used: set[str] = set()
    for folder, suffix in (("csrc", ".c"), ("agent", ".py"), ("shim", ".py"), ("sim", ".py")):
        for path in (ROOT / folder).glob(f"**/*{suffix}"):
            text = path.read_text(encoding="utf-8")
            used |= set(re.findall(r'"(ALIQUOT_[A-Z_]*[A-Z])["=]', text))
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `(ALIQUOT_[A-Z_]+)`", page, re.MULTILINE))
    assert documented == used


def test_the_pages_name_no_file_that_is_not_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    assert len(pages) >= 8
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name} leads to {target}"


def test_every_option_is_in_the_page_on_running() -> None:
    page = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    for command in ("run", "ps", "set", "devices"):
        for option in re.findall(
            r"^  (--[a-z-]+)", aliquot(command, "--help").stdout, re.MULTILINE
        ):
            assert f"`{option}" in page or option == "--help", f"{command} {option}"
