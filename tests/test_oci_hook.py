"""``aliquot-hook createContainer`` covers what it must, on any image, and nothing outside it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import needs_namespaces
from oci import LINK_TEXT, Bundle, program

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


def test_home_gets_driver_libraries_and_region(bundle: Bundle) -> None:
    bundle.usual()
    bundle.image_file(f"{HOME}/libc.so.6", "libc")
    bundle.image_file(f"{HOME}/libvulkan.so.1", "vulkan")
    bundle.image_file(f"{HOME}/libcuda.so.440", "old")
    region = f"{HOME}/.aliquot"
    looked = [f"{HOME}/{name}" for name in (*NAMES, "libcuda.so.440")]
    seen = bundle.run(
        *looked,
        f"{HOME}/libc.so.6",
        f"{HOME}/libptx.so.1",
        f"{HOME}/libptx.so.550.1",
        f"{HOME}/libvulkan.so.1",
        region,
        f"{region}/grant",
        f"{region}/usage",
        f"{region}/bell",
        f"{region}/libcuda-driver.so.1",
        write=[
            *(f"{region}/{name}" for name in ("grant", "usage", "bell", "libcuda-driver.so.1")),
            looked[0],
        ],
    )
    assert seen.code == 0, seen.stderr
    assert (seen.stdout, seen.stderr) == ("", "")
    for path in looked:
        assert seen.text(path) == "host shim"
        assert seen.seen[path]["ro"]
        assert seen.seen[path]["nosuid"]
        assert seen.seen[path]["nodev"]
    assert seen.text(f"{HOME}/libc.so.6") == "libc"
    assert seen.text(f"{HOME}/libptx.so.1") == seen.text(f"{HOME}/libptx.so.550.1") == "host ptx"
    assert seen.text(f"{HOME}/libvulkan.so.1") == ""
    assert seen.seen[region]["names"] == ["bell", "grant", "libcuda-driver.so.1", "usage"]
    assert seen.text(f"{region}/libcuda-driver.so.1") == "host driver"
    assert seen.text(f"{region}/grant") == "grant"
    assert seen.seen[f"{region}/usage"]["writable"] is True
    # A FIFO can be written to where its mount cannot.
    assert stat.S_ISFIFO(seen.seen[f"{region}/bell"]["mode"])
    assert seen.seen[f"{region}/bell"]["ro"]
    assert seen.seen[f"{region}/bell"]["writable"] is True
    for path in (f"{region}/grant", looked[0], f"{region}/libcuda-driver.so.1"):
        assert seen.seen[path]["writable"] == 30  # EROFS
    assert (bundle.root / HOME[1:] / "libcuda.so.440").read_text() == "old"


def test_compat_folders_keep_their_own_driver(bundle: Bundle) -> None:
    bundle.usual()
    compat = "/usr/local/cuda-12/compat"
    bundle.image_file(f"{compat}/libcuda.so.555.42", "compat 12")
    bundle.image_link(f"{compat}/libcuda.so.1", "libcuda.so.555.42")
    bundle.image_link(f"{compat}/libcuda.so", "libcuda.so.1")
    bundle.image_link("/usr/local/cuda", "/usr/local/cuda-12")
    bundle.image_file("/usr/local/cuda-13/compat/libcuda.so.580.1", "compat 13")
    stub = "/usr/local/cuda-12/lib64/stubs/libcuda.so"
    bundle.image_file(stub, "stub")
    names = [f"{compat}/{name}" for name in ("libcuda.so.555.42", "libcuda.so.1", "libcuda.so")]
    seen = bundle.run(
        *names,
        f"{compat}/.aliquot/libcuda-driver.so.1",
        "/usr/local/cuda/compat/libcuda.so.1",
        "/usr/local/cuda-13/compat/.aliquot/libcuda-driver.so.1",
        "/usr/local/cuda-13/compat/libcuda.so.580.1",
        "/usr/local/cuda-13/compat",
        stub,
    )
    assert seen.code == 0, seen.stderr
    for path in names:
        assert seen.text(path) == "host shim"
    assert seen.text("/usr/local/cuda/compat/libcuda.so.1") == "host shim"
    assert seen.text(f"{compat}/.aliquot/libcuda-driver.so.1") == "compat 12"
    assert seen.text("/usr/local/cuda-13/compat/.aliquot/libcuda-driver.so.1") == "compat 13"
    assert seen.text("/usr/local/cuda-13/compat/libcuda.so.580.1") == "host shim"
    assert seen.seen["/usr/local/cuda-13/compat"]["names"] == [".aliquot", "libcuda.so.580.1"]
    assert seen.text(stub) == "stub"


def test_a_root_that_is_started_again_still_has_its_own_driver(bundle: Bundle) -> None:
    bundle.usual()
    compat = "/usr/local/cuda/compat"
    bundle.image_file("/opt/driver/libcuda.so.1", "elsewhere")
    bundle.image_link(f"{compat}/libcuda.so.1", "../../../../opt/driver/libcuda.so.1")
    bundle.image_link(f"{compat}/libcuda.so", "libcuda.so.1")
    driver = f"{compat}/.aliquot/libcuda-driver.so.1"
    first = bundle.run(driver)
    assert first.text(driver) == "elsewhere"
    kept = (bundle.root / compat[1:] / "libcuda.so.1").read_bytes()
    assert kept == LINK_TEXT + b"../../../../opt/driver/libcuda.so.1"
    second = bundle.run(driver, f"{compat}/libcuda.so")
    assert second.code == 0, second.stderr
    assert second.text(driver) == "elsewhere"
    assert second.text(f"{compat}/libcuda.so") == "host shim"


def test_links_stay_in_the_root(bundle: Bundle, tmp_path: Path) -> None:
    bundle.usual(home="/lib/cuda")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    inside = bundle.root / "target"
    inside.mkdir()
    # An absolute link, one with too many dots, and both in a row.
    up = "../" * 40
    bundle.image_link("/lib", "/usr/lib")
    bundle.image_link("/usr/lib", f"{up}target")
    (inside / "cuda").mkdir()
    for name in NAMES:
        (inside / "cuda" / name).symlink_to(f"{up[:30]}{outside}/file")
    (inside / "cuda/libptx.so.1").symlink_to(f"{outside}/missing")
    bundle.image_link("/etc/ld.so.cache", str(outside / "file"))
    bundle.plan(
        ("cache", bundle.host_file("cache")),
        ("file", bundle.host_file("stat"), "/sbin/aliquot-stat", "ro"),
    )
    bundle.image_link("/sbin", str(outside))
    (bundle.root / str(outside)[1:]).mkdir(parents=True)
    seen = bundle.run(
        *(f"/target/cuda/{name}" for name in NAMES),
        "/target/cuda/libptx.so.1",
        "/etc/ld.so.cache",
        "/sbin/aliquot-stat",
    )
    assert seen.code == 0, seen.stderr
    for name in NAMES:
        assert seen.text(f"/target/cuda/{name}") == "host shim"
    assert seen.text("/target/cuda/libptx.so.1") == "host ptx"
    assert seen.text("/etc/ld.so.cache") == "host cache"
    assert seen.text("/sbin/aliquot-stat") == "host stat"
    assert sorted(path.name for path in (outside).iterdir()) == ["file"]
    assert (outside / "file").read_text() == "outside"


def test_programs_can_make_the_loaders_cache_anew(bundle: Bundle) -> None:
    bundle.usual()
    bundle.plan(("cache", bundle.host_file("cache")))
    cache = "/etc/ld.so.cache"
    seen = bundle.run(cache, write=[cache])
    assert seen.code == 0, seen.stderr
    assert seen.text(cache) == "host cache"
    # ldconfig renames a new one over it, which it could not do with a mount.
    assert seen.seen[cache]["writable"] is True
    assert (bundle.root / cache[1:]).read_text() == "host cache"


def test_containers_of_one_root_begin_at_the_same_moment(tmp_path: Path) -> None:
    for number in range(20):
        several = [Bundle(tmp_path / f"{number}-{one}") for one in range(6)]
        for bundle in several:
            bundle.root = several[0].root
            bundle.lines[1] = ("root", str(bundle.root))
            bundle.usual()
        # Nothing is there yet: each finds on its way what another makes meanwhile.
        with ThreadPoolExecutor(len(several)) as pool:
            seen = list(pool.map(lambda bundle: bundle.run(f"{HOME}/libcuda.so.1"), several))
        for one in seen:
            assert one.code == 0, one.stderr
            assert one.text(f"{HOME}/libcuda.so.1") == "host shim"


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("nowhere", "leads nowhere"),
        ("x86_64-linux-gnu", "in a circle"),
        ("/proc/self/root/tmp", "through /proc"),
        ("/proc/self", "proc, sysfs"),
        ("/sys/kernel", "proc, sysfs"),
        ("/file", "Not a directory"),
    ],
)
def test_a_home_that_leads_astray_is_refused(rooted: Bundle, link: str, why: str) -> None:
    rooted.usual()
    rooted.image_file("/file")
    rooted.image_link(HOME, link)
    for name in ("proc", "sys"):
        (rooted.root / name).mkdir()
    before = rooted.image()
    mounts = [["mount", "-t", "proc", "proc", f"{rooted.root}/proc"]]
    mounts += [["mount", "--rbind", "/sys", f"{rooted.root}/sys"]]
    line = rooted.run(before=mounts).refusal()
    assert why in line
    assert HOME in line
    assert rooted.image() == before


@pytest.mark.parametrize("link", ["/proc/1", "/proc/self/root/usr", "compat", "/sys/fs"])
def test_a_compat_folder_that_leads_astray_is_refused(rooted: Bundle, link: str) -> None:
    rooted.usual()
    rooted.image_link("/usr/local/cuda/compat", link)
    for name in ("proc", "sys"):
        (rooted.root / name).mkdir()
    mounts = [["mount", "-t", "proc", "proc", f"{rooted.root}/proc"]]
    mounts += [["mount", "--rbind", "/sys", f"{rooted.root}/sys"]]
    assert "/usr/local/cuda/compat" in rooted.run(before=mounts).refusal()


@pytest.mark.parametrize("target", ["/proc/version", "/sys/x", "/dev/pts/x"])
def test_targets_on_pseudo_file_systems_are_refused(rooted: Bundle, target: str) -> None:
    rooted.plan(("file", rooted.host_file("stat"), target, "ro"))
    for name in ("proc", "sys", "dev/pts"):
        (rooted.root / name).mkdir(parents=True)
    mounts = [["mount", "-t", "proc", "proc", f"{rooted.root}/proc"]]
    mounts += [["mount", "--rbind", "/sys", f"{rooted.root}/sys"]]
    mounts += [["mount", "-t", "devpts", "devpts", f"{rooted.root}/dev/pts"]]
    assert "proc, sysfs, cgroup, devpts" in rooted.run(before=mounts).refusal()


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "full", "odd"])
def test_a_region_folder_that_is_there_is_covered(
    bundle: Bundle, kind: str, tmp_path: Path
) -> None:
    bundle.usual()
    there = bundle.root / HOME[1:] / ".aliquot"
    there.parent.mkdir(parents=True)
    elsewhere = bundle.root / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        there.symlink_to("/elsewhere")
    elif kind == "dangling":
        there.symlink_to(tmp_path / "missing")
    elif kind == "file":
        there.write_text("file")
    else:
        there.mkdir()
        (there / "grant").symlink_to("/etc/passwd")
        (there / "usage").mkdir()
        (there / "libcuda-driver.so.1").write_text("mine")
        if kind == "odd":
            there.chmod(0)
    region = f"{HOME}/.aliquot"
    seen = bundle.run(
        region, f"{region}/grant", f"{region}/usage", f"{region}/libcuda-driver.so.1", "/elsewhere"
    )
    assert seen.code == 0, seen.stderr
    assert seen.seen[region]["names"] == ["bell", "grant", "libcuda-driver.so.1", "usage"]
    assert stat.S_IMODE(seen.seen[region]["mode"]) == 0o755
    assert seen.text(f"{region}/grant") == "grant"
    assert seen.text(f"{region}/usage") == "usage"
    assert seen.text(f"{region}/libcuda-driver.so.1") == "host driver"
    assert seen.seen["/elsewhere"]["names"] == []
    if kind in {"full", "odd"}:
        assert (there / "libcuda-driver.so.1").read_text() == "mine"


def test_whatever_has_a_librarys_name_is_covered(bundle: Bundle) -> None:
    bundle.usual()
    home = bundle.root / HOME[1:]
    home.mkdir(parents=True)
    os.mkfifo(home / "libcuda.so")
    with socket.socket(socket.AF_UNIX) as bound:
        folder = os.open(home, os.O_PATH)
        bound.bind(f"/proc/self/fd/{folder}/libcuda.so.1")
        os.close(folder)
    (home / "libcuda.so.550.1").write_text("regular")
    (home / "libcuda.so.550.1").chmod(0)
    os.mkfifo(home / "libvulkan.so")
    seen = bundle.run(*(f"{HOME}/{name}" for name in NAMES), f"{HOME}/libvulkan.so")
    assert seen.code == 0, seen.stderr
    for name in NAMES:
        assert seen.text(f"{HOME}/{name}") == "host shim"
    assert seen.text(f"{HOME}/libvulkan.so") == ""


def test_kernels_without_mount_setattr_serve_as_well(bundle: Bundle) -> None:
    bundle.usual()
    region = f"{HOME}/.aliquot"
    seen = bundle.run(
        f"{HOME}/libcuda.so.1",
        f"{region}/usage",
        write=[f"{HOME}/libcuda.so.1", f"{region}/grant", f"{region}/usage", f"{region}/new"],
        seccomp=True,
    )
    assert seen.code == 0, seen.stderr
    assert seen.text(f"{HOME}/libcuda.so.1") == "host shim"
    for flag in ("ro", "nosuid", "nodev"):
        assert seen.seen[f"{HOME}/libcuda.so.1"][flag]
    assert seen.seen[f"{region}/usage"]["nosuid"]
    assert seen.seen[f"{region}/usage"]["writable"] is True
    assert seen.seen[f"{region}/grant"]["writable"] == 30


def test_folders_of_the_node_and_files_in_them(bundle: Bundle) -> None:
    for name in ("state", "state/sub"):
        (bundle.host / name).mkdir()
    (bundle.host / "state/file").write_text("state")
    (bundle.host / "state/sub/inner").write_text("covered")
    with socket.socket(socket.AF_UNIX) as bound:
        folder = os.open(bundle.host, os.O_PATH)
        bound.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    bundle.plan(
        ("file", bundle.host_file("inner"), "/run/sim/sub/inner", "ro"),
        ("file", str(bundle.host / "state"), "/run/sim", "rw"),
        ("file", str(bundle.host / "socket"), "/run/daemon.sock", "rw"),
        ("file", str(bundle.host / "state"), "/link", "ro"),
    )
    bundle.image_link("/link", "there")
    (bundle.root / "there").mkdir()
    seen = bundle.run(
        "/run/sim/file",
        "/run/sim/sub/inner",
        "/run/daemon.sock",
        "/link",
        "/there/file",
        write=["/run/sim/file", "/run/sim/sub/inner", "/there/file"],
    )
    assert seen.code == 0, seen.stderr
    assert seen.text("/run/sim/file") == "state"
    assert seen.text("/run/sim/sub/inner") == "host inner"
    assert stat.S_ISSOCK(seen.seen["/run/daemon.sock"]["mode"])
    assert seen.seen["/link"]["link"] == "there"
    assert seen.text("/there/file") == "state"
    assert seen.seen["/run/sim/file"]["writable"] is True
    assert seen.seen["/run/sim/sub/inner"]["writable"] == 30
    assert seen.seen["/there/file"]["writable"] == 30
    assert (bundle.host / "state/sub/inner").read_text() == "covered"


def test_long_names(rooted: Bundle) -> None:
    longest = "n" * 255
    rooted.plan(("file", rooted.host_file("stat"), f"/{longest}/{longest}", "ro"))
    seen = rooted.run(f"/{longest}/{longest}")
    assert seen.text(f"/{longest}/{longest}") == "host stat"
    deep = "/" + "/".join(["d" * 200] * 25)
    rooted.lines[-1] = ("file", rooted.host_file("stat"), deep, "ro")
    assert "line 5" in rooted.run().refusal()


def test_too_many_folders_are_refused(rooted: Bundle) -> None:
    rooted.usual()
    for number in range(300):
        (rooted.root / f"usr/local/cuda{number}/compat").mkdir(parents=True)
    assert "more than 256 folders" in rooted.run().refusal()


def test_names_of_an_image_do_not_move_the_cursor(rooted: Bundle) -> None:
    rooted.usual()
    hostile = "cuda\x1b[2J\nfine"
    rooted.image_link(f"/usr/local/{hostile}/compat", "compat")
    assert "cuda?[2J?fine" in rooted.run().refusal()


def test_paths_come_as_people_write_them(rooted: Bundle) -> None:
    rooted.usual(home=f"/{HOME}//./")
    one = (
        "file",
        rooted.host_file("stat").replace("/host/", "//host/./"),
        "//usr/bin/./stat/",
        "ro",
    )
    rooted.plan(one, one)
    rooted.plan(*(("scan", path) for path in ("/", "/opt/../opt/lib//", "/" + "x" * 5000, "/a/..")))
    rooted.plan(("scan", "/opt/stubs/"), ("scan", "/opt/*/" + "x" * 300))
    rooted.image_file("/opt/lib/libcuda.so.1", "opt")
    rooted.image_file("/opt/stubs/libcuda.so", "stub")
    rooted.image_file("/libcuda.so.1", "top")
    seen = rooted.run(
        f"{HOME}/libcuda.so.1",
        "/usr/bin/stat",
        "/opt/lib/libcuda.so.1",
        "/opt/lib/.aliquot/libcuda-driver.so.1",
        "/opt/stubs/libcuda.so",
        "/libcuda.so.1",
        "/.aliquot/libcuda-driver.so.1",
    )
    assert seen.code == 0, seen.stderr
    for path in (f"{HOME}/libcuda.so.1", "/opt/lib/libcuda.so.1", "/libcuda.so.1"):
        assert seen.text(path) == "host shim"
    assert seen.text("/usr/bin/stat") == "host stat"
    assert seen.text("/opt/lib/.aliquot/libcuda-driver.so.1") == "opt"
    assert seen.text("/.aliquot/libcuda-driver.so.1") == "top"
    assert seen.text("/opt/stubs/libcuda.so") == "stub"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: "", "ends within a line"),
        (lambda text: text[:-1], "ends within a line"),
        (lambda text: text.replace("plan\t1", "plan\t2", 1), "another version"),
        (lambda text: "x" + text, "not a plan"),
        (lambda text: text.replace("\nroot\t", "\nfoot\t", 1), "root comes first"),
        (lambda text: text + "file\t/a\t/b\n", "line 12: file wants"),
        (lambda text: text + "file\t/a\t/b/../c\tro\n", "line 12: file wants"),
        (lambda text: text + "file\ta\t/b\tro\n", "line 12: file wants"),
        (lambda text: text + "file\t/a\t/b\trx\n", "line 12: file wants"),
        (lambda text: text + "file\t/missing\t/b\tro\n", "/missing, which the plan has: No such"),
        (lambda text: text + "home\t/a\n", "a second home"),
        (lambda text: text + "library\t/a\tb/c\n", "library wants"),
        (lambda text: text + "library\t/a\t.aliquot\n", "library wants"),
        (lambda text: text + "driver\tlibx.so.1\t/a\tlibx.so\n", "without its substitute"),
        (lambda text: text + "substitute\tlibcuda.so.2\t/a\tx\n", "a second substitute"),
        (lambda text: text + "substitute\tlibx.so.2\t/a\tgrant\n", "private name"),
        (lambda text: text + "scan\t/a*/b*\n", "more than one component"),
        (lambda text: text + "withhold\ta/b\n", "withhold wants"),
        (lambda text: text + "what\tis\tthis\n", "no known kind"),
        (lambda text: text + "\0\n", "NUL"),
        (lambda text: text + "withhold\tx\n" * 4097, "more than 4096 lines"),
        (lambda text: text + "withhold\t" + "x" * (1 << 20) + "\n", "File too large"),
        (lambda text: text.replace("stage\t", "cache\t", 1), "no stage"),
        (lambda text: text.replace("region\t", "cache\t", 1), "no region"),
    ],
)
def test_a_plan_that_is_none_is_refused_whole(rooted: Bundle, change: object, why: str) -> None:
    rooted.usual()
    rooted.write()
    plan = rooted.slice / "plan"
    assert callable(change)
    plan.write_text(change(plan.read_text()))
    before = rooted.image()
    result = subprocess.run(
        ["unshare", "-Urm", str(program("aliquot-hook")), "createContainer", str(rooted.slice)],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("aliquot-hook: ")
    assert result.stderr.count("\n") == 1
    assert why in result.stderr
    assert rooted.image() == before


def test_the_nodes_own_root_is_refused(rooted: Bundle) -> None:
    rooted.usual()
    (rooted.folder / "up").symlink_to("/")
    rooted.lines[1] = ("root", f"{rooted.folder}/up")
    assert "is the node's own" in rooted.run().refusal()


def test_links_into_home_lead_to_the_nodes_driver(bundle: Bundle) -> None:
    bundle.usual()
    compat = "/usr/local/cuda/compat"
    bundle.image_link(f"{compat}/libcuda.so.1", f"{HOME}/libcuda.so.1")
    for _ in range(2):  # and again when the same root is started again
        seen = bundle.run(f"{compat}/libcuda.so.1", f"{compat}/.aliquot/libcuda-driver.so.1")
        assert seen.code == 0, seen.stderr
        assert seen.text(f"{compat}/libcuda.so.1") == "host shim"
        assert seen.text(f"{compat}/.aliquot/libcuda-driver.so.1") == "host driver"
