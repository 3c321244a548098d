"""A promise about robustness: the answer of the majority under noise, and a radius in which nothing can change it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_utils.advanced.attack_box import Normalization, mean_and_std
from course_utils.advanced.input_gradients import check_inputs, chunk_size, in_fastest_layout, input_gradients
from course_utils.foundation.arguments import check_count, check_number
from course_utils.foundation.devices import full_precision
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import derived_seed, make_generator

ABSTAINS = -1


def smoothed_predict(
    model: nn.Module,
    inputs: Tensor,
    *,
    sigma: float,
    n: int = 100,
    alpha: float = 0.001,
    normalization: Normalization | None = None,
    batch_size: int | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """The class that the model gives most often to the input under noise, or −1 where that cannot be told.

    The smoothed classifier is g(x) = argmax over c of P(model(x + ε) = c), ε ~ N(0, σ²I). Of n draws the most frequent
    class is returned if a two-sided binomial test against the second tells them apart, with p ≤ alpha; so an answer is
    not g(x) with a probability of at most alpha. Source: Cohen et al. (2019), "Certified adversarial robustness via
    randomized smoothing", PREDICT.

    Args:
        model: returns logits (N, C); it is asked in evaluation mode, and should have been trained under such noise.
        inputs: (N, …), floating point.
        sigma: standard deviation of the noise, in pixel units, > 0. Noisy inputs are not clamped to the range of a
            pixel: the theorem is about noise that is not.
        n: draws for each sample.
        alpha: in (0, 1).
        normalization: (mean, std) if the inputs are (pixel − mean) / std.
        batch_size: samples that go through the model at a time; None chooses.
        seed: of the noise, and of what the model itself draws; None draws fresh ones.

    Returns:
        int64 (N,), −1 where it abstains.
    """
    from scipy.stats import binomtest

    check_number(alpha, "alpha", above=0, below=1)
    check_count(n, "n")
    (counts,) = _count_classes(model, inputs, sigma, (n,), normalization, batch_size, task, seed)
    top = counts.topk(2, dim=1)
    sure = [binomtest(a, a + b, 0.5).pvalue <= alpha for a, b in top.values.tolist()]
    return torch.where(torch.tensor(sure, device=counts.device), top.indices[:, 0], ABSTAINS)


@dataclass(frozen=True, eq=False, repr=False)
class Certificates(Result):
    """What `certify` promises for each sample.

    Attributes:
        labels: int64 (N,), the smoothed classifier's answer, or −1 where it abstains.
        radius: (N,), no change of Euclidean length below it, in pixel units, changes that answer; 0 where it abstains.
        probability: (N,), the lower bound of the answer's probability under the noise, from which the radius comes.
    """

    labels: Tensor
    radius: Tensor
    probability: Tensor

    per_sample: ClassVar = ("labels", "radius", "probability")


def certify(
    model: nn.Module,
    inputs: Tensor,
    *,
    sigma: float,
    n: int = 1000,
    n_selection: int = 100,
    alpha: float = 0.001,
    normalization: Normalization | None = None,
    batch_size: int | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Certificates:
    """A radius for each sample in which no change, by whatever attack, changes the smoothed classifier's answer.

    A first lot of draws selects the class; a second, new one bounds its probability from below, by Clopper and Pearson
    at level alpha: p. If p > 1/2 the radius is σ·Φ⁻¹(p), else it abstains. Each radius is wrong with a probability of
    at most alpha. It is a bound of the *Euclidean* length, about the *smoothed* classifier, and cannot exceed
    σ·Φ⁻¹(alpha^(1/n)). Source: Cohen et al. (2019), CERTIFY and theorem 1.

    Args:
        model, inputs, sigma, normalization, batch_size, task, seed: as in `smoothed_predict`.
        n: draws for the bound; the radius grows with them slowly.
        n_selection: draws for selecting the class.
        alpha: in (0, 1), for each sample.

    >>> model = nn.Linear(1, 2)
    >>> model.load_state_dict({"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.zeros(2)})
    <All keys matched successfully>
    >>> found = certify(model, torch.tensor([[0.5], [-0.01]]), sigma=0.5)  # the truth: radius 0.5 and 0.01
    >>> found.labels.tolist(), [round(r, 1) for r in found.radius.tolist()]
    ([1, -1], [0.4, 0.0])
    """
    from scipy.stats import beta, norm

    check_number(alpha, "alpha", above=0, below=1)
    draws = (check_count(n_selection, "n_selection"), check_count(n, "n"))
    selection, counts = _count_classes(model, inputs, sigma, draws, normalization, batch_size, task, seed)
    labels = selection.argmax(1)
    hits = counts.gather(1, labels[:, None])[:, 0].cpu().numpy()
    lower = beta.ppf(alpha, hits, n - hits + 1)  # Clopper and Pearson; NaN for no hit at all
    lower = torch.from_numpy(lower).nan_to_num(0.0)
    radius = sigma * torch.from_numpy(norm.ppf(lower.numpy()))
    certified = lower > 0.5
    like = full_precision(inputs.detach()[:1])
    return Certificates(
        torch.where(certified.to(labels.device), labels, ABSTAINS),
        torch.where(certified, radius, 0.0).to(like),
        lower.to(like),
    )


def _count_classes(
    model: nn.Module,
    inputs: Tensor,
    sigma: float,
    lots: tuple[int, ...],
    normalization: Normalization | None,
    batch_size: int | None,
    task: str,
    seed: int | None,
) -> list[Tensor]:
    """For each lot of draws how often each class was the answer under noise, int64 (N, C)."""
    x = check_inputs(inputs)
    std = mean_and_std(normalization, x)[1]
    step = (check_number(sigma, "sigma", above=0) / std).to(full_precision(x).dtype)
    if batch_size is not None:
        check_count(batch_size, "batch_size")
    generator = make_generator(seed)
    model_seed = None if seed is None else derived_seed(seed, "model")
    found = []
    with input_gradients(model, task=task, seed=model_seed) as frozen, torch.no_grad():
        for draws in lots:
            counts: Tensor | int = 0
            for _ in range(draws):  # all samples at once: the batch size changes nothing
                noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(step)
                noisy = in_fastest_layout(model, (full_precision(x) + step * noise).to(x.dtype))
                logits = torch.cat([frozen(part) for part in noisy.split(batch_size or chunk_size(noisy))])
                counts = counts + nn.functional.one_hot(logits.argmax(1), logits.shape[1])
            found.append(counts)
    return found
