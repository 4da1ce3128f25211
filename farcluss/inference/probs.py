"""Probabilities and classes of whole images: in one piece or by a sliding window, averaged over flips and scales."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from farcluss.tensors.precision import wide, wide_softmax

Forward = Callable[[Tensor], Tensor]
"""From normalized images `(B, Cin, *S)` to probabilities or logits `(B, C, *S)`; each image by itself."""

Blend = Literal["mean", "gaussian"]
"""How overlapping windows are averaged: alike, or the more the nearer a pixel is to a window's center."""

SIGMA, FLOOR = 1 / 8, 1e-3
"""Of the Gaussian blend: standard deviation as a share of the window's side; the least weight, the center's being 1."""

PIXELS, CPU_PIXELS = 2**22, 2**18
"""Pixels of one forward at most, a single image or window apart. A CPU gains by batches where images are small, and
loses where activations leave its cache."""


def images_per_forward(size: Sequence[int], device: torch.device) -> int:
    """How many images or windows of one size go through a network together."""
    return max(1, (CPU_PIXELS if device.type == "cpu" else PIXELS) // max(1, math.prod(size)))


def even_parts(number: int, most: int) -> list[slice]:
    """`number` things in as few parts as `most` of them in one allow, as equal as can be."""
    parts = -(-number // most)
    return [slice(number * part // parts, number * (part + 1) // parts) for part in range(parts)]


def in_parts(forward: Forward, images: Tensor) -> Tensor:
    """A forward of `(B, Cin, *S)`, in several parts where one would hold too many pixels."""
    parts = even_parts(len(images), images_per_forward(images.shape[2:], images.device))
    return forward(images) if len(parts) == 1 else torch.cat([forward(images[part]) for part in parts])


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


def gaussian_weights(sides: Sequence[int], device: torch.device) -> Tensor:
    """Weights `(*sides)` of a window's pixels: a Gaussian around its center, `FLOOR` at least."""
    weights = torch.ones((), device=device)
    for side in sides:
        place = torch.arange(side, device=device) - (side - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-0.5 * (place / (SIGMA * side)) ** 2)
    return weights.clamp(min=FLOOR)


def sliding(forward: Forward, images: Tensor, window: tuple[int, ...], stride: float, blend: Blend = "mean") -> Tensor:
    """Probabilities by a sliding window, averaged where windows overlap.

    Every window lies inside the image; an axis shorter than the window is taken whole. So all windows have one size,
    and several go through the network at once. The mean is a running one, so a constant predictor is reproduced
    exactly by the plain mean, and but for rounding by a weighted one.

    Args:
        forward: network.
        images: `(B, Cin, *S)`.
        window: pixels per axis.
        stride: step, as a share of the window.
        blend: the plain mean, or one weighted by `gaussian_weights`.

    Returns:
        `(B, C, *S)`.
    """
    size = images.shape[2:]
    sides = [min(side, extent) for side, extent in zip(window, size, strict=True)]
    axes = [starts(extent, side, max(1, int(side * stride))) for extent, side in zip(size, sides, strict=True)]
    mean, total = torch.empty(0), torch.zeros(size, device=images.device)
    weights = gaussian_weights(sides, images.device) if blend == "gaussian" else 1
    places = [
        tuple(slice(first, first + side) for first, side in zip(corner, sides, strict=True))
        for corner in product(*axes)
    ]
    together = max(1, images_per_forward(sides, images.device) // len(images))
    for group in (places[part] for part in even_parts(len(places), together)):
        windows = forward(torch.cat([images[:, :, *place] for place in group]))
        if not mean.numel():
            mean = windows.new_zeros(len(images), windows.shape[1], *size)
        for place, probs in zip(group, windows.chunk(len(group)), strict=True):
            total[place] += weights
            part = mean[:, :, *place]
            part += (probs - part) * weights / total[place]
    return mean


def predict_probs(
    forward: Forward,
    images: Tensor,
    *,
    window: tuple[int, ...] | None = None,
    stride: float = 2 / 3,
    blend: Blend = "mean",
    flip: bool = False,
    scales: Iterable[float] = (1.0,),
) -> Tensor:
    """Probabilities of normalized images, averaged over scales and flips.

    Args:
        forward: network.
        images: `(B, Cin, *S)`.
        window: sliding window, pixels per axis; None takes the image whole.
        stride: step of the window, as a share of it.
        blend: how overlapping windows are averaged, see `sliding`.
        flip: also predict the image mirrored along its last axis.
        scales: also predict it at other sizes.

    Returns:
        `(B, C, *S)` float32.
    """

    def at_once(views: Tensor) -> Tensor:
        return in_parts(forward, views) if window is None else sliding(forward, views, window, stride, blend)

    def at_scales() -> Iterable[Tensor]:
        for scale in scales:
            views = images if scale == 1 else resize(images, [round(n * scale) for n in images.shape[2:]])
            probs = at_once(views)
            yield resize(probs, images.shape[2:])
            if flip:
                yield resize(at_once(views.flip(-1)).flip(-1), images.shape[2:])

    return running_mean(at_scales())


def predict_classes(network: Forward, images: Tensor, **settings: Any) -> Tensor:
    """Most probable classes of normalized images, the first of equals.

    Where a single view decides, logits do: their softmax would have the same maxima, but for rounding.

    Args:
        network: gives logits.
        images: `(B, Cin, *S)`.
        settings: of `predict_probs`.

    Returns:
        `(B, *S)` int64.
    """
    if settings.get("window") is None and not settings.get("flip") and tuple(settings.get("scales", (1.0,))) == (1.0,):
        return in_parts(lambda views: most(network(views)), images)
    return most(predict_probs(lambda views: wide_softmax(network(views)), images, **settings))


def most(scores: Tensor) -> Tensor:
    """Index of the largest of each pixel's scores: `(B, C, *S)` -> `(B, *S)`."""
    return scores.max(1).indices  # argmax gives the same, in four to seven times the time on a CPU


def resize(tensor: Tensor, size: Iterable[int]) -> Tensor:
    """Linear interpolation of `(B, C, *S)` to spatial `size`; the tensor itself where it has that size."""
    wanted = [max(1, n) for n in size]
    if list(tensor.shape[2:]) == wanted:
        return tensor
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(wanted)]
    return interpolate(wide(tensor), wanted, mode=mode, align_corners=False)
