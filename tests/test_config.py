"""The agent's configuration: what is read, what is refused, and the page that describes it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent import config
from aliquot.agent.ascend_config import Ascend
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import Ceiling, Config, ConfigError
from aliquot.agent.sizes import Size, parse_size
from hypothesis import given
from hypothesis import strategies as st

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent


def load(folder: Path, text: str, **environment: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(file, environment)


def mistakes(folder: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environment)
    lines = str(caught.value).split("\n")
    assert tuple(lines) == caught.value.lines
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix(f"{folder / 'config.toml'}: ") for line in lines]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_every_key_is_read(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        """
        runtime_dir = "/run/other"
        lib_dir = "/opt/lib"
        cdi_dirs = ["/a", "/b/c"]
        metrics_address = "::1"
        metrics_port = 0
        sample_seconds = 2
        placement = "spread"
        require = "driver"
        sources = ["hami", "annotations"]
        vendors = ["nvidia"]
        default_vendor = "ascend"
        withhold = false
        [sharing]
        policy = "fixed-share"
        quiet_ms = 0
        floor = 90
        native = true
        max_containers = 1
        round_ms = 50
        [ascend]
        root = "/driver"
        [cambricon]
        root = "/host"
        memory_unit = "256MiB"
        [limits.container]
        devices = 2
        memory = "50%"
        cores = 30
        cores_max = 60
        priority = -5
        weight = 1000
        [limits.namespace.team-a]
        devices = 0
        memory = 4294967296
        cores = 250
        priority = 100
        weight = 1
        [limits.namespace."*"]
        cores = 0
        """,
    )
    assert read == Config(
        runtime_dir=Path("/run/other"),
        lib_dir=Path("/opt/lib"),
        cdi_dirs=(Path("/a"), Path("/b/c")),
        metrics_address="::1",
        metrics_port=0,
        sample_seconds=2.0,
        placement="spread",
        require="driver",
        sources=("hami", "annotations"),
        vendors=("nvidia",),
        default_vendor="ascend",
        withhold=False,
        sharing=config.Shares("fixed-share", 0, 90, True, 1, 50),
        ascend=Ascend(Path("/driver")),
        cambricon=Cambricon(Path("/host"), parse_size("256MiB", "")),
        limits=config.Limits(
            Ceiling(2, parse_size("50%", ""), 30, 60, -5, 1000),
            {
                "team-a": Ceiling(0, parse_size("4294967296", ""), 250, None, 100, 1),
                "*": Ceiling(cores=0),
            },
        ),
    )
    assert read.limits.of_namespace("team-a")[1].cores == 250
    assert read.limits.of_namespace("team-b") == ("*", Ceiling(cores=0))
    assert read.limits.of_namespace("")[1] == Ceiling(cores=0)
    # Nothing was left at its default, so nothing was left out of the file above.
    for name in (field.name for field in fields(Config)):
        assert getattr(read, name) != getattr(Config(), name), name


def test_all_mistakes_are_told_at_once_each_with_its_key_and_what_to_do(tmp_path: Path) -> None:
    said = mistakes(
        tmp_path,
        """
        metrics_prot = 1
        metrics_port = 70000
        placement = "bin"
        sources = []
        withhold = "yes"
        cdi_dirs = ["relative"]
        [limits.container]
        memory = "4Gib"
        core = 3
        [limits.namespace.a]
        cores = true
        [limits.nodes]
        [cambricon]
        root = "host"
        memory_unit = "few"
        units = 1
        """,
    )
    assert said == [
        "metrics_prot: is not a key: did you mean metrics_port?",
        "cdi_dirs: 'relative' is not an absolute path without '..'",
        "metrics_port: 70000 is not a port: a number from 0 to 65535",
        "placement: 'bin' is not one of binpack, spread",
        (
            "sources: is empty, so that nobody could ask: name some of annotations, environment, "
            "hami, ascend, cambricon"
        ),
        "withhold: 'yes' is not true or false",
        "limits.nodes: is not a key: known are container, namespace",
        "limits.container.core: is not a key: did you mean limits.container.cores?",
        (
            "limits.container.memory: 'Gib' in '4Gib' is not a unit: "
            "use B, KiB, MiB, GiB, TiB, KB, MB, GB, TB or %"
        ),
        (
            "limits.namespace.a.cores: True is not percent, summed over devices: "
            "a number from 0 to 409600"
        ),
        "cambricon.units: is not a key: known are root, memory_unit, context",
        "cambricon.root: 'host' is not an absolute path without '..'",
        (
            "cambricon.memory_unit: 'few' is not a size: write a number and a unit, "
            "such as 4GiB, 4096MiB, 4294967296 or 25%"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("runtime_dir = 5", "runtime_dir"),
        ('runtime_dir = "run"', "runtime_dir"),
        ('runtime_dir = "/a/../b"', "runtime_dir"),
        (f'runtime_dir = "/{"x" * 94}"', "runtime_dir"),
        ('lib_dir = "/a\\u0000b"', "lib_dir"),
        ('cdi_dirs = "/etc/cdi"', "cdi_dirs"),
        ('cdi_dirs = ["/a", "/a"]', "cdi_dirs"),
        ('metrics_address = "localhost"', "metrics_address"),
        ("metrics_address = 1", "metrics_address"),
        ('metrics_address = "fe80::1%eth0"', "metrics_address"),
        ("metrics_port = true", "metrics_port"),
        ("metrics_port = 1.0", "metrics_port"),
        ("metrics_port = -1", "metrics_port"),
        ("sample_seconds = nan", "sample_seconds"),
        ("sample_seconds = inf", "sample_seconds"),
        ("sample_seconds = 0", "sample_seconds"),
        ('sample_seconds = "1s"', "sample_seconds"),
        ("placement = []", "placement"),
        ('require = "hardware"', "require"),
        ('sources = ["annotation"]', "sources"),
        ('sources = ["hami", "hami"]', "sources"),
        ("sources = [1, {}]", "sources"),
        ('vendors = ["NVIDIA Corporation"]', "vendors"),
        ('default_vendor = "NVIDIA Corporation"', "default_vendor"),
        ('default_vendor = ["nvidia"]', "default_vendor"),
        ("vendors = [[]]", "vendors"),
        ("withhold = 1", "withhold"),
        ("sharing = 1", "sharing"),
        ('sharing.policy = "fair"', "sharing.policy"),
        ("sharing.policy = 3", "sharing.policy"),
        ("sharing.quiet_ms = 10001", "sharing.quiet_ms"),
        ("sharing.quiet_ms = 0.5", "sharing.quiet_ms"),
        ("sharing.floor = 91", "sharing.floor"),
        ("sharing.floor = true", "sharing.floor"),
        ("sharing.native = 1", "sharing.native"),
        ("sharing.max_containers = 0", "sharing.max_containers"),
        ("sharing.round_ms = 0", "sharing.round_ms"),
        ("sharing.window_us = 5", "sharing.window_us"),
        ("limits = 1", "limits"),
        ("limits.container.cores_max = 0", "limits.container.cores_max"),
        ("limits.container.priority = 101", "limits.container.priority"),
        ("limits.container.weight = 0", "limits.container.weight"),
        ("limits.namespace.a.priority = -101", "limits.namespace.a.priority"),
        ("limits.namespace.a.cores_max = 5", "limits.namespace.a.cores_max"),
        ("limits.container = []", "limits.container"),
        ("limits.container.devices = 0", "limits.container.devices"),
        ("limits.container.cores = 101", "limits.container.cores"),
        ("limits.container.memory = 0", "limits.container.memory"),
        ("limits.container.memory = 1.5", "limits.container.memory"),
        ("limits.container.memory = -1", "limits.container.memory"),
        ('limits.container.memory = "120%"', "limits.container.memory"),
        ("limits.namespace = 3", "limits.namespace"),
        ("limits.namespace.a = 3", "limits.namespace.a"),
        ('limits.namespace."a/b" = {}', "limits.namespace"),
        ('limits.namespace."" = {}', "limits.namespace"),
        ('limits.namespace."*".memory = "x"', 'limits.namespace."*".memory'),
        ('"a\\nb" = 1', "a?b"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    (said,) = mistakes(tmp_path, text)
    assert said.startswith(f"{key}: ")
    assert len(said) < 220


@pytest.mark.parametrize(
    "content",
    [b"x = ", b"\xff\xfe", b"x = 1\nx = 2\n", b"x" * (1 << 20) + b"=1", b"x=" + b"[" * 9999],
)
def test_what_is_no_configuration_is_one_line_with_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    (line,) = caught.value.lines
    assert line.startswith(f"{file}: ")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            config.load(path, {})
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: ")


def test_the_environments_folder_counts_before_the_files(tmp_path: Path) -> None:
    text = 'runtime_dir = "/run/a"'
    assert load(tmp_path, text).runtime_dir == Path("/run/a")
    assert load(tmp_path, text, ALIQUOT_RUNTIME_DIR="/run/b").runtime_dir == Path("/run/b")
    assert load(tmp_path, text, ALIQUOT_RUNTIME_DIR="").runtime_dir == Path("/run/a")
    (said,) = mistakes(tmp_path, text, ALIQUOT_RUNTIME_DIR="b")
    assert said.startswith("ALIQUOT_RUNTIME_DIR: ")


WORDS = st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in fields(Config)]) | st.text(max_size=5), VALUES
    )
)
def test_whatever_the_file_holds_it_is_a_configuration_or_lines(table: dict[str, Any]) -> None:
    said: list[str] = []
    values = config._read_values(table, said)
    if not said:
        read = Config(**values)
        assert isinstance(read.runtime_dir, Path)
        assert all(isinstance(name, str) for name in (*read.sources, *read.vendors))
        assert isinstance(read.limits.container.memory, Size | None)
    known = {field.name for field in fields(Config)}
    assert set(table) <= known or said


def test_the_commands_print_a_line_for_each_mistake(tmp_path: Path) -> None:
    script = (
        "import sys, click\nfrom pathlib import Path\nfrom aliquot.agent import cli, config\n"
        "@cli.aliquot.command('trial')\ndef trial():\n    config.load(Path(sys.argv[1]))\n"
        "cli._COMMANDS['trial'] = ('__main__:trial', '')\nsys.exit(cli.main(['trial']))\n"
    )
    file = tmp_path / "config.toml"
    file.write_text('placement = "x"\nrequire = "\\u001b[2J"\n')
    run = subprocess.run(
        [sys.executable, "-c", script, str(file)], check=False, capture_output=True, text=True
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines() == [
        f"aliquot: {file}: placement: 'x' is not one of binpack, spread",
        f"aliquot: {file}: require: '?[2J' is not one of shim, driver",
    ]


# -- What is written of it -----------------------------------------------------------------------


def test_the_page_has_every_key_with_its_default_and_no_other() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^### `([^`]+)`$", page, re.MULTILINE)) == config.KEYS
    # What a vendor's own table says by default is in its text.
    apart = ("limits.", "ascend.", "cambricon.")
    top = [key for key in config.KEYS if not key.startswith(apart)]
    tables = {key.partition(".")[0] for key in config.KEYS}
    assert tables == {field.name for field in fields(Config)}
    readers = {**config._READERS}
    readers |= {f"sharing.{key}": read for key, read in config._SHARING_READERS.items()}
    for section in page.split("\n### ")[1:]:
        key = section.partition("`")[2].partition("`")[0]
        shown = re.search(r"^Default: `(.+)`$", section, re.MULTILINE)
        assert bool(shown) == (key in top), key
        if shown:
            default = attrgetter(key)(Config())
            said = readers[key](tomllib.loads(f"x = {shown[1]}")["x"])
            assert said == default, key


def test_the_sample_is_accepted_and_shows_the_defaults() -> None:
    path = ROOT / "packaging/config.toml"
    assert config.load(path, {}) == Config()
    lines = path.read_text(encoding="utf-8").splitlines()
    # What is commented out is right too.
    table = "\n".join(re.sub(r"^#(?! )", "", line) for line in lines)
    said: list[str] = []
    values = config._read_values(tomllib.loads(table), said)
    assert said == []
    limits = values.pop("limits")
    assert Config(**values) == Config()
    assert set(values) == {*config._READERS, "sharing"}
    assert None not in [getattr(limits.container, key) for key in config._CONTAINER_READERS]
    assert None not in (limits.namespace["*"].cores, limits.namespace["online"].priority)
