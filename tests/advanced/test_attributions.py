"""Saliency, Grad-CAM and integrated gradients against captum and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.advanced import energy_inside, fgsm_attack, grad_cam, integrated_gradients, pgd_attack, saliency_map
from tests.support.images import classes, convolutional, images, linear
from tests.support.models import Function
from tests.support.values import DTYPES, NAN, seeds


class TestSaliency:
    @given(seeds)
    @settings(max_examples=15)
    def test_equals_captum(self, seed):

        model, x = convolutional(seed), images(seed)
        for target in (classes(), 2):
            expected = Saliency(model).attribute(x.clone().requires_grad_(), target=target, abs=True)
            assert torch.allclose(saliency_map(model, x, target), expected.amax(1))
        answer = model(x).argmax(1)
        assert torch.equal(saliency_map(model, x), saliency_map(model, x, answer))

    def test_of_a_linear_model_is_the_weight(self):
        model = linear(features=12)
        x = torch.rand(5, 12, dtype=torch.float64)
        assert torch.equal(saliency_map(model, x, 1), model[1].weight[1].detach().abs().expand(5, 12))
        grey = linear(features=64)
        expected = grey[1].weight[2].detach().abs().reshape(8, 8).expand(5, 8, 8)
        assert torch.equal(saliency_map(grey, images(channels=1), 2), expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_float32_or_better(self, dtype):
        result = saliency_map(convolutional().to(dtype), images(dtype=dtype))
        assert result.dtype == torch.promote_types(dtype, torch.float32)
        assert result.shape == (5, 8, 8)
        assert result.isfinite().all()
        assert (result > 0).any()

    def test_e56_saliency_does_not_accumulate(self):
        model = convolutional()
        naive = images().requires_grad_()
        model(naive)[:, 0].sum().backward()
        first = naive.grad.abs().amax(1)
        model(naive)[:, 0].sum().backward()
        assert torch.allclose(naive.grad.abs().amax(1), 2 * first)  # the error: the second map is twice the first
        x = images().requires_grad_()
        for _ in range(3):
            assert torch.allclose(saliency_map(model, x, 0), first)
        assert x.grad is None


class Named(nn.Module):
    """A network whose layers have dotted names, with a layer that runs twice and one that never runs."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=inplace))
        self.shared = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.never = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 2 * 2, 3)
        self.double()

    def forward(self, x):
        x = self.features(x)
        return self.fc(self.shared(self.shared(x)).flatten(1))


