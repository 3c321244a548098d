"""The report that says what an output is, and the error E64."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.basics import SimpleNet, describe_output
from course_utils.data import load_split
from course_utils.interpretation import interpret_detection_output


class TestDescribeOutput:
    @pytest.mark.parametrize(
        ("shape", "task", "last"),
        [
            ((6,), "binary", "N samples"),
            ((6, 1), "binary", "1 logit"),
            ((6, 3), "multiclass", "C classes"),
            ((6, 3, 7), "multiclass", "L positions"),
            ((6, 3, 7, 7), "multiclass", "axis 3"),
            ((6, 3), "multilabel", "C classes"),
            ((6, 2), "regression", "D outputs"),
            ((6, 3, 8, 8), "segmentation", "W columns"),
            ((6, 5, 90), "sequence", "V vocabulary"),
            ((6, 5, 90), None, "V vocabulary (or L positions)"),
            ((2, 2, 2, 2, 2), None, "axis 4"),
        ],
    )
    def test_axes(self, shape, task, last):
        report = describe_output(torch.zeros(shape), task=task)
        assert report.axes[-1] == last
        assert len(report.axes) == len(shape)
        assert str(shape) in repr(report)

    @pytest.mark.parametrize(
        ("shape", "task"), [((2, 3, 4), "binary"), ((5,), "multiclass"), ((2, 3), "sequence"), ((2, 3), "segmentation")]
    )
    def test_shapes_that_do_not_fit(self, shape, task):
        with pytest.raises(ValueError, match=f"output of a {task} task"):
            describe_output(torch.zeros(shape), task=task)

    def test_kinds_on_real_outputs(self):
        split = load_split("iris")
        torch.manual_seed(0)
        logits = SimpleNet(4, 8, 3)(split.x_test) * 10
        assert describe_output(logits, task="multiclass").kinds == ("logits",)
        assert describe_output(logits.softmax(1)).kinds == ("logits", "probabilities")
        assert describe_output(logits.log_softmax(1)).kinds == ("logits", "log_probabilities")
        assert describe_output(logits.argmax(1)).kinds == ()
        assert describe_output(logits, task="regression").kinds == ()

    def test_sequences_and_segmentations_have_their_own_class_axis(self):
        sequence = torch.softmax(torch.linspace(0, 9, 2 * 5 * 7).reshape(2, 5, 7).sin(), -1)
        assert "probabilities" in describe_output(sequence, task="sequence").kinds
        assert "probabilities" not in describe_output(sequence, task="multiclass").kinds
        assert "sum to 1 over the classes in 10 of 10" not in repr(describe_output(sequence.mT))
        assert describe_output(sequence.mT).reasons["probabilities"].startswith("yes: all values are")

    def test_counts_what_is_not_finite(self):
        report = describe_output(torch.tensor([[math.nan, 1.0], [math.inf, -2.0]]))
        assert (report.nan_count, report.inf_count, report.minimum, report.maximum) == (1, 1, -2.0, 1.0)
        assert report.kinds == ()
        assert "1 NaN, 1 infinite" in repr(report)

    def test_two_columns_are_no_binary_output(self):
        with pytest.raises(ValueError, match="one logit a sample"):
            describe_output(torch.zeros(3, 2), task="binary")

    def test_nothing_finite_and_nothing_at_all(self):
        assert describe_output(torch.tensor([math.nan])).minimum is None
        assert repr(describe_output({})) == "an output without tensors"
        with pytest.raises(ValueError, match="output is empty"):
            describe_output(torch.zeros(0, 3))

    def test_objects_with_logits_are_read(self):
        report = describe_output(SimpleNamespace(logits=torch.zeros(2, 3)))
        assert report.path == ".logits"
        assert report
        assert list(describe_output({"a": torch.zeros(1)})) == ["a"]

    def test_nested(self):
        output = {"class": torch.zeros(2, 3), "boxes": [torch.tensor([[math.nan]]), (torch.ones(1),)]}
        report = describe_output(output)
        assert report["boxes"][0].nan_count == 1
        assert report["boxes"][1][0].path == "['boxes'][1][0]"
        assert report.nan_count == 1
        assert report.kinds == ()
        assert report.to_frame()["path"].tolist() == ["['class']", "['boxes'][0]", "['boxes'][1][0]"]
        assert "output['class']: float32 (2, 3)" in repr(report)
        assert "&#39;class&#39;" in report._repr_html_()

    def test_f14_a_cache_is_skipped_and_named(self):
        torch.manual_seed(0)
        sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
        output = GPT2LMHeadModel(GPT2Config(**sizes)).eval()(torch.tensor([[1, 2, 3]]))
        assert "past_key_values" in output
        report = describe_output(output, task="sequence")
        assert report["logits"].shape == (1, 3, 11)
        assert report.kinds == ("logits",)
        assert report.skipped == ("output['past_key_values'] (DynamicCache)",)
        assert "not described, because it is no tensor: output['past_key_values'] (DynamicCache)" in repr(report)

    def test_f14_every_tensor_of_a_dataclass_counts(self):
        @dataclass
        class Output:
            logits: torch.Tensor
            loss: torch.Tensor
            attentions: None = None

        report = describe_output([Output(torch.zeros(2, 3), torch.tensor(math.nan))])
        assert report.nan_count == 1
        assert report[0]["loss"].path == "[0].loss"
        assert report.skipped == ()

    def test_f15_empty_parts_are_described(self):
        report = describe_output([{"boxes": torch.rand(1, 4)}, {"boxes": torch.zeros(0, 4)}])
        assert report[1]["boxes"].shape == (0, 4)
        assert report.kinds == ("logits", "probabilities")  # of those that hold values
        assert "output[1]['boxes']: float32 (0, 4)" in repr(report)
        assert "values: none, the tensor is empty" in repr(report)

    def test_f15_what_the_detector_makes_of_an_empty_image(self):
        raw = torch.tensor([[[20.0, 20, 9, 9, 0.1, 0.8, 0.2]]])
        (found,) = interpret_detection_output(raw)
        assert len(found["boxes"]) == 0
        assert describe_output(found)["boxes"].shape == (0, 4)

    @pytest.mark.parametrize(
        "make",
        [
            torch.Tensor.to_sparse,
            lambda x: torch.quantize_per_tensor(x, 0.5, 0, torch.quint8),
            lambda x: x.to(torch.float8_e4m3fn),
        ],
        ids=["sparse", "quantised", "float8"],
    )
    def test_q30_tensors_that_torch_can_hardly_read(self, make):
        values = torch.tensor([[0.5, 0.5], [2.0, 0.0]])
        report = describe_output(make(values))
        assert (report.shape, report.minimum, report.maximum) == ((2, 2), 0, 2)
        assert report.dtype == make(values).dtype
        assert report.kinds == ("logits",)

    def test_q30_nested_tensors_are_a_list(self):
        report = describe_output({"tokens": torch.nested.nested_tensor([torch.zeros(2, 3), torch.ones(1, 3)])})
        assert [part.shape for part in report["tokens"].parts.values()] == [(2, 3), (1, 3)]
        assert report["tokens"][1].path == "['tokens'][1]"

    def test_f9_complex_values_have_magnitudes(self):
        report = describe_output(torch.tensor([3j, -4j, complex(0, math.inf)]))
        assert (report.minimum, report.maximum, report.inf_count) == (3, 4, 1)
        assert "magnitudes 3 to 4, 0 NaN, 1 infinite" in repr(report)

    def test_requires_grad_is_seen_and_not_changed(self):
        x = torch.zeros(2, 3, requires_grad=True)
        assert describe_output(x).requires_grad
        assert not describe_output({"a": x.detach()}).requires_grad

    def test_bad_input(self):
        with pytest.raises(TypeError, match=r"must hold a tensor, but holds only output\['a'\] \(str\)"):
            describe_output({"a": "text"})
        with pytest.raises(TypeError, match="must be a tensor or a dict"):
            describe_output("text")
        with pytest.raises(TypeError, match=r"output\['a'\] must be a tensor, but is a numpy ndarray"):
            describe_output({"a": np.ones(3), "b": torch.ones(3)})
        with pytest.raises(ValueError, match="task must be one of"):
            describe_output(torch.zeros(2), task="classify")
