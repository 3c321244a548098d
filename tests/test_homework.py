"""Comparing, handing in, collecting: against scikit-learn and scipy, after kill -9, over processes, with forgeries."""

import copy
import importlib.metadata
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import joblib
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.datasets
import sklearn.metrics
import sklearn.model_selection
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib._parallel_backends import ThreadingBackend

from course_utils.homework import (
    Comparison,
    Setting,
    collect_class,
    compare,
    expand_grid,
    requirements,
    running,
    submission,
    train_sequentially,
    validate_submission,
)
from course_utils.homework.document import KEYS, curves_digest, plain_summary
from course_utils.homework.files import write_new
from course_utils.homework.measuring import METRICS, measure, one_sample
from course_utils.homework.parts import FOLDS, load_task
from course_utils.homework.statistics import explained_variance, holm, paired_p_value, summarize, t_interval

GRID = {"lr": [0.01, 0.3], "hidden_features": [3, 8]}
OPTIONS = {"seeds": 5, "epochs": 40, "progress": False}
SMALL = compare(GRID, **OPTIONS)
WITH_LOSS = compare({"lr": [0.1, 1e25]}, metric="loss", **(OPTIONS | {"seeds": 3, "epochs": 12}))


def own_data(n=90, dtype=torch.float32):
    x, y = sklearn.datasets.make_blobs(n, 3, centers=3, random_state=0)
    return torch.tensor(x, dtype=dtype), torch.tensor(y)


def assert_same(one: Comparison, other: Comparison, **tolerance) -> None:
    """The same results, whatever time they took."""
    for name in ("runs", "curves"):
        a, b = (getattr(comparison, name).drop(columns="seconds", errors="ignore") for comparison in (one, other))
        pd.testing.assert_frame_equal(a, b, **(tolerance or {"check_exact": True}))


