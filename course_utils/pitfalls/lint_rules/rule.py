"""What a rule is: a name, a reason, a cure, and a function that finds the places."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from course_utils.pitfalls.lint_rules.outputs import Outputs

Search = Callable[[Outputs], Iterator[ast.AST]]


@dataclass(frozen=True)
class Rule:
    """One kind of error.

    Attributes:
        name: as it stands in a finding, for example "softmax-before-cross-entropy".
        error: its number among the measured errors of the course, None if it has none.
        why: what it does to the results, one sentence or two.
        fix: what to write instead.
        find: yields the places in a text.
    """

    name: str
    error: int | None
    why: str
    fix: str
    find: Search


RULES: dict[str, Rule] = {}


def rule(name: str, *, error: int | None = None, why: str, fix: str) -> Callable[[Search], Search]:
    """Add a search to the rules."""

    def add(find: Search) -> Search:
        RULES[name] = Rule(name, error, why, fix, find)
        return find

    return add
