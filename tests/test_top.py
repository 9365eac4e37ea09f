"""``aliquot top``: looks that follow one another, on a terminal of any kind or on none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aliquot.agent.top_view import sparkline
from aliquot.agent.trail import Look, Trail, View, in_order

from agent_node import Node as AgentNode
from agent_node import end
from agent_parts import NEEDS_ROOT, make_bundle, swept
from commands import ALIQUOT, PATIENCE_SECONDS, Desk, desk, odd_driver, one_line
from reading_parts import ACCOUNT, GIB, MIB, Board, Node, device, part, served
from slots import Slot, write_time

pytestmark = NEEDS_ROOT

SHOW_CURSOR, ALTERNATE, BACK = "\x1b[?25h", "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver that nobody asks."""
    return odd_driver(tmp_path_factory.mktemp("odd") / "driver")


@pytest.fixture
def here(driver: Path, shim_library: Path, tmp_path: Path) -> Desk:
    """Somebody who types."""
    return desk(driver, shim_library, tmp_path)


@pytest.fixture
def node(here: Desk) -> Iterator[Node]:
    """A node with two devices and three slices of two containers."""
    here.runtime.mkdir(mode=0o711)
    made = Node(here.runtime, Board((device(0), device(1))))
    zero, one = made.devices
    made.ledger.add("train", part(zero, 3 * GIB, 30, cores_max=30), part(one, GIB))
    made.ledger.add("serve", part(zero, 2 * GIB, 70, weight=300))
    made.accounts["train", zero.uuid] = ACCOUNT
    made.accounts["serve", zero.uuid] = replace(ACCOUNT, wanted=0.9, received=0.7, turns=1000)
    made.sample()
    yield made
    made.readings._grants.close()


class Terminal:
    """A pseudo-terminal with ``aliquot top`` on it; ``shown`` is all that came out of it."""

    def __init__(self, here: Desk, *options: str, term: str = "xterm-256color") -> None:
        self.shown = ""
        environment = {**here.environment, "TERM": term, "LANG": "C.UTF-8"}
        self.ours, theirs = pty.openpty()
        self.resize(30, 150)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *ALIQUOT, "top", *options],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size, of which the kernel tells."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, holds: Callable[[str], Any], what: str) -> None:
        """Read until something holds of what has been shown since the last time."""
        found = ""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(found):
            left = deadline - time.monotonic()
            assert left > 0, f"{what} did not come: {found[-2000:]!r}"
            ready, _, _ = select.select([self.ours], (), (), left)
            assert ready, f"{what} did not come: {found[-2000:]!r}"
            found += os.read(self.ours, 65536).decode(errors="replace")
        self.shown += found

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.ours, text.encode())

    def ended(self) -> int:
        """Wait for its end; the terminal is as it was before. Returns the status."""
        status = self.process.wait(PATIENCE_SECONDS)
        while select.select([self.ours], (), (), 0)[0]:
            self.shown += os.read(self.ours, 65536).decode(errors="replace")
        assert termios.tcgetattr(self.theirs) == self.before
        if ALTERNATE in self.shown:
            assert self.shown.rindex(BACK) > self.shown.rindex(ALTERNATE)
            assert self.shown.rindex(SHOW_CURSOR) > self.shown.rindex(ALTERNATE)
        return status


@contextlib.contextmanager
def terminal(here: Desk, *options: str, **others: str) -> Iterator[Terminal]:
    """Have ``aliquot top`` run on a terminal while the block lasts."""
    made = Terminal(here, *options, **others)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.ours)
        os.close(made.theirs)


def has(*words: str) -> Callable[[str], bool]:
    return lambda text: all(word in text for word in words)


# -- On a terminal ---------------------------------------------------------------------------------


def test_it_shows_devices_and_slices_again_and_again(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "0.1") as shown:
        shown.until(has("default/train/main", "default/serve/main", "28/30%", "Acme 1"), "a look")
        assert ALTERNATE in shown.shown
        node.accounts["train", node.devices[0].uuid] = replace(ACCOUNT, wanted=0.5, received=0.21)
        shown.until(has("21/50%"), "what is new")
        shown.type("q")
        assert shown.ended() == 0


@pytest.mark.parametrize("key", ["q", "Q", "\x03", "\x04"])
def test_keys_end_it_and_leave_the_terminal_as_it_was(here: Desk, node: Node, key: str) -> None:
    with served(node), terminal(here, "-d", "3600") as shown:
        shown.until(has("28/30%"), "a look")
        # What stands for an arrow ends nothing.
        shown.type("\x1b[Ax")
        shown.type(key)
        assert shown.ended() == 0


