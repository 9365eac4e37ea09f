"""``aliquot run``: what a program meets inside, how it ends, and what is left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import (
    ALIQUOT,
    PATIENCE_SECONDS,
    TESTS,
    UUIDS,
    Desk,
    desk,
    needs_namespaces,
    odd_desk,
    odd_driver,
    one_line,
    wait_for,
)

HOLDER = str(TESTS / "holder.py")

# Says what a program sees of the driver: each name that it is told to load, then the library that
# is mapped, then what is in its environment.
LOOK = """
import ctypes, json, os, sys
answer = {}
for name in sys.argv[1:]:
    library = ctypes.CDLL(name)
    answer[name] = library.cuInit(0)
shim = os.environ["ALIQUOT_SHIM"]
real = [line.split()[-1] for line in open("/proc/self/maps") if "r-xp" in line]
answer["shims"] = len({path for path in real if path == shim})
answer["drivers"] = sorted({path for path in real if "libcuda" in path and path != shim})
answer["environment"] = dict(os.environ)
print(json.dumps(answer))
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver of two devices that the simulator does not make."""
    return odd_driver(tmp_path_factory.mktemp("odd") / "driver")


@pytest.fixture
def here(driver: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """A desk with that driver."""
    return odd_desk(driver, shim_library, tmp_path)


@needs_namespaces
def test_every_name_and_path_of_the_driver_leads_to_the_shim(here: Desk, driver: Path) -> None:
    names = ["libcuda.so", "libcuda.so.1", "libcuda.so.999.1"]
    names += [str(driver), str(driver.resolve()), f"{driver.parent}/./libcuda.so"]
    for first in names:
        result = here.run(
            "run", "--memory", "1GiB", "--", sys.executable, "-c", LOOK, first, *names
        )
        assert result.returncode == 0, result.stderr
        seen = json.loads(result.stdout)
        assert [seen[name] for name in names] == [0] * len(names)
        assert seen["shims"] == 1
        assert seen["drivers"] == [f"{driver.parent}/.aliquot/libcuda-driver.so.1"]
    assert here.left_behind() == []


def test_in_environment_mode_the_loaders_names_lead_to_the_shim(here: Desk, driver: Path) -> None:
    names = ["libcuda.so.1", "libcuda.so"]
    arguments = ["--mode", "environment", "--memory", "1GiB"]
    result = here.run("run", *arguments, "--", sys.executable, "-c", LOOK, *names)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert [seen[name] for name in names] == [0, 0]
    assert seen["shims"] == 1
    assert seen["drivers"] == [str(driver.resolve())]
    assert here.left_behind() == []


@pytest.mark.usefixtures("plain_shim")
def test_in_environment_mode_what_is_preloaded_already_stays(here: Desk) -> None:
    own = {"LD_PRELOAD": "libm.so.6", "LD_LIBRARY_PATH": here.environment["LD_LIBRARY_PATH"]}
    command = ["--mode", "environment", "--memory", "1GiB", "--", "/usr/bin/env"]
    result = here.run("run", *command, env=own)
    values = dict(line.split("=", 1) for line in result.stdout.splitlines())
    first, ours = values["LD_PRELOAD"].split(":")
    assert first == "libm.so.6"
    lib, theirs = values["LD_LIBRARY_PATH"].split(":")
    assert theirs == own["LD_LIBRARY_PATH"]
    assert ours == f"{lib}/libcuda.so.1"


@needs_namespaces
def test_a_program_gets_the_environment_it_would_have_had(here: Desk) -> None:
    result = here.run("run", "--memory", "1GiB", "--device", "1", "--", "/usr/bin/env")
    values = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert values == {**here.environment, "CUDA_VISIBLE_DEVICES": UUIDS[1]}


def test_the_devices_of_a_slice_are_the_visible_ones_in_the_drivers_order(here: Desk) -> None:
    result = here.run("run", "--memory", "1=1GiB,0=2GiB", "--", "/usr/bin/env")
    assert f"CUDA_VISIBLE_DEVICES={UUIDS[0]},{UUIDS[1]}\n" in result.stdout


@pytest.mark.parametrize("mode", [pytest.param("namespace", marks=needs_namespaces), "environment"])
def test_caps_hold_for_what_a_program_starts(here: Desk, mode: str) -> None:
    inner = f"{sys.executable} {HOLDER} libcuda.so.1 600 600 300; exit 9"
    command = ["--mode", mode, "--memory", "1GiB", "--device", "0"]
    chain = ["/bin/sh", "-c", f"exec /usr/bin/env -- /bin/sh -c '({inner})'"]
    result = here.run("run", *command, "--", *chain)
    assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "300 0", "holding"]
    assert result.returncode == 9


@needs_namespaces
@pytest.mark.usefixtures("plain_shim")
def test_a_program_without_any_environment_is_still_capped(here: Desk, driver: Path) -> None:
    command = ["/usr/bin/env", "-i", sys.executable, HOLDER, str(driver), "600", "600"]
    result = here.run("run", "--memory", "1GiB", "--device", "0", "--", *command)
    assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "holding"]


@needs_namespaces
def test_a_working_folder_beside_the_driver_shows_the_shim(here: Desk, driver: Path) -> None:
    command = ["--memory", "1GiB", "--device", "0", "--"]
    result = subprocess.run(
        [*ALIQUOT, "run", *command, sys.executable, HOLDER, "./libcuda.so.1", "2000"],
        env=here.environment,
        cwd=driver.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == ["init 0", "2000 2", "holding"], result.stderr


@needs_namespaces
def test_the_grant_cannot_be_written_inside(here: Desk, driver: Path) -> None:
    folder = driver.parent / ".aliquot"
    script = f"echo x > {folder}/grant || echo x > {folder}/new || rm {folder}/usage"
    result = here.run("run", "--memory", "1GiB", "--", "/bin/sh", "-c", script)
    assert result.returncode != 0
    assert result.stderr.count("Read-only") + result.stderr.count("busy") == 3


@needs_namespaces
def test_outside_the_slice_nothing_changes(here: Desk, driver: Path) -> None:
    before = sorted(driver.parent.iterdir()), Path("/proc/self/mountinfo").read_text()
    with here.start("run", "--memory", "1GiB", "--", "/bin/cat", stdin=subprocess.PIPE) as running:
        wait_for(lambda: bool(here.slices()), "the slice")
        assert sorted(driver.parent.iterdir()) == before[0]
        running.communicate("")
    assert Path("/proc/self/mountinfo").read_text() == before[1]


@needs_namespaces
def test_a_compatibility_driver_in_another_folder_is_covered_too(
    here: Desk, driver: Path, shim_library: Path, tmp_path: Path
) -> None:
    other = odd_driver(tmp_path / "other")
    both = desk(driver, shim_library, tmp_path)
    both.environment["LD_LIBRARY_PATH"] += f":{other.parent}"
    script = ["--memory", "1GiB", "--device", "0", "--", sys.executable, HOLDER]
    for path in (driver, other):
        result = both.run("run", *script, str(path), "600", "600")
        assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "holding"], result.stderr
    looked = both.run("run", "--memory", "1GiB", "--", sys.executable, "-c", LOOK, str(other))
    # Each covered file keeps its own real one.
    assert json.loads(looked.stdout)["drivers"] == [f"{other.parent}/.aliquot/libcuda-driver.so.1"]
    assert here.left_behind() == []


@needs_namespaces
def test_links_on_the_way_to_the_driver_are_covered_where_they_lie(
    driver: Path, shim_library: Path, tmp_path: Path
) -> None:
    outer = tmp_path / "lib"
    inner = outer / "nvidia" / "current"
    odd_driver(inner)
    (outer / "libcuda.so.1").symlink_to("nvidia/current/libcuda.so.1")
    (outer / "libother.so").write_text("stays")
    nested = desk(outer / "libcuda.so.1", shim_library, tmp_path)
    names = [f"{outer}/libcuda.so.1", f"{inner}/libcuda.so.999.1", "libcuda.so"]
    result = nested.run("run", "--memory", "1GiB", "--", sys.executable, "-c", LOOK, *names)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert [seen[name] for name in names] == [0, 0, 0]
    assert seen["shims"] == 1
    listed = nested.run("run", "--memory", "1GiB", "--", "cat", f"{outer}/libother.so")
    assert listed.stdout == "stays"


@needs_namespaces
def test_files_that_a_container_toolkit_mounted_singly_stay_in_sight(
    here: Desk, driver: Path, tmp_path: Path
) -> None:
    """A container with a GPU: the driver's files are bind mounts on empty files of the image."""
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to("libcuda.so.999.1")
    for name in ("libcuda.so.999.1", "libother.so"):
        (folder / name).touch()
    other = tmp_path / "other"
    other.write_text("stays")
    script = f"mount --bind {driver.resolve()} {folder}/libcuda.so.999.1 && "
    script += f'mount --bind {other} {folder}/libother.so && exec "$@"'
    unshare = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    here.prefix = (*unshare, "sh", "-c", script, "sh", *ALIQUOT)
    here.environment["LD_LIBRARY_PATH"] = str(folder)
    inner = f"cat {folder}/libother.so; echo; exec {sys.executable} {HOLDER} "
    for path in ("libcuda.so", f"{folder}/libcuda.so.999.1"):
        command = ["--mode", "namespace", "--memory", "1GiB", "--device", "0", "--", "sh", "-c"]
        result = here.run("run", *command, f"{inner} {path} 600 600")
        assert result.stdout.split("\n")[:4] == ["stays", "init 0", "600 0", "600 2"], result.stderr


