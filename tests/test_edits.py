"""What is changed in a bundle, and that nothing else is."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aliquot.hooks import edits, ldcache
from aliquot.hooks.errors import EditError
from aliquot.hooks.plan import BindMount, DeviceNode, Library, Needs

from conftest import ROOT
from edit_parts import HOOK, LEAST, RUNTIME, STAT, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A bundle that has only what every bundle has."""
    desk = Desk(tmp_path)
    desk.set(LEAST)
    return desk


# -- Changing --------------------------------------------------------------------------------------


def test_what_is_changed_is_all_that_is_changed(desk: Desk) -> None:
    (desk.bundle / "config.json").unlink()
    before = desk.by_runc()
    after = desk.apply()
    assert after.pop("annotations") == {"aliquot.dev/slice": "id-0123"}
    hooks = after.pop("hooks")
    devices, rules = after["linux"].pop("devices"), after["linux"]["resources"].pop("devices")
    assert before["linux"]["resources"].pop("devices") == rules[: -len(devices)]
    assert [device["path"] for device in devices] == ["/dev/nvidia0", "/dev/nvidiactl"]
    assert rules[-2:] == [
        {"allow": True, "type": "c", "major": 195, "minor": minor, "access": "rw"}
        for minor in (0, 255)
    ]
    variables = after["process"].pop("env")
    assert variables == [*before["process"].pop("env"), "NVIDIA_VISIBLE_DEVICES=void"]
    mounts = after.pop("mounts")
    assert mounts[:-1] == before.pop("mounts")
    # A folder is the runtime's to mount; that it is a bind mount is said.
    assert mounts[-1] == {
        "destination": "/run/firmware",
        "type": "bind",
        "source": str(desk.host / "shim"),
        "options": ["rbind", "ro", "nosuid"],
    }
    assert after == before
    assert set(hooks) == {"createRuntime", "createContainer", "poststop"}
    for when, listed in hooks.items():
        assert listed[-1] == {
            "path": str(HOOK),
            "args": ["aliquot-hook", when, str(desk.slice)],
            "env": [f"ALIQUOT_RUNTIME_DIR={RUNTIME}"],
        }
    assert hooks["createRuntime"][:-1] == [
        {"path": "/usr/bin/vendor", "args": ["vendor", "go"], "env": ["A=b"]}
    ]


def test_runc_takes_the_changed_bundle(desk: Desk) -> None:
    """Its own checks of a bundle come before everything that needs a kernel's leave."""
    (desk.bundle / "config.json").unlink()
    desk.by_runc()
    bundle = edits.inspect(desk.bundle)
    edits.write(bundle, desk.apply())
    done = subprocess.run(
        ["/usr/sbin/runc", "--root", desk.folder / "state", "create", "edits-test"],
        cwd=desk.bundle,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
    )
    # (Its terminal has nobody at the other end.)
    assert "cannot allocate tty" in done.stderr, done.stderr


def test_changing_twice_is_changing_once(desk: Desk) -> None:
    desk.set(
        {
            **LEAST,
            "process": {"env": ["NVIDIA_VISIBLE_DEVICES=all", "A=b"]},
            "hooks": {"createRuntime": None, "prestart": [{"path": "/usr/bin/other"}]},
            "mounts": [{"destination": "/run/firmware/", "source": "/tmp"}],
        }
    )
    bundle = edits.inspect(desk.bundle)
    once = desk.apply()
    plan = desk.plan()
    edits.write(bundle, once)
    assert desk.apply() == once
    assert desk.plan() == plan
    assert once["process"]["env"] == ["A=b", "NVIDIA_VISIBLE_DEVICES=void"]
    assert [mount["source"] for mount in once["mounts"]] == [str(desk.host / "shim")]


def test_the_vendors_own_injection_is_taken_out(desk: Desk) -> None:
    nvidia = {"path": "/usr/bin/nvidia-container-runtime-hook", "args": ["x", "prestart"]}
    ctk = {"path": "/opt/bin/nvidia-ctk", "args": ["nvidia-ctk", "hook", "update-ldcache"]}
    own = {"path": "/usr/bin/somebody", "args": ["nvidia-ctk"]}
    stale = {"path": "/old/aliquot-hook", "args": ["aliquot-hook", "poststop", "/old"]}
    desk.set(
        {
            **LEAST,
            "hooks": {
                "prestart": [nvidia, own],
                "createContainer": [ctk],
                "startContainer": [own, ctk],
                "poststop": [stale],
            },
        }
    )
    hooks = desk.apply()["hooks"]
    assert hooks["prestart"] == [own]
    assert hooks["startContainer"] == [own]
    assert [hook["path"] for hook in hooks["createContainer"]] == [str(HOOK)]
    assert [hook["path"] for hook in hooks["poststop"]] == [str(HOOK)]


