"""What all results share: length, samples, frame, texts."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from course_utils.foundation.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class _Scores(Result):
    labels: torch.Tensor
    scores: torch.Tensor
    note: str
    per_sample: ClassVar = ("labels", "scores")


class TestResults:
    result = _Scores(torch.tensor([3, 1]), torch.tensor([[0.5, 0.25], [0.0, 1.0]]), "two")

    def test_length_and_samples(self):
        assert len(self.result) == 2
        assert self.result[-1]["labels"] == 1
        assert torch.equal(self.result[0]["scores"], torch.tensor([0.5, 0.25]))
        with pytest.raises(IndexError):
            self.result[2]

    def test_it_is_an_iterable_of_samples(self):
        assert [sample["labels"] for sample in self.result] == [3, 1]

    def test_frame_and_texts(self):
        frame = self.result.to_frame()
        assert list(frame.columns) == ["labels", "scores_0", "scores_1"]
        assert frame["scores_1"].tolist() == [0.25, 1.0]
        assert repr(self.result) == "_Scores(labels=int64[2], scores=float32[2, 2], note='two')"
        assert "<table" in self.result._repr_html_()

    def test_frozen(self):
        with pytest.raises(AttributeError):
            self.result.note = "other"
