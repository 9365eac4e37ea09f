"""Vendors are plug-ins: each can fail, and takes down only itself."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from aliquot.agent.config import Config
from aliquot.agent.devices import registry

GOOD = """
class Vendor:
    def __init__(self, config):
        self.name = __name__
        self.config = config
    def enumerate(self): return ()
    sample = processes = health = needs = limit_memory = close = enumerate
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which distributions are found; see ``install``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, code: str, entry: str = "", point: str = "") -> None:
    """Install a distribution with a plug-in as pip lays it out."""
    (folder / f"{name}.py").write_text(code)
    sys.modules.pop(name, None)
    info = folder / f"{name}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
    text = f"[aliquot.vendors]\n{point or name} = {name}:{entry or 'Vendor'}\n"
    (info / "entry_points.txt").write_text(text)


def reasons(loaded: registry.Loaded) -> dict[str, str]:
    return {item.name: item.reason for item in loaded.left_out}


def test_ours_is_registered() -> None:
    (point,) = metadata.entry_points(group=registry.GROUP, name="nvidia")
    assert point.value == "aliquot.agent.devices.nvidia:Nvidia"


def test_a_plug_in_of_somebody_else_is_loaded_with_the_configuration(plug_in: Path) -> None:
    install(plug_in, "vendor_good", GOOD)
    config = Config(vendors=("vendor_good",))
    (made,) = registry.vendors(config)
    assert made.name == "vendor_good"
    assert made.config is config  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("bad_import", "raise RuntimeError('no\\nway')", "RuntimeError: no way"),
        ("bad_exit", "raise SystemExit(3)", "SystemExit: 3"),
        ("bad_syntax", "def", "SyntaxError"),
        ("bad_attribute", "x = 1", "AttributeError"),
        ("bad_make", "def Vendor(config): raise ValueError", "failed: ValueError: mend"),
        ("bad_shape", "def Vendor(config): return 7", "it has no name, enumerate, sample"),
        (
            "bad_property",
            GOOD + "    @property\n    def needs(self): raise KeyError('x')\n",
            "KeyError",
        ),
    ],
)
def test_a_plug_in_that_fails_is_reported_and_left_out(
    plug_in: Path, name: str, code: str, reason: str
) -> None:
    install(plug_in, name, code)
    install(plug_in, f"good_{name}", GOOD)
    loaded = registry.load(Config(vendors=(name, f"good_{name}")))
    assert [vendor.name for vendor in loaded.vendors] == [f"good_{name}"]
    text = reasons(loaded)[name]
    assert reason in text
    assert "\n" not in text


def test_a_vendor_without_its_library_says_so_in_its_own_words(plug_in: Path) -> None:
    code = "from aliquot.agent.devices import VendorError\n"
    code += "def Vendor(config): raise VendorError('no library: install it')\n"
    install(plug_in, "absent", code)
    told = reasons(registry.load(Config(vendors=("absent",))))
    assert told.pop("absent") == "no library: install it"
    # Those that are installed besides.
    assert told["nvidia"] == "the configuration's `vendors` does not name it"
    assert set(told.values()) == {told["nvidia"]}


def test_a_name_that_nothing_has_is_reported(plug_in: Path) -> None:
    del plug_in
    loaded = registry.load(Config(vendors=("nvidea",)))
    assert loaded.vendors == ()
    assert "no plug-in of this name is installed" in reasons(loaded)["nvidea"]


def test_nobody_takes_the_name_of_ours(plug_in: Path) -> None:
    install(plug_in, "aaa", GOOD, point="nvidia")
    loaded = registry.load(Config(vendors=("nvidia",)))
    assert all(type(vendor).__module__ != "aaa" for vendor in loaded.vendors)
    assert "aaa:Vendor: aliquot.agent.devices.nvidia:Nvidia has the same name" in [
        item.reason for item in loaded.left_out
    ]
