"""Chapter 6: training that survives kill -9, metrics against scikit-learn, attacks in pixel units, a report, DDP."""

import base64
import copy
import dataclasses
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.transforms import v2

from course_utils import capstone
from course_utils.capstone import (
    Augmentation,
    FastClassifier,
    FlipAverage,
    ImageClassifier,
    ImageData,
    ImageSet,
    Recipe,
    bfloat16_is_faster,
    calibrate_model,
    evaluate_logits,
    evaluate_model,
    interpret_model_outputs,
    load_cifar10,
    measure_robustness,
    normalize,
    predict_logits,
    train_model,
    visualize_results,
    write_report,
)
from course_utils.capstone.__main__ import main
from course_utils.capstone.checkpoints import load_checkpoint, save_checkpoint
from course_utils.capstone.recipes import lr_factor
from course_utils.data import generate_pictures
from course_utils.data import recorded as recorded_files
from course_utils.foundation.files import write_atomically
from course_utils.optimization import temperature_scaling


def make_data(n: int = 96, *, held_out: int = 31, seed: int = 0) -> ImageData:
    pictures = generate_pictures(n + 2 * held_out, seed=seed)
    ends = ((0, n), (n, n + held_out), (n + held_out, n + 2 * held_out))
    parts = [ImageSet(pictures.images[a:b].clone(), pictures.target[a:b].clone()) for a, b in ends]
    pixels = parts[0].images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).float(), pixels.std((0, 2, 3), correction=0).float()
    return ImageData(*parts, pictures.class_names, "shapes", mean, std)


DATA = make_data()
IMAGES, TARGET, NAMES = DATA.test.images, DATA.test.target, DATA.class_names
STATISTICS = (DATA.mean, DATA.std)
OPTIONS = {"epochs": 2, "batch_size": 48, "lr": 0.02, "amp": False, "progress": False}
BARE = Recipe(optimizer="sgd", lr=0.1, momentum=0, weight_decay=0, batch_size=96, schedule="constant")


def seeded(make, *arguments, seed=0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return make(*arguments, **options)


def linear(seed: int = 0) -> nn.Module:
    """A foreign classifier, as small as can be."""
    return seeded(lambda: nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10)), seed=seed)


def tiny(seed: int = 0) -> FastClassifier:
    return seeded(FastClassifier, widths=(8, 8, 8), seed=seed)


def tutorial(seed: int = 0) -> ImageClassifier:
    return seeded(ImageClassifier, seed=seed)


def fit(model, data=DATA, **options):
    return train_model(model, data, **(OPTIONS | options))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: nn.Module | dict, b: nn.Module | dict) -> bool:
    """Bit by bit, parameters and buffers."""
    a, b = (value.state_dict() if isinstance(value, nn.Module) else value for value in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curves(history) -> dict[str, list[float]]:
    """All of a history that follows from the seed."""
    return {name: getattr(history, name).tolist() for name in history.per_sample if name != "seconds"}


def part(name: str, **changes) -> ImageData:
    return dataclasses.replace(DATA, **{name: dataclasses.replace(getattr(DATA, name), **changes)})


def stop_at_call(model: nn.Module, call: int, error: type[BaseException] = KeyboardInterrupt):
    """Raise in the forward pass of the `call`-th training batch."""
    calls = iter(range(1, 10_000))

    def hook(module, _):
        if module.training and next(calls) == call:
            raise error("on purpose")

    return model.register_forward_pre_hook(hook)


def interrupted(model, call: int, **options):
    handle = stop_at_call(model, call)
    try:
        with pytest.warns(UserWarning, match="interrupted in epoch"):
            return fit(model, **options)
    finally:
        handle.remove()


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(capstone.__file__).parents[2])}


class OldStyle(nn.Module):
    """PyTorch's classic tutorial network: `view` between convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 5), nn.Linear(6 * 14 * 14, 10)

    def forward(self, x):
        return self.last(F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 6 * 14 * 14))


class WithLogits(nn.Module):
    """The convention of transformers: an object with a tensor `.logits`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return SimpleNamespace(logits=self.model(x))


