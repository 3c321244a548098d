"""The homework's modules stand in one order, and each imports only those before it."""

import ast
from pathlib import Path

import pytest

import course_utils.homework

PACKAGE = Path(course_utils.homework.__file__).parent
ORDER = (
    *("settings", "data", "metrics", "statistics"),
    *("engine.base", "engine.reference", "engine.optimizers", "engine.stacks", "engine.batched"),
    *(
        "runs",
        "results",
        "plotting",
        "storage",
        "plans",
        "comparison",
        "chaos",
        "repetition",
        "submission",
        "classroom",
    ),
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported_from_homework(source: str) -> set[str]:
    """All modules of the homework that a source text imports, wherever in it: also in functions and TYPE_CHECKING.

    "" stands for the package itself, which imports all of them.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import; write the whole name"
            names |= {f"{node.module}.{alias.name}." for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {f"{alias.name}." for alias in node.names}
    inside = {
        name.removeprefix("course_utils.homework.") for name in names if name.startswith("course_utils.homework.")
    }
    return {next((module for module in ORDER if name.startswith(f"{module}.")), "") for name in inside}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(map(module_name, MODULES))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_those_before_it(path):
    before = set(ORDER[: ORDER.index(module_name(path))])
    assert imported_from_homework(path.read_text("utf-8")) <= before


def test_plots_and_files_know_results_and_not_each_other():
    sources = {name: (PACKAGE / f"{name}.py").read_text("utf-8") for name in ("plotting", "storage")}
    assert "storage" not in imported_from_homework(sources["plotting"])
    assert "plotting" not in imported_from_homework(sources["storage"])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from course_utils.homework.runs import RunRecord", {"runs"}),
        ("from course_utils.homework import plotting", {"plotting"}),
        ("import course_utils.homework.engine.base as b", {"engine.base"}),
        ("from course_utils.homework.engine import stacks", {"engine.stacks"}),
        ("def f():\n    from course_utils.homework.classroom import ClassReport", {"classroom"}),
        ("if TYPE_CHECKING:\n    from course_utils.homework.comparison import Comparison", {"comparison"}),
        ("from course_utils.homework import compare", {""}),  # through the package, which imports all of it
        ("from course_utils.foundation import plotting", set()),
    ],
)
def test_imports_are_seen_wherever_they_stand(source, found):
    assert imported_from_homework(source) == found
