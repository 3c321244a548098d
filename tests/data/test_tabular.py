"""scikit-learn's tables, split and scaled."""

import numpy as np
import pytest
import torch

from course_utils.data import TABLES, load_split


class TestTables:
    @pytest.mark.parametrize("name", TABLES)
    def test_every_sample_is_in_exactly_one_part(self, name):
        from sklearn import datasets

        split = load_split(name, scaling="none")
        rows = torch.cat([split.x_train, split.x_test])
        bunch = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
        assert torch.equal(torch.tensor(sorted(rows.tolist())), torch.tensor(sorted(np.float32(bunch.data).tolist())))
        assert len(split.feature_names) == rows.shape[1]

    @pytest.mark.parametrize("name", ["iris", "digits", "breast_cancer", "wine"])
    def test_stratified(self, name):
        split = load_split(name, test_size=0.25)
        train = split.y_train.bincount() / len(split.y_train)
        test = split.y_test.bincount() / len(split.y_test)
        assert (train - test).abs().max() < 0.03
        assert len(split.class_names) == len(train)

    def test_the_scaler_sees_only_the_training_part(self):
        standard = load_split("wine")
        assert torch.allclose(standard.x_train.mean(0), torch.zeros(13), atol=1e-5)
        assert torch.allclose(standard.x_train.std(0, correction=0), torch.ones(13), atol=1e-5)
        assert not torch.allclose(standard.x_test.mean(0), torch.zeros(13), atol=1e-3)
        minmax = load_split("wine", scaling="minmax")
        assert minmax.x_train.min() == 0
        assert minmax.x_train.max() <= 1 + 1e-6

    def test_e46_new_samples_take_the_fitted_scale(self):
        split, raw = load_split("iris", scaling="minmax"), load_split("iris", scaling="none")
        assert np.allclose(split.scaler.transform(raw.x_test.numpy()), split.x_test.numpy(), atol=1e-6)
        alone = split.scaler.transform(raw.x_test[:1].numpy())
        assert np.allclose(alone, split.x_test[:1].numpy(), atol=1e-6)

    def test_seeded(self):
        assert torch.equal(load_split("iris", seed=1).x_test, load_split("iris", seed=1).x_test)
        assert not torch.equal(load_split("iris", seed=1).x_test, load_split("iris", seed=2).x_test)

    def test_regression_targets_are_columns_in_their_own_unit(self):
        split = load_split("diabetes")
        assert split.y_train.shape == (353, 1)
        assert split.y_train.max() > 300
        assert split.class_names is None

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"name": "mnist"}, "'iris', 'digits'"),
            ({"name": "iris", "scaling": "robust"}, "'standard', 'minmax', 'none'"),
            ({"name": "iris", "test_size": 1.0}, "test_size"),
            ({"name": "iris", "test_size": 0.0}, "test_size"),
            ({"name": "iris", "seed": -1}, "seed"),
        ],
    )
    def test_bad_input(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            load_split(**arguments)
