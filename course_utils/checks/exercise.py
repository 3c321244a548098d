"""How an exercise is checked.

A learner's function and a reference solution run on the same cases of real data, and what they return is compared.
When they differ, every known mistake of the exercise runs on that case too. A mistake that returns what the learner's
function returned explains it, and its hint is shown. So the catalogue of mistakes is not a list of guesses in prose:
each entry is code, and the tests feed each one to the check and expect its own hint.
"""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from course_utils.foundation.arguments import describe_value, dtype_name
from course_utils.foundation.seeding import isolated_randomness

CHAPTERS = ("basics", "interpretation", "optimization", "pitfalls", "advanced", "capstone", "iris", "homework")


class CheckFailed(AssertionError):
    """An answer is not right yet. Jupyter shows only the message: the traceback would point into our code."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer: its name, what to tell the learner, and the wrong code itself."""

    name: str
    hint: str
    answer: Callable


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name: "chapter.exercise".
        praise: said when the answer is right; one sentence on what it is good for.
        reference: a right answer.
        cases: seed → list of argument tuples, drawn from real data.
        wrong_answers: the catalogue of known mistakes: name → (what to tell the learner, the wrong code itself). At the
            first match the search stops, so the special ones stand before the general ones.
        observe: runs an answer on one case and returns what is compared; by default the value it returns.
        tolerance: absolute and relative, on floating point values.
    """

    name: str
    praise: str
    reference: Callable
    cases: Callable[[int], list[tuple]]
    wrong_answers: dict[str, tuple[str, Callable]]
    observe: Callable[..., Any] = lambda answer, *arguments: answer(*arguments)
    tolerance: float = 1e-5

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        return tuple(Mistake(name, hint, answer) for name, (hint, answer) in self.wrong_answers.items())


def check(name: str, answer: Callable, *, seed: int = 0) -> None:
    """Check an answer to an exercise; print a line of praise, or raise `CheckFailed` with what is wrong.

    Args:
        name: of the exercise, for example "basics.tumour_probability".
        answer: the learner's function.
        seed: which cases are drawn; grading uses another one than the learner sees.

    After a failure, `check.last_case()` returns the arguments of the case that failed.

    Raises:
        CheckFailed: not implemented, raises an error, or returns something else than expected.
        ValueError: an unknown exercise.
    """
    _failed.clear()
    chapter = str(name).partition(".")[0]
    known = _of_chapter(chapter) if chapter in CHAPTERS else {}  # the other chapters' libraries take seconds to load
    if name not in known:
        raise ValueError(f"there is no exercise {name!r}; there are {', '.join(exercises())}")
    exercise = known[name]
    if not callable(answer):
        raise CheckFailed(f"✗ {name}: expected a function, but got {describe_value(answer)}.")
    with isolated_randomness(0):  # making models for the cases draws random numbers
        cases = exercise.cases(seed)
    for number, case in enumerate(cases, start=1):
        _failed[:] = [case]  # stays if the next line raises
        _check_case(exercise, answer, case, number)
    _failed.clear()
    print(f"✓ {name}: right. {exercise.praise}")


_failed: list[tuple] = []  # the arguments of the case that the last check stopped at, or nothing


def last_case() -> tuple:
    """The arguments of the case at which the last check stopped, as a copy: call your own function with them.

    Raises:
        LookupError: no check has run yet, or the last one passed.
    """
    if not _failed:
        raise LookupError("there is no failed case: the last check passed, or none has run yet")
    return copy.deepcopy(_failed[0])


check.last_case = last_case  # so that learners need no other import than check


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises of the course by name."""
    return {name: exercise for chapter in CHAPTERS for name, exercise in _of_chapter(chapter).items()}


@cache
def _of_chapter(chapter: str) -> dict[str, Exercise]:
    return {exercise.name: exercise for exercise in import_module(f"course_utils.checks.{chapter}").EXERCISES}


def _check_case(exercise: Exercise, answer: Callable, case: tuple, number: int) -> None:
    expected = _run(exercise, exercise.reference, case)
    # The answer gets copies, so that a changed argument is seen and does not spoil the comparison.
    mine = copy.deepcopy(case)
    try:
        got = _run_and_watch(exercise, answer, mine)
    except CheckFailed:
        raise
    except Exception as error:
        # torch raises NotImplementedError too, so only the starter's own words count.
        if isinstance(error, NotImplementedError) and str(error) == "not implemented yet":
            message = f"✗ {exercise.name}: not implemented yet. Replace the raise line with your answer."
            raise CheckFailed(message) from None
        got = error
    try:
        difference = _difference(expected, got, exercise.tolerance)
    except Exception as error:  # a sparse tensor, one on another device, …
        difference = f"It cannot be compared with the expected value: {error}"
    if difference is None:
        if any(_difference(before, after, 0) for before, after in zip(case, mine, strict=True)):
            raise CheckFailed(
                f"✗ {exercise.name}: the value is right, but your function changed its arguments in place. "
                "Whoever calls it still needs them: compute a new tensor instead (x = x + 1, not x += 1)."
            )
        if _wants_gradient(case) != _wants_gradient(mine):
            raise CheckFailed(
                f"✗ {exercise.name}: the value is right, but your function changed requires_grad of an argument or of "
                "a parameter, and whoever trains with it next will wonder. Work on a copy: x.detach().clone()."
            )
        return
    lines = [
        f"✗ {exercise.name}: not right yet (case {number}).",
        f"  input:    {', '.join(map(_show, case)) or 'none'}",
        f"  expected: {_show(expected)}",
        f"  got:      {_show(got)}",
        f"  {difference}",
    ]
    mistake = _recognise(exercise, case, got)
    if mistake is not None:
        lines.append(f"  This looks like: {mistake.name}. {mistake.hint}")
    lines.append("  To try this input yourself: arguments = check.last_case(); your_function(*arguments)")
    raise CheckFailed("\n".join(lines)) from None


