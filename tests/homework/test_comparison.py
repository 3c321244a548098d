"""compare: what it takes and refuses, and what its result writes and reads."""

import copy
import random
from dataclasses import FrozenInstanceError, replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from course_utils.homework import Comparison, compare
from tests.support.homework import GRID, OPTIONS, assert_same, own_data, untrained
from tests.support.html import Page, assert_self_contained


class TestCompare:
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

    def test_p21_two_settings_that_are_the_same_runs_are_refused(self):
        """P21: batch sizes None and 1,000 on 90 samples were counted as two settings that agree."""
        grid = {"lr": [0.1, 0.2], "batch_size": [None, 89, 90]}
        with pytest.raises(
            ValueError, match="settings 0 and 2 are the same runs: the batch sizes None and 90 .* all 90"
        ):
            compare(grid, seeds=1, epochs=1, progress=False)
        with pytest.raises(ValueError, match="97 and 1000 both take all 96"):
            compare({"batch_size": [97, 1000]}, seeds=1, epochs=1, validation="repeated_kfold", progress=False)
        assert len(compare({"batch_size": [None, 89]}, seeds=1, epochs=1, progress=False).settings) == 2

    @pytest.mark.parametrize("seeds", [np.arange(3), torch.arange(3), np.int64(3), range(3)])
    def test_p24_seeds_in_any_form(self, seeds):
        """P24: an array of seeds."""
        assert compare({"lr": [0.1]}, seeds=seeds, epochs=1, progress=False).seeds == (0, 1, 2)

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


class TestReport:
    def test_a_single_setting_can_be_reported(self, tmp_path):
        untrained({"lr": 0.1}, seeds=1).report(tmp_path / "a.html")
        text = assert_self_contained(tmp_path / "a.html", images=2)
        assert "at least 5 seeds" in text

    def test_report(self, tmp_path, small):
        replace(small, author="<script>alert(1)</script>").report(tmp_path / "a.html")
        text = assert_self_contained(tmp_path / "a.html", images=4)
        assert "&lt;script&gt;" in text
        assert f"{small.best().test:.4f}" in text
        with pytest.raises(FileExistsError):
            small.report(tmp_path / "a.html")

    def test_text_from_outside_is_text(self, tmp_path, small):
        author, versions = "<script>alert(1)</script>", "torch <b>2</b>"
        records = (replace(small.records[0], versions=versions), *small.records[1:])
        replace(small, author=author, records=records).report(tmp_path / "a.html")
        page = Page(assert_self_contained(tmp_path / "a.html", images=4))
        assert author in page.text
        assert versions in page.text

    def test_diverged_and_single_runs_are_named(self, tmp_path, with_loss):
        with_loss.report(tmp_path / "a.html")
        assert "3 run(s) diverged" in assert_self_contained(tmp_path / "a.html", images=3)
        wide = untrained({"hidden_features": [4, 2000, 3000]})
        wide.report(tmp_path / "b.html")
        page = Page(assert_self_contained(tmp_path / "b.html", images=4))
        assert "1 setting(s) were trained one run after the other: a hidden layer of 2000 units" in page.text

    def test_a_preview_in_jupyter_is_short(self, small):
        page = Page(small._repr_html_())
        assert [tag for tag, _ in page.tags].count("tr") == 1 + 4
        assert "Comparison(4 settings × 5 seeds on iris, accuracy, holdout)" in page.text
        many = untrained({"lr": [0.001 * i for i in range(1, 301)], "hidden_features": [2, 4]})
        page = Page(many._repr_html_())
        assert [tag for tag, _ in page.tags].count("tr") == 1 + 10
        assert "and 590 more rows" in page.text


class TestFile:
    @pytest.mark.parametrize("name", ["small", "with_loss"])
    def test_round_trip_is_exact(self, name, tmp_path, request):
        comparison = request.getfixturevalue(name)
        comparison.save(tmp_path / "one.json", author="Ada")
        loaded = Comparison.load(tmp_path / "one.json")
        for name in ("runs", "curves"):
            pd.testing.assert_frame_equal(getattr(loaded, name), getattr(comparison, name), check_exact=True)
        pd.testing.assert_frame_equal(loaded.summary(), comparison.summary(), check_exact=True)
        assert (loaded.settings, loaded.seeds, loaded.author) == (comparison.settings, comparison.seeds, "Ada")
        loaded.save(tmp_path / "two.json")
        assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()

    def test_other_files_are_not_overwritten(self, tmp_path, small):
        path = tmp_path / "sub" / "a.json"
        small.save(path)
        small.save(path)
        with pytest.raises(FileExistsError, match="name another file, or delete that one"):
            small.save(path, author="somebody else")
        assert Comparison.load(path).author is None
        assert [file.name for file in path.parent.iterdir()] == ["a.json"]

    def test_what_cannot_be_loaded_says_why(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Comparison.load(tmp_path / "none.json")
        (tmp_path / "bad.json").write_bytes(b"\x80\x04\x95")  # how a pickle begins
        with pytest.raises(ValueError, match="bad.json cannot be loaded: the file is not text"):
            Comparison.load(tmp_path / "bad.json")

    @pytest.mark.parametrize("author", ["", "x" * 201, 3])
    def test_bad_authors(self, tmp_path, author, small):
        with pytest.raises(ValueError, match="author must be"):
            small.save(tmp_path / "a.json", author=author)
