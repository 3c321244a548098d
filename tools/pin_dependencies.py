"""Write the exact versions that the course is tested with into pyproject.toml.

    uv run tools/pin_dependencies.py

uv resolves the floors of pyproject.toml anew, for every platform at once. The versions go into
`[tool.uv] constraint-dependencies`, which binds our two commands and nobody else. uv's own lock file
names the registry that it was made with, so it stays out of git; the constraints work behind any mirror.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
BEGIN = "# >>> exact tested versions, written by tools/pin_dependencies.py\n"
END = "# <<< exact tested versions\n"


def without_pins(pyproject: str) -> str:
    """The text of pyproject.toml with the pinned block taken out."""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), "", pyproject, flags=re.DOTALL).rstrip("\n") + "\n"


def resolve(pyproject: str) -> list[str]:
    """Resolve the floors in an empty folder; return `name==version ; marker` lines."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pyproject.toml").write_text(pyproject, encoding="utf-8")
        for name in ("README.md", "LICENSE", "LICENSE-TEXT"):
            shutil.copy(PYPROJECT.parent / name, folder)
        options = ["--all-groups", "--no-hashes", "--no-annotate", "--no-header", "--no-emit-project"]
        export = subprocess.run(
            ["uv", "export", "--quiet", "--project", folder, *options], check=True, capture_output=True, text=True
        )
    return [line for line in export.stdout.splitlines() if "==" in line]


def main() -> None:
    text = without_pins(PYPROJECT.read_text(encoding="utf-8"))
    pins = resolve(text)
    # [tool.uv] is the last table of the file, so a block at the end belongs to it.
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    PYPROJECT.write_text(f"{text}{BEGIN}constraint-dependencies = [\n{lines}]\n{END}", encoding="utf-8", newline="\n")
    print(f"{len(pins)} versions written to {PYPROJECT.name}")


if __name__ == "__main__":
    main()