class Draws(nn.Module):
    """Dropout as a function, which no mode switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.model = linear()

    def forward(self, x):
        return F.dropout(self.model(x), 0.5)


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError(f"the test pictures were touched: {name}")


class TestTraining:
    def test_history(self):
        history = fit(tiny(), epochs=3, seed=7)
        assert history.epochs.tolist() == [1, 2, 3]
        assert history.epochs.dtype == torch.int64
        for name in ("train_loss", "validation_loss", "validation_accuracy", "lr", "seconds"):
            values = getattr(history, name)
            assert (values.shape, values.dtype) == ((3,), torch.float64), name
            assert values.isfinite().all()
        assert (history.seconds > 0).all()
        assert (history.interrupted, history.precision, history.seed) == (False, "float32", 7)
        assert list(history.to_frame().columns) == list(history.per_sample)
        # The learning rate of each epoch's second and last step, at 1/6, 3/6 and 5/6 of the training.
        expected = [0.02 * lr_factor(progress) for progress in (1 / 6, 3 / 6, 5 / 6)]
        assert history.lr.tolist() == pytest.approx(expected)

    def test_equals_a_bare_loop(self):
        mine = seeded(ImageClassifier, dropout=0)
        bare = copy.deepcopy(mine)
        history = fit(mine, epochs=3, recipe=BARE, batch_size=None, lr=None, augment=False)
        x, y = normalize(DATA.train.images, *STATISTICS), DATA.train.target
        held_out = normalize(DATA.validation.images, *STATISTICS)
        optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
        rows = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(bare(x), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                logits = bare(held_out)
            right = (logits.argmax(1) == DATA.validation.target).double().mean()
            rows.append([loss.item(), F.cross_entropy(logits, DATA.validation.target).item(), right.item()])
        columns = (history.train_loss, history.validation_loss, history.validation_accuracy)
        assert torch.allclose(torch.stack(columns, 1), torch.tensor(rows, dtype=torch.float64), atol=1e-5)
        for a, b in zip(mine.parameters(), bare.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)

    def test_learns(self):
        data = part("train", images=DATA.train.images[:16], target=DATA.train.target[:16])
        history = fit(tutorial(), data, epochs=12, lr=3e-3, batch_size=16, augment=False)
        assert history.train_loss[-1] < 0.8 * history.train_loss[0]

    def test_the_test_pictures_are_never_touched(self):
        honest, blind = tutorial(), tutorial()
        fit(honest, epochs=1)
        fit(blind, dataclasses.replace(DATA, test=Untouchable()), epochs=1)
        assert same(honest, blind)

    def test_nothing_is_learned_from_the_validation_pictures(self):
        honest, other = tiny(), tiny()
        a = fit(honest)
        b = fit(other, part("validation", images=255 - DATA.validation.images))
        assert same(honest, other)
        assert a.train_loss.tolist() == b.train_loss.tolist()
        assert a.validation_loss.tolist() != b.validation_loss.tolist()

    def test_the_seed_decides_everything(self):
        models = [tutorial() for _ in range(5)]
        seeds = [
            fit(model, epochs=1, seed=seed).seed for model, seed in zip(models, (4, 4, 5, None, None), strict=True)
        ]
        assert same(models[0], models[1])
        assert not same(models[0], models[2])
        assert not same(models[3], models[4])
        again = tutorial()
        fit(again, epochs=1, seed=seeds[3])  # a fresh seed is kept, so that its run can be repeated
        assert same(models[3], again)

    @pytest.mark.parametrize("make", [tutorial, tiny, linear, OldStyle, Draws, lambda: WithLogits(linear())])
    def test_any_classifier_learns_and_leaves_no_trace(self, make):
        model = make()
        modules = list(model.modules())
        modules[-1].eval()  # on purpose, while the rest is in train mode
        modes = [module.training for module in modules]
        first = next(model.parameters())
        first.grad = torch.full_like(first, 3)
        before, state = weights(model), torch.get_rng_state()
        fit(model, epochs=1)
        assert not same(before, model)
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in modules] == modes
        assert [p.grad is not None for p in model.parameters()] == [p is first for p in model.parameters()]
        assert (first.grad == 3).all()

    def test_no_trace_after_an_error_either(self):
        model = tutorial().eval()
        state = torch.get_rng_state()
        handle = stop_at_call(model, 2, RuntimeError)
        with pytest.raises(RuntimeError, match="on purpose"), torch.no_grad():
            fit(model)
        handle.remove()
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(module.training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())

    def test_the_data_stay_as_they_are(self):
        data = make_data()
        fit(nn.Sequential(nn.ReLU(inplace=True), linear()), data)
        for name in ("train", "validation", "test"):
            assert torch.equal(getattr(data, name).images, getattr(DATA, name).images)
        assert torch.equal(data.mean, DATA.mean)

    def test_what_is_frozen_stays(self):
        model = tiny()
        model.features[1].requires_grad_(False)
        norm = model.features[1][2].eval()
        before, statistics = weights(model.features[1][0]), norm.running_mean.clone()
        other = model.head.weight.detach().clone()
        fit(model)
        assert same(before, model.features[1][0])
        assert torch.equal(norm.running_mean, statistics)
        assert not torch.equal(other, model.head.weight)

    def test_fast_classifier_computes_no_gradient_before_its_first_block(self):
        model = tiny()
        whitened = []
        model.whitening.register_forward_hook(lambda module, x, out: whitened.append(out))
        model(torch.rand(2, 3, 32, 32)).sum().backward()
        assert not whitened[0].requires_grad

    def test_fast_classifier_whitens_patches(self):
        model = tiny()
        model.learn_statistics(DATA)
        out = F.conv2d(model.normalize(DATA.train.images).double(), model.whitening.weight[:12].double())
        flat = out.transpose(0, 1).flatten(1)
        assert torch.allclose(flat @ flat.T / flat.shape[1], torch.eye(12).double(), atol=0.15)
        before = model.whitening.weight.clone()
        model.learn_statistics(make_data(seed=5))
        assert torch.equal(model.whitening.weight, before)

    @pytest.mark.parametrize(
        "images", [DATA.train.images[::2], DATA.train.images.contiguous(memory_format=torch.channels_last)[:48]]
    )
    def test_pictures_in_any_memory_layout(self, images):
        a, b = linear(), linear()
        target = DATA.train.target[:48]
        fit(a, part("train", images=images, target=target), epochs=1)
        fit(b, part("train", images=images.contiguous().clone(), target=target), epochs=1)
        assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a.parameters(), b.parameters(), strict=True))

    @pytest.mark.parametrize("strict", [False, True])
    def test_interruption_returns_what_there_is(self, strict, tmp_path):
        model, path = tutorial(), tmp_path / "checkpoint.pt"
        reference = fit(tutorial(), epochs=3)
        handle = stop_at_call(model, 4)
        with warnings.catch_warnings(record=not strict) as caught:
            warnings.simplefilter("error" if strict else "always")
            try:
                history = fit(model, epochs=3, checkpoint=path)
            except UserWarning:
                pytest.fail("with warnings as errors the history is lost")
        handle.remove()
        assert strict or [str(w.message)[:30] for w in caught] == ["interrupted in epoch 2 of 3; t"]
        assert history.interrupted
        assert curves(history) == {name: values[:1] for name, values in curves(reference).items()}
        assert load_checkpoint(path)["log"]["epochs"] == [1]
        assert "interrupted after 1 epoch" in repr(history)

    def test_interruption_in_the_first_epoch(self):
        model = tutorial()
        before = model.features[0].weight.detach().clone()
        history = interrupted(model, 2)
        assert (len(history), history.interrupted, len(history.to_frame())) == (0, True, 0)
        assert "first epoch" in repr(history)
        assert not torch.equal(before, model.features[0].weight)  # the first step is kept
        with pytest.raises(ValueError, match="empty"):
            capstone.plot_training(history)

    @pytest.mark.parametrize(
        "options",
        [
            {"epochs": 4, "batch_size": 48, "lr": 1e29},
            {"epochs": 1, "batch_size": 96, "lr": 1e29},  # the loss of its only step is finite still
        ],
    )
    def test_diverging_is_an_error_that_says_what_to_do(self, options):
        with pytest.raises(FloatingPointError, match="smaller lr"):
            fit(tutorial(), recipe=dataclasses.replace(BARE, lr=1), **options)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"epochs": 0}, ValueError, "epochs"),
            ({"epochs": 2.0}, TypeError, "epochs"),
            ({"epochs": True}, TypeError, "epochs"),
            ({"lr": 0}, ValueError, "lr"),
            ({"lr": -1.0}, ValueError, "lr"),
            ({"lr": math.nan}, ValueError, "lr"),
            ({"lr": "fast"}, TypeError, "lr"),
            ({"batch_size": 0}, ValueError, "batch_size"),
            ({"batch_size": 32.0}, TypeError, "batch_size"),
            ({"amp": "fast"}, ValueError, "'auto'"),
            ({"amp": None}, ValueError, "amp"),
            ({"device": "gpu"}, ValueError, "cuda"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 1.5}, TypeError, "seed"),
            ({"recipe": 5}, TypeError, "recipe"),
            ({"recipe": {}}, TypeError, "recipe"),
            ({"augment": "no"}, TypeError, "augment"),
            ({"checkpoint": 57}, TypeError, "checkpoint"),
        ],
    )
    def test_bad_arguments(self, options, error, message):
        model = tutorial()
        before = weights(model)
        with pytest.raises(error, match=message):
            fit(model, **options)
        assert same(model, before)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda: part("train", target=torch.full((96,), 10)), ValueError),
            (lambda: part("train", target=torch.full((96,), -1)), ValueError),
            (lambda: part("train", target=DATA.train.target[:5]), ValueError),
            (lambda: part("train", target=DATA.train.target.float()), TypeError),
            (lambda: part("train", images=DATA.train.images[:0], target=DATA.train.target[:0]), ValueError),
            (lambda: part("train", images=DATA.train.images / 255), TypeError),
            (lambda: part("train", images=DATA.train.images[:, :1]), ValueError),
            (lambda: part("validation", images=DATA.train.images[:0], target=DATA.train.target[:0]), ValueError),
            (lambda: part("validation", target=DATA.train.target[:3]), ValueError),
            (lambda: DATA.train, TypeError),
            (lambda: (DATA.train.images, DATA.train.target), TypeError),
        ],
    )
    def test_bad_data(self, change, error):
        with pytest.raises(error, match=r"must|empty"):
            fit(tutorial(), change())

    @pytest.mark.parametrize("amp", [False, "auto"])
    @pytest.mark.parametrize("make", [lambda: linear().requires_grad_(False), nn.Flatten])
    def test_nothing_to_train(self, make, amp):
        with pytest.raises(ValueError, match="trainable"):
            fit(make(), amp=amp)

    def test_fewer_outputs_than_classes(self):
        with pytest.raises(ValueError, match=r"class|label|target"):
            fit(ImageClassifier(3))

    def test_no_model(self):
        with pytest.raises(TypeError, match="model"):
            fit("resnet")

    def test_bfloat16_probe_leaves_the_model_alone(self):
        model = tutorial()
        model(torch.zeros(2, 3, 32, 32)).sum().backward()
        model.features.eval()
        before, state = weights(model), torch.get_rng_state()
        gradients = [p.grad.clone() for p in model.parameters()]
        modes = [m.training for m in model.modules()]
        assert bfloat16_is_faster(model, DATA, pictures=8) in (True, False)
        assert same(before, model)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
        assert [m.training for m in model.modules()] == modes

    def test_bfloat16_keeps_float32_parameters(self):
        model, exact = linear(), linear()
        seen = set()
        model.register_forward_hook(lambda module, *_: seen.add((module.training, torch.is_autocast_enabled("cpu"))))
        history = fit(model, epochs=1, amp=True)
        fit(exact, epochs=1)
        assert {(True, True), (False, True)} <= seen  # validation in the training's precision
        assert history.precision == "bfloat16"
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not same(model, exact)
        assert all(torch.allclose(p, q, atol=0.02) for p, q in zip(model.parameters(), exact.parameters(), strict=True))

    def test_the_bar_counts_steps(self, monkeypatch, capsys):
        monkeypatch.setenv("COURSE_QUIET", "0")
        fit(linear(), progress=True)
        shown = capsys.readouterr().err
        assert "4/4" in shown
        assert "validation_accuracy=" in shown
        fit(linear(), progress=False)
        assert capsys.readouterr().err == ""


KILLED = """
import os, signal, sys, time
import torch
from course_utils.capstone import FastClassifier, ImageClassifier, train_model