class TestMetrics:
    @given(
        y=st.lists(st.integers(0, 2), min_size=9, max_size=30).map(lambda y: [0, 1, 2, *y]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_equal_scikit_learn(self, y, seed):
        y = torch.tensor(y)
        logits = torch.randn(len(y), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        answers = logits.argmax(1)
        assert measure("accuracy", logits, y) == pytest.approx(sklearn.metrics.accuracy_score(y, answers))
        assert measure("f1_macro", logits, y) == pytest.approx(
            sklearn.metrics.f1_score(y, answers, average="macro", zero_division=0)
        )
        assert measure("loss", logits, y) == pytest.approx(sklearn.metrics.log_loss(y, logits.softmax(1)))

    @given(seed=st.integers(0, 2**32 - 1))
    def test_one_answer_moves_a_metric_by_at_most_one_sample(self, seed):
        numbers = random.Random(seed)
        y = torch.tensor([0, 1, 2] * 3 + numbers.choices(range(3), k=10))
        logits = torch.eye(3)[numbers.choices(range(3), k=len(y))]
        changed = logits.clone()
        changed[numbers.randrange(len(y))] = torch.eye(3)[numbers.randrange(3)]
        for metric in ("accuracy", "f1_macro"):
            moved = abs(measure(metric, logits, y) - measure(metric, changed, y))
            assert moved <= one_sample(metric, y) * 1.0001

    def test_a_class_without_samples_and_answers(self):
        logits, y = torch.eye(4)[[0, 1, 1]], torch.tensor([0, 1, 0])
        expected = sklearn.metrics.f1_score(y, logits.argmax(1), labels=range(4), average="macro", zero_division=0)
        assert measure("f1_macro", logits, y) == pytest.approx(expected)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite(self, bad):
        logits = torch.full((4, 3), bad)
        assert np.isnan(measure("loss", logits, torch.tensor([0, 1, 2, 0])))
        assert 0 <= measure("accuracy", logits, torch.tensor([0, 1, 2, 0])) <= 1


class TestStatistics:
    @given(values=st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=2, max_size=12))
    def test_intervals_equal_scipy(self, values):
        values = np.array(values)
        if np.ptp(values) == 0:
            assert t_interval(values) == pytest.approx((values[0], values[0]))
            return
        expected = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
        assert t_interval(values) == pytest.approx(expected)

    @given(pairs=st.lists(st.tuples(*[st.integers(0, 30)] * 2), min_size=3, max_size=12))
    def test_paired_tests_equal_scipy(self, pairs):
        one, other = (np.array(values) / 30 for values in zip(*pairs, strict=True))
        if np.ptp(one - other) < 1e-9:
            assert paired_p_value(one, other) == (1.0 if np.allclose(one, other) else 0.0)
            return
        assert paired_p_value(one, other) == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue, abs=1e-12)

    @given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_holm_rejects_what_its_steps_reject(self, p_values):
        adjusted = holm(np.array(p_values))
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
                if p_values[i] * (len(p_values) - k) > alpha:
                    break
                rejected.add(i)
            assert set(np.flatnonzero(adjusted <= alpha)) == rejected

    def test_holm_leaves_missing_values_out(self):
        assert holm(np.array([np.nan, 0.02, 0.03])).tolist()[1:] == pytest.approx([0.04, 0.04])

    def test_summary_of_known_figures(self):
        values = np.array([[0.5, 0.6, 0.7, 0.6], [0.9, 0.8, 0.9, 0.9], [0.9, 0.9, 0.8, 0.9], [0.95, 0.95, 0.95, 0.95]])
        diverged = np.zeros((4, 4), dtype=bool)
        diverged[3, 0] = True
        table = summarize(values, diverged, higher_is_better=True)
        assert table["setting"].tolist() == [1, 2, 0, 3]
        assert table["rank"].tolist() == [1, 1, 3, 4]  # the best figures of all, but one run diverged
        assert table["tied_with_best"].tolist() == [True, True, False, False]
        assert table["std"][0] == pytest.approx(np.std(values[1], ddof=1))
        assert summarize(values, diverged, higher_is_better=False)["setting"].tolist() == [0, 1, 2, 3]

    def test_nothing_can_be_told_apart_from_one_seed(self):
        table = summarize(np.array([[0.1], [0.9]]), np.zeros((2, 1), dtype=bool), higher_is_better=True)
        assert table["tied_with_best"].all()
        assert table["low"].isna().all()

    @given(seed=st.integers(0, 1000))
    def test_variance_shares_add_up_and_equal_an_analysis_of_variance(self, seed):
        numbers = np.random.default_rng(seed)
        settings = [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
        values = numbers.normal(size=(6, 4)) + numbers.normal(size=(6, 1))
        effects, interactions, seeds = explained_variance(settings, values)
        assert sum(effects.values()) + interactions + seeds == pytest.approx(1)
        # The oracle: R² of least squares on one-hot columns of one name, of all settings.
        for name, share in effects.items():
            dummies = np.repeat(pd.get_dummies([s[name] for s in settings]).to_numpy(float), 4, axis=0)
            residual = values.ravel() - dummies @ np.linalg.lstsq(dummies, values.ravel(), rcond=None)[0]
            assert share == pytest.approx(1 - residual.var() / values.var())
        assert seeds == pytest.approx((values - values.mean(1, keepdims=True)).var() / values.var())


class TestParts:
    @pytest.mark.parametrize("validation", ["holdout", "repeated_kfold"])
    def test_parts_are_apart_stratified_and_scaled_by_the_training_part(self, validation):
        task = load_task("breast_cancer", validation)
        everything = sklearn.datasets.load_breast_cancer()
        assert len(task.x) + len(task.x_test) == len(everything.target)
        folds = task.folds(3)
        assert len(folds) == (1 if validation == "holdout" else FOLDS)
        for fold in folds:
            x, _ = fold["train"]
            assert x.mean(0).abs().max() < 1e-5
            assert (x.std(0, correction=0) - 1).abs().max() < 1e-4
            assert fold["validation"][0].mean(0).abs().max() > 1e-3
            rows = torch.cat([fold["train"][0], fold["validation"][0]])
            assert len(rows.unique(dim=0)) == len(rows) == len(task.x)
            for _, y in fold.values():
                assert y.double().mean().item() == pytest.approx(everything.target.mean(), abs=0.02)

    def test_every_sample_is_validated_once_by_the_folds(self):
        task = load_task("iris", "repeated_kfold")
        counts = sum(fold["validation"][1].bincount(minlength=3) for fold in task.folds(0))
        assert counts.tolist() == np.bincount(task.y).tolist()

    def test_seeds_draw_other_validation_parts_and_the_same_test_part(self):
        task = load_task("iris", "holdout")
        (one,), (other,), (again,) = task.folds(0), task.folds(1), task.folds(0)
        assert one["validation"][0].equal(again["validation"][0])
        assert one["test"][1].equal(other["test"][1])
        assert not one["train"][1].equal(other["train"][1])

    def test_a_constant_feature_stays_finite(self):
        x, y = own_data()
        task = load_task((torch.cat([x, torch.ones(len(x), 1)], 1), y), "holdout")
        assert all(part[0].isfinite().all() for part in task.folds(0)[0].values())


class TestCompare:
    def test_a_run_equals_the_same_run_by_hand(self):
        comparison = compare(GRID, **OPTIONS, metric="loss", engine="loop")
        fold = load_task("iris", "holdout").folds(2)[0]
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
        for fold in load_task("iris", "repeated_kfold").folds(0):
            trained = train_sequentially(setting, 0, *fold["train"], 3)
            logits = running.Network(trained.parameters, "relu")(fold["validation"][0])
            rights.append(measure("accuracy", logits, fold["validation"][1]))
        assert comparison.runs["validation_accuracy"][0] == pytest.approx(np.mean(rights))

    def test_big_data_is_shared_by_the_runs_of_a_seed_with_the_same_results(self, monkeypatch):
        monkeypatch.setattr(running, "SHARED_FROM", 0)
        for validation in ("holdout", "repeated_kfold"):
            shared = compare(GRID, **OPTIONS, validation=validation)
            monkeypatch.setattr(running, "SHARED_FROM", 10**9)
            assert_same(shared, compare(GRID, **OPTIONS, validation=validation), atol=1e-5, rtol=1e-5)
            monkeypatch.setattr(running, "SHARED_FROM", 0)

    def test_tables(self):
        assert list(SMALL.runs) == [
            *("setting", "hidden_features", "lr", "seed", "train_accuracy", "validation_accuracy", "test_accuracy"),
            *("diverged", "seconds", "versions"),
        ]
        assert len(SMALL) == len(SMALL.runs) == 4 * 5
        assert not SMALL.runs.duplicated(["setting", "seed"]).any()
        assert (SMALL.runs["seconds"] > 0).all()
        assert SMALL.runs["versions"].str.contains(f"torch {importlib.metadata.version('torch')}", regex=False).all()
        assert SMALL.curves.groupby(["setting", "seed"]).size().tolist() == [40] * 20
        assert SMALL.sizes == (90, 30, 30)

    def test_long_curves_stay_small(self):
        assert running.logged_epochs(100) == list(range(1, 101))
        for epochs in (101, 150, 20_000, 10**12):
            logged = running.logged_epochs(epochs)
            assert len(logged) == 100
            assert (logged[0], logged[-1]) == (1, epochs)
            assert all(a < b for a, b in pairwise(logged))

    def test_values_that_a_number_cannot_show(self):
        grid = {"batch_size": [None, 16], "hidden_features": [8, [8, 4]]}
        comparison = compare(grid, seeds=1, epochs=1, progress=False)
        assert comparison.runs["batch_size"].tolist() == ["full", "full", 16, 16]
        assert set(comparison.runs["hidden_features"]) == {"8", "8-4"}

    def test_diverged_runs_stay_and_rank_last(self):
        assert WITH_LOSS.runs["diverged"].tolist() == [False] * 3 + [True] * 3
        assert WITH_LOSS.runs["validation_loss"].isna().tolist() == [False] * 3 + [True] * 3
        assert WITH_LOSS.summary()["setting"].tolist() == [0, 1]
        assert not WITH_LOSS.summary()["tied_with_best"][1]
        accuracy = compare({"lr": [1e25, 0.1]}, **OPTIONS)
        assert accuracy.runs["validation_accuracy"].between(0, 1).all()
        assert accuracy.best().setting == 1

    def test_best_is_chosen_on_validation(self):
        best, runs = SMALL.best(), SMALL.runs
        means = runs.groupby("setting")["validation_accuracy"].mean()
        assert best.setting == means.idxmax()
        assert best.validation == pytest.approx(means.max())
        assert best.test == pytest.approx(runs.query(f"setting == {best.setting}")["test_accuracy"].mean())
        assert best.optimism == pytest.approx(best.validation - best.test)
        assert "optimism" in str(best)
        assert WITH_LOSS.best().setting == 0

    def test_own_data_in_both_precisions(self):
        for dtype in (torch.float32, torch.float64):
            x, y = own_data(dtype=dtype)
            before = x.clone()
            comparison = compare({"lr": [0.1, 0.2]}, data=(x, y), **OPTIONS)
            assert comparison.data is None
            assert comparison.runs["test_accuracy"].min() > 0.8
            assert x.equal(before)
        arrays = compare({"lr": [0.1, 0.2]}, data=(x.numpy(), y.numpy()), **OPTIONS)
        assert_same(arrays, comparison)

    def test_what_cannot_be_batched_is_trained_alone_and_says_so(self):
        grid = {"hidden_features": [4, 1025]}
        with pytest.warns(UserWarning, match="1 of 2 settings .* one run after the other: .*1025"):
            comparison = compare(grid, seeds=1, epochs=2, progress=False)
        assert list(comparison.one_by_one) == [1]
        with pytest.raises(ValueError, match="engine 'batched' cannot train.*1025"):
            compare(grid, seeds=1, epochs=2, engine="batched")

    def test_nothing_of_the_caller_changes(self):
        grid, threads = copy.deepcopy(GRID), torch.get_num_threads()
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        style = dict(matplotlib.rcParams)
        comparison = compare(grid, **OPTIONS)
        comparison.plot_seeds()
        comparison.summary()
        assert grid == GRID
        assert torch.get_num_threads() == threads
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
        assert torch.get_rng_state().equal(states[2])
        assert dict(matplotlib.rcParams) == style
        with pytest.raises(FrozenInstanceError):
            comparison.data = "digits"

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"grid": {}}, ValueError, "grid is empty"),
            ({"grid": {"learning_rate": 1}}, ValueError, "learning_rate"),
            ({"grid": {"epochs": 3}}, ValueError, "give it once"),
            ({"data": "mnist"}, ValueError, "'iris', 'digits', 'breast_cancer'"),
            ({"data": 3}, TypeError, "a pair"),
            ({"data": (own_data()[0], own_data()[1].float())}, TypeError, "integer"),
            ({"data": (own_data()[0].half(), own_data()[1])}, TypeError, "float32 or float64"),
            ({"data": (own_data()[0] * torch.nan, own_data()[1])}, ValueError, "finite"),
            ({"data": (own_data()[0], own_data()[1][1:])}, ValueError, "one label"),
            ({"data": (own_data()[0], own_data()[1] * 2)}, ValueError, "at least 10 samples"),
            ({"data": (own_data()[0], own_data()[1] * 0)}, ValueError, "at least 10 samples"),
            ({"data": own_data(15)}, ValueError, r"\[5, 5, 5\]"),
            ({"data": (own_data()[0], own_data()[1] - 1)}, ValueError, "range is -1"),
            ({"seeds": 0}, ValueError, "at least 1"),
            ({"seeds": []}, ValueError, "seeds is empty"),
            ({"seeds": [1, 1]}, ValueError, "differ"),
            ({"seeds": [2**32]}, ValueError, r"2\*\*32"),
            ({"seeds": [-1]}, ValueError, "at least 0"),
            ({"seeds": 2.0}, TypeError, "must be an int"),
            ({"validation": "kfold"}, ValueError, "'holdout', 'repeated_kfold'"),
            ({"metric": "f1"}, ValueError, "'accuracy', 'loss', 'f1_macro'"),
            ({"engine": "gpu"}, ValueError, "'auto', 'batched', 'loop'"),
            ({"epochs": 0}, ValueError, "at least 1"),
        ],
    )
    def test_bad_arguments(self, changes, error, message):
        with pytest.raises(error, match=message):
            compare(**({"grid": GRID, "epochs": 2, "seeds": 1, "progress": False} | changes))


