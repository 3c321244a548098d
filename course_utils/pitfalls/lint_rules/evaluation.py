"""Rules: what is measured, on which data, and how batches become one number."""

import ast
import re
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    LOOPS,
    calls_in,
    constant,
    keyword,
    last_name,
    owner_of,
    spelled,
    targets_of,
)

_TEST = re.compile(r"(^|_)(x|X)?_?test(_|$|ing|set|loader|data)|^(x|y|X|Y)test$")


def _is_test(node: ast.AST | None) -> bool:
    """Whether a name says that it is test data: test_loader, X_test, testset."""
    return bool(_TEST.search(last_name(node)))


# From batches to one number


def _sums(source: Outputs, loop: ast.For) -> Iterator[tuple[str, ast.AugAssign]]:
    """`total += …` in a loop, with the name."""
    for node in ast.walk(loop):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and source.loop(node) is loop:
            yield spelled(node.target), node


def _divisions(source: Outputs, loop: ast.For, name: str) -> Iterator[tuple[ast.AST, ast.expr]]:
    """`total / n` and `total /= n` behind a loop, with n."""
    for later in source.later(loop):
        for node in ast.walk(later):
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div) and spelled(node.target) == name:
                yield node, node.value
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is_sum(node.left, name):
                yield node, node.right
        if name in source.bound(later) and not isinstance(later, ast.AugAssign):
            return


def _is_sum(node: ast.expr, name: str) -> bool:
    """`total`, `100 * total`, `total.item()`, `float(total)`"""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        sides = (node.left, node.right)
        return any(_is_sum(side, name) for side in sides) and any(constant(side) is not None for side in sides)
    if isinstance(node, ast.Call):
        inner = node.args[0] if node.args else owner_of(node)
        return last_name(node.func) in ("item", "float", "double") and inner is not None and _is_sum(inner, name)
    return spelled(node) == name


def _counts_batches(source: Outputs, node: ast.expr, loop: ast.For) -> bool:
    """`len(loader)` of the loop's loader, also through a name, and a counter that grows by 1 with each batch."""
    loader = spelled(source.batches(loop))
    value = source.definition(node)
    if isinstance(value, ast.Call) and last_name(value.func) == "len" and value.args:
        return loader != "" and spelled(value.args[0]) == loader
    return any(name == spelled(node) and constant(step.value) == 1 for name, step in _sums(source, loop))


def _evaluation_loops(source: Outputs) -> Iterator[ast.For]:
    for loop in source.loader_loops():
        trains = any(map(source.is_backward, source.reached_calls(loop))) or source.optimizer_steps(loop)
        if not trains and not source.batches_of_one(source.batches(loop)) and not _drops_last(source, loop):
            yield loop


def _drops_last(source: Outputs, loop: ast.For) -> bool:
    """Whether all batches have the same size."""
    made = source.definition(source.batches(loop))
    return isinstance(made, ast.Call) and constant(keyword(made, "drop_last")) is True


def _is_batch_mean(source: Outputs, node: ast.expr) -> bool:
    """Whether a value is a mean over a batch: a loss with its default reduction, or `.mean()`."""
    node = source.definition(node)
    while isinstance(node, ast.Call) and last_name(node.func) in ("item", "float", "cpu", "detach", "numpy"):
        inner = owner_of(node)
        node = source.definition(inner if isinstance(node.func, ast.Attribute) else next(iter(node.args), None))
    if not isinstance(node, ast.Call):
        return False
    for loss in source.losses:
        if loss.call is node:
            return loss.option("reduction") is None or constant(loss.option("reduction")) == "mean"
    return last_name(node.func) == "mean" and isinstance(node.func, ast.Attribute) and not node.args


@rule(
    "mean-of-batch-means",
    error=63,
    why="the last batch is smaller, and its samples weigh more: with 65 samples in batches of 64, 32.5 instead of 1.0. "
    "The number changes with the batch size",
    fix="total += loss.item() * len(x) in the loop, and total / len(loader.dataset) behind it",
)
def mean_of_batch_means(source: Outputs) -> Iterator[ast.AST]:
    for loop in _evaluation_loops(source):
        for name, step in _sums(source, loop):
            if _is_batch_mean(source, step.value):
                for division, divisor in _divisions(source, loop, name):
                    if _counts_batches(source, divisor, loop):
                        yield division
        for call in calls_in(loop, "append"):
            kept = spelled(owner_of(call))
            if len(call.args) == 1 and source.loop(call) is loop and _is_batch_mean(source, call.args[0]):
                yield from _means_of(source, loop, kept)


