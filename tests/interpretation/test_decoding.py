"""Text: greedy and beam search against brute force and plain lists."""

import itertools
import math
from types import SimpleNamespace

import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.interpretation import SimpleLanguageModel, beam_search_decode, greedy_decode
from tests.support.language_models import Refed, Rule, assert_same, language_model
from tests.support.values import DTYPES, INF, NAN, random_normal, seeds


@torch.no_grad()
def all_continuations(model, prompt: list[int], length: int, penalty: float, eos: int | None) -> list[tuple]:
    """Every continuation there is, as (score, tokens), best first: brute force."""
    vocab_size = model.output.out_features
    found = []
    for t in range(1, length + 1):
        for tokens in itertools.product(range(vocab_size), repeat=t):
            if eos in tokens[:-1] or (t < length and tokens[-1] != eos):
                continue  # it would have ended before, or has not ended yet
            logits = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
            total = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item()
            found.append((total / t**penalty, tokens))
    return sorted(found, reverse=True)


@torch.no_grad()
def plain_beam_search(model, prompt: list[int], k: int, length: int, penalty: float, eos: int | None) -> list[tuple]:
    """The contract's beam search in lists, one prefix at a time, and without stopping early."""
    alive, pool = [(0.0, ())], []
    for _ in range(length):
        extensions = []
        for total, tokens in alive:
            step = model(torch.tensor([[*prompt, *tokens]]))[0, -1].log_softmax(-1).tolist()
            extensions += [(total + value, (*tokens, token)) for token, value in enumerate(step)]
        extensions.sort(reverse=True)
        pool += [found for found in extensions[:k] if found[1][-1] == eos]
        if k == 1 and pool:
            alive = []
            break
        alive = [found for found in extensions if found[1][-1] != eos][:k]
    return sorted(((total / len(tokens) ** penalty, tokens) for total, tokens in pool + alive), reverse=True)[:k]


@torch.no_grad()
def plain_greedy(model, prompt: list[int], length: int, eos: int | None) -> tuple[float, list[int]]:
    tokens, total = [], 0.0
    for _ in range(length):
        step = model(torch.tensor([[*prompt, *tokens]]))[0, -1].log_softmax(-1)
        tokens.append(step.argmax().item())
        total += step.max().item()
        if tokens[-1] == eos:
            break
    return total, tokens


