"""The exercises of chapter 1 and the mistakes they are known for.

Exercises: 1 read a row of logits; 2 one logit per sample; 3 softmax that survives large logits; 4 the loss, from
logits; 5 the next character; 6 one label per pixel; 7 find and fix.
"""

from functools import cache

import torch
from torch import Tensor

from course_utils.checks.exercise import Exercise
from course_utils.data import generate_images, load_split, load_text
from course_utils.foundation.seeding import make_generator


@cache
def linear_logits(name: str) -> Tensor:
    """Logits of a logistic regression on the test part of a real data set: (N, 1) for two classes, else (N, C)."""
    from sklearn.linear_model import LogisticRegression

    split = load_split(name)
    model = LogisticRegression(max_iter=500).fit(split.x_train.numpy(), split.y_train.numpy())
    logits = torch.as_tensor(model.decision_function(split.x_test.numpy())).float()
    return logits[:, None] if logits.ndim == 1 else logits


def some(values: Tensor, count: int, seed: int) -> Tensor:
    return values[torch.randperm(len(values), generator=make_generator(seed))[:count]]


def _rows_cases(seed: int) -> list[tuple]:
    logits = linear_logits("digits")
    return [(some(logits, 12, seed),), (some(logits, 1, seed + 1),), (some(linear_logits("iris"), 5, seed) + 300,)]


def _best_two(values: Tensor) -> tuple[Tensor, Tensor]:
    best = values.topk(2, dim=1).values  # (N, 2)
    return best[:, 0], best[:, 1]


TIMES = Exercise(
    name="basics.times_as_probable",
    praise="A gap between two logits is a factor between two probabilities, and you need not compute either of them.",
    reference=lambda logits: torch.exp(_best_two(logits)[0] - _best_two(logits)[1]),
    cases=_rows_cases,
    tolerance=1e-4,
    wrong_answers={
        "the gap of the logits itself": (
            "This is the gap. A gap of 2.3 means about 10 times as probable, not 2.3 times: one step is missing.",
            lambda logits: _best_two(logits)[0] - _best_two(logits)[1],
        ),
        "the ratio of the logits": (
            "Logits are not probabilities: their ratio means nothing, and changes when a number is added to the row. "
            "Only their difference counts.",
            lambda logits: _best_two(logits)[0] / _best_two(logits)[1],
        ),
        "the difference of the probabilities": (
            "The question is how many *times* as probable, so it asks for a ratio.",
            lambda logits: _best_two(torch.softmax(logits, 1))[0] - _best_two(torch.softmax(logits, 1))[1],
        ),
        "the ratio turned over": (
            "You divided the runner-up by the most probable class. The answer is at least 1.",
            lambda logits: torch.exp(_best_two(logits)[1] - _best_two(logits)[0]),
        ),
        "the odds against all other classes together": (
            "p / (1 − p) compares the best class with everything else. The question compares it with the runner-up.",
            lambda logits: torch.softmax(logits, 1).amax(1) / (1 - torch.softmax(logits, 1).amax(1)),
        ),
        "the raw largest logit": (
            "One logit alone says nothing: compare the two largest of the row.",
            lambda logits: _best_two(logits)[0],
        ),
        "e to the largest logit": (
            "One logit alone says nothing: subtract the second largest logit of the row first.",
            lambda logits: torch.exp(_best_two(logits)[0]),
        ),
        "the two smallest logits": (
            "sort() puts the smallest first. Sort with descending=True, or use topk.",
            lambda logits: torch.exp(logits.sort(1).values[:, 0] - logits.sort(1).values[:, 1]),
        ),
        "the first two classes instead of the best two": (
            "Columns 0 and 1 are just the first two classes. Take the two largest logits of each row: topk(2, dim=1).",
            lambda logits: torch.exp(logits[:, 0] - logits[:, 1]),
        ),
        "the right values in the shape (N, 1)": (
            "One number for each row: (N,). A slice such as best[:, :1] keeps the axis, best[:, 0] drops it.",
            lambda logits: torch.exp(_best_two(logits)[0] - _best_two(logits)[1])[:, None],
        ),
    },
)


def _tumour_cases(seed: int) -> list[tuple]:
    logits = linear_logits("breast_cancer")
    return [(some(logits, 20, seed),), (some(logits, 1, seed + 1),)]


