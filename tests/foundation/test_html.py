"""Templates: what comes from outside is text, what is missing is an error, and no other code writes tags."""

from html.parser import HTMLParser

import jinja2
import pandas as pd
import pytest

from course_utils.foundation.html import data_uri, render

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
