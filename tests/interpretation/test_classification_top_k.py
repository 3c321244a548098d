"""The top k of `interpret_classification_output` against a full stable sort, above all where values are equal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.interpretation import interpret_classification_output


def by_sorting(probabilities: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, classes = probabilities.sort(dim=1, descending=True, stable=True)
    return classes[:, :k], values[:, :k]


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.integers(2, 12).flatmap(
            # A few levels only, so that ties are everywhere: within the top k, across its end, and behind it.
            lambda c: st.lists(st.lists(st.integers(-2, 2), min_size=c, max_size=c), min_size=n, max_size=n)
        )
    ),
    st.data(),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
    st.sampled_from(["multiclass", "multilabel"]),
)
def test_equal_values_come_in_the_order_of_the_classes(levels, data, dtype, task):
    logits = torch.tensor(levels, dtype=dtype)
    k = data.draw(st.integers(1, logits.shape[1]), label="k")
    result = interpret_classification_output(logits, task=task, top_k=k)
    classes, values = by_sorting(result.probabilities, k)
    assert torch.equal(result.topk_labels, classes)
    assert torch.equal(result.topk_confidence, values)


@pytest.mark.parametrize("k", [1, 2, 5, 999, 1000])
def test_many_classes_rounded_to_few_values(k):
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).mul(2).round()
    logits[::2] = torch.randn(25, 1000, generator=torch.Generator().manual_seed(1))  # rows without ties beside them
    result = interpret_classification_output(logits, top_k=k)
    classes, values = by_sorting(result.probabilities, k)
    assert torch.equal(result.topk_labels, classes)
    assert torch.equal(result.topk_confidence, values)


def test_binary_even_odds_name_class_0_first():
    result = interpret_classification_output(torch.tensor([0.0, 1.0, -1.0]), task="binary", top_k=2)
    assert result.topk_labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_probabilities_that_are_all_zero_but_one():
    """A saturated softmax: the runners-up are exact zeros, of which the first ones are named."""
    logits = torch.full((2, 6), -1e4)
    logits[0, 4] = logits[1, 0] = 1e4
    result = interpret_classification_output(logits, top_k=3)
    assert result.topk_labels.tolist() == [[4, 0, 1], [0, 1, 2]]


def test_the_gradient_flows_through_the_top_values():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]], requires_grad=True)
    result = interpret_classification_output(logits, top_k=2)
    (mine,) = torch.autograd.grad(result.topk_confidence.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(result.probabilities[:, 1:3].sum(), logits)
    assert torch.allclose(mine, expected)