# -- Devices ---------------------------------------------------------------------------------------


def _rule(major: int | None, minor: int | None, access: str = "rw", **other: Any) -> dict[str, Any]:
    return {"allow": True, "type": "c", "major": major, "minor": minor, "access": access, **other}


def test_other_devices_of_the_driver_are_taken_out_with_their_rules(desk: Desk) -> None:
    def device(path: str, major: int, minor: int) -> dict[str, Any]:
        return {"path": path, "type": "c", "major": major, "minor": minor}

    kept = [device("/dev/nvidia-uvm", 510, 0), device("/dev/fuse", 10, 229)]
    deny = {"allow": False, "access": "rwm"}
    privileged = {"allow": True, "access": "rwm"}
    desk.set(
        {
            **LEAST,
            "linux": {
                "devices": [*kept, device("/dev/nvidia0", 1, 1), device("/dev/nvidia1", 195, 1)],
                "resources": {
                    "devices": [
                        *(deny, _rule(195, 1, "rwm"), _rule(510, 0), _rule(195, None)),
                        *(_rule(195, -1), _rule(195, None, "m"), _rule(None, None, "m")),
                        *(_rule(195, 0), privileged, _rule(195, None, allow=False)),
                        _rule(195, None, type="b"),
                    ]
                },
            },
        }
    )
    before = desk.config()
    linux = desk.apply()["linux"]
    assert linux["devices"][:2] == kept
    assert [device["path"] for device in linux["devices"][2:]] == ["/dev/nvidia0", "/dev/nvidiactl"]
    assert linux["devices"][2]["major"] == 195
    assert linux["resources"]["devices"] == [
        *(deny, _rule(510, 0), _rule(195, None, "m"), _rule(None, None, "m"), privileged),
        *(_rule(195, None, allow=False), _rule(195, None, type="b")),
        *(_rule(195, 0), _rule(195, 255)),
    ]
    # A device without a number is not one that all rules without a number are for.
    before["linux"]["devices"] = [{"path": "/dev/nvidia1"}]
    before["linux"]["resources"]["devices"] = [deny, privileged]
    desk.set(before)
    linux = desk.apply()["linux"]
    assert linux["resources"]["devices"][:2] == [deny, privileged]
    assert [device["path"] for device in linux["devices"]] == ["/dev/nvidia0", "/dev/nvidiactl"]


def test_in_a_user_namespace_a_device_from_elsewhere_is_mounted(desk: Desk) -> None:
    nodes = (
        DeviceNode("/dev/nvidia0", 195, 0, source="/driver/dev/nvidia0"),
        DeviceNode("/dev/nvidiactl", 195, 255),
    )
    plain = desk.apply(desk.needs(nodes=nodes))
    assert [device["path"] for device in plain["linux"]["devices"]] == [
        *("/dev/nvidia0", "/dev/nvidiactl")
    ]
    desk.set({**LEAST, "linux": {"namespaces": [{"type": "pid"}, {"type": "user"}]}})
    mapped = desk.apply(desk.needs(nodes=nodes))
    assert [device["path"] for device in mapped["linux"]["devices"]] == ["/dev/nvidiactl"]
    assert mapped["mounts"][-1]["source"] == "/driver/dev/nvidia0"
    assert mapped["mounts"][-1]["destination"] == "/dev/nvidia0"
    assert "nodev" not in mapped["mounts"][-1]["options"]
    assert mapped["linux"]["resources"] == plain["linux"]["resources"]


