"""The small network that several chapters train, and the activations by name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import check_count, check_number

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "silu": F.silu,
}


class TwoLayerNetwork(nn.Module):
    """Two linear layers with a ReLU between them, and dropout if asked for. No softmax at the end.

    Args:
        in_features: D, numbers per sample.
        hidden_features: width of the hidden layer.
        out_features: C classes, or the number of values to predict.
        dropout: the probability that a hidden unit is switched off in train mode, in [0, 1); None: no such layer.

    Raises:
        TypeError, ValueError: sizes that are no positive ints, a dropout outside [0, 1).
    """

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int, *, dropout: float | None = None
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, size in sizes.items():
            check_count(size, name)
        self.hidden = nn.Linear(in_features, hidden_features)
        self.activation = nn.ReLU()
        if dropout is not None:
            if not 0 <= check_number(dropout, "dropout") < 1:
                raise ValueError(f"dropout must lie in [0, 1), but is {dropout}")
            self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) → (N, out_features)."""
        x = self.activation(self.hidden(x))
        if hasattr(self, "dropout"):
            x = self.dropout(x)
        return self.output(x)