class TestSpreading:
    def test_the_backend_changes_nothing(self, monkeypatch):
        monkeypatch.setattr(running, "RUNS_PER_JOB", 6)
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

    def test_a_cluster_of_two_workers(self):
        from dask.distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
            joblib.parallel_config("dask"),
        ):
            spread = compare(GRID, engine="loop", seeds=2, epochs=3, progress=False)
        assert_same(spread, compare(GRID, engine="loop", seeds=2, epochs=3, progress=False))


KILLED = """
import sys, time
from course_utils.homework import compare, running

train = running.train_sequentially
running.train_sequentially = lambda *run: (time.sleep(0.1), train(*run))[1]  # there shall be time to kill it
compare({"lr": [0.01, 0.3], "hidden_features": [3, 8]}, seeds=5, epochs=40, progress=False, engine="loop",
        log=sys.argv[1])
"""


class TestLog:
    def test_after_kill_9_the_same_call_goes_on_and_repeats_nothing(self, tmp_path, monkeypatch):
        log = tmp_path / "runs.jsonl"
        process = subprocess.Popen([sys.executable, "-c", KILLED, log])
        while not log.exists() or log.read_bytes().count(b"\n") < 4:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = log.read_bytes().count(b"\n") - 1
        assert 3 <= finished < 20
        trained = []
        train = running.train_sequentially
        monkeypatch.setattr(running, "train_sequentially", lambda *a: trained.append(a) or train(*a))
        options = OPTIONS | {"engine": "loop"}
        resumed = compare(GRID, **options, log=log)
        assert len(trained) == 20 - finished
        assert log.read_bytes().count(b"\n") == 21
        assert_same(resumed, compare(GRID, **options))
        assert_same(compare(GRID, **options, log=log), resumed)
        assert len(trained) == 40 - finished  # the last call trained nothing

    @pytest.mark.parametrize("cut", [1, 40, 5000])
    def test_a_torn_line_is_cut(self, tmp_path, cut):
        log = tmp_path / "runs.jsonl"
        whole = compare(GRID, **OPTIONS, log=log)
        content = log.read_bytes()
        log.write_bytes(content[:-cut])
        resumed = compare(GRID, **OPTIONS, log=log)
        assert_same(resumed, whole, atol=1e-5)
        lines = log.read_bytes().splitlines()
        assert len(lines) == 21
        assert all(json.loads(line) for line in lines)

    def test_a_torn_header_and_an_empty_file_begin_anew(self, tmp_path):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        header = log.read_bytes().partition(b"\n")[0]
        for content in (b"", header[:30], header):
            log.write_bytes(content)
            assert_same(compare(GRID, **OPTIONS, log=log), SMALL)

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"grid": GRID | {"dropout": 0.1}}, "settings"),
            ({"epochs": 41}, "settings"),
            ({"seeds": 6}, "seeds"),
            ({"data": "digits"}, "data, data_digest"),
            ({"metric": "loss"}, "metric"),
            ({"validation": "repeated_kfold"}, "validation"),
            ({"engine": "loop"}, "engine"),
        ],
    )
    def test_the_log_of_another_call_is_refused_and_kept(self, tmp_path, changes, name):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        before = log.read_bytes()
        with pytest.raises(ValueError, match=f"another comparison: it differs in {name}"):
            compare(**({"grid": GRID, "log": log} | OPTIONS | changes))
        assert log.read_bytes() == before

    @pytest.mark.parametrize("content", [b"notes of mine", b"notes\nof mine\n", b'{"a": 1}\n', b"[1]\n"])
    def test_a_foreign_file_is_refused_and_kept(self, tmp_path, content):
        log = tmp_path / "notes.txt"
        log.write_bytes(content)
        with pytest.raises(ValueError, match="not the log of a comparison"):
            compare(GRID, **OPTIONS, log=log)
        assert log.read_bytes() == content

    def test_a_damaged_line_is_named(self, tmp_path):
        log = tmp_path / "runs.jsonl"
        compare(GRID, **OPTIONS, log=log)
        lines = log.read_bytes().splitlines(keepends=True)
        for bad in (b"\0\0\0\n", b"{}\n", lines[2].replace(b'"setting":', b'"setting":9')):
            log.write_bytes(b"".join([*lines[:2], bad, *lines[3:]]))
            with pytest.raises(ValueError, match="line 3 of .* is damaged"):
                compare(GRID, **OPTIONS, log=log)

    def test_own_data_are_recognised_by_their_values(self, tmp_path):
        x, y = own_data()
        log = tmp_path / "runs.jsonl"
        compare({"lr": [0.1]}, data=(x, y), seeds=1, epochs=1, progress=False, log=log)
        with pytest.raises(ValueError, match="data_digest"):
            compare({"lr": [0.1]}, data=(x + 1, y), seeds=1, epochs=1, progress=False, log=log)