folder, options = sys.argv[1], eval(sys.argv[2])
data = torch.load(f"{folder}/data.pt", weights_only=False)

def hang(name):
    open(f"{folder}/{name}.reached", "w").close()
    time.sleep(600)

def at(call, name, hook):
    calls = iter(range(1, 1000))
    return lambda *_: hang(name) if next(calls) == call else hook(*_)

for name, make in {"fast": lambda: FastClassifier(widths=(8, 8, 8)), "tutorial": ImageClassifier}.items():
    torch.manual_seed(0)
    model = make()
    if not (child := os.fork()):
        if name == "fast":  # while the second checkpoint is being written
            os.fsync = at(2, name, os.fsync)
        else:  # in the second batch of the third epoch
            model.head[3].register_forward_hook(lambda m, *_, f=at(6, name, lambda: None): f() if m.training else None)
        train_model(model, data, checkpoint=f"{folder}/{name}.pt", **options)
        os._exit(0)
    while not os.path.exists(f"{folder}/{name}.reached"):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"{name} ended before it could be killed"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


class TestCheckpoints:
    def test_goes_on_after_kill_9_as_if_nothing_had_happened(self, tmp_path):
        torch.save(DATA, tmp_path / "data.pt")
        options = OPTIONS | {"epochs": 4, "augment": True, "seed": 11}
        command = [sys.executable, "-c", KILLED, str(tmp_path), repr(options)]
        subprocess.run(command, env=child_environment(), check=True, timeout=120)
        for name, make, finished in (("fast", tiny, 1), ("tutorial", tutorial, 2)):
            path = tmp_path / f"{name}.pt"
            assert load_checkpoint(path)["log"]["epochs"] == list(range(1, finished + 1))
            never_stopped, resumed = make(), make(seed=99)
            expected = train_model(never_stopped, DATA, **options)
            history = train_model(resumed, DATA, checkpoint=path, **options)
            assert same(never_stopped, resumed), name
            assert curves(history) == curves(expected)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_goes_on_after_an_interruption(self, optimizer, tmp_path):
        options = {"epochs": 4, "recipe": Recipe(optimizer=optimizer, early_size=16, label_smoothing=0.1), "lr": 0.01}
        never_stopped = tiny()
        expected = fit(never_stopped, **options)
        for seed, finished in enumerate((1, 2)):  # in the second epoch, then in the third
            history = interrupted(tiny(seed), 4, checkpoint=tmp_path / "c.pt", **options)
            assert len(history) == finished
        resumed = tiny(seed=10)  # another process has other initial weights
        assert curves(fit(resumed, checkpoint=tmp_path / "c.pt", **options)) == curves(expected)
        assert same(never_stopped, resumed)

    def test_a_finished_one_is_loaded_and_nothing_is_trained(self, tmp_path):
        path = tmp_path / "new" / "c.pt"
        trained, loaded = tutorial(), tutorial(seed=3)
        history = fit(trained, checkpoint=path, seed=None)
        contents = path.read_bytes()
        stop_at_call(loaded, 1, AssertionError)
        again = fit(loaded, checkpoint=path, seed=None)  # None takes the checkpoint's
        assert same(trained, loaded)
        assert curves(again) == curves(history)
        assert (again.seconds.tolist(), again.seed) == (history.seconds.tolist(), history.seed)
        assert path.read_bytes() == contents
        assert os.listdir(path.parent) == ["c.pt"]

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"epochs": 3}, "epochs"),
            ({"lr": 0.1}, "lr"),
            ({"batch_size": 10}, "batch_size"),
            ({"augment": False}, "augment"),
            ({"amp": True}, "amp"),
            ({"seed": 1}, "seed"),
            ({"recipe": Recipe(optimizer="adam")}, "optimizer"),
            ({"data": part("train", images=255 - DATA.train.images)}, "data"),
            ({"data": part("train", target=DATA.train.target.flip(0))}, "data"),
            ({"data": part("validation", images=255 - DATA.validation.images)}, "data"),
            ({"data": dataclasses.replace(DATA, mean=DATA.mean + 0.1)}, "data"),
            ({"data": dataclasses.replace(DATA, std=DATA.std * 2)}, "data"),
            ({"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))}, "model"),
        ],
    )
    def test_another_training_is_refused(self, change, named, tmp_path):
        path = tmp_path / "c.pt"
        fit(linear(), checkpoint=path)
        contents = path.read_bytes()
        model = change.get("model", linear(seed=4))
        before = weights(model)
        options = {name: value for name, value in change.items() if name != "model"}
        with pytest.raises(ValueError, match=f"another training.*{named}"):
            fit(model, **({"data": DATA, "checkpoint": path} | options))
        assert path.read_bytes() == contents
        assert same(model, before)

    def test_other_frozen_layers_are_refused(self, tmp_path):
        fit(tutorial(), checkpoint=tmp_path / "c.pt", epochs=1)
        model = tutorial()
        model.features.requires_grad_(False)
        with pytest.raises(ValueError, match="another"):
            fit(model, checkpoint=tmp_path / "c.pt", epochs=1)

    def test_a_refused_checkpoint_leaves_the_model_alone(self, tmp_path):
        fit(tutorial(), checkpoint=tmp_path / "c.pt", epochs=1)
        model = tutorial()
        before = weights(model)
        with pytest.raises(ValueError, match="another training"):
            fit(model, checkpoint=tmp_path / "c.pt", epochs=2)
        assert same(model, before)

    def test_damage_is_noticed(self, tmp_path):
        path = tmp_path / "c.pt"
        fit(linear(), checkpoint=path)
        whole, state = path.read_bytes(), load_checkpoint(path)
        payload = whole.index(state["model"]["2.weight"].numpy().tobytes())
        damaged = [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
        damaged += [flipped(whole, payload + offset) for offset in (0, 1000, 7000)]
        for contents in damaged:
            path.write_bytes(contents)
            model = linear(seed=1)
            before = weights(model)
            with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint.*Delete it"):
                fit(model, checkpoint=path)
            assert path.read_bytes() == contents
            assert same(model, before)

    @given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_a_flipped_bit_is_noticed_or_harmless(self, where, bit, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "flipped.pt"
        state = {"format": 1, "settings": {"lr": 0.5}, "model": {"w": torch.arange(30.0)}}
        save_checkpoint(path, state)
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, int(where * len(whole)), bit))
        try:
            read = load_checkpoint(path)
        except ValueError as error:
            assert "flipped.pt" in str(error)  # noqa: PT017
        else:
            assert same(read["model"], state["model"])
            assert read["settings"] == state["settings"]

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        path = tmp_path / "c.pt"
        torch.save({"format": 1, "settings": Evil()}, tmp_path / "zip")
        torch.save({"format": 1, "settings": Evil()}, tmp_path / "old", _use_new_zipfile_serialization=False)
        (tmp_path / "bare").write_bytes(pickle.dumps(Evil()))
        for kind in ("zip", "old", "bare"):
            (tmp_path / kind).replace(path)
            with pytest.raises(ValueError, match="is not a checkpoint"):
                fit(linear(), checkpoint=path)
            assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        "foreign",
        [
            {"format": 1},
            {"format": 1, "settings": 3, "log": {}, "model": {}, "optimizer": {}},
            {"format": 2},
            {"model_state_dict": {}},
            [1, 2],
            torch.zeros(3),
        ],
    )
    def test_foreign_files_are_refused(self, foreign, tmp_path):
        torch.save(foreign, tmp_path / "c.pt")
        for seed in (0, None):
            with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint"):
                fit(linear(), checkpoint=tmp_path / "c.pt", seed=seed)

    def test_a_folder_is_not_to_be_deleted(self, tmp_path):
        with pytest.raises(ValueError, match=r"folder|directory"):
            fit(linear(), checkpoint=tmp_path)

    @pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
    def test_a_failing_write_leaves_the_old_file(self, fails, tmp_path, monkeypatch):
        def full(*_):
            raise OSError("no space left on device")

        path = tmp_path / "file"
        write_atomically(path, lambda file: file.write(b"old"))
        if fails != "write":
            monkeypatch.setattr(os, fails, full)

        def write(file):
            file.write(b"new, but only a p")
            if fails == "write":
                full()

        with pytest.raises(OSError, match="no space"):
            write_atomically(path, write)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_a_failing_write_in_training_keeps_the_last_epoch(self, tmp_path, monkeypatch):
        path = tmp_path / "c.pt"
        interrupted(linear(), 4, epochs=3, checkpoint=path)
        contents = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", lambda state, file: file.write(b"half") and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(linear(), epochs=3, checkpoint=path)
        assert path.read_bytes() == contents
        assert os.listdir(tmp_path) == ["c.pt"]
        assert len(fit(linear(), epochs=3, checkpoint=path)) == 3

    def test_others_may_read_what_the_umask_allows(self, tmp_path):
        before = os.umask(0o027)
        try:
            path = write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
            assert os.umask(0o027) == 0o027
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o640


