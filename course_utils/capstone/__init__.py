"""Chapter 6: CIFAR-10 from the images to the model card. It stands on all chapters before it."""

from course_utils.basics import plot_images
from course_utils.capstone.evaluation import (
    Calibration,
    Evaluation,
    FlipAverage,
    ImageReadings,
    calibrate_model,
    evaluate_logits,
    evaluate_model,
    interpret_model_outputs,
    predict_logits,
)
from course_utils.capstone.images import Augmentation, normalize
from course_utils.capstone.models import FastClassifier, ImageClassifier, NormalizedImageClassifier
from course_utils.capstone.plotting import (
    plot_confusion_matrix,
    plot_metrics,
    plot_readings,
    plot_robustness,
    plot_training,
    visualize_results,
)
from course_utils.capstone.recipes import Recipe
from course_utils.capstone.report import write_report
from course_utils.capstone.robustness import RobustnessCurve, measure_robustness
from course_utils.capstone.trained import load_trained_model
from course_utils.capstone.training import TrainingHistory, bfloat16_is_faster, train_model
from course_utils.data import ImageData, ImageSet, RecordedOutputs, load_cifar10, load_recorded_outputs
from course_utils.foundation.plotting import plot_curves

__all__ = [
    "Augmentation",
    "Calibration",
    "Evaluation",
    "FastClassifier",
    "FlipAverage",
    "ImageClassifier",
    "ImageData",
    "ImageReadings",
    "ImageSet",
    "NormalizedImageClassifier",
    "Recipe",
    "RecordedOutputs",
    "RobustnessCurve",
    "TrainingHistory",
    "bfloat16_is_faster",
    "calibrate_model",
    "evaluate_logits",
    "evaluate_model",
    "interpret_model_outputs",
    "load_cifar10",
    "load_recorded_outputs",
    "load_trained_model",
    "measure_robustness",
    "normalize",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_images",
    "plot_metrics",
    "plot_readings",
    "plot_robustness",
    "plot_training",
    "predict_logits",
    "train_model",
    "visualize_results",
    "write_report",
]
