"""Checks of arguments: what was expected, what came."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.foundation.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_labels,
    check_number,
    check_tensor,
    describe_value,
)


class TestArguments:
    @pytest.mark.parametrize(
        ("value", "error", "words"),
        [
            ([1.0], TypeError, "list of length 1"),
            (np.zeros((2, 3)), TypeError, r"numpy ndarray of shape \(2, 3\)"),
            (torch.zeros(2, dtype=torch.int64), TypeError, "int64 tensor"),
            (torch.zeros(2, 3, 4), ValueError, r"1 or 2 dimension\(s\).*\(2, 3, 4\)"),
            (torch.tensor(1.0), ValueError, "dimension"),
            (torch.zeros(0, 3), ValueError, "empty"),
            (torch.tensor([math.nan, 1.0, math.inf]), ValueError, "1 NaN and 1 infinite"),
        ],
    )
    def test_check_tensor_says_what_came(self, value, error, words):
        with pytest.raises(error, match=words):
            check_tensor(value, "x", ndim=(1, 2))

    def test_check_tensor_returns_the_same_object(self):
        x = torch.zeros(2)
        assert check_tensor(x, "x") is x

    @pytest.mark.parametrize(
        ("make", "advice"),
        [
            (torch.Tensor.to_sparse, r"sparse; convert it with .to_dense\(\)"),
            (torch.Tensor.to_sparse_csr, r"sparse; convert it with .to_dense\(\)"),
            (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantised, qint8; convert it with .dequant"),
            (lambda x: x.to(torch.float8_e4m3fn), r"float8_e4m3fn; convert it with .float\(\)"),
            (lambda x: torch.nested.nested_tensor([x, x[:1]]), r"nested; pad it with .to_padded_tensor\(0.0\)"),
        ],
    )
    def test_q30_tensors_that_torch_can_hardly_read(self, make, advice):
        """Q30: they failed in torch's words, wherever the first function was that does not know them."""
        with pytest.raises(TypeError, match=f"x must be an ordinary tensor, but is {advice}"):
            check_tensor(make(torch.eye(2)), "x")

    def test_q30_complex_numbers(self):
        with pytest.raises(TypeError, match="x must have a floating point dtype, but is a complex64 tensor"):
            check_tensor(torch.zeros(2, dtype=torch.complex64), "x")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, bool])
    def test_labels_in_numpys_dtypes(self, dtype):
        labels = np.array([0, 1, 1], dtype=dtype)
        labels.flags.writeable = False  # as pandas hands out its columns
        assert check_labels(labels, "y", num_samples=3, num_classes=2).tolist() == [0, 1, 1]

    @pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([-1, 0])])
    def test_labels_out_of_range(self, labels):
        with pytest.raises(ValueError, match="0 to 2"):
            check_labels(labels, "y", num_samples=2, num_classes=3)

    def test_labels_of_the_wrong_length_or_dtype(self):
        with pytest.raises(ValueError, match="each of the 3 samples"):
            check_labels(torch.tensor([0, 1]), "y", num_samples=3, num_classes=3)
        with pytest.raises(TypeError, match="integer"):
            check_labels(torch.tensor([0.0]), "y", num_samples=1, num_classes=3)

    def test_a_column_of_a_table_is_read_row_by_row(self):
        """After `train_test_split` its index is shuffled, and torch looks elements up by the index."""
        column = pd.Series([0, 1, 2], index=[2, 1, 0])
        for labels in (column, column.set_axis([7, 8, 9]), column.astype("Int64")):
            assert check_labels(labels, "y", num_samples=3, num_classes=3).tolist() == [0, 1, 2]
        with pytest.raises(TypeError, match="y must be whole numbers"):
            check_labels(column.map({0: "a", 1: "b", 2: "c"}), "y", num_samples=3, num_classes=3)

    def test_names_of_other_things_are_called_what_they_are(self):
        with pytest.raises(ValueError, match="names must name 2 outputs, but has 1"):
            check_class_names(["a"], 2, name="names", of="outputs")
        with pytest.raises(TypeError, match="^names must be a list of strings, but is 5"):
            check_class_names(5, 2, name="names", of="outputs")

    def test_class_names(self):
        assert check_class_names(["a", "b"], 2) == ("a", "b")
        assert check_class_names(None, 2) is None
        with pytest.raises(ValueError, match="3 classes, but has 2"):
            check_class_names(["a", "b"], 3)
        with pytest.raises(TypeError):
            check_class_names("ab", 2)

    def test_choice_lists_the_options(self):
        with pytest.raises(ValueError, match="'a', 'b', but is 'c'"):
            check_choice("c", "letter", ("a", "b"))

    @pytest.mark.parametrize("value", [True, 1.0, "1", None])
    def test_count_refuses_what_is_no_int(self, value):
        with pytest.raises(TypeError, match="n must be an int"):
            check_count(value, "n")

    @given(st.floats(allow_nan=True, allow_infinity=True))
    def test_number_accepts_exactly_the_open_interval(self, value):
        if 0 < value < 1:
            assert check_number(value, "p", above=0, below=1) == value
        else:
            with pytest.raises(ValueError, match="strictly between 0 and 1"):
                check_number(value, "p", above=0, below=1)

    def test_describe_value_prints_no_tensors(self):
        """They would fill the message."""

        @dataclass
        class Output:
            scores: torch.Tensor
            boxes: None = None

        assert describe_value(Output(torch.zeros(50, 50))) == "a Output with the fields ['scores', 'boxes']"
        assert describe_value(SimpleNamespace(scores=torch.zeros(3, 3))) == "a SimpleNamespace"
        assert describe_value("mlp") == "'mlp' (str)"

    def test_describe_value(self):
        assert describe_value({"a": 1}) == "a dict with the keys ['a']"
        assert describe_value(3) == "3 (int)"