def flipped(contents: bytes, position: int, bit: int = 3) -> bytes:
    return contents[:position] + bytes([contents[position] ^ (1 << bit)]) + contents[position + 1 :]


class TestPictures:
    @given(n=st.integers(1, 12), epoch=st.integers(0, 5), seed=st.integers(0, 1000), padding=st.integers(0, 4))
    def test_augmentation_equals_pad_crop_flip_of_each_picture(self, n, epoch, seed, padding):
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

    @pytest.mark.parametrize("make", [ImageClassifier, FastClassifier])
    def test_models(self, make):
        model = make(7)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
        assert dict(model.named_modules())[model.cam_layer] is not None
        assert {"mean", "std"} <= set(model.state_dict())
        with pytest.raises(ValueError, match="num_classes"):
            make(1)

    def test_image_classifier_is_the_tutorials(self):
        model = ImageClassifier()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert [(m.out_channels, m.kernel_size) for m in convolutions] == [(32, (3, 3)), (64, (3, 3)), (128, (3, 3))]
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [256, 10]
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5]


class TestRecipe:
    def test_one_cycle(self):
        values = [lr_factor(step / 1000) for step in range(1001)]
        assert (values[0], max(values), values.index(1.0)) == (pytest.approx(0.2), 1, 250)
        assert 0 < values[-1] < 0.1
        assert values[:251] == sorted(values[:251])
        assert values[250:] == sorted(values[250:], reverse=True)
        assert max(abs(a - b) for a, b in pairwise(values)) < 0.004

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_groups(self, optimizer):
        model = tiny()
        recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.02, bias_lr_factor=4, schedule="constant")
        made = recipe.make_optimizer(model)
        assert type(made).__name__.lower() == optimizer
        trainable = [p for p in model.parameters() if p.requires_grad]
        weight, bias = made.param_groups
        assert {id(p) for group in made.param_groups for p in group["params"]} == {id(p) for p in trainable}
        assert all(p.ndim > 1 for p in weight["params"])
        assert all(p.ndim == 1 for p in bias["params"])
        assert (weight["weight_decay"], bias["weight_decay"]) == (0.02, 0.005)
        recipe.set_lr(made.param_groups, 0.9)
        assert (weight["lr"], bias["lr"]) == (0.1, 0.4)
        dataclasses.replace(recipe, schedule="one-cycle").set_lr(made.param_groups, 0)
        assert (weight["lr"], bias["lr"]) == pytest.approx((0.02, 0.08))

    def test_picture_sizes(self):
        recipe = Recipe(early_size=24)
        assert [recipe.size(progress) for progress in (0, 0.49, 0.5, 0.99)] == [24, 24, None, None]
        assert Recipe().size(0) is None
        seen = []
        model = tiny()
        model.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[2]))
        fit(model, epochs=2)
        assert seen[1:] == [24, 24, 24, 32, 32, 32]  # two batches and the validation pictures of each epoch

    @pytest.mark.parametrize(
        "bad",
        [
            {"optimizer": "rmsprop"}, {"schedule": "cosine"}, {"lr": 0}, {"lr": math.inf}, {"batch_size": 0},
            {"weight_decay": -1e-3}, {"momentum": 1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1},
            {"bias_lr_factor": 0}, {"early_size": 8},
        ],
    )  # fmt: skip
    def test_bad_recipes(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Recipe(**bad)


def random_outputs(seed: int, n: int, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=generator)
    target = torch.randint(0, c, (n,), generator=generator)
    return logits + F.one_hot(target, c) * torch.randint(0, 4, (n, 1), generator=generator), target


outputs = st.builds(random_outputs, st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 12))


