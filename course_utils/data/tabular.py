"""scikit-learn's real data sets as tensors, split and scaled without leaking the test part."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_utils.foundation.arguments import check_choice, check_count, check_number
from course_utils.foundation.results import short

TABLES = ("iris", "digits", "breast_cancer", "wine", "diabetes")
SCALINGS = ("standard", "minmax", "none")


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A data set in two parts.

    Attributes:
        x_train, x_test: features, float32 (N, D), scaled.
        y_train, y_test: class indices, int64 (N,); for regression the values, float32 (N, 1), in their own unit.
        feature_names: D names.
        class_names: C names; None for regression.
        scaler: the scikit-learn scaler, fitted on the training part only; None without scaling. New samples go
            through `scaler.transform` before the model sees them.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...] | None
    scaler: Any

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={short(getattr(self, name))}" for name in ("x_train", "y_train", "x_test", "y_test"))
        return f"{type(self).__name__}({parts}, class_names={self.class_names and short(self.class_names)})"


def load_split(name: str, *, test_size: float = 0.2, seed: int = 42, scaling: str = "standard") -> Split:
    """Load a real data set, split it with a seed, and scale it by its training part.

    Args:
        name: "iris" (150 flowers, 3 classes), "digits" (1,797 images of 8×8 pixels, 10 classes), "breast_cancer"
            (569 tumours, 2 classes), "wine" (178 wines, 3 classes) or "diabetes" (442 patients, regression).
        test_size: the share of the test part, strictly between 0 and 1.
        seed: the same seed gives the same split. Classes keep their shares in both parts (a stratified split).
        scaling: "standard" (mean 0, standard deviation 1), "minmax" (0 to 1 on the training part) or "none".

    Raises:
        ValueError: an unknown name or scaling, a share that leaves a part empty.

    >>> load_split("iris")
    Split(x_train=float32[120, 4], y_train=int64[120], x_test=float32[30, 4], y_test=int64[30], \
class_names=('setosa', 'versicolor', 'virginica'))
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    check_choice(name, "name", TABLES)
    check_choice(scaling, "scaling", SCALINGS)
    check_number(test_size, "test_size", above=0, below=1)
    check_count(seed, "seed", minimum=0)

    bunch = _load_bunch(name)
    is_classification = name != "diabetes"
    x_train, x_test, y_train, y_test = train_test_split(
        bunch.data,
        bunch.target,
        test_size=test_size,
        random_state=seed,
        stratify=bunch.target if is_classification else None,
    )
    scaler = {"standard": StandardScaler(), "minmax": MinMaxScaler(), "none": None}[scaling]
    if scaler is not None:
        scaler.fit(x_train)  # on the training part alone: statistics of the test part would leak into training
        x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)

    def as_target(values) -> Tensor:
        return torch.as_tensor(values).long() if is_classification else torch.as_tensor(values).float()[:, None]

    return Split(
        x_train=torch.as_tensor(x_train).float(),
        y_train=as_target(y_train),
        x_test=torch.as_tensor(x_test).float(),
        y_test=as_target(y_test),
        feature_names=tuple(str(feature) for feature in bunch.feature_names),
        class_names=tuple(str(label) for label in bunch.target_names) if is_classification else None,
        scaler=scaler,
    )


def _load_bunch(name: str) -> Any:
    from sklearn import datasets

    if name == "diabetes":
        return datasets.load_diabetes(scaled=False)  # in the original units: years, kg/m², mmHg, …
    return getattr(datasets, f"load_{name}")()
