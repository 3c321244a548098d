"""One tolerance for probabilities: what one chapter takes, all chapters take."""

import pytest
import torch
from matplotlib import pyplot as plt

from course_utils.basics import plot_probabilities, probabilities_to_labels
from course_utils.foundation.probabilities import check_probabilities, sum_tolerance
from course_utils.foundation.values import value_kinds
from course_utils.optimization import adjust_threshold, expected_calibration_error, reliability_diagram

TARGET = torch.tensor([0, 1])
MULTICLASS = {
    "check_probabilities": lambda p: check_probabilities(p, class_dim=1),
    "probabilities_to_labels": lambda p: probabilities_to_labels(p, "multiclass"),
    "reliability_diagram": lambda p: reliability_diagram(p, TARGET),
    "expected_calibration_error": lambda p: expected_calibration_error(p, TARGET),
}
BINARY = {
    "check_probabilities": check_probabilities,
    "probabilities_to_labels": lambda p: probabilities_to_labels(p, "binary"),
    "reliability_diagram": lambda p: reliability_diagram(p, TARGET),
    "expected_calibration_error": lambda p: expected_calibration_error(p, TARGET),
    "adjust_threshold": lambda p: adjust_threshold(p, TARGET),
    "plot_probabilities": plot_probabilities,
}


def rows_with_sum(total: float) -> torch.Tensor:
    return torch.tensor([[0.6, 0.4], [0.3, 0.7]]) * total


@pytest.mark.parametrize("call", MULTICLASS.values(), ids=MULTICLASS.keys())
def test_the_sum_has_one_tolerance(call):
    for total in (1.0, 1.0035, 0.9965):
        call(rows_with_sum(total))
    for total in (1.005, 0.995, 1.3):
        with pytest.raises(ValueError, match="sum to 1"):
            call(rows_with_sum(total))


@pytest.mark.parametrize("call", BINARY.values(), ids=BINARY.keys())
def test_one_rounding_above_one_passes_everywhere_and_more_fails_everywhere(call):
    eps = torch.finfo(torch.float32).eps
    call(torch.tensor([0.5, 1.0 + eps]))
    for p in (1 + 8 * eps, 1.5, -eps):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            call(torch.tensor([0.5, p]))
    assert not plt.get_fignums()


def test_the_report_on_values_agrees_with_the_check():
    for total in (1.0035, 1.005):
        accepted = "probabilities" in value_kinds(rows_with_sum(total), class_dim=1, exclusive=True).kinds
        assert accepted == (abs(total - 1) <= sum_tolerance(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 1000, 50_000])
def test_a_softmax_passes_in_every_precision(dtype, classes):
    logits = torch.linspace(-3, 3, 2 * classes).reshape(2, classes)
    check_probabilities(torch.softmax(logits.to(dtype), dim=1), class_dim=1)
    check_probabilities(torch.softmax(logits.to(dtype), dim=1).float(), class_dim=1)


def test_a_best_threshold_never_exceeds_one():
    found = adjust_threshold(torch.tensor([0.5, 1.0 + torch.finfo(torch.float32).eps]), TARGET)
    assert found.threshold == 1.0
