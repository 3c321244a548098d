"""Beam search for the models that people bring: padded prompts, states of any shape, wrappers, too few positions."""

import itertools
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from course_utils.interpretation import beam_search_decode
from tests.support.language_models import Refed, Rule, assert_same, language_model

Wrapped = namedtuple("Wrapped", ["hidden", "position"])


class Recurrent(nn.Module):
    """A GRU whose state is one tensor, or the same tensor deep in a structure."""

    def __init__(self, vocab_size: int, kind: str) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(vocab_size, 6), nn.GRU(6, 6, num_layers=2, batch_first=True)
        self.output, self.kind = nn.Linear(6, vocab_size), kind

    def forward(self, ids):
        return self.output(self.gru(self.embedding(ids))[0])

    def advance(self, ids, state=None):
        before = {"gru": lambda s: s, "nested": lambda s: s[0]["h"][0], "named": lambda s: s.hidden}[self.kind]
        hidden, after = self.gru(self.embedding(ids), None if state is None else before(state))
        kept = {"gru": after, "nested": ({"h": [after]}, None), "named": Wrapped(after, 3)}[self.kind]
        return self.output(hidden[:, -1]), kept


class InDict(nn.Module):
    """A model that returns its logits in a dict, with something else beside them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        return {"logits": self.inner(ids), "cache": object()}


class TestModelsAsPeopleBringThem:
    @pytest.mark.parametrize("left", [True, False])
    @pytest.mark.parametrize("cached", [True, False])
    def test_q2_padded_and_unpadded_prompts_give_the_same(self, cached, left):
        inner = language_model(6)
        model = inner if cached else Refed(inner)
        prompts = [[1, 2, 3, 4], [5], [2, 2, 1], [3, 1, 4]]
        rows = [[0] * (4 - len(p)) + p if left else p + [0] * (4 - len(p)) for p in prompts]
        masks = [[int(bool(token)) for token in row] for row in rows]
        options = {"num_beams": 3, "max_new_tokens": 4, "eos_token_id": 1}
        unmasked = beam_search_decode(model, torch.tensor(rows), **options)
        for dtype in (torch.int64, torch.bool, torch.float32):
            mask = torch.tensor(masks).to(dtype)
            found = beam_search_decode(model, torch.tensor(rows), attention_mask=mask, **options)
            for prompt, hypotheses in zip(prompts, found, strict=True):
                (expected,) = beam_search_decode(model, torch.tensor(prompt), **options)
                assert_same(hypotheses, [(h.score, h.token_ids.tolist()) for h in expected])
        assert [h.score for h in unmasked[1]] != [h.score for h in found[1]]  # the error: padding was read

    def test_q2_a_transformer_from_a_library(self):
        """Positions count from the first token of the prompt, not from the first of the padding."""
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=7, n_positions=12, n_embd=16, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(config).double()
        for parameter in model.parameters():
            parameter.data.mul_(4)
        padded, mask = torch.tensor([[0, 0, 3, 4], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        found = beam_search_decode(model, padded, attention_mask=mask, num_beams=3, max_new_tokens=5)
        for row, prompt in enumerate(([3, 4], [1, 2, 3, 4])):
            (expected,) = beam_search_decode(model, torch.tensor(prompt), num_beams=3, max_new_tokens=5)
            assert_same(found[row], [(h.score, h.token_ids.tolist()) for h in expected])

    @pytest.mark.parametrize("cached", [True, False])
    def test_f21_several_end_tokens(self, cached):
        """Two end tokens are as one that has the probability of the better of them: compared with brute force."""
        inner, prompt = language_model(4, seed=3), [1, 2]
        (found,) = beam_search_decode(
            inner if cached else Refed(inner), torch.tensor(prompt), num_beams=64, max_new_tokens=3, eos_token_id=[0, 2]
        )
        everything = []
        for t in range(1, 4):
            for tokens in itertools.product(range(4), repeat=t):
                ended = [token in (0, 2) for token in tokens]
                if any(ended[:-1]) or (t < 3 and not ended[-1]):
                    continue
                logits = inner(torch.tensor([[*prompt, *tokens]]))[0, 1:-1].log_softmax(-1)
                total = logits.gather(1, torch.tensor(tokens)[:, None]).sum().item()
                everything.append((total / t, tokens))
        assert_same(found, sorted(everything, reverse=True))

    @pytest.mark.parametrize("kind", ["gru", "nested", "named"])
    def test_q26_states_of_any_shape(self, kind):
        """A GRU's state is one tensor; others nest theirs. Each beam must go on from its own."""
        torch.manual_seed(0)
        inner = Recurrent(5, kind).double()
        for parameter in inner.parameters():
            parameter.data.mul_(4)
        prompts = torch.tensor([[1, 2, 3], [4, 0, 1]])
        options = {"num_beams": 4, "max_new_tokens": 5, "eos_token_id": 0}
        found = [beam_search_decode(model, prompts, **options) for model in (inner, Refed(inner))]
        for cached, refed in zip(*found, strict=True):
            assert_same(cached, [(h.score, h.token_ids.tolist()) for h in refed])

    @pytest.mark.parametrize(
        ("state", "error", "words"),
        [
            (torch.zeros(2, 3), ValueError, "1 samples in dim 1"),
            ((torch.zeros(2),), ValueError, "1 samples in dim 1"),
            (object(), TypeError, "nothing|tensor, or tuples"),
        ],
    )
    def test_q26_a_state_that_cannot_be_followed(self, state, error, words):
        model = language_model(4)
        model.advance = lambda ids, _=None: (torch.zeros(len(ids), 4), state)
        with pytest.raises(error, match=words):
            beam_search_decode(model, torch.tensor([1, 2]), max_new_tokens=2)

    @pytest.mark.parametrize("positions", [2, 4])
    @pytest.mark.parametrize("fails", ["embedding", "parameter"])
    def test_q30_more_tokens_than_positions(self, positions, fails):
        """A learned position for each token: as an embedding (IndexError), or as a parameter (RuntimeError)."""
        places = nn.Embedding(positions, 5)
        add = {
            "embedding": lambda ids: places(torch.arange(ids.shape[1])),
            "parameter": lambda ids: places.weight[: ids.shape[1]],
        }[fails]
        model = Rule(lambda ids: F.one_hot(ids, 5) + add(ids))
        words = f"read {max(3, positions + 1)} tokens, the prompt's 3 and {max(0, positions - 2)} new"
        with pytest.raises((ValueError, RuntimeError)) as caught:
            beam_search_decode(model, torch.tensor([1, 2, 3]), max_new_tokens=3)
        assert words in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])

    @pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager"), InDict])
    def test_models_as_people_bring_them(self, wrap):
        inner, prompt, options = language_model(4), torch.tensor([1, 2]), {"num_beams": 2, "max_new_tokens": 3}
        (expected,), (found,) = (beam_search_decode(m, prompt, **options) for m in (inner, wrap(Refed(inner))))
        assert_same(found, [(h.score, h.token_ids.tolist()) for h in expected])
