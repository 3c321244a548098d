"""From logits over a vocabulary to text: the best token at each position, and beam search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import check_count, check_logits, check_number, check_tensor, describe_value
from course_utils.foundation.devices import full_precision, in_double
from course_utils.foundation.evaluation import check_model, output_tensor, reading, tensor_in

Vocabulary = Sequence[str] | Mapping[int, str]
EndTokens = int | Sequence[int] | None


class SimpleLanguageModel(nn.Module):
    """Embedding, LSTM, linear: logits of the next token at every position.

    Args:
        vocab_size: V.
        hidden_size: of the embedding and of the LSTM.

    >>> model = SimpleLanguageModel(vocab_size=5, hidden_size=8)
    >>> model(torch.zeros(2, 3, dtype=torch.int64)).shape
    torch.Size([2, 3, 5])
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        check_count(vocab_size, "vocab_size")
        check_count(hidden_size, "hidden_size")
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 (N, T) → logits (N, T, V)."""
        return self.output(self.lstm(self.embedding(token_ids))[0])

    def advance(self, token_ids: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple]:
        """Read more tokens (N, T) from a state; return the logits after the last one, (N, V), and the new state.

        The state's tensors have the samples in dim 1; they may be nested in tuples, lists and dicts, or be a single
        one, as of a GRU. `beam_search_decode` uses this to read each token once.
        """
        hidden, state = self.lstm(self.embedding(token_ids), state)
        return self.output(hidden[:, -1]), state


@dataclass(frozen=True, eq=False)
class DecodedSequence:
    """A sequence read from given logits.

    Attributes:
        token_ids: int64 (T',), cut after the first end token.
        score: Σ log p of these tokens.
        tokens, text: as strings, and joined; None without a vocabulary.
    """

    token_ids: Tensor
    score: float
    tokens: list[str] | None
    text: str | None


class Hypothesis(DecodedSequence):
    """A continuation found by beam search.

    Attributes:
        token_ids: int64 (T',), the new tokens, with the end token if one was reached.
        score: Σ log p / T' ** length_penalty.
        tokens, text: as strings, and joined; None without a vocabulary.
    """


def greedy_decode(
    logits: Tensor, *, batch_first: bool = True, vocab: Vocabulary | None = None, eos_token_id: EndTokens = None
) -> list[DecodedSequence]:
    """Read the best token at each position of given logits; this generates nothing.

    The model saw its input, not these choices. To generate, feed tokens back, as
    `beam_search_decode(…, num_beams=1)` does. Half precision is read in float32, so that no two tokens are equal which
    the logits tell apart; among equal logits the first token is taken.

    Args:
        logits: floating point, (N, T, V); (T, N, V) with `batch_first=False`. The layout is never guessed. Or a model's
            output that holds them as `.logits` or under "logits". −inf is a token that is not allowed.
        batch_first: is the batch in dim 0?
        vocab: id → string, a sequence or a mapping.
        eos_token_id: the end token, or several; a sequence is cut after its first one.

    Raises:
        TypeError, ValueError: a wrong shape, NaN or +inf, only −inf at a position, an end token outside the vocabulary.

    >>> greedy_decode(torch.tensor([[[0.0, 5.0], [5.0, 0.0]]]), vocab="ab")[0].text
    'ba'
    """
    logits = check_tensor(tensor_in(logits), "logits", ndim=3, finite=False)
    logits = check_logits(full_precision(logits.detach()), class_dim=2)
    ends = _end_tokens(eos_token_id, logits.shape[2])
    _check_vocabulary(vocab)
    if not batch_first:
        logits = logits.transpose(0, 1)
    best, token_ids = logits.max(dim=-1)  # (N, T) each
    log_probabilities = best - logits.logsumexp(dim=-1)
    is_end = _is_one_of(token_ids, ends)
    # (N,), tokens to keep of each row: up to and with the first end token.
    lengths = torch.where(is_end.any(1), is_end.to(torch.uint8).argmax(1) + 1, token_ids.shape[1])
    kept = torch.arange(token_ids.shape[1], device=token_ids.device) < lengths[:, None]
    scores = in_double(torch.where(kept, log_probabilities, 0)).sum(1)
    rows = zip(token_ids, lengths.tolist(), scores.tolist(), strict=True)
    return [DecodedSequence(ids[:length], score, *_as_text(ids[:length], vocab)) for ids, length, score in rows]


@torch.no_grad()
def beam_search_decode(
    model: nn.Module,
    prompt: Tensor,
    *,
    num_beams: int = 5,
    max_new_tokens: int = 50,
    length_penalty: float = 1.0,
    eos_token_id: EndTokens = None,
    attention_mask: Tensor | None = None,
    num_return_sequences: int | None = None,
    vocab: Vocabulary | None = None,
) -> list[list[Hypothesis]]:
    """Find continuations of high probability by following the `num_beams` best prefixes at once.

    In every step each living prefix is extended by every token, and the best extensions by Σ log p go on. Those that
    end with the end token, among the top num_beams, move to a pool of the num_beams best finished ones by
    score = Σ log p / length ** length_penalty. The search stops when no living prefix can still beat the pool's worst.
    num_beams=1 is greedy search and stops at its first end token; with num_beams ≥ V ** max_new_tokens the search is
    exhaustive. Method: Graves (2012), "Sequence transduction with recurrent neural networks"; length normalisation
    as in transformers (Wu et al. 2016 divide by ((5 + length)/6)**α).

    Args:
        model: `model(token_ids)` returns logits (N, T, V), or an object with `.logits`. A model with a method
            `advance(token_ids, state)`, such as SimpleLanguageModel, reads each token once; any other one gets the
            whole prefix in every step. It runs in evaluation mode, all beams of all prompts of one length in one call.
        prompt: int64 (N, T), or (T,) for one prompt; never empty.
        attention_mask: (N, T), 1 for the prompts' own tokens and 0 for padding, at either end, as tokenizers return
            it. The padding is taken away before the model reads anything, so a padded prompt has the continuations
            of the unpadded one, with any model. None: every token is read, padding too.
        num_beams: may exceed V.
        max_new_tokens: 0 returns empty continuations with score 0.
        length_penalty: 0 compares sums, 1 means; larger favours longer continuations. In [-10, 10].
        eos_token_id: the end token, or several; None never ends early.
        num_return_sequences: how many continuations of each prompt, at most num_beams; None is num_beams.
        vocab: id → string, a sequence or a mapping.

    Returns:
        For each prompt a list of Hypothesis, best first; fewer than asked for where there are not so many.

    Raises:
        TypeError, ValueError: an empty or floating point prompt, counts out of range, logits of a wrong shape, a mask
            with holes, more tokens than the model has positions for.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> found = beam_search_decode(SimpleLanguageModel(5, 8), torch.tensor([1, 2]), num_beams=3, max_new_tokens=4)
    >>> len(found), len(found[0]), len(found[0][0].token_ids)
    (1, 3, 4)
    """
    model = check_model(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise TypeError(
            "model reads one text and writes another (an encoder and a decoder), but here prompt and continuation are "
            "one text; wrap it in a module with "
            "forward(token_ids) = model(input_ids=source, decoder_input_ids=token_ids)"
        )
    if isinstance(prompt, Mapping) and "input_ids" in prompt:
        raise TypeError(
            "prompt must be a torch.Tensor, but is a tokenizer's output; pass prompt=batch['input_ids'] and "
            "attention_mask=batch['attention_mask']"
        )
    prompt = check_tensor(prompt, "prompt", ndim=(1, 2), floating=False)
    prompt = prompt.long().reshape(-1, prompt.shape[-1])  # (N, T)
    mask = _check_mask(attention_mask, prompt)
    _check_vocabulary(vocab)
    check_count(num_beams, "num_beams")
    check_count(max_new_tokens, "max_new_tokens", minimum=0)
    if abs(check_number(length_penalty, "length_penalty")) > 10:  # length**penalty must not overflow
        raise ValueError(f"length_penalty must lie in [-10, 10], but is {length_penalty}")
    wanted = num_beams if num_return_sequences is None else check_count(num_return_sequences, "num_return_sequences")
    if wanted > num_beams:
        raise ValueError(f"num_return_sequences must be at most num_beams, {num_beams}, but is {wanted}")
    if max_new_tokens == 0:
        empty = prompt.new_empty(0)
        return [[Hypothesis(empty, 0.0, *_as_text(empty, vocab))] for _ in prompt]

    found: list[list[Hypothesis]] = [[] for _ in prompt]
    lengths = mask.sum(1)
    with reading(model) as model:
        for length in lengths.unique().tolist():  # prompts of one length go through the model together
            rows = torch.nonzero(lengths == length)[:, 0]
            alike = prompt[rows][mask[rows]].reshape(len(rows), length)
            pool = _search(_Reader(model, alike), len(rows), num_beams, max_new_tokens, length_penalty, eos_token_id)
            for place, row in enumerate(rows.tolist()):
                found[row] = pool.hypotheses(place, wanted, vocab)
    return found


def _check_mask(attention_mask: Any, prompt: Tensor) -> Tensor:
    """Which tokens of the prompts (N, T) are their own, bool (N, T); all without a mask."""
    if attention_mask is None:
        return torch.ones_like(prompt, dtype=torch.bool)
    mask = check_tensor(attention_mask, "attention_mask", ndim=(1, 2), floating=None).to(prompt.device)
    mask = mask.reshape(-1, mask.shape[-1])
    if mask.shape != prompt.shape:
        raise ValueError(
            f"attention_mask must have the prompts' shape {tuple(prompt.shape)}, but has {tuple(mask.shape)}"
        )
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError("attention_mask must hold 1 for tokens and 0 for padding, and nothing else")
    mask = mask.bool()
    if not mask.any(1).all():
        raise ValueError(f"attention_mask leaves nothing of prompt {int(mask.any(1).long().argmin())}, all is padding")
    begins = mask[:, 0].long() + (mask[:, 1:] & ~mask[:, :-1]).sum(1)  # (N,), stretches of tokens
    if (begins > 1).any():
        raise ValueError(
            f"attention_mask must have its padding at the ends, but prompt {int(begins.argmax())} has some in between"
        )
    return mask


def _search(reader: _Reader, n: int, k: int, max_new_tokens: int, length_penalty: float, eos: EndTokens) -> _Pool:
    log_probabilities = reader.first()  # (N, V)
    vocab_size, device = log_probabilities.shape[1], log_probabilities.device
    end_tokens = _end_tokens(eos, vocab_size)
    pool = _Pool(n, k, max_new_tokens, log_probabilities)
    # One living prefix for each prompt, the empty one; the other places are dead, with a sum of −inf.
    sums = log_probabilities.new_full((n, k), -torch.inf)
    sums[:, 0] = 0
    log_probabilities = log_probabilities[:, None].expand(n, k, vocab_size)
    tokens = torch.zeros(n, k, 0, dtype=torch.int64, device=device)
    done = torch.zeros(n, dtype=torch.bool, device=device)

    for length in range(1, max_new_tokens + 1):
        # Twice as many as beams: even if one extension of every beam ends, k are left to go on.
        extended_sums = (sums[:, :, None] + log_probabilities).reshape(n, -1)
        if vocab_size == 1:  # there are only k, so dead places fill up
            extended_sums = F.pad(extended_sums, (0, k), value=-torch.inf)
        top_sums, flat = extended_sums.topk(2 * k, dim=1)
        beam, token = (flat // vocab_size).clamp(max=k - 1), flat % vocab_size  # (N, 2K)
        extended = torch.cat([tokens.gather(1, beam[:, :, None].expand(-1, -1, length - 1)), token[:, :, None]], 2)
        ends = _is_one_of(token, end_tokens)

        finished = ends & (torch.arange(2 * k, device=device) < k) & ~done[:, None]
        pool.add(extended, torch.where(finished, top_sums, -torch.inf), length, length_penalty)
        if k == 1:
            done |= finished[:, 0]  # greedy search ends where its choice is the end

        alive = torch.where(ends | done[:, None], -torch.inf, top_sums)
        sums, chosen = alive.topk(k, dim=1)
        beam, tokens = beam.gather(1, chosen), extended.gather(1, chosen[:, :, None].expand(-1, -1, length))
        if length == max_new_tokens:
            pool.add(tokens, sums, length, length_penalty)
            break
        # Sums only fall with length. So no continuation scores better than the present sum divided by that length, of
        # those still possible, which gives the best score.
        best_length = max_new_tokens if length_penalty > 0 else length + 1
        done |= sums.amax(1) / best_length**length_penalty <= pool.scores.amin(1)
        if done.all():
            break
        log_probabilities = reader.next(beam, tokens)  # (N, K, V)
    return pool


class _Reader:
    """Feeds prefixes to a model and returns log-probabilities of the next token, with or without a cached state."""

    def __init__(self, model: nn.Module, prompt: Tensor) -> None:
        self.model, self.prompt, self.state, self.length, self.beams = model, prompt, None, 0, 1
        self.cached = callable(getattr(model, "advance", None))

    def _log_probabilities(self, token_ids: Tensor) -> Tensor:
        if self.cached:
            logits, self.state = self._call(self.model.advance, token_ids, self.state)
            if logits.ndim != 2 or len(logits) != len(token_ids):
                wanted = f"logits (N, V) with N = {len(token_ids)}"
                raise ValueError(f"advance must return {wanted}, but returned {describe_value(logits)}")
        else:
            logits = output_tensor(self._call(self.model, token_ids))
            if logits.ndim != 3 or logits.shape[:2] != token_ids.shape:
                raise ValueError(
                    f"the model must return logits (N, T, V) with (N, T) = {tuple(token_ids.shape)}, "
                    f"but returned {describe_value(logits)}"
                )
            logits = logits[:, -1]
        log_probabilities = full_precision(logits).log_softmax(-1)
        if torch.isnan(log_probabilities).any():  # also from +inf, and from a row of −inf only
            raise ValueError("the model's logits hold NaN, +inf or only −inf values")
        return log_probabilities

    def first(self) -> Tensor:
        """(N, V) after the prompt."""
        return self._log_probabilities(self.prompt)

    def _call(self, read: Callable, token_ids: Tensor, *state: Any) -> Any:
        """Let the model read, and say what it read if it cannot: its own error rarely does."""
        self.length = token_ids.shape[1] + (self.length if state else 0)
        try:
            return read(token_ids, *state)
        except (IndexError, RuntimeError) as error:
            given = self.prompt.shape[1]
            low, high = int(token_ids.min()), int(token_ids.max())
            sentence = (
                f"the model failed while it read {self.length} tokens, the prompt's {given} and {self.length - given} "
                f"new ones, with ids from {low} to {high}. Does it have so many positions, and ids up to {high}? If "
                "not, shorten the prompt or max_new_tokens, or take the tokenizer of this model."
            )
            if isinstance(error, IndexError):  # an embedding that was asked for a row it does not have
                raise ValueError(f"{sentence} ({error})") from error
            error.add_note(sentence)
            raise

    def next(self, beam: Tensor, tokens: Tensor) -> Tensor:
        """(N, K, V) after the prefixes `tokens` (N, K, T), each of which grew out of the place `beam` (N, K)."""
        n, k, _ = tokens.shape
        if self.cached:
            parent = beam if self.beams > 1 else torch.zeros_like(beam)
            rows = (torch.arange(n, device=beam.device)[:, None] * self.beams + parent).flatten()
            self.state = _rows_of(self.state, rows, samples=n * self.beams)
            self.beams = k
            return self._log_probabilities(tokens[:, :, -1].reshape(n * k, 1)).reshape(n, k, -1)
        whole = torch.cat([self.prompt[:, None].expand(-1, k, -1), tokens], 2)  # (N, K, prompt + T)
        return self._log_probabilities(whole.flatten(0, 1)).reshape(n, k, -1)


def _rows_of(state: Any, rows: Tensor, *, samples: int) -> Any:
    """The same state for the samples `rows`: of each tensor, these places of dim 1, however deep it lies."""
    if isinstance(state, Tensor):
        if state.ndim < 2 or state.shape[1] != samples:
            raise ValueError(
                f"the state of advance must have its {samples} samples in dim 1, but holds {describe_value(state)}"
            )
        return state[:, rows]
    if isinstance(state, Mapping):
        return {name: _rows_of(part, rows, samples=samples) for name, part in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [_rows_of(part, rows, samples=samples) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if state is None or isinstance(state, (int, float)):  # the same for all samples, such as a position
        return state
    raise TypeError(
        "the state of advance must be a tensor, or tuples, lists and dicts of tensors with the samples in dim 1, but "
        f"holds {describe_value(state)}"
    )


class _Pool:
    """The best K finished continuations of each prompt."""

    def __init__(self, n: int, k: int, max_length: int, like: Tensor) -> None:
        self.scores = like.new_full((n, k), -torch.inf)
        self.lengths = torch.zeros(n, k, dtype=torch.int64, device=like.device)
        self.tokens = torch.zeros(n, k, max_length, dtype=torch.int64, device=like.device)

    def add(self, tokens: Tensor, sums: Tensor, length: int, length_penalty: float) -> None:
        """Offer continuations (N, M, length) with their Σ log p (N, M); −inf marks a place that is none."""
        n, m, _ = tokens.shape
        padded = tokens.new_zeros(n, m, self.tokens.shape[2])
        padded[:, :, :length] = tokens
        scores = torch.cat([self.scores, sums / length**length_penalty], 1)
        lengths = torch.cat([self.lengths, torch.full((n, m), length, device=tokens.device)], 1)
        everything = torch.cat([self.tokens, padded], 1)
        self.scores, best = scores.topk(self.scores.shape[1], dim=1)
        self.lengths = lengths.gather(1, best)
        self.tokens = everything.gather(1, best[:, :, None].expand(-1, -1, everything.shape[2]))

    def hypotheses(self, n: int, wanted: int, vocab: Vocabulary | None) -> list[Hypothesis]:
        rows = zip(self.tokens[n, :wanted], self.lengths[n, :wanted].tolist(), self.scores[n].tolist(), strict=False)
        return [
            Hypothesis(ids[:length].clone(), score, *_as_text(ids[:length], vocab))
            for ids, length, score in rows
            if score > float("-inf")
        ]


def _end_tokens(eos_token_id: Any, vocab_size: int) -> list[int]:
    """The end tokens as a list: none, one or several."""
    if eos_token_id is None:
        return []
    several = eos_token_id.tolist() if isinstance(eos_token_id, Tensor) else eos_token_id
    several = list(several) if isinstance(several, (list, tuple, set)) else [several]
    for token_id in several:
        if check_count(token_id, "eos_token_id", minimum=0) >= vocab_size:
            raise ValueError(f"eos_token_id must lie in the vocabulary, 0 to {vocab_size - 1}, but is {token_id}")
    return several


def _is_one_of(token_ids: Tensor, several: list[int]) -> Tensor:
    """bool, in the shape of `token_ids`."""
    return torch.isin(token_ids, torch.tensor(several, dtype=torch.int64, device=token_ids.device))


def _check_vocabulary(vocab: Any) -> None:
    if vocab is not None and not (hasattr(vocab, "__getitem__") and hasattr(vocab, "__len__")):
        raise TypeError(
            f"vocab must be a list or a dict, id → string, but is {describe_value(vocab)}; of a tokenizer pass "
            "{id: token for token, id in tokenizer.get_vocab().items()}"
        )


def _as_text(token_ids: Tensor, vocab: Any) -> tuple[list[str] | None, str | None]:
    if vocab is None:
        return None, None
    tokens = []
    for token_id in token_ids.tolist():
        try:
            tokens.append(vocab[token_id])
        except (KeyError, IndexError):
            hint = ""
            if isinstance(vocab, Mapping) and any(isinstance(key, str) for key in vocab):
                hint = " that are strings; is it turned round? {id: token for token, id in vocab.items()} is wanted"
            raise ValueError(f"vocab has no string for token {token_id}; it has {len(vocab)} entries{hint}") from None
    return tokens, "".join(map(str, tokens))
