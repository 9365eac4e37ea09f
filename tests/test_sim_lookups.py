"""The simulator's driver library is looked up as NVIDIA's are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from cuda_headers import exports
from cuda_table import read_table
from lookups import ODD_NAMES, probe

FLAGS = (0, 1, 2)


def test_the_simulator_exports_exactly_what_the_table_names(sim_library: Path) -> None:
    named = {s.name for row in read_table() if row.by != "none" for s in row.symbols}
    assert exports(sim_library).keys() == named


def test_the_simulator_chooses_the_form_that_a_real_driver_chooses(
    sim_library: Path, real_driver: Callable[[str], Path], tmp_path: Path
) -> None:
    table = read_table()
    driver = real_driver("550")
    real, simulated = exports(driver), exports(sim_library)
    # What 550 has in its newest form: newer drivers choose newer forms of the rest.
    names = [row.function for row in table if all(s.name in real for s in row.symbols)]
    names = [row.function for row in table if row.by != "none" and row.function in names]
    assert len(names) > 350
    since = {symbol.since for row in table for symbol in row.symbols if symbol.since}
    versions = sorted(since | {version - 1 for version in since} | {99999})
    names += [name for name in ODD_NAMES if not name.startswith("cudbg")]
    asked = {"symbols": [], "names": names, "versions": versions, "flags": list(FLAGS)}
    bare = probe(driver, driver, asked, tmp_path / "real")
    ours = probe(sim_library, sim_library, asked, tmp_path / "simulated")
    name_of = {
        "real": {offset: name for name, offset in real.items()},
        "simulated": {offset: name for name, offset in simulated.items()},
    }
    wrong = []
    for call in ("v1", "v2"):
        questions = itertools.product(names, versions, FLAGS)
        for question, theirs, our in zip(questions, bare[call], ours[call], strict=True):
            expected = theirs[2] and name_of["real"][theirs[2][1]]
            chosen = our[2] and name_of["simulated"][our[2][1]]
            if [*our[:2], chosen] != [*theirs[:2], expected]:
                wrong.append((call, question, [*our[:2], chosen], [*theirs[:2], expected]))
    assert wrong == []
    assert [ours["odd"][0], *ours["odd"][2:]] == [bare["odd"][0], *bare["odd"][2:]]
