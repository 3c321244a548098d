"""Several processes train and measure as one."""

import subprocess
import sys

import pytest
import torch

from course_utils.capstone import ImageClassifier, evaluate_model, predict_logits, train_model
from tests.support.capstone import (
    DATA,
    IMAGES,
    OPTIONS,
    TARGET,
    child_environment,
    fit,
    interrupted,
    same,
    seeded,
    tiny,
)

GROUP = """
import sys, torch
from course_utils.capstone import FastClassifier, ImageClassifier, evaluate_model, predict_logits, train_model
from course_utils.capstone.distributed import process_group, rank, world_size

folder, options = sys.argv[1], eval(sys.argv[2])
data = torch.load(f"{folder}/data.pt", weights_only=False)
trained = torch.load(f"{folder}/trained.pt", weights_only=False)
with process_group():
    torch.manual_seed(rank())  # other initial weights in each process: the first one's count
    model = ImageClassifier(dropout=0)
    history = train_model(model, data, **options, checkpoint=f"{folder}/group.pt")
    answer = {
        "world": world_size(),
        "history": [getattr(history, name) for name in ("train_loss", "validation_loss", "validation_accuracy")],
        "weights": model.state_dict(),
        "logits": predict_logits(trained, data.test.images, batch_size=7),
        "metrics": evaluate_model(trained, data.test.images, data.test.target).metrics(),
        "one image": predict_logits(trained, data.test.images[:1]),
    }
    torch.save(answer, f"{folder}/{rank()}.pt")
    # Only the first machine's disk holds a checkpoint, of one epoch.
    torch.manual_seed(rank())
    model = ImageClassifier(dropout=0)
    history = train_model(model, data, **options, checkpoint=f"{folder}/disk{rank()}/c.pt")
    torch.save({"epochs": history.epochs, "weights": model.state_dict()}, f"{folder}/resumed{rank()}.pt")
"""


GROUP_OPTIONS = OPTIONS | {"epochs": 3, "lr": 3e-3, "augment": False}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A folder with the answers of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("group")
    trained = tiny()
    fit(trained, epochs=1)
    interrupted(seeded(ImageClassifier, dropout=0), 4, **GROUP_OPTIONS, checkpoint=folder / "disk0" / "c.pt")
    torch.save(DATA, folder / "data.pt")
    torch.save(trained, folder / "trained.pt")
    (folder / "group.py").write_text(GROUP)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(folder / "group.py"), str(folder), repr(GROUP_OPTIONS)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=200)
    return folder, done.stderr[-3000:]


@pytest.mark.slow
class TestSeveralProcesses:
    def test_train_and_measure_as_one(self, group):
        folder, log = group
        assert (folder / "0.pt").exists(), log
        answers = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
        trained = torch.load(folder / "trained.pt", weights_only=False)
        alone = seeded(ImageClassifier, dropout=0)
        history = train_model(alone, DATA, **GROUP_OPTIONS)
        expected = [getattr(history, name) for name in ("train_loss", "validation_loss", "validation_accuracy")]
        logits, single = predict_logits(trained, IMAGES), evaluate_model(trained, IMAGES, TARGET).metrics()
        for answer in answers:
            assert answer["world"] == 2
            for got, value in zip(answer["history"], expected, strict=True):
                assert torch.allclose(got, value, atol=1e-4)
            for name, value in alone.state_dict().items():
                assert torch.allclose(answer["weights"][name], value, atol=1e-4), name
            # 31 images: one process has one more than the other.
            assert torch.allclose(answer["logits"], logits, atol=1e-5)
            for name in ("num_samples", "accuracy", "precision", "recall", "f1", "intervals"):
                assert answer["metrics"][name] == single[name], name
            assert (answer["metrics"]["nll"], answer["metrics"]["ece"]) == pytest.approx((single["nll"], single["ece"]))
            assert torch.allclose(answer["one image"], logits[:1], atol=1e-5)
        assert same(answers[0]["weights"], answers[1]["weights"])
        # What the group has written, one process can go on from.
        resumed = ImageClassifier(dropout=0)
        train_model(resumed, DATA, checkpoint=folder / "group.pt", **GROUP_OPTIONS)
        assert same(resumed, answers[0]["weights"])

    def test_go_on_from_the_first_machines_checkpoint(self, group):
        folder, log = group
        assert (folder / "resumed1.pt").exists(), log
        alone = seeded(ImageClassifier, dropout=0)
        train_model(alone, DATA, **GROUP_OPTIONS)
        for rank in (0, 1):
            answer = torch.load(folder / f"resumed{rank}.pt", weights_only=True)
            assert answer["epochs"].tolist() == [1, 2, 3]
            for name, value in alone.state_dict().items():
                assert torch.allclose(answer["weights"][name], value, atol=1e-4), name
