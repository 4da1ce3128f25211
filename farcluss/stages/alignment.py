"""Pseudo-labels of probabilities that are aligned with those of labeled images."""

import torch
from torch import Tensor

from farcluss.plugins.options import PositiveInt, Share
from farcluss.stages.adaptive import MOST, moved
from farcluss.stages.base import FuzzyLabels, PseudoLabel
from farcluss.stages.pseudo_label import fuzzy_labels
from farcluss.tensors.distributed import count_dtype


class Aligned(PseudoLabel):
    """Top-K labels of probabilities that are aligned with those of labeled images (DAW, Sun et al. 2023).

    `p'_c` is proportional to `p_c l_c / u_c`: moving averages of the mean largest probability of pixels predicted as
    class c, `l_c` of labeled images by the student, `u_c` of weak views by the teacher; both from 1 / C on. Confidence
    and entropy are those of `p'`.

    Shape:
        `(B, C, *S)` to values and classes `(B, min(K, C), *S)`.

    Args:
        top_k: K, the number of classes kept per pixel; 1 gives hard labels.
        momentum: of the moving averages.
    """

    labeled: Tensor
    unlabeled: Tensor

    def __init__(self, *, top_k: PositiveInt = 1, momentum: Share = 0.99) -> None:
        super().__init__()
        self.top_k, self.momentum = top_k, momentum
        # Only ratios matter: 1 for both is the same start as 1 / C for both, until one of them has moved.
        self.register_buffer("labeled", torch.zeros(MOST))
        self.register_buffer("unlabeled", torch.zeros(MOST))

    def align(self, probs: Tensor) -> Tensor:
        """Aligned probabilities."""
        classes = probs.shape[1]
        labeled, unlabeled = (torch.where(each == 0, 1 / classes, each) for each in (self.labeled, self.unlabeled))
        ratio = (labeled / unlabeled)[:classes].view(1, -1, *[1] * (probs.dim() - 2))
        scaled = probs * ratio.to(probs)
        return scaled / scaled.sum(1, keepdim=True)

    def forward(self, probs: Tensor) -> FuzzyLabels:
        """Labels of aligned `probs`."""
        return fuzzy_labels(probs, self.top_k)

    def statistics(self, probs: Tensor, valid: Tensor) -> Tensor:
        """`(2 MOST + 1,)`, see `by_class`."""
        return by_class(probs, valid)

    def absorb(self, summed: Tensor) -> None:
        """Move the averages of unlabeled images."""
        self._move(self.unlabeled, summed)

    def labeled_statistics(self, logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """`(2 MOST + 1,)`, see `by_class`."""
        return by_class(logits.softmax(1), known)

    def absorb_labeled(self, summed: Tensor) -> None:
        """Move the averages of labeled images."""
        self._move(self.labeled, summed)

    def _move(self, buffer: Tensor, summed: Tensor) -> None:
        sums, counts, scaled = summed[:MOST], summed[MOST:-1], summed[-1]
        start = counts.sum() / scaled.clamp(min=1)  # 1 / C
        begun = torch.where((buffer == 0) & (counts > 0), start, buffer)
        buffer.copy_(begun)
        moved(buffer, sums / counts.clamp(min=1), self.momentum, counts > 0)


def by_class(probs: Tensor, valid: Tensor) -> Tensor:
    """Sums of the largest probabilities of `valid` pixels by predicted class, their numbers, and C times all of them.

    Args:
        probs: `(B, C, *S)`.
        valid: `(B, *S)` bool.

    Returns:
        `(2 MOST + 1,)` in `count_dtype`.
    """
    kind = count_dtype(valid.device)
    confidence, classes = probs.max(1)
    index, counts = classes.flatten(), valid.flatten().to(kind)
    sure = torch.where(valid, confidence, 0).flatten().to(kind)
    empty = torch.zeros(MOST, dtype=kind, device=valid.device)
    sums, counts = (empty.index_add(0, index, each) for each in (sure, counts))
    return torch.cat([sums, counts, (probs.shape[1] * counts.sum())[None]])
