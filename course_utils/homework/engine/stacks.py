"""A stack: R networks of the same shape, computed as one, with gradients in closed form.

With aₗ = f(zₗ) ⊙ maskₗ and zₗ₊₁ = Wₗ₊₁ aₗ + bₗ₊₁, and δₗ = ∂loss/∂zₗ of the batch's mean loss:

    ∂loss/∂Wₗ₊₁ = δₗ₊₁ aₗᵀ      ∂loss/∂bₗ₊₁ = δₗ₊₁ summed over the batch      δₗ = (Wₗ₊₁ᵀ δₗ₊₁) ⊙ maskₗ ⊙ f'(zₗ)

and at the output, for the cross-entropy, δ = (softmax(z) − one-hot) / B.

Why not autograd: it allocates every intermediate result anew, which on networks of ten units costs as much as the
arithmetic; on the two grids of benchmarks/homework.py it took 1.6 and 1.1 times as long, in the same layout. The closed
form writes into buffers that are allocated once. Activations are feature-major, (R, H, B), so
that one batched matrix product a layer serves the whole stack, forward and backward, without a transposed copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from course_utils.homework.engine.base import Dropout, Parameters, Run, initial_parameters

LOG2_E = 1.4426950408889634
aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An activation f for the closed form. Both functions write into tensors that are there.

    Attributes:
        forward: (z, out=…) writes f(z).
        backward: (grad, saved, *options, grad_input=…) writes grad · f'(z).
        options: of `backward`.
        saves_input: whether `saved` is z. If not it is f(z), which then replaces z in memory.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    options: tuple = ()
    saves_input: bool = False


BATCHED_ACTIVATIONS = {
    # clamp_min takes a third of the time of relu.out.
    "relu": Activation(partial(torch.clamp_min, min=0), aten.threshold_backward.grad_input, (0,)),
    "leaky_relu": Activation(aten.leaky_relu.out, aten.leaky_relu_backward.grad_input, (0.01, True)),
    "tanh": Activation(aten.tanh.out, aten.tanh_backward.grad_input),
    "sigmoid": Activation(aten.sigmoid.out, aten.sigmoid_backward.grad_input),
    "softplus": Activation(aten.softplus.out, aten.softplus_backward.grad_input, (1, 20), saves_input=True),
    "gelu": Activation(aten.gelu.out, aten.gelu_backward.grad_input, saves_input=True),
    "silu": Activation(aten.silu.out, aten.silu_backward.grad_input, saves_input=True),
}


def layer_views(flat: Tensor, num_runs: int, sizes: tuple[int, ...]) -> list[Tensor]:
    """Cut a stack's flat buffer, R · count_parameters(sizes) long, into its layers, with the run as first axis.

    Returns:
        The first layer (R, D + 1, H₁), its last row the bias: a view of (D + 1, R·H₁), the one wide matrix that serves
        all runs; then the weight (R, out, in) and the bias (R, out, 1) of each later layer.
    """
    later = [shape for i, o in pairwise(sizes[1:]) for shape in ((num_runs, o, i), (num_runs, o, 1))]
    shapes = [(sizes[0] + 1, num_runs, sizes[1]), *later]
    parts = flat.split([math.prod(shape) for shape in shapes])
    first, *rest = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    return [first.transpose(0, 1), *rest]


def wide(first: Tensor) -> Tensor:
    """The first layer's view (R, D + 1, H) as the matrix (D + 1, R·H) that it is in memory."""
    return first.transpose(0, 1).flatten(1)


