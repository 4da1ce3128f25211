"""Probabilities and classes of whole images: at once or by sliding window, averaged over flips and scales."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from farcluss.errors import WeightsError
from farcluss.tensors.entropy import normalized_entropy
from farcluss.tensors.precision import wide, wide_softmax

BROKEN = -1
"""Class index of pixels at which the network's output is not finite."""

Forward = Callable[[Tensor], Tensor]
"""From normalized images `(B, Cin, *S)` to probabilities or logits `(B, C, *S)`; each image independently."""

Blend = Literal["mean", "gaussian"]
"""How overlapping windows are averaged: uniformly, or with more weight near the center of a window."""

SIGMA, FLOOR = 1 / 8, 1e-3
"""Of the Gaussian blend: standard deviation as a share of the window's side; smallest weight, the center's being 1."""

PIXELS, CPU_PIXELS = 2**22, 2**18
"""Most pixels per forward, unless a single image or window has more. On a CPU, batching pays for small images, but not
where activations no longer fit its cache."""


def images_per_forward(size: Sequence[int], device: torch.device) -> int:
    """Number of images or windows of one size per forward."""
    return max(1, (CPU_PIXELS if device.type == "cpu" else PIXELS) // max(1, math.prod(size)))


def even_parts(number: int, most: int) -> list[slice]:
    """Split `number` elements into as few parts of at most `most` as possible, as evenly as possible."""
    parts = -(-number // most)
    return [slice(number * part // parts, number * (part + 1) // parts) for part in range(parts)]


def in_parts(forward: Forward, images: Tensor) -> Tensor:
    """A forward of `(B, Cin, *S)`, in several parts if it has too many pixels."""
    parts = even_parts(len(images), images_per_forward(images.shape[2:], images.device))
    return forward(images) if len(parts) == 1 else torch.cat([forward(images[part]) for part in parts])


def running_mean(parts: Iterable[Tensor]) -> Tensor:
    """Mean of tensors of one shape, in one pass; the mean of equal tensors is exact."""
    mean = torch.empty(0)
    for number, part in enumerate(parts, 1):
        mean = part if number == 1 else mean + (part - mean) / number
    return mean


def starts(extent: int, window: int, step: int) -> list[int]:
    """First pixels of the windows along one axis: every `step` pixels, the last window at the border."""
    last = max(extent - window, 0)
    return [*range(0, last, step), last]


def gaussian_weights(sides: Sequence[int], device: torch.device) -> Tensor:
    """Weights `(*sides)` of a window's pixels: a Gaussian around its center, `FLOOR` at least."""
    weights = torch.ones((), device=device)
    for side in sides:
        offset = torch.arange(side, device=device) - (side - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-0.5 * (offset / (SIGMA * side)) ** 2)
    return weights.clamp(min=FLOOR)


def sliding(forward: Forward, images: Tensor, window: tuple[int, ...], stride: float, blend: Blend = "mean") -> Tensor:
    """Probabilities by a sliding window, averaged where windows overlap.

    Windows lie inside the image; those larger than it are clipped. So all have one size and can be batched. The running
    mean reproduces a constant prediction: exactly if it is plain, up to rounding if it is weighted.

    Args:
        forward: network.
        images: `(B, Cin, *S)`.
        window: pixels per axis.
        stride: step as a share of the window.
        blend: plain mean, or weighted by `gaussian_weights`.

    Returns:
        `(B, C, *S)`.
    """
    size = images.shape[2:]
    sides = [min(side, extent) for side, extent in zip(window, size, strict=True)]
    axes = [starts(extent, side, max(1, int(side * stride))) for extent, side in zip(size, sides, strict=True)]
    mean, total = torch.empty(0), torch.zeros(size, device=images.device)
    weights = gaussian_weights(sides, images.device) if blend == "gaussian" else 1
    windows = [
        tuple(slice(first, first + side) for first, side in zip(corner, sides, strict=True))
        for corner in product(*axes)
    ]
    count = max(1, images_per_forward(sides, images.device) // len(images))
    for group in (windows[part] for part in even_parts(len(windows), count)):
        batch = forward(torch.cat([images[:, :, *box] for box in group]))
        if not mean.numel():
            mean = batch.new_zeros(len(images), batch.shape[1], *size)
        for box, probs in zip(group, batch.chunk(len(group)), strict=True):
            total[box] += weights
            part = mean[:, :, *box]
            part += (probs - part) * weights / total[box]
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
        window: pixels per axis of the sliding window; None predicts the whole image at once.
        stride: step of the window as a share of its side.
        blend: how overlapping windows are averaged, see `sliding`.
        flip: average with the image mirrored along its last axis.
        scales: scales of the image to average over.

    Returns:
        `(B, C, *S)` float32.
    """

    def predict_view(views: Tensor) -> Tensor:
        return in_parts(forward, views) if window is None else sliding(forward, views, window, stride, blend)

    def all_views() -> Iterable[Tensor]:
        for scale in scales:
            views = images if scale == 1 else resize(images, [round(n * scale) for n in images.shape[2:]])
            probs = predict_view(views)
            yield resize(probs, images.shape[2:])
            if flip:
                yield resize(predict_view(views.flip(-1)).flip(-1), images.shape[2:])

    return running_mean(all_views())


def predict_classes(network: Forward, images: Tensor, **settings: Any) -> Tensor:
    """Most probable classes of normalized images; the first of equal ones.

    For a single view these are the largest logits: a softmax would not change them, except by rounding.

    Args:
        network: returns logits.
        images: `(B, Cin, *S)`.
        settings: options of `predict_probs`.

    Returns:
        `(B, *S)` int64, `BROKEN` where the network's output is not finite.
    """
    if settings.get("window") is None and not settings.get("flip") and tuple(settings.get("scales", (1.0,))) == (1.0,):
        return in_parts(lambda views: _finite_argmax(network(views)), images)
    return _finite_argmax(predict_probs(lambda views: wide_softmax(network(views)), images, **settings))


def _finite_argmax(scores: Tensor) -> Tensor:
    values, indices = scores.max(1)  # not a number if any is
    return indices.where(values.isfinite(), BROKEN)


def uncertainty(probs: NDArray[Any]) -> NDArray[np.float32]:
    """Normalized entropy (eq. 5) of `(C, *S)` float32: `(*S)` in [0, 1]."""
    found: NDArray[np.float32] = normalized_entropy(torch.from_numpy(probs)[None])[0].numpy()
    return found


def check_finite(probs: NDArray[Any], name: str) -> None:
    """Raise WeightsError unless probabilities are finite; `name` says of what."""
    if not np.isfinite(probs.sum()):
        raise not_finite(name)


def not_finite(name: str) -> WeightsError:
    """The error for an output that is not finite."""
    return WeightsError(
        f"The network's output for {name} is not finite, so there is no prediction.\n"
        "Its weights, or the values of the image, are too large."
    )


def argmax(scores: Tensor) -> Tensor:
    """Index of the largest of each pixel's scores: `(B, C, *S)` -> `(B, *S)`."""
    return scores.max(1).indices  # torch.argmax takes four to seven times as long on a CPU


def resize(tensor: Tensor, size: Iterable[int]) -> Tensor:
    """Linear interpolation of `(B, C, *S)` to spatial `size`; returns the tensor itself if it has that size."""
    wanted = [max(1, n) for n in size]
    if list(tensor.shape[2:]) == wanted:
        return tensor
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(wanted)]
    return interpolate(wide(tensor), wanted, mode=mode, align_corners=False)
