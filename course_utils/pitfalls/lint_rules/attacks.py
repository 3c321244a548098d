"""Rules: gradients with respect to inputs, and attacks."""

import ast
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    FUNCTIONS,
    LOOPS,
    calls_in,
    constant,
    has_call,
    last_name,
    names_in,
    operand,
    owner_of,
    spelled,
    targets_of,
)


@rule(
    "input-gradients-add-up",
    error=50,
    why="backward() adds to x.grad: in the second round it is the sum of two gradients; with other targets, 27 % of "
    "the pixels move the wrong way",
    fix="gradient, = torch.autograd.grad(loss, x), which stores nothing; or x.grad = None in each round",
)
def input_gradients_add_up(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.nodes:
        if not isinstance(loop, LOOPS) or not any(map(source.is_backward, calls_in(loop, "backward"))):
            continue
        bound = source.bound(loop)
        for node in ast.walk(loop):
            if isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.ctx, ast.Load):
                name = node.value.id if isinstance(node.value, ast.Name) else None
                if name and name not in bound and _made_to_collect(source, name, loop) and not _cleared(loop, name):
                    yield node
                    break


def _made_to_collect(source: Outputs, name: str, loop: ast.AST) -> bool:
    """Whether the text asks for this tensor's gradient: `x.requires_grad = True`, `x.requires_grad_()`."""
    for node in ast.walk(source.scope(loop)):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if (
                    isinstance(target, ast.Attribute)
                    and target.attr == "requires_grad"
                    and spelled(target.value) == name
                ):
                    return constant(node.value) is True
                if spelled(target) == name:
                    words = [last_name(call.func) for call in calls_in(node.value)]
                    asks = any(
                        constant(word.value) is True
                        for call in calls_in(node.value)
                        for word in call.keywords
                        if word.arg == "requires_grad"
                    )
                    if "requires_grad_" in words or asks:
                        return True
        elif _asks(node, name):
            return True
    return False


def _asks(node: ast.AST, name: str) -> bool:
    """`x.requires_grad_()` for a name x"""
    is_call = isinstance(node, ast.Call) and last_name(node.func) == "requires_grad_" and not node.args
    return is_call and spelled(owner_of(node)) == name


def _cleared(loop: ast.AST, name: str) -> bool:
    """Whether the gradient is set back in the loop, by hand or by an optimizer that may hold the tensor."""
    for node in ast.walk(loop):
        for target in targets_of(node):
            if spelled(target) in (f"{name}.grad", f"{name}.grad.data"):
                return True
        if isinstance(node, ast.Call) and last_name(node.func) in ("zero_", "fill_", "zero_grad", "grad"):
            owner = spelled(owner_of(node))
            if owner not in ("model", "net", "network", "self.model"):
                return True
    return False


@rule(
    "callers-tensor-changed",
    error=49,
    why="the caller's tensor requires a gradient from then on, and keeps this one: the next call adds to it, and the "
    "second map is twice the first",
    fix="x = x.detach().clone().requires_grad_() at the beginning, and torch.autograd.grad",
)
def callers_tensor_changed(source: Outputs) -> Iterator[ast.AST]:
    differentiating = {source.scope(call) for call in source.calls_named("backward") if source.is_backward(call)}
    for function in differentiating - {source.tree}:
        parameters = {parameter.arg for parameter in function.args.args} - {"self", "model", "net"}
        bound = {name for statement in function.body for name in source.bound(statement)}
        read = {spelled(node) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        for name in parameters - bound:
            if f"{name}.grad" in read:
                yield from _asks_for_gradient(function, name)


def _asks_for_gradient(function: ast.AST, name: str) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and spelled(node.targets[0]) == f"{name}.requires_grad":
            if constant(node.value) is True:
                yield node
        elif _asks(node, name):
            yield node


@rule(
    "normalised-pictures-clamped",
    error=52,
    why="after Normalize the pictures reach from about −2 to 2; clamped to 0 and 1 they are destroyed, attack or not: "
    "at eps 0 the accuracy already falls from 0.981 to 0.875",
    fix="attack pictures in [0, 1] and normalise inside the model; or clamp to (0 − mean) / std and (1 − mean) / std",
)
def normalised_pictures_clamped(source: Outputs) -> Iterator[ast.AST]:
    if not _normalises_in_a_pipeline(source):
        return
    for call in source.calls_named("clamp", "clip"):
        full = source.full_name(call.func)
        first = 1 if full else 0
        bounds = constant(operand(call, first, "min")), constant(operand(call, first + 1, "max"))
        around = source.scope(call)
        if bounds != (0, 1) or not isinstance(around, FUNCTIONS) or full not in ("", "torch.clamp", "torch.clip"):
            continue
        if _is_attack(around) and not any("norm" in word.lower() for word in names_in(around)):
            yield call


def _normalises_in_a_pipeline(source: Outputs) -> bool:
    """`Compose([…, Normalize(…)])` with other numbers than 0 and 1, and nothing that undoes it."""
    if any("norm" in word and any(back in word for back in ("de", "un", "inv")) for word in _names(source)):
        return False
    uses = list(source.calls_named("Normalize"))
    in_compose = [
        call
        for call in uses
        if any(last_name(getattr(parent, "func", None)) == "Compose" for parent in source.ancestors(call))
    ]
    trivial = [call for call in in_compose if _is_identity(call)]
    return bool(in_compose) and len(uses) == len(in_compose) and len(trivial) < len(in_compose)


def _is_identity(call: ast.Call) -> bool:
    values = [[constant(element) for element in getattr(value, "elts", [])] for value in call.args[:2]]
    return len(values) == 2 and set(values[0]) == {0.0} and set(values[1]) == {1.0}


def _names(source: Outputs) -> set[str]:
    defined = {node.name.lower() for node in source.nodes if isinstance(node, FUNCTIONS)}
    return defined | {last_name(node).lower() for node in source.nodes}


def _is_attack(function: ast.AST) -> bool:
    """Whether a function takes the sign of a gradient."""
    return has_call(function, "sign") and any(
        "grad" in word.lower() for word in names_in(function) | {argument.arg for argument in function.args.args}
    )


@rule(
    "pgd-without-random-start",
    error=53,
    why="without a random start this is BIM, not PGD: both agree to 7e-9, and all restarts find the same picture",
    fix="start from x + uniform noise in [−eps, eps], clamped to the range of the pictures",
)
def pgd_without_random_start(source: Outputs) -> Iterator[ast.AST]:
    for function in source.nodes:
        if not isinstance(function, FUNCTIONS) or "pgd" not in function.name.lower():
            continue
        steps = [loop for loop in ast.walk(function) if isinstance(loop, LOOPS) and has_call(loop, "sign")]
        words = " ".join(
            names_in(function) | {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
        )
        if steps and not any(
            word in words.lower() for word in ("rand", "uniform", "normal_", "start", "init", "noise", "delta")
        ):
            yield function
