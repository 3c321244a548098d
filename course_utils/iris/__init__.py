"""Chapter 7: a small network on the real iris data. Its structure, its training, and its outputs in eval mode."""

from course_utils.foundation.intervals import Interval, wilson_interval
from course_utils.foundation.predictions import Prediction
from course_utils.iris.inference import accuracy, predict
from course_utils.iris.inspection import (
    ParameterCount,
    count_parameters,
    model_summary,
    parameter_table,
    weight_statistics,
)
from course_utils.iris.model import MLP, load_iris_split
from course_utils.iris.plotting import plot_decision_regions, plot_loss, plot_weight_distributions
from course_utils.iris.training import TrainingLog, train

__all__ = [
    "MLP",
    "Interval",
    "ParameterCount",
    "Prediction",
    "TrainingLog",
    "accuracy",
    "count_parameters",
    "load_iris_split",
    "model_summary",
    "parameter_table",
    "plot_decision_regions",
    "plot_loss",
    "plot_weight_distributions",
    "predict",
    "train",
    "weight_statistics",
    "wilson_interval",
]
