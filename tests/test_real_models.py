"""Models as other libraries make them, built from a configuration without any download, and what went wrong."""

import copy

import pytest
import torch
import torch.utils.checkpoint
import transformers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from course_utils import advanced, capstone, interpretation, iris, optimization, pitfalls
from course_utils.capstone import predict_logits
from tests.support.models import Apply, Returns, mlp
from tests.support.values import random_normal

X, Y = random_normal(6, 4).float(), torch.tensor([0, 1, 2, 0, 1, 2])
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def classifier() -> nn.Sequential:
    return mlp(nn.ReLU(), inputs=4, hidden=8, outputs=3)


@pytest.fixture(scope="module")
def sentences() -> dict[str, torch.Tensor]:
    mask = torch.ones(4, 6).long()
    mask[0, 4:] = 0
    return {"input_ids": torch.arange(24).reshape(4, 6) + 3, "attention_mask": mask}


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=50, num_labels=3, initializer_range=0.5, **SMALL)
    return transformers.BertForSequenceClassification(config)


class TestTransformers:
    def test_a_tokenizers_batch_is_an_input(self, bert, sentences):
        logits = copy.deepcopy(bert).eval()(**sentences).logits
        for batch in (sentences, transformers.BatchEncoding(sentences)):
            assert torch.allclose(iris.predict(bert, batch, batch_size=3).probabilities, logits.softmax(1), atol=1e-6)
        assert pitfalls.first_nonfinite_layer(bert, sentences) is None
        assert float(optimization.monte_carlo_dropout(bert, sentences, n_samples=4, seed=0).variance.max()) > 0

    def test_embeddings_can_be_explained(self, bert):
        embeddings = {"inputs_embeds": random_normal(2, 5, 16).float()}
        parts, delta = advanced.integrated_gradients(bert, embeddings, n_steps=64, return_convergence_delta=True)
        assert parts["inputs_embeds"].shape == (2, 5, 16)
        assert float(delta.abs().max()) < 1e-2

    def test_two_texts_are_no_continuation(self):
        sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=20, **sizes))
        prompt = torch.tensor([[0, 1]])
        with pytest.raises(TypeError, match="decoder_input_ids=token_ids"):
            interpretation.beam_search_decode(t5, prompt)
        source = torch.tensor([[3, 4, 5]])
        reader = Apply(
            lambda ids: t5.eval()(input_ids=source.expand(len(ids), -1), decoder_input_ids=ids).logits  # as advised
        )
        assert len(interpretation.beam_search_decode(reader, prompt, num_beams=2, max_new_tokens=3)[0]) == 2

    def test_logits_of_every_token_are_no_classification(self):
        with pytest.raises(ValueError, match=r"those of one position, such as logits\[:, -1\]"):
            iris.predict(Returns(torch.zeros(6, 5, 3)), X)
        with pytest.raises(ValueError, match=r"batch axis: inputs\[None\]"):
            iris.predict(classifier(), X[0])


def test_a_residual_network_is_read_as_it_is():
    torch.manual_seed(0)
    model, x = resnet18(num_classes=3), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(x)
    assert torch.allclose(predict_logits(model, x), logits, atol=1e-6)
    assert advanced.grad_cam(model, x, "layer1", 1).shape == (2, 32, 32)
    with pytest.raises(ValueError, match="single position"):
        advanced.grad_cam(model, x, "avgpool", 1)


@pytest.mark.parametrize("inputs", [X.double(), X.long(), X[:, :3]])
def test_a_failed_forward_pass_says_what_to_do(inputs):
    """The model's own error comes as it is, with a note about the inputs and `diagnose`."""
    calls = [lambda: iris.predict(classifier(), inputs)]
    if inputs.is_floating_point():
        calls.append(lambda: advanced.saliency_map(classifier(), inputs))
    for call in calls:
        with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
            call()
        (note,) = caught.value.__notes__
        assert str(tuple(inputs.shape)) in note
        assert "diagnose(model, inputs)" in note
    assert "forward pass" in {finding.check for finding in pitfalls.diagnose(classifier(), inputs).findings}


def test_numbers_in_a_list_are_not_several_inputs():
    with pytest.raises(TypeError, match="torch.as_tensor"):
        advanced.saliency_map(classifier(), X.tolist())
    with pytest.raises(TypeError, match="several inputs"):
        advanced.saliency_map(classifier(), [X, X])


