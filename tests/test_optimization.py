"""Chapter 3: thresholds against brute force, calibration against torchmetrics and scipy, E20 to E36, P1 to P3."""

import copy
import math
import warnings
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar, root_scalar
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from course_utils.foundation.networks import TwoLayerNetwork
from course_utils.optimization import (
    BinaryClassificationModel,
    MultiClassClassificationModel,
    MultiLabelClassificationModel,
    RegressionModel,
    adjust_threshold,
    deep_ensemble,
    ensemble_predictions,
    expected_calibration_error,
    fit_stacking,
    monte_carlo_dropout,
    plot_confusion,
    plot_groups,
    plot_reliability,
    plot_risk_coverage,
    plot_threshold,
    reliability_diagram,
    temperature_scaling,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
seeds = st.integers(0, 2**31)


def random_logits(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def sampled_labels(probabilities: torch.Tensor, seed: int) -> torch.Tensor:
    """Labels drawn from (N, C) probabilities, so that these are honest."""
    return torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def honest_binary(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform probabilities of class 1, and labels that keep them."""
    p, u = torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p, (u < p).long()


class Returns(nn.Module):
    """A model that answers with what it was given."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def constant(head, value: float):
    """The head with every output equal to `value`, whatever comes in, and gradients that reach its last bias."""
    last = head.output
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)
    return head


def bias_gradient(head, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, head.output.bias)[0]


class TestHeads:
    x = random_logits(0, 7, 4).float()

    @pytest.mark.parametrize(
        ("head", "shape"),
        [
            (BinaryClassificationModel(4), (7, 1)),
            (MultiClassClassificationModel(4, 3), (7, 3)),
            (MultiLabelClassificationModel(4, 5), (7, 5)),
            (RegressionModel(4), (7, 1)),
            (RegressionModel(4, 2), (7, 2)),
        ],
    )
    def test_returns_logits_or_values(self, head, shape):
        linear, last = head.hidden, head.output
        by_hand = F.linear(F.relu(F.linear(self.x, linear.weight, linear.bias)), last.weight, last.bias)
        assert head(self.x).shape == shape
        assert torch.equal(head(self.x), by_hand)

    @given(seeds)
    def test_losses_equal_torchs(self, seed):
        x, random = random_logits(seed, 6, 4).float(), random_logits(seed + 1, 6, 3)
        binary, label = BinaryClassificationModel(4), MultiLabelClassificationModel(4, 3)
        several, values = MultiClassClassificationModel(4, 3), RegressionModel(4, 3)
        hits = (random > 0).long()
        assert torch.equal(
            binary.loss(x, hits[:, :1]), F.binary_cross_entropy_with_logits(binary(x), hits[:, :1].float())
        )
        assert torch.equal(label.loss(x, hits), F.binary_cross_entropy_with_logits(label(x), hits.float()))
        assert torch.equal(several.loss(x, random.argmax(1)), F.cross_entropy(several(x), random.argmax(1)))
        assert torch.equal(values.loss(x, random.float()), F.mse_loss(values(x), random.float()))

    def test_probabilities_equal_scipys(self):
        binary, label = BinaryClassificationModel(4), MultiLabelClassificationModel(4, 3)
        several = MultiClassClassificationModel(4, 3)
        for head, function in (
            (binary, scipy.special.expit),
            (label, scipy.special.expit),
            (several, lambda z: scipy.special.softmax(z, axis=1)),
        ):
            p = head.predict_proba(self.x)
            assert p.shape == head(self.x).shape
            assert not p.requires_grad
            assert np.allclose(p, function(head(self.x).detach().numpy()), atol=1e-6)

    @pytest.mark.parametrize("head", [BinaryClassificationModel(4), MultiClassClassificationModel(4, 3)])
    def test_predict_proba_runs_in_eval_mode_and_gives_the_modes_back(self, head):
        head = copy.deepcopy(head)
        head.activation = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
        head.train()
        head.hidden.eval()
        before = [module.training for module in head.modules()]
        assert torch.equal(head.predict_proba(self.x), head.predict_proba(self.x))
        assert not torch.equal(head(self.x), head(self.x))
        assert [module.training for module in head.modules()] == before
        with pytest.raises(RuntimeError):
            head.predict_proba(torch.zeros(2, 9))
        assert [module.training for module in head.modules()] == before

    @pytest.mark.parametrize(
        ("activation", "low", "high"),
        [("sigmoid", 0, 1), ("tanh", -1, 1), ("softplus", 0, math.inf), ("relu", 0, math.inf)],
    )
    def test_activations_keep_their_range(self, activation, low, high):
        head = RegressionModel(4, 2, activation=activation)
        oracle = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus, "relu": torch.relu}[activation]
        values = head(100 * self.x).detach()
        assert torch.equal(values, oracle(TwoLayerNetwork.forward(head, 100 * self.x)))
        assert low <= float(values.min()) <= float(values.max()) <= high
        target = torch.full_like(values, 0.5)
        loss = head.loss(self.x, target).detach()
        assert float(loss) == pytest.approx(float(F.mse_loss(head(self.x), target).detach()))
        with pytest.raises(ValueError, match=f"activation='{activation}' can produce"):
            head.loss(self.x, target - 3)

    @given(seeds)
    def test_relu_head_has_the_loss_of_forward_and_a_gradient(self, seed):
        torch.manual_seed(seed)
        head, x = RegressionModel(4, 2, activation="relu").double(), random_logits(seed, 6, 4)
        target = random_logits(seed + 1, 6, 2).abs()
        loss = head.loss(x, target)
        assert float(loss.detach()) == pytest.approx(float(F.mse_loss(head(x), target).detach()), rel=1e-12)
        error = 2 * (head(x) - target) / target.numel()  # the squared error's own gradient at each value
        assert torch.allclose(bias_gradient(head, loss), error.sum(0).detach())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_keeps_the_dtype_and_stays_finite(self, dtype):
        x = self.x.to(dtype) * 1000
        for head in (BinaryClassificationModel(4), MultiClassClassificationModel(4, 3)):
            p = head.to(dtype).predict_proba(x)
            assert p.dtype == dtype
            assert torch.isfinite(p).all()

    @pytest.mark.parametrize(
        ("head", "target", "error", "words"),
        [
            (BinaryClassificationModel(4), torch.zeros(7), ValueError, r"\(7, 1\).*broadcast"),
            (BinaryClassificationModel(4), torch.zeros(1, 1), ValueError, r"\(7, 1\)"),
            (BinaryClassificationModel(4), torch.full((7, 1), 2), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), torch.full((7, 1), -1), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), torch.full((7, 1), math.nan), ValueError, "0 and 1"),
            (BinaryClassificationModel(4), [[0.0]] * 7, ValueError, "a list of length 7"),
            (MultiLabelClassificationModel(4, 3), torch.zeros(7, 1), ValueError, r"\(7, 3\)"),
            (MultiLabelClassificationModel(4, 3), torch.zeros(3), ValueError, r"\(7, 3\)"),
            (MultiClassClassificationModel(4, 3), torch.zeros(7, 3), TypeError, "integer"),
            (MultiClassClassificationModel(4, 3), torch.zeros(7, 1, dtype=torch.long), ValueError, "1 dimension"),
            (MultiClassClassificationModel(4, 3), torch.zeros(6, dtype=torch.long), ValueError, "each of the 7"),
            (MultiClassClassificationModel(4, 3), torch.full((7,), 3), ValueError, "0 to 2"),
            (MultiClassClassificationModel(4, 3), torch.full((7,), -100), ValueError, "0 to 2"),
            (RegressionModel(4), torch.zeros(7), ValueError, r"\(7, 1\).*broadcast"),
            (RegressionModel(4, 2), torch.zeros(7, 1), ValueError, r"\(7, 2\)"),
            (RegressionModel(4), torch.full((7, 1), math.nan), ValueError, "7 NaN"),
        ],
    )
    def test_bad_target(self, head, target, error, words):
        with pytest.raises(error, match=words):
            head.loss(self.x, target)

    @pytest.mark.parametrize(
        ("head", "target"),
        [
            (BinaryClassificationModel(4), torch.zeros(0, 1)),
            (MultiLabelClassificationModel(4, 3), torch.zeros(0, 3)),
            (MultiClassClassificationModel(4, 3), torch.zeros(0, dtype=torch.long)),
            (RegressionModel(4), torch.zeros(0, 1)),
        ],
    )
    def test_the_mean_of_no_samples_is_an_error(self, head, target):
        with pytest.raises(ValueError, match="empty"):
            head.loss(torch.zeros(0, 4), target)

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: BinaryClassificationModel(0), ValueError, "in_features"),
            (lambda: BinaryClassificationModel(4, hidden_features=0), ValueError, "hidden_features"),
            (lambda: MultiClassClassificationModel(4, 1), ValueError, "num_classes must be at least 2"),
            (lambda: MultiLabelClassificationModel(4, 0), ValueError, "num_classes"),
            (lambda: RegressionModel(4, 0), ValueError, "out_features"),
            (lambda: RegressionModel(4.0), TypeError, "in_features must be an int"),
            (lambda: RegressionModel(4, activation="exp"), ValueError, "'sigmoid', 'tanh', 'softplus', 'relu'"),
        ],
    )
    def test_bad_sizes(self, make, error, words):
        with pytest.raises(error, match=words):
            make()

    def test_e20_binary_gradient_lives_where_the_double_sigmoid_is_dead(self):
        z = torch.tensor([[20.0]], requires_grad=True)
        naive = F.binary_cross_entropy(torch.sigmoid(z), torch.zeros(1, 1))
        assert float(naive.detach()) == 100  # the error: the clamp's value, and nothing to learn from
        assert torch.autograd.grad(naive, z)[0].item() == 0
        for head in (BinaryClassificationModel(4), MultiLabelClassificationModel(4, 1)):
            loss = constant(head, 20.0).loss(self.x, torch.zeros(7, 1))
            assert float(loss.detach()) == pytest.approx(20)
            assert bias_gradient(head, loss).item() == pytest.approx(1)

    def test_e20_multiclass_gradient_lives_behind_one_softmax_only(self):
        perfect, wrong = torch.tensor([[50.0, 0, 0, 0, 0]]), torch.tensor([[20.0, 0, 0]], requires_grad=True)
        twice = F.cross_entropy(perfect.softmax(1), torch.tensor([0]))
        assert float(twice) == pytest.approx(0.905, abs=1e-3)  # the error: a perfect answer that costs .905
        (dead,) = torch.autograd.grad(F.cross_entropy(wrong.softmax(1), torch.tensor([1])), wrong)
        assert dead.abs().max() < 1e-7
        head = constant(MultiClassClassificationModel(4, 3), 0.0)
        with torch.no_grad():
            head.output.bias[0] = 20
        assert float(head.loss(self.x, torch.zeros(7, dtype=torch.long)).detach()) < 1e-8
        gradient = bias_gradient(head, head.loss(self.x, torch.ones(7, dtype=torch.long)))
        assert gradient.tolist() == pytest.approx([1, -1, 0], abs=1e-6)

    def test_e20_relu_regression_starts_learning_from_below_zero(self):
        target = torch.full((7, 1), 3.0)
        head = constant(RegressionModel(4, activation="relu"), -1.0)
        naive = F.mse_loss(head(self.x), target)
        assert bias_gradient(head, naive).item() == 0  # the error: a unit that never moves
        assert float(head.loss(self.x, target).detach()) == float(naive.detach()) == 9
        assert bias_gradient(head, head.loss(self.x, target)).item() == pytest.approx(-6)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            head.loss(self.x, target).backward()
            optimizer.step()
        assert torch.allclose(head(self.x), target, atol=0.1)


