"""The checks under the exercises: what was expected, what came, and which known mistake it looks like."""

from course_utils.checks.exercise import CheckFailed, Exercise, Mistake, check, exercises
from course_utils.checks.start import self_check, start_exercises

__all__ = ["CheckFailed", "Exercise", "Mistake", "check", "exercises", "self_check", "start_exercises"]
