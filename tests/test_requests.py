"""Who may ask for a slice and how: annotations, environment, HAMi's variables."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from aliquot.agent import requests
from aliquot.agent.config import ANNOTATIONS, ENVIRONMENT, HAMI, Shares
from aliquot.agent.errors import BadRequestError
from aliquot.agent.policies import CGPU, HAMI_CORES, POLICIES
from aliquot.agent.sizes import HAMI_LIMIT
from aliquot.agent.slices import Request
from hypothesis import given
from hypothesis import strategies as st

from request_parts import GIB, ROOT, memory, read, refusal, wanted

# -- Who asks ------------------------------------------------------------------------------------


def test_who_says_nothing_asks_for_nothing() -> None:
    assert read() is None
    assert read({"io.kubernetes.cri.container-type": "container"}, {"PATH": "/bin"}) is None
    # Every CUDA image has this.
    assert read({}, {"NVIDIA_VISIBLE_DEVICES": "all"}) is None
    assert read({}, {"ALIQUOT_RUNTIME_DIR": "/x", "ALIQUOT_SIM": "/y", "ALIQUOT_": ""}) is None


def test_annotations_and_environment_say_the_same_things() -> None:
    texts = {
        "devices": "2",
        "memory": "4GiB",
        "cores": "30",
        "cores-max": "60%",
        "weight": "250",
        "priority": "-7",
        "policy": "burst-share",
        "group": "train.1",
        "quiet": "50 ms",
        "floor": "5",
        "model": "A100, h100",
        "not-model": "T4",
        "uuid": "GPU-aa,GPU-bb",
        "not-uuid": "cc",
        "vendor": " NVIDIA",
        "placement": "spread",
    }
    assert tuple(texts) == requests.KEYS
    annotated = wanted({f"aliquot.dev/{key}": text for key, text in texts.items()})
    spoken = wanted({}, {requests.variable(key): text for key, text in texts.items()})
    assert memory(annotated) == 4 * GIB
    assert annotated == Request(
        count=2,
        memory=annotated.memory,
        cores=30,
        uuids=("GPU-aa", "GPU-bb"),
        not_uuids=("cc",),
        models=("A100", "h100"),
        not_models=("T4",),
        vendor="nvidia",
        placement="spread",
        sources=annotated.sources,
        cores_max=60,
        weight=250,
        priority=-7,
        policy="burst-share",
        group="train.1",
        quiet_ms=50,
        floor=5,
    )
    assert replace(spoken, sources=()) == replace(annotated, sources=())
    assert "annotation aliquot.dev/memory" in annotated.sources
    assert "environment ALIQUOT_NOT_MODEL" in spoken.sources


def test_any_one_key_asks_and_the_rest_has_its_default() -> None:
    assert wanted({"aliquot.dev/memory": "1GiB"}).count == 1
    assert wanted({"aliquot.dev/cores": "10%"}) == Request(
        1, cores=10, sources=("annotation aliquot.dev/cores",)
    )
    assert wanted({"aliquot.dev/devices": "all"}).count is None
    assert wanted({"aliquot.dev/uuid": "GPU-aa,GPU-bb"}).count is None
    assert wanted({"aliquot.dev/uuid": "GPU-aa,GPU-bb", "aliquot.dev/devices": "1"}).count == 1


def test_no_devices_is_no_request_but_what_stands_beside_it_is_still_read() -> None:
    assert read({"aliquot.dev/devices": "0", "aliquot.dev/memory": "1GiB"}) is None
    assert "aliquot.dev/memory" in refusal({"aliquot.dev/devices": "0", "aliquot.dev/memory": "x"})


def test_the_first_source_that_says_anything_decides_whole() -> None:
    annotations = {"aliquot.dev/memory": "1GiB"}
    environment = {
        "ALIQUOT_MEMORY": "2GiB",
        "ALIQUOT_CORES": "20",
        "CUDA_DEVICE_MEMORY_LIMIT": "3g",
    }
    orders = {
        (ANNOTATIONS, ENVIRONMENT, HAMI): (GIB, None),
        (ENVIRONMENT, ANNOTATIONS): (2 * GIB, 20),
        (HAMI, ENVIRONMENT): (3 * GIB, None),
        (HAMI,): (3 * GIB, None),
    }
    for sources, (size, cores) in orders.items():
        request = read(annotations, environment, sources=sources)
        assert request is not None
        assert (memory(request), request.cores) == (size, cores), sources
    # Even one that asks for no device.
    environment["ALIQUOT_DEVICES"] = "0"
    assert read({}, environment) is None


def test_a_source_that_is_not_allowed_is_not_even_read() -> None:
    environment = {"ALIQUOT_MEMORY": "nonsense", "CUDA_DEVICE_MEMORY_LIMIT": "nonsense"}
    assert read({}, environment, sources=(ANNOTATIONS,)) is None
    assert read({"aliquot.dev/x": "y"}, {}, sources=(ENVIRONMENT, HAMI)) is None


def test_a_containers_own_annotation_wins_over_its_pods() -> None:
    annotations = {
        "aliquot.dev/memory": "1GiB",
        "aliquot.dev/cores": "10",
        "aliquot.dev/memory.draft": "2GiB",
        "aliquot.dev/devices.side-car": "0",
    }
    assert memory(read(annotations, name="server")) == GIB
    draft = wanted(annotations, name="draft")
    assert (memory(draft), draft.cores) == (2 * GIB, 10)
    assert "annotation aliquot.dev/memory.draft" in draft.sources
    assert read(annotations, name="side-car") is None
    # Names mean nothing where containers have none.
    assert memory(read(annotations, name="")) == GIB
    only = {"aliquot.dev/memory.draft": "2GiB"}
    assert read(only, name="server") is None
    assert memory(read(only, name="draft")) == 2 * GIB


def test_an_empty_variable_undoes_what_an_image_says() -> None:
    assert read({}, {"ALIQUOT_MEMORY": "", "ALIQUOT_DEVICES": ""}) is None


# -- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("devices", "-1"), ("devices", "1.0"), ("devices", "two"), ("devices", ""),
        ("devices", "5000"), ("devices", "99999"), ("devices", "٣"),
        ("memory", "4Gi"), ("memory", ""), ("memory", "0"), ("memory", "101%"),
        ("memory", "1\n2"), ("memory", "9" * 5000), ("memory", "4GiB\x1b[2J"),
        ("cores", "0"), ("cores", "101"), ("cores", "ten"), ("cores", "-5"), ("cores", "5.5"),
        ("cores-max", "0"), ("cores-max", "101"), ("cores-max", "all"), ("weight", "0"),
        ("weight", "10001"), ("weight", "1.5"), ("weight", ""), ("priority", "101"),
        ("priority", "-101"), ("priority", "high"), ("priority", "--1"), ("policy", ""),
        ("policy", "fair"), ("policy", "6"), ("policy", "-1"), ("policy", "9" * 5000),
        ("group", ""), ("group", "a/b"), ("group", "-a"), ("group", "g" * 64),
        ("quiet", "10001"), ("quiet", "1s"), ("quiet", "-1"), ("floor", "91"), ("floor", "-1"),
        ("model", ""), ("model", "A100,,T4"), ("model", "A\x00"), ("model", "x" * 200),
        ("not-model", ","), ("uuid", "GPU-aa;rm"), ("uuid", ","), ("uuid", "../../x"),
        ("uuid", ",".join(["a"] * 300)), ("not-uuid", "é"), ("placement", "best"),
        ("placement", "\n"), ("vendor", ""), ("vendor", "NVIDIA Inc."), ("vendor", "a,b"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line_with_source_and_key(key: str, text: str) -> None:
    said = refusal({f"aliquot.dev/{key}": text})
    assert said.startswith(f"annotation aliquot.dev/{key}: ")
    own = f"aliquot.dev/{key}.app"
    assert refusal({own: text}).startswith(f"annotation {own}: ")
    if text:
        name = requests.variable(key)
        assert refusal({}, {name: text}).startswith(f"environment {name}: ")


@pytest.mark.parametrize(
    ("annotation", "hint"),
    [
        ("aliquot.dev/memroy", "did you mean aliquot.dev/memory?"),
        ("aliquot.dev/memroy.app", "did you mean aliquot.dev/memory.app?"),
        ("aliquot.dev/Memory", "aliquot.dev/memory"),
        ("aliquot.dev/", "known are devices, memory"),
        ("aliquot.dev/priorities", "did you mean aliquot.dev/priority?"),
        ("aliquot.dev/core-max", "did you mean aliquot.dev/cores-max?"),
        ("aliquot.dev/memory.", "names no container"),
        ("aliquot.dev/a\nb", "aliquot.dev/a?b"),
        ("aliquot.dev/" + "x" * 100_000, "known are devices, memory"),
    ],
)
def test_an_annotation_that_is_nearly_ours_is_refused(annotation: str, hint: str) -> None:
    assert hint in refusal({annotation: "1GiB"})


@pytest.mark.parametrize("name", ["ALIQUOT_DEVICE", "ALIQUOT_MEMROY", "ALIQUOT_NOTMODEL"])
def test_a_variable_that_is_nearly_ours_is_refused(name: str) -> None:
    assert refusal({}, {name: "1"}).startswith(f"environment {name}: is not known: did you mean ")


def test_an_images_many_variables_keep_nobody_waiting() -> None:
    environment = {f"ALIQUOT_DEVICE_{n}_{'x' * (n % 50)}": "1" for n in range(200_000)}
    environment["ALIQUOT_" + "DEVICES" * 500_000] = "1"
    assert memory(read({}, {**environment, "ALIQUOT_MEMORY": "1GiB"})) == GIB


KEYS = st.sampled_from(requests.KEYS)
TEXTS = st.one_of(st.text(max_size=12), st.from_regex(r"[0-9]{1,3}(GiB|%)?", fullmatch=True))


@given(
    st.dictionaries(KEYS.map(lambda key: f"aliquot.dev/{key}"), TEXTS, max_size=4),
    st.dictionaries(
        KEYS.map(requests.variable)
        | st.sampled_from(
            ["CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_MEMORY_LIMIT_1", "CUDA_DEVICE_SM_LIMIT",
             "NVIDIA_VISIBLE_DEVICES"]
        ),
        TEXTS, max_size=4,
    ),
)  # fmt: skip
def test_whatever_is_said_is_a_request_or_one_line(
    annotations: dict[str, str], environment: dict[str, str]
) -> None:
    try:
        request = read(annotations, environment, "app")
    except BadRequestError as error:
        assert str(error).isprintable()  # noqa: PT017 - either answer is right
        assert str(error).startswith(("annotation ", "environment "))  # noqa: PT017
    else:
        if request:
            assert request.count is None or request.count >= 1
            least = 0 if not POLICIES[request.policy].guarantees else 1
            assert request.cores is None or least <= request.cores <= 100
            assert request.cores_max is None or (request.cores or 1) <= request.cores_max <= 100
            assert request.weight is None or 1 <= request.weight <= 10_000
            assert 0 <= request.quiet_ms <= 10_000
            assert 0 <= request.floor <= 90
            assert request.sources


# -- How time is shared --------------------------------------------------------------------------


def shares(said: dict[str, str], sharing: Shares | None = None) -> tuple[object, ...]:
    """Policy, cores, the most of them and weight of a request."""
    request = read({f"aliquot.dev/{key}": text for key, text in said.items()}, sharing=sharing
                   or Shares())  # fmt: skip
    assert request is not None
    assert request.native == (request.policy == "native")
    return (request.policy, request.cores, request.cores_max, request.weight)


@pytest.mark.parametrize(
    ("said", "came_to"),
    [
        ({"cores": "30"}, ("burst-share", 30, None, None)),
        ({"cores": "30", "cores-max": "30"}, ("burst-share", 30, 30, None)),
        ({"memory": "1GiB", "cores-max": "30"}, ("burst-share", None, 30, None)),
        ({"policy": "burst-share", "cores": "30"}, ("burst-share", 30, None, None)),
        ({"policy": "fixed-share", "cores": "30"}, ("fixed-share", 30, 30, None)),
        ({"policy": "fixed", "cores": "30", "weight": "7"}, ("fixed", 30, 30, 7)),
        ({"policy": "best-effort"}, ("best-effort", 0, None, None)),
        ({"policy": "best-effort", "cores-max": "40"}, ("best-effort", 0, 40, None)),
        ({"policy": "average"}, ("average", 5, 5, None)),
        ({"policy": "preemptive", "cores": "20"}, ("preemptive", 20, None, None)),
        ({"policy": "weighted-preemptive", "cores": "20"}, ("weighted-preemptive", 20, None, 20)),
        (
            {"policy": "weighted-preemptive", "cores": "20", "weight": "3"},
            ("weighted-preemptive", 20, None, 3),
        ),
        ({"policy": "weak", "cores": "20"}, ("weak", 20, None, None)),
    ],
)
def test_a_policy_is_what_its_numbers_are(
    said: dict[str, str], came_to: tuple[object, ...]
) -> None:
    assert shares(said) == came_to


def test_cgpus_numbers_are_its_names() -> None:
    named = ("average", "preemptive", "weighted-preemptive", "fixed", "weak", "native")
    sharing = Shares(native=True)
    for number, name in enumerate(named):
        keys = {"cores": "20"} if name in ("weighted-preemptive", "fixed") else {"memory": "1GiB"}
        by_number = shares({**keys, "policy": str(number)}, sharing)
        assert by_number == shares({**keys, "policy": name}, sharing)
        assert by_number[0] == name


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            {"policy": "fixed-share", "cores": "30", "cores-max": "60"},
            (
                "annotation aliquot.dev/cores-max: says nothing beside policy fixed-share, "
                "which has just its cores: leave one of them out"
            ),
        ),
        (
            {"cores": "30", "cores-max": "20"},
            (
                "annotation aliquot.dev/cores-max: 20% are less than the 30% that are guaranteed "
                "(annotation aliquot.dev/cores)"
            ),
        ),
        (
            {"policy": "fixed-share"},
            (
                "annotation aliquot.dev/policy: fixed-share needs to know how much that is: "
                "add aliquot.dev/cores"
            ),
        ),
        ({"policy": "3", "memory": "1GiB"}, "fixed needs to know how much that is"),
        ({"policy": "best-effort", "cores": "3"}, "aliquot.dev/cores: says nothing beside"),
        ({"policy": "average", "cores": "3"}, "aliquot.dev/cores: says nothing beside"),
        ({"policy": "average", "cores-max": "3"}, "aliquot.dev/cores-max: says nothing beside"),
        ({"policy": "preemptive", "weight": "3"}, "aliquot.dev/weight: says nothing beside"),
        ({"policy": "weighted-preemptive"}, "add aliquot.dev/cores or aliquot.dev/weight"),
        (
            {"floor": "10"},
            (
                "annotation aliquot.dev/floor: is about those of lower priority: "
                "add aliquot.dev/priority"
            ),
        ),
        ({"quiet": "10"}, "annotation aliquot.dev/quiet: is about those of lower priority"),
        (
            {"floor": "30", "cores": "80", "priority": "1"},
            (
                "annotation aliquot.dev/floor: 30% for others and 80% that are guaranteed "
                "(annotation aliquot.dev/cores) are more than the device"
            ),
        ),
    ],
)
def test_what_contradicts_itself_is_one_line(said: dict[str, str], told: str) -> None:
    assert told in refusal({f"aliquot.dev/{key}": text for key, text in said.items()})


def test_in_the_environment_a_contradiction_names_variables() -> None:
    said = refusal({}, {"ALIQUOT_POLICY": "fixed-share"})
    assert said.startswith("environment ALIQUOT_POLICY: ")
    assert said.endswith("add ALIQUOT_CORES")


def test_no_turns_are_to_be_had_only_where_the_node_allows_it() -> None:
    asked = {"aliquot.dev/policy": "native"}
    assert refusal(asked).endswith("is not to be had on this node (sharing.native)")
    for sharing in (Shares(native=True), Shares(policy="native")):
        request = read(asked, sharing=sharing)
        assert request is not None
        assert (request.native, request.cores) == (True, 0)
    with pytest.raises(BadRequestError, match="says nothing beside policy native"):
        read({**asked, "aliquot.dev/group": "g"}, sharing=Shares(native=True))


def test_the_nodes_policy_is_for_those_who_say_nothing_else() -> None:
    assert shares({"cores": "30"}, Shares("fixed-share")) == ("fixed-share", 30, 30, None)
    assert shares({"memory": "1GiB"}, Shares("fixed-share")) == ("fixed-share", None, None, None)
    assert shares({"memory": "1GiB"}, Shares("best-effort")) == ("best-effort", 0, None, None)
    average = Shares("average", max_containers=3)
    assert shares({"memory": "1GiB"}, average) == ("average", 33, 33, None)
    weighted = Shares("weighted-preemptive")
    assert shares({"memory": "1GiB"}, weighted) == ("weighted-preemptive", None, None, 1)
    assert shares({"memory": "1GiB"}, Shares("native"))[0] == "native"
    # Whoever says a number that it leaves no room for has the number.
    for policy in ("best-effort", "average", "native"):
        assert shares({"cores": "30"}, Shares(policy)) == ("burst-share", 30, None, None)
    capped = {"cores": "30", "cores-max": "50"}
    assert shares(capped, Shares("fixed-share")) == ("burst-share", 30, 50, None)
    # And whoever names a policy has that.
    assert shares({"policy": "best-effort"}, Shares("fixed-share"))[0] == "best-effort"


def test_what_is_not_said_of_quiet_and_floor_is_the_nodes() -> None:
    request = read({"aliquot.dev/memory": "1GiB"}, sharing=Shares(quiet_ms=7, floor=8))
    assert request is not None
    assert (request.quiet_ms, request.floor) == (7, 8)


# -- What is written of it -----------------------------------------------------------------------


def test_the_page_has_every_key() -> None:
    page = (ROOT / "docs/requests.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `aliquot.dev/([a-z-]+)` \| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert rows == [(key, requests.variable(key)) for key in requests.KEYS]
    for name in (HAMI_LIMIT, HAMI_CORES, requests.HAMI_DEVICES):
        assert f"`{name}`" in page


def test_the_page_has_every_policy_with_its_number() -> None:
    page = (ROOT / "docs/requests.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (?:([0-9]) )?\|", page, re.MULTILINE)
    assert rows == [(name, str(CGPU.index(name)) if name in CGPU else "") for name in POLICIES]


def test_the_pages_pod_asks_for_what_the_page_says() -> None:
    page = (ROOT / "docs/requests.md").read_text(encoding="utf-8")
    lines = re.findall(r'^    (aliquot\.dev/\S+): "?([^"\s]+)"?', page, re.MULTILINE)
    annotations = dict(lines)
    assert len(annotations) == 4
    assert memory(read(annotations, name="server")) == 8 * GIB
    assert memory(read(annotations, name="draft")) == 2 * GIB
    assert read(annotations, name="metrics") is None
