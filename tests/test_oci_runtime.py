"""``aliquot-runtime`` asks the agent before containers are made, and hands over to the real one."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import oci
from commands import PATIENCE_SECONDS
from oci import Agent, granting, one_line, program, reply

# Stands where runc would: tells how it was called.
_RECORDER = r"""
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char *argv[], char *envp[]) {
    FILE *out = fopen(getenv("RECORD"), "we");
    if (!out)
        return 9;
    for (int i = 0; i < argc; i++)
        fprintf(out, "argv %s\n", argv[i]);
    for (char **variable = envp; *variable; variable++)
        fprintf(out, "env %s\n", *variable);
    DIR *fds = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(fds));)
        if (atoi(entry->d_name) != dirfd(fds) && atoi(entry->d_name) != fileno(out) &&
            entry->d_name[0] != '.')
            fprintf(out, "fd %s\n", entry->d_name);
    struct sigaction action;
    for (int i = 1; i < 65; i++)
        if (sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            fprintf(out, "ignored %d\n", i);
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int i = 1; i < 65; i++)
        if (sigismember(&blocked, i) == 1)
            fprintf(out, "blocked %d\n", i);
    char cwd[4096];
    fprintf(out, "umask %o\npid %d\ncwd %s\n", umask(0), getpid(), getcwd(cwd, sizeof cwd));
    return 7;
}
"""


@dataclass
class Desk:
    """A folder with a runtime that records, an agent's folder, and a bundle."""

    folder: Path
    runtime: Path
    base: Path
    bundle: Path

    @property
    def environment(self) -> dict[str, str]:
        """What containerd would have in its environment."""
        return {
            "PATH": f"{self.runtime.parent}:/usr/bin:/bin",
            "RECORD": str(self.folder / "record"),
            "ALIQUOT_RUNTIME_DIR": str(self.base),
        }

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run aliquot-runtime to its end."""
        options.setdefault("env", self.environment)
        options.setdefault("cwd", self.folder)
        return subprocess.run(
            [program("aliquot-runtime"), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            **options,
        )

    def record(self) -> dict[str, list[str]] | None:
        """How the real runtime was called since the last look."""
        path = self.folder / "record"
        if not path.exists():
            return None
        found: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            found.setdefault(key, []).append(value)
        path.unlink()
        return found


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that records, called runc."""
    folder = tmp_path_factory.mktemp("recorder")
    (folder / "runc.c").write_text(_RECORDER)
    command = ["gcc", "-D_GNU_SOURCE", "-Wall", "-Werror", "-o", str(folder / "runc")]
    subprocess.run([*command, str(folder / "runc.c")], check=True)
    return folder / "runc"


@pytest.fixture
def desk(tmp_path: Path, recorder: Path) -> Desk:
    """A desk of one test's."""
    base, bundle = tmp_path / "base", tmp_path / "bundle"
    base.mkdir()
    bundle.mkdir()
    return Desk(tmp_path, recorder, base, bundle)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--bundle", "{bundle}", "c1"],
        ["create", "-b", "{bundle}", "c1"],
        ["create", "-b={bundle}", "c1"],
        ["create", "-bundle={bundle}", "c1"],
        ["create", "c1", "--bundle={bundle}"],
        ["create", "--bundle", "bundle", "--", "c1"],
        ["create", "--bundle", "link", "--pid-file", "create", "--no-pivot", "c1"],
        ["create", "--bundle", "/", "--bundle", "{bundle}", "c1"],
        ["run", "-d", "--bundle", "{bundle}", "--preserve-fds", "2", "c1"],
        ["restore", "--image-path", "x", "--bundle", "{bundle}", "c1"],
        ["--root", "create", "create", "--bundle", "{bundle}", "c1"],
        ["--root=/x", "--log", "run", "--log-format=json", "create", "-b", "{bundle}", "c1"],
        ["--systemd-cgroup", "--debug=true", "create", "--bundle", "{bundle}", "c1"],
        ["--version=false", "create", "--bundle", "{bundle}", "c1"],
        ["--", "create", "--bundle", "{bundle}", "c1"],
    ],
)
def test_making_asks_with_id_and_bundle(desk: Desk, arguments: Sequence[str]) -> None:
    arguments = [argument.format(bundle=desk.bundle) for argument in arguments]
    (desk.folder / "link").symlink_to("bundle")
    with granting(desk.base) as agent:
        result = desk.run(*arguments)
    assert (result.returncode, result.stderr) == (7, "")
    record = desk.record()
    assert record is not None
    assert record["argv"] == [str(desk.runtime), *arguments]
    pid = int(record["pid"][0])
    assert agent.asked == [(oci.CREATE, {"id": "c1", "bundle": str(desk.bundle)}, pid)]


