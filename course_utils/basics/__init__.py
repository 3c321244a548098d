"""Chapter 1: what an output is. Logits, probabilities, labels, and a report that says which one is in hand."""

from course_utils.basics.conversion import logits_to_probabilities, probabilities_to_labels
from course_utils.basics.description import OutputReport, describe_output
from course_utils.basics.models import SimpleNet
from course_utils.basics.plotting import plot_images, plot_probabilities, plot_segmentation, plot_temperature

__all__ = [
    "OutputReport",
    "SimpleNet",
    "describe_output",
    "logits_to_probabilities",
    "plot_images",
    "plot_probabilities",
    "plot_segmentation",
    "plot_temperature",
    "probabilities_to_labels",
]
