"""Who may ask for a slice, and how: annotations, environment, HAMi's and vendors' words.

The sources that the configuration allows are looked at in its order, and the first that says
anything decides the whole request: nothing is mixed from two. docs/requests.md is for users.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import ascend_requests, cambricon_requests, policies
from .config import ANNOTATIONS, ASCEND, CAMBRICON, ENVIRONMENT, HAMI, VENDOR_NAME, Config
from .errors import BadRequestError
from .policies import FIXED_SHARE, HAMI_CORES, NATIVE, Numbers
from .sizes import HAMI_LIMIT, Limits, Size, limits_from_environment, parse_size
from .slices import BINPACK, SPREAD, Request

KEYS: Final = (
    "devices",
    "memory",
    "cores",
    "cores-max",
    "weight",
    "priority",
    "policy",
    "group",
    "quiet",
    "floor",
    "model",
    "not-model",
    "uuid",
    "not-uuid",
    "vendor",
    "placement",
)
ANNOTATION_PREFIX: Final = "aliquot.dev/"
VARIABLE_PREFIX: Final = "ALIQUOT_"
HAMI_DEVICES: Final = "NVIDIA_VISIBLE_DEVICES"
# Whose devices they are about that HAMi's variables name.
_HAMI_VENDOR: Final = "nvidia"

_ALL: Final = "all"
# More names than any node has devices, and longer than any vendor's: somebody's mistake.
_MOST_NAMES: Final = 256
_MOST_NAME_LENGTH: Final = 128
_MOST_DEVICES: Final = 4096
_COUNT: Final = re.compile(r"[0-9]{1,4}", re.ASCII)
_GROUP: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_UUID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9/:-]*", re.ASCII)
_NO_DEVICES: Final = ("", "none", "void")


def variable(key: str) -> str:
    """Return the environment variable that says what an annotation's ``key`` says."""
    return VARIABLE_PREFIX + key.upper().replace("-", "_")


def read(
    annotations: Mapping[str, str],
    environment: Mapping[str, str],
    container_name: str,
    config: Config,
) -> Request | None:
    """Return what a container asks for, None when it asks for nothing.

    ``container_name`` is its name in its pod, empty outside Kubernetes. Raises BadRequestError,
    one line that names the source and the key.
    """
    for source in config.sources:
        if source == ANNOTATIONS:
            said = _annotated(annotations, container_name)
        elif source == ENVIRONMENT:
            said = _in_environment(environment)
        elif source == ASCEND:
            devices = ascend_requests.read(environment, config.ascend.templates)
            if devices is not None:
                return _read_ascend(devices, config)
            continue
        elif source == CAMBRICON:
            wanted = cambricon_requests.read(annotations, environment, config.cambricon.memory_unit)
            if wanted is not None:
                return _read_cambricon(wanted, config)
            continue
        else:
            assert source == HAMI
            if has_hamis(environment):
                return _read_hami(environment, config)
            continue
        if said:
            return _read_own(said, config)
    return None


# -- Our own keys --------------------------------------------------------------------------------

# What was said: by key, where it was written and the text.
_Said = dict[str, tuple[str, str]]


def _annotated(annotations: Mapping[str, str], container_name: str) -> _Said:
    """Return what the annotations say for one container; its own win over the pod's."""
    said: _Said = {}
    for annotation in sorted(annotations):
        if not annotation.startswith(ANNOTATION_PREFIX):
            continue
        key, dot, container = annotation[len(ANNOTATION_PREFIX) :].partition(".")
        origin = f"annotation {_short(annotation)}"
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            what = f"did you mean {ANNOTATION_PREFIX}{near[0]}{dot}{container}?" if near else (
                f"known are {', '.join(KEYS)}"
            )  # fmt: skip
            raise BadRequestError(f"{origin}: is not known: {_short(what)}")
        if dot and not container:
            raise BadRequestError(
                f"{origin}: names no container behind its dot: write one, or none"
            )
        # Sorted, a key comes before its own forms for single containers.
        if not dot or container == container_name:
            said[key] = (origin, annotations[annotation])
    return said


def _in_environment(environment: Mapping[str, str]) -> _Said:
    """Return what the environment says. An empty value says nothing: it undoes an image's."""
    names = {variable(key): key for key in KEYS}
    others = [
        name
        for name in environment
        if name.startswith(VARIABLE_PREFIX) and name not in names and len(name) < 32
    ]
    # Other programs may have variables that begin so; what is nearly ours is a mistake. An image
    # may have any number of them, and nobody else's container is to wait while all are looked at.
    for name in sorted(others[:_MOST_NAMES]):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.9)
        if near:
            raise BadRequestError(
                f"environment {_printable(name)}: is not known: did you mean {near[0]}?"
            )
    return {
        key: (f"environment {name}", environment[name])
        for name, key in names.items()
        if environment.get(name)
    }


