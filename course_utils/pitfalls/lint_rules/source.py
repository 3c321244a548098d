"""What a Python text says about itself: names, where their values come from, scopes. Nothing is run or imported."""

import ast
import builtins
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
_OWN_SCOPE = (*FUNCTIONS, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NO_GRADIENT = ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled", "torch.autograd.no_grad")


class Unclear(Exception):
    """The text alone does not say which value a name has."""


class Source:
    """A parsed text, and answers to the questions that the rules ask about it.

    Attributes:
        tree: the whole text. Line numbers are those of `text`.
        nodes: all nodes, in the order of the text.
        calls: all calls, in the order of the text.
        classes, functions: those defined here, by name; a name that is defined twice is left out.
    """

    def __init__(self, text: str, tree: ast.Module) -> None:
        self.text, self.tree = text, tree
        self.nodes = list(_in_order(tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        self.classes = _unique(node for node in self.nodes if isinstance(node, ast.ClassDef))
        self.functions = _unique(
            node
            for node in self.nodes
            if isinstance(node, FUNCTIONS) and not isinstance(self.parents[node], ast.ClassDef)
        )
        self.imports = _imports(self.nodes)
        self.modules = {name.split(".")[0] for name in self.imports.values()}
        # A name that another function may change at any time.
        self._shared = {
            name for node in self.nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names
        }
        self._bound: dict[ast.AST, set[str]] = {}
        self._calls_by_name: dict[str, list[ast.Call]] = defaultdict(list)
        for call in self.calls:
            self._calls_by_name[last_name(call.func)].append(call)

        self._attributes: dict[ast.ClassDef, dict[str, list[ast.expr | None]]] = {}

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comments by their lines."""
        comments = {}
        try:
            for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
                if token.type == tokenize.COMMENT:
                    comments[token.start[0]] = token.string
        except (tokenize.TokenError, SyntaxError):  # the two readers of Python differ at some edges
            return comments
        return comments

    # Names

    def full_name(self, node: ast.AST | None) -> str:
        """`F.softmax` as "torch.nn.functional.softmax"; "" for what was not imported."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return ""
        return ".".join([self.imports[node.id], *reversed(parts)])

    def calls_named(self, *names: str) -> Iterator[ast.Call]:
        """Calls whose last name is one of these: `relu` finds `F.relu(x)`, `x.relu()` and `relu(x)`."""
        for name in names:
            yield from self._calls_by_name.get(name, ())

    def calls_to(self, *names: str) -> Iterator[ast.Call]:
        """Calls of imported functions, by their full names."""
        for name in names:
            for call in self.calls_named(name.rpartition(".")[2]):
                if self.full_name(call.func) == name:
                    yield call

    # Places

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while (node := self.parents.get(node)) is not None:
            yield node

    def enclosing(self, node: ast.AST, kinds: tuple[type, ...]) -> ast.AST | None:
        """The innermost node of these kinds around a node."""
        return next((parent for parent in self.ancestors(node) if isinstance(parent, kinds)), None)

    def scope(self, node: ast.AST) -> ast.AST:
        """The function around a node, or the whole text."""
        return self.enclosing(node, FUNCTIONS) or self.tree

    def loop(self, node: ast.AST) -> ast.AST | None:
        """The innermost loop around a node within its function."""
        around = self.enclosing(node, (*LOOPS, *FUNCTIONS, ast.Lambda))
        return around if isinstance(around, LOOPS) else None

    def statement(self, node: ast.AST) -> ast.stmt:
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The statements that a statement stands among."""
        return next(block for block in blocks(self.parents[statement]) if statement in block)

    def later(self, statement: ast.stmt) -> Iterator[ast.stmt]:
        """What follows a statement in its block, and behind the `with` blocks that it stands in."""
        block = self.block(statement)
        yield from block[block.index(statement) + 1 :]
        parent = self.parents[statement]
        if isinstance(parent, (ast.With, ast.AsyncWith)):
            yield from self.later(parent)

    def without_gradient(self, node: ast.AST) -> bool:
        """Whether a node stands under `no_grad` or one of its relatives."""
        for parent in self.ancestors(node):
            contexts = []
            if isinstance(parent, (ast.With, ast.AsyncWith)):
                contexts = [item.context_expr for item in parent.items]
            elif isinstance(parent, FUNCTIONS):
                contexts = parent.decorator_list
            for context in contexts:
                function = context.func if isinstance(context, ast.Call) else context
                if self.full_name(function) in _NO_GRADIENT or last_name(function) in ("no_grad", "inference_mode"):
                    return True
        return False

    def reached_calls(self, node: ast.AST, seen: frozenset = frozenset()) -> Iterator[ast.Call]:
        """The calls in a node, and those in the functions of this text that they call."""
        for call in calls_in(node):
            yield call
            function = self.called_function(call)
            if function is not None and function not in seen:
                yield from self.reached_calls(function, seen | {function})

    def called_function(self, call: ast.Call) -> Function | None:
        """The function of this text that is called: `f(x)`, or `self.f(x)` in the same class."""
        if isinstance(call.func, ast.Name):
            return self.functions.get(call.func.id)
        if is_self_attribute(call.func) and (owner := self.enclosing(call, (ast.ClassDef,))):
            return method(owner, call.func.attr)
        return None

    # Values

    def definitions(self, name: ast.Name) -> list[ast.expr]:
        """The expressions that can have made a name's value; none if the text leaves a doubt."""
        if name.id in self._shared:
            return []
        try:
            return self._values(name.id, name)
        except Unclear:
            return []

    def definition(self, node: ast.expr | None) -> ast.expr | None:
        """What stands behind a name, if it is one expression; other expressions stand for themselves."""
        for _ in range(20):
            if not isinstance(node, ast.Name):
                return node
            values = self.definitions(node)
            node = values[0] if len(values) == 1 else None
        return None

    def attribute_values(self, attribute: ast.Attribute) -> list[ast.expr]:
        """What is assigned to `self.x` in its class; none if the class changes it otherwise, too."""
        owner = self.enclosing(attribute, (ast.ClassDef,))
        if owner is None or not is_self_attribute(attribute):
            return []
        if owner not in self._attributes:
            self._attributes[owner] = _attributes(owner)
        values = self._attributes[owner].get(attribute.attr, [])
        return [] if None in values else values

    def bound(self, statement: ast.AST) -> set[str]:
        """The names that a statement binds, those within functions that it defines left out."""
        if statement not in self._bound:
            names, waiting = set(), [statement]
            while waiting:
                node = waiting.pop()
                if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                    names.add(node.name)
                    continue
                if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                    names.add(node.id)
                elif isinstance(node, ast.alias):
                    names.add((node.asname or node.name).split(".")[0])
                elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                    names.add(node.name)
                if not isinstance(node, ast.Lambda):
                    waiting += ast.iter_child_nodes(node)
            self._bound[statement] = names
        return self._bound[statement]

    def _values(self, name: str, node: ast.AST) -> list[ast.expr]:
        """Go backwards and outwards from a node until something binds the name."""
        values: list[ast.expr] = []
        while (parent := self.parents.get(node)) is not None:
            if isinstance(node, ast.stmt):
                block = self.block(node)
                found, always = self._values_of_block(name, block[: block.index(node)])
                values += found
                if always:
                    return values
            if isinstance(parent, FUNCTIONS):
                if node not in parent.body:  # a default or a decorator belongs to the scope outside
                    node = parent
                    continue
                return values + self._values_outside(name, parent)
            if isinstance(parent, (ast.Lambda, *_COMPREHENSIONS)) and name in _parameters(parent):
                raise Unclear
            if isinstance(parent, (*LOOPS, ast.Try, ast.With, ast.AsyncWith, ast.Match)) and name in self.bound(parent):
                raise Unclear  # a later turn of the loop, a handler, `with … as name`
            node = parent
        return values

    def _values_of_block(self, name: str, statements: list[ast.stmt]) -> tuple[list[ast.expr], bool]:
        """The values that a name can have behind some statements, and whether these always bind it."""
        values: list[ast.expr] = []
        for statement in reversed(statements):
            if name not in self.bound(statement):
                continue
            if isinstance(statement, ast.If) and name not in self.bound(statement.test):
                branches = [self._values_of_block(name, branch) for branch in (statement.body, statement.orelse)]
                values += [value for found, _ in branches for value in found]
                if all(always for _, always in branches):
                    return values, True
            else:
                return [*values, _assigned(statement, name)], True
        return values, False

    def _values_outside(self, name: str, function: Function) -> list[ast.expr]:
        """A parameter's values at the calls in this text, or the value of a name that the whole text binds once."""
        if name in _parameters(function):
            if any(name in self.bound(statement) for statement in function.body):
                raise Unclear
            return self._arguments(function, name)
        if any(name in self.bound(statement) for statement in function.body):
            raise Unclear
        outer = self.enclosing(function, FUNCTIONS)
        if outer is not None:
            if name in _parameters(outer) or any(name in self.bound(statement) for statement in outer.body):
                raise Unclear
            return self._values_outside(name, outer)
        binding = [statement for statement in self.tree.body if name in self.bound(statement)]
        if not binding:
            raise Unclear
        # The function may be called between any two of them.
        return [value for statement in binding for value in self._values_of_block(name, [statement])[0]]

    def _arguments(self, function: Function, name: str) -> list[ast.expr]:
        values = []
        for call in self.calls_named(function.name):
            if self.called_function(call) is function:
                values.append(argument(call, function, name))
        if not values or None in values:
            raise Unclear
        return values


# Small questions that need no context


def last_name(node: ast.AST | None) -> str:
    """The last part of a dotted name: "relu" of `F.relu`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def first_name(node: ast.expr) -> str:
    """The first name of `model.layers[0]`, `list(model.children())` and the like."""
    return next((part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id not in dir(builtins)), "")


def spelled(node: ast.AST | None) -> str:
    """A dotted name as it stands there; "" for every other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := spelled(node.value)):
        return f"{front}.{node.attr}"
    return ""


def is_self_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def owner_of(call: ast.Call) -> ast.expr | None:
    """x of `x.relu()`; None for `relu(x)`."""
    return call.func.value if isinstance(call.func, ast.Attribute) else None


def arguments_of(call: ast.Call) -> list[ast.expr]:
    """All arguments, by position and by name."""
    return [*call.args, *(word.value for word in call.keywords)]


def keyword(call: ast.Call, *names: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg in names), None)


def operand(call: ast.Call, position: int, *names: str) -> ast.expr | None:
    """An argument by position or name; None if it is missing or hidden behind `*arguments`."""
    plain = [value for value in call.args[: position + 1] if not isinstance(value, ast.Starred)]
    return plain[position] if len(plain) > position else keyword(call, *names)


def constant(node: ast.AST | None) -> object:
    """The value of a literal, −1 too; None for everything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, (int, float)) else None
    return node.value if isinstance(node, ast.Constant) else None


def calls_in(node: ast.AST, *names: str) -> Iterator[ast.Call]:
    """The calls in a node, all or those with these last names, also in functions that are defined in it."""
    for child in _in_order(node):
        if isinstance(child, ast.Call) and (not names or last_name(child.func) in names):
            yield child


def has_call(node: ast.AST, *names: str) -> bool:
    """Whether there is a call with one of these last names in a node."""
    return any(True for _ in calls_in(node, *names))


def names_in(node: ast.AST) -> set[str]:
    """All names and attributes that occur in a node."""
    return {last_name(child) for child in ast.walk(node)} - {""}


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement: the body, the else branch, the handlers' bodies are their own parents'."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            yield block


def targets_of(node: ast.AST) -> list[ast.expr]:
    """What an assignment assigns to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) else []


