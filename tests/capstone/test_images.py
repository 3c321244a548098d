"""Augmentation image by image, and normalisation against torchvision."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_utils.capstone import Augmentation, normalize
from tests.support.capstone import DATA, IMAGES, STATISTICS, tutorial


class TestImages:
    @given(n=st.integers(1, 12), epoch=st.integers(0, 5), seed=st.integers(0, 1000), padding=st.integers(0, 4))
    def test_augmentation_equals_pad_crop_flip_of_each_image(self, n, epoch, seed, padding):
        images = torch.randint(0, 256, (n, 3, 8, 10), dtype=torch.uint8)
        change = Augmentation.draw(n, epoch=epoch, seed=seed, padding=padding)
        index = torch.randperm(n)
        batch = change(images, index)
        assert (batch.dtype, batch.shape) == (torch.uint8, images.shape)
        for got, i in zip(batch, index.tolist(), strict=True):
            padded = F.pad(images[i].double()[None], [padding] * 4, mode="reflect")[0]
            top, left = int(change.top[i]), int(change.left[i])
            expected = padded[:, top : top + 8, left : left + 10]
            assert torch.equal(got.double(), expected.flip(2) if change.flip[i] else expected)

    def test_each_epoch_shows_the_other_side(self):
        draws = [Augmentation.draw(2000, epoch=epoch, seed=3) for epoch in range(4)]
        assert all(torch.equal(a.flip, ~b.flip) for a, b in pairwise(draws))
        assert 0.45 < draws[0].flip.double().mean() < 0.55
        assert all(not torch.equal(a.top, b.top) for a, b in pairwise(draws))
        for values in (draws[0].top, draws[0].left):
            assert (values.bincount(minlength=5) - 400).abs().max() < 100
        assert not torch.equal(draws[0].top, draws[0].left)
        assert not torch.equal(draws[0].flip, Augmentation.draw(2000, epoch=0, seed=4).flip)

    def test_augmentation_does_not_depend_on_batches(self):
        images = DATA.train.images
        change, whole = Augmentation.draw(96, epoch=1, seed=0), torch.arange(96)
        parts = [change(images, index) for index in whole.split([1, 50, 45])]
        assert torch.equal(torch.cat(parts), change(images, whole))
        assert torch.equal(images, DATA.train.images)

    def test_normalize_equals_torchvision(self):
        from torchvision.transforms import v2

        expected = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*map(torch.Tensor.tolist, STATISTICS))]
        )
        assert torch.allclose(normalize(IMAGES, *STATISTICS), expected(IMAGES), atol=1e-5)
        model = tutorial()
        model.learn_statistics(DATA)
        assert torch.equal(model.normalize(IMAGES), normalize(IMAGES, *STATISTICS))

    @pytest.mark.parametrize(
        ("images", "error"),
        [(IMAGES / 255, TypeError), (IMAGES[0], ValueError), (IMAGES[:, :1], ValueError), (IMAGES.numpy(), TypeError)],
    )
    def test_normalize_refuses_what_would_be_wrong(self, images, error):
        with pytest.raises(error, match="images"):
            normalize(images, *STATISTICS)
