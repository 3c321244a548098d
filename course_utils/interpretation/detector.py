"""A small detector that can be trained in seconds, and what it is trained towards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from course_utils.data import Scenes

CELL = 8  # pixels: a 64 × 64 scene has 8 × 8 cells
CELLS = 8  # in a row, and in a column
POS_WEIGHT = 5.0  # of cells with an object in the objectness loss: they are rare


class GridDetector(nn.Module):
    """Each of 8 × 8 cells of a 64 × 64 scene predicts one box, an objectness and the logits of C classes.

    The columns of the output are the box's centre x, centre y, width and height in pixels, the objectness logit, and C
    class logits: (N, 64, 5 + C), the cells row by row.

    Args:
        num_classes: C.

    >>> GridDetector(num_classes=4)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 64, 9])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            layers += [nn.Conv2d(i, o, 3, stride=stride, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 5 + num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 64, 64) → (N, 64, 5 + C)."""
        raw = self.layers(images).permute(0, 2, 3, 1)  # (N, 8, 8, 5 + C)
        middles = torch.arange(CELLS, device=raw.device) * CELL + CELL / 2  # pixels
        middle = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)  # (8, 8, 2)
        centre = middle + CELL * torch.tanh(raw[..., :2])  # at most one cell away from the cell's middle
        size = CELL * CELLS * torch.sigmoid(raw[..., 2:4])  # between 0 and the scene's size
        return torch.cat([centre, size, raw[..., 4:]], dim=-1).flatten(1, 2)

    def loss(self, images: Tensor, is_object: Tensor, label: Tensor, box: Tensor) -> Tensor:
        """The loss on a batch, against what `grid_targets` returns.

        Objectness is asked of every cell. Only the cells that hold an object's centre are asked for a class and a box.
        """
        output = self(images)
        weight = torch.tensor(POS_WEIGHT, device=output.device)
        objectness = F.binary_cross_entropy_with_logits(output[..., 4], is_object, pos_weight=weight)
        here = is_object > 0
        one_hot = F.one_hot(label[here], output.shape[-1] - 5).float()
        class_loss = F.binary_cross_entropy_with_logits(output[here][:, 5:], one_hot)
        # The weights bring the three parts to one order of magnitude.
        return objectness + 4 * class_loss + 0.1 * F.l1_loss(output[here][:, :4], box[here])


def grid_targets(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """What each cell shall say: the cell that holds an object's centre is responsible for the object.

    Args:
        scenes: N scenes of 64 × 64 pixels.

    Returns:
        Is there an object, float (N, 64); its class, int64 (N, 64); its box as centre x, centre y, width and height in
        pixels, float (N, 64, 4). Class and box are 0 where there is none.
    """
    is_object = torch.zeros(len(scenes), CELLS, CELLS)
    label, box = torch.zeros_like(is_object, dtype=torch.long), torch.zeros(len(scenes), CELLS, CELLS, 4)
    for i, (boxes, labels) in enumerate(zip(scenes.boxes, scenes.labels, strict=True)):
        boxes = box_convert(boxes, "xyxy", "cxcywh")
        column, row = (boxes[:, :2] / CELL).long().unbind(1)
        is_object[i, row, column], label[i, row, column], box[i, row, column] = 1, labels, boxes
    return is_object.flatten(1, 2), label.flatten(1, 2), box.flatten(1, 2)
