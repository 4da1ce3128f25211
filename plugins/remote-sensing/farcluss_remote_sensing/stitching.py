"""One map from the predictions of overlapping tiles, finished from top to bottom, with memory for one row of tiles.

Notation used for shapes: C classes, H, W rows and columns of the scene, h, w those of a tile.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Window
from farcluss.inference.probs import FLOOR, SIGMA, starts

Blend = Literal["hann", "gaussian"]
"""Weights of a tile's pixels by distance from its center: a squared sine, or a Gaussian."""

Predict = Callable[[Sequence[Window]], Iterable[tuple[Window, NDArray[np.float32]]]]
"""From the windows of a row of tiles to their probabilities `(C, h, w)`, in order; windows without a valid pixel may be
left out."""


def axis_weights(side: int, margin: int, blend: Blend, low: bool, high: bool) -> NDArray[np.float32]:
    """Weights `(side,)` of a tile's pixels along an axis, 1 at its center.

    Args:
        side: pixels.
        margin: outermost pixels with weight 0, as they are affected by the network's padding.
        blend: form of the weights.
        low: whether the tile begins at the scene's border; the weight is 1 from there to the center.
        high: whether it ends at the scene's border.
    """
    place = np.arange(side) + 0.5
    if blend == "hann":
        weights = np.sin(np.pi * (place - margin) / (side - 2 * margin)) ** 2
    else:
        weights = np.exp(-0.5 * ((place - side / 2) / (SIGMA * side)) ** 2).clip(FLOOR)
    weights[:margin] = weights[side - margin :] = 0
    weights /= weights.max()
    if low:
        weights[: (side + 1) // 2] = 1
    if high:
        weights[side // 2 :] = 1
    return weights.astype(np.float32)


@dataclass(frozen=True)
class Axis:
    """The tiles along an axis of a scene.

    Attributes:
        extent: pixels of the scene.
        side: pixels of a tile: the scene's where that is smaller.
        overlap: minimum pixels that neighbors share.
        blend: form of the weights.
    """

    extent: int
    side: int
    overlap: int
    blend: Blend

    @cached_property
    def starts(self) -> list[int]:
        """First pixel of each tile."""
        return starts(self.extent, self.side, self.side - self.overlap)

    @property
    def margin(self) -> int:
        """Outermost pixels of a tile with weight 0; margins never meet, so each pixel has a tile with weight."""
        return self.overlap // 4

    def weights(self, start: int) -> NDArray[np.float32]:
        """Weights `(side,)` of the tile that begins at `start`."""
        return axis_weights(self.side, self.margin, self.blend, start == 0, start + self.side == self.extent)

    def reach(self, start: int) -> tuple[int, int]:
        """First pixel with weight of the tile at `start`, and the one after its last."""
        low = 0 if start == 0 else self.margin
        high = 0 if start + self.side == self.extent else self.margin
        return start + low, start + self.side - high


def plan_axis(extent: int, window: int, stride: float, blend: Blend) -> Axis:
    """Tiles of `window` pixels along an axis, with a step of `stride` times that; one if the scene is smaller."""
    side = min(window, extent)
    return Axis(extent, side, side - max(1, int(side * stride)), blend)


def stitched_rows(
    predict: Predict, rows: Axis, columns: Axis, classes: int, first: int, last: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows `[first, last)` of a scene's probabilities, from top to bottom, piece by piece.

    The mean is a running one, so tiles that agree give exactly their common value. Tiles are added in the order of the
    whole scene, so rows are bit-identical whatever range is requested.

    Args:
        predict: gives the probabilities of tiles.
        rows: tiles from top to bottom.
        columns: tiles from left to right.
        classes: C.
        first: row.
        last: row after the last.

    Yields:
        Number of the first row, and probabilities `(C, rows, W)`, a view that is valid until the next piece. Pixels
        without a predicted tile are zero.
    """
    used = [start for start in rows.starts if rows.reach(start)[1] > first and rows.reach(start)[0] < last]
    mean = np.zeros((classes, rows.side, columns.extent), np.float32)
    total = np.zeros((rows.side, columns.extent), np.float32)
    across = {start: columns.weights(start) for start in columns.starts}
    for start, following in zip(used, [*used[1:], last], strict=True):
        down = rows.weights(start)
        tall = slice(start, start + rows.side)
        for window, probs in predict([(tall, slice(left, left + columns.side)) for left in columns.starts]):
            _blend(mean, total, np.outer(down, across[window[1].start]), window[1], probs)
        top, bottom = max(start, first), min(following, last)
        if top < bottom:
            yield top, mean[:, top - start : bottom - start]
        if start != used[-1]:
            _shift(mean, following - start)
            _shift(total, following - start)


def _blend(
    mean: NDArray[np.float32],
    total: NDArray[np.float32],
    weights: NDArray[np.float32],
    columns: slice,
    probs: NDArray[np.float32],
) -> None:
    """Add a tile to the running mean `(C, h, W)`, whose weights so far are `total` `(h, W)`."""
    sum_of_weights, part = total[:, columns], mean[:, :, columns]
    sum_of_weights += weights
    share = np.divide(weights, sum_of_weights, out=np.zeros_like(weights), where=weights > 0)
    change = probs - part
    change *= share
    part += change


def _shift(array: NDArray[np.float32], count: int) -> None:
    """Move rows `(..., h, W)` up by `count` and clear those that follow, without a copy of the whole array."""
    height = array.shape[-2]
    for row in range(0, height - count, count):
        end = min(row + count, height - count)
        array[..., row:end, :] = array[..., row + count : end + count, :]
    array[..., height - count :, :] = 0