class TestGradCam:
    @given(seeds)
    @settings(max_examples=15)
    def test_equals_captum(self, seed):

        model, x = convolutional(seed), images(seed)
        for layer, target in ((0, classes()), (2, 1), (3, classes())):
            maps = LayerGradCam(model, model[layer]).attribute(x, target=target, relu_attributions=True).detach()
            small = maps[:, 0]
            large = LayerAttribution.interpolate(maps, (8, 8), interpolate_mode="bilinear")[:, 0]
            for expected, upsample in ((small, False), (large, True)):
                result = grad_cam(model, x, model[layer], target, upsample=upsample)
                largest = expected.amax((1, 2), keepdim=True)
                assert torch.allclose(result, expected / torch.where(largest > 0, largest, 1.0))
                assert result.shape == expected.shape
                assert torch.equal(grad_cam(model, x, str(layer), target, upsample=upsample), result)

    def test_behind_global_pooling_it_is_the_class_activation_map(self, trained):
        """Zhou et al. (2016): the last maps, weighted by the linear layer's row of the class."""
        model, x = trained.model, trained.x[:6]
        with torch.no_grad():
            maps, answer = model[:11](x), model(x).argmax(1)
            cam = F.relu(torch.einsum("nchw,nc->nhw", maps, model[13].weight[answer]))
        expected = cam / cam.amax((1, 2), keepdim=True)
        assert torch.allclose(grad_cam(model, x, "10", upsample=False), expected, atol=1e-5)
        assert grad_cam(model, x, "10").shape == (6, 16, 16)

    def test_lies_between_zero_and_one_and_reaches_one(self, trained):
        for layer in ("0", "4", "6", "10"):
            for upsample in (True, False):
                cam = grad_cam(trained.model, trained.x[:8], layer, upsample=upsample)
                assert cam.min() >= 0
                assert torch.equal(cam.amax((1, 2)), (cam.amax((1, 2)) > 0).float())

    def test_finds_the_object(self, trained):
        share = trained.masks.float().mean((1, 2))
        cam = grad_cam(trained.model, trained.x, "10")
        assert float((energy_inside(cam, trained.masks) / share).nanmean()) > 1.5

    def test_none_is_the_models_answer(self):
        model, x = convolutional(), images()
        assert torch.equal(grad_cam(model, x, "2"), grad_cam(model, x, "2", model(x).argmax(1)))

    def test_maps_without_evidence_are_zero_not_nan(self):
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        with torch.no_grad():
            model[4].weight.fill_(-1.0)
        for upsample, shape in ((True, (5, 8, 8)), (False, (5, 6, 6))):
            cam = grad_cam(model, images(dtype=torch.float32), "1", 0, upsample=upsample)
            assert torch.equal(cam, torch.zeros(shape))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_float32_or_better_and_stays_finite(self, dtype):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
        with torch.no_grad():
            model[0].weight.mul_(300)  # maps of some hundreds
            model[3].weight.mul_(30)
        expected = grad_cam(model, images(), "0", 1)
        cam = grad_cam(model.to(dtype), images(dtype=dtype), "0", 1)
        assert cam.dtype == torch.promote_types(dtype, torch.float32)
        assert cam.isfinite().all()
        assert torch.allclose(cam.double(), expected, atol=0.1)

    def test_a_layer_with_two_names(self):
        class Alias(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = self.second = nn.Conv2d(3, 2, 3)
                self.fc = nn.Linear(72, 3)

            def forward(self, x):
                return self.fc(self.second(x).flatten(1))

        model, x = Alias(), images(dtype=torch.float32)
        expected = grad_cam(model, x, "first")
        assert torch.equal(grad_cam(model, x, model.second), expected)
        assert torch.equal(grad_cam(model, x, "second"), expected)

    @pytest.mark.parametrize(
        ("layer", "error", "words"),
        [
            ("conv9", ValueError, "no layer 'conv9'.*features.0"),
            ("", ValueError, "no layer ''"),
            ("features.7", ValueError, "no layer 'features.7'"),
            ("fc", ValueError, r"feature maps \(N, channels, h, w\).*\(5, 3\)"),
            ("shared", ValueError, "run once.*2 times"),
            ("never", ValueError, "run once.*0 times"),
            (nn.Conv2d(3, 4, 3), ValueError, "not part of the model"),
            (0, TypeError, "module or its dotted name"),
            (None, TypeError, "module or its dotted name"),
        ],
    )
    def test_bad_layer(self, layer, error, words):
        model = Named()
        with pytest.raises(error, match=words):
            grad_cam(model, images(), layer)
        assert all(not module._forward_hooks for module in model.modules())

    def test_p23_an_unknown_layer_names_the_nearest_ones(self):
        model = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(40)))
        model.append(nn.Flatten()).append(nn.Linear(192, 3))
        with pytest.raises(ValueError, match="no layer '17.3'; of its 122 the nearest names are") as caught:
            grad_cam(model, images(dtype=torch.float32), "17.3")
        assert "'17'" in str(caught.value)
        assert len(str(caught.value)) < 200

    def test_p23_names_as_the_wrapper_has_them(self):
        x, expected = images(), grad_cam(convolutional(), images(), "2")
        parallel, compiled = nn.DataParallel(convolutional()), torch.compile(convolutional(), backend="eager")
        for model, names in ((parallel, ("2", "module.2")), (compiled, ("2", "_orig_mod.2"))):
            for layer in (*names, model.get_submodule(names[1])):
                assert torch.equal(grad_cam(model, x, layer), expected)

    def test_inputs_that_are_no_images(self):
        model = nn.Sequential(nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3)).double()
        with pytest.raises(ValueError, match=r"inputs|upsample"):
            grad_cam(model, images().flatten(1), "1")

    @pytest.mark.parametrize("detached", [True, False])
    def test_a_layer_that_the_answer_does_not_use(self, detached):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(192, 3)

            def forward(self, x):
                aside = self.conv(x)
                return self.fc(x.flatten(1)) + (aside.detach().mean() if detached else 0)

        with torch.no_grad():
            model = Aside()
        with pytest.raises(ValueError, match="layer"):
            grad_cam(model, images(dtype=torch.float32), "conv")

    def test_a_layer_that_runs_without_gradients(self):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(192, 3)

            def forward(self, x):
                with torch.no_grad():
                    aside = self.conv(x).mean()
                return self.fc(x.flatten(1)) + aside

        with pytest.raises(ValueError, match="layer|depend"):
            grad_cam(Aside(), images(dtype=torch.float32), "conv")

    def test_e57_hooks_are_removed(self):
        model, naive = convolutional(), convolutional()
        for _ in range(10):
            naive[2].register_forward_hook(lambda module, args, output: None)
            naive(images())
            grad_cam(model, images(), "2")
            with pytest.raises(ValueError, match="feature maps"):
                grad_cam(model, images(), "5")
        assert len(naive[2]._forward_hooks) == 10  # the error
        assert [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()] == [0] * 7

    def test_e57_the_callers_own_hooks_stay(self):
        model, seen = convolutional(), []
        handle = model[2].register_forward_hook(lambda module, args, output: seen.append(1))
        grad_cam(model, images(), "2")
        assert handle.id in model[2]._forward_hooks
        assert len(seen) == 1

    def test_e58_in_place_relu_neither_crashes_nor_overwrites(self):
        plain, inplace = convolutional(activation=nn.ReLU()), convolutional(activation=nn.ReLU(inplace=True))
        x, kept = images(), []
        handle = inplace[2].register_full_backward_hook(lambda *_: None)
        with pytest.raises(RuntimeError, match="modified inplace"):  # the error: a full hook
            inplace(x.clone().requires_grad_())
        handle.remove()
        handle = inplace[2].register_forward_hook(lambda module, args, output: kept.append(output.detach()))
        inplace(x)
        handle.remove()
        assert kept[0].min() >= 0 > plain[:3](x).min()  # the error: what was kept has been through the ReLU
        for layer in ("0", "1", "2", "3"):
            for target in (None, classes()):
                assert torch.equal(grad_cam(inplace, x, layer, target), grad_cam(plain, x, layer, target))

    def test_e59_upsampled_and_wrong_layers_say_so(self):

        model, x = Named(), images()
        strided = convolutional()
        naive = LayerGradCam(strided, strided[2]).attribute(x, target=0)
        assert naive.shape[2:] == (4, 4)  # the error: not the image's size
        assert grad_cam(strided, x, "2", 0).shape == (5, 8, 8)
        with pytest.raises(KeyError):
            dict(model.named_modules())["conv9"]  # the error: a KeyError says nothing
        with pytest.raises(ValueError, match="no layer 'conv9'; of its 6 the nearest names are 'never', "):
            grad_cam(model, x, "conv9")
        with pytest.raises(IndexError):
            model(x).mean((2, 3))  # the error: a linear layer
        with pytest.raises(ValueError, match="feature maps"):
            grad_cam(model, x, model.fc)
        runs = []
        handle = model.shared.register_forward_hook(lambda module, args, output: runs.append(output.shape[-1]))
        model(x)
        handle.remove()
        assert runs == [4, 2]  # the error: which of the two?
        with pytest.raises(ValueError, match="run once in a forward pass, but ran 2 times"):
            grad_cam(model, x, "shared")


