"""xgboost 1.6.2, with libcudart 11.0 inside, trains on the simulator."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from clients import Clients, clients, need, same

__all__ = ["clients"]

TRAINING = """
import warnings
warnings.simplefilter("ignore")
import numpy as np
import xgboost

generator = np.random.default_rng(1)
x = generator.random((500, 8), dtype=np.float32)
data = xgboost.DMatrix(x, label=(x[:, 0] > 0.5).astype(np.float32))
settings = {"tree_method": "gpu_hist", "max_depth": 3, "objective": "binary:logistic"}
booster = xgboost.train(settings, data, num_boost_round=3)
assert booster.num_boosted_rounds() == 3
assert booster.predict(data).shape == (500,)
print("well")
"""


def test_xgboost_trains_rounds_of_gpu_hist(clients: Clients) -> None:
    need("xgboost", "numpy")
    if version("xgboost") != "1.6.2":
        pytest.skip("only xgboost 1.6 carries a libcudart that starts on the simulator")
    client = clients.run(TRAINING)
    assert client.output == "well\n"
    assert client.asked.modules == 38
    assert sum(client.asked.launches.values()) >= 53
    assert any("gpu_hist" in name or "Histogram" in name for name in client.asked.launches)


def test_xgboost_is_answered_the_same_with_a_third_of_the_time(
    clients: Clients, shim_library: Path
) -> None:
    need("xgboost", "numpy")
    if version("xgboost") != "1.6.2":
        pytest.skip("only xgboost 1.6 carries a libcudart that starts on the simulator")
    capped = clients.capped(shim_library, 30)
    assert same(capped.run(TRAINING), clients.run(TRAINING))
    assert capped.used_ns() > 0


def test_xgboost_trains_again_and_again_in_one_process(clients: Clients) -> None:
    need("xgboost", "numpy")
    if version("xgboost") != "1.6.2":
        pytest.skip("only xgboost 1.6 carries a libcudart that starts on the simulator")
    client = clients.run(
        """
import warnings
warnings.simplefilter("ignore")
import numpy as np
import xgboost

generator = np.random.default_rng(1)
x = generator.random((2000, 10), dtype=np.float32)
x[generator.random(x.shape) < 0.1] = np.nan
for settings, label in (
    ({"max_depth": 8}, x[:, 1]),
    ({"objective": "multi:softprob", "num_class": 5}, generator.integers(0, 5, 2000)),
    ({"objective": "rank:pairwise"}, generator.integers(0, 2, 2000)),
    ({"objective": "binary:logistic", "eval_metric": "auc"}, generator.integers(0, 2, 2000)),
    ({"booster": "dart"}, x[:, 1]),
    ({"predictor": "gpu_predictor", "subsample": 0.5}, x[:, 1]),
    ({"grow_policy": "lossguide", "max_leaves": 31, "max_depth": 0}, x[:, 1]),
):
    data = xgboost.DMatrix(x, label=np.nan_to_num(label))
    if settings.get("objective", "").startswith("rank"):
        data.set_group([200] * 10)
    settings |= {"tree_method": "gpu_hist", "verbosity": 0}
    evaluated = [(data, "train")]
    booster = xgboost.train(settings, data, 4, evals=evaluated, verbose_eval=False)
    assert booster.num_boosted_rounds() == 4
    assert len(booster.predict(data)) == 2000
print("well")
""",
        node="a100x2",
    )
    assert client.output.endswith("well\n")
