"""Chapter 7: training against a bare loop, intervals against scipy, summaries without traces, E63 to E71."""

import contextlib
import io
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import torchinfo
import torchsummary
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score
from torch import nn

from course_utils.foundation import progress
from course_utils.iris import (
    MLP,
    accuracy,
    count_parameters,
    load_iris_split,
    model_summary,
    parameter_table,
    plot_decision_regions,
    plot_loss,
    plot_weight_distributions,
    predict,
    train,
    weight_statistics,
    wilson_interval,
)

SPLIT = load_iris_split()


def seeded_mlp(**options) -> MLP:
    torch.manual_seed(0)
    return MLP(**options)


class TestData:
    def test_contract(self):
        assert (SPLIT.x_train.shape, SPLIT.x_test.shape) == ((120, 4), (30, 4))
        assert (SPLIT.x_train.dtype, SPLIT.y_train.dtype) == (torch.float32, torch.int64)
        assert SPLIT.y_test.bincount().tolist() == [10, 10, 10]
        assert SPLIT.class_names == ("setosa", "versicolor", "virginica")
        assert (SPLIT.x_train.amin(0).tolist(), SPLIT.x_train.amax(0).tolist()) == ([0] * 4, [1] * 4)

    def test_equals_scikit_learns_own_steps(self):
        from sklearn.datasets import load_iris
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import MinMaxScaler

        x, y = load_iris(return_X_y=True)
        train_x, test_x, _, test_y = train_test_split(x, y, test_size=0.2, random_state=42, stratify=y)
        scaler = MinMaxScaler().fit(train_x)
        assert torch.allclose(SPLIT.x_test.double(), torch.tensor(scaler.transform(test_x)), atol=1e-6)
        assert SPLIT.y_test.tolist() == test_y.tolist()


