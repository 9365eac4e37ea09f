"""The table [ascend] of the configuration, and what Ascend's own variables ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from aliquot.agent import ascend_requests, config
from aliquot.agent.ascend_config import TEMPLATES, Ascend, Template
from aliquot.agent.config import ConfigError
from aliquot.agent.errors import BadRequestError
from aliquot.agent.requests import read

GIB = 1 << 30
# Published: memory in MiB and AI cores, by template.
PUBLISHED = {
    "910A": {"vir02": (2184, 2), "vir04": (4369, 4), "vir08": (8738, 8), "vir16": (17476, 16)},
    "910B2": {
        "vir03_1c_8g": (8192, 3),
        "vir06_1c_16g": (16384, 6),
        "vir12_3c_32g": (32768, 12),
    },
    "910B3": {"vir05_1c_16g": (16384, 5), "vir10_3c_32g": (32768, 10)},
    "910B4-1": {"vir05_1c_16g": (16384, 5), "vir10_3c_32g": (32768, 10)},
    "910C": {"vir05_1c_16g": (16384, 5), "vir10_3c_32g": (32768, 10)},
    "910B4": {"vir05_1c_8g": (8192, 5), "vir10_3c_16g": (16384, 10)},
    "310P3": {"vir01": (3072, 1), "vir02": (6144, 2), "vir04": (12288, 4)},
}


def load(tmp_path: Path, text: str) -> Ascend:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return config.load(file, {}).ascend


def test_templates_are_the_published_ones() -> None:
    assert {
        chip: {one.name: (one.memory_bytes >> 20, one.cores) for one in templates}
        for chip, templates in TEMPLATES.items()
    } == PUBLISHED


def test_a_chip_that_is_named_has_what_is_written(tmp_path: Path) -> None:
    read_ = load(
        tmp_path,
        """
        [ascend]
        root = "/run/driver"
        [ascend.templates."Ascend910B3"]
        vir01 = { memory = "1GiB", cores = 1 }
        [ascend.templates.310P3]
        [ascend.faults]
        80E18005 = "NotHandle"
        "0x81078603" = "Separate"
        """,
    )
    assert read_.root == Path("/run/driver")
    assert read_.templates["910B3"] == (Template("vir01", GIB, 1),)
    assert read_.templates["310P3"] == ()
    assert read_.templates["910A"] == TEMPLATES["910A"]
    assert read_.faults == {0x80E18005: "NotHandle", 0x81078603: "Separate"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[ascend]\nroots = "/"', "ascend.roots: is not a key: known are root, templates, faults"),
        ("ascend = 1", "ascend: is 1, not a table"),
        ('[ascend]\nroot = "usr"', "ascend.root: 'usr' is not an absolute path"),
        ('[ascend]\nroot = "/a/../b"', "ascend.root: '/a/../b' is not an absolute path"),
        ("[ascend]\ntemplates = 1", "ascend.templates: is 1, not a table"),
        ("[ascend.templates]\n910A = 1", 'ascend.templates."910A": is 1, not a table'),
        (
            '[ascend.templates.910A]\nv = { memory = "1GiB" }',
            'ascend.templates."910A".v: write { memory = "16GiB", cores = 5 }',
        ),
        (
            '[ascend.templates.910A]\nv = { memory = "1GiB", cores = 0 }',
            'ascend.templates."910A".v.cores: 0 is no number of AI cores',
        ),
        (
            '[ascend.templates.910A]\nv = { memory = "10%", cores = 1 }',
            'ascend.templates."910A".v.memory: 10% is no number of bytes',
        ),
        (
            '[ascend.templates.910A]\nv = { memory = "some", cores = 1 }',
            'ascend.templates."910A".v.memory: ',
        ),
        (
            '[ascend.templates.910A]\n"a b" = { memory = "1GiB", cores = 1 }',
            "is no template's name",
        ),
        ('[ascend.faults]\nxyz = "NotHandle"', "ascend.faults: 'xyz' is no fault's code"),
        ('[ascend.faults]\n80E18005 = "Fine"', "ascend.faults.80E18005: 'Fine' is not one of"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text + "\n")
    (line,) = caught.value.lines
    assert told in line


# ---- What containers say -------------------------------------------------------------------------


def names(text: str, **more: str) -> tuple[str, ...] | None:
    wanted = ascend_requests.read({"ASCEND_VISIBLE_DEVICES": text, **more}, TEMPLATES)
    return None if wanted is None else wanted.names


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", (0,)),
        ("0,2-3", (0, 2, 3)),
        ("Ascend910-0", (0,)),
        ("Ascend310P-1,npu-2", (1, 2)),
        ("npu-0, 1 ,0", (0, 1)),
    ],
)
def test_devices_are_named_as_the_vendors_runtime_reads_them(
    text: str, numbers: tuple[int, ...]
) -> None:
    assert names(text) == tuple(f"ascend:{number}" for number in numbers)


@pytest.mark.parametrize("text", ["", "void", "  "])
def test_nothing_is_asked_for(text: str) -> None:
    assert names(text) is None
    assert ascend_requests.read({}, TEMPLATES) is None


def test_vnpus_that_others_made_are_theirs() -> None:
    assert names("100", ASCEND_RUNTIME_OPTIONS="NODRV,VIRTUAL") is None
    assert names("1", ASCEND_RUNTIME_OPTIONS="NODRV") == ("ascend:1",)


@pytest.mark.parametrize(
    "text", ["a", "3-1", "0,", "0-9999", "-1", "Ascend910", "npu-x", "0\x1b[2J"]
)
def test_what_is_no_device_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadRequestError, match="is no device's number, range or name") as caught:
        names(text)
    assert str(caught.value).isprintable()


def test_a_template_is_a_part_of_one_device() -> None:
    environment = {"ASCEND_VISIBLE_DEVICES": "1", "ASCEND_VNPU_SPECS": "vir10_3c_32g"}
    request = read({}, environment, "c", config.Config())
    assert request is not None
    assert request.uuids == ("ascend:1",)
    assert request.memory is not None
    assert request.memory.of(0) == 32 * GIB
    with pytest.raises(BadRequestError, match="is for one device"):
        names("0-1", ASCEND_VNPU_SPECS="vir10_3c_32g")
    with pytest.raises(BadRequestError, match="'vir99' is no template that is known"):
        names("0", ASCEND_VNPU_SPECS="vir99")


def test_whole_devices_are_whole() -> None:
    request = read({}, {"ASCEND_VISIBLE_DEVICES": "0,1"}, "c", config.Config())
    assert request is not None
    assert (request.uuids, request.memory, request.cores) == (("ascend:0", "ascend:1"), None, None)
    assert read({}, {"ASCEND_VISIBLE_DEVICES": "void"}, "c", config.Config()) is None
    sources = config.Config(sources=("annotations",))
    assert read({}, {"ASCEND_VISIBLE_DEVICES": "0"}, "c", sources) is None
