"""From pixels to polygons, block by block: connected components of a class, with edges along pixel edges.

Notation used for shapes: P polygons, V their vertices, E pairs of parts that touch, h, w rows and columns of a block.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes

from farcluss.data.base import Window
from farcluss_remote_sensing.seams import find_roots, join

BLOCK = 2048
"""Rows and columns of a block: memory for pixels does not grow with the scene."""


class Block(NamedTuple):
    """A part of a map.

    Attributes:
        classes: `(h, w)` uint8 class index.
        valid: `(h, w)` bool, where there is one.
        confidence: `(h, w)` float32, summed over each polygon where it is finite; None for none.
    """

    classes: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32] | None = None


class Outlines(NamedTuple):
    """Connected components, sorted by their first pixel from top to bottom and left to right.

    Attributes:
        polygons: `(P,)` polygons of shapely, vertices are (column, row) of pixels' corners.
        classes: `(P,)` uint8 class index.
        confidence: `(P,)` float64 mean; NaN where no pixel has one.
    """

    polygons: NDArray[Any]
    classes: NDArray[np.uint8]
    confidence: NDArray[np.float64]


class _Parts(NamedTuple):
    """Polygons of blocks, possibly split by seams; `sums` `(P, 2)` has the confidence, and the pixels that have one."""

    polygons: NDArray[Any]
    classes: NDArray[np.uint8]
    sums: NDArray[np.float64]


def outline(read: Callable[[Window], Block], size: tuple[int, int], block: int = BLOCK) -> Outlines:
    """The polygons of a map (4-connectivity). The result does not depend on `block`.

    Args:
        read: gives a window.
        size: rows and columns of the map.
        block: rows and columns to read at once.
    """
    height, width = size
    found: list[_Parts] = []
    seams: list[NDArray[np.int64]] = []
    above = np.full(width, -1)  # the part of each pixel in the last row of the blocks above
    count = 0
    for top in range(0, height, block):
        beside = np.full(min(block, height - top), -1)
        for left in range(0, width, block):
            window = slice(top, min(top + block, height)), slice(left, min(left + block, width))
            parts, places = _trace(read(window), window)
            places = np.where(places < 0, -1, places + count)
            seams += [_pairs(above[window[1]], places[0]), _pairs(beside, places[:, 0])]
            above[window[1]], beside = places[-1], places[:, -1]
            found.append(parts)
            count += len(parts.polygons)
    parts = _Parts(*(np.concatenate(each) for each in zip(*found, strict=True)))
    pairs = np.concatenate(seams)
    alike = parts.classes[pairs[:, 0]] == parts.classes[pairs[:, 1]]
    return _in_order(_dissolve(parts, find_roots(len(parts.polygons), pairs[alike]), block))


def _trace(block: Block, window: Window) -> tuple[_Parts, NDArray[np.int64]]:
    """The polygons of a block, and `(h, w)` the index of the polygon of each pixel; -1 for none."""
    found = list(shapes(block.classes, mask=block.valid, connectivity=4))
    polygons = _polygons([shape["coordinates"] for shape, _ in found])
    places = _places(polygons, block.classes.shape)
    sums = np.zeros((len(found), 2))
    if block.confidence is not None:
        counted = (places >= 0) & np.isfinite(block.confidence)
        inside, values = places[counted], block.confidence[counted].astype(np.float64)
        for column, weights in enumerate((values, None)):
            sums[:, column] = np.bincount(inside, weights, len(found))
    corner = np.array([window[1].start, window[0].start])
    moved = shapely.transform(polygons, lambda vertices: vertices + corner)
    return _Parts(moved, np.array([value for _, value in found], np.uint8), sums), places


def _polygons(found: list[list[list[tuple[float, float]]]]) -> NDArray[Any]:
    """Polygons `(P,)` of lists of rings, in normal form."""
    rings = [ring for polygon in found for ring in polygon]
    ends = np.cumsum([0, *map(len, rings)]), np.cumsum([0, *map(len, found)])
    numbers = chain.from_iterable(chain.from_iterable(rings))
    vertices = np.fromiter(numbers, np.float64, 2 * ends[0][-1]).reshape(-1, 2)
    polygons: NDArray[Any] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, vertices, ends)
    return np.asarray(shapely.normalize(polygons))


def _places(polygons: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """`(h, w)` the polygon of each pixel, -1 for none: along a row, upright edges enter and leave polygons."""
    if not len(polygons):
        return np.full(shape, -1)
    _, vertices, (ring_ends, polygon_ends) = shapely.to_ragged_array(polygons)
    columns, rows = vertices.astype(np.int64).T
    number = np.repeat(np.arange(1, len(polygons) + 1), np.diff(ring_ends[polygon_ends]))
    upright = np.flatnonzero(columns[1:] == columns[:-1])
    upright = upright[np.isin(upright + 1, ring_ends, invert=True)]  # no edge from the end of a ring to the next ring
    # In normal form outlines are clockwise where rows count upwards, and holes the other way.
    length = rows[upright + 1] - rows[upright]
    entered = np.repeat(np.sign(length) * number[upright], abs(length))
    top = np.minimum(rows[upright], rows[upright + 1])
    row = np.arange(len(entered)) - np.repeat(np.cumsum(abs(length)) - abs(length) - top, abs(length))
    width = shape[1] + 1
    steps = np.bincount(row * width + np.repeat(columns[upright], abs(length)), entered, shape[0] * width)
    return np.asarray(steps.reshape(-1, width).cumsum(1)[:, :-1].astype(np.int64) - 1)


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(E, 2)` parts on two sides of a seam, each pair once."""
    pairs = np.stack([first, second], axis=1)
    return np.unique(pairs[(pairs >= 0).all(1)], axis=0)


def _dissolve(parts: _Parts, roots: NDArray[np.int64], block: int) -> _Parts:
    """Join the parts of each root."""
    kept, group, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    polygons = parts.polygons[kept]
    several = sizes > 1
    if several.any():
        divided = several[group]
        number = np.cumsum(several) - 1
        polygons[several] = join(parts.polygons[divided], number[group[divided]], block)
    sums = [np.bincount(group, column, len(kept)) for column in parts.sums.T]
    return _Parts(polygons, parts.classes[kept], np.stack(sums, axis=1).astype(np.float64))


def _in_order(parts: _Parts) -> Outlines:
    """Sorted by the first pixel, row by row."""
    if not len(parts.polygons):
        return Outlines(parts.polygons, parts.classes, np.empty(0))
    _, vertices, (ring_ends, polygon_ends) = shapely.to_ragged_array(parts.polygons)
    # The first pixel's upper left corner is a vertex, of the lowest row, and there of the lowest column.
    width = vertices[:, 0].max() + 1
    order = np.argsort(np.minimum.reduceat(vertices[:, 1] * width + vertices[:, 0], ring_ends[polygon_ends[:-1]]))
    total, counted = parts.sums.T
    mean = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    return Outlines(parts.polygons[order], parts.classes[order], mean[order])
