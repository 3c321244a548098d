"""Comparisons that several test files share."""

import json
from pathlib import Path

import pandas as pd
import sklearn.datasets
import torch

from course_utils.data import load_split
from course_utils.homework import Comparison, expand_grid
from course_utils.homework.runs import RunRecord
from course_utils.homework.storage import curves_digest, from_document, summary_to_json

_SPLIT = load_split("iris", scaling="minmax")
X, Y = _SPLIT.x_train[::2], _SPLIT.y_train[::2]  # 60 flowers
GRID = {"lr": [0.01, 0.3], "hidden_features": [3, 8]}
OPTIONS = {"seeds": 5, "epochs": 40, "progress": False}


def own_data(n=90, dtype=torch.float32):
    x, y = sklearn.datasets.make_blobs(n, 3, centers=3, random_state=0)
    return torch.tensor(x, dtype=dtype), torch.tensor(y)


def assert_same(one: Comparison, other: Comparison, **tolerance) -> None:
    """The same results, whatever time they took."""
    for name in ("runs", "curves"):
        a, b = (getattr(comparison, name).drop(columns="seconds", errors="ignore") for comparison in (one, other))
        pd.testing.assert_frame_equal(a, b, **(tolerance or {"check_exact": True}))


def untrained(grid, seeds=5) -> Comparison:
    """A comparison whose figures do not matter."""
    settings = tuple(expand_grid(grid))
    records = tuple(
        RunRecord(i, seed, 0.9, 0.9, 0.9, False, 0.1, "none", (1.0,) * 100)
        for i in range(len(settings))
        for seed in range(seeds)
    )
    return Comparison(
        settings, tuple(range(seeds)), records, (90, 30, 30), "iris", "0" * 64, "accuracy", "holdout", "auto"
    )


def resigned(document: dict) -> dict:
    """With summary and digest made to fit, as a careful forger would do."""
    comparison = Comparison(**from_document(document))
    return document | {"summary": summary_to_json(comparison), "curves_digest": curves_digest(comparison.records)}


def saved(path: Path, comparison: Comparison) -> dict:
    """The document that `save` wrote."""
    comparison.save(path)
    return json.loads(path.read_text())
