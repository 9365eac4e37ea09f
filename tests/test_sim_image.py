"""The simulator reads module images: right what is well made, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fatbin import (
    FLAG_FAMILY,
    FLAG_SPECIFIC,
    FLAG_ZSTD,
    FLAGS_PLAIN,
    KIND_CUBIN,
    KIND_PTX,
    Entry,
    fatbin,
    lz4_block,
    lz4_entry,
    new_layout,
    zstd_frame,
)

ROOT = Path(__file__).resolve().parent.parent

INVALID_IMAGE = 200
NO_BINARY_FOR_GPU = 209
INVALID_PTX = 218
UNSUPPORTED_PTX_VERSION = 222
JIT_COMPILATION_DISABLED = 223

GLOBAL, CONST, MANAGED, TEXREF, SURFREF, SAMPLER = range(6)

PTX = """//
// as a compiler writes it, and as people do
//
.version 7.0
.target sm_75, texmode_independent
.address_size 64

.file   1 "/a/b.cu", 1700000000, 77
.global .align 4 .u32 counter = 7;
.global .align 8 .b8 table[800];
.visible .global .align 4 .f32 reals[4] = {1.0, 0f40000000, -3.5e0};
.visible .global .align 2 .u16 grid[2][3] = {{1, 2, 3}, {0x4, 05, 0b110}};
.global .attribute(.managed) .align 4 .u32 man = 5;
.visible .const .align 8 .u64 limit = 17U;
.const .align 4 .b8 coef[] = {0, 0, 128, 63};
.global .align 8 .u64 where = table;
.global .texref tex;
.global .surfref surf;
.global .samplerref sam = {addr_mode_0 = wrap, filter_mode = nearest};
.extern .shared .align 16 .b8 dyn[];
.shared .align 4 .b8 pool[40];
.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b) ;
.extern .func helper (.param .b32 a) ;
.visible .func (.param .b32 r) twice(.param .b32 a) {
    .reg .b32 %x; ld.param.b32 %x, [a]; st.param.b32 [r], %x; ret;
}

.visible .entry empty()
{
    ret;
}
.visible .entry mixed(
    .param .u32 mixed_0,
    .param .u64 .ptr .global .align 16 mixed_1,
    .param .u8 mixed_2,
    .param .align 8 .b8 mixed_3[32], /* a struct */
    .param .align 16 .b8 mixed_4[16],
    .param .u16 mixed_5,
    .param .f32 mixed_6[3]
)
.maxntid 256, 1, 1
.minnctapersm 2
.pragma "nounroll";
{
    .reg .b32 %r<13>;
    .shared .align 4 .b8 own[256];
    .local .align 8 .b8 depot[48];
    ld.param.u32 %r1, [mixed_0];
    st.shared.u32 [own], %r1;
    { // an inner block
        .shared .u32 inner;
        mov.u32 %r2, pool;
        mov.u32 %r3, pool;
    }
$L: bra $L;
    call.uni helper, (%r1);
}
.visible .entry fixed(.param .u64 p) .reqntid 64, 2 .maxnreg 24 { ret; }
.weak .entry aliquot_spin_ns(.param .u64 ns) { ret; }
.entry cluster(.param .v4 .f32 v) .reqnctapercluster 2, 2 .explicitcluster { ret; }
.section .debug_str { .b8 1, 2 }
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """The parser, built with address and undefined-behaviour sanitizers, as a program."""

    program: Path
    folder: Path

    def run(self, verb: str, data: bytes, cc: int, *more: str, **env: str) -> Any:
        """What the probe prints for a verb; a sanitizer's complaint fails the test."""
        path = self.folder / "image"
        path.write_bytes(data)
        run = subprocess.run(
            [self.program, verb, str(cc), path, *more],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **env},
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout) if run.stdout else None

    def read(self, data: bytes, cc: int = 75, **env: str) -> Any:
        """The image as the parser sees it."""
        return self.run("dump", data, cc, **env)

    def error(self, data: bytes, cc: int = 75, **env: str) -> int:
        """The error code of an image that must be refused with a reason."""
        answer = self.read(data, cc, **env)
        assert answer["why"]
        return int(answer["error"])

    def cubin(self, data: bytes, cc: int) -> bytes:
        """The image as a cubin, by the simulator's own writer."""
        out = self.folder / "cubin"
        self.run("rewrite", data, cc, str(out))
        return out.read_bytes()


