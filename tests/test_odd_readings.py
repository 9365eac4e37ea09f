"""Whatever a vendor's library writes, what is told of devices follows the protocol."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.config import Config, load
from aliquot.agent.devices import Vendor, VendorError, check, cndev, dcmi
from aliquot.agent.devices.ascend import Ascend
from aliquot.agent.devices.cambricon import Cambricon

# What a word of an answer is: nothing, small numbers and counts, and the edges of what fits.
_WORDS = (0, 0, 1, 2, 7, 32, 64, 100, 101, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FC00000)


class Scribbler:
    """Answers every function by writing something into all that it is given, the same each time."""

    def __init__(self, ffi: Any, seed: int) -> None:
        """Scribble by ``seed``."""
        self._ffi = ffi
        self._seed = seed

    def _is_answer(self, value: Any) -> bool:
        if not isinstance(value, self._ffi.CData):
            return False
        kind = self._ffi.typeof(value)
        return kind.kind == "array" or (
            kind.kind == "pointer" and kind.item.kind in {"primitive", "struct", "union"}
        )

    def __call__(self, name: str, *arguments: Any) -> int:
        """Return the function's code."""
        answers = [one for one in arguments if self._is_answer(one)]
        told = [one for one in arguments if isinstance(one, int)]
        dice = random.Random(f"{self._seed} {name} {told}")  # noqa: S311 - the same each time
        if name == "cndevGetUUID" and dice.random() < 0.8:
            # What is none leaves the device out, and nothing else is looked at.
            text = b"%08x-0000-0000-0000-%012x" % (dice.choice(_WORDS), dice.choice(_WORDS))
            self._ffi.buffer(answers[0])[4 : 4 + len(text)] = text
            return 0
        if dice.random() < 0.1:
            return dice.choice((1, 2, 9, -8001, -8012, -8255, -99999))
        for answer in answers:
            if self._ffi.typeof(answer).cname == "void *":
                continue
            buffer = self._ffi.buffer(answer)
            if dice.random() < 0.3:
                # A text without an end, or what is none.
                buffer[:] = dice.choice((b"A", b"\n", b"\xff", b"/", b"%")) * len(buffer)
            else:
                whole = b"".join(
                    dice.choice(_WORDS).to_bytes(4, "little") for _ in range(len(buffer) // 4 + 1)
                )
                buffer[:] = whole[: len(buffer)]
        return 0


def scribbled_ascend(config: Config, seed: int, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    scribbler = Scribbler(dcmi.ffi, seed)

    def call(_: dcmi.Session, name: str, *arguments: Any) -> None:
        code = scribbler(name, *arguments)
        if code:
            raise dcmi.DcmiError(name, code)

    monkeypatch.setattr(dcmi.Session, "call", call)
    return Ascend(config)


def scribbled_cambricon(config: Config, seed: int, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    scribbler = Scribbler(cndev.ffi, seed)

    def number_of(_: cndev.Session, name: str, *arguments: Any) -> int:
        return scribbler(name, *arguments)

    monkeypatch.setattr(cndev.Session, "number_of", number_of)
    monkeypatch.setattr(cndev.Session, "string_of", lambda *_: "some words")
    return Cambricon(config)


VENDORS: dict[str, Callable[[Config, int, pytest.MonkeyPatch], Vendor]] = {
    "ascend": scribbled_ascend,
    "cambricon": scribbled_cambricon,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, sim_library: Path) -> Path:
    """The root of a driver with both vendors' libraries."""
    made = tmp_path_factory.mktemp("root")
    for place in ("usr/local/dcmi/libdcmi.so", "usr/lib64/libcndev.so"):
        (made / place).parent.mkdir(parents=True)
        (made / place).symlink_to(sim_library.with_name(Path(place).name))
    return made


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    """Where the agent is told to find them."""
    file = root / "config.toml"
    file.write_text(
        f'runtime_dir = "{root}/run"\n[ascend]\nroot = "{root}"\n[cambricon]\nroot = "{root}"\n'
    )
    return load(file)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", VENDORS)
def test_whatever_a_library_writes_is_told_as_the_protocol_says(
    config: Config, name: str, part: int
) -> None:
    devices = 0
    for seed in range(part * 25, part * 25 + 25):
        with pytest.MonkeyPatch.context() as patch:
            vendor = VENDORS[name](config, seed, patch)
            # (An error is an answer like any other here.)
            faults = [one for one in check.faults(vendor) if " raises VendorError: " not in one]
            with contextlib.suppress(VendorError):
                devices += len(vendor.enumerate())
            vendor.close()
        assert faults == [], f"seed {seed}"
    # Not all of it was refused.
    assert devices > 0
