"""Build the course's site from the committed notebooks, without running them and without a network.

    uv run --all-groups tools/build_site.py [--out DIR] [--zip]

The start page comes from the README, the lessons from notebooks/ with their recorded outputs, the exercises from
exercises/, the reference from the package's docstrings. docs/ holds Sphinx's settings and the site's own pages.
Open index.html in the folder that comes out; it needs no server.
"""

import argparse
import base64
import importlib
import re
import shutil
import tempfile
from inspect import isclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sphinx.cmd.build import main as sphinx_build

REPOSITORY = Path(__file__).parent.parent
READING_ORDER = ("00", "01", "07", "02", "03", "04", "05", "06", "08")
CHAPTERS = ("basics", "iris", "interpretation", "optimization", "pitfalls", "advanced", "capstone", "homework")
PACKAGES = (*CHAPTERS, "data", "checks")
# The modules below the chapters that lessons show.
FOUNDATION = ("evaluation", "plotting", "seeding", "training")
LONGEST_DESCRIPTION = 300


def lessons() -> list[Path]:
    """The lessons' notebooks in reading order, which is not the order of their numbers."""
    return [next(REPOSITORY.glob(f"notebooks/{number}_*.ipynb")) for number in READING_ORDER]


def section(readme: str, heading: str) -> str:
    """The text under one `## ` heading of the README, up to the next one."""
    return re.search(rf"^## {re.escape(heading)}\n+(.*?)(?=^## |\Z)", readme, flags=re.DOTALL | re.MULTILINE)[1]


def course_map(table: str) -> str:
    """The README's table as a map of the site: lessons in reading order, then the pages to look things up."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "](" in line]

    def position(row: list[str]) -> int:
        number = re.search(r"notebooks/(\d\d)_", row[1])
        return READING_ORDER.index(number[1]) if number else len(READING_ORDER)

    lines = ["| chapter | exercises | package |", "|---|---|---|"]
    for chapter, lesson, package, exercises in sorted(rows, key=position):
        package = re.sub(r"`course_utils\.(\w+)`", r"[`course_utils.\1`](reference/\1.md)", package)
        lines.append(f"| [{chapter}]{lesson[lesson.index('(') :]} | {exercises} | {package} |")
    return "\n".join(lines)


def figure_description(output: NotebookNode) -> str:
    """The description that a figure of the course gives of itself, shortened to a length that can be listened to."""
    text = output.data.get("text/plain", "").strip("[]")
    words = " ".join(re.sub(r"\\n|[\\\"',]|^- ", " ", text).split())
    return words if len(words) <= LONGEST_DESCRIPTION else words[: LONGEST_DESCRIPTION - 2].rsplit(" ", 1)[0] + " …"


def with_titles(text: str) -> str:
    """The error index's headings, which are only numbers, together with the titles below them: search shows headings.

    The target in brackets keeps the short address, error_index.html#e8.
    """
    return re.sub(r"^(#+ )(E\d+)\n+\*\*(.+)\*\*$", r"(\2)=\n\1\2 · \3", text, flags=re.MULTILINE)


def prepare(notebook: NotebookNode) -> NotebookNode:
    """A notebook as the site shows it: every picture has a description, and what JupyterLab folds away is folded."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.source = with_titles(cell.source)
            continue
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
                image.setdefault("alt", figure_description(output))
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("hide-input")
    return notebook


def first_picture(notebook: NotebookNode) -> tuple[bytes, str]:
    """The first picture of a notebook, and its description."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"]), cell.metadata["mystnb"]["image"]["alt"]
    raise ValueError("this notebook holds no picture")


def start_page(readme: str, description: str) -> str:
    """The README's introduction, map and commands, with the picture that the first lesson opens with."""
    title, promise, details = readme.split("\n## ")[0].strip().split("\n\n", 2)
    return f"""{title}

{promise}

![{description}](start.png)

*A network that reads handwritten digits is shown random grey pixels. Its answer is a digit, and it is sure. How can
that be, and what can one do about it?* [**Begin to read**](notebooks/00_start.ipynb)

{details}

## The course, in reading order

{course_map(section(readme, "The course"))}

## Two commands

{section(readme, "Two commands")}

```{{toctree}}
:hidden:

lessons
Error index <notebooks/error_index>
Glossary <notebooks/glossary>
Cheatsheet <notebooks/cheatsheet>
reference/index
```
"""


def lessons_page() -> str:
    """The list of all lessons, each followed by its exercises: also the order of the links "previous" and "next"."""
    pages = []
    for lesson in lessons():
        pages.append(f"notebooks/{lesson.stem}")
        if (REPOSITORY / "exercises" / lesson.stem).exists():
            pages.append(f"exercises/{lesson.stem}/exercises")
    return "# Lessons and exercises\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"