class TestFile:
    @pytest.mark.parametrize("comparison", [SMALL, WITH_LOSS], ids=["accuracy", "diverged loss"])
    def test_round_trip_is_exact(self, comparison, tmp_path):
        comparison.save(tmp_path / "one.json", author="Ada")
        loaded = Comparison.load(tmp_path / "one.json")
        for name in ("runs", "curves"):
            pd.testing.assert_frame_equal(getattr(loaded, name), getattr(comparison, name), check_exact=True)
        pd.testing.assert_frame_equal(loaded.summary(), comparison.summary(), check_exact=True)
        assert (loaded.settings, loaded.seeds, loaded.author) == (comparison.settings, comparison.seeds, "Ada")
        loaded.save(tmp_path / "two.json")
        assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()

    def test_other_files_are_not_overwritten(self, tmp_path):
        path = tmp_path / "sub" / "a.json"
        SMALL.save(path)
        SMALL.save(path)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            SMALL.save(path, author="somebody else")
        SMALL.save(path, author="somebody else", overwrite=True)
        assert Comparison.load(path).author == "somebody else"
        assert [file.name for file in path.parent.iterdir()] == ["a.json"]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        path.write_bytes(b"old")

        def full_disk(descriptor):
            raise OSError("no space left")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_new(path, b"new", overwrite=True)
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 1

    def test_what_cannot_be_loaded_says_why(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Comparison.load(tmp_path / "none.json")
        (tmp_path / "bad.json").write_bytes(b"\x80\x04\x95")  # how a pickle begins
        with pytest.raises(ValueError, match="bad.json cannot be loaded: the file is not text"):
            Comparison.load(tmp_path / "bad.json")

    @pytest.mark.parametrize("author", ["", "x" * 201, 3])
    def test_bad_authors(self, tmp_path, author):
        with pytest.raises(ValueError, match="author must be"):
            SMALL.save(tmp_path / "a.json", author=author)


def saved(path: Path, comparison: Comparison = SMALL) -> dict:
    comparison.save(path)
    return json.loads(path.read_text())


def resigned(document: dict) -> dict:
    """With summary and digest made to fit, as a careful forger would do."""
    comparison = Comparison(**submission.from_document(document))
    return document | {"summary": plain_summary(comparison), "curves_digest": curves_digest(comparison.records)}


def edited(change, *, resign: bool = False):
    def forge(document: dict) -> str:
        change(document)
        return json.dumps(resigned(document) if resign else document)

    return forge


def set_run(name, value, place=0, **options):
    return edited(lambda document: document["runs"][place].update({name: value}), **options)


def set_setting(name, value):
    return edited(lambda document: document["settings"][0].update({name: value}))


FORGERIES = {
    "empty": (lambda d: "", "not JSON, or it is cut off"),
    "truncated": (lambda d: json.dumps(d)[:-100], "not JSON, or it is cut off"),
    "not text": (lambda d: b"\x80\x04\x95\xff", "not text in UTF-8"),
    "a program": (lambda d: "__import__('os').system('echo')", "not JSON"),
    "huge": (lambda d: " " * (16 * 2**20 + 1), "too large: more than 16 MiB"),
    "nesting bomb": (lambda d: "[" * 1_000_000, "nested too deeply"),
    "nested objects": (lambda d: '{"a":' * 200_000, "nested too deeply"),
    "NaN text": (lambda d: json.dumps(d).replace('"seconds": 0.', '"seconds": NaN, "x": 0.', 1), "holds NaN"),
    "infinite number": (lambda d: json.dumps(d).replace('"sizes": [90', '"sizes": [1e999', 1), "too large"),
    "endless number": (lambda d: '{"a": ' + "9" * 5000 + "}", "."),
    "a name twice": (lambda d: json.dumps(d)[:-1] + ', "author": null}', "a name twice"),
    "a list": (lambda d: "[1, 2]", "not a file that Comparison.save"),
    "other schema": (edited(lambda d: d.update(format="notebook 4")), "not a file that Comparison.save"),
    "missing key": (edited(lambda d: d.pop("summary")), "the key 'summary' is missing"),
    "foreign key": (edited(lambda d: d.update(__reduce__="os.system")), "'__reduce__' is a foreign key"),
    "foreign key of a run": (set_run("grade", 1), "run 0: a run must have exactly the keys"),
    "foreign key of a setting": (set_setting("secret", 1), "setting 0 must have exactly the keys"),
    "other data": (edited(lambda d: d.update(data=["iris"])), "data must be null or one of"),
    "other data's digest": (edited(lambda d: d.update(data="digits")), "not the digits data"),
    "own data": (edited(lambda d: d.update(data=None)), "on own data, so its runs cannot be repeated"),
    "other sizes": (edited(lambda d: d.update(sizes=[120, 15, 15])), "sizes of the parts"),
    "bad author": (edited(lambda d: d.update(author="x" * 201)), "author must be"),
    "missing seed": (edited(lambda d: d.update(runs=[r for r in d["runs"] if r["seed"] != 3])), "seed 3 is missing"),
    "unlisted seed": (edited(lambda d: d["seeds"].remove(3)), "belongs to no listed setting and seed"),
    "duplicated run": (edited(lambda d: d["runs"].append(d["runs"][0])), "setting 0, seed 0 is there twice"),
    "duplicated seed": (edited(lambda d: d["seeds"].append(3)), "a seed is listed twice"),
    "duplicated setting": (edited(lambda d: d["settings"].append(d["settings"][0])), "a setting is listed twice"),
    "huge seed": (edited(lambda d: d["seeds"].append(10**30)), "whole number from 0"),
    "accuracy above 1": (set_run("test", 1.5), "test_accuracy of 1.5, which must be from 0 to 1"),
    "negative accuracy": (set_run("test", -0.5), "must be from 0 to 1"),
    "missing accuracy": (set_run("validation", None), "has no validation_accuracy"),
    "number as text": (set_run("train", "0.9"), "a run's train must be a number or null, but is '0.9'"),
    "truth as number": (set_run("train", True), "must be a number or null, but is True"),
    "giant number": (set_run("train", 10**400), "must be a number or null"),
    "no versions": (set_run("versions", ""), "versions are missing"),
    "short curve": (edited(lambda d: d["runs"][0]["losses"].pop()), "a curve of 39 points, but 40 belong"),
    "negative curve": (edited(lambda d: d["runs"][0].update(losses=[-1] * 40)), "negative training loss"),
    "curve without end": (edited(lambda d: d["runs"][0].update(losses=[None] * 40)), "not marked as diverged"),
    "edited accuracy": (set_run("validation", 1.0), "summary does not follow from the runs"),
    "edited curve": (edited(lambda d: d["runs"][0]["losses"].__setitem__(5, 0.01)), "were changed"),
    "edited summary": (edited(lambda d: d["summary"][0].update(mean=0.999)), "summary does not follow"),
    "no summary": (edited(lambda d: d.update(summary=7)), "one row for each setting"),
    "not a whole sample": (set_run("validation", 0.951, resign=True), "no whole number of 30 samples"),
    "rerun: accuracy": (
        edited(lambda d: [run.update(test=run["test"] / 2) for run in d["runs"]], resign=True),
        "no whole number of 30|its test figure is .* comes out",
    ),
    "rerun: all right": (
        edited(lambda d: [run.update(validation=1.0) for run in d["runs"][:5]], resign=True),
        "is not reproduced: its validation figure is 1, but",
    ),
    "rerun: curves": (
        edited(lambda d: [run["losses"].__setitem__(-1, 0.01) for run in d["runs"]], resign=True),
        "its curve differs at 1 point",
    ),
    "rerun: other settings": (
        edited(lambda d: [setting.update(lr=setting["lr"] / 2) for setting in d["settings"]]),
        "its curve differs at",
    ),
    "hours of epochs": (set_setting("epochs", 10**9), "curve of 40 points, but 100 belong"),
    "unknown optimizer": (set_setting("optimizer", "lbfgs"), "setting 0: optimizer must be one of"),
    "width beyond sense": (set_setting("hidden_features", [10**15]), "an absurdly large number"),
    "hours of width": (set_setting("hidden_features", [10**7]), "would take about .* to repeat"),
    "lr of text": (set_setting("lr", "0.1"), "setting 0: lr must be a number"),
    "lr of digits": (set_setting("lr", 10**400), "setting 0"),
}


class TestSubmission:
    def test_an_honest_one_is_in_order(self, tmp_path):
        for name, comparison in {"a": SMALL, "b": WITH_LOSS}.items():
            comparison.save(tmp_path / f"{name}.json", author=name)
            verdict = validate_submission(tmp_path / f"{name}.json", rerun=20, seed=0)
            assert verdict.ok, verdict
            assert bool(verdict)
            assert str(verdict) == "in order"

    def test_folds_f1_and_the_loop_are_reproduced_too(self, tmp_path):
        for i, options in enumerate(
            (
                {"validation": "repeated_kfold"},
                {"metric": "f1_macro", "data": "breast_cancer"},
                {"engine": "loop", "metric": "loss", "data": "digits"},
            )
        ):
            grid = {"lr": [0.05, 0.1], "dropout": 0.2, "batch_size": 64, "optimizer": "adam"}
            compare(grid, seeds=2, epochs=4, progress=False, **options).save(tmp_path / f"{i}.json")
            verdict = validate_submission(tmp_path / f"{i}.json", seed=0)
            assert verdict.ok, verdict

    @pytest.mark.parametrize("name", FORGERIES)
    def test_a_forgery_is_found_and_named(self, name, tmp_path):
        forge, message = FORGERIES[name]
        content = forge(saved(tmp_path / "a.json"))
        (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        # One that asks for hours of training is refused before any: otherwise this test runs into its time limit.
        verdict = validate_submission(tmp_path / "a.json", rerun=20, seed=0)
        assert not verdict.ok
        assert re.search(message, "\n".join(verdict.problems)), verdict.problems
        assert all(len(problem) < 500 for problem in verdict.problems)

    def test_long_epochs_with_a_fitting_curve_are_refused_before_they_run(self, tmp_path):
        document = saved(tmp_path / "a.json")
        for setting in document["settings"]:
            setting["epochs"] = 10**9
        for run in document["runs"]:
            run["losses"] = [0.5] * 100
        (tmp_path / "a.json").write_text(json.dumps(resigned(document)))
        verdict = validate_submission(tmp_path / "a.json")
        assert "would take about 56 hours to repeat" in verdict.problems[0]

    @pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, os.mkfifo], ids=["missing", "folder", "pipe"])
    def test_what_is_no_file(self, make, tmp_path):
        make(tmp_path / "a.json")
        verdict = validate_submission(tmp_path / "a.json")
        assert re.search("no such file|not an ordinary file", str(verdict))

    def test_the_number_of_problems_is_limited(self, tmp_path):
        document = saved(tmp_path / "a.json")
        (tmp_path / "a.json").write_text(json.dumps(document | {"runs": [0] * 100_000}))
        assert len(validate_submission(tmp_path / "a.json").problems) == 21

    @given(seed=st.integers(0, 10**6))
    def test_random_damage_never_raises(self, seed, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "damaged.json"
        WITH_LOSS.save(path, overwrite=True)
        numbers, content = random.Random(seed), bytearray(path.read_bytes())
        for _ in range(numbers.randint(1, 3)):
            content[numbers.randrange(len(content))] = numbers.randrange(32, 127)
        path.write_bytes(bytes(content))
        verdict = validate_submission(path, rerun=0)
        assert verdict.ok == (verdict.problems == ())

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
        key=st.sampled_from(KEYS),
    )
    def test_any_json_value_anywhere_never_raises(self, value, key, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "foreign.json"
        document = saved(path.with_name("whole.json"))
        path.write_text(json.dumps(document | {key: value}))
        assert isinstance(validate_submission(path, rerun=0).ok, bool)

    def test_chaotic_runs_are_judged_by_their_own_spread(self):
        task, item = load_task("iris", "holdout"), running.Item(0, Setting(16, lr=3.0, batch_size=8, epochs=60), 0)
        claim = submission.repeat(submission.shaken(task, 99), item, "loss")
        found = submission.repeat(task, item, "loss")
        assert claim.losses != pytest.approx(found.losses, abs=1e-3)  # another computer's rounding changes the curve
        comparison = Comparison(
            (item.setting,), (0,), (claim,), (90, 30, 30), "iris", task.digest, "loss", "holdout", "auto"
        )
        assert submission.not_reproduced(comparison, task, claim, 1e-3) == []

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"rerun": -1}, ValueError),
            ({"rerun": 1.5}, TypeError),
            ({"tolerance": 0}, ValueError),
            ({"seed": -1}, ValueError),
        ],
    )
    def test_bad_arguments(self, options, error, tmp_path):
        with pytest.raises(error):
            validate_submission(tmp_path / "a.json", **options)


