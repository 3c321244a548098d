"""Splits: apart, stratified, scaled by the training part alone, the same test part for all."""

import numpy as np
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
