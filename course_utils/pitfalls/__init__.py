"""Chapter 4: pitfalls. Values that are not finite, shapes that scramble, scalings that lie, and how to find them."""

from course_utils.foundation.plotting import plot_curves
from course_utils.pitfalls.clipping import NonFiniteGradientError, gradient_clipping
from course_utils.pitfalls.diagnosis import Diagnosis, Finding, diagnose
from course_utils.pitfalls.lint import LintFinding, lint_file, lint_source
from course_utils.pitfalls.nonfinite import NonFiniteReport, detect_nan_inf, first_nonfinite_layer
from course_utils.pitfalls.numerics import (
    clamp_output,
    exp_transform,
    log_transform,
    normalize_output,
    safe_divide,
    safe_softmax,
    scale_output,
)
from course_utils.pitfalls.plotting import plot_sizes
from course_utils.pitfalls.shapes import adaptive_pooling, check_and_reshape_output

__all__ = [
    "Diagnosis",
    "Finding",
    "LintFinding",
    "NonFiniteGradientError",
    "NonFiniteReport",
    "adaptive_pooling",
    "check_and_reshape_output",
    "clamp_output",
    "detect_nan_inf",
    "diagnose",
    "exp_transform",
    "first_nonfinite_layer",
    "gradient_clipping",
    "lint_file",
    "lint_source",
    "log_transform",
    "normalize_output",
    "plot_curves",
    "plot_sizes",
    "safe_divide",
    "safe_softmax",
    "scale_output",
]
