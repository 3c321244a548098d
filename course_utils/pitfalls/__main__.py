"""Look for errors on network outputs in Python files and notebooks; nothing in them is run.

python -m course_utils.pitfalls lint train.py lesson.ipynb

The exit status is 0 without findings, 1 with some, 2 if a file cannot be read.
"""

import argparse
import sys
from collections.abc import Sequence

from course_utils.pitfalls.lint import lint_file

PROGRAM = "python -m course_utils.pitfalls"


def main(arguments: Sequence[str] | None = None) -> int:
    files = parse(arguments).files
    found = unreadable = 0
    for file in files:
        try:
            findings = lint_file(file)
        except (OSError, ValueError) as error:
            print(f"{PROGRAM}: error: {error}", file=sys.stderr)
            unreadable += 1
            continue
        for finding in findings:
            print(finding, end="\n\n")
        found += len(findings)
    print(f"{found} finding{'' if found == 1 else 's'} in {len(files) - unreadable} of {len(files)} files")
    return 2 if unreadable else int(found > 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    lint = commands.add_parser("lint", help="look for errors that can be seen in a source text")
    lint.add_argument("files", nargs="+", metavar="FILE", help="a Python file (.py) or a notebook (.ipynb)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
