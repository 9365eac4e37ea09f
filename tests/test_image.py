"""Looking into an image: nothing outside of it is seen, nothing is waited for."""

from __future__ import annotations

import os
import platform
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from aliquot.hooks import image, ldcache
from aliquot.hooks.errors import EditError

from edit_parts import open_files

MULTIARCH = f"{platform.machine()}-linux-gnu"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root, with something outside that must not be seen."""
    (tmp_path / "outside").write_text("of the host")
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def link(root: Path, path: str, target: str) -> None:
    place = root / path.removeprefix("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def put(root: Path, path: str, content: bytes = b"") -> None:
    place = root / path.removeprefix("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


# -- Staying inside --------------------------------------------------------------------------------


def test_links_stay_inside_whatever_they_say(root: Path) -> None:
    outside = root.parent / "outside"
    link(root, "/by/name", str(outside))
    link(root, "/by/steps", "../../../../../../../../../.." + str(outside))
    link(root, "/etc", "/")
    link(root, "/up", "..")
    with image.Root(root) as opened:
        for path in ("/by/name", "/by/steps", "/up/outside", "../outside", "/../../outside"):
            assert opened.read(path, 99) is None, path
        put(root, str(outside), b"of the image")
        assert opened.read("/by/name", 99) == b"of the image"
        assert opened.read("/by/steps", 99) == b"of the image"
        put(root, "/inner", b"inner")
        assert opened.read("/etc/inner", 99) == b"inner"
        assert opened.read("/up/up/../up/inner", 99) == b"inner"


def test_links_of_proc_are_refused(root: Path) -> None:
    (root / "proc").mkdir()
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from aliquot.hooks import image\n"
        "with image.Root(Path(sys.argv[1])) as root:\n"
        "    print([root.read(path, 99) for path in sys.argv[2:]])\n"
        "    print(root.names('/proc/self/root/etc'), root.is_folder('/proc/self/cwd'))\n"
        "    print((root.read('/proc/version', 999) or b'')[:5])\n"
    )
    script = 'mount -t proc proc "$1/proc" && exec "$0" -c "$2" "$1" "$3" "$4"'
    paths = ["/proc/self/exe", f"/proc/self/root{root.parent}/outside"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, root, code, *paths],
        check=False,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["[None, None]", "[] False", "b'Linux'"], done.stderr


def test_circles_and_long_names_are_no_files(root: Path) -> None:
    link(root, "/a", "/b")
    link(root, "/b", "/a")
    with image.Root(root) as opened:
        for path in ("/a", "/" + "x" * 300, "/" + "x/" * 3000, "/nothing/there", "/nul\0byte"):
            assert opened.read(path, 9) is None
            assert opened.names(path) == []
            assert not opened.is_folder(path)
            assert not opened.is_file(path)


# -- What is opened --------------------------------------------------------------------------------


def test_only_files_are_read(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        with image.Root(root) as opened:
            for name in ("fifo", "folder", "socket"):
                assert opened.read(name, 9) is None
                assert not opened.is_file(name)
            assert opened.names("fifo") == []


def test_a_device_of_an_image_is_never_opened(root: Path) -> None:
    # A number that no driver has: opening the file would say so.
    try:
        os.mknod(root / "watchdog", stat.S_IFCHR | 0o666, os.makedev(4095, 77))
    except PermissionError:
        pytest.skip("device files cannot be made here")
    with pytest.raises(OSError, match="No such device"):
        os.open(root / "watchdog", os.O_RDONLY)
    with image.Root(root) as opened:
        assert opened.read("watchdog", 9) is None
        assert opened.names("watchdog") == []


def test_files_are_read_whole_or_refused(root: Path) -> None:
    put(root, "/full", b"x" * 64)
    with (root / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with image.Root(root) as opened:
        assert opened.read("/full", 64) == b"x" * 64
        for path, most in (("/full", 63), ("/huge", 4096)):
            with pytest.raises(EditError, match=f"{path} of the image has more than {most}"):
                opened.read(path, most)


def test_a_folder_with_more_files_than_anybody_has_is_refused(root: Path) -> None:
    folder = root / "etc/ld.so.conf.d"
    folder.mkdir(parents=True)
    for number in range(1025):
        (folder / f"{number}.conf").touch()
    with image.Root(root) as opened:
        with pytest.raises(EditError, match="more than 1024 files"):
            image.other_folders(opened, "/usr/lib")
        (folder / "0.conf").unlink()
        assert len(opened.names("/etc/ld.so.conf.d")) == 1024


def test_nothing_stays_open(root: Path) -> None:
    put(root, "/file", b"x")
    before = open_files()
    for _ in range(3):
        with image.Root(root) as opened:
            opened.read("/file", 9)
            opened.names("/")
            opened.read("/none", 9)
            with pytest.raises(EditError):
                opened.read("/file", 0)
    assert open_files() == before


def test_a_root_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"root file system .*gone: No such file"):
        image.Root(tmp_path / "gone")


# -- What an image is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "home"),
    [
        ([f"/usr/lib/{MULTIARCH}/libc.so.6", "/usr/lib64/x"], f"/usr/lib/{MULTIARCH}"),
        # Before /lib was a link: the loader looks in both.
        ([f"/lib/{MULTIARCH}/libc.so.6", f"/usr/lib/{MULTIARCH}/x"], f"/usr/lib/{MULTIARCH}"),
        ([f"/lib/{MULTIARCH}/libc.so.6"], f"/lib/{MULTIARCH}"),
        (["/lib/libc.so.6", "/usr/lib64/x"], "/lib"),
        (["/usr/lib64/libc.so.6"], "/usr/lib64"),
        # A package's folder does not make a Debian of it.
        (["/usr/lib64/libc.so.6", f"/usr/lib/{MULTIARCH}/x"], "/usr/lib64"),
        (["/lib64/libc.so.6"], "/lib64"),
        ([f"/usr/lib/{MULTIARCH}/x", "/lib64/ld.so"], f"/usr/lib/{MULTIARCH}"),
        (["/bin/static"], "/usr/lib"),
    ],
)
def test_the_driver_goes_where_the_images_loader_looks(
    root: Path, files: list[str], home: str
) -> None:
    for file in files:
        put(root, file)
    with image.Root(root) as opened:
        assert image.default_folder(opened) == home
        assert home not in image.other_folders(opened, home)


def test_folders_of_the_loaders_configuration_are_known(root: Path) -> None:
    put(root, "/etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n/opt/one\n")
    put(root, "/etc/ld.so.conf.d/b.conf", b"# a comment\n/opt/two # why\n\n/opt/three=libc6\n")
    put(
        root, "/etc/ld.so.conf.d/c.conf", b"relative\n/with\ttab\n/with*/star*\n/n\0ul\n/\xff\xfe\n"
    )
    put(root, "/etc/ld.so.conf.d/d.txt", b"/not/taken\n")
    link(root, "/etc/ld.so.conf.d/e.conf", str(root.parent / "outside"))
    with image.Root(root) as opened:
        folders = image.other_folders(opened, "/usr/lib")
    assert [f for f in folders if f.startswith(("/opt", "/with", "/n", "/\udcff"))] == [
        *("/opt/one", "/opt/two", "/opt/three", "/\udcff\udcfe"),
    ]


def test_more_configuration_than_anybody_has_is_refused(root: Path) -> None:
    for name in ("a", "b"):
        put(root, f"/etc/ld.so.conf.d/{name}.conf", b"#" * 40000)
    with image.Root(root) as opened, pytest.raises(EditError, match=r"b\.conf of the image has"):
        image.other_folders(opened, "/usr/lib")


def test_the_cache_is_read_or_it_is_said_what_to_do(root: Path) -> None:
    entry = ldcache.Entry(b"liba.so", b"/lib/liba.so", ldcache.own_flags())
    assert image.cache_entries(b"") == []
    assert image.cache_entries(ldcache.write([entry])) == [entry]
    with pytest.raises(EditError, match=r"/etc/ld\.so\.cache of the image: .*run ldconfig"):
        image.cache_entries(b"something else")
    with image.Root(root) as opened:
        assert image.read_cache(opened) is None
        put(root, "/etc/ld.so.cache", b"x")
        assert image.read_cache(opened) == b"x"
        (root / "etc/ld.so.cache").unlink()
        os.mkfifo(root / "etc/ld.so.cache")
        assert image.read_cache(opened) is None
