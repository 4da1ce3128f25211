"""CutMix in any number of dimensions: one box per sample, filled from another sample of the batch."""

import math
from typing import Any

import torch
from torch import Tensor

from farcluss.tensors.draws import common_draws, roll_rows, rows


def random_boxes(
    batch: int, size: tuple[int, ...], p: float, area: tuple[float, float], aspect: tuple[float, float], device: Any
) -> Tensor:
    """A random box for each of this process's `batch` samples; see `tensors.draws`.

    A box covers a share of the image drawn uniformly from `area`; its aspect ratio is drawn
    log-uniformly from `aspect`, its position uniformly inside the image. With probability `1 - p` it is empty.

    Returns:
        `(B, *S)` bool, True inside.
    """
    axes, (total, mine) = len(size), rows(batch)
    low, high = (math.log(bound) / 2 for bound in aspect)
    with common_draws():
        share = torch.empty(total, 1, device=device).uniform_(*area)[mine]
        stretch = torch.empty(total, axes, device=device).uniform_(low, high)[mine]
        places = torch.rand(total, axes, device=device)[mine]
        inside = (torch.rand(total, device=device) < p)[mine].view(-1, *[1] * axes)
    sides = (share.log() / axes + stretch - stretch.mean(1, keepdim=True)).exp().clamp(max=1)
    for axis, pixels in enumerate(size):
        extent = (sides[:, axis] * pixels).round().clamp(min=1)
        start = (places[:, axis] * (pixels - extent + 1)).floor()
        first, last = (edge.view(-1, *[1] * axes) for edge in (start, start + extent))
        place = torch.arange(pixels, device=device).view(-1, *[1] * (axes - 1 - axis))
        inside = inside & (place >= first) & (place < last)
    return inside.expand(batch, *size)


def mix(tensor: Tensor, boxes: Tensor) -> Tensor:
    """`tensor` `(B, *S)` or `(B, C, *S)` with `boxes` `(B, *S)` filled from the previous sample of the whole batch."""
    inside = boxes if tensor.dim() == boxes.dim() else boxes.unsqueeze(1)
    return torch.where(inside, roll_rows(tensor), tensor)
