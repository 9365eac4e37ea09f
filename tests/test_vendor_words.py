"""Whatever a bundle says in vendors' own words: the right devices, or one line and nothing done.

Bundles are read by the agent's own tools and admitted by its own admission; the devices are
nobody's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.admission import Tools
from aliquot.agent.config import ASCEND, CAMBRICON, HAMI, Config
from aliquot.agent.daemon import real_parts
from aliquot.agent.devices import Device
from aliquot.agent.errors import AliquotError
from aliquot.agent.ledger import Ledger
from aliquot.agent.slices import Slice
from aliquot.hooks import edits
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_parts
from agent_desk import Desk
from agent_parts import GIB, NEEDS_ROOT, PaperVendor, swept
from edit_parts import LEAST

pytestmark = NEEDS_ROOT
VENDORS = ("ascend", "cambricon", "nvidia")
COUNT = 4
SOURCES = (ASCEND, CAMBRICON, HAMI)


def uuid(vendor: str, number: int) -> str:
    """What a device is called, in its vendor's form."""
    if vendor == "ascend":
        return "NPU-" + "-".join(f"{number + 0xA0:08X}" for _ in range(5))
    text = f"{number + 0xA0:08x}-1111-2222-3333-44445555666{number}"
    return ("GPU-" if vendor == "nvidia" else "MLU-") + text


def devices(vendor: str) -> tuple[Device, ...]:
    """Devices of 64 GiB; those that have partitions have two sizes of them, or any."""
    return tuple(
        Device(
            vendor=vendor,
            index=number,
            uuid=uuid(vendor, number),
            uuid_bytes=bytes([number, len(vendor)]) * 8,
            model=f"{vendor} 1",
            memory_bytes=64 * GIB,
            page_bytes=2 << 20,
            context_bytes=0,
            pci_address="",
            enforcement=("shim",) if vendor == "nvidia" else ("partition", "shim"),
            splits=vendor != "nvidia",
            shapes=((16 * GIB, 25), (32 * GIB, 50)) if vendor == "ascend" else (),
        )
        for number in range(COUNT)
    )


@dataclass
class MixedDesk(Desk):
    """A node with devices of every vendor."""

    others: tuple[PaperVendor, ...] = ()

    @property
    def vendors(self) -> tuple[PaperVendor, ...]:
        """All of them."""
        return (self.vendor, *self.others)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Theirs."""
        return tuple(device for vendor in self.vendors for device in vendor.devices)


# -- What is said ----------------------------------------------------------------------------------

ODD = st.sampled_from(
    (
        *("", " ", ",", ",,", "-", "--", "0-", "-0", "3-1", "0--1", "-1", "+1", "1e3", "0x1"),
        *(
            "99999",
            "9999",
            "0-9999",
            "0-255",
            "0-256",
            "1" * 4096,
            "0," * 3000,
            "0,0,0",
            "\u0663",
            "\uff11",
        ),
        *("²", "é", "NPU", "npu-", "npu-0-1", "Ascend-0", "Ascend910-", "Ascend910B-0", "all,0"),
        *(
            "ALL",
            "None",
            "void,0",
            "none,1",
            "\n",
            "0\n1",
            "0\t",
            "0;1",
            "0 1",
            "../0",
            "GPU-",
            "MLU-",
        ),
        *("0\x7f", "\x1b[31m0", "0\u2028", "\udc00", "\u202e0", "0_0_0", "1_25_10_3", "0_101_1"),
        *("0_25_0", "999_1_1", "0_0_9999999", "-1_25_10", "0_25_-1", "\u0660_25_10", "0_25_10 "),
    )
)
NUMBER = st.integers(0, COUNT + 1)
RANGE = st.tuples(NUMBER, NUMBER).map(lambda pair: f"{pair[0]}-{pair[1]}")
NAMED = st.builds(lambda stem, n: f"{stem}-{n}", st.sampled_from(("Ascend910", "npu")), NUMBER)
FULL = st.builds(uuid, st.sampled_from(VENDORS), st.integers(0, COUNT))
WORD = st.one_of(NUMBER.map(str), RANGE, NAMED, FULL)
LIST = st.lists(WORD, min_size=1, max_size=4).map(",".join)
PLAIN = st.sampled_from(("void", "none", "all", "0", "1"))
ANY = st.one_of(ODD, st.text(max_size=20), LIST, PLAIN)
TEMPLATE = st.one_of(ODD, st.sampled_from(("vir05_1c_16g", "vir10_3c_32g", "vir01", "vir02_1c")))
VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        "ASCEND_VISIBLE_DEVICES": ANY,
        "ASCEND_RT_VISIBLE_DEVICES": ANY,
        "ASCEND_VNPU_SPECS": TEMPLATE,
        "ASCEND_RUNTIME_OPTIONS": st.one_of(ODD, st.sampled_from(("NODRV", "NODRV,VIRTUAL"))),
        "CAMBRICON_VISIBLE_DEVICES": ANY,
        "CAMBRICON_SPLIT_ENABLE": ANY,
        "CAMBRICON_SPLIT_MEMS": ANY,
        "NVIDIA_VISIBLE_DEVICES": ANY,
        "CUDA_DEVICE_MEMORY_LIMIT": st.one_of(ODD, st.sampled_from(("1g", "1024m", "0", "99999g"))),
        "CUDA_DEVICE_SM_LIMIT": st.one_of(ODD, st.integers(-1, 101).map(str)),
    },
)
PROFILE = st.builds(
    lambda *numbers: "_".join(map(str, numbers)), NUMBER, st.integers(0, 101), st.integers(0, 101)
)
ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "CAMBRICON_DSMLU_PROFILE": st.one_of(ODD, PROFILE),
        "CAMBRICON_DSMLU_ASSIGNED": st.sampled_from(("true", "false", "", "TRUE", "\n")),
        "CAMBRICON_DSMLU_ASSIGHED": st.sampled_from(("true", "false", "")),
        "io.kubernetes.cri.container-name": st.text(max_size=8),
    },
)


# -- What is to come of it -------------------------------------------------------------------------


def numbers(text: str) -> set[int] | None:
    """The devices that a list of numbers, ranges and names has; None for what is none."""
    found: set[int] = set()
    for word in text.strip().split(","):
        stem, dash, number = word.strip().rpartition("-")
        first = stem if dash and stem.isdecimal() else number
        if not (number.isascii() and number.isdecimal() and first.isascii()):
            return None
        if dash and not stem.isdecimal() and stem != "npu" and not stem.startswith("Ascend910"):
            return None
        found |= set(range(int(first), int(number) + 1))
    return found


def expected(annotations: dict[str, str], environment: dict[str, str]) -> set[str] | None:
    """The devices that such words name, of those that can be told so simply; None for others."""
    said = environment.get("ASCEND_VISIBLE_DEVICES", "").strip()
    if said not in ("", "void") and "VIRTUAL" not in environment.get("ASCEND_RUNTIME_OPTIONS", ""):
        named = numbers(said)
        return None if named is None else {uuid("ascend", number) for number in named}
    if "CAMBRICON_DSMLU_PROFILE" in annotations:
        if "true" in (
            annotations.get("CAMBRICON_DSMLU_ASSIGNED"),
            annotations.get("CAMBRICON_DSMLU_ASSIGHED"),
        ):
            return None
        slot = annotations["CAMBRICON_DSMLU_PROFILE"].strip().partition("_")[0]
        return {uuid("cambricon", int(slot))} if slot.isascii() and slot.isdecimal() else None
    said = environment.get("CAMBRICON_VISIBLE_DEVICES", "").strip()
    if said == "all":
        return {uuid("cambricon", number) for number in range(COUNT)}
    if said and all(
        word.strip().isascii() and word.strip().isdecimal() for word in said.split(",")
    ):
        return {uuid("cambricon", int(word)) for word in said.split(",")}
    return None


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools[Any]:
    """The agent's own, but for what is written into bundles."""
    config = Config(sources=SOURCES, runtime_dir=tmp_path_factory.mktemp("words"))
    own = real_parts(config).tools
    return dataclasses.replace(own, apply=_applied, link_char_devices=agent_parts.link_char_devices)


