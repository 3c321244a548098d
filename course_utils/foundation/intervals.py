"""A measured share with its uncertainty."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from course_utils.foundation.arguments import check_count, check_number


@dataclass(frozen=True)
class Interval:
    """A measured share with its interval.

    Attributes:
        value: the share, in [0, 1].
        low, high: ends of the interval.
        n: how many samples it was measured on.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of `correct` successes in `n` ≥ 1 trials.

    With k of n right and z the normal quantile of the confidence, the interval is
    (k + z²/2 ± z·√(k(n−k)/n + z²/4)) / (n + z²). It stays inside [0, 1] and keeps a width at k = n, where the
    textbook's p ± z·√(p(1−p)/n) collapses to a point. Source: Wilson (1927), JASA 22, 209–212.

    >>> [round(end, 3) for end in wilson_interval(30, 30)]
    [0.886, 1.0]
    """
    check_count(n, "n")
    if check_count(correct, "correct", minimum=0) > n:
        raise ValueError(f"correct must be at most n, {n}, but is {correct}")
    check_number(confidence, "confidence", above=0, below=1)
    z = -NormalDist().inv_cdf((1 - confidence) / 2)  # the small tail: 0.5 + confidence / 2 may round to 1
    middle = correct + z * z / 2
    half = z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    # At k = 0 and at k = n one end is exactly 0 or 1; the formula's rounding must not move it, nor an end beyond k/n.
    low = 0.0 if correct == 0 else (middle - half) / (n + z * z)
    high = 1.0 if correct == n else (middle + half) / (n + z * z)
    return max(0.0, min(low, correct / n)), min(1.0, max(high, correct / n))
