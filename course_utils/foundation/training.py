"""The short training loop that the lessons share, and what every training of the course needs."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.foundation.arguments import check_choice, check_count, check_number, check_tensor
from course_utils.foundation.evaluation import check_model, output_tensor
from course_utils.foundation.progress import progress_bar
from course_utils.foundation.seeding import isolated_randomness

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def check_graph(loss: Tensor) -> Tensor:
    """Return the loss if it hangs on a parameter; raise before `backward` does so in other words."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss hangs on no parameter, so nothing can be learned: look for detach(), argmax, .item(), NumPy or "
            "no_grad in the model's forward"
        )
    return loss


def warn_of_interruption(where: str) -> None:
    """Warn that a training was stopped; called by the training function itself, which returns its history then."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as an error it would lose the history
        warnings.warn(f"{where}; the model keeps what it has learned", stacklevel=3)


def fit(
    model: nn.Module,
    x: Tensor,
    *target: Tensor,
    steps: int,
    loss: Callable[..., Tensor] | None = None,
    lr: float = 0.01,
    batch_size: int = 64,
    optimizer: str = "adam",
    one_cycle: bool = False,
    seed: int | None = 0,
    progress: bool = False,
) -> nn.Module:
    """Train a model on random batches, and return it in evaluation mode. Changes the model's parameters.

    Args:
        model: any module.
        x: (N, …) inputs.
        target: (N, …) each; what `loss` compares the outputs with. None, one, or several tensors.
        steps: updates; each one draws `batch_size` of the N samples, with replacement.
        loss: called as loss(outputs, *target) on a batch; returns a scalar. None: the model brings its own, and
            model.loss(x, *target) is called.
        lr: learning rate, > 0.
        batch_size: samples in a step.
        optimizer: "sgd", "adam" or "adamw".
        one_cycle: let the rate rise to `lr` and fall to almost 0 (Smith & Topin 2018); otherwise it stays at `lr`.
        seed: of the batches and of dropout; None draws fresh ones. The global random state stays as it is.
        progress: show a bar.

    Raises:
        TypeError, ValueError: tensors of different lengths, options out of range, no loss.
        FloatingPointError: the loss became NaN or infinite; a smaller `lr` usually helps.

    >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    >>> model = fit(nn.Linear(1, 2), x, y, loss=nn.functional.cross_entropy, steps=100, lr=0.1)
    >>> model(x).argmax(1).tolist(), model.training
    ([0, 1], False)
    """
    check_model(model)
    for name, tensor in (("x", x), *((f"target {i}", part) for i, part in enumerate(target, start=1))):
        if len(check_tensor(tensor, name, floating=None)) != len(x):
            raise ValueError(f"{name} must have one row for each of the {len(x)} samples, but has {len(tensor)}")
    if loss is None and not hasattr(model, "loss"):
        raise ValueError("there is no loss: pass loss=…, for example torch.nn.functional.cross_entropy")
    check_count(steps, "steps")
    check_count(batch_size, "batch_size")
    check_number(lr, "lr", above=0)
    optimizer = OPTIMIZERS[check_choice(optimizer, "optimizer", tuple(OPTIMIZERS))](model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps) if one_cycle else None

    model.train()
    with torch.enable_grad(), isolated_randomness(seed):
        for step in progress_bar(range(steps), description="training", unit="step", enabled=progress):
            rows = torch.randint(len(x), (batch_size,)).to(x.device)
            batch = [part[rows] for part in target]
            value = model.loss(x[rows], *batch) if loss is None else loss(output_tensor(model(x[rows])), *batch)
            optimizer.zero_grad()
            check_graph(value).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            is_looked_at = step % 50 == 0 or step == steps - 1  # reading the loss makes a GPU wait
            if is_looked_at and not value.isfinite():
                raise FloatingPointError(f"the loss is {value.item()} at step {step}; try a smaller lr than {lr}")
    optimizer.zero_grad()
    return model.eval()
