"""Training against a bare loop: it learns, stops, and leaves nothing behind."""

import copy
import dataclasses
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import capstone
from course_utils.capstone import ImageClassifier, Recipe, bfloat16_is_faster, normalize
from course_utils.capstone.checkpoints import load_checkpoint
from course_utils.capstone.recipes import one_cycle
from tests.support.capstone import (
    DATA,
    STATISTICS,
    OldStyle,
    WithLogits,
    curves,
    fit,
    interrupted,
    linear,
    make_data,
    part,
    same,
    seeded,
    stop_at_call,
    tiny,
    tutorial,
    weights,
)

BARE = Recipe(optimizer="sgd", lr=0.1, momentum=0, weight_decay=0, batch_size=96, schedule="constant")


class Draws(nn.Module):
    """Dropout as a function, which no mode switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.model = linear()

    def forward(self, x):
        return F.dropout(self.model(x), 0.5)


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError(f"the test images were touched: {name}")


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
        expected = [0.02 * one_cycle(progress) for progress in (1 / 6, 3 / 6, 5 / 6)]
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

    def test_the_test_images_are_never_touched(self):
        honest, blind = tutorial(), tutorial()
        fit(honest, epochs=1)
        fit(blind, dataclasses.replace(DATA, test=Untouchable()), epochs=1)
        assert same(honest, blind)

    def test_nothing_is_learned_from_the_validation_images(self):
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
    def test_images_in_any_memory_layout(self, images):
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

    def test_a_model_with_one_logit_is_told_what_is_wanted(self):
        one = nn.Sequential(nn.Flatten(), nn.Linear(3072, 1))
        with pytest.raises(ValueError, match=r"a logit for each of the 10 classes.*\(2, 1\)"):
            fit(one)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_model_in_half_precision_is_told_what_to_do(self, dtype):
        with pytest.raises(ValueError, match=r"model.float\(\).*amp=True"):
            fit(linear().to(dtype))

    def test_a_model_in_double_precision(self):
        model = linear().double()
        exact, history = fit(model), fit(linear())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        assert exact.train_loss.tolist() == pytest.approx(history.train_loss.tolist(), rel=1e-3)

    @pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
    def test_a_wrapped_model_is_trained_as_the_one_inside(self, wrap):
        plain, inside = tiny(), tiny()
        assert curves(fit(wrap(inside))) == curves(fit(plain))
        assert same(plain, inside)

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
        assert bfloat16_is_faster(model, DATA, num_images=8) in (True, False)
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
