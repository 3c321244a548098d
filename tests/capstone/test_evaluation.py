"""Metrics against scikit-learn and torchmetrics, predictions of any classifier, readings, temperatures."""

import copy
import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.capstone import (
    FlipAverage,
    calibrate_model,
    evaluate_logits,
    evaluate_model,
    interpret_model_outputs,
    normalize,
    predict_logits,
)
from course_utils.capstone.evaluation import readings_of
from course_utils.optimization import temperature_scaling
from tests.support.capstone import (
    DATA,
    IMAGES,
    NAMES,
    STATISTICS,
    TARGET,
    OldStyle,
    WithLogits,
    fit,
    linear,
    part,
    random_outputs,
    same,
    tiny,
    tutorial,
    weights,
)
from tests.support.models import Apply


class InDict(WithLogits):
    def forward(self, x):
        return {"logits": self.model(x), "features": None}


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "dict": InDict,
    "object": WithLogits,
    "scripted": lambda model: torch.jit.trace(model.eval(), torch.zeros(2, 3, 32, 32)),
}

outputs = st.builds(random_outputs, st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 12))


class TestEvaluation:
    @given(outputs)
    def test_equals_scikit_learn_and_torchmetrics(self, drawn):
        from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support
        from torchmetrics.functional.classification import multiclass_calibration_error

        logits, target = drawn
        result = evaluate_logits(logits, target)
        classes = range(logits.shape[1])
        predictions = logits.argmax(1)
        macro = precision_recall_fscore_support(target, predictions, average="macro", zero_division=0)
        assert (result.precision, result.recall, result.f1) == pytest.approx(macro[:3], abs=1e-12)
        each = precision_recall_fscore_support(target, predictions, labels=classes, zero_division=0)
        for name, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
            assert result.per_class[name].tolist() == pytest.approx(values.tolist(), abs=1e-12)
        assert result.confusion_matrix.tolist() == confusion_matrix(target, predictions, labels=classes).tolist()
        assert result.nll == pytest.approx(
            log_loss(target, logits.double().softmax(1), labels=classes), rel=1e-4, abs=1e-6
        )
        ece = multiclass_calibration_error(logits.softmax(1), target, num_classes=len(classes), n_bins=15, norm="l1")
        assert result.ece == pytest.approx(float(ece), abs=1e-5)
        assert torch.equal(result.predictions, predictions)
        assert torch.allclose(result.probabilities, logits.softmax(1))

    @given(outputs, st.integers(0, 1000))
    def test_order_does_not_matter(self, drawn, seed):
        logits, target = drawn
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        a, b = evaluate_logits(logits, target).metrics(), evaluate_logits(logits[order], target[order]).metrics()
        assert a.pop("nll") == pytest.approx(b.pop("nll"), rel=1e-12)
        assert a.pop("ece") == pytest.approx(b.pop("ece"), abs=1e-12)
        assert a == b

    @given(outputs, st.integers(0, 1000), st.sampled_from([1.0, 20.0, 200.0]))
    def test_f6_risk_coverage_does_not_depend_on_the_order(self, drawn, seed, scale):
        """Scaled logits: confidences that round to 1, and are equal."""
        logits, target = drawn
        logits = scale * logits.round()
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        a, b = evaluate_logits(logits, target), evaluate_logits(logits[order], target[order])
        for mine, permuted in zip(a.risk_coverage(), b.risk_coverage(), strict=True):
            assert torch.equal(mine, permuted)
        confidence = a.probabilities.max(1).values
        for coverage, risk, least in zip(*a.risk_coverage(), confidence.sort(descending=True).values, strict=True):
            answered = confidence >= least
            assert coverage == answered.double().mean()
            assert risk == pytest.approx((a.predictions != target)[answered].double().mean().item())

    def test_f6_four_sure_answers_one_of_them_wrong(self):
        logits = torch.tensor([[50.0, 0], [60, 0], [70, 0], [80, 0]])
        for wrong in range(4):
            coverage, risk = evaluate_logits(logits, F.one_hot(torch.tensor(wrong), 4)).risk_coverage()
            assert (coverage.tolist(), risk.tolist()) == ([1.0] * 4, [0.25] * 4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_f4_predictions_and_readings_follow_the_logits(self, dtype):
        logits = torch.tensor([[200, 50, 80, -10], [0, 0.001, 0.002, 0.001], [0, 17, 40, 98]], dtype=dtype)
        result = evaluate_logits(logits, [0, 2, 3])
        assert result.accuracy == 1
        read = readings_of(result, torch.arange(3))
        assert read.labels.tolist() == [0, 2, 3]
        assert read.topk_labels.tolist() == [[0, 2, 1], [2, 1, 3], [3, 2, 1]]
        assert read.confidence.tolist() == result.probabilities.amax(1).tolist()

    def test_f21_masked_classes(self):
        result = evaluate_logits(torch.tensor([[-math.inf, 0.0, 0.0], [1.0, -math.inf, 0.0]]), torch.tensor([1, 0]))
        assert result.nll == pytest.approx((math.log(2) + math.log1p(math.exp(-1))) / 2)
        assert math.isinf(evaluate_logits(torch.tensor([[-math.inf, 0.0]]), torch.tensor([0])).nll)

    @pytest.mark.parametrize("target", [[0, 1, 1], np.array([0, 1, 1]), torch.tensor([0, 1, 1], dtype=torch.uint8)])
    @pytest.mark.parametrize("names", [["a", "b"], np.array(["a", "b"]), {0: "a", 1: "b"}])
    def test_targets_and_names_in_any_usual_form(self, target, names):
        result = evaluate_logits(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), target, names)
        assert result.accuracy == pytest.approx(2 / 3)
        assert list(result.per_class.index) == ["a", "b"]
        assert result[0]["target"] == 0

    @given(outputs)
    def test_accuracy_is_the_diagonal_and_intervals_hold_their_values(self, drawn):
        result = evaluate_logits(*drawn)
        assert result.accuracy == pytest.approx(result.confusion_matrix.trace() / len(result))
        assert set(result.intervals) == {"accuracy", "precision", "recall", "f1"}
        assert result.accuracy_interval == result.intervals["accuracy"]
        for name, (low, high) in result.intervals.items():
            assert 0 <= low <= getattr(result, name) <= high <= 1, name

    def test_intervals_cover_the_truth(self):
        """Of 100 samples of one classifier, about 95 intervals hold what it reaches on very many images."""
        logits, target = random_outputs(0, 100_000, 4)
        truth = evaluate_logits(logits, target)
        covered = dict.fromkeys(truth.intervals, 0)
        for seed in range(100):
            index = torch.randint(0, len(target), (150,), generator=torch.Generator().manual_seed(seed))
            result = evaluate_logits(logits[index], target[index])
            for name, (low, high) in result.intervals.items():
                covered[name] += low <= getattr(truth, name) <= high
        assert all(88 <= count <= 100 for count in covered.values()), covered

    def test_classes_that_never_occur_or_are_never_predicted(self):
        logits = F.one_hot(torch.tensor([0, 0, 1, 0]), 4).float()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = evaluate_logits(logits, torch.tensor([0, 0, 1, 2]), ["a", "b", "c", "d"])
        assert result.per_class["precision"].tolist() == pytest.approx([2 / 3, 1, 0, 0])
        assert result.per_class["support"].tolist() == [2, 1, 1, 0]
        assert list(result.per_class.index) == ["a", "b", "c", "d"]
        assert result.recall == pytest.approx(2 / 3)  # of the three classes that occur
        assert result.confusion_matrix[3].sum() == result.confusion_matrix[:, 3].sum() == 0

    def test_float64_stays_float64(self):
        logits = torch.tensor([[1.0, 1 + 1e-9]] * 3, dtype=torch.float64)
        assert evaluate_logits(logits, torch.ones(3).long()).accuracy == 1
        large = evaluate_logits(torch.tensor([[1e300, 0.0]] * 3, dtype=torch.float64), torch.zeros(3).long())
        assert (large.accuracy, large.nll) == (1, 0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays_finite(self, dtype):
        logits, target = random_outputs(1, 40, 5)
        result = evaluate_logits((1000 * logits).to(dtype), target)
        assert math.isfinite(result.nll)
        assert result.probabilities.isfinite().all()

    def test_a_result_like_the_others(self):
        result = evaluate_logits(*random_outputs(2, 20, 3), ["a", "b", "c"])
        assert len(result) == 20
        assert set(result[3]) == {"predictions", "target", "probabilities"}
        assert len(result.to_frame()) == 20
        assert f"{result.accuracy:.3f}" in repr(result)
        assert "<table" in result._repr_html_()
        assert json.loads(json.dumps(result.metrics()))["num_samples"] == 20
        coverage, risk = result.risk_coverage()
        assert coverage.tolist() == pytest.approx([k / 20 for k in range(1, 21)])
        assert risk[-1] == pytest.approx(1 - result.accuracy)
        surest = result.probabilities.max(1).values.argmax()
        assert risk[0] == float(result.predictions[surest] != result.target[surest])

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((torch.zeros(3, 2, 1), torch.zeros(3).long()), ValueError),
            ((torch.zeros(3, 1), torch.zeros(3).long()), ValueError),
            ((torch.zeros(0, 2), torch.zeros(0).long()), ValueError),
            ((torch.zeros(3, 2), torch.zeros(2).long()), ValueError),
            ((torch.zeros(3, 2), torch.tensor([0, 1, 2])), ValueError),
            ((torch.zeros(3, 2), torch.tensor([0, 1, -1])), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3)), TypeError),
            ((torch.zeros(3, 2).long(), torch.zeros(3).long()), TypeError),
            (([[0.0, 1.0]], torch.zeros(1).long()), TypeError),
            ((torch.tensor([[0.0, math.nan]]), torch.zeros(1).long()), ValueError),
            ((torch.tensor([[0.0, math.inf]]), torch.zeros(1).long()), ValueError),
            ((torch.tensor([[-math.inf, -math.inf]]), torch.zeros(1).long()), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3).long(), ["one"]), ValueError),
            ((torch.zeros(3, 2), torch.zeros(3).long(), "ab"), TypeError),
        ],
    )
    def test_bad_input(self, arguments, error):
        with pytest.raises(error, match="must|empty|finite|pass"):
            evaluate_logits(*arguments)


