"""What an evaluation says about single images, without another pass of the model."""

import torch

from course_utils.capstone import evaluate_model, interpret_model_outputs
from course_utils.capstone.evaluation import readings_of
from tests.support.capstone import DATA, IMAGES, TARGET, tutorial

STATISTICS = DATA.mean, DATA.std


def test_the_worst_images_are_those_of_interpret_model_outputs():
    model = tutorial()
    evaluation = evaluate_model(model, IMAGES, TARGET, normalization=STATISTICS)
    mine = readings_of(evaluation, evaluation.worst_first()[:7])
    asked = interpret_model_outputs(model, IMAGES, TARGET, num_samples=7, worst_first=True, normalization=STATISTICS)
    for name in ("index", "target", "labels", "topk_labels"):
        assert torch.equal(getattr(mine, name), getattr(asked, name)), name
    for name in ("confidence", "topk_confidence"):
        assert torch.allclose(getattr(mine, name), getattr(asked, name)), name
    assert mine.class_names == asked.class_names


def test_worst_first_is_an_order_of_all_images():
    evaluation = evaluate_model(tutorial(), IMAGES, TARGET, normalization=STATISTICS)
    order = evaluation.worst_first()
    assert sorted(order.tolist()) == list(range(len(IMAGES)))
    true = evaluation.probabilities[torch.arange(len(IMAGES)), evaluation.target][order]
    assert (true.diff() >= 0).all()
