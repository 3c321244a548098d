"""Training against a bare loop: what it logs, how it stops, and the error E71."""

import io
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_utils.foundation import progress
from course_utils.iris import MLP, train
from tests.support.models import seeded_mlp


class TestTraining:
    def test_equals_a_bare_loop(self, split):
        mine, bare = seeded_mlp(), seeded_mlp()
        history = train(mine, split.x_train, split.y_train, epochs=50, lr=0.05, log_every=10, progress=False)
        optimizer = torch.optim.SGD(bare.parameters(), lr=0.05)
        losses = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = F.cross_entropy(bare(split.x_train), split.y_train)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), bare.parameters(), strict=True))
        assert history.losses.tolist() == pytest.approx([losses[epoch - 1] for epoch in history.epochs.tolist()])

    @given(epochs=st.integers(1, 30), log_every=st.integers(1, 40))
    def test_e71_logs_the_first_each_nth_and_the_last(self, split, epochs, log_every):
        history = train(MLP(), split.x_train, split.y_train, epochs=epochs, log_every=log_every, progress=False)
        expected = sorted({1, epochs, *range(log_every, epochs + 1, log_every)})
        assert history.epochs.tolist() == expected
        assert len(history) == len(history.losses) == len(expected)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_learns(self, split, optimizer):
        model = seeded_mlp()
        history = train(model, split.x_train, split.y_train, epochs=200, lr=0.05, optimizer=optimizer, progress=False)
        assert history.losses[-1] < history.losses[0] - 0.1
        assert not history.interrupted
        assert history.seconds > 0

    @pytest.mark.parametrize("stop_at", [1, 7])
    def test_interruption_returns_what_there_is(self, split, stop_at):
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
            history = train(model, split.x_train, split.y_train, epochs=100, log_every=2, progress=False)
        assert history.interrupted
        assert history.epochs.tolist() == [epoch for epoch in (1, 2, 4, 6) if epoch < stop_at]
        assert "interrupted" in repr(history)
        assert not model.training

    def test_bar_shows_epochs_and_the_loss(self, split, monkeypatch, capsys):
        monkeypatch.setenv("COURSE_QUIET", "0")
        train(MLP(), split.x_train, split.y_train, epochs=40, log_every=10)
        shown = capsys.readouterr().err
        assert "40/40" in shown
        assert "epoch/s" in shown
        assert "loss=" in shown

    def test_the_bar_moves_only_when_the_loss_is_logged(self, split, monkeypatch):
        updates = []

        class Counting(progress.progress_bar().__class__):
            def update(self, n=1):
                updates.append(n)
                super().update(n)

        monkeypatch.setattr(
            "course_utils.iris.training.progress_bar",
            lambda **options: Counting(total=options["total"], file=io.StringIO()),
        )
        train(MLP(), split.x_train, split.y_train, epochs=100, log_every=25)
        assert updates == [1, 24, 25, 25, 25]

    def test_seed_makes_dropout_repeatable_and_none_does_not(self, split):
        def losses(seed):
            model = seeded_mlp(dropout=0.5)
            options = {"epochs": 20, "log_every": 1, "progress": False, "seed": seed}
            return train(model, split.x_train, split.y_train, **options).losses

        assert torch.equal(losses(3), losses(3))
        assert not torch.equal(losses(None), losses(None))

    def test_diverging_is_an_error_that_says_what_to_do(self, split):
        with pytest.raises(FloatingPointError, match="smaller lr"):
            train(seeded_mlp(), 1e18 * split.x_train, split.y_train, epochs=50, lr=1e20, log_every=1, progress=False)

    def test_history_as_frame(self, split):
        history = train(MLP(), split.x_train, split.y_train, epochs=4, log_every=2, progress=False)
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
            ({"y": torch.zeros(5, dtype=torch.int64)}, ValueError, "120 and 5"),
            ({"y": torch.full((120,), 3)}, ValueError, "0 to 2"),
            ({"y": torch.zeros(120)}, TypeError, "integer"),
            ({"x": torch.full((120, 4), math.nan)}, ValueError, "NaN"),
            ({"x": torch.zeros(0, 4)}, ValueError, "empty"),
            ({"model": "mlp"}, TypeError, "torch.nn.Module"),
            ({"model": MLP().requires_grad_(False)}, ValueError, "no trainable"),
        ],
    )
    def test_bad_input(self, split, change, error, words):
        arguments = {"model": MLP(), "x": split.x_train, "y": split.y_train, "epochs": 2, "progress": False} | change
        with pytest.raises(error, match=words):
            train(**arguments)
