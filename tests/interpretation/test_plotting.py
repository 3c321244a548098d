"""The figures of chapter 2."""

import pytest
import torch

from course_utils.interpretation import (
    Hypothesis,
    beam_search_decode,
    interpret_detection_output,
    interpret_regression_output,
    plot_beam_tree,
    plot_detections,
    plot_detector_cell,
    plot_intervals,
    plot_precision_recall,
    plot_residuals,
    plot_samples,
)
from tests.support.detections import raw_output
from tests.support.language_models import Rule, language_model
from tests.support.values import is_png

RAW = raw_output([[(0, 0, 4, 4, 15, 0), (1, 1, 4, 4, 12, 0), (1, 1, 4, 4, 11, 2)]])


MODEL = language_model(4)


class TestFigures:
    names = ("cat", "dog", "cow", "hen")
    images, colour = torch.rand(2, 8, 8), torch.rand(1, 3, 16, 16)
    probabilities = torch.tensor([[0.1, 0.6, 0.05, 0.25], [0.7, 0.1, 0.15, 0.05]])
    detections = interpret_detection_output(RAW, box_format="xyxy", iou_threshold=0.3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_samples(self, dtype, tmp_path):
        path = tmp_path / "samples.png"
        p = self.probabilities.to(dtype).requires_grad_()
        figure = plot_samples(self.images, p, torch.tensor([3, 0]), self.names)
        figure.savefig(path)
        first, _, bars, _ = figure.axes
        assert first.get_title() == "true: hen"
        assert first.images[0].get_array().shape == (8, 8)
        assert [bar.get_height() for bar in bars.patches] == pytest.approx([0.6, 0.25, 0.1], abs=2e-3)
        assert [label.get_text() for label in bars.get_xticklabels()] == ["dog", "hen", "cat"]
        best, *others = (bar.get_facecolor() for bar in bars.patches)
        assert others == [others[0]] * 2 != [best] * 2
        assert [bar.get_linewidth() > 1.5 for bar in bars.patches] == [False, True, False]  # the true class is framed
        assert is_png(path)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_residuals(self, dtype, tmp_path):
        path = tmp_path / "residuals.png"
        result = interpret_regression_output(
            torch.tensor([[1.0, 2], [3, 4], [5, 6]], dtype=dtype, requires_grad=True),
            torch.tensor([[0.0, 2], [3, 5], [9, 6]], dtype=dtype),
            names=["g", "cm"],
        )
        figure = plot_residuals(result)
        figure.savefig(path)
        points = [ax.collections[0].get_offsets().tolist() for ax in figure.axes]
        assert points == [[[1, 1], [3, 0], [5, -4]], [[2, 0], [4, -1], [6, 0]]]
        assert [ax.get_xlabel() for ax in figure.axes] == ["prediction, g", "prediction, cm"]
        assert is_png(path)

    def test_intervals_cross_the_targets_outside(self, tmp_path):
        path = tmp_path / "intervals.png"
        preds, target = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([3.5, 9.0, 1.0])
        figure = plot_intervals(preds, target, preds - 1, preds + 1, label="height in cm")
        figure.savefig(path)
        ax = figure.axes[0]
        line, inside, outside = ax.lines
        assert line.get_ydata().tolist() == [1.0, 2.0, 3.0]
        assert (inside.get_ydata().tolist(), inside.get_xdata().tolist()) == ([1.0, 3.5], [1, 2])
        assert (outside.get_ydata().tolist(), outside.get_marker()) == ([9.0], "x")
        assert len(ax.collections) == 1
        assert ax.get_ylabel() == "height in cm"
        assert is_png(path)

    def test_detections_solid_and_true_boxes_dashed(self, tmp_path):
        path = tmp_path / "detections.png"
        truth = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
        figure = plot_detections(self.colour, self.detections, self.names[:3], true_boxes=truth, titles=["scene"])
        figure.savefig(path)
        ax = figure.axes[0]
        dashed = [patch for patch in ax.patches if patch.get_linestyle() == "--"]
        solid = [patch for patch in ax.patches if patch.get_linestyle() != "--"]
        assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in dashed] == [(-0.5, -0.5, 4, 4)]
        corners = {(p.get_x() + 0.5, p.get_y() + 0.5, p.get_width(), p.get_height()) for p in solid}
        assert corners == {(0, 0, 4, 4), (1, 1, 4, 4)}
        assert [text.get_text() for text in ax.texts] == ["cat 0.94", "cow 0.69"]
        assert ax.get_title("left") == "scene"
        assert is_png(path)

    def test_precision_recall_has_a_line_and_a_name_for_each_curve(self, tmp_path):
        path = tmp_path / "curves.png"
        curve = (torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.8, 0.2]))
        figure = plot_precision_recall({"disc": curve, "star": curve})
        figure.savefig(path)
        ax = figure.axes[0]
        assert [line.get_xdata().tolist() for line in ax.lines] == [[0.0, 0.5, 1.0]] * 2
        assert ax.lines[0].get_ydata().tolist() == pytest.approx([1.0, 0.8, 0.2])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["disc", "star"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")
        assert len({line.get_linestyle() for line in ax.lines}) == 2
        assert is_png(path)

    def test_beam_tree_shares_prefixes_and_draws_the_best_heavily(self, tmp_path):
        path = tmp_path / "tree.png"
        table = torch.tensor([0.6, 0.3, 0.1]).log()
        model = Rule(lambda ids: table.expand(*ids.shape, 3))
        (found,) = beam_search_decode(model, torch.tensor([0]), num_beams=3, max_new_tokens=2, vocab="a \n")
        figure = plot_beam_tree(found, prompt="go")
        figure.savefig(path)
        ax = figure.axes[0]
        prefixes = {tuple(h.tokens[:t]) for h in found for t in (1, 2)}
        assert len(ax.lines) == len(prefixes)
        assert sum(line.get_linewidth() == 3 for line in ax.lines) == 2
        shown = [text.get_text() for text in ax.texts]
        assert "go" in shown
        assert "␣" in shown
        assert [f"{h.score:.2f}" in shown for h in found] == [True] * 3
        assert is_png(path)

    def test_beam_tree_shows_what_was_given_up(self):
        def path(text: str, score: float) -> Hypothesis:
            return Hypothesis(torch.zeros(len(text), dtype=torch.int64), score, list(text), text)

        figure = plot_beam_tree([path("abc", -1.0)], discarded=[path("ax", -2.5)], prompt="go")
        ax = figure.axes[0]
        assert sorted(line.get_linestyle() for line in ax.lines) == ["-", "-", "-", ":"]
        assert {"-1.00", "-2.50"} <= {text.get_text() for text in ax.texts}
        with pytest.raises(ValueError, match="pass vocab"):
            plot_beam_tree([path("abc", -1.0)], discarded=[Hypothesis(torch.zeros(1), 0.0, None, None)])

    def test_precision_recall_marks_working_points(self):
        curve = (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.2]))
        ax = plot_precision_recall({"disc": curve}, points={"score ≥ 0.5": (0.4, 0.9)}).axes[0]
        mark = ax.lines[1]
        assert (mark.get_xdata()[0], mark.get_ydata()[0], mark.get_label()) == (0.4, 0.9, "score ≥ 0.5")

    def test_a_detectors_cell_and_its_box(self):
        box = torch.tensor([20.0, 12.0, 10.0, 4.0])  # centre and size
        ax = plot_detector_cell(torch.zeros(3, 64, 64, dtype=torch.uint8), box, row=1, column=2).axes[0]
        cell, drawn = ax.patches
        # Pixel centres lie at whole numbers, so the image begins at −0.5.
        assert (cell.get_x() + 0.5, cell.get_y() + 0.5, cell.get_width(), cell.get_height()) == (16, 8, 8, 8)
        assert (drawn.get_x() + 0.5, drawn.get_y() + 0.5, drawn.get_width(), drawn.get_height()) == (15, 10, 10, 4)

    def test_a_tree_of_one_empty_continuation(self):
        (found,) = beam_search_decode(MODEL, torch.tensor([0]), max_new_tokens=0, vocab="abcd")
        assert [text.get_text() for text in plot_beam_tree(found, prompt="go").axes[0].texts] == ["go", "0.00", "score"]

    def test_draws_into_given_axes(self):
        from matplotlib.figure import Figure

        values = torch.tensor([0.0, 1.0])
        (found,) = beam_search_decode(MODEL, torch.tensor([0]), max_new_tokens=1, vocab="abcd")
        for draw in (
            lambda ax: plot_intervals(values, values, values, values, ax=ax),
            lambda ax: plot_precision_recall({"a": (values, values)}, ax=ax),
            lambda ax: plot_beam_tree(found, ax=ax),
        ):
            ax = Figure().subplots()
            assert draw(ax) is ax.figure
            assert ax.lines

    @pytest.mark.parametrize("nothing", [torch.tensor([]), torch.zeros(0, 4), torch.zeros(0, 4).half()])
    def test_f16_images_without_objects_are_drawn(self, nothing):
        found = [{"boxes": nothing, "labels": torch.tensor([]), "scores": torch.tensor([])}]
        figure = plot_detections(self.colour, found, self.names, true_boxes=[nothing])
        assert figure.axes[0].patches[:] == []

    def test_class_names_as_a_dict(self):
        names = dict(enumerate(self.names))
        figure = plot_samples(self.images, self.probabilities, [3, 0], names)
        assert figure.axes[0].get_title() == "true: hen"
        texts = [text.get_text() for text in plot_detections(self.colour, self.detections, names).axes[0].texts]
        assert texts[0].startswith("cat 0.9")

    @pytest.mark.parametrize(
        ("draw", "error", "words"),
        [
            (lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0]), t.names), ValueError, "2, 2 and 1"),
            (lambda t: plot_samples(t.images, t.probabilities[0], torch.tensor([0, 1]), t.names), ValueError, "2 dim"),
            (
                lambda t: plot_samples(t.images[:0], t.probabilities[:0], torch.tensor([]), t.names),
                ValueError,
                "empty",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 1]), ["cat"]),
                ValueError,
                "4 classes, but has 1",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 1]), [*t.names, "fox"]),
                ValueError,
                "4 classes, but has 5",
            ),
            (
                lambda t: plot_samples(t.images, t.probabilities, torch.tensor([0, 4]), t.names),
                ValueError,
                "from 0 to 3",
            ),
            (lambda t: plot_residuals(interpret_regression_output(torch.zeros(3))), ValueError, "without a target"),
            (lambda t: plot_intervals(*[torch.zeros(2)] * 3, torch.zeros(3)), ValueError, "same shape"),
            (lambda t: plot_intervals(*[torch.zeros(2, 1)] * 4), ValueError, "1 dimension"),
            (lambda t: plot_intervals([0.0], [0.0], [0.0], [0.0]), TypeError, "torch.Tensor"),
            (lambda t: plot_detections(t.images, t.detections, t.names), ValueError, r"\(N, 3, H, W\)"),
            (lambda t: plot_detections(t.colour, t.detections * 2, t.names), ValueError, "N = 2"),
            (lambda t: plot_detections([t.colour[0]], t.detections, t.names), TypeError, "images"),
            (lambda t: plot_detections(t.colour, t.detections, ["cat"]), ValueError, "class_names"),
            (lambda t: plot_detections(t.colour, t.detections, None), TypeError, "list of strings"),
            (lambda t: plot_detections(t.colour, [{"labels": []}], t.names), TypeError, "keys boxes, labels"),
            (lambda t: plot_detections(t.colour, t.detections, t.names, titles=[]), ValueError, "titles"),
            (lambda t: plot_detections(t.colour, t.detections, t.names, true_boxes=[]), ValueError, "true_boxes"),
            (lambda t: plot_precision_recall({}), ValueError, "empty"),
            (
                lambda t: plot_detector_cell(t.colour, torch.zeros(4), row=0, column=0),
                ValueError,
                "3 dimension",
            ),
            (lambda t: plot_beam_tree([]), ValueError, "at least one"),
            (lambda t: plot_beam_tree(beam_search_decode(MODEL, torch.tensor([0]))[0]), ValueError, "pass vocab"),
        ],
    )
    def test_bad_input(self, draw, error, words):
        with pytest.raises(error, match=words):
            draw(self)
