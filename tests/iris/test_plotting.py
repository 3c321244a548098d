"""The figures of chapter 7."""

import pytest
from torch import nn

from course_utils.iris import (
    MLP,
    plot_decision_regions,
    plot_loss,
    plot_weight_distributions,
    predict,
    train,
)
from tests.support.models import seeded_mlp


@pytest.fixture(scope="module")
def history(split):
    return train(MLP(), split.x_train, split.y_train, epochs=20, log_every=5, progress=False)


class TestFigures:
    def test_loss_curve_draws_the_history(self, history):
        line = plot_loss(history).axes[0].lines[0]
        assert line.get_xdata().tolist() == [1, 5, 10, 15, 20]
        assert line.get_ydata().tolist() == pytest.approx(history.losses.tolist())

    def test_several_runs_have_a_legend(self, history):
        figure = plot_loss({"a": history, "b": history})
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
        with pytest.raises(ValueError, match="empty"):
            plot_loss({})

    def test_e69_a_single_layer_can_be_drawn(self):
        figure = plot_weight_distributions(nn.Linear(4, 3))
        assert [ax.get_title("left") for ax in figure.axes] == ["weight, (3, 4)"]

    def test_weights_before_and_after(self, tmp_path):
        model = seeded_mlp()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        path = tmp_path / "weights.png"
        figure = plot_weight_distributions(model, before=before, save_path=path)
        counted = sum(bar.get_height() for bar in figure.axes[0].patches if hasattr(bar, "get_height"))
        assert counted == 40
        assert path.exists()
        with pytest.raises(ValueError, match="no parameters"):
            plot_weight_distributions(nn.ReLU())

    def test_regions_circle_the_wrong_ones(self, split):
        model = seeded_mlp()
        figure = plot_decision_regions(model, split.x_test, split.y_test, class_names=split.class_names)
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        wrong = int((predict(model, split.x_test).labels != split.y_test).sum())
        assert labels == [*split.class_names, "wrong"]
        assert len(figure.axes[0].collections[-1].get_offsets()) == wrong

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"features": (0, 0)}, "two different columns"),
            ({"features": (0, 4)}, "from 0 to 3"),
            ({"feature_names": ["a"]}, "4 features"),
            ({"class_names": ["a"]}, "3 classes"),
        ],
    )
    def test_bad_input(self, split, options, words):
        with pytest.raises(ValueError, match=words):
            plot_decision_regions(seeded_mlp(), split.x_test, split.y_test, **options)
