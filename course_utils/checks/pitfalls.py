"""The exercises of chapter 4 and the mistakes they are known for.

Exercises: 1 diagnose a training run; 2 mend a training step; 3 outputs of a recurrent network, find and fix; 4
log-sum-exp; 5 a mean over batches of different size; 6 the first non-finite layer.
"""

import copy
import math
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.checks.basics import linear_logits, some
from course_utils.checks.exercise import Exercise
from course_utils.data import load_split
from course_utils.foundation.seeding import make_generator


def _digit_network(hidden: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


@cache
def _run_record(fault: str, seed: int, lr: float = 0.3) -> dict:
    """What was written down during a real training on digits that has one fault, or none ("healthy")."""
    split, generator = load_split("digits", scaling="none"), make_generator(seed)
    order = torch.randperm(len(split.x_train), generator=generator)
    n, hidden, epochs = (120, 64, 150) if fault == "overfitting" else (400, 16, 12)
    x, y = split.x_train[order] / 16, split.y_train[order].clone()
    if fault == "labels do not fit":
        y[:n] = y[torch.randperm(n, generator=generator)]
    if fault == "overfitting":
        y[:30] = torch.randint(10, (30,), generator=generator)  # wrong labels, learned by heart
    model = _digit_network(hidden, seed)
    before = [parameter.clone() for parameter in model.parameters()]
    trained = model.parameters() if fault != "nothing is updated" else [nn.Parameter(torch.zeros(1))]
    first = F.cross_entropy(model(x[:n]), y[:n]).item()
    losses = _train(model, torch.optim.SGD(trained, lr), x, y, n, epochs)
    blind = _digit_network(hidden, seed)
    zeros = _train(blind, torch.optim.SGD(blind.parameters(), 0.3), 0 * x, y, n, 12)["train"][-1]
    changed = sum(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    return {"first": first, **losses, "zeros": zeros, "changed": changed}


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, n: int, epochs: int) -> dict:
    """Losses after each epoch, on the n training samples and on the 400 behind them."""
    losses: dict[str, list[float]] = {"train": [], "validation": []}
    parts = {"train": slice(n), "validation": slice(n, n + 400)}
    for _ in range(epochs):
        for rows in torch.arange(n).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            for name, rows in parts.items():
                losses[name].append(F.cross_entropy(model(x[rows]), y[rows]).item())
    return losses


def _run_cases(seed: int) -> list[tuple]:
    runs = [
        ("healthy", 0.3),
        ("overfitting", 0.3),
        ("labels do not fit", 0.3),
        ("nothing is updated", 0.3),
        ("exploding", 50.0),
        ("exploding", 1e30),  # ends in NaN
    ]
    return [(copy.deepcopy(_run_record(fault, seed, lr)),) for fault, lr in runs]


def _diagnose_run(
    record: dict, *, finite: bool = True, overfitting: Callable[[dict], bool] | None = None, zeros: bool = True
) -> str:
    last = record["train"][-1]
    if record["changed"] == 0:
        return "nothing is updated"
    if (finite and not math.isfinite(last)) or last > record["first"]:
        return "exploding"
    if zeros and last > 0.9 * record["zeros"]:
        return "labels do not fit"
    rises = overfitting or (lambda r: r["validation"][-1] > 1.2 * min(r["validation"]))
    return "overfitting" if rises(record) else "healthy"


RUN = Exercise(
    name="pitfalls.diagnose_run",
    praise="Five entries of a record tell four illnesses and health apart.",
    reference=_diagnose_run,
    cases=_run_cases,
    wrong_answers={
        "NaN not noticed": (
            "One run ends in NaN, and every comparison with NaN is False. Ask math.isfinite(...) first.",
            partial(_diagnose_run, finite=False),
        ),
        "validation compared with training": (
            "The validation loss is above the training loss in healthy runs, too. Overfitting means that the "
            "validation loss has *risen* from its smallest value.",
            partial(_diagnose_run, overfitting=lambda r: r["validation"][-1] > r["train"][-1]),
        ),
        "the first epoch compared with the last": (
            "The validation loss falls first and rises later. Compare the last value with the smallest one.",
            partial(_diagnose_run, overfitting=lambda r: r["validation"][-1] > r["validation"][0]),
        ),
        "the loss with zeros not used": (
            "One run learns no more from its inputs than from zeros, and is called something else.",
            partial(_diagnose_run, zeros=False),
        ),
    },
)


def _step_cases(seed: int) -> list[tuple]:
    split = load_split("digits", scaling="none")
    rows = torch.randperm(len(split.x_train), generator=make_generator(seed))[:96]
    return [(_digit_network(16, seed), split.x_train[rows] / 2, split.y_train[rows])]


def _observe_steps(answer: Callable, model: nn.Module, x: Tensor, y: Tensor) -> dict:
    """Three steps on three batches; the inputs are large, so that every step is clipped."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    returned = [answer(model, optimizer, *batch) for batch in zip(x.split(32), y.split(32), strict=True)]
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {"returned": returned, "weights after three steps": weights}


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    zero: str = "first",
    softmax: bool = False,
    clip: str = "before the step",
    as_float: bool = True,
) -> Tensor | float:
    """A training step, right by default."""
    if zero == "first":
        optimizer.zero_grad()
    loss = F.cross_entropy(model(x).softmax(1) if softmax else model(x), y)
    loss.backward()
    if zero == "after backward":
        optimizer.zero_grad()
    if clip == "before the step":
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if clip == "after the step":
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item() if as_float else loss


STEP = Exercise(
    name="pitfalls.train_step",
    praise="Clean gradients, logits into the loss, clipped before the step, and nothing kept alive.",
    reference=_step,
    cases=_step_cases,
    observe=_observe_steps,
    tolerance=1e-4,
    wrong_answers={
        "the broken function unchanged": (
            "There are four faults: look at the softmax, at old gradients, at the order of clip and step, and at what "
            "is returned.",
            partial(_step, zero="never", softmax=True, clip="after the step", as_float=False),
        ),
        "the loss returned with its graph": (
            "A loss that is kept as a tensor keeps its whole graph in memory. Return loss.item().",
            partial(_step, as_float=False),
        ),
        "softmax before the loss": (
            "cross_entropy takes logits and applies softmax itself.",
            partial(_step, softmax=True),
        ),
        "old gradients not cleared": (
            "backward() adds to .grad: the gradients of the last batch are still in there.",
            partial(_step, zero="never"),
        ),
        "gradients cleared after backward": (
            "zero_grad() after backward() throws the new gradients away. Nothing is learned.",
            partial(_step, zero="after backward"),
        ),
        "clipped after the step, or not at all": (
            "The step was made with the whole gradients. Clip between backward() and step().",
            partial(_step, clip="after the step"),
        ),
    },
)


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

EXERCISES = (RUN, STEP, AXES, LSE, MEAN, LAYER)