def _applied(bundle: edits.Bundle, needs: Any, **_: Any) -> dict[str, Any]:
    return {**bundle.config, "needs": dict(needs.environment)}


@pytest.fixture
def desk(tmp_path: Path, tools: Tools[Any]) -> Iterator[MixedDesk]:
    """An agent's desk, with devices of every vendor."""
    ledger = Ledger(tmp_path / "run")
    with swept(tmp_path / "run"):
        ledger.open()
        first, *others = (
            PaperVendor(devices=devices(name), name=name, paper=tmp_path / name) for name in VENDORS
        )
        yield MixedDesk(tmp_path, first, ledger, tools=tools, others=tuple(others))


def admitted(desk: MixedDesk, bundle: Path) -> tuple[Slice, ...] | str:
    """The slices that there are after a container asked, and are no more; or the refusal."""

    async def story() -> tuple[Slice, ...] | str:
        try:
            await desk.create(bundle)
            pieces = desk.ledger.slices()
            for piece in pieces:
                await desk.keeper.release(piece)
        except AliquotError as error:
            return str(error)
        finally:
            await desk.keeper.close()
        return pieces

    return asyncio.run(story())


def test_whatever_is_said_in_vendors_words_is_given_or_refused_in_one_line(
    desk: MixedDesk,
) -> None:
    count = itertools.count()
    outcomes = {"given": 0, "refused": 0, "nothing": 0}

    @settings(max_examples=400)
    @given(ANNOTATIONS, VARIABLES)
    def say(annotations: dict[str, str], environment: dict[str, str]) -> None:
        bundle = desk.folder / "bundles" / f"c{next(count)}"
        bundle.mkdir(parents=True)
        (bundle / "rootfs").mkdir()
        pairs = [f"{name}={text}" for name, text in environment.items()]
        config = {**LEAST, "process": {"env": pairs}, "annotations": annotations}
        text = json.dumps(config)
        (bundle / "config.json").write_text(text)
        answer = admitted(desk, bundle)
        after = (bundle / "config.json").read_text()
        # Whatever came of it, nothing of it is left.
        assert desk.ledger.slices() == ()
        assert [one for vendor in desk.vendors for one in vendor.partitions()] == []
        named = expected(annotations, environment)
        if isinstance(answer, str):
            outcomes["refused"] += 1
            assert "\n" not in answer
            assert answer.isprintable()
            assert len(answer) < 2000
            assert "the agent failed" not in answer
            assert after == text
            return
        if not answer:
            outcomes["nothing"] += 1
            assert after == text
            assert named is None or not named
            return
        outcomes["given"] += 1
        (piece,) = answer
        assert after != text
        if named is not None:
            assert {part.uuid for part in piece.parts} == named
        for part in piece.parts:
            assert 0 < part.memory_bytes <= 64 * GIB
            assert 0 <= part.cores <= part.cores_max <= 100
        assert len({part.vendor for part in piece.parts}) == 1

    say()
    print(outcomes)
    assert all(outcomes.values()), outcomes
