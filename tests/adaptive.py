"""A pixel weight whose state says what it has seen of all images until now."""

import torch
from torch import Tensor

from farcluss.stages.base import PixelWeight, PseudoLabels


class Adaptive(PixelWeight):
    """Confidence to a power that depends on everything that a stage may know.

    These are the mean confidence of this step and of those before, how often the student was right about labeled images
    in those before, and the share of the training that is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sure", torch.zeros((), dtype=torch.float64))
        self.register_buffer("right", torch.zeros((), dtype=torch.float64))

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """Sum of confidences, and number of pixels."""
        return torch.stack([torch.where(labels.valid, labels.confidence, 0).double().sum(), labels.valid.sum()])

    def absorb(self, summed: Tensor) -> None:
        """Running mean of the mean confidence."""
        self.sure.lerp_(self._mean(summed), 0.5)

    def labeled_statistics(self, logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """Number of pixels that are right, and of those that are labeled."""
        return torch.stack([(known & (logits.argmax(1) == masks)).sum(), known.sum()]).double()

    def absorb_labeled(self, summed: Tensor) -> None:
        """Running mean of the share of right pixels."""
        self.right.lerp_(self._mean(summed), 0.5)

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """The factor of each pixel."""
        power = self._mean(summed) + self.sure + self.right + self.progress
        return labels.confidence ** power.to(labels.confidence)

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The state."""
        return {"sure": self.sure, "right": self.right}

    @staticmethod
    def _mean(summed: Tensor) -> Tensor:
        return summed[0] / summed[1].clamp(min=1)
