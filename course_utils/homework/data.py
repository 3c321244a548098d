"""The data of a comparison: a test part that is the same for all runs, and each seed's own validation part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from course_utils.data import load_split
from course_utils.foundation.arguments import check_choice, check_labels, check_tensor, describe_value

DATA = ("iris", "digits", "breast_cancer")
VALIDATIONS = ("holdout", "repeated_kfold")
PARTS = ("train", "validation", "test")
TEST_SIZE, TEST_SEED = 0.2, 42  # those of the iris lesson
VALIDATION_SIZE = 0.25  # of the rest: 60 % train, 20 % validation, 20 % test
FOLDS = 5
MIN_PER_CLASS = 10  # so that each class is in every part

Fold = dict[str, tuple[Tensor, Tensor]]  # "train", "validation", "test" → x (N, D) standardised, y (N,)


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set whose test part is set aside, and the way to validate.

    Attributes:
        name: of the data set; None for the caller's own.
        x, y: (N, D) and (N,), what is left for training and validation, in the data's own units.
        x_test, y_test: the test part.
        num_classes: C.
        validation: "holdout" or "repeated_kfold".
        digest: SHA-256 of all of the data.
    """

    name: str | None
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    validation: str
    digest: str

    def folds(self, seed: int) -> list[Fold]:
        """The parts of one seed: one fold for "holdout", five for "repeated_kfold"; both stratified."""
        return [self._fold(train, validation) for train, validation in self._rows(seed)]

    def sizes(self, seed: int) -> tuple[int, int, int]:
        """The numbers of training, validation and test samples of a seed's first fold."""
        train, validation = self._rows(seed)[0]
        return len(train), len(validation), len(self.y_test)

    def full_batch(self, seed: int) -> int:
        """The batch size from which on a batch is all of a training part, in every fold."""
        return max(len(train) for train, _ in self._rows(seed))

    @cached_property
    def train_shape(self) -> tuple[int, int]:
        """(N, D) of a training part, about the same for every seed and fold."""
        return self.sizes(0)[0], self.x.shape[1]

    def _rows(self, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each fold the rows of its training and of its validation part."""
        from sklearn.model_selection import StratifiedKFold, train_test_split

        if self.validation == "holdout":
            rows = np.arange(len(self.y))
            return [train_test_split(rows, test_size=VALIDATION_SIZE, random_state=seed, stratify=self.y)]
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(self.x, self.y))

    def _fold(self, train: np.ndarray, validation: np.ndarray) -> Fold:
        # Mean and spread come from the training part alone: those of the other parts are unknown when training starts.
        # Features are brought to about 1 by a power of two first, which rounds nothing: otherwise the squares of very
        # large or small ones, such as 1e300, would overflow or vanish.
        _, exponents = np.frexp(np.abs(self.x[train]).max(0))
        x, x_test = (np.ldexp(x.astype(np.float64), -exponents) for x in (self.x, self.x_test))
        mean, std = x[train].mean(0), x[train].std(0)
        std[std == 0] = 1
        parts = (x[train], self.y[train]), (x[validation], self.y[validation]), (x_test, self.y_test)
        return {
            name: (torch.from_numpy(((x - mean) / std).astype(self.x.dtype)), torch.tensor(y))
            for name, (x, y) in zip(PARTS, parts, strict=True)
        }


def load_splits(data: Any, validation: str) -> DataSplits:
    """Load and split. The test part is the same whatever the seeds.

    Raises:
        TypeError, ValueError: an unknown name, or x and y that are no classification data.
    """
    check_choice(validation, "validation", VALIDATIONS)
    if isinstance(data, str):
        check_choice(data, "data", DATA)
        split = load_split(data, test_size=TEST_SIZE, seed=TEST_SEED, scaling="none")
        parts = [part.numpy() for part in (split.x_train, split.y_train, split.x_test, split.y_test)]
    elif isinstance(data, (tuple, list)) and len(data) == 2:
        parts = _split_own_data(*data)
    else:
        names = ", ".join(map(repr, DATA))
        raise TypeError(f"data must be one of {names}, or a pair (x, y), but is {describe_value(data)}")
    name = data if isinstance(data, str) else None
    return DataSplits(name, *parts, num_classes=int(parts[1].max()) + 1, validation=validation, digest=_digest(parts))


def _split_own_data(x: Any, y: Any) -> list[np.ndarray]:
    """x_train, y_train, x_test, y_test."""
    from sklearn.model_selection import train_test_split

    x, y = _as_features(x), _as_classes(y)
    check_tensor(y, "y", ndim=1, floating=False)
    y = y.detach().cpu().long()
    check_labels(y, "y", num_samples=len(x), num_classes=max(2, len(y)))
    counts = torch.bincount(y).tolist()
    if len(counts) < 2 or min(counts) < MIN_PER_CLASS:
        raise ValueError(
            f"y must hold at least {MIN_PER_CLASS} samples of each of the classes 0 to C − 1, C ≥ 2, so that every "
            f"part gets some, but their numbers are {counts[:20]}"
        )
    y = y.numpy()
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=TEST_SIZE, random_state=TEST_SEED, stratify=y)
    return [x_train, y_train, x_test, y_test]


def _as_features(x: Any) -> np.ndarray:
    """(N, D), float32 or float64, all finite."""
    columns = list(x.columns) if isinstance(x, pd.DataFrame) else None
    if isinstance(x, pd.DataFrame):
        text = [name for name, kind in x.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        if text:
            raise TypeError(
                f"every column of x must hold numbers, but {', '.join(map(repr, text))} does not; leave it out, or "
                "encode it, for example with pandas.get_dummies"
            )
        x = torch.tensor(x.to_numpy(np.float64, na_value=np.nan))
    elif isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"x must be float32 or float64, but is {x.dtype}; convert it with .astype(float)")
        x = torch.tensor(x)
    check_tensor(x, "x", ndim=2, finite=False)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, but is {describe_value(x)}; convert it with .float()")
    x = x.detach().cpu().numpy()
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0]
        where = f"column {columns[column]!r}" if columns else f"column {column}"
        more = f", and {len(bad) - 1} more are not finite" if len(bad) > 1 else ""
        raise ValueError(
            f"x must be finite, but the value in row {row} (counted from 0), {where} is {x[row, column]}{more}; fill "
            "in or leave out what is missing"
        )
    return x


def _as_classes(y: Any) -> Tensor:
    """Class indices (N,). Names of classes are numbered in alphabetical order."""
    if isinstance(y, Tensor):
        return y
    values = np.asarray(y)
    missing = np.flatnonzero(pd.isna(values)) if values.ndim == 1 else ()
    if len(missing):
        raise ValueError(f"y must hold a class for every sample, but has none in row {missing[0]} (counted from 0)")
    if values.dtype == object and all(isinstance(value, Integral) for value in values.ravel()):
        values = values.astype(np.int64)
    if values.dtype.kind == "U" or all(isinstance(value, str) for value in values.ravel()):
        values = np.unique(values.astype(str), return_inverse=True)[1].reshape(values.shape)
    if values.dtype.kind not in "biu":
        raise TypeError(f"y must be class indices or names of classes, one a sample, but is {describe_value(y)}")
    return torch.tensor(values)


def _digest(arrays: list[np.ndarray]) -> str:
    """SHA-256 of arrays: their types, shapes and values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
