"""Rules: heads and losses that do not belong together, probabilities, functions at the edge of their domain."""

import ast
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import LOSS_CLASSES, Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    constant,
    has_call,
    last_name,
    operand,
    owner_of,
    spelled,
    targets_of,
)

_REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_PROBABILITY_NAMES = ("prob", "conf", "certainty")


def _losses_given(source: Outputs, losses: tuple[str, ...], kinds: tuple[str, ...]) -> Iterator[ast.AST]:
    for loss in source.losses:
        if loss.name in losses and source.kind(loss.output) in kinds:
            yield loss.call


@rule(
    "probabilities-into-cross-entropy",
    error=20,
    why="cross-entropy applies the softmax itself. On probabilities, the loss of a perfect answer of ten classes is "
    "1.46 instead of 0, and a confidently wrong answer has a gradient of almost 0: it is never corrected",
    fix="give it the logits, without softmax or sigmoid; apply softmax only where you read probabilities",
)
def probabilities_into_cross_entropy(source: Outputs) -> Iterator[ast.AST]:
    return _losses_given(source, ("cross_entropy",), ("softmax", "sigmoid"))


@rule(
    "probabilities-into-bce-with-logits",
    error=20,
    why="this loss applies the sigmoid itself. Of probabilities it makes numbers from sigmoid(0) = 0.5 to "
    "sigmoid(1) = 0.73, so it cannot reach 0",
    fix="give it the logits, without sigmoid or softmax",
)
def probabilities_into_bce_with_logits(source: Outputs) -> Iterator[ast.AST]:
    return _losses_given(source, ("binary_cross_entropy_with_logits",), ("softmax", "sigmoid"))


@rule(
    "relu-before-loss",
    error=20,
    why="a ReLU cuts all logits below 0. A class whose logit is cut gets the gradient 0 and is never corrected",
    fix="let the network end in a linear layer, without ReLU",
)
def relu_before_loss(source: Outputs) -> Iterator[ast.AST]:
    losses = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
    return _losses_given(source, losses, ("relu",))


@rule(
    "logits-into-bce",
    error=20,
    why="binary cross-entropy wants probabilities; a linear layer gives numbers outside 0 to 1, and the loss raises an "
    "error on most of them",
    fix="F.binary_cross_entropy_with_logits, or nn.BCEWithLogitsLoss: it is stable for large logits, too",
)
def logits_into_bce(source: Outputs) -> Iterator[ast.AST]:
    return _losses_given(source, ("binary_cross_entropy",), ("logits", "log_softmax", "log_sigmoid"))


@rule(
    "nll-without-log-softmax",
    why="this loss only picks the entry of the true class and changes its sign. Of logits it has no lower bound; of "
    "probabilities it is −p, and a confidently wrong answer has a gradient of almost 0",
    fix="F.cross_entropy on the logits, which is log_softmax and NLL in one",
)
def nll_without_log_softmax(source: Outputs) -> Iterator[ast.AST]:
    return _losses_given(source, ("nll_loss",), ("softmax", "sigmoid", "logits"))


@rule(
    "kl-div-without-log",
    why="F.kl_div wants log-probabilities first and probabilities second (or log_target=True). Otherwise the number is "
    "no divergence: it can be negative, and it is not 0 for equal distributions",
    fix="F.kl_div(log_p, q, reduction='batchmean') with log_p = logits.log_softmax(1), or log_target=True",
)
def kl_div_without_log(source: Outputs) -> Iterator[ast.AST]:
    for loss in source.losses:
        if loss.name == "kl_div":
            log_target = constant(loss.option("log_target"))
            target = source.kind(loss.target)
            wrong_target = "softmax" if log_target is True else "log_softmax"
            unsaid = loss.option("log_target") is not None and log_target is None
            if source.kind(loss.output) == "softmax" or (target == wrong_target and not unsaid):
                yield loss.call


