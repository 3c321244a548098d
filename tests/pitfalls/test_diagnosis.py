"""`diagnose` finds every fault, and nothing in the repaired network or in any other sound one."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data import load_split
from course_utils.pitfalls import Diagnosis, Finding, diagnose, first_nonfinite_layer
from tests.support.faults import (
    FAULTS,
    CausalAttention,
    batch,
    case,
    changed,
    deep,
    found,
    messages,
    trained,
)
from tests.support.models import Apply, mlp
from tests.support.snapshots import snapshot
from tests.support.values import digits, random_normal

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