class FirstOfTwo(nn.Module):
    """A model of two inputs that uses the first."""

    def forward(self, a, b):
        return a.flatten(1)[:, :3]


METHODS = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"]


class TestIntegratedGradients:
    @pytest.mark.parametrize("method", METHODS)
    @given(seeds, st.integers(2, 20))
    @settings(max_examples=5)
    def test_equals_captum(self, method, seed, n_steps):
        from captum.attr import IntegratedGradients

        model, x = convolutional(seed), images(seed)
        baselines = images(seed + 1)
        for target, start in ((classes(), None), (1, 0.25), (classes(), baselines), (2, baselines[:1])):
            expected, delta = IntegratedGradients(model).attribute(
                x,
                baselines=start,
                target=target,
                n_steps=n_steps,
                method=method,
                return_convergence_delta=True,
            )
            options = {"baselines": start, "n_steps": n_steps, "method": method}
            ours, our_delta = integrated_gradients(model, x, target, **options, return_convergence_delta=True)
            assert torch.allclose(ours, expected, atol=1e-7)
            assert torch.allclose(our_delta, delta, atol=1e-6)  # captum's nodes are float32
            assert torch.equal(integrated_gradients(model, x, target, **options), ours)

    @pytest.mark.parametrize("method", [*METHODS, "riemann_trapezoid"])
    @pytest.mark.parametrize("n_steps", [2, 3, 50])
    def test_of_a_linear_model_is_exact_in_every_rule(self, method, n_steps):
        model, x = linear(), images()
        result, delta = integrated_gradients(
            model, x, 1, n_steps=n_steps, method=method, baselines=0.5, return_convergence_delta=True
        )
        expected = (x - 0.5) * model[1].weight[1].detach().reshape(3, 8, 8)
        assert torch.allclose(result, expected, atol=1e-12)
        assert delta.abs().max() < 1e-12

    @given(seeds)
    @settings(max_examples=15)
    def test_completeness(self, seed):
        model, x, start = convolutional(seed), images(seed), images(seed + 1)
        result, delta = integrated_gradients(model, x, classes(), baselines=start, return_convergence_delta=True)
        with torch.no_grad():
            rise = (model(x) - model(start)).gather(1, classes()[:, None])[:, 0]
        assert torch.allclose(result.flatten(1).sum(1), rise, atol=1e-8)
        assert torch.allclose(delta, result.flatten(1).sum(1) - rise, atol=1e-12)
        assert delta.abs().max() < 1e-8

    def test_polynomials_are_integrated_exactly_by_gauss_legendre(self):
        """n nodes are exact up to degree 2n − 1 of the gradient: here x⁶, whose gradient has degree 5."""
        model = Function(lambda x: torch.cat([x**6, x], 1))
        x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
        assert torch.allclose(integrated_gradients(model, x, 0, n_steps=3), x**6, rtol=1e-12)
        assert not torch.allclose(integrated_gradients(model, x, 0, n_steps=2), x**6, rtol=1e-3)

    @pytest.mark.parametrize("size", [1, 3, 7, 1000])
    def test_internal_batch_size_changes_nothing(self, size):
        model, x = convolutional(), images()
        rows = []
        expected = integrated_gradients(model, x, classes(), n_steps=9)
        handle = model.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        result = integrated_gradients(model, x, classes(), n_steps=9, internal_batch_size=size)
        handle.remove()
        assert torch.allclose(result, expected, atol=1e-12)
        assert max(rows) <= max(size, 5)  # the answers of all five, to know the target and the rise
        assert sum(rows) >= 45

    def test_baselines_broadcast(self):
        model, x = convolutional(), images()
        grey = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        whole = grey.reshape(1, 3, 1, 1).expand(5, 3, 8, 8)
        expected = integrated_gradients(model, x, 0, baselines=whole)
        assert torch.equal(integrated_gradients(model, x, 0, baselines=grey.reshape(3, 1, 1)), expected)
        zeros = integrated_gradients(model, x, 0)
        for nothing in (0, 0.0, torch.zeros_like(x), torch.zeros(1)):
            assert torch.equal(integrated_gradients(model, x, 0, baselines=nothing), zeros)
        assert integrated_gradients(model, x, 0, baselines=x).abs().max() == 0

    def test_p31_several_inputs_equal_captum(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.images, self.rows = convolutional(), nn.Linear(4, 3).double()

            def forward(self, x, rows):
                return self.images(x) * torch.tanh(self.rows(rows))

        model, x = Two(), images()
        rows = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        starts = (images(1), 0.5 * torch.ones(5, 4, dtype=torch.float64))
        for ours, theirs in ((None, None), (0.25, (0.25, 0.25)), (starts, starts), ((None, 0.5), (0, 0.5))):
            expected, delta = IntegratedGradients(model).attribute(
                (x, rows), baselines=theirs, target=classes(), n_steps=12, return_convergence_delta=True
            )
            options = {"n_steps": 12, "return_convergence_delta": True}
            found, our_delta = integrated_gradients(model, (x, rows), classes(), baselines=ours, **options)
            assert isinstance(found, tuple)
            assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, expected, strict=True))
            assert torch.allclose(our_delta, delta, atol=1e-6)
            named = dict(zip(("rows", "x"), (ours[1], ours[0]), strict=True)) if isinstance(ours, tuple) else ours
            by_name, _ = integrated_gradients(
                model, {"x": x, "rows": rows}, classes(), baselines=named, internal_batch_size=7, **options
            )
            assert list(by_name) == ["x", "rows"]
            assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(by_name.values(), found, strict=True))

    def test_p31_several_inputs_that_do_not_fit(self):
        model, x = FirstOfTwo(), images()
        for inputs, options, error, words in (
            ((x, x[:3]), {}, ValueError, "same number of samples"),
            ((x, x.long()), {}, TypeError, r"inputs\[1\] must have a floating point dtype"),
            ({"a": x, "b": None}, {}, TypeError, r"inputs\['b'\] must be a torch.Tensor"),
            ((), {}, ValueError, "inputs is empty"),
            ((x, x), {"baselines": (0, 0, 0)}, ValueError, r"one for each of the inputs \[0, 1\]"),
            ((x, x), {"baselines": {"a": 0, "b": 0}}, ValueError, r"are for \['a', 'b'\]"),
            ((x, x), {"baselines": (0, torch.zeros(7))}, ValueError, r"baselines\[1\] must broadcast"),
            ((x, x), {"baselines": (0, "black")}, TypeError, r"baselines\[1\]"),
        ):
            with pytest.raises(error, match=words):
                integrated_gradients(model, inputs, **options)

    def test_an_input_that_the_answer_does_not_use_gets_zeros(self):
        model = FirstOfTwo()
        used, unused = integrated_gradients(model, (images(), images(1)), 0)
        assert used.abs().max() > 0 == unused.abs().max()

    def test_none_is_the_answer_at_the_inputs(self):
        model, x = convolutional(), images()
        answer = model(x).argmax(1)
        assert torch.equal(integrated_gradients(model, x), integrated_gradients(model, x, answer))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_float32_or_better(self, dtype):
        expected = integrated_gradients(convolutional(), images(), 0)
        result, delta = integrated_gradients(
            convolutional().to(dtype), images(dtype=dtype), 0, return_convergence_delta=True
        )
        assert result.dtype == torch.promote_types(dtype, torch.float32)
        assert result.shape == (5, 3, 8, 8)
        assert delta.isfinite().all()
        scale = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
        assert (result.double() - expected).abs().max() < scale * expected.abs().max()

    def test_e60_gauss_legendre_beats_the_endpoint_rule(self):
        model, x = convolutional(), 2 * images()

        def endpoint(n):
            """The tutorials' rule: n points from 0 to 1 with both ends, each with weight 1/n."""
            total = torch.zeros_like(x)
            for alpha in torch.linspace(0, 1, n).tolist():
                leaf = (alpha * x).requires_grad_()
                total += torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0] / n
            return x * total

        with torch.no_grad():
            rise = (model(x) - model(torch.zeros_like(x)))[:, 0]
        wrong = (endpoint(50).flatten(1).sum(1) - rise).abs().max()
        right = (integrated_gradients(model, x, 0, n_steps=50).flatten(1).sum(1) - rise).abs().max()
        assert wrong > 1e-4  # the error
        assert right < wrong / 100

    def test_trapezoid_weights_sum_to_one(self):
        model, x = linear(), images()
        expected = x * model[1].weight[0].detach().reshape(3, 8, 8)
        theirs = IntegratedGradients(model).attribute(x, target=0, n_steps=50, method="riemann_trapezoid")
        assert torch.allclose(theirs, 0.98 * expected)  # the error: the weights sum to .98
        for n_steps in (2, 5, 50):
            ours, delta = integrated_gradients(
                model, x, 0, n_steps=n_steps, method="riemann_trapezoid", return_convergence_delta=True
            )
            assert torch.allclose(ours, expected, atol=1e-12)
            assert delta.abs().max() < 1e-12
        quadratic = Function(lambda x: torch.cat([x**3, x], 1))  # the gradient 3x² at 0, ½, 1: weights ¼, ½, ¼
        one = torch.ones(1, 1, dtype=torch.float64)
        ours = integrated_gradients(quadratic, one, 0, n_steps=3, method="riemann_trapezoid")
        assert ours.item() == pytest.approx(3 * (0.5 * 0.25 + 0.25 * 1))

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
            ({"n_steps": 2.0}, TypeError, "n_steps must be an int"),
            ({"n_steps": 1, "method": "riemann_trapezoid"}, ValueError, "n_steps must be at least 2"),
            ({"method": "simpson"}, ValueError, "'gausslegendre', 'riemann_left'.*'simpson'"),
            ({"internal_batch_size": 0}, ValueError, "internal_batch_size"),
            ({"internal_batch_size": 1.5}, TypeError, "internal_batch_size"),
            ({"baselines": torch.zeros(4, 3, 8, 8)}, ValueError, r"broadcast.*\(5, 3, 8, 8\)"),
            ({"baselines": torch.zeros(2, 5, 3, 8, 8)}, ValueError, "broadcast"),
            ({"baselines": torch.full((1,), NAN)}, ValueError, "NaN"),
            ({"baselines": NAN}, ValueError, "baselines"),
            ({"baselines": math.inf}, ValueError, "baselines"),
            ({"baselines": "black"}, TypeError, "baselines"),
            ({"baselines": True}, TypeError, "baselines"),
            ({"baselines": torch.zeros(1).long()}, TypeError, "baselines"),
        ],
    )
    def test_bad_options(self, options, error, words):
        with pytest.raises(error, match=words):
            integrated_gradients(convolutional(), images(), **options)