class Stack:
    """R networks of one shape and activation, each with the first weights of its run.

    Args:
        runs: R pairs of a setting and a seed.
        sizes: (D, H₁, …, C).
        num_samples: N of an epoch, for the dropout masks.
        parameters, gradients: flat buffers of all runs, R · count_parameters(sizes) long; the stack keeps views.
    """

    def __init__(
        self, runs: Sequence[Run], sizes: tuple[int, ...], num_samples: int, parameters: Tensor, gradients: Tensor
    ) -> None:
        setting = runs[0][0]
        self.num_runs, self.sizes = len(runs), sizes
        self.activation = BATCHED_ACTIVATIONS[setting.activation]
        self.dropout = Dropout(runs, num_samples, parameters.dtype) if setting.dropout > 0 else None
        self.first, *later = layer_views(parameters, self.num_runs, sizes)
        self.first_grad, *later_grads = layer_views(gradients, self.num_runs, sizes)
        self.weights, self.biases = later[0::2], later[1::2]
        self.weight_grads, self.bias_grads = later_grads[0::2], later_grads[1::2]
        # Views that every step needs. Making them anew each time would cost a tenth of small grids.
        self.first_wide_transposed, self.first_wide_grad = wide(self.first).T, wide(self.first_grad)
        self.weights_transposed = [weight.transpose(1, 2) for weight in self.weights]
        self._buffers: dict[int, list[HiddenBuffers]] = {}  # by batch length: an epoch's last batch may be shorter
        for i, (setting, seed) in enumerate(runs):
            self._load(i, initial_parameters(setting, seed, sizes[0], sizes[-1], parameters.dtype))

    def _load(self, run: int, parameters: Parameters) -> None:
        (first_weight, first_bias), *later = parameters
        self.first[run] = torch.cat([first_weight.T, first_bias[None]])
        for index, (weight, bias) in enumerate(later):
            self.weights[index][run], self.biases[index][run, :, 0] = weight, bias

    def parameters_of(self, run: int) -> Parameters:
        """A copy of one network's weights, in memory of its own: a pickled view would be the whole stack."""
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
        if x.ndim == 2:  # all runs see the same data: one wide product (R·H, D + 1) @ (D + 1, B)
            torch.mm(self.first_wide_transposed, x.T, out=buffers[0].z.flatten(0, 1))
        else:
            torch.bmm(self.first.transpose(1, 2), x.transpose(1, 2), out=buffers[0].z)
        for index, hidden in enumerate(buffers):
            self.activation.forward(hidden.z, out=hidden.activated)
            if self.dropout is not None:
                self.dropout.write_mask(index, positions, hidden.mask)
                torch.mul(hidden.activated, hidden.mask, out=hidden.output)
            z = buffers[index + 1].z if index + 1 < len(buffers) else logits
            torch.bmm(self.weights[index], hidden.output, out=z).add_(self.biases[index])

    def backward(self, x: Tensor, grad: Tensor) -> None:
        """Write the gradients of all parameters, from the x of `forward` and grad = ∂loss/∂logits (R, C, B)."""
        for index, hidden in reversed(list(enumerate(self._buffers_for(x)))):
            torch.bmm(grad, hidden.output_transposed, out=self.weight_grads[index])
            torch.sum(grad, 2, keepdim=True, out=self.bias_grads[index])
            grad = torch.bmm(self.weights_transposed[index], grad, out=hidden.grad)
            if self.dropout is not None:
                grad.mul_(hidden.mask)
            self.activation.backward(grad, hidden.z, *self.activation.options, grad_input=grad)
        # In this order the product is 3 to 6 times faster than grad @ x, whose result is too narrow for the BLAS.
        if x.ndim == 2:
            torch.mm(x.T, grad.flatten(0, 1).T, out=self.first_wide_grad)
        else:
            self.first_grad.copy_(torch.bmm(x.transpose(1, 2), grad.transpose(1, 2)))

    def _buffers_for(self, x: Tensor) -> list[HiddenBuffers]:
        length = x.shape[-2]
        if length not in self._buffers:
            shapes = [(self.num_runs, width, length) for width in self.sizes[1:-1]]
            saves_input, drops = self.activation.saves_input, self.dropout is not None
            self._buffers[length] = [HiddenBuffers(shape, x.dtype, saves_input, drops) for shape in shapes]
        return self._buffers[length]


class HiddenBuffers:
    """What one hidden layer of a stack writes to, each (R, H, B).

    Attributes:
        z: before the activation; replaced by its result unless the activation saves its input.
        activated: after the activation; z itself unless the activation saves its input.
        mask: of the dropout; None without.
        output: after dropout; without dropout the same as activated.
        output_transposed: a view (R, B, H).
        grad: ∂loss/∂z.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, saves_input: bool, drops: bool) -> None:
        self.z, self.grad = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
        self.activated = torch.empty_like(self.z) if saves_input else self.z
        self.mask = torch.empty_like(self.z) if drops else None
        self.output = torch.empty_like(self.z) if drops else self.activated
        self.output_transposed = self.output.transpose(1, 2)


class CrossEntropy:
    """The mean cross-entropy of R networks on a batch each of B samples, and its gradient.

    Attributes:
        logits: (R, C, B), to be written by the caller.
        grad: (R, C, B), ∂(mean loss)/∂logits = (softmax − one-hot) / B.
        logits_by_stack, grad_by_stack: views, one for each stack.
    """

    def __init__(self, stack_lengths: list[int], num_classes: int, length: int, dtype: torch.dtype) -> None:
        self.logits = torch.empty(sum(stack_lengths), num_classes, length, dtype=dtype)
        self.grad, self.log_p, self.minus_target = (torch.empty_like(self.logits) for _ in range(3))
        self.logits_by_stack, self.grad_by_stack = self.logits.split(stack_lengths), self.grad.split(stack_lengths)
        self.length = length
        self.classes = torch.arange(num_classes)[:, None]
        self.lowest = torch.finfo(dtype).min

    def set_labels(self, labels: Tensor) -> None:
        """(R, B) class indices."""
        torch.eq(labels[:, None], self.classes, out=self.minus_target).div_(-self.length)

    def losses_and_gradient(self) -> Tensor:
        """Write `grad`, return the loss (R,) summed over the batch."""
        torch.log_softmax(self.logits, 1, out=self.log_p)
        # exp(t) as 2^(t·log₂e): for float32 on a CPU half as expensive.
        torch.mul(self.log_p, LOG2_E, out=self.grad).exp2_()
        torch.add(self.minus_target, self.grad, alpha=1 / self.length, out=self.grad)
        # The product with the one-hot target picks the label's log-probability quicker than indexing does. Without the
        # clamp −∞ at another class would be 0 · −∞ = NaN; at the label itself the loss becomes infinite again.
        self.log_p.clamp_min_(self.lowest).mul_(self.minus_target)
        losses = self.log_p.sum((1, 2)) * self.length
        return losses.masked_fill_(losses > -0.99 * self.lowest, torch.inf)