def test_links_by_number_are_made_for_devices_that_are_there(tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    try:
        os.mknod(dev / "nvidia0", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(dev / "other", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("device files cannot be made here")
    (dev / "file").touch()
    nodes = [
        DeviceNode("/dev/nvidia0", 1, 3),
        DeviceNode("/dev/renamed", 1, 5, source="/dev/other"),
        DeviceNode("/dev/nvidia0", 195, 9),
        DeviceNode("/dev/gone", 195, 1),
        DeviceNode("/dev/file", 195, 2),
        DeviceNode("/etc/passwd", 1, 7),
    ]
    (dev / "char").mkdir()
    # What led to another device once is made right; what is right is left alone.
    (dev / "char/1:3").symlink_to("../gone")
    for _ in range(2):
        edits.link_char_devices(nodes, dev)
        links = {path.name: path.readlink() for path in (dev / "char").iterdir()}
        assert links == {"1:3": Path("../nvidia0"), "1:5": Path("../other")}


# -- Mounts and the plan ---------------------------------------------------------------------------


def test_the_plan_says_what_lies_where(desk: Desk) -> None:
    desk.apply()
    host, folder = desk.host, desk.slice
    assert desk.plan()[:2] == [["aliquot-plan", "1"], ["root", str(desk.root.resolve())]]
    assert desk.planned("stage") == [[f"{folder}/stage"]]
    assert desk.planned("region") == [[f"{folder}/region"]]
    assert desk.planned("home") == [["/usr/lib"]]
    assert desk.planned("substitute") == [
        ["libcuda.so.1", f"{host}/shim/cuda", "libcuda-driver.so.1"],
        ["libnvidia-ml.so.1", f"{host}/shim/ml", "libnvidia-ml-driver.so.1"],
    ]
    cuda = ["libcuda.so.550.54", "libcuda.so.1", "libcuda.so"]
    ml = ["libnvidia-ml.so.550.54", "libnvidia-ml.so.1"]
    assert desk.planned("driver") == [
        ["libcuda.so.1", f"{host}/libcuda.so.550.54", *cuda],
        ["libnvidia-ml.so.1", f"{host}/{ml[0]}", *ml],
    ]
    assert desk.planned("library") == [[f"{host}/libnvidia-ptx.so.550.54", "libnvidia-ptx.so.1"]]
    assert desk.planned("withhold") == [["libnvidia-vulkan*"]]
    assert desk.planned("file") == [
        [f"{host}/nvidia-smi", "/usr/bin/nvidia-smi", "ro"],
        [f"{folder}/region/grant", "/run/aliquot/grant", "ro"],
        [f"{folder}/region/usage", "/run/aliquot/usage", "rw"],
        [f"{folder}/region/bell", "/run/aliquot/bell", "ro"],
        [str(STAT), "/usr/bin/aliquot-stat", "ro"],
    ]
    assert ["/usr/local/cuda*/compat"] in desk.planned("scan")
    assert ["/usr/lib"] not in desk.planned("scan")
    assert desk.planned("cache") == []
    # Whoever the container's root is on the host reads it.
    assert stat.S_IMODE((folder / "plan").stat().st_mode) == 0o644


def test_only_names_of_a_library_make_it_the_driver(desk: Desk) -> None:
    names = ["libcuda.so1", "libcuda.so..1", "libcuda.so.1.", "libcuda.so.\u00b2", "xlibcuda.so.1"]
    names += ["libcudart.so.1", "libcuda.so.1a"]
    libraries = tuple(Library(desk.put(f"other{i}"), (n,)) for i, n in enumerate(names))
    desk.apply(desk.needs(libraries=libraries))
    assert desk.planned("driver") == []
    assert [line[1] for line in desk.planned("library")] == names


def test_two_drivers_for_one_container_are_refused(desk: Desk) -> None:
    needs = desk.needs()
    second = Library(desk.put("libcuda.so.999"), ("libcuda.so.999", "libcuda.so.1"))
    with pytest.raises(EditError, match=r"two of libcuda\.so\.1 .*550\.54 and .*999: leave one"):
        desk.apply(desk.needs(libraries=(*needs.libraries, second)))
    desk.apply(desk.needs(libraries=needs.libraries * 2))
    assert len(desk.planned("driver")) == 2


def test_what_somebody_else_mounts_of_the_driver_is_ours_or_behind_the_shim(desk: Desk) -> None:
    needs = desk.needs()
    elsewhere = desk.folder / "driver-root/libcuda.so.550.54"
    elsewhere.parent.mkdir()
    os.link(desk.host / "libcuda.so.550.54", elsewhere)
    (desk.host / "alias").symlink_to("libnvidia-ml.so.550.54")

    def mount(source: object, destination: str) -> dict[str, Any]:
        return {"destination": destination, "type": "bind", "source": str(source)}

    gone = [
        mount(desk.host / "libcuda.so.550.54", "/usr/lib/libcuda.so.550.54"),
        mount(elsewhere, "/usr/lib64/libcuda.so.550.54"),
        mount(desk.host / "alias", "/elsewhere/libnvidia-ml.so.1"),
    ]
    kept = [
        mount(desk.put("old/libcuda.so.470"), "/opt/nvidia/lib/libcuda.so.470"),
        mount(desk.put("old/libnvidia-vulkan.so"), "/opt/vulkan//libnvidia-vulkan.so.1"),
        mount(desk.put("data"), "/data/libcudart.so.12"),
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/plain"},
    ]
    desk.set({**LEAST, "mounts": [*gone, *kept]})
    assert desk.apply(needs)["mounts"][:-1] == kept
    scanned = [line[0] for line in desk.planned("scan")]
    assert {"/opt/nvidia/lib", "/opt/vulkan"} <= set(scanned)
    assert "/data" not in scanned


def test_folders_that_the_program_looks_in_are_scanned(desk: Desk) -> None:
    path = "/opt/a:/opt/b;relative:$ORIGIN/lib::/opt/star*:/opt/tab\there:/opt/a"
    desk.set({**LEAST, "process": {"env": [f"LD_LIBRARY_PATH={path}"], "cwd": "/work"}})
    desk.apply()
    scanned = [line[0] for line in desk.planned("scan")]
    # With what is preferred for better hardware, and relative to where the program starts.
    assert [one for one in scanned if one.startswith(("/opt", "/work", "r", "$"))] == [
        f"{folder}{variants}"
        for folder in ("/opt/a", "/opt/b", "/work/relative", "/work")
        for variants in ("", "/glibc-hwcaps/*")
    ]
    assert "/usr/lib/glibc-hwcaps/*" in scanned
    assert len(scanned) == len(set(scanned))
    desk.apply(desk.needs(environment={"LD_LIBRARY_PATH": "/opt/vendor"}))
    scanned = [line[0] for line in desk.planned("scan")]
    assert "/opt/vendor" in scanned
    assert "/opt/a" not in scanned


def test_a_container_that_wants_more_folders_than_a_plan_has_is_refused(desk: Desk) -> None:
    path = ":".join(f"/{number}" for number in range(5000))
    desk.set({**LEAST, "process": {"env": [f"LD_LIBRARY_PATH={path}"]}})
    with pytest.raises(EditError, match="more than a container can need"):
        desk.apply()


def test_the_cache_has_the_driver_in_home_and_nothing_that_is_withheld(desk: Desk) -> None:
    flags = ldcache.own_flags()

    def entry(name: str, path: str, flags: int = flags) -> ldcache.Entry:
        return ldcache.Entry(name.encode(), path.encode(), flags)

    kept = [entry("libc.so.6", "/usr/lib64/libc.so.6"), entry("libz.so.1", "/opt/libz.so.1")]
    file = desk.root / "etc/ld.so.cache"
    file.parent.mkdir()
    file.write_bytes(
        ldcache.write(
            [
                *kept,
                entry("libcuda.so.1", "/opt/compat/libcuda.so.1"),
                entry("libcuda.so.1", "/usr/lib32/libcuda.so.1", 3),
                entry("libnvidia-vulkan.so.1", "/usr/lib64/libnvidia-vulkan.so.1"),
            ]
        )
    )
    (desk.root / "usr/lib64").mkdir(parents=True)
    before = file.read_bytes()
    desk.apply()
    assert desk.planned("home") == [["/usr/lib64"]]
    assert ["/opt/compat"] in desk.planned("scan")
    assert desk.planned("cache") == [[f"{desk.slice}/ld.so.cache"]]
    names = [name for library in desk.needs().libraries for name in library.names]
    assert set(ldcache.read((desk.slice / "ld.so.cache").read_bytes())) == {
        *kept,
        *(entry(name, f"/usr/lib64/{name}") for name in names),
    }
    assert stat.S_IMODE((desk.slice / "ld.so.cache").stat().st_mode) == 0o644
    assert file.read_bytes() == before


def test_folders_of_any_driver_in_the_cache_are_scanned(desk: Desk) -> None:
    names = {"libcuda.so.440": "old/libcuda.so.440", "libalias.so": "alias/libcuda.so"}
    names |= {"libcudart.so.12": "runtime/libcudart.so.12", "libcuda.so": "star*/libcuda.so"}
    entries = [
        ldcache.Entry(name.encode(), f"/opt/{path}".encode(), ldcache.own_flags())
        for name, path in names.items()
    ]
    (desk.root / "etc").mkdir()
    (desk.root / "etc/ld.so.cache").write_bytes(ldcache.write(entries))
    desk.apply()
    scanned = [line[0] for line in desk.planned("scan") if line[0].startswith("/opt/")]
    assert sorted(scanned) == ["/opt/alias", "/opt/old"]


def test_what_was_made_of_an_images_cache_is_remembered_for_its_like_only(desk: Desk) -> None:
    flags = ldcache.own_flags()
    file = desk.root / "etc/ld.so.cache"
    file.parent.mkdir()

    def found(count: int, needs: Needs) -> set[ldcache.Entry]:
        images = [ldcache.Entry(b"libx.so.%d" % n, b"/opt/%d" % n, flags) for n in range(count)]
        file.write_bytes(ldcache.write(images))
        desk.apply(needs)
        made = ldcache.read((desk.slice / "ld.so.cache").read_bytes())
        assert set(images) <= set(made)
        return set(made) - set(images)

    needs, fewer = desk.needs(), desk.needs(libraries=())
    ours = found(10, needs)
    assert len(ours) == sum(len(library.names) for library in needs.libraries)
    assert found(10, needs) == found(11, needs) == ours
    assert found(10, fewer) == set()
    # One that is too large to be kept is made each time.
    assert found(12000, needs) == ours


def test_the_hook_reads_every_plan(desk: Desk, tmp_path: Path) -> None:
    parser = tmp_path / "parse"
    command = ["gcc", "-D_GNU_SOURCE", f"-I{ROOT}/csrc", "-o", str(parser)]
    command += [f"{ROOT}/csrc/oci/{name}.c" for name in ("util", "state", "plan", "runc_args")]
    subprocess.run([*command, f"{ROOT}/tests/oci_parse.c"], check=True)

    def answer() -> str:
        plan = (desk.slice / "plan").read_bytes()
        sent = b"p" + len(plan).to_bytes(4, "little") + plan
        return subprocess.run([parser], input=sent, check=True, capture_output=True).stdout.decode()

    odd = "/a//b/../c:/\udcff:rel/./x::/*:/tab\there:$X:/" + "y" * 5000
    for text in ("", odd, ":", "/", "/.:/..:../..", " /x", "/x y"):
        desk.set({**LEAST, "process": {"env": [f"LD_LIBRARY_PATH={text}"], "cwd": "/w/../v/"}})
        desk.apply()
        scans = len(desk.planned("scan"))
        assert re.search(rf"^yes =\w+ =\w+ 2 1 5 {scans} 1 ", answer()), (text, answer())


def test_a_damaged_cache_leaves_no_plan(desk: Desk) -> None:
    (desk.root / "etc").mkdir()
    (desk.root / "etc/ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1\xff\xff")
    with pytest.raises(EditError, match="cut off or damaged: run ldconfig in the image"):
        desk.apply()
    assert list(desk.slice.iterdir()) == []


# -- Writing ---------------------------------------------------------------------------------------


def test_writing_keeps_mode_and_owner(desk: Desk) -> None:
    file = desk.bundle / "config.json"
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 5678)
    before = file.stat()
    bundle = edits.inspect(desk.bundle)
    changed = {**desk.apply(), "text": "\u00e4\ud800"}
    edits.write(bundle, changed)
    after = file.stat()
    assert desk.config() == changed
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        *(before.st_mode, before.st_uid, before.st_gid),
    )
    assert desk.files() == ["config.json", "rootfs"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(desk: Desk) -> None:
    bundle = edits.inspect(desk.bundle)
    before = (desk.bundle / "config.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        edits.write(bundle, {"a": float("nan")})
    # A disk that is full: a file system of one page, and more to write than that.
    script = (
        'mount -t tmpfs -o size=64k tmpfs "$1" && cp "$2" "$1/config.json" && '
        'exec "$0" -c "$3" "$1"'
    )
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from aliquot.hooks import edits\n"
        "path = Path(sys.argv[1])\n"
        "before = (path / 'config.json').read_bytes()\n"
        "try:\n"
        "    edits.write(edits.inspect(path), {'a': 'x' * 100000})\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
        "print(os.listdir(path), (path / 'config.json').read_bytes() == before)\n"
    )
    place = desk.folder / "full"
    place.mkdir()
    file = desk.bundle / "config.json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, place, file, code],
        check=False,
        capture_output=True,
        text=True,
    )
    assert file.read_bytes() == before
    assert desk.files() == ["config.json", "rootfs"]
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["No space left on device", "['config.json'] True"]


def test_a_mount_that_is_needed_replaces_what_was_there(desk: Desk) -> None:
    folder = BindMount(str(desk.host), "/opt/driver", ("bind", "ro"))
    desk.set({**LEAST, "mounts": [{"destination": "/opt/driver/.", "source": "/tmp"}]})
    mounts = desk.apply(Needs(mounts=(folder,)))["mounts"]
    assert mounts == [
        {
            "destination": "/opt/driver",
            "type": "bind",
            "source": str(desk.host),
            "options": ["bind", "ro"],
        }
    ]
