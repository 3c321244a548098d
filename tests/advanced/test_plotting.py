"""The figures of chapter 5."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_utils.advanced import plot_attack, plot_curves, visualize_attributions
from tests.support.images import images
from tests.support.values import DTYPES, NAN, is_png


class TestFigures:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("signed", [True, False])
    def test_attributions_of_grey_and_colour(self, tmp_path, channels, signed):
        x = images(n=3, channels=channels, size=6)
        maps = images(1, n=3, channels=1, size=6)[:, 0] - (0.5 if signed else 0)
        path = tmp_path / "attributions.png"
        figure = visualize_attributions(x, maps, titles=["a", "b", "c"], save_path=path if channels == 3 else None)
        assert path.exists() == (channels == 3)
        assert not path.exists() or is_png(path)
        assert len(figure.axes) == 7  # two rows of three, and the bar
        assert [ax.get_title() or ax.get_title("left") for ax in figure.axes[:3]] == ["a", "b", "c"]
        for i in range(3):
            shown = np.asarray(figure.axes[i].images[0].get_array())
            assert np.allclose(shown, x[i].expand(3, 6, 6).permute(1, 2, 0), atol=1e-6)
            under, over = figure.axes[3 + i].images
            assert under.get_extent() == over.get_extent() == figure.axes[i].images[0].get_extent()
            full = np.quantile(maps[i].abs().numpy(), 0.99)  # the strongest hundredth shares the last colour
            assert np.allclose(np.asarray(over.get_array()), (maps[i] / full).clamp(-1, 1), atol=1e-6)
            assert over.get_clim() == ((-1, 1) if signed else (0, 1))
            assert np.asarray(under.get_array()).shape == (6, 6, 3)
        colours = {image.get_cmap().name for ax in figure.axes[3:6] for image in ax.images[1:]}
        assert len(colours) == 1
        assert colours != {
            visualize_attributions(x, -maps if not signed else maps.abs()).axes[3].images[1].get_cmap().name
        }

    def test_attributions_with_channels_are_summed(self):
        x, maps = images(n=2), images(1, n=2) - 0.5
        figures = [visualize_attributions(x, m) for m in (maps, maps.sum(1))]
        ours, expected = (np.asarray(figure.axes[2].images[1].get_array()) for figure in figures)
        assert np.allclose(ours, expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_gradient_and_nothing_at_all_can_be_drawn(self, dtype):
        x = images(n=2, dtype=dtype).requires_grad_()
        for maps in (x.mean(1), torch.zeros(2, 8, 8, dtype=dtype), -x):
            drawn = np.asarray(visualize_attributions(x, maps).axes[2].images[1].get_array())
            assert np.isfinite(drawn).all()
        drawn = np.asarray(plot_attack(x, x * 0.9).axes[4].images[0].get_array())
        assert np.isfinite(drawn).all()
        assert drawn.min() < 0.5

    def test_normalised_images_are_stretched(self):
        x = 4 * images(n=1) - 2
        shown = np.asarray(visualize_attributions(x, x[:, 0]).axes[0].images[0].get_array())
        assert shown.min() == 0
        assert shown.max() == 1

    def test_eight_are_shown(self):
        x = images(n=9)
        assert len(visualize_attributions(x, x[:, 0]).axes) == 17
        assert len(plot_attack(x, x).axes) == 24

    @pytest.mark.parametrize("channels", [1, 3])
    def test_attack_shows_both_and_the_difference(self, tmp_path, channels):
        x = images(n=2, channels=channels)
        adversarial = (x + 0.1 * (images(1, n=2, channels=channels) - 0.5)).clamp(0, 1)
        path = tmp_path / "attack.png"
        figure = plot_attack(x, adversarial, titles=list("abcd"))
        figure.savefig(path)
        assert is_png(path)
        assert len(figure.axes) == 6
        change = adversarial - x
        rows = [x, adversarial, 0.5 + 0.5 * change / change.abs().max()]
        for row, expected in enumerate(rows):
            for i in range(2):
                shown = np.asarray(figure.axes[2 * row + i].images[0].get_array())
                assert np.allclose(shown, expected[i].expand(3, 8, 8).permute(1, 2, 0), atol=1e-6)
        titles = [ax.get_title() or ax.get_title("left") for ax in figure.axes[:4]]
        assert titles == ["a", "c", "b", "d"]
        factor = float(0.5 / change.abs().max())
        assert f"{factor:.0f}" in figure.axes[4].get_ylabel()

    def test_curves(self, tmp_path):
        curves = {"plain": ([0, 0.1], [1.0, 0.2]), "robust": (torch.tensor([0, 0.1, 0.2]), np.array([0.9, 0.8, 0.7]))}
        path = tmp_path / "curves.png"
        figure = plot_curves(curves, xlabel="eps", ylabel="accuracy", title="t", ylim=(0, 1))
        figure.savefig(path)
        ax = figure.axes[0]
        assert is_png(path)
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title("left")) == ("eps", "accuracy", "t")
        assert ax.get_ylim() == (0, 1)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain", "robust"]
        assert ax.lines[0].get_xydata().tolist() == [[0, 1], [0.1, 0.2]]
        assert list(ax.lines[1].get_ydata()) == [0.9, 0.8, 0.7]
        assert ax.lines[0].get_marker() != ax.lines[1].get_marker()

    def test_one_curve_many_curves_and_given_axes(self):
        ax = Figure().subplots()
        y = torch.rand(3, requires_grad=True)
        assert plot_curves({"a": (range(3), y)}, xlabel="x", ylabel="y", ax=ax) is ax.figure
        assert ax.get_legend() is None
        many = {str(i): ([0, 1], [0, i]) for i in range(20)}
        assert len(plot_curves(many, xlabel="x", ylabel="y").axes[0].lines) == 20

    def test_pyplot_keeps_nothing(self):
        before, settings_before = plt.get_fignums(), dict(plt.rcParams)
        x = images()
        for figure in (
            visualize_attributions(x, x[:, 0]),
            plot_attack(x, x),
            plot_curves({"a": ([0, 1], [0, 1])}, xlabel="x", ylabel="y"),
        ):
            assert isinstance(figure, Figure)
            assert figure._repr_png_().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match="shape"):
            plot_attack(x, x[:1])
        assert plt.get_fignums() == before
        assert dict(plt.rcParams) == settings_before

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: visualize_attributions(x[0], x[:, 0]), ValueError, "inputs must have 4 dim"),
            (lambda x: visualize_attributions(x[:, :2], x[:, 0]), ValueError, "1 or 3 channels"),
            (lambda x: visualize_attributions(x, x[:, 0, :4]), ValueError, r"shape \(5, 8, 8\)"),
            (lambda x: visualize_attributions(x, x[:3, 0]), ValueError, r"shape \(5, 8, 8\)"),
            (lambda x: visualize_attributions(x, x[0, 0]), ValueError, "attributions must have 3 or 4 dim"),
            (lambda x: visualize_attributions(x, x[:, 0] * NAN), ValueError, "NaN"),
            (lambda x: visualize_attributions(x * NAN, x[:, 0]), ValueError, "NaN"),
            (lambda x: visualize_attributions(x[:0], x[:0, 0]), ValueError, "empty"),
            (lambda x: visualize_attributions((255 * x).byte(), x[:, 0]), TypeError, "floating"),
            (lambda x: visualize_attributions(x, x[:, 0], titles=["a"]), ValueError, "titles.*5"),
            (lambda x: plot_attack(x, x[:, :1]), ValueError, "same shape"),
            (lambda x: plot_attack(x, x[:2]), ValueError, "same shape"),
            (lambda x: plot_attack(x[:, :2], x[:, :2]), ValueError, "1 or 3 channels"),
            (lambda x: plot_attack(x[0], x[0]), ValueError, "4 dim"),
            (lambda x: plot_attack(x, x * NAN), ValueError, "NaN"),
            (lambda x: plot_attack(x, x, titles=["a"] * 5), ValueError, "two texts for each of 5"),
            (lambda x: plot_curves({}, xlabel="x", ylabel="y"), ValueError, "empty"),
            (lambda x: plot_curves({"a": ([0, 1], [0])}, xlabel="x", ylabel="y"), ValueError, "'a' has 2 x and 1 y"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(images())

    def test_e61_rgb_tensors_are_drawn_in_place_and_nothing_is_kept(self):
        x, maps = images(n=1, size=6), torch.zeros(1, 6, 6)
        maps[0, 1, 4] = 1.0
        with pytest.raises(TypeError, match="Invalid shape"):
            Figure().subplots().imshow(x[0].numpy())  # the error: (3, H, W)
        open_before = len(plt.get_fignums())
        plt.figure()
        assert len(plt.get_fignums()) == open_before + 1  # the error: kept until somebody closes it
        plt.close()
        figure = visualize_attributions(x, maps)
        assert len(plt.get_fignums()) == open_before
        under, over = figure.axes[1].images
        assert under.get_extent() == over.get_extent()
        assert np.argwhere(np.asarray(over.get_array()) == 1).tolist() == [[1, 4]]
        opaque = np.broadcast_to(over.get_alpha(), (6, 6))
        assert opaque[1, 4] == 1
        assert opaque.sum() == 1  # elsewhere the image shows through
