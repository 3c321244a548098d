"""The networks whose outputs chapter 1 reads: of a class, of the next character, of every pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.foundation.arguments import check_count
from course_utils.foundation.networks import TwoLayerNetwork


class SimpleNet(TwoLayerNetwork):
    """Two linear layers with a ReLU between them. Returns logits: no softmax at the end.

    Args:
        in_features: D, numbers per sample.
        hidden_features: width of the hidden layer.
        out_features: C classes, or the number of values to predict.

    >>> model = SimpleNet(in_features=4, hidden_features=8, out_features=3)
    >>> model(torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, in_features: int = 10, hidden_features: int = 5, out_features: int = 2) -> None:
        super().__init__(in_features, hidden_features, out_features)


class CharacterModel(nn.Module):
    """A small LSTM that scores the next character at every position of a text. Returns logits.

    Args:
        vocab_size: V, how many characters there are.
        hidden_features: width of the LSTM's state.

    Raises:
        TypeError, ValueError: sizes that are no positive ints.

    >>> model = CharacterModel(vocab_size=92)
    >>> model(torch.zeros(3, 8, dtype=torch.int64)).shape
    torch.Size([3, 8, 92])
    """

    def __init__(self, vocab_size: int, hidden_features: int = 96) -> None:
        super().__init__()
        check_count(vocab_size, "vocab_size")
        check_count(hidden_features, "hidden_features")
        self.embedding = nn.Embedding(vocab_size, 32)
        self.lstm = nn.LSTM(32, hidden_features, batch_first=True)
        self.output = nn.Linear(hidden_features, vocab_size)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Character ids, int64 (N, T) → logits (N, T, V); those at position t are of the character at t + 1."""
        states, _ = self.lstm(self.embedding(token_ids))  # (N, T, hidden_features)
        return self.output(states)


class PixelLabeller(nn.Module):
    """A small convolutional network that classifies every pixel. Returns logits.

    It looks at the image at two scales, at half its size for edges and at a quarter for the form.

    Args:
        num_classes: C, with the background.

    Raises:
        TypeError, ValueError: `num_classes` is no positive int; images whose sides are not divisible by 4.

    >>> model = PixelLabeller(num_classes=4)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 4, 32, 32])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_count(num_classes, "num_classes")
        self.fine = _block(3, 16, stride=2, padding=1)
        self.coarse = nn.Sequential(
            _block(16, 32, stride=2, padding=1), _block(32, 32, padding=2, dilation=2), _block(32, 32, padding=1)
        )
        self.output = nn.Conv2d(48, num_classes * 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), H and W divisible by 4 → logits (N, C, H, W)."""
        if any(side % 4 for side in x.shape[-2:]):
            raise ValueError(f"height and width must be divisible by 4, but are {tuple(x.shape[-2:])}")
        fine = self.fine(x)  # (N, 16, H/2, W/2)
        coarse = F.interpolate(self.coarse(fine), scale_factor=2)  # (N, 32, H/2, W/2)
        scores = self.output(torch.cat([fine, coarse], dim=1))  # (N, 4C, H/2, W/2)
        return F.pixel_shuffle(scores, 2)  # four numbers of each class become 2 × 2 pixels: (N, C, H, W)


def _block(channels_in: int, channels_out: int, **options: int) -> nn.Sequential:
    """A 3 × 3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, **options), nn.BatchNorm2d(channels_out), nn.ReLU())
