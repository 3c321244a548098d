"""A figure's description names what a reader would see, and nothing that differs between machines."""

import numpy as np

from course_utils.foundation.figure_description import describe_figure
from course_utils.foundation.plotting import course_style, new_figure, plot_curves


def test_counts_of_everything_that_can_be_drawn():
    with course_style():
        figure, (left, right) = new_figure(1, 2, size=(8, 3))
    figure.suptitle("Both")
    left.bar([0, 1, 2], [1, 2, 3])
    left.scatter([0, 1, 2, 3], [0, 1, 2, 3])
    left.plot([0, 1], [0, 1])
    left.axhline(2)
    left.fill_between([0, 1], [0, 1])
    left.set_title("left\nside")
    right.imshow(np.zeros((4, 5)))
    right.text(0, 0, "here")
    assert describe_figure(figure).splitlines() == [
        'Figure "Both" of 8.0 × 3.0 inches, panels: 2',
        '- "left side", lines: 2, bars: 3, points: 4, areas: 1',
        "- images: 1, texts: 1",
    ]


def test_hidden_panels_do_not_count_and_empty_ones_say_so():
    with course_style():
        figure, (first, second) = new_figure(1, 2)
    second.set_visible(False)
    assert describe_figure(figure).splitlines() == ["Figure of 6.0 × 3.6 inches, panels: 1", "- empty"]
    first.set_xlabel("step")
    assert describe_figure(figure).endswith('- x: "step"')


def test_it_is_how_the_courses_figures_print_themselves():
    curves = {"training": ([1, 2, 3], [3.0, 2.0, 1.0]), "validation": ([1, 2, 3], [3.0, 2.5, 2.0])}
    figure = plot_curves(curves, xlabel="epoch", ylabel="loss (nats)", title="Loss")
    assert repr(figure).splitlines() == [
        "Figure of 6.0 × 3.6 inches, panels: 1",
        '- "Loss", x: "epoch", y: "loss (nats)", lines: 2, legend: "training", "validation"',
    ]