def _means_of(source: Outputs, loop: ast.For, name: str) -> Iterator[ast.AST]:
    """`np.mean(losses)` and `sum(losses) / len(losses)` behind a loop."""
    for later in source.later(loop):
        for node in ast.walk(later):
            if isinstance(node, ast.Call) and last_name(node.func) in ("mean", "fmean") and len(node.args) == 1:
                if spelled(node.args[0]) == name:
                    yield node
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Call):
                inner = [spelled(value) for value in node.left.args]
                length = isinstance(node.right, ast.Call) and last_name(node.right.func) == "len"
                if last_name(node.left.func) == "sum" and inner == [name] and length:
                    yield node


@rule(
    "accuracy-over-batches",
    error=63,
    why="a count of right samples divided by the number of batches is no accuracy: with batches of 64 it goes up to 64",
    fix="divide by the number of samples: len(loader.dataset), or a count of them",
)
def accuracy_over_batches(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.loader_loops():
        if source.batches_of_one(source.batches(loop)):
            continue
        for name, step in _sums(source, loop):
            if _counts_right(source, step.value):
                for division, divisor in _divisions(source, loop, name):
                    if _counts_batches(source, divisor, loop) and not _divided_again(source, division):
                        yield division


def _divided_again(source: Outputs, node: ast.AST) -> bool:
    """`correct / len(loader) / batch_size`"""
    parent = source.parents[node]
    return (
        isinstance(parent, ast.BinOp) and isinstance(parent.op, (ast.Div, ast.Mult)) and constant(parent.right) != 100
    )


def _counts_right(source: Outputs, node: ast.expr) -> bool:
    """`(prediction == y).sum()`, also with `.item()`, `.float()` and the like."""
    node = source.definition(node)
    names = []
    while isinstance(node, ast.Call):
        names.append(last_name(node.func))
        inner = owner_of(node) if isinstance(node.func, ast.Attribute) else None
        node = inner if inner is not None and not source.full_name(node.func) else next(iter(node.args), None)
        node = source.definition(node)
    compared = isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq)
    return (compared or "eq" in names) and "sum" in names and "mean" not in names


# On which data


