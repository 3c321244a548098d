"""The exercises of chapter 4 and the mistakes they are known for.

Exercises: 1 a mean over batches of different size; 2 outputs of a recurrent network, find and fix; 3 log-sum-exp; 4
the first non-finite layer.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from course_utils.checks.basics import linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import make_generator


def _batch_cases(seed: int) -> list[tuple]:
    logits, target = linear_logits("digits"), load_split("digits").y_test
    order = torch.randperm(len(logits), generator=make_generator(seed))[:130]
    losses = nn.functional.cross_entropy(3 * logits[order], target[order], reduction="none")
    losses = losses.sort().values  # the small last batch holds the worst samples
    cases = []
    for size in (64, 50):
        batches = losses.split(size)
        cases.append((torch.stack([b.mean() for b in batches]), torch.tensor([len(b) for b in batches])))
    return cases


MEAN = Exercise(
    name="pitfalls.mean_over_samples",
    praise="Every sample counts the same, whatever batch it was in.",
    reference=lambda means, sizes: ((means * sizes).sum() / sizes.sum()).item(),
    cases=_batch_cases,
    wrong_answers={
        "the mean of the batch means": (
            "The last batch is small, and its few samples weigh as much as a whole batch. Weigh each mean by its size.",
            lambda means, sizes: means.mean().item(),
        ),
        "divided by the number of batches": (
            "The weighted sum is the sum over all samples; divide it by the number of samples.",
            lambda means, sizes: ((means * sizes).sum() / len(means)).item(),
        ),
        "a sum of the means over the number of samples": (
            "A batch's *sum* is its mean times its size.",
            lambda means, sizes: (means.sum() / sizes.sum()).item(),
        ),
        "the last batch dropped": (
            "Its samples count too.",
            lambda means, sizes: ((means * sizes)[:-1].sum() / sizes[:-1].sum()).item(),
        ),
    },
)


def _sequence_cases(seed: int) -> list[tuple]:
    logits = some(linear_logits("digits"), 15, seed)
    return [(logits.reshape(5, 3, 10),), (logits[:12].reshape(3, 4, 10),)]


AXES = Exercise(
    name="pitfalls.answers_by_sample",
    praise="Each row now belongs to one sample.",
    reference=lambda output: output.argmax(-1).T,
    cases=_sequence_cases,
    wrong_answers={
        "the broken function unchanged": (
            "reshape fills the new shape in memory order, so a row holds the steps of several samples. Swap the axes.",
            lambda output: output.reshape(output.shape[1], output.shape[0], -1).argmax(-1),
        ),
        "the axes not swapped": (
            "The rows are time steps still. transpose(0, 1), or permute(1, 0, 2).",
            lambda output: output.argmax(-1),
        ),
        "argmax over time": (
            "dim=0 of (T, N, C) runs over the time steps. The classes are in the last axis.",
            lambda output: output.argmax(0),
        ),
        "argmax over the samples": (
            "dim=1 of (T, N, C) runs over the samples. The classes are in the last axis.",
            lambda output: output.argmax(1),
        ),
    },
)


def _lse_cases(seed: int) -> list[tuple]:
    logits = some(linear_logits("digits"), 6, seed)
    apart = 50 * logits + torch.tensor([[0.0], [-2000], [300], [0], [-500], [1000]])  # rows far from each other
    masked = logits.clone()
    masked[2] = -math.inf  # everything masked
    return [(apart,), (masked,)]


def _shifted(z: Tensor, shift: Tensor) -> Tensor:
    return (z - shift).exp().sum(-1).log()


LSE = Exercise(
    name="pitfalls.log_sum_exp",
    praise="Finite for logits of any size, and −∞ where there is nothing.",
    reference=lambda z: torch.logsumexp(z, -1),
    cases=_lse_cases,
    wrong_answers={
        "the formula as it stands": (
            "exp overflows at 88 in float32. Subtract each row's maximum first, and add it again at the end.",
            lambda z: z.exp().sum(-1).log(),
        ),
        "the maximum not added again": (
            "log Σ exp(z − m) + m: you left out the + m.",
            lambda z: _shifted(z, z.amax(-1, keepdim=True)),
        ),
        "one maximum for the whole batch": (
            "Rows far below it underflow to log(0). Each row needs its own maximum: amax(dim=-1, keepdim=True).",
            lambda z: _shifted(z, z.max()) + z.max(),
        ),
        "−inf minus −inf": (
            "In a row of −∞ the maximum is −∞ too, and −∞ − (−∞) is NaN. Subtract 0 there.",
            lambda z: _shifted(z, z.amax(-1, keepdim=True)) + z.amax(-1),
        ),
        "a clamp before exp": (
            "A clamp changes the values, and with them the answer.",
            lambda z: z.clamp(max=80).exp().sum(-1).log(),
        ),
        "the wrong axis": (
            "Sum over the classes, the last axis; dim=0 sums over the samples.",
            lambda z: torch.logsumexp(z, 0),
        ),
    },
)


class _Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class _LogBlock(nn.Sequential):
    """Its layers' output is finite; what its own forward makes of that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return (-1 - super().forward(x).abs()).log()