class TestGreedyDecode:
    @given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans())
    def test_best_token_at_each_position_until_the_end(self, seed, n, time, vocab_size, ends):
        logits = random_normal(n, time, vocab_size, seed=seed, scale=2.0)
        eos = 0 if ends else None
        p = scipy.special.log_softmax(logits.numpy(), axis=-1)
        for i, decoded in enumerate(greedy_decode(logits, eos_token_id=eos)):
            best = p[i].argmax(-1).tolist()
            best = best[: best.index(0) + 1] if ends and 0 in best else best
            assert decoded.token_ids.tolist() == best
            assert decoded.token_ids.dtype == torch.int64
            assert decoded.score == pytest.approx(sum(p[i, t, v] for t, v in enumerate(best)), abs=1e-10)
            assert (decoded.tokens, decoded.text) == (None, None)

    def test_score_is_torchmetrics_perplexity(self):
        import torchmetrics.functional as tm

        logits = random_normal(1, 9, 5, scale=2.0)
        (decoded,) = greedy_decode(logits)
        perplexity = tm.text.perplexity(logits, decoded.token_ids[None])
        assert math.exp(-decoded.score / 9) == pytest.approx(perplexity.item(), rel=1e-6)

    @pytest.mark.parametrize("vocab", ["ab", ["a", "b"], {0: "a", 1: "b"}])
    def test_vocab_is_a_sequence_or_a_mapping(self, vocab):
        logits = torch.tensor([[[0.0, 5.0], [5.0, 0.0], [0.0, 5.0]]])
        (decoded,) = greedy_decode(logits, vocab=vocab, eos_token_id=0)
        assert (decoded.tokens, decoded.text) == (["b", "a"], "ba")

    @given(seeds)
    def test_permuted_samples_permute_the_result(self, seed):
        logits = random_normal(5, 4, 3, seed=seed, scale=2.0)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        decoded, permuted = greedy_decode(logits, eos_token_id=1), greedy_decode(logits[order], eos_token_id=1)
        for i, j in enumerate(order.tolist()):
            assert torch.equal(permuted[i].token_ids, decoded[j].token_ids)
            assert permuted[i].score == decoded[j].score

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_stays_finite(self, dtype):
        (decoded,) = greedy_decode(torch.tensor([[[60000.0, -60000.0], [0.0, 0.0]]], dtype=dtype))
        assert decoded.token_ids.tolist() == [0, 0]
        assert decoded.score == pytest.approx(-math.log(2), abs=5e-3)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_q7_tokens_are_the_argmax_of_the_logits(self, dtype):
        logits = (0.02 * random_normal(20, 30, 50)).to(dtype)
        exact = logits.double()
        wrong = (logits.log_softmax(-1).argmax(-1) != exact.argmax(-1)).double().mean().item()
        assert (wrong > 0.01) == (dtype in (torch.float16, torch.bfloat16))  # the error
        decoded = greedy_decode(logits)
        assert [d.token_ids.tolist() for d in decoded] == exact.argmax(-1).tolist()
        expected = exact.log_softmax(-1).amax(-1).sum(1).tolist()
        assert [d.score for d in decoded] == pytest.approx(expected, rel=1e-6)

    def test_f21_masked_tokens(self):
        logits = torch.tensor([[[-INF, 1.0, 0.0], [0.0, -INF, -INF]]])
        (decoded,) = greedy_decode(logits)
        assert decoded.token_ids.tolist() == [1, 0]
        assert decoded.score == pytest.approx(torch.tensor([1.0, 0.0]).log_softmax(0)[0].item())

    @pytest.mark.parametrize("several", [[3, 4], (4, 3), torch.tensor([3, 4])])
    def test_f21_several_end_tokens(self, several):
        logits = F.one_hot(torch.tensor([[0, 4, 1, 3], [1, 2, 3, 4], [0, 0, 0, 0]]), 5).double()
        decoded = greedy_decode(logits, eos_token_id=several)
        assert [d.token_ids.tolist() for d in decoded] == [[0, 4], [1, 2, 3], [0, 0, 0, 0]]
        with pytest.raises(ValueError, match="0 to 4, but is 5"):
            greedy_decode(logits, eos_token_id=[1, 5])

    def test_q30_a_models_output_is_read(self):
        logits = random_normal(2, 3, 4)
        packed = SimpleNamespace(logits=logits, past_key_values=object())
        assert [d.score for d in greedy_decode(packed)] == [d.score for d in greedy_decode(logits)]

    def test_says_first_that_it_generates_nothing(self):
        assert "generates nothing" in greedy_decode.__doc__.split("\n")[0]

    def test_non_contiguous_logits(self):
        logits = random_normal(4, 3, 5, scale=2.0)
        decoded, copied = greedy_decode(logits.mT), greedy_decode(logits.mT.contiguous())
        assert [d.token_ids.tolist() for d in decoded] == [d.token_ids.tolist() for d in copied]

    @pytest.mark.parametrize(
        ("logits", "options", "error", "words"),
        [
            (torch.zeros(2, 3), {}, ValueError, "3 dimension"),
            (torch.zeros(0, 2, 3), {}, ValueError, "empty"),
            (torch.zeros(2, 0, 3), {}, ValueError, "empty"),
            (torch.full((1, 1, 2), NAN), {}, ValueError, "2 NaN"),
            (torch.zeros(1, 2, 3).long(), {}, TypeError, "floating"),
            ([[[0.0]]], {}, TypeError, "torch.Tensor"),
            (torch.zeros(1, 2, 3), {"eos_token_id": 3}, ValueError, "0 to 2, but is 3"),
            (torch.zeros(1, 2, 3), {"eos_token_id": -1}, ValueError, "eos_token_id"),
            (torch.zeros(1, 2, 3), {"eos_token_id": 1.0}, TypeError, "eos_token_id"),
            (torch.full((1, 2, 3), -INF), {}, ValueError, "at least one class unmasked"),
            (torch.full((1, 2, 3), INF), {}, ValueError, r"\+inf"),
            (torch.zeros(1, 2, 3), {"eos_token_id": [1, "a"]}, TypeError, "eos_token_id"),
            (torch.zeros(1, 2, 3), {"vocab": object()}, TypeError, "id → string.*get_vocab"),
            (torch.eye(3)[None], {"vocab": "ab"}, ValueError, "no string for token 2; it has 2 entries"),
            (torch.eye(3)[None], {"vocab": {"a": 0, "b": 1}}, ValueError, "turned round"),
            (torch.eye(3)[None], {"vocab": {0: "a", 1: "b"}}, ValueError, "token 2; it has 2 entries"),
        ],
    )
    def test_bad_input(self, logits, options, error, words):
        with pytest.raises(error, match=words):
            greedy_decode(logits, **options)

    def test_e14_the_layout_is_said_and_never_guessed(self):
        logits = 9 * F.one_hot(torch.tensor([[0, 1], [2, 3]]), 4).double()  # batch == time: nothing to guess from
        first, second = ([d.token_ids.tolist() for d in greedy_decode(logits, batch_first=b)] for b in (True, False))
        assert first == [[0, 1], [2, 3]]
        assert second == [[0, 2], [1, 3]]
        longer = random_normal(5, 2, 4, scale=2.0)
        decoded = greedy_decode(longer, batch_first=False)
        assert [d.token_ids.tolist() for d in decoded] == longer.argmax(-1).T.tolist()


