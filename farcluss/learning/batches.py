"""The images of a step and their pseudo-labels, whole or split into micro-batches."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from farcluss.stages.base import PseudoLabels


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


class StrongViews(NamedTuple):
    """The strong views of a batch, each with its pseudo-labels, warped as the view was."""

    images: tuple[Tensor, ...]
    labels: tuple[PseudoLabels, ...]


def split(
    batch: Batch, strong: StrongViews | None, micro_batches: int, apart: bool = False
) -> list[tuple[Batch, StrongViews | None]]:
    """Split a batch and its strong views into equal micro-batches.

    With `apart`, each is split again: its labeled images, then its strong views.
    """
    parts = [[None] * micro_batches if tensor is None else tensor.chunk(micro_batches) for tensor in batch]
    batches = [Batch(*part) for part in zip(*parts, strict=True)]
    if strong is None:
        return [(each, None) for each in batches]
    chunks = zip(*(view.chunk(micro_batches) for view in strong.images), strict=True)
    strong_parts = [
        StrongViews(images, tuple(labels.map(partial(_chunk, micro_batches, n)) for labels in strong.labels))
        for n, images in enumerate(chunks)
    ]
    if not apart:
        return list(zip(batches, strong_parts, strict=True))
    return [
        part
        for each, views in zip(batches, strong_parts, strict=True)
        for part in (
            (Batch(each.images, each.masks), StrongViews((), ())),
            (each._replace(images=each.images[:0], masks=each.masks[:0]), views),
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
