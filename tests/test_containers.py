"""Real containers, started by a real containerd through Aliquot's handler, on simulated devices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri import CriError, need_containerd
from site_under_test import GIB, MIB, OUT_OF_MEMORY, Site, read_filled, running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One node for all tests of this file: each leaves it empty."""
    need_containerd()
    with running() as site:
        yield site


@pytest.fixture(autouse=True)
def leaves_nothing(site: Site) -> Iterator[None]:
    """Hold every test to giving all back."""
    yield
    site.until(lambda: site.slices() == {}, "an empty ledger")
    assert list((site.runtime_dir / "containers").iterdir()) == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(site.runtime_dir / "containers") not in mounts


CAPPED = {"ALIQUOT_MEMORY": "2GiB"}


def test_two_containers_share_a_device_under_different_caps(site: Site) -> None:
    with (
        site.pod("small", environment={"ALIQUOT_MEMORY": "2GiB"}) as small,
        site.pod(
            "large", annotations={"aliquot.dev/memory": "10%", "aliquot.dev/cores": "50"}
        ) as large,
    ):
        found = {}
        for pod, name in ((small, "small"), (large, "large")):
            filled = found[name] = site.fill(pod)
            assert filled.count == 1
            assert filled.refused == OUT_OF_MEMORY
            assert filled.held <= filled.free < filled.total
        assert found["small"].total == 2 * GIB
        site.until(lambda: _refusals(site) >= {"small", "large"}, "both refusals")
        slices = site.slices()
        assert set(slices) == {"small", "large"}
        (small_device,), (large_device,) = (slices[n]["devices"] for n in ("small", "large"))
        assert small_device["uuid"] == large_device["uuid"]
        assert small_device["cap_bytes"] == 2 * GIB
        assert large_device["cap_bytes"] == found["large"].total
        for name in ("small", "large"):
            cap = found[name].total
            (device,) = slices[name]["devices"]
            assert device["refusals"] >= 1
            assert device["peak_bytes"] <= cap
            # The device's own count, not ours: never above the cap, and all of it was to be had.
            most = max(site.counted(name).max_used_bytes)
            assert cap - 64 * MIB < most <= cap
            labels = {"namespace": "default", "pod": name, "container": "main"}
            assert site.metric("aliquot_container_memory_cap_bytes", **labels) == [cap]
        uuid = small_device["uuid"]
        site.until(
            lambda: (
                site.metric("aliquot_device_memory_allocated_bytes", device_uuid=uuid)
                == [2 * GIB + found["large"].total]
            ),
            "both caps in the device's allocation",
        )
        small.stop()
        site.until(lambda: set(site.slices()) == {"large"}, "the ledger without what was stopped")
        site.until(
            lambda: (
                site.metric("aliquot_device_memory_allocated_bytes", device_uuid=uuid)
                == [found["large"].total]
            ),
            "its part of the device",
        )
        assert site.fill(large).held == found["large"].held


def _refusals(site: Site) -> set[str]:
    """The pods that were refused at their caps, as far as the agent has read."""
    pieces = site.slices().items()
    return {name for name, piece in pieces if any(d["refusals"] for d in piece["devices"])}


def test_what_a_container_holds_shows_while_it_holds_it(site: Site) -> None:
    with site.pod("holder", environment=CAPPED, command=["/usr/bin/hold", "hold", "512"]):
        site.until(lambda: site.charge("holder") >= 512 * MIB, "its charge")
        (device,) = site.slices()["holder"]["devices"]
        assert device["charge_bytes"] == max(site.counted("holder").used_bytes)
        site.until(
            lambda: (
                site.metric("aliquot_container_memory_used_bytes", pod="holder")
                == [device["charge_bytes"]]
            ),
            "its memory in the metrics",
        )
        assert site.metric("aliquot_container_processes", pod="holder") == [1]
        site.until(
            lambda: site.metric("aliquot_container_unseen_bytes", pod="holder") == [0],
            "nothing unseen",
        )


