"""What several tests of this chapter import or train once."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from course_utils.data import generate_images
from tests.support.images import share_right, small_classifier


@pytest.fixture(scope="session")
def torchattacks():
    """The library that attacks are compared with: it takes a second to import, so only when a test asks for it."""
    import torchattacks

    return torchattacks


@pytest.fixture(scope="session")
def trained():
    """A classifier of generated images, in evaluation mode, and 96 images that it has not seen."""
    torch.manual_seed(0)
    names = ("ring", "cross", "bar")
    train, test = (generate_images(n, classes=names, size=16, seed=n) for n in (1000, 96))
    model, images, epochs = small_classifier().to(memory_format=torch.channels_last), train.images / 255, 12
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * 16)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), train.target[batch]).backward()
            optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    model.eval()
    x = test.images / 255
    accuracy = share_right(model, x, test.target)
    assert accuracy > 0.85  # or the tests below say nothing
    return SimpleNamespace(model=model, x=x, y=test.target, masks=test.masks, accuracy=accuracy)
