"""Rules: training loops, the order of their steps, and what they leave out."""

import ast
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    LOOPS,
    arguments_of,
    calls_in,
    constant,
    has_call,
    keyword,
    last_name,
    names_in,
    operand,
    owner_of,
    spelled,
    targets_of,
)


def _training_loops(source: Outputs) -> Iterator[ast.AST]:
    """Loops whose own body computes gradients and takes the step."""
    for loop in source.nodes:
        if isinstance(loop, LOOPS) and _own_backwards(source, loop) and _own_steps(source, loop):
            yield loop


def _own_backwards(source: Outputs, loop: ast.AST) -> list[ast.Call]:
    return [call for call in calls_in(loop, "backward") if source.is_backward(call) and source.loop(call) is loop]


def _own_steps(source: Outputs, loop: ast.AST) -> list[ast.Call]:
    return [call for call in calls_in(loop, "step") if source.loop(call) is loop and source.is_optimizer_step(call)]


def _statements(source: Outputs, loop: ast.AST, name: str) -> list[int]:
    """Where in a loop's own block a method is called; what stands under an `if` is left out."""
    return [
        place
        for place, statement in enumerate(loop.body)
        if isinstance(statement, (ast.Expr, ast.Assign))
        and any(_is_call_of(source, call, name) for call in calls_in(statement))
    ]


def _is_call_of(source: Outputs, call: ast.Call, name: str) -> bool:
    if name == "step":
        return source.is_optimizer_step(call) or (last_name(call.func) == "step" and _is_scaler(call.func.value))
    if name == "backward":
        return source.is_backward(call)
    return last_name(call.func) == name


def _is_scaler(node: ast.AST) -> bool:
    return "scaler" in last_name(node).lower()


@rule(
    "zero-grad-missing",
    why="gradients add up: from the second step on, each step goes along the sum of all gradients so far",
    fix="optimizer.zero_grad() before loss.backward()",
)
def zero_grad_missing(source: Outputs) -> Iterator[ast.AST]:
    for loop in _training_loops(source):
        around = source.scope(loop)
        # It may stand anywhere in the function, under another name, or be done by hand.
        words = {last_name(call.func) for call in source.reached_calls(around)} | names_in(around)
        made_anew = any(source.full_name(call.func).startswith("torch.optim.") for call in calls_in(loop))
        if not any("zero" in word for word in words) and not _sets_grad(around) and not made_anew:
            yield _own_backwards(source, loop)[0]


def _sets_grad(node: ast.AST) -> bool:
    """`parameter.grad = None`"""
    return any(last_name(target) == "grad" for child in ast.walk(node) for target in targets_of(child))


@rule(
    "zero-grad-before-step",
    why="the gradients are deleted between backward() and step(): the optimizer has nothing to do, no weight changes",
    fix="optimizer.zero_grad(), then loss.backward(), then optimizer.step()",
)
def zero_grad_before_step(source: Outputs) -> Iterator[ast.AST]:
    for loop in _training_loops(source):
        backward, zero, step = (_statements(source, loop, name) for name in ("backward", "zero_grad", "step"))
        if len(backward) == len(zero) == len(step) == 1 and backward < zero < step:
            yield loop.body[zero[0]]


@rule(
    "clipping-out-of-order",
    why="clipping changes the gradients that are there now: before backward() none of this step, after step() those "
    "that have been used already. The step itself is not limited",
    fix="loss.backward(), then clip_grad_norm_, then optimizer.step()",
)
def clipping_out_of_order(source: Outputs) -> Iterator[ast.AST]:
    for loop in _training_loops(source):
        backward, step = _statements(source, loop, "backward"), _statements(source, loop, "step")
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            clip = _statements(source, loop, name)
            if len(backward) == len(step) == len(clip) == 1:
                zero = _statements(source, loop, "zero_grad")
                cleared = any(clip[0] < place < backward[0] for place in zero)  # then the clip ends the round before
                if (clip < backward < step and not cleared) or backward < step < clip:
                    yield loop.body[clip[0]]


