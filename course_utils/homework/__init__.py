"""The homework: compare hyperparameters fairly, a whole grid in the time of one run."""

from course_utils.homework.classroom import ClassReport, collect_class
from course_utils.homework.comparison import Comparison, compare
from course_utils.homework.engine.base import TrainedRun
from course_utils.homework.engine.batched import can_be_batched, plan_chunks, train_batched
from course_utils.homework.engine.reference import train_sequentially
from course_utils.homework.plans import Plan, register
from course_utils.homework.results import Best, requirements
from course_utils.homework.settings import Setting, expand_grid
from course_utils.homework.submission import Verdict, validate_submission

__all__ = [
    "Best",
    "ClassReport",
    "Comparison",
    "Plan",
    "Setting",
    "TrainedRun",
    "Verdict",
    "can_be_batched",
    "collect_class",
    "compare",
    "expand_grid",
    "plan_chunks",
    "register",
    "requirements",
    "train_batched",
    "train_sequentially",
    "validate_submission",
]
