"""Rules: axes that get lost or mixed, boxes, figures, and what comments and names say about numbers."""

import ast
import re
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    constant,
    keyword,
    last_name,
    names_in,
    operand,
    owner_of,
    returned,
    spelled,
    targets_of,
)


@rule(
    "squeeze-of-a-batch",
    error=43,
    why="squeeze() removes every axis of length 1, also that of the samples: a last batch of one sample loses it, and "
    "(1, 10) becomes (10,)",
    fix="squeeze(1), squeeze(-1) or flatten(1): name the axis",
)
def squeeze_of_a_batch(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("squeeze"):
        full = source.full_name(call.func)
        if full not in ("", "torch.squeeze") or len(call.args) != (1 if full else 0) or call.keywords:
            continue
        inner = source.definition(call.args[0] if full else owner_of(call))
        if not isinstance(inner, ast.Call):
            continue
        loader = source.batches(source.loop(call))
        of_batch = loader is not None and source.is_model(inner.func) and not source.batches_of_one(loader)
        if of_batch or _handed_out(source, call, inner):
            yield call


def _handed_out(source: Outputs, squeeze: ast.Call, inner: ast.Call) -> bool:
    """Whether a module's forward squeezes what a pooling gave, or returns its last layer's output squeezed."""
    function = source.method_of(squeeze)
    if function is None or function.name != "forward":
        return False
    layers = source.modules_of(inner.func)
    pooled = source.full_name(inner.func).startswith("torch.nn.functional.adaptive_")
    if pooled or any(last_name(layer.func).startswith("Adaptive") for layer in layers):
        return True
    if not layers:
        return False
    return any(source.definition(value) is squeeze for value in returned(function) if value is not None)


@rule(
    "reshape-swaps-axes",
    error=42,
    why="reshape and view pour the numbers into the new shape in memory order. Axes that change places so are mixed: a "
    "row [0, 1, 2] where [0, 4, 8] is right",
    fix="transpose or permute first, then reshape",
)
def reshape_swaps_axes(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("view", "reshape"):
        tensor = owner_of(call)
        if not isinstance(tensor, ast.Name) or source.full_name(call.func):
            continue
        in_one = len(call.args) == 1 and isinstance(call.args[0], (ast.Tuple, ast.List))
        order = [sorted(_axes_of(source, size, tensor)) for size in (call.args[0].elts if in_one else call.args)]
        axes = [axis for several in order for axis in several]  # sorted, because w * h is h * w
        # An axis that occurs twice lends only its length: to a table of all places against all places, say.
        if len(axes) == len(set(axes)) and axes != sorted(axes):
            yield call


def _axes_of(source: Outputs, node: ast.expr, tensor: ast.Name) -> list[int]:
    """The axes of a tensor that a size is made of: [0] for `x.shape[0]`, [2, 3] for `h * w`; nothing for the rest."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _axes_of(source, node.left, tensor) + _axes_of(source, node.right, tensor)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        return _axis(spelled(node.value.value), constant(node.slice), tensor)
    if isinstance(node, ast.Call) and last_name(node.func) == "size" and len(node.args) == 1:
        return _axis(spelled(owner_of(node)), constant(node.args[0]), tensor)
    if isinstance(node, ast.Name):
        return _unpacked(source, node, tensor)
    return []


def _axis(owner: str, axis: object, tensor: ast.Name) -> list[int]:
    return [axis] if owner == tensor.id and isinstance(axis, int) and axis >= 0 else []


def _unpacked(source: Outputs, name: ast.Name, tensor: ast.Name) -> list[int]:
    """The place of a name in `n, c, h, w = x.shape`, if neither the name nor x has changed since."""
    statement = source.statement(name)
    block = source.block(statement)
    for earlier in reversed(block[: block.index(statement)]):
        if isinstance(earlier, ast.Assign) and isinstance(earlier.targets[0], ast.Tuple):
            places = [spelled(element) for element in earlier.targets[0].elts]
            starred = any(isinstance(element, ast.Starred) for element in earlier.targets[0].elts)
            if name.id in places and not starred:
                value = earlier.value
                is_size = isinstance(value, ast.Call) and last_name(value.func) == "size" and not value.args
                shape = value.func if is_size else value
                if isinstance(shape, ast.Attribute) and shape.attr in ("shape", "size"):
                    return [places.index(name.id)] if spelled(shape.value) == tensor.id else []
                return []
        if name.id in source.bound(earlier) or tensor.id in source.bound(earlier):
            return []
    return []


@rule(
    "axes-of-a-single-plot",
    error=69,
    why="plt.subplots gives a single axes, not an array, when there is only one plot: axes[i] raises a TypeError",
    fix="plt.subplots(…, squeeze=False) and axes[0, i]",
)
def axes_of_a_single_plot(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_to("matplotlib.pyplot.subplots"):
        assignment = source.statement(call)
        if not isinstance(assignment, ast.Assign) or assignment.value is not call or keyword(call, "squeeze"):
            continue
        target = assignment.targets[0]
        if not isinstance(target, ast.Tuple) or len(target.elts) != 2 or not isinstance(target.elts[1], ast.Name):
            continue
        rows, columns = operand(call, 0, "nrows"), operand(call, 1, "ncols")
        sizes = [1 if size is None else constant(source.definition(size)) for size in (rows, columns)]
        by_caller = _is_length(source, rows) or _is_length(source, columns)
        if sizes == [1, 1] or (1 in sizes and None in sizes and by_caller):
            yield from _indexed(source, assignment, target.elts[1].id)


def _is_length(source: Outputs, node: ast.expr | None) -> bool:
    """`len(layers)` of a function's own parameter: the caller says how many."""
    made = source.definition(node)
    if not isinstance(made, ast.Call) or last_name(made.func) != "len" or not made.args:
        return False
    function = source.scope(made)
    parameters = getattr(function, "args", None)
    return parameters is not None and spelled(made.args[0]) in {parameter.arg for parameter in parameters.args}


def _indexed(source: Outputs, assignment: ast.stmt, name: str) -> list[ast.AST]:
    block = source.block(assignment)
    later = block[block.index(assignment) + 1 :]
    words = {word for statement in later for word in names_in(statement)}
    if words & {"atleast_1d", "isinstance", "ravel", "flatten", "flat", "array"}:
        return []
    if any(name in source.bound(statement) for statement in later):
        return []
    if any(
        isinstance(node, ast.Compare) and 1 in map(constant, node.comparators) for s in later for node in ast.walk(s)
    ):
        return []  # the single plot is treated apart
    found = [
        node for s in later for node in ast.walk(s) if isinstance(node, ast.Subscript) and spelled(node.value) == name
    ]
    return found[:1]


@rule(
    "nms-over-all-classes",
    error=9,
    why="a box suppresses those of other classes, too: of two different objects that overlap, 1 is kept instead of 2",
    fix="torchvision.ops.batched_nms(boxes, scores, labels, threshold)",
)
def nms_over_all_classes(source: Outputs) -> Iterator[ast.AST]:
    for name in ("torchvision.ops.nms", "torchvision.ops.boxes.nms"):
        for call in source.calls_to(name):
            kept = {spelled(target) for target in targets_of(source.statement(call))} - {""}
            boxes = source.definition(operand(call, 0, "boxes"))
            shifted = isinstance(boxes, ast.BinOp) or (boxes is None and not isinstance(call.args[0], ast.Name))
            around = source.scope(call)
            agnostic = any("agnostic" in word or "offset" in word for word in names_in(around))
            if shifted or agnostic or _goes_through_classes(source.loop(call)):
                continue
            for node in ast.walk(around):
                if isinstance(node, ast.Subscript) and kept & {spelled(node.slice)} and _are_labels(node.value):
                    yield call
                    break


def _goes_through_classes(loop: ast.AST | None) -> bool:
    words = names_in(loop.target) | names_in(loop.iter) if isinstance(loop, ast.For) else set()
    return any("class" in word.lower() or "label" in word.lower() or word in ("c", "cls", "j") for word in words)


def _are_labels(node: ast.AST) -> bool:
    return any(word in last_name(node).lower() for word in ("label", "classes", "class_id", "cls"))


@rule(
    "frozen-called-trainable",
    error=66,
    why="parameters() lists the frozen ones, too: the number is that of all parameters",
    fix="sum(p.numel() for p in model.parameters() if p.requires_grad)",
)
def frozen_called_trainable(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Assign) and "trainable" in last_name(node.targets[0]).lower():
            if "non" not in last_name(node.targets[0]).lower() and _counts_all(node.value):
                yield node
        elif isinstance(node, ast.JoinedStr):
            text = " ".join(part.value for part in node.values if isinstance(part, ast.Constant)).lower()
            one_number = sum(isinstance(part, ast.FormattedValue) for part in node.values) == 1
            if (
                "trainable" in text
                and one_number
                and any(_counts_all(part.value) for part in node.values if isinstance(part, ast.FormattedValue))
            ):
                yield node


def _counts_all(node: ast.expr) -> bool:
    """`sum(p.numel() for p in model.parameters())`, without a condition."""
    if not isinstance(node, ast.Call) or last_name(node.func) != "sum" or not node.args:
        return False
    numbers = node.args[0]
    if not isinstance(numbers, (ast.GeneratorExp, ast.ListComp)) or len(numbers.generators) != 1:
        return False
    part = numbers.generators[0]
    over_all = isinstance(part.iter, ast.Call) and last_name(part.iter.func) == "parameters"
    return over_all and not part.ifs and "numel" in names_in(numbers.elt)


@rule(
    "comment-counts-differently",
    error=71,
    why="the comment and the code give two numbers, and a reader trusts the comment",
    fix="correct one of the two; better, give the number a name",
)
def comment_counts_differently(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
            continue
        rest = node.test.left
        if (
            not isinstance(rest, ast.BinOp)
            or not isinstance(rest.op, ast.Mod)
            or not isinstance(constant(rest.right), int)
        ):
            continue
        comment = source.comments.get(node.lineno, "") + " " + _comment_above(source, node.lineno)
        said = re.search(
            r"every (\d+)(?:st|nd|rd|th)? ?(?:mini-?)?(epoch|step|batch|iteration)", comment.replace(",", "")
        )
        if said and int(said[1]) != constant(rest.right):
            yield node


def _comment_above(source: Outputs, line: int) -> str:
    """The comment on the line above, if nothing else stands there."""
    above = source.text.splitlines()[line - 2] if line > 1 else ""
    return above if above.lstrip().startswith("#") else ""
