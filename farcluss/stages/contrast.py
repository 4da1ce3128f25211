"""Contrastive regularization: pulls embeddings of one class together."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from farcluss.plugins.options import NonNegative, PositiveInt, Share
from farcluss.stages.base import Anchors, Contrast, ContrastLoss
from farcluss.tensors.distributed import all_sum, world_size
from farcluss.tensors.precision import wide


def class_means(vectors: Tensor, classes: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean vector per class over all processes (eq. 9).

    Args:
        vectors: `(N, D)`.
        classes: `(N,)` int64 in [0, count); anything where `mask` is False.
        mask: `(N,)` bool, the pixels to average.
        count: number of classes C.

    Returns:
        means `(C, D)`, zero for absent classes, and numbers of pixels `(C,)`.
    """
    index = torch.where(mask, classes, 0)
    share = mask.to(vectors.dtype)
    kept = torch.where(mask[:, None], vectors, 0)
    sums = all_sum(vectors.new_zeros(count, vectors.shape[1]).index_add(0, index, kept))
    numbers = all_sum(vectors.new_zeros(count).index_add(0, index, share))
    return sums / numbers.clamp(min=1)[:, None], numbers


def pair_cosines(means: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines `(C, C)` between class means, and the mask of pairs of different present classes."""
    unit = normalize(means, dim=1)
    pairs = present[:, None] & present[None, :]
    return unit @ unit.T, pairs & ~torch.eye(len(means), dtype=torch.bool, device=means.device)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; if it is empty 0, with a graph."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


class Prototype(Contrast):
    """Pulls confident embeddings toward the mean of their class in this batch.

    Equation 9, 10: `mu_c = mean z_i` over confident pixels of class c, over all processes;
    `L_c = mean_i (1 - cos(z_i, mu_c(i)))` over confident pixels. 0, with a graph, if none is confident.

    Shape:
        embeddings `(B, D, *s)` and anchors `(B, *s)` to a scalar.

    Args:
        dim: size D of the embeddings.
        confidence: smallest teacher probability of a confident pixel.
        min_weight: smallest pixel weight of a confident pixel.
        include_labeled: include labeled pixels, with their true classes.
        detach: no gradient through the prototypes in `L_c`.
        repulsion: weight of the mean positive cosine between prototypes of different classes, added to the loss.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 128,
        confidence: Share = 0.95,
        min_weight: Share = 0.0,
        include_labeled: bool = False,
        detach: bool = True,
        repulsion: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.confidence, self.min_weight = dim, confidence, min_weight
        self.include_labeled, self.detach, self.repulsion = include_labeled, detach, repulsion

    def forward(self, embeddings: Tensor, anchors: Anchors, classes: int) -> ContrastLoss:
        """This process's share of the loss, and the mean cosine between prototypes, in float32 even under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._loss(wide(embeddings), anchors, classes)

    def _loss(self, embeddings: Tensor, anchors: Anchors, classes: int) -> ContrastLoss:
        trusted = (anchors.confidence >= self.confidence) & (anchors.weight >= self.min_weight)
        chosen = torch.where(anchors.labeled, torch.full_like(trusted, self.include_labeled), trusted)
        mask = (anchors.valid & chosen).flatten()
        vectors = embeddings.movedim(1, -1).flatten(0, -2)
        index = torch.where(mask, anchors.classes.flatten(), 0)
        means, numbers = class_means(vectors, index, mask, classes)
        targets = means.detach() if self.detach else means
        # The cosine is taken with every class and picked: (N, C) is cheaper than gathering (N, D) prototypes.
        cosines = (normalize(vectors, dim=1) @ normalize(targets, dim=1).T).gather(1, index[:, None])[:, 0]
        loss = torch.where(mask, 1 - cosines, 0).sum() / numbers.sum().clamp(min=1)
        between, pairs = pair_cosines(means, numbers > 0)
        if self.repulsion:
            # Every process computes the same global term, so each contributes its share of it.
            loss = loss + self.repulsion * mean_where(between.clamp(min=0), pairs) / world_size()
        return ContrastLoss(loss, mean_where(between, pairs).detach())


class NoContrast(Contrast):
    """No contrastive term, and no embedding head in the network.

    Shape:
        anything to a scalar 0.
    """

    include_labeled = False

    def forward(self, embeddings: Tensor, anchors: Anchors, classes: int) -> ContrastLoss:
        """0."""
        zero = embeddings.sum() * 0
        return ContrastLoss(zero, zero.detach())
