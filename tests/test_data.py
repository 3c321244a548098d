"""course_utils.data: real sets without leaks, a real text, and pictures whose masks are true."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets
from torchvision.ops import masks_to_boxes

from course_utils import data
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


class FakeCIFAR10:
    """Stands in for torchvision's class: the same attributes, tiny batches, a download that copies."""

    base_folder = "cifar-10-batches-py"
    names = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    source: Path
    fails = False

    def __init__(self, root, download: bool) -> None:
        assert download
        if self.fails:
            raise URLError("no network")
        shutil.copytree(self.source / self.base_folder, Path(root) / self.base_folder)


@pytest.fixture
def fake_cifar10(tmp_path, monkeypatch):
    """Six batches of 40 pictures in the official format, their MD5 sums published, and an empty cache."""
    folder = tmp_path / "server" / FakeCIFAR10.base_folder
    folder.mkdir(parents=True)
    for i, name in enumerate(FakeCIFAR10.names):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [n % 10 for n in range(40)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    fake = type("Fake", (FakeCIFAR10,), {"source": tmp_path / "server"})
    fake.train_list = [[name, sums[name]] for name in FakeCIFAR10.names[:5]]
    fake.test_list = [["test_batch", sums["test_batch"]]]
    fake.meta = {"filename": "batches.meta", "md5": sums["batches.meta"]}
    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    return fake


class TestLoadCifar10:
    def test_a_local_copy_is_split_by_class(self, fake_cifar10):
        found = data.load_cifar10(fake_cifar10.source, validation_fraction=0.25)
        assert (found.name, found.class_names[3]) == ("cifar10", "class 3")
        assert [len(part) for part in (found.train, found.validation, found.test)] == [150, 50, 40]
        assert found.validation.target.bincount().tolist() == [5] * 10
        assert found.train.images.shape == (150, 3, 32, 32)
        assert found.train.images.dtype == torch.uint8
        both = torch.cat([found.train.images, found.validation.images]).flatten(1)
        assert len(both.unique(dim=0)) == 200  # nothing lost, nothing twice
        first = pickle.loads((fake_cifar10.source / "cifar-10-batches-py/test_batch").read_bytes())
        assert torch.equal(found.test.images[7].flatten(), torch.from_numpy(first["data"][7]))

    def test_mean_and_std_are_those_of_the_training_pictures(self, fake_cifar10):
        found = data.load_cifar10(fake_cifar10.source)
        pixels = found.train.images.double() / 255
        assert torch.allclose(found.mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(found.std.double(), pixels.transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-6)

    def test_the_seed_chooses_the_validation_pictures(self, fake_cifar10):
        first, same, other = (data.load_cifar10(fake_cifar10.source, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first.validation.images, same.validation.images)
        assert not torch.equal(first.validation.images, other.validation.images)
        assert torch.equal(first.test.images, other.test.images)

    def test_the_order_of_places(self, fake_cifar10, tmp_path, monkeypatch):
        monkeypatch.setenv("COURSE_DATA_DIR", str(fake_cifar10.source))
        fake_cifar10.fails = True
        assert data.load_cifar10(tmp_path / "nothing here").name == "cifar10"

    def test_a_download_is_kept_and_leaves_nothing_else(self, fake_cifar10, tmp_path):
        assert data.load_cifar10(source="cifar10").name == "cifar10"
        assert [path.name for path in (tmp_path / "cache/neural-network-outputs").iterdir()] == ["cifar-10-batches-py"]
        fake_cifar10.fails = True
        assert data.load_cifar10(source="cifar10").name == "cifar10"  # from the cache

    def test_without_a_network(self, fake_cifar10, tmp_path):
        fake_cifar10.fails = True
        with pytest.warns(UserWarning, match="NOT CIFAR-10"):
            found = data.load_cifar10()
        assert found.name == "shapes"
        assert found.class_names == data.PICTURE_CLASSES
        with pytest.raises(ConnectionError, match="no network.*call again"):
            data.load_cifar10(source="cifar10")
        assert list((tmp_path / "cache/neural-network-outputs").iterdir()) == []

    def test_a_cache_that_cannot_be_made(self, fake_cifar10, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="NOT CIFAR-10"):
            assert data.load_cifar10().name == "shapes"
        with pytest.raises(ValueError, match="cannot be made"):
            data.load_cifar10(source="cifar10")

    @pytest.mark.parametrize("source", ["auto", "cifar10"])
    @pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
    @pytest.mark.parametrize("harm", ["truncated", "foreign", "missing"])
    def test_a_damaged_copy_is_named_and_never_replaced(self, fake_cifar10, source, name, harm, monkeypatch):
        path = fake_cifar10.source / "cifar-10-batches-py" / name
        content = path.read_bytes()
        if harm == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:-1] if harm == "truncated" else pickle.dumps("anything"))
        monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("unpickled before it was verified"))
        with pytest.raises(ValueError, match=f"{name} is (missing|truncated or not).*Delete the folder"):
            data.load_cifar10(fake_cifar10.source, source=source)

    def test_a_download_that_arrives_damaged_is_not_kept(self, fake_cifar10, tmp_path):
        (fake_cifar10.source / "cifar-10-batches-py/data_batch_1").write_bytes(b"cut off")
        with pytest.raises(ValueError, match="data_batch_1 is truncated"):
            data.load_cifar10(source="cifar10")
        assert list((tmp_path / "cache/neural-network-outputs").iterdir()) == []

    def test_shapes_read_and_download_nothing(self, fake_cifar10):
        fake_cifar10.fails = True
        found = data.load_cifar10("/does/not/exist", source="shapes")
        assert found.name == "shapes"
        assert repr(found).startswith("ImageData(shapes: train=9,000, validation=1,000, test=2,000 pictures")

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"source": "mnist"}, "'auto', 'cifar10', 'shapes'"),
            ({"validation_fraction": 0}, "strictly between 0 and 1"),
            ({"validation_fraction": 0.99}, "leaves no training picture"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_bad_input(self, fake_cifar10, options, match):
        with pytest.raises(ValueError, match=match):
            data.load_cifar10(fake_cifar10.source, **options)


@pytest.mark.cifar10
@pytest.mark.skipif(not os.environ.get("COURSE_DATA_DIR"), reason="needs the real CIFAR-10 in COURSE_DATA_DIR")
def test_the_real_cifar10_is_what_torchvision_reads():
    found = data.load_cifar10(source="cifar10")
    assert [len(part) for part in (found.train, found.validation, found.test)] == [45_000, 5_000, 10_000]
    assert found.validation.target.bincount().tolist() == [500] * 10
    assert [round(value, 2) for value in found.mean.tolist()] == [0.49, 0.48, 0.45]
    theirs = torchvision.datasets.CIFAR10(os.environ["COURSE_DATA_DIR"], train=False)
    assert torch.equal(found.test.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert found.test.target.tolist() == theirs.targets
    assert list(found.class_names) == theirs.classes
