"""The course's own images and scenes: boxes, masks and labels belong to what is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data import IMAGE_CLASSES, generate_images, generate_scenes
from course_utils.data.images import mask_boxes
from tests.support.values import seeds


@pytest.fixture(scope="module")
def generated():
    return generate_images(300, seed=3)


@pytest.fixture(scope="module")
def scenes():
    return generate_scenes(60, seed=3)


class TestImages:
    def test_shapes_and_dtypes(self, generated):
        assert generated.images.shape == (300, 3, 32, 32)
        assert generated.images.dtype == torch.uint8
        assert generated.target.unique().tolist() == list(range(len(IMAGE_CLASSES)))
        assert len(generated) == 300
        assert set(generated[0]) == {"images", "target", "masks", "boxes"}

    def test_boxes_are_the_masks_tight_boxes(self, generated):
        from torchvision.ops import masks_to_boxes

        torchvision_boxes = masks_to_boxes(generated.masks)  # its ends are inclusive
        torchvision_boxes[:, 2:] += 1
        assert torch.equal(generated.boxes, torchvision_boxes)

    def test_the_mask_is_where_the_shape_is(self, generated):
        """The colour inside the mask differs from that around it, by far more than the noise."""
        images = generated.images.float() / 255
        inside, border = generated.masks[:, None], torch.zeros(1, 1, 32, 32, dtype=torch.bool)
        border[..., 0, :] = border[..., -1, :] = True
        outside = border & ~inside

        def mean(area):
            return (images * area).sum((2, 3)) / area.sum((2, 3))

        difference = (mean(inside) - mean(outside)).abs().amax(1)
        assert (difference > 0.2).float().mean() > 0.97

    def test_enough_of_every_shape_is_visible(self, generated):
        assert generated.masks.flatten(1).sum(1).min() > 20

    def test_colour_does_not_tell_the_class(self):
        """A linear model on mean colour and contrast does not beat guessing by much."""
        from sklearn.linear_model import LogisticRegression

        generated = generate_images(2000, seed=4)
        images = generated.images.float() / 255
        area = generated.masks[:, None]
        colour = (images * area).sum((2, 3)) / area.sum((2, 3))
        features = torch.cat([colour, images.mean((2, 3))], 1).numpy()
        model = LogisticRegression(max_iter=300).fit(features[:1500], generated.target[:1500].numpy())
        assert model.score(features[1500:], generated.target[1500:].numpy()) < 0.2

    def test_seeds(self):
        assert torch.equal(generate_images(5, seed=1).images, generate_images(5, seed=1).images)
        assert not torch.equal(generate_images(5, seed=1).images, generate_images(5, seed=2).images)
        assert not torch.equal(generate_images(5, seed=None).images, generate_images(5, seed=None).images)

    @given(size=st.integers(16, 48), count=st.integers(1, 5))
    def test_any_size(self, size, count):
        generated = generate_images(count, size=size, classes=("star", "bar"))
        assert generated.images.shape == (count, 3, size, size)
        assert generated.target.max() < 2
        assert torch.equal(mask_boxes(generated.masks), generated.boxes)
        assert generated.class_names == ("star", "bar")

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ((0,), ValueError, "num_images"),
            ((2.0,), TypeError, "num_images"),
            ((2, {"size": 8}), ValueError, "at least 16"),
            ((2, {"classes": ("disc", "cat")}), ValueError, "'cat'"),
            ((2, {"classes": ()}), ValueError, "empty"),
        ],
    )
    def test_bad_input(self, arguments, error, words):
        count, options = arguments[0], arguments[1] if len(arguments) > 1 else {}
        with pytest.raises(error, match=words):
            generate_images(count, **options)


class TestScenes:
    def test_shapes_and_dtypes(self, scenes):
        assert (scenes.images.shape, scenes.images.dtype) == ((60, 3, 64, 64), torch.uint8)
        assert len(scenes) == 60
        assert set(scenes[0]) == {"images", "boxes", "labels", "masks"}
        for boxes, labels, masks in zip(scenes.boxes, scenes.labels, scenes.masks, strict=True):
            count = len(labels)
            assert (boxes.shape, labels.shape, masks.shape) == ((count, 4), (count,), (count, 64, 64))
            assert (boxes.dtype, labels.dtype, masks.dtype) == (torch.float32, torch.int64, torch.bool)
        assert "Scenes(images=uint8[60, 3, 64, 64]" in repr(scenes)

    def test_boxes_are_the_masks_tight_boxes(self, scenes):
        from torchvision.ops import masks_to_boxes

        for boxes, masks in zip(scenes.boxes, scenes.masks, strict=True):
            expected = masks_to_boxes(masks)  # its ends are inclusive
            expected[:, 2:] += 1
            assert torch.equal(boxes, expected)

    def test_one_to_max_objects_of_every_class(self, scenes):
        counts = torch.tensor([len(labels) for labels in scenes.labels])
        assert counts.min() >= 1
        assert counts.max() == 4
        assert torch.cat(scenes.labels).unique().tolist() == list(range(len(IMAGE_CLASSES)))
        assert {len(labels) for labels in generate_scenes(20, max_objects=1).labels} == {1}

    def test_a_pixel_belongs_to_one_object_and_enough_is_seen(self, scenes):
        for masks in scenes.masks:
            assert masks.sum(0).max() == 1
            assert masks.flatten(1).sum(1).min() >= 12

    def test_the_mask_is_where_the_shape_is(self, scenes):
        """The colours inside a mask lie far from those of the corners of the image, by far more than the noise."""
        differences = []
        for image, masks in zip(scenes.images.float() / 255, scenes.masks, strict=True):
            background = image[:, ~masks.any(0)].median(1).values
            differences += [(image[:, mask].mean(1) - background).abs().amax().item() for mask in masks]
        assert np.mean(np.array(differences) > 0.2) > 0.97

    def test_labels_belong_to_their_masks(self):
        """A disc fills π/4 of its box, a ring with its hole about 0.55."""
        scenes = generate_scenes(60, classes=("ring", "disc"), max_objects=1, seed=1)
        full = [(mask.sum() / mask[:, mask.any(0)][mask.any(1)].numel()).item() for (mask,) in scenes.masks]
        agree = (torch.tensor(full) > 0.67).long() == torch.cat(scenes.labels)
        assert agree.double().mean() > 0.9

    def test_seeds(self):
        same, again, other = (generate_scenes(3, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(same.images, again.images)
        for name in ("boxes", "labels", "masks"):
            pairs = zip(getattr(same, name), getattr(again, name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        assert not torch.equal(same.images, other.images)
        assert not torch.equal(generate_scenes(3, seed=None).images, generate_scenes(3, seed=None).images)

    @given(size=st.integers(32, 72), count=st.integers(1, 4), most=st.integers(1, 9), seed=seeds)
    def test_any_size(self, size, count, most, seed):
        scenes = generate_scenes(count, size=size, max_objects=most, classes=("star", "bar"), seed=seed)
        assert scenes.images.shape == (count, 3, size, size)
        assert scenes.class_names == ("star", "bar")
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
            assert 1 <= len(labels) <= most
            assert set(labels.tolist()) <= {0, 1}
            assert boxes.min() >= 0
            assert boxes.max() <= size
            assert (boxes[:, 2:] > boxes[:, :2]).all()

    @pytest.mark.parametrize(
        ("count", "options", "error", "words"),
        [
            (0, {}, ValueError, "num_scenes"),
            (2.0, {}, TypeError, "num_scenes"),
            (2, {"size": 31}, ValueError, "at least 32"),
            (2, {"max_objects": 0}, ValueError, "max_objects"),
            (2, {"max_objects": 10}, ValueError, "at most 9, but is 10"),
            (2, {"classes": ("disc", "cat")}, ValueError, "'cat'"),
            (2, {"classes": ()}, ValueError, "empty"),
            (2, {"seed": -1}, ValueError, "seed"),
        ],
    )
    def test_bad_input(self, count, options, error, words):
        with pytest.raises(error, match=words):
            generate_scenes(count, **options)


@pytest.mark.parametrize("draw", [generate_images, generate_scenes])
def test_q17_the_default_dtype_does_not_change_the_images(draw):
    expected = draw(5, seed=3)
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            drawn = draw(5, seed=3)
            assert torch.equal(drawn.images, expected.images)
            for mine, other in zip(drawn.boxes, expected.boxes, strict=True):
                assert mine.dtype == torch.float32
                assert torch.equal(mine, other)
    finally:
        torch.set_default_dtype(before)
