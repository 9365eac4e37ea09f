"""The loader's cache: what ldconfig writes is read, what we write the real loader reads."""

from __future__ import annotations

import contextlib
import platform
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from aliquot.hooks import ldcache
from aliquot.hooks.errors import EditError
from aliquot.hooks.ldcache import Entry
from hypothesis import given, settings
from hypothesis import strategies as st

HOST_CACHE = Path("/etc/ld.so.cache")
LDCONFIG = shutil.which("ldconfig", path="/usr/sbin:/sbin")
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
# Where nothing looks by itself.
PLACE = "/somewhere/else"
CLIENT = """
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : 0;
    int (*number)(void) = library ? (int (*)(void))dlsym(library, "number") : 0;
    if (!number) {
        printf("%s\\n", dlerror());
        return 1;
    }
    printf("%d\\n", number());
    return 0;
}
"""


def printed(file: Path) -> list[tuple[bytes, bytes]]:
    """What ldconfig says is in a cache: names and paths, in its order."""
    assert LDCONFIG is not None, "no ldconfig"
    out = subprocess.run([LDCONFIG, "-p", "-C", file], check=True, capture_output=True).stdout
    rows = [line.strip() for line in out.splitlines() if b" => " in line]
    return [(row.split(b" (")[0], row.split(b" => ")[1]) for row in rows]


@pytest.fixture(scope="module")
def host() -> bytes:
    """The cache of the machine that the test is on."""
    if not HOST_CACHE.exists() or LDCONFIG is None:
        pytest.skip(f"this machine has no {HOST_CACHE} or no ldconfig")
    return HOST_CACHE.read_bytes()


def test_the_machines_own_cache_is_read_as_ldconfig_reads_it(host: bytes) -> None:
    entries = ldcache.read(host)
    assert len(entries) > 10
    assert [(entry.name, entry.path) for entry in entries] == printed(HOST_CACHE)
    assert (b"libc.so.6", ldcache.own_flags()) in {(e.name, e.flags) for e in entries}


def test_entries_in_any_order_are_written_in_ldconfigs(host: bytes, tmp_path: Path) -> None:
    entries = ldcache.read(host)
    shuffled = entries[:]
    random.Random(7).shuffle(shuffled)  # noqa: S311 - the same each time
    fresh = ldcache.write(shuffled)
    assert ldcache.read(fresh) == entries
    file = tmp_path / "cache"
    file.write_bytes(fresh)
    assert printed(file) == printed(HOST_CACHE)


def test_a_cache_behind_one_of_the_old_format_is_read(host: bytes) -> None:
    entries = ldcache.read(host)
    new = ldcache.write(entries)
    for count in (0, 1, 3):
        old = struct.pack("<12sI", b"ld.so-1.7.0\0", count) + bytes(12 * count)
        assert ldcache.read(old + bytes(-len(old) % 8) + new) == entries


# -- The real loader -------------------------------------------------------------------------------


