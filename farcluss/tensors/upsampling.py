"""Bilinear upsampling of logits row by row, for losses that never hold them at the size of the image."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from farcluss.tensors import chunks

Rows = tuple[int, int]
"""First row, and the one behind the last."""


class Upsampling(NamedTuple):
    """How logits `(B, C, h, w)` become those of the pixels `(B, C, *size)`.

    Attributes:
        full: rows and columns after bilinear interpolation.
        size: of the image, which is their upper left part.
        align_corners: see `torch.nn.functional.interpolate`.
    """

    full: tuple[int, ...]
    size: tuple[int, ...]
    align_corners: bool


def upsampled(logits: Tensor, how: Upsampling | None) -> Tensor:
    """Logits `(B, C, *size)` at once; as they are without `how`."""
    if how is None:
        return logits
    if logits.shape[-2:] != how.full:
        logits = interpolate(logits, size=how.full, mode="bilinear", align_corners=how.align_corners)
    return logits[..., : how.size[0], : how.size[1]]


def bands(logits: Tensor, how: Upsampling) -> Iterator[tuple[int, Rows]]:
    """Image and rows of bands of the pixels, each of at most as many values as a chunk, and at least one row."""
    values = chunks.CPU_VALUES if logits.device.type == "cpu" else chunks.DEVICE_VALUES
    rows = max(1, values // (logits.shape[1] * how.full[1]))
    for image in range(len(logits)):
        for start in range(0, how.size[0], rows):
            yield image, (start, min(start + rows, how.size[0]))


def band(logits: Tensor, how: Upsampling, rows: Rows) -> tuple[Rows, Callable[[Tensor], Tensor]]:
    """What a band is made of: rows of the logits, and a function of these `(1, C, k, w)` to `(1, C, n, W)`."""
    height, full = logits.shape[-2], how.full[0]
    exact = torch.promote_types(logits.dtype, torch.float32)
    places = torch.arange(*rows, device=logits.device, dtype=exact)
    if how.align_corners:
        source = places * ((height - 1) / max(full - 1, 1))
    else:
        source = ((places + 0.5) * (height / full) - 0.5).clamp(min=0)
    first, last = _source_rows(how, height, rows)
    low = source.long().clamp(max=height - 1)
    share = (source - low).view(-1, 1)
    low, high = low - first, (low + 1).clamp(max=height - 1) - first

    def make(part: Tensor) -> Tensor:
        upper, lower = part.index_select(2, low), part.index_select(2, high)
        mixed = upper + (lower - upper) * share
        size = (mixed.shape[2], how.full[1])
        wide = interpolate(mixed, size=size, mode="bilinear", align_corners=how.align_corners)
        return wide[..., : how.size[1]]

    return (first, last), make


def _source_rows(how: Upsampling, height: int, rows: Rows) -> Rows:
    """The rows of the logits that a band needs, with one to spare against rounding; on the host."""
    scale = (height - 1) / max(how.full[0] - 1, 1) if how.align_corners else height / how.full[0]
    shift = 0.0 if how.align_corners else 0.5 * scale - 0.5
    first = int(max(0.0, rows[0] * scale + shift))
    last = int(max(0.0, (rows[1] - 1) * scale + shift))
    return max(0, first - 1), min(height, last + 3)
