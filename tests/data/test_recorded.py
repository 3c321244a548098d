"""The recorded answers of the course's own model are those of its record, and damage is noticed."""

import shutil

import pytest
import torch

from course_utils.data import load_recorded_outputs
from course_utils.data import recorded as recorded_files


class TestTheCoursesOwnModel:
    def test_recorded_answers_are_those_of_the_record(self):
        from course_utils.capstone import evaluate_logits

        recorded = load_recorded_outputs()
        assert recorded.validation_logits.shape == (5000, 10)
        assert recorded.test_logits.shape == (10_000, 10)
        assert torch.bincount(recorded.test_target).tolist() == [1000] * 10
        assert torch.bincount(recorded.validation_target).tolist() == [500] * 10
        evaluation = evaluate_logits(recorded.test_logits, recorded.test_target, recorded.class_names)
        assert evaluation.accuracy == recorded.about["test"]["accuracy"] > 0.9
        assert evaluation.nll == pytest.approx(recorded.about["test"]["nll"], abs=1e-5)
        assert "cat" in recorded.class_names

    def test_what_lesson_6_says_of_its_training(self):
        after = load_recorded_outputs().about["validation_accuracy"]
        assert [round(accuracy, 2) for accuracy in (*after[1:4], after[-1])] == [0.77, 0.79, 0.78, 0.93]
        assert after[3:] == sorted(after[3:])

    def test_the_files_are_small_enough_for_git(self):
        sizes = {path.name: path.stat().st_size for path in recorded_files.FOLDER.iterdir()}
        assert sizes["outputs.safetensors"] < 1_000_000
        assert sizes["weights.safetensors"] < 5_000_000

    @pytest.mark.parametrize("name", ["outputs.safetensors", "weights.safetensors"])
    def test_a_damaged_file_is_refused(self, name, tmp_path, monkeypatch):
        from course_utils.capstone import load_trained_model

        shutil.copytree(recorded_files.FOLDER, tmp_path / "model")
        damaged = tmp_path / "model" / name
        contents = bytearray(damaged.read_bytes())
        contents[-1] ^= 1
        damaged.write_bytes(contents)
        monkeypatch.setattr(recorded_files, "FOLDER", tmp_path / "model")
        load = load_recorded_outputs if name.startswith("outputs") else load_trained_model
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load()