TUMOUR = Exercise(
    name="basics.tumour_probability",
    praise="One logit per sample means sigmoid, and the caller gets one number per sample.",
    reference=lambda logits: torch.sigmoid(logits[:, 0]),
    cases=_tumour_cases,
    wrong_answers={
        "softmax over a single logit": (
            "Softmax makes the values along an axis sum to 1. An axis of length 1 leaves it no choice: every answer is "
            "1.0, whatever the logit. For one logit per sample use torch.sigmoid.",
            lambda logits: torch.softmax(logits, dim=1)[:, 0],
        ),
        "softmax over a single logit, and the column kept": (
            "Softmax over an axis of length 1 is always 1.0; use torch.sigmoid. Then drop the column: (N, 1) → (N,).",
            lambda logits: torch.softmax(logits, dim=1),
        ),
        "softmax over the batch": (
            "dim=0 is the axis of the samples. Now each patient's probability depends on who else is in the batch.",
            lambda logits: torch.softmax(logits, dim=0)[:, 0],
        ),
        "softmax over the batch, and the column kept": (
            "dim=0 is the axis of the samples. One patient's probability must not depend on the others: use sigmoid.",
            lambda logits: torch.softmax(logits, dim=0),
        ),
        "right values in the shape (N, 1)": (
            "Drop the last axis with logits[:, 0] or .squeeze(1). Not with a bare .squeeze(): it would also drop the "
            "batch axis of a single patient.",
            lambda logits: torch.sigmoid(logits),
        ),
        "a bare .squeeze() on a batch of one": (
            ".squeeze() drops every axis of length 1, the batch axis of a single patient too. Say which: .squeeze(1).",
            lambda logits: torch.sigmoid(logits).squeeze(),
        ),
        "the probability of class 0": (
            "sigmoid(z) is the probability of class 1; 1 − sigmoid(z), which is sigmoid(−z), is that of class 0.",
            lambda logits: torch.sigmoid(-logits[:, 0]),
        ),
        "sigmoid applied twice": (
            "Probabilities went through sigmoid again, so they all crowd between 0.5 and 0.73.",
            lambda logits: torch.sigmoid(torch.sigmoid(logits[:, 0])),
        ),
        "the raw logits": (
            "These are the logits themselves. A logit of 3 is no probability: use torch.sigmoid.",
            lambda logits: logits[:, 0],
        ),
        "the raw logits in the shape (N, 1)": (
            "These are the logits themselves. A logit of 3 is no probability: use torch.sigmoid, then drop the column.",
            lambda logits: logits,
        ),
        "labels instead of probabilities": (
            "The decision (0 or 1) comes later, and whoever takes it may want another threshold than 0.5.",
            lambda logits: (logits[:, 0] > 0).float(),
        ),
    },
)


def _softmax_cases(seed: int) -> list[tuple]:
    logits = linear_logits("digits")
    # The same logits at temperature 1/100: sharp, and beyond what exp can hold in float32.
    shifts = torch.tensor([[0.0], [-2000], [300], [0], [-500], [1000]])
    return [(some(logits, 6, seed),), (100 * some(logits, 6, seed + 1),), (50 * some(logits, 6, seed) + shifts,)]


SOFTMAX = Exercise(
    name="basics.stable_softmax",
    praise="Shift invariance is not only a curiosity: it is what keeps exp from overflowing.",
    reference=lambda logits: torch.softmax(logits, dim=1),
    cases=_softmax_cases,
    wrong_answers={
        "exp overflows": (
            "exp(89) is already infinite in float32, and inf / inf is NaN. Subtract each row's maximum first: softmax "
            "does not change when the same number is subtracted from a whole row.",
            lambda logits: logits.exp() / logits.exp().sum(1, keepdim=True),
        ),
        "the classes summed over the wrong axis": (
            "Each row must sum to 1, so sum over dim=1; dim=0 runs over the samples.",
            lambda logits: torch.softmax(logits, dim=0),
        ),
        "the maximum of the whole batch": (
            "Rows far below the largest logit of the batch underflow to 0, and 0/0 is NaN. Subtract each row's own "
            "maximum: logits.amax(dim=1, keepdim=True).",
            lambda logits: (logits - logits.max()).exp() / (logits - logits.max()).exp().sum(1, keepdim=True),
        ),
        "one sum for the whole batch": (
            "Without dim=1 the sum runs over all samples, so each row's share of it is lost.",
            lambda logits: (logits - logits.max()).exp() / (logits - logits.max()).exp().sum(),
        ),
        "softmax applied twice": (
            "Probabilities went in as if they were logits, so the answer is much too unsure.",
            lambda logits: torch.softmax(torch.softmax(logits, dim=1), dim=1),
        ),
        "log-probabilities": (
            "These are the logarithms. One exp is missing at the end.",
            lambda logits: torch.log_softmax(logits, dim=1),
        ),
        "logits cut at a limit": (
            "Cutting large logits changes the gaps between them, and with the gaps the probabilities. Subtract each "
            "row's maximum instead: it keeps every gap.",
            lambda logits: logits.clamp(max=80).exp() / logits.clamp(max=80).exp().sum(1, keepdim=True),
        ),
        "a missing keepdim=True": (
            "A maximum or a sum over dim=1 has the shape (N,). Without keepdim=True it does not line up with the "
            "(N, C) logits.",
            lambda logits: logits.exp() / logits.exp().sum(1),
        ),
    },
)


