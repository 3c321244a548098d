"""One model for each task, whose head, probabilities and loss belong together.

Each has one hidden layer, `hidden_features` wide. A loss takes a target in the outputs' shape, except for classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.foundation.arguments import check_choice, check_count, check_labels, check_tensor, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.evaluation import evaluation_mode
from course_utils.foundation.networks import ACTIVATIONS, TwoLayerNetwork

# The values that an activation can produce; a target beyond them could never be reached.
_RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softplus": (0.0, float("inf")), "relu": (0.0, float("inf"))}


def _check_same_shape(outputs: Tensor, target: Tensor) -> None:
    if not isinstance(target, Tensor) or target.shape != outputs.shape:
        raise ValueError(
            f"target must have the outputs' shape {tuple(outputs.shape)}, but is {describe_value(target)}; "
            "unequal shapes would broadcast into a wrong loss"
        )


def _check_binary_target(outputs: Tensor, target: Tensor) -> Tensor:
    _check_same_shape(outputs, target)
    if target.numel() == 0:
        raise ValueError(f"target is empty: {describe_value(target)}; pass at least one sample")
    target = target.to(outputs.dtype)
    if not ((target >= 0) & (target <= 1)).all():  # also False for NaN
        raise ValueError("target must hold 0 and 1 (or probabilities between them)")
    return target


class _SigmoidModel(TwoLayerNetwork):
    """Every logit is a yes/no question of its own."""

    def predict_proba(self, x: Tensor) -> Tensor:
        """The probability of yes for each logit, in the logits' shape, float32 or better.

        In evaluation mode, without a graph.
        """
        with evaluation_mode(self), torch.no_grad():
            return torch.sigmoid(full_precision(self(x)))

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross-entropy on the logits; target holds 0 and 1 in their shape, another shape raises."""
        logits = self(x)
        return F.binary_cross_entropy_with_logits(logits, _check_binary_target(logits, target))


class BinaryClassificationModel(_SigmoidModel):
    """Inputs (N, in_features) → one logit for each sample, (N, 1); `predict_proba` gives P(class 1), (N, 1) too."""

    def __init__(self, in_features: int, *, hidden_features: int = 32) -> None:
        super().__init__(in_features, hidden_features, 1)


class MultiLabelClassificationModel(_SigmoidModel):
    """Inputs (N, in_features) → C independent logits for each sample, (N, C); probabilities have that shape too."""

    def __init__(self, in_features: int, num_classes: int, *, hidden_features: int = 32) -> None:
        super().__init__(in_features, hidden_features, check_count(num_classes, "num_classes"))


class MultiClassClassificationModel(TwoLayerNetwork):
    """Inputs (N, in_features) → C ≥ 2 competing logits for each sample, (N, C)."""

    def __init__(self, in_features: int, num_classes: int, *, hidden_features: int = 32) -> None:
        super().__init__(in_features, hidden_features, check_count(num_classes, "num_classes", minimum=2))

    def predict_proba(self, x: Tensor) -> Tensor:
        """Softmax probabilities, (N, C), rows sum to 1, float32 or better; in evaluation mode, without a graph."""
        with evaluation_mode(self), torch.no_grad():
            return torch.softmax(full_precision(self(x)), dim=1)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy on the logits; target (N,) holds class indices."""
        logits = self(x)
        check_labels(target, "target", num_samples=len(logits), num_classes=logits.shape[1])
        return F.cross_entropy(logits, target.long())


class RegressionModel(TwoLayerNetwork):
    """Inputs (N, in_features) → D = out_features values for each sample, (N, D), in the target's unit.

    Args:
        activation: keeps the values in a range: "sigmoid" (0, 1), "tanh" (−1, 1), "softplus" (0, ∞), "relu" [0, ∞);
            None leaves them free.
    """

    def __init__(
        self, in_features: int, out_features: int = 1, *, activation: str | None = None, hidden_features: int = 32
    ) -> None:
        super().__init__(in_features, hidden_features, out_features)
        self.output_activation = None if activation is None else check_choice(activation, "activation", tuple(_RANGES))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) → values (N, D)."""
        return self._activate(super().forward(x))

    def _activate(self, z: Tensor) -> Tensor:
        return z if self.output_activation is None else ACTIVATIONS[self.output_activation](z)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Mean squared error; target (N, D). Another shape, or a value out of the activation's range, raises.

        A ReLU passes no gradient where its input is negative, so a unit that starts there would never learn a positive
        target. The loss has the value of the squared error of `forward`, and lets the error's gradient through.
        """
        z = super().forward(x)
        values = self._activate(z)
        _check_same_shape(values, target)
        check_tensor(target, "target")
        low, high = _RANGES.get(self.output_activation, (-float("inf"), float("inf")))
        if target.min() < low or target.max() > high:
            raise ValueError(
                f"target must lie in [{low}, {high}], all that activation={self.output_activation!r} can produce"
            )
        if self.output_activation == "relu":
            values = z + (values - z).detach()
        return F.mse_loss(values, target.to(values.dtype))


class GaussianRegressionModel(TwoLayerNetwork):
    """A mean and a variance for each of D = out_features values: how noisy are the data where the model is asked?"""

    def __init__(self, in_features: int, out_features: int = 1, *, hidden_features: int = 32) -> None:
        super().__init__(in_features, hidden_features, 2 * check_count(out_features, "out_features"))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, in_features) → means (N, D) and variances (N, D), > 0."""
        mean, raw = super().forward(x).chunk(2, dim=1)
        return mean, F.softplus(raw) + 1e-6

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """The mean negative log-likelihood of the target (N, D) under the normal distributions, up to a constant.

        Source: Nix and Weigend (1994), "Estimating the mean and variance of the target probability distribution".
        """
        mean, variance = self(x)
        _check_same_shape(mean, target)
        check_tensor(target, "target")
        return F.gaussian_nll_loss(mean, target.to(mean.dtype), variance)
