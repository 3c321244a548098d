"""Speed of chapters 2 and 3 against the plain loop (the obvious version, item by item) and the best library.

    uv run --all-groups benchmarks/reading_outputs.py

One process, one thread, medians; both sides of a ratio run in turns in the same process, on the same data.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, precision_recall_curve
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


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, ours: Callable, plain: Callable, library: Callable | None, wanted: str, rounds: int = 5) -> None:
    """Print medians and the ratios to the plain loop and to the library."""
    sides = {"ours": ours, "plain": plain} | ({"library": library} if library else {})
    for side, function in sides.items():
        if side != "plain":
            function()  # warm up; the plain loops are slow enough not to need it
    times = {side: [] for side in sides}
    for i in range(rounds):
        for side, function in sides.items():
            if side != "plain" or i == 0:  # the plain loops are slow enough to be measured once
                times[side].append(seconds(function))
    median = {side: statistics.median(values) for side, values in times.items()}
    against = f"{median['ours'] / median['library']:.2f}x of the library" if library else "no library"
    faster = median["plain"] / median["ours"]
    print(f"{name:49s} {median['ours'] * 1e3:8.1f} ms   {faster:8.1f}x the plain loop   {against:22s} wanted: {wanted}")


def classification() -> None:
    logits = torch.randn(10_000, 1000)

    def plain():
        results = []
        for row in logits:
            p = torch.softmax(row, 0)
            results.append({"label": p.argmax().item(), "confidence": p.max().item(), "probabilities": p.tolist()})
        return results

    compare(
        "classification 10,000 x 1,000",
        lambda: interpret_classification_output(logits),
        plain,
        lambda: torch.softmax(logits, 1).max(1),
        ">= 14x, <= 1.1x of softmax + max",
    )


def regression() -> None:
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
    compare("regression 100,000", lambda: interpret_regression_output(preds, target), plain, None, ">= 2,000x", 101)


def detection() -> None:
    raw = torch.rand(8, 10_000, 85)
    raw[..., :2] *= 600
    raw[..., 2:4] = raw[..., 2:4] * 40 + 5
    threshold = float((raw[..., 4] * raw[..., 5:].amax(-1)).flatten().quantile(0.8))  # 20 % pass

    def plain():
        found = []
        for picture in raw:
            scores, labels = (picture[:, 5:] * picture[:, 4:5]).max(1)
            rows = torch.nonzero(scores >= threshold)[:, 0]
            kept = []
            boxes = box_convert(picture[:, :4], "cxcywh", "xyxy")
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
        for picture in raw:
            scores, labels = picture[:, 5:].max(1)
            scores = scores * picture[:, 4]
            keep = scores >= threshold
            boxes = box_convert(picture[keep, :4], "cxcywh", "xyxy")
            found.append(boxes[batched_nms(boxes, scores[keep], labels[keep], 0.45)])
        return found

    compare(
        "detection 8 x 10,000 x 80, 20 % pass",
        lambda: interpret_detection_output(raw, score_threshold=threshold),
        plain,
        library,
        ">= 3.4x, <= 0.9x of batched_nms",
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


def beam() -> None:
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
        compare(
            "beam 5 x 50 tokens, V 1,000, batch 8",
            lambda: beam_search_decode(model, prompt, eos_token_id=eos),
            plain,
            lambda: theirs.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=options),
            ">= 15x, <= 0.4x of transformers",
        )


def thresholds() -> None:
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

    compare(
        "thresholds, 1,000,000 scores (100 x sklearn's F1)",
        lambda: adjust_threshold(p, y),
        plain,
        lambda: precision_recall_curve(labels, scores),
        ">= 300x (grid of 100), <= 0.2x of sklearn",
    )
    ours = statistics.median(seconds(lambda: adjust_threshold(p, y)) for _ in range(5))
    print(f"{'':49s} against a grid of 100 in tensors: {seconds(tensor_grid) / ours:,.1f}x")


def calibration_error() -> None:
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
    compare(
        "ECE 1,000,000 x 10 (loop over samples)",
        lambda: expected_calibration_error(p, y),
        by_sample,
        lambda: multiclass_calibration_error(p, y, num_classes=10, n_bins=15),
        ">= 5x, <= 0.5x of torchmetrics",
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


def temperature() -> None:
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

    compare(
        "temperature 10,000 x 100 (autograd LBFGS)",
        lambda: temperature_scaling(logits, y),
        plain,
        sklearn,
        "<= 0.2x of sklearn",
    )
    ours = statistics.median(seconds(lambda: temperature_scaling(logits, y)) for _ in range(3))
    print(f"{'':49s} against one of 40 rounds of a search by sample: {seconds(per_sample) / ours:.0f}x; wanted >= 12x")
    difference = abs(float(temperature_scaling(logits, y).temperature) - plain())
    print(f"{'':49s} T differs from autograd's optimum by {difference:.1e}")


def dropout() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)),
    ).eval()
    x = torch.rand(256, 3, 32, 32)

    @torch.no_grad()
    def plain():  # picture by picture would be slower still: this is the loop of 50 forward passes
        model[9].train()
        samples = torch.stack([model(x).softmax(1) for _ in range(50)])
        model.eval()
        return samples.mean(0), samples.var(0)

    compare(
        "MC dropout 50 x 256, small CNN",
        lambda: monte_carlo_dropout(model, x, n_samples=50, seed=0),
        plain,
        plain,
        ">= 7x, <= 0.2x of a loop of 50",
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for benchmark in (
        *(classification, regression, detection, beam),
        *(thresholds, calibration_error, temperature, dropout),
    ):
        benchmark()


if __name__ == "__main__":
    main()