def _loss_cases(seed: int) -> list[tuple]:
    logits, target = linear_logits("digits"), load_split("digits").y_test
    rows = torch.randperm(len(logits), generator=make_generator(seed))[:20]
    wrong = (target[rows] + 1) % 10
    # Then the same rows 300 higher, which changes no probability; then at temperature 1/50 about wrong classes.
    return [(logits[rows], target[rows]), (logits[rows] + 300, target[rows]), (50 * logits[rows], wrong)]


def _true_probability(logits: Tensor, target: Tensor) -> Tensor:
    return torch.softmax(logits, 1)[torch.arange(len(logits)), target]


LOSS = Exercise(
    name="basics.loss_from_logits",
    praise="The logit of the true class against the log-sum-exp of all: that is all a classifier is trained with.",
    reference=lambda logits, target: torch.nn.functional.cross_entropy(logits, target),
    cases=_loss_cases,
    wrong_answers={
        "the logarithm of a rounded probability": (
            "Where the network is sure and wrong, softmax stores 0, and log 0 is minus infinity. Compute log p as "
            "logit − logsumexp and never as the logarithm of a probability.",
            lambda logits, target: -_true_probability(logits, target).log().mean(),
        ),
        "a power that overflows": (
            "e to a large logit is infinite. Use torch.logsumexp, which takes the largest logit out first.",
            lambda logits, target: (logits.exp().sum(1).log() - logits[torch.arange(len(logits)), target]).mean(),
        ),
        "the sum over the samples": (
            "Take the mean over the N samples; a sum grows with the size of the batch.",
            lambda logits, target: torch.nn.functional.cross_entropy(logits, target, reduction="sum"),
        ),
        "one loss for each sample": (
            "One step is missing: the mean over the samples.",
            lambda logits, target: torch.nn.functional.cross_entropy(logits, target, reduction="none"),
        ),
        "log p instead of −log p": (
            "The sign is turned: a good answer must have a small loss.",
            lambda logits, target: -torch.nn.functional.cross_entropy(logits, target),
        ),
        "softmax twice": (
            "Probabilities went through log-softmax again. Start from the logits.",
            lambda logits, target: torch.nn.functional.cross_entropy(torch.softmax(logits, 1), target),
        ),
        "1 − p instead of −log p": (
            "This is the mean of 1 − p. The loss is −log p: nearly the same near p = 1, and without limit near p = 0.",
            lambda logits, target: (1 - _true_probability(logits, target)).mean(),
        ),
        "the raw logit of the true class": (
            "Minus the logit of the true class can be made small by adding a number to the row. Add the log-sum-exp.",
            lambda logits, target: -logits[torch.arange(len(logits)), target].mean(),
        ),
        "normalised over the batch": (
            "dim=0 runs over the samples. Each row is one distribution: logsumexp(dim=1).",
            lambda logits, target: (
                torch.logsumexp(logits, 0)[target] - logits[torch.arange(len(logits)), target]
            ).mean(),
        ),
        "a column for each target instead of one entry for each row": (
            "logits[:, target] takes whole columns and has the shape (N, N). Take one entry of each row: "
            "logits[torch.arange(N), target].",
            lambda logits, target: (torch.logsumexp(logits, 1)[:, None] - logits[:, target]).mean(),
        ),
        "a small number added inside the logarithm": (
            "Adding 1e-8 hides the infinity and cuts the loss off at 18.4, just where the network is most wrong. "
            "Compute log p as logit − logsumexp.",
            lambda logits, target: -(_true_probability(logits, target) + 1e-8).log().mean(),
        ),
        "the mean over all classes": (
            "Every class was asked. Only the probability of the true class counts: pick one entry of each row.",
            lambda logits, target: -torch.log_softmax(logits, 1).mean(),
        ),
    },
)


