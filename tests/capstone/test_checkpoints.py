"""Training that survives kill -9, and checkpoints that are refused when damaged or foreign."""

import dataclasses
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.capstone import Recipe, train_model
from course_utils.capstone.checkpoints import load_checkpoint, save_checkpoint
from tests.support.capstone import (
    DATA,
    OPTIONS,
    child_environment,
    curves,
    fit,
    interrupted,
    linear,
    part,
    same,
    stop_at_call,
    tiny,
    tutorial,
    weights,
)

KILLED = """
import os, signal, sys, time
import torch
from course_utils.capstone import FastClassifier, ImageClassifier, train_model

folder, options = sys.argv[1], eval(sys.argv[2])
data = torch.load(f"{folder}/data.pt", weights_only=False)

def hang(name):
    open(f"{folder}/{name}.reached", "w").close()
    time.sleep(600)

def at(call, name, hook):
    calls = iter(range(1, 1000))
    return lambda *_: hang(name) if next(calls) == call else hook(*_)

for name, make in {"fast": lambda: FastClassifier(widths=(8, 8, 8)), "tutorial": ImageClassifier}.items():
    torch.manual_seed(0)
    model = make()
    if not (child := os.fork()):
        if name == "fast":  # while the second checkpoint is being written
            os.fsync = at(2, name, os.fsync)
        else:  # in the second batch of the third epoch
            model.head[3].register_forward_hook(lambda m, *_, f=at(6, name, lambda: None): f() if m.training else None)
        train_model(model, data, checkpoint=f"{folder}/{name}.pt", **options)
        os._exit(0)
    while not os.path.exists(f"{folder}/{name}.reached"):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"{name} ended before it could be killed"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def flipped(contents: bytes, position: int, bit: int = 3) -> bytes:
    return contents[:position] + bytes([contents[position] ^ (1 << bit)]) + contents[position + 1 :]


class TestCheckpoints:
    @pytest.mark.slow
    def test_goes_on_after_kill_9_as_if_nothing_had_happened(self, tmp_path):
        torch.save(DATA, tmp_path / "data.pt")
        options = OPTIONS | {"epochs": 4, "augment": True, "seed": 11}
        command = [sys.executable, "-c", KILLED, str(tmp_path), repr(options)]
        subprocess.run(command, env=child_environment(), check=True, timeout=120)
        for name, make, finished in (("fast", tiny, 1), ("tutorial", tutorial, 2)):
            path = tmp_path / f"{name}.pt"
            assert load_checkpoint(path)["log"]["epochs"] == list(range(1, finished + 1))
            never_stopped, resumed = make(), make(seed=99)
            expected = train_model(never_stopped, DATA, **options)
            history = train_model(resumed, DATA, checkpoint=path, **options)
            assert same(never_stopped, resumed), name
            assert curves(history) == curves(expected)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_goes_on_after_an_interruption(self, optimizer, tmp_path):
        options = {"epochs": 4, "recipe": Recipe(optimizer=optimizer, early_size=16, label_smoothing=0.1), "lr": 0.01}
        never_stopped = tiny()
        expected = fit(never_stopped, **options)
        for seed, finished in enumerate((1, 2)):  # in the second epoch, then in the third
            history = interrupted(tiny(seed), 4, checkpoint=tmp_path / "c.pt", **options)
            assert len(history) == finished
        resumed = tiny(seed=10)  # another process has other initial weights
        assert curves(fit(resumed, checkpoint=tmp_path / "c.pt", **options)) == curves(expected)
        assert same(never_stopped, resumed)

    def test_a_finished_one_is_loaded_and_nothing_is_trained(self, tmp_path):
        path = tmp_path / "new" / "c.pt"
        trained, loaded = tutorial(), tutorial(seed=3)
        history = fit(trained, checkpoint=path, seed=None)
        contents = path.read_bytes()
        stop_at_call(loaded, 1, AssertionError)
        again = fit(loaded, checkpoint=path, seed=None)  # None takes the checkpoint's
        assert same(trained, loaded)
        assert curves(again) == curves(history)
        assert (again.seconds.tolist(), again.seed) == (history.seconds.tolist(), history.seed)
        assert path.read_bytes() == contents
        assert os.listdir(path.parent) == ["c.pt"]

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"epochs": 3}, "epochs"),
            ({"lr": 0.1}, "lr"),
            ({"batch_size": 10}, "batch_size"),
            ({"augment": False}, "augment"),
            ({"amp": True}, "amp"),
            ({"seed": 1}, "seed"),
            ({"recipe": Recipe(optimizer="adam")}, "optimizer"),
            ({"data": part("train", images=255 - DATA.train.images)}, "data"),
            ({"data": part("train", target=DATA.train.target.flip(0))}, "data"),
            ({"data": part("validation", images=255 - DATA.validation.images)}, "data"),
            ({"data": dataclasses.replace(DATA, mean=DATA.mean + 0.1)}, "data"),
            ({"data": dataclasses.replace(DATA, std=DATA.std * 2)}, "data"),
            ({"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))}, "model"),
        ],
    )
    def test_another_training_is_refused(self, change, named, tmp_path):
        path = tmp_path / "c.pt"
        fit(linear(), checkpoint=path)
        contents = path.read_bytes()
        model = change.get("model", linear(seed=4))
        before = weights(model)
        options = {name: value for name, value in change.items() if name != "model"}
        with pytest.raises(ValueError, match=f"another training.*{named}"):
            fit(model, **({"data": DATA, "checkpoint": path} | options))
        assert path.read_bytes() == contents
        assert same(model, before)

    def test_other_frozen_layers_are_refused(self, tmp_path):
        fit(tutorial(), checkpoint=tmp_path / "c.pt", epochs=1)
        model = tutorial()
        model.features.requires_grad_(False)
        with pytest.raises(ValueError, match="another"):
            fit(model, checkpoint=tmp_path / "c.pt", epochs=1)

    def test_a_refused_checkpoint_leaves_the_model_alone(self, tmp_path):
        fit(tutorial(), checkpoint=tmp_path / "c.pt", epochs=1)
        model = tutorial()
        before = weights(model)
        with pytest.raises(ValueError, match="another training"):
            fit(model, checkpoint=tmp_path / "c.pt", epochs=2)
        assert same(model, before)

    def test_damage_is_noticed(self, tmp_path):
        path = tmp_path / "c.pt"
        fit(linear(), checkpoint=path)
        whole, state = path.read_bytes(), load_checkpoint(path)
        payload = whole.index(state["model"]["2.weight"].numpy().tobytes())
        damaged = [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
        damaged += [flipped(whole, payload + offset) for offset in (0, 1000, 7000)]
        for contents in damaged:
            path.write_bytes(contents)
            model = linear(seed=1)
            before = weights(model)
            with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint.*Delete it"):
                fit(model, checkpoint=path)
            assert path.read_bytes() == contents
            assert same(model, before)

    @given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_a_flipped_bit_is_noticed_or_harmless(self, where, bit, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "flipped.pt"
        state = {"format": 1, "settings": {"lr": 0.5}, "model": {"w": torch.arange(30.0)}}
        save_checkpoint(path, state)
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, int(where * len(whole)), bit))
        try:
            read = load_checkpoint(path)
        except ValueError as error:
            assert "flipped.pt" in str(error)  # noqa: PT017
        else:
            assert same(read["model"], state["model"])
            assert read["settings"] == state["settings"]

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        path = tmp_path / "c.pt"
        torch.save({"format": 1, "settings": Evil()}, tmp_path / "zip")
        torch.save({"format": 1, "settings": Evil()}, tmp_path / "old", _use_new_zipfile_serialization=False)
        (tmp_path / "bare").write_bytes(pickle.dumps(Evil()))
        for kind in ("zip", "old", "bare"):
            (tmp_path / kind).replace(path)
            with pytest.raises(ValueError, match="is not a checkpoint"):
                fit(linear(), checkpoint=path)
            assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        "foreign",
        [
            {"format": 1},
            {"format": 1, "settings": 3, "log": {}, "model": {}, "optimizer": {}},
            {"format": 2},
            {"model_state_dict": {}},
            [1, 2],
            torch.zeros(3),
        ],
    )
    def test_foreign_files_are_refused(self, foreign, tmp_path):
        torch.save(foreign, tmp_path / "c.pt")
        for seed in (0, None):
            with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint"):
                fit(linear(), checkpoint=tmp_path / "c.pt", seed=seed)

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            (lambda s: s.update(format=2), "its format is 2.*reads format 1"),
            (lambda s: s["settings"].pop("seed"), "no seed"),
            (lambda s: s["settings"].pop("amp"), "no amp"),
            (lambda s: s["settings"].update(epochs="2"), "no epochs"),
            (lambda s: s["log"].update({n: v + v + v[:1] for n, v in s["log"].items()}), "one row for each epoch"),
            (lambda s: s["log"].update({n: [*v, *v[-1:]] for n, v in s["log"].items()}, epochs=[1, 2, 3]), "3 epochs"),
            (lambda s: s["log"].update({n: [] for n in s["log"]}), "0 epochs of a training of 2"),
            (lambda s: s["log"].update(lr=[0.1]), "one row for each epoch"),
            (lambda s: s["log"].update(lr=0.1), "its log is none"),
            (lambda s: s["log"].pop("epochs"), "its log is none"),
            (lambda s: s["log"].pop("lr"), "its log has the columns epochs"),
            (lambda s: s["model"]["2.weight"].fill_(math.nan), "weights 2.weight are NaN"),
            (lambda s: s["model"].update({"2.weight": 1.0}), "weights 2.weight are NaN or no tensor"),
            (lambda s: s["model"].pop("2.bias"), "its weights differ in 2.bias"),
            (lambda s: s["model"].update(extra=torch.zeros(1)), "its weights differ in extra"),
            (lambda s: s["model"].update({"2.bias": torch.zeros(3)}), "its weights differ in 2.bias"),
            (lambda s: s["optimizer"].pop("state"), "no state of an optimizer"),
            (lambda s: s["optimizer"]["param_groups"].pop(), "of other parameters"),
            (lambda s: s["optimizer"]["state"].update({9: {}}), "of other parameters"),
            (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "exp_avg of parameter 0"),
            (lambda s: s["optimizer"]["state"][0]["exp_avg"].fill_(math.nan), "exp_avg of parameter 0 is NaN"),
        ],
    )
    def test_p25_contents_that_do_not_fit_are_refused_before_anything_is_loaded(self, harm, words, tmp_path):
        path = tmp_path / "c.pt"
        fit(linear(), checkpoint=path)
        state = load_checkpoint(path)
        harm(state)
        torch.save(state, path)
        model = linear(seed=1)
        before = weights(model)
        with pytest.raises(ValueError, match=rf"c\.pt.*{words}.*Delete it"):
            fit(model, checkpoint=path)
        assert same(model, before)

    @pytest.mark.parametrize(
        "place", ["n" * 300, "file/c.pt", "/proc/nowhere/c.pt", "new/" + "n" * 300 + "/c.pt", "a\0"]
    )
    def test_p25_a_place_that_cannot_be_written_is_found_before_the_first_epoch(self, place, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        model = linear()
        stop_at_call(model, 1, AssertionError)
        with pytest.raises(ValueError, match="no file can be written"):
            fit(model, checkpoint=os.path.join(tmp_path, place))
        assert os.listdir(tmp_path) == ["file"]

    def test_p25_the_longest_name_that_the_system_allows(self, tmp_path):
        path = tmp_path / ("n" * 252 + ".pt")
        fit(linear(), epochs=1, checkpoint=path)
        assert os.listdir(tmp_path) == [path.name]
        assert len(fit(linear(), epochs=1, checkpoint=path)) == 1

    def test_a_folder_is_not_to_be_deleted(self, tmp_path):
        with pytest.raises(ValueError, match=r"folder|directory"):
            fit(linear(), checkpoint=tmp_path)

    def test_a_failing_write_in_training_keeps_the_last_epoch(self, tmp_path, monkeypatch):
        path = tmp_path / "c.pt"
        interrupted(linear(), 4, epochs=3, checkpoint=path)
        contents = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", lambda state, file: file.write(b"half") and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(linear(), epochs=3, checkpoint=path)
        assert path.read_bytes() == contents
        assert os.listdir(tmp_path) == ["c.pt"]
        assert len(fit(linear(), epochs=3, checkpoint=path)) == 3