def _layer_cases(seed: int) -> list[tuple]:
    x = some(load_split("digits").x_test, 8, seed)
    overflowing = nn.Sequential(
        nn.Linear(64, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 16), nn.ReLU()), nn.BatchNorm1d(16), nn.Linear(16, 10)
    )
    with torch.no_grad():
        overflowing[1][1].weight[0] = 3e38  # an infinite output first, NaN behind it
        overflowing[1][1].bias[0] = 3e38
        overflowing[0].bias += 5
    logarithm = nn.Sequential(nn.Linear(64, 16), nn.Sequential(nn.Tanh(), _Log()), nn.Linear(16, 10))
    finite = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    raising = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(8, 10))  # the last layer does not fit
    block = nn.Sequential(_LogBlock(nn.Linear(64, 16)), nn.Linear(16, 10))
    return [(model.eval(), x) for model in (logarithm, overflowing, finite, raising, block)]


def _nonfinite(output: Tensor) -> bool:
    return not output.isfinite().all()


def _find(
    model: nn.Module, x: Tensor, *, broken=_nonfinite, last=False, top=False, remove=True, always=True
) -> str | None:
    found: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, a, output, name=name: found.append(name) if broken(output) else None)
        for name, module in (model.named_children() if top else model.named_modules())
    ]
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError:
        remove = remove and always
        raise
    finally:
        if remove:
            for handle in handles:
                handle.remove()
    return (found[-1] if last else found[0]) if found else None


def _by_parameters(model: nn.Module, x: Tensor) -> str | None:
    bad = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    return bad[0].rpartition(".")[0] if bad else None


def _observe_search(answer: Callable, model: nn.Module, x: Tensor) -> dict:
    passes = []
    forward = model.forward
    model.forward = lambda *arguments: (passes.append(1), forward(*arguments))[1]
    try:
        name = answer(model, x)
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):  # not the raising model's
            raise
        name = "the model's own error"
    finally:
        del model.forward
    return {
        "layer": name,
        "forward passes": len(passes),
        "hooks left behind": sum(len(module._forward_hooks) for module in model.modules()),
    }


LAYER = Exercise(
    name="pitfalls.first_broken_layer",
    praise="The first one, by its full name, and no hook is left.",
    reference=_find,
    cases=_layer_cases,
    observe=_observe_search,
    wrong_answers={
        "hooks left behind when the model raises": (
            "A line after the forward pass is not reached if the pass raises. Remove the hooks in a finally block.",
            partial(_find, always=False),
        ),
        "hooks left behind": (
            "Keep what register_forward_hook returns, and call .remove() on each at the end.",
            partial(_find, remove=False),
        ),
        "only NaN": (
            "An infinite output comes first and turns into NaN layers later. Test with isfinite().",
            partial(_find, broken=lambda output: output.isnan().any()),
        ),
        "the last non-finite layer": (
            "What is behind the first non-finite layer is non-finite, too. Keep the first name you see.",
            partial(_find, last=True),
        ),
        "only the outermost modules": (
            "named_children() stops at the first level; named_modules() goes into blocks.",
            partial(_find, top=True),
        ),
        "parameters instead of outputs": (
            "All weights may be finite while an output is not. Look at the outputs.",
            _by_parameters,
        ),
    },
)

EXERCISES = (MEAN, AXES, LSE, LAYER)
