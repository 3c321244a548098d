"""Trained once for all tests of the homework."""

import pytest

from course_utils.homework import Comparison, compare, register
from tests.support.homework import GRID, OPTIONS


@pytest.fixture(scope="session")
def small() -> Comparison:
    """Four settings, five seeds, accuracy."""
    return compare(GRID, **OPTIONS)


@pytest.fixture(scope="session")
def with_loss() -> Comparison:
    """Two settings, three seeds, loss; the runs of the second setting diverge."""
    return compare({"lr": [0.1, 1e25]}, metric="loss", seeds=3, epochs=12, progress=False)


@pytest.fixture(scope="session")
def honest() -> dict[str, Comparison]:
    """What the forgers had before they became forgers."""
    widths_and_rates = {"hidden_features": [2, 4, 8, 16], "lr": [0.01, 0.03, 0.1, 0.3, 1.0]}
    chaos = {"hidden_features": [8, 16], "lr": [3.0, 5.0], "batch_size": 8}
    options = {"epochs": 40, "progress": False}
    return {
        "twenty": compare(widths_and_rates, seeds=5, **options),
        "chaos": compare(chaos, seeds=6, **options | {"epochs": 20}),
        "twins": compare(widths_and_rates | {"lr": [0.1, 0.3, 0.30000001]}, seeds=5, **options),
        "loss": compare({"lr": [0.1, 0.15]}, seeds=5, metric="loss", **options),
        "f1": compare({"lr": [0.1, 0.3]}, seeds=5, metric="f1_macro", **options),
        "folds": compare({"lr": [0.1, 0.3]}, seeds=5, validation="repeated_kfold", **options),
        "diverging": compare({"lr": [1e25, 0.1]}, seeds=5, **options),
        "other seeds": compare({"lr": [0.1, 0.3]}, seeds=[3, 14, 15, 92, 65], **options),
        "later seeds": compare({"lr": [0.1, 0.3]}, seeds=range(100, 105), **options),
        "planned": compare(
            {"lr": [0.1, 0.3]}, seeds=5, plan=register({"lr": [0.1, 0.3]}, seeds=5, epochs=40), **options
        ),
    }
