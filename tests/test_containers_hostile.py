"""Images that were made to get at the node, or round the cap, in real containers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aliquot.agent.demo_node import lay_out

from cri import CriError, need_containerd
from site_under_test import GIB, OUT_OF_MEMORY, Site, running

LIB = "usr/lib/x86_64-linux-gnu"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    need_containerd()
    with running() as site:
        yield site


@pytest.fixture
def victim(site: Site) -> Iterator[Path]:
    """A folder of the host that images point at; nothing in it may change."""
    folder = site.folder / "victim"
    folder.mkdir()
    (folder / "file").write_text("as it was")
    before = _picture(folder)
    yield folder
    after = _picture(folder)
    shutil.rmtree(folder)
    assert after == before


def _picture(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_ino, content)
    return found


def _place(root: Path, path: str) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _link(path: str, target: str) -> Callable[[Path, Path], None]:
    def make(root: Path, victim: Path) -> None:
        _place(root, path).symlink_to(target.format(victim=victim))

    return make


def _fifo(path: str) -> Callable[[Path, Path], None]:
    return lambda root, _: os.mkfifo(_place(root, path))


def _folder(path: str) -> Callable[[Path, Path], None]:
    return lambda root, _: (_place(root, path) / "full").mkdir(parents=True)


def _library_folder_is_a_link(root: Path, victim: Path) -> None:
    # The image's own libraries stay reachable, so that its programs run.
    shutil.move(root / LIB, root / "real")
    (root / LIB).symlink_to(os.path.relpath("/real", "/usr/lib"))
    del victim


TRICKS: dict[str, Callable[[Path, Path], None]] = {
    "the driver leads to a file of the host": _link(f"{LIB}/libcuda.so.1", "{victim}/file"),
    "the driver leads out of the root": _link(
        f"{LIB}/libcuda.so.1", "../../../../../../../..{victim}/file"
    ),
    "the driver leads to itself": _link(f"{LIB}/libcuda.so.1", "libcuda.so.1"),
    "the driver leads into proc": _link(f"{LIB}/libcuda.so.1", "/proc/self/root/etc/passwd"),
    "the driver leads to a device": _link(f"{LIB}/libcuda.so", "/dev/zero"),
    "the driver is a fifo": _fifo(f"{LIB}/libcuda.so.1"),
    "the driver is a folder": _folder(f"{LIB}/libcuda.so.1"),
    "our folder leads to the host": _link(f"{LIB}/.aliquot", "{victim}"),
    "our folder leads to proc": _link(f"{LIB}/.aliquot", "/proc/self"),
    "our folder is a fifo": _fifo(f"{LIB}/.aliquot"),
    "our folder is full": _folder(f"{LIB}/.aliquot/grant"),
    "the region's folder leads to the host": _link("run/aliquot", "{victim}"),
    "the region's folder leads to proc": _link("run/aliquot", "/proc/1/root/tmp"),
    "the region's folder leads to sys": _link("run/aliquot", "/sys/fs/cgroup"),
    "the loader's cache leads to proc": _link("etc/ld.so.cache.d", "/proc/self/environ"),
    "our program leads to the host": _link("usr/bin/aliquot-stat", "{victim}/file"),
    "our program is a folder": _folder("usr/bin/aliquot-stat"),
    "a compat folder is the host's": _link("usr/local/cuda-12/compat", "{victim}"),
    "a compat folder is proc's": _link("usr/local/cuda-12/compat", "/proc/1/root/usr/lib"),
    "a compat folder is dev": _link("usr/local/cuda-12/compat", "/dev"),
    "the library folder is a link": _library_folder_is_a_link,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_hostile_image_hurts_nobody_and_is_capped_or_refused(
    site: Site, victim: Path, trick: str
) -> None:
    number = list(TRICKS).index(trick)
    root = lay_out(site.folder / f"hostile{number}", {"/usr/bin/hold": site.hold})
    TRICKS[trick](root, victim)
    image = f"docker.io/local/hostile{number}:1"
    site.load(root, image)
    shutil.rmtree(root)
    mounts = Path("/proc/self/mountinfo").read_text().count("\n")
    wish = site.wish("hostile", image=image, environment={"ALIQUOT_MEMORY": "2GiB"})
    try:
        with site.cri.pod(wish) as pod:
            ran = pod.run("/usr/bin/hold", "fill")
            if ran.status == 0:
                assert f"total={2 * GIB}" in ran.out
                assert f"refused={OUT_OF_MEMORY}" in ran.out
            assert max(site.counted("hostile").max_used_bytes) <= 2 * GIB
    except CriError as error:
        # One line that says what was not to be had.
        assert "aliquot" in str(error)  # noqa: PT017 - starting is right, too
    site.until(lambda: site.slices() == {}, "an empty ledger")
    site.until(
        lambda: Path("/proc/self/mountinfo").read_text().count("\n") <= mounts, "its mounts gone"
    )
