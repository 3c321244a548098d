"""The command line and the report that it writes."""

import base64
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
    assert "shapes: Evaluation(accuracy" in done.stdout
    return folder


class TestReport:
    @pytest.mark.slow
    def test_files(self, folder):
        pictures = {"training", "predictions", "worst_mistakes", "confusion_matrix", "metrics", "reliability"}
        pictures |= {"risk_coverage", "robustness", "grad_cam", "integrated_gradients"}
        files = {f"{name}.png" for name in pictures} | {"report.html", "run.json", "metrics.json", "checkpoint.pt"}
        assert set(os.listdir(folder)) == files
        assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures)

    @pytest.mark.slow
    def test_the_page_needs_no_other_file_and_says_what_it_shows(self, folder):
        text = (folder / "report.html").read_text("utf-8")
        tags = Page(text).tags
        pictures = [attributes for tag, attributes in tags if tag == "img"]
        assert len(pictures) == 10
        for picture in pictures:
            assert len(picture["alt"]) > 20
            data = picture["src"].removeprefix("data:image/png;base64,")
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

    @pytest.mark.parametrize("arguments", [["--limit", "0"], ["--epochs", "0"], ["--lr", "-1"], ["--model", "resnet"]])
    def test_bad_options(self, arguments, tmp_path, monkeypatch):
        monkeypatch.setattr("course_utils.capstone.__main__.load_cifar10", lambda *_, **__: DATA)
        with pytest.raises((SystemExit, ValueError)) as caught:
            main(["--source", "shapes", "--out", str(tmp_path), *arguments])
        assert not (isinstance(caught.value, SystemExit) and caught.value.code == 0)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("arguments", [("model", DATA), (linear(), IMAGES)])
    def test_bad_input(self, arguments, tmp_path):
        with pytest.raises(TypeError, match="must be"):
            write_report(*arguments, tmp_path / "report")
        assert os.listdir(tmp_path) == []