@pytest.fixture(scope="session")
def probe_program(
    tmp_path_factory: pytest.TempPathFactory, header_folder: Callable[[str], Path]
) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("probe") / "image_probe"
    subprocess.run(
        [
            compiler,
            *("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *("-D_GNU_SOURCE", "-D__CUDA_API_VERSION_INTERNAL"),
            *("-I", ROOT / "csrc", "-isystem", header_folder("13.5")),
            ROOT / "tests/image_probe.c",
            *sorted((ROOT / "csrc/sim").glob("image*.c")),
            *("-o", program),
        ],
        check=True,
    )
    return program


@pytest.fixture
def probe(probe_program: Path, tmp_path: Path) -> Probe:
    return Probe(probe_program, tmp_path)


def tool(name: str) -> Path | None:
    """A program of NVIDIA's compiler wheels, or of an installed toolkit."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for pattern in (f"cu1?/bin/{name}", f"cuda_nvcc/bin/{name}"):
            for path in Path(folder).glob(pattern):
                return path
    found = shutil.which(name, path="/usr/local/cuda/bin")
    return Path(found) if found else None


def need_tool(name: str) -> Path:
    path = tool(name)
    if path is None:
        pytest.skip(f"{name} is not installed (PyPI: nvidia-cuda-nvcc)")
    return path


def functions(image: Any) -> dict[str, Any]:
    return {function["name"]: function for function in image["functions"]}


def symbols(image: Any) -> dict[str, Any]:
    return {symbol["name"]: symbol for symbol in image["symbols"]}


# -- PTX ------------------------------------------------------------------------------------------


def test_ptx_gives_entries_with_their_parameter_layout(probe: Probe) -> None:
    image = probe.read(PTX.encode())
    found = functions(image)
    assert list(found) == ["empty", "mixed", "fixed", "aliquot_spin_ns", "cluster"]
    assert found["empty"]["params"] == []
    assert found["mixed"]["params"] == [
        *([0, 4], [8, 8], [16, 1], [24, 32], [64, 16], [80, 2], [84, 12]),
    ]
    assert found["mixed"]["param_bytes"] == 96
    assert found["cluster"]["params"] == [[0, 16]]
    assert image["kind"] == "ptx"
    assert image["bytes"] == len(PTX)


def test_ptx_gives_limits_and_static_memory(probe: Probe) -> None:
    found = functions(probe.read(PTX.encode()))
    mixed = found["mixed"]
    assert mixed["max_threads"] == 256
    assert mixed["shared"] == 256 + 4 + 40
    assert mixed["local"] == 48
    assert mixed["const"] == 12
    assert mixed["ptx"] == mixed["binary"] == 75
    assert found["fixed"]["block"] == [64, 2, 1]
    assert found["fixed"]["max_threads"] == 128
    assert found["fixed"]["registers"] == 24
    assert found["fixed"]["shared"] == 0
    assert found["cluster"]["cluster"] == [2, 2, 1]
    assert found["cluster"]["explicit"]
    assert [found[name]["strong"] for name in ("fixed", "aliquot_spin_ns", "cluster")] == [
        *(True, False, False),
    ]


def test_ptx_gives_variables_with_initial_values(probe: Probe) -> None:
    image = probe.read(PTX.encode())
    found = symbols(image)
    assert {name: symbol["kind"] for name, symbol in found.items()} == {
        **dict.fromkeys(("counter", "table", "reals", "grid", "where"), GLOBAL),
        **dict.fromkeys(("limit", "coef"), CONST),
        "man": MANAGED,
        "tex": TEXREF,
        "surf": SURFREF,
        "sam": SAMPLER,
    }
    assert {name: symbol["size"] for name, symbol in found.items() if symbol["size"]} == {
        "counter": 4,
        "table": 800,
        "reals": 16,
        "grid": 12,
        "where": 8,
        "limit": 8,
        "coef": 4,
        "man": 4,
    }

    def value(name: str, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, bytes.fromhex(found[name]["bytes"]))

    assert value("counter", "<I") == (7,)
    assert value("reals", "<4f") == (1.0, 2.0, -3.5, 0.0)
    assert value("grid", "<6H") == (1, 2, 3, 4, 5, 6)
    assert value("limit", "<Q") == (17,)
    assert value("coef", "<f") == (1.0,)
    assert value("man", "<I") == (5,)
    assert value("where", "<Q") == (0,)
    places = sorted((s["offset"], s["offset"] + s["size"]) for s in found.values() if s["size"])
    assert all(places[i][1] <= places[i + 1][0] for i in range(len(places) - 1))
    assert image["data_bytes"] >= places[-1][1]


def test_ptx_says_what_it_defines_and_needs_from_others(probe: Probe) -> None:
    image = probe.read(PTX.encode())
    assert image["defines"] == ["twice"]
    assert image["needs"] == ["helper"]


@pytest.mark.parametrize(
    ("change", "to", "error"),
    [
        (".version 7.0", ".version 9.9", UNSUPPORTED_PTX_VERSION),
        (".version 7.0", ".version seven", INVALID_PTX),
        (".target sm_75, texmode_independent", ".target sm_80", INVALID_PTX),
        (".target sm_75, texmode_independent", ".target sm_70a", INVALID_PTX),
        (".target sm_75, texmode_independent", ".target sm_75 sm_80", INVALID_PTX),
        (".address_size 64", ".address_size 32", INVALID_PTX),
        (".param .u64 p)", ".param .u64 p", INVALID_PTX),
        (".param .u64 p)", ".param p)", INVALID_PTX),
        (".param .u64 p)", ".param .align 3 .u64 p)", INVALID_PTX),
        (".param .u64 p)", ".param .b8 p[33000])", INVALID_PTX),
        (".param .u64 p)", ".param .b8 p[99999999999999999999])", INVALID_PTX),
        ("$L: bra $L;", "$L: bra $L; }", INVALID_PTX),
        ("{ // an inner block", "", INVALID_PTX),
        ("counter = 7", "counter[2] = {1, 2, 3}", INVALID_PTX),
        (".global .align 8 .b8 table[800]", ".global .b64 table[9999999999999999]", INVALID_PTX),
        (".weak .entry aliquot_spin_ns", ".visible .entry empty", INVALID_PTX),
        (".visible .entry empty()", "what is this", INVALID_PTX),
        ('"/a/b.cu"', '"/a/b.cu', INVALID_PTX),
        ("/* a struct */", "/* a struct", INVALID_PTX),
    ],
)
def test_wrong_ptx_is_refused(probe: Probe, change: str, to: str, error: int) -> None:
    assert change in PTX
    assert probe.error(PTX.replace(change, to, 1).encode()) == error


def test_ptx_runs_on_newer_devices_and_specific_ptx_only_on_its_own(probe: Probe) -> None:
    specific = PTX.replace("sm_75", "sm_90a")
    family = PTX.replace("sm_75", "sm_100f")
    assert "error" not in probe.read(PTX.encode(), 121)
    assert "error" not in probe.read(specific.encode(), 90)
    assert probe.error(specific.encode(), 100) == INVALID_PTX
    assert "error" not in probe.read(family.encode(), 103)
    assert probe.error(family.encode(), 120) == INVALID_PTX


def test_ptx_can_be_switched_off(probe: Probe) -> None:
    error = probe.error(PTX.encode(), CUDA_DISABLE_PTX_JIT="1")
    assert error == JIT_COMPILATION_DISABLED


def test_what_is_no_image_is_refused(probe: Probe) -> None:
    junk = (b"", b"x", b"\x7f", b"\x7fELF", b"\x50\xed\x55", b"hello, world\n", bytes(4096))
    for data in junk:
        assert probe.error(data) == INVALID_IMAGE


# -- Cubins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_written_cubin_reads_back_the_same(probe: Probe, layout: str) -> None:
    cubin = probe.cubin(PTX.encode(), 75)
    if layout == "new":
        cubin = new_layout(cubin)
    text, code = probe.read(PTX.encode()), probe.read(cubin)
    assert code["kind"] == "cubin"
    assert functions(code) == functions(text)

    def values(image: Any) -> dict[str, Any]:
        return {
            name: (symbol["kind"], symbol["size"], symbol["bytes"])
            for name, symbol in symbols(image).items()
        }

    assert values(code) == values(text)


@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_cubin_runs_on_its_own_generation_only(probe: Probe, layout: str) -> None:
    text = PTX.replace("sm_75", "sm_80").encode()
    cubin = probe.cubin(text, 80)
    if layout == "new":
        cubin = new_layout(cubin)
    assert "error" not in probe.read(cubin, 80)
    assert "error" not in probe.read(cubin, 86)
    for other in (75, 90, 100):
        assert probe.error(cubin, other) == NO_BINARY_FOR_GPU


def test_a_cubin_for_one_architecture_runs_on_no_other(probe: Probe) -> None:
    cubin = new_layout(probe.cubin(PTX.replace("sm_75", "sm_80").encode(), 80), specific=True)
    assert "error" not in probe.read(cubin, 80)
    assert probe.error(cubin, 86) == NO_BINARY_FOR_GPU


def test_a_cubin_that_is_not_linked_is_for_linkers_only(probe: Probe) -> None:
    cubin = bytearray(probe.cubin(PTX.encode(), 75))
    struct.pack_into("<H", cubin, 16, 1)
    assert probe.error(bytes(cubin)) == INVALID_IMAGE
    assert "error" not in probe.read(bytes(cubin), PROBE_RELOCATABLE="1")


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_90a", "sm_100", "sm_100f"])
def test_what_ptxas_makes_of_ptx_reads_like_the_ptx(probe: Probe, arch: str) -> None:
    ptxas = need_tool("ptxas")
    source = """.version 8.8
.target ARCH
.address_size 64
.visible .global .align 4 .u32 counter = 7;
.global .align 8 .b8 table[800];
.const .align 4 .b8 coef[16] = {0, 0, 128, 63};
.global .attribute(.managed) .align 4 .u32 man = 5;
.visible .entry mixed(.param .u32 a, .param .u64 p, .param .u8 c, .param .align 8 .b8 s[32],
                      .param .align 16 .b8 v[16], .param .u16 h) .maxntid 256, 1, 1 {
    .reg .b32 %r<9>; .reg .b64 %d<9>; .shared .align 4 .b8 own[256];
    ld.param.u32 %r1, [a]; ld.param.u64 %d1, [p]; ld.param.u8 %r2, [c];
    ld.param.u32 %r3, [s+8]; ld.param.u32 %r4, [v]; ld.param.u16 %r5, [h];
    st.shared.u32 [own], %r1; bar.sync 0; ld.shared.u32 %r6, [own+4];
    add.u32 %r6, %r6, %r2; add.u32 %r6, %r6, %r3; add.u32 %r6, %r6, %r4; add.u32 %r6, %r6, %r5;
    ld.const.u32 %r7, [coef]; add.u32 %r6, %r6, %r7;
    st.global.u32 [%d1], %r6; st.global.u32 [counter], %r6; st.global.u32 [table], %r6;
    st.global.u32 [man], %r6; ret;
}
.visible .entry large(.param .b8 big[BIG], .param .u64 p) .reqntid 32, 2, 1 {
    .reg .b64 %d<4>; ld.param.u64 %d1, [p]; ld.param.u64 %d2, [big+160];
    st.global.u64 [%d1], %d2; ret;
}
"""
    cc = int(arch[3:].rstrip("af"))
    # Kernels from sm_70 on may have long parameters.
    source = source.replace("ARCH", arch).replace("BIG", "20000")
    (probe.folder / "in.ptx").write_text(source)
    out = probe.folder / "out.cubin"
    run = subprocess.run(
        [ptxas, "-arch", arch, probe.folder / "in.ptx", "-o", out],
        check=False,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        pytest.skip(f"this ptxas does not make {arch}: {run.stderr.splitlines()[0]}")
    text, code = probe.read(source.encode(), cc), probe.read(out.read_bytes(), cc)
    for name, from_text in functions(text).items():
        from_code = functions(code)[name]
        for key in ("params", "param_bytes", "max_threads", "block", "shared", "const", "strong"):
            assert from_code[key] == from_text[key], (name, key)
        assert 0 < from_code["registers"] <= 255
    for name, from_text in symbols(text).items():
        from_code = symbols(code)[name]
        assert (from_code["kind"], from_code["size"]) == (from_text["kind"], from_text["size"])
        assert from_code["bytes"] == from_text["bytes"]
    other = cc + 1 if arch.endswith("a") else cc + 10
    assert probe.error(out.read_bytes(), other) == NO_BINARY_FOR_GPU


# -- Fatbins --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an entry of a fatbin can be told by: the name of its only kernel."""

    probe: Probe

    def ptx(self, name: str, arch: int, suffix: str = "") -> bytes:
        """PTX for an architecture."""
        return (
            f".version 7.0\n.target sm_{arch}{suffix}\n.address_size 64\n"
            f".visible .entry {name}(.param .u64 p) {{ ret; }}\n"
        ).encode()

    def entries(self) -> list[Entry]:
        """Code for four architectures and PTX for two."""
        made = []
        for arch in (75, 80, 86, 90):
            code = self.probe.cubin(self.ptx(f"code{arch}", arch), arch)
            made.append(Entry(KIND_CUBIN, arch, code))
        made.append(Entry(KIND_PTX, 80, self.ptx("text80", 80)))
        made.append(Entry(KIND_PTX, 75, self.ptx("text75", 75)))
        return made

    def name(self, image: bytes, cc: int, **env: str) -> Any:
        """The name of the kernel of the entry that a device takes, or the error."""
        answer = self.probe.read(image, cc, **env)
        return answer["functions"][0]["name"] if "functions" in answer else answer["error"]


@pytest.mark.parametrize(
    ("cc", "name"),
    [
        (75, "code75"),
        (80, "code80"),
        (86, "code86"),
        (89, "code86"),
        (90, "code90"),
        (100, "text80"),
        (70, NO_BINARY_FOR_GPU),
    ],
)
@pytest.mark.parametrize("packed", ["plain", "lz4"])
def test_the_best_entry_of_a_fatbin_is_taken(
    probe: Probe, cc: int, name: str | int, packed: str
) -> None:
    chosen = Chosen(probe)
    entries = chosen.entries()
    if packed == "lz4":
        entries = [lz4_entry(entry) for entry in entries]
    assert chosen.name(fatbin(*entries), cc) == name
    assert chosen.name(fatbin(*reversed(entries)), cc) == name


def test_the_environment_chooses_between_code_and_ptx(probe: Probe) -> None:
    chosen = Chosen(probe)
    image = fatbin(*chosen.entries())
    assert chosen.name(image, 86, CUDA_FORCE_PTX_JIT="1") == "text80"
    assert chosen.name(image, 100, CUDA_DISABLE_PTX_JIT="1") == JIT_COMPILATION_DISABLED


def test_specific_and_family_entries_run_where_they_may(probe: Probe) -> None:
    chosen = Chosen(probe)
    image = fatbin(
        Entry(KIND_PTX, 90, chosen.ptx("plain", 90)),
        Entry(KIND_PTX, 90, chosen.ptx("specific", 90, "a"), FLAGS_PLAIN | FLAG_SPECIFIC),
        Entry(KIND_PTX, 100, chosen.ptx("family", 100, "f"), FLAGS_PLAIN | FLAG_FAMILY),
    )
    assert chosen.name(image, 90) == "specific"
    assert chosen.name(image, 100) == "family"
    assert chosen.name(image, 103) == "family"
    assert chosen.name(image, 120) == "plain"


def test_zstd_entries_are_decoded_by_the_systems_library(probe: Probe) -> None:
    text = Chosen(probe).ptx("packed", 75) + b"// " + b"x" * 5000 + b"\n"
    frame = zstd_frame(text)
    if frame is None:
        pytest.skip("libzstd.so.1 is not installed")
    image = fatbin(Entry(KIND_PTX, 75, frame, FLAGS_PLAIN | FLAG_ZSTD, len(text)))
    assert Chosen(probe).name(image, 75) == "packed"
    for length in (len(text) - 1, len(text) + 1):
        wrong = fatbin(Entry(KIND_PTX, 75, frame, FLAGS_PLAIN | FLAG_ZSTD, length))
        assert probe.error(wrong) == INVALID_IMAGE


def test_a_length_that_no_compression_reaches_is_refused(probe: Probe) -> None:
    packed = lz4_block(b"x" * 1000)
    image = fatbin(Entry(KIND_PTX, 75, packed, FLAGS_PLAIN | 0x2000, 1 << 40))
    assert probe.error(image) == INVALID_IMAGE


@pytest.mark.parametrize("mode", ["none", "speed", "default", "size"])
def test_what_fatbinary_packs_is_read(probe: Probe, mode: str) -> None:
    fatbinary = need_tool("fatbinary")
    if mode in {"default", "size"} and zstd_frame(b"x") is None:
        pytest.skip("libzstd.so.1 is not installed")
    chosen = Chosen(probe)
    images = []
    for arch in (75, 90):
        path = probe.folder / f"{arch}.ptx"
        path.write_bytes(chosen.ptx(f"text{arch}", arch))
        images.append(f"--image3=kind=ptx,sm={arch},file={path}")
    out = probe.folder / "out.fatbin"
    run = subprocess.run(
        [
            fatbinary,
            *(f"--create={out}", "--64", f"--compress-mode={mode}", "--compress-all"),
            *images,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        pytest.skip(f"this fatbinary does not know the mode {mode}")
    assert chosen.name(out.read_bytes(), 80) == "text75"
    assert chosen.name(out.read_bytes(), 120) == "text90"


# -- Hostile input --------------------------------------------------------------------------------


def hostile_images(probe: Probe) -> dict[str, bytes]:
    cubin = probe.cubin(PTX.encode(), 75)
    return {
        "ptx": PTX.encode(),
        "cubin": cubin,
        "cubin of the new layout": new_layout(cubin),
        "fatbin": fatbin(Entry(KIND_CUBIN, 75, cubin), Entry(KIND_PTX, 75, PTX.encode())),
        "packed fatbin": fatbin(
            lz4_entry(Entry(KIND_CUBIN, 75, cubin)), lz4_entry(Entry(KIND_PTX, 70, PTX.encode()))
        ),
    }


def test_an_image_cut_at_any_byte_is_refused(probe: Probe) -> None:
    for kind, image in hostile_images(probe).items():
        answer = probe.run("truncate", image, 75)
        assert answer["tried"] == len(image) + 1
        # Text may end between two definitions; the others know their length.
        if kind != "ptx":
            assert answer["good"] == 1, kind


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_never_lead_outside_of_an_image(probe: Probe, seed: int) -> None:
    for image in hostile_images(probe).values():
        answer = probe.run("mutate", image, 75, str(seed), "4000")
        assert answer["tried"] == 4000


@pytest.mark.soak
def test_changed_bytes_never_lead_outside_of_an_image_for_long(
    probe: Probe, soak_seconds: float
) -> None:
    end = time.monotonic() + soak_seconds
    tried = 0
    while time.monotonic() < end:
        for image in hostile_images(probe).values():
            seed = random.SystemRandom().randrange(1 << 30)
            tried += probe.run("mutate", image, 75, str(seed), "20000")["tried"]
    print(f"mutated images: {tried}")
