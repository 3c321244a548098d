"""HTML from templates: what comes from data, files or people is always text, never markup."""

from __future__ import annotations

import base64
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

_PACKAGE = Path(__file__).parent.parent


def render(template: str, **values: Any) -> str:
    """Fill a template with values. A value that holds `<` or `&` is escaped, and a missing value is an error.

    Args:
        template: its path within `course_utils`, for example "capstone/templates/report.html".
        values: what the template names. Templates may import the macros of "foundation/templates/macros.html" and
            extend "foundation/templates/page.html", which brings the course's one stylesheet.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
        jinja2.UndefinedError: the template names a value that was not given.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "data_uri": data_uri, "rows": _rows}
    return environment


def data_uri(png: bytes) -> str:
    """The bytes of a PNG as an address that an `<img>` shows without another file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _rows(frame: pd.DataFrame, limit: int) -> list[tuple]:
    return list(frame.head(limit).itertuples(index=False, name=None))


def _cell(value: Any) -> str:
    """A table's value as text: floats with four digits, what is missing as nothing."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