@st.composite
def scored(draw, dtype=None):
    """Probabilities with many ties, in any dtype, with 0.0, −0.0 and 1.0, and labels with at least one 1."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    value = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 0.5, 0.25, 0.75, 1e-7]), st.floats(0, 1))
    values = draw(st.lists(value, min_size=1, max_size=10))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values)))
    labels[draw(st.integers(0, len(values) - 1))] = 1
    return torch.tensor(values, dtype=torch.float64).to(dtype), torch.tensor(labels)


def exact_metric(metric: str, tp: int, fp: int, fn: int, tn: int) -> Fraction:
    if metric == "balanced_accuracy":
        return (Fraction(tp, tp + fn) + Fraction(tn, tn + fp)) / 2
    numerator, denominator = {
        "f1": (2 * tp, 2 * tp + fp + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[metric]
    return Fraction(numerator, denominator)


def brute_force(p, y, metric, *, min_precision=None, min_recall=None):
    """Exact fractions at every distinct score: [(threshold, value)] of the allowed ones, ascending."""
    p, y = p.double().tolist(), y.tolist()
    thresholds = sorted(set(p)) + [math.inf] * (metric in ("accuracy", "balanced_accuracy"))
    found = []
    for t in thresholds:
        cells = Counter((value >= t, label) for value, label in zip(p, y, strict=True))
        tp, fp, fn, tn = cells[True, 1], cells[True, 0], cells[False, 1], cells[False, 0]
        if min_precision is not None and tp + fp > 0 and tp / (tp + fp) < min_precision:
            continue
        if min_recall is not None and tp / (tp + fn) < min_recall:
            continue
        found.append((t, exact_metric(metric, tp, fp, fn, tn)))
    return found


def same_as_brute_force(p, y, metric, **limits):
    """Compare `adjust_threshold` with `brute_force`: the highest of the best, or an error when none is allowed."""
    allowed = brute_force(p, y, metric, **limits)
    if not allowed:
        with pytest.raises(ValueError, match="no threshold reaches"):
            adjust_threshold(p, y, metric=metric, **limits)
        return
    best = max(value for _, value in allowed)
    result = adjust_threshold(p, y, metric=metric, **limits)
    assert result.threshold == max(t for t, value in allowed if value == best)
    assert result.score == float(best)


class TestThresholds:
    @pytest.mark.parametrize("metric", ["f1", "accuracy", "balanced_accuracy"])
    @given(scored())
    def test_equals_brute_force_and_takes_the_highest_of_the_best(self, metric, data):
        p, y = data
        if metric == "balanced_accuracy" and y.all():
            with pytest.raises(ValueError, match="no negatives"):
                adjust_threshold(p, y, metric=metric)
            return
        same_as_brute_force(p, y, metric)
        result, expected = adjust_threshold(p, y, metric=metric), brute_force(p, y, metric)
        assert result.thresholds.dtype == p.dtype
        assert result.thresholds.tolist() == [t for t, _ in expected]
        assert result.scores.tolist() == [float(value) for _, value in expected]

    @given(scored(), st.integers(0, 8), st.integers(1, 8))
    def test_constraints_equal_brute_force(self, data, numerator, denominator):
        p, y = data
        limit = min(1.0, numerator / denominator)
        same_as_brute_force(p, y, "precision", min_recall=limit)
        same_as_brute_force(p, y, "recall", min_precision=limit)
        same_as_brute_force(p, y, "f1", min_precision=limit, min_recall=limit / 2)
        same_as_brute_force(p, y, "accuracy", min_recall=limit)

    @pytest.mark.parametrize(("hits", "predicted"), [(7, 25), (14, 25), (7, 100), (29, 100), (57, 100)])
    def test_a_constraint_that_is_met_exactly_is_met(self, hits, predicted):
        """7/25 of the predicted positives are right, and .28 was asked for; 0.28·25 is a hair above 7."""
        p, y = torch.full((predicted,), 0.5), (torch.arange(predicted) < hits).long()
        assert adjust_threshold(p, y, metric="recall", min_precision=hits / predicted).threshold == 0.5
        p = torch.tensor([0.9] * hits + [0.1] * (predicted - hits))
        found = adjust_threshold(p, torch.ones_like(y), metric="precision", min_recall=hits / predicted)
        assert found.threshold == pytest.approx(0.9)

    @settings(max_examples=10)
    @given(scored(dtype=torch.float64))
    def test_curves_equal_scikit_learns(self, data):
        p, y = data
        limits = {"precision": {"min_recall": 0}, "recall": {"min_precision": 0}}
        for metric, oracle in (
            ("f1", f1_score),
            ("accuracy", accuracy_score),
            ("balanced_accuracy", balanced_accuracy_score),
            ("precision", precision_score),
            ("recall", recall_score),
        ):
            if metric == "balanced_accuracy" and y.all():
                continue
            result = adjust_threshold(p, y, metric=metric, **limits.get(metric, {}))
            expected = [oracle(y, p >= t) for t in result.thresholds]
            assert result.scores.tolist() == pytest.approx(expected, abs=1e-12)
            assert result.score == pytest.approx(oracle(y, p >= result.threshold), abs=1e-12)

    @given(seeds)
    def test_f1_equals_the_precision_recall_curve(self, seed):
        p, y = honest_binary(200, seed)
        p = (50 * p).round() / 50  # with ties
        precision, recall, thresholds = precision_recall_curve(y, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        result = adjust_threshold(p, y)
        assert result.thresholds.tolist() == thresholds.tolist()
        assert result.scores.tolist() == pytest.approx(f1[:-1].tolist())
        assert result.score == pytest.approx(f1.max())

    @given(scored(), st.randoms(use_true_random=False))
    def test_the_order_of_the_samples_does_not_matter(self, data, random):
        p, y = data
        order = list(range(len(p)))
        random.shuffle(order)
        assert adjust_threshold(p[order], y[order]).threshold == adjust_threshold(p, y).threshold

    def test_infinity_means_predict_none(self):
        p, y = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 0, 1])
        for metric, score in (("accuracy", 2 / 3), ("balanced_accuracy", 0.5)):
            result = adjust_threshold(p, y, metric=metric)
            assert (result.threshold, result.score) == (math.inf, pytest.approx(score))
            assert result.thresholds[-1] == math.inf
        assert adjust_threshold(p, y).threshold == pytest.approx(0.1)

    def test_minus_zero_is_zero(self):
        result = adjust_threshold(torch.tensor([-0.0, 0.0, 1.0]), torch.tensor([1, 0, 1]), metric="accuracy")
        assert result.thresholds.tolist() == [0, 1, math.inf]
        assert result.threshold == 1

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
    def test_labels_of_any_whole_number_type(self, dtype):
        p, y = honest_binary(50, 3)
        assert adjust_threshold(p, y.to(dtype)).threshold == adjust_threshold(p, y).threshold

    def test_a_graph_behind_the_probabilities_is_ignored_without_a_warning(self):
        p = torch.tensor([0.2, 0.7, 0.4], requires_grad=True) * 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = adjust_threshold(p, torch.tensor([0, 1, 0]))
        assert not result.thresholds.requires_grad
        assert result.threshold == pytest.approx(0.7)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_row_and_the_frame(self, dtype):
        p = torch.tensor([0.5, 0.25, 0.5], dtype=dtype)
        result = adjust_threshold(p, torch.tensor([1, 0, 1]), metric="accuracy")
        assert len(result) == 3
        assert result[0] == {"thresholds": 0.25, "scores": pytest.approx(2 / 3)}
        assert result.to_frame()["thresholds"].tolist() == [0.25, 0.5, math.inf]
        assert "threshold=0.5, score=1" in repr(result)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"probabilities": torch.tensor([-1.0, 2.0, 0.5])}, ValueError, "look like logits"),
            ({"probabilities": torch.tensor([0.1, math.nan, 0.5])}, ValueError, "1 NaN"),
            ({"probabilities": torch.rand(3, 1)}, ValueError, "1 dimension"),
            ({"probabilities": torch.tensor([0, 1, 1])}, TypeError, "floating"),
            ({"probabilities": [0.1, 0.2, 0.3]}, TypeError, "torch.Tensor"),
            ({"probabilities": torch.rand(0), "target": torch.zeros(0).long()}, ValueError, "empty"),
            ({"target": torch.tensor([0, 1])}, ValueError, "each of the 3"),
            ({"target": torch.tensor([0, -1, 1])}, ValueError, "0 to 1"),
            ({"target": torch.tensor([0, 2, 1])}, ValueError, "0 to 1"),
            ({"target": torch.tensor([0.0, 1.0, 1.0])}, TypeError, "integer"),
            ({"target": torch.tensor([0, 0, 0])}, ValueError, "no positives"),
            ({"metric": "auc"}, ValueError, "'f1', 'accuracy', 'balanced_accuracy', 'precision', 'recall'"),
            ({"min_recall": 1.5}, ValueError, r"min_recall must lie in \[0, 1\]"),
            ({"min_precision": math.nan}, ValueError, "min_precision"),
            ({"min_precision": "high"}, TypeError, "min_precision"),
            ({"target": torch.tensor([0, 0, 1]), "min_precision": 0.9}, ValueError, "no threshold reaches"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"probabilities": torch.tensor([0.9, 0.8, 0.1]), "target": torch.tensor([0, 1, 1])} | change
        with pytest.raises(error, match=words):
            adjust_threshold(**arguments)

    def test_e21_a_grid_of_100_misses_a_rare_class(self):
        y = (torch.arange(2000) < 44).long()
        p = torch.sigmoid(random_logits(0, 2000, scale=0.5) - 9 + 2 * y)
        on_the_grid = max(f1_score(y, p >= t, zero_division=0) for t in np.linspace(0, 1, 100))
        assert on_the_grid == pytest.approx(0.043, abs=1e-3)  # the error: every score is below the second point
        result = adjust_threshold(p, y)
        assert result.score > 0.7
        assert result.score == pytest.approx(f1_score(y, p >= result.threshold))

    def test_e22_recall_or_precision_alone_is_refused(self):
        p, y = honest_binary(100, 0)
        assert recall_score(y, p >= 0.0) == 1  # the error's answer: everything is positive
        with pytest.raises(ValueError, match="useless optimum; give min_precision"):
            adjust_threshold(p, y, metric="recall")
        with pytest.raises(ValueError, match="useless optimum; give min_recall"):
            adjust_threshold(p, y, metric="precision", min_precision=0.5)
        found = adjust_threshold(p, y, metric="recall", min_precision=0.8)
        assert found.threshold > 0
        assert precision_score(y, p >= found.threshold) >= 0.8

    def test_e23_the_score_at_its_own_optimum_flatters(self):
        tuned, held_out = [], []
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            p, y = torch.rand(2, 100, generator=generator), torch.randint(2, (2, 100), generator=generator)
            found = adjust_threshold(p[0], y[0], metric="accuracy")
            tuned.append(found.score)
            held_out.append(accuracy_score(y[1], p[1] >= found.threshold))
        assert np.mean(tuned) > 0.56  # noise looks like skill where it was tuned
        assert np.mean(held_out) == pytest.approx(0.5, abs=0.02)


def overconfident(seed: int, temperature: float, n: int = 2000, num_classes: int = 4):
    """Logits T·z with labels drawn from softmax(z): T is what calibrates them. And the standard error of 1/T."""
    z = random_logits(seed, n, num_classes, scale=2.0)
    p = z.softmax(1)
    logits = temperature * z
    variance = (p * logits.square()).sum(1) - (p * logits).sum(1).square()
    return logits, sampled_labels(p, seed + 1), 1 / math.sqrt(float(variance.sum()))


def mean_nll(logits, target, temperature: float) -> float:
    """scipy's own log-softmax, averaged."""
    z = logits.double().numpy() / temperature
    return -float(np.mean(scipy.special.log_softmax(z, axis=1)[np.arange(len(z)), target.numpy()]))


