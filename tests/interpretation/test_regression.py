"""Numbers: errors and explained variance against scikit-learn and torchmetrics."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.interpretation import interpret_regression_output
from tests.support.values import DTYPES, INF, NAN, random_normal, seeds


class TestRegression:
    @given(st.integers(2, 9), st.integers(1, 4), seeds)
    def test_every_statistic_equals_scikit_learn(self, n, outputs, seed):
        import sklearn.metrics

        preds, target = (
            random_normal(n, outputs, seed=seed, scale=2.0),
            random_normal(n, outputs, seed=seed + 1, scale=2.0),
        )
        table = interpret_regression_output(preds, target).statistics
        both, raw = (target.numpy(), preds.numpy()), {"multioutput": "raw_values"}
        metrics = sklearn.metrics
        assert np.allclose(table["mean_absolute_error"], metrics.mean_absolute_error(*both, **raw))
        assert np.allclose(table["root_mean_squared_error"], metrics.root_mean_squared_error(*both, **raw))
        assert np.allclose(table["r2"], metrics.r2_score(*both, **raw))
        columns = zip(*(values.T for values in both), strict=True)
        assert np.allclose(table["max_absolute_error"], [metrics.max_error(y, p) for y, p in columns])
        absolute = np.abs(preds.numpy() - target.numpy())
        assert np.allclose(table["mean_error"], (preds.numpy() - target.numpy()).mean(0))
        assert np.allclose(table["min_absolute_error"], absolute.min(0))
        assert np.allclose(table["std_absolute_error"], absolute.std(0))

    def test_equals_torchmetrics(self):
        import torchmetrics.functional as tm

        preds, target = random_normal(40, 3, scale=2.0), random_normal(40, 3, seed=1, scale=2.0)
        table = interpret_regression_output(preds, target).statistics
        rmse = tm.mean_squared_error(preds, target, squared=False, num_outputs=3)
        assert np.allclose(table["root_mean_squared_error"], rmse)
        assert np.allclose(table["r2"], tm.r2_score(preds, target, multioutput="raw_values"))

    def test_error_is_prediction_minus_target(self):
        result = interpret_regression_output(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]))
        assert result.error.tolist() == [[2.0], [-1.0]]
        assert result[1] == {"preds": torch.tensor([1.0]), "target": torch.tensor([2.0]), "error": torch.tensor([-1.0])}
        assert list(result.to_frame().columns) == ["preds_0", "target_0", "error_0"]
        assert "2 samples, 1 output(s)" in repr(result)

    def test_names_are_the_index(self):
        table = interpret_regression_output(torch.rand(3, 2), torch.rand(3, 2), names=["weight in g", "age"]).statistics
        assert list(table.index) == ["weight in g", "age"]
        assert list(interpret_regression_output(torch.rand(3, 2), torch.rand(3, 2)).statistics.index) == [
            "output 0",
            "output 1",
        ]

    def test_without_target(self):
        result = interpret_regression_output(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        with pytest.raises(TypeError, match="one sample at a time"):
            result[0:1]
        assert (result.target, result.error, result.statistics) == (None, None, None)
        assert result[-1]["preds"].tolist() == [3.0, 4.0]
        assert list(result[0]) == ["preds"]
        assert list(result.to_frame().columns) == ["preds_0", "preds_1"]

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e-12, 1e9 + 0.1])
    def test_r2_of_a_constant_target_is_nan(self, constant):
        target = torch.full((7, 1), constant, dtype=torch.float64)
        table = interpret_regression_output(target + 1, target).statistics
        assert math.isnan(table["r2"].iloc[0])
        assert table["mean_absolute_error"].iloc[0] == pytest.approx(1)

    @given(seeds)
    def test_permuted_samples_permute_the_errors_and_keep_the_statistics(self, seed):
        preds, target = random_normal(9, 2, seed=seed, scale=2.0), random_normal(9, 2, seed=seed + 1, scale=2.0)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        result, permuted = (
            interpret_regression_output(preds, target),
            interpret_regression_output(preds[order], target[order]),
        )
        assert torch.equal(permuted.error, result.error[order])
        assert np.allclose(permuted.statistics, result.statistics)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_keeps_dtype_and_has_a_frame(self, dtype):
        preds, target = random_normal(5, 2, scale=2.0).to(dtype), random_normal(5, 2, seed=1, scale=2.0).to(dtype)
        result = interpret_regression_output(preds, target)
        assert result.preds.dtype == result.error.dtype == dtype
        assert len(result.to_frame()) == 5
        assert "5 rows" in result._repr_html_()

    def test_statistics_of_half_precision_are_exact_and_finite(self):
        import sklearn.metrics

        preds, target = torch.tensor([60000.0, 1000.0]).half(), torch.tensor([-60000.0, 0.3]).half()
        table = interpret_regression_output(preds, target).statistics
        expected = sklearn.metrics.mean_absolute_error(target.double().numpy(), preds.double().numpy())
        assert table["mean_absolute_error"].iloc[0] == pytest.approx(expected, rel=1e-12)
        assert np.isfinite(table).all(axis=None)

    def test_non_contiguous_tensors(self):
        preds, target = random_normal(3, 8, scale=2.0).T, random_normal(16, 6, seed=1, scale=2.0)[::2, ::2]
        mine = interpret_regression_output(preds, target).statistics
        assert np.allclose(mine, interpret_regression_output(preds.contiguous(), target.contiguous()).statistics)

    @pytest.mark.parametrize(
        ("preds", "target", "names", "error", "words"),
        [
            (torch.zeros(3, 2), torch.zeros(2, 3), None, ValueError, r"\(3, 2\) and \(2, 3\)"),
            (torch.zeros(3, 2), torch.zeros(3), None, ValueError, "same shape"),
            (torch.zeros(2, 3, 4), None, None, ValueError, "1 or 2 dimension"),
            (torch.zeros(3, 0), None, None, ValueError, "empty"),
            (torch.tensor([NAN]), None, None, ValueError, "preds must be finite"),
            (torch.zeros(1), torch.tensor([INF]), None, ValueError, "target must be finite"),
            (torch.zeros(3).long(), None, None, TypeError, "preds must have a floating"),
            (torch.zeros(3), torch.zeros(3).long(), None, TypeError, "target must have a floating"),
            ([1.0, 2.0], None, None, TypeError, "torch.Tensor"),
            (torch.zeros(3, 2), torch.zeros(3, 2), ["a"], ValueError, "^names must .*2.* 1"),
            (torch.zeros(3, 2), None, ["a", "b", "c"], ValueError, "^names must .*2.* 3"),
        ],
    )
    def test_bad_input(self, preds, target, names, error, words):
        with pytest.raises(error, match=words):
            interpret_regression_output(preds, target, names=names)

    def test_e2_statistics_of_one_sample(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.tensor([2.0]).std().isnan()  # the error: std with correction 1
        table = interpret_regression_output(torch.tensor([[3.0]]), torch.tensor([[1.0]])).statistics
        assert table["std_absolute_error"].iloc[0] == 0
        assert table["mean_absolute_error"].iloc[0] == 2
        assert math.isnan(table["r2"].iloc[0])  # undefined, as documented

    def test_e3_one_dimension_means_one_output(self):
        result = interpret_regression_output(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
        assert result.preds.shape == (3, 1)
        assert result.statistics["max_absolute_error"].tolist() == [1.0]

    def test_e4_units_are_never_pooled(self):
        target = torch.tensor([[1.0, 1000.0], [2.0, 3000.0]])
        preds = target + torch.tensor([1.0, -50.0])
        assert (preds - target).abs().mean().item() == 25.5  # the error
        assert interpret_regression_output(preds, target).statistics["mean_absolute_error"].tolist() == [1.0, 50.0]

    def test_e5_float64_stays_float64(self):
        value = 123456789.123
        preds = torch.tensor([value], dtype=torch.float64)
        assert torch.tensor(preds.tolist()).item() == 123456792.0  # the error: through a list into float32
        result = interpret_regression_output(preds, torch.zeros(1, dtype=torch.float64))
        assert result.error.dtype == torch.float64
        assert result.statistics["max_absolute_error"].iloc[0] == value

    def test_e6_unequal_and_empty_batches_are_refused(self):
        with pytest.raises(ValueError, match=r"\(3, 1\) and \(5, 1\)"):
            interpret_regression_output(torch.zeros(3, 1), torch.zeros(5, 1))
        with pytest.raises(ValueError, match="at least one sample"):
            interpret_regression_output(torch.zeros(0, 1), torch.zeros(0, 1))

    def test_e7_a_column_is_never_broadcast_against_a_row(self):
        values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert (values[:, None] - values).square().mean().item() == 2.5  # the error: for identical data
        with pytest.raises(ValueError, match="broadcast"):
            interpret_regression_output(values[:, None], values)
        table = interpret_regression_output(values, values.clone()).statistics
        assert table["root_mean_squared_error"].iloc[0] == 0
