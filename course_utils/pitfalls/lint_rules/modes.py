"""Rules: train and eval mode, gradients that nobody needs, layers that nobody sees, hooks that stay."""

import ast
import re
from collections.abc import Iterator

from course_utils.pitfalls.lint_rules.outputs import Outputs
from course_utils.pitfalls.lint_rules.rule import rule
from course_utils.pitfalls.lint_rules.source import (
    FUNCTIONS,
    LOOPS,
    argument,
    calls_in,
    constant,
    first_name,
    has_call,
    is_self_attribute,
    keyword,
    last_name,
    method,
    names_in,
    owner_of,
    spelled,
    targets_of,
)

_MODE_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
# These have dropout only if it is asked for.
_PERHAPS_MODES = (
    *_MODE_LAYERS,
    "dropout",
    "LSTM",
    "GRU",
    "Transformer",
    "TransformerEncoderLayer",
    "MultiheadAttention",
)
_WRAPPERS = ("DistributedDataParallel", "DDP", "DataParallel", "compile")
_HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_backward_hook",
)


def _model_calls(source: Outputs, node: ast.AST) -> Iterator[ast.Call]:
    """Calls of networks as a whole, not of single layers or losses that are called by name."""
    for call in calls_in(node):
        if isinstance(call.func, ast.Name) and call.func.id != "self" and source.is_model(call.func):
            made = source.modules_of(call.func)
            whole = [last_name(module.func) for module in made if not _is_layer_of_torch(source, module)]
            if whole or not made:
                yield call


def _is_layer_of_torch(source: Outputs, module: ast.Call) -> bool:
    return source.full_name(module.func).startswith("torch.nn.") and last_name(module.func) != "Sequential"


def _sets_mode(call: ast.Call, mode: str) -> bool:
    """`model.eval()`, `model.train(False)`, a helper that is named after the mode."""
    name = last_name(call.func)
    if name == "train" and isinstance(call.func, ast.Attribute):
        off = constant(call.args[0]) is False if call.args else constant(keyword(call, "mode")) is False
        return off == (mode == "eval")
    if name == "eval":
        return mode == "eval" and isinstance(call.func, ast.Attribute)
    return mode == "eval" and any(word in name.lower() for word in ("eval_mode", "evaluation_mode", "set_mode"))


@rule(
    "eval-missing",
    error=19,
    why="no_grad does not switch off dropout: the answers stay random, and BatchNorm makes each of them depend on the "
    "others of its batch",
    fix="model.eval() before the loop, model.train() behind it",
)
def eval_missing(source: Outputs) -> Iterator[ast.AST]:
    if any(_sets_mode(call, "eval") for call in source.calls):
        return  # somebody thinks of modes: where, and for which calls, cannot be seen here
    if not any(source.trains(node) for node in source.nodes if isinstance(node, LOOPS)):
        return
    for part in (*source.loader_loops(), *_evaluating_functions(source)):
        if source.without_gradient(part) or any(_is_no_grad(statement) for statement in part.body):
            yield from [call for call in _model_calls(source, part) if _has_modes(source, call)][:1]


def _evaluating_functions(source: Outputs) -> Iterator[ast.AST]:
    """Functions without a loop over batches whose names say that they evaluate."""
    for node in source.nodes:
        named = isinstance(node, FUNCTIONS) and re.search(r"eval|valid|test|predict|infer|accuracy", node.name)
        if named and not any(isinstance(inner, LOOPS) for inner in ast.walk(node)):
            yield node


def _has_modes(source: Outputs, call: ast.Call) -> bool:
    """Whether the text shows the layers of the model that is called, and one of them knows modes."""
    waiting: list[ast.AST] = list(source.modules_of(call.func))
    seen = set()
    while waiting:
        part = waiting.pop()
        if has_call(part, *_MODE_LAYERS):
            return True
        seen.add(part)
        # The classes of this text that are made there.
        made = {source.classes.get(last_name(inner.func)) for inner in calls_in(part)} - {None}
        waiting += made - seen
    return False


def _is_no_grad(node: ast.AST) -> bool:
    """`with torch.no_grad():` around the whole body of a loop."""
    return isinstance(node, ast.With) and any(
        last_name(getattr(item.context_expr, "func", None)) in ("no_grad", "inference_mode") for item in node.items
    )


