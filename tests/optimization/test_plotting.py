"""The figures of chapter 3."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_utils.foundation.intervals import wilson_interval
from course_utils.optimization import (
    adjust_threshold,
    plot_confusion,
    plot_groups,
    plot_reliability,
    plot_risk_coverage,
    plot_threshold,
    reliability_diagram,
)
from tests.support.values import DTYPES, honest_binary, is_png


class TestFigures:
    p, y = honest_binary(200, 0)

    def test_reliability_draws_the_bins(self, tmp_path):
        diagrams = {
            "before": reliability_diagram(self.p, self.y, n_bins=5),
            "after": reliability_diagram(0.5 * self.p, self.y, n_bins=5),  # with empty bins
        }
        path = tmp_path / "reliability.png"
        figure = plot_reliability(diagrams)
        figure.savefig(path)
        assert is_png(path)
        assert len(figure.axes) == 4
        assert [ax.get_title("left") for ax in figure.axes[:2]] == ["before", "after"]
        for i, diagram in enumerate(diagrams.values()):
            filled = diagram.counts > 0
            points, _, (bars,) = figure.axes[i].containers[0]
            assert points.get_xdata().tolist() == pytest.approx(diagram.confidence[filled].tolist())
            assert points.get_ydata().tolist() == pytest.approx(diagram.accuracy[filled].tolist())
            ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
            pairs = zip((diagram.accuracy * diagram.counts)[filled], diagram.counts[filled], strict=True)
            wilson = [wilson_interval(round(float(hits)), int(n)) for hits, n in pairs]
            assert [end for pair in ends for end in pair] == pytest.approx([end for pair in wilson for end in pair])
            counts = [bar.get_height() for bar in figure.axes[2 + i].containers[0]]
            assert counts == diagram.counts.tolist()
            assert figure.axes[i].lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert sorted(legend) == ["confidence = accuracy", "one bin, 95 %"]

    def test_threshold_marks_the_best_point(self, tmp_path):
        results = {name: adjust_threshold(self.p, self.y, metric=name) for name in ("f1", "accuracy")}
        path = tmp_path / "threshold.png"
        figure = plot_threshold(results)
        figure.savefig(path)
        ax = figure.axes[0]
        assert is_png(path)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["f1", "accuracy"]
        curves, points = ax.lines[::2], ax.lines[1::2]
        for curve, point, result in zip(curves, points, results.values(), strict=True):
            assert len(curve.get_xdata()) == 200  # without +inf
            assert curve.get_ydata().tolist() == result.scores[:200].tolist()
            assert point.get_xydata().tolist() == [[result.threshold, result.score]]

    def test_predict_none_has_no_point(self):
        result = adjust_threshold(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 0, 1]), metric="accuracy")
        assert len(plot_threshold({"accuracy": result}).axes[0].lines) == 1

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_thresholds_of_every_dtype_can_be_drawn(self, dtype):
        result = adjust_threshold(torch.tensor([0.5, 0.25], dtype=dtype), torch.tensor([1, 0]))
        line = plot_threshold({"f1": result}).axes[0].lines[0]
        assert list(line.get_xdata()) == [0.25, 0.5]

    def test_confusion_equals_scikit_learns(self, tmp_path):
        from sklearn.metrics import confusion_matrix

        labels, target = torch.randint(4, (2, 100), generator=torch.Generator().manual_seed(0))
        path = tmp_path / "confusion.png"
        figure = plot_confusion(labels, target, list("abcd"), title="four")
        figure.savefig(path)
        ax = figure.axes[0]
        drawn = np.asarray(ax.collections[0].get_array()).reshape(4, 4)
        assert is_png(path)
        assert drawn.tolist() == confusion_matrix(target, labels).tolist()
        assert [text.get_text() for text in ax.texts] == [str(count) for count in drawn.flat]
        assert [label.get_text() for label in ax.get_xticklabels()] == list("abcd")
        assert [label.get_text() for label in ax.get_yticklabels()] == list("abcd")
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title("left")) == ("predicted", "true", "four")

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
    def test_confusion_of_many_classes_in_small_numbers(self, dtype):
        """16·16 does not fit into a byte."""
        labels = torch.arange(17, dtype=dtype)
        ax = plot_confusion(labels, labels, list("abcdefghijklmnopq")).axes[0]
        assert np.asarray(ax.collections[0].get_array()).reshape(17, 17).tolist() == np.eye(17).tolist()

    def test_groups_show_the_share_up_to_each_value(self, tmp_path):
        groups = {"known": self.p, "unknown": (2 * self.p[:50]).bfloat16()}
        path = tmp_path / "groups.png"
        figure = plot_groups(groups, label="entropy in nats")
        figure.savefig(path)
        ax = figure.axes[0]
        assert is_png(path)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["known", "unknown"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("entropy in nats", "share of the group up to here")
        for line, values in zip(ax.lines, groups.values(), strict=True):
            x, share = line.get_xydata()[1:].T  # the first point is (−∞, 0)
            assert x.tolist() == pytest.approx(values.float().sort().values.tolist())
            assert share.tolist() == pytest.approx([(i + 1) / len(values) for i in range(len(values))])

    @pytest.mark.parametrize("names", [{1: "b", 0: "a"}, np.array(["a", "b"])])
    def test_q19_class_names_of_a_confusion_matrix_in_any_usual_form(self, names):
        ax = plot_confusion(torch.tensor([0, 1]), torch.tensor([1, 1]), names).axes[0]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]

    def test_risk_coverage_draws_the_curves(self, tmp_path):
        coverage, risk = torch.linspace(0.1, 1, 10), torch.linspace(0, 0.3, 10)
        path = tmp_path / "risk.png"
        curves = {"confidence": (coverage, risk), "entropy": (coverage, risk / 2)}
        figure = plot_risk_coverage(curves)
        figure.savefig(path)
        ax = figure.axes[0]
        assert is_png(path)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["confidence", "entropy"]
        assert ax.lines[0].get_ydata().tolist() == risk.tolist()
        assert ax.lines[1].get_ydata().tolist() == (risk / 2).tolist()
        assert ax.get_xlim() == (0, 1)

    @pytest.mark.parametrize(
        "draw",
        [
            lambda ax: plot_threshold({"f1": adjust_threshold(TestFigures.p, TestFigures.y)}, ax=ax),
            lambda ax: plot_confusion(TestFigures.y, TestFigures.y, ["no", "yes"], ax=ax),
            lambda ax: plot_groups({"a": TestFigures.p}, label="p", ax=ax),
            lambda ax: plot_risk_coverage({"a": (TestFigures.p, TestFigures.p)}, ax=ax),
        ],
    )
    def test_draws_into_given_axes(self, draw):
        ax = Figure().subplots()
        assert draw(ax) is ax.figure
        assert ax.has_data()

    @pytest.mark.parametrize(
        "draw",
        [
            lambda n: plot_reliability({str(i): reliability_diagram(TestFigures.p, TestFigures.y) for i in range(n)}),
            lambda n: plot_threshold({str(i): adjust_threshold(TestFigures.p, TestFigures.y) for i in range(n)}),
            lambda n: plot_groups({str(i): TestFigures.p for i in range(n)}, label="p"),
            lambda n: plot_risk_coverage({str(i): (TestFigures.p, TestFigures.p) for i in range(n)}),
        ],
    )
    def test_nine_are_drawn_and_none_is_an_error(self, draw):
        """More names than colours, and no name at all."""
        assert draw(9).axes[0].has_data()
        with pytest.raises(ValueError, match="empty"):
            draw(0)

    @pytest.mark.parametrize(
        ("draw", "error", "words"),
        [
            (lambda t: plot_confusion(t.float(), t, ["a", "b"]), TypeError, "labels must have an integer"),
            (lambda t: plot_confusion(t, t.float(), ["a", "b"]), TypeError, "target must have an integer"),
            (lambda t: plot_confusion(t[:0], t[:0], ["a", "b"]), ValueError, "empty"),
            (lambda t: plot_confusion(t, t[:1], ["a", "b"]), ValueError, "each of the"),
            (lambda t: plot_confusion(t[:1] + 2, t[:1], ["a", "b"]), ValueError, "0 to 1"),
            (lambda t: plot_confusion(t - 1, t, ["a", "b"]), ValueError, "0 to 1"),
            (lambda t: plot_confusion(t, t + 1, ["a", "b"]), ValueError, "0 to 1"),
            (lambda t: plot_groups({"a": t * math.nan}, label="x"), ValueError, "NaN"),
        ],
    )
    def test_bad_input(self, draw, error, words):
        with pytest.raises(error, match=words):
            draw(torch.tensor([0, 1, 1]))