def test_what_a_container_has_is_changed_while_it_runs(site: Site) -> None:
    with (
        site.pod("live", environment={**CAPPED, "ALIQUOT_CORES": "30"}) as pod,
        site.pod("beside", environment={**CAPPED, "ALIQUOT_CORES": "50"}),
    ):
        assert site.fill(pod).total == 2 * GIB
        changed = ("set", "default/live/main", "--memory", "3GiB", "--cores", "50", "--json")
        (device,) = json.loads(site.aliquot(*changed).stdout)["devices"]
        assert (device["cap_bytes"], device["cores"], device["cores_max"]) == (3 * GIB, 50, 100)
        filled = site.fill(pod)
        assert (filled.total, filled.refused) == (3 * GIB, OUT_OF_MEMORY)
        refused = site.aliquot("set", "default/live/main", "--cores", "51", check=False)
        assert refused.returncode == 1
        assert "has 50% of its time free, 51% are asked for" in refused.stderr
        # It is so for good, whoever comes and goes.
        site.agent.end(signal.SIGKILL)
        site.agent.start()
        site.until(lambda: set(site.slices()) == {"live", "beside"}, "the slices as they were")
        assert site.slices()["live"]["devices"][0]["cap_bytes"] == 3 * GIB
        assert site.fill(pod).total == 3 * GIB


def test_twenty_containers_at_once_hold_their_caps(site: Site) -> None:
    names = [f"many{number}" for number in range(20)]
    with contextlib.ExitStack() as stack:
        pods = [
            stack.enter_context(
                site.pod(name, environment={"ALIQUOT_MEMORY": f"{1024 + 64 * number}MiB"})
            )
            for number, name in enumerate(names)
        ]
        assert set(site.slices()) == set(names)
        for number, pod in enumerate(pods):
            filled = site.fill(pod)
            assert filled.total == (1024 + 64 * number) * MIB
            assert filled.refused == OUT_OF_MEMORY
            assert max(site.counted(names[number]).max_used_bytes) <= filled.total


def test_a_container_that_asks_for_nothing_is_left_as_it_was(site: Site) -> None:
    with site.pod("plain") as pod:
        assert site.slices() == {}
        assert pod.run("/bin/ls", "/run/aliquot").status != 0
        ran = pod.run("/usr/bin/hold", "fill")
        assert ran.status != 0
        assert "libcuda.so.1" in ran.err


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"ALIQUOT_MEMORY": "900GiB"}, "900.0 GiB"),
        ({"ALIQUOT_MEMORY": "1GiB", "ALIQUOT_DEVICES": "3"}, "3"),
        ({"ALIQUOT_MEMORY": "1GiB", "ALIQUOT_MODEL": "H100"}, "H100"),
        ({"ALIQUOT_MEMORY": "much"}, "ALIQUOT_MEMORY"),
        ({"ALIQUOT_CORES": "200"}, "ALIQUOT_CORES"),
    ],
)
def test_what_cannot_be_given_is_refused_with_the_reason(
    site: Site, wish: dict[str, str], said: str
) -> None:
    with pytest.raises(CriError, match=said), site.pod("greedy", environment=wish):
        pass
    assert site.slices() == {}


def test_a_device_is_not_given_twice(site: Site) -> None:
    with (
        site.pod("first", environment={"ALIQUOT_DEVICES": "2", "ALIQUOT_MEMORY": "30GiB"}) as first,
        pytest.raises(CriError, match="GPU-"),
        site.pod("second", environment={"ALIQUOT_MEMORY": "20GiB"}),
    ):
        pass
    del first


def test_a_container_of_two_devices_has_a_cap_on_each(site: Site) -> None:
    wish = {"ALIQUOT_DEVICES": "2", "ALIQUOT_MEMORY": "1GiB"}
    with site.pod("both", environment=wish) as pod:
        for device in ("0", "1"):
            filled = site.fill(pod, "--device", device)
            assert (filled.count, filled.total, filled.refused) == (2, GIB, OUT_OF_MEMORY)
        assert all(GIB - 64 * MIB < most <= GIB for most in site.counted("both").max_used_bytes)


