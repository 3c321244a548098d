"""A stack: R networks of the same shape, computed as one, with gradients in closed form.

Activations are feature-major, (R, H, B): one (batched) matrix product a layer serves the whole stack, forward and
backward, without a transposed copy, and writes into a buffer that is allocated once.

With aₗ = f(zₗ) ⊙ maskₗ and zₗ₊₁ = Wₗ₊₁ aₗ + bₗ₊₁, and δₗ = ∂loss/∂zₗ of the batch's mean loss:
∂loss/∂Wₗ₊₁ = δₗ₊₁ aₗᵀ, ∂loss/∂bₗ₊₁ = δₗ₊₁ summed over the batch, δₗ = (Wₗ₊₁ᵀ δₗ₊₁) ⊙ maskₗ ⊙ f'(zₗ).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from course_utils.homework.networks import Parameters
from course_utils.homework.randomness import (
    draw_words,
    dropout_levels,
    keep_from,
    keep_scale,
    run_generator,
    words_per_epoch,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An activation for the closed form, which writes into tensors that are there.

    Attributes:
        forward: (z, out), out = f(z).
        backward: (gradient, saved), gradient *= f'(z).
        saves_input: is `saved` z? If not it is f(z), which is then written over z.
    """

    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor], object]
    saves_input: bool = False


def _tanh(z: Tensor, out: Tensor) -> None:
    np.tanh(z.numpy(), out=out.numpy())  # the same values, in an eighth of the time that torch.tanh takes


ACTIVATIONS = {
    "relu": Activation(
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda grad, a: aten.threshold_backward.grad_input(grad, a, 0, grad_input=grad),
    ),
    "leaky_relu": Activation(
        lambda z, out: aten.leaky_relu.out(z, 0.01, out=out),
        lambda grad, a: aten.leaky_relu_backward.grad_input(grad, a, 0.01, True, grad_input=grad),
    ),
    "tanh": Activation(_tanh, lambda grad, a: aten.tanh_backward.grad_input(grad, a, grad_input=grad)),
    "sigmoid": Activation(
        lambda z, out: torch.sigmoid(z, out=out),
        lambda grad, a: aten.sigmoid_backward.grad_input(grad, a, grad_input=grad),
    ),
    "gelu": Activation(
        lambda z, out: aten.gelu.out(z, out=out),
        lambda grad, z: aten.gelu_backward.grad_input(grad, z, grad_input=grad),
        saves_input=True,
    ),
    "silu": Activation(
        lambda z, out: aten.silu.out(z, out=out),
        lambda grad, z: aten.silu_backward.grad_input(grad, z, grad_input=grad),
        saves_input=True,
    ),
}


def count_parameters(sizes: tuple[int, ...]) -> int:
    """The numbers in a network with the layer sizes (D, H₁, …, C).

    >>> count_parameters((4, 10, 3))
    83
    """
    return sum(fan_out * (fan_in + 1) for fan_in, fan_out in pairwise(sizes))


def layer_views(flat: Tensor, num_runs: int, sizes: tuple[int, ...]) -> list[Tensor]:
    """Cut a stack's flat buffer, R · count_parameters(sizes) long, into its layers, with the run as first axis.

    Returns:
        The first layer (R, D + 1, H₁), its last row the bias: a view of (D + 1, R·H₁), the one wide matrix that serves
        all runs; then the weight (R, out, in) and the bias (R, out, 1) of each later layer.
    """
    rest = [shape for i, o in pairwise(sizes[1:]) for shape in ((num_runs, o, i), (num_runs, o, 1))]
    shapes = [(sizes[0] + 1, num_runs, sizes[1]), *rest]
    first, *later = (
        part.view(shape) for part, shape in zip(flat.split([math.prod(s) for s in shapes]), shapes, strict=True)
    )
    return [first.transpose(0, 1), *later]


def wide(first: Tensor) -> Tensor:
    """The first layer's view (R, D + 1, H) as the matrix (D + 1, R·H) that it is in memory."""
    return first.transpose(0, 1).flatten(1)


