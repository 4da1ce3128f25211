"""Probabilities for whole images: in one piece or by a sliding window, averaged over flips and scales."""

from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from farcluss.losses import wide

Forward = Callable[[Tensor], Tensor]
"""From normalized images `(B, Cin, *S)` to probabilities `(B, C, *S)`."""


def running_mean(parts: Iterable[Tensor]) -> Tensor:
    """Mean of tensors of one shape, in one pass; equal tensors give themselves to the last bit."""
    mean = torch.empty(0)
    for number, part in enumerate(parts, 1):
        mean = part if number == 1 else mean + (part - mean) / number
    return mean


def starts(extent: int, window: int, step: int) -> list[int]:
    """First pixels of the windows along one axis: every `step` pixels, the last one flush with the border."""
    last = max(extent - window, 0)
    return [*range(0, last, step), last]


def sliding(forward: Forward, images: Tensor, window: tuple[int, ...], stride: float) -> Tensor:
    """Probabilities by a sliding window, the plain mean where windows overlap.

    Every window lies inside the image; an axis shorter than the window is taken whole. The mean is a running one, so
    a constant predictor is reproduced exactly.

    Args:
        forward: network.
        images: `(B, Cin, *S)`.
        window: pixels per axis.
        stride: step, as a share of the window.

    Returns:
        `(B, C, *S)`.
    """
    size = images.shape[2:]
    sides = [min(side, extent) for side, extent in zip(window, size, strict=True)]
    axes = [starts(extent, side, max(1, int(side * stride))) for extent, side in zip(size, sides, strict=True)]
    mean, number = torch.empty(0), torch.zeros(size, device=images.device)
    for corner in product(*axes):
        place = tuple(slice(first, first + side) for first, side in zip(corner, sides, strict=True))
        probs = forward(images[:, :, *place])
        if not mean.numel():
            mean = probs.new_zeros(*probs.shape[:2], *size)
        number[place] += 1
        part = mean[:, :, *place]
        part += (probs - part) / number[place]
    return mean


def predict_probs(
    forward: Forward,
    images: Tensor,
    *,
    window: tuple[int, ...] | None = None,
    stride: float = 2 / 3,
    flip: bool = False,
    scales: Iterable[float] = (1.0,),
) -> Tensor:
    """Probabilities of normalized images, averaged over scales and flips.

    Args:
        forward: network.
        images: `(B, Cin, *S)`.
        window: sliding window, pixels per axis; None takes the image whole.
        stride: step of the window, as a share of it.
        flip: also predict the image mirrored along its last axis.
        scales: also predict it at other sizes.

    Returns:
        `(B, C, *S)` float32.
    """

    def at_once(views: Tensor) -> Tensor:
        return forward(views) if window is None else sliding(forward, views, window, stride)

    def at_scales() -> Iterable[Tensor]:
        for scale in scales:
            views = images if scale == 1 else resize(images, [round(n * scale) for n in images.shape[2:]])
            probs = at_once(views)
            yield resize(probs, images.shape[2:])
            if flip:
                yield resize(at_once(views.flip(-1)).flip(-1), images.shape[2:])

    return running_mean(at_scales())


def resize(tensor: Tensor, size: Iterable[int]) -> Tensor:
    """Linear interpolation of `(B, C, *S)` to spatial `size`; the tensor itself where it has that size."""
    wanted = [max(1, n) for n in size]
    if list(tensor.shape[2:]) == wanted:
        return tensor
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(wanted)]
    return interpolate(wide(tensor), wanted, mode=mode, align_corners=False)
