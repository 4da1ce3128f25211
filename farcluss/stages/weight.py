"""Pixel weights of pseudo-labels."""

from typing import Literal

import torch
from torch import Tensor

from farcluss.plugins.options import NonNegative, Positive, Share
from farcluss.stages.base import PixelWeight, PseudoLabels


class EntropyWeight(PixelWeight):
    """Weight that decreases with the teacher's entropy.

    Equation 5, 6: `H = -sum_c p_c log p_c / log C`; `linear`: `w = 1 - H`; `power`: `w = (1 - H)^gamma`; `exp`:
    `w = exp(-beta H)`.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        form: function from entropy to weight.
        gamma: exponent of `power`.
        beta: rate of `exp`.
        high_entropy: entropy above which a pixel counts as uncertain, in diagnostics and for `gate`.
        gate: set the weight of uncertain pixels to 0.
    """

    def __init__(
        self,
        *,
        form: Literal["linear", "power", "exp"] = "linear",
        gamma: Positive = 1.0,
        beta: NonNegative = 1.0,
        high_entropy: Share = 0.5,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.form, self.gamma, self.beta, self.high_entropy, self.gate = form, gamma, beta, high_entropy, gate

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel, from the labels' entropy."""
        entropy = labels.entropy
        if self.form == "exp":
            weight = torch.exp(-self.beta * entropy)
        else:
            weight = (1 - entropy) ** (self.gamma if self.form == "power" else 1)
        if self.gate:
            weight = weight * (entropy <= self.high_entropy)
        return weight.clamp(0, 1)


class Threshold(PixelWeight):
    """Weight 1 where the teacher's largest probability reaches a threshold, 0 elsewhere (FixMatch).

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        threshold: smallest largest probability of a pixel with weight 1.
    """

    def __init__(self, *, threshold: Share = 0.95) -> None:
        super().__init__()
        self.threshold = threshold

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel, from the labels' confidence."""
        return (labels.confidence >= self.threshold).to(labels.confidence.dtype)


class Uniform(PixelWeight):
    """Weight 1 everywhere, as in a plain mean teacher: `uniform` of both `weight` and `rebalance`.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.
    """

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(labels.confidence)