class Checkpointed(nn.Module):
    """Computes its activations a second time on the way back: always, or in train mode only."""

    def __init__(self, *, reentrant: bool, only_in_training: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 3)
        self.reentrant, self.only_in_training = reentrant, only_in_training

    def forward(self, x):
        if self.only_in_training and not self.training:
            return self.head(self.body(x))
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_in_evaluation_mode_is_refused(reentrant):
    model = Checkpointed(reentrant=reentrant, only_in_training=False)
    for call in (
        lambda: advanced.saliency_map(model, X, Y),
        lambda: advanced.fgsm_attack(model, X, Y, eps=0.1, bounds=(-9, 9)),
        lambda: advanced.integrated_gradients(model, X, Y),
    ):
        with pytest.raises(ValueError, match="if self.training"):
            call()
    advised = Checkpointed(reentrant=reentrant, only_in_training=True)
    assert advanced.saliency_map(advised, X, Y).shape == X.shape


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_f21_masked_classes_are_logits_for_uncertainty_too(task):
    logits = random_normal(6, 3).float()
    logits[:, 0] = -torch.inf
    found = optimization.deep_ensemble([Returns(logits), Returns(logits + 1)], X, task=task)
    assert found.mean[:, 0].tolist() == [0.0] * 6
    assert bool(found.predictive_entropy.isfinite().all())
    with pytest.raises(ValueError, match="NaN"):
        optimization.deep_ensemble([Returns(logits * 0)] * 2, X, task=task)
    with pytest.raises(ValueError, match="must be finite"):
        optimization.deep_ensemble([Returns(logits)] * 2, X, task="regression")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_f4_an_even_choice_is_a_yes_in_every_chapter(dtype):
    """F4: of a new network whose last layer is zero, one chapter said yes to all samples, and another one no."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).to(dtype)
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    x, y = torch.full((3, 3, 2, 2), 0.5, dtype=dtype), torch.ones(3).long()
    binary = {"task": "binary"}
    prediction = iris.predict(model, x, **binary)
    assert prediction.labels.tolist() == [1, 1, 1]
    assert prediction.probabilities.tolist() == [0.5] * 3
    assert iris.accuracy(model, x, y, **binary).value == 1
    assert interpretation.interpret_classification_output(model(x), **binary).labels.tolist() == [1, 1, 1]
    assert optimization.ensemble_predictions([model], x, method="voting", **binary).tolist() == [1, 1, 1]
    assert capstone.evaluate_model(model, x, y, **binary).accuracy == 1
    assert capstone.interpret_model_outputs(model, x, y, **binary).labels.tolist() == [1, 1, 1]
    unmoved = advanced.evaluate_robustness(model, [(x, y)], lambda m, x, y, **_: x, **binary)
    assert (unmoved.clean_accuracy, unmoved.adversarial_accuracy) == (1, 1)


def test_a_stacker_is_fitted_in_full_precision_under_autocast():
    members = [Returns(random_normal(60, 3, seed=seed).float()) for seed in (0, 1)]
    x, y = torch.zeros(60, 1), torch.arange(60) % 3

    def stacked() -> torch.Tensor:
        meta = optimization.fit_stacking(members, x, y)
        return optimization.ensemble_predictions(members, x, method="stacking", meta_model=meta)

    with torch.autocast("cpu", torch.bfloat16):
        inside = stacked()
    assert torch.allclose(inside, stacked(), atol=1e-6)


def test_the_weights_of_quantised_layers_are_drawn():
    quantised = torch.ao.quantization.quantize_dynamic(classifier().eval(), {nn.Linear}, dtype=torch.qint8)
    titles = [ax.get_title("left") for ax in iris.plot_weight_distributions(quantised).axes]
    assert titles == ["0.weight, (8, 4)", "2.weight, (3, 8)"]


def test_dynamic_quantisation_makes_answers_depend_on_the_batch():
    quantised = torch.ao.quantization.quantize_dynamic(classifier().eval(), {nn.Linear}, dtype=torch.qint8)
    (finding,) = (f for f in pitfalls.diagnose(quantised, X).findings if f.severity == "warning")
    assert "quantisation" in finding.message


def test_a_model_on_the_meta_device_can_be_counted_and_nothing_more():
    model = classifier().to("meta")
    assert iris.count_parameters(model).total == 67
    for call in (
        lambda: iris.predict(model, X),
        lambda: iris.weight_statistics(model),
        lambda: advanced.saliency_map(model, X),
        lambda: pitfalls.diagnose(model, X),
        lambda: iris.train(model, X, Y),
    ):
        with pytest.raises(ValueError, match="meta device.*to_empty"):
            call()


def test_training_a_model_that_detaches_says_so():
    model = nn.Sequential(classifier(), Apply(torch.detach))
    with pytest.raises(ValueError, match="hangs on no parameter.*detach"):
        iris.train(model, X, Y, epochs=1, progress=False)


@pytest.mark.parametrize("read", [optimization.ensemble_predictions, optimization.deep_ensemble])
def test_ensembles_refuse_a_loader_that_shuffles(read):
    models, data = [classifier(), classifier()], TensorDataset(X)
    with pytest.raises(ValueError, match="shuffle=False"):
        read(models, DataLoader(data, batch_size=2, shuffle=True))
    found = read(models, DataLoader(data, batch_size=2))
    assert len(found) == 6
    with pytest.raises(ValueError, match="DataLoader is empty"):
        read(models, DataLoader([]))
