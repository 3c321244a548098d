"""A check-up that finds every fault and its repair healthy, and neither misses nor cries wolf."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data import load_split
from course_utils.pitfalls import Diagnosis, Finding, diagnose, first_nonfinite_layer, log_transform
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
    """A healthy classifier of digits after a few steps; not to be changed."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(digits().x_train), digits().y_train).backward()
        optimizer.step()
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
    """The arguments of diagnose; a healthy network and call where nothing else is said."""
    arguments = {"x": batch().x, "target": batch().y, "loss": F.cross_entropy} | changes
    return model or mlp(), arguments["x"], arguments["target"], arguments["loss"]


def yes_no(*after: nn.Module, **changes) -> tuple:
    defaults = {"target": batch().ones[:, None], "loss": F.binary_cross_entropy_with_logits}
    return case(nn.Sequential(mlp(outputs=1), *after), **(defaults | changes))


def then(*layers, **options) -> tuple:
    """The healthy network, with layers (or functions) behind it."""
    layers = [layer if isinstance(layer, nn.Module) else Apply(layer) for layer in layers]
    return case(nn.Sequential(mlp(), *layers), **options)


def altered(change, model=None, **options) -> tuple:
    return case(changed(model or mlp(), change), **options)


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
        lambda: case(mlp(Apply(lambda x: log_transform(x.relu())))),
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
    def test_a_healthy_classifier_of_digits(self, rows, loss):
        report = diagnose(trained(), digits().x_train[rows], digits().y_train[rows], loss)
        assert report.ok
        assert report.findings == ()
        assert str(report) == "Nothing suspicious was found."

    @pytest.mark.parametrize(
        "healthy",
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
    def test_other_healthy_networks(self, healthy):
        assert diagnose(*healthy()).ok

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

    # False alarms: a healthy network must not be called sick.

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
        """In a picture the unit is the channel: three quarters of its places are always 0, and it lives."""
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
    def test_changes_nothing_about_a_sick_network(self, fault):
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
            ((mlp(), ROWS.tolist()), TypeError, "inputs must be a torch.Tensor"),
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
        with pytest.raises(RuntimeError, match="failed on purpose"):
            call(stateful_model, x)
        assert [module.training for module in stateful_model.modules()] == modes
