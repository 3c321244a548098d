"""What a classifier says of N samples: the same fields, and the same keys of one sample, in every chapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from course_utils.foundation.results import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Result):
    """A classifier's decisions with their probabilities.

    `prediction[i]` is one sample as a dict: predicted_class, confidence, probabilities and, with names,
    predicted_class_name.

    Attributes:
        labels: int64. (N,) for binary (0 or 1) and multiclass (class index); (N, C) of 0 and 1 for multilabel.
        confidence: the probability of the decision that was made, in the labels' shape. Binary: p for class 1,
            1 − p for class 0; multilabel likewise for each class.
        probabilities: (N,) = P(class 1) for binary, (N, C) otherwise.
        class_names: C names, or None. Binary has two: class 0, class 1.
    """

    labels: Tensor
    confidence: Tensor
    probabilities: Tensor
    class_names: tuple[str, ...] | None

    per_sample: ClassVar = ("labels", "confidence", "probabilities")

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        label = sample["labels"]
        named = {"predicted_class": label} | {name: sample[name] for name in ("confidence", "probabilities")}
        if self.class_names is not None:
            named["predicted_class_name"] = (
                self.class_names[label]
                if isinstance(label, int)
                else [name for name, chosen in zip(self.class_names, label.tolist(), strict=True) if chosen]
            )
        return named

    def to_frame(self) -> pd.DataFrame:
        """One row a sample. With class names, their predicted one is a column, and probabilities are `p(name)`."""
        frame = super().to_frame()
        if self.class_names is None or self.labels.ndim > 1:
            return frame
        names = [self.class_names[label] for label in self.labels.tolist()]
        frame.insert(1, "predicted_class_name", names)
        shown = self.class_names[: frame.shape[1]]  # a notebook's table has only the first columns
        return frame.rename(columns={f"probabilities_{i}": f"p({name})" for i, name in enumerate(shown)})