@rule(
    "left-in-eval-mode",
    error=37,
    why="after the first evaluation the training goes on in eval mode: dropout is off and BatchNorm updates no "
    "statistics, in all further epochs",
    fix="model.train() at the beginning of each epoch",
)
def left_in_eval_mode(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.nodes:
        if not isinstance(loop, LOOPS) or source.loop(loop) is not None:  # the outermost loop is the one over epochs
            continue
        reached = list(source.reached_calls(loop))
        trained = _trained_models(source)
        if not source.trains(loop) or any(_sets_mode(call, "train") for call in reached):
            continue
        for call in reached:
            if last_name(call.func) == "eval" and isinstance(call.func, ast.Attribute):
                name = _name_at_loop(source, call, loop)
                if name in trained and _comes_back(source, call, loop) and not _without_modes(source, call.func.value):
                    yield call
                    break


def _without_modes(source: Outputs, model: ast.expr) -> bool:
    """Whether the text shows the whole model, and it has no layer that knows modes."""
    modules = source.modules_of(model)
    written_here = bool(modules) and not any(source.full_name(call.func).startswith("torchvision.") for call in modules)
    return written_here and not any(True for _ in source.calls_named(*_PERHAPS_MODES))


def _trained_models(source: Outputs) -> set[str]:
    """The names whose parameters an optimizer is given."""
    names = set()
    for call in source.calls:
        if source.full_name(call.func).startswith("torch.optim."):
            names |= {
                spelled(part.func.value)
                for part in calls_in(call, "parameters")
                if isinstance(part.func, ast.Attribute)
            }
    return names - {""}


def _name_at_loop(source: Outputs, call: ast.Call, loop: ast.AST) -> str:
    """The model's name in `model.eval()`; inside a function, the name that the loop gives for its parameter."""
    name, function = spelled(call.func.value), source.scope(call)
    if loop not in ast.walk(function) and isinstance(function, FUNCTIONS):
        for outer in source.reached_calls(loop):
            if source.called_function(outer) is function and (given := argument(outer, function, name)) is not None:
                return spelled(given)
    return name


def _comes_back(source: Outputs, call: ast.Call, loop: ast.AST) -> bool:
    """Whether training follows: the loop does not end with `break` or `return` right behind the evaluation."""
    if call not in ast.walk(loop):
        return True
    statement = source.statement(call)
    return not any(isinstance(other, (ast.Return, ast.Break)) for other in source.block(statement))


@rule(
    "outputs-kept-with-their-graphs",
    why="every output that is kept keeps its graph, with all activations: memory grows with each batch",
    fix="with torch.inference_mode(): around the loop, or output.detach()",
)
def outputs_kept(source: Outputs) -> Iterator[ast.AST]:
    for loop in source.loader_loops():
        around = source.scope(loop)
        evals = {spelled(call.func.value) for call in calls_in(around, "eval") if isinstance(call.func, ast.Attribute)}
        recorded = has_call(around, "backward", "grad", "set_grad_enabled", "enable_grad")
        if recorded or source.without_gradient(loop) or _called_without_gradient(source, around):
            continue
        for call in calls_in(loop, "append"):
            if len(call.args) == 1 and not source.without_gradient(call):
                made = source.definition(call.args[0])
                if (
                    isinstance(made, ast.Call)
                    and spelled(made.func) in evals - {""}
                    and not source.without_gradient(made)
                ):
                    yield call


def _called_without_gradient(source: Outputs, function: ast.AST) -> bool:
    if not isinstance(function, FUNCTIONS):
        return False
    calls = [call for call in source.calls_named(function.name) if source.scope(call) is not function]
    return any(map(source.without_gradient, calls))


@rule(
    "dropout-by-train",
    error=35,
    why="train() switches on more than dropout: BatchNorm then uses the batch's own statistics and overwrites the "
    "learned ones (its running mean moved by 3.16 in one call), and the model stays in train mode",
    fix="model.eval(), then .train() for the dropout layers only; give every mode back at the end",
)
def dropout_by_train(source: Outputs) -> Iterator[ast.AST]:
    for function in source.nodes:
        if isinstance(function, FUNCTIONS) and _samples_by_dropout(function):
            for call in calls_in(function, "train"):
                if spelled(call.func) and _sets_mode(call, "train") and _runs_after(source, call):
                    yield call


def _samples_by_dropout(function: ast.AST) -> bool:
    """Whether a function is named after sampling, runs something many times, and does not choose among the layers."""
    if not any(word in function.name.lower() for word in ("dropout", "uncertain", "mc_", "_mc", "monte")):
        return False
    words = {word.lower() for word in names_in(function)}
    repeats = any(isinstance(node, (*LOOPS, ast.ListComp)) for node in ast.walk(function))
    chooses = words & {"modules", "named_modules", "apply", "isinstance", "children", "backward"}
    return repeats and bool(words & {"stack", "var", "std", "variance"}) and not chooses


def _runs_after(source: Outputs, call: ast.Call) -> bool:
    """Whether the model that is put into train mode is called behind that line."""
    name = spelled(call.func.value)
    return any(spelled(other.func) == name and other.lineno > call.lineno for other in calls_in(source.scope(call)))


@rule(
    "dropout-that-never-stops",
    error=35,
    why="F.dropout is on by default, in eval mode too: the answers stay random after model.eval()",
    fix="F.dropout(x, p, training=self.training), or a layer nn.Dropout(p)",
)
def dropout_never_stops(source: Outputs) -> Iterator[ast.AST]:
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"):
        for call in source.calls_to(f"torch.nn.functional.{name}"):
            unpacked = any(word.arg is None for word in call.keywords)
            if len(call.args) < 3 and keyword(call, "training") is None and not unpacked and source.method_of(call):
                conditional = [node for node in source.ancestors(call) if isinstance(node, (ast.If, ast.IfExp))]
                if not any("training" in names_in(node.test) for node in conditional):
                    yield call


@rule(
    "layers-in-a-plain-list",
    why="a module sees only layers that are its attributes, or in a ModuleList. Those in a plain list are missing in "
    "parameters(): they are not trained, not moved to the GPU and not saved",
    fix="nn.ModuleList([…]), nn.ModuleDict({…}) or nn.ParameterList([…])",
)
def layers_in_a_list(source: Outputs) -> Iterator[ast.AST]:
    for owner in source.nodes:
        start = method(owner, "__init__") if isinstance(owner, ast.ClassDef) and source.is_module_class(owner) else None
        for node in ast.walk(start) if start else []:
            for target in targets_of(node) if isinstance(node, (ast.Assign, ast.AnnAssign)) else []:
                is_list = is_self_attribute(target) and _holds_layers(source, owner, target.attr, node.value)
                if is_list and not _registered_otherwise(owner, target.attr):
                    yield node


def _holds_layers(source: Outputs, owner: ast.ClassDef, name: str, value: ast.expr | None) -> bool:
    if isinstance(value, (ast.List, ast.Tuple)):
        found = [element for element in value.elts if _is_layer(source, element)]
        if found:
            return True
    elif isinstance(value, ast.ListComp):
        return _is_layer(source, value.elt)
    elif isinstance(value, ast.Dict):
        return any(_is_layer(source, element) for element in value.values)
    if isinstance(value, ast.List) and not value.elts:
        appended = [call for call in calls_in(owner, "append") if spelled(owner_of(call)) == f"self.{name}"]
        return any(_is_layer(source, element) for call in appended for element in call.args)
    return False


def _is_layer(source: Outputs, node: ast.expr) -> bool:
    """A layer that is made on the spot, and has or may have parameters."""
    if not isinstance(node, ast.Call):
        return False
    if source.full_name(node.func) == "torch.nn.Parameter":
        return constant(keyword(node, "requires_grad")) is not False
    plain = (
        "ReLU",
        "Dropout",
        "Pool",
        "Identity",
        "Flatten",
        "Softmax",
        "Sigmoid",
        "Tanh",
        "Upsample",
        "Loss",
        "GELU",
        "SiLU",
    )
    return bool(source.modules_of(node)) and not any(word in last_name(node.func) for word in plain)


def _registered_otherwise(owner: ast.ClassDef, name: str) -> bool:
    """Whether the list's layers also get into a ModuleList, a Sequential or `add_module`."""
    registering = ("ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict")
    registering += ("add_module", "register_module", "register_parameter", "setattr", "__setattr__")
    for call in calls_in(owner, *registering):
        if last_name(call.func) in ("add_module", "register_module", "register_parameter", "setattr", "__setattr__"):
            return True
        if any(f"self.{name}" == spelled(child) for child in ast.walk(call)):
            return True
    return False


@rule(
    "forward-called",
    why="model.forward(x) skips what hangs on the call itself: the hooks, the distributed training or the compilation "
    "that stand above it are passed over without a word",
    fix="model(x)",
)
def forward_called(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("forward"):
        owner = owner_of(call)
        is_model = owner is not None and spelled(owner) not in ("", "self") and source.is_model(owner)
        if is_model and _something_hangs_on(spelled(owner), source.scope(call), call.lineno):
            yield call


def _something_hangs_on(model: str, scope: ast.AST, line: int) -> bool:
    """Whether a model gets hooks, or is wrapped, above a line in the same function (or in the script)."""
    for call in calls_in(scope, *_HOOKS):
        if spelled(owner_of(call)).split(".")[0] == model and call.lineno < line:
            return True
    assigned = [node for node in ast.walk(scope) if isinstance(node, ast.Assign) and node.lineno < line]
    wrapped = [node.value for node in assigned if model in map(spelled, node.targets)]
    return any(last_name(getattr(value, "func", None)) in _WRAPPERS for value in wrapped)


@rule(
    "hook-never-removed",
    error=57,
    why="each call adds one more hook, and all of them run in every later forward pass: 10 after 10 calls; after 60 a "
    "plain forward pass is 1.44 times slower",
    fix="handle = layer.register_forward_hook(hook), and handle.remove() in a finally block; or `with` it",
)
def hook_never_removed(source: Outputs) -> Iterator[ast.AST]:
    if any(name in ("_forward_hooks", "_backward_hooks") for node in source.nodes for name in [last_name(node)]):
        return  # removed by hand
    for call in source.calls_named(*_HOOKS):
        statement, function = source.statement(call), source.enclosing(call, FUNCTIONS)
        if not isinstance(call.func, ast.Attribute) or function is None or not _runs_a_given_model(function, call):
            continue
        if isinstance(statement, ast.Expr) and statement.value is call:
            yield call  # its handle is thrown away
        elif isinstance(statement, ast.Assign) and statement.value is call:
            name = spelled(statement.targets[0])
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
            if names and all(isinstance(node.ctx, ast.Store) for node in names):
                yield call  # it is kept under a name that nobody reads


def _runs_a_given_model(function: ast.AST, call: ast.Call) -> bool:
    """Whether a function hooks into a model that is older than the function's call, and runs it behind that.

    A function that only registers hooks does what it is for, and hooks of a model that is made here go with it.
    """
    name = first_name(call.func.value)
    for _ in range(5):  # from `layer` to `model` in `for layer in model.modules()`
        sources = [_source_of(node, name) for node in ast.walk(function)]
        sources = [node for node in sources if node is not None]
        if not sources:
            break
        if len(sources) > 1 or not _leads_on(sources[0]):
            return False
        name = first_name(sources[0])
    return any(spelled(other.func) == name and other.lineno > call.lineno for other in calls_in(function))


def _source_of(node: ast.AST, name: str) -> ast.expr | None:
    """What a name is bound to by an assignment or a loop."""
    if not isinstance(node, (ast.Assign, ast.For)):
        return None
    targets = [node.target] if isinstance(node, ast.For) else node.targets
    bound = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    if name not in bound:
        return None
    return node.iter if isinstance(node, ast.For) else node.value


def _leads_on(node: ast.expr) -> bool:
    """Whether an expression looks into a model (`model.layers[0]`, `list(model.children())`) and does not make one."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Name)
    looks = ("getattr", "dict", "list", "next", "reversed", "enumerate")
    looks += ("modules", "named_modules", "children", "named_children", "get_submodule", "items", "values")
    return last_name(node.func) in looks


@rule(
    "deprecated-backward-hook",
    error=58,
    why="it is deprecated: for a module of several operations it gives the gradients of the last one",
    fix="register_full_backward_hook, or torch.autograd.grad on the layer's output",
)
def deprecated_backward_hook(source: Outputs) -> Iterator[ast.AST]:
    for call in source.calls_named("register_backward_hook"):
        if isinstance(call.func, ast.Attribute) and not _asks_for_the_new_one(source, call):
            yield call


def _asks_for_the_new_one(source: Outputs, call: ast.Call) -> bool:
    """`if hasattr(module, "register_full_backward_hook"): … else: module.register_backward_hook(…)`"""
    return any(
        isinstance(parent, (ast.If, ast.Try)) and "register_full_backward_hook" in ast.unparse(parent)
        for parent in source.ancestors(call)
    )
