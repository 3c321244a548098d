"""What a fair comparison has to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from course_utils.homework.statistics import is_full_grid

if TYPE_CHECKING:
    from course_utils.homework.comparison import Comparison

MIN_SEEDS = 5


def requirements(comparison: Comparison) -> list[str]:
    """The rules of a fair comparison that this one does not meet, in words; empty if it meets all.

    The rules: at least 5 seeds; at least two settings; a full grid, or one thing changed at a time (a setting from
    which every other one differs in one name). That validation and test are apart, `compare` sees to itself.

    >>> from course_utils.homework import compare
    >>> requirements(compare({"lr": [0.01, 0.1]}, seeds=3, epochs=5, progress=False))
    ['at least 5 seeds are needed, but there are 3']
    """
    unmet = []
    if len(comparison.seeds) < MIN_SEEDS:
        unmet.append(f"at least {MIN_SEEDS} seeds are needed, but there are {len(comparison.seeds)}")
    settings = [comparison.values_of(number) for number in range(len(comparison.settings))]
    if len(settings) < 2:
        unmet.append("at least two settings are needed, but there is one")
    elif not is_full_grid(settings) and not changes_one_thing(settings):
        unmet.append("the settings are neither a full grid nor one setting with one thing changed at a time")
    return unmet


def changes_one_thing(settings: Sequence[Mapping[str, object]]) -> bool:
    """Is there a setting from which every other one differs in one name?

    >>> base = {"lr": 0.1, "dropout": 0.0}
    >>> changes_one_thing([base, base | {"lr": 0.2}, base | {"dropout": 0.5}])
    True
    """

    def differences(one: Mapping[str, object], other: Mapping[str, object]) -> int:
        return sum(one[name] != other[name] for name in one)

    # The base agrees with any other setting in all names but one, so it is found among few candidates.
    near = [base for base in settings if differences(base, settings[0]) <= 1]
    return any(all(differences(base, other) <= 1 for other in settings) for base in near)
