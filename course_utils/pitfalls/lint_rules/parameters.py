"""Rules: weights that are not kept, not trained or not a network's own."""

import ast
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    arguments_of,
    calls_in,
    constant,
    first_name,
    has_call,
    keyword,
    last_name,
    owner_of,
    spelled,
    targets_of,
)

_MISSPELLED = ("require_grad", "require_grads", "requires_grads", "required_grad", "requires_gradient")
_DOWNLOADS = ("hf_hub_download", "snapshot_download", "download_url_to_file", "urlretrieve", "cached_download", "gdown")


@rule(
    "best-weights-not-copied",
    why="state_dict() and a second name of the model lead to the weights themselves, and training goes on in them: "
    "what is used at the end are the last weights, not the best",
    fix="copy.deepcopy(model.state_dict()), or torch.save at the best epoch",
)
def best_weights_not_copied(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Assign) and "best" in last_name(node.targets[0]).lower():
            loop = source.loop(node)
            if loop is not None and source.trains(loop) and _is_second_name(source, node):
                yield node


def _is_second_name(source: Outputs, node: ast.Assign) -> bool:
    """`best = model.state_dict()` that is loaded later, or `if better: best = model`."""
    if isinstance(node.value, ast.Name):
        return source.is_model(node.value) and isinstance(source.parents[node], ast.If)
    if not isinstance(node.value, ast.Call) or last_name(node.value.func) != "state_dict":
        return False
    loads = calls_in(source.scope(node), "load_state_dict")
    return any(spelled(node.targets[0]) in map(spelled, call.args) for call in loads)


@rule(
    "layer-replaced-behind-the-optimizer",
    why="the optimizer holds the parameters that the model had when it was made; the new layer is never trained",
    fix="replace the layer first, then make the optimizer",
)
def layer_replaced(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Assign) and _makes_layer(source, node.value):
            model, block = _changed_model(node.targets[0]), source.block(node)
            place = block.index(node)
            optimizers = [i for i, statement in enumerate(block) if _makes_optimizer(source, statement, model)]
            if optimizers and max(optimizers) < place:
                another = any(model in source.bound(statement) for statement in block[max(optimizers) : place])
                added = any(has_call(statement, "add_param_group") for statement in block[place:])
                if not another and not added:
                    yield node


def _makes_layer(source: Outputs, node: ast.expr) -> bool:
    """A layer of torch.nn that has weights."""
    full = source.full_name(node.func) if isinstance(node, ast.Call) else ""
    name = full.removeprefix("torch.nn.")
    with_weights = not any(word in name for word in ("Dropout", "ReLU", "Pool", "Identity", "Flatten", "Softmax"))
    return name != full and "." not in name and name[:1].isupper() and with_weights


def _changed_model(target: ast.expr) -> str:
    """ "model" of `model.fc = …`, `model[2] = …` and `model.classifier[6] = …`; "" for anything else."""
    inner = target.value if isinstance(target, ast.Subscript) else target
    is_part = isinstance(inner, ast.Attribute) or inner is not target
    model = spelled(inner).split(".")[0] if is_part and isinstance(inner, (ast.Attribute, ast.Name)) else ""
    return "" if model == "self" else model


def _makes_optimizer(source: Outputs, statement: ast.stmt, model: str) -> bool:
    for call in calls_in(statement):
        if source.full_name(call.func).startswith("torch.optim.") and call.args:
            parts = calls_in(call.args[0], "parameters", "named_parameters")
            if any(first_name(owner_of(part)) == model != "" for part in parts):
                return True
    return False


@rule(
    "leaf-changed-in-place",
    why="a tensor that collects a gradient must not be changed in place where gradients are recorded: torch raises "
    '"a leaf Variable that requires grad is being used in an in-place operation"',
    fix="change it under `with torch.no_grad():`",
)
def leaf_changed(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        changed = None
        if isinstance(node, ast.AugAssign):
            changed = node.target
        elif isinstance(node, ast.Call) and last_name(node.func) in ("add_", "sub_", "mul_", "div_", "clamp_"):
            changed = owner_of(node)
        if isinstance(changed, ast.Name) and _was_leaf(source, node, changed) and not source.without_gradient(node):
            yield node


def _was_leaf(source: Outputs, node: ast.AST, name: ast.Name) -> bool:
    """Whether a name is bound in its function only by a tensor with requires_grad=True, and by the node itself."""
    around, own = source.scope(node), source.statement(node)
    simple = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For)
    bindings = [other for other in ast.walk(around) if isinstance(other, simple) and name.id in _bound_by(other)]
    bindings = [other for other in bindings if other is not own]
    if len(bindings) != 1 or not isinstance(bindings[0], ast.Assign) or source.scope(bindings[0]) is not around:
        return False
    made = bindings[0].value
    with_gradient = isinstance(made, ast.Call) and constant(keyword(made, "requires_grad")) is True
    plain = spelled(bindings[0].targets[0]) == name.id
    return plain and with_gradient and source.full_name(made.func).startswith("torch.")


def _bound_by(node: ast.AST) -> set[str]:
    targets = [node.target] if isinstance(node, ast.For) else targets_of(node)
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


@rule(
    "leaf-replaced-by-its-update",
    why="w = w − … makes a new tensor, which is no leaf any more: its .grad is None in the next round",
    fix="with torch.no_grad(): w -= lr * w.grad, then w.grad.zero_()",
)
def leaf_replaced(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and source.loop(node) is not None:
            target = node.targets[0]
            if isinstance(target, ast.Name) and _steps_along_gradient(node.value, target.id):
                again_a_leaf = has_call(source.scope(node), "requires_grad_", "detach")
                if _was_leaf(source, node, target) and not again_a_leaf:
                    yield node


def _steps_along_gradient(node: ast.BinOp, name: str) -> bool:
    """`w - lr * w.grad`"""
    return isinstance(node.op, ast.Sub) and any(spelled(part) == f"{name}.grad" for part in ast.walk(node))


@rule(
    "misspelled-requires-grad",
    why="Python lets you set any attribute, so the misspelled one changes nothing: the layer is not frozen",
    fix="parameter.requires_grad = False, or module.requires_grad_(False)",
)
def misspelled(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and target.attr in _MISSPELLED and spelled(target.value) != "self":
                yield target


@rule(
    "downloaded-pickle-run",
    why="a checkpoint is a pickle, and with weights_only=False reading it runs whatever code its author put into it; "
    "this one comes from somebody else",
    fix="weights_only=True, which is the default since torch 2.6; or weights as safetensors",
)
def downloaded_pickle(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_to("torch.hub.load_state_dict_from_url"):
        if constant(keyword(call, "weights_only")) is False:
            yield call
    # `urlretrieve(url, path)` names the file that it writes.
    written = {spelled(value) for call in source.calls_named(*_DOWNLOADS) for value in arguments_of(call)[1:]} - {""}
    for call in source.calls_to("torch.load"):
        if constant(keyword(call, "weights_only")) is False and call.args:
            path = source.definition(call.args[0])
            if spelled(call.args[0]) in written or (path is not None and has_call(path, *_DOWNLOADS)):
                yield call
