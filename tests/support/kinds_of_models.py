"""Kinds of models that people bring, each with a plain twin: the same function of the same weights, written
out by hand.

A kind is tried in four domains: rows (N, 4), images (N, 3, 8, 8), tokens (N, T), and rows with two heads.
"""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from course_utils.data import ImageData, ImageSet
from course_utils.foundation.inputs import Inputs, call_model, map_inputs

DOMAINS = ("rows", "images", "tokens", "two heads")
NUM_TOKENS = 5


class Net(nn.Module):
    """Stem, body, dropout, head. The stem is a convolution for images, and an embedding for tokens (N, T)."""

    def __init__(self, domain: str, body: nn.Module | None = None) -> None:
        super().__init__()
        stems = {"images": nn.Conv2d(3, 8, 3, padding=1), "tokens": nn.Embedding(NUM_TOKENS, 8)}
        self.stem = stems.get(domain) or nn.Linear(4, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh()) if body is None else body
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(8, NUM_TOKENS if domain == "tokens" else 3)
        with torch.no_grad():  # answers that differ clearly
            self.stem.weight.mul_(2)
            self.head.weight.mul_(6)

    def features(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.stem(x))
        if hidden.dim() == 4:
            hidden = hidden.mean((2, 3))
        return self.dropout(self.body(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class TwoHeads(Net):
    """The same, with its first logit as the second task."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.features(x))
        return {"classification": logits, "regression": logits[:, :1]}


def net(domain: str, body: nn.Module | None = None) -> Net:
    """Always with the same weights, and in train mode as people bring it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TwoHeads(domain, body) if domain == "two heads" else Net(domain, body)


class Around(nn.Module):
    """A model inside another one, which changes what goes in or comes out."""

    def __init__(
        self, model: nn.Module, *, before: Callable = lambda *x: x, after: Callable = lambda output: output
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, *inputs: Tensor):
        return self.after(self.model(*self.before(*inputs)))


Twins = tuple[nn.Module, nn.Module]  # the model, and its plain twin
LOGITS_ONLY = ("rows", "images", "tokens")


def plain(domain: str) -> Twins:
    return net(domain), net(domain)


def in_dtype(dtype: torch.dtype) -> Callable[[str], Twins]:
    def make(domain: str) -> Twins:
        model = net(domain).to(dtype)
        return model, copy.deepcopy(model).float()

    return make


def float64_by_default(domain: str) -> Twins:
    return net(domain).double(), net(domain)


class Cache:
    """What a language model keeps for its next step; no tensor."""


def returning(form: Callable[[Tensor], object]) -> Callable[[str], Twins]:
    return lambda domain: (Around(net(domain), after=form), net(domain))


def with_cache(logits: Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=logits, past_key_values=Cache())


def with_embeddings(logits: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "embeddings": logits.tanh()}


def with_empty_parts(logits: Tensor) -> dict[str, object]:
    return {"logits": logits, "detections": [{"boxes": logits.new_zeros(0, 4), "labels": torch.zeros(0).long()}]}


def one_logit(domain: str) -> Twins:
    def two(logits: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(logits[..., 0]), logits[..., 0]], -1)

    return Around(net(domain), after=lambda logits: logits[..., :1]), Around(net(domain), after=two)


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[str], Twins]:
    return lambda domain: (wrap(net(domain)), net(domain))


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still brought
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def lazy(domain: str) -> Twins:
    return net(domain, nn.Sequential(nn.LazyLinear(8), nn.Tanh())), net(domain)