class TestTraining:
    def test_equals_a_bare_loop(self):
        mine, bare = seeded_mlp(), seeded_mlp()
        history = train(mine, SPLIT.x_train, SPLIT.y_train, epochs=50, lr=0.05, log_every=10, progress=False)
        optimizer = torch.optim.SGD(bare.parameters(), lr=0.05)
        losses = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = F.cross_entropy(bare(SPLIT.x_train), SPLIT.y_train)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), bare.parameters(), strict=True))
        assert history.losses.tolist() == pytest.approx([losses[epoch - 1] for epoch in history.epochs.tolist()])

    @given(epochs=st.integers(1, 30), log_every=st.integers(1, 40))
    def test_e71_logs_the_first_each_nth_and_the_last(self, epochs, log_every):
        history = train(MLP(), SPLIT.x_train, SPLIT.y_train, epochs=epochs, log_every=log_every, progress=False)
        expected = sorted({1, epochs, *range(log_every, epochs + 1, log_every)})
        assert history.epochs.tolist() == expected
        assert len(history) == len(history.losses) == len(expected)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_learns(self, optimizer):
        model = seeded_mlp()
        history = train(model, SPLIT.x_train, SPLIT.y_train, epochs=200, lr=0.05, optimizer=optimizer, progress=False)
        assert history.losses[-1] < history.losses[0] - 0.1
        assert not history.interrupted
        assert history.seconds > 0

    @pytest.mark.parametrize("stop_at", [1, 7])
    def test_interruption_returns_what_there_is(self, stop_at):
        class Stopped(MLP):
            calls = 0

            def forward(self, x):
                if self.training:
                    self.calls += 1
                    if self.calls == stop_at:
                        raise KeyboardInterrupt
                return super().forward(x)

        model = Stopped().eval()
        with pytest.warns(UserWarning, match=f"interrupted in epoch {stop_at} of 100"):
            history = train(model, SPLIT.x_train, SPLIT.y_train, epochs=100, log_every=2, progress=False)
        assert history.interrupted
        assert history.epochs.tolist() == [epoch for epoch in (1, 2, 4, 6) if epoch < stop_at]
        assert "interrupted" in repr(history)
        assert not model.training

    def test_bar_shows_epochs_and_the_loss(self, monkeypatch, capsys):
        monkeypatch.setenv("COURSE_QUIET", "0")
        train(MLP(), SPLIT.x_train, SPLIT.y_train, epochs=40, log_every=10)
        shown = capsys.readouterr().err
        assert "40/40" in shown
        assert "epoch/s" in shown
        assert "loss=" in shown

    def test_the_bar_moves_only_when_the_loss_is_logged(self, monkeypatch):
        updates = []

        class Counting(progress.progress_bar().__class__):
            def update(self, n=1):
                updates.append(n)
                super().update(n)

        monkeypatch.setattr(
            "course_utils.iris.training.progress_bar",
            lambda **options: Counting(total=options["total"], file=io.StringIO()),
        )
        train(MLP(), SPLIT.x_train, SPLIT.y_train, epochs=100, log_every=25)
        assert updates == [1, 24, 25, 25, 25]

    def test_seed_makes_dropout_repeatable_and_none_does_not(self):
        def losses(seed):
            model = seeded_mlp(dropout=0.5)
            options = {"epochs": 20, "log_every": 1, "progress": False, "seed": seed}
            return train(model, SPLIT.x_train, SPLIT.y_train, **options).losses

        assert torch.equal(losses(3), losses(3))
        assert not torch.equal(losses(None), losses(None))

    def test_diverging_is_an_error_that_says_what_to_do(self):
        with pytest.raises(FloatingPointError, match="smaller lr"):
            train(seeded_mlp(), 1e18 * SPLIT.x_train, SPLIT.y_train, epochs=50, lr=1e20, log_every=1, progress=False)

    def test_history_as_frame(self):
        history = train(MLP(), SPLIT.x_train, SPLIT.y_train, epochs=4, log_every=2, progress=False)
        assert history.to_frame()["epochs"].tolist() == [1, 2, 4]
        assert history[1]["epochs"] == 2

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"epochs": 0}, ValueError, "epochs"),
            ({"log_every": 0}, ValueError, "log_every"),
            ({"lr": 0.0}, ValueError, "greater than 0"),
            ({"lr": math.nan}, ValueError, "lr"),
            ({"optimizer": "lbfgs"}, ValueError, "'sgd', 'adam', 'adamw'"),
            ({"y": SPLIT.y_train[:5]}, ValueError, "120 and 5"),
            ({"y": SPLIT.y_train + 1}, ValueError, "0 to 2"),
            ({"y": SPLIT.y_train.float()}, TypeError, "integer"),
            ({"x": SPLIT.x_train * math.nan}, ValueError, "NaN"),
            ({"x": SPLIT.x_train[:0]}, ValueError, "empty"),
            ({"model": "mlp"}, TypeError, "torch.nn.Module"),
            ({"model": MLP().requires_grad_(False)}, ValueError, "no trainable"),
        ],
    )
    def test_bad_input(self, change, error, words):
        arguments = {"model": MLP(), "x": SPLIT.x_train, "y": SPLIT.y_train, "epochs": 2, "progress": False} | change
        with pytest.raises(error, match=words):
            train(**arguments)


