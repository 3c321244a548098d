"""The small detector: what its cells say, what they are trained towards, and that training works."""

import pytest
import torch

from course_utils.data import generate_scenes
from course_utils.foundation.training import fit
from course_utils.interpretation import GridDetector, evaluate_detections, grid_targets, interpret_detection_output

CLASSES = ("disc", "square")


@pytest.fixture(scope="module")
def scenes():
    return generate_scenes(60, classes=CLASSES, max_objects=2, seed=3)


def as_input(scenes):
    return scenes.images.float() / 255 - 0.5


def test_an_object_stands_in_the_cell_of_its_centre(scenes):
    is_object, label, box = grid_targets(scenes)
    assert (is_object.shape, label.shape, box.shape) == ((60, 64), (60, 64), (60, 64, 4))
    for i, (boxes, labels) in enumerate(zip(scenes.boxes, scenes.labels, strict=True)):
        here = {}  # cell → its object; of two objects in one cell the later one stays
        for (x1, y1, x2, y2), c in zip(boxes.tolist(), labels.tolist(), strict=True):
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            here[int(y // 8) * 8 + int(x // 8)] = c, [x, y, x2 - x1, y2 - y1]
        assert set(is_object[i].nonzero()[:, 0].tolist()) == set(here)
        for cell, (c, numbers) in here.items():
            assert label[i, cell] == c
            assert box[i, cell].tolist() == pytest.approx(numbers)


def test_each_cell_predicts_near_itself(scenes):
    torch.manual_seed(0)
    with torch.no_grad():
        raw = GridDetector(2).eval()(as_input(scenes))  # (60, 64, 7)
    cells = torch.arange(64)
    middle = torch.stack([cells % 8, cells // 8], dim=1) * 8 + 4.0
    assert ((raw[..., :2] - middle).abs() <= 8).all()
    assert ((raw[..., 2:4] > 0) & (raw[..., 2:4] < 64)).all()


def test_targets_that_are_answered_perfectly_cost_almost_nothing(scenes):
    is_object, label, box = grid_targets(scenes)

    class Perfect(GridDetector):
        def forward(self, images):
            one_hot = torch.nn.functional.one_hot(label, 2).float()
            return torch.cat([box, 40 * is_object[..., None] - 20, 40 * one_hot - 20], dim=-1)

    assert Perfect(2).loss(as_input(scenes), is_object, label, box) < 1e-6


def test_training_finds_objects(scenes):
    torch.manual_seed(0)
    detector = GridDetector(2)
    fit(detector, as_input(scenes), *grid_targets(scenes), steps=120, lr=0.02, batch_size=32, one_cycle=True)
    with torch.no_grad():
        found = interpret_detection_output(detector(as_input(scenes)), logits=True, score_threshold=0.05)
    evaluation = evaluate_detections(found, scenes.boxes, scenes.labels, num_classes=2)
    assert evaluation.mean_average_precision > 0.6  # on the scenes that it was trained on