class TestPrediction:
    @pytest.mark.parametrize("make", [tiny, OldStyle, lambda: WithLogits(linear()), lambda: FlipAverage(tutorial())])
    def test_equals_one_plain_pass_and_leaves_no_trace(self, make):
        model = make()
        list(model.modules())[-1].eval()
        modes, before, state = [m.training for m in model.modules()], weights(model), torch.get_rng_state()
        logits = predict_logits(model, IMAGES, normalization=STATISTICS, batch_size=7)
        assert [m.training for m in model.modules()] == modes
        assert same(before, model)
        assert torch.equal(torch.get_rng_state(), state)
        assert not logits.requires_grad
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()(normalize(IMAGES, *STATISTICS))
        assert torch.allclose(logits, getattr(expected, "logits", expected), atol=1e-5)

    def test_uint8_and_normalised_images_give_the_same(self):
        model = tutorial()
        fit(model, epochs=1)
        a = evaluate_model(model, IMAGES, TARGET, NAMES)
        b = evaluate_model(model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        c = evaluate_model(model, normalize(IMAGES, *STATISTICS), TARGET, NAMES)
        d = evaluate_model(nn.Sequential(FlipAverage(model)), IMAGES, TARGET)  # the statistics are found inside
        assert a.metrics() == b.metrics() == c.metrics()
        assert d.class_names == tuple(map(str, range(10)))

    def test_a_model_that_was_saved_knows_its_normalisation(self):
        model, loaded = tiny(), tiny(seed=8)
        fit(model, epochs=1)
        loaded.load_state_dict(model.state_dict())
        assert torch.equal(predict_logits(model, IMAGES), predict_logits(loaded, IMAGES))

    @pytest.mark.parametrize("batch_size", [1, 7, 31, 1000])
    def test_batch_size_does_not_matter(self, batch_size):
        model = tiny()
        fit(model, epochs=1)
        assert torch.allclose(
            predict_logits(model, IMAGES, batch_size=batch_size), predict_logits(model, IMAGES), atol=1e-5
        )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_a_model_in_another_precision(self, dtype):
        model, exact = linear().to(dtype), predict_logits(linear(), IMAGES, normalization=STATISTICS)
        logits = predict_logits(model, IMAGES, normalization=STATISTICS)
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(logits.float(), exact, atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("make", [tiny, tutorial, lambda: FlipAverage(tutorial())])
    def test_bfloat16_is_near_and_only_on_request(self, make):
        model = make()
        seen = []
        model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        exact = predict_logits(model, IMAGES, normalization=STATISTICS)
        near = predict_logits(model, IMAGES, normalization=STATISTICS, amp=True)
        assert set(seen[: len(seen) // 2]) == {False}
        assert set(seen[len(seen) // 2 :]) == {True}
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact)
        torch.testing.assert_close(near, exact, atol=0.02, rtol=0.05)
        evaluation = evaluate_model(model, IMAGES, TARGET, normalization=STATISTICS, amp=True)
        assert torch.equal(evaluation.probabilities, near.softmax(1))

    def test_equals_the_loop_of_the_tutorials(self):
        model = tutorial()
        fit(model, epochs=1)
        right = 0
        model.eval()
        with torch.no_grad():
            for image, label in zip(model.normalize(IMAGES), TARGET, strict=True):
                right += int(model(image[None]).argmax() == label)
        assert evaluate_model(model, IMAGES, TARGET).accuracy == right / len(TARGET)

    @pytest.mark.parametrize("pack", WRAPPERS)
    def test_models_as_people_bring_them(self, pack):
        inner = tiny()
        fit(inner, epochs=1)
        plain = evaluate_model(inner, IMAGES, TARGET)
        result = evaluate_model(WRAPPERS[pack](inner), IMAGES, TARGET, normalization=STATISTICS)
        assert result.nll == pytest.approx(plain.nll, rel=1e-5)
        read = interpret_model_outputs(WRAPPERS[pack](inner), IMAGES, TARGET, normalization=STATISTICS)
        assert torch.equal(read.labels, interpret_model_outputs(inner, IMAGES, TARGET).labels)

    @pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
    def test_a_model_with_one_logit(self, shape):
        one = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 1), Apply(lambda z: z.reshape(shape)))
        result = evaluate_model(one, IMAGES, TARGET % 2, ["even", "odd"], task="binary", normalization=STATISTICS)
        with torch.no_grad():
            z = one(normalize(IMAGES, *STATISTICS)).flatten()
        assert torch.allclose(result.probabilities[:, 1], z.sigmoid(), atol=1e-6)
        assert result.predictions.tolist() == (z > 0).long().tolist()
        with pytest.raises(ValueError, match="pass task='binary'"):
            evaluate_model(one, IMAGES, TARGET % 2, normalization=STATISTICS)

    def test_what_a_forward_pass_writes_is_put_back(self):
        class Counts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.codebook = linear(), nn.Parameter(torch.zeros(1))
                self.register_buffer("calls", torch.zeros(1))

            def forward(self, x):
                with torch.no_grad():
                    self.calls += 1
                    self.codebook += x.mean()
                return self.inner(x.mul_(1))

        model = Counts()
        before, images = weights(model), normalize(IMAGES, *STATISTICS)
        kept = images.clone()
        predict_logits(model, images)
        assert same(before, model)
        assert torch.equal(images, kept)

    @pytest.mark.parametrize("bare", [IMAGES.float() / 255, IMAGES.float()])
    def test_p17_floats_that_look_like_bare_pixels_are_warned_of(self, bare):
        model = tutorial()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            predict_logits(model, bare)  # it was never trained, and knows no statistics
            predict_logits(linear(), bare)
        fit(model, epochs=1)
        with pytest.warns(UserWarning, match="bare pixels.*uint8") as caught:
            evaluate_model(model, bare, TARGET)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate_model(model, model.normalize(IMAGES), TARGET)
            evaluate_model(model, torch.zeros(2, 3, 32, 32), [0, 1])  # the mean colour

    def test_images_that_nobody_can_normalise(self):
        with pytest.raises(ValueError, match=r"normalization=\(data.mean, data.std\)"):
            predict_logits(linear(), IMAGES)
        with pytest.raises(ValueError, match="normal"):  # never trained: its statistics are still 0 and 1
            predict_logits(tutorial(), IMAGES)
        with pytest.raises(ValueError, match="normalised"):
            predict_logits(linear(), IMAGES / 255, normalization=STATISTICS)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"images": IMAGES[0]}, ValueError),
            ({"images": IMAGES[:0]}, ValueError),
            ({"images": IMAGES.int()}, TypeError),
            ({"images": IMAGES.numpy()}, TypeError),
            ({"images": IMAGES[:, :1]}, ValueError),  # grey images must not become coloured by broadcasting
            ({"images": torch.full((2, 3, 32, 32), math.nan), "normalization": None}, ValueError),
            ({"batch_size": 0}, ValueError),
            ({"amp": "auto"}, TypeError),
            ({"normalization": (DATA.mean,)}, ValueError),
            ({"normalization": (DATA.mean[:2], DATA.std[:2])}, ValueError),
            ({"normalization": (DATA.mean, 0 * DATA.std)}, ValueError),
            ({"normalization": 0.5}, (TypeError, ValueError)),
        ],
    )
    def test_bad_images(self, change, error):
        options = {"images": IMAGES, "normalization": STATISTICS} | change
        with pytest.raises(error, match=r"must|empty|finite|normalization"):
            predict_logits(linear(), **options)

    def test_statistics_as_plain_numbers(self):
        plain = tuple(values.tolist() for values in STATISTICS)
        a, b = (predict_logits(linear(), IMAGES, normalization=n) for n in (plain, STATISTICS))
        assert torch.allclose(a, b, atol=1e-6)

    @pytest.mark.parametrize("model", [nn.Flatten(0), nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), nn.Identity()])
    def test_models_that_are_no_classifiers(self, model):
        with pytest.raises(ValueError, match=r"logits \(N, C\)"):
            predict_logits(model, IMAGES, normalization=STATISTICS)

    def test_a_target_that_does_not_fit(self):
        for target in (TARGET[:3], TARGET + 100):
            with pytest.raises(ValueError, match="target"):
                evaluate_model(linear(), IMAGES, target, normalization=STATISTICS)
            with pytest.raises(ValueError, match="target"):
                interpret_model_outputs(linear(), IMAGES, target, normalization=STATISTICS)


