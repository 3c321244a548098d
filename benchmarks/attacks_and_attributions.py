"""Speed of chapter 5 against the plain loop and against captum, pytorch-grad-cam and torchattacks.

    uv run --all-groups benchmarks/attacks_and_attributions.py

One process, one thread, medians; both sides of a ratio run in turns in the same process, on the same data. The network
is a small one with three convolutions on images of 32×32; what is measured is the work around it.
"""

import warnings
from functools import partial

import captum.attr
import torch
import torchattacks
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timing import Report, seconds
from torch import Tensor, nn

from course_utils.advanced import fgsm_attack, grad_cam, integrated_gradients, pgd_attack, saliency_map
from course_utils.data import generate_images

EPS, STEPS, POINTS = 8 / 255, 10, 50


def small_network(num_classes: int) -> nn.Module:
    """Trained for a few steps, so that its gradients are those of a network and not of noise."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)),
    )
    generated = generate_images(1000, seed=1)
    x, y = generated.images.float() / 255, generated.target
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


def attacks(report: Report, network: nn.Module, x: Tensor, y: Tensor) -> None:
    report.compare(
        "FGSM, 256 images",
        {
            "ours": lambda: fgsm_attack(network, x, y, eps=EPS),
            "torchattacks": lambda: torchattacks.FGSM(network, eps=EPS)(x, y),
        },
        at_most={"torchattacks": 0.8},
        rounds=7,
    )
    for early_stop in (False, True):
        report.compare(
            f"PGD-10, 256 images{', early stop' * early_stop}",
            {
                "ours": partial(pgd_attack, network, x, y, eps=EPS, steps=STEPS, seed=0, early_stop=early_stop),
                "torchattacks": lambda: torchattacks.PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS)(x, y),
            },
            at_most={"torchattacks": 0.8},
            rounds=3,
        )


def attributions(report: Report, network: nn.Module, x: Tensor, y: Tensor) -> None:
    report.compare(
        "saliency, 256 images",
        {
            "ours": lambda: saliency_map(network, x, y),
            "captum": lambda: captum.attr.Saliency(network).attribute(x, target=y),
        },
        at_most={"captum": 1.0},
        rounds=7,
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
    report.compare("Grad-CAM, 64 images", sides, at_most={"captum": 1.05, "grad-cam": None}, rounds=7)

    one, sixteen = (x[:1], y[:1]), (x[:16], y[:16])
    theirs = captum.attr.IntegratedGradients(network)
    options = {"n_steps": POINTS, "method": "gausslegendre"}
    report.compare(
        "integrated gradients, 1 image",
        {
            "ours": lambda: integrated_gradients(network, *one, **options),
            "loop": lambda: plain_integrated_gradients(network, *one, POINTS),
            "captum": lambda: theirs.attribute(one[0], target=one[1], **options),
        },
        at_most={"loop": 0.36, "captum": 1.0},
        rounds=7,
    )
    chunks = (16, 32, 64, 128)
    best = min(
        chunks,
        key=lambda c: min(
            seconds(lambda: theirs.attribute(sixteen[0], target=sixteen[1], internal_batch_size=c, **options))
            for _ in range(3)
        ),
    )
    report.compare(
        f"integrated gradients, 16 (captum: {best})",
        {
            "ours": lambda: integrated_gradients(network, *sixteen, **options),
            "captum": lambda: theirs.attribute(sixteen[0], target=sixteen[1], internal_batch_size=best, **options),
        },
        at_most={"captum": 0.9},
        rounds=5,
    )


def completeness(report: Report, network: nn.Module, x: Tensor, y: Tensor) -> None:
    """The fewest points for a completeness error of 1 %, by rule."""
    with torch.no_grad():
        rise = (network(x) - network(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    for method in ("riemann_right", "riemann_trapezoid", "riemann_middle", "gausslegendre"):
        for n in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
            delta = integrated_gradients(network, x, y, n_steps=n, method=method, return_convergence_delta=True)[1]
            if delta.abs().sum() < 0.01 * rise.abs().sum():
                report.row(f"completeness error of 1 % by {method}", [n], "points")
                break
        else:
            print(f"completeness error of 1 % by {method}: more than {n} points")


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network = small_network(10)
    generated = generate_images(256, seed=2)
    x, y = generated.images.float() / 255, generated.target
    report = Report("attacks_and_attributions")
    attacks(report, network, x, y)
    attributions(report, network, x, y)
    completeness(report, network, x[:64], y[:64])
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules())
    report.row("hooks left behind", [hooks], "hooks", at_most=0)
    report.save()


if __name__ == "__main__":
    main()