def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "3600") as shown:
        shown.until(has("28/30%"), "a look")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() == 128 + signal.SIGTERM


def test_s_sorts_by_something_else_at_once(here: Desk, node: Node) -> None:
    def order(text: str) -> bool:
        return has("by name", "serve", "train")(text) and text.rindex("serve/") < text.rindex(
            "train/"
        )

    with served(node), terminal(here, "-d", "3600", "--sort", "turns") as shown:
        shown.until(has("by turns", "default/train/main"), "a look")
        shown.type("s")
        shown.until(order, "another order")
        shown.type("s")
        shown.until(has("by share"), "the first again")
        shown.type("q")
        assert shown.ended() == 0


def test_a_blank_looks_at_once(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "3600") as shown:
        shown.until(has("28/30%"), "a look")
        node.accounts.clear()
        shown.type(" ")
        shown.until(lambda text: "default/train/main" in text and "28/30%" not in text, "another")
        shown.type("q")
        assert shown.ended() == 0


def test_it_is_drawn_anew_when_the_window_changes(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "3600") as shown:
        shown.until(has("GATE", "28/30%"), "a wide one")
        shown.resize(30, 60)
        shown.until(lambda text: "28/30%" in text and "GATE" not in text, "a narrow one")
        shown.resize(9, 150)
        shown.until(has("GATE", "… 2 more"), "a low one")
        shown.type("q")
        assert shown.ended() == 0


def test_it_can_be_suspended(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "3600") as shown:
        shown.until(has("28/30%"), "a look")
        # In a session of its own nobody could wake it, so the kernel does not stop it: it gives the
        # terminal back and takes it again at once.
        shown.process.send_signal(signal.SIGTSTP)
        shown.until(has(BACK, ALTERNATE, "28/30%"), "the terminal's return")
        shown.type("q")
        assert shown.ended() == 0


def test_a_dumb_terminal_gets_lines_without_escapes(here: Desk, node: Node) -> None:
    with served(node), terminal(here, "-d", "0.1", term="dumb") as shown:
        shown.until(lambda text: text.count("default/serve/main") >= 3, "three looks")
        shown.type("\x03")
        assert shown.ended() == 0
    assert "\x1b" not in shown.shown


def test_an_agent_that_goes_and_comes_is_told_and_found_again(here: Desk, node: Node) -> None:
    with terminal(here, "-d", "0.1") as shown:
        with served(node):
            shown.until(has("28/30%"), "a look")
        shown.until(has("only slices of `aliquot run` are shown", "no slices"), "its end")
        with served(node):
            shown.until(has("28/30%"), "its return")
        shown.type("q")
        assert shown.ended() == 0


# -- For scripts -----------------------------------------------------------------------------------


def test_once_is_one_table_for_whoever_reads_no_terminal(here: Desk, node: Node) -> None:
    with served(node):
        shown = here.run("top", "--once")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].split() == [
        "DEVICE", "MODEL", "BUSY", "HISTORY", "USED", "MEMORY", "CORES", "SLICES", "HEALTH"
    ]  # fmt: skip
    assert lines[4].split() == [
        "SLICE", "DEVICE", "CORES", "SHARE", "HISTORY", "BUSY", "USED", "CAP", "WAIT", "TURNS",
        "GATE",
    ]  # fmt: skip
    # The most is first, and numbers end where their heads do.
    assert re.match(r"default/serve/main +0 GPU-06106106 +70-100% +70/90% ", lines[5])
    assert re.match(r"default/train/main +0 GPU-06106106 +30% +28/30% ", lines[6])
    for name in ("CORES", "SHARE", "BUSY", "USED", "CAP", "WAIT", "TURNS"):
        at = lines[4].index(name) + len(name) - 1
        assert all(line[at] != " " and line[at + 1] == " " for line in lines[5:8]), name
    assert len({len(line.rpartition("closed")[0]) for line in lines[5:8]}) == 1


