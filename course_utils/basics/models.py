"""The smallest network that has an output worth reading."""

from course_utils.foundation.networks import TwoLayerNetwork


class SimpleNet(TwoLayerNetwork):
    """Two linear layers with a ReLU between them. Returns logits: no softmax at the end.

    Args:
        in_features: D, numbers per sample.
        hidden_features: width of the hidden layer.
        out_features: C classes, or the number of values to predict.

    >>> import torch
    >>> model = SimpleNet(in_features=4, hidden_features=8, out_features=3)
    >>> model(torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, in_features: int = 10, hidden_features: int = 5, out_features: int = 2) -> None:
        super().__init__(in_features, hidden_features, out_features)
