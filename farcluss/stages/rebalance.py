"""Class rebalancing: larger weights for rare classes of the batch."""

from typing import Literal

import torch
from torch import Tensor

from farcluss.plugins.options import Positive
from farcluss.stages.base import PixelWeight, PseudoLabels
from farcluss.tensors.distributed import count_dtype


def class_counts(labels: PseudoLabels, classes: int, soft: bool = False) -> Tensor:
    """`N_c` of eq. 7 over valid pixels: by the most probable class, or by the sum of `q_c` when `soft`.

    Returns:
        `(C,)` in `count_dtype`, exact for any number of pixels in float64.
    """
    kept = labels.classes if soft else labels.classes[:, :1]
    values = labels.values if soft else torch.ones_like(labels.values[:, :1])
    values = torch.where(labels.valid.unsqueeze(1), values, 0).to(count_dtype(values.device))
    counts = values.new_zeros(classes)
    return counts.index_add_(0, kept.flatten(), values.flatten())


def median_of_present(counts: Tensor) -> Tensor:
    """Median over the classes with a positive count, without a host sync; 0 if there is none."""
    ordered = torch.where(counts > 0, counts, torch.inf).sort().values
    present = (counts > 0).sum()
    low, high = ((present - 1) // 2).clamp(min=0), (present // 2).clamp(max=counts.numel() - 1)
    median = (ordered.gather(0, low[None]) + ordered.gather(0, torch.minimum(high, present.clamp(min=1) - 1)[None])) / 2
    return torch.where(present > 0, median[0], 0)


class MedianFrequency(PixelWeight):
    """Median-frequency class weights of the batch.

    Equation 7: `omega_c = median({N_c}) / (N_c + eps)`, the median over the classes that are present; absent classes
    get 1. Counts are over all processes. Without `max_weight` and `normalize` this is exactly the paper's rule; it then
    gives every present class the same total weight and rescales the loss, so the shipped recipes clip and normalize it.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        eps: avoids division by zero.
        count: count pixels by their most probable class, or by their fuzzy values.
        max_weight: upper limit of class weights.
        normalize: `mean` scales the weights so that their mean over valid pixels is 1.
        apply: weight of a pixel is that of its most probable class, or the expectation under its fuzzy label.
    """

    def __init__(
        self,
        *,
        eps: Positive = 1e-6,
        count: Literal["hard", "soft"] = "hard",
        max_weight: Positive | None = None,
        normalize: Literal["none", "mean"] = "none",
        apply: Literal["argmax", "expected"] = "argmax",
    ) -> None:
        super().__init__()
        self.eps, self.count, self.max_weight, self.normalize, self.applied = eps, count, max_weight, normalize, apply

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """`(2, C)`: counts for eq. 7, and the total label mass that each class weight multiplies."""
        soft = (self.count == "soft", self.applied == "expected")
        counted = {kind: class_counts(labels, classes, kind) for kind in set(soft)}
        return torch.stack([counted[kind] for kind in soft])

    def class_weights(self, summed: Tensor) -> Tensor:
        """Class weights `(C,)` float32 from the summed statistics."""
        mass, weights = summed[1], self._unbounded(summed[0])
        if self.max_weight is not None:
            weights = weights.clamp(max=self.max_weight)
        if self.normalize == "mean":
            total = (weights * mass).sum()
            weights = torch.where(total > 0, weights * (mass.sum() / total), weights)
        return weights.float()

    def _unbounded(self, counts: Tensor) -> Tensor:
        """Eq. 7 as it stands."""
        return torch.where(counts > 0, median_of_present(counts) / (counts + self.eps), 1)

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """`omega(i)` of eq. 8: the class weight of each pixel."""
        class_weights = self.class_weights(summed)
        if self.applied == "expected":
            return (labels.values * class_weights[labels.classes]).sum(1)
        return class_weights[labels.classes[:, 0]]

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The class weights, and how many classes `max_weight` holds back."""
        weights = {"class_weights": self.class_weights(summed)}
        if self.max_weight is None:
            return weights
        return weights | {"bounded_classes": (self._unbounded(summed[0]) > self.max_weight).sum()}
