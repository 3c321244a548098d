"""The data of chapter 7 and the network that learns it."""

from course_utils.data import Split, load_split
from course_utils.foundation.arguments import check_count
from course_utils.foundation.networks import TwoLayerNetwork


def load_iris_split(*, test_size: float = 0.2, seed: int = 42) -> Split:
    """Fisher's iris data: 150 flowers, 4 measurements in cm, 3 species; stratified and scaled to [0, 1].

    The minimum and maximum of the scaling are those of the training part, so test values may lie a little outside.

    Args:
        test_size: the share of the test part, strictly between 0 and 1.
        seed: the same seed gives the same split.

    >>> split = load_iris_split()
    >>> split.x_train.shape, float(split.x_train.min()), float(split.x_train.max())
    (torch.Size([120, 4]), 0.0, 1.0)
    """
    return load_split("iris", test_size=test_size, seed=seed, scaling="minmax")


class MLP(TwoLayerNetwork):
    """One hidden layer with ReLU, and dropout if asked for. Returns logits.

    Args:
        in_features: D, measurements per flower.
        hidden_features: width of the hidden layer.
        num_classes: C.
        dropout: the probability that a hidden unit is switched off in train mode, in [0, 1).

    Raises:
        TypeError, ValueError: sizes that are no positive ints, a dropout outside [0, 1).

    >>> MLP()
    MLP(
      (hidden): Linear(in_features=4, out_features=10, bias=True)
      (activation): ReLU()
      (dropout): Dropout(p=0.0, inplace=False)
      (output): Linear(in_features=10, out_features=3, bias=True)
    )
    """

    def __init__(
        self, in_features: int = 4, hidden_features: int = 10, num_classes: int = 3, dropout: float = 0.0
    ) -> None:
        check_count(num_classes, "num_classes", minimum=2)
        super().__init__(in_features, hidden_features, num_classes, dropout=dropout)
