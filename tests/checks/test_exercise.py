"""The exercises, both ways: solutions pass, untouched starters and known mistakes fail, each with its own words."""

import ast
import functools
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from course_utils.checks import CheckFailed, check, exercises
from tests.support.notebooks import code_cells, read

REPOSITORY = Path(__file__).parents[2]


SOLUTIONS = sorted(REPOSITORY.glob("solutions/*/*.ipynb"))


ALL = exercises()


MISTAKES = [(name, mistake) for name, exercise in ALL.items() for mistake in exercise.mistakes]


@functools.cache
def solution_cells() -> dict[str, str]:
    """The solved functions of all solution notebooks by name of the exercise that checks them."""
    found = {}
    for path in SOLUTIONS:
        setup = code_cells(path)[0].source
        for solution, test in pairwise(read(path).cells):
            if solution.metadata.get("nbgrader", {}).get("solution"):
                found[test.source.split('"')[1]] = f"{setup}\n{solution.source}"
    return found


def function_in(code: str):
    """Run a cell and return the last function it defines."""
    names: dict = {}
    exec(code, names)  # our own notebooks
    return names[[node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)][-1]]


def test_every_exercise_is_in_a_solution_notebook():
    assert set(solution_cells()) == set(ALL)
    for path in SOLUTIONS:
        chapter_exercises = [name for name in ALL if name.split(".")[0] in path.parent.name.split("_")]
        assert 3 <= len(chapter_exercises) <= 8


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", [0, 1, 2024])
def test_the_notebooks_solution_passes(name, seed, capsys):
    check(name, function_in(solution_cells()[name]), seed=seed)
    assert capsys.readouterr().out.startswith(f"✓ {name}: right.")


@pytest.mark.parametrize("name", ALL)
def test_the_untouched_starter_is_not_implemented_yet(name):
    chapter = name.split(".")[0]
    path = next(path for path in REPOSITORY.glob("exercises/*/*.ipynb") if chapter in path.parent.name)
    cells = read(path).cells
    position = next(i for i, cell in enumerate(cells) if f'check("{name}"' in cell.source)
    starter = function_in(f"{code_cells(path)[0].source}\n{cells[position - 1].source}")
    with pytest.raises(CheckFailed, match="not implemented yet"):
        check(name, starter)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{name}: {m.name}" for name, m in MISTAKES])
@pytest.mark.parametrize("seed", [0, 2024])
def test_a_known_mistake_gets_its_own_hint(name, mistake, seed):
    with pytest.raises(CheckFailed) as failed:
        check(name, mistake.answer, seed=seed)
    message = str(failed.value)
    assert f"This looks like: {mistake.name}. {mistake.hint}" in message
    assert "expected:" in message
    assert "got:" in message


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_wrong_answer_is_refused_without_a_guess(name):
    def wrong(*arguments):
        return torch.full((3, 1, 2), 12.5)

    with pytest.raises(CheckFailed) as failed:
        check(name, wrong)
    assert "This looks like" not in str(failed.value)


@pytest.mark.parametrize("name", ALL)
def test_a_crash_is_reported_with_its_words(name):
    def crashing(*arguments):
        raise KeyError("petal")

    with pytest.raises(CheckFailed, match="KeyError: 'petal'"):
        check(name, crashing)


def test_each_catalogue_has_at_least_four_mistakes():
    assert min(len(exercise.mistakes) for exercise in ALL.values()) >= 4


def test_changing_the_arguments_is_noticed():
    def in_place(logits):
        return logits.sigmoid_()[:, 0]

    with pytest.raises(CheckFailed, match="changed its arguments in place"):
        check("basics.tumour_probability", in_place)


def test_freezing_the_callers_model_is_noticed():
    def freezing(model, x, y, eps):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
        model.requires_grad_(False)
        return (x - eps * gradient.sign()).clamp(0, 1)

    with pytest.raises(CheckFailed, match="changed requires_grad"):
        check("advanced.one_step", freezing)


def test_switching_gradients_off_for_everybody_is_noticed_and_undone():
    def switching(model, x, y):
        torch.set_grad_enabled(False)
        was = [module.training for module in model.modules()]
        share = (model.eval()(x).argmax(1) == y).float().mean().item()
        for module, training in zip(model.modules(), was, strict=True):
            module.training = training
        return share

    with pytest.raises(CheckFailed, match="for everybody"):
        check("iris.evaluate", switching)
    assert torch.is_grad_enabled()


def test_two_forward_passes_are_noticed():
    def twice(model, x):
        model(x)
        return function_in(solution_cells()["pitfalls.first_broken_layer"])(model, x)

    with pytest.raises(CheckFailed, match="forward passes"):
        check("pitfalls.first_broken_layer", twice)


def test_whole_numbers_are_no_bools():
    sets = function_in(solution_cells()["advanced.prediction_sets"])
    with pytest.raises(CheckFailed, match="dtype must be bool"):
        check("advanced.prediction_sets", lambda *arguments: sets(*arguments).long())