class TestInference:
    model = seeded_mlp(dropout=0.5)

    def test_predict_reads_the_logits(self):
        prediction = predict(self.model, SPLIT.x_test, SPLIT.class_names)
        with torch.no_grad():
            expected = torch.softmax(self.model.eval()(SPLIT.x_test), 1)
        self.model.train()
        assert torch.allclose(prediction.probabilities, expected)
        assert torch.equal(prediction.labels, expected.argmax(1))
        assert torch.allclose(prediction.confidence, expected.amax(1))
        assert not prediction.probabilities.requires_grad

    def test_a_sample_and_the_frame(self):
        prediction = predict(self.model, SPLIT.x_test, SPLIT.class_names)
        assert prediction[0]["predicted_class_name"] in SPLIT.class_names
        frame = prediction.to_frame()
        assert list(frame.columns[-3:]) == ["p(setosa)", "p(versicolor)", "p(virginica)"]
        assert len(frame) == 30
        assert "predicted_class_name" not in predict(self.model, SPLIT.x_test)[0]

    def test_accuracy_equals_scikit_learn(self):
        result = accuracy(self.model, SPLIT.x_test, SPLIT.y_test)
        expected = accuracy_score(SPLIT.y_test.numpy(), predict(self.model, SPLIT.x_test).labels.numpy())
        assert result.value == pytest.approx(expected)
        assert result.n == 30
        assert f"{expected:.3f}" in str(result)

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
    def test_e70_wilson_equals_scipy(self, counts, confidence):
        correct, n = counts
        expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
        low, high = wilson_interval(correct, n, confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0 <= low <= correct / n <= high <= 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [((0, 0), "n must be at least 1"), ((5, 3), "at most n, 3"), ((-1, 3), "at least 0"), ((1, 2, 1.0), "between")],
    )
    def test_counts_that_cannot_be(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            wilson_interval(*arguments)

    def test_e70_thirty_of_thirty_is_not_certainty(self):
        low, high = wilson_interval(30, 30)
        assert low == pytest.approx(0.886, abs=1e-3)
        assert high == 1

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda m: predict(m, SPLIT.x_test, ["a"]), ValueError, "3 classes"),
            (lambda m: predict(m, SPLIT.x_test[:0]), ValueError, "empty"),
            (lambda m: predict(m, SPLIT.x_test * math.inf), ValueError, "infinite"),
            (lambda m: predict(nn.Linear(4, 1), SPLIT.x_test), ValueError, "C ≥ 2"),
            (lambda m: predict(nn.Flatten(0), SPLIT.x_test), ValueError, r"logits \(N, C\)"),
            (lambda m: accuracy(m, SPLIT.x_test, SPLIT.y_test[:3]), ValueError, "each of the 30"),
            (lambda m: accuracy(m, SPLIT.x_test, SPLIT.y_test, confidence=1.0), ValueError, "confidence"),
        ],
    )
    def test_bad_input(self, call, error, words):
        with pytest.raises(error, match=words):
            call(self.model)

    def test_e65_eval_mode_neither_stops_updates_nor_gradients(self):
        model = seeded_mlp().eval()
        before = model.hidden.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(SPLIT.x_train), SPLIT.y_train).backward()
        optimizer.step()
        assert not torch.equal(before, model.hidden.weight)

    def test_e63_the_mean_counts_every_sample_once(self):
        """65 samples with a last batch of one: the sum over batches divided once equals the loss in one batch."""
        model = seeded_mlp()
        x, y = SPLIT.x_train[:65], SPLIT.y_train[:65]
        with torch.no_grad():
            whole = F.cross_entropy(model(x), y)
            parts = [
                F.cross_entropy(model(a), b, reduction="sum") for a, b in zip(x.split(64), y.split(64), strict=True)
            ]
            means = [F.cross_entropy(model(a), b) for a, b in zip(x.split(64), y.split(64), strict=True)]
        assert torch.allclose(sum(parts) / 65, whole)
        assert not torch.allclose(sum(means) / 2, whole, atol=1e-3)


class TestInspection:
    def test_count_by_hand(self):
        count = count_parameters(MLP())
        assert (count.total, count.trainable, count.frozen) == (4 * 10 + 10 + 10 * 3 + 3, 83, 0)

    @given(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    def test_count_equals_torchinfo(self, sizes):
        model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
        assert count_parameters(model).total == torchinfo.summary(model, verbose=0).total_params

    def test_shared_parameters_count_once(self):
        layer = nn.Linear(10, 10)
        assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)).total == 110

    def test_e66_frozen_parameters_are_listed_and_marked(self):
        model = MLP()
        model.hidden.requires_grad_(False)
        table = parameter_table(model)
        assert table["name"].tolist() == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
        assert table["trainable"].tolist() == [False, False, True, True]
        assert table["count"].sum() == 83
        assert count_parameters(model).frozen == 50

    def test_e67_neither_activation_nor_loss_has_parameters(self):
        names = set(parameter_table(MLP())["name"])
        assert names == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}

    def test_statistics(self):
        model = seeded_mlp()
        row = weight_statistics(model).set_index("name").loc["hidden.weight"]
        values = model.hidden.weight.detach().double().numpy()
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std()))
        assert (row["min"], row["max"]) == pytest.approx((values.min(), values.max()))

    def test_e2_statistics_of_one_number_are_finite(self):
        assert weight_statistics(nn.Linear(1, 1))["std"].tolist() == [0.0, 0.0]

    def test_not_a_model(self):
        for function in (count_parameters, parameter_table, weight_statistics):
            with pytest.raises(TypeError, match="torch.nn.Module"):
                function([1, 2])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x):
        return self.layer(self.layer(x))


