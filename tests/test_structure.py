"""The layout keeps its promises: chapters, imports, commands, links, style, no registry and no machine path."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import course_utils
from tests.support.notebooks import read, text_of

REPOSITORY = Path(__file__).parent.parent
CHAPTERS = ("basics", "interpretation", "optimization", "pitfalls", "advanced", "capstone", "iris", "homework")
ACROSS_MODULES = (
    "imports",
    "readers",
    "kinds_of_models",
)  # subjects of a chapter's tests that belong to no single module
PYTHON_FILES = sorted(REPOSITORY.glob("course_utils/**/*.py"))
NOTEBOOKS = sorted(
    path for folder in ("notebooks", "solutions", "exercises") for path in REPOSITORY.glob(f"{folder}/**/*.ipynb")
)
LESSONS = [
    path for path in REPOSITORY.glob("notebooks/*.ipynb") if path.name[:2].isdigit() and path.name != "00_start.ipynb"
]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of committed files")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()]


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import; write the whole name"
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    return modules


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_the_same_name_everywhere(chapter):
    lesson = next(path for path in LESSONS if chapter in path.stem.split("_"))
    for path in (
        f"course_utils/{chapter}/__init__.py",
        f"course_utils/checks/{chapter}.py",
        f"solutions/{lesson.stem}/exercises.ipynb",
        f"exercises/{lesson.stem}/exercises.ipynb",
        f"tests/{chapter}/__init__.py",
    ):
        assert (REPOSITORY / path).exists(), path


def floors_of_the_house() -> list[list[str]]:
    """The picture in CONTRIBUTING.md: from the top floor down, the rooms of each."""
    picture = re.search(r"```text\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), flags=re.S)[1]
    return [re.split(r" \| ", re.split(r"  +", line)[0]) for line in picture.splitlines()]


def test_the_picture_of_the_house_shows_every_room_once():
    rooms = {path.parent.name for path in REPOSITORY.glob("course_utils/*/__init__.py")}
    drawn = [room for floor in floors_of_the_house() for room in floor]
    assert sorted(drawn) == sorted(rooms)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_lead_down_the_house(path):
    """Also those inside functions and for type checkers: `ast.walk` sees all of them."""
    parts = path.relative_to(REPOSITORY / "course_utils").parts
    if len(parts) == 1:
        return  # the package itself hands on all rooms
    floors = floors_of_the_house()
    mine = next(i for i, floor in enumerate(floors) if parts[0] in floor)
    below = {room for floor in floors[mine + 1 :] for room in floor}
    rooms = {room for floor in floors for room in floor}
    imported = {module.split(".")[1] for module in imported_modules(path) if module.startswith("course_utils.")}
    assert (imported & rooms) - {parts[0]} <= below


def test_no_module_imports_itself_by_a_detour():
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in PYTHON_FILES}
    modules = {name.removesuffix(".__init__") for name in names.values()}
    graph = {
        name: {module for module in imported_modules(path) if module in modules and module != name}
        for path, name in names.items()
        if path.name != "__init__.py"
    }
    while graph:  # take away what imports nothing that is left
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_every_place_that_the_contributors_page_names_exists():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    places = re.findall(r"`((?:course_utils|tests|solutions|exercises|notebooks|benchmarks|tools)/[\w./]*)`", text)
    assert len(places) > 15
    assert not [place for place in places if not (REPOSITORY / place).exists()]


def test_tests_are_short_enough_to_be_read():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in REPOSITORY.glob("tests/**/*.py")}
    assert not {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items() if n > 600}


def test_each_file_of_tests_names_a_module():
    """`tests/interpretation/test_detection.py` tests `course_utils/interpretation/detection.py`."""
    lost = []
    for path in REPOSITORY.glob("tests/*/test_*.py"):
        room = REPOSITORY / "course_utils" / path.parent.name
        modules = [module.stem for module in room.glob("**/*.py")]
        subject = path.stem.removeprefix("test_")
        named = subject in ACROSS_MODULES or any(f"{subject}_".startswith(f"{module}_") for module in modules)
        if room.exists() and not named:
            lost.append(str(path.relative_to(REPOSITORY)))
    assert not lost


def test_the_package_hands_on_every_chapter():
    assert set(CHAPTERS) <= set(course_utils.__all__)
    assert all(getattr(course_utils, name).__name__ == f"course_utils.{name}" for name in course_utils.__all__)


def test_no_catch_all_modules():
    assert not [path for path in PYTHON_FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_public_names_have_docstrings():
    for chapter in (*CHAPTERS, "data", "checks"):
        module = __import__(f"course_utils.{chapter}", fromlist=["__all__"])
        for name in module.__all__:
            value = getattr(module, name)
            assert isinstance(value, (tuple, str)) or (value.__doc__ and len(value.__doc__) > 30), name


def test_ruff_finds_nothing():
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_ci_runs_the_readmes_test_command():
    commands = re.findall(r"^pip install uv && (uv run .*)$", (REPOSITORY / "README.md").read_text("utf-8"), flags=re.M)
    assert len(commands) == 2
    assert commands[0] == "uv run jupyter lab --ServerApp.root_dir=. notebooks/00_start.ipynb"
    assert f"pip install uv && {commands[1]}\n" in (REPOSITORY / ".ci/run").read_text("utf-8")


def test_every_dependency_has_a_floor_and_an_exact_tested_version():
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    wanted = [*pyproject["project"]["dependencies"], *chain(*pyproject["dependency-groups"].values())]
    pins = {re.match(r"[\w.-]+", line)[0] for line in pyproject["tool"]["uv"]["constraint-dependencies"]}
    for line in wanted:
        name, floor = line.split(">=")
        assert floor
        assert name in pins, f"{name} has no tested version; run tools/pin_dependencies.py"
    assert all("==" in line for line in pyproject["tool"]["uv"]["constraint-dependencies"])


def test_no_registry_and_no_machine_in_committed_files():
    # Split, so that this file does not find itself.
    hosts = "|".join(("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.org", "debian" + r"\.org/"))
    machine = "|".join(("/ro" + "ot/", "/ho" + r"me/\w", "/wo" + "rk/", "C:" + r"\\Users", "/tmp/ipy" + "kernel"))
    found = []
    for path in tracked_files():
        if path.suffix in {".png", ".safetensors"}:
            continue
        match = re.search(f"({hosts})|({machine})", path.read_text("utf-8"))
        if match:
            found.append(f"{path.relative_to(REPOSITORY)}: {match[0]}")
    assert not found
    assert "uv.lock" not in {path.name for path in tracked_files()}


def markdown_links(path: Path) -> list[str]:
    text = path.read_text("utf-8") if path.suffix == ".md" else text_of(path)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]


@pytest.mark.parametrize(
    "path", [*REPOSITORY.glob("*.md"), *NOTEBOOKS], ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_every_link_leads_somewhere(path):
    for link in markdown_links(path):
        file, _, anchor = link.partition("#")
        target = path if not file else (path.parent / file)
        assert target.exists(), link
        assert "%" not in link, f"{link}: JupyterLab does not follow a link with a per cent sign"
        if anchor:
            text = "\n".join(cell.source for cell in read(target).cells)
            headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
            assert anchor in {heading.strip().replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_the_anatomy_of_a_lesson(path):
    cells, text = read(path).cells, text_of(path)
    assert 25 <= len(cells) <= 130
    for part in ("**You will be able to**", "**Next:**", "**Your turn:**"):
        assert part in text, part
    for part in ("before you start", "time", "data"):  # a table, or a list in bold
        assert re.search(rf"\| {part} \||\*\*{part}:\*\*", text, flags=re.IGNORECASE), part
    for part in ("**Terms**", "**Further reading.**", "## Summary"):
        assert part in text, part
    assert text.count("**Predict.**") >= 5
    assert text.count("**Pitfall") >= 4
    assert text.count("**Check yourself.**") >= 5
    assert text.count("<details><summary>Answer</summary>") == text.count("**Check yourself.**")
    assert any("interact(" in cell.source for cell in cells)


def test_every_lesson_is_on_the_start_page_and_in_the_readme():
    for page in ("notebooks/00_start.ipynb", "README.md"):
        links = " ".join(markdown_links(REPOSITORY / page))
        for lesson in LESSONS:
            assert lesson.name in links
            assert f"exercises/{lesson.stem}/exercises.ipynb" in links


def section_of(notebook: Path, heading: str) -> str:
    """The text of a lesson from a heading to the next one of its rank.

    The errors that a cell shows stand in its metadata, so that the text needs no numbers.
    """
    cells = read(notebook).cells
    text = "\n".join(f"{' '.join(cell.metadata.get('course', {}).get('errors', ()))}\n{cell.source}" for cell in cells)
    start = text.index(f"\n## {heading}\n")
    # The numbers of the heading's own cell stand before it.
    start, end = text.rfind("\n", 0, start), text.find("\n## ", start + 4)
    return text[start : None if end == -1 else end]


def entries_of_the_index() -> dict[int, list]:
    """Number of the error → the cells of its entry, from its heading on."""
    entries: dict[int, list] = {}
    number = None
    for cell in read(REPOSITORY / "notebooks/error_index.ipynb").cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            heading = re.match(r"### E(\d+)\n", cell.source)
            number = int(heading[1]) if heading else None
            assert number not in entries, f"E{number} stands there twice"
        if number is not None:
            entries.setdefault(number, []).append(cell)
    return entries


def test_every_error_has_its_entry_its_numbers_and_its_regression_test():
    tests = "".join(path.read_text("utf-8") for path in REPOSITORY.glob("tests/**/test_*.py"))
    entries = entries_of_the_index()
    assert sorted(entries) == list(range(1, 72))
    for number, cells in entries.items():
        text = cells[0].source
        for part in ("**Symptom.**", "**One-minute test.**", "**Cause.**", "**Fix.**"):
            assert part in text, f"E{number} has no {part}"
        printed = "".join(
            output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs
        )
        first = re.findall(r"^(\w+)\b", printed, flags=re.M)
        assert {"wrong", "right"} <= set(first) or number == 32, f"E{number} shows no wrong and right number"
        assert f"def test_e{number}_" in tests, f"E{number} has no regression test"


def test_the_index_leads_to_the_sections_that_teach_the_errors():
    for number, cells in entries_of_the_index().items():
        _, _, taught = cells[0].source.partition("**Taught in.**")
        for name, anchor in re.findall(r"\]\((\d\d_\w+\.ipynb)#([^\s]+)\)", taught):
            section = section_of(REPOSITORY / "notebooks" / name, anchor.replace("-", " "))
            assert re.search(rf"\bE{number}\b", section), f"E{number} is not in {name}#{anchor}"


def test_every_error_that_a_lesson_shows_is_led_to():
    entries = entries_of_the_index()
    for lesson in LESSONS:
        for cell in read(lesson).cells:
            for error in cell.metadata.get("course", {}).get("errors", ()):
                assert lesson.name in entries[int(error[1:])][0].source, f"{error} does not lead to {lesson.name}"


def test_error_numbers_in_test_names_exist():
    names = re.findall(
        r"def test_e(\d+)_", "".join(path.read_text("utf-8") for path in REPOSITORY.glob("tests/**/test_*.py"))
    )
    assert {int(number) for number in names} <= set(range(1, 72))
