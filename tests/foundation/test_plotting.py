"""Figures without pyplot: style, fonts, bytes."""

import warnings

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.text import Text

from course_utils.basics import plot_probabilities, plot_segmentation
from course_utils.foundation import plotting
from course_utils.interpretation import Hypothesis, plot_beam_tree, plot_detections, plot_samples
from course_utils.optimization import plot_confusion


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


class TestFlow:
    def test_boxes_from_left_to_right_with_an_arrow_between_neighbours(self):
        figure = plotting.plot_flow([("image", "(8, 8)"), ("network", "83 numbers"), ("logits", "(3,)")], title="path")
        ax = figure.axes[0]
        words = [text.get_text() for text in ax.texts if text.get_text()]
        assert words == ["image", "(8, 8)", "network", "83 numbers", "logits", "(3,)"]
        places = {text.get_text(): text.get_position()[0] for text in ax.texts}
        assert places["image"] < places["network"] < places["logits"]
        arrows = [(text.xyann[0], text.xy[0]) for text in ax.texts if text.get_text() == ""]
        assert arrows == [(pytest.approx(0.36), pytest.approx(0.64)), (pytest.approx(1.36), pytest.approx(1.64))]
        assert ax.get_title("left") == "path"
        assert figure._repr_png_().startswith(b"\x89PNG")

    def test_one_box_has_no_arrow(self):
        ax = plotting.plot_flow([("image", "(8, 8)")]).axes[0]
        assert [text.get_text() for text in ax.texts] == ["image", "(8, 8)"]

    @pytest.mark.parametrize(
        ("steps", "words"),
        [
            ([], "steps is empty"),
            ([("image", "(8, 8)"), ("logits",)], r"a pair \(name, below\)"),
            (["ab"], "a pair .* but one is 'ab'"),
        ],
    )
    def test_bad_input(self, steps, words):
        with pytest.raises(ValueError, match=words):
            plotting.plot_flow(steps)


HOSTILE = ["$…{", "$\\frac{$", "$$", "US$ and A$", "$", "a $b_{$ c", "\\$", "plain"]


class TestNamesWithDollars:
    """P22: what matplotlib would read as a formula is a name, and no name stops a figure."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_p22_a_literal_name_is_shown_as_it_is(self, name):
        text = Text(text=plotting.literal(name))
        shown, is_formula = text._preprocess_math(text.get_text())
        assert (shown, is_formula) == (name, False)

    def test_p22_broken_formulas_are_text_and_right_ones_stay_formulas(self):
        figure, axes = plotting.new_figure()
        axes[0].set(title="$…{ $", xlabel=r"$\epsilon$ in pixels")
        axes[0].plot([0, 1], label="$\\frac{$")
        axes[0].legend()
        axes[0].set_xticks([0, 1], ["$_$", "$x^2$"])
        plotting.finish(figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
        parsed = [text.get_parse_math() for text in (axes[0].title, axes[0].xaxis.label, *axes[0].get_xticklabels())]
        assert parsed == [False, True, False, True]

    @pytest.mark.parametrize("draw", ["probabilities", "segmentation", "confusion", "samples", "detections", "tree"])
    def test_p22_figures_with_such_class_names(self, draw):
        figure = {
            "probabilities": lambda: plot_probabilities(torch.full((8,), 1 / 8), HOSTILE),
            "segmentation": lambda: plot_segmentation(torch.rand(3, 4, 4), torch.rand(8, 4, 4).softmax(0), HOSTILE),
            "confusion": lambda: plot_confusion(torch.arange(8), torch.arange(8), dict(enumerate(HOSTILE))),
            "samples": lambda: plot_samples(torch.rand(8, 4, 4), torch.eye(8), torch.arange(8), HOSTILE),
            "detections": lambda: plot_detections(torch.rand(1, 3, 9, 9), [BOXES], HOSTILE, titles=["$…{ $"]),
            "tree": lambda: plot_beam_tree([HYPOTHESIS], prompt="$…{ $"),
        }[draw]()
        assert figure._repr_png_().startswith(b"\x89PNG")


BOXES = {"boxes": torch.tensor([[1.0, 1, 5, 5]]).expand(8, 4), "labels": torch.arange(8), "scores": torch.ones(8)}
HYPOTHESIS = Hypothesis(torch.arange(8), -1.0, HOSTILE, "".join(HOSTILE))
