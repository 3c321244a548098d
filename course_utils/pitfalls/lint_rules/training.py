"""Rules: training loops, the order of their steps, and what they leave out."""

import ast
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    LOOPS,
    calls_in,
    constant,
    keyword,
    last_name,
    names_in,
    operand,
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
        if not any("zero" in word for word in words) and not _sets_grad(around):
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
    why="clipping changes the gradients that are there now. Before backward() there are none of this step; after step() "
    "the weights have moved already. The step itself is not limited",
    fix="loss.backward(), then clip_grad_norm_, then optimizer.step()",
)
def clipping_out_of_order(source: Outputs) -> Iterator[ast.AST]:
    for loop in _training_loops(source):
        backward, step = _statements(source, loop, "backward"), _statements(source, loop, "step")
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            clip = _statements(source, loop, name)
            if len(backward) == len(step) == len(clip) == 1:
                zero = _statements(source, loop, "zero_grad")
                too_early = clip < backward < step and not any(clip[0] < place < backward[0] for place in zero)
                too_late = backward < step < clip
                if too_early or too_late:
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
    why="without update() the scale stays at 65,536: after an overflow every further step is skipped, too",
    fix="scaler.update() after scaler.step(optimizer)",
)
def scaler_never_updated(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("step"):
        if isinstance(call.func, ast.Attribute) and _is_scaler(call.func.value) and call.args:
            updates = [
                other for other in source.calls_named("update") if _is_scaler(getattr(other.func, "value", None))
            ]
            scales = any(source.scope(backward) is source.scope(call) for backward, _ in _scaled_backwards(source))
            if scales and not updates:
                yield call


@rule(
    "scheduler-before-optimizer",
    why="the schedule is then one step ahead: the first learning rate is never used",
    fix="optimizer.step() first, scheduler.step() behind it (once a batch or once an epoch)",
)
def scheduler_before_optimizer(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("step"):
        made = source.definition(getattr(call.func, "value", None))
        if not isinstance(made, ast.Call) or not source.full_name(made.func).startswith("torch.optim.lr_scheduler."):
            continue
        statement, loop = source.statement(call), source.loop(call)
        if loop is None or not isinstance(statement, ast.Expr) or statement not in loop.body:
            continue
        before, behind = loop.body[: loop.body.index(statement)], loop.body[loop.body.index(statement) + 1 :]
        given = {name for other in before for inner in calls_in(other) for name in map(spelled, _given(inner))}
        taken = any(map(source.trains, before)) or any(map(source.optimizer_steps, before))
        if not taken and not any("optim" in name.lower() for name in given):  # a function of another file may step
            if any(map(source.optimizer_steps, behind)):
                yield call


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(word.value for word in call.keywords)]


@rule(
    "losses-kept-with-their-graphs",
    why="the sum is a part of every batch's graph and keeps it alive, in an evaluation with all its activations: memory "
    "grows with each batch",
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
    return any(True for _ in calls_in(around, "eval")) and not any(
        True for _ in calls_in(around, "backward", "grad", "set_grad_enabled")
    )


def _kept(source: Outputs, loop: ast.AST) -> Iterator[tuple[ast.AST, ast.expr]]:
    """`total += loss` and `losses.append(loss)`, for sums that are older than the loop and never asked for a gradient."""
    for node in ast.walk(loop):
        if source.loop(node) is not loop or source.without_gradient(node):
            continue
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            kept, value = spelled(node.target), node.value
        elif isinstance(node, ast.Call) and last_name(node.func) == "append" and len(node.args) == 1:
            kept, value = spelled(getattr(node.func, "value", None)), node.args[0]
        else:
            continue
        if kept and kept != spelled(value) and not _is_number(source, value) and not _set_anew(loop, kept):
            yield node, value


def _set_anew(loop: ast.AST, name: str) -> bool:
    """Whether a sum starts again in each round, or is itself what is differentiated."""
    for node in ast.walk(loop):
        if not isinstance(node, ast.AugAssign) and name in map(spelled, targets_of(node)):
            return True
    return any(spelled(getattr(call.func, "value", None)) == name for call in calls_in(loop, "backward", "clear"))


def _is_number(source: Outputs, value: ast.expr) -> bool:
    """Whether a loss was made a number, or is not seen to be a tensor."""
    made = source.definition(value)
    if made is None:
        return True
    return any(last_name(call.func) in ("item", "detach", "float", "tolist") for call in calls_in(made))


@rule(
    "loss-data-indexed",
    why="a loss has no axes, so [0] raises an error since torch 0.5",
    fix="loss.item()",
)
def loss_data_indexed(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Subscript) and constant(node.slice) == 0 and isinstance(node.value, ast.Attribute):
            if node.value.attr == "data" and last_name(node.value.value) in ("loss", "train_loss", "test_loss"):
                yield node


@rule(
    "best-weights-not-copied",
    why="state_dict() hands out the weights themselves, and training goes on in them: what is loaded at the end are the "
    "last weights, not the best",
    fix="copy.deepcopy(model.state_dict()), or torch.save at the best epoch",
)
def best_weights_not_copied(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], (ast.Name, ast.Attribute)):
            continue
        value, name = node.value, spelled(node.targets[0])
        if "best" not in last_name(node.targets[0]).lower():
            continue
        around = source.scope(node)
        if isinstance(value, ast.Call) and last_name(value.func) == "state_dict" and not _is_optimizer(source, value):
            loop = source.loop(node)
            loaded = [name in map(spelled, call.args) for call in calls_in(around, "load_state_dict")]
            if loop is not None and any(loaded) and source.trains(loop):
                yield node
        elif isinstance(value, ast.Name) and source.is_model(value) and name != value.id:
            loop = source.loop(node)
            if loop is not None and isinstance(source.parents[node], ast.If) and source.trains(loop):
                yield node


def _is_optimizer(source: Outputs, call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and source.is_optimizer(call.func.value)


@rule(
    "layer-replaced-behind-the-optimizer",
    why="the optimizer holds the parameters that the model had when it was made; the new layer is never trained",
    fix="replace the layer first, then make the optimizer",
)
def layer_replaced(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        inner = node.targets[0].value if isinstance(node.targets[0], ast.Subscript) else node.targets[0]
        while isinstance(inner, ast.Attribute) and not isinstance(inner.value, ast.Name):
            inner = inner.value
        if not isinstance(inner, ast.Attribute) or not _makes_layer(source, node.value):
            continue
        model, block = spelled(inner.value), source.block(node)
        place = block.index(node)
        optimizers = [
            statement for statement in block if model != "self" and _makes_optimizer(source, statement, model)
        ]
        if optimizers and all(block.index(statement) < place for statement in optimizers):
            if not _rebound(source, block[block.index(optimizers[-1]) : place], model):
                if not any(True for statement in block[place:] for _ in calls_in(statement, "add_param_group")):
                    yield node


def _makes_layer(source: Outputs, call: ast.Call) -> bool:
    name = last_name(call.func)
    with_weights = not any(word in name for word in ("Dropout", "ReLU", "Pool", "Identity", "Flatten", "Softmax"))
    full = source.full_name(call.func)
    return full.startswith("torch.nn.") and full.count(".") == 2 and name[:1].isupper() and with_weights


def _makes_optimizer(source: Outputs, statement: ast.stmt, model: str) -> bool:
    for call in calls_in(statement):
        if source.full_name(call.func).startswith("torch.optim.") and call.args:
            parts = calls_in(call.args[0], "parameters", "named_parameters")
            if any(spelled(part.func.value) == model for part in parts if isinstance(part.func, ast.Attribute)):
                return True
    return False


def _rebound(source: Outputs, statements: list[ast.stmt], name: str) -> bool:
    """Whether a name stands for another model by then."""
    return any(name in source.bound(statement) for statement in statements)


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
        steps = [step for step in source.calls_named("step") if spelled(getattr(step.func, "value", None)) in names]
        steps = [step for step in steps if source.scope(step) is source.scope(call)]
        if len(steps) == 1 and source.loop(steps[0]) is None:
            yield steps[0]


@rule(
    "leaf-changed-in-place",
    why="a tensor that collects a gradient must not be changed in place where gradients are recorded: torch raises "
    '"a leaf Variable that requires grad is being used in an in-place operation"',
    fix="change it under `with torch.no_grad():`",
)
def leaf_changed(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.AugAssign):
            changed = _older_name(node)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("add_", "sub_", "mul_", "div_", "clamp_"):
            changed = node.func.value if isinstance(node.func, ast.Attribute) else None
        else:
            continue
        if isinstance(changed, ast.Name) and _first_made(source, node, changed) and not source.without_gradient(node):
            yield node


def _older_name(node: ast.AugAssign) -> ast.Name | None:
    return node.target if isinstance(node.target, ast.Name) else None


def _first_made(source: Outputs, node: ast.AST, name: ast.Name) -> bool:
    """Whether a name was a leaf when the loop around a node began, and nothing but the node binds it."""
    statement = source.statement(node)
    around = source.scope(node)
    bindings = [
        other
        for other in ast.walk(around)
        if isinstance(other, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For))
        and other is not statement
        and name.id in {child.id for child in ast.walk(_bound_part(other)) if isinstance(child, ast.Name)}
    ]
    if len(bindings) != 1 or not isinstance(bindings[0], ast.Assign) or source.scope(bindings[0]) is not around:
        return False
    made = bindings[0].value
    with_gradient = isinstance(made, ast.Call) and constant(keyword(made, "requires_grad")) is True
    return (
        with_gradient
        and source.full_name(made.func).startswith("torch.")
        and spelled(bindings[0].targets[0]) == name.id
    )


def _bound_part(node: ast.AST) -> ast.AST:
    return ast.Tuple([*targets_of(node)] or [node.target], ast.Store())


@rule(
    "leaf-replaced-by-its-update",
    why="w = w − … makes a new tensor, which is no leaf any more: its .grad is None in the next round",
    fix="with torch.no_grad(): w -= lr * w.grad, then w.grad.zero_()",
)
def leaf_replaced(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.BinOp) or source.loop(node) is None:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and isinstance(node.value.op, ast.Sub) and _first_made(source, node, target):
            gradients = [child for child in ast.walk(node.value) if isinstance(child, ast.Attribute)]
            if any(child.attr == "grad" and spelled(child.value) == target.id for child in gradients):
                if not any(True for _ in calls_in(source.scope(node), "requires_grad_", "detach")):
                    yield node


@rule(
    "misspelled-requires-grad",
    why="Python lets you set any attribute, so the misspelled one changes nothing: the layer is not frozen",
    fix="parameter.requires_grad = False, or module.requires_grad_(False)",
)
def misspelled(source: Outputs) -> Iterator[ast.AST]:
    wrong = (
        "require_grad",
        "require_grads",
        "requires_grads",
        "required_grad",
        "requires_gradient",
        "require_gradient",
    )
    for node in source.nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in wrong and spelled(target.value) != "self":
                    yield target


@rule(
    "missing-parentheses",
    why="without () the method is only named, not called: nothing happens",
    fix="write the parentheses",
)
def missing_parentheses(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute):
            owner, name = node.value.value, node.value.attr
            if name in ("zero_grad", "step") and source.is_optimizer(owner):
                yield node
            elif name in ("eval", "train", "zero_grad") and source.is_model(owner):
                yield node
            elif name == "backward" and "loss" in last_name(owner).lower():
                yield node
        elif isinstance(node, ast.With):
            for item in node.items:
                if source.full_name(item.context_expr) in ("torch.no_grad", "torch.inference_mode"):
                    yield item.context_expr


@rule(
    "weights-only-false",
    why="a checkpoint is a pickle, and reading it so runs whatever code its author put into it",
    fix="torch.load(path, weights_only=True), which is the default since torch 2.6; share weights as safetensors",
)
def weights_only_false(source: Outputs) -> Iterator[ast.AST]:
    if any(True for _ in source.calls_to("torch.save")):
        return  # it reads what it has written itself
    for call in source.calls_to("torch.load"):
        if constant(keyword(call, "weights_only")) is False:
            yield call
