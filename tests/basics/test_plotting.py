"""The figures of chapter 1."""

import pytest
import torch
from matplotlib.colors import to_hex

from course_utils.basics import (
    plot_images,
    plot_logits,
    plot_output_path,
    plot_probabilities,
    plot_segmentation,
    plot_temperature,
    plot_weights,
)
from course_utils.foundation.plotting import PALETTE


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def marked_true(ax):
    """Which bars have the word "true" above them."""
    return [round(text.xy[0]) for text in ax.texts if text.get_text() == "true"]


# Probabilities of three classes; in every pixel class 1 is the most probable.
SEA = torch.softmax(torch.zeros(3, 6, 6) + torch.tensor([0.0, 2.0, 1.0])[:, None, None], 0)


class TestFigures:
    def test_probabilities_bars(self):
        figure = plot_probabilities(torch.tensor([0.1, 0.7, 0.2]), ["cat", "dog", "horse"], title="pet")
        ax = figure.axes[0]
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.1, 0.7, 0.2])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "horse"]
        assert ax.get_ylabel() == "probability"

    def test_the_true_class_is_marked_and_the_largest_bar_is_blue(self):
        ax = plot_probabilities(torch.tensor([0.1, 0.7, 0.2]), true=2).axes[0]
        assert marked_true(ax) == [2]
        assert [to_hex(bar.get_facecolor()) == PALETTE[0].lower() for bar in ax.patches] == [False, True, False]
        assert marked_true(plot_probabilities(torch.tensor([0.1, 0.7, 0.2])).axes[0]) == []

    def test_logits_their_powers_and_the_probabilities(self):
        logits = torch.tensor([-1.0, 2.0, 0.5])
        figure = plot_logits(logits, ["cat", "dog", "horse"], true=0)
        assert len(figure.axes) == 3
        for ax, expected in zip(figure.axes, (logits, logits.exp(), logits.softmax(0)), strict=True):
            assert heights(ax) == pytest.approx(expected.tolist(), abs=1e-5)
            assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "horse"]
            assert marked_true(ax) == [0]
        assert [ax.get_ylabel() for ax in figure.axes] == ["logit", "e^z", "probability"]
        assert figure.axes[2].get_ylim() == (0, 1)

    def test_logits_that_still_want_a_gradient(self):
        plot_logits(torch.tensor([-1.0, 2.0], requires_grad=True))

    def test_the_path_from_the_image_to_the_decision(self):
        logits = torch.tensor([0.0, 1.0, 3.0])
        figure = plot_output_path(torch.rand(8, 8), logits, ["cat", "dog", "US$"], true=1)
        image, evidence, probabilities, decision = figure.axes
        assert image.images[0].get_array().shape == (8, 8)
        assert heights(evidence) == pytest.approx([0.0, 1.0, 3.0])
        assert heights(probabilities) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
        assert (marked_true(evidence), marked_true(probabilities)) == ([1], [1])
        assert [text.get_text() for text in decision.texts] == ['"US\\$"', "with p = 0.84"]

    def test_the_path_of_a_colour_image_without_names(self):
        figure = plot_output_path(torch.rand(3, 8, 9), torch.tensor([2.0, 0.0]))
        assert figure.axes[0].images[0].get_array().shape == (8, 9, 3)
        assert figure.axes[3].texts[0].get_text() == '"0"'

    def test_temperature_rows_hold_the_scaled_logits_and_their_softmax(self):
        logits = torch.tensor([0.0, 3.0, 1.0])
        figure = plot_temperature(logits, temperatures=(0.5, 5.0))
        above, below = figure.axes[:2], figure.axes[2:]
        for temperature, scaled, probabilities in zip((0.5, 5.0), above, below, strict=True):
            assert heights(scaled) == pytest.approx((logits / temperature).tolist())
            assert heights(probabilities) == pytest.approx((logits / temperature).softmax(0).tolist(), abs=1e-5)
            assert scaled.get_title("left") == f"T = {temperature:g}"
        assert [ax.get_ylabel() for ax in figure.axes] == ["logit / T", "", "probability", ""]
        assert above[0].get_ylim() == above[1].get_ylim()  # one scale, so that the bars shrink as T grows

    def test_images_grey_and_colour(self, tmp_path):
        path = tmp_path / "grid.png"
        figure = plot_images(torch.zeros(3, 8, 8), ["a", "b", "c"], columns=2)
        figure.savefig(path)
        assert sum(bool(ax.images) for ax in figure.axes) == 3
        assert path.read_bytes().startswith(b"\x89PNG")
        colour = plot_images(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
        assert colour.axes[0].images[0].get_array().shape == (8, 9, 3)

    def test_segmentation_shows_input_maps_and_the_most_probable_class(self):
        figure = plot_segmentation(torch.zeros(3, 6, 6), SEA, ["sky", "sea", "land"])
        titles = [ax.get_title("left") for ax in figure.axes if ax.images and ax.get_title("left")]
        assert titles == ["input", "p(sky)", "p(sea)", "p(land)", "most probable"]
        assert (figure.axes[4].images[0].get_array() == 1).all()

    def test_segmentation_shows_the_true_classes_in_the_same_colours(self):
        true = torch.zeros(6, 6, dtype=torch.int64)
        true[2:, 3:] = 2
        figure = plot_segmentation(torch.zeros(3, 6, 6), SEA, ["sky", "sea", "land"], true=true)
        probable, shown = (ax for ax in figure.axes if ax.get_title("left") in ("most probable", "true"))
        assert (shown.get_title("left"), shown.images[0].get_array().tolist()) == ("true", true.tolist())
        assert probable.images[0].get_clim() == shown.images[0].get_clim() == (-0.5, 2.5)
        assert probable.images[0].get_cmap() == shown.images[0].get_cmap()

    def test_weights_are_images_on_one_scale_around_zero(self):
        weights = torch.zeros(3, 4, 5)
        weights[0, 0, 0], weights[2, 1, 1] = -0.5, 0.25
        figure = plot_weights(weights, ["0", "1", "2"], columns=2, label="weight of a pixel")
        panels = [ax for ax in figure.axes if ax.images]
        assert [ax.get_title() for ax in panels] == ["0", "1", "2"]
        assert {ax.images[0].get_clim() for ax in panels} == {(-0.5, 0.5)}
        assert panels[2].images[0].get_array()[1, 1] == 0.25
        assert "weight of a pixel" in [ax.get_ylabel() for ax in figure.axes]

    def test_weights_that_are_all_zero_are_white(self):
        assert plot_weights(torch.zeros(1, 4, 5), ["new"]).axes[0].images[0].get_clim() == (-1, 1)

    def test_draws_into_given_axes(self):
        from matplotlib.figure import Figure

        ax = Figure().subplots()
        assert plot_probabilities(torch.tensor([0.5, 0.5]), ax=ax) is ax.figure

    @pytest.mark.parametrize(
        ("draw", "words"),
        [
            (lambda: plot_probabilities(torch.zeros(2), ["a"]), "2 classes, but has 1"),
            (lambda: plot_probabilities(torch.zeros(2, 2)), "1 dimension"),
            (lambda: plot_probabilities(torch.tensor([0.5, 0.5]), true=2), "true must be a class below 2, but is 2"),
            (lambda: plot_probabilities(torch.tensor([0.5, 0.5]), true=-1), "true must be at least 0"),
            (lambda: plot_logits(torch.tensor([0.0, 81.0])), "below 80, so that e.z can be drawn, but reach 81"),
            (lambda: plot_logits(torch.tensor([0.0, float("nan")])), "logits must be finite"),
            (lambda: plot_logits(torch.zeros(2, 2)), "1 dimension"),
            (lambda: plot_logits(torch.zeros(2), ["a"]), "2 classes, but has 1"),
            (lambda: plot_logits(torch.zeros(2), true=2), "below 2"),
            (lambda: plot_output_path(torch.zeros(8, 8), torch.zeros(1, 2)), "logits must have 1 dimension"),
            (lambda: plot_output_path(torch.zeros(8), torch.zeros(2)), r"\(N, H, W\) or \(N, 3, H, W\)"),
            (lambda: plot_output_path(torch.full((3, 8, 8), 2.0), torch.zeros(2)), r"must lie in \[0, 1\]"),
            (lambda: plot_output_path(torch.zeros(8, 8), torch.zeros(2), ["a"]), "2 classes, but has 1"),
            (lambda: plot_output_path(torch.zeros(8, 8), torch.zeros(2), true=5), "below 2"),
            (lambda: plot_weights(torch.zeros(4, 4), ["a"]), "weights must have 3 dimension"),
            (lambda: plot_weights(torch.zeros(2, 4, 4), ["a"]), "each of the 2 images, but has 1"),
            (lambda: plot_weights(torch.zeros(2, 4, 4), ["a", "b"], columns=0), "columns must be at least 1"),
            (lambda: plot_weights(torch.full((1, 4, 4), float("inf")), ["a"]), "weights must be finite"),
            (lambda: plot_temperature(torch.zeros(2), temperatures=(0.0,)), "temperature"),
            (lambda: plot_temperature(torch.zeros(2), temperatures=()), "list of positive numbers"),
            (lambda: plot_images(torch.zeros(2, 1, 8, 8)), r"\(N, H, W\) or \(N, 3, H, W\)"),
            (lambda: plot_images(torch.zeros(0, 8, 8)), "empty"),
            (lambda: plot_images(torch.zeros(2, 8, 8), ["a"]), "each of the 2"),
            (lambda: plot_segmentation(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4), ["a"]), "2 classes"),
            (
                lambda: plot_segmentation(torch.zeros(3, 6, 6), SEA, true=torch.zeros(6, 5, dtype=torch.int64)),
                r"true must be \(6, 6\) like the image, but is \(6, 5\)",
            ),
            (
                lambda: plot_segmentation(torch.zeros(3, 6, 6), SEA, true=torch.full((6, 6), 3)),
                "class indices from 0 to 2, but its range is 3 to 3",
            ),
        ],
    )
    def test_bad_input(self, draw, words):
        with pytest.raises(ValueError, match=words):
            draw()

    def test_true_classes_that_are_no_whole_numbers(self):
        with pytest.raises(TypeError, match="true must have an integer dtype"):
            plot_segmentation(torch.zeros(3, 6, 6), SEA, true=torch.zeros(6, 6))