def untrained(grid, seeds=5) -> Comparison:
    """A comparison whose figures do not matter."""
    settings = tuple(expand_grid(grid))
    record = replace(SMALL.records[0], losses=(1.0,) * 100)
    records = tuple(replace(record, setting=i, seed=seed) for i in range(len(settings)) for seed in range(seeds))
    return replace(SMALL, settings=settings, seeds=tuple(range(seeds)), records=records)


class TestRequirements:
    @pytest.mark.parametrize(
        ("grid", "seeds", "unmet"),
        [
            ({"lr": [0.1, 0.2], "dropout": [0, 0.1, 0.2]}, 5, []),
            ([{"lr": [0.1, 0.2]}, {"lr": 0.1, "dropout": [0.1, 0.2]}, {"lr": 0.1, "batch_size": 8}], 5, []),
            ({"lr": [0.1, 0.2]}, 4, ["5 seeds"]),
            ({"lr": 0.1}, 1, ["5 seeds", "two settings"]),
            ([{"lr": 0.1}, {"lr": 0.2, "dropout": 0.1}], 5, ["one thing"]),
            ([{"lr": [0.1, 0.2], "dropout": [0, 0.5]}, {"lr": 0.3}], 5, ["one thing"]),
        ],
    )
    def test_rules(self, grid, seeds, unmet):
        found = requirements(untrained(grid, seeds))
        assert len(found) == len(unmet)
        assert all(part in text for part, text in zip(unmet, found, strict=True))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def assert_self_contained(path: Path, images: int) -> str:
    text = path.read_text("utf-8")
    tags = Page(text).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == images
    assert all(picture["src"].startswith("data:image/png;base64,") and len(picture["alt"]) > 20 for picture in pictures)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not re.search(r"https?://|url\(|@import", text)
    return text