def _scaled_backwards(source: Outputs) -> Iterator[tuple[ast.Call, ast.AST]]:
    """`scaler.scale(loss).backward()`, with the function around it."""
    for call in source.calls_named("backward"):
        inner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(inner, ast.Call) and last_name(inner.func) == "scale" and _is_scaler(inner.func.value):
            yield call, source.scope(call)


@rule(
    "clipping-scaled-gradients",
    why="after scaler.scale(loss).backward() the gradients are up to 65,536 times too large. Clipped in this state, "
    "every step shrinks to nearly nothing",
    fix="scaler.unscale_(optimizer) before clip_grad_norm_, then scaler.step(optimizer), then scaler.update()",
)
def clipping_scaled_gradients(source: Outputs) -> Iterator[ast.AST]:
    for call, around in _scaled_backwards(source):
        if any(last_name(other.func) == "unscale_" for other in source.reached_calls(around)):
            continue
        block = source.block(source.statement(call))
        for statement in block[block.index(source.statement(call)) :]:
            yield from calls_in(statement, "clip_grad_norm_", "clip_grad_value_")


@rule(
    "scaled-step-without-scaler",
    why="the gradients of a scaled loss are up to 65,536 times too large, and optimizer.step() takes them as they are",
    fix="scaler.step(optimizer) and scaler.update() instead of optimizer.step()",
)
def scaled_step_without_scaler(source: Outputs) -> Iterator[ast.AST]:
    for call, _ in _scaled_backwards(source):
        block = source.block(source.statement(call))
        names = {name for statement in block for name in names_in(statement)}
        steps = [inner for statement in block for inner in calls_in(statement, "step")]
        if "unscale_" not in names and not any(_is_scaler(step.func.value) for step in steps):
            yield from (step for step in steps if source.is_optimizer_step(step))


@rule(
    "scaler-never-updated",
    why="the second step raises an error: step() has already been called since the last update()",
    fix="scaler.update() after scaler.step(optimizer)",
)
def scaler_never_updated(source: Outputs) -> Iterator[ast.AST]:
    if any(_is_scaler(owner_of(call)) for call in source.calls_named("update")):
        return
    scaling = {around for _, around in _scaled_backwards(source)}
    for call in source.calls_named("step"):
        if _is_scaler(owner_of(call)) and call.args and source.scope(call) in scaling:
            yield call


