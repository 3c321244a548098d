"""Runs: trained by hand or by either engine, in one process or in many, they give the same records."""

from itertools import pairwise

import joblib
import numpy as np
import pytest
import sklearn.metrics
import torch
from joblib._parallel_backends import ThreadingBackend

from course_utils.homework import Setting, compare, runs, train_sequentially
from course_utils.homework.data import load_splits
from course_utils.homework.engine.reference import Network
from course_utils.homework.metrics import METRICS, measure
from tests.support.homework import GRID, OPTIONS, assert_same, own_data


class TestFigures:
    def test_a_run_equals_the_same_run_by_hand(self):
        comparison = compare(GRID, **OPTIONS, metric="loss", engine="loop")
        fold = load_splits("iris", "holdout").folds(2)[0]
        trained = train_sequentially(Setting(8, lr=0.3, epochs=40), 2, *fold["train"], 3)
        row = comparison.runs.query("lr == 0.3 and hidden_features == 8 and seed == 2").iloc[0]
        for part, (x, y) in fold.items():
            (w1, b1), (w2, b2) = trained.parameters
            probabilities = torch.softmax((torch.relu(x @ w1.T + b1) @ w2.T + b2).double(), 1)
            expected = sklearn.metrics.log_loss(y, probabilities, labels=[0, 1, 2])
            assert row[f"{part}_loss"] == pytest.approx(expected, abs=1e-6)
        curve = comparison.curves.query(f"setting == {row.setting} and seed == 2")
        assert curve["epoch"].tolist() == list(range(1, 41))
        assert curve["loss"].to_numpy() == pytest.approx(trained.losses.numpy(), rel=1e-6)

    @pytest.mark.parametrize("validation", ["holdout", "repeated_kfold"])
    @pytest.mark.parametrize("metric", METRICS)
    def test_the_engines_agree(self, validation, metric):
        grid = {
            "dropout": 0.2,
            "optimizer": ["momentum", "adam"],
            "batch_size": [None, 32],
            "hidden_features": [[4, 4]],
        }
        options = {"seeds": [7, 3], "epochs": 4, "progress": False, "validation": validation, "metric": metric}
        loop, batched = (compare(grid, engine=engine, **options) for engine in ("loop", "batched"))
        assert_same(loop, batched, atol=2e-5, rtol=1e-4)

    def test_a_fold_figure_is_the_mean_over_the_folds(self):
        comparison = compare({"lr": 0.1}, seeds=1, epochs=30, validation="repeated_kfold", progress=False)
        setting = Setting(lr=0.1, epochs=30)
        rights = []
        for fold in load_splits("iris", "repeated_kfold").folds(0):
            trained = train_sequentially(setting, 0, *fold["train"], 3)
            logits = Network(trained.parameters, "relu")(fold["validation"][0])
            rights.append(measure("accuracy", logits, fold["validation"][1]))
        assert comparison.runs["validation_accuracy"][0] == pytest.approx(np.mean(rights))

    def test_big_data_is_shared_by_the_runs_of_a_seed_with_the_same_results(self, monkeypatch):
        monkeypatch.setattr(runs, "SHARED_FROM", 0)
        for validation in ("holdout", "repeated_kfold"):
            shared = compare(GRID, **OPTIONS, validation=validation)
            monkeypatch.setattr(runs, "SHARED_FROM", 10**9)
            assert_same(shared, compare(GRID, **OPTIONS, validation=validation), atol=1e-5, rtol=1e-5)
            monkeypatch.setattr(runs, "SHARED_FROM", 0)

    def test_long_curves_stay_small(self):
        assert runs.logged_epochs(100) == list(range(1, 101))
        for epochs in (101, 150, 20_000, 10**12):
            logged = runs.logged_epochs(epochs)
            assert len(logged) == 100
            assert (logged[0], logged[-1]) == (1, epochs)
            assert all(a < b for a, b in pairwise(logged))


class TestSpreading:
    @pytest.mark.slow
    def test_the_backend_changes_nothing(self, monkeypatch):
        monkeypatch.setattr(runs, "RUNS_PER_JOB", 6)
        expected = compare(GRID, **OPTIONS)
        with joblib.parallel_config("threading", n_jobs=2):
            assert_same(compare(GRID, **OPTIONS), expected)
        with joblib.parallel_config("loky", n_jobs=2):
            assert_same(compare(GRID, **OPTIONS), expected)
            x, y = own_data()
            spread = compare({"lr": [0.1, 0.2]}, data=(x, y), engine="loop", seeds=2, epochs=2, progress=False)
        # Ray's backend gives lists only.
        monkeypatch.setattr(ThreadingBackend, "supports_return_generator", False)
        with joblib.parallel_config("threading", n_jobs=2):
            assert_same(compare(GRID, **OPTIONS), expected)
        assert_same(spread, compare({"lr": [0.1, 0.2]}, data=(x, y), engine="loop", seeds=2, epochs=2, progress=False))

    @pytest.mark.slow
    def test_a_cluster_of_two_workers(self):
        from dask.distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
            joblib.parallel_config("dask"),
        ):
            spread = compare(GRID, engine="loop", seeds=2, epochs=3, progress=False)
        assert_same(spread, compare(GRID, engine="loop", seeds=2, epochs=3, progress=False))
