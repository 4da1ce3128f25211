"""Intensity transforms for images with any number of axes and channels and any range of values.

Every operation is relative to the image's own channels: for `a > 0`, the result for
`a * images + b` is `a` times the result for `images`, plus `b`. So images in [0, 1], z-scores and reflectances are
changed alike. Constant channels stay constant, unless `turn_hue` or `to_gray` mix them. Labels need no change.

Convention:
    Images are `(B, C, *S)`. Parameters are tensors on the same device: `(B,)` for one value per sample, `(B, C)` for
    one per channel as well, `(B, A)` for one per each of the A axes of `*S`.
"""

import math

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = (word - 2**64 for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of the generator SplitMix64 (Steele, Lea, Flood 2014), as signed words."""


def add_noise(images: Tensor, strength: Tensor, seeds: Tensor) -> Tensor:
    """Gaussian noise.

    Args:
        images: `(B, C, *S)`.
        strength: `(B,)` or `(B, C)`, its standard deviation as a share of the channel's.
        seeds: `(B,)` int64; a sample's noise is a function of its seed, whatever else is in the batch.
    """
    noise = normal_numbers(seeds, images.shape[1:]).to(images.dtype)
    return images + _broadcast(images, strength) * _deviation(images) * noise


def normal_numbers(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers `(B, *shape)` float32, a function of each of `seeds` `(B,)` int64.

    With torch's generator, every process would have to draw the noise of all. Here the i-th number is a hash of seed
    and i (SplitMix64), made normal by the Box-Muller transform.
    """
    steps = torch.arange(1, math.prod(shape) + 1, device=seeds.device).view(1, *shape) * _STEP
    words = seeds.view(-1, *[1] * len(shape)) + steps
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    words = words ^ _shift(words, 31)
    share, turn = (_shift(words, 40) + 1).float() / 2**24, (_shift(words, 16) & (2**24 - 1)).float() / 2**24
    return (-2 * share.log()).sqrt() * (2 * math.pi * turn).cos()


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur along each axis; the border is replicated.

    Args:
        images: `(B, C, *S)`.
        sigma: `(B, A)`, pixels; 0 for no blur.
        radius: radius of the kernel in pixels, for all samples.
    """
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    for axis, extent in enumerate(images.shape[2:]):
        width = sigma[:, axis, None].to(images.dtype).clamp(min=1e-3)
        kernel = (-0.5 * (offsets / width) ** 2).exp()
        kernel = kernel / kernel.sum(1, keepdim=True)
        places = torch.arange(-radius, extent + radius, device=images.device).clamp(0, extent - 1)
        extended = images.index_select(axis + 2, places)
        # A pass over the image per tap is faster than a grouped convolution with a long thin kernel.
        images = torch.zeros_like(images)
        for tap in range(2 * radius + 1):
            images.addcmul_(extended.narrow(axis + 2, tap, extent), _broadcast(images, kernel[:, tap]))
    return images


def brighten(images: Tensor, shift: Tensor) -> Tensor:
    """`images` with `shift` `(B,)` or `(B, C)` of each channel's standard deviations added."""
    return images + _broadcast(images, shift) * _deviation(images)


def change_contrast(images: Tensor, factor: Tensor, preserve_range: bool = True) -> Tensor:
    """`images` with distances from each channel's mean multiplied.

    Args:
        images: `(B, C, *S)`.
        factor: `(B,)` or `(B, C)`.
        preserve_range: clip to the channel's range.
    """
    mean = _mean(images)
    changed = mean + (images - mean) * _broadcast(images, factor)
    return keep_range(changed, images) if preserve_range else changed


def change_gamma(images: Tensor, gamma: Tensor) -> Tensor:
    """Gamma correction by `gamma` `(B,)` or `(B, C)`, above 0, within the range of each channel.

    The smallest and the largest value of a channel stay.
    """
    low, high = _range(images)
    span = high - low
    share = ((images - low) / span.clamp(min=torch.finfo(images.dtype).tiny)).clamp(max=1)
    return low + span * share ** _broadcast(images, gamma)


def turn_hue(images: Tensor, turn: Tensor, bands: tuple[int, int, int]) -> Tensor:
    """`images` with the colors of three channels turned about their gray axis, red toward green toward blue.

    The rotation is linear, so any range of values works, and the mean of the three channels stays. A third of the
    circle turns red into green, green into blue and blue into red.

    Args:
        images: `(B, C, *S)`.
        turn: `(B,)`, share of the color circle.
        bands: indices of the red, the green and the blue channel; the others stay.
    """
    colors = _bands(images, bands)
    angle = 2 * math.pi * turn
    # Rodrigues' formula about (1, 1, 1) / sqrt(3), written as a difference, so that a rotation by 0 is exact.
    across = (colors.roll(1, 1) - colors.roll(-1, 1)) / math.sqrt(3)
    away = colors - colors.mean(1, keepdim=True)
    changed = colors + _broadcast(colors, angle.cos() - 1) * away + _broadcast(colors, angle.sin()) * across
    return _with_bands(images, changed, bands)


def to_gray(images: Tensor, chosen: Tensor, bands: tuple[int, int, int]) -> Tensor:
    """`images` with each of three channels replaced by the mean of the three.

    The mean instead of the weights of Rec. 601, which are for the primaries and gamma curve of displays, not for raw
    bands. `turn_hue` keeps the mean, so gray is the same before and after it.

    Args:
        images: `(B, C, *S)`.
        chosen: `(B,)` bool, the samples that become gray.
        bands: indices of the red, the green and the blue channel; the others stay.
    """
    colors = _bands(images, bands)
    return _with_bands(images, torch.where(_broadcast(colors, chosen), colors.mean(1, keepdim=True), colors), bands)


def lower_resolution(images: Tensor, factor: Tensor) -> Tensor:
    """Simulate a lower resolution: downsample by nearest neighbor, then upsample linearly to the original size.

    Args:
        images: `(B, C, *S)`.
        factor: `(B, A)` in (0, 1], share of the pixels that are kept along each axis; at least one is.
    """
    for axis, extent in enumerate(images.shape[2:]):
        kept = (factor[:, axis, None] * extent).round().long().clamp(1, extent)  # (B, 1)
        pixels = torch.arange(extent, device=images.device)
        # Position of a pixel's center among the kept ones, in units of 1 / (2 * extent): integers do not round.
        parts = ((2 * pixels + 1) * kept - extent).clamp(min=0)  # (B, extent)
        first, share = parts // (2 * extent), (parts % (2 * extent)).to(images.dtype) / (2 * extent)
        below, above = (
            images.take_along_dim(_along(images, (2 * cell + 1) * extent // (2 * kept), axis), axis + 2)
            for cell in (first, torch.minimum(first + 1, kept - 1))
        )
        images = torch.lerp(below, above, _along(images, share, axis))
    return images


def drop_channels(images: Tensor, dropped: Tensor) -> Tensor:
    """`images` with the channels in `dropped` `(B, C)` bool at their mean; a sample that would lose all keeps them."""
    lost = dropped & ~dropped.all(1, keepdim=True)
    return torch.where(_broadcast(images, lost), _mean(images), images)


def cut_out(images: Tensor, boxes: Tensor) -> Tensor:
    """`images` with the pixels in `boxes` `(B, *S)` bool at their channel's mean; the labels stay valid."""
    return torch.where(boxes.unsqueeze(1), _mean(images), images)


def keep_range(images: Tensor, original: Tensor) -> Tensor:
    """`images` clipped to the range of each channel of `original`."""
    low, high = _range(original)
    return torch.minimum(torch.maximum(images, low), high)


def _broadcast(images: Tensor, values: Tensor) -> Tensor:
    """`(B,)` or `(B, C)`, shaped to broadcast with images."""
    shaped = values.view(len(values), -1, *[1] * (images.dim() - 2))
    return shaped if shaped.dtype == torch.bool else shaped.to(images.dtype)


def _bands(images: Tensor, bands: tuple[int, int, int]) -> Tensor:
    """Three channels `(B, 3, *S)`, without the index tensor for which a GPU would have to wait."""
    return torch.stack([images[:, band] for band in bands], 1)


def _with_bands(images: Tensor, colors: Tensor, bands: tuple[int, int, int]) -> Tensor:
    """`images` with `colors` `(B, 3, *S)` in place of three channels."""
    images = images.clone()
    for band, color in zip(bands, colors.unbind(1), strict=True):
        images[:, band] = color
    return images


def _along(images: Tensor, values: Tensor, axis: int) -> Tensor:
    """`(B, extent)` as it lies along an axis of images."""
    shape = [1] * (images.dim() - 2)
    shape[axis] = -1
    return values.view(len(values), 1, *shape)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Right shift of words without a sign, which torch takes for numbers with one."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _axes(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.dim()))


def _mean(images: Tensor) -> Tensor:
    return images.mean(_axes(images), keepdim=True)


def _deviation(images: Tensor) -> Tensor:
    return images.std(_axes(images), correction=0, keepdim=True)


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.amin(_axes(images), keepdim=True), images.amax(_axes(images), keepdim=True)