def test_json_is_one_object_a_look(here: Desk, node: Node) -> None:
    usage = node.ledger.region("train") / "usage"
    slot = Slot(usage, 0)
    slot.charge(0, 600 * MIB)
    write_time(usage, 0, 2_000_000_000, 500_000_000, waits=10)
    node.sample()
    zero = node.devices[0]
    with served(node), here.start("top", "--json", "-d", "0.1") as running:
        assert running.stdout is not None
        first = json.loads(running.stdout.readline())
        write_time(usage, 0, 2_100_000_000, 540_000_000, waits=12)
        node.accounts["train", zero.uuid] = replace(ACCOUNT, turns=ACCOUNT.turns + 5)
        node.sample()
        told = first
        while told["slices"][1]["devices"][0]["waits"] != 12:
            before, told = told, json.loads(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE_SECONDS) == 0
    slot.die()
    assert [one["uuid"] for one in told["devices"]] == [one.uuid for one in node.devices]
    assert [one["name"] for one in told["slices"]] == ["default/serve/main", "default/train/main"]
    ours = told["slices"][1]["devices"][0]
    assert ours["charge_bytes"] == 600 * MIB
    assert (ours["wanted"], ours["received"]) == (0.3, 0.28)
    assert ours["mean_wait_seconds"] == pytest.approx(0.02)
    # Both from the same two looks.
    assert ours["waits_per_second"] > 0
    for rate in ("mean_wait_seconds", "waits_per_second", "turns_per_second", "device_share"):
        assert first["slices"][1]["devices"][0][rate] is None
    assert before["slices"][1]["devices"][0]["waits"] == 10


def test_it_reads_what_ps_reads(here: Desk, node: Node) -> None:
    with served(node):
        told = json.loads(here.run("top", "--once", "--json", "--sort", "name").stdout)
        pieces = {piece["name"]: piece for piece in here.slices()}
    for piece in told["slices"]:
        for row in piece["devices"]:
            for rate in ("mean_wait_seconds", "waits_per_second", "turns_per_second"):
                assert row.pop(rate) is None
            assert row.pop("device_share") is None
        assert pieces.pop(piece["name"]) == piece
    assert not pieces


def test_what_cannot_be_read_is_a_line_and_the_status(here: Desk, node: Node) -> None:
    os.truncate(node.ledger.region("train") / "usage", 7)
    node.sample()
    with served(node):
        shown = here.run("top", "--once")
    assert shown.returncode == 1
    assert "default/train/main" in one_line(shown)
    assert "default/serve/main" in shown.stdout


def test_without_an_agent_there_are_runs_only_and_no_fault(here: Desk) -> None:
    shown = here.run("top", "--once")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1] == "no slices"
    assert shown.stdout.startswith("only slices of `aliquot run` are shown: ")
    told = json.loads(here.run("top", "--once", "--json").stdout)
    assert (told["slices"], told["devices"], told["faults"]) == ([], [], [])
    assert told["note"].startswith("only slices of `aliquot run` are shown: ")


def test_what_a_container_is_called_is_no_markup_and_moves_no_cursor(
    here: Desk, node: Node
) -> None:
    node.ledger.add("[red]x[/]\x1b[2J", part(node.devices[0]))
    with served(node):
        shown = here.run("top", "--once")
    assert "default/[red]x[/]?[2J/main" in shown.stdout


@pytest.mark.parametrize("options", [["-d", "0"], ["-d", "nan"], ["--sort", "luck"], ["x"]])
def test_a_wrong_option_is_one_line(here: Desk, options: list[str]) -> None:
    shown = here.run("top", "--once", *options)
    assert shown.returncode == 2
    assert "aliquot top --help" in one_line(shown)


