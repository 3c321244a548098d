"""course_utils.foundation: checks, modes, seeds, devices, bars, figures, results."""

import math
import random
import subprocess
import sys
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.foundation import plotting
from course_utils.foundation.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_labels,
    check_number,
    check_tensor,
    describe_value,
)
from course_utils.foundation.devices import available_devices, choose_device
from course_utils.foundation.evaluation import evaluation_mode, output_tensor
from course_utils.foundation.progress import progress_bar
from course_utils.foundation.results import Result
from course_utils.foundation.seeding import isolated_randomness, make_generator, seed_everything
from course_utils.foundation.values import value_kinds


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

    @pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([-1, 0])])
    def test_labels_out_of_range(self, labels):
        with pytest.raises(ValueError, match="0 to 2"):
            check_labels(labels, "y", num_samples=2, num_classes=3)

    def test_labels_of_the_wrong_length_or_dtype(self):
        with pytest.raises(ValueError, match="each of the 3 samples"):
            check_labels(torch.tensor([0, 1]), "y", num_samples=3, num_classes=3)
        with pytest.raises(TypeError, match="integer"):
            check_labels(torch.tensor([0.0]), "y", num_samples=1, num_classes=3)

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

    def test_describe_value(self):
        assert describe_value({"a": 1}) == "a dict with the keys ['a']"
        assert describe_value(3) == "3 (int)"


class TestEvaluation:
    def test_modes_come_back_one_by_one(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        with evaluation_mode(stateful_model):
            assert not any(module.training for module in stateful_model.modules())
        assert [module.training for module in stateful_model.modules()] == modes

    def test_modes_come_back_after_an_exception(self, stateful_model):
        modes = [module.training for module in stateful_model.modules()]
        with pytest.raises(RuntimeError), evaluation_mode(stateful_model):
            raise RuntimeError
        assert [module.training for module in stateful_model.modules()] == modes

    def test_not_a_module(self):
        with pytest.raises(TypeError, match="must be a torch"), evaluation_mode(lambda x: x):
            pass

    def test_e19_objects_with_logits_are_read_and_others_named(self):
        logits = torch.zeros(2, 3)
        assert output_tensor(SimpleNamespace(logits=logits)) is logits
        with pytest.raises(TypeError, match="a tuple of length 2"):
            output_tensor((logits, logits))
        with pytest.raises(TypeError, match=r"keys \['out'\]"):
            output_tensor({"out": logits})


class TestSeeding:
    def test_none_is_fresh_and_a_seed_is_a_stream(self):
        assert not torch.equal(
            torch.rand(4, generator=make_generator(None)), torch.rand(4, generator=make_generator(None))
        )
        assert torch.equal(torch.rand(4, generator=make_generator(3)), torch.rand(4, generator=make_generator(3)))

    def test_isolated_randomness_gives_the_state_back(self):
        state = torch.get_rng_state()
        with isolated_randomness(5):
            first = torch.rand(3)
        with isolated_randomness(5):
            assert torch.equal(first, torch.rand(3))
        with pytest.raises(RuntimeError), isolated_randomness(5):
            raise RuntimeError(torch.rand(3))
        assert torch.equal(state, torch.get_rng_state())

    def test_seed_everything(self):
        def draw():
            return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

        seed_everything(1)
        first = draw()
        seed_everything(1)
        assert draw() == first

    @pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError)])
    def test_bad_seeds(self, seed, error):
        with pytest.raises(error, match="seed"):
            seed_everything(seed)

    def test_deterministic_is_asked_for(self):
        try:
            seed_everything(0, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)