def reference_page(title: str, modules: list[str]) -> str:
    """One page of the reference: for each module what it is for, a table of its names, then each name in full."""
    parts = [f"# {title}\n"]
    for name in modules:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None)
        if public is None:  # a module without a list: what is defined in it
            public = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name and n[0] != "_"]
        things = {n: getattr(module, n) for n in sorted(public) if callable(getattr(module, n))}
        own = {n: thing for n, thing in things.items() if thing.__module__.startswith(name)}
        elsewhere = [f":py:obj:`{n} <{things[n].__module__}.{n}>`" for n in things if n not in own]
        table = "\n".join(f"   {n}" for n in own)
        full = "\n".join(f".. auto{'class' if isclass(thing) else 'function'}:: {n}" for n, thing in own.items())
        also = f"Also to be had from here: {', '.join(elsewhere)}." if elsewhere else ""
        heading = f"## {name}\n\n" if len(modules) > 1 else ""
        parts.append(
            f"{heading}```{{eval-rst}}\n.. automodule:: {name}\n   :no-members:\n\n.. currentmodule:: {name}\n\n"
            f".. autosummary::\n   :nosignatures:\n\n{table}\n\n{also}\n\n{full}\n```\n"
        )
    return "\n".join(parts)


def write_reference(folder: Path) -> None:
    """One page for each chapter's package, and a page that lists them and the pages of docs/."""
    folder.mkdir()
    for package in PACKAGES:
        name = f"course_utils.{package}"
        folder.joinpath(f"{package}.md").write_text(reference_page(name, [name]), encoding="utf-8")
    modules = [f"course_utils.foundation.{module}" for module in FOUNDATION]
    folder.joinpath("foundation.md").write_text(reference_page("course_utils.foundation", modules), encoding="utf-8")
    more = sorted(f"../docs/{page.stem}" for page in REPOSITORY.glob("docs/*.md"))
    pages = "\n".join([*PACKAGES, "foundation", *more])
    folder.joinpath("index.md").write_text(
        "# Reference\n\nThe package `course_utils`, one page for each chapter's part. The tests run every example."
        f"\n\n```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n",
        encoding="utf-8",
    )


def collect(folder: Path) -> None:
    """Put everything that Sphinx reads into one folder, laid out as the repository is, so that links fit."""
    settings = shutil.ignore_patterns("__pycache__", "*.md")
    shutil.copytree(REPOSITORY / "docs", folder, dirs_exist_ok=True, ignore=settings)
    (folder / "docs").mkdir()
    for page in REPOSITORY.glob("docs/*.md"):
        shutil.copy(page, folder / "docs")
    for path in [*REPOSITORY.glob("notebooks/*.ipynb"), *REPOSITORY.glob("exercises/*/*.ipynb")]:
        notebook = prepare(nbformat.read(path, as_version=4))
        target = folder / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    opening = nbformat.read(folder / "notebooks/00_start.ipynb", as_version=4)
    picture, description = first_picture(opening)
    folder.joinpath("start.png").write_bytes(picture)
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    folder.joinpath("index.md").write_text(start_page(readme, description), encoding="utf-8")
    folder.joinpath("lessons.md").write_text(lessons_page(), encoding="utf-8")
    write_reference(folder / "reference")


def build(out: Path) -> None:
    """Write the site into a folder. A warning of Sphinx, such as a link that leads nowhere, is an error."""
    with tempfile.TemporaryDirectory() as folder:
        source, doctrees = Path(folder, "source"), Path(folder, "doctrees")
        collect(source)
        if sphinx_build(["-q", "-W", "--keep-going", "-b", "html", "-d", str(doctrees), str(source), str(out)]):
            raise SystemExit("The site was not built: mend what the lines above say.")
    for left_over in [*out.rglob("*.map"), out / "_static/webpack-macros.html", out / ".buildinfo"]:
        left_over.unlink(missing_ok=True)  # what the theme's authors need, and nobody else
    shutil.rmtree(out / "_sources", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist/site", help="where to write the site")
    parser.add_argument("--zip", action="store_true", help="also pack it into one file beside the folder")
    arguments = parser.parse_args()
    if arguments.out.exists():
        if any(arguments.out.iterdir()) and not (arguments.out / "searchindex.js").exists():
            raise SystemExit(f"{arguments.out} holds other things than a site: name another folder, or empty it.")
        shutil.rmtree(arguments.out)
    build(arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out / 'index.html'}: {size / 1e6:.1f} MB")
    if arguments.zip:
        packed = shutil.make_archive(str(arguments.out), "zip", arguments.out.parent, arguments.out.name)
        print(f"{packed}: {Path(packed).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
