"""The weight stage: how much is a pixel's pseudo-label worth?"""

from torch import Tensor

from farcluss.plugins.options import Positive
from farcluss.stages.base import PixelWeight, PseudoLabels


class MyWeight(PixelWeight):
    """Weight that grows with the teacher's largest probability.

    `w = (max_c p_c)^power`.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        power: the larger, the less a pixel of low confidence counts.
    """

    def __init__(self, *, power: Positive = 1.0) -> None:
        super().__init__()
        self.power = power

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        return labels.confidence**self.power
