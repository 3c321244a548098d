"""Training an image classifier: from memory, with a live bar, resumable, on one device or on many."""

import dataclasses
import hashlib
import math
import os
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.capstone.checkpoints import FORMAT, load_checkpoint, save_checkpoint
from course_utils.capstone.distributed import from_first, gathered, rank, share, summed, synchronized, world_size
from course_utils.capstone.images import Augmentation, check_data, normalize, resize, scaled
from course_utils.capstone.models import NormalizedImageClassifier, dtype_of
from course_utils.capstone.recipes import Recipe
from course_utils.data import ImageData
from course_utils.foundation.arguments import check_count, check_logits, describe_value
from course_utils.foundation.devices import choose_device, layout
from course_utils.foundation.evaluation import (
    check_model,
    copy_of,
    output_tensor,
    reading,
    training_mode,
)
from course_utils.foundation.files import check_writable
from course_utils.foundation.progress import progress_bar
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import derived_seed, isolated_randomness, make_generator
from course_utils.foundation.training import check_graph, warn_of_interruption


@dataclass(frozen=True, eq=False, repr=False)
class TrainingHistory(Result):
    """The log of a training, one row for each finished epoch.

    Attributes:
        epochs: int64 (E,), counted from 1.
        train_loss: float64 (E,), mean loss of the epoch's images as they were trained on: augmented, with label
            smoothing, in train mode. It is not comparable with `validation_loss`.
        validation_loss: float64 (E,), mean negative log-likelihood in nats, in evaluation mode.
        validation_accuracy: float64 (E,), in [0, 1].
        lr: float64 (E,), learning rate of the epoch's last step.
        seconds: float64 (E,), wall time of the epoch's training, without its validation.
        interrupted: was it stopped before its last epoch?
        precision: "float32" or "bfloat16", in which the layers computed.
        seed: of shuffling, augmentation and dropout.
    """

    epochs: Tensor
    train_loss: Tensor
    validation_loss: Tensor
    validation_accuracy: Tensor
    lr: Tensor
    seconds: Tensor
    interrupted: bool
    precision: str
    seed: int

    per_sample: ClassVar = ("epochs", "train_loss", "validation_loss", "validation_accuracy", "lr", "seconds")

    def __repr__(self) -> str:
        if len(self) == 0:
            return "TrainingHistory(interrupted in the first epoch)"
        state = "interrupted after" if self.interrupted else "finished"
        accuracy = f"validation accuracy {float(self.validation_accuracy[-1]):.3f}"
        return f"TrainingHistory({state} {len(self)} epochs, {accuracy}, {self.precision})"


