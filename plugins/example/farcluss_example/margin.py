"""A pixel weight from the two most probable classes."""

from torch import Tensor

from farcluss.plugins.options import Positive
from farcluss.stages.base import Weight


class Margin(Weight):
    """Weight that grows with the lead of the most probable class over the next.

    `w = (p_first - p_second)^power`: 1 where the teacher is sure, 0 where two classes tie.

    Shape:
        `(B, C, *S)` to `(B, *S)`.

    Args:
        power: above 1 only clear leads count, below 1 small ones do as well.
    """

    def __init__(self, *, power: Positive = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, probs: Tensor) -> Tensor:
        """Weight of each pixel of `probs` `(B, C, *S)`."""
        first, second = probs.topk(2, dim=1).values.unbind(1)
        return (first - second) ** self.power