def method(owner: ast.ClassDef, name: str) -> Function | None:
    return next((node for node in owner.body if isinstance(node, FUNCTIONS) and node.name == name), None)


def returned(function: Function) -> list[ast.expr | None]:
    """The expressions that a function returns."""
    found, waiting = [], list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            found.append(node.value)
        elif not isinstance(node, _OWN_SCOPE):
            waiting += ast.iter_child_nodes(node)
    return found


def argument(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    """What a call gives for a parameter; its default if it gives nothing; None if that cannot be told."""
    if any(isinstance(value, ast.Starred) for value in call.args) or any(word.arg is None for word in call.keywords):
        return None
    if (value := keyword(call, name)) is not None:
        return value
    positional = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
    if positional[:1] == ["self"]:
        positional = positional[1:]
    if name in positional and positional.index(name) < len(call.args):
        return call.args[positional.index(name)]
    return None


def _attributes(owner: ast.ClassDef) -> dict[str, list[ast.expr | None]]:
    """What is assigned to each `self.x` in a class; None for `self.x += …`."""
    values = defaultdict(list)
    for node in ast.walk(owner):
        for target in targets_of(node):
            pair = [(target, getattr(node, "value", None))]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):  # self.a, self.b = c, d
                pair = zip(target.elts, node.value.elts, strict=False)
            for part, value in pair:
                if is_self_attribute(part):
                    values[part.attr].append(None if isinstance(node, ast.AugAssign) else value)
    return values


