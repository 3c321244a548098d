"""The course as a learner meets it: a real JupyterLab in a real browser.

It needs chromium (Debian's, through Playwright for Python). Without it the tests are skipped and the run says so;
with COURSE_BROWSER_REQUIRED set, as in CI, they fail instead.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "course"
POLLING = 250  # milliseconds; Playwright's default asks at every frame, and the browser then draws every frame
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("COURSE_BROWSER_REQUIRED"), reason="no chromium on this machine"
    ),
]


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A learner's copy of the course, lessons without outputs, so that nothing recorded is taken for a result."""
    folder = tmp_path_factory.mktemp("course")
    for name in ("notebooks", "exercises"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for path in folder.glob("notebooks/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def lab(course) -> Iterator[str]:
    """The README's first command on the loopback interface, with settings of its own; yields its address."""
    home = course / "home"
    settings = home / "settings" / "@jupyterlab"
    for name, values in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        # Cells that are scrolled out of sight would have no text in the page.
        "notebook-extension/tracker": {"windowingMode": "none"},
    }.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "COURSE_QUIET": "0",  # here the progress bars are what we want to see
        "COURSE_WORK_DIR": str(home / "my_work"),  # a test of the start page beside this one copies exercises, too
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    command = re.search(r"^pip install uv && uv run jupyter (lab .*)$", readme, flags=re.M)[1].split()
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    log = (home / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *command, *options], cwd=course, env=environment, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text("utf-8")
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """One browser for all tests, which loads JupyterLab's many files once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync"])
        yield browser.new_context(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    yield page
    page.close()


def open_notebook(page, lab: str, path: str) -> None:
    """Open a notebook and wait until the kernel of its own session is ready."""
    page.goto(f"{lab}/lab/tree/{path}?token={TOKEN}&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    for _ in range(300):
        with urllib.request.urlopen(f"{lab}/api/sessions?token={TOKEN}") as answer:
            states = [s["kernel"]["execution_state"] for s in json.load(answer) if s["path"] == path]
        if states == ["idle"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the kernel of {path} did not get ready: {states}")


def cell(page, notebook: Path, cell_id: str):
    ids = [c.id for c in nbformat.read(notebook, as_version=4).cells]
    return page.locator(".jp-Notebook .jp-Cell").nth(ids.index(cell_id))


def numbered(cells: list) -> int:
    """How many of these cells show a number when they have run: code cells, unless their source is folded away."""
    return sum(c.cell_type == "code" and not c.metadata.get("jupyter", {}).get("source_hidden") for c in cells)


def run_all(page, notebook: Path) -> None:
    """Run → Run All Cells in the menu, then wait for the last code cell's number."""
    choose(page, "Run", "Run All Cells")
    wait_for_numbers(page, numbered(nbformat.read(notebook, as_version=4).cells))


def run_to(page, notebook: Path, cell_id: str) -> None:
    """Run all cells above one, then the cell itself: what a learner does who wants this slider."""
    cells = nbformat.read(notebook, as_version=4).cells
    position = [c.id for c in cells].index(cell_id)
    cell(page, notebook, cell_id).locator(".jp-InputPrompt").first.click()
    choose(page, "Run", "Run All Above Selected Cell")
    code_cells = numbered(cells[:position])
    wait_for_numbers(page, code_cells)
    cell(page, notebook, cell_id).locator(".jp-InputPrompt").first.click()
    page.keyboard.press("Shift+Enter")
    wait_for_numbers(page, code_cells + 1)


def choose(page, menu: str, entry: str) -> None:
    page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
    page.locator(".lm-Menu-itemLabel", has_text=entry).first.click()


def wait_for_numbers(page, count: int) -> None:
    """Wait until so many code cells have their number, or one shows an error."""
    page.wait_for_function(
        """count => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .filter(prompt => /\\[\\d+\\]/.test(prompt.textContent)).length === count
            || document.querySelector('[data-mime-type="application/vnd.jupyter.error"]')""",
        arg=count,
        timeout=150_000,
        polling=POLLING,
    )
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
    assert errors == []


def move_slider(page, slider) -> None:
    """Move a slider with the keyboard and wait until its picture is another one."""
    slider.scroll_into_view_if_needed()
    before = slider.locator("img").get_attribute("src")
    slider.locator(".noUi-handle").first.press("Home")  # to its lowest value
    page.wait_for_function(
        "before => ![...document.querySelectorAll('img')].some(image => image.src === before)",
        arg=before,
        polling=POLLING,
    )
    assert slider.locator("img").get_attribute("src") != before


def test_the_start_page_is_what_command_one_opens(page, lab, course):
    open_notebook(page, lab, "notebooks/00_start.ipynb")
    assert page.get_by_role("heading", name="Neural network outputs: start here").is_visible()
    with urllib.request.urlopen(f"{lab}/api/contents?token={TOKEN}") as answer:
        folders = {entry["name"] for entry in json.load(answer)["content"]}
    assert {"notebooks", "exercises"} <= folders  # the file browser reaches the exercises and my_work
    run_all(page, course / "notebooks/00_start.ipynb")
    assert "Everything that the lessons need is here." in page.locator(".jp-Notebook").inner_text()


def test_chapter_7_runs_with_bars_figures_and_a_slider(page, lab, course):
    path = course / "notebooks/07_iris_mlp.ipynb"
    open_notebook(page, lab, "notebooks/07_iris_mlp.ipynb")
    run_all(page, path)

    bar = cell(page, path, "bar-postfix").inner_text().replace("\u2007", " ")  # tqdm pads with figure spaces
    assert "100%" in bar
    assert "300/300" in bar
    assert "epoch/s" in bar
    assert "loss=0." in bar
    for name in ("loss-curve", "weights-figure", "regions"):
        picture = cell(page, path, name).locator("img")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 200"), name

    move_slider(page, cell(page, path, "regions-slider"))


@pytest.mark.parametrize(
    ("lesson", "slider_cell", "figures"),
    [
        ("02_interpretation", "detection-slider", ["digits-worst", "residuals", "three-steps"]),
        ("03_optimization", "threshold-slider", ["threshold-curves"]),
        ("04_pitfalls", "lr-slider", ["diverge-curves"]),
        ("08_hyperparameter_homework", "curves-slider", ["rates", "seeds", "interaction"]),
    ],
)
def test_a_lesson_runs_to_its_slider_and_the_slider_moves(page, lab, course, lesson, slider_cell, figures):
    path = course / f"notebooks/{lesson}.ipynb"
    open_notebook(page, lab, f"notebooks/{lesson}.ipynb")
    run_to(page, path, slider_cell)
    for name in figures:
        picture = cell(page, path, name).locator("img").last
        assert picture.evaluate("image => image.complete && image.naturalWidth > 200"), name
    move_slider(page, cell(page, path, slider_cell))


def test_the_capstones_recorded_answers_need_no_training(page, lab, course):
    """Only the cells about the course's own model, picked out one by one."""
    path = course / "notebooks/06_cifar10_capstone.ipynb"
    open_notebook(page, lab, "notebooks/06_cifar10_capstone.ipynb")
    for count, name in enumerate(("setup", "recorded", "calibrate-recorded", "temperature-slider"), start=1):
        cell(page, path, name).locator(".jp-InputPrompt").first.click()
        page.keyboard.press("Shift+Enter")
        wait_for_numbers(page, count)
    for name in ("recorded", "calibrate-recorded"):
        picture = cell(page, path, name).locator("img").last
        assert picture.evaluate("image => image.complete && image.naturalWidth > 200"), name
    move_slider(page, cell(page, path, "temperature-slider"))


def test_an_exercise_is_solved_by_typing(page, lab, course):
    path = course / "exercises/01_basics/exercises.ipynb"
    open_notebook(page, lab, "exercises/01_basics/exercises.ipynb")

    def run(name: str, text: str = "") -> None:
        editor = cell(page, path, name).locator(".cm-content")
        editor.click()
        if text:
            page.keyboard.press("Control+End")
            page.keyboard.press("Shift+Home")
            page.keyboard.type(text)
        page.keyboard.press("Shift+Enter")

    def answer_of(name: str, words: str) -> str:
        output = cell(page, path, name).locator(".jp-OutputArea-output", has_text=words)
        output.wait_for()
        return output.inner_text()

    run("ex01-setup")
    run("ex01-tumour")
    run("ex01-tumour-check")
    untouched = answer_of("ex01-tumour-check", "not implemented yet")
    assert "Traceback" not in untouched

    run("ex01-tumour", "return torch.softmax(logits, dim=1)[:, 0]")
    run("ex01-tumour-check")
    assert "torch.sigmoid" in answer_of("ex01-tumour-check", "This looks like: softmax over a single logit")

    run("ex01-tumour", "return torch.sigmoid(logits).squeeze(1)")
    run("ex01-tumour-check")
    answer_of("ex01-tumour-check", "✓ basics.tumour_probability: right.")
