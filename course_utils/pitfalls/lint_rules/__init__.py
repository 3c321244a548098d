"""The rules of `course_utils.pitfalls.lint`, by subject. Importing this package fills `RULES`."""

from course_utils.pitfalls.lint_rules import attacks, evaluation, losses, modes, parameters, shapes, training
from course_utils.pitfalls.lint_rules.rule import RULES, Rule

__all__ = ["RULES", "Rule", "attacks", "evaluation", "losses", "modes", "parameters", "shapes", "training"]