class Root:
    """A root with the machine's loader and C library, and libraries that give a number."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "root"
        self.client = "/client"
        source = folder / "client.c"
        source.write_text(CLIENT)
        subprocess.run(["gcc", "-o", folder / "client", source, "-ldl"], check=True)
        needed = subprocess.run(
            ["ldd", folder / "client"], check=True, capture_output=True, text=True
        ).stdout.split()
        (self.path / "etc").mkdir(parents=True)
        for file in {word for word in needed if word.startswith("/")}:
            self._put(Path(file), file)
        self._put(folder / "client", self.client)
        self._folder = folder

    def _put(self, file: Path, path: str) -> None:
        place = self.path / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.resolve(), place)

    def library(self, path: str, number: int, *options: str) -> None:
        """Put a library there."""
        source = self._folder / "number.c"
        source.write_text(f"int number(void);\nint number(void) {{ return {number}; }}\n")
        built = self._folder / "number.so"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{Path(path).name}"]
        subprocess.run([*command, *options, "-o", built, source], check=True)
        self._put(built, path)

    def cache(self, data: bytes) -> None:
        """Give it a cache."""
        (self.path / "etc/ld.so.cache").write_bytes(data)

    def ldconfig(self, *options: str) -> bytes:
        """What the machine's ldconfig makes of the root, and of PLACE in it."""
        assert LDCONFIG is not None
        command = [LDCONFIG, "-X", *options, "-r", str(self.path), PLACE]
        subprocess.run(command, check=True, capture_output=True)
        return (self.path / "etc/ld.so.cache").read_bytes()

    def loads(self, name: str) -> str:
        """What a program in it is answered by a library."""
        done = subprocess.run(
            [CHROOT, self.path, self.client, name],
            check=False,
            env={},
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root of its own, for those who may change theirs."""
    if subprocess.run([CHROOT, "/", "true"], check=False, capture_output=True).returncode:
        pytest.skip("chroot is not allowed here")
    return Root(tmp_path)


def test_the_real_loader_finds_what_we_write(root: Root, host: bytes) -> None:
    root.library(f"{PLACE}/libfar.so.1", 11)
    assert "cannot open" in root.loads("libfar.so.1")
    entry = Entry(b"libfar.so.1", f"{PLACE}/libfar.so.1".encode(), ldcache.own_flags())
    # Among all that a real machine has, halving has to find it.
    root.cache(ldcache.write([*ldcache.read(host), entry]))
    assert root.loads("libfar.so.1") == "11"


def test_names_are_found_whatever_sorts_around_them(root: Root) -> None:
    names = ["liba.so.9", "liba.so.10", "liba.so", "libA.so.1", "lib-a.so.2", "liba1.so.3"]
    names += ["liba.so.1000.4", "liba10b.so", "lib\u00e4.so.1", "lib~.so.2", "liba.so.20240131001"]
    flags = ldcache.own_flags()
    for number, name in enumerate(names):
        root.library(f"{PLACE}/{name}", number)
    wanted = [Entry(n.encode(), f"{PLACE}/{n}".encode(), flags) for n in names]
    root.cache(ldcache.write(wanted))
    assert [root.loads(name) for name in names] == [str(i) for i in range(len(names))]
    # ldconfig, of the same names, has the same order.
    theirs = [entry.name for entry in ldcache.read(root.ldconfig()) if entry in wanted]
    assert theirs == [entry.name for entry in ldcache.read(ldcache.write(wanted))]
    assert len(theirs) == len(names)


def test_variants_for_hardware_stay_what_they_were(root: Root) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the C library knows variants of hardware on x86-64")
    root.library(f"{PLACE}/libv.so.1", 1)
    root.library(f"{PLACE}/glibc-hwcaps/x86-64-v2/libv.so.1", 2)
    before = root.ldconfig()
    expected = root.loads("libv.so.1")
    entries = ldcache.read(before)
    assert {e.variant for e in entries if e.name == b"libv.so.1"} == {b"", b"x86-64-v2"}
    added = Entry(b"libw.so.1", f"{PLACE}/libv.so.1".encode(), ldcache.own_flags())
    root.cache(ldcache.write([added, *reversed(entries)]))
    assert root.loads("libv.so.1") == expected
    assert root.loads("libw.so.1") == "1"


def test_a_variant_keeps_the_level_of_its_instructions(root: Root) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the C library knows levels of instructions on x86-64")
    level = "-Wl,-z,x86-64-v2"
    root.library(f"{PLACE}/libv.so.1", 1)
    root.library(f"{PLACE}/glibc-hwcaps/x86-64-v2/libv.so.1", 2, level)
    root.library(f"{PLACE}/glibc-hwcaps/x86-64-v3/libu.so.1", 3)
    before = root.ldconfig()
    expected = root.loads("libv.so.1")
    entries = ldcache.read(before)
    levels = {e.variant: e.hwcap for e in entries if e.name == b"libv.so.1"}
    assert levels[b""] == 0
    assert levels[b"x86-64-v2"] >> 32 > 0, "the linker said no level"
    # With other variants than before, a variant has another number.
    fewer = [entry for entry in entries if entry.name != b"libu.so.1"]
    written = ldcache.write([Entry(b"libt.so", b"/t", ldcache.own_flags(), 0, b"x86-64-a"), *fewer])
    assert set(fewer) < set(ldcache.read(written))
    root.cache(written)
    assert root.loads("libv.so.1") == expected


def test_variants_behind_the_old_format_are_read(root: Root) -> None:
    root.library(f"{PLACE}/libv.so.1", 1)
    for variant in ("x86-64-v2", "atomics"):
        root.library(f"{PLACE}/glibc-hwcaps/{variant}/libv.so.1", 2)
    new, both, old = (root.ldconfig("-c", kind) for kind in ("new", "compat", "old"))
    assert both.startswith(b"ld.so-1.7.0")
    assert ldcache.read(both) == ldcache.read(new)
    found = {entry.variant for entry in ldcache.read(both) if entry.name == b"libv.so.1"}
    assert found >= {b"", b"x86-64-v2" if platform.machine() == "x86_64" else b"atomics"}
    with pytest.raises(EditError, match="format"):
        ldcache.read(old)


# -- Hostile ones ----------------------------------------------------------------------------------

_TEXT = st.binary(max_size=24).map(lambda raw: raw.replace(b"\0", b""))
_ENTRIES = st.builds(
    Entry,
    name=_TEXT,
    path=_TEXT,
    flags=st.integers(-(1 << 31), (1 << 31) - 1),
    variant=st.sampled_from([b"", b"x86-64-v2", b"x86-64-v3", b"power9"]),
) | st.builds(
    Entry,
    name=_TEXT,
    path=_TEXT,
    flags=st.just(0x303),
    # Masks of older systems, which have the bit of a variant's number among others.
    hwcap=st.sampled_from([1, 1 << 61, 1 << 63, 3 << 62, (3 << 62) + 1]),
)


@given(st.lists(_ENTRIES, max_size=20))
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    data = ldcache.write(entries)
    back = ldcache.read(data)
    assert len(back) == len(set(entries))
    assert set(back) == set(entries)
    assert ldcache.write(back) == data


@given(st.binary(max_size=400))
def test_bytes_that_are_no_cache_are_refused(data: bytes) -> None:
    with pytest.raises(EditError):
        ldcache.read(data)


@settings(max_examples=300)
@given(st.lists(_ENTRIES, min_size=1, max_size=6), st.data())
def test_a_damaged_cache_is_read_or_refused(entries: list[Entry], data: st.DataObject) -> None:
    whole = bytearray(ldcache.write(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 4))
        word = data.draw(st.sampled_from([0, 1, 0x40000000, 0x7FFFFFFF, 0xFFFFFFFF]))
        whole[at : at + 4] = struct.pack("<I", word)
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for damaged in (bytes(whole), cut):
        with contextlib.suppress(EditError):
            ldcache.write(ldcache.read(damaged))


def head(count: int, text: int) -> bytes:
    """The beginning of a cache of so many libraries."""
    return struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", count, text, 2, 0)


def test_a_cache_that_stands_for_more_text_than_it_has_is_refused() -> None:
    # Each name begins one byte later in the same text.
    count = 16384
    start = 48 + 24 * count
    rows = [struct.pack("<iIIIQ", 0x303, start + i, start + i, 0, 0) for i in range(count)]
    # (A name ends every 4,095 bytes.)
    text = (b"a" * 4095 + b"\0") * 5
    with pytest.raises(EditError, match="too much text"):
        ldcache.read(head(count, len(text)) + b"".join(rows) + text)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (head(1 << 31, 0), "too many"),
        (head(40000, 0), "too many"),
        (head(3, 0), "cut off"),
        (head(1, 0) + struct.pack("<iIIIQ", 3, 4 << 20, 0, 0, 0), "without an end"),
        (head(1, 9000) + struct.pack("<iIIIQ", 3, 72, 72, 0, 0) + b"a" * 9000, "without an end"),
        (head(1, 2) + struct.pack("<iIIIQ", 3, 72, 72, 0, 1 << 62) + b"a\0", "damaged"),
        (struct.pack("<12sI", b"ld.so-1.7.0\0", 0xFFFFFFFF), "format"),
        (b"", "format"),
        (head(0, 0).replace(b"\x02\0\0\0", b"\x03\0\0\0", 1), "order of bytes"),
    ],
)
def test_what_is_wrong_with_a_cache_is_said(data: bytes, why: str) -> None:
    with pytest.raises(EditError, match=why):
        ldcache.read(data)
