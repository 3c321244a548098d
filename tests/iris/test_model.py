"""The iris data as scikit-learn splits it, and the network of chapter 7."""

import pytest
import torch

from course_utils.iris import MLP
from tests.support.models import seeded_mlp


class TestData:
    def test_contract(self, split):
        assert (split.x_train.shape, split.x_test.shape) == ((120, 4), (30, 4))
        assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)
        assert split.y_test.bincount().tolist() == [10, 10, 10]
        assert split.class_names == ("setosa", "versicolor", "virginica")
        assert (split.x_train.amin(0).tolist(), split.x_train.amax(0).tolist()) == ([0] * 4, [1] * 4)

    def test_equals_scikit_learns_own_steps(self, split):
        from sklearn.datasets import load_iris
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import MinMaxScaler

        x, y = load_iris(return_X_y=True)
        train_x, test_x, _, test_y = train_test_split(x, y, test_size=0.2, random_state=42, stratify=y)
        scaler = MinMaxScaler().fit(train_x)
        assert torch.allclose(split.x_test.double(), torch.tensor(scaler.transform(test_x)), atol=1e-6)
        assert split.y_test.tolist() == test_y.tolist()


class TestMLP:
    def test_logits_and_dropout(self, split):
        model = seeded_mlp(dropout=0.5)
        assert model(split.x_test).shape == (30, 3)
        assert not torch.equal(model(split.x_test), model(split.x_test))
        model.eval()
        assert torch.equal(model(split.x_test), model(split.x_test))

    @pytest.mark.parametrize(
        "options", [{"in_features": 0}, {"hidden_features": 0}, {"num_classes": 1}, {"dropout": 1.0}, {"dropout": -0.1}]
    )
    def test_bad_sizes(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            MLP(**options)
