"""Which pixels does the answer need? Occlusion and RISE hide parts of the image and watch the score."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.advanced.input_gradients import (
    FrozenModel,
    Target,
    check_inputs,
    check_target,
    chunk_size,
    input_gradients,
)
from course_utils.foundation.arguments import check_count, check_number, check_tensor, describe_value
from course_utils.foundation.devices import full_precision
from course_utils.foundation.seeding import derived_seed, make_generator

_MASKS_AT_A_TIME = 128  # so that the memory does not grow with their number


def occlusion_map(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    window: int = 4,
    stride: int | None = None,
    fill: Tensor | float = 0.0,
    batch_size: int | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """How much the class's score falls where a window is covered: for each pixel the mean over the windows on it.

    No gradient is needed, so the model may be anything. What stands under the window is a choice: see `fill`. Source:
    Zeiler & Fergus (2014), "Visualizing and understanding convolutional networks".

    Args:
        model, target, task, seed: as in `course_utils.advanced.saliency_map`; the score is the class's logit.
        inputs: images (N, channels, H, W).
        window: the side of the square that is covered, in pixels.
        stride: from one window to the next, in pixels; None is half a window. The last ones may reach over the border.
        fill: what stands in place of a covered pixel: a number, or a tensor that broadcasts to the inputs.
        batch_size: images that go through the model at a time; None chooses.

    Returns:
        (N, H, W), in logits; negative where the score rises. float32 or better.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = nn.init.ones_(model[1].weight)
    >>> occlusion_map(model, torch.tensor([[[[1.0, 2], [3, 4]]]]), target=0, window=1)
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    x, fill = _check_images(inputs, fill, batch_size)
    height, width = x.shape[2:]
    if check_count(window, "window") > min(height, width):
        raise ValueError(f"window must fit into the images, {height} × {width}, but is {window}")
    stride = max(window // 2, 1) if stride is None else check_count(stride, "stride")
    if stride > window:
        raise ValueError(f"stride must not be larger than the window, {window}, or pixels are left out; it is {stride}")
    tall, wide = (_windows(size, window, stride) for size in (height, width))  # (n, H), (m, W)
    hidden = (tall[:, None, :, None] & wide[None, :, None, :]).flatten(0, 1).to(x.device)  # (n·m, H, W)
    total = torch.zeros_like(full_precision(x[:, 0]))
    with input_gradients(model, task=task, seed=seed) as frozen, torch.no_grad():
        logits = _logits(frozen, x, batch_size)
        target = check_target(target, logits)
        before = frozen.score(logits, target)
        for masks in hidden.split(_MASKS_AT_A_TIME):
            masks = masks.to(total.dtype)
            after = _scores_behind(frozen, x, fill, 1 - masks, target, batch_size)  # (N, M)
            total += torch.einsum("nm,mhw->nhw", (before[:, None] - after).to(total.dtype), masks)
    return total / hidden.sum(0)


def _windows(size: int, window: int, stride: int) -> Tensor:
    """Bool (number of windows, size): which positions each covers. The last begins where no pixel is left over."""
    number = -(-(size - window) // stride) + 1
    first = stride * torch.arange(number)[:, None]
    position = torch.arange(size)
    return (position >= first) & (position < first + window)


def rise_map(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    n_masks: int = 1000,
    grid: int = 7,
    keep: float = 0.5,
    fill: Tensor | float = 0.0,
    batch_size: int | None = None,
    task: str = "multiclass",
    seed: int | None = 0,
) -> Tensor:
    """The class's mean score over random masks that show a pixel, minus that over all masks.

    A mask M is a grid of cells, each shown with the probability `keep`, enlarged bilinearly and shifted by less than a
    cell. The map is Σ_i s(x ⊙ M_i) M_i(λ) / Σ_i M_i(λ) − mean of s(x ⊙ M_i), an estimate of E[s M(λ)] / E[M(λ)] − E[s].
    Its error falls with 1/√n_masks and is another one for each seed, so compare two before you read details. Source:
    Petsiuk et al. (2018), "RISE". They take the probability as the score, here it is the logit; they divide by the
    expected sum n · keep, here it is by the sum that was drawn; and they leave the mean in, without which a pixel that
    has no influence gets 0, as in occlusion.

    Args:
        model, target, task: as in `course_utils.advanced.saliency_map`.
        inputs: images (N, channels, H, W).
        n_masks: how many are drawn, the same ones for all images.
        grid: cells along each side, at most as many as pixels.
        keep: in (0, 1), the probability that a cell is shown.
        fill: what stands in place of a hidden pixel: a number, or a tensor that broadcasts to the inputs.
        batch_size: images that go through the model at a time; None chooses. The masks are drawn block by block, so
            the memory does not grow with their number.
        seed: of the masks, and of what a random model draws; None draws fresh ones.

    Returns:
        (N, H, W), in logits, positive where showing the pixel raises the score. float32 or better.
    """
    x, fill = _check_images(inputs, fill, batch_size)
    size = x.shape[2:]
    check_count(n_masks, "n_masks")
    if check_count(grid, "grid") > min(size):
        raise ValueError(f"grid must be at most the images' sides, {tuple(size)}, but is {grid}")
    check_number(keep, "keep", above=0, below=1)
    generator = make_generator(seed)
    total = torch.zeros_like(full_precision(x[:, 0]))
    shown = torch.zeros_like(total[0])
    sum_of_scores = torch.zeros_like(total[:, 0, 0])
    model_seed = None if seed is None else derived_seed(seed, "model")
    with input_gradients(model, task=task, seed=model_seed) as frozen, torch.no_grad():
        target = check_target(target, _logits(frozen, x, batch_size))
        for part in torch.arange(n_masks).split(_MASKS_AT_A_TIME):
            masks = _random_masks(len(part), grid, keep, size, generator).to(total)
            scores = _scores_behind(frozen, x, fill, masks, target, batch_size)  # (N, M)
            total += torch.einsum("nm,mhw->nhw", scores.to(total.dtype), masks)
            shown += masks.sum(0)
            sum_of_scores += scores.sum(1)
    mean = (sum_of_scores / n_masks)[:, None, None]
    # Of a pixel that no mask has shown nothing is known: 0.
    return torch.where(shown > 0, total / shown.clamp(min=torch.finfo(shown.dtype).tiny) - mean, 0.0)


def _random_masks(n: int, grid: int, keep: float, size: torch.Size, generator: torch.Generator) -> Tensor:
    """(n, H, W) in [0, 1]: a coarse grid of zeros and ones, enlarged and shifted at random."""
    # The default dtype of the caller would change the numbers that a seed draws.
    cells = (torch.rand(n, 1, grid, grid, generator=generator, dtype=torch.float32) < keep).float()
    steps = [-(-side // grid) for side in size]  # a cell's size in pixels, rounded up
    enlarged = F.interpolate(
        cells, size=[(grid + 1) * step for step in steps], mode="bilinear", align_corners=False
    )[:, 0]  # fmt: skip
    down, right = (torch.randint(step, (n, 1), generator=generator) for step in steps)
    rows, columns = down + torch.arange(size[0]), right + torch.arange(size[1])  # (n, H), (n, W)
    return enlarged[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _logits(model: FrozenModel, x: Tensor, batch_size: int | None) -> Tensor:
    return torch.cat([model(part) for part in x.split(batch_size or chunk_size(x))])


def _scores_behind(
    model: FrozenModel, x: Tensor, fill: Tensor, shown: Tensor, target: Tensor, batch_size: int | None
) -> Tensor:
    """The target's score of each image behind each mask, (N, M). `shown` (M, H, W): 1 leaves a pixel, 0 fills it."""
    n, m = len(x), len(shown)
    fill = fill.expand_as(x)
    scores = []
    # Every pair of an image and a mask, numbered image by image.
    for pairs in torch.arange(n * m, device=x.device).split(batch_size or chunk_size(x)):
        image, mask = pairs // m, pairs % m
        mixed = torch.lerp(full_precision(fill[image]), full_precision(x[image]), shown[mask][:, None])
        scores.append(model.score(model(mixed.to(x.dtype)), target[image]))
    return torch.cat(scores).reshape(n, m)


def _check_images(inputs: Tensor, fill: Tensor | float, batch_size: int | None) -> tuple[Tensor, Tensor]:
    if batch_size is not None:
        check_count(batch_size, "batch_size")
    x = check_tensor(check_inputs(inputs), "inputs", ndim=4)
    return x, check_fill(fill, x)


def check_fill(fill: Tensor | float, inputs: Tensor) -> Tensor:
    """In the inputs' dtype and on their device, in a shape that broadcasts to theirs."""
    if not isinstance(fill, Tensor):
        return torch.tensor(check_number(fill, "fill")).to(inputs)
    check_tensor(fill if fill.ndim else fill[None], "fill")
    try:
        fill.expand(inputs.shape)
    except RuntimeError:
        raise ValueError(
            f"fill must be a number or broadcast to the inputs' shape {tuple(inputs.shape)}, but is "
            f"{describe_value(fill)}"
        ) from None
    return fill.detach().to(inputs)
