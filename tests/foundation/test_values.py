"""Logits, probabilities or log-probabilities: what a tensor can be."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.foundation.values import value_kinds


class TestValueKinds:
    @given(
        st.lists(st.floats(-30, 30), min_size=2, max_size=6),
        st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    )
    def test_softmax_and_its_logarithm_are_recognised_in_every_dtype(self, row, dtype):
        logits = torch.tensor([row], dtype=dtype)
        assert "probabilities" in value_kinds(logits.softmax(1), class_dim=1, exclusive=True).kinds
        assert "log_probabilities" in value_kinds(logits.log_softmax(1), class_dim=1, exclusive=True).kinds

    def test_what_cannot_be(self):
        def kinds(values, exclusive=True):
            return value_kinds(torch.tensor([values]), class_dim=1, exclusive=exclusive).kinds

        assert kinds([2.0, -1.0]) == ("logits",)
        assert kinds([0.5, 0.6]) == ("logits",)
        assert kinds([0.5, 0.6], exclusive=False) == ("logits", "probabilities")
        assert kinds([0.5, math.nan]) == ()
        assert kinds([1.0, math.inf]) == ()
        assert kinds([-math.inf, 0.0]) == ("logits", "log_probabilities")
        assert kinds([1, 0]) == ()

    def test_every_kind_has_a_reason(self):
        found = value_kinds(torch.tensor([[0.2, 0.8]]), class_dim=1, exclusive=None)
        assert set(found.reasons) == {"logits", "probabilities", "log_probabilities"}
        assert all(reason.startswith(("yes", "no")) for reason in found.reasons.values())