class TestEvaluation:
    @given(outputs)
    def test_equals_scikit_learn_and_torchmetrics(self, drawn):
        logits, target = drawn
        result = evaluate_logits(logits, target)
        classes = range(logits.shape[1])
        predictions = logits.argmax(1)
        macro = precision_recall_fscore_support(target, predictions, average="macro", zero_division=0)
        assert (result.precision, result.recall, result.f1) == pytest.approx(macro[:3], abs=1e-12)
        each = precision_recall_fscore_support(target, predictions, labels=classes, zero_division=0)
        for name, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
            assert result.per_class[name].tolist() == pytest.approx(values.tolist(), abs=1e-12)
        assert result.confusion_matrix.tolist() == confusion_matrix(target, predictions, labels=classes).tolist()
        assert result.nll == pytest.approx(
            log_loss(target, logits.double().softmax(1), labels=classes), rel=1e-4, abs=1e-6
        )
        ece = multiclass_calibration_error(logits.softmax(1), target, num_classes=len(classes), n_bins=15, norm="l1")
        assert result.ece == pytest.approx(float(ece), abs=1e-5)
        assert torch.equal(result.predictions, predictions)
        assert torch.allclose(result.probabilities, logits.softmax(1))

    @given(outputs, st.integers(0, 1000))
    def test_order_does_not_matter(self, drawn, seed):
        logits, target = drawn
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        a, b = evaluate_logits(logits, target).metrics(), evaluate_logits(logits[order], target[order]).metrics()
        assert a.pop("nll") == pytest.approx(b.pop("nll"), abs=1e-5)
        assert a.pop("ece") == pytest.approx(b.pop("ece"), abs=1e-5)
        assert a == b

    @given(outputs)
    def test_accuracy_is_the_diagonal_and_intervals_hold_their_values(self, drawn):
        result = evaluate_logits(*drawn)
        assert result.accuracy == pytest.approx(result.confusion_matrix.trace() / len(result))
        assert set(result.intervals) == {"accuracy", "precision", "recall", "f1"}
        assert result.accuracy_interval == result.intervals["accuracy"]
        for name, (low, high) in result.intervals.items():
            assert 0 <= low <= getattr(result, name) <= high <= 1, name

    def test_intervals_cover_the_truth(self):
        """Of 100 samples of one classifier, about 95 intervals hold what it reaches on very many pictures."""
        logits, target = random_outputs(0, 100_000, 4)
        truth = evaluate_logits(logits, target)
        covered = dict.fromkeys(truth.intervals, 0)
        for seed in range(100):
            index = torch.randint(0, len(target), (150,), generator=torch.Generator().manual_seed(seed))
            result = evaluate_logits(logits[index], target[index])
            for name, (low, high) in result.intervals.items():
                covered[name] += low <= getattr(truth, name) <= high
        assert all(88 <= count <= 100 for count in covered.values()), covered

    def test_classes_that_never_occur_or_are_never_predicted(self):
        logits = F.one_hot(torch.tensor([0, 0, 1, 0]), 4).float()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = evaluate_logits(logits, torch.tensor([0, 0, 1, 2]), ["a", "b", "c", "d"])
        assert result.per_class["precision"].tolist() == pytest.approx([2 / 3, 1, 0, 0])
        assert result.per_class["support"].tolist() == [2, 1, 1, 0]
        assert list(result.per_class.index) == ["a", "b", "c", "d"]
        assert result.recall == pytest.approx(2 / 3)  # of the three classes that occur
        assert result.confusion_matrix[3].sum() == result.confusion_matrix[:, 3].sum() == 0

    def test_float64_stays_float64(self):
        logits = torch.tensor([[1.0, 1 + 1e-9]] * 3, dtype=torch.float64)
        assert evaluate_logits(logits, torch.ones(3).long()).accuracy == 1
        large = evaluate_logits(torch.tensor([[1e300, 0.0]] * 3, dtype=torch.float64), torch.zeros(3).long())
        assert (large.accuracy, large.nll) == (1, 0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays_finite(self, dtype):
        logits, target = random_outputs(1, 40, 5)
        result = evaluate_logits((1000 * logits).to(dtype), target)
        assert math.isfinite(result.nll)
        assert result.probabilities.isfinite().all()

    def test_a_result_like_the_others(self):
        result = evaluate_logits(*random_outputs(2, 20, 3), ["a", "b", "c"])
        assert len(result) == 20
        assert set(result[3]) == {"predictions", "target", "probabilities"}
        assert len(result.to_frame()) == 20
        assert f"{result.accuracy:.3f}" in repr(result)
        assert "<table" in result._repr_html_()
        assert json.loads(json.dumps(result.metrics()))["num_samples"] == 20
        coverage, risk = result.risk_coverage()
        assert coverage.tolist() == pytest.approx([k / 20 for k in range(1, 21)])
        assert risk[-1] == pytest.approx(1 - result.accuracy)
        surest = result.probabilities.max(1).values.argmax()
        assert risk[0] == float(result.predictions[surest] != result.target[surest])

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((torch.zeros(3, 2, 1), torch.zeros(3).long()), ValueError),
            ((torch.zeros(3, 1), torch.zeros(3).long()), ValueError),
            ((torch.zeros(0, 2), torch.zeros(0).long()), ValueError),
            ((torch.zeros(3, 2), torch.zeros(2).long()), ValueError),
            ((torch.zeros(3, 2), torch.tensor([0, 1, 2])), ValueError),
            ((torch.zeros(3, 2), torch.tensor([0, 1, -1])), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3)), TypeError),
            ((torch.zeros(3, 2).long(), torch.zeros(3).long()), TypeError),
            (([[0.0, 1.0]], torch.zeros(1).long()), TypeError),
            ((torch.tensor([[0.0, math.nan]]), torch.zeros(1).long()), ValueError),
            ((torch.tensor([[0.0, -math.inf]]), torch.zeros(1).long()), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3).long(), ["one"]), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3).long(), "ab"), TypeError),
        ],
    )
    def test_bad_input(self, arguments, error):
        with pytest.raises(error, match="must|empty|finite|pass"):
            evaluate_logits(*arguments)


class TestPrediction:
    @pytest.mark.parametrize("make", [tiny, OldStyle, lambda: WithLogits(linear()), lambda: FlipAverage(tutorial())])
    def test_equals_one_plain_pass_and_leaves_no_trace(self, make):
        model = make()
        list(model.modules())[-1].eval()
        modes, before, state = [m.training for m in model.modules()], weights(model), torch.get_rng_state()
        logits = predict_logits(model, IMAGES, normalization=STATISTICS, batch_size=7)
        assert [m.training for m in model.modules()] == modes
        assert same(before, model)
        assert torch.equal(torch.get_rng_state(), state)
        assert not logits.requires_grad
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()(normalize(IMAGES, *STATISTICS))
        assert torch.allclose(logits, getattr(expected, "logits", expected), atol=1e-5)

    def test_uint8_and_normalised_pictures_give_the_same(self):
        model = tutorial()
        fit(model, epochs=1)
        a = evaluate_model(model, IMAGES, TARGET, NAMES)
        b = evaluate_model(model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        c = evaluate_model(model, normalize(IMAGES, *STATISTICS), TARGET, NAMES)
        d = evaluate_model(nn.Sequential(FlipAverage(model)), IMAGES, TARGET)  # the statistics are found inside
        assert a.metrics() == b.metrics() == c.metrics()
        assert d.class_names == tuple(map(str, range(10)))

    def test_a_model_that_was_saved_knows_its_normalisation(self):
        model, loaded = tiny(), tiny(seed=8)
        fit(model, epochs=1)
        loaded.load_state_dict(model.state_dict())
        assert torch.equal(predict_logits(model, IMAGES), predict_logits(loaded, IMAGES))

    @pytest.mark.parametrize("batch_size", [1, 7, 31, 1000])
    def test_batch_size_does_not_matter(self, batch_size):
        model = tiny()
        fit(model, epochs=1)
        assert torch.allclose(
            predict_logits(model, IMAGES, batch_size=batch_size), predict_logits(model, IMAGES), atol=1e-5
        )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_a_model_in_another_precision(self, dtype):
        model, exact = linear().to(dtype), predict_logits(linear(), IMAGES, normalization=STATISTICS)
        logits = predict_logits(model, IMAGES, normalization=STATISTICS)
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(logits.float(), exact, atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("make", [tiny, tutorial, lambda: FlipAverage(tutorial())])
    def test_bfloat16_is_near_and_only_on_request(self, make):
        model = make()
        seen = []
        model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        exact = predict_logits(model, IMAGES, normalization=STATISTICS)
        near = predict_logits(model, IMAGES, normalization=STATISTICS, amp=True)
        assert set(seen[: len(seen) // 2]) == {False}
        assert set(seen[len(seen) // 2 :]) == {True}
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact)
        torch.testing.assert_close(near, exact, atol=0.02, rtol=0.05)
        evaluation = evaluate_model(model, IMAGES, TARGET, normalization=STATISTICS, amp=True)
        assert torch.equal(evaluation.probabilities, near.softmax(1))

    def test_equals_the_loop_of_the_tutorials(self):
        model = tutorial()
        fit(model, epochs=1)
        right = 0
        model.eval()
        with torch.no_grad():
            for image, label in zip(model.normalize(IMAGES), TARGET, strict=True):
                right += int(model(image[None]).argmax() == label)
        assert evaluate_model(model, IMAGES, TARGET).accuracy == right / len(TARGET)

    def test_pictures_that_nobody_can_normalise(self):
        with pytest.raises(ValueError, match=r"normalization=\(data.mean, data.std\)"):
            predict_logits(linear(), IMAGES)
        with pytest.raises(ValueError, match="normal"):  # never trained: its statistics are still 0 and 1
            predict_logits(tutorial(), IMAGES)
        with pytest.raises(ValueError, match="normalised"):
            predict_logits(linear(), IMAGES / 255, normalization=STATISTICS)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"images": IMAGES[0]}, ValueError),
            ({"images": IMAGES[:0]}, ValueError),
            ({"images": IMAGES.int()}, TypeError),
            ({"images": IMAGES.numpy()}, TypeError),
            ({"images": IMAGES[:, :1]}, ValueError),  # grey pictures must not become coloured by broadcasting
            ({"images": torch.full((2, 3, 32, 32), math.nan), "normalization": None}, ValueError),
            ({"batch_size": 0}, ValueError),
            ({"amp": "auto"}, TypeError),
            ({"normalization": (DATA.mean,)}, ValueError),
            ({"normalization": (DATA.mean[:2], DATA.std[:2])}, ValueError),
            ({"normalization": (DATA.mean, 0 * DATA.std)}, ValueError),
            ({"normalization": 0.5}, (TypeError, ValueError)),
        ],
    )
    def test_bad_pictures(self, change, error):
        options = {"images": IMAGES, "normalization": STATISTICS} | change
        with pytest.raises(error, match=r"must|empty|finite|normalization"):
            predict_logits(linear(), **options)

    def test_statistics_as_plain_numbers(self):
        plain = tuple(values.tolist() for values in STATISTICS)
        a, b = (predict_logits(linear(), IMAGES, normalization=n) for n in (plain, STATISTICS))
        assert torch.allclose(a, b, atol=1e-6)

    @pytest.mark.parametrize("model", [nn.Flatten(0), nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), nn.Identity()])
    def test_models_that_are_no_classifiers(self, model):
        with pytest.raises(ValueError, match=r"logits \(N, C\)"):
            predict_logits(model, IMAGES, normalization=STATISTICS)

    def test_a_target_that_does_not_fit(self):
        for target in (TARGET[:3], TARGET + 100):
            with pytest.raises(ValueError, match="target"):
                evaluate_model(linear(), IMAGES, target, normalization=STATISTICS)
            with pytest.raises(ValueError, match="target"):
                interpret_model_outputs(linear(), IMAGES, target, normalization=STATISTICS)


