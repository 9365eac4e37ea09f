"""How long the agent takes to admit a container, with nothing and with many slices in the ledger.

Bundles are prepared; each is asked for as aliquot-runtime asks, and given back as aliquot-hook
does.
Milliseconds of wall clock from the request to the answer: the ledger is on disk by then, the region
is mounted and config.json is replaced. One hundred a second is ten milliseconds each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

import common
from common import BenchError, Figure, Options
from nodes import NodeBed, node_bed

ADMISSIONS: Final = 200
QUICK_ADMISSIONS: Final = 10
HELD: Final = (0, 100)
EACH_MS: Final = 10.0
_SMALL: Final = {"ALIQUOT_MEMORY": "64MiB"}


def _ask(bed: NodeBed, name: str) -> float:
    """Admit a container whose bundle is ready; milliseconds."""
    from aliquot.agent import wire  # noqa: PLC0415 - only once it is known to be built

    bundle = bed.bundle(name, **_SMALL)
    before = time.perf_counter()
    wire.ask(bed.socket, wire.CREATE, {"id": name, "bundle": str(bundle)})
    return (time.perf_counter() - before) * 1000


def _give_back(bed: NodeBed, name: str) -> None:
    from aliquot.agent import wire  # noqa: PLC0415 - as above
    from aliquot.agent.ledger import key_of  # noqa: PLC0415 - as above

    folder: Path = bed.folder / "run/containers" / key_of(name, str(bed.bundle_path(name)))
    wire.ask(bed.socket, wire.POSTSTOP, {"slice": str(folder), "id": name})


def run(bed: NodeBed, options: Options) -> dict[str, Figure]:
    """Admit containers one after the other, with as many held as HELD says."""
    from aliquot.agent.errors import AliquotError  # noqa: PLC0415 - as above

    figures: dict[str, Figure] = {}
    held = 0
    try:
        for wanted in HELD:
            common.progress(f"admit: with {wanted} slices held")
            while held < wanted:
                _ask(bed, f"held-{held}")
                held += 1
            times = []
            for number in range(QUICK_ADMISSIONS if options.quick else ADMISSIONS):
                times.append(_ask(bed, f"bench-{number}"))
                _give_back(bed, f"bench-{number}")
            ordered = sorted(times)
            p95 = ordered[round(0.95 * (len(ordered) - 1))]
            figures[f"admit_{wanted}_median"] = Figure(median(times), "ms", EACH_MS)
            figures[f"admit_{wanted}_p95"] = Figure(p95, "ms", EACH_MS)
        while held:
            held -= 1
            _give_back(bed, f"held-{held}")
    except AliquotError as error:
        raise BenchError(str(error)) from error
    return figures


if __name__ == "__main__":
    sys.exit(common.main("admit", __doc__.splitlines()[0], run, lambda _: node_bed()))