@rule(
    "log-of-softmax",
    error=25,
    why="softmax rounds small probabilities to 0, so the log is −inf, or stops at log(eps): with 1e-10 the loss of a "
    "wrong answer ends at 23.0 with gradient 0, where 100 is right",
    fix="log_softmax (for sigmoid: F.logsigmoid), or F.cross_entropy on the logits",
)
def log_of_softmax(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("log"):
        full = source.full_name(call.func)
        if full not in ("", "torch.log") or (not full and not isinstance(call.func, ast.Attribute)):
            continue
        given = call.args[0] if full and call.args else owner_of(call)
        inner = _without_guard(source, given)
        only_a_number = inner is not given and source.without_gradient(call)  # a bounded cost, which nobody learns from
        if source.kind(inner) in ("softmax", "sigmoid") and not only_a_number and not _is_weighted(source, call):
            yield call


def _without_guard(source: Outputs, node: ast.AST | None) -> ast.AST | None:
    """p of `p + 1e-10` and of `p.clamp(min=1e-10)`."""
    node = source.definition(node) if isinstance(node, ast.Name) and not source.made_by(node) else node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return node.left
    if isinstance(node, ast.Call) and last_name(node.func) in ("clamp", "clip", "clamp_min"):
        return node.args[0] if source.full_name(node.func) and node.args else owner_of(node)
    return node


def _is_weighted(source: Outputs, call: ast.Call) -> bool:
    """Whether this is p · log p, an entropy, which does not depend on what the log of a 0 is."""
    for parent in source.ancestors(call):
        if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mult):
            sides = (side.operand if isinstance(side, ast.UnaryOp) else side for side in (parent.left, parent.right))
            factors = map(source.kind, sides)
            if any(kind in ("softmax", "sigmoid") for kind in factors):
                return True
        if isinstance(parent, ast.stmt):
            # Computed in two steps: a name that is multiplied later.
            return isinstance(parent, ast.Assign) and parent.value is call and _multiplied(source, parent)
        if not isinstance(parent, (ast.BinOp, ast.UnaryOp)):
            return last_name(getattr(parent, "func", None)) in ("mul", "entr", "einsum")
    return False


def _multiplied(source: Outputs, assignment: ast.Assign) -> bool:
    names = {spelled(target) for target in assignment.targets}
    for node in ast.walk(source.scope(assignment)):
        is_product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        if is_product and names & {spelled(node.left), spelled(node.right)}:
            return True
    return False


@rule(
    "softmax-without-dim",
    error=39,
    why="without dim, torch guesses the axis from the number of axes: 0 for 1 and 3 axes, 1 for 2 and 4. A batch of "
    "sequences (N, T, C) is then normalised over the samples",
    fix="write the axis of the classes: dim=1, or dim=-1",
)
def softmax_without_dim(source: Outputs) -> Iterator[ast.AST]:
    for name in ("softmax", "log_softmax", "softmin"):
        for call in source.calls_to(f"torch.nn.functional.{name}"):
            if len(call.args) == 1 and not isinstance(call.args[0], ast.Starred) and not call.keywords:
                yield call
    for name in ("Softmax", "LogSoftmax", "Softmin"):
        for call in source.calls_to(f"torch.nn.{name}"):
            if not call.args and not call.keywords:
                yield call


