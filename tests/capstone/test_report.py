"""The command line and the report that it writes."""

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from course_utils.capstone import ImageClassifier, ImageSet, evaluate_model, load_cifar10, predict_logits, write_report
from course_utils.capstone.__main__ import main
from course_utils.capstone.checkpoints import load_checkpoint
from course_utils.optimization import temperature_scaling
from tests.support.capstone import DATA, IMAGES, child_environment, linear, stop_at_call, tutorial


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


# Tests that ask for this folder are slow: a whole run of the command line.
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "report"
    command = [
        sys.executable,
        "-m",
        "course_utils.capstone",
        "--source",
        "shapes",
        "--limit",
        "200",
        "--epochs",
        "1",
    ]
    command += ["--amp", "off", "--model", "tutorial", "--seed", "3", "--out", str(folder)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^shapes: accuracy 0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] on the test images$", done.stdout, re.M)
    return folder


class TestReport:
    @pytest.mark.slow
    def test_files(self, folder):
        figures = {"training", "predictions", "worst_mistakes", "confusion_matrix", "metrics", "reliability"}
        figures |= {"risk_coverage", "robustness", "grad_cam", "integrated_gradients"}
        files = {f"{name}.png" for name in figures} | {"report.html", "run.json", "metrics.json", "checkpoint.pt"}
        assert set(os.listdir(folder)) == files
        assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in figures)

    @pytest.mark.slow
    def test_the_page_needs_no_other_file_and_says_what_it_shows(self, folder):
        text = (folder / "report.html").read_text("utf-8")
        tags = Page(text).tags
        figures = [attributes for tag, attributes in tags if tag == "img"]
        assert len(figures) == 10
        for figure in figures:
            assert len(figure["alt"]) > 20
            data = figure["src"].removeprefix("data:image/png;base64,")
            assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
        linked = [a[key] for _, a in tags for key in ("src", "href") if key in a]
        assert all(link.startswith("data:") for link in linked)
        assert not re.search(r"url\(|@import|<script|<link|https?://", text)
        assert "not CIFAR-10" in text
        assert ("html", {"lang": "en"}) in tags

    @pytest.mark.slow
    def test_metrics_are_those_of_the_checkpoint(self, folder):
        metrics = json.loads((folder / "metrics.json").read_text())
        whole = load_cifar10(source="shapes", seed=3)
        model = ImageClassifier()
        model.load_state_dict(load_checkpoint(folder / "checkpoint.pt")["model"])
        test = ImageSet(whole.test.images[:200], whole.test.target[:200])
        result = evaluate_model(model, test.images, test.target)
        assert metrics["data"] == "shapes"
        assert metrics["as_trained"] == result.metrics()
        validation = predict_logits(model, whole.validation.images[:200])
        temperature = float(temperature_scaling(validation, whole.validation.target[:200]).temperature)
        assert metrics["calibrated"]["temperature"] == pytest.approx(temperature, rel=1e-5)
        assert metrics["calibrated"]["accuracy"] == result.accuracy
        assert metrics["robustness"]["num_samples"] == 200
        assert metrics["robustness"]["accuracy"][0] == pytest.approx(result.accuracy)

    @pytest.mark.slow
    def test_the_run_can_be_repeated_and_names_no_machine(self, folder):
        text = (folder / "run.json").read_text()
        record = json.loads(text)
        assert record["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert record["training"]["seed"] == record["options"]["seed"] == 3
        assert (record["training"]["epochs"], record["options"]["limit"]) == (1, 200)
        page = re.sub('base64,[^"]*', "", (folder / "report.html").read_text("utf-8"))
        for contents in (text, page, (folder / "metrics.json").read_text()):
            assert not any(word in contents for word in (str(folder), str(Path.home()), os.uname().nodename, "/tmp"))

    @pytest.mark.slow
    def test_a_second_run_is_refused(self, folder):
        before = {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)}
        with pytest.raises(SystemExit, match="holds a report already"):
            main(["--source", "shapes", "--limit", "200", "--out", str(folder)])
        with pytest.raises(FileExistsError, match="holds a report already"):
            write_report(linear(), DATA, folder)
        assert {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)} == before

    @pytest.mark.slow
    def test_an_interrupted_training_writes_no_report_and_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        model = tutorial()
        monkeypatch.setattr("course_utils.capstone.__main__.make_model", lambda *_: model)
        handle = stop_at_call(model, 4)
        arguments = ["--epochs", "2", "--batch-size", "48", "--amp", "off", "--out", str(tmp_path / "report")]
        with pytest.warns(UserWarning, match="interrupted"), pytest.raises(SystemExit, match="goes on"):
            main(arguments)
        assert os.listdir(tmp_path / "report") == ["checkpoint.pt"]
        handle.remove()
        main(arguments)
        assert "report.html" in os.listdir(tmp_path / "report")

    def test_the_test_images_are_read_once(self, tmp_path, monkeypatch):
        read = []

        def counting(model, images, **options):
            read.append(images is DATA.test.images)
            return predict_logits(model, images, **options)

        monkeypatch.setattr("course_utils.capstone.evaluation.predict_logits", counting)
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        monkeypatch.setattr("course_utils.capstone.__main__.make_model", lambda *_: linear())
        main(["--epochs", "1", "--amp", "off", "--out", str(tmp_path / "report")])
        assert read.count(True) == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--limit", "0"], "at least 100"),
            (["--limit", "1"], "at least 100"),
            (["--epochs", "0"], "at least 1"),
            (["--epochs", "2.5"], "whole number"),
            (["--batch-size", "none"], "whole number"),
            (["--lr", "-1"], "greater than 0"),
            (["--lr", "nan"], "greater than 0"),
            (["--lr", "fast"], "greater than 0"),
            (["--dropout", "1.5"], "from 0 to 1"),
            (["--seed", "-1"], "at least 0"),
            (["--seed", "1e3"], "whole number"),
            (["--seed", str(2**70)], "at most"),
            (["--device", "tpu"], "invalid choice"),
            (["--device", "mps"], "does not work here"),
            (["--model", "resnet"], "invalid choice"),
            (["--out", "/proc/nowhere/report"], "no file can be written"),
            (["--out", "n" * 300], "no file can be written"),
        ],
    )
    def test_p26_bad_options_are_told_by_argparse(self, arguments, words, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("course_utils.foundation.devices.available_devices", lambda: ["cpu"])
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: pytest.fail("too late"))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as caught:
            main(["--source", "shapes", "--out", str(tmp_path / "report"), *arguments])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("fault", [ValueError("damaged"), ConnectionError("no network"), FloatingPointError("NaN")])
    def test_p26_what_the_data_and_the_training_say_needs_no_traceback(self, fault, tmp_path, monkeypatch):
        def fails(*_, **__):
            raise fault

        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", fails)
        with pytest.raises(SystemExit, match=f"error: {fault}"):
            main(["--out", str(tmp_path / "report")])
        assert os.listdir(tmp_path) == []

    def test_p18_hostile_names_are_text(self, tmp_path):
        script = "<script>alert(1)</script>"
        hostile = dataclasses.replace(DATA, name=script, class_names=(script, "$\\frac{$", *DATA.class_names[2:]))
        write_report(linear(), hostile, tmp_path / "report", run={"note": script})
        text = (tmp_path / "report" / "report.html").read_text("utf-8")
        assert "script" not in [tag for tag, _ in Page(text).tags]
        assert text.count("&lt;script&gt;") >= 3  # the title, the table, the run

    @pytest.mark.parametrize("folder", ["/proc/nowhere/report", "n" * 300, "nul\0"])
    def test_p25_a_place_that_cannot_be_written_is_found_before_the_evaluation(self, folder, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.report.calibrate_model", lambda *_: pytest.fail("too late"))
        with pytest.raises(ValueError, match="no file can be written"):
            write_report(linear(), DATA, folder)

    def test_a_foreign_checkpoint_needs_no_traceback(self, tmp_path, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        (tmp_path / "checkpoint.pt").write_text("of something else")
        with pytest.raises(SystemExit, match=r"error: .*checkpoint\.pt is not a checkpoint of this course"):
            main(["--source", "shapes", "--out", str(tmp_path)])
        assert os.listdir(tmp_path) == ["checkpoint.pt"]

    @pytest.mark.parametrize("arguments", [("model", DATA), (linear(), IMAGES)])
    def test_bad_input(self, arguments, tmp_path):
        with pytest.raises(TypeError, match="must be"):
            write_report(*arguments, tmp_path / "report")
        assert os.listdir(tmp_path) == []
