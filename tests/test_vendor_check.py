"""The check that authors of vendors run finds what is wrong, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aliquot.agent.devices import (
    Device,
    DeviceProcess,
    Health,
    Sample,
    Vendor,
    VendorError,
    check,
)
from aliquot.hooks.plan import DeviceNode, Needs

ONE = Device(
    vendor="good",
    index=0,
    uuid="GOOD-1",
    uuid_bytes=b"1" * 16,
    model="Good 1",
    memory_bytes=1 << 30,
    page_bytes=4096,
    context_bytes=0,
    pci_address="0000:01:00.0",
    links={"GOOD-2": 1},
    enforcement=("driver", "shim"),
)
TWO = replace(ONE, index=1, uuid="GOOD-2", uuid_bytes=b"2" * 16, links={}, enforcement=())


class Good:
    """A vendor that follows the protocol as it was before there were partitions."""

    name = "good"

    def enumerate(self) -> Any:
        """Two devices."""
        return [ONE, TWO]

    def sample(self) -> Any:
        """Readings of both."""
        return [Sample(one.uuid, 5, 0.5, None, 40.0, -3.0) for one in (ONE, TWO)]

    def processes(self) -> Any:
        """A process of which nothing is known."""
        return [DeviceProcess("GOOD-1", 7, None, None, None)]

    def health(self) -> Any:
        """One of each kind."""
        return [Health("GOOD-1", True, ""), Health("GOOD-2", False, "it is broken: mend it")]

    def needs(self, uuids: Any) -> Any:
        """A file a device."""
        for uuid in uuids:
            if uuid not in ("GOOD-1", "GOOD-2"):
                raise VendorError(f"{uuid}: there is no such device")
        return Needs(nodes=tuple(DeviceNode(f"/dev/{uuid}", 1, 2) for uuid in uuids))

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int | None) -> None:
        """Refuse whatever it is."""
        raise VendorError(f"{uuid}: '{cgroup}' cannot be held to {limit_bytes}")

    def close(self) -> None:
        """Keep nothing open."""


def checked(**others: Callable[..., Any] | str) -> list[str]:
    """The faults of a vendor that is good but for this."""
    vendor: Vendor = type("Odd", (Good,), dict(others))()
    return check.faults(vendor)


def devices(**changes: Any) -> Callable[[Any], Any]:
    return lambda _: [replace(ONE, **changes), TWO]


def rows(*values: Any) -> Callable[[Any], Any]:
    return lambda _: list(values)


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: object) -> Any:
        raise error

    return call


def test_a_vendor_that_follows_the_protocol_has_no_faults() -> None:
    assert checked() == []


SAMPLE = Sample("GOOD-1", None, None, None, None, None)
OTHER = replace(SAMPLE, uuid="GOOD-2")
ALL: Any = ("all", None, None, None)
WELL = Health("GOOD-2", True, "")


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"name": "Not Good"}, "name is 'Not Good', not a word in lower case"),
        ({"enumerate": raising(VendorError("away"))}, "enumerate raises VendorError: away"),
        ({"enumerate": raising(KeyError(3))}, "enumerate raises KeyError, not VendorError: 3"),
        ({"sample": raising(VendorError("two\nlines"))}, "is not one line: 'two\\nlines'"),
        ({"enumerate": rows(ONE, ONE)}, "two devices have the same uuid: ['GOOD-1', 'GOOD-1']"),
        ({"enumerate": devices(vendor="else")}, "vendor is 'else', the vendor's name 'good'"),
        ({"enumerate": devices(uuid_bytes=b"1")}, "uuid_bytes is b'1', not 16 bytes"),
        ({"enumerate": devices(model="a\tb")}, "model is 'a\\tb', no text of one line"),
        ({"enumerate": devices(memory_bytes=0)}, "memory_bytes is 0, not a whole number from 1"),
        ({"enumerate": devices(memory_bytes=1e9)}, "memory_bytes is 1000000000.0, not a whole"),
        ({"enumerate": devices(page_bytes=3000)}, "page_bytes is 3000, no power of two"),
        ({"enumerate": devices(numa_node=-1)}, "numa_node is -1: None where there is none"),
        ({"enumerate": devices(links={"GOOD-9": 1})}, "links has 1 to 'GOOD-9'"),
        ({"enumerate": devices(enforcement=("shim", "driver"))}, "in this order"),
        ({"enumerate": devices(enforcement=("hope",))}, "enforcement is ('hope',), not of"),
        ({"sample": rows(SAMPLE)}, "sample tells nothing of 'GOOD-2'"),
        ({"sample": rows(SAMPLE, SAMPLE, OTHER)}, "sample tells of ('GOOD-1', None) twice"),
        ({"sample": rows(SAMPLE, OTHER, None)}, "sample returns None, no Sample"),
        (
            {"sample": rows(replace(SAMPLE, busy=40), OTHER)},
            "busy is 40, but shares go from 0 to 1",
        ),
        ({"sample": rows(replace(SAMPLE, busy=float("nan")), OTHER)}, "busy is nan, no number"),
        ({"sample": rows(replace(SAMPLE, power_watts=-1.0), OTHER)}, "which is below zero"),
        ({"sample": rows(Sample("GOOD-1", None, *ALL), OTHER)}, "busy is 'all', no number"),
        ({"processes": rows(DeviceProcess("GOOD-1", 0, 1, 0.0, 0.0))}, "pid is 0, no process"),
        ({"processes": rows(DeviceProcess("GOOD-1", 4, -1, 0.0, 0.0))}, "-1, no number of bytes"),
        ({"processes": rows(DeviceProcess("GOOD-9", 4, 1, 0.0, 0.0))}, "enumerate does not know"),
        ({"health": rows(Health("GOOD-1", False, ""), WELL)}, "only one of them"),
        ({"health": rows(Health("GOOD-1", False, "a\nb"), WELL)}, "'a\\nb' is not one line"),
        ({"needs": lambda *_: 5}, "needs of ['GOOD-2'] returns 5, no Needs"),
        ({"needs": lambda *_: Needs()}, "needs of an unknown device is not refused"),
        ({"limit_memory": rows()}, "a limit on an unknown device raises TypeError"),
        ({"limit_memory": lambda *_: None}, "a limit on 'GOOD-1' of a path that is none is not"),
    ],
)
def test_what_is_wrong_is_told(others: dict[str, Any], told: str) -> None:
    found = checked(**others)
    assert any(told in fault for fault in found), found
    assert not any("\n" in fault for fault in found)


def test_devices_that_change_while_nobody_did_anything_are_told() -> None:
    answers = iter([[ONE, TWO], [ONE]])
    found = checked(enumerate=lambda _: next(answers))
    assert "enumerate tells other devices the second time" in found


def test_paths_that_lead_nowhere_are_told() -> None:
    def needs(self: Good, uuids: Any) -> Any:
        found = Good.needs(self, uuids)
        return replace(found, nodes=(*found.nodes, DeviceNode("dev/odd", 1, 2), *found.nodes))

    found = checked(needs=needs)
    assert "needs of ['GOOD-1']: 'dev/odd' is no absolute path" in found
    assert any("a device file is there twice" in fault for fault in found)
