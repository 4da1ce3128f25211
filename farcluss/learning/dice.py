"""The soft Dice loss of each image, from sums over its pixels that go through the logits in chunks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farcluss.learning.losses import Target
from farcluss.tensors.chunks import boxes
from farcluss.tensors.precision import wide

SMOOTH = 1e-5
"""Added to numerator and denominator: a class that is neither there nor predicted has no loss."""


def dice(logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """Soft Dice loss against each target, summed over its images.

    That of an image is the mean over all classes but the first, the background, of
    `1 - (2 sum_i w_i q_ic p_ic + e) / (sum_i w_i (q_ic + p_ic) + e)`, with `p` the softmax of the logits, `q` the
    target's values, `w` its weight, 0 at pixels that are not valid. An image without any valid pixel has a loss of 0.

    Args:
        logits: `(B, C, *S)`.
        targets: of runs of the images, in their order.

    Returns:
        `(len(targets),)`, in float32 or wider.
    """
    runs = torch.split(logits, [len(target.valid) for target in targets])
    sums = [image_dice(*overlaps(images, target)).sum() for images, target in zip(runs, targets, strict=True)]
    return torch.stack(sums) if sums else wide(logits).new_zeros(0)


def image_dice(overlap: Tensor, mass: Tensor) -> Tensor:
    """Dice loss of each image `(B,)` from sums over its pixels `(B, C)`, see `overlaps`."""
    classes = 1 - (2 * overlap + SMOOTH) / (mass + SMOOTH)
    return classes[:, 1:].sum(1) / max(1, classes.shape[1] - 1)


def overlaps(logits: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of each image: `sum_i w_i q_ic p_ic` and `sum_i w_i (q_ic + p_ic)`, `(B, C)` each.

    In float32 or wider. Gradients flow to the logits alone, and are 0 at pixels that are not valid, even where these
    hold a NaN. No dense label is built but for a chunk of pixels, whose sums come in one order on any device.
    """
    overlap, mass = _Overlaps.apply(logits, *target)
    return overlap, mass


class _Overlaps(torch.autograd.Function):
    """See `overlaps`; takes the tensors of the target one after the other."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, *tensors)
        overlap = torch.zeros(logits.shape[:2], device=logits.device, dtype=wide(logits[:0]).dtype)
        mass = torch.zeros_like(overlap)
        for box in boxes(logits):
            for total, part in zip((overlap, mass), _sums(logits[box], *(each[box] for each in tensors)), strict=True):
                total[box[0]] += part
        return overlap, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        logits, *tensors = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for box in boxes(logits):
            of_images = [slope[box[0]] for slope in slopes]
            gradient[box] = _gradient(of_images, logits[box], *(each[box] for each in tensors))
        return gradient, *(None for _ in tensors)


def _weighted(logits: Tensor, values: Tensor, weight: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, weighted values and the weight: all 0 where a pixel is not valid, whatever it holds."""
    probs = wide(logits).softmax(1).masked_fill_(~valid, 0)
    weight = torch.where(valid, weight, 0).to(probs.dtype)
    return probs, torch.where(valid, weight * values, 0).to(probs.dtype), weight


def _sums(logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """What `overlaps` gives for a chunk."""
    classes, pixels = classes.long(), tuple(range(2, logits.dim()))
    probs, values, weight = _weighted(logits, values, weight, valid)
    kept = values * probs.gather(1, classes)
    mass = (probs * weight).scatter_add_(1, classes, values).sum(pixels)
    return probs.zero_().scatter_add_(1, classes, kept).sum(pixels), mass


def _gradient(
    slopes: Sequence[Tensor], logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor
) -> Tensor:
    """`(B, C, *S)`, gradient of a chunk's logits, given the two of its images' sums `(B, C)`."""
    classes, (of_overlap, of_mass) = classes.long(), slopes
    probs, values, weight = _weighted(logits, values, weight, valid)
    of_kept = of_overlap.gather(1, classes.flatten(1)).view(classes.shape)
    of_probs = weight * of_mass.view(*of_mass.shape, *[1] * (logits.dim() - 2))
    of_probs.scatter_add_(1, classes, values * of_kept)
    return probs * (of_probs - (probs * of_probs).sum(1, keepdim=True))
