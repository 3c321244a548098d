"""The website as a reader meets it: built once, then every page in a real browser, straight from the disk.

It needs the group `docs` and, for the half that looks at pages, chromium. Without them the tests are skipped and the
run says so; with COURSE_BROWSER_REQUIRED set, as in CI, they fail instead.
"""

import doctest
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from urllib.parse import unquote, urldefrag
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("COURSE_BROWSER_REQUIRED"))
LAPTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 780}
# One page of each kind, for what takes long.
KINDS = ("index", "notebooks/00_start", "notebooks/glossary", "exercises/01_basics/exercises", "reference/iris")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(find_spec("sphinx") is None and not REQUIRED, reason="the group docs is not installed"),
]
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no chromium on this machine"),
]


class Page(HTMLParser):
    """What the tests ask of one page: its anchors, where it leads, its pictures and its headings."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.targets, self.descriptions, self.headings = set(), [], [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = dict(attributes)
        self.anchors.update(filter(None, [values.get("id"), values.get("name") if tag == "a" else None]))
        self.targets += [values[name] for name in ("href", "src") if values.get(name)]
        if tag == "img":
            self.descriptions.append(values.get("alt", ""))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built and packed by the command of CONTRIBUTING.md."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, REPOSITORY / "tools/build_site.py", "--out", folder, "--zip"]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    """Every page by its name, such as notebooks/glossary."""
    return {path.relative_to(site).with_suffix("").as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


def test_the_examples_of_the_sphinx_extension_run():
    path = REPOSITORY / "docs/course_site.py"
    description = spec_from_file_location("course_site", path)
    module = module_from_spec(description)
    description.loader.exec_module(module)
    assert doctest.testmod(module) == (0, 2)


def test_every_lesson_exercise_and_chapter_has_a_page(pages):
    notebooks = [*REPOSITORY.glob("notebooks/*.ipynb"), *REPOSITORY.glob("exercises/*/*.ipynb")]
    wanted = {path.relative_to(REPOSITORY).with_suffix("").as_posix() for path in notebooks}
    packages = [path for path in (REPOSITORY / "course_utils").iterdir() if (path / "__init__.py").exists()]
    wanted |= {f"reference/{path.name}" for path in packages}
    assert wanted <= set(pages)


def test_the_packed_site_is_small_and_whole(site, pages):
    packed = site.with_suffix(".zip")
    assert packed.stat().st_size < 10e6  # to be sent by mail
    names = set(ZipFile(packed).namelist())
    assert {f"site/{name}.html" for name in pages} <= names


def test_every_link_leads_to_a_page_and_an_anchor_that_are_there(site, pages):
    broken = []
    for name, page in pages.items():
        for target in page.targets:
            if re.match("[a-z]+:", target):  # to another machine, or a picture inside the page
                continue
            address, anchor = urldefrag(unquote(target))
            path = ((site / name).parent / address.split("?")[0]).resolve() if address else site / f"{name}.html"
            if not path.exists():
                broken.append(f"{name}: {target}")
            elif anchor and path.suffix == ".html":
                other = pages[path.relative_to(site.resolve()).with_suffix("").as_posix()]
                if anchor not in other.anchors:
                    broken.append(f"{name}: {target}")
    assert broken == []


def test_every_picture_is_described(pages):
    lengths = {f"{name}: {alt}": len(alt) for name, page in pages.items() for alt in page.descriptions}
    assert len(lengths) > 80
    assert {what: length for what, length in lengths.items() if not 40 <= length <= 300} == {}


def test_headings_go_down_one_step_at_a_time(pages):
    for name, page in pages.items():
        assert page.headings.count(1) == 1, name
        steps = itertools.pairwise(page.headings)
        assert all(following <= level + 1 for level, following in steps), f"{name}: {page.headings}"


def test_no_table_has_a_heading_without_words(site, pages):
    empty = re.compile(r"<th[^>]*>\s*(<p>\s*</p>)?\s*</th>")
    assert [name for name in pages if empty.search((site / f"{name}.html").read_text("utf-8"))] == []


class TestInTheBrowser:
    pytestmark = in_browser

    def test_no_page_asks_another_machine_or_complains(self, site, pages, browser):
        requests, complaints, wide = [], [], []
        context = browser.new_context(viewport=PHONE)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append((page.url, message.type, message.text)))
        page.on("pageerror", lambda error: complaints.append((page.url, "error", str(error))))
        page.on("requestfailed", lambda request: complaints.append((page.url, "failed", request.url)))
        for name in pages:
            page.goto((site / f"{name}.html").as_uri(), wait_until="load")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                wide.append(f"{name}: {width}")
        context.close()
        elsewhere = {url for url in requests if not url.startswith(("file:", "data:", "blob:"))}
        assert len(requests) > len(pages)
        assert elsewhere == set()
        assert [c for c in complaints if c[1] in ("warning", "error", "failed")] == []
        assert wide == []

    def test_the_search_finds_an_error_by_its_title_and_leads_to_it(self, site, browser):
        page, complaints = browser.new_page(viewport=LAPTOP), []
        page.on("console", lambda message: complaints.append((message.type, message.text)))
        page.goto((site / "search.html").as_uri() + "?q=documented+and+never+used")
        results = page.locator("#search-results li a")
        results.first.wait_for()
        results.filter(has_text="E8 · A threshold that is documented and never used").click()
        assert page.locator(":target").first.inner_text().startswith("E8")
        assert [c for c in complaints if c[0] in ("warning", "error")] == []
        page.close()

    def test_the_error_index_narrows_to_a_symptom(self, site, browser):
        page = browser.new_page(viewport=LAPTOP)
        page.goto((site / "notebooks/error_index.html").as_uri())
        rows = page.locator("#contents tbody tr:visible")
        total = rows.count()
        assert total > 70
        page.get_by_label("What do you see?").fill("1.46")
        assert 1 <= rows.count() <= 5
        assert page.get_by_role("status").inner_text() == f"{rows.count()} of {total} entries"
        assert "E20" in rows.all_inner_texts()[0]
        assert page.locator("#contents table:visible").count() <= rows.count()  # groups without an entry are hidden
        page.close()

    def test_a_prediction_waits_for_the_readers_answer(self, site, browser):
        page = browser.new_page(viewport=LAPTOP)
        page.goto((site / "notebooks/01_basics.html").as_uri())
        output = page.get_by_text("mean confidence on digits: 0.97").last
        words = page.get_by_text("sure of a digit where there is none")
        assert not output.is_visible()
        assert not words.is_visible()
        page.get_by_role("button", name="show what comes out").first.click()
        assert output.is_visible()
        assert words.is_visible()
        page.emulate_media(media="print")
        assert page.locator(".covered[hidden]").first.is_visible()  # on paper nothing is hidden
        page.close()

    @pytest.mark.parametrize(("viewport", "colours"), [(LAPTOP, "light"), (PHONE, "dark")], ids=["laptop", "phone"])
    def test_axe_finds_nothing(self, site, browser, viewport, colours):
        script = Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js")
        context = browser.new_context(viewport=viewport, color_scheme=colours)
        context.add_init_script(path=script)
        page = context.new_page()
        found = {}
        for name in KINDS:
            page.goto((site / f"{name}.html").as_uri())
            violations = page.evaluate("axe.run().then(result => result.violations)")
            for violation in violations:
                places = [node["html"][:120] for node in violation["nodes"][:3]]
                found[f"{name}: {violation['id']} ({violation['impact']})"] = (len(violation["nodes"]), places)
        context.close()
        assert found == {}
