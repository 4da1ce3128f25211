"""Pseudo-labels from the teacher's probabilities."""

import torch
from torch import Tensor

from farcluss.plugins.options import PositiveInt
from farcluss.stages.base import FuzzyLabels, PseudoLabel
from farcluss.tensors.chunks import by_chunks


def top_classes(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of `probs` `(B, C, *S)` along C and their classes, ties broken toward the lower class.

    `torch.topk` breaks ties differently per device; taking the maximum `k` times does not, since `torch.max` returns
    the first of several maxima, and for the small `k` of this method it is faster, too.

    Returns:
        values and classes, each `(B, min(k, C), *S)`.
    """
    values, classes = by_chunks(lambda chunk: _top_classes(chunk, min(k, probs.shape[1])), probs)
    return values, classes


def _top_classes(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`top_classes` of a chunk."""
    found = [probs.max(1, keepdim=True)]
    rest = probs.clone() if k > 1 else probs
    for _ in range(k - 1):
        rest.scatter_(1, found[-1].indices, float("-inf"))
        found.append(rest.max(1, keepdim=True))
    return torch.cat([each.values for each in found], 1), torch.cat([each.indices for each in found], 1)


def fuzzy_labels(probs: Tensor, k: int) -> FuzzyLabels:
    """Top-K labels `q` of eq. 2 and 3: the K largest probabilities, renormalized to sum to 1.

    Args:
        probs: `(B, C, *S)`, sums to 1 over C.
        k: classes to keep, clamped to C.
    """
    values, classes = top_classes(probs, k)
    return FuzzyLabels(values / values.sum(1, keepdim=True), classes)


class Fuzzy(PseudoLabel):
    """Fuzzy top-K labels.

    Equation 2, 3: `q_c = p_c / sum_{j in T} p_j` for the K most probable classes `T`, 0 elsewhere. The probabilities
    are renormalized, not softmaxed again. With two classes any K of 2 or more keeps the whole distribution.

    Shape:
        `(B, C, *S)` to values and classes `(B, min(K, C), *S)`.

    Args:
        top_k: K, the number of classes kept per pixel; 1 gives hard labels.
    """

    def __init__(self, *, top_k: PositiveInt = 3) -> None:
        super().__init__()
        self.top_k = top_k

    def forward(self, probs: Tensor) -> FuzzyLabels:
        """Fuzzy labels of `probs` `(B, C, *S)`."""
        return fuzzy_labels(probs, self.top_k)


class Hard(PseudoLabel):
    """The most probable class alone, as in FixMatch and classic pseudo-labeling (K = 1).

    Shape:
        `(B, C, *S)` to values and classes `(B, 1, *S)`.
    """

    def forward(self, probs: Tensor) -> FuzzyLabels:
        """Hard labels of `probs` `(B, C, *S)`."""
        return fuzzy_labels(probs, 1)
