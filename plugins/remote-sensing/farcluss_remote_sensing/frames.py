"""Constant frames around scenes without a nodata value."""

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Window
from farcluss_remote_sensing.files import Header, read_file

PLACES = 128
"""Number of places along the border of a scene to examine."""
DEPTH = 4
"""Rows and columns of each place."""
SHARE = 0.05
"""Contiguous share of the border with one value: no measurement is so constant."""


def frame(header: Header, bands: tuple[int, ...], nodata: float | None = None) -> tuple[float, float] | None:
    """Share and value of a constant border that would be taken for measurements; None for none. Raises DataError."""
    if header.masked or nodata is not None:
        return None
    share, value = longest_run(border_values(header, bands))
    return None if share < SHARE else (share, value)


def border_values(header: Header, bands: tuple[int, ...]) -> NDArray[np.float64]:
    """`(n,)` values at places around a file, in order; NaN where a place holds more than one.

    No run of `SHARE` fits between the places examined first; if all of those are NaN, the others stay NaN.
    """
    boxes = border_boxes(header.grid.size)
    found = np.full(len(boxes), np.nan)
    first = range(0, len(boxes), max(1, int(SHARE * len(boxes))))
    for places in (first, sorted(set(range(len(boxes))) - set(first))):
        for place in sorted(places, key=lambda place: boxes[place][0].start):  # as most files are stored
            values, _ = read_file(header.path, boxes[place], bands=bands)
            if (values == values.flat[0]).all():
                found[place] = values.flat[0]
        if np.isnan(found).all():
            break
    return found


def border_boxes(size: tuple[int, int]) -> list[Window]:
    """Small boxes along the border of a scene, clockwise from the upper left corner, at equal distances."""
    height, width = size
    around = 2 * (height + width)
    boxes: list[Window] = []
    for number in range(min(PLACES, around)):
        way = number * around // min(PLACES, around)
        if way < width:
            row, column = 0, way
        elif way < width + height:
            row, column = way - width, width
        elif way < 2 * width + height:
            row, column = height, 2 * width + height - way
        else:
            row, column = around - way, 0
        top, left = max(0, min(row, height - DEPTH)), max(0, min(column, width - DEPTH))
        boxes.append((slice(top, min(top + DEPTH, height)), slice(left, min(left + DEPTH, width))))
    return boxes


def longest_run(values: NDArray[np.float64]) -> tuple[float, float]:
    """The share of values around a circle that the longest run of one value has, and that value; NaN is none."""
    changes = np.flatnonzero(values != np.roll(values, 1))
    if not len(changes):
        return 1.0, float(values[0])
    lengths = np.diff(changes, append=changes[0] + len(values))
    lengths[np.isnan(values[changes])] = 0
    longest = int(lengths.argmax())
    return float(lengths[longest] / len(values)), float(values[changes[longest]])
