"""What all functions that read an output keep: the device, and silence about gradients."""

import warnings

import pytest
import torch

from course_utils.interpretation import (
    beam_search_decode,
    detection,
    evaluate_detections,
    greedy_decode,
    interpret_classification_output,
    interpret_detection_output,
    interpret_regression_output,
)
from tests.support.detections import CLASSES, as_arguments, raw_output
from tests.support.language_models import Refed, language_model
from tests.support.values import random_normal

RAW = raw_output([[(0, 0, 4, 4, 15, 0), (1, 1, 4, 4, 12, 0), (1, 1, 4, 4, 11, 2)]])


MODEL = language_model(4)


VALUES, OTHERS, PROMPTS = (
    random_normal(3, 4, scale=2.0),
    random_normal(3, 4, seed=1, scale=2.0),
    torch.tensor([[1], [2]]),
)


EVALUATED = as_arguments([[(0, 0, 2, 2, 9, 0)], []], [[(0, 0, 2, 2, 0, 0)], [(0, 0, 2, 2, 0, 1)]])


READERS = {
    "multiclass": lambda: interpret_classification_output(VALUES, top_k=2),
    "binary": lambda: interpret_classification_output(VALUES[:, 0], task="binary", top_k=2),
    "multilabel": lambda: interpret_classification_output(VALUES, task="multilabel"),
    "regression": lambda: interpret_regression_output(VALUES, OTHERS),
    "detection": lambda: interpret_detection_output(RAW, box_format="xyxy"),
    "evaluation": lambda: evaluate_detections(*EVALUATED, num_classes=CLASSES),
    "greedy": lambda: greedy_decode(VALUES[None], eos_token_id=1, vocab="abcd"),
    "greedy without an end": lambda: greedy_decode(VALUES[None], batch_first=False),
    "beams": lambda: beam_search_decode(MODEL, PROMPTS, num_beams=6, max_new_tokens=3, eos_token_id=0),
    "re-fed beams": lambda: beam_search_decode(Refed(MODEL), PROMPTS, num_beams=6, max_new_tokens=3, eos_token_id=0),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("most_pairs", [4_000_000, 0])
def test_e19_new_tensors_are_made_on_the_inputs_device(name, most_pairs, monkeypatch):
    """A tensor made without `device=` would land on the default device, here one that holds no values."""
    monkeypatch.setattr(detection, "_MOST_PAIRS", most_pairs)
    with torch.device("meta"):
        assert torch.zeros(1).is_meta
        READERS[name]()


@pytest.mark.parametrize(
    "read",
    [
        lambda values: interpret_classification_output(values, top_k=2)[0],
        lambda values: interpret_classification_output(values, task="multilabel").to_frame(),
        lambda values: interpret_regression_output(values, values * 2).to_frame(),
        lambda values: greedy_decode(values[None], eos_token_id=1),
        lambda values: interpret_detection_output(torch.cat([values.abs(), values.sigmoid()[:, :3]], 1)[None]),
        lambda values: interpret_detection_output(torch.cat([values.abs(), values[:, :3]], 1)[None], logits=True),
    ],
)
def test_outputs_that_require_grad_are_read_without_a_warning(read):
    values = random_normal(5, 4, scale=2.0).requires_grad_()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch says some things only once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(values * 1)
    finally:
        torch.set_warn_always(always)
