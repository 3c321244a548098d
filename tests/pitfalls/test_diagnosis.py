"""`diagnose` finds every fault, and nothing in the repaired network or in any other sound one."""

import copy
import functools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.data import load_split
from course_utils.pitfalls import Diagnosis, Finding, detect_nan_inf, diagnose, first_nonfinite_layer, log_transform
from tests.support.models import Apply, mlp
from tests.support.snapshots import snapshot
from tests.support.values import INF, NAN, digits, random_normal


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


ROWS, LABELS = torch.zeros(4, 64), torch.zeros(4, dtype=torch.int64)


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


class TestFailedForward:
    """F18: a failed forward pass is a finding that names the layer, what it wanted, and what it got."""

    @pytest.mark.parametrize("failure", FAILURES)
    def test_f18_names_the_layer(self, failure):
        make_model, make_inputs, words = FAILURES[failure]
        model, inputs = make_model(), make_inputs()
        before = snapshot(model)
        report = diagnose(model, inputs)
        (finding,) = [finding for finding in report.findings if finding.severity == "problem"]
        assert finding.check == "forward pass"
        for word in words:
            assert word in finding.message
        assert snapshot(model) == before

    def test_f18_what_else_is_wrong_is_said_too(self):
        model = changed(mlp(nn.BatchNorm1d(32)), lambda m: m[0].weight[0, 0].fill_(NAN))
        assert found(model, 100 * batch().x[:1], batch().y[:1], F.cross_entropy) == {
            "forward pass": "problem",
            "parameters": "problem",
            "inputs": "warning",
            "mode": "note",
        }

    def test_f18_a_failure_in_evaluation_mode_only(self):
        class Fails(nn.Module):
            def forward(self, x):
                return x if self.training else x.reshape(7, 7)

        report = found(nn.Sequential(mlp(), Fails()), batch().x, batch().y, F.cross_entropy)
        assert report == {"forward pass": "problem"}

    def test_f18_a_layer_that_a_model_catches_is_not_to_blame(self):
        class Catches(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.wrong, self.right = nn.Linear(3, 10), mlp(inputs=63)

            def forward(self, x):
                try:
                    return self.wrong(x)
                except RuntimeError:
                    return self.right(x)

        assert "the layer 'right.0'" in messages(Catches(), batch().x)

    def test_f18_errors_of_our_own_are_no_findings(self):
        with pytest.raises(TypeError, match="the model must return a tensor"):
            diagnose(Apply(lambda x: (x, x)), batch().x)


class TestKindsOfModel:
    """Models and inputs as people bring them."""

    def test_f10_a_network_without_dependence_is_not_called_right_for_its_flag(self):
        model = mlp(nn.BatchNorm1d(32, track_running_stats=False)).eval()
        with torch.no_grad():  # the error: in eval mode, one sample's answer depends on its neighbours
            assert not torch.allclose(model(batch().x)[:8], model(batch().x[:8]), atol=0.1)
        report = diagnose(model, batch().x)
        assert [finding.check for finding in report.findings] == ["answers depend on the batch"]
        assert "right for reading outputs" not in str(report)

    @pytest.mark.parametrize("n", [2, 3, 64])
    def test_f10_is_seen_in_every_batch_but_that_of_one(self, n):
        model = mlp(nn.BatchNorm1d(32, track_running_stats=False)).eval()
        assert "answers depend on the batch" in found(model, batch().x[:n], None, None)

    def test_f10_dropout_as_a_function_is_no_dependence(self):
        model = mlp(Apply(lambda x: F.dropout(x, 0.5)))
        assert "answers depend on the batch" not in found(model, batch().x, None, None)

    def test_f10_chance_of_the_models_own_is_no_dependence(self):
        generator = torch.Generator()
        model = mlp(Apply(lambda x: x + torch.randn(x.shape, generator=generator)))
        assert "answers depend on the batch" not in found(model, batch().x, None, None)

    @pytest.mark.parametrize("read", [lambda z: z.argmax(1), lambda z: z > 0, lambda z: z.int()])
    def test_labels_and_masks_as_outputs(self, read):
        model = nn.Sequential(mlp(), Apply(read))
        assert found(model, batch().x, None, None) == {}
        assert "detach(), argmax" in messages(model, batch().x, batch().y.float(), lambda a, b: a.float().mean())

    def test_a_loss_that_writes_leaves_no_trace(self):
        class Counts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, output, target):
                self.calls += 1
                target.zero_()
                return F.cross_entropy(output.mul_(2), target)

        loss, target = Counts(), batch().y.clone()
        diagnose(mlp(), batch().x, target, loss)
        assert loss.calls == 0
        assert torch.equal(target, batch().y)

    def test_softmax_along_the_last_axis(self):
        """A class for each position: probabilities over the last axis, and a loss that transposes."""
        ids = tokens()[:, 20:28]
        model = nn.Sequential(nn.Embedding(17, 8), nn.Linear(8, 10))

        def loss(values, target):
            return -values.log_softmax(-1).gather(-1, target[..., None]).mean()

        target = ids.clamp(max=9)
        assert diagnose(model, ids, target, loss).ok
        twice = found(nn.Sequential(*model, Apply(lambda z: z.softmax(-1))), ids, target, loss)
        assert twice.get("output and loss") == "problem"

    @pytest.mark.parametrize("wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")])
    def test_q23_wrapped_models_are_unwrapped(self, wrap):
        report = diagnose(wrap(nn.Sequential(mlp(), nn.Softmax(1))), batch().x, batch().y, F.cross_entropy)
        assert "the last layer is Softmax" in str(report)

    @pytest.mark.parametrize("call", [diagnose, first_nonfinite_layer], ids=lambda call: call.__name__)
    def test_f13_lazy_and_scripted_models_are_refused_with_a_sentence(self, call):
        with pytest.raises(ValueError, match="run it once on a batch first"):
            call(nn.Sequential(nn.LazyLinear(3)), batch().x)
        with pytest.warns(FutureWarning), pytest.raises(TypeError, match="pass the model that it was scripted from"):
            call(torch.jit.script(mlp()), batch().x)

    def test_f9_complex_parameters(self):
        class Fourier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weights = nn.Parameter(torch.linspace(1, 2, 33) * torch.complex(torch.ones(33), -torch.ones(33)))
                self.head = mlp()

            def forward(self, x):
                return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.weights))

        assert diagnose(Fourier(), batch().x, batch().y, F.cross_entropy).ok

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
            nn.utils.parametrizations.spectral_norm,
            nn.utils.parametrizations.weight_norm,
        ],
        ids=["pruned", "spectral_norm", "weight_norm"],
    )
    def test_f12_layers_whose_weight_is_made_in_forward(self, change):
        model = mlp()
        change(model[0])
        weight, before = vars(model[0]).get("weight"), snapshot(model)
        assert diagnose(model, batch().x, batch().y, F.cross_entropy).ok
        assert snapshot(model) == before
        assert vars(model[0]).get("weight") is weight

    @pytest.mark.parametrize("training", [True, False])
    def test_q11_parameters_written_in_forward_stay(self, training):
        model = Codebook().train(training)
        before = snapshot(model)
        diagnose(model, batch().x, batch().y, F.cross_entropy)
        assert first_nonfinite_layer(model, batch().x) is None
        assert snapshot(model) == before
        assert not hasattr(model, "seen")

    def test_p29_a_model_and_inputs_made_in_inference_mode(self):
        with torch.inference_mode():
            model, x = mlp(), batch().x.clone()
            assert diagnose(model, x, batch().y, F.cross_entropy).ok
        assert diagnose(model, x, batch().y, F.cross_entropy).ok

    def test_f22_several_inputs(self):
        scale = torch.linspace(1, 2, 64)[:, None]
        for inputs in ((batch().x, scale), [batch().x, scale], {"x": batch().x, "scale": scale}):
            assert diagnose(TwoInputs(), inputs, batch().y, F.cross_entropy).ok
            assert "inputs[" in messages(TwoInputs(use=False), inputs, batch().y, F.cross_entropy)
            assert found(TwoInputs(use=False), inputs, None, None) == {"unread inputs": "warning"}
            assert first_nonfinite_layer(TwoInputs(), inputs) is None
        broken = {"x": batch().x, "scale": scale.masked_fill(scale > 1.9, NAN)}
        assert "inputs['scale']: " in messages(TwoInputs(), broken)
        assert "it is in the inputs already" in messages(TwoInputs(), broken)

    def test_f22_a_language_model_with_a_dict_batch_and_labels(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ids = torch.randint(0, 11, (6, 5))
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        model = tiny_language_model()
        loss = lambda logits, target: F.cross_entropy(logits.transpose(1, 2), target)  # noqa: E731
        assert diagnose(model, tokens, ids, loss).ok
        assert first_nonfinite_layer(model, tokens) is None
        with torch.no_grad():
            model.transformer.h[0].mlp.c_fc.bias[0] = INF
        assert first_nonfinite_layer(model, tokens) == "transformer.h.0.mlp.c_fc"

    def test_f22_inputs_of_different_lengths_are_refused(self):
        with pytest.raises(ValueError, match=r"same number of samples.*inputs\[1\]': 3"):
            diagnose(TwoInputs(), (batch().x, batch().ones[:3]))

    def test_q14_nan_beside_finite_logits(self):
        @dataclass
        class Output:
            logits: torch.Tensor
            loss: torch.Tensor

        model = nn.Sequential(mlp(), Apply(lambda x: Output(x, x.sum() * NAN)))
        assert "starts in the layer '1'" in messages(model, batch().x)
        assert detect_nan_inf(model(batch().x)).path == "tensor.loss"

    def test_q9_half_precision_log_probabilities_fit_nll_loss(self):
        model = nn.Sequential(mlp(outputs=50_000), nn.LogSoftmax(1)).bfloat16()
        assert diagnose(model, batch().x.bfloat16(), batch().y, F.nll_loss).ok

    def test_q10_labels_say_how_to_map_them(self):
        _, x, target, loss = FAULTS["labels of −1 and 1"][2]()
        assert "range from -1 to 1; pass (y + 1) / 2" in messages(mlp(outputs=1), x, target, loss)
        assert "range from 0 to 255; pass y / 255" in messages(*FAULTS["labels of 0 and 255"][2]())

    def test_q10_wrapped_losses_and_divergences_are_seen_by_what_they_call(self):
        assert "the last layer is Softmax" in messages(*FAULTS["double softmax behind a function"][2]())
        assert "look like probabilities" in messages(*FAULTS["double softmax in the loss"][2]())
        assert "kl_div takes log-probabilities" in messages(*FAULTS["divergence of probabilities"][2]())

    def test_a_loss_with_labels_out_of_range_never_runs(self):
        """On a GPU it would end the process."""
        finished = []

        def loss(output, target):
            value = F.cross_entropy(output, target)
            finished.append(value)
            return value

        assert found(mlp(), batch().x, batch().y + 1, loss) == {"labels": "problem"}
        assert finished == []

    def test_the_lessons_own_exploding_network(self):
        """Section 4.1: a target that is not scaled, and each step of the divergence that it leads to."""
        diabetes = load_split("diabetes")
        x, y = diabetes.x_train, diabetes.y_train.reshape(-1, 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Linear(10, 32), nn.LeakyReLU(), nn.Linear(32, 32), nn.LeakyReLU(), nn.Linear(32, 1)
            )
        assert diagnose(model, x, (y - y.mean()) / y.std(), F.mse_loss).ok
        optimizer, checks = torch.optim.SGD(model.parameters(), lr=0.01), []
        for _ in range(4):
            checks.append(set(found(model, x, y, F.mse_loss)))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        assert checks[0] == {"target"}
        assert all(checks)
        assert "exploding gradients" in checks[2]
        assert "exploding output" in found(model, x, None, None)

    def test_a_trained_regression_in_its_own_unit_is_sound(self):
        y = 200 + 50 * batch().ones[:, None]
        model = nn.Sequential(mlp(outputs=1), Apply(lambda z: 200 + 50 * z))
        assert "target" not in found(model, batch().x, y, F.mse_loss)

    def test_the_loss_of_guessing_is_in_the_message(self):
        text = messages(*FAULTS["labels in another order"][2]())
        assert "ln 10 = 2.3" in text
        with torch.no_grad():
            value = F.cross_entropy(trained()(batch().x), (batch().y + 1) % 10).item()
        assert f"the loss is {value:.3g} nats a sample" in text


class TestDiagnose:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_finds_the_fault_and_not_its_repair(self, fault):
        check, severity, make_faulty, make_repaired = FAULTS[fault]
        faulty, repaired = make_faulty(), make_repaired()
        assert found(*faulty).get(check) == severity
        assert check not in found(*repaired)
        assert diagnose(*faulty).ok == (severity == "note" and len(found(*faulty)) == 1)
        assert all(level == "note" for level in found(*repaired).values())

    @pytest.mark.parametrize("rows", [slice(None), slice(0, 16), slice(300, 364)], ids=str)
    @pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)], ids=["F", "nn"])
    def test_a_sound_classifier_of_digits(self, rows, loss):
        report = diagnose(trained(), digits().x_train[rows], digits().y_train[rows], loss)
        assert report.ok
        assert report.findings == ()
        assert str(report) == "Nothing suspicious was found."

    @pytest.mark.parametrize(
        "sound",
        [
            lambda: (trained(), batch().x, F.one_hot(batch().y, 10).float(), F.cross_entropy),
            lambda: (trained(), batch().x, None, None),
            lambda: (copy.deepcopy(trained()).double(), batch().x.double(), batch().y, F.cross_entropy),
            lambda: (copy.deepcopy(trained()).bfloat16(), batch().x.bfloat16(), batch().y, F.cross_entropy),
            lambda: (mlp(nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()), batch().x, batch().y, F.cross_entropy),
            lambda: (mlp(nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()).eval(), batch().x, batch().y, F.cross_entropy),
            lambda: (mlp(nn.Sigmoid()), batch().x, batch().y, F.cross_entropy),
            lambda: (mlp(outputs=3), batch().x, F.one_hot(batch().y % 3, 3).float(), nn.BCEWithLogitsLoss()),
            lambda: (
                nn.Sequential(nn.Embedding(17, 8), nn.Flatten(), nn.Linear(512, 10)),
                load_split("digits", scaling="none").x_train[:64].long(),
                batch().y,
                F.cross_entropy,
            ),
            lambda: (
                nn.Sequential(mlp(), Apply(lambda x: SimpleNamespace(logits=x))),
                batch().x,
                batch().y,
                F.cross_entropy,
            ),
        ],
        ids=["soft", "no target", "double", "half", "train", "eval", "sigmoid", "multilabel", "tokens", "logits"],
    )
    def test_other_sound_networks(self, sound):
        assert diagnose(*sound()).ok

    def test_modes_of_layers_are_told_apart(self):
        model = mlp(nn.BatchNorm1d(32), nn.Dropout())
        assert "all Dropout and BatchNorm layers are in train mode" in messages(model, batch().x)
        model[1].eval()
        assert "1 of 2 Dropout and BatchNorm layers are in train mode" in messages(model, batch().x)
        assert "eval mode: right for reading outputs" in messages(model.eval(), batch().x)

    def test_says_it_in_words_the_worst_first(self):
        model = nn.Sequential(mlp(nn.ReLU(), nn.Dropout()), nn.Softmax(dim=1))
        model[0][0].requires_grad_(False)
        report = diagnose(model, batch().x * 100, batch().y + 1, F.cross_entropy)
        severities = [finding.severity for finding in report.findings]
        assert severities == sorted(severities, key=["problem", "warning", "note"].index)
        assert set(severities) == {"problem", "warning", "note"}
        lines = str(report).splitlines()
        assert len(lines) == len(report.findings)
        assert repr(report) == str(report)
        for line, finding in zip(lines, report.findings, strict=True):
            assert line == f"{finding.severity.upper()} · {finding.check}: {finding.message}"
        assert "cross_entropy takes logits and does the softmax or sigmoid itself" in str(report)
        assert "labels range from 1 to 10, but there are 10 classes: 0 to 9" in str(report)
        assert "0.0.weight, 0.0.bias: training will not change them" in str(report)

    def test_ok_allows_notes_only(self):
        for severity, ok in (("note", True), ("warning", False), ("problem", False)):
            assert Diagnosis((Finding("note", "mode", "x"), Finding(severity, "a", "b"))).ok == ok
        assert Diagnosis(()).ok

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("broadcasting mse", r"output has the shape (64, 1), the target (64,)"),
            ("double softmax, module", "the last layer is Softmax"),
            ("double softmax, function", "these values look like probabilities"),
            ("layer that is not finite", "it starts in the layer '1'"),
            ("inputs that are not finite", "it is in the inputs already"),
            ("parameters that are not finite", "0.weight: 1 NaN"),
            ("unused parameters", "spare.weight, spare.bias"),
            ("dead ReLUs", "1 (62%)"),
            ("dead channels", "1 (75%)"),
            ("vanishing gradients", "those of 0.weight are"),
            ("batch averaged", "64 samples went in, a float32 tensor of shape (10,) came out"),
            ("loss that raises", "it raises ValueError"),
            ("detached loss", "argmax"),
        ],
    )
    def test_messages_name_what_was_seen(self, fault, words):
        assert words in messages(*FAULTS[fault][2]())

    def test_vanishing_says_how_much(self):
        """The ratio in the message, against gradients taken by hand."""
        model = deep(nn.Sigmoid)
        F.cross_entropy(model(batch().x), batch().y).backward()
        sizes = [
            float(layer.weight.grad.double().square().mean().sqrt()) for layer in model if hasattr(layer, "weight")
        ]
        ratio = max(sizes) / min(sizes)
        assert ratio > 1e5
        assert f"{ratio:.0e} times smaller" in messages(copy.deepcopy(model), batch().x, batch().y, F.cross_entropy)

    def test_the_loss_in_train_mode_is_the_one_of_training(self):
        """The gradients are those of the mode that the model is in, with batch statistics and dropout."""
        model, seen = mlp(nn.BatchNorm1d(32), nn.Dropout(0.5)), []

        def loss(output, target):
            seen.append(output.detach())
            return F.cross_entropy(output, target)

        diagnose(model, batch().x, batch().y, loss)
        diagnose(model.eval(), batch().x, batch().y, loss)
        assert torch.equal(seen[-1], model(batch().x).detach())
        assert not torch.allclose(seen[0], seen[-1])

    # False alarms: a sound network must not be called broken.

    def test_masks_of_minus_infinity_are_no_fault(self):
        model = CausalAttention()
        assert model(batch().x).isfinite().all()
        assert "the output is not finite" not in messages(model, batch().x, batch().y, F.cross_entropy)
        assert diagnose(model, batch().x, batch().y, F.cross_entropy).ok

    @pytest.mark.parametrize(
        "loss",
        [
            lambda output, target: F.cross_entropy(output, target),
            functools.partial(F.cross_entropy, label_smoothing=0.1),
            nn.MultiMarginLoss(),
        ],
        ids=["lambda", "partial", "margin"],
    )
    @pytest.mark.parametrize("n", [10, 1])
    def test_class_indices_for_as_many_samples_as_classes_do_not_broadcast(self, loss, n):
        assert "broadcasting loss" not in found(mlp(), batch().x[:n], batch().y[:n], loss)

    def test_a_hidden_sigmoid_is_no_double_sigmoid(self):
        """Yes/no logits that happen to lie in [0, 1], made by a linear layer: a problem for nobody."""
        model = changed(mlp(nn.Sigmoid(), outputs=1), lambda m: (m[2].weight.mul_(0.1), m[2].bias.fill_(0.5)))
        logits = model(batch().x)
        assert (logits > 0).all()
        assert (logits < 1).all()
        assert "problem" not in found(model, batch().x, batch().ones[:, None], nn.BCEWithLogitsLoss()).values()

    def test_a_dark_border_is_no_dead_unit(self):
        """In an image the unit is the channel: three quarters of its places are always 0, and it lives."""
        body = [nn.ZeroPad2d(4), nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
        model = changed(nn.Sequential(*body), lambda m: m[1].weight.fill_(1))
        hidden = model[:3](batch().images)
        assert ((hidden == 0).all(0).float().mean() > 0.7) & (hidden > 0).any()
        assert "dead ReLUs" not in found(*case(model, x=batch().images))

    def test_small_outputs_are_not_constant(self):
        model = nn.Sequential(mlp(), Apply(lambda x: 1e-9 * x))  # in metres, say, and the things are molecules
        assert model(batch().x).std(0).min() > 1e-11
        assert "constant output" not in found(model, batch().x, None, None)

    def test_sparse_gradients_of_an_embedding(self):
        model = nn.Sequential(nn.Embedding(17, 8, sparse=True), nn.Flatten(), nn.Linear(512, 10))
        tokens = load_split("digits", scaling="none").x_train[:64].long()
        assert diagnose(model, tokens, batch().y, F.cross_entropy).ok

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_the_callers_grad_mode_does_not_matter(self, context):
        with context():
            assert diagnose(trained(), batch().x, batch().y, F.cross_entropy).ok

    # Misses.

    def test_logits_in_an_object_are_looked_at(self):
        model = nn.Sequential(mlp(), Apply(lambda x: SimpleNamespace(logits=(-x.abs() - 1).log())))
        assert found(model, batch().x, None, None).get("NaN or Inf") == "problem"

    def test_a_backward_pass_that_raises_is_a_finding(self):
        """An in-place change of what backward still needs."""

        def sigmoid_then_double(x):
            return x.sigmoid().mul_(2)

        report = diagnose(nn.Sequential(mlp(), Apply(sigmoid_then_double)), batch().x, batch().y, F.cross_entropy)
        assert not report.ok
        assert "inplace" in str(report)

    @pytest.mark.parametrize(
        "loss",
        [functools.partial(F.cross_entropy, label_smoothing=0.1), type("MyLoss", (nn.CrossEntropyLoss,), {})()],
        ids=["partial", "subclass"],
    )
    def test_a_double_softmax_behind_a_derived_loss(self, loss):
        model = nn.Sequential(mlp(), nn.Softmax(dim=1))
        assert found(model, batch().x, batch().y, loss).get("output and loss") == "problem"

    # Nothing is changed.

    @pytest.mark.parametrize("training", ["mixed", True, False])
    @pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, F.mse_loss])
    def test_changes_nothing(self, stateful_model, training, loss):
        if training != "mixed":
            stateful_model.train(training)
        x = random_normal(16, 4).float().requires_grad_()
        x.grad = torch.ones_like(x)
        target = torch.arange(16) % 3
        stateful_model.first.bias.requires_grad_(False)
        before = snapshot(stateful_model, x, target)
        assert before["gradients"][0][2] is not None  # the parameters have gradients that could be disturbed
        diagnose(stateful_model, x, target, loss)
        assert snapshot(stateful_model, x, target) == before

    @pytest.mark.parametrize("fault", FAULTS)
    def test_changes_nothing_about_a_broken_network(self, fault):
        model, x, target, loss = FAULTS[fault][2]()
        tensors = [x.nan_to_num(7)] if target is None else [x.nan_to_num(7), target]
        state = [value.nan_to_num(7).clone() for value in model.state_dict().values()]
        before = snapshot(model)
        copies = [tensor.clone() for tensor in tensors]
        diagnose(model, x, target, loss)
        assert all(map(torch.equal, state, [value.nan_to_num(7) for value in model.state_dict().values()]))
        assert all(map(torch.equal, copies, [x.nan_to_num(7)] if target is None else [x.nan_to_num(7), target]))
        after = snapshot(model)
        assert (after["modes"], after["hooks"]) == (before["modes"], before["hooks"])
        assert all(p.grad is None for p in model.parameters())

    def test_in_place_layers_leave_the_inputs_alone(self):
        model = nn.Sequential(nn.ReLU(inplace=True), *mlp(nn.ReLU(inplace=True)))
        x = batch().x.clone()
        diagnose(model, x, batch().y, F.cross_entropy)
        assert torch.equal(x, batch().x)

    def test_gives_the_same_report_twice_despite_dropout(self):
        model = mlp(nn.Dropout(0.9), nn.ReLU())
        reports = {str(diagnose(model, batch().x[:20], batch().y[:20], F.cross_entropy)) for _ in range(3)}
        assert len(reports) == 1

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ((torch.relu, ROWS), TypeError, "model must be a torch.nn.Module"),
            ((mlp(), ROWS.tolist()), TypeError, r"inputs\[0\] must be a torch.Tensor"),
            ((mlp(), ROWS[:0]), ValueError, "inputs is empty"),
            ((mlp(), ROWS, LABELS), ValueError, "give target and loss together"),
            ((mlp(), ROWS, None, F.cross_entropy), ValueError, "give target and loss together"),
            ((mlp(), ROWS, LABELS.tolist(), F.cross_entropy), TypeError, "target must be a torch.Tensor"),
            ((mlp(), ROWS, LABELS, "cross_entropy"), TypeError, r"loss must be callable as loss\(output, target\)"),
            ((nn.LSTM(64, 10), ROWS), TypeError, "the model must return a tensor.*a tuple of length 2"),
        ],
    )
    def test_bad_input(self, arguments, error, words):
        with pytest.raises(error, match=words):
            diagnose(*arguments)

    @pytest.mark.parametrize("call", [diagnose, first_nonfinite_layer], ids=lambda call: call.__name__)
    def test_e37_every_submodule_keeps_its_mode(self, stateful_model, call):
        x = random_normal(8, 4).float()
        careless = copy.deepcopy(stateful_model)
        modes = [module.training for module in careless.modules()]
        assert modes == [True, True, False, True, True, True]  # BatchNorm is frozen on purpose
        careless.eval()
        careless(x)
        assert not any(module.training for module in careless.modules())  # the error: eval mode for good,
        careless.train()
        assert careless.norm.training  # and train() would wake what was frozen
        call(stateful_model, x)
        assert [module.training for module in stateful_model.modules()] == modes
        stateful_model.fail_at = 1
        if call is diagnose:
            assert "failed on purpose" in str(diagnose(stateful_model, x))
        else:
            with pytest.raises(RuntimeError, match="failed on purpose"):
                call(stateful_model, x)
        assert [module.training for module in stateful_model.modules()] == modes