def test_half_restored_modes_are_noticed():
    def outermost_only(model, x, y):
        was = model.training
        model.eval()
        share = (model(x).argmax(1) == y).float().mean().item()
        model.training = was  # dropout stays off
        return share

    with pytest.raises(CheckFailed, match="training modes afterwards"):
        check("iris.evaluate", outermost_only)


def test_a_training_loop_written_without_an_optimizer_passes():
    def by_hand(model, x, y, lr, steps):
        losses = []
        for _ in range(steps):
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= lr * parameter.grad
            losses.append(loss.item())
        return losses

    check("iris.train_loop", by_hand)


def test_losses_that_still_hold_their_graph_are_told_to_become_numbers():
    def with_graphs(model, x, y, lr, steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(model(x), y))
            losses[-1].backward()
            optimizer.step()
        return losses

    with pytest.raises(CheckFailed, match=r"losses that are tensors\. Append loss\.item\(\)"):
        check("iris.train_loop", with_graphs)


def test_a_tensor_for_a_whole_number_is_told_to_become_one():
    def with_a_wrong_confidence(model, scaler, flower):
        label, confidence = function_in(solution_cells()["iris.classify_flower"])(model, scaler, flower)
        return torch.tensor(label), confidence / 2

    with pytest.raises(CheckFailed, match=r"the plain number 2, but is a tensor \(of one element: \.item\(\)\)"):
        check("iris.classify_flower", with_a_wrong_confidence)


@pytest.mark.parametrize("last_of_equals", [False, True])
def test_which_of_equally_probable_tokens_stays_is_left_open(last_of_equals):
    def by_sorting(logits, temperature, top_k):
        order = logits.sort(descending=True, stable=True).indices
        if last_of_equals:
            order = len(logits) - 1 - logits.flip(0).sort(descending=True, stable=True).indices
        powers = torch.zeros_like(logits)
        powers[order[:top_k]] = torch.exp(logits[order[:top_k]] / temperature)
        return powers / powers.sum()

    check("interpretation.sampling_distribution", by_sorting)


def test_a_missing_infinity_is_told_in_words_and_not_as_an_index():
    def without_infinity(errors, coverage):
        return float(sorted(errors)[math.ceil((len(errors) + 1) * coverage) - 1])

    with pytest.raises(CheckFailed, match=r"The rank is larger than the number of samples.*return math\.inf"):
        check("interpretation.interval_width", without_infinity)


@pytest.mark.parametrize("seed", [0, 1, 2024])
def test_costs_in_plain_numbers_pass(seed):
    def plain(probabilities, target, missed):
        p, y = probabilities.tolist(), target.tolist()
        costs = {}
        for threshold in p:
            misses = sum(a < threshold and b == 1 for a, b in zip(p, y, strict=True))
            alarms = sum(a >= threshold and b == 0 for a, b in zip(p, y, strict=True))
            costs[threshold] = missed * misses + alarms
        return max(t for t, cost in costs.items() if cost == min(costs.values()))

    check("optimization.cheapest_threshold", plain, seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 2024])
def test_a_promise_kept_in_single_precision_passes(seed):
    def single(confidence, right, max_error):
        for threshold in confidence.unique():
            if (~right[confidence >= threshold]).float().mean().item() <= max_error:
                return threshold.item()
        return float("inf")

    check("capstone.threshold_for_error", single, seed=seed)


def test_an_equivalent_answer_in_double_precision_passes():
    check("basics.tumour_probability", lambda logits: torch.sigmoid(logits.double()).flatten())


def test_checking_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    with pytest.raises(CheckFailed):
        check("iris.evaluate", lambda model, x, y: 0.5)
    assert torch.equal(state, torch.get_rng_state())


def test_names_and_answers_that_are_none():
    with pytest.raises(ValueError, match="there are basics.times_as_probable"):
        check("basics.nothing", len)
    with pytest.raises(CheckFailed, match="expected a function"):
        check("basics.tumour_probability", torch.zeros(3))


def test_jupyter_shows_only_the_message():
    assert CheckFailed("one\ntwo")._render_traceback_() == ["one", "two"]


def test_the_failing_input_is_shown_and_handed_over():
    def for_one_patient_wrong(logits):
        probabilities = torch.sigmoid(logits[:, 0])
        return probabilities if len(logits) > 1 else probabilities[0]

    with pytest.raises(CheckFailed, match=r"input:    float32 \(1, 1\) "):
        check("basics.tumour_probability", for_one_patient_wrong)
    (logits,) = check.last_case()
    assert logits.shape == (1, 1)
    logits.zero_()  # a copy: changing it changes nothing for the next who asks
    assert check.last_case()[0].abs().sum() > 0
    check("basics.tumour_probability", lambda logits: torch.sigmoid(logits[:, 0]))
    with pytest.raises(LookupError, match="no failed case"):
        check.last_case()
