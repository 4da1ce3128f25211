"""Boxes of pixels in a scene: intersections and differences."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Window


def bounds_of(boxes: Iterable[Window]) -> NDArray[np.int64]:
    """`(n, 4)`: first row, end row, first column, end column of each box."""
    return np.array([(r.start, r.stop, c.start, c.stop) for r, c in boxes], np.int64).reshape(-1, 4)


def area(box: Window) -> int:
    """Pixels of a box."""
    rows, columns = box
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def overlaps(box: Window, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(n,)` pixels that a box shares with each of the boxes with the bounds `(n, 4)`."""
    rows, columns = box
    height = np.minimum(bounds[:, 1], rows.stop) - np.maximum(bounds[:, 0], rows.start)
    width = np.minimum(bounds[:, 3], columns.stop) - np.maximum(bounds[:, 2], columns.start)
    shared: NDArray[np.int64] = height.clip(0) * width.clip(0)
    return shared


def without(box: Window, other: Sequence[int]) -> list[Window]:
    """The part of a box outside the one with these bounds, as up to four boxes."""
    rows, columns = box
    first, end = max(rows.start, other[0]), min(rows.stop, other[1])
    left, right = max(columns.start, other[2]), min(columns.stop, other[3])
    if first >= end or left >= right:
        return [box]
    middle = slice(first, end)
    parts = [
        (slice(rows.start, first), columns),
        (middle, slice(columns.start, left)),
        (middle, slice(right, columns.stop)),
        (slice(end, rows.stop), columns),
    ]
    return [part for part in parts if area(part)]


def disjoint(boxes: Sequence[Window], taken: Sequence[Window]) -> list[Window]:
    """Boxes that cover each pixel of `boxes` once, and no pixel of `taken`."""
    bounds = bounds_of([*taken, *boxes])
    found = []
    for number, box in enumerate(boxes, len(taken)):
        earlier = bounds[:number]
        parts = [box]
        for other in earlier[overlaps(box, earlier) > 0].tolist():
            parts = [left for part in parts for left in without(part, other)]
        found += parts
    return found


def trim(box: Window, bounds: NDArray[np.int64]) -> Window | None:
    """A box cut until it shares no pixel with those of `bounds`.

    The largest overlap is cut first, each on the side that loses the fewest pixels.

    Returns:
        The rest; None if nothing is left.
    """
    left: Window | None = box
    while left is not None:
        shared = overlaps(left, bounds)
        if not shared.any():
            break
        left = _cut(left, bounds[shared.argmax()].tolist())
    return left


def _cut(box: Window, other: Sequence[int]) -> Window | None:
    rows, columns = box
    parts = [
        (slice(rows.start, other[0]), columns),
        (slice(other[1], rows.stop), columns),
        (rows, slice(columns.start, other[2])),
        (rows, slice(other[3], columns.stop)),
    ]
    kept = [part for part in parts if all(side.stop > side.start for side in part)]
    return max(kept, key=area, default=None)
