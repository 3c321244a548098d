"""Where outputs come from: which layer or function made a value, which module is called, what a loss is given."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from course_utils.pitfalls.lint_rules.source import (
    FUNCTIONS,
    Function,
    Source,
    constant,
    is_self_attribute,
    keyword,
    last_name,
    method,
    operand,
    owner_of,
    returned,
    spelled,
    targets_of,
)

# The last name of what makes a value → what the value is.
_KINDS = {
    **dict.fromkeys(("softmax", "Softmax", "Softmax2d"), "softmax"),
    **dict.fromkeys(("log_softmax", "LogSoftmax"), "log_softmax"),
    **dict.fromkeys(("sigmoid", "Sigmoid"), "sigmoid"),
    **dict.fromkeys(("logsigmoid", "LogSigmoid"), "log_sigmoid"),
    **dict.fromkeys(("relu", "ReLU", "relu_"), "relu"),
    **dict.fromkeys(("Linear", "LazyLinear", "Bilinear", "Conv1d", "Conv2d", "Conv3d"), "logits"),
}
_FUNCTIONS = ("torch", "torch.nn.functional", "torch.special")
# They hand on the values that they are given, in another place or precision, or in another shape.
_SAME_SHAPE = {"to", "cpu", "cuda", "float", "double", "half", "bfloat16", "type", "detach", "clone", "contiguous"}
_OTHER_SHAPE = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "ravel", "permute", "transpose"}
_SAME_MODULE = {
    *("to", "cpu", "cuda", "float", "double", "half", "bfloat16", "eval", "train", "requires_grad_", "share_memory"),
}
_WRAPPERS = {"DataParallel", "DistributedDataParallel", "compile", "deepcopy", "FullyShardedDataParallel"}
_WITHOUT_EFFECT = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Flatten", "Identity", "Unflatten"}
_HEADS = {"fc", "classifier", "head", "heads"}
_LOSSES = {
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_div",
}
LOSS_CLASSES = frozenset(_LOSSES)
MODEL_NAMES = {"model", "net", "network", "classifier", "self.model", "self.net", "self.network"}


@dataclass(frozen=True)
class Loss:
    """A loss that is computed: its functional name, the call, what it compares."""

    name: str
    call: ast.Call
    output: ast.expr
    target: ast.expr
    made: ast.Call | None  # nn.CrossEntropyLoss(…), None for the functional form

    def option(self, name: str) -> ast.expr | None:
        """A keyword of the loss, wherever it is given."""
        return keyword(self.made or self.call, name)


class Outputs(Source):
    """A source text with the answers to: what is this value?"""

    def __init__(self, text: str, tree: ast.Module) -> None:
        super().__init__(text, tree)
        self._made_by: dict[tuple[ast.AST, bool], list[ast.Call]] = {}
        self._modules: dict[ast.AST, list[ast.Call]] = {}
        self._heads: dict[str, list[ast.Call]] = {}
        self._heads = self._replaced_heads()
        self._made_by.clear()  # what was found before the heads were known
        self.losses = list(self._losses())

    def kind(self, node: ast.expr | None) -> str | None:
        """ "softmax", "log_softmax", "sigmoid", "relu" or "logits"; None if the text leaves a doubt."""
        kinds = {_KINDS.get(last_name(call.func)) for call in self.made_by(node)}
        return kinds.pop() if len(kinds) == 1 else None

    def single(self, node: ast.expr | None) -> bool:
        """Whether the values come from a linear layer with one unit, and have still its shape: (…, 1)."""
        makers = self.made_by(node, same_shape=True)
        return bool(makers) and all(self.units(call) == 1 for call in makers)

    def units(self, layer: ast.Call) -> int | None:
        """The outputs of nn.Linear(…), if they are written as a number."""
        if last_name(layer.func) != "Linear":
            return None
        return constant(self.definition(operand(layer, 1, "out_features")))

    # Values

    def made_by(self, node: ast.expr | None, *, same_shape: bool = False) -> list[ast.Call]:
        """The layers or functions that can have made a value; none if the text leaves a doubt.

        With `same_shape`, only those whose shape the value still has.
        """
        if node is None:
            return []
        key = (node, same_shape)
        if key not in self._made_by:
            self._made_by[key] = []  # for a name that leads back to itself
            self._made_by[key] = self._find_makers(node, same_shape)
        return self._made_by[key]

    def _find_makers(self, node: ast.expr, same_shape: bool) -> list[ast.Call]:
        inner: list[ast.expr] = []
        if isinstance(node, ast.Name):
            inner = self.definitions(node)
        elif isinstance(node, ast.IfExp):
            inner = [node.body, node.orelse]
        elif isinstance(node, ast.NamedExpr) or (isinstance(node, ast.Subscript) and not same_shape):
            inner = [node.value]
        elif isinstance(node, ast.Call):
            return self._makers_of_call(node, same_shape)
        return _all(self.made_by(value, same_shape=same_shape) for value in inner)

    def _makers_of_call(self, call: ast.Call, same_shape: bool) -> list[ast.Call]:
        name, full = last_name(call.func), self.full_name(call.func)
        handed_on = _SAME_SHAPE if same_shape else _SAME_SHAPE | _OTHER_SHAPE
        if full:
            if full.rpartition(".")[0] in _FUNCTIONS and name in _KINDS:
                return [call]
            is_same = full.startswith("torch.") and name in handed_on
            return self.made_by(operand(call, 0, "input"), same_shape=same_shape) if is_same else []
        if modules := self.modules_of(call.func):
            if spelled(call.func) in self._heads:
                return self._heads[spelled(call.func)]
            return _all(self.last_layers(module, same_shape=same_shape) for module in modules)
        if isinstance(call.func, ast.Name) and call.func.id == "self":
            owner = self.enclosing(call, (ast.ClassDef,))
            return self._returned_by(method(owner, "forward"), same_shape) if owner else []
        if function := self.called_function(call):
            return self._returned_by(function, same_shape)
        owner = owner_of(call)
        if owner is None or spelled(owner) == "self":
            return []
        if name in _KINDS:
            return [call]  # x.softmax(1)
        return self.made_by(owner, same_shape=same_shape) if name in handed_on else []

    def _returned_by(self, function: Function | None, same_shape: bool) -> list[ast.Call]:
        return _all(self.made_by(value, same_shape=same_shape) for value in returned(function)) if function else []

    # Modules

    def is_model(self, node: ast.expr) -> bool:
        """Whether a name stands for a network: the text makes one, or calls it one and imports torch."""
        return bool(self.modules_of(node)) or ("torch" in self.modules and spelled(node) in MODEL_NAMES)

    def is_module_class(self, owner: ast.ClassDef) -> bool:
        for base in owner.bases:
            if self.full_name(base) in ("torch.nn.Module", "torch.nn.Sequential", "torch.jit.ScriptModule"):
                return True
            other = self.classes.get(last_name(base))
            if other is not None and other is not owner and self.is_module_class(other):
                return True
            if last_name(base) == "LightningModule":
                return True
        return False

    def modules_of(self, node: ast.expr | None) -> list[ast.Call]:
        """The calls that can have made the module that an expression stands for: `nn.Linear(…)`, `Net()`."""
        if node is None:
            return []
        if node not in self._modules:
            self._modules[node] = []
            self._modules[node] = self._find_modules(node)
        return self._modules[node]

    def _find_modules(self, node: ast.expr) -> list[ast.Call]:
        if isinstance(node, ast.Name):
            return _all(self.modules_of(value) for value in self.definitions(node))
        if is_self_attribute(node):
            return _all(self.modules_of(value) for value in self.attribute_values(node))
        if not isinstance(node, ast.Call):
            return []
        name, full = last_name(node.func), self.full_name(node.func)
        if name in _WRAPPERS and node.args:
            return self.modules_of(node.args[0])
        if full.startswith("torch.nn.") and name[:1].isupper() and name not in ("Parameter", "Buffer"):
            return [node]
        if self._is_classifier(full):
            return [node]
        if isinstance(node.func, ast.Name) and node.func.id in self.classes:
            return [node] if self.is_module_class(self.classes[node.func.id]) else []
        if isinstance(node.func, ast.Attribute) and name in _SAME_MODULE and not full:
            return self.modules_of(node.func.value)
        if function := self.called_function(node):
            return _all(self.modules_of(value) for value in returned(function))
        return []

    @staticmethod
    def _is_classifier(full: str) -> bool:
        """torchvision.models.resnet18 and its like; detection and segmentation models have more dots."""
        return full.startswith("torchvision.models.") and full.count(".") == 2

    def last_layers(self, module: ast.Call, *, same_shape: bool = False) -> list[ast.Call]:
        """The layers or functions that can end a module."""
        name, full = last_name(module.func), self.full_name(module.func)
        if name == "Sequential" and full.startswith("torch.nn."):
            layers = list(module.args)
            while layers and last_name(getattr(layers[-1], "func", None)) in _WITHOUT_EFFECT:
                if same_shape and last_name(layers[-1].func) in ("Flatten", "Unflatten"):
                    return []
                layers.pop()
            ends = self.modules_of(layers[-1]) if layers else []
            return _all(self.last_layers(end, same_shape=same_shape) for end in ends)
        if full.startswith("torch.nn."):
            return [module] if name in _KINDS else []
        if full:
            return []  # a classifier of torchvision: its head may have been replaced elsewhere
        owner = self.classes.get(name)
        return self._returned_by(method(owner, "forward"), same_shape) if owner else []

    def _replaced_heads(self) -> dict[str, list[ast.Call]]:
        """`model.fc = nn.Linear(512, 2)`: the names of models whose layers are replaced, and the new ends."""
        heads: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            for target in targets_of(node):
                inner = target.value if isinstance(target, ast.Subscript) else target
                model = spelled(inner.value) if isinstance(inner, ast.Attribute) else spelled(inner)
                if inner is target and isinstance(inner, ast.Name):
                    continue  # a new model, not a part of one
                if model not in ("", "self") and (modules := self.modules_of(node.value)):
                    is_head = isinstance(inner, ast.Attribute) and inner.attr in _HEADS
                    heads[model] = _all(map(self.last_layers, modules)) if is_head else []
        return heads

    # Losses

    def _losses(self) -> Iterator[Loss]:
        for call in self.calls:
            full = self.full_name(call.func)
            made, name = None, ""
            if full.startswith("torch.nn.functional."):
                name = last_name(call.func)
            elif not full and (modules := self.modules_of(call.func)):
                names = {last_name(module.func) for module in modules}
                made, name = modules[0], _LOSSES.get(names.pop(), "") if len(names) == 1 else ""
            if name in _LOSSES.values():
                output, target = operand(call, 0, "input"), operand(call, 1, "target")
                if output is not None and target is not None:
                    yield Loss(name, call, output, target, made)

    # Data

    def is_loader(self, node: ast.expr) -> bool:
        """Whether an expression stands for batches: its name says so, or it is made by DataLoader."""
        if any(word in last_name(node).lower() for word in ("loader", "batches")):
            return True
        made = self.definition(node)
        return isinstance(made, ast.Call) and last_name(made.func) == "DataLoader"

    def batches(self, loop: ast.AST | None) -> ast.expr | None:
        """The loader that a loop goes through, `enumerate` and `tqdm` taken off."""
        if not isinstance(loop, (ast.For, ast.AsyncFor)):
            return None
        source = loop.iter
        while isinstance(source, ast.Call) and source.args:
            if last_name(source.func) not in ("enumerate", "tqdm", "track", "trange", "islice", "progress_bar"):
                break
            source = source.args[0]
        return source if self.is_loader(source) else None

    def loader_loops(self) -> Iterator[ast.For]:
        for node in self.nodes:
            if isinstance(node, ast.For) and self.batches(node) is not None:
                yield node

    def batches_of_one(self, loader: ast.expr) -> bool:
        """Whether a loader is seen to give single samples."""
        made = self.definition(loader)
        if not isinstance(made, ast.Call) or last_name(made.func) != "DataLoader":
            return False
        size = operand(made, 1, "batch_size")
        return size is None or constant(self.definition(size)) == 1

    # Training

    def optimizer_steps(self, node: ast.AST) -> list[ast.Call]:
        """The `optimizer.step()` calls in a node."""
        return [call for call in self.reached_calls(node) if self.is_optimizer_step(call)]

    def is_optimizer_step(self, call: ast.Call) -> bool:
        return last_name(call.func) == "step" and self.is_optimizer(call.func.value)

    def is_optimizer(self, node: ast.expr) -> bool:
        name = last_name(node).lower()
        if "sched" in name:
            return False
        if "optim" in name or name == "opt":
            return True
        made = self.definition(node)
        full = self.full_name(made.func) if isinstance(made, ast.Call) else ""
        return full.startswith("torch.optim.") and not full.startswith("torch.optim.lr_scheduler.")

    def is_backward(self, call: ast.Call) -> bool:
        """`loss.backward()`: a call without arguments, which the engines of other libraries have."""
        return last_name(call.func) == "backward" and isinstance(call.func, ast.Attribute) and not call.args

    def trains(self, node: ast.AST) -> bool:
        """Whether weights are changed in a node, or in the functions of this text that it calls."""
        calls = list(self.reached_calls(node))
        return any(map(self.is_backward, calls)) and any(
            last_name(call.func) == "step" and isinstance(call.func, ast.Attribute) for call in calls
        )

    def method_of(self, node: ast.AST) -> ast.FunctionDef | None:
        """The method around a node, if its class is a module."""
        function = self.enclosing(node, FUNCTIONS)
        owner = self.parents.get(function) if function else None
        return function if isinstance(owner, ast.ClassDef) and self.is_module_class(owner) else None


def _all(several: Iterator[list[ast.Call]]) -> list[ast.Call]:
    """The union of what is known of each case; none if one of them is unknown, or if there is none."""
    found = []
    for case in several:
        if not case:
            return []
        found += case
    return found
