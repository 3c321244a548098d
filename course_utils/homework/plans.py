"""Saying beforehand what will be compared: a plan, its digest, and whether a comparison kept it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from course_utils.foundation.arguments import check_choice, describe_value
from course_utils.homework.data import load_splits
from course_utils.homework.metrics import METRICS
from course_utils.homework.results import ComparedRuns
from course_utils.homework.runs import check_different_runs, check_seeds
from course_utils.homework.settings import Setting, expand_grid
from course_utils.homework.storage import (
    DOCUMENT_CHECKS,
    parse_json,
    read_limited,
    read_seeds,
    read_settings,
    setting_to_json,
    to_json,
    write_new,
    wrong_values,
)

KIND = "course_utils.homework plan"
FORMAT = f"{KIND} 1"


@dataclass(frozen=True, repr=False)
class Plan:
    """What will be compared, fixed before the first run.

    Attributes:
        settings, seeds, metric, validation: as in a comparison.
        data: the name of the data set; None for the caller's own.
        data_digest: SHA-256 of the data.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    metric: str
    validation: str
    data: str | None
    data_digest: str = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.settings)} settings × {len(self.seeds)} seeds on {self.data or 'unnamed data'}, "
            f"{self.metric}, {self.validation}, digest {self.digest[:12]}…)"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that is planned, in whatever order the settings and seeds are listed."""
        return hashlib.sha256(to_json(self._content()).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        in_order = {
            "settings": sorted(map(setting_to_json, self.settings), key=to_json),
            "seeds": sorted(self.seeds),
        }
        return {field.name: in_order.get(field.name, getattr(self, field.name)) for field in fields(self)}

    def differences(self, other: Plan) -> list[str]:
        """What the other one plans otherwise: the names of the attributes."""
        theirs = other._content()
        return [name for name, value in self._content().items() if value != theirs[name]]

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON, to be handed in before the runs.

        Raises:
            FileExistsError: `path` holds something else.
        """
        write_new(path, (to_json({"format": FORMAT, **self._content(), "digest": self.digest}) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read what `save` wrote.

        Raises:
            ValueError: there is no such file, or it is no plan, or it was changed.
        """
        try:
            return _from_document(parse_json(read_limited(path)))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} cannot be loaded as a plan: {error}") from None


def _from_document(document: Any) -> Plan:
    names = [field.name for field in fields(Plan)]
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"it is not a file that Plan.save of this version wrote (format {FORMAT!r})")
    if set(document) != {"format", "digest", *names}:
        raise ValueError("it does not have the keys of a plan")
    checks = {name: DOCUMENT_CHECKS[name] for name in names if name in DOCUMENT_CHECKS}
    if problems := wrong_values(document, checks):
        raise ValueError(problems[0])
    read = {"settings": read_settings(document["settings"]), "seeds": read_seeds(document["seeds"])}
    plan = Plan(**{name: read.get(name, document[name]) for name in names})
    if plan.digest != document["digest"]:
        raise ValueError("its digest does not fit what it plans: it was changed")
    return plan


def calls_itself_a_plan(path: str | os.PathLike) -> bool:
    """Is it a plan, of whatever version and in whatever state?"""
    try:
        document = parse_json(read_limited(path))
    except (ValueError, OSError):
        return False
    return isinstance(document, dict) and str(document.get("format")).startswith(KIND)


def register(
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    data: Any = "iris",
    seeds: int | Sequence[int] = 10,
    epochs: int | None = None,
    validation: str = "holdout",
    metric: str = "accuracy",
) -> Plan:
    """Fix what will be compared, before any run: who looks first can choose settings, seeds and metric that look good.

    Give the plan, or its digest, to your teacher, then run `compare` with the same arguments and `plan=plan`, which
    refuses anything else. The handed-in file carries the digest. It proves something only if the teacher had
    the plan before the runs (`collect_class(…, plans=folder)`): a plan can also be made afterwards.

    Args:
        grid, data, seeds, epochs, validation, metric: as for `compare`.

    Raises:
        TypeError, ValueError: as `compare` raises them.

    >>> plan = register({"lr": [0.01, 0.1]}, seeds=5, epochs=100)
    >>> plan.digest == register({"lr": [0.1, 0.01]}, seeds=5, epochs=100).digest
    True
    """
    settings, seeds = expand_grid(grid, epochs=epochs), check_seeds(seeds)
    check_choice(metric, "metric", tuple(METRICS))
    splits = load_splits(data, validation)
    check_different_runs(settings, splits, seeds[0])
    return Plan(tuple(settings), seeds, metric, validation, splits.name, splits.digest)


def plan_of(compared: ComparedRuns) -> Plan:
    """The plan that exactly these runs would have kept."""
    return Plan(**{field.name: getattr(compared, field.name) for field in fields(Plan)})


def check_kept(plan: Plan, now: Plan) -> None:
    """Raise where what is to be compared now is not what was planned."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be what register returned, but is {describe_value(plan)}")
    if different := now.differences(plan):
        raise ValueError(
            f"this is not what was planned: {', '.join(different)} differ(s) from the plan. Compare what was planned; "
            "or compare without the plan, and say in the report that it was not kept"
        )


def is_kept(compared: ComparedRuns) -> bool | None:
    """Is the digest that these runs carry that of a plan for exactly them? None without a plan."""
    return None if compared.plan is None else compared.plan == plan_of(compared).digest
