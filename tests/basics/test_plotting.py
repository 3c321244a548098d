"""The figures of chapter 1."""

import pytest
import torch

from course_utils.basics import plot_images, plot_probabilities, plot_segmentation, plot_temperature


class TestFigures:
    def test_probabilities_bars(self):
        figure = plot_probabilities(torch.tensor([0.1, 0.7, 0.2]), ["cat", "dog", "horse"], title="pet")
        ax = figure.axes[0]
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.1, 0.7, 0.2])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "horse"]
        assert ax.get_ylabel() == "probability"

    def test_temperature_panels_keep_the_order(self):
        figure = plot_temperature(torch.tensor([0.0, 3.0, 1.0]), temperatures=(0.5, 5.0))
        for ax in figure.axes:
            heights = [bar.get_height() for bar in ax.patches]
            assert sorted(range(3), key=heights.__getitem__) == [0, 2, 1]
            assert sum(heights) == pytest.approx(1, abs=1e-5)

    def test_images_grey_and_colour(self, tmp_path):
        path = tmp_path / "grid.png"
        figure = plot_images(torch.zeros(3, 8, 8), ["a", "b", "c"], columns=2)
        figure.savefig(path)
        assert sum(bool(ax.images) for ax in figure.axes) == 3
        assert path.read_bytes().startswith(b"\x89PNG")
        colour = plot_images(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
        assert colour.axes[0].images[0].get_array().shape == (8, 9, 3)

    def test_segmentation_shows_input_maps_and_label(self):
        probabilities = torch.softmax(torch.zeros(3, 6, 6) + torch.tensor([0.0, 2.0, 1.0])[:, None, None], 0)
        figure = plot_segmentation(torch.zeros(3, 6, 6), probabilities, ["sky", "sea", "land"])
        titles = [ax.get_title("left") for ax in figure.axes[:5]]
        assert titles == ["input", "p(sky)", "p(sea)", "p(land)", "label"]
        assert (figure.axes[4].images[0].get_array() == 1).all()

    def test_draws_into_given_axes(self):
        from matplotlib.figure import Figure

        ax = Figure().subplots()
        assert plot_probabilities(torch.tensor([0.5, 0.5]), ax=ax) is ax.figure

    @pytest.mark.parametrize(
        ("draw", "words"),
        [
            (lambda: plot_probabilities(torch.zeros(2), ["a"]), "2 classes, but has 1"),
            (lambda: plot_probabilities(torch.zeros(2, 2)), "1 dimension"),
            (lambda: plot_temperature(torch.zeros(2), temperatures=(0.0,)), "temperature"),
            (lambda: plot_images(torch.zeros(2, 1, 8, 8)), r"\(N, H, W\) or \(N, 3, H, W\)"),
            (lambda: plot_images(torch.zeros(0, 8, 8)), "empty"),
            (lambda: plot_images(torch.zeros(2, 8, 8), ["a"]), "each of the 2"),
            (lambda: plot_segmentation(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4), ["a"]), "2 classes"),
        ],
    )
    def test_bad_input(self, draw, words):
        with pytest.raises(ValueError, match=words):
            draw()
