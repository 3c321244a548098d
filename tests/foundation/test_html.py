"""Templates: what comes from outside is text, what is missing is an error, and no other code writes tags."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pandas as pd
import pytest

import course_utils
from course_utils.foundation.html import data_uri, render

PACKAGE = Path(course_utils.__file__).parent
HOSTILE = "<script>alert('x')</script>\" onload=\"x & y"


class Tags(HTMLParser):
    """Collects the names of all tags and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def render_text(monkeypatch, tmp_path):
    """Render a template that is given as text; imports and inheritance lead to the package's own files."""
    from course_utils.foundation import html

    environment = html._environment()
    return lambda source, **values: environment.from_string(source).render(values)


def test_a_hostile_title_is_text():
    page = Tags(render("foundation/templates/page.html", title=HOSTILE))
    assert "script" not in page.names
    assert page.text.count(HOSTILE) == 2


def test_hostile_table_notice_and_description_are_text(render_text):
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "b"], "n": [0.123456, float("nan")]})
    source = (
        '{% import "foundation/templates/macros.html" as parts %}'
        "{{ parts.table(frame) }}{{ parts.notice(text) }}{{ parts.picture(png, text) }}"
    )
    page = render_text(source, frame=frame, text=HOSTILE, png=b"x")
    tags = Tags(page)
    assert set(tags.names) == {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "img"}
    assert tags.text.count(HOSTILE) == 3
    assert "0.1235" in page
    assert "nan" not in page.lower()


def test_a_long_table_says_what_it_leaves_out(render_text):
    source = '{% import "foundation/templates/macros.html" as parts %}{{ parts.table(frame, 3) }}'
    page = Tags(render_text(source, frame=pd.DataFrame({"n": range(10)})))
    assert page.names.count("tr") == 4
    assert "and 7 more rows" in page.text


def test_a_missing_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("foundation/templates/page.html")
    with pytest.raises(jinja2.TemplateNotFound):
        render("foundation/templates/nothing.html")


def test_a_data_uri_holds_the_bytes():
    assert data_uri(b"\x00\xff") == "data:image/png;base64,AP8="


def is_tag(text: str) -> bool:
    """`<p>`, `</td>`, `<img …`; not `<Figure with 2 axes>` as Python writes objects, nor a comparison."""
    names = "a|b|body|br|code|details|div|h[1-6]|html|img|li|ol|p|pre|span|style|summary|table|td|th|title|tr|ul"
    return re.search(rf"</?({names})[\s/>]", text) is not None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_string_of_the_package_writes_a_tag(path):
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = [
        f"line {node.lineno}: {node.value[:60]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
        if is_tag(node.value)
    ]
    assert not found
