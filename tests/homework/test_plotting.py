"""Figures of a comparison."""

import pytest

from tests.support.homework import untrained


class TestFigures:
    def test_each_can_be_drawn_and_is_not_kept(self, small, with_loss):
        import matplotlib.pyplot as plt

        for comparison in (small, with_loss):
            for name in ("plot_curves", "plot_heatmap", "plot_seeds", "plot_importance"):
                if name == "plot_importance" and comparison is with_loss:
                    with pytest.raises(ValueError, match=r"3 run\(s\) diverged"):
                        comparison.plot_importance()
                    continue
                image = getattr(comparison, name)()._repr_png_()
                assert image.startswith(b"\x89PNG")
                assert len(image) > 1000
        assert plt.get_fignums() == []

    def test_the_heatmap_shows_means(self, small):
        ax = small.plot_heatmap(x="lr", y="hidden_features").axes[0]
        shown = sorted(text.get_text() for text in ax.texts)
        means = small.runs.groupby(["lr", "hidden_features"])["validation_accuracy"].mean()
        assert shown == sorted(f"{mean:.3f}" for mean in means)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.3"]

    def test_a_heatmap_of_a_single_name_and_one_with_a_missing_cell(self):
        ax = untrained({"lr": [0.1, 0.2, 0.3]}).plot_heatmap().axes[0]
        assert [text.get_text() for text in ax.texts] == ["0.900"] * 3
        ax = untrained([{"lr": [0.1, 0.2]}, {"lr": 0.1, "dropout": 0.5}]).plot_heatmap().axes[0]
        assert sorted(text.get_text() for text in ax.texts) == ["0.900"] * 3 + ["–"]

    def test_a_large_heatmap_stays_readable(self):
        many = untrained({"lr": [0.001 * i for i in range(1, 51)], "hidden_features": list(range(1, 31))}, seeds=1)
        figure = many.plot_heatmap()
        assert not figure.axes[0].texts
        assert max(figure.get_size_inches()) < 15

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"x": "dropout"}, "hidden_features, lr"), ({"x": "lr", "y": "lr"}, "two different"), ({"y": 3}, "y must be")],
    )
    def test_bad_names(self, options, message, small):
        with pytest.raises(ValueError, match=message):
            small.plot_heatmap(**options)
