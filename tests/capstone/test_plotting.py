"""The figures of chapter 6."""

import functools
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from course_utils import capstone
from course_utils.capstone import (
    Evaluation,
    ImageReadings,
    RobustnessCurve,
    evaluate_logits,
    interpret_model_outputs,
    measure_robustness,
    normalize,
    visualize_results,
)
from tests.support.capstone import DATA, IMAGES, NAMES, STATISTICS, TARGET, fit, linear, random_outputs


def title_of(ax) -> str:
    return ax.get_title("center") or ax.get_title("left")


@functools.cache
def evaluation() -> Evaluation:
    return evaluate_logits(*random_outputs(3, 31, 10), NAMES)


@functools.cache
def of_three_classes() -> Evaluation:
    return evaluate_logits(*random_outputs(4, 12, 3), ["a", "b", "c"])


@functools.cache
def readings() -> ImageReadings:
    return interpret_model_outputs(linear(), IMAGES, TARGET, NAMES, normalization=STATISTICS)


@functools.cache
def robustness() -> RobustnessCurve:
    return measure_robustness(linear(), DATA, eps=(0, 0.1), steps=1, num_samples=5)


class TestFigures:
    DRAW = {  # noqa: RUF012
        "images": lambda **o: capstone.plot_images(IMAGES[:7], list("abcdefg"), columns=3, **o),
        "floats": lambda **o: capstone.plot_images(IMAGES[:1] / 255, **o),
        "readings": lambda **o: capstone.plot_readings(readings(), IMAGES, **o),
        "training": lambda **o: capstone.plot_training(fit(linear()), **o),
        "confusion": lambda **o: capstone.plot_confusion_matrix(evaluation(), **o),
        "metrics": lambda **o: capstone.plot_metrics(evaluation(), **o),
        "robustness": lambda **o: capstone.plot_robustness({"a": robustness(), "b": robustness()}, **o),
    }

    @pytest.mark.parametrize("name", DRAW)
    def test_figures_that_pyplot_does_not_keep(self, name):
        before = plt.get_fignums(), dict(plt.rcParams)
        figure = self.DRAW[name]()
        assert isinstance(figure, Figure)
        assert (plt.get_fignums(), dict(plt.rcParams)) == before

    def test_saved_and_drawn_into_given_axes(self, tmp_path):
        self.DRAW["floats"]().savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        figure = Figure()
        for name, ax in zip(("confusion", "metrics", "robustness"), figure.subplots(1, 3), strict=True):
            assert self.DRAW[name](ax=ax) is figure
            assert ax.has_data()

    def test_the_confusion_matrix_shows_per_cent_of_true_classes(self):
        ax = capstone.plot_confusion_matrix(of_three_classes()).axes[0]
        counts = of_three_classes().confusion_matrix.double()
        expected = [
            f"{v:.0f}" if v >= 0.5 else "" for v in (100 * counts / counts.sum(1, keepdim=True)).flatten().tolist()
        ]
        assert [text.get_text() for text in ax.texts] == expected
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")

    def test_the_title_of_a_reading_says_whether_it_is_right(self):
        axes = capstone.plot_readings(readings(), IMAGES).axes
        for i, ax in enumerate(axes):
            row = readings()[i]
            true, predicted = title_of(ax).split("\n")
            assert true == NAMES[row["target"]]
            assert predicted.startswith(f"{'✓' if row['labels'] == row['target'] else '✗'} {NAMES[row['labels']]}")
            shown = torch.as_tensor(ax.images[0].get_array())
            shown = shown / 255 if shown.dtype == torch.uint8 else shown
            assert torch.allclose(shown.float(), IMAGES[row["index"]].permute(1, 2, 0) / 255)

    def test_metrics_of_classes_without_images(self):
        logits, target = torch.eye(4)[[0, 1, 1]], torch.tensor([0, 0, 1])
        assert isinstance(capstone.plot_metrics(evaluate_logits(logits, target)), Figure)
        assert isinstance(capstone.plot_confusion_matrix(evaluate_logits(logits, target)), Figure)

    def test_visualize_results(self, tmp_path, monkeypatch):
        saved = []
        monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: saved.append(Path(path)))
        figures = visualize_results(evaluation(), IMAGES, calibrated=evaluation(), save_folder=tmp_path / "new")
        assert list(figures) == ["predictions", "confusion_matrix", "metrics", "reliability"]
        assert all(isinstance(figure, Figure) for figure in figures.values())
        assert saved == [tmp_path / "new" / f"{name}.png" for name in figures]
        assert len([ax for ax in figures["predictions"].axes if ax.images]) == 12
        titles = [title_of(ax).split("\n")[0] for ax in figures["predictions"].axes]
        assert titles == [NAMES[k] for k in evaluation().target[:12]]
        words = " ".join(text.get_text() for text in figures["reliability"].findobj(Text))
        assert "as trained" in words
        assert "calibrated" in words
        assert plt.get_fignums() == []

    def test_visualize_results_of_few_images(self):
        result = evaluate_logits(torch.eye(3), torch.tensor([0, 1, 0]))
        figures = visualize_results(result, IMAGES[:3])
        assert len([ax for ax in figures["predictions"].axes if ax.images]) == 3

    @pytest.mark.parametrize(
        ("draw", "error"),
        [
            (lambda: capstone.plot_images(IMAGES[:0]), ValueError),
            (lambda: capstone.plot_images(IMAGES[:, :2]), ValueError),
            (lambda: capstone.plot_images(normalize(IMAGES, *STATISTICS)), ValueError),
            (lambda: capstone.plot_images(IMAGES[:2], ["one"]), ValueError),
            (lambda: capstone.plot_images(IMAGES[:2], columns=0), ValueError),
            (lambda: capstone.plot_readings(readings(), IMAGES[:1]), ValueError),
            (lambda: capstone.plot_readings("readings", IMAGES), TypeError),
            (lambda: capstone.plot_training("history"), TypeError),
            (lambda: capstone.plot_confusion_matrix("evaluation"), TypeError),
            (lambda: capstone.plot_metrics(evaluation().per_class), TypeError),
            (lambda: capstone.plot_robustness({}), ValueError),
            (lambda: capstone.plot_robustness(robustness()), (TypeError, ValueError)),
            (lambda: capstone.plot_robustness({"a": 3}), TypeError),
            (lambda: visualize_results("evaluation", IMAGES), TypeError),
            (lambda: visualize_results(evaluation(), IMAGES[:3]), ValueError),
            (lambda: visualize_results(evaluation(), IMAGES / 255), TypeError),
            (lambda: visualize_results(evaluation(), IMAGES, num_samples=0), ValueError),
            (lambda: visualize_results(evaluation(), IMAGES, calibrated="yes"), TypeError),
            (lambda: visualize_results(evaluation(), IMAGES, calibrated=of_three_classes()), ValueError),
        ],
    )
    def test_bad_input(self, draw, error):
        with pytest.raises(error, match=r"must|empty|images|titles|evaluation"):
            draw()
