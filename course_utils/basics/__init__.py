"""Chapter 1: what an output is. Logits, probabilities, labels, and a report that says which one is in hand."""

from course_utils.basics.conversion import logits_to_probabilities, probabilities_to_labels
from course_utils.basics.description import OutputReport, describe_output
from course_utils.basics.models import CharacterModel, PixelLabeller, SimpleNet
from course_utils.basics.plotting import (
    plot_images,
    plot_logits,
    plot_output_path,
    plot_probabilities,
    plot_segmentation,
    plot_temperature,
    plot_weights,
)

__all__ = [
    "CharacterModel",
    "OutputReport",
    "PixelLabeller",
    "SimpleNet",
    "describe_output",
    "logits_to_probabilities",
    "plot_images",
    "plot_logits",
    "plot_output_path",
    "plot_probabilities",
    "plot_segmentation",
    "plot_temperature",
    "plot_weights",
    "probabilities_to_labels",
]