class Stack:
    """R networks of one shape and activation.

    Args:
        num_runs: R.
        sizes: (D, H₁, …, C).
        activation: a name in ACTIVATIONS.
        parameters, gradients: flat buffers of all runs, R · count_parameters(sizes) long; the stack keeps views.
        dropout: of the R runs, or None.
    """

    def __init__(
        self,
        num_runs: int,
        sizes: tuple[int, ...],
        activation: str,
        parameters: Tensor,
        gradients: Tensor,
        dropout: Dropout | None = None,
    ) -> None:
        self.num_runs, self.widths = num_runs, sizes[1:-1]
        self.activation, self.dropout = ACTIVATIONS[activation], dropout
        self.first, *later = layer_views(parameters, num_runs, sizes)
        self.first_grad, *later_grads = layer_views(gradients, num_runs, sizes)
        self.weights, self.biases = later[0::2], later[1::2]
        self.weight_grads, self.bias_grads = later_grads[0::2], later_grads[1::2]
        # Views that every step needs. Making them anew each time would cost a tenth of small grids.
        self.first_wide_transposed, self.first_wide_grad = wide(self.first).T, wide(self.first_grad)
        self.weights_transposed = [weight.transpose(1, 2) for weight in self.weights]
        self._buffers: dict[int, list[HiddenBuffers]] = {}  # by batch length: an epoch's last batch may be shorter

    def load(self, run: int, parameters: Parameters) -> None:
        """Give one of the networks its weights."""
        (first_weight, first_bias), *later = parameters
        self.first[run] = torch.cat([first_weight.T, first_bias[None]])
        for index, (weight, bias) in enumerate(later):
            self.weights[index][run], self.biases[index][run, :, 0] = weight, bias

    def parameters_of(self, run: int) -> Parameters:
        """A copy of the weights of one of the networks."""
        first = self.first[run]
        layers = [(first[:-1].T, first[-1])]
        layers += [(weight[run], bias[run, :, 0]) for weight, bias in zip(self.weights, self.biases, strict=True)]
        return [tuple(t.clone(memory_format=torch.contiguous_format) for t in layer) for layer in layers]

    def forward(self, x: Tensor, logits: Tensor, positions: slice) -> None:
        """Write the logits (R, C, B).

        Args:
            x: (B, D + 1) for all runs, or (R, B, D + 1); the last feature is 1.
            logits: written to.
            positions: of the batch in the epoch, to which the dropout masks belong.
        """
        buffers = self._buffers_for(x)
        self._first_layer(x, buffers[0].z)
        for index, hidden in enumerate(buffers):
            self.activation.forward(hidden.z, hidden.activated)
            if self.dropout is not None:
                self.dropout.write_mask(index, positions, hidden.mask)
                torch.mul(hidden.activated, hidden.mask, out=hidden.output)
            z = buffers[index + 1].z if index + 1 < len(buffers) else logits
            torch.bmm(self.weights[index], hidden.output, out=z).add_(self.biases[index])

    def backward(self, x: Tensor, grad: Tensor) -> None:
        """Write the gradients of all parameters, from the x of `forward` and grad = ∂loss/∂logits (R, C, B)."""
        buffers = self._buffers_for(x)
        for index, hidden in reversed(list(enumerate(buffers))):
            torch.bmm(grad, hidden.output_transposed, out=self.weight_grads[index])
            torch.sum(grad, 2, keepdim=True, out=self.bias_grads[index])
            torch.bmm(self.weights_transposed[index], grad, out=hidden.grad)
            grad = hidden.grad
            if self.dropout is not None:
                grad.mul_(hidden.mask)
            self.activation.backward(grad, hidden.z)
        self._first_layer_grad(x, grad)

    def _first_layer(self, x: Tensor, z: Tensor) -> None:
        if x.ndim == 2:  # all runs see the same data: one wide product (R·H, D + 1) @ (D + 1, B)
            torch.mm(self.first_wide_transposed, x.T, out=z.flatten(0, 1))
        else:
            torch.bmm(self.first.transpose(1, 2), x.transpose(1, 2), out=z)

    def _first_layer_grad(self, x: Tensor, grad: Tensor) -> None:
        # In this order the product is 3 to 6 times faster than grad @ x, whose result is too narrow for the BLAS.
        if x.ndim == 2:
            torch.mm(x.T, grad.flatten(0, 1).T, out=self.first_wide_grad)
        else:
            self.first_grad.copy_(torch.bmm(x.transpose(1, 2), grad.transpose(1, 2)))

    def _buffers_for(self, x: Tensor) -> list[HiddenBuffers]:
        length = x.shape[-2]
        if length not in self._buffers:
            saves_input, drops = self.activation.saves_input, self.dropout is not None
            self._buffers[length] = [
                HiddenBuffers.allocate((self.num_runs, width, length), x.dtype, saves_input, drops)
                for width in self.widths
            ]
        return self._buffers[length]


class Dropout:
    """The dropout masks of a stack, each run's from its own generator.

    An epoch's random bits are drawn at once, (R, (H₁ + H₂ + …)·N) words of 16 bits, and become masks batch by batch.
    """

    def __init__(
        self, rates: list[float], seeds: list[int], widths: tuple[int, ...], num_samples: int, dtype: torch.dtype
    ) -> None:
        levels = [dropout_levels(rate) for rate in rates]
        self.keep_from = torch.tensor([keep_from(n) for n in levels], dtype=torch.int16)[:, None, None]
        self.scale = torch.tensor([keep_scale(n) for n in levels], dtype=dtype)[:, None, None]
        self.generators = [run_generator(seed, "dropout") for seed in seeds]
        count = words_per_epoch(sum(widths), num_samples)
        self.words = torch.empty(len(rates), count, dtype=torch.int16)
        units = self.words[:, : sum(widths) * num_samples].view(len(rates), sum(widths), num_samples)
        self.by_layer = units.split(widths, dim=1)  # (R, H, N) each

    def draw_epoch(self) -> None:
        for words, generator in zip(self.words, self.generators, strict=True):
            draw_words(words, generator)

    def write_mask(self, layer: int, positions: slice, out: Tensor) -> None:
        """The mask (R, H, B) of one batch: 0 for what is off, 1 / P(kept) for what is on."""
        torch.ge(self.by_layer[layer][:, :, positions], self.keep_from, out=out)
        out.mul_(self.scale)


@dataclass(frozen=True)
class HiddenBuffers:
    """What one hidden layer of a stack writes to, each (R, H, B).

    Attributes:
        z: before the activation; written over by its result unless the activation saves its input.
        activated: after the activation; z itself unless the activation saves its input.
        mask: of the dropout; None without.
        output: after dropout; without dropout the same as activated.
        output_transposed: a view (R, B, H).
        grad: ∂loss/∂z.
    """

    z: Tensor
    activated: Tensor
    mask: Tensor | None
    output: Tensor
    output_transposed: Tensor
    grad: Tensor

    @classmethod
    def allocate(cls, shape: tuple[int, ...], dtype: torch.dtype, saves_input: bool, drops: bool) -> HiddenBuffers:
        z, grad = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
        activated = torch.empty_like(z) if saves_input else z
        mask, output = (torch.empty_like(z), torch.empty_like(z)) if drops else (None, activated)
        return cls(z, activated, mask, output, output.transpose(1, 2), grad)