@pytest.mark.parametrize(
    "by",
    [
        "libcuda.so.1",
        "libcuda.so",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/libcuda.so",
    ],
)
def test_every_name_of_the_driver_is_capped(site: Site, by: str) -> None:
    with site.pod("names", environment=CAPPED) as pod:
        filled = site.fill(pod, "--by", by)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_the_drivers_own_file_name_is_capped(site: Site) -> None:
    with site.pod("version", environment=CAPPED) as pod:
        names = pod.run("/bin/ls", "/usr/lib/x86_64-linux-gnu").out.split()
        versions = [n for n in names if n.startswith("libcuda.so.") and n != "libcuda.so.1"]
        assert versions
        for name in versions:
            assert site.fill(pod, "--by", f"/usr/lib/x86_64-linux-gnu/{name}").total == 2 * GIB


def test_programs_without_the_environment_stay_capped(site: Site) -> None:
    with site.pod("bare", environment=CAPPED) as pod:
        ran = pod.run("/bin/env", "-i", "/usr/bin/hold", "fill")
        filled = read_filled(ran.out, ran.err)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_a_static_program_that_loads_the_driver_is_capped(site: Site) -> None:
    with site.pod("static", environment=CAPPED) as pod:
        ran = pod.run("/usr/bin/hold-static", "fill")
        filled = read_filled(ran.out, ran.err)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_the_first_program_is_capped(site: Site) -> None:
    with site.pod("first", environment=CAPPED, command=["/usr/bin/hold", "fill"]) as pod:
        assert pod.wait() == 0
        filled = read_filled(pod.log())
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_another_user_is_capped(site: Site) -> None:
    with site.pod("user", environment=CAPPED, user=1000) as pod:
        assert pod.run("/bin/id", "-u").out.strip() == "1000"
        filled = site.fill(pod)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_a_container_in_a_user_namespace_is_capped(site: Site) -> None:
    # containerd 1.6 makes none by CRI: the handler is called as containerd would.
    with site.mapped("mapped", 100_000, ALIQUOT_MEMORY="2GiB", ALIQUOT_SIM_GROUP="mapped") as run:
        assert run("/bin/cat", "/proc/self/uid_map").split()[:2] == ["0", "100000"]
        filled = read_filled(run("/usr/bin/hold", "fill"))
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)
        assert max(site.counted("mapped").max_used_bytes) <= 2 * GIB


def test_a_read_only_root_is_capped(site: Site) -> None:
    with site.pod("read-only", environment=CAPPED, read_only=True) as pod:
        assert pod.run("/bin/touch", "/x").status != 0
        filled = site.fill(pod)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)


def test_the_container_sees_its_own_slice(site: Site) -> None:
    with site.pod("stat", environment=CAPPED, command=["/usr/bin/hold", "hold", "256"]) as pod:
        site.until(lambda: site.charge("stat") >= 256 * MIB, "its charge")
        shown = json.loads(pod.run("/usr/bin/aliquot-stat", "--json").out)
        (device,) = shown["devices"]
        assert device["cap_bytes"] == 2 * GIB
        assert device["used_bytes"] == max(site.counted("stat").used_bytes)
        (process,) = shown["processes"]
        assert (process["pid"], process["command"]) == (1, "hold")


def test_the_grant_cannot_be_written_inside(site: Site) -> None:
    with site.pod("grant", environment=CAPPED) as pod:
        for path in ("/run/aliquot/grant", "/usr/lib/x86_64-linux-gnu/.aliquot/grant"):
            assert pod.run("/bin/dd", "if=/dev/zero", f"of={path}", "count=1").status != 0
            assert pod.run("/bin/truncate", "-s", "0", path).status != 0
        assert site.fill(pod).total == 2 * GIB


