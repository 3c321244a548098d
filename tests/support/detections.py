"""Detections in small whole numbers, so that overlaps and averages can be computed in exact fractions."""

import torch
import torch.nn.functional as F

CLASSES = 3


def raw_output(images, dtype=torch.float64) -> torch.Tensor:
    """Images of (x1, y1, width, height, score in sixteenths, class) → preds (batch, B, 5 + C) as corners.

    The class scores are 0 and 1, so that the score is exact in every dtype.
    """
    table = torch.tensor(images, dtype=torch.float64)  # (batch, B, 6)
    corners = torch.cat([table[..., :2], table[..., :2] + table[..., 2:4]], -1)
    return torch.cat([corners, table[..., 4:5] / 16, F.one_hot(table[..., 5].long(), CLASSES)], -1).to(dtype)


def as_arguments(found, truth) -> tuple[list, list, list]:
    def part(boxes):
        table = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 6)
        return {
            "boxes": torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1),
            "scores": table[:, 4] / 20,
            "labels": table[:, 5].long(),
        }

    true = [part(boxes) for boxes in truth]
    return [part(boxes) for boxes in found], [t["boxes"] for t in true], [t["labels"] for t in true]
