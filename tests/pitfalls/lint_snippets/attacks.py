"""Gradients of inputs, attacks."""

SNIPPETS = {
    "input-gradients-add-up": (
        [
            """
def attack(model, images, y, eps):
    x = images.clone().requires_grad_()
    for _ in range(10):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        x.data = x.data + eps * x.grad.sign()  # <<
    return x.detach()
""",
            """
x = torch.zeros(3, requires_grad=True)
for target in targets:
    F.mse_loss(model(x), target).backward()
    maps.append(x.grad.clone())  # <<
""",
        ],
        [
            """
def attack(model, images, y, eps):
    x = images.clone().requires_grad_()
    for _ in range(10):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        x.data = x.data + eps * x.grad.sign()
        x.grad.zero_()
    return x.detach()
""",
            """
x = torch.zeros(3, requires_grad=True)
for target in targets:
    (gradient,) = torch.autograd.grad(F.mse_loss(model(x), target), x)
    maps.append(gradient)
""",
            """
def attack(model, x, y, eps):
    for _ in range(10):
        x = x.detach().requires_grad_()
        F.cross_entropy(model(x), y).backward()
        x = x + eps * x.grad.sign()
    return x.detach()
""",
        ],
    ),
    "callers-tensor-changed": (
        [
            """
def saliency(model, image):
    image.requires_grad_()  # <<
    model(image).max().backward()
    return image.grad.abs()
""",
            """
def fgsm(model, data, target, eps):
    data.requires_grad = True  # <<
    F.nll_loss(model(data), target).backward()
    return data + eps * data.grad.data.sign()
""",
        ],
        [
            """
def saliency(model, image):
    image = image.detach().clone().requires_grad_()
    model(image).max().backward()
    return image.grad.abs()
""",
            """
def freeze(parameter):
    parameter.requires_grad = False
""",
        ],
    ),
    "normalised-pictures-clamped": (
        [
            """
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
data = datasets.MNIST("data", transform=transform)

def fgsm_attack(image, eps, data_grad):
    moved = image + eps * data_grad.sign()
    return torch.clamp(moved, 0, 1)  # <<
""",
            """
import torchvision.transforms as T

pipeline = T.Compose([T.ToTensor(), T.Normalize(mean=MEAN, std=STD)])

def attack(model, x, y, eps):
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(min=0, max=1).detach()  # <<
""",
        ],
        [
            """
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.ToTensor()])
data = datasets.MNIST("data", transform=transform)

def fgsm_attack(image, eps, data_grad):
    moved = image + eps * data_grad.sign()
    return torch.clamp(moved, 0, 1)
""",
            """
from torchvision import transforms

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

def denormalize(x):
    return x * 0.3081 + 0.1307

def fgsm_attack(image, eps, data_grad):
    return torch.clamp(image + eps * data_grad.sign(), 0, 1)

moved = transforms.Normalize((0.1307,), (0.3081,))(fgsm_attack(denormalize(x), 0.1, gradient))
""",
        ],
    ),
    "pgd-without-random-start": (
        [
            """
def pgd(model, images, y, eps, alpha, steps):  # <<
    x = images.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        x = x + alpha * gradient.sign()
        x = (images + (x - images).clamp(-eps, eps)).clamp(0, 1)
    return x.detach()
""",
            """
class Attacks:
    def pgd_attack(self, x, y):  # <<
        moved = x
        for _ in range(self.steps):
            moved = self.project(moved + self.alpha * self.gradient(moved, y).sign())
        return moved
""",
        ],
        [
            """
def pgd(model, images, y, eps, alpha, steps):
    x = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        x = x + alpha * gradient.sign()
        x = (images + (x - images).clamp(-eps, eps)).clamp(0, 1)
    return x.detach()
""",
            """
def bim(model, images, y, eps, alpha, steps):
    x = images.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        x = (images + (x + alpha * gradient.sign() - images).clamp(-eps, eps)).clamp(0, 1)
    return x.detach()
""",
        ],
    ),
}