@rule(
    "softmax-of-one-logit",
    error=1,
    why="a softmax over one number is always 1.0: a logit of −3 gives class 0 with confidence 1.0, where the "
    "probability of class 1 is 0.047",
    fix="a sigmoid, or two units",
)
def softmax_of_one_logit(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("softmax", "log_softmax"):
        full = source.full_name(call.func)
        inner = operand(call, 0, "input") if full else owner_of(call)
        axis = operand(call, 1 if full else 0, "dim", "axis")
        if constant(axis) == -1 and source.single(inner):
            yield call
    for call in source.calls_to("torch.nn.Sequential"):
        for before, layer in zip(call.args, call.args[1:], strict=False):
            if source.full_name(getattr(layer, "func", None)) in ("torch.nn.Softmax", "torch.nn.LogSoftmax"):
                axis = constant(operand(layer, 0, "dim"))
                flat = any(last_name(getattr(other, "func", None)) == "Flatten" for other in call.args)
                if (axis == -1 or (axis == 1 and flat)) and isinstance(before, ast.Call) and source.units(before) == 1:
                    yield layer


@rule(
    "cross-entropy-of-one-logit",
    error=1,
    why="the softmax over one number is always 1.0, so this loss is always 0 and nothing is learned",
    fix="F.binary_cross_entropy_with_logits for one unit, or a network with two",
)
def cross_entropy_of_one_logit(source: Outputs) -> Iterator[ast.AST]:
    for loss in source.losses:
        if loss.name == "cross_entropy" and source.kind(loss.output) == "logits" and source.single(loss.output):
            yield loss.call


@rule(
    "broadcasting-loss",
    error=7,
    why="(N, 1) against (N,) compares every prediction with every target, an (N, N) table: the loss of identical data "
    "is 2.5 instead of 0, and the best that can be learned is the mean of the targets",
    fix="give both the same shape: prediction.squeeze(1) for a target (N,), or target.unsqueeze(1)",
)
def broadcasting_loss(source: Outputs) -> Iterator[ast.AST]:
    for loss in source.losses:
        if loss.name in _REGRESSION and {_form(source, loss.output), _form(source, loss.target)} == {"column", "flat"}:
            yield loss.call


def _form(source: Outputs, node: ast.expr) -> str | None:
    """ "column" for (N, 1), "flat" for (N,), None if the text does not say."""
    node = source.definition(node) if isinstance(node, ast.Name) else node
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
        rows, column = node.slice.elts
        if isinstance(rows, ast.Slice) and isinstance(column, ast.Constant):
            return "column" if column.value is None else "flat"
        return None
    if not isinstance(node, ast.Call):
        return None
    name, values = last_name(node.func), [constant(value) for value in node.args]
    if source.full_name(node.func):
        sizes = [value for value in node.args if not isinstance(value, ast.Starred)]
        if name in ("rand", "randn", "zeros", "ones") and len(sizes) == 1 and isinstance(constant(sizes[0]), int):
            return "flat"
        return None
    if isinstance(node.func, ast.Attribute):
        if name in ("view", "reshape") and values in ([-1], [-1, 1]):
            return "flat" if values == [-1] else "column"
        if name == "unsqueeze" and values in ([1], [-1]):
            return "column" if _form(source, node.func.value) == "flat" else None
        if name in ("flatten", "ravel") and not values:
            return "flat"
        if name == "squeeze" and values in ([], [1], [-1]):
            return "flat" if _form(source, node.func.value) == "column" else None
        if name in ("float", "to", "double", "cpu", "cuda"):
            return _form(source, node.func.value)
    return "column" if source.kind(node) == "logits" and source.single(node) else None


@rule(
    "loss-class-called-with-data",
    why="nn.MSELoss(output, target) makes a loss object with strange settings; it does not compute the loss",
    fix="nn.MSELoss()(output, target), or F.mse_loss(output, target)",
)
def loss_class_called_with_data(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named(*LOSS_CLASSES):
        plain = len(call.args) == 2 and not any(isinstance(value, (ast.Starred, ast.Constant)) for value in call.args)
        if plain and source.full_name(call.func).startswith("torch.nn."):
            yield call


@rule(
    "loss-arguments-swapped",
    why="the loss takes the output first and the target second; the other way round it is another function",
    fix="loss(output, target)",
)
def loss_arguments_swapped(source: Outputs) -> Iterator[ast.AST]:
    for loss in source.losses:
        if loss.name in ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"):
            # Distillation gives the output of one network to the loss of another one.
            is_output = [_from_model(source, node) for node in (loss.output, loss.target)]
            if is_output == [False, True] and _is_label(loss.output):
                yield loss.call


def _from_model(source: Outputs, node: ast.expr) -> bool:
    made = source.definition(node)
    return isinstance(made, ast.Call) and source.is_model(made.func)


def _is_label(node: ast.expr) -> bool:
    return last_name(node).lower().strip("_") in ("y", "target", "targets", "label", "labels", "y_true", "y_train")


@rule(
    "exp-then-clamp",
    error=48,
    why="exp of a large number is inf, and the gradient of the clamped value is 0 · inf = NaN",
    fix="clamp first: x.clamp(max=80).exp()",
)
def exp_then_clamp(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("clamp", "clip", "clamp_max"):
        full = source.full_name(call.func)
        if full and not full.startswith("torch."):
            continue
        inner = source.definition(operand(call, 0, "input") if full else owner_of(call))
        first = 1 if full else 0
        upper = operand(call, first if "max" in last_name(call.func) else first + 1, "max")
        is_exp = isinstance(inner, ast.Call) and last_name(inner.func) == "exp" and not _bounded(inner)
        if upper is not None and is_exp and source.full_name(inner.func) in ("", "torch.exp"):
            yield call


def _bounded(exponential: ast.Call) -> bool:
    """exp(−x²) and exp of something clamped cannot overflow; a difference of logarithms is a ratio, seldom large."""
    inner = exponential.args[0] if exponential.args else owner_of(exponential)
    is_negative = isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub)
    is_difference = isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub)
    return is_negative or is_difference or has_call(inner, "clamp", "clip", "minimum", "min")


@rule(
    "logits-called-probabilities",
    error=64,
    why="the network ends in a linear layer, so these are logits: rows that do not sum to 1, with values below 0 and "
    "above 1",
    fix="apply softmax (one answer), or sigmoid (yes or no), before you call them probabilities",
)
def logits_called_probabilities(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        for target in targets_of(node):
            first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
            name = last_name(first).lower()
            named = any(word in name for word in _PROBABILITY_NAMES) and "log" not in name
            if named and isinstance(node, ast.Assign) and source.kind(_largest(source, node.value)) == "logits":
                yield node


def _largest(source: Outputs, node: ast.expr | None) -> ast.expr | None:
    """x of `torch.max(x, 1)` and `x.max(1)`; other expressions stand for themselves."""
    if isinstance(node, ast.Call) and last_name(node.func) == "max" and (node.args or node.keywords):
        return operand(node, 0, "input") if source.full_name(node.func) else owner_of(node)
    is_values = isinstance(node, ast.Attribute) and node.attr == "values"
    return _largest(source, node.value) if is_values else node


@rule(
    "logits-cut-at-half",
    error=13,
    why="BCEWithLogits is trained on logits, whose border between no and yes is 0: a logit of 0.5 is already a "
    "probability of 0.62, so part of the yes answers is lost",
    fix="(logits > 0), or torch.sigmoid(logits) > 0.5",
)
def logits_cut_at_half(source: Outputs) -> Iterator[ast.AST]:
    binary = [loss for loss in source.losses if loss.name == "binary_cross_entropy_with_logits"]
    trained = {spelled(getattr(source.definition(loss.output), "func", None)) for loss in binary} - {""}
    for node in source.nodes:
        cut = None
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Gt, ast.GtE)):
            cut = node.left if constant(node.comparators[0]) == 0.5 else None
        elif isinstance(node, ast.Call) and last_name(node.func) == "round":
            cut = operand(node, 0, "input") if node.args else owner_of(node)
        made = source.definition(_same_values(source, cut))
        by_trained = isinstance(made, ast.Call) and spelled(made.func) in trained and source.is_model(made.func)
        if by_trained and source.kind(made) in (None, "logits"):
            yield node


def _same_values(source: Outputs, node: ast.expr | None) -> ast.expr | None:
    """The value before `.squeeze()`, `.view(-1)` and the like."""
    node = source.definition(node)
    while isinstance(node, ast.Call) and last_name(node.func) in ("squeeze", "view", "flatten", "reshape", "detach"):
        node = source.definition(owner_of(node))
    return node
