"""Places of training crops: around foreground, or anywhere in the nonzero region."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def foreground(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int32]:
    """`(N, 1 + axes)` int32: class and position of all voxels of a mask `(*S)` of a class other than the first."""
    places = np.argwhere((mask > 0) & (mask < classes))
    kinds = mask[tuple(places.T)][:, None]
    return np.concatenate([kinds, places], axis=1).astype(np.int32)


def nonzero_box(image: NDArray[Any]) -> tuple[list[int], list[int]]:
    """Bounding box of voxels of `(C, *S)` that are nonzero in any channel: start and end per axis; all if none is."""
    inside = (image != 0).any(0)
    low, high = [], []
    for axis, extent in enumerate(inside.shape):
        line = np.flatnonzero(inside.any(tuple(other for other in range(inside.ndim) if other != axis)))
        low.append(int(line[0]) if len(line) else 0)
        high.append(int(line[-1]) + 1 if len(line) else extent)
    return low, high


def around(
    spot: Sequence[int], size: Sequence[int], lengths: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Start of a random window of `lengths` that contains `spot` and stays inside the image where possible."""
    starts = []
    for place, extent, length in zip(spot, size, lengths, strict=True):
        low, high = max(place - length + 1, min(extent - length, 0)), min(place, max(extent - length, 0))
        starts.append(int(rng.integers(low, high + 1)))
    return tuple(starts)


def within(
    low: Sequence[int], high: Sequence[int], size: Sequence[int], lengths: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Start of a random window of `lengths`: inside the box, or around a smaller box, and inside the image."""
    starts = []
    for first, last, extent, length in zip(low, high, size, lengths, strict=True):
        start = int(rng.integers(min(first, last - length), max(first, last - length) + 1))
        starts.append(min(max(start, min(extent - length, 0)), max(extent - length, 0)))
    return tuple(starts)