def _parameters(node: ast.AST) -> set[str]:
    if isinstance(node, _COMPREHENSIONS):
        return {child.id for part in node.generators for child in ast.walk(part.target) if isinstance(child, ast.Name)}
    names = node.args
    several = [*names.posonlyargs, *names.args, *names.kwonlyargs, *filter(None, (names.vararg, names.kwarg))]
    return {parameter.arg for parameter in several}


def _assigned(statement: ast.stmt, name: str) -> ast.expr:
    """The value of a plain assignment to a name, element by element for `a, b = c, d`."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        for target in targets_of(statement):
            if isinstance(target, ast.Name) and target.id == name:
                return statement.value
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = list(zip(target.elts, statement.value.elts, strict=False))
                if len(target.elts) == len(statement.value.elts):
                    for left, right in pairs:
                        if isinstance(left, ast.Name) and left.id == name:
                            return right
    raise Unclear


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes in the order of the text; without recursion, so that deep nesting is no limit."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(list(ast.iter_child_nodes(node)))


def _unique(nodes: Iterator) -> dict[str, ast.AST]:
    found = defaultdict(list)
    for node in nodes:
        found[node.name].append(node)
    return {name: several[0] for name, several in found.items() if len(several) == 1}


def _imports(nodes: list[ast.AST]) -> dict[str, str]:
    """Local names of what is imported, with the full ones: {"F": "torch.nn.functional"}."""
    imports = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                imports[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                imports[name.asname or name.name] = f"{node.module}.{name.name}"
    return imports