class TestBeamSearch:
    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
    @pytest.mark.parametrize("eos", [None, 0, 2])
    @pytest.mark.parametrize("more", [0, 5])
    def test_enough_beams_equal_exhaustive_search(self, eos, penalty, cached, more):
        """V ** max_new_tokens beams, and a few too many, for several prompts at once."""
        inner = language_model(3, seed=3)
        prompts = [[0, 1], [2, 2], [1, 0]]
        found = beam_search_decode(
            inner if cached else Refed(inner),
            torch.tensor(prompts),
            num_beams=27 + more,
            max_new_tokens=3,
            length_penalty=penalty,
            eos_token_id=eos,
        )
        for prompt, hypotheses in zip(prompts, found, strict=True):
            expected = all_continuations(inner, prompt, 3, penalty, eos)
            assert len(expected) == (27 if eos is None else 1 + 2 + 4 * 3)
            assert_same(hypotheses, expected)

    @given(
        seed=seeds,
        vocab_size=st.integers(1, 5),
        length=st.integers(1, 4),
        k=st.integers(1, 7),
        penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]),
        ends=st.booleans(),
        cached=st.booleans(),
    )
    def test_equals_a_plain_search_that_never_stops_early(self, seed, vocab_size, length, k, penalty, ends, cached):
        inner = language_model(vocab_size, seed=seed, sharpness=2 + seed % 3)
        generator = torch.Generator().manual_seed(seed)
        prompts = torch.randint(vocab_size, (2, 3), generator=generator)
        eos = seed % vocab_size if ends else None
        if ends:  # ends that come often
            inner.output.bias.data[eos] += seed % 4
        found = beam_search_decode(
            inner if cached else Refed(inner),
            prompts,
            num_beams=k,
            max_new_tokens=length,
            length_penalty=penalty,
            eos_token_id=eos,
        )
        for prompt, hypotheses in zip(prompts.tolist(), found, strict=True):
            assert_same(hypotheses, plain_beam_search(inner, prompt, k, length, penalty, eos))

    @given(seeds, st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 1.0, 2.0, -1.0]), st.booleans())
    def test_one_beam_is_greedy_and_stops_at_its_first_end(self, seed, vocab_size, length, penalty, ends):
        model = language_model(vocab_size, seed=seed)
        prompts = torch.arange(6).reshape(3, 2) % vocab_size
        eos = 0 if ends else None
        options = {"num_beams": 1, "max_new_tokens": length, "length_penalty": penalty, "eos_token_id": eos}
        for prompt, hypotheses in zip(prompts.tolist(), beam_search_decode(model, prompts, **options), strict=True):
            total, tokens = plain_greedy(model, prompt, length, eos)
            assert_same(hypotheses, [(total / len(tokens) ** penalty, tokens)])

    @given(seeds, st.booleans())
    def test_exhaustive_beams_are_never_worse_than_greedy(self, seed, ends):
        model, prompt = language_model(3, seed=seed), torch.tensor([1, 2])
        options = {"max_new_tokens": 3, "length_penalty": 0.0, "eos_token_id": 0 if ends else None}
        (greedy,), (beams,) = (beam_search_decode(model, prompt, num_beams=k, **options) for k in (1, 27))
        assert beams[0].score >= greedy[0].score - 1e-12

    def test_beams_can_beat_greedy(self):
        """The best first token leads into a flat continuation, the second best into a sure one."""
        table = torch.tensor([[0.0, 0.6, 0.4], [0.34, 0.33, 0.33], [0.01, 0.01, 0.98]]).log()
        model, prompt = Rule(lambda ids: table[ids]), torch.tensor([0])
        (greedy,), (beams,) = (beam_search_decode(model, prompt, num_beams=k, max_new_tokens=2) for k in (1, 2))
        assert greedy[0].token_ids.tolist() == [1, 0]
        assert beams[0].token_ids.tolist() == [2, 2]
        assert beams[0].score == pytest.approx(math.log(0.4 * 0.98) / 2, abs=1e-6)

    @given(seeds, st.booleans())
    def test_permuted_prompts_permute_the_result(self, seed, cached):
        inner = language_model(4, seed=seed)
        prompts = torch.randint(4, (5, 2), generator=torch.Generator().manual_seed(seed))
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        model = inner if cached else Refed(inner)
        options = {"num_beams": 3, "max_new_tokens": 3, "eos_token_id": 1}
        found, permuted = (beam_search_decode(model, p, **options) for p in (prompts, prompts[order]))
        for i, j in enumerate(order.tolist()):
            assert_same(permuted[i], [(h.score, h.token_ids.tolist()) for h in found[j]])
        (alone,) = beam_search_decode(model, prompts[0], **options)
        assert_same(alone, [(h.score, h.token_ids.tolist()) for h in found[0]])

    def test_all_beams_of_all_prompts_in_one_call_and_each_token_read_once(self):
        inner, prompts = language_model(7), torch.zeros(4, 3, dtype=torch.int64)
        refed = Refed(inner)
        beam_search_decode(refed, prompts, num_beams=5, max_new_tokens=4)
        assert refed.shapes == [(4, 3), (20, 4), (20, 5), (20, 6)]
        read, advance = [], inner.advance
        inner.advance = lambda ids, state=None: read.append(tuple(ids.shape)) or advance(ids, state)
        beam_search_decode(inner, prompts, num_beams=5, max_new_tokens=4)
        assert read == [(4, 3), (20, 1), (20, 1), (20, 1)]

    def test_stops_when_no_living_prefix_can_win(self):
        sure = Refed(Rule(lambda ids: torch.tensor([0.0, -20.0, -21.0]).expand(*ids.shape, 3)))
        (found,) = beam_search_decode(sure, torch.tensor([1]), num_beams=1, max_new_tokens=50, eos_token_id=0)
        assert len(sure.shapes) == 1
        assert found[0].token_ids.tolist() == [0]
        sure.shapes.clear()
        beam_search_decode(sure, torch.tensor([1]), num_beams=2, length_penalty=0.0, eos_token_id=0)
        assert len(sure.shapes) == 2

    def test_goes_on_while_a_long_continuation_can_still_win(self):
        """Both beams want to end in step 2; what goes on looks bad there, but is sure from then on."""
        table = torch.tensor([[1e-9, 0.51, 0.49], [0.9, 0.06, 0.04], *[[1e-9, 1 - 2e-9, 1e-9]] * 20]).double().log()
        model = Rule(lambda ids: table[: ids.shape[1]].expand(len(ids), -1, -1))
        options = {"num_beams": 2, "max_new_tokens": 20, "eos_token_id": 0}
        (found,) = beam_search_decode(model, torch.tensor([1]), **options)
        assert found[0].token_ids.tolist() == [1] * 20
        assert found[0].score == pytest.approx(math.log(0.51 * 0.06) / 20, abs=1e-6)
        (sums,) = beam_search_decode(model, torch.tensor([1]), length_penalty=0.0, **options)
        assert [h.token_ids.tolist() for h in sums] == [[1, 0], [2, 0]]

    def test_num_return_sequences_and_text(self):
        model = language_model(3)
        options = {"num_beams": 6, "max_new_tokens": 2, "vocab": {0: "x", 1: "yy", 2: "z"}}
        (every,), (two,) = (
            beam_search_decode(model, torch.tensor([1]), **options, num_return_sequences=n) for n in (None, 2)
        )
        assert (len(every), len(two)) == (6, 2)
        assert_same(two, [(h.score, h.token_ids.tolist()) for h in every[:2]])
        for hypothesis in every:
            assert hypothesis.tokens == [options["vocab"][i] for i in hypothesis.token_ids.tolist()]
            assert hypothesis.text == "".join(hypothesis.tokens)
        assert beam_search_decode(model, torch.tensor([1]), max_new_tokens=1)[0][0].text is None

    def test_impossible_tokens_are_never_returned(self):
        allowed = Rule(lambda ids: torch.tensor([-INF, 1.0, 0.0]).expand(*ids.shape, 3))
        (found,) = beam_search_decode(allowed, torch.tensor([1]), num_beams=9, max_new_tokens=2)
        assert sorted(h.token_ids.tolist() for h in found) == [[1, 1], [1, 2], [2, 1], [2, 2]]
        assert all(math.isfinite(h.score) for h in found)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_scores_follow_the_models_dtype(self, dtype):
        """float64 to the last digit; half precision adds up in float32."""
        logits = torch.tensor([0.1, 0.7, -0.4], dtype=dtype)
        model = Rule(lambda ids: logits.expand(*ids.shape, 3))
        (found,) = beam_search_decode(model, torch.tensor([0]), num_beams=1, max_new_tokens=50, length_penalty=0.0)
        expected = 50 * logits.double().log_softmax(0).max().item()
        assert found[0].score == pytest.approx(expected, rel=1e-13 if dtype == torch.float64 else 1e-5)

    @pytest.mark.parametrize("penalty", [-10.0, 10.0])
    def test_the_strongest_penalties_keep_every_hypothesis(self, penalty):
        options = {"num_beams": 2, "max_new_tokens": 200, "length_penalty": penalty}
        (found,) = beam_search_decode(language_model(4), torch.tensor([1]), **options)
        assert len(found) == 2
        assert all(math.isfinite(hypothesis.score) for hypothesis in found)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_prompts_of_any_integer_dtype_and_stride(self, dtype):
        model, prompts = language_model(4), torch.tensor([[1, 2, 3], [0, 1, 2]])
        options = {"num_beams": 2, "max_new_tokens": 2}
        view = prompts.T.contiguous().T.to(dtype)
        expected = beam_search_decode(model, prompts, **options)
        for mine, other in zip(beam_search_decode(model, view, **options), expected, strict=True):
            assert_same(mine, [(h.score, h.token_ids.tolist()) for h in other])
            assert mine[0].token_ids.dtype == torch.int64

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"prompt": torch.zeros(0, dtype=torch.int64)}, ValueError, "prompt is empty"),
            ({"prompt": torch.zeros(2, 0, dtype=torch.int64)}, ValueError, "prompt is empty"),
            ({"prompt": torch.zeros(2)}, TypeError, "prompt must have an integer dtype"),
            ({"prompt": torch.zeros(1, 1, 1).long()}, ValueError, "1 or 2 dimension"),
            ({"prompt": [1, 2]}, TypeError, "torch.Tensor"),
            ({"prompt": torch.tensor([4])}, ValueError, "prompt"),
            ({"prompt": torch.tensor([-1])}, ValueError, "prompt"),
            ({"num_beams": 0}, ValueError, "num_beams"),
            ({"num_beams": 2.0}, TypeError, "num_beams"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens"),
            ({"length_penalty": NAN}, ValueError, "length_penalty"),
            ({"length_penalty": 11.0}, ValueError, "length_penalty"),
            ({"length_penalty": 1000.0}, ValueError, "length_penalty"),
            ({"length_penalty": -1000.0}, ValueError, "length_penalty"),
            ({"eos_token_id": 4}, ValueError, "0 to 3, but is 4"),
            ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "at most num_beams, 2"),
            ({"prompt": {"input_ids": torch.tensor([[1]])}}, TypeError, r"attention_mask=batch\['attention_mask'\]"),
            ({"attention_mask": torch.ones(2)}, ValueError, r"shape \(1, 1\), but has \(1, 2\)"),
            ({"attention_mask": [1]}, TypeError, "attention_mask must be a torch.Tensor"),
            ({"attention_mask": torch.zeros(1)}, ValueError, "leaves nothing of prompt 0"),
            ({"attention_mask": torch.tensor([-1])}, ValueError, "1 for tokens and 0 for padding"),
            (
                {"prompt": torch.tensor([[1, 2, 3]] * 2), "attention_mask": torch.tensor([[0, 1, 1], [1, 0, 1]])},
                ValueError,
                "prompt 1 has some in between",
            ),
            ({"vocab": object()}, TypeError, "id → string"),
            ({"num_return_sequences": 0}, ValueError, "num_return_sequences"),
            ({"vocab": "a", "num_beams": 9, "max_new_tokens": 1}, ValueError, "vocab has no string"),
            ({"model": lambda ids: ids}, TypeError, "torch.nn.Module"),
            ({"model": Rule(lambda ids: torch.zeros(len(ids), 4))}, ValueError, r"logits \(N, T, V\)"),
            ({"model": Rule(lambda ids: torch.zeros(len(ids), 9, 4))}, ValueError, r"logits \(N, T, V\)"),
            ({"model": Rule(lambda ids: torch.full((*ids.shape, 4), NAN))}, ValueError, "NaN"),
            ({"model": Rule(lambda ids: torch.tensor([0.0, INF]).expand(*ids.shape, 2))}, ValueError, "logits"),
            ({"model": Rule(lambda ids: torch.full((*ids.shape, 4), -INF))}, ValueError, "logits"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"model": language_model(4), "prompt": torch.tensor([1]), "max_new_tokens": 3} | change
        with pytest.raises(error, match=words):
            beam_search_decode(arguments.pop("model"), arguments.pop("prompt"), **arguments)

    def test_the_logits_of_advance_are_checked_too(self):
        model = language_model(4)
        model.advance = lambda ids, state=None: (torch.zeros(*ids.shape, 4), ())  # (N, T, V), not (N, V)
        with pytest.raises(ValueError, match=r"logits \(N, V\)"):
            beam_search_decode(model, torch.tensor([1, 2]))

    def test_e15_generation_feeds_tokens_back_and_has_a_score(self):
        successor = Rule(lambda ids: 9.0 * F.one_hot((ids + 1) % 6, 6))
        prompt = torch.tensor([[0]])
        assert [greedy_decode(successor(prompt))[0].token_ids.tolist() for _ in range(3)] == [[1]] * 3  # the error
        (found,) = beam_search_decode(successor, prompt, num_beams=1, max_new_tokens=3)
        assert found[0].token_ids.tolist() == [1, 2, 3]
        step = math.log(math.exp(9) / (math.exp(9) + 5))
        assert found[0].score == pytest.approx(step, abs=1e-6)
        assert greedy_decode(successor(prompt))[0].score == pytest.approx(step, abs=1e-6)

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_e16_every_step_sees_the_whole_prompt(self, num_beams):
        """The next token is the number of tokens read so far."""
        counting = Rule(lambda ids: 20.0 * F.one_hot(torch.arange(1, ids.shape[1] + 1), 8).expand(len(ids), -1, -1))
        context, wrong = torch.tensor([[0]]), []
        for _ in range(5):
            wrong.append(counting(context)[0, -1].argmax().item())
            context = torch.tensor([wrong])  # the error: only the new tokens go on
        assert wrong == [1, 1, 2, 3, 4]
        (found,) = beam_search_decode(counting, torch.tensor([[0]]), num_beams=num_beams, max_new_tokens=5)
        assert found[0].token_ids.tolist() == [1, 2, 3, 4, 5]
        (found,) = beam_search_decode(counting, torch.tensor([0, 0, 0]), num_beams=num_beams, max_new_tokens=2)
        assert found[0].token_ids.tolist() == [3, 4]

    def test_e17_more_beams_than_words(self):
        with pytest.raises(RuntimeError, match="out of range"):
            torch.zeros(3).topk(8)  # the error
        model = language_model(3)
        (found,) = beam_search_decode(model, torch.tensor([1]), num_beams=8, max_new_tokens=1)
        assert_same(found, all_continuations(model, [1], 1, 1.0, None))
        assert len(found) == 3

    def test_e18_length_is_normalised(self):
        """Token 0 ends: with p = 0.3 at once, with 0.07 later."""
        probabilities = torch.tensor([[0.3, 0.7], *[[0.07, 0.93]] * 20], dtype=torch.float64)
        model = Rule(lambda ids: probabilities[: ids.shape[1]].log().expand(len(ids), -1, -1))
        options = {"num_beams": 2, "max_new_tokens": 15, "eos_token_id": 0}
        (unnormalised,) = beam_search_decode(model, torch.tensor([1]), length_penalty=0.0, **options)
        assert unnormalised[0].token_ids.tolist() == [0]  # the error: the empty answer wins
        assert unnormalised[0].score == pytest.approx(-1.204, abs=1e-3)
        (found,) = beam_search_decode(model, torch.tensor([1]), **options)
        assert found[0].token_ids.tolist() == [1] * 15
        assert found[0].score * 15 == pytest.approx(-1.373, abs=1e-3)

    def test_e19_objects_eval_mode_and_a_limit_of_zero(self):
        inner, prompt = language_model(4), torch.tensor([[1, 2]])
        options = {"num_beams": 3, "max_new_tokens": 3}
        (expected,) = beam_search_decode(inner, prompt, **options)
        noisy = Refed(nn.Sequential(inner, nn.Dropout(0.9)), as_object=True).train()
        inner.eval()  # mixed modes, on purpose
        (found,) = beam_search_decode(noisy, prompt, **options)
        assert_same(found, [(h.score, h.token_ids.tolist()) for h in expected])
        assert [m.training for m in (noisy, noisy.inner[1], inner, inner.lstm)] == [True, True, False, False]
        for several in ((1, 2), {"a": 1}):
            with pytest.raises(TypeError, match="with .logits or a dict with 'logits', but returned a (tuple|dict)"):
                beam_search_decode(Rule(lambda ids, several=several: several), prompt)
        for found in beam_search_decode(inner, prompt.expand(2, -1), max_new_tokens=0, vocab="abcd"):
            assert [(h.token_ids.tolist(), h.score, h.tokens, h.text) for h in found] == [([], 0.0, [], "")]
            assert found[0].token_ids.dtype == torch.int64


class TestSimpleLanguageModel:
    def test_is_embedding_lstm_and_linear(self):
        model, ids = language_model(5), torch.tensor([[1, 2, 3], [4, 0, 1]])
        hidden, _ = model.lstm(F.embedding(ids, model.embedding.weight))
        assert torch.equal(model(ids), F.linear(hidden, model.output.weight, model.output.bias))
        assert model(ids).shape == (2, 3, 5)

    def test_advance_continues_where_it_stopped(self):
        model, ids = language_model(5), torch.tensor([[1, 2, 3, 4], [4, 0, 1, 1]])
        _, state = model.advance(ids[:, :2])
        logits, _ = model.advance(ids[:, 2:], state)
        assert torch.allclose(logits, model(ids)[:, -1])

    @pytest.mark.parametrize(
        ("sizes", "error", "words"),
        [((0, 4), ValueError, "vocab_size"), ((4, 0), ValueError, "hidden_size"), ((4.0, 4), TypeError, "vocab_size")],
    )
    def test_bad_sizes(self, sizes, error, words):
        with pytest.raises(error, match=words):
            SimpleLanguageModel(*sizes)