@cache
def bigram_logits() -> Tensor:
    """A language model by counting: row i holds the log-counts of what follows character i in the text, (V, V)."""
    text = load_text()
    ids = text.encode(text.characters)
    size = len(text.vocab)
    counts = torch.bincount(ids[:-1] * size + ids[1:], minlength=size * size).reshape(size, size)
    return (counts + 0.1).log()


def _next_cases(seed: int) -> list[tuple]:
    text = load_text()
    starts = torch.randint(len(text.characters) - 20, (5,), generator=make_generator(seed)).tolist()
    logits = bigram_logits()
    logits = logits + 0.01 * torch.rand(logits.shape, generator=make_generator(seed))  # no two are equally probable
    prompts = [
        torch.stack([text.encode(text.characters[start : start + length]) for start in starts]) for length in (12, 7)
    ]  # (N, T) each
    return [(logits[ids],) for ids in prompts]  # (N, T, V)


NEXT = Exercise(
    name="basics.next_character",
    praise="A language model predicts at every position; the future is in the last one.",
    reference=lambda logits: logits[:, -1].argmax(dim=-1),
    cases=_next_cases,
    wrong_answers={
        "argmax over time": (
            "dim=1 is the axis of the positions. The characters to choose from lie along the last axis.",
            lambda logits: logits.argmax(dim=1),
        ),
        "a prediction for every position": (
            "Position t predicts character t + 1. Only the last position says something new: take logits[:, -1].",
            lambda logits: logits.argmax(dim=-1),
        ),
        "the prediction of the first position": (
            "logits[:, 0] predicts the second character of the prompt, which you already have. Take logits[:, -1].",
            lambda logits: logits[:, 0].argmax(dim=-1),
        ),
        "the last sequence of the batch": (
            "logits[-1] is the last sample. The last position of every sample is logits[:, -1].",
            lambda logits: logits[-1].argmax(dim=-1),
        ),
        "the last character of the vocabulary at every position": (
            "logits[:, :, -1] is the score of the vocabulary's last character. The last position is logits[:, -1].",
            lambda logits: logits[:, :, -1].argmax(dim=-1),
        ),
        "the flat index of the whole batch": (
            "argmax() without dim returns one position in the flattened tensor. Choose along the last axis.",
            lambda logits: logits[:, -1].argmax(),
        ),
        "argmax over the prompts": (
            "dim=0 is the axis of the prompts, so prompts were compared with each other. Choose along the last axis.",
            lambda logits: logits[:, -1].argmax(dim=0),
        ),
        "scores instead of characters": (
            "max() gives the largest logit; argmax() gives the id of the character that has it.",
            lambda logits: logits[:, -1].max(dim=-1).values,
        ),
    },
)


def _pixel_cases(seed: int) -> list[tuple]:
    generated = generate_images(4, seed=seed)
    images = generated.images.float() / 255
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    # A labeller without training: what differs from the border's mean colour is shape.
    distance = (images - border.mean(2)[:, :, None, None]).square().sum(1)  # (N, H, W)
    logits = torch.stack([torch.zeros_like(distance), 20 * distance - 3], 1)  # (N, 2, H, W)
    generator = make_generator(seed)
    four = torch.randn(3, 4, 5, 7, generator=generator), torch.randint(4, (3, 5, 7), generator=generator)
    return [(logits, generated.masks.long()), four]


PIXELS = Exercise(
    name="basics.pixel_accuracy",
    praise="Classes in dim 1, one decision per pixel, one number per picture.",
    reference=lambda logits, target: (logits.argmax(dim=1) == target).float().mean(dim=(1, 2)),
    cases=_pixel_cases,
    wrong_answers={
        "argmax along the columns of the picture": (
            "In (N, C, H, W) the last axis is the width. The classes are in dim 1.",
            lambda logits, target: (logits.argmax(dim=-1) == target).float().mean(dim=(1, 2)),
        ),
        "argmax over the pictures": (
            "dim=0 runs over the pictures of the batch. The classes are in dim 1.",
            lambda logits, target: (logits.argmax(dim=0) == target).float().mean(dim=(1, 2)),
        ),
        "softmax along the columns of the picture": (
            "softmax(dim=-1) lets the pixels of a row compete with each other. The classes compete, in dim 1; for the "
            "label no softmax is needed at all.",
            lambda logits, target: (logits.softmax(-1).argmax(1) == target).float().mean(dim=(1, 2)),
        ),
        "one number for the whole batch": (
            "Keep the pictures apart: take the mean over the axes (1, 2) only.",
            lambda logits, target: (logits.argmax(dim=1) == target).float().mean(),
        ),
        "right and wrong swapped": (
            "This is the share of wrong pixels.",
            lambda logits, target: (logits.argmax(dim=1) != target).float().mean(dim=(1, 2)),
        ),
        "the share at each position of the picture, over the batch": (
            "The mean ran over the pictures. Each picture shall keep its own number: take the mean over (1, 2).",
            lambda logits, target: (logits.argmax(dim=1) == target).float().mean(dim=0),
        ),
        "whole numbers instead of shares": (
            "These are counts of right pixels. Turn True and False into floats first, then take the mean.",
            lambda logits, target: (logits.argmax(dim=1) == target).sum(dim=(1, 2)),
        ),
        "a mean of True and False": (
            "PyTorch takes no mean of booleans: turn them into numbers first, with .float().",
            lambda logits, target: (logits.argmax(dim=1) == target).mean(dim=(1, 2)),
        ),
        "counts instead of shares": (
            "Divide by the number of pixels: use mean, not sum.",
            lambda logits, target: (logits.argmax(dim=1) == target).float().sum(dim=(1, 2)),
        ),
    },
)


