"""Training against attacks, and the accuracy that is left under attack."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils.advanced import adversarial_training, evaluate_robustness, fgsm_attack, pgd_attack
from tests.support.images import caller_tensors, classes, convolutional, images, linear, share_right
from tests.support.models import Function, model_with_state
from tests.support.values import NAN, seeds


class TestAdversarialTraining:
    @given(seeds)
    @settings(max_examples=10)
    def test_equals_the_version_by_hand(self, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
        ).double()
        model(images(seed + 1))  # statistics of their own
        by_hand, x, y = copy.deepcopy(model), images(seed), classes()
        losses = adversarial_training(model, x, y, eps=0.1, alpha=0.03, steps=3, seed=seed)
        assert all(p.grad is None for p in model.parameters())
        losses.total.backward()

        by_hand.eval()
        adversarial = pgd_attack(by_hand, x, y, eps=0.1, alpha=0.03, steps=3, seed=seed)
        by_hand.train()
        clean, attacked = F.cross_entropy(by_hand(x), y), F.cross_entropy(by_hand(adversarial), y)
        ((clean + attacked) / 2).backward()
        ours, theirs = (
            [float(v.detach()) for v in three]
            for three in ((losses.clean, losses.adversarial, losses.total), (clean, attacked, (clean + attacked) / 2))
        )
        assert ours == pytest.approx(theirs, rel=1e-9)
        assert ours[2] == (ours[0] + ours[1]) / 2
        for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, atol=1e-9)

    def test_dropout_drops_and_a_seed_repeats_it(self):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3)).double()
        x, y = images(), classes()

        def run(seed):
            losses = adversarial_training(model, x, y, eps=0, seed=seed)
            return float(losses.clean.detach()), float(losses.adversarial.detach())

        assert run(1) == run(1)
        assert run(1) != run(2)
        assert run(None) != run(None)
        clean, adversarial = run(1)
        assert clean != adversarial  # at eps 0 only the masks differ

    def test_batchnorm_moves_unless_frozen(self):
        for frozen in (False, True):
            model = model_with_state(images=True)
            model.norm.train(not frozen)
            before = model.norm.running_mean.clone()
            adversarial_training(model, *caller_tensors(), eps=0.1, steps=2, seed=0)
            assert torch.equal(model.norm.running_mean, before) is frozen

    def test_works_on_normalised_images(self):
        x = (images() - 0.5) / 0.25
        model, options = linear().train(), {"normalization": ([0.5] * 3, [0.25] * 3)}
        losses = adversarial_training(model, x, classes(), eps=0.1, steps=3, seed=0, **options)
        attacked = pgd_attack(model, x, classes(), eps=0.1, steps=3, seed=0, **options)
        expected = F.cross_entropy(model(attacked), classes())
        assert float(losses.adversarial.detach()) == pytest.approx(float(expected.detach()))
        assert float(losses.adversarial.detach()) > float(losses.clean.detach())

    def test_frozen_parameters_stay_without_gradients(self):
        model = convolutional().train()
        model[0].requires_grad_(False)
        adversarial_training(model, images(), classes(), eps=0.1, steps=2).total.backward()
        assert model[0].weight.grad is None
        assert model[5].weight.grad is not None

    def test_in_place_layers_do_not_reach_the_inputs(self):
        model, x = nn.Sequential(nn.Threshold(0.5, 0.0, inplace=True), *linear()).train(), images()
        losses = adversarial_training(model, x, classes(), eps=0.1, steps=2)
        losses.total.backward()
        assert torch.equal(x, images())

    def test_p29_without_gradients_there_is_no_training(self):
        model, x, y = linear().train(), images(), classes()
        for context in (torch.no_grad, torch.inference_mode):
            with context(), pytest.raises(ValueError, match="under torch.no_grad.*call it outside"):
                adversarial_training(model, x, y, eps=0.1)
        with torch.inference_mode():
            born_inside, inputs = linear().train(), images()
        with pytest.raises(ValueError, match="made under torch.inference_mode"):
            adversarial_training(born_inside, x, y, eps=0.1)
        adversarial_training(model, inputs, y, eps=0.1).total.backward()
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="no parameter of the model takes a gradient"):
            adversarial_training(model, x, y, eps=0.1)

    def test_f20_binary_losses_are_binary_cross_entropy(self):
        model, x, y = linear(c=1).train(), images(), classes(5, 2)
        losses = adversarial_training(model, x, y, eps=0.1, steps=3, seed=0, task="binary")
        attacked = pgd_attack(model, x, y, eps=0.1, steps=3, seed=0, task="binary")
        for loss, inputs in ((losses.clean, x), (losses.adversarial, attacked)):
            expected = F.binary_cross_entropy_with_logits(model(inputs)[:, 0], y.double())
            assert torch.allclose(loss, expected)
        assert losses.adversarial > losses.clean

    @pytest.mark.slow
    def test_makes_a_model_more_robust(self):
        """On blobs of which one feature is strong and many are weak, training against the attack pays."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(2, (400,), generator=generator)
        side = (2.0 * y - 1)[:, None]
        strong = 0.5 + 0.3 * side + 0.1 * torch.randn(400, 1, generator=generator)
        weak = 0.5 + 0.02 * side + 0.05 * torch.randn(400, 60, generator=generator)
        x = torch.cat([strong, weak], 1).clamp(0, 1)
        found = {}
        for robust in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(61, 2)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            for step in range(80):
                optimizer.zero_grad()
                losses = adversarial_training(model, x, y, eps=0.1 if robust else 0.0, steps=2, seed=step)
                losses.total.backward()
                optimizer.step()
            found[robust] = evaluate_robustness(model, [(x, y)], fgsm_attack, eps=0.1).adversarial_accuracy
        assert found[True] > found[False] + 0.1


