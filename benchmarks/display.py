"""How soon large results and figures show in a notebook, and how many bytes they put into it.

    uv run --all-groups benchmarks/display.py

One process, one thread.
"""

from collections.abc import Callable

import torch
from timing import Report, take_turns

from course_utils.basics import describe_output
from course_utils.capstone import evaluate_logits, plot_confusion_matrix
from course_utils.interpretation import interpret_classification_output, interpret_regression_output
from course_utils.optimization import monte_carlo_dropout, plot_confusion


def tables(report: Report) -> None:
    logits = torch.randn(50_000, 100)
    dropout = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 5_000))
    results = {
        "classification, 50,000 x 100": interpret_classification_output(logits, top_k=5),
        "classification, 200 x 50,000": interpret_classification_output(torch.randn(200, 50_000)),
        "regression, 50,000 x 100": interpret_regression_output(logits, logits.flip(0)),
        "Monte Carlo dropout, 500 x 5,000": monte_carlo_dropout(dropout, torch.ones(500, 4), n_samples=2, seed=0),
        "evaluation, 60 classes": evaluate_logits(logits[:, :60], torch.arange(50_000) % 60),
        "report of 1,000 tensors": describe_output([torch.zeros(2, 3)] * 1_000),
    }
    for name, result in results.items():
        times = take_turns({"ours": result._repr_html_}, rounds=9).seconds["ours"]
        report.row(f"table of {name}", times, "s", at_most=0.05)
        report.row(f"table of {name}", [len(result._repr_html_().encode()) / 1e3], "kB", at_most=200)


def confusion_matrices(report: Report) -> None:
    labels, target = torch.randint(100, (2, 20_000))
    names = [f"class {i}" for i in range(100)]
    evaluation = evaluate_logits(torch.rand(500, 100), torch.arange(500) % 100, names)

    figures: dict[str, Callable] = {
        "plot_confusion": lambda: plot_confusion(labels, target, names),
        "plot_confusion_matrix": lambda: plot_confusion_matrix(evaluation),
    }
    for name, draw in figures.items():
        times = take_turns({"ours": lambda draw=draw: draw()._repr_png_()}, rounds=3).seconds["ours"]
        report.row(f"{name}, 100 classes", times, "s", at_most=2)
        report.row(f"{name}, 100 classes", [len(draw()._repr_png_()) / 1e3], "kB", at_most=200)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = Report("display")
    tables(report)
    confusion_matrices(report)
    report.save()


if __name__ == "__main__":
    main()
