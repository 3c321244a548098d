"""What a caller may rely on, as comparable values."""

import torch
from torch import nn


def snapshot(model: nn.Module, *tensors: torch.Tensor) -> list:
    """Everything a check-up could disturb, as comparable values."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        [(name, value.tolist(), value._version) for name, value in model.state_dict(keep_vars=True).items()],
        [(name, id(value)) for name, value in [*model.named_parameters(), *model.named_buffers()]],
        [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        [module.training for module in model.modules()],
        [len(getattr(module, name)) for module in model.modules() for name in hooks],
        [(t.tolist(), t._version, t.requires_grad, None if t.grad is None else t.grad.tolist()) for t in tensors],
    ]