# -- How a program ends --------------------------------------------------------------------------


def test_the_status_is_the_programs(here: Desk) -> None:
    for script, status in (("exit 0", 0), ("exit 41", 41), ("kill -TERM $$", 143)):
        assert here.run("run", "--memory", "1GiB", "--", "sh", "-c", script).returncode == status
    assert here.left_behind() == []


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("no-such-program", 127, "no such program"),
        ("/nonexistent/program", 127, "no such program"),
        ("/etc/passwd", 126, "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_run_is_one_line(
    here: Desk, command: str, status: int, why: str
) -> None:
    result = here.run("run", "--memory", "1GiB", "--", command)
    assert result.returncode == status
    assert f"'{command}' cannot be run: {why}" in one_line(result)
    assert here.left_behind() == []


def test_signals_sent_to_the_command_reach_the_program(here: Desk) -> None:
    script = """
import signal, sys
caught = []
numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT]
numbers += [signal.SIGWINCH, signal.SIGALRM, signal.SIGRTMIN + 5]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
for _ in numbers:
    print(int(signal.sigwait(numbers)), flush=True)
"""
    numbers: list[int] = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]
    numbers += [signal.SIGINT]
    numbers += [signal.SIGWINCH, signal.SIGALRM, signal.SIGRTMIN + 5]
    command = ["--memory", "1GiB", "--", sys.executable, "-c", script]
    with here.start("run", *command) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        for number in numbers:
            running.send_signal(number)
            assert running.stdout.readline() == f"{int(number)}\n"
        assert running.wait() == 0