class TestEvaluateRobustness:
    def test_equals_counting_one_by_one(self, trained):
        pairs = list(zip(trained.x.split(40), trained.y.split(40), strict=True))  # 40, 40 and 16
        result = evaluate_robustness(trained.model, pairs, fgsm_attack, eps=2 / 255)
        before = trained.model(trained.x).argmax(1) == trained.y
        adversarial = fgsm_attack(trained.model, trained.x, trained.y, eps=2 / 255)
        after = trained.model(adversarial).argmax(1) == trained.y
        assert result.num_samples == 96
        assert result.clean_accuracy == int(before.sum()) / 96
        assert result.adversarial_accuracy == int((before & after).sum()) / 96
        assert 0 < result.adversarial_accuracy < result.clean_accuracy

    def test_e63_uneven_batches_count_by_sample(self):
        model = Function(lambda x: x)
        right, wrong = torch.tensor([[2.0, 0]]), torch.tensor([[0.0, 2]])
        batches = [(right.expand(64, 2), torch.zeros(64).long()), (wrong, torch.zeros(1).long())]
        means = [share_right(model, *batch) for batch in batches]
        assert sum(means) / 2 == 0.5  # the error: one sample outweighs 64
        result = evaluate_robustness(model, batches, lambda m, x, y: x)
        assert result.clean_accuracy == result.adversarial_accuracy == 64 / 65
        assert result.num_samples == 65

    def test_an_attack_cannot_repair(self):
        """A sample that is wrong without the attack counts as wrong, and is not shown to the attack."""
        model, seen = Function(lambda x: 3 * x), []
        x, y = torch.tensor([[1.0, 0], [0, 1], [1, 0]]), torch.tensor([0, 0, 0])

        def repair(model, inputs, target, *, strength):
            seen.append((len(inputs), strength))
            return torch.tensor([[1.0, 0]]).expand(len(inputs), 2)

        result = evaluate_robustness(model, [(x, y)], repair, strength=7)
        assert result.clean_accuracy == result.adversarial_accuracy == 2 / 3
        assert seen == [(2, 7)]
        all_wrong = evaluate_robustness(model, [(x, 1 - y), (x[:1], y[:1] + 1)], repair, strength=1)
        assert (all_wrong.clean_accuracy, all_wrong.adversarial_accuracy) == (0.25, 0)

    def test_no_sample_right_at_all(self):
        x, y = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([1, 1])
        result = evaluate_robustness(Function(lambda x: x), [(x, y)], fgsm_attack, eps=0.1)
        assert (result.clean_accuracy, result.adversarial_accuracy, result.num_samples) == (0, 0, 2)

    def test_a_shuffling_loader_leaves_the_global_state_alone(self, trained):
        loader = DataLoader(TensorDataset(trained.x, trained.y), batch_size=40, shuffle=True)
        torch.manual_seed(3)
        state = torch.get_rng_state()
        next(iter(loader))
        assert not torch.equal(torch.get_rng_state(), state)  # the loader alone draws
        torch.manual_seed(3)
        result = evaluate_robustness(trained.model, loader, fgsm_attack, eps=2 / 255)
        assert torch.equal(torch.get_rng_state(), state)
        listed = evaluate_robustness(trained.model, [(trained.x, trained.y)], fgsm_attack, eps=2 / 255)
        assert result == listed

    def test_more_eps_is_never_better_and_eps_zero_is_clean(self, trained):
        found = [
            evaluate_robustness(trained.model, [(trained.x, trained.y)], pgd_attack, eps=eps, steps=5, seed=0)
            for eps in (0, 1 / 255, 4 / 255, 16 / 255)
        ]
        accuracies = [result.adversarial_accuracy for result in found]
        assert accuracies[0] == found[0].clean_accuracy == pytest.approx(trained.accuracy)
        assert accuracies == sorted(accuracies, reverse=True)
        assert accuracies[-1] < 0.2

    @pytest.mark.parametrize(
        ("model", "loader", "attack", "error", "words"),
        [
            (len, [(images(), classes())], fgsm_attack, TypeError, "torch.nn.Module"),
            (linear(), [(images(), classes())], "fgsm", TypeError, "attack must be callable"),
            (linear(), [], fgsm_attack, ValueError, "loader is empty"),
            (linear(), 5, fgsm_attack, TypeError, "loader"),
            (linear(), [images()], fgsm_attack, TypeError, r"pairs \(inputs, target\)"),
            (linear(), [(images(),)], fgsm_attack, TypeError, r"pairs \(inputs, target\)"),
            (linear(), [(images(), classes()[:4])], fgsm_attack, ValueError, "each of the 5"),
            (linear(), [(images(), classes() + 1)], fgsm_attack, ValueError, "0 to 2"),
            (linear(), [(images(), classes().float())], fgsm_attack, TypeError, "integer"),
            (linear(), [(images() * NAN, classes())], fgsm_attack, ValueError, "NaN"),
            (linear(), [(images()[:0], classes()[:0])], fgsm_attack, ValueError, "empty"),
            (linear(), [(images() * 3, classes())], fgsm_attack, ValueError, "bounds"),
            (linear(), [(images().numpy(), classes().numpy())], fgsm_attack, TypeError, "torch.Tensor"),
            (linear(), [(images(), ["a"] * 5)], fgsm_attack, TypeError, "whole numbers"),
            (linear(), [((255 * images()).byte(), classes())], fgsm_attack, TypeError, "floating"),
            (Function(lambda x: x.sum((2, 3)) * NAN), [(images(), classes())], fgsm_attack, ValueError, "NaN|finite"),
        ],
    )
    def test_bad_input(self, model, loader, attack, error, words):
        with pytest.raises(error, match=words):
            evaluate_robustness(model, loader, attack, eps=0.1)

    def test_p15_an_attack_must_keep_to_its_limits(self):
        model, x = linear(), images()
        y = model(x).argmax(1)
        normalization = ([0.5] * 3, [0.25] * 3)
        z = (x - 0.5) / 0.25

        def moves(by):
            return lambda m, x, y, **limits: x + by

        evaluate_robustness(model, [(x, y)], moves(0.1), eps=0.1 + 1e-9)
        evaluate_robustness(model, [(z, y)], moves(0.4), eps=0.1, normalization=normalization)
        with pytest.raises(ValueError, match=r"changed a pixel by 0.2, but its eps is 0.1.*normalization"):
            evaluate_robustness(model, [(x, y)], moves(0.2), eps=0.1)
        with pytest.raises(ValueError, match="changed a pixel by 0.4, but its eps is 0.1"):
            evaluate_robustness(model, [(z, y)], moves(0.4), eps=0.1)
        with pytest.raises(ValueError, match="changed a pixel by 0.15"):
            evaluate_robustness(model, [(z, y)], moves(0.6), eps=0.1, normalization=normalization)
        with pytest.raises(ValueError, match="changed a pixel by 0.2"):
            evaluate_robustness(model, [(x, y)], moves(0.2), eps=np.float32(0.1))
        with pytest.raises(ValueError, match=r"left the bounds \[0.0, 1.0\]"):
            evaluate_robustness(model, [(x, y)], moves(0.1), bounds=(0, 1))
        with pytest.raises(ValueError, match="changed a pixel by 0.2"):
            evaluate_robustness(model, [(x, y)], functools.partial(moves(0.2), eps=0.1))
        evaluate_robustness(model, [(x, y)], moves(0.2))  # of this one no limits are known
        evaluate_robustness(model, [(x, y)], moves(0.2), eps="strong")  # a word of the attack's own

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_p15_rounding_is_no_offence(self, dtype):
        """An attack that clamps in its own dtype oversteps by a digit."""
        model, x = linear().to(dtype), images(dtype=dtype)
        y = model(x).argmax(1)
        normalization = ([0.45] * 3, [0.22] * 3)

        def careless(model, z, y, *, eps, bounds, normalization):
            mean, std = normalization[0][0], normalization[1][0]
            return (((z * std + mean) + eps).clamp(*bounds) - mean) / std

        z = (x - 0.45) / 0.22
        evaluate_robustness(model, [(z, y)], careless, eps=8 / 255, bounds=(0, 1), normalization=normalization)

    def test_p15_attacks_that_move_nothing_and_probabilities_are_told(self):
        x = images(dtype=torch.float32)

        def sign_of_cross_entropy(model, x, y, *, eps):
            leaf = x.clone().requires_grad_()
            return x + eps * torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)[0].sign()

        sure = linear(scale=1e4).float()
        with pytest.warns(UserWarning, match="5 of the 5 samples that stand came back .* exactly as they were"):
            result = evaluate_robustness(sure, [(x, sure(x).argmax(1))], sign_of_cross_entropy, eps=0.1)
        assert result.adversarial_accuracy == 1
        softmaxed = nn.Sequential(linear().float(), nn.Softmax(1))
        pairs = [(x, softmaxed(x).argmax(1))]
        for attack in (sign_of_cross_entropy, fgsm_attack):
            with pytest.warns(UserWarning, match="look like probabilities") as caught:
                evaluate_robustness(softmaxed, pairs, attack, eps=0.01)
            assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate_robustness(sure, [(x, sure(x).argmax(1))], lambda m, x, y, eps: x.clone(), eps=0)

    def test_p31_a_random_model_is_judged_with_noise_that_the_attack_has_not_seen(self):
        """The attack may know the noise of seed 0; the clean answer and the one after the attack draw others."""
        draws = []

        def noisy(x):
            draws.append(float(torch.rand(())))
            return x

        model, x = nn.Sequential(Function(noisy), linear()), images()
        y = linear()(x).argmax(1)
        evaluate_robustness(model, [(x, y), (x, y)], fgsm_attack, eps=0.01)
        clean, attack, judged, clean_2, attack_2, judged_2 = draws
        assert attack == attack_2
        assert len({clean, attack, judged, clean_2, judged_2}) == 5

    def test_f20_binary(self):
        model, x = linear(c=1), images()
        y = (model(x)[:, 0] >= 0).long()
        result = evaluate_robustness(model, [(x, y.tolist())], fgsm_attack, eps=0.3, task="binary")
        adversarial = fgsm_attack(model, x, y, eps=0.3, task="binary")
        after = (model(adversarial)[:, 0] >= 0).long()
        assert (result.clean_accuracy, result.adversarial_accuracy) == (1, float((after == y).double().mean()))
        told = []
        evaluate_robustness(model, [(x, y)], lambda m, x, y, **o: told.append(o) or x, task="binary")
        assert told == [{"task": "binary"}]

    @pytest.mark.parametrize(
        "attack", [lambda m, x, y: None, lambda m, x, y: x[:1], lambda m, x, y: x * NAN, lambda m, x, y: x[:, :1]]
    )
    def test_an_attack_that_returns_something_else(self, attack):
        x = images()
        y = linear()(x).argmax(1)
        with pytest.raises((TypeError, ValueError), match="attack"):
            evaluate_robustness(linear(), [(x, y)], attack)
