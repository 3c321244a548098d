"""course_utils.data: real sets without leaks, a real text, and pictures whose masks are true."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets
from torchvision.ops import masks_to_boxes

from course_utils.data import PICTURE_CLASSES, TABLES, generate_pictures, load_split, load_text
from course_utils.data.pictures import mask_boxes


class TestTables:
    @pytest.mark.parametrize("name", TABLES)
    def test_every_sample_is_in_exactly_one_part(self, name):
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


class TestText:
    def test_real_text_and_round_trip(self):
        text = load_text()
        assert len(text.characters) > 30_000
        assert "iris" in text.characters.lower()
        assert text.decode(text.encode(text.characters)) == text.characters
        assert len(set(text.vocab)) == len(text.vocab)

    def test_unknown_character_is_named(self):
        with pytest.raises(ValueError, match="猫"):
            load_text().encode("a 猫")


class TestPictures:
    pictures = generate_pictures(300, seed=3)

    def test_shapes_and_dtypes(self):
        assert self.pictures.images.shape == (300, 3, 32, 32)
        assert self.pictures.images.dtype == torch.uint8
        assert self.pictures.target.unique().tolist() == list(range(len(PICTURE_CLASSES)))
        assert len(self.pictures) == 300
        assert set(self.pictures[0]) == {"images", "target", "masks", "boxes"}

    def test_boxes_are_the_masks_tight_boxes(self):
        torchvision_boxes = masks_to_boxes(self.pictures.masks)  # its ends are inclusive
        torchvision_boxes[:, 2:] += 1
        assert torch.equal(self.pictures.boxes, torchvision_boxes)

    def test_the_mask_is_where_the_shape_is(self):
        """The colour inside the mask differs from that around it, by far more than the noise."""
        images = self.pictures.images.float() / 255
        inside, border = self.pictures.masks[:, None], torch.zeros(1, 1, 32, 32, dtype=torch.bool)
        border[..., 0, :] = border[..., -1, :] = True
        outside = border & ~inside

        def mean(area):
            return (images * area).sum((2, 3)) / area.sum((2, 3))

        difference = (mean(inside) - mean(outside)).abs().amax(1)
        assert (difference > 0.2).float().mean() > 0.97

    def test_enough_of_every_shape_is_visible(self):
        assert self.pictures.masks.flatten(1).sum(1).min() > 20

    def test_colour_does_not_tell_the_class(self):
        """A linear model on mean colour and contrast does not beat guessing by much."""
        from sklearn.linear_model import LogisticRegression

        pictures = generate_pictures(2000, seed=4)
        images = pictures.images.float() / 255
        area = pictures.masks[:, None]
        colour = (images * area).sum((2, 3)) / area.sum((2, 3))
        features = torch.cat([colour, images.mean((2, 3))], 1).numpy()
        model = LogisticRegression(max_iter=300).fit(features[:1500], pictures.target[:1500].numpy())
        assert model.score(features[1500:], pictures.target[1500:].numpy()) < 0.2

    def test_seeds(self):
        assert torch.equal(generate_pictures(5, seed=1).images, generate_pictures(5, seed=1).images)
        assert not torch.equal(generate_pictures(5, seed=1).images, generate_pictures(5, seed=2).images)
        assert not torch.equal(generate_pictures(5, seed=None).images, generate_pictures(5, seed=None).images)

    @given(size=st.integers(16, 48), count=st.integers(1, 5))
    def test_any_size(self, size, count):
        pictures = generate_pictures(count, size=size, classes=("star", "bar"))
        assert pictures.images.shape == (count, 3, size, size)
        assert pictures.target.max() < 2
        assert torch.equal(mask_boxes(pictures.masks), pictures.boxes)
        assert pictures.class_names == ("star", "bar")

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ((0,), ValueError, "num_pictures"),
            ((2.0,), TypeError, "num_pictures"),
            ((2, {"size": 8}), ValueError, "at least 16"),
            ((2, {"classes": ("disc", "cat")}), ValueError, "'cat'"),
            ((2, {"classes": ()}), ValueError, "empty"),
        ],
    )
    def test_bad_input(self, arguments, error, words):
        count, options = arguments[0], arguments[1] if len(arguments) > 1 else {}
        with pytest.raises(error, match=words):
            generate_pictures(count, **options)