def _run_and_watch(exercise: Exercise, answer: Callable, case: tuple) -> Any:
    """Run a learner's answer, and give back what it has switched for everybody."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        got = _run(exercise, answer, case)
        if (torch.is_grad_enabled(), torch.get_default_dtype()) != (gradients, dtype):
            raise CheckFailed(
                f"✗ {exercise.name}: your function switched gradients or the default dtype for everybody, and left it "
                "so. Use a with block: with torch.no_grad(): …"
            )
        return got
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


def _wants_gradient(value: Any) -> Any:
    """`requires_grad` of every tensor and parameter in arguments."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, torch.nn.Module):
        return [parameter.requires_grad for parameter in value.parameters()]
    if isinstance(value, (tuple, list)):
        return [_wants_gradient(part) for part in value]
    return None


def _run(exercise: Exercise, answer: Callable, case: tuple) -> Any:
    # The same random numbers for everyone, and the learner's own stream is not disturbed.
    with isolated_randomness(0):
        return exercise.observe(answer, *case)


def _recognise(exercise: Exercise, case: tuple, got: Any) -> Mistake | None:
    for mistake in exercise.mistakes:
        try:
            wrong = _run(exercise, mistake.answer, copy.deepcopy(case))
        except Exception as error:
            wrong = error
        with contextlib.suppress(Exception):  # what cannot be compared is no match
            if _difference(wrong, got, exercise.tolerance) is None:
                return mistake
    return None


def _difference(expected: Any, got: Any, tolerance: float) -> str | None:
    """Say how two values differ, or return None if they do not."""
    if isinstance(got, Exception):
        same = isinstance(expected, Exception) and str(expected) == str(got) and type(expected) is type(got)
        return None if same else "Your function raised this error instead of returning a value."
    if isinstance(expected, Exception):
        return "One raises an error, the other does not."
    if isinstance(expected, Tensor):
        return _tensor_difference(expected, got, tolerance)
    if isinstance(expected, torch.nn.Module):
        return _difference(expected.state_dict(), getattr(got, "state_dict", dict)(), tolerance)
    if isinstance(expected, dict):
        if not isinstance(got, dict) or list(expected) != list(got):
            return f"It must have the entries {list(expected)}."
        parts = ((key, _difference(expected[key], got[key], tolerance)) for key in expected)
        return next((f"In the entry {key!r}: {text}" for key, text in parts if text), None)
    if isinstance(expected, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(expected) != len(got):
            return f"It must be {len(expected)} values."
        parts = ((i, _difference(a, b, tolerance)) for i, (a, b) in enumerate(zip(expected, got, strict=True)))
        return next((f"In value {i}: {text}" for i, text in parts if text), None)
    if isinstance(expected, float):
        if isinstance(got, bool) or not isinstance(got, (int, float)):
            return "It must be a Python float (for a tensor of one element: .item())."
        # float(): NumPy's float64 is a float too, but torch would give it another dtype.
        values = torch.tensor([float(got), float(expected)], dtype=torch.float64)
        close = torch.isclose(values[0], values[1], rtol=tolerance, atol=tolerance, equal_nan=True)
        return None if close else f"It is off by {float(got) - expected:+.4g}."
    if isinstance(expected, int) and isinstance(got, Tensor):
        return f"It must be the plain number {_show(expected)}, but is a tensor (of one element: .item())."
    # Objects without an own == (scalers, texts) are arguments: the same kind is all that can be asked.
    if type(expected) is not type(got) or not (expected == got or type(expected).__eq__ is object.__eq__):
        return f"It must be {_show(expected)}."
    return None


def _tensor_difference(expected: Tensor, got: Any, tolerance: float) -> str | None:
    if not isinstance(got, Tensor):
        return f"It must be a tensor, but is {describe_value(got)}."
    if got.shape != expected.shape:
        return f"The shape must be {tuple(expected.shape)}, but is {tuple(got.shape)}."
    kinds = [(values.is_floating_point(), values.dtype == torch.bool) for values in (expected, got)]
    if kinds[0] != kinds[1]:
        return f"The dtype must be {dtype_name(expected.dtype)}, but is {dtype_name(got.dtype)}."
    wrong = ~torch.isclose(got.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    if wrong.any():
        first = tuple(torch.nonzero(wrong)[0].tolist())
        return (
            f"{int(wrong.sum())} of {wrong.numel()} values differ; the first at {list(first)}: "
            f"expected {expected[first].item():.4g}, got {got[first].item():.4g}."
        )
    return None


def _show(value: Any) -> str:
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, Tensor):
        numbers = ", ".join(f"{number:.4g}" for number in value.detach().flatten()[:6].tolist())
        more = ", …" if value.numel() > 6 else ""
        return f"{dtype_name(value.dtype)} {tuple(value.shape)} [{numbers}{more}]"
    if isinstance(value, torch.nn.Module):
        return f"a network, {type(value).__name__}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_show(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(_show(part) for part in value) + ")"
    return repr(value)