def _confidence_cases(seed: int) -> list[tuple]:
    logits = linear_logits("digits")
    return [(some(logits, 7, seed), 3.0), (some(logits, 4, seed + 1), 0.5)]


def _confidence_with(*bugs: str):
    """The exercise's function with some of its three bugs left in."""

    def answer(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        scaled = logits * temperature if "times" in bugs else logits / temperature
        probabilities = torch.softmax(scaled, dim=0 if "batch" in bugs else 1)
        labels = probabilities.argmax(1)
        return labels, probabilities.max() if "one maximum" in bugs else probabilities.amax(1)

    return answer


def _read(probabilities: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    confidence, labels = probabilities.max(dim=dim)
    return labels, confidence


CONFIDENCE = Exercise(
    name="basics.labels_and_confidence",
    praise="Three bugs found. The temperature changes how sure an answer is, and never which.",
    reference=lambda logits, temperature: _read(torch.softmax(logits / temperature, dim=1)),
    cases=_confidence_cases,
    wrong_answers={
        "the broken function unchanged": (
            "Look for three bugs: what T does to the logits, which axis softmax works on, and over what the maximum "
            "is taken.",
            _confidence_with("times", "batch", "one maximum"),
        ),
        "multiplying by the temperature": (
            "Hot means unsure: the logits are divided by T. Multiplying makes T = 3 sharper instead of softer.",
            _confidence_with("times"),
        ),
        "softmax over the batch": (
            "dim=0 runs over the samples. The classes are in dim 1.",
            _confidence_with("batch"),
        ),
        "one confidence for the whole batch": (
            ".max() without dim gives the largest number of the whole tensor. Each sample has its own: .max(dim=1).",
            _confidence_with("one maximum"),
        ),
        "one of three bugs fixed, the maximum": (
            "Two are left: T multiplies where it should divide, and softmax runs over the samples (dim=0).",
            _confidence_with("times", "batch"),
        ),
        "one of three bugs fixed, the axis of softmax": (
            "Two are left: T multiplies where it should divide, and one maximum serves the whole batch.",
            _confidence_with("times", "one maximum"),
        ),
        "one of three bugs fixed, the temperature": (
            "Two are left: softmax runs over the samples (dim=0), and one maximum serves the whole batch.",
            _confidence_with("batch", "one maximum"),
        ),
        "the temperature applied to the probabilities": (
            "Dividing probabilities by T makes them sum to 1/T. The temperature belongs to the logits.",
            lambda logits, temperature: _read(torch.softmax(logits, dim=1) / temperature),
        ),
        "labels and confidence swapped": (
            "The values are right; return the labels first.",
            lambda logits, temperature: _read(torch.softmax(logits / temperature, dim=1))[::-1],
        ),
        "max(dim=1) as it comes": (
            "max(dim=1) returns two things, the values and their places. The confidence is its .values.",
            lambda logits, temperature: (
                torch.softmax(logits / temperature, 1).argmax(1),
                torch.softmax(logits / temperature, 1).max(1),
            ),
        ),
        "nothing returned": ("The function ends without a return line.", lambda logits, temperature: None),
        "the temperature forgotten": (
            "This is the confidence at T = 1.",
            lambda logits, temperature: _read(torch.softmax(logits, dim=1)),
        ),
    },
)

EXERCISES = (TIMES, TUMOUR, SOFTMAX, LOSS, NEXT, PIXELS, CONFIDENCE)
