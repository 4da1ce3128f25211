"""What passes between the parts of a step: images, views with their labels, and what losses need of the whole batch."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from farcluss.data.base import IGNORE
from farcluss.networks.base import Perturbation
from farcluss.stages.base import Anchors, ContrastLoss, Perturb, PseudoLabels, View
from farcluss.stages.rebalance import class_counts


class Batch(NamedTuple):
    """The images of a process in one step, or a micro-batch of them, on the device.

    8-bit images are in [0, 1], others in the range of their data set.

    Attributes:
        images: `(B, Cin, *S)` labeled images.
        masks: `(B, *S)` uint8.
        unlabeled: `(B, Cin, *S)`, or None in supervised steps.
        valid: `(B, *S)` bool, of the unlabeled images.
        truth: `(B, *S)` uint8 masks of the unlabeled images, `IGNORE` where unknown; only for diagnostics.
    """

    images: Tensor
    masks: Tensor
    unlabeled: Tensor | None = None
    valid: Tensor | None = None
    truth: Tensor | None = None


Views = tuple[View, ...]
"""The strong views of a batch; empty for a part of it that has none."""


class Totals(NamedTuple):
    """Totals over the batch of all processes.

    Attributes:
        labeled: number of labeled pixels that are not ignored.
        pixels: `(V,)`, N of eq. 8 for each strong view, see `loss.divisor`; None in supervised steps.
        valid: `(V,)`, number of valid pixels of each strong view; None in supervised steps.
        weight: statistics of the weight stage; None in supervised steps.
        rebalance: statistics of the rebalance stage; None in supervised steps.
        images: number of labeled images; None unless a Dice loss needs it.
        views: number of images in the strong views; None unless a Dice loss needs it.
    """

    labeled: Tensor
    pixels: Tensor | None = None
    valid: Tensor | None = None
    weight: Tensor | None = None
    rebalance: Tensor | None = None
    images: Tensor | None = None
    views: Tensor | None = None


class FirstPass(NamedTuple):
    """Results of a forward without gradient of one micro-batch; None where no loss needs them.

    Attributes:
        pixel_losses: `(B, *S)`, cross-entropy of the labeled images.
        masks: `(B, *S)`, their masks.
        embeddings: `(B, D, *s)`.
        anchors: labels of the embeddings.
    """

    pixel_losses: Tensor | None
    masks: Tensor
    embeddings: Tensor | None
    anchors: Anchors | None


class WholeBatch(NamedTuple):
    """What the losses of a micro-batch need from the first passes of all; None where no loss needs it.

    Attributes:
        masks: `(B, *S)`, the micro-batch's masks, `IGNORE` at pixels that OHEM drops.
        hard: number of pixels that OHEM keeps, over all processes.
        contrast: the micro-batch's equal share of the contrastive loss.
        gradient: `(B, D, *s)`, gradient of the contrastive loss with respect to the micro-batch's embeddings.
    """

    masks: Tensor | None = None
    hard: Tensor | None = None
    contrast: ContrastLoss | None = None
    gradient: Tensor | None = None


def split(
    batch: Batch, views: Views | None, micro_batches: int, apart: bool = False
) -> list[tuple[Batch, Views | None]]:
    """Split a batch and its strong views into equal micro-batches.

    With `apart`, each is split again: its labeled images, then its strong views.
    """
    parts = [[None] * micro_batches if tensor is None else tensor.chunk(micro_batches) for tensor in batch]
    batches = [Batch(*part) for part in zip(*parts, strict=True)]
    if views is None:
        return [(each, None) for each in batches]
    numbers = range(micro_batches)
    split_views = [tuple(view.map(partial(_chunk, micro_batches, number)) for view in views) for number in numbers]
    if not apart:
        return list(zip(batches, split_views, strict=True))
    return [
        part
        for each, strong in zip(batches, split_views, strict=True)
        for part in (
            (Batch(each.images, each.masks), ()),
            (each._replace(images=each.images[:0], masks=each.masks[:0]), strong),
        )
    ]


def _chunk(count: int, number: int, tensor: Tensor) -> Tensor:
    return tensor.chunk(count)[number]


def join_labels(micro_batches: list[PseudoLabels]) -> PseudoLabels:
    """Concatenate the labels of micro-batches; a single one is not copied."""
    if len(micro_batches) == 1:
        return micro_batches[0]
    fields = zip(*(vars(part).values() for part in micro_batches), strict=True)
    return PseudoLabels(*(torch.cat(tensors) for tensors in fields))


def perturbation_of(stage: Perturb, batch: Batch, views: Views | None) -> Perturbation | None:
    """What changes features in the student's forward of labeled images and views; None where nothing does."""
    drawn = (None, *(view.drawn for view in views or ()))
    if all(each is None for each in drawn):
        return None
    return Perturbation(stage, stage.point, (len(batch.images), *(len(view.images) for view in views or ())), drawn)


def diagnostics(labels: PseudoLabels, truth: Tensor, high_entropy: float, classes: int) -> dict[str, Tensor]:
    """Summable statistics of pseudo-labels, for the log.

    Args:
        labels: the teacher's.
        truth: `(B, *S)` true masks, `IGNORE` where unknown.
        high_entropy: normalized entropy above which a pixel is counted as uncertain.
        classes: C.
    """
    valid = labels.valid
    known = valid & (truth != IGNORE)
    return {
        "high_entropy": (valid & (labels.entropy > high_entropy)).sum(),
        "histogram": class_counts(labels, classes),
        "seen": valid.sum(),
        "known": known.sum(),
        "right": (known & (labels.classes[:, 0] == truth)).sum(),
    }


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Sum of a non-empty list of tensors."""
    return torch.stack(tensors).sum(0)
