"""The small networks that lesson 1 trains."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.basics import CharacterModel, PixelLabeller, SimpleNet, logits_to_probabilities


class TestSimpleNet:
    def test_returns_logits_of_linear_relu_linear(self):
        model = SimpleNet(4, 8, 3)
        x = torch.rand(5, 4)
        by_hand = F.linear(
            F.relu(F.linear(x, model.hidden.weight, model.hidden.bias)), model.output.weight, model.output.bias
        )
        assert torch.equal(model(x), by_hand)
        assert not any(isinstance(module, (nn.Softmax, nn.Sigmoid)) for module in model.modules())

    def test_defaults(self):
        assert SimpleNet()(torch.zeros(2, 10)).shape == (2, 2)

    @pytest.mark.parametrize("sizes", [(0, 5, 2), (10, -1, 2), (10, 5, 0)])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            SimpleNet(*sizes)

    def test_e20_gradient_survives_on_logits_and_dies_behind_softmax(self):
        z = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
        target = torch.tensor([1])
        (on_logits,) = torch.autograd.grad(F.cross_entropy(z, target), z)
        (twice,) = torch.autograd.grad(F.cross_entropy(logits_to_probabilities(z, "multiclass"), target), z)
        assert on_logits.abs().max() > 0.99
        assert twice.abs().max() < 1e-7


class TestCharacterModel:
    def test_scores_every_character_at_every_position(self):
        model = CharacterModel(vocab_size=7, hidden_features=4)
        logits = model(torch.randint(7, (2, 5)))
        assert logits.shape == (2, 5, 7)
        assert (logits < 0).any()  # logits, not probabilities
        assert not torch.allclose(logits.exp().sum(-1), torch.ones(2, 5))  # and no log-probabilities

    def test_a_position_sees_what_came_before_it_and_nothing_after(self):
        model = CharacterModel(vocab_size=7)
        text = torch.tensor([[0, 1, 2, 3, 4]])
        other_end, other_start = text.clone(), text.clone()
        other_end[0, 4], other_start[0, 0] = 6, 6
        changed_by_end = (model(text) != model(other_end)).any(-1)[0]
        assert changed_by_end.tolist() == [False, False, False, False, True]
        changed_by_start = (model(text) != model(other_start)).any(-1)[0]
        assert changed_by_start.all()

    @pytest.mark.parametrize(
        ("arguments", "words"), [((0,), "vocab_size must be at least 1"), ((7, -1), "hidden_features must be at least")]
    )
    def test_bad_sizes(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            CharacterModel(*arguments)

    def test_a_size_that_is_no_whole_number(self):
        with pytest.raises(TypeError, match="vocab_size must be an int"):
            CharacterModel(7.0)


class TestPixelLabeller:
    @pytest.mark.parametrize("size", [(32, 32), (8, 20)])
    def test_scores_every_class_at_every_pixel(self, size):
        logits = PixelLabeller(num_classes=5)(torch.rand(2, 3, *size))
        assert logits.shape == (2, 5, *size)
        assert (logits < 0).any()

    def test_a_pixel_moves_the_logits_around_it_and_none_far_away(self):
        model = PixelLabeller(num_classes=2).eval()
        image = torch.rand(1, 3, 96, 96)
        changed = image.clone()
        changed[..., 0, 0] += 1
        moved = (model(image) != model(changed)).any(1)[0]  # (96, 96)
        assert moved[:4, :4].any()
        assert not moved[48:, 48:].any()

    @pytest.mark.parametrize("size", [(30, 32), (32, 33)])
    def test_sides_that_are_not_divisible_by_four(self, size):
        with pytest.raises(ValueError, match=rf"divisible by 4, but are \({size[0]}, {size[1]}\)"):
            PixelLabeller(num_classes=2)(torch.rand(1, 3, *size))

    def test_bad_number_of_classes(self):
        with pytest.raises(ValueError, match="num_classes must be at least 1"):
            PixelLabeller(0)