class TestSummary:
    @pytest.mark.parametrize("engine", ["torchinfo", "torchsummary"])
    def test_names_the_parameters(self, engine):
        assert "Total params: 83" in model_summary(MLP(), input_size=(1, 4), engine=engine)

    def test_input_data_and_size_agree(self):
        assert model_summary(MLP(), input_data=SPLIT.x_test) == model_summary(MLP(), input_size=(30, 4))

    def test_e68_what_torchsummary_really_does(self):
        assert "Total params: 220" in model_summary(Twice(), input_size=(1, 10), engine="torchsummary")
        assert "Total params: 110" in model_summary(Twice(), input_size=(1, 10), engine="torchinfo")
        with pytest.raises(RuntimeError, match="try engine='torchinfo'"):
            model_summary(nn.LSTM(4, 8), input_size=(1, 5, 4), engine="torchsummary")
        norm, state = nn.BatchNorm1d(4), torch.get_rng_state()
        with contextlib.redirect_stdout(io.StringIO()):
            torchsummary.summary(nn.Sequential(norm), (4,), device="cpu")
        assert norm.running_mean.abs().sum() > 0  # the raw library leaves traces
        assert not torch.equal(state, torch.get_rng_state())

    def test_half_and_double_models(self):
        for dtype in (torch.float64, torch.float32):
            text = model_summary(MLP().to(dtype), input_data=SPLIT.x_test.to(dtype), engine="torchinfo")
            assert "Total params: 83" in text
        assert "Total params: 83" in model_summary(MLP().double(), input_size=(1, 4), engine="torchsummary")

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({}, ValueError, "exactly one"),
            ({"input_size": (1, 4), "input_data": SPLIT.x_test}, ValueError, "exactly one"),
            ({"input_size": (1, 4), "engine": "keras"}, ValueError, "'torchinfo', 'torchsummary'"),
            ({"input_size": (0, 4)}, ValueError, "at least 1"),
            ({"input_size": (1, 4.0)}, TypeError, "int"),
            ({"input_data": [[1.0]]}, TypeError, "torch.Tensor"),
            ({"input_size": (1, 5)}, RuntimeError, "could not run the model on an input of shape"),
        ],
    )
    def test_bad_input(self, options, error, words):
        with pytest.raises(error, match=words):
            model_summary(MLP(), **options)


class TestMLP:
    def test_logits_and_dropout(self):
        model = seeded_mlp(dropout=0.5)
        assert model(SPLIT.x_test).shape == (30, 3)
        assert not torch.equal(model(SPLIT.x_test), model(SPLIT.x_test))
        model.eval()
        assert torch.equal(model(SPLIT.x_test), model(SPLIT.x_test))

    @pytest.mark.parametrize(
        "options", [{"in_features": 0}, {"hidden_features": 0}, {"num_classes": 1}, {"dropout": 1.0}, {"dropout": -0.1}]
    )
    def test_bad_sizes(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            MLP(**options)


class TestFigures:
    history = train(MLP(), SPLIT.x_train, SPLIT.y_train, epochs=20, log_every=5, progress=False)

    def test_loss_curve_draws_the_history(self):
        line = plot_loss(self.history).axes[0].lines[0]
        assert line.get_xdata().tolist() == [1, 5, 10, 15, 20]
        assert line.get_ydata().tolist() == pytest.approx(self.history.losses.tolist())

    def test_several_runs_have_a_legend(self):
        figure = plot_loss({"a": self.history, "b": self.history})
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

    def test_regions_circle_the_wrong_ones(self):
        model = seeded_mlp()
        figure = plot_decision_regions(model, SPLIT.x_test, SPLIT.y_test, class_names=SPLIT.class_names)
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        wrong = int((predict(model, SPLIT.x_test).labels != SPLIT.y_test).sum())
        assert labels == [*SPLIT.class_names, "wrong"]
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
    def test_bad_input(self, options, words):
        with pytest.raises(ValueError, match=words):
            plot_decision_regions(seeded_mlp(), SPLIT.x_test, SPLIT.y_test, **options)
