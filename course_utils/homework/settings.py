"""A point of the hyperparameter grid, and the grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from course_utils.foundation.arguments import check_choice, check_count, check_number, describe_value
from course_utils.foundation.networks import ACTIVATIONS

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
INITS = ("default", "xavier", "kaiming", "zeros")
# Absurdly large. Larger products overflow float32, where torch.optim stops with an error of its own.
MAX_LR, MAX_WEIGHT_DECAY = 1e30, 1e6


@dataclass(frozen=True)
class Setting:
    """The hyperparameters of one run. The defaults are those of the iris lesson.

    Attributes:
        hidden_features: the widths of the hidden layers, first to last; an int means one hidden layer.
        activation: after every hidden layer: "relu", "leaky_relu", "tanh", "sigmoid", "softplus",
            "gelu" or "silu".
        dropout: probability that a hidden unit is switched off in training, in [0, 1).
        optimizer: "sgd", "momentum" and "nesterov" (SGD with momentum 0.9), "adam" or "adamw".
        lr: learning rate, > 0.
        weight_decay: ≥ 0; added to the gradient as torch.optim does it, for "adamw" taken from the weights directly.
        batch_size: samples a step; None takes all of them (full batch), and so does a size of all samples or more.
        init: "default" (as nn.Linear draws it), "xavier" or "kaiming" (uniform, zero biases), "zeros".
        epochs: passes over the training data.

    Raises:
        ValueError: a value of the wrong type or out of its range; the message says what is allowed.

    >>> Setting(hidden_features=16, lr=1).hidden_features
    (16,)
    """

    hidden_features: tuple[int, ...] = (10,)
    activation: str = "relu"
    dropout: float = 0.0
    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 0.0
    batch_size: int | None = None
    init: str = "default"
    epochs: int = 20_000

    def __post_init__(self) -> None:
        try:
            checked = self._checked()
        except TypeError as error:  # a grid is data: whatever is wrong with it is a wrong value
            raise ValueError(str(error)) from None
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # one form of every value, so that equal settings compare equal

    def _checked(self) -> dict[str, Any]:
        if not 0 <= check_number(self.dropout, "dropout") < 1:
            raise ValueError(f"dropout must lie in [0, 1), but is {self.dropout}")
        if not 0 <= check_number(self.weight_decay, "weight_decay") < MAX_WEIGHT_DECAY:
            raise ValueError(f"weight_decay must lie in [0, {MAX_WEIGHT_DECAY:g}), but is {self.weight_decay}")
        return {
            "hidden_features": _checked_widths(self.hidden_features),
            "activation": check_choice(self.activation, "activation", tuple(ACTIVATIONS)),
            "dropout": float(self.dropout),
            "optimizer": check_choice(self.optimizer, "optimizer", OPTIMIZERS),
            "lr": check_number(self.lr, "lr", above=0, below=MAX_LR),
            "weight_decay": float(self.weight_decay),
            "batch_size": None if self.batch_size is None else check_count(self.batch_size, "batch_size"),
            "init": check_choice(self.init, "init", INITS),
            "epochs": check_count(self.epochs, "epochs"),
        }


NAMES = tuple(field.name for field in fields(Setting))


def _checked_widths(widths: Any) -> tuple[int, ...]:
    if not isinstance(widths, (list, tuple)):
        widths = (widths,)
    if not widths:
        raise ValueError("hidden_features must name at least one hidden layer, but is empty")
    return tuple(check_count(width, "hidden_features") for width in widths)


def expand_grid(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, epochs: int | None = None) -> list[Setting]:
    """Every combination of the values in a grid, in order; the last name changes fastest, duplicates are dropped.

    Args:
        grid: name → value or list of values, names as in `Setting`; or a list of such dicts, one after the other.
            A network with several hidden layers is a list of widths inside the list: `[8, [16, 16]]` is two values.
        epochs: for all settings, where the grid does not name its own.

    Raises:
        ValueError: an empty grid, an empty list of values, an unknown name, a value that `Setting` refuses.

    >>> [(s.lr, s.hidden_features) for s in expand_grid({"lr": [0.1, 0.01], "hidden_features": [8, [16, 16]]})]
    [(0.1, (8,)), (0.1, (16, 16)), (0.01, (8,)), (0.01, (16, 16))]
    """
    parts = [grid] if isinstance(grid, Mapping) else grid
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"grid must be a dict or a list of dicts, but is {describe_value(grid)}")
    if not parts or not all(parts):
        raise ValueError(f"the grid is empty; give values for at least one of {', '.join(NAMES)}")
    settings = (setting for part in parts for setting in _combinations(part, epochs))
    return list(dict.fromkeys(settings))


def _combinations(grid: Mapping[str, Any], epochs: int | None) -> Iterator[Setting]:
    for name in grid:
        if name not in NAMES:
            raise ValueError(f"the grid names {name!r}, which is none of {', '.join(NAMES)}")
    if epochs is not None and "epochs" in grid:
        raise ValueError("epochs stands in the grid and is also given as an argument; give it once")
    fixed = {} if epochs is None else {"epochs": epochs}
    for values in product(*(_values(name, value) for name, value in grid.items())):
        yield Setting(**fixed, **dict(zip(grid, values, strict=True)))


def _values(name: str, value: Any) -> Sequence[Any]:
    """The values that one name of a grid takes."""
    if name == "hidden_features" and isinstance(value, tuple):
        raise ValueError(
            f"hidden_features {value} can be one network or several; "
            f"write [{list(value)}] for one with these layers, {list(value)} for several with one layer each"
        )
    if hasattr(value, "tolist"):  # a NumPy array or number, a tensor
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [value]
    if not value:
        raise ValueError(f"the grid has no value for {name}; leave the name out to keep its default")
    return value
