"""Splits: apart, stratified, scaled by the training part alone, the same test part for all."""

import math

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch

from course_utils.homework.data import FOLDS, load_splits
from tests.support.homework import own_data


class TestSplits:
    @pytest.mark.parametrize("validation", ["holdout", "repeated_kfold"])
    def test_parts_are_apart_stratified_and_scaled_by_the_training_part(self, validation):
        splits = load_splits("breast_cancer", validation)
        everything = sklearn.datasets.load_breast_cancer()
        assert len(splits.x) + len(splits.x_test) == len(everything.target)
        folds = splits.folds(3)
        assert len(folds) == (1 if validation == "holdout" else FOLDS)
        for fold in folds:
            x, _ = fold["train"]
            assert x.mean(0).abs().max() < 1e-5
            assert (x.std(0, correction=0) - 1).abs().max() < 1e-4
            assert fold["validation"][0].mean(0).abs().max() > 1e-3
            rows = torch.cat([fold["train"][0], fold["validation"][0]])
            assert len(rows.unique(dim=0)) == len(rows) == len(splits.x)
            for _, y in fold.values():
                assert y.double().mean().item() == pytest.approx(everything.target.mean(), abs=0.02)

    def test_every_sample_is_validated_once_by_the_folds(self):
        splits = load_splits("iris", "repeated_kfold")
        counts = sum(fold["validation"][1].bincount(minlength=3) for fold in splits.folds(0))
        assert counts.tolist() == np.bincount(splits.y).tolist()

    def test_seeds_draw_other_validation_parts_and_the_same_test_part(self):
        splits = load_splits("iris", "holdout")
        (one,), (other,), (again,) = splits.folds(0), splits.folds(1), splits.folds(0)
        assert one["validation"][0].equal(again["validation"][0])
        assert one["test"][1].equal(other["test"][1])
        assert not one["train"][1].equal(other["train"][1])

    def test_a_constant_feature_stays_finite(self):
        x, y = own_data()
        splits = load_splits((torch.cat([x, torch.ones(len(x), 1)], 1), y), "holdout")
        assert all(part[0].isfinite().all() for part in splits.folds(0)[0].values())

    @pytest.mark.parametrize("factor", [1e300, 1e-300])
    def test_p20_numbers_whose_squares_float64_cannot_hold(self, factor):
        """P20: the standard deviation of such data overflowed, or vanished; the standardised ones are the same."""
        x, y = own_data(dtype=torch.float64)
        factor = 2.0 ** round(np.log2(factor))  # exact, so that nothing is rounded
        (plain,), (scaled,) = (load_splits((x * f, y), "holdout").folds(0) for f in (1.0, factor))
        for part in ("train", "validation", "test"):
            assert scaled[part][0].equal(plain[part][0])


def with_value(x: pd.DataFrame, value: float) -> pd.DataFrame:
    """The table with the value in three places, the first of them row 7, column "b"."""
    x = x.copy()
    x.iloc[[7, 8, 9], 1] = value
    return x


class TestOwnData:
    def test_p24_tables_of_pandas(self):
        """P24: a DataFrame and a Series, also of names of classes, are the same data as tensors."""
        x, y = own_data(dtype=torch.float64)
        frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c"], index=range(100, 100 + len(x)))
        names = np.array(["setosa", "versicolor", "virginica"])[y]
        expected = load_splits((x, y), "holdout").digest
        labels = (pd.Series(y), pd.Series(y, dtype="Int64"), pd.Series(names), pd.Series(names, dtype="category"))
        for label in (*labels, names, names.astype(object), y.tolist(), names.tolist()):
            assert load_splits((frame, label), "holdout").digest == expected

    def test_p24_whole_numbers_in_a_table(self):
        """P24: columns of a table may be whole numbers."""
        _, y = own_data()
        frame = pd.DataFrame({"a": range(len(y)), "b": np.linspace(0, 1, len(y))})
        assert load_splits((frame, y), "holdout").x.dtype == np.float64

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x, y: (with_value(x, math.nan), y), ValueError, "row 7 .counted from 0., column 'b' is nan, and 2"),
            (lambda x, y: (with_value(x, math.inf).to_numpy(), y), ValueError, "row 7 .* column 1 is inf, and 2 more"),
            (lambda x, y: (x.assign(d="text"), y), TypeError, "'d' does not; leave it out, or encode it"),
            (lambda x, y: (x.to_numpy().astype(int), y), TypeError, r"is int64; convert it with .astype\(float\)"),
            (lambda x, y: (x, y.astype(object).mask(y.index == 5)), ValueError, "has none in row 5"),
            (lambda x, y: (x, y + 0.5), TypeError, "class indices or names of classes"),
            (lambda x, y: (x, y.astype(str)[:-1]), ValueError, "one label for each"),
            (lambda x, y: x, TypeError, "a pair .x, y., but is a pandas DataFrame of shape .90, 3.$"),
        ],
    )
    def test_p24_messages_name_the_place_and_dump_no_table(self, change, error, message):
        """P24: the message held the whole frame, and NaN pointed to layers of a network."""
        x, y = own_data(dtype=torch.float64)
        data = change(pd.DataFrame(x.numpy(), columns=["a", "b", "c"]), pd.Series(y.numpy()))
        with pytest.raises(error, match=message) as caught:
            load_splits(data, "holdout")
        assert len(str(caught.value)) < 250
