"""Networks, batches and losses with one fault each, and what the check-up says of them."""

import copy
import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.data import load_split
from course_utils.pitfalls import diagnose, log_transform
from tests.support.models import Apply, mlp
from tests.support.values import INF, NAN, digits


@functools.cache
def batch() -> SimpleNamespace:
    """64 digits as rows (64, 64) and as images (64, 1, 8, 8), their classes (64,), and 1.0 for each above 4 (64,)."""
    x, y = digits().x_train[:64], digits().y_train[:64]
    return SimpleNamespace(x=x, y=y, images=x.reshape(-1, 1, 8, 8), ones=(y > 4).float())


@functools.cache
def trained() -> nn.Sequential:
    """A sound classifier of digits after a few steps; not to be changed."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(digits().x_train), digits().y_train).backward()
        optimizer.step()
    optimizer.zero_grad()
    assert (model(digits().x_test).argmax(1) == digits().y_test).float().mean() > 0.9
    return model


def found(model, x, target, loss) -> dict[str, str]:
    """check → severity."""
    return {finding.check: finding.severity for finding in diagnose(model, x, target, loss).findings}


def messages(model, *arguments) -> str:
    return str(diagnose(model, *arguments))


def deep(*layers, depth: int = 12) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [part for _ in range(depth) for part in (nn.Linear(64, 64), *(layer() for layer in layers))]
        return nn.Sequential(*hidden, nn.Linear(64, 10))


def changed(model: nn.Module, change) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        change(model)
    return model


class Unused(nn.Module):
    """A classifier with a second head that forward calls or forgets."""

    def __init__(self, call: bool) -> None:
        super().__init__()
        self.body, self.spare, self.call = mlp(), nn.Linear(10, 10), call

    def forward(self, x):
        logits = self.body(x)
        return logits + self.spare(logits) if self.call else logits


class CausalAttention(nn.Module):
    """A row of pixels at a time; −inf masks the future, as everywhere."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        rows = x.reshape(-1, 8, 8)
        mask = torch.full((8, 8), -INF).triu(1)
        return self.head(self.attention(rows, rows, rows, attn_mask=mask)[0].mean(1))


def case(model=None, **changes) -> tuple:
    """The arguments of diagnose; a sound network and call where nothing else is given."""
    arguments = {"x": batch().x, "target": batch().y, "loss": F.cross_entropy} | changes
    return model or mlp(), arguments["x"], arguments["target"], arguments["loss"]


def yes_no(*after: nn.Module, **changes) -> tuple:
    defaults = {"target": batch().ones[:, None], "loss": F.binary_cross_entropy_with_logits}
    return case(nn.Sequential(mlp(outputs=1), *after), **(defaults | changes))


def then(*layers, **options) -> tuple:
    """The sound network, with layers (or functions) behind it."""
    layers = [layer if isinstance(layer, nn.Module) else Apply(layer) for layer in layers]
    return case(nn.Sequential(mlp(), *layers), **options)


def altered(change, model=None, **options) -> tuple:
    return case(changed(model or mlp(), change), **options)


def tokens() -> torch.Tensor:
    """The pixels (64, 64) as whole numbers from 0 to 16."""
    return load_split("digits", scaling="none").x_train[:64].long()


def of_tokens(positions: slice) -> nn.Sequential:
    """Tokens, of which the classifier reads these positions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embedding, head = nn.Embedding(17, 16), nn.Linear(16, 10)
    return nn.Sequential(embedding, Apply(lambda x: x[:, positions].mean(1)), head)


def convolution() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 10))


def square(output, target):
    return (output - target).square().mean()


def wrong_share(output, target):
    return (output.argmax(1) != target).float().mean()


def of_pixels(model) -> tuple:
    """A class for each pixel of the images."""
    return case(model, x=batch().images, target=torch.zeros(64, 6, 6, dtype=torch.int64))


def minus_ones() -> torch.Tensor:
    """Classes (64,) with −1 in place of 3."""
    return batch().y.masked_fill(batch().y == 3, -1)


def through(function):
    """A loss behind a function of the user's own."""
    return lambda output, target: 0.5 * function(output, target) + 0.1


