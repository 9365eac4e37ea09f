"""What reads NVML, unmodified, in a real container: it sees the slice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from aliquot.agent.demo_node import lay_out

from clients import need
from cri import Pod, need_containerd
from site_under_test import GIB, MIB, Site, python_mounts, python_programs, running

IMAGE = "docker.io/local/python:1"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    need_containerd()
    with running() as site:
        programs = {"/usr/bin/hold": site.hold}
        programs |= {f"/opt/python/{path.name}": path for path in python_programs()}
        site.load(lay_out(site.folder / "python", programs), IMAGE)
        yield site


@pytest.fixture
def pod(site: Site) -> Iterator[Pod]:
    """A container with 2 GiB of one device, whose only program holds 512 MiB of it."""
    wish = site.wish(
        "viewer",
        image=IMAGE,
        mounts=python_mounts(),
        environment={"ALIQUOT_MEMORY": "2GiB"},
        command=["/usr/bin/hold", "hold", "512"],
    )
    with site.cri.pod(wish) as pod:
        site.until(lambda: site.charge("viewer") >= 512 * MIB, "its charge")
        yield pod


def python(pod: Pod, *arguments: str) -> str:
    import sys  # noqa: PLC0415 - what runs inside is what runs here

    ran = pod.run(sys.executable, *arguments)
    assert ran.status == 0, ran.err
    return ran.out


def test_pynvml_sees_the_slice(site: Site, pod: Pod) -> None:
    need("pynvml")
    (device,) = site.slices()["viewer"]["devices"]
    seen = json.loads(
        python(
            pod,
            "-c",
            """
import json, pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
m = n.nvmlDeviceGetMemoryInfo(h)
p = n.nvmlDeviceGetComputeRunningProcesses(h)
print(json.dumps({
    "count": n.nvmlDeviceGetCount(), "uuid": n.nvmlDeviceGetUUID(h),
    "total": m.total, "used": m.used, "free": m.free,
    "processes": [[q.pid, q.usedGpuMemory] for q in p],
}))
""",
        )
    )
    assert seen["count"] == 1
    assert seen["uuid"] == device["uuid"]
    assert seen["total"] == 2 * GIB
    assert seen["used"] == device["charge_bytes"]
    assert seen["free"] == seen["total"] - seen["used"]
    assert seen["processes"] == [[1, device["charge_bytes"]]]


def test_gpustat_shows_the_slice(site: Site, pod: Pod) -> None:
    need("gpustat")
    (gpu,) = json.loads(python(pod, "-m", "gpustat", "--json"))["gpus"]
    (device,) = site.slices()["viewer"]["devices"]
    assert gpu["uuid"] == device["uuid"]
    assert gpu["memory.total"] == 2048
    assert gpu["memory.used"] == device["charge_bytes"] // MIB
    assert [process["pid"] for process in gpu["processes"]] == [1]


def test_nvitop_shows_the_slice(pod: Pod) -> None:
    need("nvitop")
    out = python(pod, "-m", "nvitop", "--once", "--colorful", "--ascii")
    assert "2048MiB" in out or "2.00GiB" in out or "2048 MiB" in out, out
    assert "hold" in out
