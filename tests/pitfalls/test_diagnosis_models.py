"""The check-up of models as people bring them, and of forward passes that fail."""

import functools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from course_utils.data import load_split
from course_utils.pitfalls import detect_nan_inf, diagnose, first_nonfinite_layer
from tests.support.faults import (
    FAILURES,
    FAULTS,
    Codebook,
    TwoInputs,
    batch,
    changed,
    found,
    messages,
    tiny_language_model,
    tokens,
    trained,
)
from tests.support.models import Apply, mlp
from tests.support.snapshots import snapshot
from tests.support.values import INF, NAN


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
