"""Losses as sums over pixels; the caller divides by a global count, so the number of devices does not matter.

All are one sum: a pixel's weight times a divergence of the student from a sparse soft label, by default the KL; for a
hard label this is the cross-entropy. Forward and backward work in chunks and save only logits and labels, so the
gradient is the only other tensor of the logits' size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farcluss.data.base import IGNORE
from farcluss.stages.base import PseudoLabels
from farcluss.tensors.chunks import Box, boxes, by_chunks
from farcluss.tensors.distributed import all_sum, count_dtype
from farcluss.tensors.precision import safe_log, wide
from farcluss.tensors.upsampling import Upsampling, band, bands

OHEM_BINS = 2**16
"""Bins of pixel losses: bit patterns of positive float32 numbers in steps of 2^15, each 0.2 to 0.4 % wide."""


Divergence = Literal["kl", "squared", "cross-entropy"]


class Target(NamedTuple):
    """The target of some images: sparse soft labels with weights. Constant: gradients flow only to the logits.

    Attributes:
        values: `(B, K, *S)`, probability of each class.
        classes: `(B, K, *S)` integer, in [0, C) everywhere.
        weight: `(B, 1, *S)`, factor on a pixel's divergence.
        valid: `(B, 1, *S)` bool; other pixels do not count, whatever they hold, even a NaN.
    """

    values: Tensor
    classes: Tensor
    weight: Tensor
    valid: Tensor


def true_target(masks: Tensor) -> Target:
    """Hard labels from `masks` `(B, *S)`, without `IGNORE`: the divergence is the cross-entropy."""
    valid = (masks != IGNORE).unsqueeze(1)
    one = torch.ones((), device=masks.device)
    return Target(one.expand(valid.shape), torch.where(valid, masks.unsqueeze(1), 0), one.expand(valid.shape), valid)


def fuzzy_target(labels: PseudoLabels, weight: Tensor) -> Target:
    """The pseudo-labels with a weight `(B, *S)`: `w_i omega(i)` of eq. 8."""
    return Target(labels.values.detach(), labels.classes, weight.unsqueeze(1), labels.valid.unsqueeze(1))


def divergences(
    logits: Tensor,
    targets: Sequence[Target],
    kinds: Sequence[Divergence] | None = None,
    upsampling: Upsampling | None = None,
) -> Tensor:
    """Weighted divergence from each target, summed over its pixels: `sum_i m_i w_i KL(q_i || s_i)` of eq. 4 and 8.

    Uses only the kept classes, `KL = sum_k q_k (log q_k - log s_k)`: no dense one-hot is built. One call for all
    targets writes their gradients into one tensor.

    Args:
        logits: student's, `(B, C, *S)`; `(B, C, h, w)` with `upsampling`.
        targets: one per run of consecutive images, in order.
        kinds: divergence of each target; by default all `kl`. `cross-entropy` is `-sum_k q_k log s_k`, whose gradient
            is the same; `squared` is `sum_c (s_c - q_c)^2`, as in French et al. (2020).
        upsampling: how logits become those of the pixels, which is done band by band, twice, and never stored.

    Returns:
        `(len(targets),)`, in float32 or wider.
    """
    own, tensors = tuple(kinds or ["kl"] * len(targets)), [tensor for target in targets for tensor in target]
    sums: Tensor
    if upsampling is None:
        sums = _Divergences.apply(logits, own, *tensors)
    else:
        sums = _CoarseDivergences.apply(logits, own, upsampling, *tensors)
    return sums


def pixel_cross_entropy(logits: Tensor, masks: Tensor, upsampling: Upsampling | None = None) -> Tensor:
    """Cross-entropy per pixel `(B, *S)`, in float32 or wider; 0 at ignored pixels. Without gradient.

    Args:
        logits: `(B, C, *S)`; `(B, C, h, w)` with `upsampling`.
        masks: `(B, *S)` integer, class index or `IGNORE`.
        upsampling: as of `divergences`.
    """
    if upsampling is not None:
        return _coarse_cross_entropy(logits.detach(), true_target(masks), upsampling)
    (losses,) = by_chunks(lambda *chunk: (_divergence(*chunk),), logits.detach(), *true_target(masks))
    return losses[:, 0]


def hard_pixels(losses: Tensor, masks: Tensor, *, threshold: float, min_kept: int | float) -> Tensor:
    """Online hard example mining: the pixels to keep, `(B, *S)` bool.

    Pixels whose true class has a probability of at most `max(threshold, t)` are kept, `t` being the probability of the
    `min_kept`-th hardest pixel of all processes. That pixel is found by a histogram of the losses: those of its bin are
    kept with it, whose losses are less than 0.4 % smaller.

    Args:
        losses: `(B, *S)`, see `pixel_cross_entropy`.
        masks: `(B, *S)` integer, `IGNORE` is never kept.
        threshold: probability below which a pixel is always kept.
        min_kept: smallest number of pixels kept, over all processes, or smallest share of those not ignored below 1;
            all if there are fewer.
    """
    valid = masks != IGNORE
    # Bit patterns of positive floats are in the order of their values; a NaN, whose step is skipped, is the largest.
    bins = OHEM_BINS - 1 - (losses.float().abs().view(torch.int32) >> 15)
    counted = bins.masked_fill(~valid, OHEM_BINS).flatten()
    counts = torch.zeros(OHEM_BINS + 1, device=losses.device, dtype=count_dtype(losses.device))
    counts = all_sum(counts.index_add_(0, counted, counts.new_ones(()).expand(counted.shape))[:-1])
    least = min_kept if isinstance(min_kept, int) else (min_kept * counts.sum()).ceil()
    last = (counts.cumsum(0) < least).sum()  # the bin of that pixel, or none: all pixels are kept
    return valid & ((bins <= last) | (torch.exp(-losses) <= threshold))


class _Divergences(torch.autograd.Function):
    """See `divergences`; takes the tensors of the targets as separate arguments."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, kinds: tuple[Divergence, ...], *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(logits, *tensors)
        ctx.kinds = kinds
        targets = _targets(tensors)
        sums = torch.zeros(len(targets), device=logits.device, dtype=wide(logits[:0]).dtype)
        for kind, total, images, target in zip(kinds, sums, _runs(logits, targets), targets, strict=True):
            for box in boxes(images):
                total += DIVERGENCES[kind][0](images[box], *(tensor[box] for tensor in target)).sum()
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        logits, *tensors = ctx.saved_tensors
        targets, gradient = _targets(tensors), torch.empty_like(logits)
        runs = zip(ctx.kinds, grad_sums, _runs(logits, targets), _runs(gradient, targets), targets, strict=True)
        for kind, grad, images, result, target in runs:
            for box in boxes(images):
                result[box] = DIVERGENCES[kind][1](grad, images[box], *(tensor[box] for tensor in target))
        return gradient, None, *(None for _ in tensors)


