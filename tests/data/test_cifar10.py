"""CIFAR-10: read as torchvision reads it, and a clear error for everything that can go wrong."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from course_utils import data


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
    """Six batches of 40 images in the official format, their MD5 sums published, and an empty cache."""
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

    def test_mean_and_std_are_those_of_the_training_images(self, fake_cifar10):
        found = data.load_cifar10(fake_cifar10.source)
        pixels = found.train.images.double() / 255
        assert torch.allclose(found.mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(found.std.double(), pixels.transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-6)

    def test_the_seed_chooses_the_validation_images(self, fake_cifar10):
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

    def test_without_a_network(self, fake_cifar10, few_shapes, tmp_path):
        fake_cifar10.fails = True
        with pytest.warns(UserWarning, match="NOT CIFAR-10"):
            found = data.load_cifar10()
        assert found.name == "shapes"
        assert found.class_names == data.IMAGE_CLASSES
        with pytest.raises(ConnectionError, match="no network.*call again"):
            data.load_cifar10(source="cifar10")
        assert not (tmp_path / "cache").exists()  # P26: nothing is left, not even a folder

    def test_p26_a_failed_root_leaves_no_folder_but_keeps_those_that_were_there(self, fake_cifar10, tmp_path):
        fake_cifar10.fails = True
        for root in (tmp_path / "new" / "deep", tmp_path / "there"):
            (tmp_path / "there").mkdir(exist_ok=True)
            with pytest.raises(ConnectionError):
                data.load_cifar10(root, source="cifar10")
        assert (tmp_path / "there").exists()
        assert not (tmp_path / "new").exists()

    def test_a_cache_that_cannot_be_made(self, fake_cifar10, few_shapes, tmp_path, monkeypatch):
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
        assert not (tmp_path / "cache").exists()  # P26: nothing is left, not even a folder

    def test_shapes_read_and_download_nothing(self, fake_cifar10):
        fake_cifar10.fails = True
        found = data.load_cifar10("/does/not/exist", source="shapes")
        assert found.name == "shapes"
        assert repr(found).startswith("ImageData(shapes: train=9,000, validation=1,000, test=2,000 images")

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"source": "mnist"}, "'auto', 'cifar10', 'shapes'"),
            ({"validation_fraction": 0}, "strictly between 0 and 1"),
            ({"validation_fraction": 0.99}, "leaves no training image"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_bad_input(self, fake_cifar10, options, match):
        with pytest.raises(ValueError, match=match):
            data.load_cifar10(fake_cifar10.source, **options)


@pytest.mark.cifar10
@pytest.mark.skipif(not os.environ.get("COURSE_DATA_DIR"), reason="needs the real CIFAR-10 in COURSE_DATA_DIR")
def test_the_real_cifar10_is_what_torchvision_reads():
    import torchvision

    found = data.load_cifar10(source="cifar10")
    assert [len(part) for part in (found.train, found.validation, found.test)] == [45_000, 5_000, 10_000]
    assert found.validation.target.bincount().tolist() == [500] * 10
    assert [round(value, 2) for value in found.mean.tolist()] == [0.49, 0.48, 0.45]
    theirs = torchvision.datasets.CIFAR10(os.environ["COURSE_DATA_DIR"], train=False)
    assert torch.equal(found.test.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert found.test.target.tolist() == theirs.targets
    assert list(found.class_names) == theirs.classes
