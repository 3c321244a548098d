"""Chapter 1: conversions against torch and scipy, the report, the figures, and the errors E1, E20, E64."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy

from course_utils.basics import (
    SimpleNet,
    describe_output,
    logits_to_probabilities,
    plot_pictures,
    plot_probabilities,
    plot_segmentation,
    plot_temperature,
    probabilities_to_labels,
)
from course_utils.data import load_split

finite = st.floats(-80, 80, width=32)


def rows(min_classes: int = 2):
    """Logits (N, C) as nested lists."""
    sizes = st.tuples(st.integers(1, 5), st.integers(min_classes, 6))
    return sizes.flatmap(
        lambda size: st.lists(st.lists(finite, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
    )


class TestLogitsToProbabilities:
    @given(rows())
    def test_multiclass_equals_scipy(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        expected = scipy.special.softmax(np.array(values), axis=1)
        assert np.allclose(logits_to_probabilities(logits, "multiclass"), expected, atol=1e-12)

    @given(rows(min_classes=1))
    def test_multilabel_equals_scipy(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        assert np.allclose(logits_to_probabilities(logits, "multilabel"), scipy.special.expit(np.array(values)))

    @given(rows(), st.floats(-50, 50))
    def test_shift_invariant(self, values, shift):
        logits = torch.tensor(values, dtype=torch.float64)
        shifted = logits_to_probabilities(logits + shift, "multiclass")
        assert torch.allclose(shifted, logits_to_probabilities(logits, "multiclass"), atol=1e-9)

    @given(st.lists(finite, min_size=1, max_size=6))
    def test_binary_is_softmax_of_zero_and_z(self, values):
        z = torch.tensor(values, dtype=torch.float64)
        two = torch.stack([torch.zeros_like(z), z], 1)
        expected = logits_to_probabilities(two, "multiclass")[:, 1]
        assert torch.allclose(logits_to_probabilities(z, "binary"), expected, atol=1e-12)
        assert torch.equal(logits_to_probabilities(z[:, None], "binary")[:, 0], logits_to_probabilities(z, "binary"))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_keeps_dtype_and_stays_finite(self, dtype):
        logits = torch.tensor([[60000.0, -60000.0], [0.0, 1.0]], dtype=dtype)
        for task in ("multiclass", "multilabel"):
            probabilities = logits_to_probabilities(logits, task)
            assert probabilities.dtype == dtype
            assert torch.isfinite(probabilities).all()

    def test_e64_segmentation_softmax_is_over_dim_1(self):
        logits = torch.linspace(-4, 4, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        probabilities = logits_to_probabilities(logits, "multiclass")
        assert torch.allclose(probabilities.sum(1), torch.ones(2, 4, 5))
        assert probabilities_to_labels(probabilities, "multiclass").shape == (2, 4, 5)
        assert describe_output(logits, task="segmentation").kinds == ("logits",)

    def test_e1_one_logit_is_never_softmaxed(self):
        logit = torch.tensor([[-3.0]])
        assert torch.softmax(logit, 1).item() == 1.0  # the error: class 0 with certainty
        assert logits_to_probabilities(logit, "binary").item() == pytest.approx(0.0474, abs=1e-4)
        with pytest.raises(ValueError, match="one logit per sample is 'binary'"):
            logits_to_probabilities(logit, "multiclass")

    def test_gradients_flow(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        logits_to_probabilities(logits, "multiclass")[:, 0].sum().backward()
        assert logits.grad.abs().sum() > 0

    @pytest.mark.parametrize(
        ("logits", "task", "error", "words"),
        [
            (torch.zeros(3, 2), "multi", ValueError, "'binary', 'multiclass', 'multilabel'"),
            (torch.zeros(3), "multiclass", ValueError, r"\(N, C\)"),
            (torch.zeros(3, 2), "binary", ValueError, r"\(N,\) or \(N, 1\)"),
            (torch.zeros(3), "multilabel", ValueError, r"\(N, C, …\)"),
            (torch.zeros(0, 2), "multiclass", ValueError, "empty"),
            (torch.tensor([[math.nan, 0.0]]), "multiclass", ValueError, "1 NaN"),
            (torch.tensor([math.inf]), "binary", ValueError, "1 infinite"),
            (torch.zeros(3, 2, dtype=torch.long), "multiclass", TypeError, "floating"),
            ([[0.0, 1.0]], "multiclass", TypeError, "torch.Tensor"),
        ],
    )
    def test_bad_input(self, logits, task, error, words):
        with pytest.raises(error, match=words):
            logits_to_probabilities(logits, task)


class TestProbabilitiesToLabels:
    @given(rows())
    def test_multiclass_equals_argmax_of_logits(self, values):
        logits = torch.tensor(values, dtype=torch.float64)
        labels = probabilities_to_labels(logits_to_probabilities(logits, "multiclass"), "multiclass")
        top = logits.gather(1, labels[:, None])[:, 0]
        assert torch.allclose(top, logits.amax(1), atol=1e-9)
        assert labels.dtype == torch.int64

    def test_threshold_is_inclusive(self):
        p = torch.tensor([0.3, 0.5, 0.5000001, 0.9])
        assert probabilities_to_labels(p, "binary").tolist() == [0, 1, 1, 1]
        assert probabilities_to_labels(p, "binary", threshold=0.9).tolist() == [0, 0, 0, 1]
        assert probabilities_to_labels(p, "binary", threshold=0).tolist() == [1, 1, 1, 1]
        assert probabilities_to_labels(p, "binary", threshold=math.inf).tolist() == [0, 0, 0, 0]

    @given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.floats(0, 1))
    def test_a_higher_threshold_never_adds_positives(self, values, threshold):
        p = torch.tensor(values)
        some = probabilities_to_labels(p, "binary", threshold=threshold)
        more = probabilities_to_labels(p, "binary", threshold=threshold / 2)
        assert (more >= some).all()

    def test_e8_the_threshold_is_used(self):
        p = torch.tensor([[0.6, 0.2]])
        assert probabilities_to_labels(p, "multilabel", threshold=0.7).tolist() == [[0, 0]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_softmax_is_accepted(self, dtype):
        p = torch.softmax(torch.linspace(-8, 8, 1000, dtype=dtype).reshape(1, -1), 1)
        assert probabilities_to_labels(p, "multiclass").tolist() == [999]

    @pytest.mark.parametrize(
        ("p", "task", "threshold", "words"),
        [
            (torch.tensor([[2.0, -1.0]]), "multiclass", None, "look like logits"),
            (torch.tensor([-0.1]), "binary", None, "look like logits"),
            (torch.tensor([[0.6, 0.6]]), "multiclass", None, "1 of 1 do not"),
            (torch.tensor([[0.4, 0.6]]), "multiclass", 0.5, "no threshold"),
            (torch.tensor([0.4]), "binary", 1.5, r"\[0, 1\]"),
            (torch.tensor([0.4]), "binary", -0.1, r"\[0, 1\]"),
            (torch.tensor([0.4]), "binary", math.nan, r"\[0, 1\]"),
            (torch.tensor([[1.0]]), "multiclass", None, "C ≥ 2"),
            (torch.tensor([math.nan]), "binary", None, "NaN"),
        ],
    )
    def test_bad_input(self, p, task, threshold, words):
        with pytest.raises(ValueError, match=words):
            probabilities_to_labels(p, task, threshold=threshold)

    def test_threshold_of_the_wrong_type(self):
        with pytest.raises(TypeError, match="threshold"):
            probabilities_to_labels(torch.tensor([0.4]), "binary", threshold="high")


def test_conversions_give_torchmetrics_accuracy_on_real_models():
    from sklearn.linear_model import LogisticRegression

    for name, task, oracle in (
        ("digits", "multiclass", multiclass_accuracy),
        ("breast_cancer", "binary", binary_accuracy),
    ):
        split = load_split(name)
        model = LogisticRegression(max_iter=300).fit(split.x_train.numpy(), split.y_train.numpy())
        logits = torch.as_tensor(model.decision_function(split.x_test.numpy()))
        labels = probabilities_to_labels(logits_to_probabilities(logits, task), task)
        mine = (labels == split.y_test).double().mean()
        options = {"num_classes": 10, "average": "micro"} if task == "multiclass" else {}
        assert mine.item() == pytest.approx(oracle(logits, split.y_test, **options).item(), abs=1e-6)
        assert mine.item() == pytest.approx(model.score(split.x_test.numpy(), split.y_test.numpy()))


class TestSimpleNet:
    def test_returns_logits_of_linear_relu_linear(self):
        model = SimpleNet(4, 8, 3)
        x = torch.rand(5, 4)
        by_hand = F.linear(
            F.relu(F.linear(x, model.hidden.weight, model.hidden.bias)), model.output.weight, model.output.bias
        )
        assert torch.equal(model(x), by_hand)
        assert not any(isinstance(module, (nn.Softmax, nn.Sigmoid)) for module in model.modules())

    def test_defaults(self):
        assert SimpleNet()(torch.zeros(2, 10)).shape == (2, 2)

    @pytest.mark.parametrize("sizes", [(0, 5, 2), (10, -1, 2), (10, 5, 0)])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            SimpleNet(*sizes)

    def test_e20_gradient_survives_on_logits_and_dies_behind_softmax(self):
        z = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
        target = torch.tensor([1])
        (on_logits,) = torch.autograd.grad(F.cross_entropy(z, target), z)
        (twice,) = torch.autograd.grad(F.cross_entropy(logits_to_probabilities(z, "multiclass"), target), z)
        assert on_logits.abs().max() > 0.99
        assert twice.abs().max() < 1e-7


class TestDescribeOutput:
    @pytest.mark.parametrize(
        ("shape", "task", "last"),
        [
            ((6,), "binary", "N samples"),
            ((6, 1), "binary", "1 logit"),
            ((6, 3), "multiclass", "C classes"),
            ((6, 3, 7), "multiclass", "L positions"),
            ((6, 3, 7, 7), "multiclass", "axis 3"),
            ((6, 3), "multilabel", "C classes"),
            ((6, 2), "regression", "D outputs"),
            ((6, 3, 8, 8), "segmentation", "W columns"),
            ((6, 5, 90), "sequence", "V vocabulary"),
            ((6, 5, 90), None, "V vocabulary (or L positions)"),
            ((2, 2, 2, 2, 2), None, "axis 4"),
        ],
    )
    def test_axes(self, shape, task, last):
        report = describe_output(torch.zeros(shape), task=task)
        assert report.axes[-1] == last
        assert len(report.axes) == len(shape)
        assert str(shape) in repr(report)

    @pytest.mark.parametrize(
        ("shape", "task"), [((2, 3, 4), "binary"), ((5,), "multiclass"), ((2, 3), "sequence"), ((2, 3), "segmentation")]
    )
    def test_shapes_that_do_not_fit(self, shape, task):
        with pytest.raises(ValueError, match=f"output of a {task} task"):
            describe_output(torch.zeros(shape), task=task)

    def test_kinds_on_real_outputs(self):
        split = load_split("iris")
        torch.manual_seed(0)
        logits = SimpleNet(4, 8, 3)(split.x_test) * 10
        assert describe_output(logits, task="multiclass").kinds == ("logits",)
        assert describe_output(logits.softmax(1)).kinds == ("logits", "probabilities")
        assert describe_output(logits.log_softmax(1)).kinds == ("logits", "log_probabilities")
        assert describe_output(logits.argmax(1)).kinds == ()
        assert describe_output(logits, task="regression").kinds == ()

    def test_sequences_and_segmentations_have_their_own_class_axis(self):
        sequence = torch.softmax(torch.linspace(0, 9, 2 * 5 * 7).reshape(2, 5, 7).sin(), -1)
        assert "probabilities" in describe_output(sequence, task="sequence").kinds
        assert "probabilities" not in describe_output(sequence, task="multiclass").kinds
        assert "sum to 1 over the classes in 10 of 10" not in repr(describe_output(sequence.mT))
        assert describe_output(sequence.mT).reasons["probabilities"].startswith("yes: all values are")

    def test_counts_what_is_not_finite(self):
        report = describe_output(torch.tensor([[math.nan, 1.0], [math.inf, -2.0]]))
        assert (report.nan_count, report.inf_count, report.minimum, report.maximum) == (1, 1, -2.0, 1.0)
        assert report.kinds == ()
        assert "1 NaN, 1 infinite" in repr(report)

    def test_two_columns_are_no_binary_output(self):
        with pytest.raises(ValueError, match="one logit a sample"):
            describe_output(torch.zeros(3, 2), task="binary")

    def test_nothing_finite_and_nothing_at_all(self):
        assert describe_output(torch.tensor([math.nan])).minimum is None
        assert repr(describe_output({})) == "an output without tensors"
        with pytest.raises(ValueError, match=r"output\['a'\] is empty"):
            describe_output({"a": torch.zeros(0, 3)})

    def test_objects_with_logits_are_read(self):
        report = describe_output(SimpleNamespace(logits=torch.zeros(2, 3)))
        assert report.path == ".logits"
        assert report
        assert list(describe_output({"a": torch.zeros(1)})) == ["a"]

    def test_nested(self):
        output = {"class": torch.zeros(2, 3), "boxes": [torch.tensor([[math.nan]]), (torch.ones(1),)]}
        report = describe_output(output)
        assert report["boxes"][0].nan_count == 1
        assert report["boxes"][1][0].path == "['boxes'][1][0]"
        assert report.nan_count == 1
        assert report.kinds == ()
        assert report.to_frame()["path"].tolist() == ["['class']", "['boxes'][0]", "['boxes'][1][0]"]
        assert "output['class']: float32 (2, 3)" in repr(report)
        assert "&#x27;class&#x27;" in report._repr_html_()

    def test_requires_grad_is_seen_and_not_changed(self):
        x = torch.zeros(2, 3, requires_grad=True)
        assert describe_output(x).requires_grad
        assert not describe_output({"a": x.detach()}).requires_grad

    def test_bad_input(self):
        with pytest.raises(TypeError, match=r"output\['a'\] must be a tensor"):
            describe_output({"a": "text"})
        with pytest.raises(ValueError, match="task must be one of"):
            describe_output(torch.zeros(2), task="classify")


class TestFigures:
    def test_probabilities_bars(self):
        figure = plot_probabilities(torch.tensor([0.1, 0.7, 0.2]), ["cat", "dog", "horse"], title="pet")
        ax = figure.axes[0]
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.1, 0.7, 0.2])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "horse"]
        assert ax.get_ylabel() == "probability"

    def test_temperature_panels_keep_the_order(self):
        figure = plot_temperature(torch.tensor([0.0, 3.0, 1.0]), temperatures=(0.5, 5.0))
        for ax in figure.axes:
            heights = [bar.get_height() for bar in ax.patches]
            assert sorted(range(3), key=heights.__getitem__) == [0, 2, 1]
            assert sum(heights) == pytest.approx(1, abs=1e-5)

    def test_pictures_grey_and_colour(self, tmp_path):
        path = tmp_path / "grid.png"
        figure = plot_pictures(torch.zeros(3, 8, 8), ["a", "b", "c"], columns=2, save_path=path)
        assert sum(bool(ax.images) for ax in figure.axes) == 3
        assert path.read_bytes().startswith(b"\x89PNG")
        colour = plot_pictures(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
        assert colour.axes[0].images[0].get_array().shape == (8, 9, 3)

    def test_segmentation_shows_input_maps_and_label(self):
        probabilities = torch.softmax(torch.zeros(3, 6, 6) + torch.tensor([0.0, 2.0, 1.0])[:, None, None], 0)
        figure = plot_segmentation(torch.zeros(3, 6, 6), probabilities, ["sky", "sea", "land"])
        titles = [ax.get_title("left") for ax in figure.axes[:5]]
        assert titles == ["input", "p(sky)", "p(sea)", "p(land)", "label"]
        assert (figure.axes[4].images[0].get_array() == 1).all()

    def test_draws_into_given_axes(self):
        from matplotlib.figure import Figure

        ax = Figure().subplots()
        assert plot_probabilities(torch.tensor([0.5, 0.5]), ax=ax) is ax.figure

    @pytest.mark.parametrize(
        ("draw", "words"),
        [
            (lambda: plot_probabilities(torch.zeros(2), ["a"]), "2 classes, but has 1"),
            (lambda: plot_probabilities(torch.zeros(2, 2)), "1 dimension"),
            (lambda: plot_temperature(torch.zeros(2), temperatures=(0.0,)), "temperature"),
            (lambda: plot_pictures(torch.zeros(2, 1, 8, 8)), r"\(N, H, W\) or \(N, 3, H, W\)"),
            (lambda: plot_pictures(torch.zeros(0, 8, 8)), "empty"),
            (lambda: plot_pictures(torch.zeros(2, 8, 8), ["a"]), "each of the 2"),
            (lambda: plot_segmentation(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4), ["a"]), "2 classes"),
        ],
    )
    def test_bad_input(self, draw, words):
        with pytest.raises(ValueError, match=words):
            draw()
