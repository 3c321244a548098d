"""Accuracy under attack, in pixel units."""

import copy
import math

import pytest
import torch

from course_utils import capstone
from course_utils.capstone import evaluate_model, measure_robustness, normalize
from tests.support.capstone import (
    DATA,
    IMAGES,
    STATISTICS,
    TARGET,
    OldStyle,
    WithLogits,
    fit,
    linear,
    part,
    same,
    tutorial,
    weights,
)


@pytest.fixture(scope="module")
def victim():
    model = tutorial()
    fit(model, part("train", images=IMAGES, target=TARGET), epochs=8, lr=2e-3, batch_size=16, augment=False)
    return model


class TestRobustness:
    @pytest.mark.parametrize(
        "wrap",
        [
            torch.nn.DataParallel,
            lambda model: torch.compile(model, backend="eager"),
            WithLogits,
            lambda model: copy.deepcopy(model).double(),
        ],
    )
    def test_models_as_people_bring_them(self, victim, wrap):
        options = {"eps": [0, 2 / 255], "steps": 2}
        expected = measure_robustness(victim, DATA, **options)
        assert measure_robustness(wrap(victim), DATA, **options).accuracy.tolist() == expected.accuracy.tolist()

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
            assert all((pixels == image).all((1, 2, 3)).any() for image in inputs)  # of the test images
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
