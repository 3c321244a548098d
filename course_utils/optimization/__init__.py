"""Chapter 3: making outputs better and honest. Heads and losses, thresholds, calibration, ensembles, uncertainty."""

from course_utils.optimization.calibration import (
    ReliabilityDiagram,
    TemperatureScaler,
    expected_calibration_error,
    reliability_diagram,
    temperature_scaling,
)
from course_utils.optimization.ensembles import StackingModel, ensemble_predictions, fit_stacking
from course_utils.optimization.heads import (
    BinaryClassificationModel,
    MultiClassClassificationModel,
    MultiLabelClassificationModel,
    RegressionModel,
)
from course_utils.optimization.plotting import (
    plot_confusion,
    plot_groups,
    plot_reliability,
    plot_risk_coverage,
    plot_threshold,
)
from course_utils.optimization.thresholds import ThresholdResult, adjust_threshold
from course_utils.optimization.uncertainty import UncertaintyResult, deep_ensemble, monte_carlo_dropout

__all__ = [
    "BinaryClassificationModel",
    "MultiClassClassificationModel",
    "MultiLabelClassificationModel",
    "RegressionModel",
    "ReliabilityDiagram",
    "StackingModel",
    "TemperatureScaler",
    "ThresholdResult",
    "UncertaintyResult",
    "adjust_threshold",
    "deep_ensemble",
    "ensemble_predictions",
    "expected_calibration_error",
    "fit_stacking",
    "monte_carlo_dropout",
    "plot_confusion",
    "plot_groups",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_threshold",
    "reliability_diagram",
    "temperature_scaling",
]
