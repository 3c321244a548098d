"""Speed of chapters 2 and 3 against the plain loop (the obvious version, item by item) and the best library.

    uv run --all-groups benchmarks/reading_outputs.py

One process, one thread, medians; both sides of a ratio run in turns in the same process, on the same data.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, precision_recall_curve
from timing import Report, peak_memory, seconds
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.ops import batched_nms, box_convert
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from course_utils.interpretation import (
    SimpleLanguageModel,
    beam_search_decode,
    interpret_classification_output,
    interpret_detection_output,
    interpret_regression_output,
)
from course_utils.optimization import (
    adjust_threshold,
    expected_calibration_error,
    monte_carlo_dropout,
    temperature_scaling,
)


def classification(report: Report) -> None:
    logits = torch.randn(10_000, 1000)

    def plain():
        results = []
        for row in logits:
            p = torch.softmax(row, 0)
            results.append({"label": p.argmax().item(), "confidence": p.max().item(), "probabilities": p.tolist()})
        return results

    report.compare(
        "classification, 10,000 x 1,000",
        {
            "ours": lambda: interpret_classification_output(logits),
            "softmax, max": lambda: torch.softmax(logits, 1).max(1),
            "plain loop": plain,
        },
        at_most={"softmax, max": 1.1},
        times_as_fast={"plain loop": 14},
        once=("plain loop",),
    )


def top_k(report: Report) -> None:
    logits = torch.randn(256, 128_000)

    def by_sorting():
        values, classes = torch.softmax(logits, 1).sort(dim=1, descending=True, stable=True)
        return classes[:, :5], values[:, :5]

    subject = "top 5 of 256 x 128,000"
    timing = report.compare(
        subject,
        {
            "ours": lambda: interpret_classification_output(logits, top_k=5),
            "softmax, topk": lambda: torch.softmax(logits, 1).topk(5),
            "stable sort": by_sorting,
        },
        at_most={"softmax, topk": None},
        times_as_fast={"stable sort": None},
        once=("stable sort",),
    )
    report.row(f"{subject}, no ties", timing.seconds["ours"], "s", at_most=0.5)
    rounded = (logits * 4).round() / 4
    times = [seconds(lambda: interpret_classification_output(rounded, top_k=5)) for _ in range(3)]
    report.row(f"{subject}, ties in every row", times, "s")


def regression(report: Report) -> None:
    preds = torch.randn(100_000)
    target = preds + torch.randn(100_000)

    def plain():  # item by item over the tensors, for the same seven statistics
        errors, absolute = [], []
        for p, t in zip(preds, target, strict=True):
            error = p - t
            errors.append(error.item())
            absolute.append(error.abs().item())
        n = len(errors)
        mean_absolute, mean_target = sum(absolute) / n, sum(t.item() for t in target) / n
        squares = sum(e**2 for e in errors)
        return {
            "mean_error": sum(errors) / n,
            "mean_absolute_error": mean_absolute,
            "root_mean_squared_error": math.sqrt(squares / n),
            "max_absolute_error": max(absolute),
            "min_absolute_error": min(absolute),
            "std_absolute_error": math.sqrt(sum((a - mean_absolute) ** 2 for a in absolute) / n),
            "r2": 1 - squares / sum((t.item() - mean_target) ** 2 for t in target),
        }

    # A millisecond is short: more rounds than the others.
    report.compare(
        "regression, 100,000",
        {"ours": lambda: interpret_regression_output(preds, target), "plain loop": plain},
        times_as_fast={"plain loop": 2_000},
        rounds=101,
        once=("plain loop",),
    )


def detection(report: Report) -> None:
    raw = torch.rand(8, 10_000, 85)
    raw[..., :2] *= 600
    raw[..., 2:4] = raw[..., 2:4] * 40 + 5
    threshold = float((raw[..., 4] * raw[..., 5:].amax(-1)).flatten().quantile(0.8))  # 20 % pass

    def plain():
        found = []
        for image in raw:
            scores, labels = (image[:, 5:] * image[:, 4:5]).max(1)
            rows = torch.nonzero(scores >= threshold)[:, 0]
            kept = []
            boxes = box_convert(image[:, :4], "cxcywh", "xyxy")
            for row in rows[scores[rows].argsort(descending=True)].tolist():
                mine = [k for k in kept if labels[k] == labels[row]]
                if mine:
                    other = boxes[mine]
                    low, high = torch.maximum(boxes[row, :2], other[:, :2]), torch.minimum(boxes[row, 2:], other[:, 2:])
                    shared = (high - low).clamp(min=0).prod(1)
                    area = (boxes[row, 2:] - boxes[row, :2]).prod() + (other[:, 2:] - other[:, :2]).prod(1)
                    if (shared / (area - shared) > 0.45).any():
                        continue
                kept.append(row)
            found.append(boxes[kept])
        return found

    def library():
        found = []
        for image in raw:
            scores, labels = image[:, 5:].max(1)
            scores = scores * image[:, 4]
            keep = scores >= threshold
            boxes = box_convert(image[keep, :4], "cxcywh", "xyxy")
            found.append(boxes[batched_nms(boxes, scores[keep], labels[keep], 0.45)])
        return found

    report.compare(
        "detection, 8 x 10,000 x 80, 20 % pass",
        {
            "ours": lambda: interpret_detection_output(raw, score_threshold=threshold),
            "batched_nms": library,
            "plain loop": plain,
        },
        at_most={"batched_nms": 0.9},
        times_as_fast={"plain loop": 3.4},
        once=("plain loop",),
    )


class GeneratingModel(PreTrainedModel, GenerationMixin):
    """The same LSTM with the interface of transformers; it reads the whole prefix in each step."""

    config_class = PretrainedConfig
    _supports_cache_class = False

    def __init__(self, model: nn.Module, vocab_size: int) -> None:
        config = PretrainedConfig(is_encoder_decoder=False, use_cache=False)
        config.vocab_size = vocab_size
        config.num_hidden_layers = 1
        super().__init__(config)
        self.model = model

    def forward(self, input_ids=None, attention_mask=None, **_):
        return CausalLMOutput(logits=self.model(input_ids))

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids}


def beam(report: Report) -> None:
    vocab_size, eos = 1000, 0
    model = SimpleLanguageModel(vocab_size, 128).eval()
    prompt = torch.randint(1, vocab_size, (8, 10))
    theirs = GeneratingModel(model, vocab_size).eval()
    options = GenerationConfig(
        num_beams=5, max_new_tokens=50, do_sample=False, eos_token_id=eos, pad_token_id=eos, num_return_sequences=1
    )

    @torch.no_grad()
    def plain():
        answers = []
        for row in prompt:  # one prompt, one beam, the whole prefix at a time
            beams = [([], 0.0)]
            for _ in range(50):
                grown = []
                for tokens, score in beams:
                    ids = torch.cat([row, torch.tensor(tokens, dtype=torch.int64)])
                    top = model(ids[None])[0, -1].log_softmax(-1).topk(5)
                    for value, token in zip(top.values, top.indices, strict=True):
                        grown.append(([*tokens, token.item()], score + value.item()))
                beams = sorted(grown, key=lambda pair: -pair[1])[:5]
            answers.append(beams[0])
        return answers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attention = torch.ones_like(prompt)
        report.compare(
            "beam search, 5 beams x 50 tokens, V 1,000, batch 8",
            {
                "ours": lambda: beam_search_decode(model, prompt, eos_token_id=eos),
                "transformers": lambda: theirs.generate(prompt, attention_mask=attention, generation_config=options),
                "plain loop": plain,
            },
            at_most={"transformers": 0.4},
            times_as_fast={"plain loop": 15},
            once=("plain loop",),
        )


def thresholds(report: Report) -> None:
    p = torch.rand(1_000_000)
    y = (torch.rand(1_000_000) < p * 0.2).long()

    scores, labels = p.numpy(), y.numpy()

    def plain():  # the usual search: scikit-learn's F1 at each of 100 thresholds
        return max(f1_score(labels, scores >= threshold, zero_division=0.0) for threshold in np.linspace(0, 1, 100))

    def tensor_grid():  # the same on tensors, written by hand
        best = 0.0
        for threshold in torch.linspace(0, 1, 100):
            predicted = p >= threshold
            tp = (predicted & (y == 1)).sum().item()
            best = max(best, 2 * tp / (predicted.sum().item() + y.sum().item()))
        return best

    report.compare(
        "threshold of the best F1, 1,000,000 scores",
        {
            "ours": lambda: adjust_threshold(p, y),
            "scikit-learn's curve": lambda: precision_recall_curve(labels, scores),
            "100 x scikit-learn's F1": plain,
            "grid of 100 in tensors": tensor_grid,
        },
        at_most={"scikit-learn's curve": 0.2},
        times_as_fast={"100 x scikit-learn's F1": 300, "grid of 100 in tensors": None},
        once=("100 x scikit-learn's F1", "grid of 100 in tensors"),
    )


def calibration_error(report: Report) -> None:
    p = torch.softmax(torch.randn(1_000_000, 10), 1)
    y = torch.randint(10, (1_000_000,))

    def plain():
        confidence, label = p.max(1)
        correct = label == y
        total = 0.0
        for i in range(15):
            here = (confidence > i / 15) & (confidence <= (i + 1) / 15)
            if here.sum() > 0:
                gap = (confidence[here].double().mean() - correct[here].double().mean()).abs()
                total += float(gap) * float(here.double().mean())
        return total

    def by_sample():
        bins = [[0, 0.0, 0] for _ in range(15)]
        for row, label in zip(rows, labels, strict=True):
            confidence = max(row)
            slot = bins[min(14, math.ceil(confidence * 15) - 1)]
            slot[0], slot[1], slot[2] = slot[0] + 1, slot[1] + confidence, slot[2] + (row.index(confidence) == label)
        return sum(abs(c - h) for _, c, h in bins) / len(rows)

    rows, labels = p.tolist(), y.tolist()
    report.compare(
        "expected calibration error, 1,000,000 x 10",
        {
            "ours": lambda: expected_calibration_error(p, y),
            "torchmetrics": lambda: multiclass_calibration_error(p, y, num_classes=10, n_bins=15),
            "loop over samples": by_sample,
        },
        at_most={"torchmetrics": 0.5},
        times_as_fast={"loop over samples": 5},
        once=("loop over samples",),
    )
    assert abs(plain() - expected_calibration_error(p, y)) < 1e-6


class Passes(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision function is its input, so that sklearn calibrates given logits."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return x.argmax(1)


def temperature(report: Report) -> None:
    logits = torch.randn(10_000, 100) * 4
    y = torch.distributions.Categorical(logits=logits / 2.5).sample()
    fitted = Passes().fit(None, np.arange(100))

    def plain():  # LBFGS through autograd until it stands still
        log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        wide = logits.double()
        optimizer = torch.optim.LBFGS([log_t], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(wide / log_t.exp(), y)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return log_t.exp().item()

    def per_sample():  # a golden search, and the loss sample by sample
        rows = logits.double()
        low, high = 0.5, 8.0
        for _ in range(40):
            a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
            loss_a, loss_b = (
                sum(F.cross_entropy(row[None] / t, label[None]).item() for row, label in zip(rows, y, strict=True))
                for t in (a, b)
            )
            low, high = (low, b) if loss_a < loss_b else (a, high)
            break  # one of 40 rounds is timed
        return (low + high) / 2

    def sklearn():
        CalibratedClassifierCV(FrozenEstimator(fitted), method="temperature").fit(logits.numpy(), y.numpy())

    report.compare(
        "temperature scaling, 10,000 x 100",
        {
            "ours": lambda: temperature_scaling(logits, y),
            "scikit-learn": sklearn,
            "LBFGS by autograd": plain,
            "1 of 40 rounds by sample": per_sample,
        },
        at_most={"scikit-learn": 0.2},
        times_as_fast={"LBFGS by autograd": None, "1 of 40 rounds by sample": 12},
        once=("LBFGS by autograd", "1 of 40 rounds by sample"),
    )
    difference = abs(float(temperature_scaling(logits, y).temperature) - plain())
    report.row("temperature: distance from autograd's optimum", [difference], "")


def dropout(report: Report) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)),
    ).eval()
    x = torch.rand(256, 3, 32, 32)

    @torch.no_grad()
    def plain():  # image by image would be slower still: this is the loop of 50 forward passes
        model[9].train()
        samples = torch.stack([model(x).softmax(1) for _ in range(50)])
        model.eval()
        return samples.mean(0), samples.var(0)

    report.compare(
        "Monte Carlo dropout, 50 x 256, small CNN, late dropout",
        {"ours": lambda: monte_carlo_dropout(model, x, n_samples=50, seed=0), "loop of 50": plain},
        at_most={"loop of 50": 0.2},
        times_as_fast={"loop of 50": 7},
    )


def early_dropout(chunk_size: int | None) -> Callable[[], object]:
    """50 samples of 2,048 inputs with 1,024 hidden units after the dropout: 419 MB for each tensor there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Dropout(0.3), nn.Linear(1024, 10)).eval()
    x = torch.rand(2048, 64)
    monte_carlo_dropout(model, x[:2], seed=0)  # what is imported at the first call does not count
    return lambda: monte_carlo_dropout(model, x, n_samples=50, seed=0, chunk_size=chunk_size)


def dropout_memory(report: Report) -> None:
    subject = "Monte Carlo dropout, 50 x 2,048 x 1,024: memory"
    report.row(f"{subject}, all at once", [peak_memory(early_dropout, None) for _ in range(3)], "MB")
    report.row(f"{subject}, chunk_size=2", [peak_memory(early_dropout, 2) for _ in range(3)], "MB", at_most=100)
    report.compare(
        "Monte Carlo dropout, 50 x 2,048 x 1,024, chunk_size=2",
        {"ours": early_dropout(2), "all at once": early_dropout(None)},
        at_most={"all at once": None},
        rounds=3,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = Report("reading_outputs")
    for benchmark in (
        *(classification, top_k, regression, detection, beam),
        *(thresholds, calibration_error, temperature, dropout, dropout_memory),
    ):
        benchmark(report)
    report.save()


if __name__ == "__main__":
    main()
