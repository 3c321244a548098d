"""FGSM and PGD against torchattacks and by hand: limits kept to the last bit, and the known errors."""

import copy
import functools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import adversarial_training, fgsm_attack, pgd_attack
from course_utils.advanced.attack_losses import attack_loss
from tests.support.images import classes, convolutional, images, linear, share_right, small_classifier
from tests.support.models import Function
from tests.support.values import DTYPES, NAN, seeds

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@st.composite
def attack_case(draw):
    """Images in any dtype and any bounds, normalised or not, many of them exactly on the bounds."""
    dtype = draw(st.sampled_from(DTYPES))
    low, high = draw(st.sampled_from([(0, 1), (0.0, 1.0), (-1, 1), (0, 255), (0.1, 0.9), (-3.5, -1.25)]))
    normalization = draw(
        st.sampled_from(
            [
                None,
                IMAGENET,
                ([0.5], [0.5]),
                (0.1307, 0.3081),
                (torch.tensor([0.1, 0.2, 0.3]), torch.tensor([3.0, 0.7, 0.01])),
                (np.array([10.0, -10.0, 0.0]), np.array([0.01, 7.0, 1 / 3])),
            ]
        )
    )
    eps = draw(st.one_of(st.sampled_from([0, 8 / 255, 0.03, 0.1, 0.5, 1.0, 1e-7]), st.floats(0, 0.7)))
    eps = min(eps, high - low)
    mean, std = (0.0, 1.0) if normalization is None else normalization
    mean, std = (torch.as_tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (mean, std))
    share = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(draw(seeds)), dtype=torch.float64)
    share = ((share - 0.5) * 1.6 + 0.5).clamp(0, 1)
    x = ((low + (high - low) * share - mean) / std).to(dtype)  # rounding may carry it out of the bounds
    return x, eps, (low, high), normalization, mean, std