@rule(
    "chosen-on-test-data",
    error=23,
    why="what is best on the test data is best there by luck, too: a threshold tuned on 100 samples of pure noise "
    "scores 0.575 on these and 0.503 on fresh ones",
    fix="choose on validation data; touch the test data once, at the end",
)
def chosen_on_test_data(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.nodes:
        if not isinstance(loop, LOOPS) or not source.trains(loop):
            continue
        for node in ast.walk(loop):
            if isinstance(node, ast.If) and source.loop(node) is loop and _keeps_best(node):
                compared = [node.test.left, *node.test.comparators]
                if any(_measured_on_test(source, side, loop) for side in compared):
                    yield node
        for call in calls_in(loop, "step"):
            of_scheduler = source.loop(call) is loop and len(call.args) == 1 and "sched" in spelled(call.func).lower()
            if of_scheduler and _measured_on_test(source, call.args[0], loop):
                yield call


def _keeps_best(node: ast.If) -> bool:
    """`if accuracy > best_accuracy: best_accuracy = …`"""
    if not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
        return False
    bests = [name for side in (node.test.left, node.test.comparators[0]) if "best" in (name := spelled(side)).lower()]
    targets = [target for child in ast.walk(node) for target in targets_of(child)]
    assigned = {spelled(part) for target in targets for part in ast.walk(target)}
    return any(name in assigned for name in bests)


def _measured_on_test(source: Outputs, node: ast.expr, loop: ast.AST) -> bool:
    """Whether a number comes from a call with test data in the same round: `evaluate(model, test_loader)`."""
    if not isinstance(node, ast.Name) or "best" in node.id.lower():
        return False
    for other in ast.walk(loop):
        if isinstance(other, ast.Assign) and isinstance(other.value, ast.Call):
            bound = {spelled(child) for target in other.targets for child in ast.walk(target)}
            if node.id in bound and any(_is_test(value) for value in other.value.args):
                return source.loop(other) is loop
    return False


@rule(
    "fitted-on-test-data",
    error=31,
    why="what is fitted on the test data has seen its answers or its statistics, and is then judged by them. A scaler "
    "that is fitted again also gives the same value another number than in training",
    fix="fit on training or validation data, and use the fitted object on the test data: transform, not fit_transform",
)
def fitted_on_test_data(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("fit", "fit_transform", "partial_fit", "temperature_scaling", "set_temperature"):
        if call.args and _is_test(call.args[0]) and not _is_picture(source, owner_of(call)):
            yield call


def _is_picture(source: Outputs, owner: ast.expr | None) -> bool:
    """A projection or a grouping that is only looked at."""
    made = source.definition(owner)
    name = last_name(made.func) if isinstance(made, ast.Call) else last_name(owner)
    return name.lower() in ("pca", "tsne", "umap", "kmeans")


@rule(
    "scaled-by-its-own-statistics",
    error=46,
    why="the test data are scaled by other numbers than the training data: the same value is 0.5 in one set and 0.034 "
    "in another, and the network has learned only one of them",
    fix="take mean, standard deviation, minimum and maximum from the training data, for both",
)
def scaled_by_its_own(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.BinOp):
            data = spelled(node.left.left)
            if isinstance(node.left.op, ast.Sub) and data and _is_test(node.left.left):
                centre, spread = (
                    {spelled(owner_of(call)) for call in calls_in(side, "mean", "min", "std", "max")}
                    for side in (node.left.right, node.right)
                )
                if data in centre and data in spread:
                    yield node


@rule(
    "scaled-before-split",
    why="the scaler has seen the test samples, and their statistics are in the training data",
    fix="split first, then scaler.fit on the training part only; or a sklearn Pipeline",
)
def scaled_before_split(source: Outputs) -> Iterator[ast.AST]:
    for split in source.calls_to("sklearn.model_selection.train_test_split"):
        for value in split.args:
            made = source.definition(value)
            if isinstance(made, ast.Call) and last_name(made.func) == "fit_transform" and made.args:
                scaler = source.definition(owner_of(made))
                full = source.full_name(scaler.func) if isinstance(scaler, ast.Call) else ""
                # Encoders of labels learn names and not statistics.
                if full.startswith("sklearn.preprocessing.") and not full.endswith(("Encoder", "Binarizer")):
                    yield made


@rule(
    "test-set-is-training-set",
    error=23,
    why="what is called the test set is training data: the network has seen the answers",
    fix="train=False for the test set, and a loader of it",
)
def test_set_is_training_set(source: Outputs) -> Iterator[ast.AST]:
    for node in source.nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) or not _is_test(node.targets[0]):
            continue
        call, names_train = node.value, "train" in last_name(node.targets[0]).lower()
        if names_train:
            continue
        dataset = source.full_name(call.func).startswith("torchvision.datasets.")
        if dataset and (constant(keyword(call, "train")) is True or constant(keyword(call, "split")) == "train"):
            yield node
        if last_name(call.func) == "DataLoader" and call.args:
            name = last_name(call.args[0]).lower()
            if name.startswith(("train_", "trainset", "training_")) and "test" not in name:
                yield node


@rule(
    "random-transform-on-test-data",
    why="the test pictures are changed by chance: two evaluations give two numbers, and neither is about the pictures "
    "themselves",
    fix="a transform of its own for the test data, without Random… and ColorJitter",
)
def random_transform_on_test_data(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls:
        if not source.full_name(call.func).startswith("torchvision.datasets."):
            continue
        is_test = constant(keyword(call, "train")) is False or constant(keyword(call, "split")) in ("test", "val")
        given = keyword(call, "transform")
        transform = source.definition(given)
        if is_test and isinstance(transform, ast.Call) and last_name(transform.func) == "Compose":
            names = [last_name(inner.func) for inner in calls_in(transform)]
            if any(name.startswith("Random") or name in ("ColorJitter", "AutoAugment") for name in names):
                yield given


@rule(
    "argmax-over-the-whole-batch",
    why="argmax and max without dim look for the largest number of the whole batch: one answer for all samples, which "
    "is then compared with each label",
    fix="outputs.argmax(dim=1)",
)
def argmax_over_the_whole_batch(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("argmax"):
        full, loader = source.full_name(call.func), source.batches(source.loop(call))
        without_dim = len(call.args) == (1 if full else 0) and not call.keywords
        if full not in ("", "torch.argmax") or not without_dim or loader is None or source.batches_of_one(loader):
            continue
        inner = source.definition(call.args[0] if full else owner_of(call))
        if isinstance(inner, ast.Call) and source.is_model(inner.func) and _compared_with_labels(source, call):
            yield call


def _compared_with_labels(source: Outputs, call: ast.Call) -> bool:
    """Whether the result is compared with labels and then summed or averaged."""
    names = {spelled(target) for target in targets_of(source.statement(call))} - {""}
    for node in ast.walk(source.loop(call)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq):
            sides = (node.left, *node.comparators)
            if call in sides or names & set(map(spelled, sides)):
                parent = source.parents[node]
                return isinstance(parent, ast.Attribute) and parent.attr in ("sum", "float", "mean")
    return False
