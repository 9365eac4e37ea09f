"""Whose devices a node has though no library tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aliquot.agent.devices import presence


def pci(system: Path, address: str, vendor: str, kind: str) -> None:
    folder = system / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


@pytest.mark.parametrize(
    ("name", "vendor", "kind"),
    [
        ("nvidia", "0x10de", "0x030200"),
        ("nvidia", "0x10de", "0x030000"),
        ("ascend", "0x19e5", "0x120000"),
        ("cambricon", "0xcabc", "0x048000"),
    ],
)
def test_a_pci_device_of_a_vendor_shows_it(
    tmp_path: Path, name: str, vendor: str, kind: str
) -> None:
    pci(tmp_path, "0000:3b:00.0", vendor, kind)
    others = {"nvidia", "ascend", "cambricon"} - {name}
    assert presence.sign(name, tmp_path, tmp_path) == "PCI device 0000:3b:00.0"
    assert [presence.sign(other, tmp_path, tmp_path) for other in others] == ["", ""]


@pytest.mark.parametrize(
    ("name", "vendor", "kind"),
    [
        ("nvidia", "0x10de", "0x040300"),  # the sound of a graphics card
        ("nvidia", "0x10de", "0x068000"),  # a switch
        ("ascend", "0x19e5", "0x030000"),  # a server's console
        ("ascend", "0x19e5", "0x020000"),  # a network card
        ("nvidia", "junk", "0x030000"),
        ("nvidia", "", ""),
    ],
)
def test_what_is_no_accelerator_shows_nothing(
    tmp_path: Path, name: str, vendor: str, kind: str
) -> None:
    pci(tmp_path, "0000:3b:00.0", vendor, kind)
    assert presence.sign(name, tmp_path, tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "file"),
    [("nvidia", "nvidiactl"), ("ascend", "davinci_manager"), ("cambricon", "cambricon_ctl")],
)
def test_a_drivers_device_file_shows_its_vendor(tmp_path: Path, name: str, file: str) -> None:
    assert presence.sign(name, tmp_path, tmp_path) == ""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / file).touch()
    assert presence.sign(name, tmp_path, tmp_path) == str(tmp_path / "dev" / file)


# In a process of its own: a library that another test has loaded would be found by its name.
LOAD = """
import json, sys
from pathlib import Path
from aliquot.agent.ascend_config import Ascend
from aliquot.agent.cambricon_config import Cambricon
from aliquot.agent.config import Config
from aliquot.agent.devices import registry

root, vendors = Path(sys.argv[1]), tuple(sys.argv[2:])
config = Config(cambricon=Cambricon(root), ascend=Ascend(root), vendors=vendors)
loaded = registry.load(config)
print(json.dumps([[one.name for one in loaded.left_out], dict(loaded.signs)]))
"""


def load(root: Path, *vendors: str) -> tuple[list[str], dict[str, str]]:
    """The vendors that are left out on a node, and what shows them."""
    environment = {name: text for name, text in os.environ.items() if name != "LD_LIBRARY_PATH"}
    told = subprocess.run(
        [sys.executable, "-c", LOAD, str(root), *vendors],
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    left_out, signs = json.loads(told.stdout)
    return left_out, signs


def test_a_vendor_without_a_library_is_told_with_what_shows_it(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("davinci_manager", "cambricon_ctl"):
        (tmp_path / "dev" / name).touch()
    left_out, signs = load(tmp_path)
    assert {"ascend", "cambricon"} <= set(left_out)
    assert signs["ascend"] == f"{tmp_path}/dev/davinci_manager"
    assert signs["cambricon"] == f"{tmp_path}/dev/cambricon_ctl"
    # Whom the configuration leaves out nobody means.
    assert "ascend" not in load(tmp_path, "cambricon")[1]