def _read_own(said: _Said, config: Config) -> Request | None:
    uuids = _names(said.get("uuid"), uuid=True)
    count: int | None = None if uuids else 1
    if "devices" in said:
        count = _count(*said["devices"])
    request = Request(
        count,
        memory=_memory(said.get("memory")),
        uuids=uuids,
        not_uuids=_names(said.get("not-uuid"), uuid=True),
        models=_names(said.get("model")),
        not_models=_names(said.get("not-model")),
        vendor=_vendor(said.get("vendor")),
        placement=_placement(said.get("placement")),
        sources=tuple(origin for origin, _ in said.values()),
        **_sharing(said, config),
    )
    # Every key is read before that, so that a mistake shows whatever the number is.
    return None if count == 0 else request


def _count(origin: str, text: str) -> int | None:
    value = text.strip()
    if value == _ALL:
        return None
    if not _COUNT.fullmatch(value) or int(value) > _MOST_DEVICES:
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a number of devices: write 1, 2, …, or all"
        )
    return int(value)


def _memory(said: tuple[str, str] | None) -> Size | None:
    if said is None:
        return None
    origin, text = said
    # The size's own message shows the text as it is.
    return parse_size(text if text.isprintable() and len(text) < 80 else _quoted(text), origin)


# Numbers of how time is shared, by their keys.
_NUMBERS: Final[Mapping[str, Callable[[str, str], int]]] = {
    "cores": policies.parse_cores,
    "cores-max": policies.parse_cores,
    "weight": policies.parse_weight,
    "priority": policies.parse_priority,
    "quiet": policies.parse_quiet,
    "floor": policies.parse_floor,
}


def _sharing(said: _Said, config: Config) -> dict[str, Any]:
    """Return what a request says of how time is shared, as fields of Request."""
    numbers = {
        key: parse(said[key][1], said[key][0]) for key, parse in _NUMBERS.items() if key in said
    }
    group = _group(said.get("group"))
    # A key that is wanted is named as those are that were said.
    origin = next(iter(said.values()))[0]
    annotated = origin.startswith("annotation ")

    def where(key: str) -> str:
        if key in said:
            return said[key][0]
        return f"{ANNOTATION_PREFIX}{key}" if annotated else variable(key)

    policy = config.sharing.policy
    if "policy" in said:
        policy = policies.parse_policy(said["policy"][1], where("policy"))
        if policy == NATIVE and config.sharing.policy != NATIVE and not config.sharing.native:
            raise BadRequestError(
                f"{where('policy')}: {policy} takes no turns, and is not to be had on this node "
                "(sharing.native)"
            )
    for key in ("quiet", "floor"):
        if key in said and "priority" not in said:
            raise BadRequestError(
                f"{where(key)}: is about those of lower priority: add {where('priority')}"
            )
    settled = policies.settle(
        policy,
        numbers,
        where,
        config.sharing.max_containers,
        named="policy" in said,
        also=("group",) if group else (),
    )
    return {
        **_settled(settled, config),
        "priority": numbers.get("priority"),
        "group": group,
        "quiet_ms": numbers.get("quiet", config.sharing.quiet_ms),
        "floor": numbers.get("floor", config.sharing.floor),
    }


def _settled(settled: Numbers, config: Config) -> dict[str, Any]:
    """Return the fields of Request that a policy and the node decide."""
    return {
        "cores": settled.cores,
        "cores_max": settled.cores_max,
        "weight": settled.weight,
        "policy": settled.policy,
        "quiet_ms": config.sharing.quiet_ms,
        "floor": config.sharing.floor,
        "native": settled.policy == NATIVE,
    }


def _group(said: tuple[str, str] | None) -> str:
    if said is None:
        return ""
    origin, text = said
    if not _GROUP.fullmatch(text.strip()):
        raise BadRequestError(
            f"{origin}: {_quoted(text)} cannot be a group's name: "
            "letters, digits, '-', '_' and '.', at most 63"
        )
    return text.strip()


def _names(said: tuple[str, str] | None, *, uuid: bool = False) -> tuple[str, ...]:
    if said is None:
        return ()
    origin, text = said
    names = [name.strip() for name in text.split(",")]
    if len(names) > _MOST_NAMES:
        raise BadRequestError(f"{origin}: has {len(names)} names: at most {_MOST_NAMES}")
    for name in names:
        if not name:
            raise BadRequestError(f"{origin}: {_quoted(text)} has an empty name in it")
        if len(name) > _MOST_NAME_LENGTH or not name.isprintable():
            raise BadRequestError(f"{origin}: {_quoted(name)} cannot be a device's name")
        if uuid and not _UUID.fullmatch(name):
            raise BadRequestError(
                f"{origin}: {_quoted(name)} is not the beginning of a UUID, such as GPU-5b0a91c2"
            )
    return tuple(dict.fromkeys(names))


def _placement(said: tuple[str, str] | None) -> str | None:
    if said is None:
        return None
    origin, text = said
    if text.strip() not in (BINPACK, SPREAD):
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a placement: write {BINPACK} or {SPREAD}"
        )
    return text.strip()


def _vendor(said: tuple[str, str] | None) -> str:
    if said is None:
        return ""
    origin, text = said
    if not VENDOR_NAME.fullmatch(text.strip().lower()):
        raise BadRequestError(
            f"{origin}: {_quoted(text)} is not a vendor's name: write one, such as nvidia"
        )
    return text.strip().lower()


