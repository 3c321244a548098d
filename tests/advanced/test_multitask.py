"""Several tasks at once: losses by hand, the learned weights, and the errors E7 and E8."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import MultiTaskLoss, MultiTaskModel, multi_task_inference
from tests.support.images import classes
from tests.support.models import Function
from tests.support.values import DTYPES, NAN


class TestMultiTask:
    outputs = {  # noqa: RUF012
        "classification": torch.tensor([[2.0, -1, 0.5], [0, 1, -3]], dtype=torch.float64),
        "regression": torch.tensor([[1.5], [-2.0]], dtype=torch.float64),
    }
    targets = {  # noqa: RUF012
        "classification": torch.tensor([2, 1]),
        "regression": torch.tensor([[1.0], [1.0]], dtype=torch.float64),
    }
    entropy = (
        -(
            math.log(math.exp(0.5) / (math.exp(2) + math.exp(-1) + math.exp(0.5)))
            + math.log(math.exp(1) / (1 + math.exp(1) + math.exp(-3)))
        )
        / 2
    )
    squared = (0.25 + 9) / 2

    @pytest.mark.parametrize(("n", "c"), [(1, 2), (7, 5)])
    def test_shapes(self, n, c):
        model = MultiTaskModel(4, c)
        outputs = model(torch.rand(n, 4))
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            "classification": (n, c),
            "regression": (n, 1),
        }
        loss = MultiTaskLoss()(outputs, {"classification": torch.zeros(n).long(), "regression": torch.zeros(n, 1)})
        assert loss.shape == ()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.numel() > 1)

    def test_the_heads_give_logits_and_unbounded_values(self):
        torch.manual_seed(0)
        outputs = MultiTaskModel(4, 3)(100 * torch.randn(50, 4))
        assert (outputs["classification"] < 0).any()
        assert (outputs["classification"].sum(1) - 1).abs().max() > 1
        assert outputs["regression"].min() < 0 < outputs["regression"].max()

    def test_none_is_the_plain_sum(self):
        assert float(MultiTaskLoss()(self.outputs, self.targets)) == pytest.approx(self.entropy + self.squared)

    @given(st.floats(0, 100), st.floats(0, 100))
    def test_weights_weigh(self, a, b):
        loss = MultiTaskLoss({"classification": a, "regression": b})(self.outputs, self.targets)
        assert float(loss) == pytest.approx(a * self.entropy + b * self.squared)

    @given(st.floats(-5, 5), st.floats(-5, 5))
    def test_uncertainty_follows_its_formula(self, a, b):
        criterion = MultiTaskLoss("uncertainty").double()
        assert float(criterion(self.outputs, self.targets).detach()) == pytest.approx(self.entropy + self.squared / 2)
        with torch.no_grad():
            criterion.log_variances["classification"].fill_(a)
            criterion.log_variances["regression"].fill_(b)
        by_hand = math.exp(-a) * self.entropy + math.exp(-b) * self.squared / 2 + (a + b) / 2
        assert float(criterion(self.outputs, self.targets).detach()) == pytest.approx(by_hand, rel=1e-9)

    def test_uncertainty_learns_the_variances(self):
        """The minimum over s is at s_c = log(2·CE) and s_r = log(MSE)."""
        criterion = MultiTaskLoss("uncertainty").double()
        assert len(list(criterion.parameters())) == 2
        optimizer = torch.optim.LBFGS(criterion.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = criterion(self.outputs, self.targets)
            loss.backward()
            return loss

        optimizer.step(closure)
        learned = {name: float(s.detach()) for name, s in criterion.log_variances.items()}
        assert learned == pytest.approx(
            {"classification": math.log(2 * self.entropy), "regression": math.log(self.squared)}, abs=1e-4
        )

    def test_state_dict_travels(self):
        criterion, other = MultiTaskLoss("uncertainty"), MultiTaskLoss("uncertainty")
        with torch.no_grad():
            criterion.log_variances["regression"].fill_(1.5)
        other.load_state_dict(criterion.state_dict())
        assert float(other.log_variances["regression"].detach()) == 1.5
        assert float(other(self.outputs, self.targets).detach()) == float(
            criterion(self.outputs, self.targets).detach()
        )
        assert len(criterion.state_dict()) == 2
        assert len(MultiTaskLoss().state_dict()) == len(list(MultiTaskLoss().parameters())) == 0

    def test_losses_are_the_unweighted_parts(self):
        parts = MultiTaskLoss({"classification": 9, "regression": 0}).losses(self.outputs, self.targets)
        assert float(parts["classification"]) == pytest.approx(self.entropy)
        assert float(parts["regression"]) == pytest.approx(self.squared)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_float32_or_better(self, dtype):
        """F4: also the class is decided on logits; softmax in half precision would make ties."""
        model, x = MultiTaskModel(4, 3).to(dtype), torch.rand(5, 4).to(dtype)
        result = multi_task_inference(model, x)
        expected = torch.promote_types(dtype, torch.float32)
        assert result.probabilities.dtype == result.regression.dtype == result.confidence.dtype == expected
        targets = {"classification": classes(5), "regression": torch.zeros(5, 1, dtype=dtype)}
        assert MultiTaskLoss()(model(x), targets).dtype == dtype

    def test_f4_the_class_is_decided_on_logits(self):
        """Probabilities of float32 logits this large are 1 and 1, of bfloat16 ones this close equal."""
        for logits, dtype in (([[200.0, 210, 90]], torch.float32), ([[0.0, 0.001, 0.002]], torch.bfloat16)):
            values = torch.tensor(logits, dtype=dtype)
            model = Function(lambda x, z=values: {"classification": z, "regression": z[:, :1]})
            result = multi_task_inference(model, torch.zeros(1, 4))
            assert result.labels.tolist() == values.argmax(1).tolist()
        masked = torch.tensor([[1.0, -math.inf, 0.5]])  # F21: a mask, for the loss too
        outputs = {"classification": masked, "regression": torch.zeros(1, 1)}
        loss = MultiTaskLoss()(outputs, {"classification": [2], "regression": torch.zeros(1, 1)})
        assert float(loss) == pytest.approx(math.log1p(math.exp(0.5)))
        model = Function(lambda x: {"classification": masked, "regression": masked[:, :1]})
        result = multi_task_inference(model, torch.zeros(1, 4))
        assert result.labels.tolist() == [0]
        assert result.probabilities[0, 1] == 0

    def test_q11_q23_nothing_that_the_model_writes_stays(self):
        class Counting(MultiTaskModel):
            def __init__(self):
                super().__init__(4, 3)
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, x):
                self.calls.add_(1)
                return super().forward(x)

        model = Counting()
        multi_task_inference(model, torch.zeros(2, 4))
        assert model.calls == 0
        assert multi_task_inference(nn.DataParallel(model), torch.zeros(2, 4)).labels.shape == (2,)  # Q23

    def test_inference_reads_both_heads(self):
        torch.manual_seed(0)
        model, x = MultiTaskModel(4, 3), 3 * torch.randn(20, 4)
        result, outputs = multi_task_inference(model, x), model(x)
        probabilities = outputs["classification"].softmax(1).detach()
        assert torch.allclose(result.probabilities, probabilities)
        assert result.labels.tolist() == probabilities.argmax(1).tolist()
        assert torch.equal(result.confidence, result.probabilities.amax(1))
        assert torch.equal(result.regression, outputs["regression"].detach())
        assert result.labels.dtype == torch.int64
        assert not result.regression.requires_grad
        assert not result.probabilities.requires_grad
        assert len(result) == len(result.to_frame()) == 20
        assert result[-1]["labels"] == int(result.labels[-1])
        assert "MultiTaskResult" in result._repr_html_()

    @pytest.mark.parametrize("threshold", [0, 0.2, 0.5, 0.75, 1.0])
    def test_e8_the_threshold_refuses(self, threshold):
        logits = torch.tensor([[0.0, 0], [math.log(3), 0], [9, 0], [0, 200.0]], dtype=torch.float64)
        model = Function(lambda x: {"classification": logits, "regression": x[:, :1]})
        result = multi_task_inference(model, torch.zeros(4, 1), classification_threshold=threshold)
        confidence = [0.5, 0.75, 1 / (1 + math.exp(-9)), 1.0]
        assert result.confidence.tolist() == pytest.approx(confidence)
        assert result.labels.tolist() == [
            label if p >= threshold else -1 for p, label in zip(result.confidence.tolist(), [0, 0, 0, 1], strict=True)
        ]
        assert (result.labels == -1).sum() == {0: 0, 0.2: 0, 0.5: 0, 0.75: 1, 1.0: 3}[threshold]

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda s: MultiTaskModel(0, 3), ValueError, "in_features"),
            (lambda s: MultiTaskModel(4, 1), ValueError, "num_classes must be at least 2"),
            (lambda s: MultiTaskModel(4.0, 3), TypeError, "in_features must be an int"),
            (lambda s: MultiTaskModel(4, 3, 0), ValueError, "hidden_features"),
            (lambda s: MultiTaskLoss("equal"), ValueError, "'uncertainty'.*'equal'"),
            (lambda s: MultiTaskLoss([1, 1]), ValueError, "task_weights"),
            (lambda s: MultiTaskLoss({"classification": 1}), ValueError, "keys.*'regression'"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": -1}), ValueError, "negative"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": NAN}), ValueError, "finite"),
            (lambda s: MultiTaskLoss({"classification": 1, "regression": "1"}), TypeError, "number"),
            (lambda s: MultiTaskLoss()([1, 2], s.targets), TypeError, "outputs must be a dict"),
            (lambda s: MultiTaskLoss()(s.outputs, {"regression": 1}), TypeError, "targets must be a dict"),
            (
                lambda s: MultiTaskLoss()(s.outputs, s.targets | {"classification": torch.tensor([0, 3])}),
                ValueError,
                "0 to 2",
            ),
            (
                lambda s: MultiTaskLoss()(s.outputs, s.targets | {"classification": torch.tensor([0.0, 1])}),
                TypeError,
                "integer",
            ),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), torch.zeros(0, 4)), ValueError, "empty"),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), torch.full((2, 4), NAN)), ValueError, "NaN"),
            (lambda s: multi_task_inference(MultiTaskModel(4, 3), [1.0]), TypeError, "torch.Tensor"),
            (lambda s: multi_task_inference(len, torch.zeros(2, 4)), TypeError, "torch.nn.Module"),
            (lambda s: multi_task_inference(nn.Linear(4, 3), torch.zeros(2, 4)), TypeError, "must return a dict"),
            (
                lambda s: multi_task_inference(Function(lambda x: s.outputs), torch.zeros(3, 4)),
                ValueError,
                "N = 3 and C ≥ 2",
            ),
            *[
                (
                    lambda s, t=t: multi_task_inference(
                        MultiTaskModel(4, 3), torch.zeros(2, 4), classification_threshold=t
                    ),
                    ValueError,
                    "classification_threshold",
                )
                for t in (-0.1, 1.1, NAN)
            ],
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(self)

    def test_e7_unequal_regression_shapes_raise(self):
        equal = torch.tensor([[1.0], [-1.0]])
        with pytest.warns(UserWarning, match="broadcast"):
            assert float(F.mse_loss(equal, equal[:, 0])) == 2  # the error: identical values, and a loss
        outputs = {"classification": torch.zeros(2, 3), "regression": equal}
        for shape in [(2,), (1, 2), (1, 1)]:
            targets = {"classification": torch.tensor([0, 1]), "regression": torch.ones(shape)}
            for criterion in (MultiTaskLoss(), MultiTaskLoss("uncertainty")):
                with pytest.raises(ValueError, match="same shape.*broadcast"):
                    criterion(outputs, targets)
