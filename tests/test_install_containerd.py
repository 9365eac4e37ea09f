"""``aliquot install containerd``, held against what containerd 1.6, 1.7 and 2 take files for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aliquot.agent import install
from aliquot.agent.errors import AliquotError

import containerd_files
from commands import ALIQUOT, wait_for
from nvidia_files import UnreachableError
from shops import TABLES, Shop, make_shop, without

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = """\
# Written by hand.
version = 2
root = "/var/lib/other"   # a comment

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "local/pause:1"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".containerd]
      snapshotter = "native"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        base_runtime_spec = "/etc/containerd/base.json"
        container_annotations = ["example.org/*"]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          SystemdCgroup = true
          NoNewKeyring = true
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
        runtime_type = "io.containerd.kata.v2"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/opt/other"
[debug]
  level = "info"
"""
WRITTEN_3 = WRITTEN.replace("version = 2", "version = 3").replace(TABLES[2], TABLES[3])
WRITTEN_3 = WRITTEN_3.replace('    sandbox_image = "local/pause:1"\n', "").replace(
    '      snapshotter = "native"\n', ""
)
DROP_IN = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local/other:1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


@pytest.fixture(scope="session", params=["installed", *containerd_files.SUITES])
def program(request: pytest.FixtureRequest) -> str:
    """A containerd program; skips the test where it cannot be had."""
    if request.param == "installed":
        found = shutil.which("containerd")
        if found is None:
            pytest.skip("no containerd is installed")
        return found
    try:
        return str(containerd_files.containerd(request.param))
    except UnreachableError as error:
        pytest.skip(str(error))


@pytest.fixture
def shop(program: str, tmp_path: Path) -> Shop:
    """One with each containerd."""
    return make_shop(program, tmp_path)


@pytest.fixture
def one_shop(tmp_path: Path) -> Shop:
    """One with the installed containerd, for what does not depend on the release."""
    program = shutil.which("containerd")
    if program is None:
        pytest.skip("no containerd is installed")
    return make_shop(program, tmp_path)


def is_2(shop: Shop) -> bool:
    return shop.version.startswith("2.")


CONFIGURATIONS: dict[str, Callable[[Shop], object]] = {
    "missing": lambda _: None,
    "empty": lambda shop: shop.write(""),
    "version only": lambda shop: shop.write("version = 2"),
    "comments and no version": lambda shop: shop.write("# nothing\n\n[debug]\n  level = 'info'\n"),
    "debian's": lambda shop: shop.write(
        'version = 2\n\n[plugins]\n  [plugins."io.containerd.grpc.v1.cri"]\n'
        '    [plugins."io.containerd.grpc.v1.cri".cni]\n      bin_dir = "/usr/lib/cni"\n'
    ),
    "written by hand": lambda shop: shop.write(WRITTEN),
    "written by hand for its schema": lambda shop: shop.write(WRITTEN_3 if is_2(shop) else WRITTEN),
    "runtimes behind dots": lambda shop: shop.write(
        f'version = 2\n[plugins."{TABLES[2]}".containerd]\n'
        'runtimes.runc.runtime_type = "io.containerd.runc.v2"\n'
        "runtimes.runc.options.SystemdCgroup = true\n"
    ),
    "without a last line's end": lambda shop: shop.write(WRITTEN.rstrip()),
    "with a carriage return": lambda shop: shop.write(WRITTEN.replace("\n", "\r\n")),
    "the default, written out": lambda shop: shop.write(
        subprocess.run(
            [shop.program, "config", "default"], check=True, capture_output=True, text=True
        ).stdout
    ),
    "an import that says something else": lambda shop: (
        shop.write(f'imports = ["{shop.folder}/conf.d/*.toml"]\n{WRITTEN}'),
        shop.write('version = 2\n[plugins."io.containerd.internal.v1.opt"]\n', "conf.d/a.toml"),
    ),
    "imports with the CRI plugin's table": lambda shop: (
        shop.write(f'imports = ["{shop.folder}/conf.d/*.toml"]\n{WRITTEN}'),
        shop.write(DROP_IN.replace("other:1", "first:1"), "conf.d/a.toml"),
        shop.write(DROP_IN, "conf.d/b.toml"),
        shop.write('version = 2\n[metrics]\n  address = "127.0.0.1:1"\n', "conf.d/c.toml"),
    ),
    "an import by a relative name": lambda shop: (
        shop.write(f'imports = ["own.toml"]\n{WRITTEN}'),
        shop.write(DROP_IN, "own.toml"),
    ),
    "an import that imports": lambda shop: (
        shop.write(f'imports = ["{shop.folder}/a.toml"]\nversion = 2\n'),
        shop.write(f'imports = ["{shop.folder}/b.toml"]\n{DROP_IN}', "a.toml"),
        shop.write('version = 2\n[metrics]\n  address = "127.0.0.1:1"\n', "b.toml"),
    ),
}


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
def test_the_handler_is_added_and_nothing_else_then_taken_out_to_the_byte(
    shop: Shop, configuration: str
) -> None:
    CONFIGURATIONS[configuration](shop)
    files, meant = shop.content(), shop.dump()
    if is_2(shop) and not shop.config.exists():
        meant = shop.dump(shop.folder / "none.toml")

    done = json.loads(shop.install("--json").stdout)

    assert done["changed"]
    assert done["restart"] == "systemctl restart containerd"
    handler = shop.handlers()["aliquot"]
    assert handler["runtime_type"] == "io.containerd.runc.v2"
    assert handler["options"]["BinaryName"] == str(shop.binary)
    assert handler["pod_annotations"] == ["aliquot.dev/*"]
    assert "aliquot.dev/*" in handler["container_annotations"]
    assert without(shop.dump(), "aliquot") == without(meant, "aliquot")
    # What somebody wrote still stands there.
    for name, content in files.items():
        assert isinstance(content, bytes)
        assert content.rstrip() in (shop.folder / name).read_bytes(), name

    installed = shop.content()
    again = json.loads(shop.install("--json").stdout)
    assert not again["changed"]
    assert shop.content() == installed

    shop.install("--remove")
    assert shop.content() == files
    assert "nothing to do" in shop.install("--remove").stdout
    assert shop.content() == files


def test_the_handler_is_as_runc_is_there(shop: Shop) -> None:
    shop.write(WRITTEN_3 if is_2(shop) else WRITTEN)
    shop.install()
    handler = shop.handlers()["aliquot"]
    assert handler["options"]["SystemdCgroup"] is True
    assert handler["options"]["NoNewKeyring"] is True
    assert handler["base_runtime_spec"] == "/etc/containerd/base.json"
    assert handler["container_annotations"] == ["aliquot.dev/*", "example.org/*"]
    assert set(shop.handlers()) == {"runc", "kata", "aliquot"}


def test_what_runc_runs_instead_is_told(one_shop: Shop) -> None:
    text = WRITTEN.replace("SystemdCgroup = true", 'BinaryName = "/usr/bin/crun"')
    one_shop.write(text)
    run = one_shop.install()
    assert "runs /usr/bin/crun: write that path into /etc/aliquot/oci-runtime" in run.stderr
    assert one_shop.handlers()["aliquot"]["options"]["BinaryName"] == str(one_shop.binary)
    assert one_shop.handlers()["runc"]["options"]["BinaryName"] == "/usr/bin/crun"


def test_another_binary_replaces_the_first_and_the_original_stays(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    files = one_shop.content()
    one_shop.install()
    other = one_shop.binary.with_name("other runtime")
    shutil.copy(one_shop.binary, other)
    one_shop.install("--binary", str(other))
    assert one_shop.handlers()["aliquot"]["options"]["BinaryName"] == str(other)
    one_shop.install("--remove")
    assert one_shop.content() == files


def test_a_dry_run_shows_the_change_and_makes_none(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    files = one_shop.content()
    shown = one_shop.install("--dry-run").stdout
    assert f"+++ {one_shop.config}" in shown
    assert f'+BinaryName = "{one_shop.binary}"' in shown
    said = json.loads(one_shop.install("--dry-run", "--json").stdout)
    assert (said["changed"], said["would_change"]) == (False, True)
    assert said["difference"] == shown
    assert one_shop.version.startswith(said["containerd"])
    assert one_shop.content() == files
    one_shop.install()
    installed = one_shop.content()
    assert f'-BinaryName = "{one_shop.binary}"' in one_shop.install("--remove", "--dry-run").stdout
    assert one_shop.content() == installed


def test_owner_mode_and_link_stay(one_shop: Shop) -> None:
    real = one_shop.write(WRITTEN, "real.toml")
    real.chmod(0o600)
    one_shop.config.symlink_to("real.toml")
    one_shop.install()
    assert one_shop.config.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    # What was kept may hold secrets, too.
    assert (one_shop.folder / "real.toml.before-aliquot").stat().st_mode & 0o777 == 0o600
    one_shop.install("--remove")
    assert (one_shop.config.is_symlink(), real.read_text()) == (True, WRITTEN)
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_was_made_goes_again(one_shop: Shop) -> None:
    one_shop.folder.rmdir()
    one_shop.install()
    assert "aliquot" in one_shop.handlers()
    one_shop.install("--remove")
    assert not one_shop.folder.exists()


# -- A file that was changed since ---------------------------------------------------------------


def test_of_a_file_that_was_changed_since_just_the_handler_is_taken_out(shop: Shop) -> None:
    shop.write(WRITTEN)
    shop.install()
    mine = shop.config.read_text()
    shop.write(mine.replace('level = "info"', 'level = "debug"') + "[ttrpc]\n  uid = 7\n")
    meant = shop.dump()
    assert "has it no more" in shop.install("--remove").stdout
    assert shop.config.read_text() == (
        WRITTEN.replace('level = "info"', 'level = "debug"') + "[ttrpc]\n  uid = 7\n"
    )
    assert without(shop.dump(), "aliquot") == without(meant, "aliquot")
    assert list(shop.content()) == ["config.toml"]


def test_what_others_have_come_to_depend_on_stays(shop: Shop) -> None:
    """On containerd 1.x runc is only there because it was written with the handler."""
    shop.write("version = 2\n")
    shop.install()
    table = f'[plugins."{TABLES[2]}".containerd.runtimes.later]\n'
    shop.write(shop.config.read_text() + table + 'runtime_type = "io.containerd.runc.v2"\n')
    shop.install("--remove")
    assert set(shop.handlers()) == {"runc", "later"}


def test_a_file_that_was_put_back_by_hand_is_left_alone(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    files = one_shop.content()
    one_shop.install()
    one_shop.write(WRITTEN)
    one_shop.install("--remove")
    assert one_shop.content() == files
    one_shop.install()
    one_shop.write("version = 2\n")
    one_shop.install("--remove")
    assert one_shop.content() == {"config.toml": b"version = 2\n"}


def test_installing_again_after_a_change_keeps_the_change(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    one_shop.install()
    one_shop.write(one_shop.config.read_text().replace('level = "info"', 'level = "debug"'))
    one_shop.install()
    assert "aliquot" in one_shop.handlers()
    one_shop.install("--remove")
    assert one_shop.config.read_text() == WRITTEN.replace('level = "info"', 'level = "debug"')


def test_a_handler_that_was_rewritten_is_refused(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    one_shop.install()
    one_shop.write(one_shop.config.read_text().replace("# The handler:\n", ""))
    line = one_shop.refuse("--remove")
    assert "take it out by hand" in line
    assert str(one_shop.config.with_name("config.toml.before-aliquot")) in line


def test_a_handler_that_has_become_the_default_is_refused(shop: Shop) -> None:
    shop.write("version = 2\n")
    shop.install()
    table = f'[plugins."{TABLES[2]}".containerd]\ndefault_runtime_name = "aliquot"\n'
    shop.write(shop.config.read_text() + table)
    assert "default_runtime_name" in shop.refuse("--remove")


def test_a_schema_of_which_containerd_leaves_something_out_is_to_be_rewritten_first(
    shop: Shop,
) -> None:
    """Containerd 2.1 reads this snapshotter only where there is a runtime beside it."""
    shop.write(f'version = 2\n[plugins."{TABLES[2]}".containerd]\nsnapshotter = "native"\n')
    if not is_2(shop):
        shop.install()
        assert "aliquot" in shop.handlers()
        return
    line = shop.refuse()
    assert "images.snapshotter differently" in line
    assert "containerd config migrate" in line
    migrated = subprocess.run(
        [shop.program, "--config", shop.config, "config", "migrate"],
        check=True,
        capture_output=True,
        text=True,
    )
    shop.write(migrated.stdout)
    shop.install()
    assert "aliquot" in shop.handlers()


# -- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = 1\n[plugins.cri]\n", "is of schema 1"),
        ("[plugins.cri]\nx = 1\n", "is of schema 1"),
        ('disabled_plugins = ["cri"]\n', "is of schema 1"),
        ("version = 1\n", "write version = 2"),
        ('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n', "disabled_plugins"),
        ("version = 9\n", "config.toml: "),
        ('version = "2"\n', "config.toml: "),
        ("version = 2\nx", "config.toml: "),
        ("version = 2\nversion = 2\n", "config.toml: "),
        (
            (
                f'version = 2\n[plugins."{TABLES[2]}".containerd.runtimes]\n'
                'runc = {runtime_type = "io.containerd.runc.v2"}\n'
                'aliquot = {runtime_type = "io.containerd.runc.v2"}\n'
            ),
            "not written by this command",
        ),
        (
            (
                f'version = 2\n[plugins."{TABLES[2]}".containerd]\n'
                'runtimes = {runc = {runtime_type = "io.containerd.runc.v2"}}\n'
            ),
            "in braces, where none can be added",
        ),
        (f'version = 2\n[plugins."{TABLES[2]}"]\nenable_selinux = 5\n', "containerd refuses it"),
    ],
)
def test_what_cannot_be_added_to_is_one_line(shop: Shop, text: str, said: str) -> None:
    shop.write(text)
    line = shop.refuse()
    assert said in line
    assert str(shop.config) in line


def test_what_is_no_file_is_one_line(one_shop: Shop) -> None:
    one_shop.config.write_bytes(b"version = 2\n# \xff\n")
    assert "config.toml: " in one_shop.refuse()
    one_shop.config.unlink()
    one_shop.config.mkdir()
    assert "directory" in one_shop.refuse().lower()
    one_shop.config.rmdir()
    one_shop.write("[plugins]\n" + "#" * (5 << 20))
    assert "4 MiB" in one_shop.refuse("--no-validate")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime-name", "Aliquot"], "--runtime-name"),
        (["--runtime-name", "a.b"], "--runtime-name"),
        (["--runtime-name", ""], "--runtime-name"),
        (["--binary", "/nowhere/aliquot-runtime"], "--binary"),
        (["--binary", "/etc/passwd"], "--binary"),
        (["--containerd", "no-such-program"], "no program no-such-program"),
        (["--containerd", "/bin/false"], "containerd refuses it"),
        (["--containerd", "/bin/true"], "containerd"),
        (["--walk"], "--walk"),
    ],
)
def test_a_wrong_option_is_one_line(one_shop: Shop, options: list[str], said: str) -> None:
    one_shop.write(WRITTEN)
    assert said in one_shop.refuse(*options)


def test_only_one_handler_of_ours_at_a_time(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    one_shop.install("--runtime-name", "shared")
    assert "shared" in one_shop.handlers()
    assert "--runtime-name shared" in one_shop.refuse()
    assert "--runtime-name shared" in one_shop.refuse("--remove")
    one_shop.install("--runtime-name", "shared", "--remove")
    assert one_shop.content() == {"config.toml": WRITTEN.encode()}


def test_notes_that_are_not_ours_are_refused(one_shop: Shop) -> None:
    one_shop.write(WRITTEN)
    for text in ("", "[]", "{}", '{"runtime": 5}', "[" * 100_000):
        one_shop.write(text, "config.toml.aliquot")
        assert "config.toml.aliquot" in one_shop.refuse()
        assert "config.toml.aliquot" in one_shop.refuse("--remove")
    (one_shop.folder / "config.toml.aliquot").unlink()
    one_shop.install()
    (one_shop.folder / "config.toml.before-aliquot").unlink()
    assert "config.toml.before-aliquot: is missing" in one_shop.refuse("--remove")


def test_without_containerd_the_schema_must_be_written(shop: Shop) -> None:
    assert "version = 2" in shop.refuse("--no-validate")
    shop.write(WRITTEN)
    run = shop.install("--no-validate", "--containerd", "no-such-program")
    assert "was not asked" in run.stderr
    assert shop.handlers()["aliquot"]["options"]["SystemdCgroup"] is True
    shop.install("--no-validate", "--remove")
    assert shop.content() == {"config.toml": WRITTEN.encode()}
    shop.write("version = 2\n")
    shop.install("--no-validate")
    assert set(shop.handlers()) == {"runc", "aliquot"}


# -- Whenever it ends ----------------------------------------------------------------------------

_DIES = """
import os, pathlib, sys
count = int(sys.argv.pop(1))
def dies(name, own):
    def call(*arguments, **options):
        global count
        count -= 1
        if count < 0:
            os._exit(99)
        return own(*arguments, **options)
    setattr(pathlib.Path, name, call)