@rule(
    "scheduler-before-optimizer",
    why="the first value of the schedule is skipped, and all others come one step early",
    fix="optimizer.step() first, scheduler.step() behind it (once a batch or once an epoch)",
)
def scheduler_before_optimizer(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("step"):
        made = source.definition(owner_of(call))
        if not isinstance(made, ast.Call) or not source.full_name(made.func).startswith("torch.optim.lr_scheduler."):
            continue
        statement, loop = source.statement(call), source.loop(call)
        if loop is not None and isinstance(statement, ast.Expr) and statement in loop.body:
            place = loop.body.index(statement)
            before, behind = loop.body[:place], loop.body[place + 1 :]
            if not any(_may_step(source, other) for other in before) and any(map(source.optimizer_steps, behind)):
                yield call


def _may_step(source: Outputs, statement: ast.stmt) -> bool:
    """Whether a statement takes a step, or gives an optimizer to a function of another file, which may take one."""
    given = [spelled(value).lower() for call in calls_in(statement) for value in arguments_of(call)]
    return bool(source.optimizer_steps(statement)) or any("optim" in name for name in given)


@rule(
    "losses-kept-with-their-graphs",
    why="what is kept so keeps its graph, and in an evaluation all activations: memory grows with each batch",
    fix="total += loss.item(), or loss.detach()",
)
def losses_kept(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.nodes:
        if not isinstance(loop, LOOPS) or source.without_gradient(loop):
            continue
        for backward in _own_backwards(source, loop):
            if name := spelled(backward.func.value):
                yield from (node for node, value in _kept(source, loop) if spelled(value) == name)
        if _only_evaluates(source, loop):
            losses = {loss.call for loss in source.losses}
            yield from (node for node, value in _kept(source, loop) if source.definition(value) in losses)


def _only_evaluates(source: Outputs, loop: ast.AST) -> bool:
    """Whether nothing around a loop asks for gradients, and a model is put into eval mode there."""
    around = source.scope(loop)
    return has_call(around, "eval") and not any(True for _ in calls_in(around, "backward", "grad", "set_grad_enabled"))


def _kept(source: Outputs, loop: ast.AST) -> Iterator[tuple[ast.AST, ast.expr]]:
    """`total += loss` and `losses.append(loss)`, for sums that are older than the loop and have no gradient to give."""
    for node in ast.walk(loop):
        if source.loop(node) is not loop or source.without_gradient(node):
            continue
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            kept, value = spelled(node.target), node.value
        elif isinstance(node, ast.Call) and last_name(node.func) == "append" and len(node.args) == 1:
            kept, value = spelled(owner_of(node)), node.args[0]
        else:
            continue
        if kept and kept != spelled(value) and not _is_number(source, value) and not _set_anew(loop, kept):
            yield node, value


def _set_anew(loop: ast.AST, name: str) -> bool:
    """Whether a sum starts again in each round, or is itself what is differentiated."""
    for node in ast.walk(loop):
        if not isinstance(node, ast.AugAssign) and name in map(spelled, targets_of(node)):
            return True
    return any(spelled(owner_of(call)) == name for call in calls_in(loop, "backward", "clear"))


def _is_number(source: Outputs, value: ast.expr) -> bool:
    """Whether a loss was made a number, or is not seen to be a tensor."""
    made = source.definition(value)
    if made is None:
        return True
    return any(last_name(call.func) in ("item", "detach", "float", "tolist") for call in calls_in(made))


@rule(
    "loss-data-indexed",
    why="a loss has no axes, so [0] raises an IndexError since torch 1.0",
    fix="loss.item()",
)
def loss_data_indexed(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Subscript) and constant(node.slice) == 0 and last_name(node.value) == "data":
            parts = spelled(node.value).split(".")  # the loss may be an attribute
            if parts[-2:-1] and parts[-2] in ("loss", "train_loss", "test_loss"):
                yield node


@rule(
    "temperature-by-one-step",
    error=24,
    why="one step of LBFGS with a small learning rate and no line search stops far from the optimum: T = 1.09 where "
    "2.53 is best, so only a fifth of the calibration error goes",
    fix="torch.optim.LBFGS([T], lr=1, max_iter=100, line_search_fn='strong_wolfe')",
)
def one_lbfgs_step(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_to("torch.optim.LBFGS"):
        rate = constant(operand(call, 1, "lr"))
        if not isinstance(rate, (int, float)) or rate > 0.1 or keyword(call, "line_search_fn") is not None:
            continue
        names = {spelled(target) for target in targets_of(source.statement(call))} - {""}
        steps = [step for step in source.calls_named("step") if spelled(owner_of(step)) in names]
        steps = [step for step in steps if source.scope(step) is source.scope(call)]
        if len(steps) == 1 and source.loop(steps[0]) is None:
            yield steps[0]


@rule(
    "missing-parentheses",
    why="without () the method is only named, not called: nothing happens",
    fix="write the parentheses",
)
def missing_parentheses(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute):
            owner, name = node.value.value, node.value.attr
            of_optimizer = name in ("zero_grad", "step") and source.is_optimizer(owner)
            of_model = name in ("eval", "train", "zero_grad") and source.is_model(owner)
            of_loss = name == "backward" and "loss" in last_name(owner).lower()
            if of_optimizer or of_model or of_loss:
                yield node
        elif isinstance(node, ast.With):
            for item in node.items:
                if source.full_name(item.context_expr) in ("torch.no_grad", "torch.inference_mode"):
                    yield item.context_expr