def test_the_bundle_is_the_working_folder_by_default(desk: Desk) -> None:
    with granting(desk.base) as agent:
        desk.run("create", "c1", cwd=desk.bundle)
        desk.run("create", "--bundle=", "c1", cwd=desk.bundle)
    assert [asked["bundle"] for _, asked, _ in agent.asked] == [str(desk.bundle)] * 2
    record = desk.record()
    assert record is not None
    assert record["cwd"] == [str(desk.bundle)]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        ["-v", "create", "c1"],
        ["--help", "create", "c1"],
        ["create", "--help"],
        ["create", "-h", "c1"],
        ["create"],
        ["start", "c1"],
        ["state", "create"],
        ["delete", "--force", "c1"],
        ["kill", "c1", "9"],
        ["exec", "--process", "run", "c1"],
        ["--root", "create", "delete", "c1"],
        ["--log", "create", "--log-format", "run", "ps", "c1"],
        ["features"],
        ["--unknown", "list"],
        ["", "create", "c1"],
    ],
)
def test_all_else_never_needs_the_agent(desk: Desk, arguments: Sequence[str]) -> None:
    result = desk.run(*arguments)
    assert (result.returncode, result.stderr) == (7, "")
    record = desk.record()
    assert record is not None
    assert record["argv"] == [str(desk.runtime), *arguments]


def test_the_real_runtime_finds_everything_as_it_was(desk: Desk) -> None:
    keep, inherited = os.pipe()
    os.set_inheritable(inherited, True)

    def prepare() -> None:
        os.umask(0o137)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    plain = subprocess.run(
        [desk.runtime, "create", "c1"],
        env=desk.environment,
        cwd=desk.bundle,
        check=False,
        preexec_fn=prepare,
        pass_fds=[inherited],
        stdin=subprocess.DEVNULL,
    )
    expected = desk.record()
    with granting(desk.base):
        result = desk.run(
            "create",
            "c1",
            cwd=desk.bundle,
            preexec_fn=prepare,
            pass_fds=[inherited],
            stdin=subprocess.DEVNULL,
        )
    found = desk.record()
    os.close(keep)
    os.close(inherited)
    assert plain.returncode == result.returncode == 7
    assert found is not None
    assert expected is not None
    del found["pid"], expected["pid"]
    assert found == expected
    assert found["umask"] == ["137"]
    assert str(inherited) in found["fd"]


def test_an_agent_that_refuses_is_quoted(desk: Desk) -> None:
    words = 'no device has 4 GiB left: "a" has\t1\\2 \x1b[2J ü'
    shown = 'aliquot: no device has 4 GiB left: "a" has?1\\2 ?[2J ü'
    log = desk.folder / "log.json"
    log.write_text('{"level":"info"}\n')
    with Agent(desk.base, lambda kind, _: reply(kind, oci.REFUSED, words)):
        arguments = ["create", "-b", str(desk.bundle), "c1"]
        result = desk.run("--log", str(log), "--log-format", "json", *arguments)
        assert result.returncode == 1
        assert one_line(result, "aliquot") == shown
        first, second = log.read_text().splitlines()
        assert first == '{"level":"info"}'
        entry = json.loads(second)
        assert sorted(entry) == ["level", "msg", "time"]
        assert (entry["level"], entry["msg"]) == ("error", shown)
        when = dt.datetime.fromisoformat(entry["time"].replace("Z", "+00:00"))
        now = dt.datetime.now(dt.timezone.utc)
        assert abs(now - when) < dt.timedelta(minutes=10)

        log.unlink()
        result = desk.run(f"--log={log}", *arguments)
        assert result.returncode == 1
        text = log.read_text()
        assert text.startswith('time="20')
        quoted = json.dumps(shown, ensure_ascii=False)
        assert text.endswith(f'Z" level=error msg={quoted}\n')

        result = desk.run("--log", str(desk.folder / "no/log"), *arguments)
        assert result.returncode == 1
        assert "No such file or directory" in result.stderr
        assert shown in result.stderr
    assert desk.record() is None