class Viewing(nn.Module):
    """Flattens with `view`, which a tensor in channels_last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 3)
        self.double()

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).view(len(x), -1))


ATTRIBUTIONS = {
    "saliency_map": saliency_map,
    "grad_cam": lambda model, x, target=None: grad_cam(model, x, "conv" if hasattr(model, "conv") else "0", target),
    "integrated_gradients": integrated_gradients,
}


class TestAllAttributions:
    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"model": len}, TypeError, "torch.nn.Module"),
            ({"x": images()[:0]}, ValueError, "empty"),
            ({"x": images() * NAN}, ValueError, "NaN"),
            ({"x": (255 * images()).byte()}, TypeError, "floating"),
            ({"x": [[0.5]]}, TypeError, "torch.Tensor"),
            ({"x": torch.zeros(3)}, ValueError, "batch axis"),
            ({"target": 3}, ValueError, "0 to 2"),
            ({"target": -1}, ValueError, "0 to 2"),
            ({"target": classes()[:2]}, ValueError, "each of the 5"),
            ({"target": classes().float()}, TypeError, "integer"),
            ({"target": 1.0}, TypeError, "target"),
            ({"target": True}, TypeError, "target"),
            ({"target": "disc"}, TypeError, "target"),
            ({"model": nn.Sequential(nn.Conv2d(3, 2, 3)).double()}, ValueError, r"logits \(N, C\)"),
            (
                {"model": nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), Function(lambda z: z * NAN)).double()},
                ValueError,
                "NaN|finite",
            ),
            (
                {"model": nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), Function(lambda z: (z, z))).double()},
                TypeError,
                "tuple",
            ),
        ],
    )
    def test_bad_input(self, name, change, error, words):
        given_ = {"model": convolutional(), "x": images(), "target": None} | change
        with pytest.raises(error, match=words):
            ATTRIBUTIONS[name](given_["model"], given_["x"], given_["target"])

    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    def test_channels_last_inputs(self, name):
        model, x = convolutional(), images()
        last = x.to(memory_format=torch.channels_last)
        assert torch.allclose(ATTRIBUTIONS[name](model, last, classes()), ATTRIBUTIONS[name](model, x, classes()))

    @pytest.mark.parametrize("name", ATTRIBUTIONS)
    def test_an_int_is_that_class_for_all(self, name):
        model, x = convolutional(), images()
        many = [torch.full((5,), 2, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.uint8)]
        expected = ATTRIBUTIONS[name](model, x, 2)
        assert all(torch.equal(ATTRIBUTIONS[name](model, x, target), expected) for target in many)
        assert not torch.equal(ATTRIBUTIONS[name](model, x, 1), expected)

    @pytest.mark.parametrize("name", [*ATTRIBUTIONS, "fgsm_attack", "pgd_attack"])
    def test_e62_models_that_view(self, name):
        model, x, y = Viewing(), images(), classes()
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            model(x.to(memory_format=torch.channels_last))  # the error, of a model that is fast in that layout
        same = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)).double()
        same[0].load_state_dict(model.conv.state_dict())
        same[3].load_state_dict(model.fc.state_dict())
        calls = ATTRIBUTIONS | {
            "fgsm_attack": lambda m, x, y: fgsm_attack(m, x, y, eps=0.1),
            "pgd_attack": lambda m, x, y: pgd_attack(m, x, y, eps=0.1, steps=3, seed=0),
        }
        assert torch.allclose(calls[name](model, x, y), calls[name](same, x, y))

    @pytest.mark.parametrize("size", [16, 17, 40])
    def test_e62_other_image_sizes(self, trained, size):
        x = images(size=size, dtype=torch.float32)
        assert grad_cam(trained.model, x, "10").shape == (5, size, size)
        assert saliency_map(trained.model, x).shape == (5, size, size)
        assert fgsm_attack(trained.model, x, classes(), eps=0.1).shape == x.shape

    def test_an_error_of_the_model_comes_through(self):
        """A wrong number of channels has nothing to do with memory layouts."""
        for call in ATTRIBUTIONS.values():
            with pytest.raises(RuntimeError, match="expected input.*to have 3 channels"):
                call(convolutional(), images(channels=1))