def test_dispositions_and_mask_of_a_program_are_those_of_the_command(here: Desk) -> None:
    command = ["run", "--memory", "1GiB", "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    bare = subprocess.run([*command[4:]], capture_output=True, text=True, check=True)
    assert here.run(*command).stdout == bare.stdout


def test_a_shell_can_stop_continue_and_interrupt_it_from_the_terminal(here: Desk) -> None:
    script = "import os, signal; print('pid', os.getpid(), flush=True)\nwhile True: signal.pause()"
    command = [*ALIQUOT, "run", "--memory", "1GiB", "--", sys.executable, "-c", script]
    with _Terminal(["bash", "--norc", "--noprofile", "-i"], here.environment) as terminal:
        terminal.type(f"{shlex.join(command)}\n")
        program = int(terminal.wait_for(rb"pid (\d+)\r\n"))
        terminal.type("\x1a")
        terminal.wait_for(rb"(Stopped)")
        assert _state(program) == "T"
        terminal.type("fg\n")
        wait_for(lambda: _state(program) == "S", "the program's waking")
        terminal.type("\x03")
        terminal.type("echo status=$?\n")
        assert terminal.wait_for(rb"status=(\d+)\r\n") == b"130"
        terminal.type("exit\n")
    assert here.left_behind() == []


class _Terminal:
    """A pseudo-terminal with a program on it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._pid, self._fd = pty.fork()
        if not self._pid:
            os.execvpe(command[0], command, environment)
        self._text = b""

    def __enter__(self) -> _Terminal:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.waitpid(self._pid, 0)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, pattern: bytes) -> bytes:
        """Read until ``pattern`` appears; returns its group and forgets what came before."""
        while not (match := re.search(pattern, self._text)):
            assert select.select([self._fd], [], [], PATIENCE_SECONDS)[0], self._text
            self._text += os.read(self._fd, 4096)
        self._text = self._text[match.end() :]
        return match[1]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_slice_outlives_a_command_that_was_killed_and_goes_with_its_last_process(
    here: Desk,
) -> None:
    command = ["run", "--name", "kept", "--memory", "1GiB", "--device", "0", "--"]
    running = here.start(
        *command, sys.executable, HOLDER, "libcuda.so.1", "600", stdin=subprocess.PIPE
    )
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(3)] == ["init 0\n", "600 0\n", "holding\n"]
    running.kill()
    running.wait()
    (piece,) = here.slices()
    assert piece["state"] == "orphaned"
    assert piece["devices"][0]["charge_bytes"] >= 600 << 20
    refused = here.run("run", "--name", "kept", "--memory", "1GiB", "--", "true")
    assert refused.returncode == 1
    assert "'kept'" in refused.stderr.splitlines()[-1]
    (process,) = piece["processes"]
    assert running.stdin is not None
    running.stdin.close()
    wait_for(lambda: not Path(f"/proc/{process['pid']}").exists(), "the program's end")
    assert [piece["state"] for piece in here.slices("--all")] == ["ended"]
    assert here.left_behind() == []
    running.stdout.close()


def test_the_run_directory_goes_when_the_last_process_has_gone(here: Desk, tmp_path: Path) -> None:
    """Without anybody asking: what the program left running is waited for."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"(trap '' HUP; read line < {gate}) > /dev/null 2>&1 & exit 3"
    result = here.run("run", "--memory", "1GiB", "--", "sh", "-c", script)
    assert result.returncode == 3
    assert len(here.left_behind()) == 1
    assert [piece["state"] for piece in here.slices()] == ["orphaned"]
    gate.write_text("go\n")
    wait_for(lambda: here.left_behind() == [], "the removal")


def test_a_command_killed_at_any_moment_leaves_nothing_that_stays(here: Desk) -> None:
    """Moments spread over the whole start, measured by how long an undisturbed one takes."""
    began = time.monotonic()
    here.run("run", "--memory", "1GiB", "--", "true")
    whole = time.monotonic() - began
    for step in range(24):
        running = here.start("run", "--memory", "1GiB", "--", "true", stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(whole * step / 24)
        running.kill()
        running.communicate()
    wait_for(lambda: here.slices("--all") == [], "the removal of all")
    assert here.left_behind() == []


def test_many_that_start_at_once_all_run(here: Desk) -> None:
    script = f"{sys.executable} {HOLDER} libcuda.so.1 600 600"
    started = [
        here.start("run", "--memory", "1GiB", "--", "sh", "-c", script, stdin=subprocess.DEVNULL)
        for _ in range(12)
    ]
    for one in started:
        assert one.communicate()[0].splitlines() == ["init 0", "600 0", "600 2", "holding"]
        assert one.returncode == 0
    assert here.left_behind() == []


def test_a_process_that_closed_every_descriptor_keeps_its_slice(here: Desk) -> None:
    script = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", '''
import ctypes, os, sys
assert ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
os.write(1, b"up")
keep = os.dup2(0, 250)
os.closerange(0, 250)
os.read(keep, 1)
'''], stdin=int(sys.argv[1]), stdout=subprocess.PIPE, close_fds=True)
assert child.stdout.read(2) == b"up"
os._exit(0)
"""
    read_end, write_end = os.pipe()
    result = subprocess.run(
        [*ALIQUOT, "run", "--memory", "1GiB", "--", sys.executable, "-c", script, str(read_end)],
        env=here.environment,
        pass_fds=[read_end],
        check=False,
    )
    os.close(read_end)
    assert result.returncode == 0
    assert [len(piece["processes"]) for piece in here.slices()] == [1]
    os.close(write_end)
    wait_for(lambda: here.left_behind() == [], "the removal")


# -- Where namespaces are not allowed ------------------------------------------------------------


def _without_namespaces() -> tuple[str, ...]:
    """A prefix under which unshare(2) answers EPERM, as in most containers."""
    script = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
# Load the call's number; unshare and clone3 answer EPERM and ENOSYS; all else is allowed.
def op(code, jt, jf, k): return struct.pack("=HBBI", code, jt, jf, k)
number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, number) + op(0x06, 0, 0, 0x00050001)
program += op(0x06, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(program, len(program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
wanted = Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(wanted), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"""
    return (sys.executable, "-c", script, *ALIQUOT)


def test_without_namespaces_it_falls_back_and_says_so(here: Desk) -> None:
    here.prefix = _without_namespaces()
    command = ["--memory", "1GiB", "--device", "0", "--", sys.executable, HOLDER, "libcuda.so.1"]
    result = here.run("run", *command, "600", "600")
    assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "holding"], result.stderr
    assert result.returncode == 0
    (line,) = [line for line in result.stderr.splitlines() if "namespace" in line]
    assert "LD_PRELOAD" in line
    assert here.left_behind() == []


def test_without_namespaces_asking_for_them_is_one_line(here: Desk) -> None:
    here.prefix = _without_namespaces()
    result = here.run("run", "--mode", "namespace", "--memory", "1GiB", "--device", "0", "--", "ls")
    assert result.returncode == 1
    assert "not permitted" in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert here.left_behind() == []


@needs_namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="there is no capability to give up")
def test_without_the_capability_to_mount_a_user_namespace_is_enough(
    here: Desk, driver: Path
) -> None:
    here.prefix = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", *ALIQUOT)
    shown = here.run(
        "run", "--mode", "namespace", "--memory", "1GiB", "--", "cat", "/proc/self/uid_map"
    )
    if "not permitted" in shown.stderr:
        pytest.skip("user namespaces are reserved for root on this machine")
    assert shown.stdout.split() == ["0", "0", "1"], shown.stderr
    for path in ("libcuda.so", str(driver.resolve())):
        command = ["--mode", "namespace", "--memory", "1GiB", "--device", "0", "--"]
        result = here.run("run", *command, sys.executable, HOLDER, path, "600", "600")
        assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "holding"], result.stderr
    assert here.left_behind() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_needs_no_privilege(
    driver: Path, plain_shim: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As `nobody`, with everything that they need to read within their reach."""
    folder = Path(f"/tmp/aliquot-test-{os.getpid()}-{tmp_path_factory.getbasetemp().name}")
    folder.mkdir()
    try:
        _as_nobody(driver, plain_shim, folder)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def _as_nobody(driver: Path, shim_library: Path, folder: Path) -> None:
    for source, name in ((driver.parent, "driver"), (shim_library, "shim.so")):
        subprocess.run(["cp", "-a", str(source), str(folder / name)], check=True)
    (folder / "shim.so").chmod(0o755)
    folder.chmod(0o755)
    own = folder / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    theirs = desk(folder / "driver" / "libcuda.so.1", folder / "shim.so", own)
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # By a shell, since setpriv itself still finds the way by its former privileges.
    readable = subprocess.run(
        [*prefix, "sh", "-c", 'exec "$@"', "sh", *ALIQUOT, "--help"],
        check=False,
        capture_output=True,
        env=theirs.environment,
    )
    if readable.returncode:
        pytest.skip("this Python or checkout cannot be read by nobody")
    theirs.prefix = (*prefix, *ALIQUOT)
    (folder / "holder.py").write_text(Path(HOLDER).read_text())
    command = ["--mode", "namespace", "--memory", "1GiB", "--device", "0", "--", sys.executable]
    result = theirs.run("run", *command, f"{folder}/holder.py", "libcuda.so", "600", "600")
    assert result.stdout.splitlines() == ["init 0", "600 0", "600 2", "holding"], result.stderr
    assert theirs.left_behind() == []
    assert own.joinpath("runtime").stat().st_mode & 0o777 == 0o700
    caps = theirs.run("run", *command[:-1], "grep", "^Cap", "/proc/self/status").stdout
    held = {line.split()[0]: int(line.split()[1], 16) for line in caps.splitlines()}
    assert held["CapEff:"] == held["CapPrm:"] == held["CapAmb:"] == 0


def test_a_full_file_system_leaves_nothing(here: Desk) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a tmpfs of its own")
    script = f"mkdir -p {here.runtime} && mount -t tmpfs -o size=64k,mode=700 t {here.runtime} && "
    script += '"$@"; status=$?; ls -A "$ALIQUOT_RUNTIME_DIR"; exit $status'
    here.prefix = ("unshare", "-m", "sh", "-c", script, "sh", *ALIQUOT)
    result = here.run("run", "--memory", "1GiB", "--", "true")
    assert result.returncode == 1
    assert os.strerror(errno.ENOSPC) in result.stderr.splitlines()[-1]
    assert result.stdout.split() == [".lock"]