class OwnLoss(nn.Module):
    """A loss behind a module of the user's own, with another name."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, output, target):
        return self.criterion(input=output, target=target)


class AttentionOverSamples(nn.Module):
    """`batch_first` set or forgotten: attention over the rows of an image, or over the samples of the batch."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=True)
            self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.encoder(x.reshape(-1, 8, 8)).mean(1))


def recurrent(batch_first: bool) -> nn.Module:
    """Rows of an image one after the other, or one sample after the other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gru = nn.GRU(8, 10, batch_first=batch_first)
    return nn.Sequential(Apply(lambda x: x.reshape(-1, 8, 8)), gru, Apply(lambda output: output[0].mean(1)))


def teacher() -> torch.Tensor:
    """Probabilities (64, 10) to learn from."""
    return trained()(batch().x).softmax(1).detach()


NO_TARGET = {"target": None, "loss": None}
# the fault → check, severity, a call with that fault, the repaired call; made when a test asks for them
FAULTS = {
    "broadcasting mse": (
        *("broadcasting loss", "problem"),
        lambda: yes_no(target=batch().ones, loss=F.mse_loss),
        lambda: yes_no(loss=F.mse_loss),
    ),
    "broadcasting the other way": (
        *("broadcasting loss", "problem"),
        lambda: yes_no(nn.Flatten(0), loss=nn.SmoothL1Loss()),
        lambda: yes_no(nn.Flatten(0), target=batch().ones, loss=nn.SmoothL1Loss()),
    ),
    "broadcasting by hand": (
        *("broadcasting loss", "problem"),
        lambda: yes_no(target=batch().ones, loss=square),
        lambda: yes_no(loss=square),
    ),
    "double softmax, module": (
        *("output and loss", "problem"),
        lambda: then(nn.Softmax(dim=1), loss=nn.CrossEntropyLoss()),
        lambda: case(loss=nn.CrossEntropyLoss()),
    ),
    "double softmax, function": (
        *("output and loss", "problem"),
        lambda: then(lambda x: torch.softmax(x, 1)),
        lambda: then(lambda x: torch.log_softmax(x, 1), loss=F.nll_loss),
    ),
    "double softmax, pixels": (
        *("output and loss", "problem"),
        lambda: of_pixels(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softmax(dim=1))),
        lambda: of_pixels(nn.Conv2d(1, 3, 3)),
    ),
    "double sigmoid": (
        "output and loss",
        "problem",
        lambda: yes_no(nn.Sigmoid()),
        lambda: yes_no(nn.Sigmoid(), loss=nn.BCELoss()),
    ),
    "no sigmoid": ("output and loss", "problem", lambda: yes_no(loss=F.binary_cross_entropy), yes_no),
    "no log_softmax": (
        *("output and loss", "problem"),
        lambda: case(loss=nn.NLLLoss()),
        lambda: then(nn.LogSoftmax(1), loss=nn.NLLLoss()),
    ),
    "softmax without log": (
        *("output and loss", "problem"),
        lambda: then(nn.Softmax(1), loss=nn.NLLLoss()),
        lambda: then(nn.LogSoftmax(1), loss=nn.NLLLoss()),
    ),
    "one class": (
        *("output and loss", "problem"),
        lambda: case(mlp(outputs=1), target=batch().ones.long()),
        lambda: case(mlp(outputs=2), target=batch().ones.long()),
    ),
    "labels from 1": ("labels", "problem", lambda: case(target=batch().y + 1), case),
    "labels below 0": (
        *("labels", "problem"),
        lambda: case(target=minus_ones(), loss=nn.CrossEntropyLoss()),
        lambda: case(target=minus_ones(), loss=nn.CrossEntropyLoss(ignore_index=-1)),
    ),
    "constant output": ("constant output", "warning", lambda: altered(lambda m: m[2].weight.zero_()), case),
    "unused parameters": (
        "unused parameters",
        "warning",
        lambda: case(Unused(call=False)),
        lambda: case(Unused(call=True)),
    ),
    "frozen parameters": (
        "frozen parameters",
        "note",
        lambda: altered(lambda m: m[0].requires_grad_(False)),
        case,
    ),
    "nothing to train": (
        *("gradients", "warning"),
        lambda: altered(lambda m: m.requires_grad_(False)),
        lambda: altered(lambda m: m[0].requires_grad_(False)),
    ),
    "dead ReLUs": (
        *("dead ReLUs", "warning"),
        lambda: altered(lambda m: m[0].bias[:20].fill_(-100)),
        lambda: altered(lambda m: m[0].bias[:2].fill_(-100)),
    ),
    "dead channels": (
        *("dead ReLUs", "warning"),
        lambda: altered(lambda m: m[0].bias[:3].fill_(-100), convolution(), x=batch().images),
        lambda: case(convolution(), x=batch().images),
    ),
    "zero gradients": ("zero gradients", "warning", lambda: altered(lambda m: m[0].bias.fill_(-1000)), case),
    "vanishing gradients": (
        *("vanishing gradients", "warning"),
        lambda: case(deep(nn.Sigmoid)),
        lambda: case(deep(lambda: nn.LayerNorm(64), nn.ReLU)),
    ),
    "exploding gradients": (
        *("exploding gradients", "warning"),
        lambda: altered(lambda m: [p.mul_(20) for p in m.parameters()], deep(nn.ReLU, depth=6)),
        lambda: case(deep(nn.ReLU, depth=6)),
    ),
    "layer that is not finite": (
        *("NaN or Inf", "problem"),
        lambda: case(mlp(Apply(torch.log))),
        lambda: case(mlp(Apply(lambda x: log_transform(1 + x.relu())))),
    ),
    "inputs that are not finite": (
        "inputs",
        "problem",
        lambda: case(x=batch().x.masked_fill(batch().x > 2, NAN)),
        case,
    ),
    "large inputs": ("inputs", "warning", lambda: case(x=batch().x * 100), case),
    "parameters that are not finite": (
        *("parameters", "problem"),
        lambda: altered(lambda m: m[0].weight[0, 0].fill_(NAN)),
        case,
    ),
    "gradients that are not finite": (
        *("gradients", "problem"),
        lambda: then(lambda x: (x * 0).sqrt() + x),
        lambda: then(lambda x: (x * 0 + 1).sqrt() + x),
    ),
    "train mode": ("mode", "note", lambda: case(mlp(nn.ReLU(), nn.Dropout())), case),
    "batch averaged": (
        "batch axis",
        "problem",
        lambda: then(lambda x: x.mean(0), **NO_TARGET),
        lambda: case(**NO_TARGET),
    ),
    "batch of one squeezed": (
        *("batch axis", "problem"),
        lambda: then(torch.squeeze, x=batch().x[:1], **NO_TARGET),
        lambda: case(x=batch().x[:1], **NO_TARGET),
    ),
    "batch reshaped": ("batch axis", "problem", lambda: then(lambda x: x.reshape(-1, 5)), case),
    "batch statistics": (
        *("answers depend on the batch", "warning"),
        lambda: case(mlp(nn.BatchNorm1d(32, track_running_stats=False), nn.ReLU()).eval()),
        lambda: case(mlp(nn.BatchNorm1d(32), nn.ReLU()).eval()),
    ),
    "scaling by the batch": (
        *("answers depend on the batch", "warning"),
        lambda: case(nn.Sequential(Apply(lambda x: x / x.abs().max(0).values.clamp(min=1)), mlp())),
        lambda: case(nn.Sequential(Apply(lambda x: x / 3), mlp())),
    ),
    "attention over samples": (
        *("answers depend on the batch", "warning"),
        lambda: case(AttentionOverSamples(batch_first=False).eval()),
        lambda: case(AttentionOverSamples(batch_first=True).eval()),
    ),
    "recurrence over samples": (
        *("answers depend on the batch", "warning"),
        lambda: case(recurrent(batch_first=False)),
        lambda: case(recurrent(batch_first=True)),
    ),
    "features left out": (
        *("unread inputs", "warning"),
        lambda: case(nn.Sequential(Apply(lambda x: x[:, :40]), mlp(inputs=40))),
        case,
    ),
    "channel left out": (
        *("unread inputs", "warning"),
        lambda: case(nn.Sequential(Apply(lambda x: x[:, :1]), convolution()), x=batch().images.repeat(1, 3, 1, 1)),
        lambda: case(
            nn.Sequential(Apply(lambda x: x.mean(1, keepdim=True)), convolution()), x=batch().images.repeat(1, 3, 1, 1)
        ),
    ),
    "tokens left out": (
        *("unread inputs", "warning"),
        lambda: case(of_tokens(slice(20, 24)), x=tokens()),
        lambda: case(of_tokens(slice(None)), x=tokens()),
    ),
    "inputs rounded away": (
        *("unread inputs", "warning"),
        lambda: case(nn.Sequential(Apply(lambda x: torch.cat([x[:, :60], 0 * x[:, 60:].round()], 1)), mlp())),
        lambda: case(nn.Sequential(Apply(lambda x: torch.cat([x[:, :60], x[:, 60:].round()], 1)), mlp())),
    ),
    "loss of a bad start": (
        *("worse than guessing", "warning"),
        lambda: altered(lambda m: m[2].weight.mul_(60)),
        case,
    ),
    "labels in another order": (
        *("worse than guessing", "warning"),
        lambda: case(trained(), target=(batch().y + 1) % 10),
        lambda: case(trained()),
    ),
    "yes and no exchanged": (
        *("worse than guessing", "warning"),
        lambda: yes_no(Apply(lambda x: 20 * (1 - 2 * batch().ones[:, None]) + 0 * x)),
        yes_no,
    ),
    "target not scaled": (
        *("target", "warning"),
        lambda: yes_no(target=200 + 50 * batch().ones[:, None], loss=F.mse_loss),
        lambda: yes_no(loss=F.mse_loss),
    ),
    "exploding output": (
        *("exploding output", "warning"),
        lambda: altered(lambda m: [p.mul_(1e3) for p in m.parameters()], **NO_TARGET),
        lambda: case(**NO_TARGET),
    ),
    "labels of −1 and 1": (
        *("labels", "problem"),
        lambda: yes_no(target=2 * batch().ones[:, None] - 1),
        yes_no,
    ),
    "labels of 0 and 255": (
        *("labels", "problem"),
        lambda: yes_no(nn.Sigmoid(), target=255 * batch().ones[:, None], loss=nn.BCELoss()),
        lambda: yes_no(nn.Sigmoid(), loss=nn.BCELoss()),
    ),
    "double softmax behind a function": (
        *("output and loss", "problem"),
        lambda: then(nn.Softmax(1), loss=through(F.cross_entropy)),
        lambda: case(loss=through(F.cross_entropy)),
    ),
    "double softmax behind a module": (
        *("output and loss", "problem"),
        lambda: then(lambda x: x.softmax(1), loss=OwnLoss()),
        lambda: case(loss=OwnLoss()),
    ),
    "double softmax by hand": (
        *("output and loss", "problem"),
        lambda: then(nn.Softmax(1), loss=lambda z, y: -z.log_softmax(1)[range(64), y].mean()),
        lambda: case(loss=lambda z, y: -z.log_softmax(1)[range(64), y].mean()),
    ),
    "double softmax in the loss": (
        *("output and loss", "problem"),
        lambda: case(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)),
        lambda: case(loss=lambda z, y: F.nll_loss(z.log_softmax(1), y)),
    ),
    "broadcasting behind a function": (
        *("broadcasting loss", "problem"),
        lambda: yes_no(target=batch().ones, loss=through(F.mse_loss)),
        lambda: yes_no(loss=through(F.mse_loss)),
    ),
    "divergence of probabilities": (
        *("output and loss", "problem"),
        lambda: then(nn.Softmax(1), target=teacher(), loss=nn.KLDivLoss(reduction="batchmean")),
        lambda: then(nn.LogSoftmax(1), target=teacher(), loss=nn.KLDivLoss(reduction="batchmean")),
    ),
    "divergence of logits": (
        *("output and loss", "problem"),
        lambda: case(target=teacher(), loss=F.kl_div),
        lambda: case(target=teacher(), loss=lambda z, p: F.kl_div(z.log_softmax(1), p, reduction="sum")),
    ),
    "divergence from logarithms": (
        *("target", "problem"),
        lambda: then(nn.LogSoftmax(1), target=teacher().log(), loss=nn.KLDivLoss(reduction="sum")),
        lambda: then(nn.LogSoftmax(1), target=teacher().log(), loss=nn.KLDivLoss(reduction="sum", log_target=True)),
    ),
    "detached output": ("gradients", "problem", lambda: then(torch.detach), case),
    "detached loss": ("gradients", "problem", lambda: case(loss=wrong_share), case),
    "loss that raises": ("loss", "problem", lambda: case(target=batch().y[:63]), case),
    "loss that is no scalar": (
        *("loss", "problem"),
        lambda: case(loss=nn.CrossEntropyLoss(reduction="none")),
        lambda: case(loss=nn.CrossEntropyLoss(reduction="sum")),
    ),
    "loss that is infinite": (
        *("loss", "problem"),
        lambda: case(loss=lambda output, target: F.cross_entropy(output, target) / 0),
        lambda: case(loss=lambda output, target: F.cross_entropy(output, target) / 2),
    ),
}


class TwoInputs(nn.Module):
    """Images as rows and a number a sample; the second may be ignored."""

    def __init__(self, use: bool = True) -> None:
        super().__init__()
        self.body, self.use = mlp(), use

    def forward(self, x, scale):
        return self.body(x) * scale if self.use else self.body(x)


class Codebook(nn.Module):
    """A parameter that learns in the forward pass, as in vector quantisation, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.head = nn.Parameter(torch.ones(64), requires_grad=False), mlp()

    def forward(self, x):
        self.codes.data.mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.seen = x - self.codes
        return self.head(self.seen)