class TestAttacks:
    @settings(max_examples=80)
    @given(attack_case(), seeds)
    def test_the_change_never_exceeds_eps_nor_leaves_the_bounds(self, case, seed):
        x, eps, (low, high), normalization, mean, std = case
        y = classes(3)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(x.dtype)
        options = {"eps": eps, "bounds": (low, high), "normalization": normalization}
        pixels = x.double() * std + mean
        for adversarial in (
            fgsm_attack(model, x, y, **options),
            pgd_attack(model, x, y, **options, steps=3, seed=seed),
            pgd_attack(model, x, y, **options, steps=2, alpha=0.4, random_start=False, early_stop=True),
        ):
            assert adversarial.dtype == x.dtype
            assert adversarial.shape == x.shape
            assert adversarial.isfinite().all()
            assert ((adversarial.double() - x.double()) * std).abs().max() <= eps  # exactly, without a tolerance
            moved = adversarial.double() * std + mean
            assert (moved <= pixels.clamp(min=high)).all()  # what rounding carried out may stay, but not go farther
            assert (moved >= pixels.clamp(max=low)).all()
            if eps == 0:
                assert torch.equal(adversarial.contiguous().view(torch.uint8), x.contiguous().view(torch.uint8))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("attack", [fgsm_attack, pgd_attack])
    def test_eps_zero_returns_the_inputs_bit_for_bit(self, attack, dtype):
        x = ((images() - 0.4) / 0.2).to(dtype)
        x[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
        model = linear().to(dtype)
        result = attack(model, x, classes(), eps=0, bounds=(-0.1, 1.1), normalization=([0.4] * 3, [0.2] * 3))
        assert torch.equal(result.contiguous().view(torch.uint8), x.contiguous().view(torch.uint8))
        assert result.data_ptr() != x.data_ptr()

    @pytest.mark.parametrize("normalization", [None, IMAGENET])
    def test_fgsm_uses_all_of_eps(self, normalization):
        mean, std = (torch.tensor(v).double().reshape(1, 3, 1, 1) for v in (normalization or ([0] * 3, [1] * 3)))
        pixels = 0.2 + 0.6 * images()
        x = ((pixels - mean) / std).float()
        change = fgsm_attack(linear().float(), x, classes(), eps=0.1, normalization=normalization) - x
        assert ((change.double() * std).abs() > 0.1 - 1e-6).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_attacked_too(self, dtype):
        x = images(dtype=dtype)
        model = linear().to(dtype)
        change = (fgsm_attack(model, x, classes(), eps=0.1, bounds=(-1, 2)) - x).double()
        assert (change.abs() > 0.09).all()
        assert (
            attack_loss(model(x + change.to(dtype)).float(), classes()) > attack_loss(model(x).float(), classes())
        ).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_small_steps_are_not_lost_to_rounding(self, dtype):
        """A hundred steps of 0.0008 each: below half a unit in the last place of bfloat16, so that none would move."""
        x = 0.55 + 0.4 * images(dtype=dtype)
        change = pgd_attack(linear().to(dtype), x, classes(), eps=8 / 255, steps=100, random_start=False) - x
        assert change.abs().double().mean() > 0.8 * 8 / 255

    @given(seeds, st.sampled_from([2 / 255, 0.03, 0.3]))
    @settings(max_examples=15)
    def test_fgsm_equals_torchattacks(self, torchattacks, seed, eps):
        model, x, y = convolutional(seed), images(seed), classes()
        expected = torchattacks.FGSM(model, eps=eps)(x, y)
        assert torch.allclose(fgsm_attack(model, x, y, eps=eps), expected, atol=1e-12)

    @given(seeds, st.sampled_from([0.01, 0.05]), st.integers(1, 6))
    @settings(max_examples=15)
    def test_pgd_without_random_start_equals_torchattacks(self, torchattacks, seed, eps, steps):
        model, x, y = convolutional(seed), images(seed), classes()
        oracle = torchattacks.PGD(model, eps=eps, alpha=eps / 3, steps=steps, random_start=False)
        adversarial = pgd_attack(model, x, y, eps=eps, alpha=eps / 3, steps=steps, random_start=False)
        assert torch.allclose(adversarial, oracle(x, y), atol=1e-9)

    def test_normalised_images_equal_torchattacks(self, torchattacks):
        """The attack on (x − mean) / std is the attack on the pixels with the normalisation inside the model."""
        mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in IMAGENET)
        model, pixels, y = convolutional(), images(), classes()
        whole = nn.Sequential(Function(lambda x: (x - mean) / std), model)
        x = (pixels - mean) / std
        for eps in (0.01, 0.1):
            fgsm = fgsm_attack(model, x, y, eps=eps, normalization=IMAGENET) * std + mean
            assert torch.allclose(fgsm, torchattacks.FGSM(whole, eps=eps)(pixels, y), atol=1e-9)
            pgd = pgd_attack(model, x, y, eps=eps, alpha=eps / 4, steps=6, random_start=False, normalization=IMAGENET)
            oracle = torchattacks.PGD(whole, eps=eps, alpha=eps / 4, steps=6, random_start=False)
            assert torch.allclose(pgd * std + mean, oracle(pixels, y), atol=1e-9)

    @given(seeds, st.integers(2, 6), st.floats(0.1, 8))
    def test_attack_loss_is_cross_entropy_before_the_last_logarithm(self, seed, c, scale):
        logits = scale * torch.randn(4, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        logits.requires_grad_()
        loss, entropy = attack_loss(logits, classes(4, c)), F.cross_entropy(logits, classes(4, c), reduction="none")
        assert torch.allclose(F.softplus(loss), entropy)
        ours = torch.autograd.grad(loss.sum(), logits)[0]
        theirs = torch.autograd.grad(entropy.sum(), logits)[0]
        assert torch.allclose(ours * torch.sigmoid(loss.detach())[:, None], theirs)

    @given(seeds)
    @settings(max_examples=15)
    def test_a_small_attack_raises_every_loss(self, seed):
        model, x, y = convolutional(seed), images(seed), classes()
        before = F.cross_entropy(model(x), y, reduction="none")
        for adversarial in (fgsm_attack(model, x, y, eps=1e-3), pgd_attack(model, x, y, eps=1e-3, seed=0)):
            assert (F.cross_entropy(model(adversarial), y, reduction="none") > before).all()

    def test_samples_do_not_mix(self):
        model, x, y = convolutional(), images(), classes()
        for attack in (fgsm_attack, lambda *a, **k: pgd_attack(*a, **k, random_start=False)):
            alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=0.05) for i in range(5)])
            assert torch.allclose(attack(model, x, y, eps=0.05), alone, atol=1e-9)

    def test_the_target_steers(self):
        """On a linear model of two classes the step is the sign of the other class's weights minus the target's."""
        model, x = linear(c=2), 0.2 + 0.6 * images()
        rise = (model[1].weight[1] - model[1].weight[0]).detach().reshape(3, 8, 8)
        for target, sign in ((0, 1), (1, -1)):
            change = fgsm_attack(model, x, torch.full((5,), target), eps=0.1) - x
            assert torch.allclose(change, sign * 0.1 * rise.sign().expand_as(x))

    def test_pgd_finds_more_errors_than_fgsm(self, trained):
        eps = 4 / 255
        fgsm = fgsm_attack(trained.model, trained.x, trained.y, eps=eps)
        pgd = pgd_attack(trained.model, trained.x, trained.y, eps=eps, steps=10, seed=0)
        noise = pgd_attack(trained.model, trained.x, trained.y, eps=eps, steps=1, alpha=1e-9, seed=0)
        shares = [share_right(trained.model, x, trained.y) for x in (pgd, fgsm, noise)]
        assert shares[0] <= shares[1] < shares[2]

    def test_seeds(self):
        model, x, y = convolutional(), images(), classes()

        def run(seed):
            return pgd_attack(model, x, y, eps=0.1, steps=2, seed=seed)

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))
        assert not torch.equal(run(None), run(None))
        torch.manual_seed(0)
        first = run(None)
        torch.manual_seed(0)
        assert not torch.equal(first, run(None))

    def test_the_random_start_is_uniform(self):
        x = torch.full((4, 3, 32, 32), 0.5, dtype=torch.float64)
        start = pgd_attack(linear(features=3072), x, classes(4), eps=0.2, alpha=1e-12, steps=1, seed=0) - x
        histogram = torch.histc(start, bins=10, min=-0.2, max=0.2) / start.numel()
        assert (histogram - 0.1).abs().max() < 0.01

    def test_default_step(self):
        model, x, y = convolutional(), images(), classes()
        expected = pgd_attack(model, x, y, eps=0.1, alpha=2.5 * 0.1 / 7, steps=7, seed=0)
        assert torch.equal(pgd_attack(model, x, y, eps=0.1, steps=7, seed=0), expected)
        assert not torch.equal(pgd_attack(model, x, y, eps=0.1, alpha=0.01, steps=7, seed=0), expected)

    @pytest.mark.parametrize("eps", [1 / 255, 2 / 255, 4 / 255])
    def test_early_stop_has_the_same_error_rate(self, trained, eps):
        options = {"eps": eps, "steps": 10, "seed": 0}
        whole = pgd_attack(trained.model, trained.x, trained.y, **options)
        early = pgd_attack(trained.model, trained.x, trained.y, **options, early_stop=True)
        assert share_right(trained.model, early, trained.y) == share_right(trained.model, whole, trained.y)
        assert (early - trained.x).abs().mean() < (whole - trained.x).abs().mean()

    def test_early_stop_leaves_what_is_wrong_already(self):
        model, x = linear(), images()
        wrong = model(x).argmin(1)
        early = pgd_attack(model, x, wrong, eps=0.1, random_start=False, early_stop=True)
        assert torch.equal(early, x)

    def test_early_stop_saves_forward_passes(self):
        model, x = linear(), images()
        wrong, rows = model(x).argmin(1), []
        handle = model.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        pgd_attack(model, x, wrong, eps=0.1, steps=9, random_start=False, early_stop=True)
        handle.remove()
        assert rows == [5]

    def test_channels_last_inputs(self):
        model, x, y = convolutional(), images(), classes()
        last = x.to(memory_format=torch.channels_last)
        assert torch.allclose(fgsm_attack(model, last, y, eps=0.1), fgsm_attack(model, x, y, eps=0.1))
        ours, theirs = (pgd_attack(model, z, y, eps=0.1, steps=3, seed=0) for z in (last, x))
        assert torch.allclose(ours, theirs)

    @pytest.mark.parametrize("shape", [(5, 4), (5, 2, 6), (5, 1, 4, 4), (5, 3, 2, 2, 2)])
    def test_inputs_of_any_rank(self, shape):
        x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        model = linear(features=x[0].numel())
        std = [0.5] * shape[1]
        for attack in (fgsm_attack, pgd_attack):
            result = attack(model, x, classes(), eps=0.1, bounds=(-1, 1), normalization=([0] * shape[1], std))
            assert result.shape == x.shape
            assert ((result - x) * 0.5).abs().max() <= 0.1

    def test_two_classes_objects_with_logits_and_small_integers(self, torchattacks):
        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = linear(c=2)

            def forward(self, x):
                return SimpleNamespace(logits=self.inner(x))

        model, x, y = Wrapped(), images(), classes(5, 2)
        expected = torchattacks.FGSM(model.inner, eps=0.1)(x, y)
        for target in (y, y.int(), y.to(torch.uint8)):
            assert torch.allclose(fgsm_attack(model, x, target, eps=0.1), expected)

    @pytest.mark.parametrize("attack", [fgsm_attack, pgd_attack, adversarial_training])
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"model": len}, TypeError, "torch.nn.Module"),
            ({"model": Function(lambda x: x.sum())}, ValueError, r"logits \(N, C\)"),
            ({"model": Function(lambda x: x.flatten(1)[:, :1])}, ValueError, "C ≥ 2"),
            ({"model": Function(lambda x: x[:2].flatten(1))}, ValueError, "N = 5"),
            ({"model": Function(lambda x: (x, x))}, TypeError, "tuple of length 2"),
            ({"model": Function(lambda x: x.detach().flatten(1)[:, :3])}, ValueError, "does not depend on its inputs"),
            ({"model": Function(lambda x: torch.ones(5, 3))}, ValueError, "does not depend on its inputs"),
            ({"model": Function(lambda x: x.flatten(1)[:, :3] * NAN)}, ValueError, "NaN|finite"),
            ({"inputs": torch.zeros(0, 3, 8, 8)}, ValueError, "empty"),
            ({"inputs": torch.zeros(5)}, ValueError, "batch axis"),
            ({"inputs": torch.zeros(5, 3, 8, 8).byte()}, TypeError, "floating"),
            ({"inputs": torch.full((5, 3, 8, 8), NAN)}, ValueError, "NaN"),
            ({"inputs": [0.5]}, TypeError, "torch.Tensor"),
            ({"inputs": torch.full((5, 3, 8, 8), 1.0002)}, ValueError, r"bounds \[0.0, 1.0\].*normalization"),
            ({"inputs": images() - 0.1}, ValueError, r"bounds \[0.0, 1.0\].*normalization"),
            ({"inputs": images() * 255}, ValueError, r"bounds \[0.0, 1.0\]"),
            ({"target": classes()[:4]}, ValueError, "one label for each of the 5"),
            ({"target": classes().float()}, TypeError, "integer"),
            ({"target": classes() + 1}, ValueError, "0 to 2"),
            ({"target": classes() - 1}, ValueError, "0 to 2"),
            ({"target": classes()[:, None]}, ValueError, "1 dimension"),
            ({"target": None}, TypeError, "true classes"),
            ({"target": True}, TypeError, "true classes"),
            ({"target": "disc"}, TypeError, "whole numbers"),
            ({"target": [0.0, 1, 2, 0, 1]}, TypeError, "integer"),
            ({"task": "multilabel"}, ValueError, "'multiclass', 'binary'"),
            ({"eps": -0.1}, ValueError, "eps must not be negative"),
            ({"eps": NAN}, ValueError, "eps must be finite"),
            ({"eps": math.inf}, ValueError, "eps must be finite"),
            ({"eps": "8/255"}, TypeError, "eps must be a number"),
            ({"bounds": (1, 0)}, ValueError, "low < high"),
            ({"bounds": (0, 0)}, ValueError, "low < high"),
            ({"bounds": 1}, ValueError, "pair"),
            ({"bounds": (0, 1, 2)}, ValueError, "pair"),
            ({"bounds": (0, NAN)}, ValueError, "bounds"),
            ({"bounds": ("0", "1")}, TypeError, "bounds"),
            ({"normalization": 0.5}, ValueError, "pair"),
            ({"normalization": (0.5,)}, ValueError, "pair"),
            ({"normalization": ([0.5, 0.5], [1, 1])}, ValueError, "mean must be 3 finite numbers"),
            ({"normalization": ([0.5] * 3, [1, 1])}, ValueError, "std must be 3 finite numbers"),
            ({"normalization": ([0.5] * 3, [1, 1, 0])}, ValueError, "std must be positive"),
            ({"normalization": ([0.5] * 3, [1, 1, -1])}, ValueError, "std must be positive"),
            ({"normalization": ([NAN] * 3, [1, 1, 1])}, ValueError, "mean must be 3 finite"),
            ({"normalization": ("mean", "std")}, (TypeError, ValueError), "normalization"),
            ({"normalization": (None, None)}, (TypeError, ValueError), "normalization"),
        ],
    )
    def test_bad_input(self, attack, change, error, words):
        given_ = {"model": linear(), "inputs": images(), "target": classes(), "eps": 0.1} | change
        with pytest.raises(error, match=words):
            attack(given_.pop("model"), given_.pop("inputs"), given_.pop("target"), **given_)

    @pytest.mark.parametrize(
        ("dtype", "levels"), [(torch.float32, 4095), (torch.float32, 65535), (torch.float16, 255), (torch.bfloat16, 1)]
    )
    def test_f11_what_rounding_carries_out_of_the_bounds_is_accepted(self, dtype, levels):
        """Sixty random normalisations of images with black and white in them; a fixed 1e-4 refused many of them."""
        generator = torch.Generator().manual_seed(0)
        refused_before = 0
        for _ in range(60):
            mean, std = levels * (0.2 + 0.6 * torch.rand(2, 3, generator=generator)).to(dtype)
            pixels = (torch.rand(3, 3, 4, 4, generator=generator) * 1.6 - 0.3).clamp(0, 1) * levels
            x = (pixels.round().to(dtype) - mean[:, None, None]) / std[:, None, None]  # in the images' own dtype
            again = x.double() * std[:, None, None].double() + mean[:, None, None].double()
            refused_before += bool((again < -1e-4).any() or (again > levels + 1e-4).any())
            options = {"bounds": (0, levels), "normalization": (mean.double().tolist(), std.double().tolist())}
            model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).to(dtype)
            adversarial = fgsm_attack(model, x, classes(3), eps=levels / 32, **options)
            change = (adversarial.double() - x.double()) * std[:, None, None].double()
            assert change.abs().max() <= levels / 32
        assert refused_before > 10

    @pytest.mark.parametrize("levels", [1e-3, 1, 255, 65535])
    def test_f11_other_images_are_refused_at_every_scale(self, levels):
        x = levels * images(dtype=torch.float32)
        x[0, 0, 0, 0] = levels * 1.0003
        with pytest.raises(ValueError, match="inputs must lie in the bounds"):
            fgsm_attack(linear().float(), x, classes(), eps=levels / 100, bounds=(0, levels))
        x[0, 0, 0, 0] = levels * 1.00005
        fgsm_attack(linear().float(), x, classes(), eps=levels / 100, bounds=(0, levels))

    @pytest.mark.parametrize("attack", [fgsm_attack, pgd_attack, adversarial_training])
    def test_p16_eps_beyond_the_range_is_refused(self, attack):
        for eps, bounds in ((8, (0, 1)), (1.0001, (0, 1)), (300, (0, 255)), (3, (-1, 1))):
            x = bounds[0] + (bounds[1] - bounds[0]) * images()
            with pytest.raises(ValueError, match=f"eps must not be larger.*but is {eps:g};.*{eps:g} / 255"):
                attack(linear(), x, classes(), eps=eps, bounds=bounds)
            attack(linear(), x, classes(), eps=bounds[1] - bounds[0], bounds=bounds)

    @pytest.mark.parametrize("attack", [fgsm_attack, functools.partial(pgd_attack, random_start=False)])
    def test_p15_a_gradient_of_zero_is_not_robustness(self, attack):
        x = 0.2 + 0.6 * images()
        rounded = nn.Sequential(Function(lambda x: (x * 255).round() / 255), linear())
        answer = rounded(x).argmax(1)
        with pytest.warns(UserWarning, match=r"gradient of 5 sample\(s\).*exactly 0.*not robustness"):
            attack(rounded, x, answer, eps=0.1)
        wrong = answer.clone()
        wrong[:2] = (wrong[:2] + 1) % 3  # these two need no attack
        with pytest.warns(UserWarning, match=r"gradient of 3 sample\(s\)"):
            attack(rounded, x, wrong, eps=0.1)

    @pytest.mark.parametrize("attack", [fgsm_attack, functools.partial(pgd_attack, random_start=False)])
    def test_p15_probabilities_are_no_logits(self, attack):
        """A softmax of large logits is 1 and 0, and has no gradient left."""
        x = images(dtype=torch.float32)
        for scale, words in ((1.0, ["look like probabilities"]), (1e4, ["exactly 0", "look like probabilities"])):
            model = nn.Sequential(linear(scale=scale).float(), nn.Softmax(1))
            answer = model(x).argmax(1)
            with pytest.warns(UserWarning, match="is exactly 0|look like probabilities") as caught:
                attack(model, x, answer, eps=0.1)
            assert all(word in str(warning.message) for word, warning in zip(words, caught, strict=True))
            assert {warning.filename for warning in caught} == {__file__}
        saturated = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), Function(lambda z: torch.sigmoid(1e4 * z)))
        y = (saturated(x) > 0.5)[:, 0].long()
        with pytest.warns(UserWarning, match="exactly 0"):
            attack(saturated, x, y, eps=0.1, task="binary")

    @pytest.mark.parametrize("early_stop", [True, False])
    def test_an_ordinary_model_gives_no_warning(self, trained, early_stop):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fgsm_attack(trained.model, trained.x, trained.y, eps=8 / 255)
            pgd_attack(trained.model, trained.x, trained.y, eps=8 / 255, early_stop=early_stop)
            pgd_attack(trained.model, trained.x, trained.y, eps=0)

    def test_p31_fresh_noise_in_each_step(self):
        """A model that draws: one direction averages over the noise of all steps, and the start is not the noise."""
        seen = []

        def noisy(x):
            seen.append(torch.rand(x.shape, dtype=x.dtype))
            return x + 0.1 * seen[-1]

        model, x = nn.Sequential(Function(noisy), linear()), 0.2 + 0.6 * images()
        pgd_attack(model, x, classes(), eps=0.1, steps=4, seed=3)
        first, seen = seen, []
        assert len(first) == 4
        assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))
        start = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) - 1
        assert not torch.allclose(2 * first[0] - 1, start)
        pgd_attack(model, x, classes(), eps=0.1, steps=4, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))

    @pytest.mark.parametrize("attack", [pgd_attack, adversarial_training])
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"steps": 0}, ValueError, "steps must be at least 1"),
            ({"steps": 2.5}, TypeError, "steps must be an int"),
            ({"steps": 0, "alpha": 0.1}, ValueError, "steps must be at least 1"),
            ({"steps": -1, "alpha": 0.1}, ValueError, "steps must be at least 1"),
            ({"steps": 2.5, "alpha": 0.1}, TypeError, "steps must be an int"),
            ({"steps": True, "alpha": 0.1}, TypeError, "steps must be an int"),
            ({"alpha": 0}, ValueError, "alpha"),
            ({"alpha": -0.1}, ValueError, "alpha"),
            ({"alpha": NAN}, ValueError, "alpha"),
            ({"alpha": "0.1"}, TypeError, "alpha must be a number"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 0.5}, TypeError, "seed"),
        ],
    )
    def test_bad_options(self, attack, options, error, words):
        with pytest.raises(error, match=words):
            attack(linear(), images(), classes(), eps=0.1, **options)

    def test_a_gradient_of_nan_is_no_attack(self):
        """sign(NaN) is 0: the inputs would come back unchanged, and the model would seem robust."""
        model = Function(lambda x: ((x - x).sqrt() + x).flatten(1)[:, :3])
        with pytest.raises(ValueError, match="NaN|finite"):
            fgsm_attack(model, images(), classes(), eps=0.1)

    @pytest.mark.parametrize(("dtype", "alpha"), [(torch.float32, 1e39), (torch.float16, 1e6)])
    def test_a_huge_step_stays_finite(self, dtype, alpha):
        """A step beyond the dtype's range times a gradient of 0 is NaN."""
        model, x = linear(), images(dtype=dtype)
        with torch.no_grad():
            model[1].weight[:, 0] = 0
        result = pgd_attack(model.to(dtype), x, classes(), eps=0.1, alpha=alpha, steps=1, random_start=False)
        assert result.isfinite().all()


