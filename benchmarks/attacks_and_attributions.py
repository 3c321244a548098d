"""Speed of chapters 4 and 5 against the plain loop and against captum, pytorch-grad-cam and torchattacks.

    uv run --all-groups benchmarks/attacks_and_attributions.py

One process, one thread, medians; both sides of a ratio run in turns in the same process, on the same data. The network
is a small one with three convolutions on pictures of 32×32; what is measured is the work around it.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import captum.attr
import torch
import torchattacks
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from course_utils.advanced import fgsm_attack, grad_cam, integrated_gradients, pgd_attack, saliency_map
from course_utils.data import generate_pictures
from course_utils.pitfalls import detect_nan_inf

EPS, STEPS, POINTS = 8 / 255, 10, 50


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, sides: dict[str, Callable], wanted: str, rounds: int = 7) -> None:
    """Print the median of each side in ms, and the ratio of ours (the first) to each of the others."""
    for function in sides.values():
        function()  # warm up
    times = {side: [] for side in sides}
    for _ in range(rounds):
        for side, function in sides.items():
            times[side].append(seconds(function))
    median = {side: statistics.median(values) * 1e3 for side, values in times.items()}
    ours = next(iter(median.values()))
    ratios = ", ".join(f"{side} {value:.1f} ms ({ours / value:.2f}x)" for side, value in list(median.items())[1:])
    print(f"{name:38s} {ours:8.1f} ms   against {ratios}   wanted: {wanted}", flush=True)


def small_network(num_classes: int) -> nn.Module:
    """Trained for a few steps, so that its gradients are those of a network and not of noise."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)),
    )
    pictures = generate_pictures(1000, seed=1)
    x, y = pictures.images.float() / 255, pictures.target
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for rows in torch.randint(1000, (60, 64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    return network.eval()


def plain_integrated_gradients(network: nn.Module, x: Tensor, target: Tensor, steps: int) -> Tensor:
    """The obvious loop: one forward and one backward pass for each point of the path."""
    total = torch.zeros_like(x)
    for k in range(steps):
        point = (x * ((k + 0.5) / steps)).detach().requires_grad_()
        network.zero_grad()
        network(point).gather(1, target[:, None]).sum().backward()
        total += point.grad
    return x * total / steps


def attacks(network: nn.Module, x: Tensor, y: Tensor) -> None:
    compare(
        "FGSM, 256 pictures",
        {
            "ours": lambda: fgsm_attack(network, x, y, eps=EPS),
            "torchattacks": lambda: torchattacks.FGSM(network, eps=EPS)(x, y),
        },
        "<= 0.8x",
    )
    for early_stop in (False, True):
        compare(
            f"PGD-10, 256 pictures{', early stop' * early_stop}",
            {
                "ours": partial(pgd_attack, network, x, y, eps=EPS, steps=STEPS, seed=0, early_stop=early_stop),
                "torchattacks": lambda: torchattacks.PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS)(x, y),
            },
            "<= 0.8x",
            rounds=3,
        )


def attributions(network: nn.Module, x: Tensor, y: Tensor) -> None:
    compare(
        "saliency, 256 pictures",
        {
            "ours": lambda: saliency_map(network, x, y),
            "captum": lambda: captum.attr.Saliency(network).attribute(x, target=y),
        },
        "<= 1.0x",
    )
    layer = network[6]
    targets = [ClassifierOutputTarget(int(label)) for label in y[:64]]

    def by_captum():
        maps = captum.attr.LayerGradCam(network, layer).attribute(x[:64], target=y[:64], relu_attributions=True)
        return captum.attr.LayerAttribution.interpolate(maps, (32, 32), "bilinear")

    def by_grad_cam():
        with GradCAM(model=network, target_layers=[layer]) as cam:
            return cam(input_tensor=x[:64], targets=targets)

    sides = {"ours": lambda: grad_cam(network, x[:64], layer, y[:64]), "captum": by_captum, "grad-cam": by_grad_cam}
    compare("Grad-CAM, 64 pictures", sides, "<= 1.05x captum")

    one, sixteen = (x[:1], y[:1]), (x[:16], y[:16])
    theirs = captum.attr.IntegratedGradients(network)
    options = {"n_steps": POINTS, "method": "gausslegendre"}
    compare(
        "integrated gradients, 1 picture",
        {
            "ours": lambda: integrated_gradients(network, *one, **options),
            "loop": lambda: plain_integrated_gradients(network, *one, POINTS),
            "captum": lambda: theirs.attribute(one[0], target=one[1], **options),
        },
        "<= 0.36x the loop, <= 1.0x captum",
    )
    chunks = (16, 32, 64, 128)
    best = min(
        chunks,
        key=lambda c: min(
            seconds(lambda: theirs.attribute(sixteen[0], target=sixteen[1], internal_batch_size=c, **options))
            for _ in range(3)
        ),
    )
    compare(
        f"integrated gradients, 16 (captum: {best})",
        {
            "ours": lambda: integrated_gradients(network, *sixteen, **options),
            "captum": lambda: theirs.attribute(sixteen[0], target=sixteen[1], internal_batch_size=best, **options),
        },
        "<= 0.9x captum's best chunk",
        rounds=5,
    )


def completeness(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """The fewest points for a completeness error of 1 %, by rule."""
    with torch.no_grad():
        rise = (network(x) - network(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    for method in ("riemann_right", "riemann_trapezoid", "riemann_middle", "gausslegendre"):
        found = "more than 128"
        for n in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
            delta = integrated_gradients(network, x, y, n_steps=n, method=method, return_convergence_delta=True)[1]
            if delta.abs().sum() < 0.01 * rise.abs().sum():
                found = str(n)
                break
        print(f"points for a completeness error of 1 %: {method:18s} {found}")


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network = small_network(10)
    pictures = generate_pictures(256, seed=2)
    x, y = pictures.images.float() / 255, pictures.target
    values = torch.randn(10_000_000)
    compare(
        "NaN check of 10,000,000 values",
        {"ours": lambda: detect_nan_inf(values), "isnan | isinf": lambda: values.isnan().any() or values.isinf().any()},
        "<= 0.125x",
    )
    attacks(network, x, y)
    attributions(network, x, y)
    completeness(network, x[:64], y[:64])
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules())
    print(f"hooks left behind: {hooks}")


if __name__ == "__main__":
    main()
