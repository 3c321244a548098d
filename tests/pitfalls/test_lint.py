"""The check of source texts: every rule on texts of its own, files and notebooks, and no false alarm where all is right."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision

import course_utils
from course_utils.pitfalls import LintFinding, lint_file, lint_source
from course_utils.pitfalls.__main__ import main
from course_utils.pitfalls.lint_rules import RULES
from tests.pitfalls.lint_snippets import SNIPPETS
from tests.support.notebooks import read

REPOSITORY = Path(__file__).parents[2]
HEADER = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
WRONG = [(rule, i, text) for rule, (wrong, _) in SNIPPETS.items() for i, text in enumerate(wrong)]
RIGHT = [(rule, i, text) for rule, (_, right) in SNIPPETS.items() for i, text in enumerate(right)]
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
