"""Every public function with every kind of model that people bring: the right answer, or a sentence that refuses it."""

import functools
import re
import traceback
from importlib import import_module
from inspect import isfunction, signature
from typing import Any

import pytest
import torch
from write_model_table import PAGE, page

from tests.support.calls_with_models import CALLS, form, same
from tests.support.kinds_of_models import KINDS, PLAIN_TWINS, make_case
from tests.support.verdicts_on_models import AFTER_THE_MODEL, DOES_NOT_APPLY, REFUSED, verdicts

CHAPTERS = ("basics", "interpretation", "optimization", "pitfalls", "advanced", "iris", "capstone")


@functools.cache
def answer_of_twin(function: str, kind: str) -> Any:
    call = CALLS[function]
    return call.answer(make_case(kind, call.domain, twin=True))


def answer_of(function: str, kind: str) -> Any:
    call = CALLS[function]
    case = make_case(kind, call.domain)
    if kind != "float64":
        return call.answer(case)
    torch.set_default_dtype(torch.float64)
    try:
        return call.answer(case)
    finally:
        torch.set_default_dtype(torch.float32)


def pattern(words: str) -> str:
    return re.escape(words).replace("…", ".*")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", CALLS)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:the gradient of:UserWarning")
def test_right_or_refused_with_a_sentence(function, kind):
    expected = verdicts()[function, kind]
    if expected.verdict == DOES_NOT_APPLY:
        assert len(expected.why) > 20  # the reason stands in the table, so there is nothing to try
        return
    if expected.verdict == REFUSED:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=pattern(expected.why)) as caught:
            answer_of(function, kind)
        assert "course_utils" in traceback.extract_tb(caught.tb)[-1].filename, "torch's words, not ours"
        return
    answer = answer_of(function, kind)
    twin = answer_of_twin(function, "plain" if kind in PLAIN_TWINS else kind)
    if expected.why:
        assert same(answer, answer_of(function, kind), 0.0)
        assert form(answer) == form(twin)
    else:
        assert same(answer, twin, max(KINDS[kind].tolerance, CALLS[function].tolerance))


def test_every_function_that_takes_a_model_is_tried():
    named = {"model", "models", "model_or_parameters"}
    public = {
        f"{chapter}.{name}": value
        for chapter in CHAPTERS
        for name, value in vars(import_module(f"course_utils.{chapter}")).items()
        if name in import_module(f"course_utils.{chapter}").__all__ and isfunction(value)
    }
    takes_models = {name for name, function in public.items() if named & set(signature(function).parameters)}
    assert len(takes_models) > 30
    assert takes_models == set(CALLS) - set(AFTER_THE_MODEL) | {"pitfalls.gradient_clipping"}


def test_the_kinds_are_what_they_say():
    """A test of the test: a twin is another computation, and the kinds differ from the plain model."""
    assert len(KINDS) == 20
    models = {kind: make_case(kind, "rows").model for kind in KINDS if kind != "plain"}
    assert isinstance(models["scripted"], torch.jit.ScriptModule)
    assert isinstance(models["compiled"], torch._dynamo.OptimizedModule)
    assert models["tied"].body[0].weight is models["tied"].body[2].weight
    assert bool((models["pruned"].head.weight == 0).any())
    assert {kind: next(models[kind].parameters()).dtype for kind in ("half", "bfloat16", "float64")} == {
        kind: KINDS[kind].dtype for kind in ("half", "bfloat16", "float64")
    }
    case = make_case("in-place", "rows")
    before = case.inputs.clone()
    case.model(case.inputs)
    assert not torch.equal(case.inputs, before)
    noisy = make_case("stochastic", "rows")
    assert not torch.equal(noisy.model.eval()(noisy.inputs), noisy.model(noisy.inputs))


def test_a_wrong_answer_would_be_seen():
    """A test of the test: `same` sees one wrong number in many, another shape, and another word."""
    answer = [torch.ones(100), ["a", 0.5]]
    assert same(answer, answer, 0.0)
    wrong = torch.ones(100)
    wrong[50] = 1.1
    for other in ([wrong, ["a", 0.5]], [torch.ones(101), ["a", 0.5]], [torch.ones(100), ["b", 0.5]], [torch.ones(100)]):
        assert not same(other, answer, 0.05)
    assert not same(torch.tensor(float("nan")), torch.tensor(1.0), 0.05)


def test_the_documentation_has_this_table():
    assert PAGE.read_text("utf-8") == page(), "run tools/write_model_table.py"
