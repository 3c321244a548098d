"""Language models for tests: random weights, fixed rules, and one that is fed the whole prefix."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_utils.interpretation import SimpleLanguageModel


class Refed(nn.Module):
    """A language model without `advance`: it gets the whole prefix in every step. It keeps the shapes it was given."""

    def __init__(self, inner: nn.Module, *, as_object: bool = False) -> None:
        super().__init__()
        self.inner, self.as_object, self.shapes = inner, as_object, []

    def forward(self, token_ids):
        self.shapes.append(tuple(token_ids.shape))
        logits = self.inner(token_ids)
        return SimpleNamespace(logits=logits) if self.as_object else logits


class Rule(nn.Module):
    """A language model whose logits are a function of the token ids (N, T) → (N, T, V)."""

    def __init__(self, rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, token_ids):
        return self.rule(token_ids)


def language_model(vocab_size: int, seed: int = 0, sharpness: float = 4.0) -> SimpleLanguageModel:
    """Random weights in float64, scaled so that the next tokens differ clearly in probability."""
    torch.manual_seed(seed)
    model = SimpleLanguageModel(vocab_size, 6).double()
    for parameter in model.parameters():
        parameter.data.mul_(sharpness)
    return model.eval()


def assert_same(found, expected) -> None:
    """Hypotheses against (score, tokens), best first."""
    assert [tuple(h.token_ids.tolist()) for h in found] == [tuple(tokens) for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-10)