@pytest.fixture(scope="module")
def reader():
    model = tutorial()
    fit(model, epochs=1)
    return model


class TestReadings:
    def test_top_three_of_a_random_choice(self, reader):
        read = interpret_model_outputs(reader, IMAGES, TARGET, NAMES)
        probabilities = predict_logits(reader, IMAGES).softmax(1)
        best = probabilities[read.index].topk(3)
        assert (len(read), read.index.unique().numel()) == (6, 6)
        assert torch.equal(read.target, TARGET[read.index])
        assert torch.equal(read.topk_labels, best.indices)
        assert torch.allclose(read.topk_confidence, best.values, atol=1e-6)
        assert torch.equal(read.labels, best.indices[:, 0])
        frame = read.to_frame()
        assert list(frame.columns) == ["picture", "true", "first", "second", "third", "right"]
        assert frame["true"].tolist() == [NAMES[k] for k in TARGET[read.index]]
        assert frame["first"][0].startswith(NAMES[best.indices[0, 0]])
        assert frame["right"].tolist() == (read.labels == read.target).tolist()

    def test_the_worst_first(self, reader):
        read = interpret_model_outputs(reader, IMAGES, TARGET, num_samples=1000, worst_first=True)
        own = predict_logits(reader, IMAGES).softmax(1)[torch.arange(31), TARGET]
        assert torch.equal(own[read.index], own.sort().values)
        assert sorted(read.index.tolist()) == list(range(31))

    def test_seeds(self, reader):
        a, b, c = (interpret_model_outputs(reader, IMAGES, TARGET, seed=seed).index.tolist() for seed in (1, 1, 2))
        assert a == b != c
        fresh = {tuple(interpret_model_outputs(reader, IMAGES, TARGET, seed=None).index.tolist()) for _ in range(3)}
        assert len(fresh) == 3
        with pytest.raises(ValueError, match="num_samples"):
            interpret_model_outputs(reader, IMAGES, TARGET, num_samples=0)

    def test_two_classes_have_two_places(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
        read = interpret_model_outputs(model, IMAGES, TARGET % 2, ["even", "odd"], normalization=STATISTICS)
        assert read.topk_labels.shape == (6, 2)
        assert list(read.to_frame().columns) == ["picture", "true", "first", "second", "right"]

    def test_flip_average(self, reader):
        x = normalize(IMAGES, *STATISTICS)
        both = FlipAverage(reader)
        logits, mirrored = predict_logits(both, x), predict_logits(both, x.flip(3))
        assert torch.equal(logits, mirrored)
        expected = (predict_logits(reader, x) + predict_logits(reader, x.flip(3))) / 2
        assert torch.allclose(logits, expected, atol=1e-6)
        with pytest.raises(TypeError, match="model"):
            FlipAverage("model")


class TestCalibration:
    @pytest.mark.parametrize("make", [tutorial, OldStyle, lambda: WithLogits(linear())])
    def test_the_temperature_is_fitted_on_validation_and_applied(self, make):
        model = make()
        fit(model, dataclasses.replace(DATA, train=DATA.validation), epochs=4, batch_size=16, lr=3e-3)
        before, modes = weights(model), [m.training for m in model.modules()]
        result = calibrate_model(model, DATA)
        assert same(before, model)
        assert [m.training for m in model.modules()] == modes
        validation = predict_logits(model, DATA.validation.images, normalization=STATISTICS)
        expected = temperature_scaling(validation, DATA.validation.target)
        assert result.temperature == pytest.approx(float(expected.temperature), rel=1e-6)
        plain = evaluate_model(model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        applied = evaluate_model(result.model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        assert result.before.metrics() == plain.metrics()
        assert result.after.nll == pytest.approx(applied.nll, abs=1e-6)
        assert torch.equal(result.before.predictions, result.after.predictions)
        assert torch.equal(applied.predictions, result.after.predictions)
        scaled = predict_logits(result.model, IMAGES, normalization=STATISTICS)
        assert torch.allclose(
            scaled * result.temperature, predict_logits(model, IMAGES, normalization=STATISTICS), atol=1e-4
        )
        assert f"{result.temperature:.3f}" in repr(result)

    def test_the_test_pictures_do_not_decide(self):
        a = calibrate_model(tutorial(), DATA).temperature
        assert calibrate_model(tutorial(), part("test", target=(TARGET + 1) % 10)).temperature == a
        assert (
            calibrate_model(tutorial(), part("validation", target=(DATA.validation.target + 1) % 10)).temperature != a
        )

    @pytest.mark.parametrize("arguments", [("model", DATA), (linear(), IMAGES)])
    def test_bad_input(self, arguments):
        with pytest.raises(TypeError, match="must be"):
            calibrate_model(*arguments)


@pytest.fixture(scope="module")
def victim():
    model = tutorial()
    fit(model, part("train", images=IMAGES, target=TARGET), epochs=8, lr=2e-3, batch_size=16, augment=False)
    return model


class TestRobustness:
    def test_the_curve_falls_from_the_clean_accuracy(self, victim):
        before, state = weights(victim), torch.get_rng_state()
        curve = measure_robustness(victim, DATA, eps=[8 / 255, 0, 2 / 255], steps=3, num_samples=None)
        assert curve.eps.tolist() == pytest.approx([0, 2 / 255, 8 / 255])
        assert curve.num_samples == len(TARGET)
        assert curve.accuracy[0] == pytest.approx(evaluate_model(victim, IMAGES, TARGET).accuracy)
        assert curve.accuracy[0] > 0.3  # or there is nothing to attack
        assert (curve.accuracy.diff() <= 0).all()
        assert curve.accuracy[-1] < curve.accuracy[0]
        assert ((curve.low <= curve.accuracy) & (curve.accuracy <= curve.high)).all()
        assert same(before, victim)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in victim.parameters())

    def test_no_pixel_changes_by_more_than_eps(self, victim, monkeypatch):
        attack, seen = capstone.robustness.pgd_attack, []

        def spy(model, inputs, target, **options):
            seen.append((inputs.clone(), attack(model, inputs, target, **options), options))
            return seen[-1][1]

        monkeypatch.setattr(capstone.robustness, "pgd_attack", spy)
        curve = measure_robustness(victim, DATA, eps=(0, 1 / 255, 4 / 255), steps=3, num_samples=20, seed=5)
        pixels = normalize(IMAGES, *STATISTICS)
        counts = [round(20 * value) for value in curve.accuracy.tolist()]
        assert [len(inputs) for inputs, _, _ in seen] == counts[:2]  # only survivors are attacked
        for (inputs, adversarial, options), eps in zip(seen, (1 / 255, 4 / 255), strict=True):
            assert options["steps"] == 3
            assert all((pixels == picture).all((1, 2, 3)).any() for picture in inputs)  # of the test pictures
            std, mean = (values.double()[:, None, None] for values in (DATA.std, DATA.mean))
            change = ((adversarial.double() - inputs.double()) * std).abs()
            assert 0.5 * eps < change.max() <= eps
            painted = adversarial.double() * std + mean
            assert painted.min() > -1e-6
            assert painted.max() < 1 + 1e-6

    def test_seeds_and_samples(self, victim):
        a, b = (measure_robustness(victim, DATA, eps=0.004, steps=2, num_samples=9) for _ in range(2))
        assert a.accuracy.tolist() == b.accuracy.tolist()
        assert (len(a), a.num_samples) == (1, 9)
        clean = [float(measure_robustness(victim, DATA, eps=0, num_samples=9, seed=s).accuracy) for s in range(6)]
        assert len(set(clean)) > 1
        assert list(a.to_frame().columns) == ["eps", "accuracy", "low", "high"]

    def test_foreign_models(self):
        for model in (OldStyle(), WithLogits(linear())):
            assert len(measure_robustness(model, DATA, eps=(0, 0.1), steps=1, num_samples=5)) == 2

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"eps": -0.1}, ValueError), ({"eps": math.nan}, ValueError), ({"eps": math.inf}, ValueError),
            ({"eps": []}, ValueError), ({"eps": "8/255"}, ValueError), ({"eps": [0.1, "x"]}, TypeError),
            ({"eps": True}, TypeError), ({"eps": None}, ValueError), ({"steps": 0}, ValueError),
            ({"steps": 2.5}, TypeError), ({"num_samples": 0}, ValueError), ({"seed": -1}, ValueError),
            ({"data": "cifar10"}, TypeError), ({"model": "resnet"}, TypeError),
        ],
    )  # fmt: skip
    def test_bad_input(self, options, error):
        with pytest.raises(error, match="must"):
            measure_robustness(**({"model": linear(), "data": DATA} | options))


