"""An attack that needs no gradient: Square."""

import math

import torch
from torch import Tensor, nn

from course_utils.advanced.attack_box import AttackBox, Normalization
from course_utils.advanced.attack_losses import margin_loss
from course_utils.advanced.input_gradients import (
    FrozenModel,
    Target,
    check_inputs,
    check_one_target_each,
    check_target,
    chunk_size,
    input_gradients,
)
from course_utils.foundation.arguments import check_count, check_share, check_tensor
from course_utils.foundation.seeding import derived_seed, make_generator

# From each of these queries on, of 10,000, a square has half the area it had before.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square_attack(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    eps: float,
    n_queries: int = 1000,
    p_init: float = 0.8,
    bounds: tuple[float, float] = (0, 1),
    normalization: Normalization | None = None,
    task: str = "multiclass",
    seed: int | None = None,
) -> Tensor:
    """Random search with squares: an attack that reads the logits and asks for no gradient.

    It starts with vertical stripes of ±eps. Each query moves a square of pixels, at a random place, to the farthest
    allowed value up or down, a random one for each channel, and is kept if the margin (best other logit minus the
    target's) has grown. The squares shrink on a fixed schedule. A model that only hides its gradients falls to it.
    Source: Andriushchenko et al. (2020), "Square attack", algorithms 1 and 2.

    Args:
        model, target, eps, bounds, normalization, task: as in `course_utils.advanced.fgsm_attack`.
        inputs: images (N, channels, H, W).
        n_queries: how often the model is asked about an image at most, ≥ 1; an image that has fallen is left alone.
        p_init: the first squares' share of the image, in [0, 1]. 0.8 as in AutoAttack; the paper takes 0.05 for
            images of 299 × 299 pixels.
        seed: of the search, and of what a random model draws; None draws fresh ones.

    Returns:
        The changed inputs, in the inputs' own space and dtype. |adversarial − inputs|·std ≤ eps holds exactly.
    """
    box = AttackBox(check_tensor(check_inputs(inputs), "inputs", ndim=4), eps, bounds, normalization)
    check_count(n_queries, "n_queries")
    check_share(p_init, "p_init")
    target = check_one_target_each(target, inputs)
    generator = make_generator(seed)
    model_seed = None if seed is None else derived_seed(seed, "model")
    n, channels, height, width = inputs.shape

    def signs(*shape: int) -> Tensor:
        """True for up, False for down."""
        return (torch.rand(shape, generator=generator, dtype=torch.float32) < 0.5).to(inputs.device)

    with input_gradients(model, task=task, seed=model_seed) as frozen, torch.no_grad():
        best = torch.where(signs(n, channels, 1, width), box.upper, box.lower)
        margin, right = _margins(frozen, best, target)
        for query in range(1, n_queries):
            standing = torch.nonzero(right)[:, 0]
            if len(standing) == 0:
                break
            side = _side(query / n_queries, p_init, height, width)
            square = _squares(len(standing), side, height, width, generator).to(inputs.device)  # (S, 1, H, W)
            limits = box[standing]
            corner = torch.where(signs(len(standing), channels, 1, 1), limits.upper, limits.lower)
            candidate = torch.where(square, corner, best[standing])
            new_margin, still_right = _margins(frozen, candidate, target[standing])
            better = (new_margin > margin[standing]) | ~still_right
            kept = standing[better]
            best[kept], margin[kept], right[kept] = candidate[better], new_margin[better], still_right[better]
    return best


def _margins(model: FrozenModel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How far the best other class is ahead, (N,), and whether the answer is still right, bool (N,)."""
    logits = torch.cat([model(part) for part in x.split(chunk_size(x))])
    target = check_target(target, logits)
    return margin_loss(logits, target), logits.argmax(1) == target


def _side(progress: float, p_init: float, height: int, width: int) -> int:
    """The side of a square, whose share of the image halves again and again while the search goes on."""
    halvings = sum(progress * 10_000 > limit for limit in _HALVINGS)
    side = round(math.sqrt(p_init * 0.5**halvings * height * width))
    return min(max(side, 1), height, width)


def _squares(n: int, side: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A square at a random place of each image, bool (n, 1, height, width)."""
    masks = []
    for size in (height, width):
        first = torch.randint(size - side + 1, (n, 1), generator=generator)
        position = torch.arange(size)
        masks.append((position >= first) & (position < first + side))  # (n, size)
    rows, columns = masks
    return (rows[:, :, None] & columns[:, None, :])[:, None]
