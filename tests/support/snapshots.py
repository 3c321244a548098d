"""What a caller may rely on, as comparable values, before and after a call."""

import random

import numpy as np
import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def snapshot(model: nn.Module, *tensors: torch.Tensor) -> dict:
    """Global settings, everything about a model, and everything about its caller's tensors."""
    import matplotlib
    import matplotlib.pyplot as plt

    state = model.state_dict(keep_vars=True)
    frozen = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.training]
    return {
        "random states": (
            torch.get_rng_state().tolist(),
            random.getstate(),
            repr(np.random.get_state()),  # noqa: NPY002
        ),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": torch.get_num_threads(),
        "figures": (dict(matplotlib.rcParams), plt.get_fignums()),
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "hooks": [len(getattr(module, name)) for module in model.modules() for name in HOOKS],
        "objects": [(name, id(value), value.data_ptr()) for name, value in state.items()],
        "state": [(name, value.tolist(), value._version) for name, value in state.items()],
        # What was put into evaluation mode on purpose does not move, even where training is the purpose.
        "frozen statistics": [m.running_mean.tolist() for m in frozen if m.running_mean is not None],
        "gradients": [(name, p.requires_grad, gradient(p)) for name, p in model.named_parameters()],
        "tensors": [(t.tolist(), version(t), t.requires_grad, t.is_leaf, gradient(t)) for t in tensors],
    }


def gradient(tensor: torch.Tensor) -> list | None:
    return tensor.grad.tolist() if tensor.is_leaf and tensor.grad is not None else None


def version(tensor: torch.Tensor) -> int | None:
    """How often the tensor was written to; tensors that were made in inference mode do not count."""
    return None if tensor.is_inference() else tensor._version


def what_changed(before: dict, after: dict) -> set[str]:
    return {part for part in before if before[part] != after[part]}
