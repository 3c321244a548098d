"""Full-batch training with a progress bar, a log of the loss, and a Stop button that loses nothing."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import as_labels, check_choice, check_count, check_labels, check_number
from course_utils.foundation.evaluation import check_model, classifier_logits, output_tensor, training_mode
from course_utils.foundation.inputs import Inputs, call_model, map_inputs, tensors_of
from course_utils.foundation.progress import progress_bar
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import isolated_randomness
from course_utils.foundation.training import OPTIMIZERS, check_graph, warn_of_interruption


@dataclass(frozen=True, eq=False, repr=False)
class TrainingLog(Result):
    """The log of a training run.

    Attributes:
        epochs: int64 (L,), the logged epochs, counted from 1.
        losses: float64 (L,), the loss of the whole training set before that epoch's step, in nats per sample.
        seconds: wall time of the loop.
        interrupted: was it stopped before its last epoch?
    """

    epochs: Tensor
    losses: Tensor
    seconds: float
    interrupted: bool

    per_sample: ClassVar = ("epochs", "losses")

    def __repr__(self) -> str:
        if len(self) == 0:
            return "TrainingLog(interrupted in the first epoch)"
        loss = f"loss {float(self.losses[0]):.3f} → {float(self.losses[-1]):.3f}"
        last = f"{int(self.epochs[-1]):,}"
        state = f"interrupted, last logged in epoch {last}" if self.interrupted else f"finished {last} epochs"
        return f"TrainingLog({state}, {loss})"


def train(
    model: nn.Module,
    x: Inputs,
    y: Any,
    *,
    task: str = "multiclass",
    epochs: int = 20_000,
    lr: float = 0.01,
    optimizer: str = "sgd",
    log_every: int = 200,
    progress: bool = True,
    seed: int | None = None,
) -> TrainingLog:
    """Minimise the cross-entropy of `model` on all of (x, y) at once, `epochs` times. Changes the parameters.

    Stopping it (Ctrl-C, or JupyterLab's Stop button) returns the history so far with a warning; the model keeps what
    it has learned. A model that comes in eval mode is trained in train mode; one that comes in train mode keeps the
    submodules in eval mode that were frozen so on purpose, such as BatchNorm layers. Every submodule gets its mode
    back, and every parameter its `.grad`.

    Args:
        model: returns logits (N, C); for "binary" (N,) or (N, 1).
        x: (N, …) inputs on the model's device, of any dtype; several as a tuple or dict.
        y: N class indices, as a tensor, list or array.
        task: "multiclass" or "binary", of which the loss is the binary cross-entropy.
        epochs: passes over the data, each one a single step.
        lr: learning rate, > 0.
        optimizer: "sgd", "adam" or "adamw".
        log_every: the loss is logged at epoch 1, at each multiple of this, and at the last epoch.
        progress: show a bar with the loss.
        seed: of the dropout masks; None draws fresh ones. The global random state stays as it is.

    Raises:
        TypeError, ValueError: unknown optimizer, shapes or labels that do not fit, nothing that can be trained.
        FloatingPointError: the loss is NaN or infinite at a logged epoch; a smaller `lr` usually helps.

    >>> from course_utils.iris import MLP, load_iris_split
    >>> split = load_iris_split()
    >>> train(MLP(), split.x_train, split.y_train, epochs=400, progress=False).epochs
    tensor([  1, 200, 400])
    """
    model = check_model(model)
    n = len(next(iter(tensors_of(x, "x").values())))
    y = as_labels(y, "y", num_samples=n)
    if len(y) != n:
        raise ValueError(f"x and y must have the same length, but have {n} and {len(y)} samples")
    check_count(epochs, "epochs")
    check_count(log_every, "log_every")
    check_number(lr, "lr", above=0)
    check_choice(optimizer, "optimizer", tuple(OPTIMIZERS))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter; set requires_grad_(True) on what should learn")
    with torch.inference_mode(False):  # tensors that were made in inference mode cannot be trained on
        x = map_inputs(lambda values: values.detach().clone(), x)  # the caller's stay as they are
        logits = classifier_logits(model, x, task=task)
        y = check_labels(y, "y", num_samples=n, num_classes=logits.shape[1]).detach().clone().long().to(logits.device)

    step = OPTIMIZERS[optimizer](model.parameters(), lr=lr)
    logged_epochs, losses = [], []
    interrupted = False
    start = time.perf_counter()
    with (
        isolated_randomness(seed),
        training_mode(model),
        progress_bar(total=epochs, description="training", unit="epoch", enabled=progress) as bar,
    ):
        try:
            for epoch in range(1, epochs + 1):
                step.zero_grad()
                logits = output_tensor(call_model(model, x))
                if task == "binary":
                    loss = F.binary_cross_entropy_with_logits(logits.reshape(n), y.to(logits))
                else:
                    loss = F.cross_entropy(logits, y)
                check_graph(loss).backward()
                if epoch == 1 or epoch % log_every == 0 or epoch == epochs:
                    # Reading the loss and moving the bar only here keeps both under 2 % of the time.
                    value = loss.item()
                    if not torch.isfinite(loss):
                        raise FloatingPointError(f"the loss is {value} at epoch {epoch}; try a smaller lr than {lr}")
                    logged_epochs.append(epoch)
                    losses.append(value)
                    bar.update(epoch - bar.n)
                    bar.set_postfix(loss=f"{value:.4f}", refresh=False)
                step.step()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        warn_of_interruption(f"training was interrupted in epoch {epoch:,} of {epochs:,}")
    return TrainingLog(
        epochs=torch.tensor(logged_epochs, dtype=torch.int64),
        losses=torch.tensor(losses, dtype=torch.float64),
        seconds=time.perf_counter() - start,
        interrupted=interrupted,
    )