class Twice(nn.Module):
    """One weight in two layers, written out."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.bias = first, second.bias

    def reset_parameters(self) -> None:
        self.first.reset_parameters()
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.first(x)), self.first.weight, self.bias)


def tied(domain: str) -> Twins:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    by_hand = copy.deepcopy(Twice(first, second))
    return net(domain, nn.Sequential(first, nn.Tanh(), second)), net(domain, by_hand)


class Masked(nn.Module):
    """A pruned linear layer, written out."""

    def __init__(self, pruned: nn.Linear) -> None:
        super().__init__()
        self.bias = nn.Parameter(pruned.bias.detach().clone())
        self.weight = nn.Parameter(pruned.weight_orig.detach().clone())
        self.register_buffer("mask", pruned.weight_mask.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def pruned(domain: str) -> Twins:
    model, twin = net(domain), net(domain)
    prune.l1_unstructured(model.head, "weight", amount=0.4)
    twin.head = Masked(model.head)
    return model, twin


class Adapter(nn.Module):
    """A frozen linear layer with a trainable change of rank 2; `merging` adds the change to the weight in eval mode."""

    def __init__(self, linear: nn.Linear, *, merging: bool) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(value.detach().clone(), False) for value in linear.parameters())
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(2, linear.in_features, generator=generator))
        self.b = nn.Parameter(torch.randn(linear.out_features, 2, generator=generator))
        self.merging, self.merged = merging, False

    def train(self, mode: bool = True) -> "Adapter":
        super().train(mode)
        if self.merging and self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        frozen = F.linear(x, self.weight, self.bias)
        return frozen if self.merged else frozen + x @ self.a.T @ self.b.T


def adapted(domain: str) -> Twins:
    models = net(domain), net(domain)
    for model, merging in zip(models, (True, False), strict=True):
        model.head = Adapter(model.head, merging=merging)
    return models


NOISE = 1e-3


def stochastic(domain: str) -> Twins:
    def noisy(output):
        if isinstance(output, dict):
            return {name: noisy(part) for name, part in output.items()}
        return output + NOISE * torch.randn_like(output)

    return Around(net(domain), after=noisy), net(domain)


class BatchStatistics(nn.Module):
    """BatchNorm without running statistics: torch's layer, or the same by hand."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.norm, self.by_hand = nn.BatchNorm1d(8, track_running_stats=False), by_hand

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # also of tokens (N, T, 8)
        if not self.by_hand:
            return self.norm(rows).reshape(x.shape)
        centred = rows - rows.mean(0)
        scaled = centred / (rows.var(0, correction=0) + self.norm.eps).sqrt()
        return (scaled * self.norm.weight + self.norm.bias).reshape(x.shape)


def without_statistics(domain: str) -> Twins:
    return tuple(net(domain, BatchStatistics(by_hand=by_hand)) for by_hand in (False, True))


class Encoder(nn.Module):
    """Features (…, 8) read as two positions of 4 by a transformer's encoder layer: torch's, or the same by hand."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.layer, self.by_hand = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.25, batch_first=True), by_hand
        self.layer.self_attn.dropout = 0.0  # the attention weights' own dropout is no layer; see monte_carlo_dropout

    def forward(self, x: Tensor) -> Tensor:
        positions = x.reshape(-1, 2, 4)
        return (self.written_out(positions) if self.by_hand else self.layer(positions)).reshape(x.shape)

    def written_out(self, x: Tensor) -> Tensor:
        layer, attention = self.layer, self.layer.self_attn
        q, k, v = (
            part.unflatten(-1, (2, 2)).transpose(1, 2)  # (N, heads, positions, 2)
            for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        )
        read = torch.softmax(q @ k.mT / math.sqrt(2), -1) @ v
        read = F.linear(read.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)
        read = read.transpose(0, 1).contiguous().transpose(0, 1)  # as torch lays it out: dropout draws in this order
        x = layer.norm1(x + layer.dropout1(read))
        change = layer.linear2(layer.dropout(F.relu(layer.linear1(x))))
        return layer.norm2(x + layer.dropout2(change))


def encoder(domain: str) -> Twins:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Encoder(by_hand=False)
    twin = Encoder(by_hand=True)
    twin.load_state_dict(model.state_dict())
    return net(domain, model), net(domain, twin)


def in_place(domain: str) -> Twins:
    """They write to its inputs, and to what its layers return."""
    front = [lambda x: (x.clamp_(min=1),), lambda x: (x.clamp(min=1),)]
    if domain != "tokens":
        front = [lambda x: (x.relu_(),), lambda x: (x.relu(),)]
    bodies = (nn.Sequential(nn.Linear(8, 8), nn.Hardtanh(inplace=inplace)) for inplace in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        models = [net(domain, body) for body in bodies]
    models[1].load_state_dict(models[0].state_dict())
    return tuple(Around(model, before=before) for model, before in zip(models, front, strict=True))


def two_inputs(domain: str) -> Twins:
    return Around(net(domain), before=lambda a, b: (torch.cat([a, b], 1),)), net(domain)


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        meaning: for the table in the package's documentation.
        make: domain → the model and its plain twin.
        tolerance: of the answers, as a share of the largest value.
        dtype: of the inputs.
    """

    meaning: str
    make: Callable[[str], Twins]
    tolerance: float = 1e-5
    dtype: torch.dtype = torch.float32