class _CoarseDivergences(torch.autograd.Function):
    """`_Divergences` of logits that are upsampled band by band; their gradient is the sum over the bands."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, kinds: tuple[Divergence, ...], how: Upsampling, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(logits, *tensors)
        ctx.kinds, ctx.how = kinds, how
        targets = _targets(tensors)
        sums = torch.zeros(len(targets), device=logits.device, dtype=wide(logits[:0]).dtype)
        for kind, total, images, target in zip(kinds, sums, _runs(logits, targets), targets, strict=True):
            for box, part, make in _pieces(images, how):
                total += DIVERGENCES[kind][0](make(part), *(tensor[box] for tensor in target)).sum()
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        logits, *tensors = ctx.saved_tensors
        targets, gradient = _targets(tensors), torch.zeros_like(wide(logits))
        runs = zip(ctx.kinds, grad_sums, _runs(logits, targets), _runs(gradient, targets), targets, strict=True)
        for kind, grad, images, result, target in runs:
            for (box, part, make), (_, place, _) in zip(
                _pieces(images, ctx.how), _pieces(result, ctx.how), strict=True
            ):
                with torch.enable_grad():
                    leaf = part.detach().requires_grad_()
                    pixels = make(leaf)
                slope = DIVERGENCES[kind][1](grad, pixels.detach(), *(tensor[box] for tensor in target))
                place += torch.autograd.grad(pixels, leaf, slope)[0]
        return gradient.to(logits.dtype), None, None, *(None for _ in tensors)


def _pieces(logits: Tensor, how: Upsampling) -> Iterator[tuple[Box, Tensor, Callable[[Tensor], Tensor]]]:
    """For each band its box of the pixels, its rows of the logits in float32 or wider, and what upsamples them."""
    for image, rows in bands(logits, how):
        (first, last), make = band(logits, how, rows)
        part = wide(logits[image : image + 1, :, first:last])
        yield (slice(image, image + 1), slice(None), slice(*rows)), part, make


def _coarse_cross_entropy(logits: Tensor, target: Target, how: Upsampling) -> Tensor:
    """`pixel_cross_entropy` of logits that are upsampled band by band."""
    losses = torch.empty(target.valid.shape, device=logits.device, dtype=wide(logits[:0]).dtype)
    for box, part, make in _pieces(logits, how):
        losses[box] = _divergence(make(part), *(tensor[box] for tensor in target))
    return losses[:, 0]


def _targets(tensors: Sequence[Tensor]) -> list[Target]:
    size = len(Target._fields)
    return [Target(*tensors[start : start + size]) for start in range(0, len(tensors), size)]


def _runs(tensor: Tensor, targets: Iterable[Target]) -> tuple[Tensor, ...]:
    """The images of each target, as views."""
    return torch.split(tensor, [len(target.valid) for target in targets])


def _divergence(logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """`(B, 1, *S)`, the weighted divergence of each pixel."""
    log_probs = wide(logits).log_softmax(1).gather(1, classes.long())
    values = values.to(log_probs.dtype)
    divergence = (values * (safe_log(values) - log_probs)).sum(1, keepdim=True)
    return torch.where(valid, weight * divergence, 0).to(log_probs.dtype)


def _gradient(grad: Tensor, logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """`(B, C, *S)`, `grad` times the gradient of the summed weighted divergence: `w (sum(q) softmax - q)`."""
    gradient = wide(logits).softmax(1)
    # `grad` has no axes: it would not widen the others' type.
    values = torch.where(valid, grad * (weight * values.to(gradient.dtype)), 0)
    gradient *= values.sum(1, keepdim=True)
    gradient.scatter_add_(1, classes.long(), -values)
    return gradient.masked_fill_(~valid, 0)  # 0 times the NaN of an invalid pixel would be NaN


def _cross_entropy(logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """`(B, 1, *S)`, the weighted cross-entropy of each pixel, with the gradient of its divergence."""
    log_probs = wide(logits).log_softmax(1).gather(1, classes.long())
    entropy = -(values.to(log_probs.dtype) * log_probs).sum(1, keepdim=True)
    return torch.where(valid, weight * entropy, 0).to(log_probs.dtype)


def _squared(logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """`(B, 1, *S)`, the weighted squared distance of each pixel: `sum_c s_c^2 + sum_k (q_k^2 - 2 q_k s_k)`."""
    probs = wide(logits).softmax(1)
    values = values.to(probs.dtype)
    mixed = (values * (values - 2 * probs.gather(1, classes.long()))).sum(1, keepdim=True)
    return torch.where(valid, weight * (probs.square().sum(1, keepdim=True) + mixed), 0).to(probs.dtype)


def _squared_gradient(
    grad: Tensor, logits: Tensor, values: Tensor, classes: Tensor, weight: Tensor, valid: Tensor
) -> Tensor:
    """`(B, C, *S)`, `grad` times the gradient of the squared distance: `2 w s (s - q - sum_c s_c (s_c - q_c))`."""
    probs = wide(logits).softmax(1)
    gap = probs.scatter_add(1, classes.long(), -values.to(probs.dtype))
    gap -= (probs * gap).sum(1, keepdim=True)
    return (2 * grad * weight * probs * gap).masked_fill_(~valid, 0).to(probs.dtype)


DIVERGENCES: dict[Divergence, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "kl": (_divergence, _gradient),
    "cross-entropy": (_cross_entropy, _gradient),
    "squared": (_squared, _squared_gradient),
}
"""Value and gradient by name."""
