"""Where nothing may be changed ``aliquot-hook`` covers folders; its mounts reach nobody else."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from commands import needs_namespaces
from oci import Bundle

pytestmark = needs_namespaces

HOME = "/usr/lib/x86_64-linux-gnu"
NAMES = ("libcuda.so", "libcuda.so.1", "libcuda.so.550.1")


@pytest.fixture(params=["root", "userns"])
def bundle(tmp_path: Path, request: pytest.FixtureRequest) -> Bundle:
    """A bundle whose hook runs as root, or as root of a user namespace."""
    return Bundle(tmp_path / "b", userns=request.param == "userns")


@pytest.fixture
def rooted(tmp_path: Path) -> Bundle:
    """A bundle whose hook runs as the test's user would: once is enough."""
    return Bundle(tmp_path / "b")


def test_a_folder_with_a_librarys_name_is_hidden_not_removed(bundle: Bundle) -> None:
    bundle.usual()
    bundle.image_file(f"{HOME}/libcuda.so.1/inside")
    bundle.image_file(f"{HOME}/libc.so.6", "libc")
    seen = bundle.run(f"{HOME}/libcuda.so.1", f"{HOME}/libc.so.6", HOME)
    assert seen.code == 0, seen.stderr
    assert seen.text(f"{HOME}/libcuda.so.1") == "host shim"
    assert seen.text(f"{HOME}/libc.so.6") == "libc"
    assert (bundle.root / HOME[1:] / "libcuda.so.1/inside").read_text() == "image"


def test_a_read_only_root_is_left_as_it_is(bundle: Bundle) -> None:
    bundle.usual()
    bundle.image_file(f"{HOME}/libc.so.6", "libc")
    bundle.image_link(f"{HOME}/libcuda.so.1", "libcuda.so.440")
    bundle.image_file(f"{HOME}/libcuda.so.440", "old")
    bundle.image_file(f"{HOME}/sub/deep/file", "covered by a mount")
    bundle.image_file("/usr/local/cuda/compat/libcuda.so.1", "compat")
    bundle.image_file("/etc/hosts", "image's")
    bundle.image_file("/etc/passwd", "users")
    bundle.image_file("/run/motd", "today")
    other = bundle.folder / "other"
    (other / "below").mkdir(parents=True)
    (other / "file").write_text("mounted")
    (bundle.root / "run").chmod(0o1775)
    hosts = bundle.host_file("hosts", "node's")
    bundle.plan(
        ("file", bundle.host_file("stat"), "/run/aliquot/deep/aliquot-stat", "ro"),
        ("file", bundle.host_file("grant"), "/run/aliquot/grant", "ro"),
        ("cache", bundle.host_file("cache")),
    )
    before = bundle.image()
    root = str(bundle.root)
    seen = bundle.run(
        *(f"{HOME}/{name}" for name in (*NAMES, "libcuda.so.440", "libc.so.6", "sub/deep/file")),
        f"{HOME}/sub/deep/below/two",
        "/usr/local/cuda/compat/libcuda.so.1",
        "/usr/local/cuda/compat/.aliquot/libcuda-driver.so.1",
        "/run/aliquot/deep/aliquot-stat",
        "/run/aliquot/grant",
        "/run/motd",
        "/run",
        "/etc/hosts",
        "/etc/passwd",
        "/etc/ld.so.cache",
        before=[
            ["mount", "--bind", str(other), f"{root}{HOME}/sub/deep"],
            ["mount", "-t", "tmpfs", "two", f"{root}{HOME}/sub/deep/below"],
            ["touch", f"{root}{HOME}/sub/deep/below/two"],
            ["mount", "--bind", hosts, f"{root}/etc/hosts"],
            ["mount", "-o", "remount,bind,ro", root],
        ],
        write=[f"{HOME}/libc.so.6"],
    )
    assert seen.code == 0, seen.stderr
    for name in (*NAMES, "libcuda.so.440"):
        assert seen.text(f"{HOME}/{name}") == "host shim"
    assert seen.text(f"{HOME}/libc.so.6") == "libc"
    assert seen.text(f"{HOME}/sub/deep/file") == "mounted"
    assert seen.text(f"{HOME}/sub/deep/below/two") == ""
    assert seen.text("/usr/local/cuda/compat/libcuda.so.1") == "host shim"
    assert seen.text("/usr/local/cuda/compat/.aliquot/libcuda-driver.so.1") == "compat"
    assert seen.text("/run/aliquot/deep/aliquot-stat") == "host stat"
    assert seen.text("/run/aliquot/grant") == "host grant"
    assert seen.text("/run/motd") == "today"
    assert stat.S_IMODE(seen.seen["/run"]["mode"]) == 0o1775
    assert seen.text("/etc/hosts") == "node's"
    assert seen.text("/etc/passwd") == "users"
    assert seen.text("/etc/ld.so.cache") == "host cache"
    assert seen.seen[f"{HOME}/libc.so.6"]["writable"] == 30
    assert bundle.image() == before


