"""Chapter 2: reading every kind of output. Classes, numbers, boxes and text."""

from course_utils.interpretation.classification import ClassificationResult, interpret_classification_output
from course_utils.interpretation.decoding import (
    DecodedSequence,
    Hypothesis,
    SimpleLanguageModel,
    beam_search_decode,
    greedy_decode,
)
from course_utils.interpretation.detection import (
    DetectionEvaluation,
    evaluate_detections,
    interpret_detection_output,
)
from course_utils.interpretation.detector import GridDetector, grid_targets
from course_utils.interpretation.plotting import (
    plot_beam_tree,
    plot_detections,
    plot_detector_cell,
    plot_intervals,
    plot_precision_recall,
    plot_residuals,
    plot_samples,
)
from course_utils.interpretation.regression import RegressionResult, interpret_regression_output

__all__ = [
    "ClassificationResult",
    "DecodedSequence",
    "DetectionEvaluation",
    "GridDetector",
    "Hypothesis",
    "RegressionResult",
    "SimpleLanguageModel",
    "beam_search_decode",
    "evaluate_detections",
    "greedy_decode",
    "grid_targets",
    "interpret_classification_output",
    "interpret_detection_output",
    "interpret_regression_output",
    "plot_beam_tree",
    "plot_detections",
    "plot_detector_cell",
    "plot_intervals",
    "plot_precision_recall",
    "plot_residuals",
    "plot_samples",
]