class TestDevices:
    def test_order_of_choice(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert available_devices() == ["mps", "cpu"]
        assert choose_device().type == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device().type == "cuda"
        assert choose_device("cpu").type == "cpu"

    def test_missing_and_unknown(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match="does not work here; available"):
            choose_device("cuda")
        with pytest.raises(ValueError, match="'auto', 'cuda', 'mps', 'cpu'"):
            choose_device("tpu")


class TestProgress:
    def test_walks_through_and_counts_units(self, monkeypatch, capsys):
        monkeypatch.setenv("COURSE_QUIET", "0")
        assert list(progress_bar(range(3), description="walking", unit="step")) == [0, 1, 2]
        shown = capsys.readouterr().err
        assert "walking" in shown
        assert "step/s" in shown

    @pytest.mark.parametrize(("quiet", "enabled"), [("1", True), ("0", False)])
    def test_can_be_silenced(self, monkeypatch, capsys, quiet, enabled):
        monkeypatch.setenv("COURSE_QUIET", quiet)
        assert list(progress_bar(range(3), enabled=enabled)) == [0, 1, 2]
        assert capsys.readouterr() == ("", "")


class TestPlotting:
    def test_pyplot_and_settings_are_untouched(self):
        before = dict(matplotlib.rcParams)
        with plotting.course_style():
            figure, axes = plotting.new_figure(2, 2)
        assert len(axes) == 4
        assert plt.get_fignums() == []
        assert dict(matplotlib.rcParams) == before
        assert figure._repr_png_().startswith(b"\x89PNG")

    def test_settings_come_back_after_an_exception(self):
        before = dict(matplotlib.rcParams)
        with pytest.raises(RuntimeError), plotting.course_style():
            raise RuntimeError
        assert dict(matplotlib.rcParams) == before

    def test_e69_axes_are_a_list_for_a_single_axes_too(self):
        _, axes = plotting.new_figure(1, 1)
        assert len(axes) == 1
        axes[0].plot([0, 1])

    def test_the_same_figure_is_the_same_bytes(self):
        def draw():
            figure, axes = plotting.new_figure()
            axes[0].plot([0, 1])
            return figure._repr_png_()

        assert draw() == draw()

    def test_cjk_text_without_a_font_warns(self, monkeypatch):
        monkeypatch.setattr(plotting, "find_cjk_font", lambda: None)
        figure, axes = plotting.new_figure()
        axes[0].set_xticks([0], ["猫"])
        with pytest.warns(UserWarning, match="Noto"):
            plotting.finish(figure)

    def test_cjk_font_is_the_second_family(self, monkeypatch):
        monkeypatch.setattr(plotting, "find_cjk_font", lambda: "STIXGeneral")  # stands in: matplotlib ships it
        with plotting.course_style(), warnings.catch_warnings():
            warnings.simplefilter("error")
            figure, axes = plotting.new_figure()
            axes[0].set_title("概率 probability")
            plotting.finish(figure)
        assert axes[0].title.get_fontfamily() == ["sans-serif", "STIXGeneral"]

    def test_latin_text_never_warns(self, monkeypatch):
        monkeypatch.setattr(plotting, "find_cjk_font", lambda: None)
        figure, axes = plotting.new_figure()
        axes[0].set_title("probabilité ≥ 0.5")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plotting.finish(figure)

    def test_palette_parts_in_grey(self):
        """The first four colours differ in luminance, so that they part in grey too (WCAG relative luminance)."""

        def luminance(colour):
            channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

        first = [luminance(colour) for colour in plotting.PALETTE[:4]]
        assert min(abs(a - b) for i, a in enumerate(first) for b in first[i + 1 :]) > 0.1


@dataclass(frozen=True, eq=False, repr=False)
class _Scores(Result):
    labels: torch.Tensor
    scores: torch.Tensor
    note: str
    per_sample: ClassVar = ("labels", "scores")


class TestResults:
    result = _Scores(torch.tensor([3, 1]), torch.tensor([[0.5, 0.25], [0.0, 1.0]]), "two")

    def test_length_and_samples(self):
        assert len(self.result) == 2
        assert self.result[-1]["labels"] == 1
        assert torch.equal(self.result[0]["scores"], torch.tensor([0.5, 0.25]))
        with pytest.raises(IndexError):
            self.result[2]

    def test_it_is_an_iterable_of_samples(self):
        assert [sample["labels"] for sample in self.result] == [3, 1]

    def test_frame_and_texts(self):
        frame = self.result.to_frame()
        assert list(frame.columns) == ["labels", "scores_0", "scores_1"]
        assert frame["scores_1"].tolist() == [0.25, 1.0]
        assert repr(self.result) == "_Scores(labels=int64[2], scores=float32[2, 2], note='two')"
        assert "<table" in self.result._repr_html_()

    def test_frozen(self):
        with pytest.raises(AttributeError):
            self.result.note = "other"


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


def test_importing_the_package_loads_nothing_heavy():
    """What a chapter needs loads when it is used; benchmarks/import_cost.py measures the seconds."""
    code = (
        "import sys, course_utils.basics, course_utils.iris, course_utils.optimization, course_utils.checks;"
        "print([m for m in ('pandas', 'seaborn', 'sklearn', 'matplotlib', 'torchinfo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_attribute_of_the_package():
    import course_utils

    assert "basics" in dir(course_utils)
    with pytest.raises(AttributeError, match="it has advanced, basics"):
        course_utils.chapter_one  # noqa: B018


def test_module_is_not_copied(stateful_model):
    with evaluation_mode(stateful_model) as same:
        assert same is stateful_model
    assert isinstance(same, nn.Module)


def test_a_figure_shows_itself_the_same_way_after_pyplot_was_imported(monkeypatch):
    """IPython registers its own picture of a Figure then; ours is small and carries no version."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats

    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    plotting._figure_class.cache_clear()  # the class is made in the kernel
    figure = plotting.plot_curves({"a": ([0, 1], [1, 0])}, xlabel="x", ylabel="y")
    select_figure_formats(shell, {"png"})  # what pyplot does when a cell has imported it
    shown, _ = shell.display_formatter.format(figure)
    assert shown["image/png"] == figure._repr_png_()
    assert b"Software" not in shown["image/png"]
    plotting._figure_class.cache_clear()