def nll_slope(logits, target, beta: float) -> float:
    """d NLL / d(1/T), by hand."""
    z = logits.double().numpy()
    p = scipy.special.softmax(beta * z, axis=1)
    return float(np.mean((p * z).sum(1) - z[np.arange(len(z)), target.numpy()]))


class TestTemperature:
    @given(seeds, st.floats(0.2, 8))
    def test_equals_scipys_optimum(self, seed, temperature):
        logits, target, _ = overconfident(seed, temperature, n=300)
        scaler = temperature_scaling(logits, target)
        fitted = float(scaler.temperature)
        slope = root_scalar(lambda beta: nll_slope(logits, target, beta), bracket=(1e-3, 1e3), xtol=1e-15, rtol=1e-14)
        assert fitted == pytest.approx(1 / slope.root, rel=1e-9)
        best = minimize_scalar(
            lambda log_t: mean_nll(logits, target, math.exp(log_t)), bounds=(-5, 5), options={"xatol": 1e-9}
        )
        assert best.success
        assert math.log(fitted) == pytest.approx(best.x, abs=1e-6)  # as far as the loss itself can tell
        assert scaler.nll_after == pytest.approx(best.fun, abs=1e-9)
        assert scaler.nll_after == pytest.approx(mean_nll(logits, target, fitted), abs=1e-12)
        assert scaler.nll_before == pytest.approx(mean_nll(logits, target, 1.0), abs=1e-12)
        assert scaler.nll_after <= scaler.nll_before
        assert scaler.converged

    @given(seeds, st.floats(0.2, 8))
    def test_recovers_a_known_temperature_within_sampling_error(self, seed, temperature):
        logits, target, standard_error = overconfident(seed, temperature)
        fitted = float(temperature_scaling(logits, target).temperature)
        assert abs(1 / fitted - 1 / temperature) < 5 * standard_error

    @given(seeds, st.floats(-1000, 1000))
    def test_shift_invariant(self, seed, shift):
        logits, target, _ = overconfident(seed, 2.0, n=100)
        shifts = shift * torch.linspace(-1, 1, len(logits), dtype=torch.float64)[:, None]
        fitted = temperature_scaling(logits, target).temperature
        assert float(temperature_scaling(logits + shifts, target).temperature) == pytest.approx(float(fitted), rel=1e-7)

    @given(seeds, st.floats(0.2, 8))
    def test_keeps_the_argmax_and_divides(self, seed, temperature):
        logits, target, _ = overconfident(seed, temperature, n=100)
        scaler = temperature_scaling(logits, target)
        assert torch.equal(scaler.probabilities(logits).argmax(1), logits.argmax(1))
        assert torch.allclose(scaler(logits), logits / scaler.temperature, rtol=1e-12)
        expected = scipy.special.softmax(logits.numpy() / float(scaler.temperature), axis=1)
        assert np.allclose(scaler.probabilities(logits), expected, atol=1e-12)

    @settings(max_examples=20)
    @given(seeds, st.integers(1, 4), st.sampled_from([1e-3, 1.0, 1e3]))
    def test_few_samples_end_at_a_root_or_say_that_they_do_not(self, seed, n, scale):
        """Tiny random problems, separable ones among them, and logits of any size."""
        logits = random_logits(seed, n, 3, scale=scale)
        target = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scaler = temperature_scaling(logits, target)
        assert 1e-4 <= float(scaler.temperature) <= 1e4
        assert scaler.nll_after <= scaler.nll_before
        assert scaler.converged == (not caught)
        slope, curvature_scale = nll_slope(logits, target, 1 / float(scaler.temperature)), scale
        at_root = abs(slope) < 1e-9 * curvature_scale
        assert at_root or not scaler.converged

    @pytest.mark.parametrize("flip", [False, True])
    def test_data_without_an_optimum_warn_and_stay_in_the_bounds(self, flip):
        """All right: the colder the better. All wrong: the hotter the better."""
        logits = torch.tensor([[5.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
        target = logits.argmin(1) if flip else logits.argmax(1)
        with pytest.warns(UserWarning, match="did not converge") as caught:
            scaler = temperature_scaling(logits, target)
        assert caught[0].filename == __file__  # it points at the caller's line
        assert not scaler.converged
        assert "converged=False" in repr(scaler)
        assert 1e-4 <= float(scaler.temperature) <= 1e4
        assert (float(scaler.temperature) > 100) == flip
        assert scaler.nll_after < scaler.nll_before

    def test_equal_logits_have_no_best_temperature(self):
        with pytest.warns(UserWarning, match="did not converge"):
            scaler = temperature_scaling(torch.ones(4, 3), torch.tensor([0, 1, 2, 0]))
        assert not scaler.converged
        assert scaler.nll_after == pytest.approx(math.log(3))
        assert scaler.temperature == 1  # nothing was learned, so nothing is changed

    @pytest.mark.parametrize("max_iter", [1, 2, 3])
    def test_too_few_iterations_warn_and_make_nothing_worse(self, max_iter):
        logits = torch.tensor([[10.0, 0.0]] * 95 + [[0.0, 10.0]] * 5)
        with pytest.warns(UserWarning, match="did not converge"):
            scaler = temperature_scaling(logits, torch.zeros(100, dtype=torch.long), max_iter=max_iter)
        assert not scaler.converged
        assert scaler.nll_after <= scaler.nll_before

    @pytest.mark.parametrize(
        ("seed", "temperature"),
        [(43422502, 6.800553701141912), (1647981998, 0.4387368802742688), (249109042, 0.2091471706192713)],
    )
    def test_a_slope_of_exactly_zero_is_the_optimum(self, seed, temperature):
        """Newton's method meets the root to the last bit here, and there is nothing to warn of."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert temperature_scaling(*overconfident(seed, temperature, n=20)[:2]).converged

    def test_the_closed_form_of_two_classes(self):
        logits = torch.tensor([[10.0, 0.0]] * 95 + [[0.0, 10.0]] * 5)
        scaler = temperature_scaling(logits, torch.zeros(100, dtype=torch.long))
        assert float(scaler.temperature) == pytest.approx(10 / math.log(19), rel=1e-12)

    def test_the_temperature_is_saved_and_never_trained(self):
        logits, target, _ = overconfident(0, 2.0)
        scaler = temperature_scaling(logits, target)
        assert list(scaler.parameters()) == []
        assert list(scaler.state_dict()) == ["temperature"]
        assert scaler.temperature.dtype == torch.float64
        other = temperature_scaling(*overconfident(1, 5.0)[:2])
        other.load_state_dict(scaler.state_dict())
        assert torch.equal(other(logits), scaler(logits))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_the_dtype(self, dtype):
        logits, target, _ = overconfident(0, 2.0)
        scaler = temperature_scaling(logits.to(dtype), target)
        assert float(scaler.temperature) == pytest.approx(2.0, rel=0.1)
        assert scaler(logits.to(dtype)).dtype == scaler.probabilities(logits.to(dtype)).dtype == dtype

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_probabilities_stay_finite_in_every_dtype(self, dtype):
        """T = .5 doubles 40,000, and half precision ends at 65,504."""
        scaler = temperature_scaling(*overconfident(0, 0.5)[:2])
        probabilities = scaler.probabilities(torch.tensor([[40000.0, 0.0], [0.0, -40000.0]], dtype=dtype))
        assert probabilities.tolist() == [[1, 0], [1, 0]]

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"logits": torch.zeros(3)}, ValueError, "2 dimension"),
            ({"logits": torch.zeros(3, 1)}, ValueError, "at least 2 classes"),
            ({"logits": torch.zeros(0, 2), "target": torch.zeros(0).long()}, ValueError, "empty"),
            ({"logits": torch.full((3, 2), math.nan)}, ValueError, "6 NaN"),
            ({"logits": torch.full((3, 2), -math.inf)}, ValueError, "6 infinite"),
            ({"logits": [[0.0, 1.0]]}, TypeError, "torch.Tensor"),
            ({"target": torch.tensor([0, 1])}, ValueError, "each of the 3"),
            ({"target": torch.tensor([0, 1, 2])}, ValueError, "0 to 1"),
            ({"target": torch.zeros(3)}, TypeError, "integer"),
            ({"max_iter": 0}, ValueError, "max_iter"),
            ({"max_iter": 5.0}, TypeError, "max_iter"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"logits": torch.eye(3)[:, :2], "target": torch.tensor([0, 1, 1])} | change
        with pytest.raises(error, match=words):
            temperature_scaling(**arguments)

    def test_the_scaler_checks_its_logits(self):
        scaler = temperature_scaling(*overconfident(0, 2.0)[:2])
        for call in (scaler, scaler.probabilities):
            with pytest.raises(ValueError, match="2 dimension"):
                call(torch.zeros(3))
            with pytest.raises(ValueError, match="1 NaN"):
                call(torch.tensor([[math.nan, 1.0]]))

    def test_e24_one_timid_step_does_not_close_the_gap(self):
        logits, target, _ = overconfident(0, 2.5)
        t = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([t], lr=0.01)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(logits / t, target)
            loss.backward()
            return loss

        optimizer.step(closure)
        scaler = temperature_scaling(logits, target)
        best = float(scaler.temperature)
        assert (t.item() - 1) / (best - 1) < 0.4  # the error: most of the way is left
        assert best == pytest.approx(2.5, abs=0.2)
        assert abs(nll_slope(logits, target, 1 / best)) < 1e-9

    def test_e25_the_loss_has_no_floor(self):
        z = torch.tensor([[100.0, 0.0]], requires_grad=True)
        floored = -torch.log(z.softmax(1) + 1e-10)[0, 1]
        assert float(floored.detach()) == pytest.approx(23.03, abs=0.01)  # the error: right is 100
        assert torch.autograd.grad(floored, z)[0].abs().max() < 1e-30
        logits = torch.tensor([[100.0, 0.0]] * 4)
        scaler = temperature_scaling(logits, torch.tensor([0, 0, 0, 1]))
        assert scaler.nll_before == pytest.approx(25)  # 100 for one of four
        assert float(scaler.temperature) == pytest.approx(100 / math.log(3), rel=1e-9)

    def test_e26_no_graph_is_left_none_is_used_up_and_whole_numbers_are_refused(self):
        leaf = overconfident(0, 2.0)[0].requires_grad_()
        target = overconfident(0, 2.0)[1]
        logits = leaf * 1.5
        scaler = temperature_scaling(logits, target)
        assert not scaler.temperature.requires_grad
        assert not scaler.probabilities(logits.detach()).requires_grad
        again = temperature_scaling(logits, target)
        assert torch.equal(scaler.temperature, again.temperature)
        logits.sum().backward()  # the caller's graph is still there
        assert torch.equal(leaf.grad, torch.full_like(leaf, 1.5))
        with pytest.raises(TypeError, match=r"convert it with .float\(\)"):
            temperature_scaling(torch.tensor([[1, 2]]), torch.tensor([0]))

    def test_e31_fitted_on_validation_applied_to_test_the_same_each_time(self):
        logits, target, _ = overconfident(0, 3.0, n=4000)
        scaler = temperature_scaling(logits[:2000], target[:2000])
        assert torch.equal(scaler.temperature, temperature_scaling(logits[:2000], target[:2000]).temperature)
        test, held_out = logits[2000:], target[2000:]
        before = expected_calibration_error(test.softmax(1), held_out)
        after = expected_calibration_error(scaler.probabilities(test), held_out)
        assert before > 0.1
        assert after < 0.03
        assert torch.equal(scaler.probabilities(test).argmax(1), test.argmax(1))

    def test_p3_float32_gives_the_temperature_of_float64(self):
        logits, target, _ = overconfident(0, 2.5)
        in_double, in_single = (float(temperature_scaling(x, target).temperature) for x in (logits, logits.float()))
        assert in_single == pytest.approx(in_double, rel=1e-6)
        assert in_single > 2


def error_by_hand(confidence, hits, n_bins: int, norm: str, debias: bool = False) -> float:
    """Plain loops: bins (a, b], the first one closed."""
    members = [[] for _ in range(n_bins)]
    for c, h in zip(confidence.tolist(), hits.tolist(), strict=True):
        members[next(b for b in range(n_bins) if c <= (b + 1) / n_bins)].append((c, h))
    gaps, total = [], 0.0
    for rows in filter(None, members):
        n, accuracy = len(rows), math.fsum(h for _, h in rows) / len(rows)
        gap = abs(accuracy - math.fsum(c for c, _ in rows) / n)
        gaps.append(gap)
        if norm == "l1":
            total += n / len(confidence) * gap
        elif not debias:
            total += n / len(confidence) * gap**2
        elif n > 1:
            total += n / len(confidence) * (gap**2 - accuracy * (1 - accuracy) / (n - 1))
    return {"l1": total, "l2": math.sqrt(max(0.0, total)), "max": max(gaps)}[norm]


@st.composite
def confidences(draw):
    """Probabilities of class 1, many on an edge of ten bins or at 0 and 1, and labels."""
    value = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))
    values = draw(st.lists(value, min_size=1, max_size=30))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(labels)


norms = pytest.mark.parametrize("norm", ["l1", "l2", "max"])


class TestCalibration:
    @norms
    @given(seed=seeds, n_bins=st.integers(1, 20))
    def test_equals_torchmetrics(self, norm, seed, n_bins):
        p, y = honest_binary(60, seed)
        mine = expected_calibration_error(p, y, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(float(binary_calibration_error(p, y, n_bins, norm)), abs=1e-6)
        several = random_logits(seed, 60, 4).softmax(1)
        target = sampled_labels(several, seed)
        mine = expected_calibration_error(several, target, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(float(multiclass_calibration_error(several, target, 4, n_bins, norm)), abs=1e-6)

    @norms
    @given(data=confidences(), n_bins=st.sampled_from([1, 2, 5, 7, 10]))
    def test_equals_plain_loops_also_on_the_edges(self, norm, data, n_bins):
        p, y = data
        mine = expected_calibration_error(p, y, n_bins=n_bins, norm=norm)
        assert mine == pytest.approx(error_by_hand(p, y, n_bins, norm), abs=1e-9)
        assert 0 <= mine <= 1
        debiased = expected_calibration_error(p, y, n_bins=n_bins, norm="l2", debias=True)
        # The root turns a rounding error of 1e-16 at 0 into 1e-8.
        assert debiased == pytest.approx(error_by_hand(p, y, n_bins, "l2", debias=True), abs=1e-7)
        assert 0 <= debiased <= expected_calibration_error(p, y, n_bins=n_bins, norm="l2") + 1e-12

    @norms
    @given(data=confidences(), random=st.randoms(use_true_random=False))
    def test_the_order_of_the_samples_does_not_matter(self, norm, data, random):
        p, y = data
        order = list(range(len(p)))
        random.shuffle(order)
        shuffled = expected_calibration_error(p[order], y[order], norm=norm)
        assert shuffled == pytest.approx(expected_calibration_error(p, y, norm=norm), abs=1e-12)

    @norms
    @given(groups=st.lists(st.integers(1, 12).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), min_size=1))
    def test_zero_for_perfectly_honest_data(self, norm, groups):
        """In each group k of m happen, and each was given k/m."""
        p = torch.tensor([k / m for k, m in groups for _ in range(m)], dtype=torch.float64)
        y = torch.tensor([int(i < k) for k, m in groups for i in range(m)])
        assert expected_calibration_error(p, y, norm=norm) == pytest.approx(0, abs=1e-12)

    @given(st.integers(2, 6), seeds)
    def test_multiclass_is_top_label(self, num_classes, seed):
        p = random_logits(seed, 40, num_classes, scale=2.0).softmax(1)
        target = torch.randint(num_classes, (40,), generator=torch.Generator().manual_seed(seed))
        confidence, label = p.max(1)
        expected = error_by_hand(confidence, label == target, 15, "l1")
        assert expected_calibration_error(p, target) == pytest.approx(expected, abs=1e-9)

    @given(st.integers(1, 60), st.sampled_from([torch.float32, torch.float64]))
    def test_an_edge_belongs_to_the_lower_bin(self, n_bins, dtype):
        """p = k/n lies in bin (…, k/n], and 0 in the first one."""
        for k in range(n_bins + 1):
            counts = reliability_diagram(
                torch.tensor([k / n_bins], dtype=dtype), torch.tensor([1]), n_bins=n_bins
            ).counts
            assert counts.argmax() == max(k - 1, 0)
            assert counts.sum() == 1

    def test_the_diagram_by_hand(self):
        p = torch.tensor([0.0, 0.25, 0.3, 1.0, 0.95])
        diagram = reliability_diagram(p, torch.tensor([0, 1, 1, 1, 0]), n_bins=4)
        assert diagram.bin_edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert diagram.counts.tolist() == [2, 1, 0, 2]
        assert diagram.counts.dtype == torch.int64
        assert diagram.confidence.tolist() == pytest.approx([0.125, 0.3, math.nan, 0.975], nan_ok=True)
        assert diagram.accuracy.tolist() == pytest.approx([0.5, 1, math.nan, 0.5], nan_ok=True)
        assert diagram.confidence.dtype == diagram.accuracy.dtype == torch.float64
        assert len(diagram) == 4
        assert diagram[-1] == {"counts": 2, "confidence": pytest.approx(0.975), "accuracy": 0.5}
        assert diagram.to_frame()["counts"].tolist() == [2, 1, 0, 2]
        assert "ReliabilityDiagram(bin_edges=float32[5]" in repr(diagram)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_and_a_graph_behind_it(self, dtype):
        p = random_logits(0, 500, 5).softmax(1)
        target = sampled_labels(p, 0)
        reference = expected_calibration_error(p, target)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mine = expected_calibration_error(p.to(dtype).requires_grad_() * 1, target)
        assert mine == pytest.approx(reference, abs=0.03)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_softmax_in_half_precision_over_many_classes_passes(self, dtype):
        p = torch.softmax(random_logits(0, 20, 1000, scale=3.0).to(dtype), 1)
        assert 0 <= expected_calibration_error(p, p.argmax(1)) <= 1

    @pytest.mark.parametrize(
        ("p", "target", "options", "error", "words"),
        [
            (torch.rand(3, 1), [0, 1, 1], {}, ValueError, r"\(N, 1\)"),
            (torch.rand(3, 2, 2), [0, 1, 1], {}, ValueError, "1 or 2 dimension"),
            (torch.full((3, 2), 0.9), [0, 1, 1], {}, ValueError, "sum to 1"),
            (torch.rand(3), [0, 1], {}, ValueError, "each of the 3"),
            (torch.rand(3), [0, 1, 2], {}, ValueError, "0 to 1"),
            (torch.full((3, 2), 0.5), [0, 1, 2], {}, ValueError, "0 to 1"),
            (torch.rand(3), [0.0, 1.0, 1.0], {}, TypeError, "integer"),
            (torch.rand(0), [], {}, ValueError, "empty"),
            (torch.tensor([0, 1, 1]), [0, 1, 1], {}, TypeError, "floating"),
            (torch.rand(3), [0, 1, 1], {"n_bins": 0}, ValueError, "n_bins"),
            (torch.rand(3), [0, 1, 1], {"n_bins": 2.0}, TypeError, "n_bins"),
            (torch.rand(3), [0, 1, 1], {"norm": "l3"}, ValueError, "'l1', 'l2', 'max'"),
            (torch.rand(3), [0, 1, 1], {"debias": True}, ValueError, "norm='l2' only"),
            (torch.rand(3), [0, 1, 1], {"debias": True, "norm": "max"}, ValueError, "norm='l2' only"),
        ],
    )
    def test_bad_input(self, p, target, options, error, words):
        with pytest.raises(error, match=words):
            expected_calibration_error(p, torch.tensor(target), **options)

    def test_e27_ece_is_biased_upward(self):
        """Perfectly calibrated data: .100, .032, .010 with 100, 1,000 and 10,000 samples in ten bins."""
        for n, expected in ((100, 0.100), (1000, 0.032), (10000, 0.010)):
            drawn = [honest_binary(n, seed) for seed in range(100)]
            errors = [expected_calibration_error(p, y, n_bins=10) for p, y in drawn]
            assert np.mean(errors) == pytest.approx(expected, rel=0.08)
            plain = [expected_calibration_error(p, y, n_bins=10, norm="l2") for p, y in drawn]
            debiased = [expected_calibration_error(p, y, n_bins=10, norm="l2", debias=True) for p, y in drawn]
            assert np.mean(np.square(debiased)) < 0.4 * np.mean(np.square(plain))

    def test_e28_every_class_counts_not_column_1(self):
        """Sure of class 0 or 2 and wrong: column 1, small in every row, looks honest."""
        p = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]] * 50)
        target = torch.tensor([2, 0] * 45 + [0, 2] * 5)
        column_1 = error_by_hand(p[:, 1], target == 1, 15, "l1")
        assert column_1 == pytest.approx(0.05, abs=1e-6)  # the error
        assert expected_calibration_error(p, target) == pytest.approx(0.8, abs=1e-6)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_e29_a_tenth_is_in_the_lower_bin_in_every_dtype(self, dtype):
        p = torch.tensor([k / 10 for k in range(11)], dtype=dtype)
        diagram = reliability_diagram(p, torch.zeros(11, dtype=torch.long), n_bins=10)
        assert diagram.counts.tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]

    def test_e30_logits_nan_and_signed_labels_are_refused_and_empty_bins_are_nan(self):
        y = torch.tensor([0, 1, 1])
        for p, target, words in (
            (torch.tensor([4.0, -2.0, 3.0]), y, "look like logits"),
            (torch.tensor([[4.0, -2.0]] * 3), y, "look like logits"),
            (torch.tensor([0.1, math.nan, 0.3]), y, "1 NaN"),
            (torch.tensor([0.1, 0.2, 0.3]), 2 * y - 1, "0 to 1"),
        ):
            for function in (reliability_diagram, expected_calibration_error):
                with pytest.raises(ValueError, match=words):
                    function(p, target)
        empty = reliability_diagram(torch.tensor([0.9]), torch.tensor([1]), n_bins=2)
        assert math.isnan(empty.accuracy[0])
        assert math.isnan(empty.confidence[0])

    def test_p1_certainty_shares_the_last_bin(self):
        p, y = torch.tensor([1.0, 0.95]), torch.tensor([0, 1])
        assert float(binary_calibration_error(p, y, 10)) == pytest.approx(0.525)  # a bin of its own for 1.0
        assert expected_calibration_error(p, y, n_bins=10) == pytest.approx(0.475)

    def test_p2_sums_do_not_drift(self):
        """Two million times .1, and one in ten is right: nothing is wrong but the sum in float32."""
        p, y = torch.full((2_000_000,), 0.1), (torch.arange(2_000_000) % 10 == 0).long()
        assert float(binary_calibration_error(p, y, 1)) > 0.001  # the error
        assert expected_calibration_error(p, y, n_bins=1) == pytest.approx(0, abs=1e-8)


def members_of(seed: int, m: int = 3, n: int = 5, c: int = 4) -> list[Returns]:
    return [Returns(logits) for logits in random_logits(seed, m, n, c, scale=3.0)]


X5 = torch.zeros(5, 1)
some_weights = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)


class TestEnsembles:
    @given(seeds, some_weights)
    def test_averaging_equals_numpy(self, seed, weights):
        models = members_of(seed)
        p = np.stack([scipy.special.softmax(model.logits.numpy(), axis=1) for model in models])
        assert np.allclose(ensemble_predictions(models, X5), p.mean(0), atol=1e-12)
        weighted = ensemble_predictions(models, X5, weights=weights)
        assert np.allclose(weighted, np.average(p, axis=0, weights=weights), atol=1e-12)
        assert torch.allclose(weighted.sum(1), torch.ones(5, dtype=torch.float64))
        assert torch.allclose(weighted, ensemble_predictions(models, X5, weights=torch.tensor(weights) / 7))

    @given(seeds, some_weights)
    def test_voting_equals_counting(self, seed, weights):
        """With two classes and whole weights, ties are frequent."""
        models, x = members_of(seed, n=8, c=2), torch.zeros(8, 1)
        for share in (weights, None):
            expected = []
            for sample in range(8):
                votes = Counter()
                for model, weight in zip(models, share or [1, 1, 1], strict=True):
                    votes[int(model.logits[sample].argmax())] += weight
                expected.append(min(label for label in votes if votes[label] == max(votes.values())))
            labels = ensemble_predictions(models, x, method="voting", weights=share)
            assert labels.tolist() == expected
            assert labels.dtype == torch.int64

    @given(seeds, st.permutations(range(4)))
    def test_the_order_of_the_members_does_not_matter(self, seed, order):
        models, weights = members_of(seed, m=4, c=2), [1.0, 2.0, 3.0, 2.0]
        shuffled, moved = [models[i] for i in order], [weights[i] for i in order]
        for options, other in (({}, {}), ({"weights": weights}, {"weights": moved})):
            assert torch.allclose(
                ensemble_predictions(models, X5, **options), ensemble_predictions(shuffled, X5, **other)
            )
            assert torch.equal(
                ensemble_predictions(models, X5, method="voting", **options),
                ensemble_predictions(shuffled, X5, method="voting", **other),
            )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_tie_goes_to_the_lowest_label(self, dtype):
        votes = [torch.eye(4, dtype=dtype)[[label]] for label in (3, 1, 3, 1, 2)]
        assert ensemble_predictions([Returns(v) for v in votes], X5[:1], method="voting").tolist() == [1]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (0.1, 0.7, 0.8), (0.3, 0.6, 0.9)])
    def test_weights_that_tie_on_paper_tie(self, dtype, weights):
        """In float64 a tenth and seven tenths, shared out, are a hair below eight tenths."""
        models = [Returns(5 * torch.eye(3, dtype=dtype)[[label]]) for label in (0, 0, 2)]
        for order in ([0, 1, 2], [2, 1, 0]):
            shares = [weights[i] for i in order]
            found = ensemble_predictions([models[i] for i in order], X5[:1], method="voting", weights=shares)
            assert found.tolist() == [0]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_weights_and_every_dtype(self, dtype):
        """Numbers of training samples are natural weights; their sum is beyond half precision."""
        models = [Returns(torch.tensor([[2.0, 0.0]], dtype=dtype)), Returns(torch.tensor([[0.0, 2.0]], dtype=dtype))]
        found = ensemble_predictions(models, X5[:1], weights=[50000.0, 50000.0])
        assert found.dtype == dtype
        assert found.tolist() == [pytest.approx([0.5, 0.5], abs=0.01)]

    def test_modes_come_back_and_no_graph_is_left(self, stateful_model):
        before = [module.training for module in stateful_model.modules()]
        x = torch.rand(6, 4)
        for method in ("averaging", "voting"):
            found = ensemble_predictions([stateful_model, stateful_model], x, method=method)
            assert torch.equal(found, ensemble_predictions([stateful_model], x, method=method))
            assert not found.requires_grad
        assert fit_stacking([stateful_model], x, torch.arange(6) % 3)
        assert [module.training for module in stateful_model.modules()] == before
        stateful_model.fail = True
        with pytest.raises(RuntimeError, match="on purpose"):
            ensemble_predictions([stateful_model], x)
        assert [module.training for module in stateful_model.modules()] == before

    def test_objects_with_logits_and_module_lists(self):
        class Wrapped(Returns):
            def forward(self, x):
                return SimpleNamespace(logits=self.logits)

        models = members_of(0)
        wrapped = nn.ModuleList(Wrapped(model.logits) for model in models)
        assert torch.equal(ensemble_predictions(wrapped, X5), ensemble_predictions(models, X5))

    @pytest.mark.parametrize("num_classes", [3, 5])
    def test_stacking_equals_scikit_learns_logistic_regression(self, num_classes):
        target = torch.randint(num_classes, (200,), generator=torch.Generator().manual_seed(0))
        signal = 2.0 * F.one_hot(target, num_classes)
        models = [Returns(random_logits(seed, 200, num_classes, scale=1.5) + signal) for seed in (1, 2)]
        stacker = fit_stacking(models, torch.zeros(200, 1), target)
        assert not stacker.training
        features = np.hstack([scipy.special.softmax(model.logits.numpy(), axis=1) for model in models])
        features = np.hstack([features, np.ones((200, 1))])  # the bias decays with the weights
        oracle = LogisticRegression(C=1 / (2 * 1e-4 * 200), fit_intercept=False, tol=1e-10, max_iter=5000)
        expected = oracle.fit(features, target).predict_proba(features)
        found = ensemble_predictions(models, torch.zeros(200, 1), method="stacking", meta_model=stacker)
        assert np.allclose(found, expected, atol=2e-3)
        assert stacker.linear.weight.shape == (num_classes, 2 * num_classes)

    def test_stacking_repeats_itself_and_leaves_the_random_state(self):
        models, target = members_of(0, n=30), torch.arange(30) % 4
        state = torch.get_rng_state()
        first, second = (fit_stacking(models, torch.zeros(30, 1), target) for _ in range(2))
        assert torch.equal(first.linear.weight, second.linear.weight)
        assert torch.equal(torch.get_rng_state(), state)
        with torch.no_grad():
            third = fit_stacking(models, torch.zeros(30, 1), target)
        assert torch.equal(first.linear.weight, third.linear.weight)
        assert all(p.grad is None for p in first.parameters())

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_stacking_learns_whom_to_trust(self, dtype):
        target = torch.randint(3, (300,), generator=torch.Generator().manual_seed(0))
        liar = Returns((4.0 * F.one_hot((target + 1) % 3, 3)).to(dtype))  # always one class too far
        noise = Returns(random_logits(1, 300, 3, scale=4.0).to(dtype))
        models, x = [liar, noise], torch.zeros(300, 1)
        p = ensemble_predictions(models, x, method="stacking", meta_model=fit_stacking(models, x, target))
        assert p.dtype == dtype
        assert torch.allclose(p.double().sum(1), torch.ones(300, dtype=torch.float64), atol=0.02)
        assert (p.argmax(1) == target).all()
        assert (ensemble_predictions(models, x).argmax(1) == target).double().mean() < 0.5

    @pytest.mark.parametrize(
        ("models", "options", "error", "words"),
        [
            ([], {}, ValueError, "models is empty"),
            (nn.Linear(1, 2), {}, TypeError, "single module"),
            ([len], {}, TypeError, "torch.nn.Module"),
            ([Returns(torch.zeros(5))], {}, ValueError, r"logits \(N, C\)"),
            ([Returns(torch.zeros(5, 1))], {}, ValueError, "C ≥ 2"),
            ([Returns(torch.zeros(5, 2)), Returns(torch.zeros(5, 3))], {}, ValueError, r"\(5, 2\) and \(5, 3\)"),
            ([Returns(torch.full((5, 2), math.nan))], {}, ValueError, "10 NaN"),
            (members_of(0), {"method": "blending"}, ValueError, "'averaging', 'voting', 'stacking'"),
            (members_of(0), {"weights": [1, 2]}, ValueError, "3 numbers"),
            (members_of(0), {"weights": [1, -1, 1]}, ValueError, "at least 0"),
            (members_of(0), {"weights": [0, 0, 0]}, ValueError, "not all 0"),
            (members_of(0), {"weights": [1, math.nan, 1]}, ValueError, "finite"),
            (members_of(0), {"method": "stacking"}, ValueError, "needs a meta_model"),
            (members_of(0), {"method": "stacking", "meta_model": len}, TypeError, "torch.nn.Module"),
            (
                members_of(0),
                {"method": "stacking", "meta_model": nn.Linear(12, 4), "weights": [1, 1, 1]},
                ValueError,
                "no weights",
            ),
            (members_of(0), {"meta_model": nn.Linear(12, 4)}, ValueError, "method='stacking'"),
        ],
    )
    def test_bad_input(self, models, options, error, words):
        with pytest.raises(error, match=words):
            ensemble_predictions(models, X5, **options)

    @pytest.mark.parametrize(
        ("inputs", "target", "error", "words"),
        [
            (X5, torch.zeros(4, dtype=torch.long), ValueError, "each of the 5"),
            (X5, torch.full((5,), 4), ValueError, "0 to 3"),
            (X5, torch.zeros(5), TypeError, "integer"),
            (X5[:0], torch.zeros(5, dtype=torch.long), ValueError, "empty"),
            (X5 * math.nan, torch.zeros(5, dtype=torch.long), ValueError, "NaN"),
        ],
    )
    def test_bad_stacking(self, inputs, target, error, words):
        with pytest.raises(error, match=words):
            fit_stacking(members_of(0), inputs, target)

    def test_e32_probabilities_are_averaged_not_logits(self):
        logits = torch.tensor([[[10.0, 0.0]], [[0.0, 2.5]], [[0.0, 2.5]]])
        assert logits.mean(0).softmax(1).argmax(1).item() == 0  # the error: one loud member decides
        p = ensemble_predictions([Returns(z) for z in logits], X5[:1])
        assert p.tolist() == [pytest.approx([0.384, 0.616], abs=1e-3)]

    def test_e34_stacking_has_a_second_model_that_reads_the_classes(self):
        p = torch.stack([model.logits.softmax(1) for model in members_of(0, c=3)])
        assert p.mean((0, 2)).tolist() == pytest.approx([1 / 3] * 5)  # the error: a mean says nothing at all
        target = torch.arange(30) % 3
        models = [Returns(3.0 * F.one_hot(target, 3) + random_logits(seed, 30, 3)) for seed in range(3)]
        permuted = [Returns(model.logits[:, [1, 2, 0]]) for model in models]
        stacker, x = fit_stacking(models, torch.zeros(30, 1), target), torch.zeros(30, 1)
        right = ensemble_predictions(models, x, method="stacking", meta_model=stacker)
        moved = ensemble_predictions(permuted, x, method="stacking", meta_model=stacker)
        assert (right.argmax(1) == target).all()
        assert (moved.argmax(1) != target).double().mean() > 0.9


def dropout_net(p: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(p), nn.Linear(8, 3)).double()


class Recurrent(nn.Module):
    """torch.func.vmap cannot run an LSTM, so this takes the plain loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.lstm(x[:, None])[0][:, -1]))


X6 = random_logits(0, 6, 3)
two_opinions = st.tuples(seeds, st.integers(2, 5), st.sampled_from([0.1, 3.0, 100.0]))


class TestUncertainty:
    @given(two_opinions)
    def test_multiclass_statistics_equal_scipys(self, opinions):
        seed, m, scale = opinions
        logits = random_logits(seed, m, 5, 3, scale=scale)
        result = deep_ensemble([Returns(z) for z in logits], X5)
        p = scipy.special.softmax(logits.numpy(), axis=-1)
        assert np.allclose(result.samples, p, atol=1e-12)
        assert np.allclose(result.mean, p.mean(0), atol=1e-12)
        assert np.allclose(result.variance, p.var(0), atol=1e-12)
        total, inside = entropy(p.mean(0), axis=-1), entropy(p, axis=-1).mean(0)
        assert np.allclose(result.predictive_entropy, total, atol=1e-9)
        assert np.allclose(result.mutual_information, total - inside, atol=1e-9)

    @given(two_opinions)
    def test_multilabel_statistics_equal_scipys(self, opinions):
        seed, m, scale = opinions
        logits = random_logits(seed, m, 5, 2, scale=scale)
        result = deep_ensemble([Returns(z) for z in logits], X5, task="multilabel")
        p = scipy.special.expit(logits.numpy())
        two = np.stack([p, 1 - p], -1)
        assert np.allclose(result.mean, p.mean(0), atol=1e-12)
        assert np.allclose(result.variance, p.var(0), atol=1e-12)
        assert result.predictive_entropy.shape == (5, 2)
        total, inside = entropy(two.mean(0), axis=-1), entropy(two, axis=-1).mean(0)
        assert np.allclose(result.predictive_entropy, total, atol=1e-9)
        assert np.allclose(result.mutual_information, total - inside, atol=1e-9)

    @given(two_opinions)
    def test_regression_has_values_and_no_entropy(self, opinions):
        seed, m, scale = opinions
        values = random_logits(seed, m, 5, 2, scale=scale)
        result = deep_ensemble([Returns(v) for v in values], X5, task="regression")
        assert np.allclose(result.mean, values.numpy().mean(0))
        assert np.allclose(result.variance, values.numpy().var(0))
        assert result.predictive_entropy is None
        assert result.mutual_information is None

    @given(two_opinions, st.sampled_from(["multiclass", "multilabel"]), st.sampled_from(DTYPES))
    def test_mutual_information_lies_between_zero_and_the_entropy(self, opinions, task, dtype):
        seed, m, scale = opinions
        logits = random_logits(seed, m, 5, 3, scale=scale).to(dtype)
        result = deep_ensemble([Returns(z) for z in logits], X5, task=task)
        rounding = 4 * torch.finfo(dtype).eps
        assert (result.mutual_information >= 0).all()
        assert (result.mutual_information <= result.predictive_entropy + rounding).all()
        assert float(result.predictive_entropy.max()) <= math.log(3) + rounding
        assert result.mean.dtype == result.mutual_information.dtype == dtype

    @given(two_opinions, st.randoms(use_true_random=False))
    def test_the_order_of_the_members_does_not_matter(self, opinions, random):
        models = members_of(opinions[0], m=opinions[1])
        shuffled = random.sample(models, len(models))
        for task in ("multiclass", "multilabel", "regression"):
            first, second = deep_ensemble(models, X5, task=task), deep_ensemble(shuffled, X5, task=task)
            assert torch.allclose(first.mean, second.mean)
            assert torch.allclose(first.variance, second.variance)

    def test_agreement_and_disagreement(self):
        unsure, sure = torch.zeros(1, 2), torch.tensor([[50.0, -50.0]])
        agreed = deep_ensemble([Returns(unsure), Returns(unsure)], X5[:1])  # the data leave it open
        apart = deep_ensemble([Returns(sure), Returns(-sure)], X5[:1])  # the models do not know
        for result, information in ((agreed, 0.0), (apart, math.log(2))):
            assert result.predictive_entropy.item() == pytest.approx(math.log(2))
            assert result.mutual_information.item() == pytest.approx(information, abs=1e-6)

    @pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
    def test_dropout_equals_a_loop_by_hand(self, task):
        """Two runs of 4,000 masks: means and variances agree within their sampling error."""
        model = dropout_net()
        result = monte_carlo_dropout(model, X6, n_samples=4000, task=task, seed=1)
        function = {"multiclass": lambda z: z.softmax(-1), "multilabel": torch.sigmoid, "regression": lambda z: z}[task]
        torch.manual_seed(2)
        model.train()
        with torch.no_grad():
            by_hand = torch.stack([function(model(X6)) for _ in range(4000)])
        assert result.samples.shape == (4000, 6, 3)
        error = by_hand.std(0) * math.sqrt(2 / 4000)
        assert ((result.mean - by_hand.mean(0)).abs() < 5 * error + 1e-12).all()
        fourth = (by_hand - by_hand.mean(0)).pow(4).mean(0)
        spread = ((fourth - by_hand.var(0).square()).clamp(min=0) * 2 / 4000).sqrt()
        assert ((result.variance - by_hand.var(0)).abs() < 5 * spread + 1e-12).all()

    def test_dropout_of_a_linear_layer_has_a_closed_form(self):
        """Mean Wx, variance p/(1 − p)·Σ w²x²."""
        model = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 1)).double()
        weight = model[1].weight.detach()
        result = monte_carlo_dropout(model, X6, n_samples=5000, task="regression", seed=0)
        expected = 0.2 / 0.8 * (weight.square() * X6.square()).sum(1, keepdim=True)
        assert torch.allclose(result.mean, model[1](X6).detach(), atol=5 * float(expected.max() / 5000) ** 0.5)
        assert torch.allclose(result.variance, expected, rtol=0.15)

    @pytest.mark.parametrize("model", [dropout_net().float(), Recurrent()])
    def test_seeds_repeat_and_none_does_not(self, model):
        x, state = X6.float(), torch.get_rng_state()
        first, second, other = (monte_carlo_dropout(model, x, n_samples=8, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first.samples, second.samples)
        assert not torch.equal(first.samples, other.samples)
        fresh = [monte_carlo_dropout(model, x, n_samples=8).samples for _ in range(2)]
        assert not torch.equal(*fresh)
        assert torch.equal(torch.get_rng_state(), state)
        assert not first.samples.requires_grad
        assert first.samples.flatten(1).unique(dim=0).shape[0] > 1

    def test_each_sample_and_each_opinion_has_its_own_mask(self):
        model = dropout_net()
        samples = monte_carlo_dropout(model, X6[:1].expand(6, -1), n_samples=6, seed=0).samples
        assert samples.flatten(0, 1).unique(dim=0).shape[0] > 20

    @pytest.mark.parametrize("layer", [nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)])
    def test_relatives_of_dropout(self, layer):
        model = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), layer, nn.Flatten(), nn.Linear(3, 3)).double()
        assert (monte_carlo_dropout(model, X6, seed=0).variance > 0).all()

    @pytest.mark.parametrize(
        "model",
        [
            nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(3, 3)),
            nn.Sequential(nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(3, 3)),
        ],
    )
    def test_dropout_in_place_neither_touches_the_inputs_nor_adds_up(self, model):
        model, x = model.double(), X6.clone()
        result = monte_carlo_dropout(model, x, n_samples=200, task="regression", seed=0)
        assert torch.equal(x, X6)
        assert torch.equal(model.eval()(x), model(X6))
        spread = result.samples.var(1).mean(1)  # if the masks add up, the last opinions are all the bias alone
        assert (spread[-50:] > 0).any()

    def test_keeps_the_dtype_and_takes_objects_with_logits(self):
        class Wrapped(nn.Sequential):
            def forward(self, x):
                return SimpleNamespace(logits=super().forward(x))

        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            model = Wrapped(nn.Dropout(0.5), nn.Linear(3, 3)).to(dtype)
            result = monte_carlo_dropout(model, X6.to(dtype), seed=0)
            assert result.samples.dtype == result.mean.dtype == dtype
            assert torch.isfinite(result.predictive_entropy).all()

    def test_a_sample_and_the_frame(self):
        result = deep_ensemble(members_of(0), X5)
        assert len(result) == 5
        assert set(result[0]) == {"mean", "variance", "predictive_entropy", "mutual_information"}
        assert torch.equal(result[-1]["mean"], result.mean[4])
        assert isinstance(result[0]["predictive_entropy"], float)  # a plain number, as in every other result
        frame = result.to_frame()
        assert frame.shape == (5, 4 + 4 + 2)
        assert frame["predictive_entropy"].tolist() == result.predictive_entropy.tolist()
        values = deep_ensemble(members_of(0), X5, task="regression")
        assert set(values[0]) == {"mean", "variance"}
        assert list(values.to_frame().columns) == [f"{name}_{i}" for name in ("mean", "variance") for i in range(4)]
        assert "UncertaintyResult" in values._repr_html_()
        with pytest.raises(IndexError):
            result[5]

    def test_the_frame_of_bfloat16(self):
        models = [Returns(model.logits.bfloat16()) for model in members_of(0)]
        result = deep_ensemble(models, X5)
        assert result.to_frame()["mean_0"].tolist() == result.mean[:, 0].tolist()

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda: deep_ensemble([], X5), ValueError, "at least two models, but has 0"),
            (lambda: deep_ensemble(nn.Linear(1, 2), X5), TypeError, "single module"),
            (lambda: deep_ensemble([len, len], X5), TypeError, "torch.nn.Module"),
            (lambda: deep_ensemble(members_of(0), X5, task="binary"), ValueError, "'multiclass', 'multilabel'"),
            (lambda: deep_ensemble(members_of(0), X5[:0]), ValueError, "empty"),
            (lambda: deep_ensemble(members_of(0), [1.0]), TypeError, "torch.Tensor"),
            (lambda: deep_ensemble([*members_of(0), *members_of(0, c=2)], X5), ValueError, r"\(5, 4\) and \(5, 2\)"),
            (lambda: deep_ensemble([Returns(torch.zeros(5))] * 2, X5), ValueError, r"logits \(N, C\)"),
            (lambda: deep_ensemble([Returns(torch.zeros(5, 1))] * 2, X5), ValueError, "C ≥ 2"),
            (
                lambda: deep_ensemble([Returns(torch.zeros(5))] * 2, X5, task="regression"),
                ValueError,
                r"values \(N, D\)",
            ),
            (lambda: deep_ensemble([Returns(torch.full((5, 2), math.inf))] * 2, X5), ValueError, "infinite"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, n_samples=2.0), TypeError, "n_samples"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, task="binary"), ValueError, "'multiclass', 'multilabel'"),
            (lambda: monte_carlo_dropout(dropout_net(), X6 * math.nan), ValueError, "NaN"),
            (lambda: monte_carlo_dropout(dropout_net(), X6, seed=-1), ValueError, "seed"),
            (lambda: monte_carlo_dropout(len, X6), TypeError, "torch.nn.Module"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call()

    def test_e33_variance_is_of_probabilities(self):
        logits = torch.tensor([[[0.0, 0.0]], [[100.0, 100.0]]])
        assert logits.var(0).tolist() == [[5000, 5000]]  # the error: both say one half
        result = deep_ensemble([Returns(z) for z in logits], X5[:1])
        assert result.variance.tolist() == [[0, 0]]
        assert result.mutual_information.tolist() == [0]
        with pytest.raises(ValueError, match="at least two models, but has 1"):  # its variance would be NaN
            deep_ensemble([Returns(logits[0])], X5[:1])

    def test_e35_only_dropout_is_switched_on(self, stateful_model):
        x = torch.rand(32, 4)
        careless = copy.deepcopy(stateful_model)
        careless.train()
        careless(x)
        assert not torch.equal(careless.norm.running_mean, stateful_model.norm.running_mean)  # the error
        with pytest.raises(ValueError, match="more than 1 value"):
            careless(x[:1])
        modes = [module.training for module in stateful_model.modules()]
        state = copy.deepcopy(stateful_model.state_dict())
        result = monte_carlo_dropout(stateful_model, x, n_samples=5, seed=0)
        assert [module.training for module in stateful_model.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in stateful_model.state_dict().items())
        assert (result.variance > 0).any()
        one = monte_carlo_dropout(stateful_model, x[:1], n_samples=2000, seed=0)  # a batch of one works
        stateful_model.eval()
        stateful_model.dropout.train()
        by_hand = torch.stack([stateful_model(x[:1]).softmax(1).detach() for _ in range(2000)])
        assert torch.allclose(one.mean, by_hand.mean(0), atol=0.02)

    def test_e35_modes_come_back_when_the_model_fails(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        stateful_model.fail = True
        with pytest.raises(RuntimeError, match="on purpose"):
            monte_carlo_dropout(stateful_model, torch.rand(2, 4))
        assert [module.training for module in stateful_model.modules()] == modes

    def test_e36_without_dropout_or_with_one_sample_it_is_an_error(self):
        silent = nn.Linear(3, 3).double()
        assert torch.stack([silent(X6).softmax(1) for _ in range(5)]).var(0).max() == 0  # the error: never unsure
        for model in (silent, dropout_net(p=0.0)):
            modes = [module.training for module in model.modules()]
            with pytest.raises(ValueError, match="no dropout layer with p > 0"):
                monte_carlo_dropout(model, X6)
            assert [module.training for module in model.modules()] == modes
        with pytest.raises(ValueError, match="n_samples must be at least 2"):
            monte_carlo_dropout(dropout_net(), X6, n_samples=1)


def is_png(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


class TestFigures:
    p, y = honest_binary(200, 0)

    def test_reliability_draws_the_bins(self, tmp_path):
        diagrams = {
            "before": reliability_diagram(self.p, self.y, n_bins=5),
            "after": reliability_diagram(0.5 * self.p, self.y, n_bins=5),  # with empty bins
        }
        path = tmp_path / "reliability.png"
        figure = plot_reliability(diagrams, save_path=path)
        assert is_png(path)
        assert len(figure.axes) == 4
        assert [ax.get_title("left") for ax in figure.axes[:2]] == ["before", "after"]
        for i, diagram in enumerate(diagrams.values()):
            accuracy, gap = figure.axes[i].containers
            heights = [bar.get_height() for bar in accuracy]
            assert heights == pytest.approx(diagram.accuracy.tolist(), nan_ok=True)
            tops = [bar.get_y() + bar.get_height() for bar in gap]
            assert [bar.get_y() for bar in gap] == pytest.approx(diagram.confidence.tolist(), nan_ok=True)
            assert tops == pytest.approx(diagram.accuracy.tolist(), nan_ok=True)
            counts = [bar.get_height() for bar in figure.axes[2 + i].containers[0]]
            assert counts == diagram.counts.tolist()
            assert figure.axes[i].lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert sorted(legend) == ["accuracy", "gap", "honest"]

    def test_threshold_marks_the_best_point(self, tmp_path):
        results = {name: adjust_threshold(self.p, self.y, metric=name) for name in ("f1", "accuracy")}
        path = tmp_path / "threshold.png"
        ax = plot_threshold(results, save_path=path).axes[0]
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
        labels, target = torch.randint(4, (2, 100), generator=torch.Generator().manual_seed(0))
        path = tmp_path / "confusion.png"
        ax = plot_confusion(labels, target, list("abcd"), title="four", save_path=path).axes[0]
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

    def test_groups_are_densities_over_a_common_range(self, tmp_path):
        groups = {"known": self.p, "unknown": (2 * self.p[:50]).bfloat16()}
        path = tmp_path / "groups.png"
        ax = plot_groups(groups, label="entropy in nats", save_path=path).axes[0]
        assert is_png(path)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["known", "unknown"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("entropy in nats", "density")
        outline = ax.lines[0].get_xydata()
        width = float(2 * self.p[:50].max() - self.p.min()) / 30
        assert outline[:, 1].sum() * width == pytest.approx(1, rel=0.1)

    def test_risk_coverage_draws_the_curves(self, tmp_path):
        coverage, risk = torch.linspace(0.1, 1, 10), torch.linspace(0, 0.3, 10)
        path = tmp_path / "risk.png"
        curves = {"confidence": (coverage, risk), "entropy": (coverage, risk / 2)}
        ax = plot_risk_coverage(curves, save_path=path).axes[0]
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