dies("replace", pathlib.Path.replace)
dies("unlink", pathlib.Path.unlink)
from aliquot.agent.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("remove", [False, True], ids=["install", "remove"])
def test_wherever_it_is_killed_the_file_is_whole_and_the_next_one_ends_it(
    one_shop: Shop, remove: bool
) -> None:
    arguments = ["install", "containerd", "--config", str(one_shop.config)]
    arguments += ["--containerd", one_shop.program, "--binary", str(one_shop.binary)]
    arguments += ["--remove"] if remove else []
    deaths = 0
    while True:
        shutil.rmtree(one_shop.folder)
        one_shop.write(WRITTEN)
        one_shop.install()
        installed = one_shop.config.read_bytes()
        if not remove:
            one_shop.install("--remove")
        died = subprocess.run(
            [sys.executable, "-c", _DIES, str(deaths), *arguments], check=False, capture_output=True
        )
        assert one_shop.config.read_bytes() in (WRITTEN.encode(), installed)
        if died.returncode != 99:
            break
        deaths += 1
        if remove:
            one_shop.install("--remove")
            assert one_shop.content() == {"config.toml": WRITTEN.encode()}
        one_shop.install()
        assert one_shop.config.read_bytes() == installed
        one_shop.install("--remove")
        assert one_shop.content() == {"config.toml": WRITTEN.encode()}
    assert died.returncode == 0, died.stderr
    assert deaths >= 3


