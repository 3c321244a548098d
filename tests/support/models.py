"""Models that several test files share."""

import torch
from torch import nn

from tests.support.values import random_normal


class Returns(nn.Module):
    """A model that answers with what it was given."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def members_of(seed: int, m: int = 3, n: int = 5, c: int = 4) -> list[Returns]:
    return [Returns(logits) for logits in random_normal(m, n, c, seed=seed, scale=3.0)]