def test_a_read_only_root_without_a_folder_for_it_is_refused(rooted: Bundle) -> None:
    rooted.plan(("file", rooted.host_file("stat"), "/run/aliquot-stat", "ro"))
    line = rooted.run(before=[["mount", "-o", "remount,bind,ro", str(rooted.root)]]).refusal()
    assert "'run/aliquot-stat'" in line
    assert "read-only" in line


def test_a_volume_is_left_as_it_is(bundle: Bundle) -> None:
    bundle.usual()
    volume = bundle.folder / "volume"
    (volume / "compat").mkdir(parents=True)
    (volume / "compat/libcuda.so.555").write_text("volume's")
    (volume / "compat/libcuda.so.1").symlink_to("libcuda.so.555")
    (bundle.root / "usr/local/cuda").mkdir(parents=True)
    compat = "/usr/local/cuda/compat"
    seen = bundle.run(
        f"{compat}/libcuda.so.1",
        f"{compat}/libcuda.so.555",
        f"{compat}/.aliquot/libcuda-driver.so.1",
        before=[["mount", "--bind", str(volume), f"{bundle.root}/usr/local/cuda"]],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text(f"{compat}/libcuda.so.1") == "host shim"
    assert seen.text(f"{compat}/libcuda.so.555") == "host shim"
    assert seen.text(f"{compat}/.aliquot/libcuda-driver.so.1") == "volume's"
    assert sorted(path.name for path in (volume / "compat").iterdir()) == [
        "libcuda.so.1",
        "libcuda.so.555",
    ]
    assert (volume / "compat/libcuda.so.1").is_symlink()


def test_a_tmpfs_of_the_containers_own_stays_writable(bundle: Bundle) -> None:
    bundle.plan(("file", bundle.host_file("stat"), "/run/aliquot/aliquot-stat", "ro"))
    (bundle.root / "run").mkdir()
    seen = bundle.run(
        "/run/aliquot/aliquot-stat",
        before=[
            ["mount", "-t", "tmpfs", "own", f"{bundle.root}/run"],
            ["touch", f"{bundle.root}/run/pid"],
        ],
        write=["/run/pid"],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text("/run/aliquot/aliquot-stat") == "host stat"
    assert seen.seen["/run/pid"]["writable"] is True


def test_a_tmpfs_that_others_have_is_left_as_it_is(bundle: Bundle) -> None:
    bundle.plan(("file", bundle.host_file("stat"), "/run/aliquot/aliquot-stat", "ro"))
    (bundle.root / "run").mkdir()
    shared = bundle.folder / "shared"
    shared.mkdir()
    seen = bundle.run(
        "/run/aliquot/aliquot-stat",
        "/shared",
        before=[
            ["mount", "-t", "tmpfs", "others", str(shared)],
            ["mount", "--bind", str(shared), f"{bundle.root}/run"],
            ["mkdir", f"{bundle.root}/shared"],
            ["mount", "--bind", str(shared), f"{bundle.root}/shared"],
        ],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text("/run/aliquot/aliquot-stat") == "host stat"
    assert seen.seen["/shared"]["names"] == []


def test_nothing_is_mounted_where_others_would_see_it(rooted: Bundle) -> None:
    rooted.usual()
    volume = rooted.folder / "volume"
    volume.mkdir()
    (volume / "libcuda.so.1").write_text("volume's")
    (rooted.root / "usr/local/cuda/compat").mkdir(parents=True)
    target = f"{rooted.root}/usr/local/cuda/compat"
    seen = rooted.run(
        before=[["mount", "--bind", str(volume), target], ["mount", "--make-shared", target]]
    )
    assert "Bidirectional" in seen.refusal()


def test_mounts_on_the_stage_and_in_the_root_reach_nobody(rooted: Bundle) -> None:
    rooted.usual()
    peer = rooted.folder / "peer"
    peer.mkdir()
    seen = rooted.run(
        f"{HOME}/libcuda.so.1",
        before=[
            ["mount", "--bind", str(rooted.slice), str(rooted.slice)],
            ["mount", "--make-shared", str(rooted.slice)],
            ["mount", "--bind", str(rooted.slice), str(peer)],
            ["mount", "--bind", str(rooted.host), str(rooted.host)],
            ["mount", "--make-shared", str(rooted.host)],
        ],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text(f"{HOME}/libcuda.so.1") == "host shim"
    optional = {
        line.split(" ")[4]: " ".join(line.split(" - ")[0].split(" ")[6:])
        for line in seen.mounts.splitlines()
    }
    # What the runtime or the node has mounted on the stage would still be received.
    assert optional[str(peer)].startswith("shared:")
    assert optional[str(rooted.slice)].startswith("master:")
    home = f"{rooted.root}{HOME}/"
    ours = {point: text for point, text in optional.items() if point.startswith(home)}
    assert f"{home}.aliquot/usage" in ours
    assert f"{home}libcuda.so.1" in ours
    assert set(ours.values()) == {""}


def test_the_stage_is_gone_when_the_hook_ends(bundle: Bundle) -> None:
    bundle.usual()
    stage = f" {bundle.slice}/stage "
    assert stage not in bundle.run().mounts
    assert stage not in Path("/proc/self/mountinfo").read_text()


def test_a_full_or_fixed_folder_is_covered(rooted: Bundle) -> None:
    rooted.usual()
    root = str(rooted.root)
    seen = rooted.run(
        *(f"{HOME}/{name}" for name in NAMES),
        f"{HOME}/libc.so.6",
        before=[
            # Six of its files are there: the root, three folders, and two files.
            ["mount", "-t", "tmpfs", "-o", "nr_inodes=6", "full", root],
            ["mkdir", "-p", f"{root}{HOME}"],
            ["touch", f"{root}{HOME}/libc.so.6"],
            ["ln", "-s", "libc.so.6", f"{root}{HOME}/libcuda.so.1"],
        ],
    )
    assert seen.code == 0, seen.stderr
    for name in NAMES:
        assert seen.text(f"{HOME}/{name}") == "host shim"
    assert seen.text(f"{HOME}/libc.so.6") == ""


def test_an_immutable_folder_is_covered(rooted: Bundle) -> None:
    rooted.usual()
    home = rooted.root / HOME[1:]
    home.mkdir(parents=True)
    (home / "libc.so.6").write_text("libc")
    fixed = subprocess.run(["chattr", "+i", str(home)], check=False, capture_output=True, text=True)
    if fixed.returncode:
        pytest.skip(f"no immutable folders here: {fixed.stderr.strip()}")
    try:
        seen = rooted.run(*(f"{HOME}/{name}" for name in NAMES), f"{HOME}/libc.so.6")
    finally:
        subprocess.run(["chattr", "-i", str(home)], check=True)
    assert seen.code == 0, seen.stderr
    for name in NAMES:
        assert seen.text(f"{HOME}/{name}") == "host shim"
    assert sorted(path.name for path in (home).iterdir()) == ["libc.so.6"]


def test_a_root_that_belongs_to_others_is_covered(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files to others")
    bundle = Bundle(tmp_path / "b", userns=True)
    bundle.usual()
    bundle.image_file(f"{HOME}/libc.so.6", "libc")
    bundle.image_link(f"{HOME}/libcuda.so.1", "/nowhere")
    for path in (bundle.root, *bundle.root.rglob("*")):
        os.chown(path, 4711, 4711, follow_symlinks=False)
    seen = bundle.run(*(f"{HOME}/{name}" for name in NAMES), f"{HOME}/libc.so.6")
    assert seen.code == 0, seen.stderr
    for name in NAMES:
        assert seen.text(f"{HOME}/{name}") == "host shim"
    assert seen.text(f"{HOME}/libc.so.6") == "libc"
    assert (bundle.root / HOME[1:] / "libc.so.6").read_text() == "libc"


@pytest.mark.parametrize("read_only", [False, True])
def test_an_overlay_as_containerd_mounts_it(bundle: Bundle, read_only: bool) -> None:
    bundle.usual()
    image = bundle.folder / "image"
    for name in ("image", "upper", "work"):
        (bundle.folder / name).mkdir()
    compat = image / "usr/local/cuda/compat"
    compat.mkdir(parents=True)
    (compat / "libcuda.so.555").write_text("compat")
    (compat / "libcuda.so.1").symlink_to("libcuda.so.555")
    (image / HOME[1:]).mkdir(parents=True)
    options = f"lowerdir={image}"
    if not read_only:
        options += f",upperdir={bundle.folder}/upper,workdir={bundle.folder}/work"
    else:
        options += f":{bundle.folder}/upper"
    seen = bundle.run(
        f"{HOME}/libcuda.so.550.1",
        f"{HOME}/.aliquot/libcuda-driver.so.1",
        "/usr/local/cuda/compat/libcuda.so.1",
        "/usr/local/cuda/compat/.aliquot/libcuda-driver.so.1",
        HOME,
        before=[["mount", "-t", "overlay", "-o", options, "overlay", str(bundle.root)]],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text(f"{HOME}/libcuda.so.550.1") == "host shim"
    assert seen.text(f"{HOME}/.aliquot/libcuda-driver.so.1") == "host driver"
    assert seen.text("/usr/local/cuda/compat/libcuda.so.1") == "host shim"
    assert seen.text("/usr/local/cuda/compat/.aliquot/libcuda-driver.so.1") == "compat"
    assert seen.seen[HOME]["ro"] is read_only
    assert (compat / "libcuda.so.1").is_symlink()
    made = {path.name for path in (bundle.folder / "upper").rglob("*")}
    assert ("libcuda.so.550.1" in made) is not read_only


def test_what_is_already_mounted_on_a_name_gives_way(bundle: Bundle) -> None:
    bundle.usual()
    bundle.image_file(f"{HOME}/libcuda.so.1", "image")
    bundle.image_file(f"{HOME}/libother.so", "image")
    bundle.image_file(f"{HOME}/.aliquot/grant", "image")
    foreign = bundle.host_file("foreign")
    home = f"{bundle.root}{HOME}"
    for read_only in (False, True):
        before = [["mount", "--bind", foreign, f"{home}/{name}"] for name in ("libcuda.so.1",)]
        before += [["mount", "--bind", foreign, f"{home}/libother.so"]]
        before += [["mount", "-t", "tmpfs", "foreign", f"{home}/.aliquot"]]
        if read_only:
            before += [["mount", "-o", "remount,bind,ro", str(bundle.root)]]
        seen = bundle.run(
            f"{HOME}/libcuda.so.1",
            f"{HOME}/libother.so",
            f"{HOME}/.aliquot/grant",
            f"{HOME}/.aliquot/libcuda-driver.so.1",
            before=before,
        )
        assert seen.code == 0, seen.stderr
        assert seen.text(f"{HOME}/libcuda.so.1") == "host shim"
        assert seen.text(f"{HOME}/libother.so") == "host foreign"
        assert seen.text(f"{HOME}/.aliquot/grant") == "grant"
        assert seen.text(f"{HOME}/.aliquot/libcuda-driver.so.1") == "host driver"


def test_one_folder_by_two_names_is_covered_once_and_mounted_twice_twice(bundle: Bundle) -> None:
    bundle.usual()
    one = "/usr/local/cuda-1/compat"
    bundle.image_file(f"{one}/libcuda.so.555", "compat")
    bundle.image_link(f"{one}/libcuda.so.1", "libcuda.so.555")
    bundle.image_link("/usr/local/cuda-2", "cuda-1")
    (bundle.root / "usr/local/cuda-3/compat").mkdir(parents=True)
    seen = bundle.run(
        *(f"/usr/local/cuda-{n}/compat/libcuda.so.1" for n in (1, 2, 3)),
        *(f"/usr/local/cuda-{n}/compat/.aliquot/libcuda-driver.so.1" for n in (1, 2, 3)),
        before=[
            ["mount", "--bind", f"{bundle.root}{one}", f"{bundle.root}/usr/local/cuda-3/compat"]
        ],
    )
    assert seen.code == 0, seen.stderr
    for number in (1, 2, 3):
        folder = f"/usr/local/cuda-{number}/compat"
        assert seen.text(f"{folder}/libcuda.so.1") == "host shim"
        assert seen.text(f"{folder}/.aliquot/libcuda-driver.so.1") == "compat"
    assert sum(f"{one}/libcuda.so.1 " in line for line in seen.mounts.splitlines()) == 1


def test_covered_folders_within_covered_folders(bundle: Bundle) -> None:
    bundle.usual()
    bundle.plan(
        ("file", bundle.host_file("stat"), "/opt/new/stat", "ro"),
        ("scan", "/opt/cuda/lib"),
    )
    bundle.image_file("/opt/cuda/lib/libcuda.so.1", "opt")
    bundle.image_file("/opt/cuda/lib/sub/file", "out of sight")
    bundle.image_file("/opt/kept", "kept")
    (bundle.root / HOME[1:]).mkdir(parents=True)
    over = bundle.folder / "over"
    over.mkdir()
    (over / "top").write_text("top")
    lib = f"{bundle.root}/opt/cuda/lib"
    seen = bundle.run(
        "/opt/new/stat",
        "/opt/kept",
        "/opt/cuda/lib/libcuda.so.1",
        "/opt/cuda/lib/.aliquot/libcuda-driver.so.1",
        "/opt/cuda/lib/sub",
        "/opt/cuda/lib/sub/top",
        before=[
            # The second lies over the place of the first, which nobody sees any more.
            ["mount", "--bind", bundle.host_file("first"), f"{lib}/sub/file"],
            ["mount", "--bind", str(over), f"{lib}/sub"],
            ["mount", "-o", "remount,bind,ro", str(bundle.root)],
        ],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text("/opt/new/stat") == "host stat"
    assert seen.text("/opt/kept") == "kept"
    assert seen.text("/opt/cuda/lib/libcuda.so.1") == "host shim"
    assert seen.text("/opt/cuda/lib/.aliquot/libcuda-driver.so.1") == "opt"
    assert seen.seen["/opt/cuda/lib/sub"]["names"] == ["top"]
    assert seen.text("/opt/cuda/lib/sub/top") == "top"
