"""The steps of many runs at once against torch.optim, run by run."""

import pytest
import torch

from course_utils.homework.engine.optimizers import BatchedOptimizer
from course_utils.homework.engine.reference import make_optimizer
from course_utils.homework.settings import OPTIMIZERS, Setting


@pytest.mark.parametrize("weight_decays", [(0.0, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_number_moves_as_its_run_alone(optimizer, weight_decays):
    lrs, generator = (0.01, 0.3), torch.Generator().manual_seed(0)
    first = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(20, 2, 5, generator=generator, dtype=torch.float64)

    parameters, gradient = first.clone().flatten(), torch.empty(10, dtype=torch.float64)
    lr, decay = (torch.tensor(values, dtype=torch.float64).repeat_interleave(5) for values in (lrs, weight_decays))
    together = BatchedOptimizer(optimizer, parameters, gradient, lr, decay if any(weight_decays) else None)
    for step in gradients:
        gradient.copy_(step.flatten())
        together.step()

    for run in range(2):
        alone = torch.nn.ParameterList([first[run].clone()])
        setting = Setting(optimizer=optimizer, lr=lrs[run], weight_decay=weight_decays[run])
        step_alone = make_optimizer(setting, alone)
        for step in gradients:
            alone[0].grad = step[run].clone()
            step_alone.step()
        assert torch.allclose(parameters.view(2, 5)[run], alone[0], rtol=0, atol=1e-12)
