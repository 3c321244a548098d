"""The check of source texts: every rule on texts of its own, files, the command, no false alarm."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import course_utils
from course_utils.pitfalls import LintFinding, lint_file, lint_source
from course_utils.pitfalls.__main__ import main
from course_utils.pitfalls.lint import ATLAS
from course_utils.pitfalls.lint_rules import RULES
from tests.pitfalls.lint_snippets import SNIPPETS
from tests.support.notebooks import text_of

REPOSITORY = Path(__file__).parents[2]
HEADER = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
WRONG = [(rule, i, text) for rule, (wrong, _) in SNIPPETS.items() for i, text in enumerate(wrong)]
RIGHT = [(rule, i, text) for rule, (_, right) in SNIPPETS.items() for i, text in enumerate(right)]
# What a page shows on purpose, beside the right way. The index of errors shows nothing else.
SHOWN = {
    "01_basics": {"log-of-softmax", "probabilities-into-cross-entropy"},
    "03_optimization": {"log-of-softmax"},
    "04_pitfalls": {"exp-then-clamp", "callers-tensor-changed"},
    "error_index": set(RULES),
}
SOFTMAX = "import torch.nn.functional as F\np = F.softmax(z)\n"


def ids(cases: list) -> list[str]:
    return [f"{rule}-{i}" for rule, i, _ in cases]


@pytest.mark.parametrize(("rule", "i", "text"), WRONG, ids=ids(WRONG))
def test_wrong_text_is_found_where_it_is_wrong(rule, i, text):
    text = HEADER + text
    marked = [(number, rule) for number, line in enumerate(text.splitlines(), 1) if line.endswith("# <<")]
    assert marked
    assert [(finding.line, finding.rule) for finding in lint_source(text)] == marked


@pytest.mark.parametrize(("rule", "i", "text"), RIGHT, ids=ids(RIGHT))
def test_right_text_is_left_alone(rule, i, text):
    assert lint_source(HEADER + text) == []


def test_every_rule_has_wrong_and_right_texts():
    assert set(SNIPPETS) == set(RULES)
    assert len(RULES) >= 20
    for rule, (wrong, right) in SNIPPETS.items():
        assert len(wrong) >= 2, rule
        assert len(right) >= 2, rule


def test_rules_say_why_and_what_instead():
    for rule in RULES.values():
        assert rule.error is None or 1 <= rule.error <= 71
        assert len(rule.why) > 30
        assert rule.fix
        assert not rule.why.endswith("."), rule.name
        assert not rule.fix.endswith("."), rule.name


# What is right is left alone


@pytest.mark.slow
def test_no_false_alarm_on_torchvision():
    found = [finding for path in Path(torchvision.__file__).parent.rglob("*.py") for finding in lint_file(path)]
    assert not found, "\n".join(map(str, found))


def test_no_false_alarm_on_this_package():
    """`course_utils.checks` holds known mistakes as code, and is left out."""
    package = Path(course_utils.__file__).parent
    paths = [path for path in package.rglob("*.py") if "checks" not in path.parts]
    assert len(paths) > 80
    found = [finding for path in paths for finding in lint_file(path)]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("solutions/*/exercises.ipynb")), ids=lambda path: path.parent.name
)
def test_no_false_alarm_on_the_solutions(path):
    assert lint_file(path) == []


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_lessons_are_wrong_only_where_they_show_an_error(path):
    for finding in lint_file(path):
        assert finding.rule in SHOWN.get(path.stem, ()), str(finding)


def test_links_lead_to_entries_of_the_index():
    headings = re.findall(r"^#+ (E\d+)$", text_of(REPOSITORY / ATLAS), flags=re.MULTILINE)
    assert {f"E{rule.error}" for rule in RULES.values() if rule.error} <= set(headings)


def test_known_mistakes_of_the_exercises_are_found():
    """The other way round: mistakes that the checks keep as code are seen by the rules."""
    found = {finding.rule for path in REPOSITORY.glob("course_utils/checks/*.py") for finding in lint_file(path)}
    assert "probabilities-into-cross-entropy" in found


def test_any_python_can_be_read():
    """Whatever stands there, the rules never fail: code that has nothing to do with networks, and code full of them."""
    folders = [Path(json.__file__).parent, Path(asyncio.__file__).parent, REPOSITORY / "tests/pitfalls"]
    folders += [REPOSITORY / "tests/support", REPOSITORY / "tests/advanced", REPOSITORY / "tools"]
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(paths) > 80
    for path in paths:
        findings = lint_file(path)
        assert findings == sorted(findings, key=lambda finding: finding.line)
        assert all(finding.rule in RULES for finding in findings)


def test_findings_come_in_the_order_of_the_text():
    wrong = [text for rule, (several, _) in SNIPPETS.items() for text in several if rule != "eval-missing"]
    findings = lint_source(HEADER + "".join(wrong[::-1]))
    assert len(findings) > 50
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([text for _, _, text in WRONG + RIGHT]), min_size=1, max_size=4), st.data())
def test_half_a_text_is_read_or_refused(texts, data):
    """Texts that end anywhere are parsed and searched, or refused as no Python; nothing else can happen."""
    text = HEADER + "".join(texts)
    part = text[: data.draw(st.integers(0, len(text)))]
    try:
        compile(part, "part", "exec")
    except SyntaxError:
        with pytest.raises(ValueError, match="this is not Python"):
            lint_source(part)
    else:
        assert all(1 <= finding.line <= part.count("\n") + 1 for finding in lint_source(part))


# What a finding says


def test_a_finding_says_where_what_why_and_what_instead():
    (finding,) = lint_source(SOFTMAX, "train.py")
    assert finding == LintFinding(
        "softmax-without-dim",
        "train.py",
        None,
        2,
        "p = F.softmax(z)",
        RULES["softmax-without-dim"].why,
        RULES["softmax-without-dim"].fix,
        "notebooks/error_index.ipynb#E39",
    )
    first, code, why, fix, see = str(finding).splitlines()
    assert first == "train.py:2: softmax-without-dim"
    assert code == "    p = F.softmax(z)"
    assert why.startswith("    Why: without dim, torch guesses")
    assert fix == "    Fix: write the axis of the classes: dim=1, or dim=-1."
    assert see == "    See: notebooks/error_index.ipynb#E39"


def test_a_rule_without_a_measured_error_has_no_link():
    (finding,) = lint_source("import torch\nwith torch.no_grad:\n    pass\n")
    assert finding.link == ""
    assert "See:" not in str(finding)


@pytest.mark.parametrize(
    "text",
    [
        "p = F.softmax(z)  # wrong on purpose",
        "# wrong on purpose: no dim\np = F.softmax(z)",
        "p = F.softmax(\n    z\n)  # Wrong on purpose",
    ],
)
def test_what_is_wrong_on_purpose_is_passed_over(text):
    assert lint_source(f"import torch.nn.functional as F\n{text}\n") == []


def test_one_mark_covers_one_statement():
    text = "import torch.nn.functional as F\np = F.softmax(z)  # wrong on purpose\nq = F.softmax(z)\n"
    assert [finding.line for finding in lint_source(text)] == [3]


# Files


def notebook(*sources: str, **metadata) -> str:
    cells = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": source.splitlines(True)} for source in sources
    ]
    cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": "# F.softmax(z)"})
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def test_names_lead_from_cell_to_cell(tmp_path):
    """The number of a cell is the one that Jupyter shows: Markdown and empty cells have none."""
    path = tmp_path / "lesson.ipynb"
    path.write_text(notebook("import torch.nn.functional as F", "  \n", "z = 1\n\n\np = F.softmax(z)"), "utf-8")
    (finding,) = lint_file(path)
    assert (finding.cell, finding.line, finding.code) == (2, 4, "p = F.softmax(z)")
    assert str(finding).startswith(f"{path}: cell [2], line 4: softmax-without-dim")


@pytest.mark.parametrize(
    "magic",
    [
        "%matplotlib inline\n!pip install torch\nz = 2",
        "%%time\nz = 2\n",
        "files = !ls\nname, other = %who\nz?\n",
        "%%bash\nfor x in *; do echo $x; done\n",
        "for i in range(3):\n    !echo {i}\n    %time i\n",
        "  import math\n  !ls\n",
        "print(await answer())",
    ],
)
def test_magics_are_left_out_and_lines_keep_their_numbers(tmp_path, magic):
    path = tmp_path / "lesson.ipynb"
    path.write_text(notebook("import torch.nn.functional as F", magic, "\np = F.softmax(z)"), "utf-8")
    (finding,) = lint_file(path)
    assert (finding.cell, finding.line) == (3, 2)


def test_python_under_a_timing_magic_is_read(tmp_path):
    path = tmp_path / "lesson.ipynb"
    path.write_text(notebook("import torch.nn.functional as F", "%%time\np = F.softmax(z)"), "utf-8")
    assert [(finding.cell, finding.line) for finding in lint_file(path)] == [(2, 2)]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + SOFTMAX.encode(),
        SOFTMAX.replace("\n", "\r\n").encode(),
        ("# coding: latin-1\n# Grüße\n" + SOFTMAX).encode("latin-1"),
    ],
    ids=["byte order mark", "line ends of Windows", "declared encoding"],
)
def test_files_of_other_systems_are_read(tmp_path, content):
    path = tmp_path / "train.py"
    path.write_bytes(content)
    (finding,) = lint_file(str(path))
    assert finding.code == "p = F.softmax(z)"


def test_empty_files_have_no_findings(tmp_path):
    for name, text in (("a.py", ""), ("b.ipynb", notebook("")), ("c.ipynb", '{"cells": []}')):
        (tmp_path / name).write_text(text, "utf-8")
        assert lint_file(tmp_path / name) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"def f(:\n", r"a\.py, line 1: this is not Python: invalid syntax"),
        ("a.py", b"x = '\xe4'\n", "not text in UTF-8"),
        ("a.py", b"# coding: klingon\n", "unknown encoding"),
        ("a.py", b"x = 1\0", "this is not Python"),
        ("a.py", b"(" * 5000, "this is not Python"),
        ("a.txt", b"x = 1", r"a\.txt must be a Python file \(\.py\) or a notebook"),
        ("a.ipynb", b"x = 1", "not a notebook: it is not JSON"),
        ("a.ipynb", b"\xff\xfe", "not a notebook: it is not JSON"),
        ("a.ipynb", b"[1, 2]", "not a notebook of format 4: it has no cells"),
        ("a.ipynb", b'{"worksheets": []}', "not a notebook of format 4: it has no cells"),
        ("a.ipynb", notebook("x <- 1", kernelspec={"language": "R"}).encode(), "a notebook in R, not in Python"),
        ("a.ipynb", notebook("x = 1", "y = 2\nfor\n").encode(), r"cell \[2\], line 2: this is not Python"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        lint_file(tmp_path / name)


def test_missing_files_and_other_types_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        lint_file(tmp_path / "none.py")
    with pytest.raises(TypeError, match="text must be a string of Python, but is bytes"):
        lint_source(b"x = 1")


# The command


def test_the_command_answers_with_its_status(tmp_path, capsys):
    wrong, right, broken = tmp_path / "wrong.py", tmp_path / "right.py", tmp_path / "broken.py"
    wrong.write_text(SOFTMAX, "utf-8")
    right.write_text("x = 1\n", "utf-8")
    broken.write_text("def\n", "utf-8")
    assert main(["lint", str(right)]) == 0
    assert capsys.readouterr().out == "0 findings in 1 of 1 files\n"
    assert main(["lint", str(wrong), str(right)]) == 1
    out = capsys.readouterr().out
    assert "wrong.py:2: softmax-without-dim" in out
    assert out.endswith("1 finding in 2 of 2 files\n")
    assert main(["lint", str(wrong), str(broken), str(tmp_path / "none.py")]) == 2
    printed = capsys.readouterr()
    assert printed.out.endswith("1 finding in 1 of 3 files\n")
    assert "broken.py, line 1: this is not Python" in printed.err
    assert "No such file" in printed.err
    with pytest.raises(SystemExit) as stopped:
        main(["lint"])
    assert stopped.value.code == 2


def test_the_command_runs_nothing_of_the_file(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\nimport no_such_module\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "course_utils.pitfalls", "lint", str(path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "trace").exists()


def test_the_page_describes_every_rule():
    page = (REPOSITORY / "docs/lint.md").read_text("utf-8")
    for rule in RULES.values():
        assert f"| `{rule.name}` | {rule.why} | {rule.fix} |" in page, rule.name
    assert page.count("\n| `") == len(RULES)
