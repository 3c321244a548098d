"""Chapter 3: making outputs better and honest. Heads and losses, thresholds, calibration, ensembles, uncertainty."""

from course_utils.optimization.calibration import (
    HonestError,
    ReliabilityDiagram,
    expected_calibration_error,
    honest_calibration_error,
    reliability_diagram,
)
from course_utils.optimization.decisions import RiskCoverage, adjust_for_prior, bayes_threshold, risk_coverage
from course_utils.optimization.ensembles import StackingModel, ensemble_predictions, fit_stacking
from course_utils.optimization.heads import (
    BinaryClassificationModel,
    GaussianRegressionModel,
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
from course_utils.optimization.scoring import BrierScore, brier_score
from course_utils.optimization.temperature import TemperatureScaler, temperature_scaling
from course_utils.optimization.thresholds import ThresholdResult, adjust_threshold
from course_utils.optimization.uncertainty import UncertaintyResult, deep_ensemble, monte_carlo_dropout
from course_utils.optimization.unknowns import Separation, separation

__all__ = [
    "BinaryClassificationModel",
    "BrierScore",
    "GaussianRegressionModel",
    "HonestError",
    "MultiClassClassificationModel",
    "MultiLabelClassificationModel",
    "RegressionModel",
    "ReliabilityDiagram",
    "RiskCoverage",
    "Separation",
    "StackingModel",
    "TemperatureScaler",
    "ThresholdResult",
    "UncertaintyResult",
    "adjust_for_prior",
    "adjust_threshold",
    "bayes_threshold",
    "brier_score",
    "deep_ensemble",
    "ensemble_predictions",
    "expected_calibration_error",
    "fit_stacking",
    "honest_calibration_error",
    "monte_carlo_dropout",
    "plot_confusion",
    "plot_groups",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_threshold",
    "reliability_diagram",
    "risk_coverage",
    "separation",
    "temperature_scaling",
]
