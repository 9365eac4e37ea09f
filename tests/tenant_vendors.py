"""The vendors whose libraries are held to the same promises: what each has, and what it has not."""

from __future__ import annotations

from dataclasses import dataclass, field

from slices import CUDA

COMMON = ("tenant_things.c", "tenant_letter.c")


@dataclass(frozen=True)
class Vendor:
    """A vendor's libraries as a tenant knows them."""

    name: str
    sources: tuple[str, ...]
    """Of the tenant, beside what all have."""
    library: str
    """That programs load."""
    names: tuple[str, str]
    """Of the library that the shim stands in for: to programs, and to the shim."""
    beside: tuple[str, ...]
    """Libraries that lie in the same folder, and through which programs come to it."""
    out_of_memory: int
    kinds: tuple[str, ...]
    """What a tenant can hold: tenant.h says what a kind is."""
    dies_with_context: frozenset[str]
    contexts_hold: bool
    """Whether contexts have memory of their own, and are not views of one."""
    inside: tuple[str, ...]
    """Kinds that are got in whatever context is current."""
    keep_primary: tuple[str, ...]
    """Kinds that cannot be given back once the primary context has gone."""
    whole: tuple[tuple[str, int], ...]
    """Kinds, with their choices, that take what is asked for and not a page more."""
    shown: dict[str, int] = field(default_factory=dict)
    """Kinds that others can open, and the choice by which they are shown to them."""
    sends: frozenset[str] = frozenset()
    """Kinds of which all can be handed over: their memory may be under way, with no other owner."""
    pools_keep: bool = False
    """Whether a pool at the cap is served from what it keeps, and need not give that back first."""
    loads: tuple[str, ...] = ()
    """Functions that programs patch in place: of the shim, and of the library."""
    table: str = ""
    """Of all functions, below csrc."""


NVIDIA = Vendor(
    name="nvidia",
    sources=(
        "tenant_cuda.c",
        "tenant_cuda_linear.c",
        "tenant_cuda_share.c",
        "tenant_cuda_context.c",
        "tenant_cuda_graph.c",
    ),
    library="libcuda.so.1",
    names=CUDA,
    beside=(),
    out_of_memory=2,
    kinds=(
        *("linear", "pitch", "managed", "pinned", "async", "pool", "array", "deep", "mipmap"),
        *("pages", "elsewhere", "addresses", "team", "shared"),
        *("module", "library", "context", "green", "graph"),
    ),
    dies_with_context=frozenset(
        {"linear", "pitch", "managed", "pinned", "array", "deep", "mipmap", "module"}
    ),
    contexts_hold=True,
    inside=("linear", "pitch", "managed", "pinned", "array", "deep", "mipmap", "pages", "module"),
    keep_primary=("graph", "green", "shared"),
    whole=(("linear", 0), ("managed", 0), ("pages", 0), ("pages", 4), ("team", 0)),
    shown={"linear": 1, "pitch": 1, "pages": 4},
    sends=frozenset({"pages", "pool"}),
    pools_keep=True,
    loads=("cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyHtoD_v2"),
    table="cuda",
)

ASCEND = Vendor(
    name="ascend",
    sources=(
        "tenant_ascend.c",
        "tenant_ascend_linear.c",
        "tenant_ascend_pool.c",
        "tenant_ascend_share.c",
        "tenant_ascend_work.c",
    ),
    library="libascendcl.so",
    names=("libruntime.so", "libruntime-driver.so"),
    beside=("libascendcl.so",),
    out_of_memory=207001,
    kinds=(
        *("linear", "padded", "managed", "dvpp", "pinned", "pool"),
        *("pages", "elsewhere", "addresses", "shared", "context", "module", "recording"),
    ),
    dies_with_context=frozenset(
        {"linear", "padded", "managed", "dvpp", "pinned", "pool", "module", "recording"}
    ),
    contexts_hold=False,
    inside=("linear", "padded", "managed", "dvpp", "pinned", "pages"),
    keep_primary=("context", "shared"),
    whole=(
        *(("linear", way) for way in range(7)),
        *(("managed", way) for way in range(2)),
        *(("dvpp", way) for way in range(2)),
        *(("pages", way) for way in range(6)),
    ),
    shown={"linear": 1, "pages": 4},
    loads=("rtMalloc", "rtFree", "rtMallocHost"),
    table="ascend",
)

CAMBRICON = Vendor(
    name="cambricon",
    sources=(
        "tenant_cambricon.c",
        "tenant_cambricon_linear.c",
        "tenant_cambricon_pool.c",
        "tenant_cambricon_share.c",
        "tenant_cambricon_context.c",
        "tenant_cambricon_topo.c",
    ),
    library="libcndrv.so",
    names=("libcndrv.so", "libcndrv-driver.so"),
    beside=(),
    out_of_memory=100100,
    kinds=(
        *("linear", "pinned", "async", "pool", "pages", "elsewhere", "addresses", "shared"),
        *("module", "context", "recording"),
    ),
    dies_with_context=frozenset({"linear", "pinned", "elsewhere", "module", "recording"}),
    contexts_hold=True,
    inside=("linear", "pages", "module"),
    keep_primary=("shared",),
    whole=(*(("linear", way) for way in range(9)), ("pages", 0), ("pages", 1)),
    shown={"linear": 1, "pages": 4},
    sends=frozenset({"pages"}),
    pools_keep=True,
    loads=("cnMalloc", "cnFree", "cnMallocHost"),
    table="cambricon",
)

VENDORS = {vendor.name: vendor for vendor in (NVIDIA, ASCEND, CAMBRICON)}

# What NVIDIA's tenant has and another vendor's has not, by its kind, and why.
NO_ARRAYS = "the interface has no arrays: textures are a graphics card's"
NO_TEAM = "the interface has no objects of several devices: collectives are another library's"
NO_GREEN = "the interface has no parts of a context"
ABSENT: dict[str, dict[str, str]] = {
    "nvidia": {},
    "ascend": {
        "pitch": "the interface has no rows with a pitch: they are linear memory",
        "async": "devices have no pool of their own: all are made by programs",
        **dict.fromkeys(("array", "deep", "mipmap"), NO_ARRAYS),
        "team": NO_TEAM,
        "library": "code is loaded as a module, of every context",
        "green": NO_GREEN,
        "graph": "a model takes no memory when it is launched: a recording is one",
    },
    "cambricon": {
        "pitch": "the interface has no rows with a pitch: they are linear memory",
        "managed": "the interface has no memory that moves",
        **dict.fromkeys(("array", "deep", "mipmap"), NO_ARRAYS),
        "team": NO_TEAM,
        "library": "code is loaded into a context, as a module",
        "green": NO_GREEN,
        "graph": "a topology takes no memory when it is launched: a recording is one",
    },
}
NOT_SENT: dict[str, dict[str, str]] = {
    "nvidia": {},
    "ascend": {
        "pages": "memory is handed over by a number, which keeps nothing alive",
        "pool": "pools are a process' own",
    },
    "cambricon": {"pool": "pools are a process' own"},
}


def having(*kinds: str) -> list[str]:
    """The vendors that have these kinds, to be the parameters of a test."""
    return [name for name, vendor in VENDORS.items() if set(kinds) <= set(vendor.kinds)]


def sending(kind: str) -> list[str]:
    """The vendors whose memory of this kind can be under way, to be the parameters of a test."""
    return [name for name, vendor in VENDORS.items() if kind in vendor.sends]