def test_a_file_that_changes_while_it_is_looked_at_is_left_alone(
    one_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes after the change was made up and before it is put in place."""
    one_shop.write(WRITTEN)
    apply = install._apply

    def late(*arguments: object) -> None:
        one_shop.write("version = 2\n")
        apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(install, "_apply", late)
    arguments = ["--config", str(one_shop.config), "--binary", str(one_shop.binary)]
    with pytest.raises(AliquotError, match="changed by somebody meanwhile"):
        install.containerd_command(arguments, standalone_mode=False)
    assert one_shop.content() == {"config.toml": b"version = 2\n"}


# -- A real daemon -------------------------------------------------------------------------------


@pytest.fixture
def daemon_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose socket paths are short enough."""
    folder = Path(f"/tmp/aliquot-cd-{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="containerd runs as root only")
def test_the_cri_plugin_of_a_real_daemon_takes_the_handler(shop: Shop, daemon_folder: Path) -> None:
    """A daemon of our own: a CRI plugin that finds fault with its runtimes does not come up."""
    socket = daemon_folder / "c.sock"
    text = (
        f'version = 2\nroot = "{daemon_folder}/root"\nstate = "{daemon_folder}/state"\n'
        f'[grpc]\n  address = "{socket}"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\n  path = "{daemon_folder}/opt"\n'
        f'[plugins."{TABLES[2]}"]\n  restrict_oom_score_adj = true\n'
        f'[plugins."{TABLES[2]}".cni]\n  conf_dir = "{daemon_folder}/cni"\n'
        f'[plugins."{TABLES[2]}".containerd]\n  snapshotter = "native"\n'
    )
    if is_2(shop):
        text = text.replace("version = 2", "version = 3").replace(TABLES[2], TABLES[3])
        text = text.replace(f'{TABLES[3]}".containerd', 'io.containerd.cri.v1.images"')
        text = text.replace('images""', 'images"')
    shop.write(text)
    shop.install()
    ctr = Path(shop.program).with_name("ctr")
    with (daemon_folder / "log").open("w+") as log:
        daemon = subprocess.Popen([shop.program, "--config", shop.config], stdout=log, stderr=log)
        try:

            def plugins() -> list[list[str]]:
                run = subprocess.run(
                    [ctr, "--address", socket, "plugins", "ls"],
                    check=False, capture_output=True, text=True,
                )  # fmt: skip
                return [line.split() for line in run.stdout.splitlines()]

            wait_for(lambda: bool(plugins()) or daemon.poll() is not None, "containerd's answer")
            states = {tuple(row[:2]): row[-1] for row in plugins() if len(row) > 2}
            log.seek(0)
            assert states.get(("io.containerd.grpc.v1", "cri")) == "ok", log.read()
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


# -- What is written of it -----------------------------------------------------------------------


def test_every_option_is_on_the_page() -> None:
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    run = subprocess.run(
        [*ALIQUOT, "install", "containerd", "--help"], check=True, capture_output=True, text=True
    )
    options = [
        word for line in run.stdout.splitlines() for word in line.split()[:1] if word[:2] == "--"
    ]
    assert len(options) >= 7
    for option in options:
        assert f"`{option}" in page or option == "--help", option