class TestAttackErrors:
    def test_e49_the_callers_tensor_is_not_touched(self):
        model, x, y = linear(), images(), classes()
        naive = x.clone()
        naive.requires_grad = True
        F.cross_entropy(model(naive), y).backward()
        result = naive + 0.1 * naive.grad.sign()
        assert naive.requires_grad  # the error: all three
        assert naive.grad is not None
        assert result.requires_grad
        for attack in (fgsm_attack, pgd_attack):
            own = x.clone()
            result = attack(model, own, y, eps=0.1)
            assert torch.equal(own, x)
            assert not own.requires_grad
            assert own.grad is None
            assert not result.requires_grad
            assert result.grad_fn is None

    def test_e50_input_gradients_do_not_accumulate(self, torchattacks):
        model, y = linear(), classes()
        naive = images().requires_grad_()
        F.cross_entropy(model(naive), y).backward()
        first = naive.grad.clone()
        F.cross_entropy(model(naive), y).backward()
        assert torch.allclose(naive.grad, 2 * first)  # the error: ratio 2.0
        naive.grad = first.clone()
        F.cross_entropy(model(naive), (y + 1) % 3).backward()
        wrong = (naive.grad.sign() != (naive.grad - first).sign()).double().mean()
        assert wrong > 0.1  # and with other targets, pixels go the wrong way
        x = images().requires_grad_()
        x.grad = first.clone() * 1000
        for target in (y, (y + 1) % 3, y):
            expected = torchattacks.FGSM(model, eps=0.1)(images(), target)
            assert torch.allclose(fgsm_attack(model, x, target, eps=0.1), expected)
        assert torch.equal(x.grad, first * 1000)

    def test_e51_parameter_gradients_survive_and_non_leaf_inputs_work(self):
        model, x, y = linear(), images(), classes()
        F.cross_entropy(model(x), y).backward()
        mine = [p.grad.clone() for p in model.parameters()]
        naive = copy.deepcopy(model)
        leaf = x.clone().requires_grad_()
        naive.zero_grad()
        F.cross_entropy(naive(leaf), (y + 1) % 3).backward()
        assert not torch.allclose(naive[1].weight.grad, mine[0])  # the error: mine are gone, the attack's are there
        for attack in (fgsm_attack, pgd_attack):
            attack(model, x, (y + 1) % 3, eps=0.1)
            assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), mine, strict=True))
        non_leaf = (leaf * 1.0).clamp(0, 1)
        loss = F.cross_entropy(model(non_leaf), y)
        with pytest.warns(UserWarning, match="not a leaf"):
            assert non_leaf.grad is None  # the error: None has no sign
        assert torch.equal(fgsm_attack(model, non_leaf, y, eps=0.1), fgsm_attack(model, x, y, eps=0.1))
        loss.backward()  # the caller's graph is still whole

    def test_e52_attack_in_pixel_units_on_normalised_images(self, trained):
        exact = torch.tensor(IMAGENET[1], dtype=torch.float64).reshape(3, 1, 1)
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
        model = nn.Sequential(Function(lambda x: x * std + mean), trained.model).eval()  # takes normalised images
        x = (trained.x - mean) / std
        naive = x.clamp(0, 1)  # FGSM's last line, at eps 0
        assert ((naive - x) * std).abs().max() > 0.4  # the error: far more than any eps
        assert share_right(model, naive, trained.y) < trained.accuracy - 0.03
        options = {"normalization": IMAGENET}
        assert torch.equal(fgsm_attack(model, x, trained.y, eps=0, **options), x)
        for eps in (0.03, 8 / 255):
            result = pgd_attack(model, x, trained.y, eps=eps, steps=3, seed=0, **options)
            assert ((result.double() - x.double()) * exact).abs().max() <= eps
            pixels = result * std + mean
            assert pixels.min() >= -1e-6
            assert pixels.max() <= 1 + 1e-6
        with pytest.raises(ValueError, match=r"pass normalization=\(mean, std\)"):
            fgsm_attack(model, x, trained.y, eps=0.03)

    def test_e53_pgd_starts_at_random(self, torchattacks):
        model, x, y = convolutional(), images(), classes()
        basic = torchattacks.BIM(model, eps=0.1, alpha=0.03, steps=5)(x, y)
        options = {"eps": 0.1, "alpha": 0.03, "steps": 5}
        assert torch.allclose(pgd_attack(model, x, y, **options, random_start=False), basic, atol=1e-7)
        assert (pgd_attack(model, x, y, **options, seed=0) - basic).abs().max() > 0.01
        far = pgd_attack(model, x, y, **options, seed=0) - pgd_attack(model, x, y, **options, seed=1)
        assert far.abs().max() > 0.01

    def test_e54_the_attack_does_not_die_on_a_sure_model(self, torchattacks, trained):
        sure = nn.Sequential(trained.model, Function(lambda z: 100 * z)).eval()
        right = trained.model(trained.x).argmax(1) == trained.y
        x, y = trained.x[right], trained.y[right]
        leaf = x.clone().requires_grad_()
        naive = torch.autograd.grad(F.cross_entropy(sure(leaf), y, reduction="sum"), leaf)[0]
        dead = float((naive == 0).double().mean())
        assert dead > 0.5  # the error: most of the gradient is exactly 0
        eps = 8 / 255
        careless = torchattacks.FGSM(sure, eps=eps)(x, y)
        ours = fgsm_attack(sure, x, y, eps=eps)
        assert share_right(sure, ours, y) < share_right(sure, careless, y) - 0.1
        still = ((ours == x).flatten(1).all(1)).double().mean()
        assert still == 0
        leaf = torch.tensor([[1e4, 0.0, -1.0]], requires_grad=True)
        assert torch.autograd.grad(F.cross_entropy(leaf, torch.tensor([0])), leaf)[0].abs().max() == 0
        assert torch.autograd.grad(attack_loss(leaf, torch.tensor([0])).sum(), leaf)[0][0, 0] == -1

    def test_e55_adversarial_training_trains(self):
        torch.manual_seed(0)
        model = small_classifier().train()
        model[0].eval()  # one mode set on purpose
        model.insert(13, nn.Dropout(0.5))
        x, y = images(dtype=torch.float32), classes()
        naive = copy.deepcopy(model)
        naive.eval()
        leaf = x.clone().requires_grad_()
        F.cross_entropy(naive(leaf), y).backward()
        adversarial = (leaf + 0.1 * leaf.grad.sign()).clamp(0, 1)
        F.cross_entropy(naive(adversarial.detach()), y)
        assert int(naive[1].num_batches_tracked) == 0  # the error: nothing learned of the data, dropout off,
        assert not naive.training  # in evaluation mode ever after,
        assert naive[0].weight.grad is not None  # and the attack's gradient in .grad
        modes = [module.training for module in model.modules()]
        losses = adversarial_training(model, x, y, eps=0.1, steps=3, seed=0)
        assert [module.training for module in model.modules()] == modes
        assert (
            int(model[1].num_batches_tracked) == 2
        )  # one for the clean pass, one for the attacked, none for the attack
        assert all(p.grad is None for p in model.parameters())
        losses.total.backward()
        assert all(p.grad is not None for p in model.parameters())
        model.eval()
        with pytest.raises(ValueError, match=r"call model.train\(\)"):
            adversarial_training(model, x, y, eps=0.1)
