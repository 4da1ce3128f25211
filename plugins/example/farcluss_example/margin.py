"""A pixel weight from the two most probable classes."""

from torch import Tensor

from farcluss.plugins.options import Positive
from farcluss.stages.base import PixelWeight, PseudoLabels


class Margin(PixelWeight):
    """Weight that grows with the lead of the most probable class over the next.

    `w = (q_first - q_second)^power` of the kept classes: 1 where the teacher is sure, or only one class is kept, 0
    where two classes tie.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        power: above 1 only clear leads count, below 1 small ones do as well.
    """

    def __init__(self, *, power: Positive = 1.0) -> None:
        super().__init__()
        self.power = power

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        first, *others = labels.values.unbind(1)
        return (first - others[0] if others else first) ** self.power
