"""What a check-up says: findings, the worst first."""

from collections.abc import Sequence
from dataclasses import dataclass

SEVERITIES = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: "problem" (results or training are wrong), "warning" (probably not meant) or "note" (good to know).
        check: the name of the check, for example "broadcasting loss".
        message: what was seen, and what to do.
    """

    severity: str
    check: str
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found, the worst first. `str()` says it in words; `ok` is True without problems and warnings."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.severity == "note" for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{finding.severity.upper()} · {finding.check}: {finding.message}" for finding in self.findings]
        return "\n".join(lines) or "Nothing suspicious was found."

    __repr__ = __str__


def listed(names: Sequence, shown: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more