def test_a_closed_output_is_no_traceback(here: Desk) -> None:
    with here.start("top", "-d", "0.1", stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""


def test_a_real_agents_containers_are_shown(here: Desk, tmp_path: Path) -> None:
    node = AgentNode(tmp_path / "node")
    here = replace(here, environment={**here.environment, "ALIQUOT_RUNTIME_DIR": str(node.base)})
    node.folder.mkdir()
    with swept(node.base), node.agent("tools"):
        assert node.start(make_bundle(node.folder / "one")).returncode == 0
        try:
            told = json.loads(here.run("top", "--once", "--json").stdout)
            with terminal(here, "-d", "0.1") as shown:
                shown.until(has("0.0 MiB", "1.0 GiB", "Paper 16"), "its slice")
                shown.type("q")
                assert shown.ended() == 0
        finally:
            end(node.running[0])
    (piece,) = told["slices"]
    assert (piece["container_id"], piece["state"]) == ("one", "running")
    (row,) = piece["devices"]
    assert (row["device_seconds"], row["wait_seconds"], row["waits"]) == (0, 0, 0)
    # Its arbiter knows the slice, and has nobody else for the device.
    assert (row["cores"], row["cores_max"], row["gate"]) == (10, 100, "free")
    assert (row["held_seconds"], row["turns"], row["wanted"], row["received"]) == (0, 0, None, None)


# -- What follows from two looks -------------------------------------------------------------------


def look(*, sampled: float | None = None, **changes: Any) -> Look:
    """A look at one slice on one device, whose counters were read at the time ``sampled``."""
    from aliquot.agent.survey import Slice, SliceDevice  # noqa: PLC0415 - only here

    values: dict[str, Any] = {
        "index": 0, "uuid": "GPU-0", "model": "M", "charge": 5, "unclaimed": 0, "unseen": 0,
        "cap": 9, "peak": 5, "refusals": 0, "enforcement": "shim", "cores": 0, "cores_max": 100,
        "weight": 100, "priority": 0, "gate": "open", "busy": None, "device_seconds": 1.0,
        "wait_seconds": 1.0, "waits": 10, "let_through": 0,
    }  # fmt: skip
    row = SliceDevice(**{**values, **changes})
    piece = Slice("one", "/one", "running", None, (), 1, (row,), (), 0, sampled_unix=sampled)
    return Look(slices=[piece])


def only(view: View) -> Any:
    (row,) = view.rows
    return row


def test_rates_are_of_the_time_between_two_looks() -> None:
    trail = Trail()
    first = only(trail.add(look(), 10.0))
    assert (first.rates.mean_wait_seconds, first.rates.device_share, first.share) == (None,) * 3
    second = only(trail.add(look(device_seconds=1.5, wait_seconds=1.2, waits=14), 12.0))
    assert second.rates.mean_wait_seconds == pytest.approx(0.05)
    assert second.rates.waits_per_second == 2
    assert second.share == second.rates.device_share == 0.25
    assert list(second.history) == [None, 0.25]
    # Nobody waited: that is known.
    third = only(trail.add(look(device_seconds=1.5, wait_seconds=1.2, waits=14), 13.0))
    assert (third.rates.mean_wait_seconds, third.share) == (0, 0)


def test_between_two_readings_of_the_agent_rates_stay() -> None:
    trail = Trail()
    trail.add(look(sampled=100.0, account=ACCOUNT), 1.0)
    later = {"device_seconds": 2.0, "wait_seconds": 3.0, "waits": 14}
    more = replace(ACCOUNT, turns=ACCOUNT.turns + 4)
    # Four seconds between its readings, one between our looks.
    row = only(trail.add(look(sampled=104.0, account=more, **later), 2.0))
    assert (row.rates.device_share, row.rates.mean_wait_seconds) == (0.25, 0.5)
    assert row.rates.turns_per_second == 4
    row = only(trail.add(look(sampled=104.0, account=more, **later), 3.0))
    assert (row.rates.device_share, row.rates.mean_wait_seconds) == (0.25, 0.5)
    assert row.rates.turns_per_second == 0
    row = only(trail.add(look(sampled=105.0, account=more, **later), 4.0))
    assert (row.rates.device_share, row.rates.mean_wait_seconds) == (0, 0)


def test_what_was_counted_anew_has_no_rate() -> None:
    trail = Trail()
    trail.add(look(account=ACCOUNT), 1.0)
    row = only(trail.add(look(account=replace(ACCOUNT, turns=0), device_seconds=0.0), 2.0))
    assert row.rates.turns_per_second is None
    assert row.rates.device_share is None
    assert row.share == ACCOUNT.received


def test_a_share_is_that_of_whoever_knows_best() -> None:
    trail = Trail()
    unknown = replace(ACCOUNT, wanted=None, received=None)
    trail.add(look(account=unknown), 1.0)
    assert only(trail.add(look(account=unknown, device_seconds=1.5), 2.0)).share == 0.5
    assert only(trail.add(look(account=unknown, device_seconds=1.5, busy=0.4), 3.0)).share == 0.4
    assert only(trail.add(look(account=ACCOUNT, busy=0.4), 4.0)).share == ACCOUNT.received


def test_rows_are_sorted_the_most_first_and_the_unknown_last() -> None:
    none, little, much = (
        only(Trail().add(look(account=account, charge=charge), 0))
        for account, charge in (
            (None, 7),
            (replace(ACCOUNT, received=0.1), None),
            (ACCOUNT, 8),
        )
    )
    assert in_order([none, little, much], "share") == [much, little, none]
    assert in_order([none, little, much], "memory") == [much, none, little]


def test_a_sparkline_has_a_mark_for_each_share() -> None:
    assert sparkline([None, 0.0, 0.01, 0.5, 0.99, 1.0], 6) == " ▁▁▅█" + "█"
    assert sparkline([0.5] * 9, 3) == "▅▅▅"
    assert sparkline([1.0], 4) == "   █"
    assert sparkline([float("inf"), -1.0], 2, " .#") == "#."
    assert sparkline([1.0], 0) == ""