@pytest.fixture(scope="module")
def reader():
    model = tutorial()
    fit(model, epochs=1)
    return model


class TestReadings:
    def test_top_three_of_a_random_choice(self, reader):
        read = interpret_model_outputs(reader, IMAGES, TARGET, NAMES)
        probabilities = predict_logits(reader, IMAGES).softmax(1)
        best = probabilities[read.index].topk(3)
        assert (len(read), read.index.unique().numel()) == (6, 6)
        assert torch.equal(read.target, TARGET[read.index])
        assert torch.equal(read.topk_labels, best.indices)
        assert torch.allclose(read.topk_confidence, best.values, atol=1e-6)
        assert torch.equal(read.labels, best.indices[:, 0])
        frame = read.to_frame()
        assert list(frame.columns) == ["image", "true", "first", "second", "third", "right"]
        assert frame["true"].tolist() == [NAMES[k] for k in TARGET[read.index]]
        assert frame["first"][0].startswith(NAMES[best.indices[0, 0]])
        assert frame["right"].tolist() == (read.labels == read.target).tolist()

    def test_the_worst_first(self, reader):
        read = interpret_model_outputs(reader, IMAGES, TARGET, num_samples=1000, worst_first=True)
        own = predict_logits(reader, IMAGES).softmax(1)[torch.arange(31), TARGET]
        assert torch.equal(own[read.index], own.sort().values)
        assert sorted(read.index.tolist()) == list(range(31))

    def test_seeds(self, reader):
        a, b, c = (interpret_model_outputs(reader, IMAGES, TARGET, seed=seed).index.tolist() for seed in (1, 1, 2))
        assert a == b != c
        fresh = {tuple(interpret_model_outputs(reader, IMAGES, TARGET, seed=None).index.tolist()) for _ in range(3)}
        assert len(fresh) == 3
        with pytest.raises(ValueError, match="num_samples"):
            interpret_model_outputs(reader, IMAGES, TARGET, num_samples=0)

    def test_two_classes_have_two_places(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
        read = interpret_model_outputs(model, IMAGES, TARGET % 2, ["even", "odd"], normalization=STATISTICS)
        assert read.topk_labels.shape == (6, 2)
        assert list(read.to_frame().columns) == ["image", "true", "first", "second", "right"]

    def test_flip_average(self, reader):
        x = normalize(IMAGES, *STATISTICS)
        both = FlipAverage(reader)
        logits, mirrored = predict_logits(both, x), predict_logits(both, x.flip(3))
        assert torch.equal(logits, mirrored)
        expected = (predict_logits(reader, x) + predict_logits(reader, x.flip(3))) / 2
        assert torch.allclose(logits, expected, atol=1e-6)
        with pytest.raises(TypeError, match="model"):
            FlipAverage("model")


class TestCalibration:
    @pytest.mark.parametrize("make", [tutorial, OldStyle, lambda: WithLogits(linear())])
    def test_the_temperature_is_fitted_on_validation_and_applied(self, make):
        model = make()
        fit(model, dataclasses.replace(DATA, train=DATA.validation), epochs=4, batch_size=16, lr=3e-3)
        before, modes = weights(model), [m.training for m in model.modules()]
        result = calibrate_model(model, DATA)
        assert same(before, model)
        assert [m.training for m in model.modules()] == modes
        validation = predict_logits(model, DATA.validation.images, normalization=STATISTICS)
        expected = temperature_scaling(validation, DATA.validation.target)
        assert result.temperature == pytest.approx(float(expected.temperature), rel=1e-6)
        plain = evaluate_model(model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        applied = evaluate_model(result.model, IMAGES, TARGET, NAMES, normalization=STATISTICS)
        assert result.before.metrics() == plain.metrics()
        assert result.after.nll == pytest.approx(applied.nll, abs=1e-6)
        assert torch.equal(result.before.predictions, result.after.predictions)
        assert torch.equal(applied.predictions, result.after.predictions)
        scaled = predict_logits(result.model, IMAGES, normalization=STATISTICS)
        assert torch.allclose(
            scaled * result.temperature, predict_logits(model, IMAGES, normalization=STATISTICS), atol=1e-4
        )
        assert f"{result.temperature:.3f}" in repr(result)

    def test_the_test_images_do_not_decide(self):
        a = calibrate_model(tutorial(), DATA).temperature
        assert calibrate_model(tutorial(), part("test", target=(TARGET + 1) % 10)).temperature == a
        assert (
            calibrate_model(tutorial(), part("validation", target=(DATA.validation.target + 1) % 10)).temperature != a
        )

    @pytest.mark.parametrize("arguments", [("model", DATA), (linear(), IMAGES)])
    def test_bad_input(self, arguments):
        with pytest.raises(TypeError, match="must be"):
            calibrate_model(*arguments)