def _absent(desk: Desk) -> str:
    result = desk.run("create", "--bundle", str(desk.bundle), "c1")
    assert result.returncode == 1
    assert desk.record() is None
    return one_line(result, "aliquot")


def test_an_absent_agent_is_named(desk: Desk) -> None:
    path = desk.base / "runtime.sock"
    told = f"aliquot: the agent does not answer on {path}: "
    cure = ": start it (systemctl start aliquot-agent)"
    assert _absent(desk) == f"{told}No such file or directory{cure}"
    with socket.socket(socket.AF_UNIX) as dead:
        folder = os.open(desk.base, os.O_PATH)
        dead.bind(f"/proc/self/fd/{folder}/runtime.sock")
        os.close(folder)
    assert _absent(desk) == f"{told}Connection refused{cure}"


def test_a_long_path_to_the_agent_is_no_obstacle(desk: Desk) -> None:
    desk.base = desk.base / ("d" * 120)
    assert "No such file" in _absent(desk)
    desk.base.mkdir()
    with granting(desk.base) as agent:
        assert desk.run("create", "-b", str(desk.bundle), "c1").returncode == 7
    assert len(agent.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"short",
        reply(oci.CREATE, magic=1),
        reply(oci.POSTSTOP),
        reply(oci.CREATE, 2),
        reply(oci.CREATE)[:12] + b"\xff\xff\xff\x7f",
        reply(oci.CREATE, oci.REFUSED, "cut")[:-1],
    ],
)
def test_what_answers_like_no_agent_is_none(desk: Desk, answer: bytes) -> None:
    with Agent(desk.base, lambda *_: answer):
        line = _absent(desk)
    assert str(desk.base / "runtime.sock") in line


def test_a_silent_agent_is_given_up(desk: Desk) -> None:
    with Agent(desk.base, lambda *_: None):
        assert "Operation timed out" in _absent(desk)


def test_a_bundle_that_is_not_there(desk: Desk) -> None:
    with granting(desk.base) as agent:
        result = desk.run("create", "-b", "missing", "c1")
    assert result.returncode == 1
    assert one_line(result, "aliquot") == "aliquot: bundle missing: No such file or directory"
    assert agent.asked == []


def test_the_real_runtime_is_chosen(desk: Desk, tmp_path: Path) -> None:
    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return desk.run("list", env={**desk.environment, **variables})

    named = tmp_path / "crun"
    shutil.copy2(desk.runtime, named)
    run(ALIQUOT_OCI_RUNTIME=str(named))
    record = desk.record()
    assert record is not None
    assert record["argv"][0] == str(named)
    run(ALIQUOT_OCI_RUNTIME="crun", PATH=f"relative::{tmp_path}")
    record = desk.record()
    assert record is not None
    assert record["argv"][0] == str(named)
    for name, why in (
        ("./crun", "is no program on PATH"),
        ("nosuch", "is no program on PATH"),
        ("/nowhere/runc", "is not a program"),
        (str(tmp_path), "is not a program"),
    ):
        result = run(ALIQUOT_OCI_RUNTIME=name)
        assert result.returncode == 1
        assert one_line(result, "aliquot").startswith(f"aliquot: ALIQUOT_OCI_RUNTIME: '{name}' ")
        assert why in result.stderr


def test_it_never_executes_itself(desk: Desk, tmp_path: Path) -> None:
    own = program("aliquot-runtime")
    folders = [tmp_path / name for name in ("hard", "soft", "copy")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "twin").mkdir()
    shutil.copy2(own, tmp_path / "twin/aliquot-runtime")
    own = tmp_path / "twin/aliquot-runtime"
    os.link(own, folders[0] / "runc")
    (folders[1] / "runc").symlink_to(own)
    shutil.copy2(own, folders[2] / "runc")
    path = ":".join(str(folder) for folder in folders)
    for arguments in (["list"], ["--version"]):
        environment = {**desk.environment, "PATH": f"{path}:{desk.runtime.parent}"}
        result = subprocess.run([own, *arguments], check=False, env=environment)
        assert result.returncode == 7
        record = desk.record()
        assert record is not None
        assert record["argv"] == [str(desk.runtime), *arguments]
    for folder in folders:
        environment = {**desk.environment, "ALIQUOT_OCI_RUNTIME": str(folder / "runc")}
        refused = subprocess.run(
            [own, "list"], check=False, env=environment, capture_output=True, text=True
        )
        assert refused.returncode == 1
        assert "is aliquot-runtime itself" in one_line(refused, "aliquot")
