"""The figures of chapter 4."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

from course_utils.pitfalls import plot_sizes
from tests.support.values import NAN


class TestPlotSizes:
    @pytest.mark.parametrize("size", [1.0, -3e-5, 1e-20, 1e30])
    def test_every_value_but_zero_is_drawn(self, size):
        axes = Figure().subplots()
        plot_sizes({"a": torch.tensor([0.0, 0.0] + [size] * 7)}, {"one": 1.0}, label="size", ax=axes)
        (step,) = axes.patches
        assert step.get_xy()[:, 1].max() == 7
        highest = step.get_xy()[step.get_xy()[:, 1] == 7, 0]
        assert highest.min() <= math.log10(abs(size)) <= highest.max()

    def test_words_limits_and_file(self, tmp_path):
        path = tmp_path / "sizes.png"
        values = {"float16": torch.ones(3).half(), "gradients": torch.full((2, 2), 1e-3, requires_grad=True)}
        figure = plot_sizes(values, {"smallest": 1e-4}, label="|g|", title="Sizes", save_path=path)
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_title(loc="left")) == ("|g|", "Sizes")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float16", "gradients"]
        assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([-4])
        assert path.stat().st_size > 1000
        assert not plt.get_fignums()

    @pytest.mark.parametrize(
        ("values", "limits", "error", "words"),
        [
            ({}, {}, ValueError, "values is empty"),
            ({"a": torch.zeros(3)}, {}, ValueError, r"values\['a'\] holds only zeros"),
            ({"a": torch.tensor([1.0, NAN])}, {}, ValueError, r"values\['a'\] must be finite"),
            ({"a": [1.0]}, {}, TypeError, r"values\['a'\] must be a torch.Tensor"),
            ({"a": torch.ones(3)}, {"none": 0.0}, ValueError, "none"),
            ({"a": torch.ones(3)}, {"none": -1.0}, ValueError, "none"),
        ],
    )
    def test_bad_input(self, values, limits, error, words):
        with pytest.raises(error, match=words):
            plot_sizes(values, limits, label="size")