def title_of(ax) -> str:
    return ax.get_title("center") or ax.get_title("left")


class TestFigures:
    EVALUATION = evaluate_logits(*random_outputs(3, 31, 10), NAMES)
    OTHER = evaluate_logits(*random_outputs(4, 12, 3), ["a", "b", "c"])
    READINGS = interpret_model_outputs(linear(), IMAGES, TARGET, NAMES, normalization=STATISTICS)
    CURVE = measure_robustness(linear(), DATA, eps=(0, 0.1), steps=1, num_samples=5)
    DRAW = {  # noqa: RUF012
        "pictures": lambda **o: capstone.plot_pictures(IMAGES[:7], list("abcdefg"), columns=3, **o),
        "floats": lambda **o: capstone.plot_pictures(IMAGES[:1] / 255, **o),
        "readings": lambda **o: capstone.plot_readings(TestFigures.READINGS, IMAGES, **o),
        "training": lambda **o: capstone.plot_training(fit(linear()), **o),
        "confusion": lambda **o: capstone.plot_confusion_matrix(TestFigures.EVALUATION, **o),
        "metrics": lambda **o: capstone.plot_metrics(TestFigures.EVALUATION, **o),
        "robustness": lambda **o: capstone.plot_robustness({"a": TestFigures.CURVE, "b": TestFigures.CURVE}, **o),
    }

    @pytest.mark.parametrize("name", DRAW)
    def test_figures_that_pyplot_does_not_keep(self, name):
        before = plt.get_fignums(), dict(plt.rcParams)
        figure = self.DRAW[name]()
        assert isinstance(figure, Figure)
        assert (plt.get_fignums(), dict(plt.rcParams)) == before

    def test_saved_and_drawn_into_given_axes(self, tmp_path):
        self.DRAW["floats"](save_path=tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        figure = Figure()
        for name, ax in zip(("confusion", "metrics", "robustness"), figure.subplots(1, 3), strict=True):
            assert self.DRAW[name](ax=ax) is figure
            assert ax.has_data()

    def test_the_confusion_matrix_shows_per_cent_of_true_classes(self):
        ax = capstone.plot_confusion_matrix(self.OTHER).axes[0]
        counts = self.OTHER.confusion_matrix.double()
        expected = [
            f"{v:.0f}" if v >= 0.5 else "" for v in (100 * counts / counts.sum(1, keepdim=True)).flatten().tolist()
        ]
        assert [text.get_text() for text in ax.texts] == expected
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")

    def test_the_title_of_a_reading_says_whether_it_is_right(self):
        axes = capstone.plot_readings(self.READINGS, IMAGES).axes
        for i, ax in enumerate(axes):
            row = self.READINGS[i]
            true, said = title_of(ax).split("\n")
            assert true == NAMES[row["target"]]
            assert said.startswith(f"{'✓' if row['labels'] == row['target'] else '✗'} {NAMES[row['labels']]}")
            shown = torch.as_tensor(ax.images[0].get_array())
            shown = shown / 255 if shown.dtype == torch.uint8 else shown
            assert torch.allclose(shown.float(), IMAGES[row["index"]].permute(1, 2, 0) / 255)

    def test_metrics_of_classes_without_pictures(self):
        logits, target = torch.eye(4)[[0, 1, 1]], torch.tensor([0, 0, 1])
        assert isinstance(capstone.plot_metrics(evaluate_logits(logits, target)), Figure)
        assert isinstance(capstone.plot_confusion_matrix(evaluate_logits(logits, target)), Figure)

    def test_visualize_results(self, tmp_path, monkeypatch):
        saved = []
        monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: saved.append(Path(path)))
        figures = visualize_results(self.EVALUATION, IMAGES, calibrated=self.EVALUATION, save_folder=tmp_path / "new")
        assert list(figures) == ["predictions", "confusion_matrix", "metrics", "reliability"]
        assert all(isinstance(figure, Figure) for figure in figures.values())
        assert saved == [tmp_path / "new" / f"{name}.png" for name in figures]
        assert len([ax for ax in figures["predictions"].axes if ax.images]) == 12
        titles = [title_of(ax).split("\n")[0] for ax in figures["predictions"].axes]
        assert titles == [NAMES[k] for k in self.EVALUATION.target[:12]]
        words = " ".join(text.get_text() for text in figures["reliability"].findobj(Text))
        assert "as trained" in words
        assert "calibrated" in words
        assert plt.get_fignums() == []

    def test_visualize_results_of_few_pictures(self):
        result = evaluate_logits(torch.eye(3), torch.tensor([0, 1, 0]))
        figures = visualize_results(result, IMAGES[:3])
        assert len([ax for ax in figures["predictions"].axes if ax.images]) == 3

    @pytest.mark.parametrize(
        ("draw", "error"),
        [
            (lambda t: capstone.plot_pictures(IMAGES[:0]), ValueError),
            (lambda t: capstone.plot_pictures(IMAGES[:, :2]), ValueError),
            (lambda t: capstone.plot_pictures(normalize(IMAGES, *STATISTICS)), ValueError),
            (lambda t: capstone.plot_pictures(IMAGES[:2], ["one"]), ValueError),
            (lambda t: capstone.plot_pictures(IMAGES[:2], columns=0), ValueError),
            (lambda t: capstone.plot_readings(t.READINGS, IMAGES[:1]), ValueError),
            (lambda t: capstone.plot_readings("readings", IMAGES), TypeError),
            (lambda t: capstone.plot_training("history"), TypeError),
            (lambda t: capstone.plot_confusion_matrix("evaluation"), TypeError),
            (lambda t: capstone.plot_metrics(t.EVALUATION.per_class), TypeError),
            (lambda t: capstone.plot_robustness({}), ValueError),
            (lambda t: capstone.plot_robustness(t.CURVE), (TypeError, ValueError)),
            (lambda t: capstone.plot_robustness({"a": 3}), TypeError),
            (lambda t: visualize_results("evaluation", IMAGES), TypeError),
            (lambda t: visualize_results(t.EVALUATION, IMAGES[:3]), ValueError),
            (lambda t: visualize_results(t.EVALUATION, IMAGES / 255), TypeError),
            (lambda t: visualize_results(t.EVALUATION, IMAGES, num_samples=0), ValueError),
            (lambda t: visualize_results(t.EVALUATION, IMAGES, calibrated="yes"), TypeError),
            (lambda t: visualize_results(t.EVALUATION, IMAGES, calibrated=t.OTHER), ValueError),
        ],
    )
    def test_bad_input(self, draw, error):
        with pytest.raises(error, match=r"must|empty|images|titles|evaluation"):
            draw(TestFigures)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "report"
    command = [
        sys.executable,
        "-m",
        "course_utils.capstone",
        "--source",
        "shapes",
        "--limit",
        "200",
        "--epochs",
        "1",
    ]
    command += ["--amp", "off", "--model", "tutorial", "--seed", "3", "--out", str(folder)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "shapes: Evaluation(accuracy" in done.stdout
    return folder


class TestReport:
    def test_files(self, folder):
        pictures = {"training", "predictions", "worst_mistakes", "confusion_matrix", "metrics", "reliability"}
        pictures |= {"risk_coverage", "robustness", "grad_cam", "integrated_gradients"}
        files = {f"{name}.png" for name in pictures} | {"report.html", "run.json", "metrics.json", "checkpoint.pt"}
        assert set(os.listdir(folder)) == files
        assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures)

    def test_the_page_needs_no_other_file_and_says_what_it_shows(self, folder):
        text = (folder / "report.html").read_text("utf-8")
        tags = Page(text).tags
        pictures = [attributes for tag, attributes in tags if tag == "img"]
        assert len(pictures) == 10
        for picture in pictures:
            assert len(picture["alt"]) > 20
            data = picture["src"].removeprefix("data:image/png;base64,")
            assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
        linked = [a[key] for _, a in tags for key in ("src", "href") if key in a]
        assert all(link.startswith("data:") for link in linked)
        assert not re.search(r"url\(|@import|<script|<link|https?://", text)
        assert "not CIFAR-10" in text
        assert ("html", {"lang": "en"}) in tags

    def test_metrics_are_those_of_the_checkpoint(self, folder):
        metrics = json.loads((folder / "metrics.json").read_text())
        whole = load_cifar10(source="shapes", seed=3)
        model = ImageClassifier()
        model.load_state_dict(load_checkpoint(folder / "checkpoint.pt")["model"])
        test = ImageSet(whole.test.images[:200], whole.test.target[:200])
        result = evaluate_model(model, test.images, test.target)
        assert metrics["data"] == "shapes"
        assert metrics["as_trained"] == result.metrics()
        validation = predict_logits(model, whole.validation.images[:200])
        temperature = float(temperature_scaling(validation, whole.validation.target[:200]).temperature)
        assert metrics["calibrated"]["temperature"] == pytest.approx(temperature, rel=1e-5)
        assert metrics["calibrated"]["accuracy"] == result.accuracy
        assert metrics["robustness"]["num_samples"] == 200
        assert metrics["robustness"]["accuracy"][0] == pytest.approx(result.accuracy)

    def test_the_run_can_be_repeated_and_names_no_machine(self, folder):
        text = (folder / "run.json").read_text()
        record = json.loads(text)
        assert record["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert record["training"]["seed"] == record["options"]["seed"] == 3
        assert (record["training"]["epochs"], record["options"]["limit"]) == (1, 200)
        page = re.sub('base64,[^"]*', "", (folder / "report.html").read_text("utf-8"))
        for contents in (text, page, (folder / "metrics.json").read_text()):
            assert not any(word in contents for word in (str(folder), str(Path.home()), os.uname().nodename, "/tmp"))

    def test_a_second_run_is_refused(self, folder):
        before = {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)}
        with pytest.raises(SystemExit, match="holds a report already"):
            main(["--source", "shapes", "--limit", "200", "--out", str(folder)])
        with pytest.raises(FileExistsError, match="holds a report already"):
            write_report(linear(), DATA, folder)
        assert {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)} == before

    def test_an_interrupted_training_writes_no_report_and_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        model = tutorial()
        monkeypatch.setattr("course_utils.capstone.__main__.make_model", lambda *_: model)
        handle = stop_at_call(model, 4)
        arguments = ["--epochs", "2", "--batch-size", "48", "--amp", "off", "--out", str(tmp_path / "report")]
        with pytest.warns(UserWarning, match="interrupted"), pytest.raises(SystemExit, match="goes on"):
            main(arguments)
        assert os.listdir(tmp_path / "report") == ["checkpoint.pt"]
        handle.remove()
        main(arguments)
        assert "report.html" in os.listdir(tmp_path / "report")

    @pytest.mark.parametrize("arguments", [["--limit", "0"], ["--epochs", "0"], ["--lr", "-1"], ["--model", "resnet"]])
    def test_bad_options(self, arguments, tmp_path, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        with pytest.raises((SystemExit, ValueError)) as caught:
            main(["--source", "shapes", "--out", str(tmp_path), *arguments])
        assert not (isinstance(caught.value, SystemExit) and caught.value.code == 0)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("arguments", [("model", DATA), (linear(), IMAGES)])
    def test_bad_input(self, arguments, tmp_path):
        with pytest.raises(TypeError, match="must be"):
            write_report(*arguments, tmp_path / "report")
        assert os.listdir(tmp_path) == []


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
        "one picture": predict_logits(trained, data.test.images[:1]),
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
            # 31 pictures: one process has one more than the other.
            assert torch.allclose(answer["logits"], logits, atol=1e-5)
            for name in ("num_samples", "accuracy", "precision", "recall", "f1", "intervals"):
                assert answer["metrics"][name] == single[name], name
            assert (answer["metrics"]["nll"], answer["metrics"]["ece"]) == pytest.approx((single["nll"], single["ece"]))
            assert torch.allclose(answer["one picture"], logits[:1], atol=1e-5)
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


class TestTheCoursesOwnModel:
    def test_recorded_answers_are_those_of_the_record(self):
        recorded = capstone.load_recorded_outputs()
        assert recorded.validation_logits.shape == (5000, 10)
        assert recorded.test_logits.shape == (10_000, 10)
        assert torch.bincount(recorded.test_target).tolist() == [1000] * 10
        assert torch.bincount(recorded.validation_target).tolist() == [500] * 10
        evaluation = evaluate_logits(recorded.test_logits, recorded.test_target, recorded.class_names)
        assert evaluation.accuracy == recorded.about["test"]["accuracy"] > 0.9
        assert evaluation.nll == pytest.approx(recorded.about["test"]["nll"], abs=1e-5)
        assert "cat" in recorded.class_names

    def test_what_lesson_6_says_of_its_training(self):
        after = capstone.load_recorded_outputs().about["validation_accuracy"]
        assert [round(accuracy, 2) for accuracy in (*after[1:4], after[-1])] == [0.77, 0.79, 0.78, 0.93]
        assert after[3:] == sorted(after[3:])

    def test_the_files_are_small_enough_for_git(self):
        sizes = {path.name: path.stat().st_size for path in recorded_files.FOLDER.iterdir()}
        assert sizes["outputs.safetensors"] < 1_000_000
        assert sizes["weights.safetensors"] < 5_000_000

    @pytest.mark.parametrize("name", ["outputs.safetensors", "weights.safetensors"])
    def test_a_damaged_file_is_refused(self, name, tmp_path, monkeypatch):
        shutil.copytree(recorded_files.FOLDER, tmp_path / "model")
        damaged = tmp_path / "model" / name
        contents = bytearray(damaged.read_bytes())
        contents[-1] ^= 1
        damaged.write_bytes(contents)
        monkeypatch.setattr(recorded_files, "FOLDER", tmp_path / "model")
        load = capstone.load_recorded_outputs if name.startswith("outputs") else capstone.load_trained_model
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load()

    @pytest.mark.cifar10
    @pytest.mark.skipif("COURSE_DATA_DIR" not in os.environ, reason="needs the real CIFAR-10 in COURSE_DATA_DIR")
    def test_the_weights_give_the_recorded_answers_on_the_real_pictures(self):
        cifar, recorded = load_cifar10(source="cifar10"), capstone.load_recorded_outputs()
        assert torch.equal(cifar.test.target, recorded.test_target)
        assert torch.equal(cifar.validation.target, recorded.validation_target)
        logits = predict_logits(capstone.load_trained_model(), cifar.test.images[:500])
        # Recorded in half precision, on a machine that may round otherwise.
        torch.testing.assert_close(logits, recorded.test_logits[:500], atol=0.02, rtol=0.01)
        assert (logits.argmax(1) == cifar.test.target[:500]).double().mean() > 0.88