def train_model(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: int = 10,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe: Recipe | None = None,
    device: str | torch.device = "auto",
    augment: bool = True,
    amp: bool | str = "auto",
    seed: int | None = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> TrainingHistory:
    """Train `model` on `data.train`, and watch it on `data.validation`. The test images are not touched.

    The images stay in one uint8 tensor; a batch is shifted, flipped and normalised as a whole on its device. All that
    is random in an epoch follows from the seed and the epoch's number, so training that goes on from a checkpoint ends
    with the same parameters, to the last bit on a CPU, as training that was never stopped.

    Stopping it (Ctrl-C, or JupyterLab's Stop button) returns the history so far with a warning; the model keeps what it
    has learned. Under torchrun each process takes its share of every batch.

    Args:
        model: normalised images (N, 3, H, W) → logits (N, C). It is moved to the device and trained in place, in
            float32 or float64; taken out of DataParallel and torch.compile, since torchrun spreads it over devices.
        data: from `load_cifar10`.
        epochs: passes over the training images, in all: a checkpoint's epochs count.
        batch_size, lr: override the recipe's.
        recipe: all hyperparameters; None takes the model's own (`ImageClassifier.recipe`), or `Recipe()`.
        device: "auto", "cuda", "mps" or "cpu".
        augment: shift by up to two pixels and flip.
        amp: compute in bfloat16 where it is safe (automatic mixed precision): True, False, or "auto", which times
            both on a few images and takes bfloat16 if it is at least a fifth faster here.
        seed: of shuffling, augmentation and dropout; None draws a fresh one, kept in the history.
        checkpoint: a file, written after every epoch. If it exists, training goes on from it.
        progress: show a bar with the loss and the validation accuracy.

    Raises:
        TypeError, ValueError: arguments that do not fit, or a checkpoint that is damaged or of another training.
        FloatingPointError: the loss is NaN or infinite; a smaller `lr` usually helps.
    """
    model = check_model(model)
    check_data(data, ("train", "validation"))  # the test part plays no role in training
    check_count(epochs, "epochs")
    if not isinstance(augment, bool):
        raise TypeError(f"augment must be True or False, but is {describe_value(augment)}")
    if amp != "auto" and not isinstance(amp, bool):
        raise ValueError(f"amp must be True, False or 'auto', but is {describe_value(amp)}")
    recipe = _complete_recipe(recipe, model, lr, batch_size)
    device = choose_device(device) if isinstance(device, str) else torch.device(device)
    model.to(device)
    optimizer = recipe.make_optimizer(model)
    _check_outputs(model, data, device)
    state = from_first(_read_checkpoint(checkpoint))
    if seed is None:
        seed = state["settings"]["seed"] if state else make_generator(None).initial_seed() % 2**31
    seed = from_first(check_count(seed, "seed", minimum=0))
    if amp == "auto":
        amp = from_first(state["settings"]["amp"] if state else bfloat16_is_faster(model, data))

    settings = {"epochs": epochs, "augment": augment, "amp": amp, "seed": seed, **dataclasses.asdict(recipe)}
    run = _Run(model, data, recipe, optimizer, device, settings)
    if state:
        run.resume(state, checkpoint)
    elif isinstance(model, NormalizedImageClassifier):
        model.learn_statistics(data)
    bar = progress_bar(total=epochs * run.steps, description="training", enabled=progress and rank() == 0)
    interrupted = False
    with training_mode(model), bar:
        bar.update(run.finished_epochs * run.steps)
        try:
            while run.finished_epochs < epochs:
                run.next_epoch(bar)
                if checkpoint is not None and rank() == 0:
                    save_checkpoint(checkpoint, run.state())
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        warn_of_interruption(f"interrupted in epoch {run.finished_epochs + 1} of {epochs}")
    dtypes = {"epochs": torch.int64}
    return TrainingHistory(
        **{name: torch.tensor(values, dtype=dtypes.get(name, torch.float64)) for name, values in run.log.items()},
        interrupted=interrupted,
        precision="bfloat16" if run.amp else "float32",
        seed=seed,
    )


class _Run:
    """A training under way: what one epoch needs, and what a checkpoint keeps."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        settings: dict[str, Any],
    ) -> None:
        self.model, self.recipe, self.optimizer = model, recipe, optimizer
        self.epochs, self.augment, self.amp, self.seed = (settings[k] for k in ("epochs", "augment", "amp", "seed"))
        self.images, self.target = data.train.images.to(device), data.train.target.to(device)
        self.validation = data.validation
        self.statistics = data.mean.to(device), data.std.to(device)
        self.layout, self.dtype = layout(model), dtype_of(model)
        model.to(memory_format=self.layout)
        self.network = synchronized(model)  # the model itself, unless several processes train it
        self.steps = math.ceil(len(self.images) / recipe.batch_size)
        self.log: dict[str, list[float]] = {name: [] for name in TrainingHistory.per_sample}
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.settings = {"model": str(model), "trainable": trainable, "data": _fingerprint(data), **settings}

    @property
    def finished_epochs(self) -> int:
        return len(self.log["epochs"])

    def next_epoch(self, bar: Any) -> None:
        start = time.perf_counter()
        loss, lr = self._train(self.finished_epochs, bar)
        seconds = time.perf_counter() - start
        validation_loss, accuracy = self._validate(self.finished_epochs)
        for name, value in {"training": loss, "validation": validation_loss}.items():
            if not math.isfinite(value):
                epoch = self.finished_epochs + 1
                raise FloatingPointError(f"the {name} loss is {value} in epoch {epoch}; try a smaller lr")
        row = (self.finished_epochs + 1, loss, validation_loss, accuracy, lr, seconds)
        for values, value in zip(self.log.values(), row, strict=True):
            values.append(value)
        bar.set_postfix(loss=f"{loss:.3f}", validation_accuracy=f"{accuracy:.3f}")

    def _train(self, epoch: int, bar: Any) -> tuple[float, float]:
        """One pass over the training images: their mean loss, and the last learning rate.

        All its randomness follows from the seed and the epoch's number.
        """
        n = len(self.images)
        order = torch.randperm(n, generator=make_generator(derived_seed(self.seed, "order", epoch)))
        order = order.to(self.images.device)
        augmentation = Augmentation.draw(n, epoch=epoch, seed=self.seed) if self.augment else None
        # Kept on the device, so that no step waits for it. (MPS knows no float64.)
        total = torch.zeros((), dtype=torch.float32 if order.is_mps else torch.float64, device=order.device)
        with torch.enable_grad(), isolated_randomness(derived_seed(self.seed, "dropout", epoch, rank())):
            # tensor_split: batches differ in length by at most one, so there is no small last one.
            for step, batch in enumerate(order.tensor_split(self.steps)):
                progress = (epoch + step / self.steps) / self.epochs
                lr = self.recipe.set_lr(self.optimizer.param_groups, progress)
                index = share(batch)
                batch_images = augmentation(self.images, index) if augmentation else self.images[index]
                x = self._prepared(batch_images, progress)
                self.optimizer.zero_grad()
                with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
                    logits = output_tensor(self.network(x))  # (B, C)
                smoothing = self.recipe.label_smoothing
                loss = F.cross_entropy(logits.float(), self.target[index], label_smoothing=smoothing, reduction="sum")
                # Processes average their gradients; so the whole batch has mean loss, however it was shared.
                (check_graph(loss) * world_size() / len(batch)).backward()
                self.optimizer.step()
                total += loss.detach()
                bar.update()
        return float(summed(total)) / n, lr

    @torch.no_grad()
    def _validate(self, epoch: int) -> tuple[float, float]:
        """Mean negative log-likelihood and accuracy on the validation images, in the epoch's size and precision."""
        n = len(self.validation)
        progress = (epoch + 1 - 1 / self.steps) / self.epochs
        index = share(torch.arange(n))
        parts = []
        with reading(self.model):
            for batch in self.validation.images[index].to(self.images.device).split(500):
                x = self._prepared(batch, progress)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
                    parts.append(output_tensor(self.model(x)).float())
        logits = torch.cat(parts)
        logits, target = gathered(logits, index, n), self.validation.target.to(logits.device)
        return float(F.cross_entropy(logits, target)), float((logits.argmax(1) == target).double().mean())

    def _prepared(self, images: Tensor, progress: float) -> Tensor:
        """Images uint8 → the network's input: normalised, of the size of that moment, channels last."""
        x = scaled(images, *self.statistics)
        x = resize(x, self.recipe.size(progress) or x.shape[2])
        return x.to(self.dtype, memory_format=self.layout)

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"format": FORMAT, "settings": self.settings, "log": self.log, **parts}

    def resume(self, state: dict[str, Any], path: str | os.PathLike) -> None:
        there = state["settings"]
        different = [name for name, value in self.settings.items() if there.get(name) != value]
        if different:
            lines = ", ".join(f"{name} ({there.get(name)!r} there, {self.settings[name]!r} here)" for name in different)
            raise ValueError(f"{path} belongs to another training; it differs in {lines}. Name another checkpoint.")
        if fault := self._misfit(state):  # before anything is loaded: a refused checkpoint changes nothing
            raise ValueError(f"{path} does not fit this training: {fault}. Delete it, or name another checkpoint.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log = state["log"]

    def _misfit(self, state: dict[str, Any]) -> str | None:
        if state["log"].keys() != self.log.keys():
            return f"its log has the columns {', '.join(map(str, state['log']))}"
        shapes, own = (
            {n: tuple(v.shape) for n, v in part.items()} for part in (state["model"], self.model.state_dict())
        )
        if shapes != own:
            different = sorted(str(name) for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
            return f"its weights differ in {', '.join(different[:3])}"
        there, here = state["optimizer"], self.optimizer.state_dict()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        sizes, own_sizes = ([len(group.get("params", ())) for group in part["param_groups"]] for part in (there, here))
        if sizes != own_sizes or not set(there["state"]) <= set(range(len(parameters))):
            return "its optimizer is of other parameters"
        for i, memory in there["state"].items():
            for name, value in memory.items():
                if isinstance(value, Tensor) and (value.shape not in ((), parameters[i].shape) or value.isnan().any()):
                    return f"its optimizer's {name} of parameter {i} is NaN or of a wrong shape"
        return None


def _read_checkpoint(path: str | os.PathLike | None) -> dict[str, Any] | None:
    """What the first process finds there, None for nothing. A place where nothing can be written is found out now."""
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"checkpoint must be the path of a file, but is {describe_value(path)}")
    if path is None or rank() > 0:
        return None
    state = load_checkpoint(path) if os.path.exists(path) else None  # also False for names that cannot be
    if state is None or len(state["log"]["epochs"]) < state["settings"]["epochs"]:
        check_writable(path)
    return state


def _check_outputs(model: nn.Module, data: ImageData, device: torch.device) -> None:
    """Does the model return one logit for each class? Better asked before an epoch than after it."""
    if dtype_of(model).itemsize < 4:
        raise ValueError(
            "the model is in half precision, in which small updates vanish; train model.float(), and pass amp=True to "
            "compute in bfloat16 where it is safe"
        )
    x = normalize(data.train.images[:2], data.mean, data.std).to(device, dtype_of(model))
    with reading(model), torch.no_grad():
        outputs = output_tensor(model(x))
    classes = len(data.class_names)
    if outputs.shape != (len(x), classes):
        raise ValueError(
            f"the model must return a logit for each of the {classes} classes of data, (N, {classes}), but for "
            f"{len(x)} images it returned {describe_value(outputs)}"
        )
    check_logits(outputs, "the model's logits", class_dim=1)


def bfloat16_is_faster(model: nn.Module, data: ImageData, *, num_images: int = 128) -> bool:
    """Does a training step take a fifth less time in bfloat16 here? Timed on a copy of the model.

    A processor without instructions for bfloat16 computes it by conversion, several times slower than float32, so the
    answer is measured and not looked up.
    """
    model = check_model(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type not in ("cpu", "cuda"):
        return False  # not tested elsewhere
    x = normalize(data.train.images[:num_images], data.mean, data.std)
    x = x.to(device, dtype_of(model), memory_format=layout(model))

    def seconds(amp: bool) -> float:
        trial = copy_of(model).train()
        times = []
        with isolated_randomness(0), torch.enable_grad():
            for _ in range(4):
                start = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    logits = output_tensor(trial(x))
                logits.float().square().mean().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        return min(times[1:])  # the first step also allocates memory and chooses kernels

    return seconds(True) < 0.8 * seconds(False)


def _complete_recipe(recipe: Recipe | None, model: nn.Module, lr: float | None, batch_size: int | None) -> Recipe:
    if recipe is None:
        recipe = model.recipe if isinstance(model, NormalizedImageClassifier) else Recipe()
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, but is {describe_value(recipe)}")
    given = {"lr": lr, "batch_size": batch_size}
    return dataclasses.replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _fingerprint(data: ImageData) -> str:
    """What a checkpoint remembers of its data: enough to refuse other images, another split or another order."""
    digest = hashlib.sha256()
    parts = (data.train, data.validation)
    for part in (data.mean, data.std, *(part.images for part in parts), *(part.target for part in parts)):
        digest.update(part.cpu().contiguous().numpy())
    return f"{data.name}, {len(data.train)} images, {digest.hexdigest()[:16]}"