class TestFigures:
    def test_each_can_be_drawn_saved_and_is_not_kept(self, tmp_path):
        import matplotlib.pyplot as plt

        for comparison in (SMALL, WITH_LOSS):
            for name in ("plot_curves", "plot_heatmap", "plot_seeds", "plot_importance"):
                if name == "plot_importance" and comparison is WITH_LOSS:
                    with pytest.raises(ValueError, match=r"3 run\(s\) diverged"):
                        comparison.plot_importance()
                    continue
                figure = getattr(comparison, name)(save_path=tmp_path / "figure.png")
                assert figure._repr_png_().startswith(b"\x89PNG")
                assert (tmp_path / "figure.png").stat().st_size > 1000
        assert plt.get_fignums() == []

    def test_the_heatmap_shows_means(self):
        ax = SMALL.plot_heatmap(x="lr", y="hidden_features").axes[0]
        shown = sorted(text.get_text() for text in ax.texts)
        means = SMALL.runs.groupby(["lr", "hidden_features"])["validation_accuracy"].mean()
        assert shown == sorted(f"{mean:.3f}" for mean in means)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.3"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"x": "dropout"}, "hidden_features, lr"), ({"x": "lr", "y": "lr"}, "two different"), ({"y": 3}, "y must be")],
    )
    def test_bad_names(self, options, message):
        with pytest.raises(ValueError, match=message):
            SMALL.plot_heatmap(**options)

    def test_importance(self):
        shares = SMALL.importance()
        assert shares.sum() == pytest.approx(1)
        assert shares.index[0] == "lr"
        with pytest.raises(ValueError, match="full grid"):
            untrained([{"lr": [0.1, 0.2]}, {"dropout": 0.3}]).plot_importance()
        with pytest.raises(ValueError, match="single setting"):
            untrained({"lr": 0.1}).plot_importance()
        assert untrained({"lr": [0.1, 0.2]}).importance().isna().all()

    def test_a_single_setting_can_be_reported(self, tmp_path):
        untrained({"lr": 0.1}, seeds=1).report(tmp_path / "a.html")
        text = assert_self_contained(tmp_path / "a.html", images=2)
        assert "at least 5 seeds" in text

    def test_report(self, tmp_path):
        replace(SMALL, author="<script>alert(1)</script>").report(tmp_path / "a.html")
        text = assert_self_contained(tmp_path / "a.html", images=4)
        assert "&lt;script&gt;" in text
        assert f"{SMALL.best().test:.4f}" in text
        with pytest.raises(FileExistsError):
            SMALL.report(tmp_path / "a.html")


