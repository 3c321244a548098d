"""Wilson's interval against scipy, and always inside [0, 1]."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from course_utils.foundation.intervals import wilson_interval

counts = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(1e-12, 1 - 1e-12) | st.sampled_from([5e-324, 1e-17, 1 - 2**-53]))
def test_p20_intervals_lie_in_0_to_1_and_hold_the_share(count, confidence):
    correct, n = count
    low, high = wilson_interval(correct, n, confidence)
    assert 0 <= low <= correct / n <= high <= 1


@given(counts, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_equals_scipy(count, confidence):
    expected = binomtest(*count).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*count, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)