# -- HAMi's --------------------------------------------------------------------------------------


def _is_hamis(name: str) -> bool:
    return name == HAMI_LIMIT or name.startswith(f"{HAMI_LIMIT}_")


def has_hamis(environment: Mapping[str, str]) -> bool:
    """Say whether any of the variables is there by which HAMi limits memory or time."""
    return HAMI_CORES in environment or any(_is_hamis(name) for name in environment)


def _read_hami(environment: Mapping[str, str], config: Config) -> Request | None:
    relevant = {name: text for name, text in environment.items() if _is_hamis(name)}
    for name, text in relevant.items():
        if not (name + text).isprintable() or len(name + text) > 200:
            raise BadRequestError(f"environment {_quoted(name + '=' + text)}: is not a limit")
    try:
        limits = limits_from_environment(relevant) or Limits(HAMI_LIMIT, None, {})
    except BadRequestError as error:
        raise BadRequestError(f"environment {error}") from error
    sources = tuple(f"environment {name}" for name in sorted(relevant))
    numbers: dict[str, int] = {}
    if HAMI_CORES in environment:
        sources = (*sources, f"environment {HAMI_CORES}")
        cores = policies.parse_hami_cores(environment[HAMI_CORES], sources[-1])
        numbers = {} if cores is None else {"cores": cores}
    settled = policies.settle(
        FIXED_SHARE if numbers else config.sharing.policy,
        numbers,
        lambda _: f"environment {HAMI_CORES}",
        config.sharing.max_containers,
        named=bool(numbers),
    )
    count, uuids = _hami_devices(environment.get(HAMI_DEVICES), limits)
    if HAMI_DEVICES in environment:
        sources = (*sources, f"environment {HAMI_DEVICES}")
    if count == 0:
        return None
    return Request(
        count,
        memory=limits.each,
        uuids=uuids,
        vendor=_HAMI_VENDOR,
        memory_by_index=tuple(sorted(limits.by_index.items())),
        sources=sources,
        **_settled(settled, config),
    )


def _hami_devices(listed: str | None, limits: Limits) -> tuple[int | None, tuple[str, ...]]:
    """Return the number of devices, None for all that are named, and their UUIDs."""
    if listed is None:
        wanted = (
            len(limits.by_index) if limits.each is None else max(limits.by_index, default=0) + 1
        )
        if limits.each is None and sorted(limits.by_index) != list(range(wanted)):
            raise BadRequestError(
                f"environment {HAMI_LIMIT}_{max(limits.by_index)}: the container's devices are "
                f"numbered from 0 and {wanted} have limits: give each one, or say "
                f"which there are in {HAMI_DEVICES}"
            )
        return wanted or 1, ()
    if listed.strip() in _NO_DEVICES:
        return 0, ()
    if listed.strip() == _ALL:
        return None, ()
    origin = f"environment {HAMI_DEVICES}"
    uuids = _names((origin, listed), uuid=True)
    for uuid in uuids:
        # UUIDs have eight digits before anything else.
        if uuid.isdigit() and len(uuid) < 8:
            raise BadRequestError(
                f"{origin}: '{uuid}' is a number, which says nothing lasting of a device: "
                "name devices by UUID, such as GPU-5b0a91c2, or write all"
            )
    over = [index for index in limits.by_index if index >= len(uuids)]
    if over and limits.each is None:
        raise BadRequestError(
            f"environment {HAMI_LIMIT}_{over[0]}: the container has only {len(uuids)} devices, "
            f"which are numbered from 0, by {HAMI_DEVICES}"
        )
    return None, uuids


# -- Ascend's --------------------------------------------------------------------------------------


def _read_ascend(wanted: ascend_requests.Wanted, config: Config) -> Request:
    settled = policies.settle(
        config.sharing.policy,
        {},
        lambda _: wanted.origin,
        config.sharing.max_containers,
        named=False,
    )
    return Request(
        None,
        memory=wanted.memory,
        uuids=wanted.names,
        vendor=ascend_requests.VENDOR,
        sources=(wanted.origin,),
        **_settled(settled, config),
    )


# -- Cambricon's -----------------------------------------------------------------------------------


def _read_cambricon(wanted: cambricon_requests.Wanted, config: Config) -> Request:
    numbers = {} if wanted.cores is None else {"cores": wanted.cores}
    settled = policies.settle(
        FIXED_SHARE if numbers else config.sharing.policy,
        numbers,
        lambda _: wanted.origin,
        config.sharing.max_containers,
        named=bool(numbers),
    )
    return Request(
        None,
        memory=wanted.memory,
        uuids=wanted.names,
        vendor=cambricon_requests.VENDOR,
        sources=(wanted.origin,),
        **_settled(settled, config),
    )


def _quoted(text: str) -> str:
    shown = _printable(text[:61])
    return f"'{shown}'" if len(shown) <= 60 else f"'{shown[:57]}…'"


def _short(text: str) -> str:
    shown = _printable(text[:120])
    return shown if len(text) <= 120 else f"{shown}…"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