@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "class"
    SMALL.save(folder / "ada.json", author="Ada <b>")
    SMALL.save(folder / "eve.json", author="=HYPERLINK(0)")
    WITH_LOSS.save(folder / "bob.json")
    (folder / "carl.json").write_text("{")
    (folder / "dora<i>.json").write_text("[]")
    (folder / "notes.txt").write_text("not a submission")
    return folder


class TestClass:
    def test_table_and_problems(self, class_folder):
        report = collect_class(class_folder)
        assert len(report) == 3
        assert report.table["file"].tolist() == ["ada.json", "bob.json", "eve.json"]
        assert report.table["name"].tolist() == ["Ada <b>", "", "=HYPERLINK(0)"]
        assert report.table["data"].tolist() == ["iris"] * 3
        assert report.table["unmet_requirements"].tolist() == ["", "at least 5 seeds are needed, but there are 3", ""]
        assert report.table["test"][0] == SMALL.best().test
        assert list(report.problems) == ["carl.json", "dora<i>.json"]
        assert repr(report) == "ClassReport(3 submissions, 2 files with problems)"

    def test_page_figures_and_csv(self, class_folder, tmp_path):
        report = collect_class(class_folder)
        report.report(tmp_path / "class.html")
        text = assert_self_contained(tmp_path / "class.html", images=3)
        assert "<b>" not in text
        assert "dora&lt;i&gt;.json" in text
        report.to_csv(tmp_path / "class.csv")
        table = pd.read_csv(tmp_path / "class.csv")
        assert len(table) == 5
        assert table["name"][2] == "'=HYPERLINK(0)"  # no formula for a spreadsheet
        for name in ("plot_best", "plot_effects", "plot_seeds"):
            assert getattr(report, name)()._repr_png_().startswith(b"\x89PNG")

    def test_runs_are_repeated_on_request(self, class_folder):
        document = json.loads((class_folder / "ada.json").read_text())
        for run in document["runs"]:
            run["validation"] = 1.0
        (class_folder / "ada.json").write_text(json.dumps(resigned(document)))
        assert "ada.json" in collect_class(class_folder).comparisons
        assert "not reproduced" in collect_class(class_folder, rerun=8, seed=1).problems["ada.json"][0]

    def test_a_class_of_bad_files(self, tmp_path):
        (tmp_path / "a.json").write_text("?")
        report = collect_class(tmp_path)
        report.report(tmp_path / "class.html")
        report.to_csv(tmp_path / "class.csv")
        assert_self_contained(tmp_path / "class.html", images=0)
        with pytest.raises(ValueError, match="nothing to draw"):
            report.plot_best()

    def test_bad_folders(self, tmp_path):
        with pytest.raises(NotADirectoryError):
            collect_class(tmp_path / "none")
        with pytest.raises(ValueError, match="no .*json file"):
            collect_class(tmp_path)
