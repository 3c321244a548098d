"""Confusion matrices of few classes, with a text in each cell, and of many, without."""

import time

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_utils.capstone import evaluate_logits, plot_confusion_matrix
from course_utils.optimization import plot_confusion

GENERATOR = torch.Generator().manual_seed(0)


def counts(num_classes: int, **options) -> Figure:
    labels, target = torch.randint(num_classes, (2, 5000), generator=GENERATOR)
    return plot_confusion(labels, target, [f"class {i}" for i in range(num_classes)], **options)


def per_cent(num_classes: int, **options) -> Figure:
    logits, target = torch.rand(500, num_classes, generator=GENERATOR), torch.arange(500) % num_classes
    names = [f"class {i}" for i in range(num_classes)]
    return plot_confusion_matrix(evaluate_logits(logits, target, names), **options)


BOTH = pytest.mark.parametrize("draw", [counts, per_cent])


@BOTH
def test_twenty_classes_have_texts_and_names(draw):
    (ax,) = draw(20).axes
    assert len(ax.texts) == 400
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"class {i}" for i in range(20)]


@BOTH
@pytest.mark.parametrize(("num_classes", "every"), [(21, 2), (60, 3)])
def test_more_classes_have_a_colour_bar_and_some_names(draw, num_classes, every):
    ax, bar = draw(num_classes).axes
    assert not ax.texts
    named = [f"class {i}" for i in range(0, num_classes, every)]
    for axis in (ax.xaxis, ax.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == named
        assert axis.get_ticklocs().tolist() == [i + 0.5 for i in range(0, num_classes, every)]
    assert bar.get_ylabel() in ("samples", "per cent of the true class")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_the_colours_are_the_counts():
    labels = torch.arange(30).repeat(3)
    target = torch.where(torch.arange(90) < 30, 0, labels)
    ax = plot_confusion(labels, target, list(map(str, range(30)))).axes[0]
    drawn = np.asarray(ax.collections[0].get_array()).reshape(30, 30)
    expected = 2 * np.eye(30)
    expected[0] += 1
    assert drawn.tolist() == expected.tolist()


@BOTH
def test_many_classes_are_drawn_into_given_axes(draw):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert draw(30, ax=right) is figure
    assert right.has_data()
    assert not left.has_data()


def test_a_hundred_classes_take_two_seconds_at_most():
    counts(2)._repr_png_()  # imports and fonts
    start = time.process_time()
    picture = counts(100)._repr_png_()
    assert time.process_time() - start <= 2
    assert len(picture) <= 200_000