def tiny_language_model() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
        return GPT2LMHeadModel(GPT2Config(**sizes)).eval()


# what fails → the model, its inputs, words of the message: which layer, what it wanted, what it got
FAILURES = {
    "features": (
        *(lambda: mlp(inputs=5), lambda: batch().x),
        (
            "the layer '0', Linear(in_features=5, ",
            "(64x64 and 5x32)",
            "wants float32 values of shape (…, 5)",
            "(64, 64)",
        ),
    ),
    "float64": (mlp, lambda: batch().x.double(), ("the layer '0'", "wants float32", "got a float64 tensor")),
    "bytes": (
        *(convolution, lambda: (batch().images * 9).byte()),
        (
            "the layer '0', Conv2d(1, 4",
            "float32 values of shape (N, 1, H, W)",
            "got a uint8 tensor of shape (64, 1, 8, 8)",
        ),
    ),
    "channels last": (
        convolution,
        lambda: batch().images.mT[:, 0, :, :, None],
        ("wants", "(N, 1, H, W)", "(64, 8, 8, 1)"),
    ),
    "batch of one": (
        *(lambda: mlp(nn.BatchNorm1d(32)), lambda: batch().x[:1]),
        (
            "the layer '1', BatchNorm1d(32",
            "in train mode of more than one sample",
            "got a float32 tensor of shape (1, 32)",
        ),
    ),
    "token out of range": (
        *(lambda: of_tokens(slice(None)), lambda: tokens() + 1),
        ("the layer '0', Embedding(17, 16)", "whole numbers from 0 to 16", "with values from 1 to 17"),
    ),
    "float tokens": (
        lambda: of_tokens(slice(None)),
        lambda: batch().x,
        ("whole numbers from 0 to 16", "got a float32"),
    ),
    "recurrent": (lambda: nn.LSTM(9, 3), lambda: torch.zeros(4, 5, 8), ("LSTM(9, 3)", "(T, N, 9)", "(4, 5, 8)")),
    "attention": (
        *(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda: torch.zeros(4, 5, 6)),
        ("'self_attn'", "(N, T, 8)", "got a float32 tensor of shape (4, 5, 6); a float32"),
    ),
    "own code": (
        *(lambda: then(lambda x: x.reshape(-1, 7))[0], lambda: batch().x),
        ("the layer '1', Apply()", "in the line `return self.function(x)`", "got a float32 tensor of shape (64, 10)"),
    ),
    "too many arguments": (
        mlp,
        lambda: (batch().x, batch().x),
        ("the model, Sequential", "TypeError", "(64, 64); a float32 tensor"),
    ),
}