def test_scribbling_over_usage_hurts_only_the_scribbler(site: Site) -> None:
    with (
        site.pod("good", environment=CAPPED, command=["/usr/bin/hold", "hold", "512"]) as good,
        site.pod("bad", environment=CAPPED) as bad,
    ):
        site.fill(bad)
        bad.run("/bin/dd", "if=/dev/urandom", "of=/run/aliquot/usage", "bs=4096", "count=66",
                "conv=notrunc")  # fmt: skip
        site.until(lambda: site.charge("good") >= 512 * MIB, "the good one's charge")
        assert site.fill(good).total == 2 * GIB
        bad.run("/bin/truncate", "-s", "0", "/run/aliquot/usage")
        assert site.fill(good).refused == OUT_OF_MEMORY
        assert site.charge("good") >= 512 * MIB
        assert site.metric("aliquot_container_memory_cap_bytes", pod="good") == [2 * GIB]


def test_a_tenant_cannot_fill_the_host(site: Site) -> None:
    with site.pod("filler", environment=CAPPED) as pod:
        ran = pod.run("/bin/dd", "if=/dev/zero", "of=/run/aliquot/usage", "bs=65536", "count=1000")
        assert ran.status != 0
        (folder,) = (site.runtime_dir / "containers").iterdir()
        used = os.statvfs(folder / "region")
        assert used.f_blocks * used.f_frsize < MIB
        # Nor can it make files beside it.
        assert used.f_files <= 8


def test_a_cuda_compat_driver_of_the_image_is_capped(site: Site) -> None:
    compat = site.folder / "compat"
    if not compat.exists():
        from aliquot.agent.demo_node import lay_out  # noqa: PLC0415

        lay_out(compat, {"/usr/bin/hold": site.hold})
        folder = compat / "usr/local/cuda-12.4/compat"
        folder.mkdir(parents=True)
        driver = folder / "libcuda.so.550.54.14"
        driver.write_bytes((site.node / "driver/libcuda.so.1").resolve().read_bytes())
        (folder / "libcuda.so.1").symlink_to(driver.name)
        (folder / "libcuda.so").symlink_to("libcuda.so.1")
        (compat / "usr/local/cuda").symlink_to("cuda-12.4")
        site.load(compat, "docker.io/local/compat:1")
    wish = {**CAPPED, "LD_LIBRARY_PATH": "/usr/local/cuda/compat"}
    with site.pod("compat", environment=wish, image="docker.io/local/compat:1") as pod:
        for by in (
            "libcuda.so.1",
            "/usr/local/cuda/compat/libcuda.so",
            "/usr/local/cuda-12.4/compat/libcuda.so.1",
            "/usr/local/cuda-12.4/compat/libcuda.so.550.54.14",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        ):
            filled = site.fill(pod, "--by", by)
            assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY), by
        assert max(site.counted("compat").max_used_bytes) <= 2 * GIB


def test_without_its_agent_a_container_does_not_start_and_says_so(site: Site) -> None:
    assert site.agent.end() == 0
    try:
        with pytest.raises(CriError, match="agent"), site.pod("early", environment=CAPPED):
            pass
    finally:
        site.agent.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_comes_back_knows_its_slices(site: Site, number: int) -> None:
    with site.pod("stays", environment=CAPPED) as stays:
        with site.pod("goes", environment=CAPPED) as goes:
            before = site.slices()["stays"]
            site.agent.end(number)
            # Both still run under their caps, and one ends while nobody keeps the books.
            assert site.fill(stays).refused == OUT_OF_MEMORY
            assert site.fill(goes).refused == OUT_OF_MEMORY
        site.agent.start()
        site.until(lambda: set(site.slices()) == {"stays"}, "the books settled")
        after = site.slices()["stays"]
        for piece in (before, after):
            assert piece["devices"][0]["cap_bytes"] == 2 * GIB
        assert after["devices"][0]["uuid"] == before["devices"][0]["uuid"]
        filled = site.fill(stays)
        assert (filled.total, filled.refused) == (2 * GIB, OUT_OF_MEMORY)
