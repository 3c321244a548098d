"""What a result shows in a notebook: a small table, at once, whatever its size."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from course_utils.basics import describe_output
from course_utils.capstone import evaluate_logits
from course_utils.foundation.predictions import Prediction
from course_utils.foundation.results import Result
from course_utils.interpretation import interpret_classification_output, interpret_regression_output
from course_utils.optimization import monte_carlo_dropout


@dataclass(frozen=True, eq=False, repr=False)
class Fields(Result):
    """Every kind of field that results have."""

    flat: Tensor
    wide: Tensor
    maps: Tensor
    ragged: list
    missing: Tensor | None = None

    per_sample: ClassVar = ("flat", "wide", "ragged", "maps")


def fields(rows: int, columns: int = 3) -> Fields:
    wide = torch.arange(rows * columns).reshape(rows, columns)
    return Fields(torch.arange(rows), wide, torch.zeros(rows, 2, 4), [torch.ones(i % 3) for i in range(rows)])


def large_prediction() -> Prediction:
    probabilities = torch.full((2000, 20_000), 1 / 20_000)
    labels = torch.arange(2000)
    return Prediction(labels, probabilities[:, 0], probabilities, tuple(f"class {i}" for i in range(20_000)))


def dropout_result():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3000))
    return monte_carlo_dropout(model, torch.ones(200, 4), n_samples=2, seed=0)


LARGE = {
    "any fields": lambda: fields(100_000, 300),
    "prediction": large_prediction,
    "classification": lambda: interpret_classification_output(torch.randn(3000, 5000), top_k=50),
    "multilabel": lambda: interpret_classification_output(torch.randn(3000, 5000), task="multilabel"),
    "regression": lambda: interpret_regression_output(torch.randn(10_000, 400), torch.randn(10_000, 400)),
    "dropout": dropout_result,
    "evaluation": lambda: evaluate_logits(torch.randn(1000, 60), torch.arange(1000) % 60),
    "report of a nested output": lambda: describe_output([torch.zeros(2, 3)] * 1000),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_result_is_shown_in_few_bytes(name):
    """Q28: a page of (1000, 128,000) had 29 MB. How soon it is shown stands in the benchmarks."""
    page = LARGE[name]()._repr_html_()
    assert len(page.encode()) <= 200_000
    assert "more" in page


def test_a_small_result_is_shown_whole():
    result = fields(2)
    page = result._repr_html_()
    assert page.startswith("<p>Fields, 2 rows</p>\n<table")
    assert page == f"<p>Fields, 2 rows</p>\n{result.to_frame().round(3).to_html()}"


def test_what_is_shown_is_the_corner_of_the_whole_frame():
    result = fields(12, 30)
    frame = result.to_frame()
    page = result._repr_html_()
    assert frame.iloc[:10, :20].round(3).to_html() in page
    assert frame.shape == (12, 1 + 30 + 1 + 8)
    assert page.rstrip().endswith("<p>… 2 more rows and 20 more columns</p>")


@pytest.mark.parametrize(("rows", "columns", "words"), [(10, 3, None), (11, 3, "… 1 more rows"), (3, 40, "columns")])
def test_it_says_how_much_more_there_is(rows, columns, words):
    page = fields(rows, columns)._repr_html_()
    assert ("more" in page) == (words is not None)
    assert words is None or words in page


def test_names_stand_at_their_columns():
    names = tuple(f"<{i}>" for i in range(25))
    result = interpret_classification_output(torch.randn(11, 25), names)
    frame = result.to_frame()
    page = result._repr_html_()
    assert frame.iloc[:10, :20].round(3).to_html() in page
    assert "p(&lt;0&gt;)" in page
    assert f"{frame.shape[1] - 20} more columns" in page


def test_a_nested_output_of_few_tensors_is_shown_whole():
    report = describe_output({"a": torch.zeros(2, 3), "b": [torch.ones(1)]})
    assert report._repr_html_().count("axis 0") == 2
    assert "more" not in report._repr_html_()
    assert "without tensors" in describe_output([])._repr_html_()
