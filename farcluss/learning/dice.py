"""The soft Dice loss of each image, from sums over its pixels that are computed in chunks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farcluss.learning.losses import Target
from farcluss.tensors.chunks import boxes
from farcluss.tensors.precision import wide

SMOOTH = 1e-5
"""Added to numerator and denominator, so that a class that is neither present nor predicted has no loss."""


def dice(logits: Tensor, targets: Sequence[Target], shares: Sequence[Tensor | None] = ()) -> Tensor:
    """Soft Dice loss against each target, summed over its images.

    The loss of an image is the mean over all classes but the first, the background, of
    `1 - (2 sum_i w_i q_ic p_ic + e) / (sum_i w_i (q_ic + p_ic) + e)`, with `p` the softmax of the logits, `q` the
    target's values and `w` its weight, 0 at invalid pixels. An image without valid pixels has a loss of 0.

    Args:
        logits: `(B, C, *S)`.
        targets: one per run of consecutive images, in order.
        shares: for each target factors `(B,)` of its images' losses; None, or none at all, for 1.

    Returns:
        `(len(targets),)`, in float32 or wider.
    """
    runs = torch.split(logits, [len(target.valid) for target in targets])
    losses = [image_dice(*overlaps(images, target)) for images, target in zip(runs, targets, strict=True)]
    for number, share in enumerate(shares):
        losses[number] = losses[number] if share is None else losses[number] * share
    return torch.stack([each.sum() for each in losses]) if losses else wide(logits).new_zeros(0)


def image_dice(overlap: Tensor, mass: Tensor) -> Tensor:
    """Dice loss of each image `(B,)` from sums over its pixels `(B, C)`, see `overlaps`."""
    classes = 1 - (2 * overlap + SMOOTH) / (mass + SMOOTH)
    return classes[:, 1:].sum(1) / max(1, classes.shape[1] - 1)


def overlaps(logits: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of each image: `sum_i w_i q_ic p_ic` and `sum_i w_i (q_ic + p_ic)`, `(B, C)` each.

    In float32 or wider. Gradients flow only to the logits, and are 0 at invalid pixels, even if these hold a NaN. Dense
    labels are built only per chunk of pixels, and the order of summation is the same on any device.
    """
    overlap, mass = _Overlaps.apply(logits, *target)
    return overlap, mass


class _Overlaps(torch.autograd.Function):
    """See `overlaps`; takes the tensors of the target as separate arguments."""

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
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, *tensors = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for box in boxes(logits):
            of_images = [grad[box[0]] for grad in grad_outputs]
            gradient[box] = _gradient(of_images, logits[box], *(each[box] for each in tensors))
        return gradient, *(None for _ in tensors)


def _weighted(logits: Tensor, values: Tensor, weight: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, weighted values and the weight, all 0 at invalid pixels."""
    probs = wide(logits).softmax(1).masked_fill_(~valid, 0)
    weight = torch.where(valid, weight, 0).to(probs.dtype)
    return probs, torch.where(valid, weight * values, 0).to(probs.dtype), weight


def _sums(logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`overlaps` of a chunk."""
    classes, pixels = classes.long(), tuple(range(2, logits.dim()))
    probs, values, weight = _weighted(logits, values, weight, valid)
    kept = values * probs.gather(1, classes)
    mass = (probs * weight).scatter_add_(1, classes, values).sum(pixels)
    return probs.zero_().scatter_add_(1, classes, kept).sum(pixels), mass


def _gradient(
    grad_sums: Sequence[Tensor], logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor
) -> Tensor:
    """Gradient `(B, C, *S)` of a chunk's logits, given those of its images' two sums `(B, C)`."""
    classes, (of_overlap, of_mass) = classes.long(), grad_sums
    probs, values, weight = _weighted(logits, values, weight, valid)
    of_kept = of_overlap.gather(1, classes.flatten(1)).view(classes.shape)
    of_probs = weight * of_mass.view(*of_mass.shape, *[1] * (logits.dim() - 2))
    of_probs.scatter_add_(1, classes, values * of_kept)
    return probs * (of_probs - (probs * of_probs).sum(1, keepdim=True))