KINDS = {
    "plain": Kind("an `nn.Module` that returns logits", plain),
    "half": Kind("`model.half()`", in_dtype(torch.float16), 1e-2, torch.float16),
    "bfloat16": Kind("`model.bfloat16()`", in_dtype(torch.bfloat16), 6e-2, torch.bfloat16),
    "float64": Kind("in float64, which is the default dtype too", float64_by_default, dtype=torch.float64),
    "output object": Kind("an object with `.logits` and a cache, as of transformers", returning(with_cache)),
    "dict": Kind('a dict with "logits" and other tensors', returning(with_embeddings)),
    "empty parts": Kind('a dict with "logits" and nested parts that are empty', returning(with_empty_parts)),
    "one logit": Kind('one logit a sample, with `task="binary"` where a function has it', one_logit),
    "DataParallel": Kind("inside `nn.DataParallel`", wrapped(nn.DataParallel)),
    "compiled": Kind("from `torch.compile`", wrapped(lambda model: torch.compile(model, backend="eager"))),
    "scripted": Kind("from `torch.jit.script`", wrapped(scripted)),
    "lazy": Kind("lazy layers that have not run yet", lazy),
    "tied": Kind("two layers that share a weight", tied),
    "pruned": Kind("a layer pruned by `torch.nn.utils.prune`", pruned),
    "adapter": Kind("a LoRA-like adapter, which merges its weights in `train(False)`", adapted),
    "stochastic": Kind("noise in every mode", stochastic, 20 * NOISE),
    "batch statistics": Kind("BatchNorm without running statistics", without_statistics),
    "encoder": Kind("a transformer encoder, with torch's fused path", encoder),
    "in-place": Kind("layers that write to their inputs", in_place),
    "two inputs": Kind("`model(a, b)`, with the inputs as a tuple", two_inputs),
}
# Their twin is the plain model itself.
PLAIN_TWINS = ("plain", "output object", "dict", "empty parts", "DataParallel", "compiled", "scripted", "stochastic")


@dataclass(frozen=True)
class Case:
    """A model, and what the functions are called with.

    Attributes:
        model: of some kind, in train mode.
        inputs: what it takes.
        target: class indices (N,), right in two of three samples.
        data: images for the capstone, with such targets too.
        explained: classes to explain. Of one logit z only class 1: the class 0 of its twin has the logit 0, without
            a gradient.
        options: `task="binary"` for one logit, else nothing.
    """

    model: nn.Module
    inputs: Inputs
    target: Tensor | None
    data: ImageData | None
    explained: Tensor | int | None
    options: dict[str, str]

    def output(self):
        """What the model returns in evaluation mode, run by the caller."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return call_model(self.model.eval(), map_inputs(torch.clone, self.inputs))

    @property
    def stem(self) -> str:
        """The dotted name of the first layer."""
        return next(name for name, _ in self.model.named_modules() if name.endswith("stem"))


def inputs_for(domain: str, n: int = 12, seed: int = 0) -> Tensor:
    """Values that half precision holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    if domain == "tokens":
        return torch.randint(NUM_TOKENS, (3, 4), generator=generator)
    if domain == "images":  # of a colour each, with some noise
        colours = torch.randint(48, (n, 3, 1, 1), generator=generator)
        return (colours + torch.randint(16, (n, 3, 8, 8), generator=generator)) / 64
    return torch.randint(-32, 33, (n, 4), generator=generator) / 16


def make_case(name: str, domain: str, *, twin: bool = False) -> Case:
    """A new model of this kind, or its plain twin, with the same inputs in the form that it takes."""
    kind = KINDS[name]
    model, plain_twin = kind.make(domain)
    x = inputs_for(domain)
    with_labels = domain in ("rows", "images")
    target = target_for(plain_twin, x) if with_labels else None
    data = image_data(plain_twin) if domain == "images" else None
    explained = 1 if name == "one logit" else target
    if twin:
        return Case(plain_twin, x, target, data, explained, {})
    given: Inputs = x if domain == "tokens" else x.to(kind.dtype)
    if name == "two inputs":
        given = (given[:, :1], given[:, 1:])
    return Case(model, given, target, data, explained, {"task": "binary"} if name == "one logit" else {})


def target_for(twin: nn.Module, x: Tensor) -> Tensor:
    """The twin's own answers, with each third one wrong."""
    with torch.no_grad():
        logits = copy.deepcopy(twin).eval()(x)
    labels = logits.argmax(1)
    labels[::3] = (labels[::3] + 1) % logits.shape[1]
    return labels


def image_data(twin: nn.Module) -> ImageData:
    """16 images 8 × 8 in each part."""
    images = [(inputs_for("images", 16, seed) * 255).round().to(torch.uint8) for seed in range(3)]
    targets = [target_for(twin, (part / 255 - 0.5) / 0.25) for part in images]
    parts = [ImageSet(part, target) for part, target in zip(images, targets, strict=True)]
    names = "abc"[: twin(torch.zeros(2, 3, 8, 8)).shape[1]]
    return ImageData(*parts, tuple(names), "shapes", torch.full((3,), 0.5), torch.full((3,), 0.25))
